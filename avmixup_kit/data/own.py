"""Images of one's own, from wherever they are, as one tensor; no pixel is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avmixup_kit._base import check

Layout = Literal["NCHW", "NHWC"]
PIXELS = "uint8, or float in [0, 1], as (N, C, H, W); grey (N, H, W) becomes that by [:, None]"
LOOKED_AT_TWICE = 8
CHANNELS = (1, 3, 4)


def names_of(source: object) -> tuple[str, ...] | None:
    """The class names that a source, or the data set inside it, has as `.classes`."""
    while source is not None:
        if names := getattr(source, "classes", None):
            return tuple(", ".join(n) if isinstance(n, tuple) else str(n) for n in names)
        source = getattr(source, "dataset", None)
    return None


def title_of(source: object) -> str:
    """What a source is called in messages and logs: its innermost data set, or "images"."""
    while (inner := getattr(source, "dataset", None)) is not None:
        source = inner
    return type(source).__name__.lower() if isinstance(source, Dataset) else "images"


def read(source: object, layout: Layout) -> tuple[Tensor, Tensor]:
    """Images, uint8 or float32 (N, C, H, W), and labels, int64 (N,), as `Split.of` says."""
    check.one_of("layout", layout, ("NCHW", "NHWC"))
    if isinstance(source, DataLoader):
        _steady(source.dataset)
        batches = [_pair(batch, "batch", n) for n, batch in enumerate(source)]
        images = _joined([_tensor(x) for x, _ in batches], "batch", torch.cat)
        labels = torch.cat([torch.as_tensor(y).flatten() for _, y in batches])
    elif isinstance(source, Dataset):
        _steady(source)
        pairs = [_pair(item, "item", n) for n, item in enumerate(_items(source))]
        if pairs and isinstance(pairs[0][0], Image.Image):
            layout = "NHWC"
        images = _joined([_tensor(x) for x, _ in pairs], "item", torch.stack)
        labels = torch.as_tensor([_label(y) for _, y in pairs])
    elif isinstance(source, tuple | list) and len(source) == 2 and hasattr(source[0], "dtype"):
        images, labels = _tensor(source[0]), torch.as_tensor(source[1])
    else:
        raise TypeError(
            f"images of type {type(source).__name__} are not allowed: a Split, a torch Dataset or "
            "DataLoader of (image, class number), or a pair (images, class numbers)"
        )
    return _pixels(images, layout), _class_numbers(labels, len(images))


def _items(source: Dataset[Any], count: int | None = None) -> Iterable[Any]:
    if not isinstance(source, Sized):
        assert isinstance(source, Iterable)
        return source
    return (source[i] for i in range(len(source) if count is None else min(count, len(source))))


def _steady(source: Dataset[Any]) -> None:
    """Refuse a data set that gives other pixels each time: what it gave once would be frozen."""
    if not isinstance(source, Sized):
        return
    first, second = (
        [
            _tensor(_pair(item, "item", n)[0])
            for n, item in enumerate(_items(source, LOOKED_AT_TWICE))
        ]
        for _ in range(2)
    )
    if not all(map(torch.equal, first, second)):
        raise ValueError(
            f"{title_of(source)} gives other pixels each time it is asked: take its random "
            "transforms out; Split.of(..., augmentation=Augmentation(pad=4, flip=True)) augments "
            "while training"
        )


def _pair(given: Any, what: str, number: int) -> tuple[Any, Any]:
    fine = isinstance(given, tuple | list) and len(given) == 2
    kind = type(given).__name__ if not isinstance(given, tuple | list) else f"{len(given)} parts"
    check.that(fine, f"{what} {number}", kind, "a pair (image, class number)")
    return given[0], given[1]


def _label(given: Any) -> Any:
    return given.item() if isinstance(given, Tensor | np.generic) else given


def _tensor(given: Any) -> Tensor:
    if isinstance(given, Image.Image):
        fine = given.mode in ("L", "RGB")
        check.that(
            fine, "an image's mode", given.mode, "L or RGB; image.convert('RGB') makes it so"
        )
        pixels = np.array(given)
        return torch.from_numpy(pixels[..., None] if pixels.ndim == 2 else pixels)
    if isinstance(given, Tensor):
        return given.detach()
    if isinstance(given, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(given))
    raise TypeError(
        f"an image of type {type(given).__name__} is not allowed: a PIL image, a tensor or an array"
    )


def _joined(parts: list[Tensor], what: str, join: Any) -> Tensor:
    if not parts:
        raise ValueError("there are no images")
    first = 1 if what == "batch" else 0
    for number, part in enumerate(parts):
        mine, others = tuple(part.shape[first:]), tuple(parts[0].shape[first:])
        allowed = f"{others}, as the first; resize all to one size first"
        check.that(mine == others, f"shape of the images of {what} {number}", mine, allowed)
    return join(parts)


def _pixels(images: Tensor, layout: Layout) -> Tensor:
    kind = tuple(images.shape), images.dtype
    fine = images.ndim == 4 and (images.dtype == torch.uint8 or images.is_floating_point())
    check.that(fine, "images' shape and type", kind, PIXELS)
    _, second, third, last = images.shape
    looks: Layout = layout
    if third > 4 and last in CHANNELS and second > 4:
        looks = "NHWC"
    elif third > 4 and second in CHANNELS and last > 4:
        looks = "NCHW"
    allowed = f"images of shape {tuple(images.shape)} look like {looks!r}: say so, or permute them"
    check.that(looks == layout, "layout", layout, allowed)
    if layout == "NHWC":
        images = images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint8 or not images.numel():
        return images if images.dtype == torch.uint8 else images.float()
    images = images.float()
    check_range(images)
    as_bytes = images.mul(255).round_()
    return as_bytes.byte() if torch.equal(as_bytes.div(255), images) else images


def check_range(images: Tensor) -> None:
    """Raise ValueError unless all pixels are in [0, 1]; the message says what undoes it."""
    low, high = (float(end) for end in images.aminmax())
    undo = "undo the normalisation and make it the model's first layer"
    remedy = "divide by 255" if low >= 0 else undo
    allowed = f"pixels live in [0, 1], where epsilon is measured; {remedy}"
    check.that(low >= 0 and high <= 1, "images' range", (low, high), allowed)


def _class_numbers(labels: Tensor, count: int) -> Tensor:
    kind = tuple(labels.shape), labels.dtype
    fine = labels.shape == (count,) and not (labels.is_floating_point() or labels.is_complex())
    check.that(
        fine, "labels' shape and type", kind, f"one class number for each of the {count} images"
    )
    return labels.to(torch.int64)
