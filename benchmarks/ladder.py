"""What attacking only standing images saves, from FGSM to AutoAttack.

    python benchmarks/ladder.py [--markdown FILE]

A small network is trained by PGD on digits for a moment, then evaluated on 449 test images under
FGSM, PGD20, CW20 and the quick AutoAttack in three ways: every attack on every image, start to end
(what a loop over attacks does); ``evaluate``, which drops an image from an attack at its first
misclassified iterate; and ``evaluate(ladder=True)``, which also drops it from all later attacks.
The worst case is the same in all three, asserted. Rounds are interleaved; time is process CPU time
on one thread; ratios are to the first way in the same round. The A/A row is the first way again.
Input gradients, counted image by image, do not depend on the machine. Last, the quick AutoAttack by
itself on 200 images.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import avmixup_kit as av
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.crafting import starts
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.methods.attacks import ball

EPSILON = 0.15
ROUNDS = 9


class Counting(torch.nn.Module):
    """A model that counts the images whose input gradient is taken."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.gradients = model, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


def everything(model: torch.nn.Module, split: av.Split, attacks: list) -> Tensor:
    """Return who survives when every attack is run on every image to its end."""
    part = torch.arange(len(split))
    x, y = split.batch(part)
    with torch.no_grad():
        standing = model(x).argmax(1) == y.argmax(1)
    for attack in attacks:
        if isinstance(attack, av.Attack):
            # A loop over attacks looks at the last iterate; here every iterate counts, as it does
            # in evaluate, so that the worst case is the same.
            for row in iterates(model, split, attack):
                standing &= row
        else:
            for name in attack.attacks:
                one = dataclasses.replace(attack, attacks=(name,))
                standing &= one.judge(model, split, part, len(split), 0, lambda _: None).correct
    return standing


def iterates(model: torch.nn.Module, split: av.Split, attack: av.Attack):
    """Yield which images each iterate leaves right, the start included."""

    part = torch.arange(len(split))
    x, y = split.batch(part)
    low, high = ball(x, attack.epsilon)
    delta = starts(split, part, attack, 0).clamp(low, high)
    for step in range(attack.steps + 1):
        x_hat = (x + delta).requires_grad_(step < attack.steps)
        logits = model(x_hat)
        yield (logits.argmax(1) == y.argmax(1)).detach()
        if step < attack.steps:
            (gradient,) = torch.autograd.grad(attack.objective(logits, y, None).sum(), x_hat)
            delta = (delta + attack.step * gradient.sign()).clamp(low, high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=40, help="training steps of the network")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data = av.digits()
    model = av.small_cnn(data, seed=0)
    for _ in av.Training(model, data.train, av.methods.pgd(epsilon=EPSILON, steps=3), chosen.steps):
        pass
    model.eval().requires_grad_(False)
    attacks = [
        av.fgsm(EPSILON),
        av.pgd(steps=20, epsilon=EPSILON),
        av.cw(steps=20, epsilon=EPSILON),
        autoattack(EPSILON, "quick"),
    ]
    counted = Counting(model)
    ways: dict[str, Callable[[], Tensor]] = {
        "every attack on every image": lambda: everything(counted, data.test, attacks),
        "the same again (A/A)": lambda: everything(counted, data.test, attacks),
        "evaluate": lambda: evaluate(counted, data.test, attacks, batch_size=512).worst(),
        "evaluate(ladder=True)": lambda: evaluate(
            counted, data.test, attacks, batch_size=512, ladder=True
        ).worst(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gradients: dict[str, int] = {}
    worst: dict[str, Tensor] = {}
    for _ in range(chosen.rounds):
        for name, way in ways.items():
            counted.gradients, began = 0, time.process_time()
            worst[name] = way()
            seconds[name].append(time.process_time() - began)
            gradients[name] = counted.gradients
    first, *others = worst
    assert all(torch.equal(worst[first], worst[other]) for other in others)
    clean = evaluate(model, data.test).accuracy()
    lines = [
        f"Clean accuracy {clean:.1%}, worst case {float(worst[first].double().mean()):.1%}, n = "
        f"{len(data.test)}; {chosen.rounds} rounds; {machine()}.",
        "",
        "| way | seconds | ratio, median (quartiles) | input gradients |",
        "|---|---|---|---|",
    ]
    for name, times in seconds.items():
        ratios = [mine / base for mine, base in zip(times, seconds[first], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        lines.append(
            f"| {name} | {statistics.median(times):.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
            f"{gradients[name]:,} |".replace(",", " ")
        )
    few, began = data.test.subset(200), time.process_time()
    evaluate(model, few, [autoattack(EPSILON, "quick")])
    lines += ["", f"Quick AutoAttack alone, 200 digits: {time.process_time() - began:.1f} s."]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.markdown is not None:
        chosen.markdown.write_text(text)


def machine() -> str:
    """Return the processor's name and the versions that speed depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, one thread"


if __name__ == "__main__":
    main()
