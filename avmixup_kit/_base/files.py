"""Files that are written whole or not at all, and logs that a kill may have torn."""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from avmixup_kit._base import check

# What reading a file raises that was cut, altered or written by something else.
DAMAGE = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all.

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
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}); the file before it is kept"
        ) from error


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return a log's records; a last line torn by a kill is left out.

    Raises:
        ValueError: another line is no record; the message says which.
    """
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
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
        reason = (str(error) or "it ends too early").splitlines()[0]
        raise ValueError(f"{path} {words} ({type(error).__name__}: {reason})") from error


def held(path: Path, patience: float = 0.0, what: str = "") -> filelock.AcquireReturnProxy:
    """Return a lock file's lock, now ours until the ``with`` block or ``lock.release()`` ends it.

    Args:
        path: of the lock file; the system lets go of it when this process dies.
        patience: seconds to wait for others; -1 is for ever.
        what: is in use by others, for the message.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        return filelock.FileLock(path).acquire(timeout=patience)
    except filelock.Timeout:
        raise BlockingIOError(f"{what or path} is in use by another process") from None
