"""Theorems 2 and 3: which weights have the least variance, on the sample and in truth."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS, GREY
from avmixup_kit.live.controls import Choice, Explorer, Number, View
from avmixup_kit.live.drawing import curve, dressed, marks

_SHARES = np.concatenate([[0], np.geomspace(1e-4, 0.05, 40), np.linspace(0.06, 1, 95)])
_FEATURES = ("x₁, robust", "insufficient", "sufficient")
_STYLE = {"observed": (COLOURS[0], "solid", "/"), "true": (COLOURS[1], "dash", "")}
_SAID = {"observed": "sample", "true": "true"}


def theorems_2_and_3(**start: Any) -> Explorer:
    """Return the explorer of the variance of Definition 4's classifier.

    Args:
        start: values to open with: d, c, rho, eta as in `gaussian.FeatureModel`; conditional,
            whether the variance is given y; tied, whether x_1..x_{c+1} share one weight.
    """
    controls = [
        Number("d", "features d", 2, 1000, 100, log=True, whole=True),
        Number("c", "insufficient c", 1, 50, 1, whole=True),
        Number("rho", "ratio ρ", 1e-6, 1, 0.005, log=True),
        Number("eta", "mean η", 0, 0.95, 0.28, step=0.01),
        Choice(
            "conditional", "variance", {"given the class": True, "over both classes": False}, True
        ),
        Choice("tied", "weights", {"first c + 1 tied (the paper)": True, "no ties": False}, True),
    ]
    return Explorer("theorems_2_and_3", controls, _blank(), _draw, start)


def _blank() -> go.Figure:
    figure = make_subplots(
        1,
        2,
        column_widths=[0.6, 0.4],
        subplot_titles=["variance of tied weights", "what single features get"],
    )
    for under, (colour, dash, shape) in _STYLE.items():
        said = _SAID[under]
        curve(figure, f"{said} variance", colour, dash, mode=None)
        figure.add_bar(
            name=f"least {said} variance",
            x=list(_FEATURES),
            marker={"color": colour, "pattern": {"shape": shape}},
            row=1,
            col=2,
        )
    places = {
        "least sample variance, exact": (COLOURS[0], "circle"),
        "Theorem 2 says (10)": (COLOURS[0], "x"),
        "least true variance, exact": (COLOURS[1], "circle"),
        "Theorem 3 says (11)": (COLOURS[1], "x"),
        "equal weights": (GREY, "diamond"),
    }
    for name, (colour, symbol) in places.items():
        marks(figure, name, colour, 11, symbol, marker_line_width=1)
    figure.update_yaxes(type="log", exponentformat="e", dtick=1)
    figure.update_yaxes(title="weight", row=1, col=2)
    return dressed(figure, "B, total weight on sufficient features", "variance")


def _draw(d: int, c: int, rho: float, eta: float, conditional: bool, tied: bool) -> View:
    model = gaussian.FeatureModel(d, c, eta, sigma_a=rho**0.5, sigma_b=1.0)
    paper = {"observed": 0.0, "true": (d - c) * float(gaussian.theorem_3_weight(d, c))}
    says = {"observed": "Theorem 2 says (10)", "true": "Theorem 3 says (11)"}
    traces: dict[str, dict[str, Any]] = {}
    shares = {}
    for under, said in _SAID.items():
        weights = _optimum(model, under, conditional, tied)
        shares[under] = float(weights[c + 1 :].sum())
        best = model.variance_optimum(under, conditional)

        def variance(B: Any, under: str = under) -> np.ndarray:
            return model.variance(B, under, conditional)

        traces[f"{said} variance"] = {"x": _SHARES, "y": variance(_SHARES)}
        traces[f"least {said} variance, exact"] = {"x": [best], "y": [variance(best)]}
        traces[says[under]] = {"x": [paper[under]], "y": [variance(paper[under])]}
        traces[f"least {said} variance"] = {"y": weights[[0, 1, d]]}
    uniform = model.uniform_share
    ends = [model.variance(uniform, under, conditional) for under in _SAID]
    traces["equal weights"] = {"x": [uniform, uniform], "y": ends}
    note = (
        f"Share B of least sample variance: {shares['observed']:.3g} (Theorem 2 says 0). Share of "
        f"least true variance: {shares['true']:.3g} (Theorem 3 says {paper['true']:.3g}; equal "
        f"weights have {uniform:.3g})."
    )
    return View(traces, note)


def _optimum(model: gaussian.FeatureModel, under: str, conditional: bool, tied: bool) -> np.ndarray:
    """Return the weights of least variance; features of the same law share theirs anyway."""
    if tied:
        return model.weights(model.variance_optimum(under, conditional))
    return model.minimise_variance(under, conditional, tie=under)
