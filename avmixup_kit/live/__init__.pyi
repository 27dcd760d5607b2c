from .controls import Choice, Control, Explorer, LiveFigure, Number, Switch, View
from .drawing import chart
from .lab.dashboard import Dashboard, close_all, show
from .lab.vertex import vertex
from .questions import Question, check, predict
from .theory.label_line import label_line
from .theory.lottery import lottery
from .theory.overfitting import drawn_data, overfitting, phase_map
from .theory.scores import bells, moments, scores
from .theory.soft_labels import soft_labels
from .theory.theorem_1 import theorem_1
from .theory.theorems_2_and_3 import theorems_2_and_3
from .theory.two_bells import two_bells

__all__ = [
    "Choice",
    "Control",
    "Dashboard",
    "Explorer",
    "LiveFigure",
    "Number",
    "Question",
    "Switch",
    "View",
    "bells",
    "chart",
    "check",
    "close_all",
    "drawn_data",
    "label_line",
    "lottery",
    "moments",
    "overfitting",
    "phase_map",
    "predict",
    "scores",
    "show",
    "soft_labels",
    "theorem_1",
    "theorems_2_and_3",
    "two_bells",
    "vertex",
]
