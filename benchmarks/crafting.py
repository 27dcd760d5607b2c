"""Time of PGD-10 crafting and of one AVmixup step, as ratios to a floor, interleaved in one run.

    python benchmarks/crafting.py [--rounds 15] [--peers] [--compile] [--output FILE]

Floor of crafting: 10 x (forward + backward to the input) of the frozen network, eager, NCHW. Floor
of a step: the same plus one full forward and backward. Each round times every row once, in an order
of its own; a row's ratio is its time over the floor's within the round. The A/A row is the floor
timed a second time: what it strays from 1 is noise. Times are processor seconds of one thread.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import avmixup_kit as av
from avmixup_kit import attacks, methods
from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import text_table
from avmixup_kit.methods.labels import one_hot
from avmixup_kit.training.compiled import Compiled

EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 10


def network() -> nn.Module:
    """The narrow PreActResNet18 of every row, in eval mode, with the same weights."""
    return av.preact_resnet18(10, base_channels=16, seed=0).eval()


def images(batch: int, *, channels_last: bool) -> tuple[Tensor, Tensor]:
    """A batch of random images and labels: time does not depend on what they show."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 32, 32, generator=rng)
    y = torch.randint(10, (batch,), generator=rng)
    return (x.to(memory_format=torch.channels_last) if channels_last else x), y


def floor_of_crafting(batch: int) -> Callable[[], None]:
    model = network().requires_grad_(False)
    x, y = images(batch, channels_last=False)

    def run() -> None:
        for _ in range(STEPS):
            x.requires_grad_(True)
            torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)

    return run


def floor_of_a_step(batch: int) -> Callable[[], None]:
    craft, model = floor_of_crafting(batch), network()
    x, y = images(batch, channels_last=False)

    def run() -> None:
        craft()
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()

    return run


def kit_crafting(batch: int, *, compiled: bool = False) -> Callable[[], None]:
    model = network().to(memory_format=torch.channels_last)
    x, y = images(batch, channels_last=True)
    y = one_hot(y, 10)
    guide = torch.compile(model.requires_grad_(False)) if compiled else model
    attack, rng = (
        attacks.pgd(steps=STEPS, epsilon=EPSILON, step_size=STEP),
        torch.Generator().manual_seed(0),
    )

    def run() -> None:
        attack(guide, x, y, rng)

    return run


def kit_step(batch: int, *, compiled: bool = False) -> Callable[[], None]:
    model = network().to(memory_format=torch.channels_last)
    guide = Compiled(model) if compiled else model
    x, y = images(batch, channels_last=True)
    y = one_hot(y, 10)
    method, rng = methods.avmixup(batch_norm="eval"), torch.Generator().manual_seed(0)

    def run() -> None:
        step = methods.Batch(x, y, rng=rng)
        step.delta = method.perturb(guide, step)
        step.x_hat, step.y_hat = method.mix(guide, step)
        model.zero_grad()
        method.loss(guide, step).backward()

    return run


def passes_alone(batch: int) -> Callable[[], None]:
    """The compiled network's passes of a step: the least that compiling the rest can reach."""
    model = network().to(memory_format=torch.channels_last)
    guide = Compiled(model)
    x, y = images(batch, channels_last=True)

    def run() -> None:
        model.requires_grad_(False)
        for _ in range(STEPS):
            x.requires_grad_(True)
            torch.autograd.grad(nn.functional.cross_entropy(guide(x), y), x)
        model.requires_grad_(True)
        model.zero_grad()
        nn.functional.cross_entropy(guide(x.detach()), y).backward()

    return run


def foolbox_crafting(batch: int, *, best: bool) -> Callable[[], None]:
    import eagerpy
    import foolbox

    model, (x, y) = network(), images(batch, channels_last=best)
    if best:
        model = model.requires_grad_(False).to(memory_format=torch.channels_last)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
    x_, y_ = eagerpy.astensor(x), foolbox.criteria.Misclassification(eagerpy.astensor(y))
    return lambda: attack.run(wrapped, x_, y_, epsilon=EPSILON)


def torchattacks_crafting(batch: int, *, best: bool) -> Callable[[], None]:
    import torchattacks

    model, (x, y) = network(), images(batch, channels_last=best)
    if best:
        model = model.requires_grad_(False).to(memory_format=torch.channels_last)
    attack = torchattacks.PGD(model, eps=EPSILON, alpha=STEP, steps=STEPS)
    return lambda: attack(x, y)


def art_crafting(batch: int, *, best: bool) -> Callable[[], None]:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    model, (x, y) = network(), images(batch, channels_last=False)
    if best:
        model = model.requires_grad_(False)
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPSILON, eps_step=STEP, max_iter=STEPS, batch_size=batch, num_random_init=1,
        verbose=False,
    )  # fmt: skip
    x_, y_ = x.numpy(), np.eye(10, dtype=np.float32)[y]
    return lambda: attack.generate(x_, y_)


def cleverhans_crafting(batch: int, *, best: bool) -> Callable[[], None]:
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    model, (x, y) = network(), images(batch, channels_last=best)
    if best:
        model = model.requires_grad_(False).to(memory_format=torch.channels_last)
    return lambda: projected_gradient_descent(
        model, x, EPSILON, STEP, STEPS, np.inf, 0, 1, y, sanity_checks=False
    )


PEERS = {
    "Foolbox": foolbox_crafting,
    "torchattacks": torchattacks_crafting,
    "ART": art_crafting,
    "cleverhans": cleverhans_crafting,
}


def ratios(
    rows: dict[str, Callable[[], object]], floor: str, rounds: int
) -> dict[str, list[float]]:
    """Return each row's time over the floor's, a number per round."""
    order, chance = list(rows), random.Random(0)
    for run in rows.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        chance.shuffle(order)
        seconds = {}
        for name in order:
            began = time.process_time()
            rows[name]()
            seconds[name] = time.process_time() - began
        for name in rows:
            found[name].append(seconds[name] / seconds[floor])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peers", action="store_true", help="every peer that is installed")
    parser.add_argument("--compile", action="store_true", help="the compiled rows too")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = options.batch
    rows: dict[str, Callable[[], object]] = {
        "floor of crafting": floor_of_crafting(batch),
        "A/A: the floor again": floor_of_crafting(batch),
        "kit, PGD-10": kit_crafting(batch),
    }
    if options.compile:
        rows["kit, PGD-10, compiled"] = kit_crafting(batch, compiled=True)
    for name, build in PEERS.items() if options.peers else ():
        try:
            rows[name] = build(batch, best=False)
            rows[f"{name}, best use"] = build(batch, best=True)
        except ImportError as error:
            print(f"{name} is not installed: {error}")
    steps = {
        "floor of a step": floor_of_a_step(batch),
        "A/A: that floor again": floor_of_a_step(batch),
        "kit, AVmixup step": kit_step(batch),
    }
    if options.compile:
        steps["kit, AVmixup step, compiled"] = kit_step(batch, compiled=True)
        steps["its network's passes alone"] = passes_alone(batch)
    found = ratios(rows, "floor of crafting", options.rounds)
    found |= ratios(steps, "floor of a step", options.rounds)
    table = [("row", "median ratio", "quartiles")]
    report = {}
    for name, values in found.items():
        low, middle, high = statistics.quantiles(values, n=4)
        report[name] = {"median": middle, "quartiles": [low, high], "rounds": len(values)}
        table.append((name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"))
    print(text_table(table))
    if options.output:
        content = {"batch": batch, "provenance": provenance(), "ratios": report}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
