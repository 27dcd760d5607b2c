"""The paper's tables beside ours.

- ``plans``: which networks, attacks and images each table takes, at each scale.
- ``runner``: training and evaluating them, resumably; ``verdicts`` of single images are kept.
- ``results``: the files that come out, and the tables made of them alone.
- ``estimate``: what it costs.
- ``claims``: which of the paper's claims come out the same, and under a stronger attack.
- ``figures``: the paper's tables and ours side by side.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from avmixup_kit import paper
from avmixup_kit._base import check
from avmixup_kit._base.precision import native_bf16
from avmixup_kit._base.processes import helper_processes
from avmixup_kit.reproduce import estimate
from avmixup_kit.reproduce.plans import (
    DEPARTURES,
    NAMES,
    SCALES,
    TAKEN,
    Scale,
    TablePlan,
    plan,
    scale_named,
    tables_named,
)
from avmixup_kit.reproduce.results import Assembled, Cell, Result, load, write_table
from avmixup_kit.reproduce.runner import Runner
from avmixup_kit.training.settings import Precision

__all__ = [
    "NAMES",
    "SCALES",
    "Assembled",
    "Cell",
    "Result",
    "Runner",
    "Scale",
    "TablePlan",
    "load",
    "plan",
    "provenance",
    "reproduce",
    "scale_named",
    "tables_named",
]


def provenance(scale: Scale) -> str:
    """Return where the paper and its authors' code differ and what this scale takes, as text."""
    lines = [scale.about]
    if not scale.digits:
        lines += ["", "Where the paper and its authors' code differ, or the paper is silent:"]
        for point in paper.PAPER_VS_CODE:
            lines.append(
                f"- {point.point}: taken is {TAKEN[point.point]} (paper: {point.paper}; code: "
                f"{point.code})"
            )
        lines += ["", "Unlike the paper:", *(f"- {departure}" for departure in DEPARTURES)]
    return "\n".join(lines)


def _work(make: Callable[[], Runner], *arguments: Any) -> None:
    make().tables(*arguments)


def reproduce(
    tables: Sequence[str],
    scale: str | Scale = "smoke",
    *,
    seeds: Sequence[int] | None = None,
    rows: Sequence[str] | None = None,
    results: str | Path = "results",
    folder: str | Path = "runs/reproduce",
    data_root: str | Path = "data",
    device: torch.device | str = "cpu",
    precision: Precision | None = None,
    compiled: bool | None = None,
    jobs: int = 1,
    minutes: float | None = None,
    only_table: bool = False,
    only_estimate: bool = False,
    say: Callable[[str], Any] = print,
) -> list[Assembled]:
    """Make the paper's tables and return them; everything already there is used, never repeated.

    Args:
        tables: "table1" to "table6", "figure2", or "all".
        scale: "smoke", "laptop", "short", "full", or a ``Scale``.
        seeds: of networks, data order and attacks; the scale's own where left out.
        rows: train and evaluate these alone, in this order, by their titles in the tables ("PGD");
            the tables show whatever is there.
        results: ``results``/<table>/<scale> is written.
        folder: of the run folders, which need not be kept once the results are there.
        data_root: where data sets lie, or the archive cifar10-jpeg.tar.xz itself.
        device, precision: where and how networks are trained; bf16 at the short scale where the
            device has it, else float32.
        compiled: train compiled networks, see ``Training``; left out, on CUDA and where the scale
            says so.
        jobs: how many processes work on it, each with one thread; what one of them fails at is left
            to the end.
        minutes: after which everything is saved and ended; calling again goes on.
        only_table: make the tables from the results that are there, train nothing.
        only_estimate: tell what it would cost, do nothing.
        say: told what happens, line by line.

    Raises:
        ValueError: an unknown table, scale or row; results there that do not belong.
    """
    check.whole("jobs", jobs)
    scale = scale_named(scale) if isinstance(scale, str) else scale
    names = tables_named(tables)
    seeds = tuple(scale.seeds if seeds is None else dict.fromkeys(seeds))
    if rows is not None:
        titles = dict.fromkeys(row.title for name in names for row in plan(name, scale).rows)
        for row in rows or ("",):
            check.one_of("row", row, titles)
    device = torch.device(device)
    if precision is None:
        precision = "bf16" if scale.name == "short" and native_bf16(device) else "float32"
    make = partial(
        Runner,
        scale,
        folder,
        data_root=data_root,
        device=device,
        precision=precision,
        compiled=compiled,
        minutes=minutes,
    )
    runner = make(say=say)
    if not only_table:
        asked = [plan(name, scale, precision=precision).only(rows) for name in names]
        rates = estimate.measured(results, compiled=runner.compiled)
        say(f"{provenance(scale)}\n\n{estimate.table(asked, len(seeds), rates)}\n")
    if only_estimate:
        return []
    if not only_table:
        with helper_processes(_work, (make, names, seeds, results, rows), jobs if jobs > 1 else 0):
            pass
        runner.tables(names, seeds, results, rows)
    assembled = [load(name, scale, results) for name in names]
    for one in assembled:
        if one.results:
            write_table(one, results)
        say(f"\n{one.text()}")
    if runner.left:
        say("\nLeft to do (the same command goes on):")
        for line in dict.fromkeys(runner.left):
            say(f"  {line}")
    return assembled
