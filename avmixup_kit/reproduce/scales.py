"""How much of the paper's work is done: on digits, on a laptop, in an hour of GPU, or all of it."""

from dataclasses import dataclass
from typing import Any

from avmixup_kit._base import check
from avmixup_kit.evaluation.autoattack import Version, autoattack
from avmixup_kit.methods.method import Method
from avmixup_kit.training.updates import ScheduleName

EPSILON = 8 / 255


@dataclass(frozen=True)
class Scale:
    """How much of the paper's work is done.

    Args:
        name, about: its name, and what its output says of itself.
        digits: everything on scikit-learn's digits rather than on the paper's data sets.
        network: in place of the paper's; None is the paper's.
        steps: optimiser steps of every run; None is the paper's, times ``share``.
        share: of the paper's optimiser steps, one for each data set; 1 where none is given.
        version: of AutoAttack, the column beside the paper's attacks.
        seeds: those trained where no others are asked for.
        images: at most so many test images are evaluated; None is all of them.
        measurements: how often robust accuracy is measured during a run, on ``curve_images``
            training and as many validation images.
        chunk: test images evaluated between two saves.
        tflops: 10^12 operations a second, the rate at which ``about`` counts its hours.
        data_sets: the only ones there are rows of; None is the paper's.
        network_options: of ``network``, in place of the paper's.
        updates: fields of ``Settings`` by name, in place of the paper's, and those below with them.
        schedule, average: as of ``Training``.
        augmentation: pad and flip.
        crafting: how attacks of several steps are shortened: steps, and each over epsilon; batch
            norm is then in eval mode.
        compiled: networks are compiled, in evaluations, too.
        gflops: 10^9 operations a second of one core, at which an estimate counts core-hours.
    """

    name: str
    about: str
    digits: bool = False
    network: str | None = None
    steps: int | None = None
    share: tuple[tuple[str, float], ...] = ()
    version: Version = "quick"
    seeds: tuple[int, ...] = (0,)
    images: int | None = None
    measurements: int = 20
    curve_images: int = 500
    chunk: int = 1000
    tflops: float | None = None
    data_sets: tuple[str, ...] | None = None
    network_options: tuple[tuple[str, Any], ...] = ()
    updates: tuple[tuple[str, Any], ...] = ()
    schedule: ScheduleName = "steps"
    average: float | None = None
    augmentation: tuple[int, bool] | None = None
    crafting: tuple[int, float] | None = None
    compiled: bool = False
    gflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("measurements", "curve_images", "chunk"):
            check.whole(name, getattr(self, name))

    @property
    def autoattack(self) -> str:
        """The heading of the AutoAttack column."""
        return autoattack(version=self.version).name

    @property
    def said(self) -> str:
        """What the heading of a table says of shortened methods."""
        if self.crafting is None:
            return ""
        steps, share = self.crafting
        return f"trained on attacks of {steps} steps of {255 * share * EPSILON:g}/255"

    def shortens(self, method: Method) -> bool:
        """Return whether a method's crafting is shortened; one step stays one step."""
        return self.crafting is not None and getattr(method.perturb, "steps", 1) > 1

    def shortened(self, method: Method) -> Method:
        """Return the method with its crafting shortened, where it is."""
        if self.crafting is None or not self.shortens(method):
            return method
        steps, share = self.crafting
        perturb: Any = method.perturb
        return method.replace(steps=steps, step_size=share * perturb.epsilon, batch_norm="eval")


SMOKE = Scale(
    "smoke",
    "A test of the plumbing on scikit-learn's 8x8 digits (small_cnn, 500 steps, epsilon 0.15): "
    "other images, another network and another epsilon than the paper's, so the two rows of a "
    "pair are no comparison of numbers.",
    digits=True,
    network="small_cnn",
    steps=500,
    seeds=(0, 1, 2, 3, 4),
    curve_images=250,
)
SHORT = Scale(
    "short",
    "A shortening: PreActResNet18 in place of the paper's networks, and on CIFAR10 three eighths "
    "of the paper's steps (an eighth on CIFAR100 and SVHN, a sixteenth on Tiny ImageNet), the "
    "learning rate falling at the same fractions of them; at most 10 000 test images; AutoAttack "
    "quick.",
    network="preact_resnet18",
    share=(("cifar10", 3 / 8), ("cifar100", 1 / 8), ("svhn", 1 / 8), ("tiny_imagenet", 1 / 16)),
    images=10_000,
    tflops=150,
)
LAPTOP = Scale(
    "laptop",
    "A shortening for one core of a laptop, half an hour a network: CIFAR-10 alone, a narrow "
    "PreActResNet18 that halves the image at once, 10 passes over the images with a learning rate "
    "that rises to 0.2 and falls to 0, attacks in training of 2 steps of 5/255 where the paper "
    "takes 10 (Feature Scatter's single step stays as it is); 1 000 test images, 100 of each "
    "class; AutoAttack quick.",
    network="preact_resnet18",
    seeds=(0, 1, 2),
    images=1000,
    measurements=10,
    curve_images=250,
    chunk=500,
    data_sets=("cifar10",),
    # 1.1 million weights: the zoo holds a network of every row in half precision, 2 MB each.
    network_options=(
        ("base_channels", 20),
        ("stem_stride", 2),
        ("normalisation", (0.5, 0.5)),
    ),
    updates=(("steps", 10 * 382), ("batch_size", 128), ("lr", 0.2), ("weight_decay", 5e-4)),
    schedule="cyclic",
    augmentation=(4, True),
    crafting=(2, 5 / 8),
    compiled=True,
    gflops=70,
)
FULL = Scale(
    "full",
    "The paper's setting: its networks, steps, schedule and attacks.",
    version="standard",
)
SCALES = {scale.name: scale for scale in (SMOKE, LAPTOP, SHORT, FULL)}


def scale_named(name: str) -> Scale:
    """Return the scale of this name.

    Raises:
        ValueError: there is no such scale.
    """
    check.one_of("scale", name, SCALES)
    return SCALES[name]
