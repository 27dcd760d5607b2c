"""Files written whole or not at all, read whole or blamed; logs that a kill may have torn."""

import errno
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np

from avmixup_kit._base import check

T = TypeVar("T")

# What making sense of a file raises that was cut, altered or written by something else.
DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    EOFError,
    MemoryError,
    RecursionError,
    zipfile.BadZipFile,
)
DAMAGED = "is damaged or of another version"
LARGEST = 2**30  # bytes of a matrix of verdicts, unpacked: 100 attacks on ten million images


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all; once this returns, no power loss takes it.

    Raises:
        OSError: it could not be written (a full disk); what stood there before is kept.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # on a read-only disk it fails, too, and would hide what failed
            part.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}); the file before it is kept"
        ) from error
    settle(path.parent)


def settle(folder: Path) -> None:
    """Have a folder's names on disk, so that no power loss undoes what was renamed or removed."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder to write into that may not be listed: nobody can do more
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of disks that know no such thing
            raise
    finally:
        os.close(handle)


def make_folder(folder: str | Path) -> None:
    """Make a folder, and those above it, unless it is there; no power loss takes it again."""
    folder = Path(folder).absolute()
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        settle(folder.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there, before anything that comes after."""
    path.unlink(missing_ok=True)
    settle(path.parent)


def check_writable(folder: str | Path) -> None:
    """Raise OSError unless files can be written into a folder, before work is done to fill them."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(2**16))
    except OSError as error:
        reason = f"nothing can be written into {folder} ({error.strerror})"
        raise OSError(error.errno, f"{reason}: make room there, or work on a copy") from error


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return a log's records; what a kill or a power loss has torn at its end is left out.

    Raises:
        ValueError: another line is no record; the message says which.
    """
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if b"\0" in line:
                break  # never came to the disk; what follows it was not on disk for good either
            if number < len(lines):
                reason = check.cut(str(error))
                raise ValueError(f"line {number} of {path} is not JSON: {reason}") from error
            continue
        if not isinstance(record, dict):
            raise ValueError(f"line {number} of {path} is no record: {check.said(record)}")
        records.append(record)
    return records


@contextmanager
def blamed(
    path: Path, words: str, errors: type[Exception] | tuple[type[Exception], ...] = DAMAGE
) -> Iterator[None]:
    """Say "path words (error: reason)", in one line, of what goes wrong inside the ``with``.

    Raises:
        ValueError: in place of each of ``errors``.
    """
    try:
        yield
    except errors as error:
        bare = "it is too large" if isinstance(error, MemoryError) else "it ends too early"
        reason = (str(error).strip() or bare).splitlines()[0][:200]
        raise ValueError(f"{path} {words} ({type(error).__name__}: {reason})") from error


def read_json(path: str | Path, kind: type[T] = dict, words: str = DAMAGED) -> T:
    """Return what a JSON file holds, of the given kind.

    What its fields hold is the caller's to check, best inside ``blamed``.

    Raises:
        OSError: it cannot be read; FileNotFoundError where there is none.
        ValueError: "path words (reason)": it is cut, altered, no JSON in UTF-8, or of another kind.
    """
    path = Path(path)
    content = path.read_bytes()
    with blamed(path, words):
        found = json.loads(content.decode())
        if not isinstance(found, kind):
            raise TypeError(f"it holds a {type(found).__name__}, not a {kind.__name__}")
        return found


def read_npz(path: str | Path, words: str = DAMAGED) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; nothing in it is unpickled.

    Raises:
        OSError: it cannot be read; FileNotFoundError where there is none.
        ValueError: "path words (reason)": it is cut, altered, no .npz file, or larger than LARGEST.
    """
    path = Path(path)
    # From memory: numpy leaves a damaged file open that it opened itself.
    content = io.BytesIO(path.read_bytes())
    # What it may raise is past listing: errors of zlib, struct, tokenize, zipfile's RuntimeErrors.
    with blamed(path, words, Exception):
        with zipfile.ZipFile(content) as archive:
            size = sum(info.file_size for info in archive.infolist())
        check.that(size <= LARGEST, "its size, unpacked", size, f"at most {LARGEST} bytes")
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        for name, array in arrays.items():
            check.that(isinstance(array, np.ndarray), name, type(array).__name__, "an array")
        return arrays


def held(path: Path, patience: float = 1.0, what: str = "") -> filelock.AcquireReturnProxy:
    """Return a lock file's lock, now ours until the ``with`` block or ``lock.release()`` ends it.

    Args:
        path: of the lock file; the system lets go of it when this process dies.
        patience: seconds to wait for others; -1 is for ever. What a process that was killed had
            just started (git, say) may hold its lock for a moment longer, and one that only looks
            whether there is a run holds it no longer.
        what: is in use by others, for the message.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        return filelock.FileLock(path).acquire(timeout=patience)
    except filelock.Timeout:
        raise BlockingIOError(f"{what or path} is in use by another process") from None
