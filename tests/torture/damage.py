"""Every file the kit writes, with a bit flipped, cut, or overwritten: refused, or read as it was.

Text (JSON, logs, SQLite) carries no checksum, so there a changed number may be read as one; what is
asked for there is that no weight, verdict or file follows from it that was not refused, and no
error but in one line.
"""

import itertools
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import avmixup_kit as av
from avmixup_kit import runs
from tests.torture.works import (
    EPSILON,
    PIECES,
    Broken,
    Reproduce,
    Search,
    Train,
    digest,
    digits,
    go_on,
    refusal,
)


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file, and say how."""
    content = bytearray(path.read_bytes())
    how = chance.choice(("flip", "flip", "flip", "cut", "garbage", "zeros", "more", "empty"))
    at = chance.randrange(len(content)) if content else 0
    if how == "flip" and content:
        content[at] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del content[at:]
    elif how in ("garbage", "zeros"):
        length = chance.randrange(1, 64)
        content[at : at + length] = chance.randbytes(length) if how == "garbage" else bytes(length)
    elif how == "more":
        content += chance.randbytes(chance.randrange(1, 64))
    else:
        content.clear()
    path.write_bytes(content)
    return f"{path.name}, {how} at byte {at}"


def tried(*readers: Callable[[], object]) -> str:
    """Return the first refusal of some readers, "" where all read."""
    said = ""
    for read in readers:
        try:
            read()
        except Exception as error:
            said = said or refusal(error)
    return said


class Folder:
    """Something the kit wrote, and how it is read."""

    name = ""

    def make(self, folder: Path) -> None:
        """Write it."""

    def files(self, folder: Path) -> list[Path]:
        """Return what can be damaged."""
        found = (path for path in folder.rglob("*") if path.is_file())
        return sorted(p for p in found if p.suffix not in (".lock", ".claim") and p.name != "lock")

    def read(self, folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
        """Return the refusal, or "" and what was read."""
        raise NotImplementedError


class HalfRun(Folder):
    """A run that ended before its last step, with checkpoints in pieces or not."""

    def __init__(self, work: Train) -> None:
        self.work, self.name = work, f"run folder ({work.name})"

    def make(self, folder: Path) -> None:
        replace(self.work, until=self.work.steps - 3).run(folder)
        write_verdicts(folder / "run")

    def read(self, folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
        run, found = folder / "run", {}
        said = tried(
            lambda: runs.open(run).log,
            lambda: runs.open(run).evaluation,
            lambda: runs.about(run),
            lambda: runs.images_of(run),
            lambda: runs.curves_of(run),
            lambda: runs.turns_of(run),
        )
        went_on = go_on(self.work, folder)
        if not went_on:
            went_on = tried(lambda: found.update(self.work.made(folder)))
        # A number in the log that is another one now is read as it stands.
        found.pop("log", None)
        return went_on or said, found


class Judged(Folder):
    """A run's verdicts."""

    name = "verdicts"

    def make(self, folder: Path) -> None:
        write_verdicts(folder)

    def files(self, folder: Path) -> list[Path]:
        return [folder / "correct.npz"]

    def read(self, folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
        found = {}

        def read() -> None:
            result = av.Evaluation.load(folder / "correct.npz")
            _ = str(result)
            found.update(correct=digest(result.correct), names=list(result.names), n=result.n)

        return tried(read), found


class Searched(Folder):
    """A search, whose study nobody else keeps."""

    name = "search"

    def make(self, folder: Path) -> None:
        Search().run(folder)

    def read(self, folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
        from avmixup_kit import search

        said = tried(lambda: str(search.Found.load(folder / "search")))
        return go_on(Search(), folder) or said, {}


class Reproduced(Folder):
    """Results of a table, and the run folders they came of."""

    name = "reproduce"

    def make(self, folder: Path) -> None:
        Reproduce().run(folder)

    def read(self, folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
        found: dict[str, Any] = {}
        if "runs" in path.relative_to(folder).parts:
            shutil.rmtree(folder / "results")
        said = go_on(Reproduce(), folder)
        said = said or tried(lambda: found.update(Reproduce().made(folder)))
        return said, {name: mark for name, mark in found.items() if name.endswith(".npz")}


class Cached(Folder):
    """Images of a folder, decoded once."""

    name = "image cache"

    def make(self, folder: Path) -> None:
        write_images(folder / "images")
        self._load(folder)

    def files(self, folder: Path) -> list[Path]:
        return list(folder.glob("*avmixup-cache.pt"))

    def _load(self, folder: Path) -> av.Data:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is decoded again, with a warning
            return av.data.load("image_folder", path=folder / "images", validation=0.0)

    def read(self, folder: Path, path: Path) -> tuple[str, dict[str, Any]]:
        loaded = self._load(folder)
        return "", {"train": loaded.train.checksum, "test": loaded.test.checksum}


def write_images(folder: Path, classes: tuple[str, ...] = ("a", "b")) -> None:
    """Write a folder of a few small images of noise, the same each time."""
    noise = np.random.default_rng(0)
    for part, label in itertools.product(("train", "test"), classes):
        place = folder / part / label
        place.mkdir(parents=True)
        for number in range(3):
            pixels = noise.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


def write_verdicts(folder: Path) -> None:
    """Evaluate an untrained network on a few images, into a folder."""
    model = av.small_cnn(digits(), base_channels=4)
    result = av.evaluate(model, digits().test.subset(20), [av.fgsm(EPSILON)], check=False)
    runs.save_evaluation(folder, result)


FOLDERS: tuple[Folder, ...] = (
    HalfRun(Train()),
    HalfRun(PIECES),
    Judged(),
    Searched(),
    Reproduced(),
    Cached(),
)


def whole(kind: Folder, original: Path) -> dict[str, Any]:
    """Return what is read of the folder where nothing is damaged."""
    told = original.with_name(f"{original.name}.json")
    if not told.exists():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(original, Path(folder) / "copy"))
            said, found = kind.read(copy, kind.files(copy)[0])
            if said:
                raise Broken(f"{kind.name}, undamaged, is refused: {said}")
            told.write_text(json.dumps(found))
    return json.loads(told.read_text())


def damaged(kind: Folder, original: Path, chance: random.Random, folder: Path) -> str:
    """Damage one file of a copy, and read; return the refusal, "" where it was as it had been.

    Raises:
        Broken: it was read as something else, or went wrong in another way than a refusal.
    """
    shutil.rmtree(folder)
    shutil.copytree(original, folder)
    chosen = chance.choice(kind.files(folder))
    how = damage(chosen, chance)
    try:
        said, found = kind.read(folder, chosen)
    except Broken as error:
        raise Broken(f"{how}: {error}") from error
    except Exception as error:
        raise Broken(f"{how}: {type(error).__name__}: {error}") from error
    if not said and found != whole(kind, original):
        raise Broken(f"{how}: read as something else, without a word")
    return said
