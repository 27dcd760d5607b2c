"""Image files of a folder or an archive, decoded into one uint8 array, never unpacked to disk.

Whoever made them is not trusted: what they claim is held against the limits below before anything
is decoded, and no more is read than they claimed.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, cast

import torch
from PIL import Image
from torch import Tensor

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
# Pillow's names. All others stay closed: it hands EPS, for one, to Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
PIXELS = 2**26  # of one image: a camera's 67 megapixels
BYTES = 2**28  # of one file or member: that image, not compressed
MEMBERS = 2**21  # of an archive
UNPACKED = 2**36  # bytes of an archive: what is skipped takes time all the same
HEADERS = 2**20  # bytes between two members of a tar: long names, extended headers
DECODED = 2**35  # bytes of all images, and no more than half of what this machine has

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_BROKEN_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    MemoryError,  # lzma's, for a dictionary that it claims to need
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
            holds a link or a name that leads outside; a file that is no regular one (a pipe, a
            device); more or larger members than the limits above.
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
        _regular(path)
        read = _zip_members if path.name.lower().endswith(".zip") else _tar_members
        found = read(path, lambda name: _is_inside(path, name) and wanted(name))
    try:
        yield from found
    except _BROKEN_ARCHIVE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: truncated or altered archive ({reason})") from error


def read_file(path: Path) -> bytes:
    """What a regular file of at most BYTES holds.

    Raises:
        ValueError: it is larger, or a pipe, a device or the like, where reading might never end.
    """
    _limit(path, "bytes", _regular(path), BYTES)
    return path.read_bytes()


def _regular(path: Path) -> int:
    """The size of a regular file; a link counts as what it leads to."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{path}: a pipe, device or socket is not allowed: a regular file is")
    return about.st_size


def _limit(where: object, what: str, count: int, most: int, remedy: str = "") -> None:
    if count > most:
        raise ValueError(f"{where}: {count} {what}: allowed are at most {most}{remedy}")


def _folder_members(path: Path, wanted: Wanted) -> Members:
    for file in files(path):
        name = PurePosixPath(Path(file).relative_to(path).as_posix())
        if wanted(name):
            yield name, read_file(Path(file))


def _is_inside(archive: Path, name: PurePosixPath) -> bool:
    """True for a member to look at, false for a hidden one."""
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{archive}: its member {str(name)!r} leads outside: not allowed")
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def _check_member(archive: Path, name: str, link: bool, size: int, number: int, end: int) -> None:
    """Refuse the member of this number, so large and ending so far in, where it is no data."""
    if link:
        raise ValueError(f"{archive}: its member {name!r} is a link: not allowed")
    _limit(archive, "members", number, MEMBERS)
    _limit(f"{archive}: its member {name!r}", "bytes", size, BYTES)
    _limit(archive, "bytes, unpacked", end, UNPACKED)


def _zip_members(path: Path, wanted: Wanted) -> Members:
    with zipfile.ZipFile(path) as archive:
        end = 0
        for number, info in enumerate(archive.infolist(), 1):
            end += info.file_size
            link = stat.S_ISLNK(info.external_attr >> 16)
            _check_member(path, info.filename, link, info.file_size, number, end)
        for info in archive.infolist():
            name = PurePosixPath(info.filename)
            if wanted(name) and not info.is_dir():
                content = BytesIO()
                # In small pieces: zipfile lets bzip2 and LZMA make what they like of a large one.
                with archive.open(info) as stream:
                    shutil.copyfileobj(stream, content, 4096)
                yield name, content.getvalue()


class _Bounded:
    """A stream that reads no further than it is allowed to: tarfile believes what headers claim."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, HEADERS
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"headers of more than {HEADERS} bytes")
        self.left -= size
        return self.stream.read(size)


def _tar_members(path: Path, wanted: Wanted) -> Members:
    with path.open("rb") as raw:
        start = raw.read(6)
    opener = next((it for magic, it in _OPENERS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as stream:
        bounded = _Bounded(stream)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as archive:
            for number, info in enumerate(archive, 1):
                link = info.issym() or info.islnk()
                _check_member(path, info.name, link, info.size, number, archive.offset)
                name = PurePosixPath(info.name)
                if wanted(name) and info.isfile():
                    bounded.left = info.size
                    content = archive.extractfile(info)
                    assert content is not None  # only for what is no file
                    yield name, content.read()
                # tarfile would keep every header, a kilobyte each.
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
                bounded.left = HEADERS
            _check_end(archive.offset, stream)


def _check_end(offset: int, stream: IO[bytes]) -> None:
    """Raise where a tar ends without its end mark, which tarfile takes for a normal end."""
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no end mark at byte {offset}")
    # The checksum of a compressed file stands at its end.
    for _ in iter(lambda: stream.read(1 << 20), b""):
        if stream.tell() > UNPACKED:
            raise tarfile.ReadError(f"it goes on after its end for {UNPACKED} bytes and more")


def readable(name: str) -> str:
    """A file's name as text; bytes that are not UTF-8 are shown as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def agree(source: Path, what: str, found: dict[str, set[str]]) -> None:
    """Raise ValueError unless two places of a source hold the same names, at least one."""
    (a, ours), (b, theirs) = found.items()
    odd = sorted(ours ^ theirs)
    if odd or not ours:
        raise ValueError(
            f"{source}: {len(ours)} {what} in {a} and {len(theirs)} in {b}: allowed are the "
            f"same ones, at least one{', ' + repr(odd[0]) + ' is in one alone' if odd else ''}"
        )


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    try:
        yield
    except _BROKEN_IMAGE as error:
        raise ValueError(f"{name}: not an image that can be decoded ({error})") from error


@cache
def room() -> int:
    """How many bytes of images are allowed on this machine."""
    try:
        return min(DECODED, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    except (AttributeError, ValueError, OSError):  # not every system can say
        return DECODED


class Decoder:
    """Gathers decoded images and their labels; images grow in one buffer, not in many arrays.

    size: (height, width) to which every image is resized, its shape not kept; None leaves
    images as they are and demands one size of all.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = size
        self._first = ""
        self._bytes = 0
        self._shape: tuple[int, int] | None = size
        self._pixels: dict[str, bytearray] = {}
        self._entries: dict[str, list[tuple[str, str]]] = {}

    def add(self, split: str, label: str, name: str, content: bytes) -> None:
        """Decode `content` to RGB into `split`.

        Raises:
            ValueError: the file is not an 8-bit image of IMAGE_FORMATS, is truncated, or has
                another size; images of more pixels than the limits above.
        """
        said = name if name.isprintable() else ascii(name)  # a message is one line
        with _blamed(said):
            image = Image.open(BytesIO(content), formats=IMAGE_FORMATS)
        self._admit(said, image)
        with _blamed(said):
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            rgb.load()
        if self.size is not None:
            height, width = self.size
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        self._pixels.setdefault(split, bytearray()).extend(rgb.tobytes())
        self._entries.setdefault(split, []).append((label, name))

    def _admit(self, name: str, image: Image.Image) -> None:
        """Refuse an image by its header, before any pixel of it is decoded."""
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{name}: pixels of mode {image.mode}: allowed are 8 bits a channel")
        _limit(name, "pixels", image.width * image.height, PIXELS)
        shape = (image.height, image.width) if self.size is None else self.size
        if self._shape is None:
            self._shape, self._first = shape, name
        if shape != self._shape:
            raise ValueError(
                f"{self._first} is {self._shape[0]}x{self._shape[1]} and {name} is "
                f"{shape[0]}x{shape[1]} (height x width): allowed is one size, or pass size="
            )
        self._bytes += 3 * shape[0] * shape[1]
        _limit(f"all images up to {name}", "bytes", self._bytes, room(), "; fewer, or size=")

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
