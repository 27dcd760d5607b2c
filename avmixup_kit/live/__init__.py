"""Explorers and dashboards for notebooks: sliders, live figures. Import explicitly.

from avmixup_kit import live
"""

from avmixup_kit.live.controls import (
    Choice,
    Control,
    Explorer,
    LiveFigure,
    Number,
    Switch,
    View,
    chart,
)
from avmixup_kit.live.lab.dashboard import Dashboard, close_all, show
from avmixup_kit.live.lab.vertex import vertex
from avmixup_kit.live.theory.lottery import lottery
from avmixup_kit.live.theory.overfitting import drawn_data, overfitting, phase_map
from avmixup_kit.live.theory.soft_labels import soft_labels
from avmixup_kit.live.theory.theorem_1 import theorem_1
from avmixup_kit.live.theory.theorems_2_and_3 import theorems_2_and_3

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
