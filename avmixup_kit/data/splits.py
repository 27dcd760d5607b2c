"""Images as one tensor per split on a device, and their augmentation there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avmixup_kit._base import check
from avmixup_kit.data import own


@dataclass(frozen=True)
class Augmentation:
    """Zero-pad by `pad` pixels a side, crop a window of the old size, flip left to right.

    Each of the (2 pad + 1)^2 windows is equally likely, and with `flip` so is each side.
    `Augmentation()` leaves images as they are.

    Raises:
        ValueError: pad is not an integer >= 0, or flip is not a bool.
    """

    pad: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check.settle(self)
        check.whole("pad", self.pad, 0, "a whole number of pixels a side")
        check.flag("flip", self.flip)


# What `Split.of`, and with it whatever takes images, accepts.
Source: TypeAlias = "Split | Dataset[Any] | DataLoader[Any] | Sequence[Tensor | np.ndarray]"


@dataclass(frozen=True)
class Origin:
    """How a split was loaded, so that a run folder can tell.

    Attributes:
        loader: its name in `DATASETS`, one of one's own as module:qualname.
        arguments: what it was given, as JSON has it; device and cache left out.
        checksums: of the splits that are held out of training, by name.
        part: whether the split is now only a part of what was loaded.
    """

    loader: str
    arguments: Mapping[str, Any]
    checksums: Mapping[str, str]
    part: bool = False


@dataclass(frozen=True, eq=False)
class Split:
    """Images of one split, their labels, and how a batch of them is augmented.

    Attributes:
        images: uint8, or float32 in [0, 1], (N, C, H, W), stored as channels_last.
        labels: int64 (N,), each in [0, len(classes)).
        classes: the name of each class.
        augmentation: what `batch` does when it is given a generator.
        name: which data these are, for logs: "digits/train".
        origin: how it was loaded, None where that is not known.

    Raises:
        ValueError: shapes, types, devices or labels that do not fit each other.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    augmentation: Augmentation = Augmentation()
    name: str = ""
    origin: Origin | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        kind = tuple(images.shape), images.dtype
        fine = images.ndim == 4 and images.dtype in (torch.uint8, torch.float32)
        allowed = "uint8, or float32 in [0, 1], (N, C, H, W); Split.of reads others"
        check.that(fine, "images' shape and type", kind, allowed)
        kind = tuple(labels.shape), labels.dtype
        fine = labels.dtype == torch.int64 and labels.shape == images.shape[:1]
        allowed = f"int64 ({len(images)},), one for each image"
        check.that(fine, "labels' shape and type", kind, allowed)
        check.that(
            labels.device == images.device,
            "labels' device",
            str(labels.device),
            f"the images' device, {images.device}",
        )
        if len(self):
            if self._floats:
                own.check_range(images)
            ends, classes = (int(labels.min()), int(labels.max())), len(self.classes)
            allowed = f"0 to {classes - 1}, there are {classes} classes"
            check.that(ends[0] >= 0 and ends[1] < classes, "labels' range", ends, allowed)
        pad, (height, width) = self.augmentation.pad, images.shape[2:]
        allowed = f"0 to {min(height, width) - 1} for images of {height}x{width}"
        check.that(pad < min(height, width), "pad", pad, allowed)
        object.__setattr__(self, "images", _placed(images, self.augmentation.pad, images.device))

    @staticmethod
    def of(
        source: Source,
        classes: Sequence[str] | int | None = None,
        *,
        layout: own.Layout = "NCHW",
        augmentation: Augmentation | None = None,
        name: str | None = None,
    ) -> Split:
        """A split of one's own images; every pixel is kept exactly.

        Bytes stay bytes, floats that are all k / 255 become bytes, other floats become float32.
        Labels may be of any integer type.

        Args:
            source: a Split (itself), a torch Dataset of (image, class number) with PIL images,
                tensors or arrays, each read once, a DataLoader of such batches, once through, or a
                pair (images, class numbers) of tensors or arrays. Pixels are uint8, or float in
                [0, 1].
            classes: the name of each class, or how many there are. None: the source's `.classes`,
                as torchvision's data sets have them, else the numbers up to the largest label.
            layout: of tensors and arrays, one image or many: "NCHW" or "NHWC".
            augmentation: what training does to the images; none unless given.
            name: for logs; the source's type where left out.

        Raises:
            TypeError: the source is none of these, such as a Data, which has several splits.
            ValueError: shapes, types or pixels out of range; images that look like the other
                layout; images of several sizes; a Dataset whose transforms are random.
        """
        if isinstance(source, Data):
            raise TypeError("Data has several splits: data.train, data.validation or data.test")
        check.that(not isinstance(classes, str), "classes", classes, "a list of names, or a number")
        if isinstance(source, Split):
            split = source
        else:
            images, labels = own.read(source, layout)
            if classes is None:
                classes = own.names_of(source) or max(labels.tolist(), default=0) + 1
            split = Split(images, labels, _named(classes), name=own.title_of(source))
        told = {
            "classes": None if classes is None else _named(classes),
            "augmentation": augmentation,
            "name": name,
        }
        given = {key: value for key, value in told.items() if value is not None}
        return replace(split, **given) if given else split

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def _floats(self) -> bool:
        return self.images.is_floating_point()

    def __repr__(self) -> str:
        shape = "x".join(str(side) for side in self.shape)
        return (
            f"<Split {self.name}: {len(self)} images of {shape}, {self.num_classes} classes, "
            f"{self.augmentation}, on {self.device}>"
        )

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over sizes, class names, pixels and labels, the same on every device."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.classes)).encode())
        digest.update(self._nhwc.cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Split:
        """The same split on `device`.

        Raises:
            ValueError: CUDA is asked for and there is none.
        """
        fine = torch.device(device).type != "cuda" or torch.cuda.is_available()
        check.that(fine, "device", str(device), "'cpu', torch finds no CUDA here")
        images = _placed(self.images, self.augmentation.pad, device)
        return replace(self, images=images, labels=self.labels.to(device))

    def sample(self, n: int, seed: int = 0) -> Split:
        """`n` images drawn at random, each class in proportion, in the order of the split.

        The same split, n and seed always give the same ones. The first n would not do: image
        folders are sorted by class.

        Raises:
            ValueError: n is outside [0, N].
        """
        fine = isinstance(n, int | np.integer) and 0 <= n <= len(self)
        check.that(fine, "n", n, f"0 to {len(self)}, {self.name} has no more images")
        return self.subset(torch.from_numpy(choose(self.labels.cpu().numpy(), int(n), seed)))

    def subset(self, indices: int | Sequence[int] | Tensor) -> Split:
        """The images at `indices` or under a mask; of a number n, those of `sample(n)`."""
        if isinstance(indices, int | np.integer):
            return self.sample(int(indices))
        index = torch.as_tensor(indices, device=self.device)
        index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.to(torch.int64)
        images = select(self.images, index, self.augmentation.pad)
        origin = self.origin and replace(self.origin, part=True)
        return replace(self, images=images, labels=self.labels[index], origin=origin)

    def batch(
        self, indices: Sequence[int] | Tensor, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """x, float32 (B, C, H, W) in [0, 1] as channels_last, and y, one-hot float32 (B, K).

        Augmented if and only if `rng`, a generator on the images' device, is given; then all
        randomness is drawn from it.

        Raises:
            ValueError: rng lives on another device.
        """
        index = torch.as_tensor(indices, dtype=torch.int64).to(self.device, non_blocking=True)
        y = self._one_hot.index_select(0, self.labels.index_select(0, index))
        if rng is None or self.augmentation == Augmentation():
            pixels = self._nhwc.index_select(0, index)
        else:
            pixels = self._augmented(index, rng)
        # Division of a float tensor in place: dividing the bytes themselves is ten times slower.
        x = pixels if self._floats else pixels.float().div_(255)
        # One channel can be laid out in two ways; arithmetic makes the plain one of it, and
        # convolutions round differently for each, so x must have it from the start.
        return x.view(len(x), *self.shape) if self.shape[0] == 1 else x.permute(0, 3, 1, 2), y

    def _augmented(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """(B, H, W, C), one window of each image at `index`, some of them flipped."""
        fine = rng.device.type == self.device.type
        check.that(fine, "rng.device", str(rng.device), f"the images' device, {self.device}")
        windows = (2 * self.augmentation.pad + 1) ** 2
        sides = 2 if self.augmentation.flip else 1
        # One draw over all outcomes is uniform over windows and sides, and independent.
        outcome = torch.randint(sides * windows, (len(index),), generator=rng, device=self.device)
        if not self.augmentation.flip:
            return self._windows(index, outcome)
        flipped = self._flipped_by_choice if self.images.is_cuda else self._flipped_by_order
        return flipped(index, outcome, windows)

    def _flipped_by_choice(self, index: Tensor, outcome: Tensor, windows: int) -> Tensor:
        """One window of each image, flipped from outcome `windows` on; the host need not wait."""
        pixels = self._windows(index, outcome % windows)
        return torch.where((outcome >= windows)[:, None, None, None], _mirrored(pixels), pixels)

    def _flipped_by_order(self, index: Tensor, outcome: Tensor, windows: int) -> Tensor:
        """The same, in half the time on a CPU: those to flip are made to stand together."""
        outcome, order = outcome.sort()
        pixels = self._windows(index.index_select(0, order), outcome % windows)
        first = int(torch.searchsorted(outcome, windows))
        pixels[first:] = _mirrored(pixels[first:])
        return pixels.index_select(0, order.argsort())

    def _windows(self, index: Tensor, window: Tensor) -> Tensor:
        """(B, H, W, C), of each image at `index` the window of that number, row by row.

        Every window is a run of H * W pixels in memory, which begins up to pad * (W + 1) pixels
        before its image; what it holds of another row or image is where the zeros belong.
        """
        channels, height, width = self.shape
        area = height * width
        margin = _margin(self.images.shape, self.augmentation.pad)
        runs = self.images.as_strided(
            (self.images.numel() // channels + 2 * margin // channels - area + 1, area * channels),
            (channels, 1),
            self.images.storage_offset() - margin,
        )
        start = torch.add(self._shift.index_select(0, window), index, alpha=area)
        pixels = runs.index_select(0, start)
        inside = self._inside.index_select(0, window)
        pixels = pixels.mul_(inside) if self._floats else pixels.bitwise_and_(inside)
        return pixels.view(-1, height, width, channels)

    @property
    def _nhwc(self) -> Tensor:
        return self.images.permute(0, 2, 3, 1)

    @cached_property
    def _one_hot(self) -> Tensor:
        return torch.eye(self.num_classes, device=self.device)

    @cached_property
    def _shift(self) -> Tensor:
        """int64 ((2 pad + 1)^2,): by how many pixels each window begins after the first."""
        sides = torch.arange(2 * self.augmentation.pad + 1, device=self.device)
        return (sides[:, None] * self.shape[2] + sides).flatten()

    @cached_property
    def _inside(self) -> Tensor:
        """((2 pad + 1)^2, H * W * C): 255 or 1.0 where a window shows the image, else 0."""
        channels, height, width = self.shape
        pad = self.augmentation.pad
        frame = self.images.new_zeros(height + 2 * pad, width + 2 * pad, channels)
        frame[pad : pad + height, pad : pad + width] = 1 if self._floats else 255
        windows = frame.unfold(0, height, 1).unfold(1, width, 1)
        return windows.permute(0, 1, 3, 4, 2).reshape((2 * pad + 1) ** 2, -1)


def _mirrored(pixels: Tensor) -> Tensor:
    """`pixels` (B, H, W, C) flipped left to right."""
    # Only in this order of axes does torch flip whole pixels at once.
    return pixels.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)


def select(images: Tensor, index: Tensor, pad: int = 0) -> Tensor:
    """`images` (N, C, H, W) at `index`, as channels_last, with the room that `pad` asks for."""
    chosen = _room(images, len(index), pad, images.device)
    torch.index_select(images.permute(0, 2, 3, 1), 0, index, out=chosen.permute(0, 2, 3, 1))
    return chosen


def _placed(images: Tensor, pad: int, device: torch.device | str) -> Tensor:
    """`images` on `device` as channels_last with room around them, copied only if need be."""
    before = images.storage_offset()
    held = images.untyped_storage().nbytes() // images.element_size()
    after = held - before - images.numel()
    fits = min(before, after) >= _margin(images.shape, pad)
    if (
        fits
        and images.permute(0, 2, 3, 1).is_contiguous()
        and images.device == torch.device(device)
    ):
        return images
    return _room(images, len(images), pad, device).copy_(images)


def _room(like: Tensor, count: int, pad: int, device: torch.device | str) -> Tensor:
    """Zeros for `count` images such as those of `like`, as channels_last, inside a margin."""
    channels, height, width = like.shape[1:]
    size, margin = count * channels * height * width, _margin(like.shape, pad)
    flat = torch.zeros(size + 2 * margin, dtype=like.dtype, device=device)
    return flat[margin : margin + size].view(count, height, width, channels).permute(0, 3, 1, 2)


def _margin(shape: Sequence[int], pad: int) -> int:
    """Numbers before the first and after the last image that their windows reach into."""
    return pad * (shape[3] + 1) * shape[1]


def choose(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of `count` of `labels`, drawn with each class in proportion.

    Every class gets the whole part of its share; what is left goes to the largest remainders.
    """
    # RandomState: NumPy keeps its stream the same for ever, which default_rng does not promise.
    rng = np.random.RandomState(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = count * sizes / max(len(labels), 1)
    quota = np.floor(shares).astype(int)
    largest = np.argsort(quota - shares, kind="stable")
    quota[largest[: count - quota.sum()]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == k))[:n]
        for k, n in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


def _named(classes: Sequence[str] | int) -> tuple[str, ...]:
    return tuple(map(str, range(classes) if isinstance(classes, int) else classes))


def split_for(source: Source, outputs: Callable[[Tensor], int]) -> Split:
    """`Split.of`, with as many classes as a model has where the source names none.

    `outputs` tells how many from images (1, C, H, W).

    Raises:
        ValueError: a label that the model has no class for, and whatever `Split.of` refuses.
    """
    split = Split.of(source)
    if isinstance(source, Split) or own.names_of(source) or not len(split):
        return split
    count, ends = outputs(split.batch([0])[0]), tuple(int(end) for end in split.labels.aminmax())
    allowed = f"0 to {count - 1}, the model has {count} classes"
    check.that(split.num_classes <= count, "labels' range", ends, allowed)
    return replace(split, classes=_named(count))


@dataclass(frozen=True, eq=False)
class Data:
    """Three splits of one dataset and the radius of the perturbations that suit it.

    `validation` is held out of training, to choose checkpoints on; `test` is for the end.

    Raises:
        ValueError: the splits' classes or image shapes differ, or epsilon is outside (0, 1].
    """

    name: str
    train: Split
    validation: Split
    test: Split
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        for split in (self.validation, self.test):
            train, name = self.train, split.name
            allowed = f"{train.shape}, as in {train.name}"
            check.that(split.shape == train.shape, f"image shape of {name}", split.shape, allowed)
            check.that(
                split.classes == train.classes,
                f"number of classes of {name}",
                split.num_classes,
                f"the same names in the same order as the {train.num_classes} of {train.name}",
            )
        allowed = "0 < epsilon <= 1 (8 is 8 / 255)"
        epsilon = check.number("epsilon", self.epsilon, "(0, 1]", allowed)
        object.__setattr__(self, "epsilon", epsilon)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.shape

    def to(self, device: torch.device | str) -> Data:
        """The same data on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )
