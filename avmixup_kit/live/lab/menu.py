"""The methods a reader can choose, and sliders of AVmixup's numbers; all from the registry."""

from avmixup_kit import methods
from avmixup_kit.live.controls import Number
from avmixup_kit.methods import METHODS
from avmixup_kit.methods.method import Method

FAR = 4.0
SETTINGS = {
    "the paper's with PGD": (2.0, 1.0, 0.1),
    "with Feature Scatter, CIFAR-10": (1.0, 0.5, 0.7),
    "with Feature Scatter, CIFAR-100": (1.5, 0.3, 0.42),
}


def mixing_numbers(epsilon: float, least: float) -> list[Number]:
    """Return sliders of gamma, lambda1 and lambda2, and one of epsilon from ``least`` on."""
    return [
        Number("gamma", "γ (vertex)", 1, FAR, 2, step=0.05),
        Number("lambda1", "λ₁ (clean side)", 0, 1, 1, step=0.01),
        Number("lambda2", "λ₂ (vertex side)", 0, 1, 0.1, step=0.01),
        Number("epsilon", "ε (of pixels 0..1)", least, 2 * epsilon, epsilon, epsilon / 50),
    ]


# AVmixup's γ, λ₁ and λ₂ to begin with, and a method beside it.
PRESETS: dict[str, tuple[float, float, float] | str] = {
    **{f"AVmixup, {name}": numbers for name, numbers in SETTINGS.items()},
    "AVmixup without a vertex: γ = 1": (1.0, 1.0, 0.1),
    "AVmixup, labels left as they are: λ₂ = 1": (2.0, 1.0, 1.0),
    "PGD training, no mixing": "pgd",
    "one step of FGSM, which may collapse": "fgsm_rs",
}


def preset(name: str, epsilon: float, steps: int) -> Method:
    """Return a preset's method at an epsilon, with attacks of so many steps."""
    chosen = PRESETS[name]
    if isinstance(chosen, str):
        return named(chosen, epsilon, steps)
    numbers = dict(zip(("gamma", "lambda1", "lambda2"), chosen, strict=True))
    return named("avmixup", epsilon, steps).replace(**numbers)


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


GREEK = {"gamma": "γ", "lambda1": "λ₁", "lambda2": "λ₂", "epsilon": "ε"}


def settings(method: Method) -> list[str]:
    """Return the method's numbers that have a slider, in words."""
    found = method.parameters
    return [f"{said} = {found[name]:.3g}" for name, said in GREEK.items() if name in found]


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
