"""The paper's tables and ours as figures, side by side."""

from typing import TYPE_CHECKING

import numpy as np

from avmixup_kit._base.plots import COLOURS, GREY, styled
from avmixup_kit.evaluation.curves import accuracy_curves
from avmixup_kit.reproduce.results import Assembled, data_title

if TYPE_CHECKING:
    import plotly.graph_objects as go


def side_by_side(table: Assembled) -> "go.Figure":
    """Return a panel for each data set of the paper's, then one for each of ours; a colour a model.

    Error bars are ours: 95 % intervals, over seeds or, of one seed, over images.
    """
    from plotly.subplots import make_subplots

    panels = _panels(table)
    titles = [title for title, _, _ in panels]
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = make_subplots(lines, columns, subplot_titles=titles, shared_yaxes=True)
    models: dict[str, str] = {}
    for number, (_, rows, ours) in enumerate(panels):
        for row in rows:
            model = row.split(" / ")[-1] if _grouped(table) else row
            first = model not in models
            colour = models.setdefault(model, COLOURS[len(models) % len(COLOURS)])
            names, values, errors = _bars(table, row, ours)
            figure.add_bar(
                x=names,
                y=values,
                name=model,
                legendgroup=model,
                showlegend=first,
                marker_color=colour,
                error_y={"type": "data", "array": errors, "color": GREY} if ours else None,
                row=number // columns + 1,
                col=number % columns + 1,
            )
    styled(figure, table.plan.title, "", "")
    figure.update_layout(
        height=150 + 190 * lines,
        margin={"t": 80},
        legend={"orientation": "h", "y": -0.4 / lines},
    )
    labels = [_label(column) for column in table.plan.columns]
    figure.update_xaxes(
        tickangle=0, tickfont={"size": 9}, categoryorder="array", categoryarray=labels
    )
    figure.update_yaxes(range=[0, 102])
    figure.update_yaxes(title_text="accuracy (%)", col=1)
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
    figure = accuracy_curves(means, names)
    return figure.update_layout(title=table.plan.title, yaxis_range=[0, 101], height=380)


def _grouped(table: Assembled) -> bool:
    return table.plan.heading.startswith("Dataset")


def _panels(table: Assembled) -> list[tuple[str, list[str], bool]]:
    """(title, rows, whether they are ours), one for each panel."""
    printed = table.plan.published
    of_paper = {} if printed is None else _by_block(table, printed.rows)
    panels = [(f"paper, {block}", rows, False) for block, rows in of_paper.items()]
    there = [row for row in table.rows if table.of(row)]
    for rows in _by_block(table, there).values():
        about = table.of(rows[0])[0].about["data"]["name"]
        panels.append((f"ours, {data_title(about)}", rows, True))
    return panels


def _by_block(table: Assembled, rows: "tuple[str, ...] | list[str]") -> dict[str, list[str]]:
    blocks: dict[str, list[str]] = {}
    for row in rows:
        blocks.setdefault(row.split(" / ")[0] if _grouped(table) else "CIFAR10", []).append(row)
    return blocks


def _label(column: str) -> str:
    """A column's name in narrow lines."""
    for old, new in (
        ("white-box ", "white-<br>box "),
        ("AutoAttack (", "Auto-<br>Attack<br>("),
        (" in TRADES'", "<br>in TRADES'<br>"),
    ):
        column = column.replace(old, new)
    return column


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
