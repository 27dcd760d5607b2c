"""The score picture: two bells of wᵀx, the attack's push, and the weights that make them."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from avmixup_kit import gaussian
from avmixup_kit._base import html
from avmixup_kit._base.plots import COLOURS, GREY
from avmixup_kit.live.controls import Explorer, Number, View
from avmixup_kit.live.drawing import curve, dressed
from avmixup_kit.live.theory.overfitting import feature_controls, feature_model, preset_values

Axes = tuple[str, str]  # a panel's, as plotly names them

_FRAMES = 80
_TIMES = np.concatenate([[0.0], np.geomspace(0.05, 1000, 400)])
BELL = np.linspace(-4, 4, 241)
_ROWS = {"in the training set": "observed", "in truth": "true"}
_WRONG = COLOURS[1]
_GROUPS = (COLOURS[2], COLOURS[4], COLOURS[5])  # robust, looks robust, weak


def scores(**start: Any) -> Explorer:
    """Return the picture of adversarial training: bells of the score, pushed by the adversary.

    Above is the training set of Example 3, below the truth of Example 2, each the law of wᵀx given
    the class; what the push takes past zero is the robust error, exactly. Bars show the weights.

    Args:
        start: values to open with: frame, 0 to 80, epsilon (the push in the picture), trained_at
            (the radius of training), d, c, eta, sigma_a, sigma_b.
    """
    first = preset_values("S1")
    controls = [
        Number("frame", "training", 0, _FRAMES, 0, whole=True, play=True),
        Number("epsilon", "push ε", 0, 0.6, first["epsilon"], step=0.01),
        *feature_controls(first),
        Number("trained_at", "push in training", 0, 0.6, first["epsilon"], step=0.01),
    ]
    notes = {
        "S1": "one weak feature looks robust",
        "S4": "ten look robust",
        "S5": "push as strong as a weak feature",
        "control": "none looks robust",
    }
    presets = {note: {**preset_values(name), "frame": 0} for name, note in notes.items()}
    for values in presets.values():
        values["trained_at"] = values["epsilon"]
    return Explorer(
        "scores", controls, _blank(), _draw, start, presets, opened=("frame", "epsilon", "d")
    )


def moments(model: gaussian.FeatureModel, epsilon: float) -> go.Figure:
    """Return four moments of that film side by side: start, best, on the way, where it ends.

    Args:
        model: the features.
        epsilon: radius of the attack, in training and in the picture, > 0.
    """
    B = _path(model, epsilon)
    best = model.robust_optimum(epsilon)
    chosen = {"at the start": 0, "the best moment": int(np.abs(B - best).argmin())}
    chosen["training goes on"] = int(np.abs(B - best / 3).argmin())
    chosen["where it ends"] = _FRAMES
    figure = make_subplots(
        3,
        len(chosen),
        row_heights=[0.34, 0.34, 0.32],
        vertical_spacing=0.09,
        horizontal_spacing=0.03,
        column_titles=[html.markup("<b>{}</b>", title) for title in chosen],
    )
    limit = _limit(model, B)
    for column, frame in enumerate(chosen.values(), 1):
        for row, under in enumerate(_ROWS.values(), 1):
            _bells(figure, (row, column), filled=bell(model, B[frame], epsilon, under))
            panel: Any = figure.get_subplot(row, column)
            axes = panel.yaxis.anchor, panel.xaxis.anchor
            for one in panel_words(axes, model, B[frame], epsilon, under):
                figure.add_annotation(one)
            figure.update_xaxes(range=[-limit, limit], tickvals=[0], row=row, col=column)
        figure.add_bar(
            x=["robust", "looks<br>robust", "weak"], y=_shares(model, B[frame]),
            marker_color=_GROUPS, row=3, col=column,
        )  # fmt: skip
        figure.update_yaxes(
            range=[0, 1.05], tickformat=".0%", showticklabels=column == 1, row=3, col=column
        )
        figure.update_xaxes(tickangle=0, row=3, col=column)
    for row, title in enumerate((*_ROWS, "weights"), 1):
        figure.update_yaxes(title=title, row=row, col=1)
    dressed(figure, "", "in the training set", 560)
    figure.update_annotations(font_size=15)
    figure.update_xaxes(zerolinecolor=GREY)
    return figure.update_layout(
        showlegend=False, font_size=14, margin={"l": 80, "r": 10, "t": 40, "b": 50}
    )


def bells(panels: Mapping[str, tuple[float, float, float]]) -> go.Figure:
    """Return score pictures one above the other.

    Args:
        panels: by title, the score's mean and deviation given the class, and what the push takes.
    """
    figure = make_subplots(
        len(panels), 1, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=list(panels)
    )
    for row, law in enumerate(panels.values(), 1):
        _bells(figure, (row, 1), " " * (row - 1), _curves(*law))
        panel: Any = figure.get_subplot(row, 1)
        for one in _words((panel.yaxis.anchor, panel.xaxis.anchor), *law):
            figure.add_annotation(one)
    limit = max(mean + 3 * deviation for mean, deviation, _ in panels.values())
    dressed(figure, "", "", 180 + 130 * len(panels)).update_layout(font_size=13)
    figure.update_xaxes(zerolinecolor=GREY, range=[-limit, limit])
    figure.update_xaxes(title="score wᵀx; below 0 the other class is said", row=len(panels))
    return figure


def _blank() -> go.Figure:
    above, below = _ROWS
    figure = make_subplots(
        2,
        2,
        column_widths=[0.7, 0.3],
        specs=[[{}, {"rowspan": 2}], [{}, None]],
        horizontal_spacing=0.1,
        vertical_spacing=0.12,
        subplot_titles=[above, "where the weight is", below],
    )
    for row, space in ((1, ""), (2, " ")):
        _bells(figure, (row, 1), space)
        figure.update_yaxes(range=[0, 1.5], row=row, col=1)  # room for the words above a bell
    figure.add_bar(name="weight", marker_color=_GROUPS, showlegend=False, row=1, col=2)
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%", row=1, col=2)
    figure.update_xaxes(tickangle=0, row=1, col=2)
    figure.update_xaxes(title="score wᵀx; below 0 the other class is said", row=2, col=1)
    dressed(figure, "", "", 520).update_layout(font_size=13)
    figure.update_xaxes(zerolinecolor=GREY, col=1)
    return figure.update_annotations(font_size=15)


def _bells(
    figure: go.Figure,
    at: tuple[int, int],
    space: str = "",
    filled: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Add one panel's traces; `space` ends their names where the panel is not the first."""
    looks: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
        ("wrong", _WRONG, None, {"fill": "tozeroy", "fillcolor": _WRONG}),
        ("other class, pushed", GREY, None, {}),
        ("before the push", COLOURS[0], "dot", {}),
        ("one class, pushed", COLOURS[0], "solid", {}),
    )
    for name, colour, dash, look in looks:
        look |= {"legendgroup": name, "showlegend": not space, "hoverinfo": "skip"}
        curve(figure, name + space, colour, dash, at, **look, **(filled or {}).get(name, {}))
    row, col = at
    figure.update_yaxes(range=[0, 1.3], showticklabels=False, showgrid=False, row=row, col=col)
    figure.update_xaxes(zeroline=True, zerolinewidth=2, row=row, col=col)


@lru_cache(maxsize=8)
def _path(model: gaussian.FeatureModel, epsilon: float) -> np.ndarray:
    """Return share B (frames + 1,) in training, the frames spread evenly over what changes."""
    path = gaussian.flow(model, epsilon, "logistic", 1.0, _TIMES)
    error = path.robust_error()
    change = np.abs(np.diff(path.B)) + np.abs(np.diff(error)) / max(float(np.ptp(error)), 1e-12)
    travelled = np.concatenate([[0.0], np.cumsum(change)])
    stops = np.linspace(0, travelled[-1], _FRAMES + 1)
    return np.interp(stops, travelled, path.B)


def _limit(model: gaussian.FeatureModel, B: np.ndarray) -> float:
    """Return the largest score worth a place on the axis, at any moment of the film."""
    ends = [model.mean(B, one) + 2.6 * np.sqrt(model.variance(B, one)) for one in _ROWS.values()]
    return float(np.max(ends))


def _shares(model: gaussian.FeatureModel, B: float) -> list[float]:
    sharp = (1 - B) / (1 + model.c)
    return [sharp, model.c * sharp, float(B)]


def bell(
    model: gaussian.FeatureModel, B: float, epsilon: float, under: str
) -> dict[str, dict[str, Any]]:
    """Return the curves of one panel by name. On Definition 4's class the push is ε exactly."""
    return _curves(*_law(model, B, under), epsilon)


def _law(model: gaussian.FeatureModel, B: float, under: str) -> tuple[float, float]:
    """Return mean and deviation of the score given the class."""
    return float(model.mean(B, under)), float(np.sqrt(model.variance(B, under)))


def _curves(mean: float, deviation: float, push: float) -> dict[str, dict[str, Any]]:
    x, height = mean + deviation * BELL, np.exp(-(BELL**2) / 2)
    return {
        "wrong": wrong_part(mean - push, deviation),
        "other class, pushed": {"x": push - x, "y": height},
        "before the push": {"x": x, "y": height},
        "one class, pushed": {"x": x - push, "y": height},
    }


def wrong_part(mean: float, deviation: float) -> dict[str, np.ndarray]:
    """Return the bell's part below 0, closed at 0; nothing where none of it is drawn there."""
    z = np.append(BELL[mean + deviation * BELL < 0], -mean / deviation)
    z = z if z.size > 1 else z[:0]
    return {"x": mean + deviation * z, "y": np.exp(-(z**2) / 2)}


@lru_cache(maxsize=8)
def _titles(blank: Callable[[], go.Figure]) -> str:
    annotations: Any = blank().layout.annotations
    return json.dumps([one.to_plotly_json() for one in annotations])


def titles(blank: Callable[[], go.Figure]) -> list[dict[str, Any]]:
    """Return the annotations that a blank figure has, which those of a view come after."""
    return json.loads(_titles(blank))


def said(axes: Axes, error: float) -> dict[str, Any]:
    """Return the annotation that says how much is wrong, in a panel's upper left corner."""
    x, y = axes
    share = "< 0.1" if error < 1e-3 else f"{100 * error:.1f}"
    return {
        "x": 0.01, "y": 1, "xref": f"{x} domain", "yref": f"{y} domain", "yanchor": "top",
        "xanchor": "left", "align": "left", "showarrow": False, "font": {"size": 16},
        "text": html.markup('<b style="color:{}">{} %</b><br>wrong', _WRONG, share),
    }  # fmt: skip


def panel_words(
    axes: Axes, model: gaussian.FeatureModel, B: float, epsilon: float, under: str
) -> list[dict[str, Any]]:
    """Return a panel's annotations: how much is wrong, and the push as an arrow."""
    return _words(axes, *_law(model, B, under), epsilon)


def _words(axes: Axes, mean: float, deviation: float, push: float) -> list[dict[str, Any]]:
    x, y = axes
    arrow = {
        "x": mean - push, "ax": mean, "y": 1.1, "ay": 1.1, "xref": x, "axref": x, "yref": y,
        "ayref": y, "text": "", "arrowcolor": _WRONG, "arrowwidth": 2, "arrowhead": 2,
        "showarrow": bool(push > 0),
    }  # fmt: skip
    return [said(axes, float(gaussian.error_at((mean - push) / deviation))), arrow]


def _draw(frame: int, epsilon: float, trained_at: float, **features: Any) -> View:
    model = feature_model(**features)
    path = _path(model, trained_at)
    B, annotations = float(path[frame]), titles(_blank)
    traces: dict[str, dict[str, Any]] = {}
    for axes, space, under in ((("x", "y"), "", "observed"), (("x3", "y3"), " ", "true")):
        bells = bell(model, B, epsilon, under)
        traces |= {name + space: bell for name, bell in bells.items()}
        annotations += panel_words(axes, model, B, epsilon, under)
    looking = html.markup("looks<br>robust<br>({})", model.c)
    weak = html.markup("weak<br>({})", model.d - model.c)
    names = ["robust", looking, weak]
    traces["weight"] = {"x": names, "y": _shares(model, B)}
    limit = _limit(model, path)
    axis = {"range": [-limit, limit]}
    layout = {"annotations": annotations, "xaxis": axis, "xaxis3": axis}
    return View(traces, _story(model, path, frame, epsilon), layout)


def _story(model: gaussian.FeatureModel, path: np.ndarray, frame: int, epsilon: float) -> str:
    """Return what the frame shows, in words."""
    B, best = path[frame], model.robust_optimum(epsilon)
    errors = {under: float(model.robust_error(B, epsilon, under)) for under in _ROWS.values()}
    sharp = (1 - B) / (1 + model.c)
    if frame == 0:
        words = (
            f"At the start all {model.d + 1} weights are alike. One weak feature says little, but "
            "the noise of many averages out, so their bell is narrow. The push moves every score "
            "by as much as all weights together weigh, which is 1 here."
        )
    elif best == 0:
        words = (
            "The push is at least as strong as what a weak feature says (ε ≥ η): weak features "
            "deserve no weight, and training is right to take it from them."
        )
    elif best < B:
        words = (
            "Training takes weight from the weak features, whose score hardly outweighs the push, "
            "and both pictures get better."
        )
    elif model.c == 0:
        words = "No feature only looks robust, so what is better above is better below."
    else:
        words = (
            f"Too far. The features that look robust hold {model.c * sharp:.0%}: above, the bells "
            "part and stay narrow; below, these features are weak and noisy, each for itself, and "
            "the bell is wide."
        )
    return (
        f"{words} Weight on the weak features B = {B:.2f} (best in truth: {best:.2f}); pushed past "
        f"zero: {errors['observed']:.1%} of the training set, {errors['true']:.1%} in truth."
    )
