r"""Adversarial feature overfitting in real networks: how far features scatter within a class.

The toy models (``gaussian``) measure the variance of w·x given the class, in units of its mean:
a classifier errs by Φ(-mean / standard deviation), and robust generalisation asks for a small
variance (Theorem 1). The deep counterparts here, over images i of a set with classes y_i:

    features   Σ_i |φ(x_i) - μ(y_i)|² / (N - K)  over  the same spread of the class means, clean
    margin     Σ_i (m(x_i) - m̄(y_i))² / (N - K)  over  the squared mean margin, clean

φ is what the last linear layer sees, m = z_y - max_{j≠y} z_j, μ and m̄ are the set's own class
means, clean or attacked; both units come from the clean training images, one for all four cells,
so the cells can be compared with each other and networks with networks. A network that overfits
to adversarial features keeps the variance under attack small on training images while it grows
on held-out ones: what matters is the gap between the two, and how it moves along training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avmixup_kit._base import check, plots
from avmixup_kit._base.tables import text_table
from avmixup_kit.data import Data
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.methods.attacks import Attack, frozen, pgd
from avmixup_kit.methods.losses import margin

if TYPE_CHECKING:
    import plotly.graph_objects as go


QUANTITIES = ("features", "margin")
SETS = ("train", "held-out")
SIGHTS = ("clean", "attacked")


@dataclass(frozen=True)
class Scatter:
    """Variances within classes, ``values[quantity, set, sight]``, in the units of this module.

    ``counts`` says how many images of each set were measured.
    """

    values: Mapping[tuple[str, str, str], float]
    counts: Mapping[str, int]

    def gap(self, quantity: str = "features", sight: str = "attacked") -> float:
        """Return how many times as large the variance is on held-out images as on training ones."""
        held_out, train = (self.values[quantity, name, sight] for name in ("held-out", "train"))
        return held_out / (train or float("nan"))

    def curves(self) -> dict[str, float]:
        """Return the values under flat names, "features, train, clean", for a run folder's log."""
        return {", ".join(key): value for key, value in self.values.items()}

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("variance within classes", *SETS, "held-out / train")]
        for quantity, sight in product(QUANTITIES, SIGHTS):
            row = (f"{self.values[quantity, name, sight]:.4f}" for name in SETS)
            rows.append((f"{quantity}, {sight}", *row, f"{self.gap(quantity, sight):.2f}"))
        rows.append(("images", *(str(self.counts[name]) for name in SETS), ""))
        return text_table(rows)


def scatter(
    model: nn.Module,
    train: ImageSet,
    held_out: ImageSet,
    attack: Attack | None = None,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> Scatter:
    """Return the variance of features and margin within classes, clean and under attack.

    Args:
        model: any network whose last linear layer gives the logits; left as it was found.
        train, held_out: images it was trained on, and others of the same classes.
        attack: PGD10 at 8/255 where left out; its last iterate is measured.

    Raises:
        ValueError: a set with fewer than two images in a class, or a model without linear layer.
    """
    attack = pgd(steps=10) if attack is None else attack
    cells: dict[tuple[str, str, str], Tensor] = {}
    labels: dict[str, Tensor] = {}
    for name, images in zip(SETS, (train, held_out), strict=True):
        labels[name] = images.labels.cpu()
        if not _pairs(images):
            raise ValueError(
                f"{name} images are too few: a variance within classes needs two of each class; "
                "split.sample(n) draws each class in proportion"
            )
        parts = torch.arange(len(images)).split(batch_size)
        found = [_read(model, images, part, attack, seed) for part in parts]
        for quantity, sight in product(QUANTITIES, SIGHTS):
            cells[quantity, name, sight] = torch.cat([part[quantity, sight] for part in found])
    units = {
        "features": _between(cells["features", "train", "clean"], labels["train"]),
        "margin": float(cells["margin", "train", "clean"].mean()) ** 2,
    }
    values = {
        # A network that has collapsed to one answer has no unit: every ratio is nan.
        (quantity, name, sight): _within(cells[quantity, name, sight], labels[name])
        / (units[quantity] or float("nan"))
        for quantity, name, sight in product(QUANTITIES, SETS, SIGHTS)
    }
    return Scatter(values, {name: len(labels[name]) for name in SETS})


def rivals(
    model: nn.Module,
    images: ImageSet,
    attack: Attack | None = None,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """Return how many rivals share cross-entropy's gradient where an attack ends, (N,), >= 1.

    That gradient is the mean over the wrong classes j of z_j - z_y, weighted with q_j, the part of
    what is not the true class's that the network gives j: 1 / sum of q_j^2 of them share it. Where
    they are many it points to none of them, and attacks that climb it miss what a margin finds.

    Args:
        attack: PGD20 at 8/255 where left out; its last iterate is looked at.
    """
    attack = pgd(steps=20) if attack is None else attack
    shared = []
    for part in torch.arange(len(images)).split(batch_size):
        x, y = batch_on(model, images, part)
        x_hat = x + craft(attack, model, images, part, seed)
        with frozen(model), torch.no_grad():
            q = model(x_hat).double().masked_fill(y > 0.5, float("-inf")).softmax(1)
        shared.append(1 / q.square().sum(1).cpu())
    return torch.cat(shared)


def measurable(model: nn.Module, train: ImageSet, held_out: ImageSet) -> bool:
    """Return whether ``scatter`` can measure this model on these images."""
    return bool(_linear(model)) and _pairs(train) and _pairs(held_out)


def _pairs(images: ImageSet) -> bool:
    """Return whether there are two images or more of each class that occurs."""
    return len(images) > 0 and int(images.labels.unique(return_counts=True)[1].min()) >= 2


def _read(
    model: nn.Module, images: ImageSet, part: Tensor, attack: Attack, seed: int
) -> dict[tuple[str, str], Tensor]:
    """Return features (B, F) and margins (B, 1) of images, clean and attacked, in float64."""
    layers = _linear(model)
    if not layers:
        raise ValueError("the model has no linear layer, so no penultimate features")
    x, y = batch_on(model, images, part)
    x_hat = x + craft(attack, model, images, part, seed)
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach())
    )
    found = {}
    try:
        for sight, shown in zip(SIGHTS, (x, x_hat), strict=True):
            with frozen(model), torch.no_grad():
                margins = margin(model(shown), y)
            found["features", sight] = seen[-1].flatten(1).double().cpu()
            found["margin", sight] = margins.double().unsqueeze(1).cpu()
    finally:
        handle.remove()
    return found


def _linear(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _means(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the classes that occur, each image's place among them, and their means."""
    classes, place = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), values.shape[1], dtype=values.dtype)
    sums.index_add_(0, place, values)
    return classes, place, sums / torch.bincount(place).unsqueeze(1)


def _within(values: Tensor, labels: Tensor) -> float:
    classes, place, means = _means(values, labels)
    return float((values - means[place]).square().sum() / (len(values) - len(classes)))


def _between(values: Tensor, labels: Tensor) -> float:
    classes, _, means = _means(values, labels)
    return float((means - means.mean(0)).square().sum() / (len(classes) - 1))


def curves(
    data: Data, attack: Attack | None = None, *, count: int = 250
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a measure of a network for ``runs.log(curves=...)``: the eight variances.

    ``count`` images of training and of validation are looked at, never test images.
    """
    attack = pgd(steps=10, epsilon=data.epsilon) if attack is None else attack
    train, held_out = (
        split.subset(min(count, len(split))) for split in (data.train, data.validation)
    )
    return lambda network: scatter(network, train, held_out, attack).curves()


def figure(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    quantity: str = "features",
    *,
    best: int | None = None,
) -> "go.Figure":
    """Return the variance within classes along training: colour for the set, dash for the sight.

    Args:
        curves: as ``runs.curves_of`` returns them, by names such as "features, train, clean".
        quantity: "features" or "margin".
        best: the step of the checkpoint chosen on validation images, drawn as a vertical line
            beside the last.
    """
    check.one_of("quantity", quantity, QUANTITIES)
    drawn = plots.graph_objects().Figure()
    colours, dashes = dict(zip(SETS, plots.COLOURS, strict=False)), ("dot", "solid")
    for name, (sight, dash) in product(SETS, zip(SIGHTS, dashes, strict=True)):
        steps, values = curves[f"{quantity}, {name}, {sight}"]
        drawn.add_scatter(
            x=list(steps),
            y=list(values),
            name=f"{name}, {sight}",
            mode="lines",
            line={"color": colours[name], "dash": dash},
        )
    if best is not None:
        drawn.add_vline(x=best, line={"color": plots.GREY, "dash": "dash"}, annotation_text="best")
    return plots.styled(
        drawn,
        f"Variance of {quantity} within classes",
        "optimiser step",
        "variance, in units of the clean training images",
    )
