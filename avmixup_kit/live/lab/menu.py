"""The methods a reader can choose, and sliders of AVmixup's numbers; all from the registry."""

from avmixup_kit import methods
from avmixup_kit.live.controls import Number
from avmixup_kit.methods import METHODS
from avmixup_kit.methods.method import Method

FAR = 4.0


def mixing_numbers(epsilon: float, least: float) -> list[Number]:
    """Return sliders of gamma, lambda1 and lambda2, and one of epsilon from ``least`` on."""
    return [
        Number("gamma", "γ (vertex)", 1, FAR, 2, step=0.05),
        Number("lambda1", "λ₁ (clean side)", 0, 1, 1, step=0.01),
        Number("lambda2", "λ₂ (vertex side)", 0, 1, 0.1, step=0.01),
        Number("epsilon", "ε (of pixels 0..1)", least, 2 * epsilon, epsilon, epsilon / 50),
    ]


def titles() -> dict[str, str]:
    """Return the registered names by title; those that need an argument cannot be chosen."""
    return {
        entry.title: name
        for name, entry in METHODS.entries.items()
        if all(setting.default is not setting.empty for setting in entry.settings.values())
    }


def title(method: Method, otherwise: str) -> str:
    """Return what the reader sees of a method, ``otherwise`` of one of the user's own."""
    name = methods.name_of(method)
    return METHODS.entries[name].title if name else otherwise


def _takes_steps(name: str) -> bool:
    """Return whether the method's attack has a number of steps that is worth choosing."""
    steps = METHODS.entries[name].settings.get("steps")
    return steps is not None and steps.default > 1


def named(name: str, epsilon: float, steps: int) -> Method:
    """Return the method of that name at an epsilon, with attacks of so many steps."""
    given = {"steps": steps} if _takes_steps(name) else {}
    return methods.at_epsilon(name, epsilon, **given)


def steps_of(*candidates: Method) -> int:
    """Return the attack's steps of the first method that has them, 10 where none has."""
    for method in candidates:
        name = methods.name_of(method)
        if name and _takes_steps(name):
            return method.parameters["steps"]
    return 10
