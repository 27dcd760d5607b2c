"""Torture the kit for some minutes: ``python -m tests.torture --minutes 30 --seed 0``.

Every try is numbered, and drawn from the seed, its kind and its number alone; one that failed is
tried again with ``--only KIND --number N``. Killed at any moment, the same command goes on. The
kind that has had the least of its share of the time comes next.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from avmixup_kit._base import check, files, provenance
from tests.torture import damage, hindrances, hostile, others, table, works
from tests.torture.children import Skipped, in_child
from tests.torture.hindrances import Reference

Try = Callable[[random.Random, int, Path], Any]


@dataclass(frozen=True)
class Kind:
    """One row of the table: a try, its share of the time, how often at most."""

    what: str
    attempt: Try
    share: float = 1.0
    most: int | None = None
    patience: float = 600


def kinds(work: Path, cycles: int, seed: int) -> Iterator[Kind]:
    """Yield everything that is done to the kit; ``work`` is a folder for what they share."""
    # Whatever else keeps files for later (a cache of downloads) is one more work here.
    every = {one.name: Reference(one, work / "whole" / one.name) for one in works.WORKS}
    hinders = (
        ("killed at any moment", hindrances.at_a_moment, 1.0),
        ("killed at each operation on files", hindrances.at_an_operation, 1.0),
        ("the disk full from an operation on", hindrances.on_a_full_disk, 0.7),
        ("the disk read-only from an operation on", hindrances.on_a_read_only_disk, 0.5),
        ("power lost after an operation", hindrances.without_power, 1.0),
    )
    for reference in every.values():
        slow = 0.6 if reference.work.name in ("search", "reproduce") else 1.0
        for words, hinder, share in hinders:
            yield Kind(f"{reference.work.name}: {words}", _on(reference, hinder), share * slow)
    for name in ("train", "train in pieces", "reproduce"):
        on_small = _on(every[name], hindrances.on_a_small_disk)
        yield Kind(f"{name}: a real disk too small, then read-only", on_small, 0.4)
    shared = Reference(works.Search(name="search", shared=True), work / "whole" / "shared")
    for reference in (every["train"], every["dashboard save"], shared, every["reproduce"]):
        at_once = _on(reference, hindrances.four_at_once)
        yield Kind(f"{reference.work.name}: four processes on one folder", at_once, 0.5)
    for kind in damage.FOLDERS:
        yield Kind(f"{kind.name}: a file of it damaged", _damaged(kind, work), 1.0)
    yield Kind(
        "hostile archives, images, pickles, texts and names",
        lambda chance, number, folder: hostile.attempted(chance, number, folder),
        1.0,
        len(hostile.CASES),
    )
    yield Kind("verdicts under other circumstances", _judged(work), 1.5)
    yield Kind("dashboards opened, turned, closed", _dashboards(cycles), 100.0, 1, 3600)
    draws = 10_000 // others.DRAWN
    yield Kind("settings drawn over every registry", _settings(seed), 3.0, draws)


def _on(reference: Reference, hinder: Any) -> Try:
    def attempt(chance: random.Random, number: int, folder: Path) -> str:
        return hinder(reference, chance, number, folder)

    return attempt


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that was made, once for all tries, by a process of its own."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        in_child(lambda: make(part))
        part.rename(folder)
    return folder


def _damaged(kind: damage.Folder, work: Path) -> Try:
    def attempt(chance: random.Random, number: int, folder: Path) -> str:
        original = _once(work / "damage" / kind.name, kind.make)
        return damage.damaged(kind, original, chance, folder)

    return attempt


def _judged(work: Path) -> Try:
    def attempt(chance: random.Random, number: int, folder: Path) -> str:
        return others.judged_otherwise(
            _once(work / "judged", others.train_to_judge), chance, folder
        )

    return attempt


def _dashboards(cycles: int) -> Try:
    def attempt(chance: random.Random, number: int, folder: Path) -> dict[str, Any]:
        grown = others.dashboards(cycles)
        words = ", ".join(f"{name} {many:+g}" for name, many in grown.items())
        return {"many": {"survived": cycles}, "told": f"over {cycles} of them: {words}"}

    return attempt


def _settings(seed: int) -> Try:
    def attempt(chance: random.Random, number: int, folder: Path) -> dict[str, Any]:
        return {"many": others.settings(seed, number)}

    return attempt


def tried(kind: Kind, seed: int, number: int, work: Path) -> dict[str, Any]:
    """Return what came of one try, made in a process of its own."""
    began = time.monotonic()
    chance = random.Random(f"{seed} {kind.what} {number}")
    folder = work / "try"
    if folder.is_mount():  # of a torture that was killed
        subprocess.run(["umount", str(folder)], check=False)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.with_name("try-said"), ignore_errors=True)
    folder.mkdir(parents=True)
    said: dict[str, Any] = {"what": kind.what, "number": number}
    try:
        found = in_child(lambda: kind.attempt(chance, number, folder), kind.patience)
        more = found if isinstance(found, dict) else {"words": found[:200]}
        said |= {"outcome": "refused" if more.get("words") else "survived"} | more
    except Skipped as reason:
        said |= {"outcome": "skipped", "words": str(reason)}
    except works.Broken as error:
        said |= {"outcome": "failed", "words": str(error)[:600]}
    return said | {"seconds": round(time.monotonic() - began, 2)}


def main() -> int:
    """Torture; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="all calls together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=table.RESULT.parent, help="of the table")
    parser.add_argument("--work", type=Path, default=Path("runs/torture"), help="to go on from")
    parser.add_argument("--tries", type=int, help="so many of each kind, whatever the minutes")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--number", type=int, help="this one try of each kind alone, for a look")
    parser.add_argument("--cycles", type=int, default=others.CYCLES, help="dashboards")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    _warm_up()
    every = [one for one in kinds(asked.work, asked.cycles, asked.seed) if asked.only in one.what]
    if asked.number is not None:
        for kind in every:
            print(json.dumps(tried(kind, asked.seed, asked.number, asked.work), indent=1))
        return 0
    asked.work.mkdir(parents=True, exist_ok=True)
    made = provenance.provenance()
    about = {"seed": asked.seed, "commit": made["commit"], "dirty": made["dirty"]}
    with files.held(asked.work / "lock", what=f"the torture in {asked.work}"):
        return _torture(asked, every, about, made["machine"])


def _warm_up() -> None:
    """Import here what every try would import again, by doing a little of it."""
    for one in (works.Judge(), *([works.Lab()] if find_spec("ipywidgets") else [])):
        with tempfile.TemporaryDirectory() as folder:
            one.run(Path(folder))
    for name in ("optuna", "pyautoattack", "plotly.graph_objects", "ipywidgets", "anywidget"):
        with suppress(ImportError):
            importlib.import_module(name)


def _torture(asked: Any, every: list[Kind], about: dict[str, Any], machine: str) -> int:
    noted = asked.work / "about.json"
    if noted.exists():
        where = f"{asked.work} holds another torture (remove it, or pass another --work)"
        check.same(json.loads(noted.read_text()), about, where)
    noted.write_text(json.dumps(about))
    path = asked.work / "tries.jsonl"
    path.touch()
    tries = files.json_lines(path)
    spent = {kind.what: 0.0 for kind in every}
    many = dict.fromkeys(spent, 0)
    over = set()
    for one in tries:
        if one["what"] in spent:
            spent[one["what"]] += one["seconds"]
            many[one["what"]] += 1
            over |= {one["what"]} if one["outcome"] == "skipped" else set()
    path.write_text("".join(json.dumps(one) + "\n" for one in tries))

    def left(kind: Kind) -> bool:
        most = asked.tries if asked.tries is not None else kind.most
        most = most if kind.most is None else min(kind.most, most or kind.most)
        return kind.what not in over and (most is None or many[kind.what] < most)

    with path.open("a", buffering=1) as file:
        while waiting := [kind for kind in every if left(kind)]:
            if asked.tries is None and sum(spent.values()) >= 60 * asked.minutes:
                break
            kind = min(waiting, key=lambda kind: spent[kind.what] / kind.share)
            one = tried(kind, asked.seed, many[kind.what], asked.work)
            file.write(json.dumps(one) + "\n")
            tries.append(one)
            spent[kind.what] += one["seconds"]
            many[kind.what] += 1
            over |= {kind.what} if one["outcome"] == "skipped" else set()
            if one["outcome"] in ("failed", "skipped"):
                print(f"{one['what']}, try {one['number']}, {one['outcome']}: {one['words']}")
                sys.stdout.flush()
    result = table.counted(tries, about | {"machine": machine, "asked": asked.minutes})
    table.save(result, asked.out)
    print(table.markdown(result))
    return bool(result["failures"])


if __name__ == "__main__":
    raise SystemExit(main())
