"""Ready-made figures and their look, for notebooks and scripts."""

from avmixup_kit._base.plots import (
    COLOURS,
    DASHES,
    GREY,
    GRID,
    METHOD_COLOURS,
    graph_objects,
    styled,
)
from avmixup_kit.evaluation.curves import accuracy_bars, accuracy_curves

__all__ = [
    "COLOURS",
    "DASHES",
    "GREY",
    "GRID",
    "METHOD_COLOURS",
    "accuracy_bars",
    "accuracy_curves",
    "graph_objects",
    "styled",
]
