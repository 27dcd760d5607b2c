from .controls import Choice, Control, Explorer, LiveFigure, Number, Switch, View
from .drawing import chart
from .lab.dashboard import Dashboard, close_all, show
from .lab.vertex import vertex
from .theory.lottery import lottery
from .theory.overfitting import drawn_data, overfitting, phase_map
from .theory.soft_labels import soft_labels
from .theory.theorem_1 import theorem_1
from .theory.theorems_2_and_3 import theorems_2_and_3

__all__ = [
    "Choice",
    "Control",
    "Dashboard",
    "Explorer",
    "LiveFigure",
    "Number",
    "Switch",
    "View",
    "chart",
    "close_all",
    "drawn_data",
    "lottery",
    "overfitting",
    "phase_map",
    "show",
    "soft_labels",
    "theorem_1",
    "theorems_2_and_3",
    "vertex",
]
