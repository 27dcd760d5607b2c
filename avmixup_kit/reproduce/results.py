"""Files of results, and the tables made of them alone: the paper's number above ours.

results/<table>/<scale>/<row>-<seed>.json    what was trained and evaluated, and what came out
results/<table>/<scale>/<row>-<seed>.npz     every verdict, for paired tests
results/<table>/<scale>/table.md             the table
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from avmixup_kit import __version__, methods
from avmixup_kit._base import check, files
from avmixup_kit._base.statistics import over_seeds, wilson
from avmixup_kit._base.tables import markdown_table, text_table
from avmixup_kit.data import DATASETS
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.reproduce import plans
from avmixup_kit.reproduce.plans import Scale, TablePlan
from avmixup_kit.training.settings import Precision, Settings

FORMAT = 1
CORRUPTED = "is corrupted: restore or remove it; nothing was overwritten"


def data_title(name: str) -> str:
    """Return what people call the data set of that name."""
    if name == "cifar10-jpeg":
        return "CIFAR-10 (JPEG mirror)"
    return DATASETS.entries[name].title if name in DATASETS else name


@dataclass(frozen=True)
class Result:
    """One file: a row of a table for one seed."""

    path: Path
    row: str
    seed: int
    about: dict[str, Any]

    @property
    def accuracy(self) -> dict[str, float]:
        """Column to accuracy, as fractions; a column that was not evaluated yet is not there."""
        return self.about["accuracy"]

    @property
    def n(self) -> int:
        """How many test images it is about."""
        return self.about["data"]["n"]

    @property
    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Curves of the training by name, as (steps, fractions)."""
        return {name: (steps, values) for name, (steps, values) in self.about["curves"].items()}

    @property
    def signs(self) -> list[str]:
        """What its training showed signs of (``training.signs``); older files tell none."""
        return [
            f"{self.row}, seed {self.seed}, after {sign['step']} steps: {sign['words']}"
            for sign in self.about.get("signs", ())
        ]

    @property
    def core_hours(self) -> tuple[float, float] | None:
        """Of its training and its evaluation; None where a file does not tell."""
        seconds = self.about.get("processor seconds", {})
        parts = "training", "evaluation for all tables"
        if not set(parts) <= seconds.keys():
            return None
        training, evaluation = (float(seconds[part]) / 3600 for part in parts)
        return training, evaluation

    @property
    def dataset(self) -> str:
        """The data set it is about; a table may be about several."""
        return self.about["run"].split("/")[0]

    @property
    def origin(self) -> dict[str, str]:
        """What it must share with the results beside it."""
        about = self.about
        return origin(self.dataset, about["precision"], about["data"], about["kit"])

    def evaluation(self) -> Evaluation:
        """Return every verdict, ready for ``evaluation.compare``.

        Raises:
            FileNotFoundError: the .npz beside the file is missing.
            ValueError: the .npz is damaged, or says something else than the file.
        """
        path = self.path.with_suffix(".npz")
        found = Evaluation.load(path)
        # A kill between the two writes leaves verdicts with more columns than the file.
        counted = {name: found.accuracy(name) for name in self.accuracy if name in found.names}
        if (counted, found.n) != (self.accuracy, self.n):
            raise ValueError(f"{path} and {self.path.name} do not belong together")
        return found

    @cached_property
    def checked(self) -> bool:
        """Whether its verdicts are there, and say what the file says.

        Raises:
            ValueError: as ``evaluation``.
        """
        if not self.path.with_suffix(".npz").exists():
            return False
        self.evaluation()
        return True


@dataclass(frozen=True)
class Cell:
    """Our accuracy in one cell, as fractions: one value for each seed."""

    values: tuple[float, ...]
    seeds: tuple[int, ...]
    n: int

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval: Student's over seeds; of one seed, Wilson's over images."""
        if len(self.values) == 1:
            return wilson(round(self.values[0] * self.n), self.n)
        mean, half = over_seeds(self.values)
        return mean - half, mean + half

    def __str__(self) -> str:
        low, high = self.interval
        if len(self.values) == 1:
            return f"{100 * self.mean:.2f} [{100 * low:.1f}, {100 * high:.1f}]"
        return f"{100 * self.mean:.2f} ± {50 * (high - low):.2f}"


@dataclass(frozen=True, repr=False)
class Assembled:
    """One table with the paper's numbers and ours, from whatever results are there."""

    plan: TablePlan
    results: tuple[Result, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """The paper's rows, then this kit's own."""
        printed = () if self.plan.published is None else self.plan.published.rows
        return tuple(dict.fromkeys([*printed, *(row.title for row in self.plan.rows)]))

    def of(self, row: str) -> tuple[Result, ...]:
        """Return the results of a row, by seed."""
        return tuple(result for result in self.results if result.row == row)

    def paper(self, row: str, column: str) -> float | None:
        """Return the paper's accuracy in percent, None where it prints none."""
        table = self.plan.published
        if table is None or row not in table.rows or column not in table.columns:
            return None
        return table.value(row, column)

    def cell(self, row: str, column: str) -> Cell | None:
        """Return our accuracy, None where it is missing."""
        there = [result for result in self.of(row) if column in result.accuracy]
        if not there:
            return None
        values = tuple(result.accuracy[column] for result in there)
        return Cell(values, tuple(result.seed for result in there), there[0].n)

    def expected(self, row: str, column: str) -> bool:
        """Return whether the cell is one of ours to fill, whatever is there."""
        ours = {r.title: {c.title for c in r.columns} for r in self.plan.rows}
        return column in ours[row] if row in ours else self.paper(row, column) is not None

    @property
    def missing(self) -> tuple[tuple[str, str], ...]:
        """The (row, column) of every cell that is to be filled."""
        return tuple(
            (row, column)
            for row in self.rows
            for column in self.plan.columns
            if self.expected(row, column) and self.cell(row, column) is None
        )

    def cells(self) -> list[list[str]]:
        """Return the table as text, line by line: of every row the paper's numbers, then ours.

        A row that the paper does not have, or that is not run at this scale, has the other's alone.
        """
        lines = [[self.plan.heading, "", *self.plan.columns, "n", "seeds"]]
        for row in self.rows:
            first = row
            printed = [self.paper(row, column) for column in self.plan.columns]
            if any(value is not None for value in printed):
                texts = ("-" if value is None else f"{value:.2f}" for value in printed)
                lines.append([row, "paper", *texts, "-", "-"])
                first = ""
            found = self.of(row)
            if not found and row in self.plan.impossible:
                continue
            seeds = tuple(result.seed for result in found)
            texts = [self._text(row, column, seeds) for column in self.plan.columns]
            n = str(found[0].n) if found else "missing"
            lines.append([first, "ours", *texts, n, " ".join(map(str, seeds)) or "missing"])
        return lines

    def _text(self, row: str, column: str, seeds: tuple[int, ...]) -> str:
        cell = self.cell(row, column)
        if cell is None:
            return "missing" if self.expected(row, column) else "-"
        few = "" if cell.seeds == seeds else f" (seeds {' '.join(map(str, cell.seeds))})"
        return f"{cell}{few}"

    @property
    def notes(self) -> list[str]:
        """Return what a reader must know, sentence by sentence."""
        scale = self.plan.scale
        notes = [f"Scale {scale.name}. {scale.about}"]
        used = {(r.about["data"]["name"], r.about["data"]["epsilon"]) for r in self.results}
        for name, epsilon in sorted(used):
            radius = f"{255 * epsilon:g}/255" if epsilon < 0.1 else f"{epsilon:g}"
            notes.append(f"Images of ours: {data_title(name)}; epsilon {radius}.")
        notes.append(
            "Accuracy in percent on test images, after the last step unless a column says best. "
            "Ours is the mean over seeds ± half the 95 % interval over seeds (Student's t); of "
            "one seed, Wilson's 95 % interval over images in brackets. An image counts as fooled "
            "when any iterate of an attack fools the network, a transferred one when the last does."
        )
        if self.plan.published is not None and self.plan.published.note:
            notes.append(f"Of the paper's: {self.plan.published.note}")
        if impossible := self.plan.impossible:
            notes.append(f"Not run at this scale: {', '.join(impossible)}.")
        rest = [cell for cell in self.missing if cell[0] not in impossible]
        if rest:
            rows = dict.fromkeys(row for row, _ in rest)
            notes.append(f"Still missing: {len(rest)} cells, in {', '.join(rows)}.")
        if bare := [r.path.with_suffix(".npz").name for r in self.results if not r.checked]:
            notes.append(f"Not checked, for their verdicts are missing: {', '.join(bare)}.")
        if core_hours := self._core_hours():
            notes.append(
                "Core-hours of a network of ours, training with its curves + evaluation for all "
                f"tables, mean over seeds: {', '.join(core_hours)}."
            )
        notes += [f"{sign}." for result in self.results for sign in result.signs]
        extra = [note for result in self.results for note in result.about["notes"]]
        return [*notes, *dict.fromkeys(f"{note}." for note in extra)]

    def _core_hours(self) -> list[str]:
        """Return each row's, where its results tell; older ones only know the clock's hours."""
        found = []
        for row in self.rows:
            parts = [result.core_hours for result in self.of(row)]
            if parts and None not in parts:
                means = np.mean(np.array(parts, float), axis=0)
                found.append(f"{row} {' + '.join(f'{hours:.2f}' for hours in means)}")
        return found

    def text(self) -> str:
        """Return the table for a terminal."""
        return "\n".join([self.plan.title, "", text_table(self.cells()), "", *self.notes])

    def markdown(self) -> str:
        """Return the table in Markdown, as table.md holds it, with title, command and notes."""
        lines = [f"# {self.plan.title}", "", f"`{command(self.plan.name, self.plan.scale.name)}`"]
        notes = (line for note in self.notes for line in ("", note))
        return "\n".join([*lines, "", self._repr_markdown_(), *notes]) + "\n"

    def _repr_markdown_(self) -> str:
        return markdown_table(self.cells(), left=2)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<{self.plan.title}, scale {self.plan.scale.name}, {len(self.results)} results>"


def command(table: str, scale: str, seeds: Sequence[int] = (), precision: str = "") -> str:
    """Return the command that makes a result."""
    words = f"python -m avmixup_kit reproduce {table} --scale {scale}"
    if seeds:
        words += f" --seeds {' '.join(map(str, seeds))}"
    return words + (f" --precision {precision}" if precision else "")


def folder_of(results: str | Path, plan: TablePlan) -> Path:
    """Return where a table's results lie."""
    return Path(results) / plan.name / plan.scale.name


def load(table: str, scale: str | Scale, results: str | Path = "results") -> Assembled:
    """Return a table from the results that are there.

    Raises:
        ValueError: unknown table or scale; a file that is corrupted, of another format, of a row
            that the table does not have or with other settings than the table's; files of two
            versions, two data sets or two precisions side by side.
    """
    scale = plans.scale_named(scale) if isinstance(scale, str) else scale
    first = plans.plan(table, scale)
    folder = folder_of(results, first)
    found = [_read(path, table, scale) for path in sorted(folder.glob("*.json"))]
    _check_together(found)
    order = {row.title: number for number, row in enumerate(first.rows)}
    found.sort(key=lambda result: (order[result.row], result.seed))
    return Assembled(first, tuple(found))


def _read(path: Path, table: str, scale: Scale) -> Result:
    """Return a file's result; refuse one that is not what this table's plan would have made."""
    about = files.read_json(path, words=CORRUPTED)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {about.get('format')}, written by another version of this kit, "
            f"which writes format {FORMAT}: move it away or choose another --results"
        )
    with files.blamed(path, CORRUPTED):
        result = Result(path, str(about["row"]), int(about["seed"]), about)
        # Whatever the table will ask for, so that what is missing is told here.
        _ = result.origin, result.curves, result.core_hours, result.signs, about["notes"]
        _ = about["data"]["name"], about["data"]["epsilon"]
        made = _trained_as(about)
        if not all(0 <= value <= 1 for value in result.accuracy.values()) or result.n < 1:
            raise ValueError("accuracies are not fractions")
    if (about.get("table"), about.get("scale")) != (table, scale.name):
        raise ValueError(
            f"{path} is of {about.get('table')} at scale {about.get('scale')}, not of {table} at "
            f"scale {scale.name}: move it away"
        )
    plan = plans.plan(table, scale, result.seed, cast(Precision, about["precision"]))
    rows = {row.title: row for row in plan.rows}
    if result.row not in rows:
        raise ValueError(f"{path} is of row {result.row!r}, which {table} does not have")
    row = rows[result.row]
    if path.stem != f"{row.slug}-{result.seed}":
        raise ValueError(f"{path} is of row {result.row!r}, seed {result.seed}: it was renamed")
    run = row.run
    planned = {"network": run.network, "method": run.method, "settings": run.settings}
    planned |= {"schedule": run.schedule, "average": run.average}
    check.same(made, planned, f"{path} was not made as {table} at scale {scale.name} is")
    if unknown := result.accuracy.keys() - {column.title for column in row.columns}:
        raise ValueError(f"{path} {CORRUPTED} (no column of {table} is {sorted(unknown)[0]!r})")
    _ = result.checked
    return result


def _trained_as(about: dict[str, Any]) -> dict[str, Any]:
    """Return how a file's network was trained; older files' settings have their defaults."""
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in about["settings"].items()
    }
    return {
        "network": about["network"],
        "method": methods.parse(about["method"]),
        "settings": Settings(**settings),
        "schedule": about.get("schedule", "steps"),
        "average": about.get("average"),
    }


def _check_together(found: Sequence[Result]) -> None:
    """Refuse results of two versions, data sets or precisions side by side."""
    seen: dict[str, str] = {}
    for result in found:
        before = {what: seen.setdefault(what, its) for what, its in result.origin.items()}
        where = (
            f"{result.path} does not belong beside {found[0].path.name} (one table does not mix "
            "them: move one away or choose another --results)"
        )
        check.same(before, result.origin, where)


def origin(
    dataset: str, precision: str, about: dict[str, Any], kit: str = __version__
) -> dict[str, str]:
    """Return what the results of one table must share; ``about`` tells its images' checksums."""
    return {
        "version of the kit": kit,
        "precision": precision,
        f"test images of {dataset}": about["test_checksum"][:12],
        f"training images of {dataset}": about["train_checksum"][:12],
    }


def save(result: Result, evaluation: Evaluation) -> None:
    """Write a row's file and its verdicts, each whole or not at all."""
    files.make_folder(result.path.parent)
    # It never stands beside verdicts of another; those of both are kept in the run folder.
    files.remove(result.path)
    evaluation.save(result.path.with_suffix(".npz"))
    files.write_atomic(result.path, (json.dumps(result.about, indent=1) + "\n").encode())


def write_table(assembled: Assembled, results: str | Path) -> Path:
    """Write table.md and return its path."""
    path = folder_of(results, assembled.plan) / "table.md"
    files.make_folder(path.parent)
    files.write_atomic(path, assembled.markdown().encode())
    return path
