"""The paper's tables and ours as figures, side by side."""

from collections import Counter
from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from avmixup_kit._base.plots import GREY, label, styled
from avmixup_kit.evaluation.curves import accuracy_curves, method_colours
from avmixup_kit.reproduce.results import Assembled, data_title

if TYPE_CHECKING:
    import plotly.graph_objects as go

PATTERNS = ("", "/", ".", "x")  # tell models of one method, and so of one colour, apart


def side_by_side(table: Assembled) -> "go.Figure":
    """Return a panel for each data set of the paper's, then one for each of ours; a look a model.

    Models have their methods' colours. Error bars are ours: 95 % intervals, over seeds or, of one
    seed, over images.
    """
    from plotly.subplots import make_subplots

    panels = _panels(table)
    titles = [title for title, _, _ in panels]
    figure = make_subplots(
        len(panels), 1, subplot_titles=titles, vertical_spacing=0.3 / len(panels)
    )
    looks = _looks(table)
    shown = set()
    for line, (_, rows, ours) in enumerate(panels, 1):
        for row in rows:
            model = _model(table, row)
            colour, pattern = looks[model]
            names, values, errors = _bars(table, row, ours)
            figure.add_bar(
                x=names,
                y=values,
                name=label(model),
                legendgroup=model,
                showlegend=model not in shown,
                marker={
                    "color": colour,
                    "pattern": {"shape": pattern, "fillmode": "overlay", "size": 12},
                },
                error_y={"type": "data", "array": errors, "color": GREY} if ours else None,
                row=line,
                col=1,
            )
            shown.add(model)
    styled(figure, _title(table), "", "")
    figure.update_layout(
        height=160 + 150 * len(panels),
        margin={"t": 100},
        legend={"orientation": "h", "y": -0.4 / len(panels)},
    )
    labels = [_label(column) for column in table.plan.columns]
    figure.update_xaxes(
        tickangle=0, tickfont={"size": 12}, categoryorder="array", categoryarray=labels
    )
    figure.update_yaxes(range=[0, 102], title_text="accuracy (%)")
    return figure


def curves(table: Assembled) -> "go.Figure":
    """Return Figure 2: robust accuracy on training and validation images, the mean over seeds."""
    means = {}
    for row in table.rows:
        found = [result.curves for result in table.of(row)]
        if found:
            means[row] = {
                name: (found[0][name][0], np.mean([curve[name][1] for curve in found], axis=0))
                for name in found[0]
            }
    names = list(next(iter(means.values()))) if means else []
    colours = method_colours({row.title: row.run.method for row in table.plan.rows})
    figure = accuracy_curves(means, names, colours=colours)
    title = _title(table)
    figure.update_layout(title=title, yaxis_range=[0, 101], height=380)
    return figure.update_layout(margin_t=50 + 22 * title.count("<br>"))


def _title(table: Assembled) -> str:
    """The table's title in lines that a figure holds."""
    return "<br>".join(wrap(table.plan.title, 62))


def _model(table: Assembled, row: str) -> str:
    """A row's name without the data set that it may begin with."""
    ((dataset, _),) = table.plan.blocks([row]).items()
    return row.removeprefix(f"{dataset} / ")


def _looks(table: Assembled) -> dict[str, tuple[str, str]]:
    """Each model's colour and pattern."""
    colours = method_colours({_model(table, row.title): row.run.method for row in table.plan.rows})
    before: Counter[str] = Counter()
    looks = {}
    for model, colour in colours.items():
        looks[model] = colour, PATTERNS[before[colour] % len(PATTERNS)]
        before[colour] += 1
    return looks


def _panels(table: Assembled) -> list[tuple[str, list[str], bool]]:
    """(title, rows, whether they are ours), one for each panel."""

    def blocks(rows: Iterable[str]) -> dict[str, list[str]]:
        return {title or "CIFAR10": its for title, its in table.plan.blocks(rows).items()}

    printed = () if table.plan.published is None else table.plan.published.rows
    panels = [(f"paper, {block}", rows, False) for block, rows in blocks(printed).items()]
    for rows in blocks(row for row in table.rows if table.of(row)).values():
        about = table.of(rows[0])[0].about["data"]["name"]
        panels.append((f"ours, {label(data_title(about))}", rows, True))
    return panels


def _label(column: str) -> str:
    """A column's name in narrow lines."""
    return "<br>".join(wrap(column, 12))


def _bars(table: Assembled, row: str, ours: bool) -> tuple[list[str], list[float], list[float]]:
    names, values, errors = [], [], []
    for column in table.plan.columns:
        cell = table.cell(row, column) if ours else None
        value = 100 * cell.mean if cell is not None else table.paper(row, column)
        if value is None or (ours and cell is None):
            continue
        names.append(_label(column))
        values.append(value)
        errors.append(0.0 if cell is None else 50 * (cell.interval[1] - cell.interval[0]))
    return names, values, errors
