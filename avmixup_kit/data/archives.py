"""Image files of a folder or an archive, decoded into one uint8 array, never unpacked to disk."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

import torch
from PIL import Image
from torch import Tensor

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")

_BROKEN_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile's for an encrypted or unknown compression
)
_BROKEN_IMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

Wanted = Callable[[PurePosixPath], bool]
Members = Iterator[tuple[PurePosixPath, bytes]]


def files(folder: Path) -> Iterator[str]:
    """The path of every file below `folder` that is not hidden, in the order of names."""
    # Strings: a Path for each of 60 000 files takes a second.
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, n) for n in sorted(names) if not n.startswith("."))


def members(path: Path, wanted: Wanted) -> Members:
    """Name and content of each wanted file below a folder or in an archive.

    Hidden files are left out. Nothing is written to disk; a member that is a link or leads
    outside its folder is refused all the same: an archive that holds one is no data set.

    Raises:
        FileNotFoundError: there is nothing at path.
        ValueError: path is no folder and no archive, or the archive is truncated, altered, or
            holds a link or a name that leads outside.
    """
    if path.is_dir():
        found = _folder_members(path, wanted)
    elif not path.exists():
        raise FileNotFoundError(f"path={str(path)!r}: there is no such folder or archive")
    elif not path.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise ValueError(
            f"path={str(path)!r}: allowed is a folder or {', '.join(ARCHIVE_SUFFIXES)}"
        )
    else:
        read = _zip_members if path.name.lower().endswith(".zip") else _tar_members
        found = read(path, lambda name: _is_inside(path, name) and wanted(name))
    try:
        yield from found
    except _BROKEN_ARCHIVE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: truncated or altered archive ({reason})") from error


def _folder_members(path: Path, wanted: Wanted) -> Members:
    for file in files(path):
        name = PurePosixPath(Path(file).relative_to(path).as_posix())
        if wanted(name):
            yield name, Path(file).read_bytes()


def _is_inside(archive: Path, name: PurePosixPath) -> bool:
    """True for a member to look at, false for a hidden one."""
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{archive}: its member {str(name)!r} leads outside: not allowed")
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _zip_members(path: Path, wanted: Wanted) -> Members:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = PurePosixPath(info.filename)
            if wanted(name) and not info.is_dir():
                yield name, archive.read(info)


def _tar_members(path: Path, wanted: Wanted) -> Members:
    with tarfile.open(path) as archive:
        for info in archive:
            name = PurePosixPath(info.name)
            if info.issym() or info.islnk():
                raise ValueError(f"{path}: its member {info.name!r} is a link: not allowed")
            if wanted(name) and info.isfile():
                stream = archive.extractfile(info)
                assert stream is not None  # only for what is no file
                yield name, stream.read()
            # tarfile would keep every header, a kilobyte each.
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise where a tar ends without its end mark, which tarfile takes for a normal end."""
    stream: IO[bytes] | None = archive.fileobj  # type: ignore[assignment]
    assert stream is not None
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no end mark at byte {archive.offset}")
    # The checksum of a compressed file stands at its end.
    while stream.read(1 << 20):
        pass


def agree(source: Path, what: str, found: dict[str, set[str]]) -> None:
    """Raise ValueError unless two places of a source hold the same names, at least one."""
    (a, ours), (b, theirs) = found.items()
    odd = sorted(ours ^ theirs)
    if odd or not ours:
        raise ValueError(
            f"{source}: {len(ours)} {what} in {a} and {len(theirs)} in {b}: allowed are the "
            f"same ones, at least one{', ' + repr(odd[0]) + ' is in one alone' if odd else ''}"
        )


class Decoder:
    """Gathers decoded images and their labels; images grow in one buffer, not in many arrays.

    size: (height, width) to which every image is resized, its shape not kept; None leaves
    images as they are and demands one size of all.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = size
        self._first = ""
        self._shape: tuple[int, int] | None = size
        self._pixels: dict[str, bytearray] = {}
        self._entries: dict[str, list[tuple[str, str]]] = {}

    def add(self, split: str, label: str, name: str, content: bytes) -> None:
        """Decode `content` to RGB into `split`.

        Raises:
            ValueError: the file is not an 8-bit image, is truncated, or has another size.
        """
        try:
            image = Image.open(BytesIO(content))
            mode = image.mode
            rgb = image if mode == "RGB" else image.convert("RGB")
            rgb.load()
        except _BROKEN_IMAGE as error:
            raise ValueError(f"{name}: not an image that can be decoded ({error})") from error
        if mode.startswith(("I", "F")):
            raise ValueError(f"{name}: pixels of mode {mode}: allowed are 8 bits a channel")
        if self.size is not None:
            height, width = self.size
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        shape = (rgb.height, rgb.width)
        if self._shape is None:
            self._shape, self._first = shape, name
        if shape != self._shape:
            raise ValueError(
                f"{self._first} is {self._shape[0]}x{self._shape[1]} and {name} is "
                f"{shape[0]}x{shape[1]} (height x width): allowed is one size, or pass size="
            )
        self._pixels.setdefault(split, bytearray()).extend(rgb.tobytes())
        self._entries.setdefault(split, []).append((label, name))

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def labels(self, split: str) -> list[str]:
        """The label of each image of `split`, as they came."""
        return [label for label, _ in self._entries.get(split, [])]

    def tensors(self, split: str, index: dict[str, int]) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, 3) and int64 (N,) by `index`, in the order of label and name.

        That order makes a folder and an archive of it the same data.
        """
        assert self._shape is not None
        entries = self._entries[split]
        pixels = torch.frombuffer(self._pixels[split], dtype=torch.uint8)
        pixels = pixels.view(-1, *self._shape, 3)
        order = sorted(range(len(entries)), key=entries.__getitem__)
        labels = torch.tensor([index[entries[i][0]] for i in order])
        return (pixels if order == list(range(len(order))) else pixels[order]), labels
