"""What a method asks of its training, told when the training starts or the dial is turned."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from avmixup_kit._base import check
from avmixup_kit.methods.batch import check_network
from avmixup_kit.methods.method import Method


@dataclass(frozen=True)
class Has:
    """What a training has for its methods to ask; called with one, it refuses what is missing.

    Args:
        average: how much of the averaged copy stays at each step; None: there is no copy.
        teacher: the fixed teacher, if there is one.

    Raises:
        ValueError: when called, the method asks for more.
    """

    average: float | None
    teacher: nn.Module | None

    def __call__(self, method: Method) -> None:
        asks, wish = method.asks, method.average
        allowed = (
            f"{asks.get('averaged')} asks the averaged copy of the weights, which is kept from the "
            "first step on: Training(..., average=0.995), in the shell --average 0.995"
        )
        check.that("averaged" not in asks or self.average is not None, "average", None, allowed)
        allowed = (
            f"this training's averaged copy keeps {self.average} at each step, from the first on; "
            "say so in both places, or only in the method, such as adr(average=0.99)"
        )
        check.that(wish in (None, self.average), "average", wish, allowed)
        allowed = (
            f"{asks.get('teacher')} asks a fixed teacher: Training(..., teacher=network), in the "
            "shell --teacher RUN"
        )
        check.that("teacher" not in asks or self.teacher is not None, "teacher", None, allowed)


def check_teacher(teacher: Any, model: nn.Module) -> None:
    """Raise ValueError unless it is a network, and another one than is trained."""
    check_network("teacher", teacher)
    allowed = "it is the network in training, and would not stay fixed; pass a copy"
    check.that(teacher is not model, "teacher", type(teacher).__name__, allowed)


def check_steps(methods: Iterable[Any], steps: int, was: int) -> None:
    """Raise ValueError where what methods did in a run of ``was`` steps depends on their number."""
    for method in methods:
        who = method.asks.get("progress") if isinstance(method, Method) else None
        allowed = f"{who} moves with the part of all steps that is done; keep steps = {was}"
        check.that(who is None, "steps", steps, allowed)
