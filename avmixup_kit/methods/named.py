"""The named compositions of the paper's tables."""

from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass, replace
from typing import Any, Unpack

from avmixup_kit._base import check
from avmixup_kit._base.registry import Registry
from avmixup_kit.methods import attacks, sources
from avmixup_kit.methods.attacks import (
    TRAINING,
    Attack,
    BatchNorm,
    Crafting,
    Norm,
    StartedCrafting,
    settings_of,
)
from avmixup_kit.methods.losses import KLToClean, Trades, TransportDistance
from avmixup_kit.methods.method import Method, Perturb
from avmixup_kit.methods.mixing import Adversarial, AskedAt, AVmixup, LabelFrom, Mixup

METHODS = Registry("method")
BY_NAME = METHODS  # its name in version 0.1

# What settings mean, wherever a person is asked for them.
SETTINGS = {
    "epsilon": "Radius of the ball in [0, 1] pixels.",
    "norm": "What the ball bounds: linf, each pixel's change; l2, its length (0.5, not 8 / 255).",
    "step_size": "Step of the attack in [0, 1] pixels.",
    "steps": "Gradient steps of the attack.",
    "batch_norm": "Batch norm while crafting.",
    "noise": "Radius of the noise it starts from, in epsilons.",
    "target": "Number of the class aimed at; none: away from the true one.",
    "start": "Where the attack starts.",
    "gamma": "How far out the vertex lies, 1 or more.",
    "lambda1": "The true class's share of the label at the clean image.",
    "lambda2": "The same at the vertex.",
    "clip_vertex": "Clip the vertex to valid pixels, as the authors' code does.",
    "per_example": "One mixing weight per example rather than per batch.",
    "lam": "The true class's share of the label.",
    "label": "Where the vertex's label comes from: fixed, the averaged copy, the teacher.",
    "asked_at": "At which image they are asked.",
    "beta": "Weight of the term that holds adversarial to clean outputs.",
    "a": "Mixing weights come from Beta(a, a).",
    "h": "How far out the helper lies, in perturbations.",
    "weight": "Weight of the method's own term.",
    "temperature": "At which the averaged copy is asked, first and last.",
    "interpolation": "The averaged copy's share of the label, first and last.",
    "rho": "How far weights are moved, as a part of their length.",
    "since": "Part of all steps before weights are moved.",
    "memory": "How much of what was said of an image stays each time it is seen.",
    "ramp": "Parts of all steps after which the term begins and is whole.",
}


TRADES = Attack(KLToClean(), 0.031, 0.007, 10, "normal", clip_start=False)
SCATTER = Attack(TransportDistance(), steps=1, clip_start=False)


@METHODS.register(title="Standard")
def standard() -> Method:
    """Return training on clean images with hard labels: the paper's "Standard"."""
    return Method()


@METHODS.register(title="Mixup")
def mixup(a: float = 1.0, *, per_example: bool = True) -> Method:
    """Return Mixup with weights from Beta(a, a), Equation (4)."""
    return Method(mix=Mixup(a, per_example))


@METHODS.register(title="PGD")
@settings_of(TRAINING)
def pgd(**crafting: Unpack[StartedCrafting]) -> Method:
    """Return PGD adversarial training (Madry et al.): 10 steps of 2/255, epsilon 8/255.

    The paper is silent on batch norm while crafting; the default is the authors' code: statistics
    of the batch, running averages untouched.
    """
    return Method(replace(TRAINING, **crafting))


pgd_training = pgd  # av.pgd is the attack


@METHODS.register(title="FGSM-RS")
def fgsm_rs(
    *,
    epsilon: float = 8 / 255,
    step_size: float | None = None,
    batch_norm: BatchNorm = "eval",
    norm: Norm = "linf",
) -> Method:
    """Return training on one step of 1.25 epsilon from a random start (Wong et al. 2020).

    It is fast, and prone to catastrophic overfitting; ``n_fgsm`` is less so.
    """
    return Method(attacks.fgsm_rs(epsilon, step_size=step_size, batch_norm=batch_norm, norm=norm))


@METHODS.register(title="N-FGSM")
def n_fgsm(
    *,
    epsilon: float = 8 / 255,
    step_size: float | None = None,
    noise: float = 2.0,
    batch_norm: BatchNorm = "eval",
    norm: Norm = "linf",
) -> Method:
    """Return training on one step of epsilon from noise of 2 epsilon (de Jorge et al. 2022)."""
    given = {"step_size": step_size, "noise": noise, "batch_norm": batch_norm, "norm": norm}
    return Method(attacks.n_fgsm(epsilon, **given))


fgsm_rs_training, n_fgsm_training = fgsm_rs, n_fgsm  # av.attacks has the attacks


@METHODS.register(title="Label smoothing")
@settings_of(TRAINING)
def label_smoothing(lam: float = 0.8, **crafting: Unpack[StartedCrafting]) -> Method:
    """Return PGD training with labels phi(y, lam): the paper's "LS lambda"."""
    return Method(replace(TRAINING, **crafting), Adversarial(lam))


@METHODS.register(title="AVmixup")
@settings_of(TRAINING)
def avmixup(
    gamma: float = 2.0,
    lambda1: float = 1.0,
    lambda2: float = 0.1,
    *,
    clip_vertex: bool = False,
    per_example: bool = True,
    label: LabelFrom = "fixed",
    asked_at: AskedAt = "adversarial",
    perturb: Perturb | None = None,
    **crafting: Unpack[StartedCrafting],
) -> Method:
    """Return AVmixup (Algorithm 1) with the paper's setting as default.

    ``perturb`` is any other perturbation source, in place of PGD and its arguments. Where paper
    and authors' code differ the paper decides: ``clip_vertex=True`` is the code's clipped vertex.
    ``label``: unlike the paper, the averaged copy or a fixed teacher places 1 - lambda2 of the
    vertex's label, as it sees the image that ``asked_at`` names.

    Raises:
        ValueError: gamma < 1, a lambda outside [0, 1], an unknown label, an illegal PGD setting.
    """
    perturb = replace(TRAINING, **crafting) if perturb is None else perturb
    mix = AVmixup(gamma, lambda1, lambda2, clip_vertex, per_example)
    return Method(perturb, replace(mix, label=label, asked_at=asked_at))


@METHODS.register(title="TRADES")
@settings_of(TRADES)
def trades(beta: float = 6.0, **crafting: Unpack[Crafting]) -> Method:
    """Return TRADES as its authors released it: epsilon 0.031, 10 steps of 0.007 up the KL."""
    return Method(replace(TRADES, **crafting), Adversarial(), Trades(beta))


def _scatter(crafting: StartedCrafting) -> Attack:
    attack = replace(SCATTER, **crafting)
    return attack if attack.step_size else replace(attack, step_size=attack.epsilon)


@METHODS.register(title="Feature Scatter")
@settings_of(SCATTER)
def feature_scatter(lam: float = 0.5, **crafting: Unpack[StartedCrafting]) -> Method:
    """Return Feature Scatter (Zhang and Wang 2019, released code).

    One step of the full epsilon (``step_size=None``) up the optimal-transport distance from an
    unclipped uniform start; labels phi(y, 0.5).
    """
    return Method(_scatter(crafting), Adversarial(lam))


@METHODS.register(title="Feature Scatter + AVmixup")
@settings_of(SCATTER)
def feature_scatter_avmixup(
    gamma: float = 1.0,
    lambda1: float = 0.5,
    lambda2: float = 0.7,
    *,
    clip_vertex: bool = False,
    per_example: bool = True,
    **crafting: Unpack[StartedCrafting],
) -> Method:
    """Return AVmixup over Feature Scatter's perturbation, Section 5.4.

    Defaults are the paper's for CIFAR-10 and SVHN; CIFAR-100 uses (1.5, 0.3, 0.42). No code of this
    combination was released: the perturbation is x' - x, and AVmixup's labels take the place of
    Feature Scatter's 0.5 smoothing.
    """
    mix = AVmixup(gamma, lambda1, lambda2, clip_vertex, per_example)
    return Method(_scatter(crafting), mix)


@METHODS.register(title="AVmixup over five sources")
@settings_of(TRAINING)
def mixture(
    gamma: float = 2.0,
    lambda1: float = 1.0,
    lambda2: float = 0.1,
    *,
    clip_vertex: bool = False,
    per_example: bool = True,
    **crafting: Unpack[Crafting],
) -> Method:
    """Return AVmixup over five perturbation sources, one drawn per batch, Section 5.4.

    The sources are ``sources.five``: PGD, CW, targeted, TRADES' KL and Feature Scatter. Any
    others: ``avmixup(perturb=Mixture((source, ...)))``.
    """
    mix = AVmixup(gamma, lambda1, lambda2, clip_vertex, per_example)
    return Method(sources.five(**crafting), mix)


build: Callable[..., Method] = METHODS.build


def at_epsilon(name: str, epsilon: float, **settings: Any) -> Method:
    """Return the named method with the radius of a data set, which those without an attack ignore.

    A step size of the method's own (TRADES') gives way to epsilon / 4.

    Raises:
        ValueError: an unknown name, or a setting that the method does not have.
    """
    check.one_of("method", name, METHODS)
    takes = METHODS.entries[name].settings
    given: dict[str, Any] = {"epsilon": epsilon} if "epsilon" in takes else {}
    if "step_size" in takes and takes["step_size"].default is not None:
        given["step_size"] = epsilon / 4
    return build(name, **given | settings)


def name_of(method: Method) -> str | None:
    """Return the name under which a method is registered, or None for one of the user's own.

    It is that of the first registered function whose method has the same stages, and the same
    values of whatever is no setting of that function.
    """
    for name, entry in METHODS.entries.items():
        if any(setting.default is setting.empty for setting in entry.settings.values()):
            continue
        free = entry.settings.keys() - {f.name for f in fields(Method)}
        if _shape(method, free) == _shape(entry.make(), free):
            return name
    return None


def _shape(value: Any, free: Collection[str]) -> Any:
    if isinstance(value, tuple):
        return tuple(_shape(each, free) for each in value)
    if not is_dataclass(value):
        return value
    held = ((f.name, getattr(value, f.name)) for f in fields(value) if f.name not in free)
    return type(value), tuple((name, _shape(each, free)) for name, each in held)
