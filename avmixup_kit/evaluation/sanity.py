"""What is looked at before an evaluation spends its time: the model, the images, the labels.

Every finding is one line that names what is wrong and what to do about it.
"""

import torch
from torch import Tensor, nn

from avmixup_kit._base.precision import float32_products
from avmixup_kit._base.private import AnyBatchNorm
from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.methods.attacks import frozen
from avmixup_kit.models.weights import as_logits, check_module, first_answer

PROBED = 64
SAME = 1e-3
# Of all images, so many are looked at again, and may move by so much of the largest logit.
AGAIN = 100
MOVES = 1e-2


def inspect(
    model: nn.Module, images: ImageSet, *, attacked: bool = True, draws: int | None = None
) -> tuple[str, ...]:
    """Return what a reader of the evaluation should know; raise where there is no point in one.

    Looks at no more than 64 images; takes two forward passes and a few small ones. The model and
    the global generators are left as they were found.

    Args:
        attacked: whether gradients will be asked for.
        draws: over how many forwards answers will be means, so that the model may be random and,
            batch norm excepted, stay in training mode; None: it may not.

    Raises:
        ValueError: the model is of half precision, stays in training mode, has another number of
            classes, returns probabilities or numbers that are not finite, is not deterministic,
            treats an image differently in other company, expects pixels of another range, or lets
            no gradient through.
    """
    notes = []
    if model.training:
        notes.append(
            "the model was in training mode: it was evaluated in eval mode and put back (call "
            "model.eval() before comparing by hand)"
        )
    index = torch.linspace(0, len(images) - 1, min(len(images), PROBED)).long()
    x, y = batch_on(model, images, index)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    # A model that draws random numbers must not move the global generators of the session.
    with (
        torch.random.fork_rng(devices=devices),
        frozen(model),
        torch.no_grad(),
        # TF32 moves logits from one batch size to another by as much as a random model does.
        float32_products(x.device, tf32=False),
    ):
        stuck = [
            name or "the model"
            for name, module in model.named_modules()
            if module.training and (draws is None or isinstance(module, AnyBatchNorm))
        ]
        if stuck:
            raise ValueError(
                f"the model stays in training mode after model.eval() ({stuck[0]}): dropout and "
                "batch norm would act as in training; let its train(mode) pass the mode on"
            )
        logits = first_answer(model, x)
        check_logits(logits, y)
        _not_probabilities(logits)
        moved = _moved(logits, model(x))
        if moved and draws is None:
            raise ValueError(
                f"the model is not deterministic: logits of the same images move by {moved:.3g} "
                "from one pass to the next; switch its noise off, or let gradients and verdicts be "
                "means over draws: evaluate(..., draws=16)"
            )
        if moved and draws:
            notes.append(
                f"the model is random: every gradient and verdict is about the mean probabilities "
                f"of {draws} draws (EOT), each counted as a gradient; another seed, batch size or "
                "order gives other draws"
            )
        elif draws:
            notes.append(f"draws = {draws} for a model that answers the same each time: 1 will do")
        if not moved and len(x) > 2 and (company := _moved(logits, model(x[:2]))):
            raise ValueError(
                f"an image's logits move by {company:.3g} with the other images of its batch: "
                "batch norm is using the batch's statistics as in training; keep running "
                "statistics for eval mode"
            )
        _range(model, x, y, logits)
    if attacked:
        with torch.random.fork_rng(devices=devices), frozen(model), torch.enable_grad():
            if not model(x[:1].detach().requires_grad_(True)).requires_grad:
                raise ValueError(
                    "no gradient reaches the images: the model detaches them or works under "
                    "no_grad, so gradient attacks cannot see it; remove that, or evaluate with "
                    "black-box attacks and check=False"
                )
    return tuple(notes)


def check_source(source: nn.Module, images: ImageSet, name: str) -> None:
    """Raise unless another model, on which ``name`` is made, answers one image like the evaluated.

    Raises:
        TypeError, ValueError: no Module, as ``first_answer``, or another number of classes.
    """
    try:
        check_module(source)
        with torch.no_grad(), frozen(source):
            x, y = batch_on(source, images, torch.tensor([0]))
            check_logits(first_answer(source, x), y)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}, of its source: {error}") from error


class Again:
    """Images all over the set whose logits are looked at once more, in other company.

    ``inspect`` sees 64 images, in batches of 64; a model may be at odds with itself elsewhere. One
    image in a hundred is compared with the pass that gives its clean verdict.

    Args:
        part: numbers of the images that are evaluated.
        attacked: whether attacks follow, so that of fewer than a hundred one is looked at too.
    """

    def __init__(self, part: Tensor, attacked: bool) -> None:
        count = max(len(part) // AGAIN, int(attacked and len(part) > 1))
        # Midway between the steps of a grid: inspect looks at its ends.
        places = (torch.arange(count) + 0.5) * len(part) / max(count, 1)
        self.index = part[places.long()]
        self.logits: list[Tensor] = []

    def keep(self, part: Tensor, logits: Tensor) -> None:
        """Remember what was said of these images, a part of those evaluated, in their order."""
        self.logits.append(logits[torch.isin(part, self.index).to(logits.device)])

    def check(self, model: nn.Module, images: ImageSet) -> None:
        """Raise ValueError where the model now says something else of them.

        They are spread over the set, so each has other company now than in its own batch.
        """
        if not len(self.index):
            return
        logits = torch.cat(self.logits)
        with torch.no_grad():
            moved = float((model(batch_on(model, images, self.index)[0]) - logits).abs().max())
        if not moved <= MOVES * max(float(logits.abs().max()), 1e-12):
            raise ValueError(
                f"logits of the same images move by {moved:.3g} when they are asked for again in "
                "other company: the model is random (then evaluate(..., draws=16) takes means), or "
                "an image's logits depend on its batch; verdicts would change with the batch size"
            )


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Raise TypeError unless logits are floats, ValueError unless finite and (N, K) like labels."""
    if as_logits(logits).shape != y.shape:
        raise ValueError(
            f"the model's output has shape {tuple(logits.shape)}, the labels have "
            f"{tuple(y.shape)}: the class counts disagree; build the model for these classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "the model returned logits that are not finite: nothing to evaluate; look for where "
            "training diverged or a logarithm of zero"
        )


def _not_probabilities(logits: Tensor) -> None:
    if float(logits.min()) >= 0 and float((logits.sum(1) - 1).abs().max()) < SAME:
        raise ValueError(
            "the model returns probabilities, not logits: cross-entropy would take a softmax of a "
            "softmax and its gradients would flatten; return what comes before the softmax"
        )


def _moved(logits: Tensor, other: Tensor) -> float:
    """Return how far other logits of the first images lie, 0 where that is rounding alone."""
    moved = float((logits[: len(other)] - other).abs().max())
    return 0.0 if moved <= SAME * max(float(logits.abs().max()), 1e-12) else moved


def _range(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> None:
    """Raise if the model, at a loss on pixels in [0, 1], knows the same images in other units."""
    if len(x) < 20:
        return
    labels = y.argmax(1)
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    units = {
        "255 x (pixels from 0 to 255)": 255 * x,
        "2 x - 1 (pixels from -1 to 1)": 2 * x - 1,
        "(x - mean) / std of each channel": (x - mean) / std,
    }
    plain = _right(logits, labels)
    found = {name: _right(model(other), labels) for name, other in units.items()}
    best = max(found, key=lambda name: found[name])
    if found[best] >= 0.5 and plain <= found[best] / 2:
        raise ValueError(
            f"the model classifies {plain:.0%} of {len(x)} images with pixels in [0, 1] "
            f"correctly, but {found[best]:.0%} of them as {best}: it expects another range; make "
            "that conversion its first layer"
        )


def _right(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())
