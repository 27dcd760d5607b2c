"""Theorem 1 as a picture: two bells of different width, the same area past zero."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS, GREY
from avmixup_kit.live.controls import Explorer, Number, View
from avmixup_kit.live.drawing import curve, dressed, marks
from avmixup_kit.live.theory.scores import BELL, said, titles, wrong_part

_NOISY, _QUIET = "noisy data, no push", "quiet data, pushed by ε"
_MARKS = {
    "the paper's condition (5)": (gaussian.epsilon_paper, COLOURS[0], "triangle-up"),
    "the tight condition": (gaussian.epsilon_tight, COLOURS[3], "diamond"),
    "the areas are equal": (gaussian.epsilon_exact, COLOURS[2], "star"),
}
_N, _SIGMA_S, _NU = 25, 5.0, 0.5
EQUAL = round(float(gaussian.epsilon_exact(_N, _SIGMA_S, _NU)), 4)  # the push it opens with


def two_bells(**start: Any) -> Explorer:
    """Return Theorem 1 as a picture: how far a push may go for the areas past zero to be equal.

    Above are scores wᵀx/‖w‖ of a classifier fitted on noisy data (σₛ), not attacked; below those
    of one fitted on quieter data (σᵣ = ν σₛ), pushed by the adversary. The laws are those that
    typical training sets give (`gaussian.typical_z`). On the line beneath, three radii: what the
    paper's condition allows, what its own proof allows, and where the areas are equal.

    Args:
        start: values to open with: epsilon, nu, n, d, sigma_s as in `gaussian.typical_z`.
    """
    controls = [
        Number("epsilon", "push ε", 0, 1, EQUAL, step=0.005),
        Number("nu", "ratio ν = σᵣ/σₛ", 0.05, 1, _NU, step=0.01),
        Number("n", "examples n", 1, 1000, _N, log=True, whole=True),
        Number("sigma_s", "noise σₛ", 0.5, 40, _SIGMA_S, log=True),
        Number("d", "dimension d", 1, 10**4, 100, log=True, whole=True),
    ]
    return Explorer("two_bells", controls, _blank(), _draw, start, opened=("epsilon", "nu", "n"))


def _blank() -> go.Figure:
    figure = make_subplots(
        3, 1, row_heights=[0.4, 0.4, 0.2], vertical_spacing=0.12, subplot_titles=[_NOISY, _QUIET]
    )
    for row, name, colour in ((1, _NOISY, GREY), (2, _QUIET, COLOURS[0])):
        curve(figure, f"wrong, {name}", COLOURS[1], None, (row, 1), fill="tozeroy")
        curve(figure, name, colour, None, (row, 1))
        figure.update_yaxes(range=[0, 1.3], row=row, col=1)
    figure.update_traces({"fillcolor": COLOURS[1], "showlegend": False}, {"fill": "tozeroy"})
    curve(figure, "before the push", COLOURS[0], "dot", (2, 1))
    for name, (_, colour, symbol) in _MARKS.items():
        marks(figure, name, colour, 14, symbol, (3, 1))
    marks(figure, "your push", COLOURS[1], 16, "line-ns-open", (3, 1))
    dressed(figure, "", "", 540)
    figure.update_xaxes(zeroline=True, zerolinewidth=2, zerolinecolor=GREY)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(range=[-1, 1], zerolinecolor=GREY, row=3, col=1)
    figure.update_xaxes(title="push ε", range=[-0.02, 1.02], row=3, col=1)
    return figure.update_layout(font_size=13).update_annotations(font_size=15)


def _draw(epsilon: float, nu: float, n: int, sigma_s: float, d: int) -> View:
    def law(sigma: float, push: float) -> tuple[float, float]:
        """Return mean and deviation of the typical score wᵀx/(‖w‖√d), the push taken off."""
        deviation = sigma / np.sqrt(d)
        return float(gaussian.typical_z(d, n, sigma, push)) * deviation, deviation

    annotations = titles(_blank)
    laws = {_NOISY: law(sigma_s, 0.0), _QUIET: law(nu * sigma_s, epsilon)}
    before, deviation = law(nu * sigma_s, 0.0)
    traces: dict[str, dict[str, Any]] = {
        "before the push": {"x": before + deviation * BELL, "y": np.exp(-(BELL**2) / 2)}
    }
    errors = {}
    for axes, (name, (mean, width)) in zip((("x", "y"), ("x2", "y2")), laws.items(), strict=True):
        traces[name] = {"x": mean + width * BELL, "y": np.exp(-(BELL**2) / 2)}
        traces[f"wrong, {name}"] = wrong_part(mean, width)
        errors[name] = float(gaussian.error_at(mean / width))
        annotations.append(said(axes, errors[name]))
    radii = {name: float(radius(n, sigma_s, nu)) for name, (radius, _, _) in _MARKS.items()}
    traces |= {name: {"x": [radius], "y": [0]} for name, radius in radii.items()}
    traces["your push"] = {"x": [epsilon], "y": [0]}
    limit = max(mean + 3 * width for mean, width in (law(sigma_s, 0.0), (before, deviation)))
    axis = {"range": [-limit, limit]}
    quiet, noisy = errors[_QUIET], errors[_NOISY]
    often = "more often than" if quiet > noisy else "less often than"
    often = "as often as" if np.isclose(quiet, noisy, rtol=1e-3) else often
    paper, tight, exact = radii.values()
    note = (
        f"Pushed by {epsilon:g}, the classifier of the quieter data errs {often} the other one "
        f"does unpushed: {quiet:.2%} against {noisy:.2%}. The areas are equal at ε = {exact:.3f}; "
        f"the paper's proof allows {tight:.3f}, its condition (5) {paper:.3f}: smaller variance "
        "buys a push, and more of it than the theorem says."
    )
    return View(traces, note, {"annotations": annotations, "xaxis": axis, "xaxis2": axis})
