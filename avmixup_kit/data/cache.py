"""Decoded data sets kept beside their source, so that a second start does not decode again."""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
DAMAGED = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Class names, and for each split images, uint8 (N, H, W, C), and labels, int64 (N,).

    Both are contiguous.
    """

    classes: tuple[str, ...]
    splits: dict[str, tuple[Tensor, Tensor]]


def cached(
    source: Path,
    files: Callable[[], Iterable[str | Path]],
    decode: Callable[[], Decoded],
    option: str = "",
    folder: str | Path | None = None,
) -> Decoded:
    """What `decode()` returns, from a cache file where one fits the files' sizes and times.

    The cache stands in `folder`, else in $AVMIXUP_CACHE, else beside `source`, and where that
    cannot be written in the user's cache folder. It is written whole or not at all; a cache
    that is damaged or of another state of the source is made anew.

    Args:
        source: the absolute path of the folder or archive; it names the cache.
        files: lists the files on which the result depends, before and after decoding.
        option: how the data were decoded, part of the cache's name.
    """
    places = _places(source, option, folder)
    before = _fingerprint(source, files(), option)
    if before is not None:
        for place in places:
            found = _read(place, before)
            if found is not None:
                return found
    decoded = decode()
    after = _fingerprint(source, files(), option)
    # What was absent has been downloaded; what changed meanwhile is decoded again next time.
    if after is not None and before in (None, after):
        _write(places, decoded, after)
    return decoded


def _places(source: Path, option: str, folder: str | Path | None) -> list[Path]:
    suffix = f"{option and '-' + option}.avmixup-cache.pt"
    # Elsewhere than beside the source, two sources may have one name.
    key = hashlib.sha256(os.fsencode(source)).hexdigest()[:12]
    apart = f"{source.name}-{key}{suffix}"
    chosen = folder or os.environ.get("AVMIXUP_CACHE")
    if chosen:
        return [Path(chosen) / apart]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [source.with_name(source.name + suffix), user / "avmixup_kit" / apart]


def _fingerprint(source: Path, files: Iterable[str | Path], option: str) -> str | None:
    """A digest of sizes, times and names below `source`'s folder; None where a file is absent.

    Names below the folder, so that the cache of a folder that was moved with it still fits.
    """
    above = str(source.parent)
    lines = [repr((FORMAT, option))]
    for file in files:
        try:
            state = os.stat(file)
        except FileNotFoundError:
            return None
        lines.append(f"{str(file).removeprefix(above)}\0{state.st_size}\0{state.st_mtime_ns}")
    # os.fsencode: a name need not be valid Unicode.
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _read(place: Path, fingerprint: str) -> Decoded | None:
    """What the cache file holds, or None where it is absent, of another source, or damaged."""
    if not place.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(place, weights_only=True, mmap=True)
        if content["fingerprint"] != fingerprint:
            return None
        with zipfile.ZipFile(place) as archive:
            bad = archive.testzip()
        if bad is None:
            return Decoded(tuple(content["classes"]), content["splits"])
        reason = f"the checksum of {bad} differs"
    except DAMAGED as error:
        reason = str(error).split("\n")[0]
    warnings.warn(f"{place}: damaged cache, decoding again ({reason})", stacklevel=4)
    return None


def _write(places: list[Path], decoded: Decoded, fingerprint: str) -> None:
    """Write the cache at the first of `places` that takes it; warn where none does."""
    content = {
        "fingerprint": fingerprint,
        "classes": list(decoded.classes),
        "splits": decoded.splits,
    }
    reasons = []
    for place in places:
        # Not by tempfile, whose files nobody else may read.
        partial = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as stream:
                torch.save(content, stream)
            os.replace(partial, place)
            return
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's word for a full disk
            reasons.append(f"{place} ({str(error).splitlines()[0]})")
        finally:
            with suppress(OSError):
                partial.unlink()
    warnings.warn(
        f"no cache written, the next start decodes again: {'; '.join(reasons)}", stacklevel=4
    )
