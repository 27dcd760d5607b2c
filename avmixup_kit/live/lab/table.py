"""A table of all runs side by side: a row for each evaluation, one for a run that has none."""

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from avmixup_kit._base import html
from avmixup_kit.evaluation.record import WORST, Evaluation
from avmixup_kit.live.lab.menu import settings, title
from avmixup_kit.live.lab.run import LiveRun

ATTACKS = ("Clean", "FGSM", "PGD20", "CW20", "AutoAttack (quick)", WORST)
COLUMNS = ("run", "settings", "step", "images", *ATTACKS)


class Row:
    """One line: a run, and what an evaluation of it found."""

    def __init__(self, run: LiveRun, step: int, evaluation: Evaluation | None) -> None:
        self.evaluation, training = evaluation, run.training
        method = run.method_at(step) if step < training.step else run.method
        said = [title(method, "your own method"), *settings(method)]
        said += [f"lr {training.settings.lr:g}", f"seed {training.settings.seed}"]
        images = evaluation.n if evaluation else None
        self.cells: dict[str, Any] = {
            "run": run.name,
            "settings": ", ".join(said),
            "step": step,
            "images": images,
        }
        if evaluation:
            names = [name for name in ATTACKS if name in (*evaluation.names, WORST)]
            self.cells |= {name: evaluation.accuracy(name) for name in names}

    def shown(self, column: str) -> str:
        """Return a cell for people: an accuracy with its 95 % interval."""
        value = self.cells.get(column)
        if value is None:
            return "–"
        if column not in ATTACKS or self.evaluation is None:
            return str(value)
        return self.evaluation.within(column)


def rows(runs: Iterable[LiveRun]) -> list[Row]:
    """Return the rows of runs in their order."""
    return [
        Row(run, step, evaluation)
        for run in runs
        for step, evaluation in run.evaluations or [(run.training.step, None)]
    ]


def ordered(lines: Iterable[Row], column: str, descending: bool) -> list[Row]:
    """Return rows by one column, "" being none; those that have nothing there stand last."""
    lines = list(lines)
    there = [row for row in lines if row.cells.get(column) is not None]
    there.sort(key=lambda row: row.cells[column], reverse=descending)
    return there + [row for row in lines if row.cells.get(column) is None]


def as_csv(lines: Iterable[Row]) -> str:
    """Return rows as CSV: accuracies as fractions, each with the ends of its 95 % interval."""
    file = io.StringIO()
    ends = [f"{name} {end}" for name in ATTACKS for end in ("low", "high")]
    writer = csv.DictWriter(file, [*COLUMNS, *ends], lineterminator="\n")
    writer.writeheader()
    for row in lines:
        cells = {name: _inert(value) for name, value in row.cells.items()}
        for name in ATTACKS:
            if row.evaluation and name in cells:
                low, high = row.evaluation.interval(name)
                cells |= {f"{name} low": low, f"{name} high": high}
        writer.writerow(cells)
    return file.getvalue()


def _inert(value: Any) -> Any:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


def drawn(lines: Sequence[Row], column: str, descending: bool, to: str) -> str:
    """Return rows as an HTML table whose headings, pressed, are told to the figure ``to``."""
    content = base64.b64encode(as_csv(lines).encode("utf-8", "backslashreplace")).decode()
    shown = [[row.shown(name) for name in COLUMNS] for row in ordered(lines, column, descending)]
    by = {column: "descending" if descending else "ascending"}
    return html.part("runs", COLUMNS, shown, by, to, content, template="live/lab/table.html.j2")
