"""What a method asks of its training, and a training of its arguments, told before it starts."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from avmixup_kit._base import check
from avmixup_kit.data.splits import Source, Split
from avmixup_kit.methods.attacks import Attack
from avmixup_kit.methods.batch import check_network
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.named import METHODS
from avmixup_kit.training.settings import Settings


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


def check_arguments(model: Any, method: Any, changes: dict[str, Any], given: Source) -> None:
    """Raise TypeError where ``Training`` was given what it cannot train with."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model = {check.said(model)} is not allowed: a network, an nn.Module")
    trained = any(parameter.requires_grad for parameter in model.parameters())
    check.that(trained, "model", model, "it has no weights that can be trained")
    allowed, said = "", check.said(method)
    if isinstance(method, Attack):
        allowed, said = "an attack is a stage of a method, such as av.pgd_training()", method.name
    elif method in METHODS.values() or isinstance(method, type):
        allowed, said = f"call it: {method.__name__}()", method.__name__
    elif not isinstance(method, Method) and not callable(method):
        allowed = "a method, such as av.avmixup(), a Dial, or a function from step to method"
    if allowed:
        raise TypeError(f"method = {said} is not allowed: {allowed}")
    known = [setting.name for setting in fields(Settings)]
    for name, value in changes.items():
        if name == "epochs":
            split, size = Split.of(given), changes.get("batch_size", Settings(1).batch_size)
            raise TypeError(
                f"epochs = {check.said(value)} is not allowed: training counts steps; an epoch of "
                f"{split.name} in batches of {size} is {len(split) // size} of them"
            )
        if name not in known:
            allowed = f"Training has no such setting; there are {', '.join(known)}"
            raise TypeError(f"{name} = {check.said(value)} is not allowed: {allowed}")
