"""The record one training step works on, and the networks its stages may ask."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from avmixup_kit._base import check, distributed
from avmixup_kit._base.private import AnyBatchNorm
from avmixup_kit._base.shapes import Images, Labels, Logits, PerExample, Scalar

BatchNorm = Literal["eval", "batch", "train"]
# Where a stage belongs, by what its call is annotated to return.
PLACES = (
    (Images, "perturb"),
    (tuple[Images, Labels], "mix"),
    (Scalar, "loss"),
    (None, "around"),
    (PerExample, "an attack's objective"),
)


def check_place(name: str, stage: Any, place: str) -> None:
    """Raise ValueError where a stage's annotations say that it belongs in another place."""
    try:
        returned = inspect.signature(stage).return_annotation
    except (TypeError, ValueError):
        return
    places = [where for kind, where in PLACES if returned is kind or returned == kind]
    fine = not places or place in places
    check.that(fine, name, stage, f"by what it returns it is {' or '.join(places)}")


class Memory:
    """What stages keep of each training image from step to step: rows of tables, by name.

    A row that was never kept is zero. What a step notes is kept once its update is done, and only
    what it notes first, so that a step that fails, or looks twice, changes nothing.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.kept: dict[str, Tensor] = {}
        self._noted: dict[str, tuple[Tensor, Tensor]] = {}

    def rows(self, name: str, index: Tensor, like: Tensor) -> Tensor:
        """Return the rows of the images numbered ``index`` (N,), shaped like ``like`` (N, ...)."""
        kept = self.kept.get(name)
        return torch.zeros_like(like) if kept is None else kept[index].to(like)

    def note(self, name: str, index: Tensor, rows: Tensor) -> None:
        """Let ``rows`` (N, ...) be those of the images numbered ``index`` after this step."""
        self._noted.setdefault(name, (index, rows.detach()))

    def begun(self) -> "Memory":
        """Return this memory; what a step that failed has noted is forgotten."""
        self._noted.clear()
        return self

    def keep(self) -> None:
        """Keep what the step has noted, on all processes."""
        for name, (index, rows) in self._noted.items():
            if name not in self.kept:
                self.kept[name] = rows.new_zeros(self.images, *rows.shape[1:])
            self.kept[name][distributed.gathered(index)] = distributed.gathered(rows)
        self._noted.clear()


@dataclass(eq=False)
class Batch:
    """What a step knows of its images; stages fill it as they go (Algorithm 1).

    Args:
        x: clean images (N, C, H, W) in [0, 1].
        y: labels as probabilities (N, K).
        index: which training images these are, (N,).
        rng: where stages draw from, on the device of x; only a stage that draws nothing can do
            without.
        delta: the perturbation (N, C, H, W), line 3.
        x_hat, y_hat: what is trained on, (N, C, H, W) and (N, K), lines 5 to 7.
        progress: which part of all steps lies before this one, from 0 up to 1.
        memory: what stages keep of each image between steps.
        asked: what a stage leaves to later ones, by name.

    Raises:
        ValueError: labels that are no (N, K).
    """

    x: Images
    y: Labels
    index: Tensor | None = None
    rng: Generator | None = None
    delta: Images | None = None
    x_hat: Images | None = None
    y_hat: Labels | None = None
    progress: float | None = None
    memory: Memory | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fine = self.y.ndim == 2 and len(self.y) == len(self.x)
        allowed = f"probabilities ({len(self.x)}, K), such as labels.one_hot(y, num_classes)"
        check.that(fine, "shape of y", tuple(self.y.shape), allowed)

    def need(self, name: str) -> Any:
        """Return delta, x_hat, y_hat, index, progress or memory.

        Raises:
            ValueError: no stage has filled it yet.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"batch.{name} is missing: the stage before fills it, or Batch(...)")
        return value

    def drawn_from(self) -> Generator:
        """Return ``rng``.

        Raises:
            ValueError: there is none.
        """
        if self.rng is None:
            raise ValueError("batch.rng is missing: this stage draws random numbers, pass rng")
        return self.rng

    def between(self, first: float, last: float) -> float:
        """Return what a setting is now that goes from ``first`` to ``last`` by half a cosine.

        Raises:
            ValueError: nothing says how far the training is.
        """
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * self.need("progress")))


class Networks(nn.Module):
    """The network in training, which calls go to, with its averaged copy and a fixed teacher.

    Any ``nn.Module`` will do as the model of a stage that asks for neither.
    """

    averaged: nn.Module | None
    teacher: nn.Module | None

    def __init__(
        self,
        network: nn.Module,
        averaged: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        # No submodules: what freezes or trains the network leaves them alone.
        self.__dict__.update(averaged=averaged, teacher=teacher)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def averaged(model: nn.Module) -> nn.Module:
    """Return the averaged copy of the network in training.

    Raises:
        ValueError: there is none.
    """
    return _asked(model, "averaged", "train with average=0.995, or Networks(network, averaged=...)")


def teacher(model: nn.Module) -> nn.Module:
    """Return the fixed teacher.

    Raises:
        ValueError: there is none.
    """
    return _asked(model, "teacher", "train with teacher=network, or Networks(network, teacher=...)")


def _asked(model: nn.Module, name: str, remedy: str) -> nn.Module:
    found = getattr(model, name, None)
    if found is None:
        raise ValueError(f"this method asks for model.{name}, which is not there: {remedy}")
    return found


# ------------------------------------------------------------------------ networks that are asked


@contextmanager
def frozen(model: nn.Module, batch_norm: BatchNorm = "eval") -> Iterator[None]:
    """Hold a model still while an attack looks at it, and leave it as it was found.

    Parameters take no gradient. Batch norm works in one of three modes: ``"eval"`` (running
    statistics), ``"batch"`` (the batch's own, running averages untouched: the authors' code),
    ``"train"`` (the batch's own, running averages updated, as in two public ports).
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    parameters = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        model.train(batch_norm != "eval")
        with untracked(model, batch_norm == "batch"):
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def untracked(model: nn.Module, really: bool = True) -> Iterator[None]:
    """Leave batch norm's running averages untouched by passes in training mode."""
    norms = [m for m in model.modules() if isinstance(m, AnyBatchNorm) and m.track_running_stats]
    norms = norms if really else []
    try:
        for module in norms:
            module.track_running_stats = False
        yield
    finally:
        for module in norms:
            module.track_running_stats = True


def answer(network: nn.Module, x: Images) -> Logits:
    """Return what a network that is asked, not trained, says of images: logits (N, K)."""
    with torch.no_grad(), frozen(network):
        return network(x)


def check_network(name: str, value: Any) -> None:
    """Raise ValueError unless it is a network."""
    allowed = "a network; a run folder's is runs.open(folder).model"
    check.that(isinstance(value, nn.Module), name, value, allowed)
