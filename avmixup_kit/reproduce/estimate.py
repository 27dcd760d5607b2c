"""What a table would cost, before it is begun: operations counted, hours by arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

from avmixup_kit import attacks, cost, models
from avmixup_kit.evaluation import text_table
from avmixup_kit.reproduce.plans import Column, Plan, Run

RATES = (100, 250, 400)  # 10^12 operations a second

# (classes, (C, H, W), test images) of the originals; their splits need not be there to be counted.
SIZES = {
    "digits": (10, (1, 8, 8), 449),
    "cifar10": (10, (3, 32, 32), 10_000),
    "cifar100": (100, (3, 32, 32), 10_000),
    "svhn": (10, (3, 32, 32), 26_032),
    "tiny_imagenet": (200, (3, 64, 64), 10_000),
}


@dataclass(frozen=True)
class _Shape:
    shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class Estimate:
    """The operations of one run: its training, and its evaluation if no image ever fell."""

    run: Run
    training: float
    evaluation: float

    @property
    def total(self) -> float:
        return self.training + self.evaluation


def estimates(plans: Sequence[Plan]) -> list[Estimate]:
    """Return what each network of the tables costs, in operations (two for a multiply-add)."""
    columns: dict[Run, dict[str, Column]] = {}
    for plan in plans:
        for run in plan.runs:
            columns.setdefault(run, {})
        for row in plan.rows:
            columns[row.run] |= {column.key: column for column in row.columns}
    counted: dict[object, cost.Macs] = {}
    found = []
    for run, its in columns.items():
        classes, shape, images = SIZES[run.data]
        images = min(images, plans[0].scale.images or images)
        key = (run.network, run.data)
        if key not in counted:
            network = models.build(run.network, _Shape(shape, classes))
            counted[key] = cost.macs(network, shape)
        network = counted[key]
        training = 2 * cost.training_macs(network, run.method, run.settings)
        evaluation = 2 * cost.evaluation_macs(
            network, [c.attack for c in its.values() if c.attack is not None], images
        )
        watched = 2 * plans[0].scale.curve_images * plans[0].scale.measurements
        training += 2 * cost.evaluation_macs(network, [attacks.pgd(10)], watched)
        found.append(Estimate(run, training, evaluation))
    return found


def table(plans: Sequence[Plan], seeds: int = 1) -> str:
    """Return what ``seeds`` seeds of the tables cost, a line for each network, as text.

    Args:
        plans: of one seed.
        seeds: how many seeds are trained; each costs the same.
    """
    found = estimates(plans)
    head = ["run", "network", "steps x batch", "training FLOP", "evaluation FLOP"]
    lines = [[*head, *(f"h at {rate}" for rate in RATES)]]
    for one in found:
        run, settings = one.run, one.run.settings
        steps = f"{settings.steps} x {settings.batch_size}"
        parts = f"{one.training:.3g}", f"{one.evaluation:.3g}"
        lines.append([f"{run.data}/{run.name}", run.network, steps, *parts, *_hours(one.total)])
    training = seeds * sum(one.training for one in found)
    evaluation = seeds * sum(one.evaluation for one in found)
    last = f"all, {seeds} seed{'s' if seeds > 1 else ''}"
    parts = f"{training:.3g}", f"{evaluation:.3g}"
    lines.append([last, "", "", *parts, *_hours(training + evaluation)])
    notes = [
        "Counted from the networks, two operations a multiply-add, for each seed; training "
        "includes its curves, evaluation is the most it can be, as if no image ever fell.",
        f"Hours at {', '.join(map(str, RATES))} x 10^12 operations a second are arithmetic: not "
        "measured.",
    ]
    scale = plans[0].scale
    if scale.tflops is not None:
        whole = cost.hours((training + evaluation) / 2, scale.tflops)
        notes.append(
            f"At {scale.tflops:g} x 10^12 a second, which scale {scale.name} assumes of one "
            f"data-centre GPU (not measured): {whole:.2f} h in all."
        )
    return "\n".join([text_table(lines), "", *notes])


def _hours(flop: float) -> list[str]:
    return [f"{cost.hours(flop / 2, rate):.3g}" for rate in RATES]
