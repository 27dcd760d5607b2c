"""The training-set lottery: one Gaussian model, many training sets, a law of errors."""

from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS, GREY
from avmixup_kit.live.controls import Explorer, Number, View
from avmixup_kit.live.drawing import SECOND, curve, dressed, error_text, marks

SETS = 4000
_BINS = 60
_RADII = np.linspace(0, 1.5, 76)


def lottery(**start: Any) -> Explorer:
    """Return the explorer of Definition 3's errors over training sets.

    Args:
        start: values to open with: d, n, sigma, epsilon, density, as in `gaussian.typical_z`.
    """
    controls = [
        Number("d", "dimension d", 1, 10**6, 100, log=True, whole=True),
        Number("n", "examples n", 1, 1000, 1, log=True, whole=True),
        Number("sigma", "noise σ", 0.1, 40, 2.0, log=True),
        Number("epsilon", "attack radius ε", 0, 1.5, 0.2, step=0.01),
        Number("density", "density of θ*", 0.01, 1, 1.0, log=True),
    ]
    return Explorer("lottery", controls, _blank(), _draw, start, opened=("d", "sigma", "epsilon"))


def _blank() -> go.Figure:
    figure = make_subplots(
        1, 2, subplot_titles=["which error did you draw?", "robust error against the attack"]
    )
    for name, colour in (("standard", COLOURS[0]), ("robust", COLOURS[1])):
        figure.add_bar(name=f"{name} error, drawn", marker_color=colour, opacity=0.6)
    curve(figure, "exact law, standard error", COLOURS[0], mode=None)
    curve(figure, "typical standard error", COLOURS[0], "dot")
    curve(figure, "typical robust error", COLOURS[1], "dash")
    edge: dict[str, Any] = {"at": SECOND, "width": 0, "hoverinfo": "skip"}
    curve(figure, "95 %", COLOURS[1], showlegend=False, **edge)
    inside = {"fill": "tonexty", "fillcolor": "rgba(213,94,0,0.25)"}
    curve(figure, "90 % of training sets", COLOURS[1], **inside, **edge)
    curve(figure, "typical", COLOURS[1], "dash", SECOND, mode=None)
    curve(figure, "critical radius", GREY, "dot", SECOND)
    marks(figure, "your ε", COLOURS[3], 12, at=SECOND)
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_xaxes(title="attack radius ε", row=1, col=2)
    figure.update_yaxes(title="robust error", range=[-0.03, 1.03], row=1, col=2)
    return dressed(figure, "log₁₀ of the error", "share of training sets")


@lru_cache(maxsize=8)
def _drawn(d: int, n: int, sigma: float, epsilon: float, density: float) -> np.ndarray:
    """Return log10 errors (sets, 2), standard and robust, the same luck at every setting."""
    rng = np.random.default_rng(0)
    radii = np.array([0.0, epsilon])
    return gaussian.robust_errors_fast(d, n, sigma, radii, SETS, rng, density, log10=True)


def _draw(d: int, n: int, sigma: float, epsilon: float, density: float) -> View:
    drawn = _drawn(d, n, sigma, epsilon, density)
    law = gaussian.error_law(d, n, sigma)
    typical = [
        float(gaussian.error_at(gaussian.typical_z(d, n, sigma, radius, density), log10=True))
        for radius in (0.0, epsilon)
    ]
    bars = [_histogram(errors) for errors in drawn.T]
    edges, centres, _ = bars[0]
    expected = np.diff(law.cdf(edges, log10=True))
    top = max(shares.max() for _, _, shares in bars)

    spread = gaussian.robust_errors_fast(
        d, n, sigma, _RADII, 400, np.random.default_rng(1), density
    )
    low, high = np.quantile(spread, [0.05, 0.95], axis=0)
    curve = gaussian.error_at(gaussian.typical_z(d, n, sigma, _RADII, density))
    critical = float(gaussian.critical_epsilon(n, sigma, density))
    traces = {
        "exact law, standard error": {"x": centres, "y": expected},
        "95 %": {"x": _RADII, "y": high},
        "90 % of training sets": {"x": _RADII, "y": low},
        "typical": {"x": _RADII, "y": curve},
        "critical radius": {"x": [critical, critical], "y": [0, 1]},
        "your ε": {"x": [epsilon], "y": [10 ** typical[1]]},
    }
    for name, (_, middle, shares), line in zip(("standard", "robust"), bars, typical, strict=True):
        width = middle[1] - middle[0]
        traces[f"{name} error, drawn"] = {"x": middle, "y": shares, "width": width}
        traces[f"typical {name} error"] = {"x": [line, line], "y": [0, 1.05 * top]}
    unlucky = int((drawn[:, 1] > np.log10(0.5)).sum())
    note = (
        f"Typical standard error {error_text(typical[0])}; typical robust error at ε = {epsilon:g} "
        f"is {error_text(typical[1])}. It passes one half at the critical radius "
        f"{critical:.3g}. Of {SETS} training sets {unlucky} give a classifier that the attack "
        "fools more often than not."
    )
    return View(traces, note)


def _histogram(log10_errors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bin edges, centres and the share of errors in each bin."""
    low, high = log10_errors.min(), log10_errors.max()
    pad = max(1e-3, 1e-3 * abs(low))
    edges = np.linspace(low - pad, min(high + pad, 0.0), _BINS + 1)
    counts, _ = np.histogram(np.clip(log10_errors, edges[0], edges[-1]), edges)
    return edges, (edges[1:] + edges[:-1]) / 2, counts / len(log10_errors)
