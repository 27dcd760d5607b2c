"""The methods a reader can choose: their titles, what a method is called, and how one is made."""

from avmixup_kit import methods
from avmixup_kit.methods import attacks
from avmixup_kit.methods.method import Method

TITLES = {
    "standard": "Standard",
    "mixup": "Mixup",
    "pgd": "PGD",
    "label_smoothing": "label smoothing (LS)",
    "avmixup": "AVmixup",
    "trades": "TRADES",
    "feature_scatter": "Feature Scatter",
    "feature_scatter_avmixup": "Feature Scatter + AVmixup",
}


def kind(method: Method) -> str | None:
    """Return the name of a method as in ``methods.BY_NAME``, or None for one of the user's own."""
    attack = getattr(getattr(method.perturb, "objective", None), "name", None)
    if attack is None and not isinstance(method.perturb, attacks.NoAttack):
        return None
    stages = (attack, type(method.mix).__name__, type(method.loss).__name__)
    return {
        (None, "Adversarial", "CrossEntropy"): "standard",
        (None, "Mixup", "CrossEntropy"): "mixup",
        ("PGD", "AVmixup", "CrossEntropy"): "avmixup",
        ("KL", "Adversarial", "Trades"): "trades",
        ("FS", "Adversarial", "CrossEntropy"): "feature_scatter",
        ("FS", "AVmixup", "CrossEntropy"): "feature_scatter_avmixup",
        ("PGD", "Adversarial", "CrossEntropy"): (
            "pgd" if method.parameters.get("lam") == 1 else "label_smoothing"
        ),
    }.get(stages)


def title(method: Method, otherwise: str) -> str:
    """Return what the reader sees of a method, ``otherwise`` of one of the user's own."""
    return TITLES.get(str(kind(method)), otherwise)


def named(name: str, epsilon: float, steps: int) -> Method:
    """Return the method of that name at an epsilon, with attacks of so many steps."""
    if name in ("standard", "mixup"):
        return methods.build(name)
    if name.startswith("feature_scatter"):
        return methods.build(name, epsilon=epsilon)
    step = {"step_size": epsilon / 4} if name == "trades" else {}
    return methods.build(name, epsilon=epsilon, steps=steps, **step)


def steps_of(*candidates: Method) -> int:
    """Return the attack's steps of the first method that has them, 10 where none has."""
    for method in candidates:
        if kind(method) in ("pgd", "label_smoothing", "avmixup", "trades"):
            return method.parameters["steps"]
    return 10
