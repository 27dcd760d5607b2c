"""What a power loss leaves: recorded operations, and the disks that any prefix of them may become.

Strict, as POSIX is: what was written to a file is on disk for good once the file was fsynced, what
was done to names (created, renamed, removed) once their folder was. Of the rest, any part may be
there: nothing, all, the first half, zeros in its place.
"""

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.layer import Layer, Operation


class Recorder(Layer):
    """Records operations, what was promised between them (``promise``), and foreign writers' files.

    ``foreign`` names files that SQLite writes: each of their commits counts as one rename, which is
    on disk for good once the folder is settled, for SQLite commits by removing its journal and
    does not have that removal on disk.
    """

    def __init__(self, root: str | Path, foreign: tuple[str, ...] = ()) -> None:
        super().__init__(root)
        self.operations: list[Operation] = []
        self.foreign: dict[str, bytes] = dict.fromkeys(foreign, b"")

    def after(self, operation: Operation) -> None:
        self.operations.append(operation)

    def before(self, operation: Operation) -> None:
        for path, known in self.foreign.items():
            whole = Path(self.root, path)
            content = whole.read_bytes() if whole.exists() else b""
            if content != known:
                self.foreign[path] = content
                self.operations.append(Operation("commit", path, content))

    def promise(self, what: Any) -> None:
        """Note that from here on, ``what`` must survive every power loss."""
        self.operations.append(Operation("promise", str(what)))


@dataclass
class _File:
    content: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def variants(self) -> list[bytes]:
        """Return what may be found of it after a power loss."""
        if not self.pending:
            return [self.content]
        whole, holes, first = (bytearray(self.content) for _ in range(3))
        for number, (offset, data) in enumerate(self.pending):
            _put(whole, offset, data)
            _put(holes, offset, bytes(len(data)))
            _put(first, offset, data if number else bytes(len(data)))
        torn = bytearray(self.content)
        for offset, data in self.pending[:-1]:
            _put(torn, offset, data)
        offset, data = self.pending[-1]
        _put(torn, offset, data[: len(data) // 2])
        found = [self.content, whole, holes, torn, first]
        return list(dict.fromkeys(bytes(variant) for variant in found))


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


class _Disk:
    """The disk after some operations: what is there for good, and what is on its way."""

    def __init__(self) -> None:
        self.files: list[_File] = []
        self.now: dict[str, int] = {}
        self.settled: dict[str, int | None] = {}
        # Of each folder: (name that goes, name that comes, its file or None for a folder).
        self.waiting: dict[str, list[tuple[str | None, str | None, int | None]]] = {}

    def do(self, operation: Operation) -> None:
        kind, path = operation.kind, operation.path
        if kind == "create" and path not in self.now:
            self._name(path, self._new(b""))
        elif kind == "create":
            self.files[self.now[path]] = _File()  # truncated: at once, which is the worst
        elif kind == "commit":
            self._name(path, self._new(operation.data))
        elif kind == "write":
            self.files[self.now[path]].pending.append((operation.offset, operation.data))
        elif kind == "fsync":
            file = self.files[self.now[path]]
            whole = bytearray(file.content)
            for offset, data in file.pending:
                _put(whole, offset, data)
            self.files[self.now[path]] = _File(bytes(whole))
        elif kind == "mkdir":
            self._wait(path, (None, path, None))
        elif kind == "rename":
            number = self.now.pop(path)
            self.now[operation.target] = number
            self._wait(path, (path, operation.target, number))
        elif kind == "unlink":
            del self.now[path]
            self._wait(path, (path, None, None))
        elif kind == "settle":
            for change in self.waiting.pop(path, []):
                _apply(self.settled, change)

    def _new(self, content: bytes) -> int:
        self.files.append(_File(content))
        return len(self.files) - 1

    def _name(self, path: str, number: int) -> None:
        self.now[path] = number
        self._wait(path, (None, path, number))

    def _wait(self, path: str, change: tuple[str | None, str | None, int | None]) -> None:
        self.waiting.setdefault(os.path.dirname(path) or ".", []).append(change)

    def lost(self, chance: random.Random, most: int) -> Iterator[dict[str, bytes | None]]:
        """Yield what may be found after a power loss: contents by name, None for a folder."""
        waiting = [change for changes in self.waiting.values() for change in changes]
        many = 2 ** len(waiting)
        if many <= most:
            chosen = list(itertools.product((False, True), repeat=len(waiting)))
        else:
            every = [[True] * len(waiting), [False] * len(waiting)]
            drawn = [[chance.random() < 0.5 for _ in waiting] for _ in range(most - 2)]
            chosen = [*every, *drawn]
        for came in chosen:
            names = dict(self.settled)
            for change, there in zip(waiting, came, strict=True):
                if there:
                    _apply(names, change)
            names = {p: n for p, n in names.items() if self._reachable(p, names)}
            variants = [
                [None] if number is None else self.files[number].variants()
                for number in names.values()
            ]
            for contents in itertools.islice(itertools.product(*variants), most):
                yield dict(zip(names, contents, strict=True))

    def _reachable(self, path: str, names: dict[str, int | None]) -> bool:
        above = os.path.dirname(path)
        return not above or (above in names and self._reachable(above, names))


def _apply(names: dict[str, int | None], change: tuple[str | None, str | None, int | None]) -> None:
    goes, comes, number = change
    if goes is not None:
        names.pop(goes, None)
    if comes is not None:
        names[comes] = number


@dataclass(frozen=True)
class Loss:
    """One disk after a power loss, and what had been promised before it.

    ``folder`` lays it out.
    """

    after: int
    promised: tuple[str, ...]
    contents: dict[str, bytes | None]

    def lay_out(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, content in sorted(self.contents.items()):
            path = folder / name
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content)
        return folder


def one_loss(operations: list[Operation], chance: random.Random) -> Loss:
    """Return one disk that a power loss after one of the operations may leave, drawn."""
    disk, after = _Disk(), chance.randrange(len(operations) + 1)
    for operation in operations[:after]:
        if operation.kind != "promise":
            disk.do(operation)
    promised = tuple(one.path for one in operations[:after] if one.kind == "promise")
    return Loss(after, promised, chance.choice(list(disk.lost(chance, 8))))


def losses(operations: list[Operation], seed: int = 0, most: int = 16) -> Iterator[Loss]:
    """Yield every disk that a power loss after any of the operations may leave, each once.

    Args:
        most: how many disks are tried for each set of names, and how many sets of names, of one
            moment; beyond that they are drawn.
    """
    chance, disk = random.Random(seed), _Disk()
    promised: list[str] = []
    seen = set()
    for number, operation in enumerate([Operation("nothing", ""), *operations]):
        if operation.kind == "promise":
            promised.append(operation.path)
        else:
            disk.do(operation)
        for contents in disk.lost(chance, most):
            mark = (tuple(promised), tuple(sorted(contents.items())))
            if mark not in seen:
                seen.add(mark)
                yield Loss(number, tuple(promised), contents)
