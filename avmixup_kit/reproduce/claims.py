"""What the paper's tables say of one row against another, and whether ours say so too.

A table's subject is the paper's own method; the claim of each cell is that the subject is better or
worse there than another row. Ours decides it where the paired difference over seeds (of one seed:
over images) differs from zero at p < 0.05; nothing is corrected for the number of claims.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from avmixup_kit._base.tables import markdown_table
from avmixup_kit.evaluation.compare import Comparison, compare
from avmixup_kit.reproduce.results import Assembled, Cell, Result

LEVEL = 0.05
_WHITE_BOX_PGD = re.compile(r"(?:white-box )?PGD(\d+)")


@dataclass(frozen=True)
class Claim:
    """The subject against another row in one column: the paper's points beside our comparison.

    ``paper`` is None where the paper has no such column (AutoAttack), ``ours`` where nothing was
    run. ``block`` is the paper's data set where a table has several.
    """

    subject: str
    other: str
    column: str
    paper: float | None
    ours: Comparison | None
    block: str = ""

    @property
    def decided(self) -> bool:
        """Return whether ours differs from zero."""
        return self.ours is not None and self.ours.p < LEVEL

    @property
    def verdict(self) -> str:
        """Return "agrees", "differs", "not decided" or "missing"; "-" where the paper is silent."""
        if self.ours is None:
            return "missing"
        if self.paper is None:
            return "-"
        if not self.decided:
            return "not decided"
        return "agrees" if (self.ours.difference > 0) == (self.paper > 0) else "differs"


@dataclass(frozen=True)
class Turn:
    """One pair of rows under the paper's PGD and under AutoAttack, ours both."""

    weak: Claim
    strong: Claim

    @property
    def verdict(self) -> str:
        """Return what the stronger attack does to what the weaker one says of the pair."""
        weak, strong = self.weak.ours, self.strong.ours
        if weak is None or strong is None:
            return "missing"
        if not self.weak.decided:
            return "decides it" if self.strong.decided else "leaves it undecided"
        if not self.strong.decided:
            return "no longer decides it"
        return (
            "turns it round" if (weak.difference > 0) != (strong.difference > 0) else "confirms it"
        )


def claims(table: Assembled) -> list[Claim]:
    """Return every claim about the table's subject, also those under AutoAttack.

    Where a table has blocks of data sets and ours are digits, each block of the paper's is set
    beside the digits.
    """
    found = []
    printed = table.plan.published
    for block, rows in table.plan.blocks(() if printed is None else printed.rows).items():
        subject = "0.5 / 0.7" if table.plan.name == "table6" else rows[-1]
        for other in (row for row in rows if row != subject):
            names = [row.removeprefix(f"{block} / ") for row in (subject, other)]
            for column in table.plan.columns:
                ours = _compared(table, _ours(table, subject), _ours(table, other), column)
                of_subject, of_other = table.paper(subject, column), table.paper(other, column)
                paper = None
                if of_subject is not None and of_other is not None:
                    paper = of_subject - of_other
                if ours is not None or paper is not None:
                    found.append(Claim(names[0], names[1], column, paper, ours, block))
    return found


def turns(table: Assembled) -> list[Turn]:
    """Return, for each pair of rows, what AutoAttack says after the paper's strongest PGD."""
    by_pair: dict[tuple[str, ...], dict[str, Claim]] = {}
    for claim in claims(table):
        # Digits stand beside several blocks of the paper's; ours are then the same.
        block = "" if table.plan.scale.digits else claim.block
        pair = claim.subject, claim.other, block
        by_pair.setdefault(pair, {}).setdefault(claim.column, claim)
    found = []
    for columns in by_pair.values():
        weak, strong = (columns.get(name) for name in _strongest(columns))
        if weak and strong and strong.ours is not None:
            found.append(Turn(weak, strong))
    return found


def lost(table: Assembled) -> list[tuple[str, Cell, Cell]]:
    """Return, row by row, ours under the strongest PGD and under AutoAttack, of the same seeds."""
    both = _strongest(table.plan.columns)
    found = []
    for row in table.rows:
        there = [r for r in table.of(row) if set(both) <= r.accuracy.keys()]
        if there:
            seeds = tuple(result.seed for result in there)
            weak, stronger = (
                Cell(tuple(r.accuracy[column] for r in there), seeds, there[0].n) for column in both
            )
            found.append((row, weak, stronger))
    return found


def _strongest(columns: Iterable[str]) -> tuple[str, str]:
    """Return the white-box PGD of most steps and AutoAttack among columns, "" where missing."""
    columns = list(columns)
    pgd = [(int(m[1]), c) for c in columns if (m := _WHITE_BOX_PGD.fullmatch(c))]
    strong = (column for column in columns if "AutoAttack" in column)
    return max(pgd, default=(0, ""))[1], next(strong, "")


def _ours(table: Assembled, row: str) -> str:
    """Our row that stands beside the paper's: at the digits' scale the digits' of that model."""
    if table.plan.scale.digits and row in table.plan.impossible:
        return f"digits / {row.split(' / ')[1]}"
    return row


def _compared(table: Assembled, first: str, second: str, column: str) -> Comparison | None:
    def by_seed(row: str) -> dict[int, Result]:
        return {r.seed: r for r in table.of(row) if column in r.accuracy}

    ours, others = by_seed(first), by_seed(second)
    seeds = sorted(ours.keys() & others.keys())
    if not seeds:
        return None
    return compare(
        [ours[seed].evaluation() for seed in seeds],
        [others[seed].evaluation() for seed in seeds],
        column,
    )


def text(found: list[Claim]) -> str:
    """Return claims as a Markdown table: the paper's difference, ours, the verdict."""
    lines = [["subject", "against", "column", "paper", "ours (95 % interval)", "seeds", "verdict"]]
    for claim in found:
        against = f"{claim.other}{f', {claim.block}' if claim.block else ''}"
        paper = "-" if claim.paper is None else f"{claim.paper:+.2f}"
        lines.append(
            [claim.subject, against, claim.column, paper, *_points(claim.ours), claim.verdict]
        )
    return markdown_table(lines, left=2)


def summary(found: list[Claim]) -> str:
    """Return the verdicts alone as a Markdown table, a line for each pair of rows."""
    columns = list(dict.fromkeys(claim.column for claim in found if claim.paper is not None))
    by_pair: dict[tuple[str, ...], dict[str, str]] = {}
    for claim in found:
        pair = claim.subject, claim.other, claim.block
        by_pair.setdefault(pair, {})[claim.column] = claim.verdict
    lines = [["subject", "against", "in the paper's", *columns]]
    for pair, verdicts in by_pair.items():
        lines.append([*pair, *(verdicts.get(column, "-") for column in columns)])
    return markdown_table(lines, left=3)


def lost_text(table: Assembled) -> str:
    """Return ``lost`` as a Markdown table, with the points that AutoAttack costs, seed by seed."""
    lines = [["row", "under PGD", "under AutoAttack", "lost", "seed by seed"]]
    for row, weak, strong in lost(table):
        gone = [100 * (x - y) for x, y in zip(weak.values, strong.values, strict=True)]
        each = " ".join(f"{points:.1f}" for points in gone)
        lines.append([row, str(weak), str(strong), f"{sum(gone) / len(gone):.2f}", each])
    return markdown_table(lines)


def turns_text(found: list[Turn]) -> str:
    """Return pairs as a Markdown table: their difference under both attacks, and what it means."""
    lines = [["subject", "against", "under", "ours", "under", "ours", "the stronger attack"]]
    for turn in found:
        weak, strong = (_points(claim.ours)[0] for claim in (turn.weak, turn.strong))
        names = turn.weak.subject, turn.weak.other
        lines.append([*names, turn.weak.column, weak, turn.strong.column, strong, turn.verdict])
    return markdown_table(lines, left=2)


def _points(ours: Comparison | None) -> tuple[str, str]:
    if ours is None:
        return "missing", "missing"
    low, high = ours.interval
    interval = f"({100 * low:+.2f} to {100 * high:+.2f})"
    return f"{100 * ours.difference:+.2f} {interval}", str(ours.seeds)
