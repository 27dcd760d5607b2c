"""A training method as its stages, and its text that gives it back.

    perturb(model, batch) -> delta             Algorithm 1, line 3
    mix(model, batch)     -> (x_hat, y_hat)    lines 5 to 7
    loss(model, batch)    -> scalar            line 9
    around(model, batch, again)                the update: weights moved while the gradient is taken

Any attack, any mix and any loss make a method: ``Method(pgd(steps=10), AVmixup(2.0, 1.0, 0.1))`` is
the paper's. A stage is a frozen dataclass, of the kit or of one's own.
"""

import ast
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

from torch import nn

from avmixup_kit._base import check, plugins
from avmixup_kit._base.shapes import Images
from avmixup_kit._base.texts import NetworkAbsentError, network_of, text, text_of
from avmixup_kit.methods import asked, attacks, losses, mixing, sources, weights
from avmixup_kit.methods.attacks import NoAttack
from avmixup_kit.methods.batch import Batch, check_place
from avmixup_kit.methods.losses import CrossEntropy, Loss
from avmixup_kit.methods.mixing import Adversarial, Mix


@runtime_checkable
class Perturb(Protocol):
    """Any perturbation source: the model and a batch in, delta (N, C, H, W) out."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> Images: ...


@runtime_checkable
class Around(Protocol):
    """What may follow the gradient: ``again()`` takes it anew, at the weights as they are then."""

    def __call__(self, model: nn.Module, batch: Batch, again: Callable[[], None], /) -> None: ...


_STAGES = ("perturb", "mix", "loss", "around")


@dataclass(frozen=True)
class Method:
    """A training method as its stages; each is public and can be called by itself.

    ``repr`` is the code that rebuilds it (``parse`` reads it back without evaluating code).
    """

    perturb: Perturb = NoAttack()  # noqa: RUF009 (frozen, no state)
    mix: Mix = Adversarial()  # noqa: RUF009
    loss: Loss = CrossEntropy()  # noqa: RUF009
    around: Around | None = None

    def __repr__(self) -> str:
        return text_of(self, "around")

    @property
    def asks(self) -> dict[str, str]:
        """What the stages ask of the training, and which stage does.

        "averaged": the averaged copy; "teacher": the fixed teacher; "progress": how far it is.
        """
        return {what: type(stage).__name__ for stage in _all(self) for what in _asks(stage)}

    @property
    def average(self) -> float | None:
        """How much of the averaged copy stays at each step, where a stage that asks it says so."""
        for stage in _all(self):
            if "averaged" in _asks(stage) and hasattr(stage, "average"):
                return stage.average
        return None

    def __post_init__(self) -> None:
        for name in _STAGES:
            stage = getattr(self, name)
            if stage is None and name == "around":
                continue
            fine = callable(stage) and not isinstance(stage, type)
            check.that(fine, name, stage, "a stage, which is called with (model, batch)")
            check_place(name, stage, name)
            object.__setattr__(self, name, plain(stage))

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting of the stages by name; these are what ``replace`` accepts.

        A stage wrapped by another lends it the settings that the wrapper itself does not have.
        """
        found: dict[str, Any] = {}
        for name in _STAGES:
            for key, value in _settings(getattr(self, name)):
                found.setdefault(key, value)
        return found

    def replace(self, **changes: Any) -> "Method":
        """Return a copy with settings or whole stages changed: ``replace(gamma=3.0)``.

        A setting belongs to the first stage that has it, and there to every stage that it wraps.

        Raises:
            ValueError: a name that no stage has, or a value that its stage refuses.
        """
        new = {name: changes.pop(name) for name in _STAGES if name in changes}
        for name in _STAGES:
            stage = new.get(name, getattr(self, name))
            mine = changes.keys() & {key for key, _ in _settings(stage)}
            if mine:
                new[name] = _turned(stage, {key: changes.pop(key) for key in mine})
        if changes:
            allowed = ", ".join([*_STAGES, *self.parameters])
            unknown = ", ".join(f"{key} = {check.said(value)}" for key, value in changes.items())
            raise ValueError(f"{unknown} is not allowed: this method has {allowed}")
        return dataclasses.replace(self, **new)


def plain(value: Any) -> Any:
    """Return a setting or a stage with numbers of numpy and torch (0-d) as Python's."""
    if type(value) is tuple:
        each = tuple(map(plain, value))
        return each if any(new is not old for new, old in zip(each, value, strict=True)) else value
    if not _is_stage(value):
        return check.plain(value)
    old = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    new = {name: plain(held) for name, held in old.items()}
    differ = {name: held for name, held in new.items() if held is not old[name]}
    return dataclasses.replace(value, **differ) if differ else value


def _is_stage(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _inner(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _all(value: Any) -> Iterator[Any]:
    """Yield a stage and those it wraps."""
    for each in _inner(value):
        if _is_stage(each):
            yield each
            for held in dataclasses.fields(each):
                yield from _all(getattr(each, held.name))


def _asks(stage: Any) -> Collection[str]:
    return () if isinstance(stage, Method) else getattr(stage, "asks", ())


def _settings(stage: Any) -> Iterator[tuple[str, Any]]:
    """Yield a stage's settings by name, then those of the stages it wraps."""
    if not _is_stage(stage):
        return
    own = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    yield from own.items()
    for value in own.values():
        for wrapped in _inner(value):
            yield from _settings(wrapped)


def _turned(stage: Any, changes: Mapping[str, Any]) -> Any:
    """Return the stage with settings changed, in it and in what it wraps."""
    if isinstance(stage, tuple):
        return tuple(_turned(each, changes) for each in stage)
    if not _is_stage(stage):
        return stage
    old = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    new = {k: changes[k] if k in changes else _turned(v, changes) for k, v in old.items()}
    differ = {key: value for key, value in new.items() if value is not old[key]}
    return dataclasses.replace(stage, **differ) if differ else stage


# ------------------------------------------------------------------------- from text and back


@cache
def _vocabulary() -> dict[str, Any]:
    return {
        name: value
        for module in (asked, attacks, losses, mixing, sources, weights)
        for name, value in vars(module).items()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and name[0] != "_"
    } | {"Method": Method}


def own_stages(value: Any) -> dict[str, str]:
    """Return where a method's stages of one's own live: {name in its repr: module:qualname}.

    It is kept beside the repr; ``parse`` asks for it.
    """
    found: dict[str, str] = {}
    for each in _inner(value):
        if _is_stage(each):
            kind = type(each)
            if _vocabulary().get(kind.__qualname__) is not kind:
                found[kind.__qualname__] = f"{kind.__module__}:{kind.__qualname__}"
            for field in dataclasses.fields(each):
                found |= own_stages(getattr(each, field.name))
    return found


def networks_of(value: Any, name: str = "") -> dict[str, nn.Module]:
    """Return the networks that a method's stages hold, by where: {"perturb.source": network}."""
    if isinstance(value, nn.Module):
        return {name: value}
    found: dict[str, nn.Module] = {}
    if isinstance(value, tuple):
        for number, each in enumerate(value):
            found |= networks_of(each, f"{name}[{number}]")
    elif _is_stage(value):
        for field in dataclasses.fields(value):
            place = f"{name}.{field.name}".lstrip(".")
            found |= networks_of(getattr(value, field.name), place)
    return found


def check_saved(name: str, value: Any, networks: Iterable[nn.Module] = ()) -> None:
    """Raise ValueError unless the value's repr, and where its stages live, give the value back.

    ``networks``: those that it may hold, as ``parse``'s.
    """
    try:
        fine = parse(text(value), own_stages(value), networks) == value
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(
            f"{name} = {check.said(value)} is not allowed: it cannot be saved and found again; a "
            "stage is a frozen dataclass at the top of a module, its settings are Python numbers, "
            "texts, tuples, stages, and as source a network that the Dial was given (without a "
            "Dial, a Method may hold anything that can be called)"
        )


def parse(
    code: str, stages: Mapping[str, str] | None = None, networks: Iterable[nn.Module] = ()
) -> Any:
    """Return the method, stage or plain value that a repr describes, without evaluating code.

    Args:
        code: the text, as ``repr`` gives it.
        stages: where stages of one's own live, as ``own_stages`` said. Their modules must be
            imported already: what a file names is never run.
        networks: those that the text may name, by the checksums of their weights.

    Raises:
        ValueError: the text names something that is no part of a method, a module that is not
            imported, or a network that is none of these.
    """
    known = _vocabulary() | {"Network": partial(network_of, networks=tuple(networks))}
    known |= {name: _found(name, home) for name, home in (stages or {}).items()}

    def build_node(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func)
            if name in known and all(k.arg for k in node.keywords):
                return known[name](
                    *map(build_node, node.args),
                    **{str(k.arg): build_node(k.value) for k in node.keywords},
                )
        elif isinstance(node, ast.Tuple):
            return tuple(map(build_node, node.elts))
        else:
            return ast.literal_eval(node)
        raise ValueError

    try:
        return build_node(check.expression(code))
    except NetworkAbsentError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        reason = f" ({check.cut(str(error))})" if str(error) else ""
        raise ValueError(f"{check.said(code)} does not describe a method{reason}") from error


def _found(name: str, home: str) -> type:
    value = plugins.found(home) if isinstance(home, str) else None
    if not (isinstance(value, type) and dataclasses.is_dataclass(value)):
        raise ValueError(f"{name} is {home}, which is not there: {plugins.remedy(str(home))}")
    return value
