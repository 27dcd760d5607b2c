"""The dashboard's figure: four panels over one axis of steps, a colour a run, turns below it."""

from collections.abc import Iterator, Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import methods
from avmixup_kit._base.plots import GREY, label, styled
from avmixup_kit.live.lab.run import RATIO, LiveRun
from avmixup_kit.live.lab.words import turned
from avmixup_kit.methods import METHODS

_PANELS = ("loss", "clean (%)", "PGD10 (%)", RATIO)
_LINES = 2  # of turns below the axis
_LETTER = 7 / 640  # of the axis, where it is narrow
_SHADES = (0.0, -0.4, 0.45, -0.65, 0.7)  # towards black or white, of runs of one method


def drawn(runs: list[LiveRun], current: LiveRun) -> go.Figure:
    """Return the panels with the runs' curves and the current one's turns."""
    figure = _blank()
    fill(figure, runs, current)
    return figure


def _blank() -> go.Figure:
    figure = make_subplots(len(_PANELS), 1, shared_xaxes=True, vertical_spacing=0.03)
    styled(figure, "", "", "")
    figure.update_layout(
        height=560,
        uirevision="keep",
        autosize=True,
        margin={"l": 60, "r": 15, "t": 30, "b": 110},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        hovermode="x",
    )
    for row, title in enumerate(_PANELS, 1):
        figure.update_yaxes(title_text=title, row=row)
    figure.update_yaxes(range=[-2, 102], row=2)
    figure.update_yaxes(range=[-2, 102], row=3)
    said = (
        "step (solid: training images, dashed: validation images)<br>"
        "scatter ratio: spread within a class, validation over training images"
    )
    figure.update_xaxes(title={"text": said, "standoff": 48}, row=len(_PANELS))
    return figure


def _lines(run: LiveRun) -> Iterator[tuple[str, int, str, Any]]:
    """Yield (what, panel, dash, curve) of each of the run's curves."""
    yield "loss", 1, "solid", run.loss
    for panel, row in ((2, "Clean"), (3, "PGD10")):
        for split, dash in zip(run.probed, ("solid", "dash"), strict=False):
            yield f"{row}, {split}", panel, dash, run.curves[f"{row}, {split}"]
    if run.scattered:
        yield RATIO, 4, "solid", run.curves[RATIO]


def fill(figure: Any, runs: list[LiveRun], current: LiveRun, every: bool = True) -> None:
    """Put the runs' curves and the current one's turns into the figure, in place.

    Unless ``every`` is true, only new curves and those of the current run, which alone grow.
    """
    traces = {(trace.name, trace.meta): trace for trace in figure.data}
    colours = _colours(runs)
    for run in runs:
        colour = colours[run.name]
        for what, panel, dash, curve in _lines(run):
            if (label(run.name), what) not in traces:
                figure.add_scatter(
                    name=label(run.name),
                    meta=what,
                    legendgroup=run.name,
                    showlegend=panel == 1,
                    mode="lines" if panel == 1 else "lines+markers",
                    marker_size=4,
                    line={"color": colour, "dash": dash},
                    hovertemplate=f"%{{y:.4g}} {what}",
                    row=panel,
                    col=1,
                )
                trace = figure.data[-1]
            else:
                trace = traces[label(run.name), what]
                if trace.line.color != colour:
                    trace.line.color = colour
                if not every and run is not current:
                    continue
            steps, values = curve.arrays()
            trace.x, trace.y = steps, 100 * values if panel in (2, 3) else values
    steps = max(run.training.steps for run in runs)
    marks = turned(current.dial.turns)
    wanted = (steps, *(f"{step} {words}" for step, words in marks.items()))
    if figure.layout.meta != wanted:
        figure.layout.meta = wanted
        figure.update_xaxes(range=[0, steps])
        mark(figure, marks, steps)


def _colours(runs: list[LiveRun]) -> dict[str, str]:
    """Return the colour of each run's method, a shade of it where an earlier run has it."""
    found: dict[str, str] = {}
    taken: dict[str, int] = {}
    for run in runs:
        name = methods.name_of(run.method)
        colour = METHODS.entries[name].colour if name else GREY
        number = taken[colour] = taken.get(colour, -1) + 1
        found[run.name] = shade(colour, _SHADES[number % len(_SHADES)])
    return found


def shade(colour: str, share: float) -> str:
    """Return "#rrggbb" moved by a share towards white, or towards black where that is negative."""
    end = 255 if share > 0 else 0
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + abs(share) * (end - part)):02X}" for part in parts)


def mark(figure: Any, marks: Mapping[int, str], steps: int) -> None:
    """Draw a line at each turn, and its words below the axis where there is room for them."""
    line = {"type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1}
    line |= {"line": {"color": GREY, "dash": "dot", "width": 1}}
    notes, ends = [], [0.0] * _LINES
    for step, words in list(marks.items())[::-1]:
        # from the last back: what there is no room for is the oldest
        width = (len(words) + 2) * _LETTER * steps
        right = min(step + width, steps * 1.02)
        free = [at for at in range(_LINES) if not ends[at] or right <= ends[at]]
        if free:
            ends[free[0]] = right - width
            notes.append(
                go.layout.Annotation(
                    text=words,
                    x=right - width,
                    xref="x",
                    y=0,
                    yref="paper",
                    yanchor="top",
                    yshift=-22 - 16 * free[0],
                    xanchor="left",
                    showarrow=False,
                    font={"size": 12},
                )
            )
    figure.layout.shapes = [line | {"x0": step, "x1": step} for step in marks]
    figure.layout.annotations = notes
