"""Do soft labels help? Where PGD, label smoothing and AVmixup end in the toy model."""

from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS, GREY, METHOD_COLOURS
from avmixup_kit.live.controls import Choice, Explorer, Number, View
from avmixup_kit.live.drawing import ALARM, BEST, SECOND, curve, dressed, marks
from avmixup_kit.live.theory.overfitting import (
    SHARES,
    feature_controls,
    feature_model,
    fixed_scales,
    preset_values,
)

_GAMMAS = np.linspace(0, 4, 21)
_METHODS = {
    "adversarial training": (METHOD_COLOURS["pgd"], 16, "circle"),
    "label smoothing": (METHOD_COLOURS["label_smoothing"], 11, "square"),
    "AVmixup": (METHOD_COLOURS["avmixup"], 13, "diamond"),
    "best B": BEST,
}


def soft_labels(**start: Any) -> Explorer:
    """Return the explorer of what label smoothing and AVmixup do to the toy model's optimum.

    Args:
        start: values to open with: d, c, eta, sigma_a, sigma_b, epsilon, gamma, lambda1, lambda2,
            lam and scale (None learns it) as in `gaussian.stationary_point`.
    """
    first = preset_values("S1")
    controls = [
        Number("gamma", "vertex γ", 0, 4, 2.0, step=0.05),
        Number("lambda1", "clean label λ₁", 0.5, 1, 1.0, step=0.01),
        Number("lambda2", "vertex label λ₂", 0, 1, 0.5, step=0.01),
        Number("lam", "smoothing λ", 0.51, 1, 0.9, step=0.01),
        Choice("scale", "logit scale", {"learned": None, **fixed_scales(1, 2, 4, 8, 16)}, None),
        Number("epsilon", "radius ε", 0.01, 0.6, first["epsilon"], step=0.01),
        *feature_controls(first),
    ]
    harm = {"d": 100, "c": 10, "eta": 0.15, "sigma_a": 0.1, "sigma_b": 0.5, "epsilon": 0.3}
    presets = {
        "ε < η: S1": first,
        "ε < η: S4": preset_values("S4"),
        "ε < η: S2": preset_values("S2"),
        "ε = η: S5, where softening harms": preset_values("S5"),
        "ε = 2η, where softening harms": harm,
    }
    opened = ("preset", "gamma", "lambda2")
    return Explorer("soft_labels", controls, _blank(), _draw, start, presets, opened)


def _blank() -> go.Figure:
    figure = make_subplots(
        1, 2, subplot_titles=["robust test error where each ends", "the share AVmixup asks for"]
    )
    curve(figure, "test error", GREY)
    for name, look in _METHODS.items():
        marks(figure, name, *look)
    curve(figure, "low-noise rule", METHOD_COLOURS["avmixup"], "dash", SECOND)
    curve(figure, "best B ", COLOURS[2], "dot", SECOND)
    marks(figure, "AVmixup, exact", *_METHODS["AVmixup"], at=SECOND, showlegend=False)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="vertex γ", range=[-0.1, 4.1], row=1, col=2)
    figure.update_yaxes(title="B", range=[-0.05, 1.05], row=1, col=2)
    return dressed(figure, "B, total weight on weak features", "robust test error")


@lru_cache(maxsize=64)
def end(
    model: gaussian.FeatureModel, epsilon: float, loss: Any, scale: float | None
) -> gaussian.Stationary:
    """Return where training ends, remembered."""
    return gaussian.stationary_point(model, epsilon, loss, scale)


@lru_cache(maxsize=16)
def _rule(
    model: gaussian.FeatureModel, epsilon: float, lambda1: float, lambda2: float
) -> np.ndarray:
    """Return the prescribed share at each gamma; nothing where the labels do not fall."""
    if lambda2 >= lambda1:
        return np.empty(0)
    methods = (gaussian.AVmixup(gamma, lambda1, lambda2) for gamma in _GAMMAS)
    return np.array([gaussian.low_noise_share(model, method, epsilon) for method in methods])


def _draw(
    gamma: float,
    lambda1: float,
    lambda2: float,
    lam: float,
    scale: float | None,
    epsilon: float,
    **features: Any,
) -> View:
    model = feature_model(**features)
    losses = {
        "adversarial training": "logistic",
        # with learned scale smoothing keeps the direction: theory/label_smoothing.md
        "label smoothing": "logistic" if scale is None else gaussian.LabelSmoothing(lam),
        "AVmixup": gaussian.AVmixup(gamma, lambda1, lambda2),
    }
    ends = {name: end(model, epsilon, loss, scale) for name, loss in losses.items()}
    shares = {name: one.B for name, one in ends.items()}
    shares["best B"] = best = model.robust_optimum(epsilon)
    errors = {name: float(model.robust_error(B, epsilon)) for name, B in shares.items()}
    traces: dict[str, dict[str, Any]] = {
        name: {"x": [shares[name]], "y": [errors[name]]} for name in _METHODS
    }
    traces["test error"] = {"x": SHARES, "y": model.robust_error(SHARES, epsilon)}
    rule = _rule(model, epsilon, lambda1, lambda2)
    traces["low-noise rule"] = {"x": _GAMMAS[: rule.size], "y": rule}
    traces["best B "] = {"x": [0, 4], "y": [best, best]}
    traces["AVmixup, exact"] = {"x": [gamma], "y": [shares["AVmixup"]]}
    listed = "; ".join(
        f"{name} {error:.3g} (B = {shares[name]:.3g})" for name, error in errors.items()
    )
    kappa = ends["AVmixup"].kappa
    note = f"Robust test error: {listed}. AVmixup's effective radius is κ = {kappa:.3g}."
    if rule.size:
        tuned = gaussian.matching_gamma(model, epsilon, lambda1, lambda2)
        note += f" The low-noise rule meets the best B at γ = {tuned:.3g}."
    else:
        note += " Labels that do not fall towards the vertex ask for nothing."
    ours, hard = errors["AVmixup"], errors["adversarial training"]
    text = "AVmixup harms here" if ours > 1.01 * hard else ""
    text = "AVmixup helps here" if ours < 0.99 * hard else text
    colour = COLOURS[2] if "helps" in text else ALARM
    return View(traces, note, {"title": {"text": text, "font": {"color": colour, "size": 15}}})
