"""Core-hours from nothing to a robust CIFAR-10 network on a CPU, recipe by recipe.

    python benchmarks/time_to_robustness.py RECIPE [...] --data-root data --runs runs/time
    python benchmarks/time_to_robustness.py --table

trains a recipe of RECIPES, evaluates it under PGD20, CW20 and AutoAttack on 1 000 test images, 100
of each class, always the same, and writes

    results/time-to-robustness/<recipe>-<seed>.json, .npz      costs and accuracies; every verdict
    results/time-to-robustness/table.md, curve.png             made from those alone

``--autoattack quick`` costs a fraction of standard and has a column of its own; the same command
without it adds standard's, which alone says that a level is reached.

The data are CIFAR-10, or its JPEG mirror where ``--data-root`` holds that (cifar10-jpeg.tar.xz); a
result says which. A core-hour is an hour of processor time of the training process and of the
compilers that it starts: import, decoding, compiling and watching included. Each part of a run ends
with a look at 128 training images under FGSM and PGD10; a run that overfits catastrophically is
stopped there, and says so. Killed at any moment, a run goes on where it stood; what was lost is
counted, but for its last ten seconds. What is not as the recipe has it (``--steps``, ``--images``,
``--eager``) stands in the result, which must then lie elsewhere (``--results``).
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import avmixup_kit as av
from avmixup_kit import models, runs
from avmixup_kit._base import check, files
from avmixup_kit._base.plots import COLOURS, GREY, error_bars, graph_objects, styled
from avmixup_kit._base.processes import NOTHING, spent, spent_since
from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import markdown_table
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.methods import attacks
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.mixing import Adversarial
from avmixup_kit.reproduce.cost import macs, step_macs
from avmixup_kit.reproduce.plans import Column
from avmixup_kit.reproduce.results import data_title
from avmixup_kit.reproduce.runner import load_data
from avmixup_kit.reproduce.verdicts import Verdicts, groups
from avmixup_kit.training.compiled import Compiled
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.settings import Precision

EPSILON = 8 / 255
EPOCH = 382  # steps of 128 images in the 49 000 that are left for training
SIDE, BATCH = 32, 128
LEVELS = (30, 33, 36, 40)  # per cent under AutoAttack
IMAGES, WATCHED = 1000, 128
COLUMNS = (
    Column("Clean"),
    Column("PGD20", attacks.pgd(steps=20, epsilon=EPSILON)),
    Column("CW20", attacks.cw(steps=20, epsilon=EPSILON)),
)
AUTOATTACK = {
    version: Column(attack.name, attack)
    for version in ("quick", "standard")
    for attack in (autoattack(EPSILON, version),)
}
STRONGEST = AUTOATTACK["standard"].title
RESULTS = Path("results/time-to-robustness")
COST = "cost.json"
NOTED = 10.0  # seconds between two notes of what a run has cost


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
        compiled: train a compiled network.
        precision: of the passes, as of ``Training``; what is judged is a network of float32.

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
    compiled: bool = True
    precision: Precision = "float32"

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

    def operations(self) -> float:
        """Floating-point operations of the training, counted from the network, two a multiply-add.

        Unlike core-hours they are the same on every machine.
        """
        network = models.from_architecture(self.network)
        method = Method(self.perturb, Adversarial(self.lam))
        images = {side: self.sides.count(side) * self.part * BATCH for side in set(self.sides)}
        return 2.0 * sum(
            count * step_macs(macs(network, (3, side, side)), method)
            for side, count in images.items()
        )

    def told(self) -> dict[str, Any]:
        """The recipe as JSON has it, and what of it can be counted."""
        attack = f"{self.perturb.name}, batch norm {self.perturb.batch_norm}"
        if self.perturb.step_size is not None:
            attack += f", steps of {255 * self.perturb.step_size:g}/255"
        counted = {"attack": attack, "operations": self.operations()}
        return asdict(self) | {"perturb": repr(self.perturb)} | counted


ANCHOR = Recipe()
STRIDED = "preact_resnet18(num_classes=10, in_channels=3, base_channels=32, stem_stride=2)"
SMOOTH = STRIDED.replace(")", ", activation='silu')")
SLOWLY = replace(
    ANCHOR, network=SMOOTH, average=0.995, lam=0.9, steps=16 * EPOCH, sides=(SIDE,) * 16
)
RECIPES: dict[str, Recipe] = {
    "anchor": ANCHOR,
    "eager": replace(ANCHOR, compiled=False),
    "bf16": replace(ANCHOR, precision="bf16"),  # a CPU that multiplies bfloat16 is needed
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
    "best-hour": SLOWLY,
    "bf16-hour": replace(
        SLOWLY,
        network=SMOOTH.replace("=32", "=48"),
        precision="bf16",
        steps=20 * EPOCH,
        sides=(SIDE,) * 20,
    ),
    "evening": replace(SLOWLY, network=SMOOTH.replace("=32", "=64")),  # four times the work
}


class Meter:
    """What a run has cost, in its folder; what earlier sessions cost is there already."""

    def __init__(self, folder: Path, kind: str, began: dict[str, float]) -> None:
        self.path, self.kind, self.began = folder / COST, kind, began
        self.noted: float | None = None
        self.before: list[dict[str, Any]] = []
        if self.path.exists():
            self.before = json.loads(self.path.read_text())

    def save(self) -> None:
        """Write what has been spent so far."""
        now = {"kind": self.kind} | spent_since(self.began, NOTHING)
        files.write_atomic(self.path, json.dumps([*self.before, now]).encode())
        self.noted = time.monotonic()

    def tick(self, *_: Any) -> None:
        """Write it where that is some seconds ago."""
        if self.noted is None or time.monotonic() - self.noted >= NOTED:
            self.save()


def cost_of(folder: Path, kind: str) -> dict[str, float]:
    """Return the core-hours and hours of a run's training or evaluation, all sessions together."""
    path = folder / COST
    sessions = json.loads(path.read_text()) if path.exists() else []
    mine = [session for session in sessions if session["kind"] == kind]
    hours = {"core_hours": "processor", "wall_hours": "wall"}
    return {name: round(sum(s[key] for s in mine) / 3600, 4) for name, key in hours.items()}


def watch(split: av.Split, epsilon: float) -> Callable[[nn.Module], dict[str, float]]:
    """Return a measure of a network on a few training images, which the kit's signs look at."""
    part = split.sample(min(WATCHED, len(split)))
    ladder = [attacks.fgsm(epsilon), attacks.pgd(steps=10, epsilon=epsilon)]

    def measure(network: nn.Module) -> dict[str, float]:
        found = av.evaluate(network, part, ladder, check=False)
        return {f"{name}, train": found.accuracy(name) for name in found.names}

    return measure


def train(recipe: Recipe, seed: int, data: av.Data, folder: Path, meter: Meter) -> str:
    """Train what is left of a run; return why it was stopped, "" where it was not."""
    stopped = folder / "stopped"
    if stopped.exists():
        return stopped.read_text()
    training = av.Training(
        models.from_architecture(recipe.network, seed=seed),
        replace(data.train, augmentation=av.data.Augmentation(pad=4, flip=True)),
        recipe.dial(),
        recipe.steps,
        batch_size=BATCH,
        compile=recipe.compiled,
        precision=recipe.precision,
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
        meter.tick()
        if record.curves:
            meter.save()
            told = ", ".join(f"{name} {value:.0%}" for name, value in record.curves.items())
            print(f"{folder.name}: step {record.step + 1}, {told}", flush=True)
        for sign in record.signs:
            why = f"after {record.step + 1} steps: {sign.words}"
            print(f"{folder.name}: {why}", flush=True)
            if sign.name == "catastrophic overfitting":
                files.write_atomic(stopped, why.encode())
                return why
    return ""


def judge(
    columns: tuple[Column, ...],
    seed: int,
    data: av.Data,
    test: av.Split,
    folder: Path,
    meter: Meter,
    compiled: bool,
) -> Evaluation:
    """Return all verdicts on a trained network; what is there already is not taken again."""
    network = runs.load_model(folder / "latest.pt")
    network = Compiled(network, dynamic=True).eval() if compiled else network
    network.register_forward_hook(meter.tick)  # AutoAttack alone may take an hour
    verdicts = Verdicts.load(folder / "verdicts.npz", test.checksum, len(test))
    chunk = 250
    for first in range(0, len(test), chunk):
        last = min(first + chunk, len(test))
        for group in groups(verdicts.waiting(columns, first, last)):
            tried = [column.attack for column in group if column.attack is not None]
            part = test.subset(torch.arange(first, last))
            found = av.evaluate(network, part, tried, seed=seed)
            for column in group:
                at = 0 if column.attack is None else 1 + tried.index(column.attack)
                verdicts.add(column.key, first, found.correct[at], found.gradients[at])
            verdicts.save()
            meter.save()
            print(f"{folder.name}: images to {last}, {', '.join(found.names)}", flush=True)
    done = [column for column in (*COLUMNS, *AUTOATTACK.values()) if verdicts.done(column)]
    return verdicts.evaluation(done, replace(data, test=test), seed)


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is asked for in place of a recipe's own, or of all of the images."""
    usual = {"steps": None, "images": IMAGES, "eager": False}
    asked = {name: getattr(options, name) for name in usual}
    return {name: value for name, value in asked.items() if value != usual[name]}


def run(name: str, options: argparse.Namespace) -> None:
    """Train, evaluate and write one recipe, as far as it is not there.

    Raises:
        ValueError: overrides among the results of recipes; a network to be attacked further that is
            no longer there.
    """
    recipe, seed, column = RECIPES[name], options.seed, AUTOATTACK[options.autoattack]
    changed = overrides(options)
    where = "another folder, for these are results of the recipes as they are"
    fine = not changed or options.results.resolve() != RESULTS.resolve()
    check.that(fine, f"{', '.join(changed)} and --results", str(options.results), where)
    if "steps" in changed:
        recipe = replace(recipe, steps=options.steps)
    if options.eager:
        recipe = replace(recipe, compiled=False)
    options.results.mkdir(parents=True, exist_ok=True)
    stem = "-".join(map(str, [name, seed, *(word for pair in changed.items() for word in pair)]))
    path, folder = options.results / f"{stem}.json", options.runs / stem
    if path.exists():
        before = json.loads(path.read_text())
        if before["stopped"] or column.title in before["accuracy"]:
            return print(f"{path} is there already")
        if not (folder / "run.json").exists():
            raise ValueError(f"{path} has no {column.title}, and {folder} no longer its network")
    began = spent()
    if options.first:
        began["processor"] = 0.0  # importing counts
    options.first = False
    data = load_data("cifar10", options.data_root)
    test = data.test.sample(min(options.images, len(data.test)))
    with own_threads(options.threads):
        meter = Meter(folder, "training", began)
        stopped = train(recipe, seed, data, folder, meter)
        about = told(name, recipe, seed, data, test, folder)
        about |= {"overrides": changed, "stopped": stopped}
        if not stopped:
            began = began if meter.noted is None else spent()
            meter, wanted = Meter(folder, "evaluation", began), (*COLUMNS, column)
            found = judge(wanted, seed, data, test, folder, meter, not options.eager)
            found.save(path.with_suffix(".npz"))
            about |= {key: found.to_json()[key] for key in ("n", "accuracy", "interval95")}
    about["evaluation"] = cost_of(folder, "evaluation")
    threads = {"threads": options.threads} if options.threads != 1 else {}
    about["command"] += "".join(
        f" --{option}" if value is True else f" --{option} {value}"
        for option, value in {**changed, "autoattack": options.autoattack, **threads}.items()
    )
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


def own_threads(count: int) -> Any:
    """As many threads, one compiles, and compiles anew: what ran before makes nothing cheap."""
    import torch._inductor.config as inductor

    torch.set_num_threads(count)
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
    titles = [column.title for column in (*COLUMNS, *AUTOATTACK.values())]
    head = ["recipe", "seed", "parameters", "10^15 operations", "core-hours", *titles]
    head.append("evaluation, core-hours")
    lines = [[*head, "processor"]]
    for about in found:
        cells = ["stopped", *[""] * (len(titles) - 1)]
        if not about["stopped"]:
            cells = [_percent(about, title) for title in titles]
        cost = [f"{about[kind]['core_hours']:.2f}" for kind in ("training", "evaluation")]
        size = [f"{about['parameters'] / 1e6:.2f}M", f"{about['operations'] / 1e15:.2f}"]
        if about["stopped"]:
            size[1] = "-"
        made = " ".join(about["provenance"][key] for key in ("machine", "instructions"))
        made += f", {threads} threads" if (threads := about["provenance"]["threads"]) > 1 else ""
        lines.append([_name(about), str(about["seed"]), *size, cost[0], *cells, cost[1], made])
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
        "included; those of different processors are not the same, the floating-point operations "
        "of training, counted from the network, are. A level is reached under "
        f"{STRONGEST} (standard) alone.",
        "",
    ]
    for level in LEVELS:
        there = [
            about
            for about in found
            if not about["stopped"] and 100 * about["accuracy"].get(STRONGEST, 0) >= level
        ]
        first = "not reached yet"
        if there:
            cost = there[0]["training"]["core_hours"]
            first = f"{cost:.2f} core-hours ({_name(there[0])}, seed {there[0]['seed']})"
        text.append(f"- {STRONGEST} {level} %: {first}")
    for about in found:
        if about["stopped"]:
            text.append(f"- {_name(about)}, seed {about['seed']}, stopped {about['stopped']}")
    rows = {_name(about): [_name(about), *_made_of(about)] for about in found}
    head = ["recipe", "network", "attack", "passes", "pixels", "rate", "label", "averaged"]
    text += ["", "What the recipes are; batches of 128, decay 5e-4:", ""]
    text.append(markdown_table([[*head, "compiled", "precision"], *rows.values()], left=3))
    return "\n".join(text) + "\n"


def _percent(about: dict[str, Any], title: str) -> str:
    """An accuracy, with its interval where it is AutoAttack's, "-" where it was not taken."""
    if title not in about["accuracy"]:
        return "-"
    text = f"{100 * about['accuracy'][title]:.1f}"
    if title.startswith("AutoAttack"):
        low, high = about["interval95"][title]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text


def _name(about: dict[str, Any]) -> str:
    """The recipe's name, with what was asked for in its place."""
    changed = [f"{name} {value}" for name, value in about["overrides"].items()]
    return about["recipe"] + (f" ({', '.join(changed)})" if changed else "")


def _made_of(about: dict[str, Any]) -> list[str]:
    """What the recipe is, in a few words a column."""
    network = about["network"].replace("num_classes=10, in_channels=3", "").replace("(, ", "(")
    sides = about["sides"]
    each = [f"{sides.count(side)} x {side}" for side in dict.fromkeys(sides)]
    return [
        f"`{network.replace(', )', ')')}`",
        about["attack"],
        f"{about['steps'] / EPOCH:.3g}",
        str(sides[0]) if len(each) == 1 else ", ".join(each),
        f"{about['schedule']}, {about['lr']:g}",
        f"{about['lam']:g}",
        "no" if about["average"] is None else f"{about['average']:g}",
        "yes" if about["compiled"] else "no",
        about["precision"],
    ]


def curve(folder: Path) -> Any:
    """Return the figure of core-hours against AutoAttack, from the files alone.

    Filled is standard, hollow quick; of a network that has both, standard alone is drawn.
    """
    figure = graph_objects().Figure()
    shown = [about for about in results_in(folder) if not about["stopped"]]
    colours, marks = cycle(COLOURS), cycle(("circle", "square", "diamond", "triangle-up", "star"))
    for name in dict.fromkeys(map(_name, shown)):
        mine = [about for about in shown if _name(about) == name]
        title = [
            STRONGEST if STRONGEST in about["accuracy"] else AUTOATTACK["quick"].title
            for about in mine
        ]
        both = list(zip(mine, title, strict=True))
        values = [100 * about["accuracy"][title] for about, title in both]
        ends = [[100 * end for end in about["interval95"][title]] for about, title in both]
        colour, mark = next(colours), next(marks)
        figure.add_scatter(
            x=[about["training"]["core_hours"] for about in mine],
            y=values,
            name=name,
            text=[f"{name}<br>({about['provenance']['instructions']})" for about in mine],
            textposition="middle right",
            mode="markers+text",
            error_y=error_bars(values, [(low, high) for low, high in ends]) | {"color": colour},
            marker={
                "color": colour,
                "size": 10,
                "symbol": [mark + "-open" * (title != STRONGEST) for title in title],
            },
        )
    for level in LEVELS:
        figure.add_hline(y=level, line={"color": GREY, "dash": "dot", "width": 1})
    costs = [math.log2(about["training"]["core_hours"]) for about in shown] or [0.0]
    ends = math.floor(min(costs) - 0.3), math.ceil(max(costs) + 0.6)  # names stand to the right
    doubling = math.log10(2)
    figure.update_xaxes(type="log", dtick=doubling, range=[doubling * end for end in ends])
    styled(
        figure,
        "AutoAttack on CIFAR-10 against a CPU's core-hours (hollow: quick)",
        "core-hours of training",
        "AutoAttack (%)",
    )
    page = {"width": 720, "height": 460, "margin_b": 65}  # no wider than a page that shows it
    white = {"paper_bgcolor": "white", "plot_bgcolor": "white"}
    figure.update_traces(textfont_size=13)
    return figure.update_layout(showlegend=False, font_size=13, **page, **white)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--images", type=int, default=IMAGES, help="test images")
    parser.add_argument("--autoattack", choices=list(AUTOATTACK), default="standard")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/time-to-robustness"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: 1)")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--table", action="store_true", help="only make table and curve again")
    options = parser.parse_args()
    try:
        check.whole("threads", options.threads)
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
    try:
        curve(options.results).write_image(options.results / "curve.png")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"no curve.png: {str(error).strip().splitlines()[0]}")


if __name__ == "__main__":
    main()
