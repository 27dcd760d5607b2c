"""Soft labels as a picture: the label asked for on the way to the vertex, and the line it gives."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base.plots import COLOURS, GREY, METHOD_COLOURS
from avmixup_kit.live.controls import Explorer, Number, View
from avmixup_kit.live.drawing import BEST, curve, dressed, marks
from avmixup_kit.live.theory.overfitting import feature_controls, feature_model, preset_values
from avmixup_kit.live.theory.scores import bell, panel_words, titles
from avmixup_kit.live.theory.soft_labels import end

_TOP = 4.5  # logits in view: labels from 1 % to 99 %
_PARTS = np.linspace(0, 1, 201)
_LABELS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)


def label_line(**start: Any) -> Explorer:
    """Return the picture of AVmixup's labels: the line they ask for, and what it makes of truth.

    Left, along the segment from the image to its vertex, the logit of the label that is asked for
    and the mean logit of the classifier that learns it, which falls by the push ε times the
    weights' size for each push. Where it crosses 0 decides which features keep weight. Right, that
    classifier's scores in truth, pushed once, beside those that hard labels end with.

    Args:
        start: values to open with: gamma, lambda2, lambda1, epsilon, d, c, eta, sigma_a, sigma_b.
    """
    first = preset_values("S1")
    controls = [
        Number("gamma", "vertex γ", 0.25, 4, 2.0, step=0.05),
        Number("lambda2", "vertex label λ₂", 0, 0.95, 0.5, step=0.01),
        Number("epsilon", "push ε", 0.01, 0.6, first["epsilon"], step=0.01),
        Number("lambda1", "clean label λ₁", 0.51, 1, 1.0, step=0.01),
        *feature_controls(first),
    ]
    opened = ("gamma", "lambda2", "epsilon")
    return Explorer("label_line", controls, _blank(), _draw, start, opened=opened)


def _blank() -> go.Figure:
    figure = make_subplots(
        2,
        2,
        column_widths=[0.52, 0.48],
        specs=[[{"rowspan": 2}, {}], [None, {}]],
        horizontal_spacing=0.12,
        vertical_spacing=0.16,
        subplot_titles=[
            "from the image to its vertex",
            "AVmixup, in truth",
            "hard labels, in truth",
        ],
    )
    curve(figure, "label asked for", METHOD_COLOURS["avmixup"], "dash", (1, 1), 3)
    curve(figure, "what is learned (mean)", COLOURS[0], None, (1, 1), 3)
    curve(figure, "its noise, ±1 deviation", COLOURS[0], None, (1, 1), 0, fill="toself")
    figure.update_traces({"fillcolor": "rgba(0,114,178,0.15)"}, {"fill": "toself"})
    marks(figure, "the crossing", *BEST, (1, 1))
    for row, space in ((1, ""), (2, " ")):
        for name, colour, dash in (("before the push", GREY, "dot"), ("pushed", COLOURS[0], None)):
            curve(figure, name + space, colour, dash, (row, 2), showlegend=not space)
        curve(figure, "wrong" + space, COLOURS[1], None, (row, 2), fill="tozeroy", showlegend=False)
        figure.update_traces({"fillcolor": COLOURS[1]}, {"name": "wrong" + space})
        figure.update_xaxes(zeroline=True, zerolinewidth=2, row=row, col=2)
    dressed(
        figure, "pushes (0 the image, 1 the adversarial example)", "label as the classifier says it"
    )
    figure.update_xaxes(zerolinecolor=GREY, col=2)
    figure.update_yaxes(range=[0, 1.3], showticklabels=False, showgrid=False, col=2)
    figure.update_yaxes(
        range=[-_TOP, _TOP],
        tickvals=[float(np.log(one / (1 - one))) for one in _LABELS],
        ticktext=[f"{one:.0%}" for one in _LABELS],
        zerolinecolor=GREY,
        zerolinewidth=2,
        row=1,
        col=1,
    )
    figure.update_xaxes(title="score wᵀx, in truth", row=2, col=2)
    return figure.update_layout(font_size=13, height=520)


def _draw(gamma: float, lambda2: float, epsilon: float, lambda1: float, **features: Any) -> View:
    model, method = feature_model(**features), gaussian.AVmixup(gamma, lambda1, lambda2)
    soft, hard = end(model, epsilon, method, None), end(model, epsilon, "logistic", None)
    pushes = gamma * _PARTS
    label = lambda1 - (lambda1 - lambda2) * _PARTS
    with np.errstate(divide="ignore"):
        asked = np.log(label) - np.log1p(-label)
    seen = np.abs(asked) <= _TOP + 1
    mean = float(model.mean(soft.B, "observed"))
    noise = float(np.sqrt(model.variance(soft.B, "observed")))
    learned = soft.norm * (mean - epsilon * pushes)
    band = soft.norm * noise
    crossing = mean / epsilon
    traces: dict[str, dict[str, Any]] = {
        "label asked for": {"x": pushes[seen], "y": asked[seen]},
        "what is learned (mean)": {"x": pushes, "y": learned},
        "its noise, ±1 deviation": {
            "x": np.concatenate([pushes, pushes[::-1]]),
            "y": np.concatenate([learned - band, (learned + band)[::-1]]),
        },
        "the crossing": {"x": [crossing], "y": [0.0]},
    }
    annotations = titles(_blank)
    for axes, space, B in ((("x2", "y2"), "", soft.B), (("x3", "y3"), " ", hard.B)):
        found = bell(model, B, epsilon, "true")
        traces["wrong" + space] = found["wrong"]
        traces["before the push" + space] = found["before the push"]
        traces["pushed" + space] = found["one class, pushed"]
        annotations += panel_words(axes, model, B, epsilon, "true")
    shares = soft.B, hard.B
    limit = max(
        float(model.mean(B, one) + 2.6 * np.sqrt(model.variance(B, one)))
        for B in (*shares, 0.0)
        for one in ("true", "observed")
    )
    axis = {"range": [-limit, limit]}
    far = {"range": [-0.1, 1.05 * max(gamma, min(crossing, 2 * gamma))]}
    layout = {"annotations": annotations, "xaxis": far, "xaxis2": axis, "xaxis3": axis}
    return View(traces, _story(model, epsilon, crossing, soft.B, hard.B), layout)


def _story(
    model: gaussian.FeatureModel, epsilon: float, crossing: float, soft: float, hard: float
) -> str:
    ours, theirs = (float(model.robust_error(B, epsilon)) for B in (soft, hard))
    if ours < 0.99 * theirs:
        verdict = "so the soft label helps here"
    elif ours > 1.01 * theirs:
        verdict = "so the soft label harms here"
    else:
        verdict = "so the soft label changes nothing here"
    return (
        f"The learned line crosses 50 % after {crossing:.2f} pushes, so the training set's mean "
        f"score is {crossing:.2f} ε = {crossing * epsilon:.2f}. A mean that low needs weak "
        f"features: B = {soft:.2f}. Hard labels ask for a line as steep as can be and end at "
        f"B = {hard:.2f}; best in truth is {model.robust_optimum(epsilon):.2f}. Pushed past zero "
        f"in truth: {ours:.1%} against {theirs:.1%}, {verdict}."
    )
