"""The adversarial-vertex explorer: Figure 1, Definitions 5 and 6, on images of a trained network.

The image, its adversarial example, the vertex and the mixed image; the label the network is asked
for and what it says; the plane through the image with its decision regions; the label along the
vertex line.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Generator, Tensor, nn

from avmixup_kit._base import html
from avmixup_kit._base.plots import COLOURS, GREY, METHOD_COLOURS, label, styled
from avmixup_kit.data import Data, Split
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.live.controls import Explorer, Number, View
from avmixup_kit.live.drawing import curve, marks
from avmixup_kit.live.lab.menu import FAR, SETTINGS, mixing_numbers
from avmixup_kit.methods import attacks
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.mixing import AVmixup

_SIDES = np.linspace(-2, 2, 41)
_LINE = np.linspace(0, FAR, 41)
_PLANE = np.linspace(-0.5, FAR, 46)
_REGIONS = ("#88B8DA", "#F0B58A", "#8FD1B9", "#E6C3D8", "#F4D48B", "#B5DDF4", "#D9D9D9", "#F5EE9E")
_REGIONS += ("#C9B79C", "#B8A9D9")
_BARS = 10
_ASKED = METHOD_COLOURS["avmixup"]
_ALONG = (2, 9)  # the panel of the label along the vertex line
_SYMBOLS = ["circle", "square", "triangle-right", "diamond"]


class Scene:
    """A network and images, and what it takes the attack to know of them; results are kept.

    Args:
        model: from images in [0, 1] to logits; left as it is.
        split: the images to look at.
        count: how many images the mean along the line is taken over, at most.
    """

    def __init__(self, model: nn.Module, split: Split, count: int = 64) -> None:
        self.model, self.split = model, split
        self.many = range(min(count, len(split)))
        self.delta = lru_cache(64)(lambda index, epsilon: self._crafted([index], epsilon))
        self.plane = lru_cache(64)(self._plane)
        self.mean_line = lru_cache(16)(self._mean_line)

    def image(self, index: int) -> tuple[Tensor, Tensor]:
        """Return x (1, C, H, W) and its one-hot label (1, K)."""
        return self.split.batch([index])

    def probabilities(self, x: Tensor) -> Tensor:
        """Return softmax outputs (N, K) in eval mode, on CPU."""
        device = next(self.model.parameters()).device
        with torch.no_grad(), attacks.frozen(self.model):
            return torch.cat([self.model(x.to(device)).softmax(1).cpu() for x in x.split(512)])

    def _crafted(self, indices: Sequence[int], epsilon: float) -> Tensor:
        """Return PGD10's perturbations (N, C, H, W) of images."""
        attack = attacks.pgd(steps=10, epsilon=epsilon)
        return craft(attack, self.model, self.split, torch.tensor(indices)).to(self.split.device)

    def sideways(self, index: int, epsilon: float) -> Tensor:
        """Return a random sign direction orthogonal to delta and of its length, (1, C, H, W)."""
        delta = self.delta(index, epsilon)
        noise = torch.randn(delta.shape, generator=Generator().manual_seed(index)).to(delta)
        side = noise.sign()
        side = side - (side * delta).sum() / (delta * delta).sum() * delta
        return side * (delta.norm() / side.norm())

    def _plane(self, index: int, epsilon: float) -> np.ndarray:
        """Return the predicted class at x + t delta + s side: int (s, t)."""
        x, _ = self.image(index)
        delta, side = self.delta(index, epsilon), self.sideways(index, epsilon)
        t = torch.as_tensor(_PLANE, dtype=x.dtype, device=x.device)
        s = torch.as_tensor(_SIDES, dtype=x.dtype, device=x.device)
        grid = x + t.reshape(1, -1, 1, 1, 1) * delta + s.reshape(-1, 1, 1, 1, 1) * side
        said = self.probabilities(grid.reshape(-1, *x.shape[1:])).argmax(1)
        return said.reshape(len(s), len(t)).numpy()

    def line(self, x: Tensor, y: Tensor, delta: Tensor) -> np.ndarray:
        """Return the true class's mean probability at x + t delta for t on the vertex line."""
        t = torch.as_tensor(_LINE, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1, 1)
        share = self.probabilities((x + t * delta).reshape(-1, *x.shape[1:]))
        share = share.reshape(len(_LINE), len(x), -1)
        return (share * y.cpu()).sum(2).mean(1).double().numpy()

    def _mean_line(self, epsilon: float) -> np.ndarray:
        return self.line(*self.split.batch(self.many), self._crafted(self.many, epsilon))


def vertex(model: nn.Module, data: Data, **start: Any) -> Explorer:
    """Return the explorer of the adversarial vertex, on test images.

    Args:
        model: a trained network for these images; left as it is.
        data: its data set.
        start: values to open with: index, gamma, lambda1, lambda2, alpha, epsilon.
    """
    scene = Scene(model, data.test)
    *mixing, radius = mixing_numbers(data.epsilon, least=data.epsilon / 10)
    controls = [
        Number("index", "test image", 0, len(data.test) - 1, 0, whole=True),
        *mixing,
        Number("alpha", "α (mixing)", 0, 1, 0.4, step=0.01),
        radius,
    ]
    presets = {
        name: {"gamma": gamma, "lambda1": lambda1, "lambda2": lambda2}
        for name, (gamma, lambda1, lambda2) in SETTINGS.items()
    }

    def draw(
        index: int, gamma: float, lambda1: float, lambda2: float, alpha: float, epsilon: float
    ) -> View:
        return _draw(scene, index, AVmixup(gamma, lambda1, lambda2, alpha=alpha), epsilon)

    return Explorer("vertex", controls, _blank(), draw, start, presets)


_IMAGES = ("clean x", "adversarial x + δ", "vertex x + γδ", "mixed x̂")


def _blank() -> go.Figure:
    titles = (
        *_IMAGES,
        "label of x̂",
        "the plane of δ and a random direction",
        "true class's share at x + tδ",
    )
    figure = make_subplots(
        2,
        12,
        specs=[
            [{"colspan": 3}, None, None] * 4,
            [{"colspan": 3}, *[None] * 2, {"colspan": 5}, *[None] * 4, {"colspan": 4}, *[None] * 3],
        ],
        subplot_titles=titles,
        horizontal_spacing=0.045,
        vertical_spacing=0.13,
        row_heights=[0.4, 0.6],
    )
    for column, name in enumerate(_IMAGES):
        figure.add_image(
            name=name, z=np.zeros((2, 2, 3), np.uint8), hoverinfo="skip", row=1, col=3 * column + 1
        )
    figure.update_xaxes(visible=False, row=1)
    figure.update_yaxes(visible=False, row=1)
    for name, colour in (("asked of the network", _ASKED), ("said by the network", COLOURS[0])):
        figure.add_bar(name=name, marker_color=colour, row=2, col=1)
    figure.add_heatmap(
        name="predicted class", showscale=False, x=_PLANE, y=_SIDES, row=2, col=4, opacity=0.75
    )
    figure.add_scatter(
        name="class names",
        mode="text",
        textfont={"color": "#333333", "size": 15},
        showlegend=False,
        hoverinfo="skip",
        row=2,
        col=4,
    )
    curve(
        figure,
        "the vertex line",
        "black",
        at=(2, 4),
        width=2,
        mode="lines+markers+text",
        marker={"color": "black", "size": [9, 9, 9, 13], "symbol": _SYMBOLS},
        textposition="top center",
        textfont={"color": "black", "size": 13},
        showlegend=False,
    )
    curve(figure, "said, this image", COLOURS[0], "solid", _ALONG)
    curve(figure, "said, mean of many", COLOURS[5], "longdash", _ALONG)
    curve(figure, "asked by your γ, λ", _ASKED, "solid", _ALONG, 4)  # seen under a preset's
    for (name, (gamma, *shares)), dash in zip(
        SETTINGS.items(), ("dot", "dashdot", "dash"), strict=True
    ):
        ends: dict[str, Any] = {"x": np.array([0, gamma]), "y": np.array(shares)}
        curve(figure, f"asked: {name}", GREY, dash, _ALONG, 1.5, **ends)
    marks(figure, "x̂", _ASKED, 12, "diamond", _ALONG, showlegend=False)
    styled(figure, "", "", "")
    figure.update_layout(
        height=640,
        margin={"l": 40, "r": 10, "t": 40, "b": 40},
        legend={"orientation": "h", "y": -0.12},
        bargap=0.15,
    )
    figure.update_xaxes(title="class", type="category", row=2, col=1)
    figure.update_yaxes(title="probability", range=[0, 1.02], row=2, col=1)
    figure.update_xaxes(title="t, in units of δ", range=[-0.55, FAR + 0.05], row=2, col=4)
    figure.update_yaxes(range=[-2.05, 2.05], row=2, col=4)
    figure.update_xaxes(title="t = (1 − α)γ", range=[0, FAR], row=2, col=9)
    figure.update_yaxes(range=[-0.02, 1.02], row=2, col=9)
    figure.update_annotations(font_size=13)
    return figure


def _draw(scene: Scene, index: int, mix: AVmixup, epsilon: float) -> View:
    index = int(index)
    x, y = scene.image(index)
    delta = scene.delta(index, epsilon)
    rng = Generator(device=x.device)
    x_hat, y_hat = mix(scene.model, Batch(x, y, rng=rng, delta=delta))
    outer = mix.vertex(x, delta)
    assert mix.alpha is not None
    t = (1 - mix.alpha) * mix.gamma
    classes, true = scene.split.classes, int(y.argmax())
    labels = tuple(map(label, classes))
    said = scene.probabilities(torch.cat([x, x + delta, outer, x_hat]))
    shown = worth_a_bar(said[3], true)
    region = scene.plane(index, epsilon)
    traces: dict[str, dict[str, Any]] = {
        name: {"z": _pixels(image)}
        for name, image in zip(_IMAGES, (x, x + delta, outer, x_hat), strict=True)
    }
    names = [labels[k] for k in shown]
    traces |= {
        "asked of the network": {"x": names, "y": y_hat[0].cpu()[shown].double().numpy()},
        "said by the network": {"x": names, "y": said[3][shown].double().numpy()},
        "predicted class": _regions(region, labels),
        "class names": _names(region, labels),
        "the vertex line": {
            "x": np.array([0, 1, mix.gamma, t]),
            "y": np.zeros(4),
            "text": ["x", "x + δ", "vertex", ""],
        },
        "said, this image": {"x": _LINE, "y": scene.line(x, y, delta)},
        "said, mean of many": {"x": _LINE, "y": scene.mean_line(epsilon)},
        "asked by your γ, λ": {
            "x": np.array([0, mix.gamma]),
            "y": np.array([mix.lambda1, mix.lambda2]),
        },
        "x̂": {"x": np.array([t]), "y": np.array([mix.label_at(t)])},
    }
    return View(traces, _note(mix, t, classes, true, said, outer))


def _note(
    mix: AVmixup, t: float, classes: tuple[str, ...], true: int, said: Tensor, outer: Tensor
) -> str:
    calls = [classes[int(k)] for k in said.argmax(1)]
    outside = float(((outer < 0) | (outer > 1)).float().mean())
    where = "inside" if t <= 1 else "outside"
    names = "A true {}: the network calls x a {}, x + δ a {}, the vertex a {}. "
    words = html.markup(names, classes[true], *calls[:3])
    words += (
        f"x̂ lies at t = {t:.3g}, {where} the ε ball; it is trained with "
        f"{mix.label_at(t):.3g} on the true class. {outside:.0%} of the vertex's pixels are not "
        "valid ones: Equation (12) does not clip it."
    )
    if mix.lambda1 < mix.lambda2:
        words += (
            " λ₁ < λ₂ is legal: the label rises along the attack's direction, as in the paper's "
            "settings with Feature Scatter."
        )
    return str(words)


def _pixels(image: Tensor) -> np.ndarray:
    """Return uint8 (H, W, 3) of an image (1, C, H, W), clipped for display."""
    array = image[0].detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    return array.expand(3, *array.shape[1:]).permute(1, 2, 0).contiguous().numpy()


def worth_a_bar(share: Tensor, true: int) -> list[int]:
    """Return the classes worth a bar: all of a few, else the true one and the likeliest."""
    if len(share) <= _BARS:
        return list(range(len(share)))
    likeliest = [int(k) for k in share.argsort(descending=True) if int(k) != true]
    return [true, *likeliest[: _BARS - 1]]


def _regions(region: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    count = len(classes)
    steps = [(edge / count, k) for k in range(count) for edge in (k, k + 1)]
    return {
        "z": region,
        "zmin": -0.5,
        "zmax": count - 0.5,
        "colorscale": [[edge, _REGIONS[k % len(_REGIONS)]] for edge, k in steps],
        "text": np.array(classes, dtype=object)[region],
        "hovertemplate": "predicted %{text}<extra></extra>",
    }


def _names(region: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return where to write each region's class: at one of its points nearest to its middle."""
    x, y, text = [], [], []
    for k in np.unique(region):
        rows, columns = np.nonzero(region == k)
        if len(rows) < 0.03 * region.size:
            continue
        distance = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
        # The vertex line and its own words take the middle.
        distance = distance + 1e3 * (np.abs(_SIDES[rows]) < 0.45)
        best = int(distance.argmin())
        x.append(_PLANE[columns[best]])
        y.append(_SIDES[rows[best]])
        text.append(classes[int(k)])
    return {"x": np.array(x), "y": np.array(y), "text": text}
