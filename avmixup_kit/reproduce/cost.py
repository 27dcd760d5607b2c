"""What a training costs: multiply-adds counted from the network itself, and hours at a given rate.

A multiply-add is two floating-point operations. Only convolutions and matrix products are counted;
everything else of these networks is memory traffic.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from avmixup_kit._base import check
from avmixup_kit.evaluation.autoattack import AutoAttack
from avmixup_kit.methods.asked import Ensembled, Rectified
from avmixup_kit.methods.attacks import Attack, NoAttack
from avmixup_kit.methods.losses import (
    KLToClean,
    SquaredToClean,
    TargetedCrossEntropy,
    TransportDistance,
)
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.sources import Mixture
from avmixup_kit.paper import Recipe
from avmixup_kit.training.settings import Settings


@dataclass(frozen=True)
class Macs:
    """Multiply-adds per image of a forward pass, alone and with a backward pass.

    ``to_input``: forward and the gradient to the image, one step of an attack. ``full``: forward
    and the gradient to the weights, one update.
    """

    forward: int
    to_input: int
    full: int


def macs(network: nn.Module, shape: tuple[int, int, int]) -> Macs:
    """Return the multiply-adds per image of shape (C, H, W), counted without computing anything.

    The network itself is not touched: a copy without memory behind it is run.
    """
    copy = deepcopy(network).to("meta").eval()

    def counted(input_gradient: bool, weight_gradients: bool) -> int:
        copy.requires_grad_(weight_gradients)
        x = torch.empty(1, *shape, device="meta", requires_grad=input_gradient)
        with FlopCounterMode(display=False) as counter:
            out = copy(x)
            if out.requires_grad:
                out.sum().backward()
        return counter.get_total_flops() // 2

    return Macs(counted(False, False), counted(True, False), counted(False, True))


def step_macs(network: Macs, method: Method) -> float:
    """Return the multiply-adds that one image takes part in during one training step.

    Every step of an attack is a pass to the input, an attack that compares with the clean image
    (TRADES, Feature Scatter, a targeted one) needs its logits first, and a loss updates through as
    many images as its ``passes`` say (TRADES: clean and adversarial), twice under AWP. A label that
    the averaged copy sets is one forward; what a teacher of another size costs is left out.

    Raises:
        ValueError: a perturbation source whose cost is not known.
    """
    updates = getattr(method.loss, "passes", 1) * (1 if method.around is None else 2)
    asked = network.forward if "averaged" in method.asks else 0
    return _crafting(network, method.perturb) + updates * network.full + asked


def training_macs(network: Macs, method: Method, settings: Settings | Recipe) -> float:
    """Return the multiply-adds of a whole training run; twice that are its FLOP."""
    return step_macs(network, method) * settings.steps * settings.batch_size


def evaluation_macs(network: Macs, attacks: Iterable[object], images: int) -> float:
    """Return the most multiply-adds that an evaluation can take: no image ever falls.

    Attacks that are prefixes of others (PGD10 of PGD20) are counted as if they ran alone.

    Raises:
        ValueError: an attack whose cost is not known.
    """
    each = network.forward + sum(_crafting(network, attack) for attack in attacks)
    return each * images


def hours(macs: float, tflops: float) -> float:
    """Return how many hours so many multiply-adds take at ``tflops`` 10^12 operations a second."""
    check.that(tflops > 0, "tflops", tflops, "a positive number")
    return 2 * macs / (tflops * 1e12) / 3600


def _crafting(network: Macs, perturb: object) -> float:
    """Multiply-adds per image of one perturbation source."""
    if isinstance(perturb, NoAttack):
        return 0.0
    if isinstance(perturb, Rectified):
        return _crafting(network, perturb.attack)
    if isinstance(perturb, Ensembled):
        return _crafting(network, perturb.attack) + network.forward
    if isinstance(perturb, Mixture):
        # One source is drawn for each batch.
        return sum(_crafting(network, s) for s in perturb.sources) / len(perturb.sources)
    if isinstance(perturb, Attack):
        compares = KLToClean | SquaredToClean | TargetedCrossEntropy | TransportDistance
        looks = isinstance(perturb.objective, compares)
        looks += perturb.restarts if perturb.restarts > 1 else 0
        return perturb.steps * perturb.restarts * network.to_input + looks * network.forward
    if isinstance(perturb, AutoAttack):
        passes = {
            "apgd-ce": 101 * network.to_input,
            "apgd-t": 101 * perturb.targets * network.to_input,
            # FAB takes the gradient of one logit difference and a forward for each of 100 steps.
            "fab-t": 100 * perturb.targets * (network.to_input + 2 * network.forward),
            "square": perturb.queries * network.forward,
        }
        return float(sum(passes[name] for name in perturb.attacks))
    raise ValueError(f"the cost of {perturb!r} is not known")
