"""The methods a reader can choose: their titles, and how one is made; all from the registry."""

from avmixup_kit import methods
from avmixup_kit.methods import METHODS
from avmixup_kit.methods.method import Method


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
