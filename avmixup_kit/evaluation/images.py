"""What can be evaluated: a split, or a pair of float images and class numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avmixup_kit._base import check
from avmixup_kit.data.splits import Labelled, Split
from avmixup_kit.methods.attacks import frozen
from avmixup_kit.methods.labels import one_hot
from avmixup_kit.models.weights import first_answer


@dataclass(frozen=True, eq=False)
class FloatImages(Labelled):
    """Images that are no bytes, as ``evaluate`` reads a ``Split``: x (N, C, H, W) in [0, 1]."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "images"

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, C, H, W) and one-hot y (B, K) of the images at ``indices``."""
        return self.images[indices], one_hot(self.labels[indices], self.num_classes)

    def subset(self, indices: Tensor) -> "FloatImages":
        """Return the images at ``indices``."""
        return FloatImages(self.images[indices], self.labels[indices], self.classes, self.name)


ImageSet = Split | FloatImages
Pair = tuple[Tensor, Tensor]


def as_images(model: nn.Module, given: ImageSet | Pair) -> ImageSet:
    """Return images as ``evaluate`` reads them; a pair is x (N, C, H, W) and class numbers (N,).

    Raises:
        ValueError: images not in [0, 1] or not (N, C, H, W), labels out of the model's range.
        TypeError: neither a split nor a pair of tensors.
    """
    if isinstance(given, Split | FloatImages):
        return given
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Tensor)):
        raise TypeError(
            f"images of type {type(given).__name__} are not allowed: a Split, or a pair of tensors "
            "(x, labels)"
        )
    x, labels = given
    kind = tuple(x.shape), x.dtype
    allowed = "float (N, C, H, W) in [0, 1]; bytes are divided by 255 first"
    check.that(x.ndim == 4 and x.is_floating_point(), "images' shape and type", kind, allowed)
    kind = tuple(labels.shape), labels.dtype
    fine = labels.shape == x.shape[:1] and not labels.is_floating_point()
    allowed = f"one class number for each of the {len(x)} images"
    check.that(fine, "labels' shape and type", kind, allowed)
    if not len(x):
        raise ValueError("there are no images to evaluate")
    low, high = float(x.min()), float(x.max())
    undo = "undo the normalisation and make it the model's first layer"
    remedy = "divide by 255" if low >= 0 else undo
    allowed = f"pixels live in [0, 1], where epsilon is measured; {remedy}"
    check.that(low >= 0 and high <= 1, "images' range", (low, high), allowed)
    device = model_device(model)
    with torch.no_grad(), frozen(model):
        classes = first_answer(model, x[:1].float().to(device)).shape[-1]
    ends = int(labels.min()), int(labels.max())
    allowed = f"0 to {classes - 1}, the model has {classes} classes"
    check.that(ends[0] >= 0 and ends[1] < classes, "labels' range", ends, allowed)
    names = tuple(str(number) for number in range(classes))
    return FloatImages(x.detach().float(), labels.to(torch.int64), names)


def model_device(model: nn.Module) -> torch.device:
    """Return where the model is; a model without parameters is on the CPU."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def batch_on(model: nn.Module, images: ImageSet, part: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (B, C, H, W) and one-hot y (B, K) of the images numbered ``part``, on its device."""
    x, y = images.batch(part.to(images.device))
    device = model_device(model)
    return x.to(device), y.to(device)
