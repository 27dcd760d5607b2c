"""What figures are drawn with: the kit's look, and traces whose numbers an explorer fills in."""

import math
from typing import Any

import plotly.graph_objects as go

from avmixup_kit._base.plots import COLOURS, GREY, styled

ALARM = COLOURS[1]
TEST, TRAIN = (COLOURS[1], "solid"), (COLOURS[0], "dash")  # colour and dash of their errors
BEST = (COLOURS[2], 15, "star")  # colour, size and symbol of the best share B
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # HTML's <sup> would be below 12 px
SECOND = (1, 2)  # row and column of the right one of two panels


def chart(title: str, x: str, y: str) -> go.Figure:
    """Return an empty figure in the kit's look and colours, its guide lines grey."""
    figure = styled(go.Figure(), title, x, y)
    return figure.update_layout(
        colorway=COLOURS, template_layout_shapedefaults_line={"color": GREY, "dash": "dot"}
    )


def dressed(figure: go.Figure, x: str, y: str, height: int = 480) -> go.Figure:
    """Return the figure itself in the kit's look; x and y name the first panel's axes."""
    styled(figure, "", x, y)
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 10, "t": 60, "b": 130},
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"},
    )
    figure.update_annotations(font_color=GREY)
    return figure


def curve(
    figure: go.Figure,
    name: str,
    colour: str,
    dash: str | None = None,
    at: tuple[int, int] | None = None,
    width: float | None = None,
    mode: str | None = "lines",
    **look: Any,
) -> None:
    """Add a curve that has no points yet, in the panel at (row, column), the first if None."""
    row, column = at or (None, None)
    line = {"color": colour, "dash": dash, "width": width}
    figure.add_scatter(name=name, mode=mode, line=line, row=row, col=column, **look)


def marks(
    figure: go.Figure,
    name: str,
    colour: str,
    size: float,
    symbol: str | None = None,
    at: tuple[int, int] | None = None,
    **look: Any,
) -> None:
    """Add markers that have no places yet, in the panel at (row, column), the first if None."""
    row, column = at or (None, None)
    marker = {"color": colour, "size": size, "symbol": symbol}
    figure.add_scatter(name=name, mode="markers", marker=marker, row=row, col=column, **look)


def error_text(log10: float, digits: int = 3) -> str:
    """Return an error, given by its log10: a number, or a power of ten if tiny."""
    if log10 > -4:
        return f"{10**log10:.{digits}g}"
    if not math.isfinite(log10):
        return "0"
    exponent = round(log10) if log10 < -1e4 else math.floor(log10)
    power = "10" + str(exponent).translate(_RAISED)
    if log10 < -1e4:
        return power
    return f"{10 ** (log10 - exponent):.{digits - 1}f} · {power}"
