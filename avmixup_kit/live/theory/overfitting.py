"""Adversarial feature overfitting: as a film, as a map, and on drawn data."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS, GREY
from avmixup_kit.live.controls import Choice, Control, Explorer, Number, Switch, View
from avmixup_kit.live.drawing import (
    BEST,
    SECOND,
    TEST,
    TRAIN,
    curve,
    dressed,
    error_text,
    marks,
)

_FRAMES = 100
_TIMES = np.geomspace(0.05, 1000, _FRAMES + 1)
SHARES = np.concatenate([np.linspace(0, 0.1, 21), np.linspace(0.11, 1, 100)])
_GRID = np.linspace(0, 0.6, 61)
_STEPS, _RECORDS = 800, 60


def feature_controls(
    value: Mapping[str, float], largest_d: int = 2000, least_c: int = 0
) -> list[Control]:
    """Return the controls of a FeatureModel, c = 0 being the control experiment."""
    return [
        Number("d", "features d", 2, largest_d, value["d"], log=True, whole=True),
        Number("c", "c that look robust", least_c, 50, value["c"], whole=True),
        Number("eta", "mean η", 0, 0.95, value["eta"], step=0.01),
        Number("sigma_a", "noise σ_A", 0.01, 2, value["sigma_a"], log=True),
        Number("sigma_b", "noise σ_B", 0.01, 2, value["sigma_b"], log=True),
    ]


def feature_model(
    d: int, c: int, eta: float, sigma_a: float, sigma_b: float
) -> gaussian.FeatureModel:
    """Return the FeatureModel of those controls' values."""
    return gaussian.FeatureModel(d, c, eta, sigma_a, sigma_b, control=c == 0)


def preset_values(name: str) -> dict[str, float]:
    """Return the values of those controls and epsilon at one of `gaussian.PRESETS`.

    "control" is S1 with c = 0.
    """
    if name == "control":
        return {**preset_values("S1"), "c": 0}
    model, epsilon = gaussian.PRESETS[name]
    names = ("d", "c", "eta", "sigma_a", "sigma_b")
    return {**{one: getattr(model, one) for one in names}, "epsilon": epsilon}


def fixed_scales(*scales: int) -> dict[str, float]:
    """Return the choices of a fixed logit scale by what the reader sees."""
    return {f"fixed at {scale}": float(scale) for scale in scales}


def overfitting(**start: Any) -> Explorer:
    """Return the film: adversarial training moves B along the exact robust error.

    Args:
        start: values to open with: d, c, eta, sigma_a, sigma_b, epsilon, epsilon_test, scale (None
            learns it), loss, geometry as in `gaussian.flow`, and frame, 0 to 100.
    """
    first = preset_values("S1")
    controls = [
        Number("frame", "time", 0, _FRAMES, 0, whole=True, play=True),
        *feature_controls(first),
        Number("epsilon", "ε in training", 0, 1, first["epsilon"], step=0.01),
        Number("epsilon_test", "ε in testing", 0, 1, first["epsilon"], step=0.01),
        Choice("scale", "logit scale", {**fixed_scales(1, 2, 4, 8), "learned": None}, 1.0),
        Choice("loss", "loss", ("logistic", "exponential", "hinge"), "logistic"),
        Choice("geometry", "descent", ("exponentiated", "projected"), "exponentiated"),
    ]
    notes = {
        "S1": "falls, then rises as far",
        "S2": "catastrophic rise",
        "S3": "c = 5",
        "S4": "c = 10",
        "S5": "ε = η, no overshoot",
        "S6": "ε = 2η, hopeless",
        "control": "S1 with c = 0",
    }
    presets = {f"{name}: {note}": preset_values(name) for name, note in notes.items()}
    for values in presets.values():
        values |= {"epsilon_test": values["epsilon"], "frame": 0}
    opened = ("preset", "frame", "epsilon")
    return Explorer("overfitting", controls, _film_blank(), _film, start, presets, opened)


def _film_blank() -> go.Figure:
    figure = make_subplots(
        1, 2, shared_yaxes=True, subplot_titles=["error of every B", "error against time"]
    )
    for col, kind in ((1, "at every B"), (2, "along the path")):
        for said, look in (("test", TEST), ("train", TRAIN)):
            curve(figure, f"{said} error {kind}", *look, (1, col), legendgroup=said)
    marks(figure, "best B", *BEST, (1, 1))
    for name, look in (("test", (COLOURS[1], 13, None)), ("train", (COLOURS[0], 10, "square"))):
        marks(figure, f"now, {name}", *look, at=(1, 1))
        marks(figure, f"now, {name} ", *look, at=SECOND, showlegend=False)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_xaxes(
        title="training time", type="log", exponentformat="none", dtick=1, row=1, col=2
    )
    return dressed(figure, "B, total weight on weak features", "robust error")


@lru_cache(maxsize=8)
def _path(
    model: gaussian.FeatureModel, epsilon: float, loss: str, scale: float | None, geometry: str
) -> gaussian.Flow:
    return gaussian.flow(model, epsilon, loss, scale, _TIMES, geometry)


def _film(
    frame: int,
    epsilon: float,
    epsilon_test: float,
    scale: float | None,
    loss: str,
    geometry: str,
    **features: Any,
) -> View:
    model = feature_model(**features)
    path = _path(model, epsilon, loss, scale, geometry)
    best = model.robust_optimum(epsilon_test)
    test, train = path.robust_error("true", epsilon_test), path.robust_error("observed")
    B, t = path.B[frame], path.times[frame]
    traces = {
        "test error at every B": {"x": SHARES, "y": model.robust_error(SHARES, epsilon_test)},
        "train error at every B": {
            "x": SHARES,
            "y": model.robust_error(SHARES, epsilon, "observed"),
        },
        "test error along the path": {"x": path.times, "y": test},
        "train error along the path": {"x": path.times, "y": train},
        "best B": {"x": [best], "y": [model.robust_error(best, epsilon_test)]},
        "now, test": {"x": [B], "y": [test[frame]]},
        "now, train": {"x": [B], "y": [train[frame]]},
        "now, test ": {"x": [t], "y": [test[frame]]},
        "now, train ": {"x": [t], "y": [train[frame]]},
    }
    low = test[: frame + 1].min()
    rise = test[frame] / low if low > 0 else 1.0
    relation = "ε < η" if epsilon < model.eta else "ε ≥ η"
    note = (
        f"Time {t:.3g}: B = {B:.3g}, robust test error {test[frame]:.3g}, ×{rise:.3g} the "
        f"least so far; robust train error {error_text(_log(train[frame]))}. {relation} in "
        f"training; the best B for this test is {best:.3g}."
    )
    return View(traces, note)


def _log(error: float) -> float:
    return float(np.log10(error)) if error > 0 else -np.inf


def phase_map(**start: Any) -> Explorer:
    """Return the map over (ε, η) of how far training past the best B raises the test error.

    A click on the map moves your point there.

    Args:
        start: values to open with: d, c, eta, sigma_a, sigma_b, epsilon.
    """
    first = preset_values("S1")
    controls = [
        Number("epsilon", "radius ε", 0, 0.6, first["epsilon"], step=0.01),
        *feature_controls(first),
    ]
    presets = {name: preset_values(name) for name in gaussian.PRESETS}
    presets["control: S1 with c = 0"] = preset_values("control")
    return Explorer(
        "phase_map",
        controls,
        _map_blank(),
        _map,
        start,
        presets,
        opened=("preset", "epsilon", "eta"),
        clicks={"rise": ("epsilon", "eta")},
    )


def _map_blank() -> go.Figure:
    figure = make_subplots(
        1,
        2,
        column_widths=[0.55, 0.45],
        horizontal_spacing=0.2,
        subplot_titles=["rise of the test error", "at your point"],
    )
    figure.add_heatmap(
        name="rise",
        x=_GRID,
        y=_GRID,
        zmin=0,
        zmax=2,
        colorscale="Cividis",
        colorbar={
            "x": 0.44,
            "thickness": 12,
            "tickvals": [0, 0.5, 1, 1.5, 2],
            "ticktext": ["×1", "×3", "×10", "×32", "×100+"],
        },
        hovertemplate="ε %{x:.2f}, η %{y:.2f}: ×%{customdata:.3~g}<extra></extra>",
    )
    curve(figure, "ε = η", COLOURS[4], "dash", x=[0, 0.6], y=[0, 0.6])
    marks(figure, "your point", COLOURS[1], 13, "x")
    curve(figure, "test error", *TEST, SECOND)
    curve(figure, "train error", *TRAIN, SECOND)
    marks(figure, "best B", *BEST, SECOND)
    figure.update_xaxes(range=[0, 0.6], constrain="domain", row=1, col=1)
    figure.update_yaxes(range=[0, 0.6], row=1, col=1)
    figure.update_xaxes(title="B", row=1, col=2)
    figure.update_yaxes(title="robust error", rangemode="tozero", row=1, col=2)
    return dressed(figure, "ε", "η")


@lru_cache(maxsize=8)
def _rises(d: int, c: int, sigma_a: float, sigma_b: float) -> np.ndarray:
    """Return the whole map, rows η and columns ε, which points on it do not change."""
    eta, radius = np.meshgrid(_GRID, _GRID, indexing="ij")
    return gaussian.rise_factor(d, c, eta, sigma_a, sigma_b, radius)


def _map(epsilon: float, **features: Any) -> View:
    model = feature_model(**features)
    at = (model.sigma_a, model.sigma_b)
    rise = _rises(model.d, model.c, *at)
    here = float(gaussian.rise_factor(model.d, model.c, model.eta, *at, epsilon))
    best = model.robust_optimum(epsilon)
    traces = {
        "rise": {"z": np.log10(np.minimum(rise, 100)), "customdata": rise},
        "your point": {"x": [epsilon], "y": [model.eta]},
        "test error": {"x": SHARES, "y": model.robust_error(SHARES, epsilon)},
        "train error": {"x": SHARES, "y": model.robust_error(SHARES, epsilon, "observed")},
        "best B": {"x": [best], "y": [model.robust_error(best, epsilon)]},
    }
    note = (
        f"At ε = {epsilon:g}, η = {model.eta:g} training to B = 0 ends with ×{here:.3g} the least "
        "robust test error on its way. On and under the line ε = η the factor is 1."
    )
    return View(traces, note)


def drawn_data(**start: Any) -> Explorer:
    """Return the explorer of adversarial training on drawn data, planted as Example 3 or not.

    Args:
        start: values to open with: d, c, eta, sigma_a, sigma_b, epsilon, n, planted, seed, and
            frame, 0 to 60.
    """
    first = {"d": 200, "c": 10, "eta": 0.1, "sigma_a": 0.6, "sigma_b": 0.9}
    controls = [
        Number("frame", "time", 0, _RECORDS, 0, whole=True, play=True),
        Number("n", "examples n", 5, 400, 100, log=True, whole=True),
        Switch("planted", "plant Example 3", False),
        Number("seed", "seed", 0, 99, 0, whole=True),
        *feature_controls(first, 200, 1),
        Number("epsilon", "radius ε", 0, 1, 0.2, step=0.01),
    ]
    return Explorer("drawn_data", controls, _drawn_blank(), _drawn, start)


def _drawn_blank() -> go.Figure:
    figure = make_subplots(
        1, 2, subplot_titles=["robust error while training", "which features training keeps"]
    )
    curve(figure, "test error, exact", *TEST, mode=None)
    curve(figure, "train error", *TRAIN, mode=None)
    marks(figure, "now", COLOURS[3], 11)
    marks(figure, "x₁, robust", COLOURS[2], 14, "star", SECOND)
    marks(figure, "looks robust", COLOURS[3], 8, "square", SECOND)
    marks(figure, "weak", COLOURS[0], 6, at=SECOND, marker_opacity=0.7)
    curve(figure, "cut at ε", GREY, "dot", SECOND)
    figure.update_xaxes(type="log", dtick=1, row=1, col=1)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="mean of y·x over the sample", row=1, col=2)
    figure.update_yaxes(title="share of the weight now", row=1, col=2)
    return dressed(figure, "step", "robust error")


@lru_cache(maxsize=4)
def _run(
    model: gaussian.FeatureModel, n: int, epsilon: float, planted: bool, seed: int
) -> gaussian.SampleTraining:
    rng = np.random.default_rng(seed)
    return gaussian.train_on_sample(
        model, n, epsilon, rng, planted=planted, steps=_STEPS, record=_RECORDS
    )


def _drawn(frame: int, n: int, planted: bool, seed: int, epsilon: float, **features: Any) -> View:
    model = feature_model(**features)
    run = _run(model, n, epsilon, planted, seed)
    # early steps are whole numbers, so fewer are recorded than asked for
    now = round(frame / _RECORDS * (run.steps.size - 1))
    means = gaussian.sample_means(run.x, run.y)
    weights = run.weights[now]
    shares = weights / max(weights.sum(), 1e-300)
    every = run.weights / np.maximum(run.weights.sum(1, keepdims=True), 1e-300)
    alike = slice(1, model.c + 1) if planted else slice(0, 0)
    rest = slice(model.c + 1 if planted else 1, None)
    test, train = run.robust_error(), run.train_robust_error()
    steps = np.maximum(run.steps, 0.5)
    traces = {
        "test error, exact": {"x": steps, "y": test},
        "train error": {"x": steps, "y": train},
        "now": {"x": [steps[now], steps[now]], "y": [test[now], train[now]]},
        "x₁, robust": {"x": means[:1], "y": shares[:1]},
        "looks robust": {"x": means[alike], "y": shares[alike]},
        "weak": {"x": means[rest], "y": shares[rest]},
        "cut at ε": {"x": [epsilon, epsilon], "y": [0, every.max()]},
    }
    above = means[rest] > epsilon
    note = (
        f"Step {run.steps[now]}: robust test error {test[now]:.3g} (least on the way "
        f"{test.min():.3g}), robust train error {train[now]:.3g}. Of the {above.size} features "
        f"with mean η in truth, {int(above.sum())} have a sample mean above ε and hold "
        f"{shares[rest][above].sum():.0%} of the weight; the others hold "
        f"{shares[rest][~above].sum():.0%}."
    )
    return View(traces, note, {"yaxis2": {"range": [0, 1.05 * every.max()]}})
