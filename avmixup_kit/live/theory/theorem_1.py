"""Theorem 1 and Corollary 1: the radius the paper allows, the tight one, and the truth."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS
from avmixup_kit.live.controls import Choice, Explorer, Number, View
from avmixup_kit.live.drawing import ALARM, curve, dressed, error_text, marks

_NU = np.linspace(0, 1, 101)
SETS = 2000
_CURVES = {
    "paper's condition (5)": (gaussian.epsilon_paper, COLOURS[0], "solid"),
    "tight condition": (gaussian.epsilon_tight, COLOURS[1], "dash"),
    "typical truth": (gaussian.epsilon_exact, COLOURS[2], "dot"),
}
_BARS = (
    "claimed,<br>separate<br>sets",
    "claimed,<br>any<br>sets",
    "claimed,<br>shared<br>noise",
    "actual,<br>standard<br>error",
    "actual,<br>robust<br>error",
)


def theorem_1(**start: Any) -> Explorer:
    """Return the explorer of Theorem 1 and Corollary 1.

    Args:
        start: values to open with: d, n, sigma_s, nu as in `gaussian.theorem_1_probability`, and
            against, "nu" or "sigma_r".
    """
    controls = [
        Number("d", "dimension d", 1, 10**6, 1000, log=True, whole=True),
        Number("n", "examples n", 1, 1000, 1, log=True, whole=True),
        Number("sigma_s", "noise σₛ", 0.1, 40, 1.0, log=True),
        Number("nu", "ratio ν = σᵣ/σₛ", 0, 1, 0.5, step=0.01),
        Choice(
            "against",
            "horizontal axis",
            {"ν (Theorem 1)": "nu", "σᵣ (Corollary 1)": "sigma_r"},
            "nu",
        ),
    ]
    opened = ("nu", "sigma_s", "n")
    return Explorer("theorem_1", controls, _blank(), _draw, start, opened=opened)


def _blank() -> go.Figure:
    figure = make_subplots(
        1, 2, column_widths=[0.55, 0.45], subplot_titles=["largest radius", "probability"]
    )
    for name, (_, colour, dash) in _CURVES.items():
        curve(figure, name, colour, dash)
    figure.update_traces(
        {"fill": "tonexty", "fillcolor": "rgba(213,94,0,0.15)"}, {"name": "tight condition"}
    )
    marks(figure, "your ν", COLOURS[3], 11, "diamond")
    figure.add_bar(
        name="probability of the statement",
        x=list(_BARS),
        marker={"color": [COLOURS[0]] * 3 + [COLOURS[2]] * 2},
        marker_pattern_shape=["/"] * 3 + [""] * 2,
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        row=1,
        col=2,
    )
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_yaxes(range=[0, 1.08], row=1, col=2)
    figure.update_xaxes(tickangle=0, row=1, col=2)
    return dressed(figure, "ν", "ε")


def _draw(d: int, n: int, sigma_s: float, nu: float, against: str) -> View:
    scale = sigma_s if against == "sigma_r" else 1.0
    traces: dict[str, dict[str, Any]] = {}
    here = {}
    for name, (radius, _, _) in _CURVES.items():
        traces[name] = {"x": scale * _NU, "y": radius(n, sigma_s, _NU)}
        here[name] = float(radius(n, sigma_s, nu))
    traces["your ν"] = {"x": [scale * nu] * len(here), "y": list(here.values())}

    paper = here["paper's condition (5)"]
    bound = float(gaussian.standard_error_bound(d, n, sigma_s, log10=True))
    rng = np.random.default_rng(0)
    robust = gaussian.robust_errors_fast(d, n, nu * sigma_s, paper, SETS, rng, log10=True)
    chances = [
        float(gaussian.theorem_1_probability(d, sigma_s, nu, noise))
        for noise in ("independent", "any", "shared")
    ]
    chances.append(float(gaussian.error_law(d, n, sigma_s).cdf(bound, log10=True)))
    chances.append(float((robust <= bound).mean()))
    traces["probability of the statement"] = {
        "y": chances,
        "text": [f"{chance:.3g}" for chance in chances],
    }
    empty = bool(gaussian.vacuous(d, n, sigma_s, nu))
    typical = float(gaussian.error_at(gaussian.typical_z(d, n, sigma_s), log10=True))
    rate = float(gaussian.slope(n, sigma_s))
    note = (
        f"{_badge(empty)} Theorem 1 bounds both errors by βₛ = {error_text(bound)} "
        f"(typical standard error: {error_text(typical)}). At ν = {nu:g} it allows ε ≤ "
        f"{paper:.4g}; its own proof allows {here['tight condition']:.4g}; the errors themselves "
        f"are typically equal at {here['typical truth']:.4g}. Corollary 1: (5) falls at the rate "
        f"π = {rate:.4g} in σᵣ, the tight condition at "
        f"{float(gaussian.slope_tight(n, sigma_s, nu)):.4g} here."
    )
    title = {"text": "BOUND VACUOUS HERE" if empty else "", "font": {"color": ALARM, "size": 15}}
    axis = {"title": {"text": "σᵣ" if against == "sigma_r" else "ν"}}
    return View(traces, note, {"title": title, "xaxis": axis})


def _badge(empty: bool) -> str:
    colour, text = (ALARM, "bound vacuous") if empty else (COLOURS[2], "bound says something")
    return f'<b style="border:2px solid {colour};border-radius:4px;padding:0 4px">{text}</b>'
