"""Signs that gradients give: the label rises along them, they vanish, scatter, lead nowhere."""

from collections.abc import Sequence
from typing import Literal

import scipy
import torch
from torch import Tensor, nn

from avmixup_kit.evaluation.attack_signs import Bench
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.evidence import LEVEL, SIGNS, Alarm, Drawing, share, untried
from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.evaluation.record import CLEAN
from avmixup_kit.methods.attacks import Norm, ball, direction, frozen, in_l2_ball, lengths
from avmixup_kit.methods.losses import soft_cross_entropy

NONE_RIGHT = "no image is classified correctly."


def label_line(
    model: nn.Module,
    images: ImageSet,
    epsilon: float,
    places: Sequence[float],
    *,
    batch_size: int = 256,
    norm: Norm = "linf",
) -> Tensor:
    """Return the true class's probability at x + t delta, (places, N), for each t of ``places``.

    delta is FGSM's: the first-order attack direction at full epsilon, not clipped to valid pixels,
    like the vertex of Equation (12).
    """
    rows = []
    for part in torch.arange(len(images)).split(batch_size):
        x, y = batch_on(model, images, part)
        with frozen(model):
            way = direction(_input_gradient(model, x, y), norm)
            with torch.no_grad():
                line = [(model(x + t * epsilon * way).softmax(1) * y).sum(1) for t in places]
        rows.append(torch.stack(line).cpu())
    return torch.cat(rows, dim=1)


def label_rises(bench: Bench) -> Alarm:
    """Whether the model is surer at FGSM's example than at the image."""
    places = [t / 4 for t in range(9)]
    settings = {"batch_size": bench.batch_size, "norm": bench.norm}
    line = label_line(bench.model, bench.images, bench.epsilon, places, **settings)
    line = line[:, bench.baseline.of(CLEAN)]
    if not line.shape[1]:
        return untried("label-line", NONE_RIGHT)
    quartiles = torch.quantile(line.double(), torch.tensor([0.25, 0.5, 0.75]).double(), dim=1)
    series = {
        "mean": line.double().mean(1).tolist(),
        **dict(
            zip(("lower quartile", "median", "upper quartile"), quartiles.tolist(), strict=True)
        ),
    }
    return share(
        "label-line",
        int((line[4] > line[0] + 0.01).sum()),
        line.shape[1],
        "along FGSM's direction the true class's probability is higher at epsilon than at the "
        "image for",
        "The model has learned to be surer where attacks go, so their gradients lead nowhere.",
        Drawing("line", places, series, "t, in x + t delta", "probability of the true class"),
        more=f"; its mean goes from {line[0].mean():.2f} to {line[4].mean():.2f}",
        silent="It falls, as it should.",
    )


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        return torch.autograd.grad(soft_cross_entropy(model(x), y).sum(), x)[0]


def gradients(bench: Bench) -> list[Alarm]:
    """Whether cross-entropy's input gradients are there at all, and agree between neighbours."""
    here, there = [], []
    rng = torch.Generator().manual_seed(bench.seed)
    # One neighbour's direction for all images, so that verdicts do not depend on the batch.
    shape = (1, *bench.images.shape)
    if bench.norm == "linf":
        shift = (torch.rand(shape, generator=rng) * 2 - 1) * bench.epsilon
    else:
        share = torch.rand(1, generator=rng)
        shift = in_l2_ball(torch.randn(shape, generator=rng), share, bench.epsilon)
    for part in bench.batches():
        x, y = batch_on(bench.model, bench.images, part)
        with frozen(bench.model):
            here.append(_input_gradient(bench.model, x, y).flatten(1).cpu())
            neighbour = (x + shift.to(x)).clamp(0, 1)
            there.append(_input_gradient(bench.model, neighbour, y).flatten(1).cpu())
    clean = bench.baseline.of(CLEAN)
    first, second = torch.cat(here)[clean], torch.cat(there)[clean]
    return [_vanishing(first), _aligned(first, second)]


def _vanishing(gradient: Tensor) -> Alarm:
    if not len(gradient):
        return untried("vanishing", NONE_RIGHT)
    size = gradient.abs().amax(1).clamp_min(1e-45).double().log10().tolist()
    return share(
        "vanishing",
        int(((gradient == 0).double().mean(1) > 0.5).sum()),
        len(gradient),
        "the gradient is exactly zero on most pixels of",
        "Cross-entropy underflows, as with very large logits: divide the logits by a number, or "
        "read the CW and AutoAttack rows.",
        Drawing(
            "histogram", [], {"images": size}, "log10 of the largest entry (-45: zero)", "images"
        ),
        more=" images",
        silent="Attacks have gradients to follow.",
    )


def _aligned(first: Tensor, second: Tensor) -> Alarm:
    # Scaled before squaring: gradients of sure models are too small for float32's squares.
    largest = [g.double().abs().amax(1) for g in (first, second)]
    there = (largest[0] > 0) & (largest[1] > 0)
    if int(there.sum()) < 2:
        why = "hardly any image has a gradient (see: gradients vanish)."
        return untried("alignment", why)
    scaled = [
        g.double()[there] / size[there].unsqueeze(1)
        for g, size in zip((first, second), largest, strict=True)
    ]
    cosines = torch.cosine_similarity(*scaled, dim=1)
    return _mean(
        "alignment",
        cosines,
        "upper",
        "gradients at an image and at a random neighbour inside the ball have a mean cosine of",
        "They point in unrelated directions: one gradient says nothing about the ball.",
        "Each says something about the other.",
        "cosine with a neighbour's",
    )


def stationary(bench: Bench) -> Alarm:
    """Whether PGD20 ends where nothing is left to climb, on images that it left standing.

    The first-order stationary condition (Wang et al. 2019) c(x) = max over delta' of
    <delta' - delta, g>, g the gradient at x + delta: what the loss could still gain at first order.
    Unlike the paper, which has epsilon ||g||_1 - <delta, g>, delta' keeps the pixels valid, too;
    and c is held against its largest value, where delta is the worst corner, so that no scale of
    the logits changes it: from 0, the best corner, to 1. In an l2 ball c is epsilon ||g||_2 -
    <delta, g>, of at most 2 epsilon ||g||_2, pixels left aside.
    """
    attack, found = bench.pgd20(), []
    for part in bench.reference.nonzero().squeeze(1).split(bench.batch_size):
        x, y = batch_on(bench.model, bench.images, part)
        delta = craft(attack, bench.model, bench.images, part, bench.seed).double()
        with frozen(bench.model):
            gradient = _input_gradient(bench.model, x + delta.to(x), y).double()
        if bench.norm == "l2":
            best = bench.epsilon * lengths(gradient).flatten()
            largest = 2 * best
        else:
            low, high = (end.double() for end in ball(x, bench.epsilon))
            best = torch.maximum(low * gradient, high * gradient).flatten(1).sum(1)
            largest = ((high - low) * gradient.abs()).flatten(1).sum(1)
        gain = best - (delta * gradient).flatten(1).sum(1)
        found.append(torch.stack([gain, largest]).cpu())
    gain, largest = torch.cat(found, 1) if found else torch.zeros(2, 0)
    there = largest > 0
    if int(there.sum()) < 2:
        return untried("fosc", "hardly any image that PGD20 left standing has a gradient.")
    return _mean(
        "fosc",
        (gain / largest)[there],
        "lower",
        f"PGD20 ends {float(gain.mean()):.2g} nats of cross-entropy below its first-order best "
        "(FOSC), as a share of the way from the worst corner",
        "It stopped far from any maximum: gradients along the way do not agree, or more steps are "
        "needed.",
        "It has converged.",
        "share of the loss still to be gained at first order",
    )


def _mean(
    key: str,
    values: Tensor,
    side: Literal["lower", "upper"],
    what: str,
    meaning: str,
    silent: str,
    title: str,
) -> Alarm:
    """Return an alarm that rings where the mean's one-sided 99 % bound is beyond its limit."""
    n, mean, limit = len(values), float(values.mean()), SIGNS[key][1]
    reach = float(scipy.stats.t.ppf(1 - LEVEL, n - 1)) * float(values.std()) / n**0.5
    bound = mean + reach if side == "upper" else mean - reach
    rings = bound < limit if side == "upper" else bound > limit
    sentence = (
        f"{what} {mean:.2f} (n = {n}; 99 % {side} bound {bound:.2f}, limit {limit:.1f}). "
        f"{meaning if rings else silent}"
    )
    drawing = Drawing("histogram", [], {"images": values.tolist()}, title, "images")
    return Alarm(key, rings, mean, sentence, drawing)
