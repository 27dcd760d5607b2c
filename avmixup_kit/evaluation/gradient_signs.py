"""Signs that the gradients themselves give: the label rises along them, they vanish or scatter."""

from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor, nn

from avmixup_kit.evaluation.attack_signs import Bench
from avmixup_kit.evaluation.evidence import ALIGNED, LEVEL, Alarm, Drawing, share, untried
from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.evaluation.record import CLEAN
from avmixup_kit.methods.attacks import Norm, direction, frozen, in_l2_ball
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
    n, mean = len(cosines), float(cosines.mean())
    upper = mean + float(stats.t.ppf(1 - LEVEL, n - 1)) * float(cosines.std()) / n**0.5
    rings = upper < ALIGNED
    meaning = (
        "They point in unrelated directions: one gradient says nothing about the ball."
        if rings
        else "Each says something about the other."
    )
    sentence = (
        f"gradients at an image and at a random neighbour inside the ball have a mean cosine of "
        f"{mean:.2f} (n = {n}; 99 % upper bound {upper:.2f}, limit {ALIGNED:.1f}). {meaning}"
    )
    series = {"images": cosines.tolist()}
    drawing = Drawing("histogram", [], series, "cosine with a neighbour's", "images")
    return Alarm("alignment", rings, mean, sentence, drawing)
