"""What an evaluation found: a matrix of attacks by images, and sums of it. It calls nothing."""

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from avmixup_kit._base import check, files, html
from avmixup_kit._base.statistics import wilson
from avmixup_kit._base.tables import text_table
from avmixup_kit.evaluation.images import ImageSet
from avmixup_kit.methods.attacks import Norm
from avmixup_kit.models.export import CARD

CLEAN = "Clean"
"""The row of images without an attack."""

WORST = "worst case"
"""What no attack of an evaluation fooled; may be asked for like a row."""

Rule = Literal["any", "last"]


class Verdict(NamedTuple):
    """What a ``Judge`` found: who is still correct (N,), at what cost, stage by stage.

    ``stages`` says how many images each of its attacks left standing; ``notes`` are for the reader.
    """

    correct: Tensor
    gradients: int
    stages: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


class Judge(Protocol):
    """An attack that keeps its own books: AutoAttack, random search.

    ``judge`` returns who of the images numbered ``standing`` is still correct, all others False,
    and calls ``advance(images)`` as it goes, ``passes`` times the number of those standing at most.
    """

    @property
    def name(self) -> str: ...

    @property
    def epsilon(self) -> float: ...

    @property
    def passes(self) -> int: ...

    def judge(
        self,
        model: nn.Module,
        images: ImageSet,
        standing: Tensor,
        batch_size: int,
        seed: int,
        advance: Callable[[int], object],
    ) -> Verdict: ...


@runtime_checkable
class Refusing(Protocol):
    """A judge, or an objective, that says what it cannot do before the first attack is paid for."""

    def check(self, classes: int, shape: tuple[int, int, int], /) -> None:
        """Raise ValueError unless it can attack (C, H, W) images of so many classes."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model got right: ``correct`` is bool (attacks, examples), row 0 the clean images.

    ``gradients`` counts, for each row, how many input gradients of single images it took; ``rule``
    says when an attack has won: at ``"any"`` iterate, or only with its ``"last"``. With ``ladder``
    a row says what stands after its attack and those before it. ``epsilon`` is the largest of the
    attacks' in ``norm``, which is l-infinity where any attack has it. ``stages`` says how many
    images each attack of a composed row left standing, ``notes`` what a reader should know;
    ``draws`` over how many forwards of a random network answers were means.
    """

    names: tuple[str, ...]
    correct: Tensor
    gradients: tuple[int, ...]
    rule: Rule
    seed: int
    data: str
    epsilon: float | None = None
    ladder: bool = False
    stages: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    draws: int | None = None
    norm: Norm = "linf"

    @property
    def ball(self) -> str:
        """Where attacks were held, in words; empty where none was evaluated."""
        if self.epsilon is None:
            return ""
        number = f"{self.epsilon:.4g}"
        return f"epsilon = {number}" if self.norm == "linf" else f"l2 ball of radius {number}"

    @property
    def n(self) -> int:
        """How many examples were evaluated."""
        return self.correct.shape[1]

    def of(self, name: str) -> Tensor:
        """Return the row of an attack by its name, or of the worst case: bool (N,)."""
        if name == WORST:
            return self.worst()
        if name not in self.names:
            raise ValueError(f"{name!r} was not evaluated: one of {', '.join(self.names)}")
        return self.correct[self.names.index(name)]

    def accuracy(self, name: str = CLEAN) -> float:
        """Return the (robust) accuracy under the named attack, as a fraction."""
        return float(self.of(name).double().mean())

    def interval(self, name: str = CLEAN, confidence: float = 0.95) -> tuple[float, float]:
        """Return Wilson's confidence interval of the accuracy, as fractions."""
        return wilson(int(self.of(name).sum()), self.n, confidence)

    def worst(self) -> Tensor:
        """Return which examples no attack of this evaluation fooled: bool (N,)."""
        return self.correct.all(0)

    def row(self, name: str, digits: int = 2) -> tuple[str, str, str, str]:
        """Return name, accuracy in percent, 95 % interval and n, for a table."""
        low, high = (f"{bound:.{digits}%}" for bound in self.interval(name))
        return name, f"{self.accuracy(name):.{digits}%}", f"{low} to {high}", str(self.n)

    def bracketed(self, name: str) -> str:
        """Return the accuracy in percent with its 95 % interval in brackets."""
        low, high = self.interval(name)
        return f"{self.accuracy(name):.1%} [{low:.1%}, {high:.1%}]"

    def within(self, name: str) -> str:
        """Return the accuracy in percent ± half its 95 % interval.

        Where one end is three times as far away as the other, both ends stand in brackets instead.
        """
        accuracy, (low, high) = self.accuracy(name), self.interval(name)
        below, above = accuracy - low, high - accuracy
        if max(below, above) >= 3 * min(below, above):
            return self.bracketed(name)
        return f"{accuracy:.1%} ± {(high - low) / 2:.1%}"

    def table(self) -> str:
        """Return a text table: attack, accuracy in percent, 95 % interval, n."""
        rows = [("attack", "accuracy", "95 % interval", "n"), *map(self.row, self._rows)]
        return "\n".join([text_table(rows), *self._said])

    @property
    def _rows(self) -> tuple[str, ...]:
        return (*self.names, WORST) if len(self.names) > 2 else self.names

    @property
    def _said(self) -> list[str]:
        return [f"Note: {note}." for note in self.notes]

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        head = ("attack", "accuracy ± half its 95 % interval", "n")
        rows = [head, *((name, self.within(name), str(self.n)) for name in self._rows)]
        said = [html.markup("<p>{}</p>", note) for note in self._said]
        return "\n".join([html.part("table", rows), *said])

    def to_json(self) -> dict[str, object]:
        """Return accuracies, intervals and settings, ready for JSON."""
        return {
            "data": self.data,
            "n": self.n,
            "rule": self.rule,
            "seed": self.seed,
            "accuracy": {name: self.accuracy(name) for name in self.names},
            "interval95": {name: list(self.interval(name)) for name in self.names},
            "worst_case": self.accuracy(WORST),
            "gradients": dict(zip(self.names, self.gradients, strict=True)),
            "epsilon": self.epsilon,
            "norm": self.norm,
            "ladder": self.ladder,
            "stages": {name: dict(stages) for name, stages in self.stages.items()},
            "notes": list(self.notes),
            "draws": self.draws,
        }

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write the whole matrix as .npz; a file is written whole or not at all."""
        content = io.BytesIO()
        stages = {name: list(its) for name, its in self.stages.items()}
        more = {"epsilon": self.epsilon, "ladder": self.ladder, "stages": stages}
        more |= {"notes": list(self.notes), "draws": self.draws, "norm": self.norm}
        np.savez_compressed(
            content,
            names=np.array(self.names),
            correct=self.correct.numpy(),
            gradients=np.array(self.gradients),
            rule=self.rule,
            seed=self.seed,
            data=self.data,
            more=json.dumps(more),
        )
        if isinstance(path, str | Path):
            name = str(path)  # NumPy's own writing gives names their ending, too
            name = name if name.endswith(".npz") else f"{name}.npz"
            files.write_atomic(name, content.getvalue())
        else:
            path.write(content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what ``save`` wrote.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or another's; the message says what is wrong with it.
        """
        file = files.read_npz(path)
        with files.blamed(Path(path), files.DAMAGED):
            more = json.loads(str(file["more"])) if "more" in file else {}
            names, correct = tuple(map(str, file["names"])), file["correct"]
            gradients = tuple(map(int, file["gradients"]))
            sizes = len(correct), len(gradients), correct.ndim, correct.dtype.name
            allowed = f"({len(names)}, {len(names)}, 2, 'bool'), for so many names"
            check.that(sizes == (len(names), len(names), 2, "bool"), "matrix", sizes, allowed)
            return cls(
                names,
                torch.from_numpy(correct),
                gradients,
                "last" if str(file["rule"]) == "last" else "any",
                int(file["seed"]),
                str(file["data"]),
                more.get("epsilon"),
                more.get("ladder", False),
                {
                    name: tuple((str(stage), int(left)) for stage, left in stages)
                    for name, stages in more.get("stages", {}).items()
                },
                tuple(more.get("notes", ())),
                more.get("draws"),
                more.get("norm", "linf"),
            )


def card(result: Evaluation, **about: object) -> dict[str, object]:
    """Return a card in RobustBench's fields, what was measured filled in: ``av.export`` takes it.

    ``clean_acc`` and ``autoattack_acc`` are per cent with two digits, as RobustBench has them;
    ``eps`` is text, "8/255" where it is whole in pixels of 0 to 255; ``number_forward_passes`` the
    draws of a random network. Beside them stand ``n``, ``intervals`` (Wilson's 95 %, per cent) and
    ``accuracies`` of every row, and ``data`` and ``seed``. AutoAttack's accuracy is its lowest
    row's; a footnote says where that is no standard AutoAttack.

    Args:
        about: what is known beside the evaluation: name, authors, dataset, architecture, ...

    Raises:
        ValueError: a measured field was given.
    """
    rows = [name for name in result.names if name.startswith("AutoAttack")]
    strongest = min(rows, key=result.accuracy, default=None)
    standard = strongest in (None, "AutoAttack") and not result.ladder
    measured: dict[str, object] = {
        "clean_acc": f"{100 * result.accuracy():.2f}",
        "autoattack_acc": "" if strongest is None else f"{100 * result.accuracy(strongest):.2f}",
        "eps": "" if result.epsilon is None else _in_pixels(result.epsilon),
        "number_forward_passes": result.draws or 1,
        "n": result.n,
        "accuracies": {name: round(100 * result.accuracy(name), 2) for name in result.names},
        "intervals": {
            name: [round(100 * end, 2) for end in result.interval(name)] for name in result.names
        },
        "data": result.data,
        "seed": result.seed,
    }
    for name in about.keys() & measured.keys():
        check.that(False, name, about[name], f"it was measured, {measured[name]!r}; leave it out")
    if not standard:
        before = " after the attacks before it" if result.ladder else ""
        footnote = f"autoattack_acc is what {strongest} left standing{before}"
        measured["footnote"] = "; ".join(filter(None, [str(about.pop("footnote", "")), footnote]))
    return CARD | about | measured


def _in_pixels(epsilon: float) -> str:
    whole = round(255 * epsilon)
    return f"{whole}/255" if math.isclose(255 * epsilon, whole) else f"{epsilon:g}"
