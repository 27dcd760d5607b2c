"""The dashboard's figure: a panel for each thing measured, a colour a run, a line at each turn."""

from collections.abc import Iterator, Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit._base.plots import COLOURS, GREY, label, styled
from avmixup_kit.evaluation import scatter as features
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.live.lab.words import turned

MARKED = 12
_PANELS = ("loss", "clean accuracy (%)", "accuracy under PGD10 (%)", "scatter under PGD10")


def drawn(runs: list[LiveRun], current: LiveRun) -> go.Figure:
    """Return the panels with the runs' curves and the current one's turns."""
    figure = _blank()
    fill(figure, runs, current)
    return figure


def _blank() -> go.Figure:
    figure = make_subplots(1, len(_PANELS), subplot_titles=_PANELS, horizontal_spacing=0.05)
    styled(figure, "", "", "")
    figure.update_layout(
        height=330,
        uirevision="keep",
        autosize=True,
        margin={"l": 40, "r": 10, "t": 40, "b": 70},
        legend={"orientation": "h", "y": -0.16, "x": 1, "xanchor": "right"},
        hovermode="x",
    )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="step (solid: training, dashed: validation images)", col=2)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(range=[-2, 102], col=2)
    figure.update_yaxes(range=[-2, 102], col=3)
    return figure


def _lines(run: LiveRun) -> Iterator[tuple[str, int, str, Any]]:
    """Yield (what, panel, dash, curve) of each of the run's curves."""
    yield "loss", 1, "solid", run.loss
    for panel, row in ((2, "Clean"), (3, "PGD10")):
        for split, dash in zip(run.probed, ("solid", "dash"), strict=False):
            yield f"{row}, {split}", panel, dash, run.curves[f"{row}, {split}"]
    if run.scattered:
        for name, dash in zip(features.SETS, ("solid", "dash"), strict=True):
            row = f"features, {name}, attacked"
            yield row, 4, dash, run.curves[row]


def fill(figure: Any, runs: list[LiveRun], current: LiveRun, every: bool = True) -> None:
    """Put the runs' curves and the current one's turns into the figure, in place.

    Unless ``every`` is true, only new curves and those of the current run, which alone grow.
    """
    traces = {(trace.name, trace.meta): trace for trace in figure.data}
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
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
                    row=1,
                    col=panel,
                )
                trace = figure.data[-1]
            elif every or run is current:
                trace = traces[label(run.name), what]
            else:
                continue
            steps, values = curve.arrays()
            trace.x, trace.y = steps, 100 * values if panel in (2, 3) else values
    marks = turned(current.dial.turns)
    wanted = tuple(f"{step} {words}" for step, words in marks.items())
    if figure.layout.meta != wanted:
        figure.layout.meta = wanted
        _mark(figure, marks)


def _mark(figure: Any, marks: Mapping[int, str]) -> None:
    line = {"type": "line", "y0": 0, "y1": 1, "line": {"color": GREY, "dash": "dot", "width": 1}}
    shapes = [
        line | {"x0": step, "x1": step, "xref": f"x{panel}", "yref": f"y{panel} domain"}
        for step in marks
        for panel in ("", "2", "3", "4")
    ]
    notes = [note for note in figure.layout.annotations if note.text in _PANELS]
    for number, (step, words) in enumerate(list(marks.items())[-MARKED:]):
        # High and low in turn, so that turns close to each other stay readable.
        notes.append(
            go.layout.Annotation(
                text=words,
                x=step,
                xref="x",
                y=1 - number % 2,
                yref="y domain",
                yanchor="bottom" if number % 2 else "top",
                xanchor="left",
                textangle=-90,
                showarrow=False,
                font={"size": 11},
            )
        )
    figure.layout.shapes, figure.layout.annotations = shapes, notes
