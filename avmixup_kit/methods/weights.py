"""What is done with the weights around the update."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from avmixup_kit._base import check
from avmixup_kit.methods.batch import Batch, untracked

# Keeps a gradient of zero from being divided by; no real one is as short.
SHORT = 1e-20


@dataclass(frozen=True)
class AWP:
    """Adversarial weight perturbation (Wu, Xia, Wang 2020): the gradient of weights moved to harm.

    Each tensor of weights w is moved by rho |w| along its gradient, the gradient is taken there,
    and the update is made with it from where the weights were. Biases and batch norm stay, as in
    the authors' code, and the second pass moves no running averages. ``rho`` is 0.01 there around
    PGD training and 0.005 around TRADES.

    ``since``: which part of all steps is done before it begins; the authors' code waits for some
    epochs.

    Raises:
        ValueError: a negative rho, a since outside [0, 1].
    """

    rho: float = 0.005
    since: float = 0.0

    def __post_init__(self) -> None:
        check.that(0 <= self.rho < float("inf"), "rho", self.rho, "a finite number, 0 or more")
        check.that(0 <= self.since <= 1, "since", self.since, "a part of all steps, from 0 to 1")

    @property
    def asks(self) -> tuple[str, ...]:
        """How far the training is, if it does not begin at once."""
        return ("progress",) if self.since else ()

    def __call__(self, model: nn.Module, batch: Batch, again: Callable[[], None]) -> None:
        if self.since and batch.need("progress") < self.since:
            return
        moved: list[tuple[nn.Parameter, torch.Tensor]] = []
        try:
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.ndim > 1 and weight.grad is not None:
                        moved.append((weight, weight.detach().clone()))
                        length = weight.grad.norm().clamp_min(SHORT)
                        weight += weight.grad * (self.rho * weight.norm() / length)
            with untracked(model):
                again()
        finally:
            with torch.no_grad():
                for weight, before in moved:
                    weight.copy_(before)
