"""A layer between the kit and the file system, which sees what is done to files, or hinders it.

Python's own doors are hooked (``open``, ``os.replace``, ``os.fsync``, ...); SQLite writes in C and
is not seen.
"""

import builtins
import contextlib
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

# The operations a disk can refuse, or a kill can cut in two.
KINDS = ("mkdir", "create", "write", "fsync", "rename", "unlink", "settle")


def no_half() -> None:
    """Do nothing: only a write can be half done."""


@dataclass
class Operation:
    """One operation on a file or folder below the root.

    ``path`` is relative to the root, ``target`` where a rename goes; ``half`` does half of a write.
    """

    kind: str
    path: str
    data: bytes = b""
    offset: int = 0
    target: str = ""
    half: Callable[[], None] = field(default=no_half, repr=False)


class Layer:
    """Hooks that are in force inside the ``with``, for what lies below a folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.abspath(root)
        self._real: list[tuple[Any, str, Any]] = []
        self._open: dict[int, str] = {}

    def before(self, operation: Operation) -> None:
        """See an operation before it is done; what this raises is raised in its place."""

    def after(self, operation: Operation) -> None:
        """See an operation that was done."""

    def below(self, path: Any) -> str | None:
        """Return a path relative to the root, None where it lies elsewhere."""
        if not isinstance(path, str | os.PathLike):
            return None
        whole = os.path.abspath(os.fsdecode(path))
        inside = whole == self.root or whole.startswith(self.root + os.sep)
        return os.path.relpath(whole, self.root) if inside else None

    @contextlib.contextmanager
    def doing(self, kind: str, path: str, **more: Any) -> Iterator[None]:
        operation = Operation(kind, path, **more)
        self.before(operation)
        yield
        self.after(operation)

    def __enter__(self) -> Self:
        opened = self._opener(io.open)
        for place, name, hook in (
            (builtins, "open", opened),
            (io, "open", opened),
            (os, "open", self._low(os.open)),
            (os, "fsync", self._synced(os.fsync)),
            (os, "mkdir", self._one("mkdir", os.mkdir)),
            (os, "unlink", self._one("unlink", os.unlink)),
            (os, "remove", self._one("unlink", os.remove)),
            (os, "replace", self._moved(os.replace)),
            (os, "rename", self._moved(os.rename)),
        ):
            self._real.append((place, name, getattr(place, name)))
            setattr(place, name, hook)
        return self

    def __exit__(self, *_: Any) -> None:
        while self._real:
            place, name, real = self._real.pop()
            setattr(place, name, real)

    def _opener(self, real: Any) -> Any:
        def opened(
            file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
            errors: str | None = None, newline: str | None = None, closefd: bool = True,
            opener: Any = None,
        ) -> Any:  # fmt: skip
            path = self.below(file)
            if path is None or not set("wax+") & set(mode):
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = _Raw(self, path, file, mode.replace("b", "").replace("t", ""))
            stream = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return stream
            return io.TextIOWrapper(
                stream, encoding or "utf-8", errors, newline, line_buffering=buffering == 1
            )

        return opened

    def _low(self, real: Any) -> Any:
        def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            inside = self.below(path)
            new = flags & os.O_CREAT and inside is not None and not os.path.exists(path)
            context = self.doing("create", inside or "") if new else contextlib.nullcontext()
            with context:
                handle = real(path, flags, mode, **more)
            self._open.pop(handle, None)
            if inside is not None:
                self._open[handle] = inside
            return handle

        return opened

    def _synced(self, real: Any) -> Any:
        def synced(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            path = self._open.get(number)
            if path is None:
                return real(handle)
            whole = os.path.join(self.root, path)
            # Numbers are given out again: this one may be another file's by now.
            there = os.path.exists(whole) and os.path.samestat(os.stat(whole), os.fstat(number))
            if not there:
                return real(handle)
            with self.doing("settle" if os.path.isdir(whole) else "fsync", path):
                real(handle)

        return synced

    def _one(self, kind: str, real: Any) -> Any:
        def done(path: Any, *more: Any, **options: Any) -> None:
            inside = self.below(path)
            there = kind == "unlink" and not os.path.lexists(path)
            if inside is None or there or (kind == "mkdir" and os.path.isdir(path)):
                return real(path, *more, **options)
            with self.doing(kind, inside):
                real(path, *more, **options)

        return done

    def _moved(self, real: Any) -> Any:
        def moved(source: Any, target: Any, **options: Any) -> None:
            inside, there = self.below(source), self.below(target)
            if inside is None or there is None:
                return real(source, target, **options)
            with self.doing("rename", inside, target=there):
                real(source, target, **options)

        return moved


class _Raw(io.FileIO):
    def __init__(self, layer: Layer, path: str, file: Any, mode: str) -> None:
        self.layer, self.path, self.appends = layer, path, "a" in mode
        new = "w" in mode or not os.path.exists(file)
        with layer.doing("create", path) if new else contextlib.nullcontext():
            super().__init__(file, mode)
        layer._open[self.fileno()] = path  # pyright: ignore[reportPrivateUsage]

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        offset = os.fstat(self.fileno()).st_size if self.appends else self.tell()
        write = super().write

        def half() -> None:
            write(content[: len(content) // 2])

        with self.layer.doing("write", self.path, data=content, offset=offset, half=half):
            return write(content)


class Counter(Layer):
    """Counts operations, to be hindered at each of them in turn."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.kinds: list[str] = []

    def before(self, operation: Operation) -> None:
        self.kinds.append(operation.kind)


class Hindered(Layer):
    """From operation number ``at`` on, ``hinder`` is called with each before it is done."""

    def __init__(self, root: str | Path, at: int, hinder: Callable[[Operation], None]) -> None:
        super().__init__(root)
        self.at, self.hinder, self.count = at, hinder, 0

    def before(self, operation: Operation) -> None:
        self.count += 1
        if self.count > self.at:
            self.hinder(operation)


def kill(operation: Operation) -> None:
    """End this process as ``kill -9`` does, half of a write done."""
    operation.half()
    os.kill(os.getpid(), signal.SIGKILL)


def full(operation: Operation) -> None:
    """Be a full disk: half of what is written fits, new names do not, removing works."""
    if operation.kind in ("write", "create", "mkdir"):
        operation.half()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)


def read_only(operation: Operation) -> None:
    """Be a disk that has become read-only, as one that reports errors is made by the system."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), operation.path)
