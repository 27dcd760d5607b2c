"""Core-hours from nothing to a robust CIFAR-10 network on a CPU, recipe by recipe.

    python benchmarks/time_to_robustness.py RECIPE [...] --data-root data --runs runs/time
    python benchmarks/time_to_robustness.py --table

trains a recipe of RECIPES, evaluates it under PGD20, CW20 and AutoAttack (standard) on 1 000 test
images, 100 of each class, always the same, and writes

    results/time-to-robustness/<recipe>-<seed>.json, .npz      costs and accuracies; every verdict
    results/time-to-robustness/table.md                        the table, made from those alone

The data are CIFAR-10, or its JPEG mirror where ``--data-root`` holds that (cifar10-jpeg.tar.xz); a
result says which. A core-hour is an hour of processor time of the training process and of the
compilers that it starts: import, decoding, compiling and watching included. Each part of a run ends
with a look at 128 training images under FGSM and PGD10; a run that overfits catastrophically is
stopped there, and says so. Killed at any moment, a run goes on where it stood; what was lost is
counted.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import avmixup_kit as av
from avmixup_kit import models, runs
from avmixup_kit._base import check, files
from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import markdown_table
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.methods import attacks
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.mixing import Adversarial
from avmixup_kit.reproduce.plans import Column
from avmixup_kit.reproduce.results import data_title
from avmixup_kit.reproduce.runner import load_data
from avmixup_kit.reproduce.verdicts import Verdicts, groups
from avmixup_kit.training.compiled import Compiled
from avmixup_kit.training.dial import Dial, Turn

EPSILON = 8 / 255
EPOCH = 382  # steps of 128 images in the 49 000 that are left for training
SIDE = 32
LEVELS = (30, 33, 36, 40)  # per cent under AutoAttack
IMAGES, WATCHED = 1000, 128
COLUMNS = (
    Column("Clean"),
    Column("PGD20", attacks.pgd(steps=20, epsilon=EPSILON)),
    Column("CW20", attacks.cw(steps=20, epsilon=EPSILON)),
    Column("AutoAttack", autoattack(EPSILON)),
)
COST = "cost.json"


@dataclass(frozen=True)
class Scaled:
    """Another perturbation source, on images scaled to ``side`` x ``side`` pixels.

    The rest of the step sees the smaller images, too: progressive resizing.
    """

    perturb: Any
    side: int = SIDE

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.x.shape[-1] != self.side:
            size = self.side, self.side
            smaller = F.interpolate(batch.x, size, mode="bilinear", antialias=True)
            batch.x = smaller.clamp(0, 1).contiguous(memory_format=torch.channels_last)
        return self.perturb(model, batch)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, as data; the defaults are the anchor's.

    Args:
        network: its architecture, as ``models.from_architecture`` reads it.
        perturb: what crafts.
        lam: of the label phi(y, lam).
        steps: optimiser steps of 128 images.
        sides: the images' side in each of as many equal parts of the run; after each, the run is
            looked at.
        schedule, lr, weight_decay, average: as of ``Training``.

    Raises:
        ValueError: steps that the parts do not divide.
    """

    network: str = "preact_resnet18(num_classes=10, in_channels=3, base_channels=16)"
    perturb: Any = attacks.n_fgsm(EPSILON)  # noqa: RUF009 (frozen, no state)
    lam: float = 1.0
    steps: int = 8 * EPOCH
    sides: tuple[int, ...] = (SIDE,) * 8
    schedule: Any = "cyclic"
    lr: float = 0.2
    weight_decay: float = 5e-4
    average: float | None = None

    def __post_init__(self) -> None:
        check.whole("steps", self.steps)
        parts = len(self.sides)
        less = self.steps // parts * parts
        nearest = f"{less} or {less + parts}" if less else f"{parts}"
        allowed = f"its {parts} parts divide {nearest}"
        check.that(parts > 0 and self.steps % parts == 0, "steps", self.steps, allowed)

    @property
    def part(self) -> int:
        """The steps of one part."""
        return self.steps // len(self.sides)

    def dial(self) -> Dial:
        """The method, with a turn to come wherever the images' side changes."""
        perturb, sides = self.perturb, self.sides
        if set(sides) != {SIDE}:
            perturb = Scaled(perturb, sides[0])
        turns = [
            Turn(number * self.part, {"side": side})
            for number, side in enumerate(sides)
            if number and side != sides[number - 1]
        ]
        return Dial(Method(perturb, Adversarial(self.lam)), turns)

    def told(self) -> dict[str, Any]:
        """The recipe as JSON has it."""
        return asdict(self) | {"perturb": repr(self.perturb)}


ANCHOR = Recipe()
STRIDED = "preact_resnet18(num_classes=10, in_channels=3, base_channels=32, stem_stride=2)"
SMOOTH = STRIDED.replace(")", ", activation='silu')")
RECIPES: dict[str, Recipe] = {
    "anchor": ANCHOR,
    "fgsm-rs": replace(ANCHOR, perturb=attacks.fgsm_rs(EPSILON)),
    "averaged": replace(ANCHOR, average=0.995),
    "smoothed": replace(ANCHOR, lam=0.9),
    "strided": replace(ANCHOR, network=STRIDED),
    "progressive": replace(ANCHOR, steps=16 * EPOCH, sides=(16,) * 8 + (24,) * 4 + (32,) * 4),
    "smooth": replace(ANCHOR, network=SMOOTH),
    "pgd-2": replace(ANCHOR, perturb=attacks.pgd(steps=2, epsilon=EPSILON, step_size=EPSILON / 2)),
    "batch-norm": replace(ANCHOR, perturb=attacks.n_fgsm(EPSILON, batch_norm="batch")),
    "stepwise": replace(ANCHOR, schedule="steps", lr=0.1),
    "short-wide": replace(
        ANCHOR, network="wide_resnet(depth=10, width=2, num_classes=10, in_channels=3)"
    ),
    # What ``reproduce --scale laptop`` trains as PGD.
    "laptop": replace(
        ANCHOR,
        network=STRIDED.replace("=32", "=20"),
        perturb=attacks.pgd(steps=2, epsilon=EPSILON, step_size=5 / 8 * EPSILON),
        steps=10 * EPOCH,
        sides=(SIDE,) * 10,
    ),
    "best-hour": replace(ANCHOR, network=SMOOTH, average=0.995, lam=0.9),
    # Four times the work of an image, three times the images: an evening.
    "evening": replace(
        ANCHOR,
        network=SMOOTH.replace("=32", "=64"),
        average=0.995,
        lam=0.9,
        steps=16 * EPOCH,
        sides=(SIDE,) * 16,
    ),
}


def spent() -> float:
    """Return the processor seconds of this process and of those it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """What a run has cost, in its folder; what earlier sessions cost is there already."""

    def __init__(self, folder: Path, kind: str, cpu: float, wall: float) -> None:
        self.path, self.kind, self.began = folder / COST, kind, (cpu, wall)
        self.before: list[dict[str, Any]] = []
        if self.path.exists():
            self.before = json.loads(self.path.read_text())

    def save(self) -> None:
        """Write what has been spent so far."""
        cpu, wall = spent() - self.began[0], time.monotonic() - self.began[1]
        now = {"kind": self.kind, "cpu": round(cpu, 1), "wall": round(wall, 1)}
        files.write_atomic(self.path, json.dumps([*self.before, now]).encode())


def cost_of(folder: Path, kind: str) -> dict[str, float]:
    """Return the core-hours and hours of a run's training or evaluation, all sessions together."""
    path = folder / COST
    sessions = json.loads(path.read_text()) if path.exists() else []
    mine = [session for session in sessions if session["kind"] == kind]
    hours = {"core_hours": "cpu", "wall_hours": "wall"}
    return {name: round(sum(s[key] for s in mine) / 3600, 4) for name, key in hours.items()}


def watch(split: av.Split, epsilon: float) -> Callable[[nn.Module], dict[str, float]]:
    """Return a measure of a network on a few training images, which the kit's signs look at."""
    part = split.sample(min(WATCHED, len(split)))
    ladder = [attacks.fgsm(epsilon), attacks.pgd(steps=10, epsilon=epsilon)]

    def measure(network: nn.Module) -> dict[str, float]:
        found = av.evaluate(network, part, ladder, check=False)
        return {f"{name}, train": found.accuracy(name) for name in found.names}

    return measure


def train(
    recipe: Recipe, seed: int, data: av.Data, folder: Path, meter: Meter, compiled: bool
) -> str:
    """Train what is left of a run; return why it was stopped, "" where it was not."""
    stopped = folder / "stopped"
    if stopped.exists():
        return stopped.read_text()
    training = av.Training(
        models.from_architecture(recipe.network, seed=seed),
        replace(data.train, augmentation=av.data.Augmentation(pad=4, flip=True)),
        recipe.dial(),
        recipe.steps,
        compile=compiled,
        schedule=recipe.schedule,
        average=recipe.average,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        seed=seed,
    )
    records = runs.log(
        training,
        folder,
        resume=(folder / "run.json").exists(),
        checkpoint_every=100,
        curves=watch(data.train, data.epsilon),
        curves_every=recipe.part,
    )
    for record in records:
        if (record.step + 1) % 100 == 0 or record.curves:
            meter.save()
        if record.curves:
            told = ", ".join(f"{name} {value:.0%}" for name, value in record.curves.items())
            print(f"{folder.name}: step {record.step + 1}, {told}", flush=True)
        if record.signs:
            why = f"after {record.step + 1} steps: {record.signs[0].words}"
            files.write_atomic(stopped, why.encode())
            return why
    return ""


def judge(
    seed: int, data: av.Data, test: av.Split, folder: Path, meter: Meter, compiled: bool
) -> Evaluation:
    """Return the verdicts on a trained network; what is there already is not taken again."""
    network = runs.load_model(folder / "latest.pt")
    network = Compiled(network, dynamic=True) if compiled else network
    verdicts = Verdicts.load(folder / "verdicts.npz", test.checksum, len(test))
    chunk = 250
    for first in range(0, len(test), chunk):
        last = min(first + chunk, len(test))
        for group in groups(verdicts.waiting(COLUMNS, first, last)):
            tried = [column.attack for column in group if column.attack is not None]
            part = test.subset(torch.arange(first, last))
            found = av.evaluate(network, part, tried, seed=seed)
            for column in group:
                at = 0 if column.attack is None else 1 + tried.index(column.attack)
                verdicts.add(column.key, first, found.correct[at], found.gradients[at])
            verdicts.save()
            meter.save()
            print(f"{folder.name}: images to {last}, {', '.join(found.names)}", flush=True)
    return verdicts.evaluation(COLUMNS, replace(data, test=test), seed)


def run(name: str, options: argparse.Namespace) -> None:
    """Train, evaluate and write one recipe, as far as it is not there."""
    recipe, seed = RECIPES[name], options.seed
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{name}-{seed}.json"
    if path.exists():
        return print(f"{path} is there already")
    cpu, wall = (0.0, time.monotonic()) if options.first else (spent(), time.monotonic())
    options.first = False
    data = load_data("cifar10", options.data_root)
    test = data.test.sample(min(options.images, len(data.test)))
    folder = options.runs / f"{name}-{seed}"
    with one_thread():
        meter, compiled = Meter(folder, "training", cpu, wall), not options.eager
        stopped = train(recipe, seed, data, folder, meter, compiled)
        about = told(name, recipe, seed, data, test, folder) | {"stopped": stopped}
        if not stopped:
            meter = Meter(folder, "evaluation", spent(), time.monotonic())
            found = judge(seed, data, test, folder, meter, compiled)
            found.save(path.with_suffix(".npz"))
            about |= {key: found.to_json()[key] for key in ("n", "accuracy", "interval95")}
    about["evaluation"] = cost_of(folder, "evaluation")
    files.write_atomic(path, (json.dumps(about, indent=1) + "\n").encode())
    print(f"{path} is written", flush=True)


def told(
    name: str, recipe: Recipe, seed: int, data: av.Data, test: av.Split, folder: Path
) -> dict[str, Any]:
    """Return what a result's file says of the run and its training."""
    network = models.from_architecture(recipe.network)
    return {
        "recipe": name,
        "seed": seed,
        "command": f"python benchmarks/time_to_robustness.py {name} --seed {seed}",
        **recipe.told(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "data": {
            "name": data.name,
            "epsilon": data.epsilon,
            "train_checksum": data.train.checksum,
            "test_checksum": test.checksum,
        },
        "training": cost_of(folder, "training"),
        "curves": runs.curves_of(folder),
        "provenance": provenance(),
    }


def one_thread() -> Any:
    """One thread, which compiles itself, and compiles anew: what ran before makes nothing cheap."""
    import torch._inductor.config as inductor

    torch.set_num_threads(1)
    return inductor.patch(compile_threads=1, force_disable_caches=True)


def results_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what was found, cheapest training first."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*-*.json"))]
    yield from sorted(found, key=lambda about: about["training"]["core_hours"])


def table(folder: Path) -> str:
    """Return the table and who reached which level first, as Markdown, from the files alone."""
    found = list(results_in(folder))
    if not found:
        raise SystemExit(f"{folder} holds no results")
    titles = [column.title for column in COLUMNS]
    head = ["recipe", "seed", "parameters", "core-hours", *titles, "evaluation, core-hours"]
    lines = [head]
    for about in found:
        cells = ["stopped", *[""] * (len(titles) - 1)]
        if not about["stopped"]:
            low, high = about["interval95"][titles[-1]]
            cells = [f"{100 * about['accuracy'][title]:.1f}" for title in titles]
            cells[-1] += f" [{100 * low:.1f}, {100 * high:.1f}]"
        cost = [f"{about[kind]['core_hours']:.2f}" for kind in ("training", "evaluation")]
        parameters = f"{about['parameters'] / 1e6:.2f}M"
        lines.append([about["recipe"], str(about["seed"]), parameters, cost[0], *cells, cost[1]])
    data = sorted({data_title(about["data"]["name"]) for about in found})
    counts = sorted({about["n"] for about in found if "n" in about})
    text = [
        "# Core-hours to a robust CIFAR-10 network on a CPU",
        "",
        "`python benchmarks/time_to_robustness.py --table`",
        "",
        markdown_table(lines, left=1),
        "",
        f"{', '.join(data)}, l-infinity, epsilon 8/255; accuracy in per cent on "
        f"{', '.join(map(str, counts)) or 'no'} test images, as many of each class, with Wilson's "
        "95 % interval. A core-hour is one of processor time, data, compiling and watching "
        "included.",
        "",
    ]
    for level in LEVELS:
        there = [
            about
            for about in found
            if not about["stopped"] and 100 * about["accuracy"][titles[-1]] >= level
        ]
        first = "not reached yet"
        if there:
            cost = there[0]["training"]["core_hours"]
            first = f"{cost:.2f} core-hours ({there[0]['recipe']}, seed {there[0]['seed']})"
        text.append(f"- AutoAttack {level} %: {first}")
    for about in found:
        if about["stopped"]:
            text.append(f"- {about['recipe']}, seed {about['seed']}, stopped {about['stopped']}")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--images", type=int, default=IMAGES, help="test images")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/time-to-robustness"))
    parser.add_argument("--results", type=Path, default=Path("results/time-to-robustness"))
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    try:
        for name in options.recipes:
            check.one_of("recipe", name, RECIPES)
        options.first = True
        for name in () if options.table else options.recipes:
            run(name, options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    options.results.mkdir(parents=True, exist_ok=True)
    text = table(options.results)
    files.write_atomic(options.results / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
