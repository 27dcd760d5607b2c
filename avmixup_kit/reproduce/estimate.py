"""What a table would cost, before it is begun: operations counted, hours by arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from avmixup_kit import models
from avmixup_kit._base import files
from avmixup_kit._base.tables import text_table
from avmixup_kit.data import DATASETS
from avmixup_kit.methods import attacks
from avmixup_kit.reproduce import cost
from avmixup_kit.reproduce.plans import Column, Run, TablePlan

RATES = (100, 250, 400)  # 10^12 operations a second


@dataclass(frozen=True)
class Estimate:
    """The operations of one run: its training, and its evaluation if no image ever fell."""

    run: Run
    training: float
    evaluation: float

    @property
    def total(self) -> float:
        return self.training + self.evaluation


@cache
def _macs(network: str, options: tuple[tuple[str, Any], ...], data: str) -> cost.Macs:
    size = DATASETS.entries[data].size
    return cost.macs(models.build(network, size, **dict(options)), size.shape)


def estimates(plans: Sequence[TablePlan]) -> list[Estimate]:
    """Return what each network of the tables costs, in operations (two for a multiply-add)."""
    columns: dict[Run, dict[str, Column]] = {}
    for plan in plans:
        for run in plan.runs:
            columns.setdefault(run, {})
        for row in plan.rows:
            columns[row.run] |= {column.key: column for column in row.columns}
    found, scale = [], plans[0].scale
    for run, its in columns.items():
        network = _macs(run.network, run.network_options, run.data)
        available = DATASETS.entries[run.data].size.test
        images = min(available, scale.images or available)
        tried = [column.attack for column in its.values() if column.attack is not None]
        watched = 2 * scale.curve_images * scale.measurements
        training = cost.training_macs(network, run.method, run.settings)
        training += cost.evaluation_macs(network, [attacks.pgd(steps=10)], watched)
        evaluation = cost.evaluation_macs(network, tried, images)
        found.append(Estimate(run, 2 * training, 2 * evaluation))
    return found


def measured(results: str | Path, *, compiled: bool = False) -> dict[str, dict[str, float]]:
    """Return the rates that ``make cuda`` measured: device to network to 10^12 operations a second.

    Args:
        results: the folder in which cuda/<device>/benchmark.json may lie.
        compiled: the rates of compiled networks rather than of eager ones.

    Raises:
        ValueError: such a file is corrupted.
    """
    row = "kit, compiled" if compiled else "kit"
    rates: dict[str, dict[str, float]] = {}
    for path in sorted(Path(results).glob("cuda/*/benchmark.json")):
        report = files.read_json(path, words="is corrupted")
        with files.blamed(path, "is corrupted"):
            rates[f"{report['device']} ({path.parent.name})"] = {
                name: float(network["rows"][row]["tflops"])
                for name, network in report["networks"].items()
                if row in network.get("rows", ())
            }
    return rates


def table(
    plans: Sequence[TablePlan], seeds: int = 1, rates: dict[str, dict[str, float]] | None = None
) -> str:
    """Return what ``seeds`` seeds of the tables cost, a line for each network, as text.

    Args:
        plans: of one seed.
        seeds: how many seeds are trained; each costs the same.
        rates: what ``measured`` found; without any, hours are arithmetic at ``RATES``.
    """
    found, scale = estimates(plans), plans[0].scale
    core = scale.gflops is not None
    if scale.gflops is not None:
        each = {one.run.network: scale.gflops / 1000 for one in found}
        rates = {f"a core at {scale.gflops:g} x 10^9 a second": each}
    known = {
        device: its
        for device, its in (rates or {}).items()
        if {e.run.network for e in found} & its.keys()
    }
    head = ["run", "network", "steps x batch", "training FLOP", "evaluation FLOP"]
    lines = [[*head, *(f"h on {device}" for device in known)]]
    if not known:
        lines[0] += [f"h at {rate}" for rate in RATES]

    def hours(these: Sequence[Estimate], times: int = 1) -> list[str]:
        if not known:
            total = times * sum(one.total for one in these)
            return [f"{cost.hours(total / 2, rate):.3g}" for rate in RATES]
        texts = []
        for its in known.values():
            there = [one for one in these if one.run.network in its]
            sums = [cost.hours(times * one.total / 2, its[one.run.network]) for one in there]
            rest = len(these) - len(there)
            unknown = "" if not rest else f" and {rest} networks not measured"
            texts.append(f"{sum(sums):.3g}{unknown}" if there else "not measured")
        return texts

    for one in found:
        run, settings = one.run, one.run.settings
        steps = f"{settings.steps} x {settings.batch_size}"
        parts = f"{one.training:.3g}", f"{one.evaluation:.3g}"
        lines.append([f"{run.data}/{run.name}", run.network, steps, *parts, *hours([one])])
    training = seeds * sum(one.training for one in found)
    evaluation = seeds * sum(one.evaluation for one in found)
    last = f"all, {seeds} seed{'s' if seeds > 1 else ''}"
    parts = f"{training:.3g}", f"{evaluation:.3g}"
    lines.append([last, "", "", *parts, *hours(found, seeds)])
    notes = [
        "Counted from the networks, two operations a multiply-add, for each seed; training "
        "includes its curves, evaluation is the most it can be, as if no image ever fell.",
        "Hours are core-hours: an hour of one core, two of them do two in one."
        if core
        else "Hours are these operations at the rate that benchmarks/cuda.py measured in training."
        if known
        else f"Hours at {', '.join(map(str, RATES))} x 10^12 operations a second are arithmetic: "
        "not measured.",
    ]
    if scale.tflops is not None:
        whole = cost.hours((training + evaluation) / 2, scale.tflops)
        notes.append(
            f"At {scale.tflops:g} x 10^12 a second, which scale {scale.name} assumes of one "
            f"data-centre GPU (not measured): {whole:.2f} h in all."
        )
    return "\n".join([text_table(lines), "", *notes])
