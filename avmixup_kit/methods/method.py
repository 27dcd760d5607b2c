"""A training method as three stages, and its text that gives it back.

    perturb(model, x, y, rng)      -> delta            Algorithm 1, line 3
    mix(x, delta, y, rng)          -> (x_hat, y_hat)   Algorithm 1, lines 5 to 7
    loss(model, x, x_hat, y_hat)   -> scalar           Algorithm 1, line 9

x is (N, C, H, W) in [0, 1], y (N, K), rng a ``torch.Generator`` on their device. Any attack, any
mix and any loss make a method; ``Method(pgd(10), AVmixup(2.0, 1.0, 0.1))`` is the paper's.
"""

import ast
import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

from torch import Generator, nn

from avmixup_kit._base.shapes import Images, Labels
from avmixup_kit.methods import attacks, losses, mixing, sources
from avmixup_kit.methods.attacks import NoAttack
from avmixup_kit.methods.losses import CrossEntropy, Loss
from avmixup_kit.methods.mixing import Adversarial, Mix


@runtime_checkable
class Perturb(Protocol):
    """Any perturbation source: images, labels and a generator in, delta (N, C, H, W) out."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, rng: Generator) -> Images: ...


_STAGES = ("perturb", "mix", "loss")


@dataclass(frozen=True)
class Method:
    """A training method as its three stages; each is public and can be called by itself.

    ``repr`` is the code that rebuilds it (``parse`` reads it back without evaluating code).
    """

    perturb: Perturb = NoAttack()  # noqa: RUF009 (frozen, no state)
    mix: Mix = Adversarial()  # noqa: RUF009
    loss: Loss = CrossEntropy()  # noqa: RUF009

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting of the three stages by name; these are what ``replace`` accepts."""
        return {
            field.name: getattr(stage, field.name)
            for stage in (getattr(self, name) for name in _STAGES)
            if dataclasses.is_dataclass(stage)
            for field in dataclasses.fields(stage)
        }

    def replace(self, **changes: Any) -> "Method":
        """Return a copy with settings or whole stages changed: ``replace(gamma=3.0)``.

        Raises:
            ValueError: a name that no stage has, or a value that its stage refuses.
        """
        new = {name: changes.pop(name) for name in _STAGES if name in changes}
        for name in _STAGES:
            stage = new.get(name, getattr(self, name))
            if not dataclasses.is_dataclass(stage) or isinstance(stage, type):
                continue
            mine = {f.name for f in dataclasses.fields(stage)} & changes.keys()
            if mine:
                new[name] = dataclasses.replace(stage, **{key: changes.pop(key) for key in mine})
        if changes:
            allowed = ", ".join([*_STAGES, *self.parameters])
            unknown = ", ".join(f"{key} = {value!r}" for key, value in changes.items())
            raise ValueError(f"{unknown} is not allowed: this method has {allowed}")
        return dataclasses.replace(self, **new)


@cache
def _vocabulary() -> dict[str, type]:
    return {
        name: value
        for module in (attacks, losses, mixing, sources)
        for name, value in vars(module).items()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    } | {"Method": Method}


def parse(text: str) -> Any:
    """Return the method, stage or plain value that a repr describes, without evaluating code.

    Raises:
        ValueError: the text names something that is no part of a method.
    """

    def build_node(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in _vocabulary() and all(k.arg for k in node.keywords):
                return _vocabulary()[node.func.id](
                    *map(build_node, node.args),
                    **{str(k.arg): build_node(k.value) for k in node.keywords},
                )
        elif isinstance(node, ast.Tuple):
            return tuple(map(build_node, node.elts))
        else:
            return ast.literal_eval(node)
        raise ValueError

    try:
        return build_node(ast.parse(text, mode="eval").body)
    except (ValueError, TypeError, SyntaxError) as error:
        reason = f" ({error})" if str(error) else ""
        raise ValueError(f"{text!r} does not describe a method{reason}") from error
