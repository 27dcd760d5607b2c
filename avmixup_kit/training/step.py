"""What one optimiser step computes, from the numbers of its images to the weights (Algorithm 1)."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from avmixup_kit._base import distributed
from avmixup_kit._base.precision import float32_products
from avmixup_kit.data.splits import Split
from avmixup_kit.methods.batch import Batch, Memory, Networks
from avmixup_kit.methods.method import Method
from avmixup_kit.training.settings import Settings
from avmixup_kit.training.updates import Updates


class TrainingDiverged(FloatingPointError):
    """The loss or the weights stopped being finite numbers."""


class Watch:
    """Looks at losses on a device that nobody waits for, each as soon as it has arrived here."""

    def __init__(self, device: torch.device) -> None:
        value = torch.zeros(())
        self.value = value.pin_memory() if device.type == "cuda" else value
        self.arrived: torch.cuda.Event | None = None
        self.about: tuple[int, float, Method] | None = None

    def see(self, loss: Tensor, step: int, lr: float, method: Method) -> None:
        """Check the loss that has arrived, if any, and send for this one."""
        if self.arrived is not None:
            if not self.arrived.query():
                return
            self._look()
        self.value.copy_(loss.detach(), non_blocking=True)
        self.about = step, lr, method
        self.arrived = torch.cuda.Event()
        self.arrived.record()

    def check(self) -> None:
        """Check the last loss that was sent for; waits for it if need be."""
        if self.arrived is not None:
            self.arrived.synchronize()
            self._look()

    def _look(self) -> None:
        assert self.about is not None
        self.arrived = None
        stop_if_diverged(float(self.value), *self.about)


def stop_if_diverged(loss: float, step: int, lr: float, method: Method) -> None:
    """Raise TrainingDiverged unless the loss is a finite number."""
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the loss is {loss} at step {step} with lr = {lr:g} and {method!r}: training "
            "stopped; a smaller lr usually helps"
        )


class Step:
    """One optimiser step as a function; ``Training`` says when, and what with.

    Where ``learning_rates`` are given, and the method's numbers are tensors, nothing in it depends
    on their values: it can be captured, and replayed with others in their places.
    """

    model: nn.Module
    device: torch.device
    split: Split
    rng: Generator
    memory: Memory
    settings: Settings
    updates: Updates
    sync_batch_norm: bool
    teacher: nn.Module | None
    _network: nn.Module
    _updated: nn.Module
    drew = False  # whether a loss drew random numbers that an ``around`` must draw again

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged copy of the model, where there is one."""
        raise NotImplementedError

    def _asked(self, network: nn.Module) -> nn.Module:
        """Return the network as stages see it: with its averaged copy and its teacher."""
        if self.averaged is None and self.teacher is None:
            return network
        return Networks(network, self.averaged, self.teacher)

    def computed(
        self,
        index: Tensor,
        method: Method,
        *,
        progress: float | None = None,
        see: Callable[[Tensor], None] = lambda loss: None,
        learning_rates: Sequence[Tensor] = (),
        capturing: bool = False,
    ) -> Tensor:
        """Return the batch's mean loss, after weights have been updated with its gradient.

        Args:
            index: which training images, (batch_size,), on the device.
            method: what is in force.
            progress: which part of all steps lies before this one.
            see: told the loss before weights are updated.
            learning_rates: one for each group of parameters, 0-dim, in place of the optimiser's.
            capturing: whether a CUDA graph is being captured, which no state may be taken from.
        """
        x, y = self.split.batch(index, self.rng)
        # A pass that is a graph of its own cannot be part of a larger one.
        passes = getattr(self._network, "without_graphs", nullcontext)
        with (
            passes() if learning_rates else nullcontext(),
            distributed.one_batch(len(x)) as rows,
            float32_products(self.device, tf32=self.settings.precision == "tf32"),
        ):
            batch = Batch(x[rows], y[rows], index[rows], self.rng)
            batch.progress, batch.memory = progress, self.memory.begun()
            with self._precision():
                network = self._asked(self._network)
                batch.delta = method.perturb(network, batch)
                with torch.no_grad():
                    batch.x_hat, batch.y_hat = method.mix(network, batch)
            self.model.train()
            drawn = self.rng.get_state() if method.around and not capturing else None
            mean = distributed.mean(self._gradient(method, batch))
            see(mean)
            if method.around:
                self.drew = drawn is not None and not torch.equal(drawn, self.rng.get_state())
                method.around(self.model, batch, partial(self._again, method, batch, drawn))
            self.updates.update(learning_rates)
            self.memory.keep()
            if not self.sync_batch_norm:
                distributed.average_batch_norm(self.model)
        return mean

    def _precision(self) -> torch.autocast:
        bf16 = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _gradient(self, method: Method, batch: Batch) -> Tensor:
        """Return the loss of one's own rows, its gradient taken."""
        with self._precision():
            loss = method.loss(self._asked(self._updated), batch)
        self.updates.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def _again(self, method: Method, batch: Batch, drawn: Any) -> None:
        if drawn is not None:
            self.rng.set_state(drawn)
        self._gradient(method, batch)
