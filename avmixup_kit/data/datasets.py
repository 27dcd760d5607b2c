"""The named data sets: where each comes from, and its splits and augmentation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial, wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from avmixup_kit._base import check
from avmixup_kit._base.plugins import home_of
from avmixup_kit._base.provenance import without_home
from avmixup_kit._base.registry import Registry
from avmixup_kit.data.archives import IMAGE_SUFFIXES, Decoder, agree, files, members, readable
from avmixup_kit.data.cache import Decoded, cached
from avmixup_kit.data.splits import Augmentation, Data, Origin, Split, choose, select

# `originals` is imported where it is used: it needs torchvision, whose import takes seconds.


def _remembered(name: str, make: Callable[..., Any]) -> Any:
    """A loader whose splits know how they were loaded."""

    @wraps(make)
    def load(*given: Any, **options: Any) -> Any:
        bound = signature(make).bind(*given, **options).arguments
        data = make(*given, **options)
        return _with_origin(data, name, make, bound) if isinstance(data, Data) else data

    return load


def _with_origin(data: Data, name: str, make: Callable[..., Any], given: dict[str, Any]) -> Data:
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        more = signature(make).parameters[key].kind is Parameter.VAR_KEYWORD
        arguments |= value if more else {key: value}
    own = make.__module__ != __name__
    loader = home_of(make) if own else name
    for elsewhere in ("device", "cache"):
        arguments.pop(elsewhere, None)
    arguments = {
        key: without_home(value) if isinstance(value, str | os.PathLike) else value
        for key, value in arguments.items()
    }
    try:
        arguments = json.loads(json.dumps(arguments, default=_plain))
    except TypeError:
        loader = None
    if loader is None:
        return data
    held_out = {part: getattr(data, part).checksum for part in ("validation", "test")}
    origin = Origin(loader, arguments, held_out)
    parts = ("train", "validation", "test")
    return replace(data, **{p: replace(getattr(data, p), origin=origin) for p in parts})


def _plain(value: Any) -> Any:
    if isinstance(value, Augmentation):
        return asdict(value)
    return os.fspath(value)


DATASETS = Registry("data set", around=_remembered)

# Augmentations, the default arguments below.
NONE = Augmentation()
CROP = Augmentation(pad=2)
CROP_AND_FLIP = Augmentation(pad=2, flip=True)
WIDE_CROP_AND_FLIP = Augmentation(pad=4, flip=True)


@dataclass(frozen=True)
class Size:
    """What is known of a data set before it is there: classes, (C, H, W) and test images."""

    num_classes: int
    shape: tuple[int, int, int]
    test: int


@DATASETS.register(title="scikit-learn's digits, 8x8", size=Size(10, (1, 8, 8), 449))
def digits(
    *,
    validation: float | int = 0.1,
    seed: int = 0,
    augmentation: Augmentation = NONE,
    device: torch.device | str = "cpu",
) -> Data:
    """scikit-learn's 1 797 handwritten digits, 8x8 grey, epsilon 0.15; needs no download.

    Pixels 0..16 become round(255 v / 16). A quarter of the images, the same for every `seed`
    and each class in proportion, is the test split. Unlike the paper's images these have
    strokes of nearly the full range, which 8/255 hardly moves: hence the larger epsilon.
    """
    from sklearn.datasets import load_digits

    source = cast(Any, load_digits())
    pixels = np.round(source.images * 255 / 16).astype(np.uint8)[..., None]
    images, labels = torch.from_numpy(pixels), torch.from_numpy(source.target.astype(np.int64))
    test = choose(source.target, len(labels) // 4, seed=0)
    train = np.setdiff1d(np.arange(len(labels)), test)
    decoded = Decoded(
        tuple(str(name) for name in source.target_names),
        {name: (images[at], labels[at]) for name, at in (("train", train), ("test", test))},
    )
    return _data("digits", decoded, validation, seed, augmentation, device, epsilon=0.15)


# The files on which a data set depends, and what decodes them, downloading them if True.
Original = tuple[Callable[[], Iterable[str | Path]], Callable[[bool], Decoded]]


def _published(title: str, default: Augmentation, size: Size):  # its type is that of `load`
    """Make a registered loader, with its name and docstring, of what finds its original."""

    def decorate(original: Callable[[Path], Original]):
        name = original.__name__

        def load(
            root: str | Path = "data",
            *,
            download: bool = True,
            validation: float | int = 0.02,
            seed: int = 0,
            augmentation: Augmentation = default,
            device: torch.device | str = "cpu",
            cache: str | Path | None = None,
        ) -> Data:
            root = Path(root).absolute()
            sources, decode = original(root)
            place = (root.parent if root.is_file() else root) / name
            decoded = cached(place, sources, lambda: decode(download), folder=cache)
            return _data(name, decoded, validation, seed, augmentation, device)

        load.__name__, load.__qualname__, load.__doc__ = name, name, original.__doc__
        return DATASETS.register(title=title, size=size)(load)

    return decorate


@_published("Fashion-MNIST", CROP, Size(10, (1, 28, 28), 10_000))
def fashion_mnist(root: Path) -> Original:
    """Fashion-MNIST, 70 000 grey images of clothes, 28x28.

    `root` holds the four .gz files, or FashionMNIST/raw below it does, as torchvision has it.
    No flip: the shoes of the test images all point one way.
    """
    from avmixup_kit.data import originals

    return partial(originals.fashion_mnist_files, root), partial(originals.fashion_mnist, root)


@_published("CIFAR-10", CROP_AND_FLIP, Size(10, (3, 32, 32), 10_000))
def cifar10(root: Path) -> Original:
    """CIFAR-10, 60 000 colour images of ten classes, 32x32.

    `root` holds cifar-10-python.tar.gz or its folder. Padded by 2 as in the authors' code, on
    which the paper is silent; many others pad by 4.
    """
    return _cifar("CIFAR10", root)


@_published("CIFAR-100", CROP_AND_FLIP, Size(100, (3, 32, 32), 10_000))
def cifar100(root: Path) -> Original:
    """CIFAR-100, 60 000 colour images with their hundred fine labels, 32x32.

    `root` holds cifar-100-python.tar.gz or its folder. Padded by 2 as in the authors' code.
    """
    return _cifar("CIFAR100", root)


def _cifar(kind: str, root: Path) -> Original:
    from avmixup_kit.data import originals

    reader = getattr(originals.tv, kind)
    return partial(originals.cifar_files, reader, root), partial(originals.cifar, reader, root)


@_published("SVHN", CROP, Size(10, (3, 32, 32), 26_032))
def svhn(root: Path) -> Original:
    """SVHN's 99 289 cropped house-number digits, 32x32 colour, without its extra images.

    `root` holds train_32x32.mat and test_32x32.mat. No flip: a mirrored 2 is no 2.
    """
    from avmixup_kit.data import originals

    return partial(originals.svhn_files, root), partial(originals.svhn, root)


@_published("Tiny ImageNet", WIDE_CROP_AND_FLIP, Size(200, (3, 64, 64), 10_000))
def tiny_imagenet(root: Path) -> Original:
    """Tiny ImageNet, 200 classes of 64x64 colour images.

    `root` is the folder tiny-imagenet-200 or an archive of it, or holds one of them. The test
    split is the original's validation images, since its test images have no labels, and
    `validation` is held out of training. Padded by 4, CIFAR's 2 at twice the size.
    """
    from avmixup_kit.data import originals

    source = partial(originals.tiny_imagenet_source, root)
    return lambda: _sources(source()), partial(originals.tiny_imagenet, root)


@DATASETS.register(title="images of your own in class folders")
def image_folder(
    path: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    validation: float | int | None = None,
    seed: int = 0,
    augmentation: Augmentation = NONE,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
) -> Data:
    """A user's own images: train/<class>/<image> and test/<class>/<image>, as RGB.

    Args:
        path: a folder, or an archive of one (.zip, .tar, .tar.gz, .tar.xz, ...), which is read
            in place. A single folder above train and test does no harm. Without test, val takes
            its place; beside test, val is the validation split.
        size: (height, width), or one number for both, to which every image is resized, its
            proportions not kept. None demands images of one size.
        validation: how many training images, or which part of them, to hold out. None is a
            tenth, or the val folder where there is one beside test.
        augmentation: none unless given, because nothing is known of the images.

    Raises:
        FileNotFoundError: there is nothing at path.
        ValueError: no images, sizes that differ, class folders that differ between splits, an
            image or archive that cannot be read, or an argument out of range.
    """
    path = Path(path).absolute()
    size = _size(size)
    decoded = cached(
        path,
        lambda: _sources(path),
        lambda: decode_folder(path, size),
        option="" if size is None else f"{size[0]}x{size[1]}",
        folder=cache,
    )
    name = readable(path.name.split(".")[0])
    return _data(name, decoded, validation, seed, augmentation, device)


def load(name: str, **options: Any) -> Data:
    """The data set called `name`; `options` are the arguments of the function of that name.

    Raises:
        ValueError: there is no data set of that name, it has no such option, or what was registered
            under it returned no `Data`.
    """
    data = DATASETS.build(name, **options)
    check.that(isinstance(data, Data), f"what data set {name} returned", data, "a Data")
    return data


def recalled(loader: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and options with which `load` loads data again, from a split's `Origin`.

    Raises:
        ValueError: the loader is one's own and not registered now.
    """
    for name, make in DATASETS.items():
        if loader == (home_of(make) if make.__module__ != __name__ else name):
            options = {
                key: os.path.expanduser(value) if str(value).startswith(f"~{os.sep}") else value
                for key, value in arguments.items()
            }
            if isinstance(options.get("augmentation"), dict):
                options["augmentation"] = Augmentation(**options["augmentation"])
            return name, options
    module = loader.partition(":")[0]
    raise ValueError(
        f"data set {loader} is not there: import {module} first, or pass --plugin "
        f"{module.rpartition('.')[2]}.py; code that a run folder names is never run"
    )


def _size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = check.plain(tuple(size) if isinstance(size, list | tuple) else (size, size))
    fine = len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)
    check.that(fine, "size", size, "an integer > 0, or (height, width), or None")
    return pair[0], pair[1]


def _sources(path: Path) -> Iterable[str | Path]:
    """The files on which a decoded copy of `path` depends."""
    return files(path) if path.is_dir() else [path]


def decode_folder(path: Path, size: tuple[int, int] | None) -> Decoded:
    decoder = Decoder(size)
    for name, content in members(path, lambda name: name.suffix.lower() in IMAGE_SUFFIXES):
        # One folder may stand above train and test.
        for depth, part in enumerate(name.parts[:2]):
            if part in ("train", "test", "val"):
                if len(name.parts) < depth + 3:
                    raise ValueError(
                        f"{path}: {name} stands in no class folder: "
                        f"allowed is {part}/<class>/<image>"
                    )
                decoder.add(part, readable(name.parts[depth + 1]), str(name), content)
                break
    found = {split: set(decoder.labels(split)) for split in decoder.splits}
    if "train" not in found or not found.keys() & {"test", "val"}:
        raise ValueError(
            f"path={str(path)!r}: found images in {', '.join(sorted(found)) or 'no split'}: "
            "allowed is train/<class>/<image> and test/<class>/<image> (or val)"
        )
    for split in sorted(found.keys() - {"train"}):
        agree(path, "class folders", {"train": found["train"], split: found[split]})
    classes = tuple(sorted(found["train"]))
    index = {label: i for i, label in enumerate(classes)}
    return Decoded(classes, {split: decoder.tensors(split, index) for split in found})


def _data(
    name: str,
    decoded: Decoded,
    validation: float | int | None,
    seed: int,
    augmentation: Augmentation,
    device: torch.device | str,
    epsilon: float = 8 / 255,
) -> Data:
    """Data with `validation` images held out of training, each class in proportion."""

    def split(part: str, index: np.ndarray, of: str = "train", held_out: bool = True) -> Split:
        images, labels = decoded.splits[of]
        chosen = torch.from_numpy(index)
        kind = NONE if held_out else augmentation
        pixels = select(images.permute(0, 3, 1, 2), chosen, kind.pad)
        return Split(pixels, labels[chosen], decoded.classes, kind, f"{name}/{part}")

    everything = {part: np.arange(len(labels)) for part, (_, labels) in decoded.splits.items()}
    if {"val", "test"} <= everything.keys():
        allowed = f"None, {name} has a val folder of its own"
        check.that(validation is None, "validation", validation, allowed)
        train, held_out = everything["train"], split("validation", everything["val"], "val")
    else:
        labels = decoded.splits["train"][1].numpy()
        chosen = choose(labels, _count(validation, len(labels)), seed)
        train = np.setdiff1d(everything["train"], chosen, assume_unique=True)
        held_out = split("validation", chosen)
    last = "test" if "test" in everything else "val"
    return Data(
        name,
        train=split("train", train, held_out=False),
        validation=held_out,
        test=split("test", everything[last], last),
        epsilon=epsilon,
    ).to(device)


def _count(validation: float | int | None, available: int) -> int:
    """How many of `available` training images to hold out; None is a tenth."""
    validation = check.plain(0.1 if validation is None else validation)
    if isinstance(validation, float) and 0 <= validation < 1:
        return round(validation * available)
    fine = type(validation) is int and 0 <= validation < available
    allowed = (
        f"a part in [0, 1) or a count from 0 to {available - 1}, of {available} training images"
    )
    check.that(fine, "validation", validation, allowed)
    assert isinstance(validation, int)
    return validation
