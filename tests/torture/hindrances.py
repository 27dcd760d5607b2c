"""What happens to a work: kills, full and read-only disks, power losses. Then it goes on."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avmixup_kit._base import files
from tests.torture.children import Skipped, ended, in_child, start
from tests.torture.disk import one_loss
from tests.torture.layer import Counter, Hindered, Operation, full, kill, read_only
from tests.torture.power_loss import operations_of, survive
from tests.torture.works import Broken, Work, apart, go_on, refusal


@dataclass(frozen=True)
class Reference:
    """A work that was left alone: its folder, what it made, how long, after which operations."""

    work: Work
    folder: Path

    @cached_property
    def told(self) -> dict[str, Any]:
        path = self.folder / "told.json"
        if not path.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            path.write_text(json.dumps(in_child(self._made)))
        return json.loads(path.read_text())

    @property
    def made(self) -> dict[str, Any]:
        return self.told["made"]

    @property
    def whole(self) -> Path:
        """The folder, as it is when all is done."""
        _ = self.told
        return self.folder / "whole"

    def _made(self) -> dict[str, Any]:
        began, whole = time.monotonic(), self.folder / "whole"
        whole.mkdir()
        with Counter(whole) as counter:
            self.work.run(whole)
        seconds = time.monotonic() - began
        return {"made": self.work.made(whole), "seconds": seconds, "kinds": counter.kinds}

    @cached_property
    def operations(self) -> list[Operation]:
        """What it does to files; recorded once, by the first who asks."""
        path = self.folder / "operations"
        if not path.exists():
            _ = self.told
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                done = operations_of(self.work, Path(folder) / "recorded")
            files.write_atomic(path, pickle.dumps(done))
        return pickle.loads(path.read_bytes())


def _ends_alike(reference: Reference, folder: Path) -> None:
    said = go_on(reference.work, folder)
    if said:
        raise Broken(f"it does not go on: {said}")
    if (made := reference.work.made(folder)) != reference.made:
        wrong = [key for key in reference.made if made.get(key) != reference.made[key]]
        both = [apart(reference.made[key], made.get(key)) for key in wrong]
        raise Broken(f"not as one left alone: {wrong}, which were and are {both}")


def at_a_moment(reference: Reference, chance: random.Random, number: int, folder: Path) -> str:
    """Kill it up to three times at random moments."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        process = start(lambda: reference.work.run(folder))
        time.sleep(chance.random() * 1.1 * reference.told["seconds"])
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        status = ended(process)
        if status not in (0, -signal.SIGKILL):
            raise Broken(f"it does not go on after a kill (status {status})")
    _ends_alike(reference, folder)
    return ""


def _hindered(
    reference: Reference, number: int, hinder: Callable[[Operation], None], folder: Path
) -> tuple[int, str]:
    at = number % len(reference.told["kinds"])
    with Hindered(folder, at, hinder):
        said = go_on(reference.work, folder)
    return at, said


def at_an_operation(reference: Reference, chance: random.Random, number: int, folder: Path) -> str:
    """Kill it at one operation on files after the other, half of a write done."""
    process = start(lambda: _hindered(reference, number, kill, folder))
    if (status := ended(process)) != -signal.SIGKILL:
        raise Broken(f"it was not killed (status {status})")
    _ends_alike(reference, folder)
    return ""


def on_a_full_disk(reference: Reference, chance: random.Random, number: int, folder: Path) -> str:
    """Have nothing more fit on the disk from one operation on; then there is room again."""
    at, said = _hindered(reference, number, full, folder)
    if said and (parts := list(folder.rglob("*.part"))):
        raise Broken(f"full at operation {at}: {parts[0].name} stays")
    _ends_alike(reference, folder)
    return said


def on_a_read_only_disk(
    reference: Reference, chance: random.Random, number: int, folder: Path
) -> str:
    """Have the disk become read-only at one operation; then it can be written again."""
    _, said = _hindered(reference, number, read_only, folder)
    _ends_alike(reference, folder)
    return said


def without_power(reference: Reference, chance: random.Random, number: int, folder: Path) -> str:
    """Lose power after one operation, and with it what was not on disk for good."""
    loss = one_loss(reference.operations, chance)
    return survive(reference.work, loss, folder, reference.made)


def on_a_small_disk(reference: Reference, chance: random.Random, number: int, folder: Path) -> str:
    """Fill a real disk in memory, make it read-only or larger, and go on."""

    def mount(*words: str) -> None:
        done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"no disk can be mounted here: {done.stderr.strip()}")

    size = sum(path.stat().st_size for path in reference.whole.rglob("*") if path.is_file())
    mount("-t", "tmpfs", "-o", f"size={int(size * (0.1 + chance.random())) // 4096 * 4}k", "tmpfs")
    try:
        said = go_on(reference.work, folder)
        mount("-o", "remount,ro")
        if not go_on(reference.work, folder) and said:
            raise Broken("it went on where nothing can be written")
        mount("-o", f"remount,rw,size={4 * size + 2**20}")
        _ends_alike(reference, folder)
    finally:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)
    return said


def four_at_once(reference: Reference, chance: random.Random, number: int, folder: Path) -> str:
    """Start four processes on one folder at the same time: one works, or all do, and all agree."""
    gate = folder / "gate"
    said = folder.parent / f"{folder.name}-said"
    said.mkdir()

    def work(name: str) -> None:
        while not gate.exists():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        try:
            reference.work.run(folder)
        except Exception as error:
            (said / name).write_text(refusal(error))

    processes = [start(lambda name=name: work(name)) for name in "abcd"]
    gate.touch()
    if any(ended(process) for process in processes):
        raise Broken("one of four was refused in more than a line")
    gate.unlink()
    refused = list(said.iterdir())
    if len(refused) == 4:
        raise Broken(f"all four were refused: {refused[0].read_text()}")
    words = refused[0].read_text() if refused else ""
    shutil.rmtree(said)
    _ends_alike(reference, folder)
    return words
