"""CIFAR-10 from wherever it lies: the original, or the JPEG mirror that stands in for it."""

import os
from pathlib import Path

from avmixup_kit.data.datasets import load
from avmixup_kit.data.splits import Data, Split

MIRROR = "cifar10-jpeg.tar.xz"
ORIGINALS = ("cifar-10-python.tar.gz", "cifar-10-batches-py")


def cifar10_at_hand(root: str | Path | None = None) -> Path | None:
    """Return where CIFAR-10 or its mirror lies: ``root``, $AVMIXUP_DATA or data; None if nowhere.

    ``root`` is as of ``cifar10_or_mirror``; nothing is downloaded.
    """
    roots = [root, os.environ.get("AVMIXUP_DATA"), "data"]
    for place in (Path(one) for one in roots if one):
        if place.name == MIRROR and place.is_file():
            return place
        if any((place / name).exists() for name in (*ORIGINALS, MIRROR)):
            return place
    return None


def cifar10_or_mirror(root: str | Path = "data", *, validation: float | int = 0.02) -> Data:
    """Return CIFAR-10: the original where it lies in ``root``, else the mirror where that does.

    Where neither does the original is downloaded to ``root``. The data's name says which it is:
    "cifar10" or "cifar10-jpeg".

    Args:
        root: the folder that holds cifar-10-python.tar.gz, its unpacked folder or
            cifar10-jpeg.tar.xz; or the mirror's archive itself.

    Raises:
        ConnectionError: it is not there and cannot be downloaded; the message says what to fetch.
        ValueError: what is there is damaged, or ``root`` is another file.
    """
    root = Path(root)
    mirror = root if root.name == MIRROR else root / MIRROR
    if mirror.is_file() and not any((root / name).exists() for name in ORIGINALS):
        return load("image_folder", path=mirror, validation=validation)
    if root.is_file():
        raise ValueError(
            f"root = {str(root)!r} is not allowed: it holds no CIFAR-10; a folder with "
            f"{ORIGINALS[0]} or {MIRROR}, or that archive itself"
        )
    try:
        return load("cifar10", root=root, validation=validation)
    except ConnectionError as error:
        raise ConnectionError(f"{error}; or put the JPEG mirror {MIRROR} there") from error


def cifar10_sample(n: int = 200, *, root: str | Path | None = None, seed: int = 0) -> Split:
    """Return ``n`` test images of CIFAR-10, each class in proportion, always the same for a seed.

    Its ``name`` says where they come from, "cifar10/test" or "cifar10-jpeg/test": figures on the
    JPEG mirror are no figures on CIFAR-10.

    Args:
        root: as of ``cifar10_or_mirror``; $AVMIXUP_DATA, else data, where left out.

    Raises:
        ConnectionError: it is not there and cannot be downloaded; the message says what to fetch.
        ValueError: n is outside [0, 10 000], or what is there is damaged.
    """
    root = os.environ.get("AVMIXUP_DATA", "data") if root is None else root
    return cifar10_or_mirror(root).test.sample(n, seed)
