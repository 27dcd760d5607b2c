"""Explorers and dashboards for notebooks: sliders, live figures. Import explicitly.

from avmixup_kit import live
"""

from .controls import Choice, Control, Explorer, LiveFigure, Number, Switch, View, chart
from .dashboard import Dashboard, close_all, show
from .lottery import lottery
from .overfitting import drawn_data, overfitting, phase_map
from .soft_labels import soft_labels
from .theorem_1 import theorem_1
from .theorems_2_and_3 import theorems_2_and_3
from .vertex import vertex

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
