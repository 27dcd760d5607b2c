"""The optimizer and each step's learning rate, the kit's or one's own, and their names in files."""

import ast
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from avmixup_kit._base import check, plugins
from avmixup_kit.training.settings import Settings

OptimizerName = Literal["sgd", "adam", "adamw"]
Optimizer = OptimizerName | Callable[[list[nn.Parameter]], torch.optim.Optimizer]
ScheduleName = Literal["steps", "cyclic", "cosine"]
Schedule = ScheduleName | Callable[[int], float]

PEAK = 0.4  # of the run: where the learning rate of "cyclic" is highest
PARTIAL = "of the parameters, such as partial(torch.optim.AdamW, lr=0.001)"
SGD_LR = Settings(1).lr


class Updates:
    """What updates the weights: an optimiser, and the learning rate it has at each step.

    Arguments are those of ``Training``; ``given`` are the settings that its caller spelled out.
    ``settings`` are then those in force, with the lr of an optimizer of one's own.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        given: Collection[str],
        optimizer: Optimizer,
        schedule: Schedule,
    ) -> None:
        _check_choice("optimizer", optimizer, get_args(OptimizerName), PARTIAL)
        _check_choice("schedule", schedule, get_args(ScheduleName), "from step to learning rate")
        optimizer, schedule = _settled(optimizer), _settled(schedule)
        self.schedule: Schedule = schedule
        self.texts = {"optimizer": _text(optimizer), "schedule": _text(schedule)}
        self.made_of = {"optimizer": optimizer, "schedule": schedule}
        own_lr = None
        if not callable(optimizer):
            self.optimiser = _named(optimizer, model, settings)
            if optimizer != "sgd":
                sgds = f"it is SGD's, and {optimizer} has none"
                _unused(settings, given, ("momentum", "nesterov"), sgds)
                allowed = f"it is SGD's; {optimizer} needs its own, such as lr = 0.001"
                fine = callable(schedule) or settings.lr != SGD_LR
                check.that(fine, "lr", settings.lr, allowed)
        else:
            self.optimiser = _own(optimizer, model)
            own_lr = float(self.optimiser.param_groups[0]["lr"])
            why = "the optimizer brings its own, as in partial(torch.optim.AdamW, lr=0.001)"
            if settings.lr != own_lr:
                _unused(settings, given, ("lr",), why)
            _unused(settings, given, ("momentum", "nesterov", "weight_decay", "decay_all"), why)
            settings = replace(settings, lr=own_lr)
        if schedule != "steps":
            _unused(settings, given, ("decay_at", "decay_factor"), 'only schedule="steps" has it')
        if callable(schedule):
            if own_lr is None:
                _unused(settings, given, ("lr",), "the schedule gives the learning rate itself")
            for step in (0, settings.steps - 1):
                with _named_in("schedule", schedule):
                    rate(schedule, settings, step)
        self.settings = settings
        self._lrs = [float(group["lr"]) for group in self.optimiser.param_groups]

    def begin(self, step: int) -> float:
        """Set the learning rate of ``step`` in all groups, and return the first group's."""
        for group, lr in zip(self.optimiser.param_groups, self._lrs, strict=True):
            group["lr"] = rate(self.schedule, self.settings, step, lr)
        return self.optimiser.param_groups[0]["lr"]

    def update(self, learning_rates: Sequence[torch.Tensor] = ()) -> None:
        """Update the weights, SGD's from learning rates of the groups that are tensors.

        Only a fused update reads those of CUDA without waiting. What a run folder keeps of the
        groups stays as it is.
        """
        groups = self.optimiser.param_groups if learning_rates else []
        before = [{name: group[name] for name in ("lr", "fused")} for group in groups]
        try:
            for group, lr in zip(groups, learning_rates, strict=True):
                group.update(lr=lr, fused=lr.is_cuda or group["fused"])
            self.optimiser.step()
        finally:
            for group, was in zip(groups, before, strict=True):
                group.update(was)

    def check_saved(self) -> None:
        """Raise ValueError unless a run folder can name optimizer and schedule."""
        for name, value in self.made_of.items():
            if isinstance(value, str):
                continue
            try:
                parts = _parts(value)
                fine = _parts(found(name, self.texts[name], parts[0])) == parts
            except ValueError:
                fine = False
            allowed = (
                "a run folder must find it again: a function or class with a name at the top of a "
                "module, or functools.partial of one with Python numbers, texts and tuples"
            )
            check.that(fine, name, value, allowed)

    def check_loaded(self, groups: list[dict[str, Any]], new_settings: bool) -> None:
        """Raise ValueError where the optimiser has loaded what no run of ours can have saved.

        One's own may change its groups, and keep what it likes of a weight.

        Args:
            groups: its ``param_groups`` before.
            new_settings: whether their numbers may differ.
        """
        if callable(self.made_of["optimizer"]):
            return
        for number, (was, group) in enumerate(
            zip(self.optimiser.param_groups, groups, strict=True)
        ):
            kept = {} if new_settings else {k: v for k, v in group.items() if k in was}
            kept = {k: v for k, v in kept.items() if k not in ("params", "lr")}
            check.same(was, kept, f"the optimiser's saved group {number} is of another run")
            for parameter in was["params"]:
                for name, value in self.optimiser.state.get(parameter, {}).items():
                    fine = value is None or isinstance(value, torch.Tensor)
                    fine = fine and (value is None or value.shape in ((), parameter.shape))
                    check.that(fine, f"the optimiser's {name}", value, "a tensor like its weight's")

    def recalled(self, name: str, text: str) -> Any:
        """Return the optimizer or schedule that another run's folder names.

        Only a name of the kit's, one of torch's optimizers, or what this training has itself: to
        call whatever a file names would be to run its code.

        Raises:
            ValueError: it names something else.
        """
        if text == self.texts[name]:
            return self.made_of[name]
        kind = plugins.found(text.partition("(")[0])
        fine = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        allowed = "a file's word is not called; begin with a training that has it, then load"
        check.that(":" not in text or fine, name, text, allowed)
        return found(name, text)

    def goes_on(self, steps: int, done: int) -> None:
        """Raise ValueError unless the first steps would have been the same in a run of ``steps``.

        Args:
            steps: how many the run was to have.
            done: how many of them it has done.
        """
        was = replace(self.settings, steps=steps)
        for step in range(done):
            old, new = rate(self.schedule, was, step), rate(self.schedule, self.settings, step)
            if old != new:
                raise ValueError(
                    f"steps = {self.settings.steps} is not allowed: the learning rate of step "
                    f"{step} was {old:.6g}, in a run of so many steps it is {new:.6g}; keep "
                    f"steps = {steps}, or train with decay_at in whole numbers of steps or with a "
                    "function as schedule, which do not depend on steps"
                )


def rate(schedule: Schedule, settings: Settings, step: int, lr: float | None = None) -> float:
    """Return the learning rate of ``step``, where ``lr`` (``settings.lr``) is the peak.

    Raises:
        ValueError: a function as schedule gave something else than a number, 0 or more.
    """
    if callable(schedule):
        given: Any = schedule(step)
        allowed = "a learning rate, a number, 0 or more"
        return float(check.number(f"schedule({step})", given, "[0, inf)", allowed))
    lr = settings.lr if lr is None else lr
    if schedule == "steps":
        return lr * settings.decayed_at(step)
    if schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    peak = int(PEAK * settings.steps)
    return lr * float(np.interp(step, [-1, peak, settings.steps], [0, 1, 0]))


def found(name: str, text: str, mine: Any = None) -> Any:
    """Return the optimizer or schedule that a run folder's text names.

    ``mine``: the function or class that the caller holds himself.

    Raises:
        ValueError: it lives in a module that is not imported, or is no such text.
    """
    home, bracket, rest = text.partition("(")
    if ":" not in home:
        return text
    value = plugins.found(home, mine)
    if not callable(value):
        raise ValueError(f"{name} is {home}, which is not there: {plugins.remedy(home)}")
    if not bracket:
        return value
    try:
        call: Any = check.expression(f"f({rest}")
        arguments = map(ast.literal_eval, call.args)
        return partial(
            value, *arguments, **{k.arg: ast.literal_eval(k.value) for k in call.keywords}
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name} = {check.said(text)} is no text of a run folder's") from error


def _settled(value: Any) -> Any:
    """Return it with Python's numbers in place of numpy's and torch's, which a file can hold."""
    if not isinstance(value, partial):
        return check.plain(value) if isinstance(value, str) else value
    named = {key: check.plain(given) for key, given in value.keywords.items()}
    return partial(value.func, *check.plain(value.args), **named)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    function, arguments, named = _parts(value)
    kind = function if hasattr(function, "__qualname__") else type(function)
    text = f"{kind.__module__}:{kind.__qualname__}"
    if isinstance(value, partial):
        words = [*map(repr, arguments), *(f"{key}={given!r}" for key, given in named.items())]
        text += f"({', '.join(words)})"
    return text


def _parts(value: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    return (
        (value.func, value.args, value.keywords) if isinstance(value, partial) else (value, (), {})
    )


def _check_choice(name: str, value: Any, names: Collection[str], function: str) -> None:
    """Raise ValueError unless it is one of the names or a function, which is said what of."""
    said = value if isinstance(value, str) else type(value).__name__
    allowed = f"one of {', '.join(names)}, or a function {function}"
    own = callable(value) and not isinstance(value, nn.Module)
    check.that(own or (isinstance(value, str) and value in names), name, said, allowed)


def _unused(settings: Settings, given: Collection[str], names: Iterable[str], why: str) -> None:
    """Refuse settings that would do nothing, instead of overruling them in silence."""
    for name in names:
        value = getattr(settings, name)
        fine = name not in given and value == getattr(Settings(1), name)
        check.that(fine, name, value, f"leave it out, {why}")


def _named(name: OptimizerName, model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return an optimiser with weight decay on kernels alone, unless ``decay_all``."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = settings.weight_decay
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {
            "params": [p for p in trained if p.ndim <= 1],
            "weight_decay": decay if settings.decay_all else 0.0,
        },
    ]
    if name == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](groups, lr=settings.lr)


@contextmanager
def _named_in(name: str, value: Any) -> Iterator[None]:
    """Say whose function it was that failed."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if str(error).startswith(name):
            raise
        said = f"{type(error).__name__}: {check.cut(str(error))}"
        raise ValueError(
            f"{name} = {check.said(value)} is not allowed: calling it failed ({said})"
        ) from error


def _own(optimizer: Any, model: nn.Module) -> torch.optim.Optimizer:
    with _named_in("optimizer", optimizer):
        made = optimizer([p for p in model.parameters() if p.requires_grad])
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer = {check.said(optimizer)} is not allowed: it returned "
            f"{type(made).__name__}, it must return a torch.optim.Optimizer"
        )
    for group in made.param_groups:
        lr = group.get("lr")
        check.number("lr of the optimizer", lr, "[0, inf)", "a number, which the schedule scales")
    return made
