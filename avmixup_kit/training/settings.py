"""How weights are updated: SGD's numbers and the learning rate's schedule."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from avmixup_kit._base import check

Precision = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True)
class Settings:
    """How weights are updated; the defaults are the paper's for CIFAR (Section 5.1).

    Args:
        steps: optimiser steps in all.
        batch_size: images a step, over all processes.
        lr, momentum, nesterov: SGD's. The paper uses 0.1 (SVHN 0.01) and momentum 0.9.
        weight_decay: L2 factor on convolution and dense kernels; ``decay_all`` extends it to
            biases and batch norm, as Feature Scatter's and TRADES' code do.
        decay_at: when the learning rate is multiplied by ``decay_factor``: after fractions of
            ``steps``, or, above 1, after whole numbers of steps.
        seed: of data order, augmentation, attack starts and mixing weights.
        precision: ``"float32"``, which on CUDA excludes TF32; ``"tf32"``: products of float32 with
            TF32's 10 bits, on CUDA devices that have it; ``"bf16"``: autocast, on hardware that has
            it. Weights and their updates are float32 in each.
    """

    steps: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    decay_all: bool = False
    decay_at: tuple[float, ...] = (0.5, 0.75)
    decay_factor: float = 0.1
    seed: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.decay_at, list):
            object.__setattr__(self, "decay_at", tuple(self.decay_at))
        check.settle(self)
        for name in ("steps", "batch_size"):
            check.whole(name, getattr(self, name))
        check.whole("seed", self.seed, 0, most=2**64 - 1)
        check.number("lr", self.lr, "(0, inf)", "a positive number")
        check.number("momentum", self.momentum, "[0, 1)", "from 0 up to 1")
        check.number("weight_decay", self.weight_decay, "[0, inf)", "0 or more")
        fine = isinstance(self.decay_at, tuple) and all(map(check.is_number, self.decay_at))
        fine = fine and all(0 < at <= 1 or (at > 1 and at == int(at)) for at in self.decay_at)
        allowed = "fractions of the run, in (0, 1], or whole numbers of steps above 1"
        check.that(fine, "decay_at", self.decay_at, allowed)
        check.number("decay_factor", self.decay_factor, "(0, 1]", "in (0, 1]")
        check.flag("nesterov", self.nesterov)
        check.flag("decay_all", self.decay_all)
        check.one_of("precision", self.precision, get_args(Precision))

    def lr_at(self, step: int) -> float:
        """Return the learning rate of ``step`` (0 is the first) by the schedule "steps"."""
        return self.lr * self.decayed_at(step)

    def decayed_at(self, step: int) -> float:
        """Return which share of ``lr`` the schedule "steps" leaves at ``step``."""
        times = [at * self.steps if at <= 1 else at for at in self.decay_at]
        return self.decay_factor ** sum(step >= time for time in times)

    def as_json(self) -> dict[str, Any]:
        """Return the settings by name as JSON has them: lists for tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
