"""Named compositions that are not the paper's: what the field made since, on one protocol.

Their attacks are at 8/255 with steps of epsilon / 4, whatever their authors' codes have.
"""

from dataclasses import replace
from typing import Unpack

from torch import nn

from avmixup_kit._base import check
from avmixup_kit.methods.asked import Ensembled, Helped, PulledCrossEntropy, Rectified
from avmixup_kit.methods.attacks import TRAINING, Attack, Crafting, StartedCrafting, settings_of
from avmixup_kit.methods.losses import (
    Interpolated,
    KLToClean,
    LogitPairing,
    Mart,
    SquaredError,
    SquaredToClean,
    SquaredTrades,
    Trades,
)
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.mixing import Adversarial, AsClimbed, Mixup
from avmixup_kit.methods.named import METHODS
from avmixup_kit.methods.weights import AWP

NEAR = Attack(start="normal", clip_start=False)  # MART's: TRADES' start, on cross-entropy
NEAR_KL = replace(NEAR, objective=KLToClean())
SCORE = replace(TRAINING, objective=SquaredToClean())


@METHODS.register(title="Adversarial mixup")
@settings_of(TRAINING)
def adversarial_mixup(
    a: float = 1.4, *, per_example: bool = True, **crafting: Unpack[StartedCrafting]
) -> Method:
    """Return PGD training on mixed pairs of adversarial examples (Rice, Wong, Kolter 2020).

    Unlike the authors' code, which mixes images before it attacks them and draws one weight a
    batch, each image is attacked by itself, and each pair has its own weight.
    """
    return Method(replace(TRAINING, **crafting), Mixup(a, per_example))


@METHODS.register(title="MART")
@settings_of(NEAR)
def mart(beta: float = 5.0, **crafting: Unpack[Crafting]) -> Method:
    """Return MART (Wang et al. 2020): its loss leans on images that are wrong when clean."""
    return Method(replace(NEAR, **crafting), Adversarial(), Mart(beta))


@METHODS.register(title="HAT")
@settings_of(NEAR_KL)
def hat(
    teacher: nn.Module | None = None,
    h: float = 3.5,
    beta: float = 2.5,
    weight: float = 0.5,
    **crafting: Unpack[Crafting],
) -> Method:
    """Return HAT (Rade and Moosavi-Dezfooli 2022): TRADES, and helpers that a fixed network labels.

    ``teacher``: standardly trained; None: the training's, ``Training(..., teacher=network)``.
    """
    return Method(
        replace(NEAR_KL, **crafting), Adversarial(), Helped(Trades(beta), h, weight, teacher)
    )


@METHODS.register(title="ADR")
@settings_of(TRAINING)
def adr(
    temperature: tuple[float, float] = (2.5, 2.0),
    interpolation: tuple[float, float] = (0.7, 0.95),
    average: float = 0.995,
    **crafting: Unpack[StartedCrafting],
) -> Method:
    """Return PGD training on labels that the averaged copy rectifies (Wu, Wang, Chen 2024).

    A training keeps the averaged copy that it asks for, and that copy is what is evaluated.
    Defaults are the authors' for CIFAR-10 (github.com/yuyuwu5/ADR, in config/cifar10), whose
    CIFAR-100 has temperature (1.5, 1.0), and Tiny ImageNet (2.0, 1.5) and interpolation (0.5, 0.9).
    """
    source = Rectified(replace(TRAINING, **crafting), temperature, interpolation, average)
    return Method(source, AsClimbed())


@METHODS.register(title="ALP")
@settings_of(TRAINING)
def alp(weight: float = 0.5, **crafting: Unpack[StartedCrafting]) -> Method:
    """Return adversarial logit pairing (Kannan, Kurakin, Goodfellow 2018)."""
    return Method(replace(TRAINING, **crafting), Adversarial(), LogitPairing(weight))


@METHODS.register(title="PGD, squared error")
@settings_of(TRAINING)
def lse(**crafting: Unpack[StartedCrafting]) -> Method:
    """Return PGD training on the squared error of probabilities (SCORE, Pang et al. 2022).

    The attack still climbs cross-entropy.
    """
    return Method(replace(TRAINING, **crafting), Adversarial(), SquaredError())


@METHODS.register(title="TRADES, squared error")
@settings_of(SCORE)
def trades_lse(beta: float = 4.0, **crafting: Unpack[StartedCrafting]) -> Method:
    """Return TRADES with squared errors in place of cross-entropy and KL (SCORE)."""
    return Method(replace(SCORE, **crafting), Adversarial(), SquaredTrades(beta))


@METHODS.register(title="IAT")
@settings_of(TRAINING)
def iat(a: float = 1.0, **crafting: Unpack[StartedCrafting]) -> Method:
    """Return interpolated adversarial training (Lamb et al. 2019): mixup, clean and adversarial."""
    return Method(replace(TRAINING, **crafting), Adversarial(), Interpolated(Mixup(a)))


@METHODS.register(title="Temporal ensembling")
@settings_of(TRAINING)
def temporal_ensembling(
    weight: float = 30.0,
    memory: float = 0.9,
    ramp: tuple[float, float] = (0.45, 0.75),
    **crafting: Unpack[StartedCrafting],
) -> Method:
    """Return PGD training drawn to what the network said of each image (Dong et al. 2022)."""
    source = Ensembled(replace(TRAINING, **crafting), weight, memory, ramp)
    return Method(source, Adversarial(), PulledCrossEntropy())


def awp(method: Method, rho: float = 0.005, since: float = 0.0) -> Method:
    """Return the method under adversarial weight perturbation (Wu, Xia, Wang 2020).

    ``since``: which part of all steps is done before it begins.
    """
    fine = isinstance(method, Method)
    check.that(fine, "method", method, "a method, such as av.pgd_training(), not a stage of one")
    return method.replace(around=AWP(rho, since))


@METHODS.register(title="PGD + AWP")
@settings_of(TRAINING)
def pgd_awp(rho: float = 0.01, since: float = 0.0, **crafting: Unpack[StartedCrafting]) -> Method:
    """Return PGD training under adversarial weight perturbation."""
    return awp(Method(replace(TRAINING, **crafting)), rho, since)


@METHODS.register(title="TRADES + AWP")
@settings_of(NEAR_KL)
def trades_awp(
    beta: float = 6.0, rho: float = 0.005, since: float = 0.0, **crafting: Unpack[Crafting]
) -> Method:
    """Return TRADES under adversarial weight perturbation."""
    return awp(Method(replace(NEAR_KL, **crafting), Adversarial(), Trades(beta)), rho, since)
