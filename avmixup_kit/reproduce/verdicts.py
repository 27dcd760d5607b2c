"""What a network got right so far, image by image, kept in its run folder."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avmixup_kit._base import files
from avmixup_kit._base.processes import NOTHING, by_kind
from avmixup_kit.data import Data
from avmixup_kit.evaluation.record import CLEAN, Evaluation
from avmixup_kit.methods.attacks import Attack
from avmixup_kit.reproduce.plans import Column


@dataclass
class Verdicts:
    """What one network got right so far: each attack's verdicts, image by image, -1 not yet."""

    path: Path
    checksum: str
    n: int
    correct: dict[str, np.ndarray] = field(default_factory=dict)
    gradients: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=lambda: {"notes": [], "seconds": NOTHING})

    @classmethod
    def load(cls, path: Path, checksum: str, n: int) -> "Verdicts":
        """Return those of a run folder, none yet where there is no file.

        Raises:
            ValueError: the file is corrupted, or about other images.
        """
        if not path.exists():
            return cls(path, checksum, n)
        words = "is corrupted: remove it, and this network is evaluated again"
        file = files.read_npz(path, words)
        with files.blamed(path, words):
            names = list(map(str, file["names"]))
            correct = dict(zip(names, file["correct"], strict=True))
            gradients = dict(zip(names, map(int, file["gradients"]), strict=True))
            about = {"notes": [], "seconds": NOTHING} | json.loads(str(file["about"]))
            about["seconds"] = by_kind(about["seconds"])
            checked = about["checksum"], [len(row) for row in correct.values()]
        if checked != (checksum, [n] * len(names)):
            raise ValueError(f"{path} is about other test images: choose another --runs")
        return cls(path, checksum, n, correct, gradients, about)

    def save(self) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(list(self.correct)),
            correct=np.array(list(self.correct.values()), np.int8),
            gradients=np.array([self.gradients[name] for name in self.correct]),
            about=json.dumps(self.about | {"checksum": self.checksum}),
        )
        files.write_atomic(self.path, buffer.getvalue())

    def done(self, column: Column) -> bool:
        """Return whether every image has been judged."""
        return column.key in self.correct and bool((self.correct[column.key] >= 0).all())

    def waiting(self, columns: Sequence[Column], first: int, last: int) -> list[Column]:
        """Return the columns that these images have not been judged under."""
        return [
            column
            for column in columns
            if column.key not in self.correct or (self.correct[column.key][first:last] < 0).any()
        ]

    def add(self, key: str, first: int, correct: torch.Tensor, gradients: int) -> None:
        row = self.correct.setdefault(key, np.full(self.n, -1, np.int8))
        row[first : first + len(correct)] = correct.numpy()
        self.gradients[key] = self.gradients.get(key, 0) + gradients

    def evaluation(self, columns: Sequence[Column], data: Data, seed: int) -> Evaluation:
        """Return the columns' verdicts under their titles."""
        keys = [column.key for column in columns]
        return Evaluation(
            tuple(column.title for column in columns),
            torch.from_numpy(np.array([self.correct[key] == 1 for key in keys])),
            tuple(self.gradients[key] for key in keys),
            "any",
            seed,
            data.test.name,
            data.epsilon,
        )


def groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Return columns by what can be evaluated in one call: the quick ones together, the rest alone.

    Of one checkpoint, attacks of different names share their clean pass, and PGD10 is a prefix of
    PGD20. AutoAttack takes longest and is saved by itself.
    """
    found: dict[object, list[Column]] = {}
    before: Counter[tuple[str, str]] = Counter()
    for column in columns:
        key: object = column
        if column.source is None and isinstance(column.attack, Attack | None):
            named = column.checkpoint, CLEAN if column.attack is None else column.attack.name
            key = column.checkpoint, before[named]  # two attacks of one name cannot share a call
            before[named] += 1
        found.setdefault(key, []).append(column)
    return list(found.values())
