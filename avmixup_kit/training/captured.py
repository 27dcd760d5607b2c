"""Whole steps as one CUDA graph: captured once, replayed with other numbers in the same places."""

import copy
import math
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avmixup_kit._base import check, distributed
from avmixup_kit.methods.method import Method
from avmixup_kit.training.step import Step

# Numbers that a turn writes into the graph; whatever else is turned has a new one captured. In
# double precision their sums and quotients are those of Python; but for factors of a loss, which
# is 0-dim as well and would become a double.
NUMBERS = dict.fromkeys(
    ("epsilon", "step_size", "gamma", "lambda1", "lambda2", "lam"), torch.float64
) | {"beta": torch.float32}
# Steps before a capture: they compile passes, choose kernels and make the momentum.
WARM_UP = 3


def renumbered(value: Any, put: Callable[[str, float], Any]) -> Any:
    """Return a method or stage with ``put(name, number)`` for each of its numbers in NUMBERS."""
    if isinstance(value, tuple):
        return tuple(renumbered(each, put) for each in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    new = copy.copy(value)
    for field in fields(value):
        held = getattr(value, field.name)
        number = field.name in NUMBERS and check.is_number(held)
        # Not through its checks, which would look at a tensor.
        held = put(field.name, held) if number else renumbered(held, put)
        object.__setattr__(new, field.name, held)
    return new


def obstacle(method: Method, optimizer: str) -> str | None:
    """Return why steps of a method cannot be captured, None where they can."""
    if distributed.world() > 1:
        return "several processes train as one"
    if optimizer != "sgd":
        return f"the update is {optimizer}'s, and only 'sgd' is captured"
    if "progress" in method.asks:
        return f"{method.asks['progress']} asks how much of the training is done"
    for part in _parts((method.perturb, method.mix, method.loss, method.around)):
        kind = part if isinstance(part, type) else type(part)
        name = getattr(part, "__name__", kind.__name__)
        says = getattr(kind, "captured", kind.__module__.startswith("avmixup_kit.") or None)
        if says is None:
            return f"{name} may look at numbers; captured = True in its class says it does not"
        if not says:
            return f"what {name} does next turns on a number"
    return None


def _parts(value: Any) -> Iterator[Any]:
    """Yield whatever is called of a method, networks apart."""
    if isinstance(value, tuple):
        for each in value:
            yield from _parts(each)
    elif callable(value) and not isinstance(value, nn.Module):
        yield value
        for field in fields(value) if is_dataclass(value) else ():
            yield from _parts(getattr(value, field.name))


class Captured:
    """Steps of a training, each one CUDA graph's replay.

    The graph reads images' numbers, the method's NUMBERS and learning rates from tensors of its
    own, which a step fills where they differ. Another kind of method, other images, weights newly
    frozen or an optimiser's state that was loaded have a new graph captured after WARM_UP steps.
    On a CPU the same function runs on the same tensors, without a graph.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.index = torch.empty(0, dtype=torch.int64, device=step.device)
        self.numbers: list[Tensor] = []
        self.told: set[str] = set()
        self._stream: torch.cuda.Stream | None = None
        self._fixed: tuple[Any, ...] = ()
        self._held: tuple[Any, ...] = ()

    def __call__(
        self, index: Tensor, method: Method, see: Callable[[Tensor], None]
    ) -> Tensor | None:
        """Return the mean loss of the step on images ``index`` (N,), weights updated.

        None, with nothing done, where such a step is not captured, which is said once for each
        reason; or where there are fewer images than usual.
        """
        given: list[float] = []
        kind = renumbered(method, lambda name, number: given.append(number) or ...)
        given += [group["lr"] for group in self.step.updates.optimiser.param_groups]
        fixed, held = self._surroundings(kind)
        same = fixed == self._fixed and all(map(operator.is_, held, self._held))
        if not same or len(index) > len(self.index):
            self._fixed, self._held = fixed, held
            self._begin(method, len(index))
        if self._refused or len(index) < len(self.index):
            return None
        self.index.copy_(index)
        for tensor, number, was in zip(self.numbers, given, self._given, strict=True):
            if number != was:
                tensor.fill_(number)
        self._given = given
        if self.graph is None and self._warm == WARM_UP:
            self._capture()
            if self._refused:
                return None
        if self.graph is not None:
            self.step.model.train()
            self.graph.replay()
        else:
            self._warm += self.index.is_cuda
            with self._aside():
                self._loss = self._computed()
        see(self._loss)
        return self._loss.clone()

    def _surroundings(self, kind: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what a graph holds fixed: what must be equal, and what must be the same."""
        step, optimiser = self.step, self.step.updates.optimiser
        moving = "params", "lr"
        groups = [{k: v for k, v in g.items() if k not in moving} for g in optimiser.param_groups]
        weights = [(weight.data_ptr(), weight.requires_grad) for weight in step.model.parameters()]
        return (kind, groups, weights), (step.split, step.rng, optimiser.state)

    def _begin(self, method: Method, size: int) -> None:
        """Forget the graph, and make the tensors of the next one."""
        device, self.graph, self._warm = self.step.device, None, 0
        self.index = torch.empty(size, dtype=torch.int64, device=device)
        self.numbers, groups = [], self.step.updates.optimiser.param_groups

        def number(name: str, _: float) -> Tensor:
            self.numbers.append(torch.empty((), dtype=NUMBERS[name], device=device))
            return self.numbers[-1]

        self._method = renumbered(method, number)
        # A fused update takes no double on CUDA.
        self._rates = [torch.empty((), device=device) for _ in groups]
        self.numbers += self._rates
        self._given = [math.nan] * len(self.numbers)
        self._refuse(obstacle(method, self.step.updates.texts["optimizer"]))

    def _refuse(self, reason: str | None) -> None:
        self._refused = reason is not None
        if reason is not None and reason not in self.told:
            self.told.add(reason)
            words = f"no CUDA graph of a whole step, training goes on without: {reason}"
            warnings.warn(words, RuntimeWarning, stacklevel=2)

    def _computed(self, *, capturing: bool = False) -> Tensor:
        return self.step.computed(
            self.index, self._method, learning_rates=self._rates, capturing=capturing
        )

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Work on the stream that will be captured, in order with what is before and after."""
        if not self.index.is_cuda:
            yield
            return
        self._stream, here = self._stream or torch.cuda.Stream(), torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        here.wait_stream(self._stream)

    def _capture(self) -> None:
        """Capture one step, of which nothing happens yet."""
        if self.step.drew:
            self._refuse("its loss draws random numbers, which moved weights must see again")
            return
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.step.rng)
        try:
            # Other threads, such as a dashboard's, may use the device meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._loss = self._computed(capturing=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refuse(f"capturing failed ({check.cut(str(error))})")
        else:
            self.graph = graph
