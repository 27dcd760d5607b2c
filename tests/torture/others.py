"""Verdicts under other circumstances, dashboards by the hundred, settings drawn at random."""

import gc
import importlib
import itertools
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import avmixup_kit as av
from avmixup_kit import methods
from tests.torture.children import Skipped
from tests.torture.works import EPSILON, Broken, Lab, digits, one_thread

IMAGES = 40
CYCLES = 500
DRAWN = 100  # settings a try
# Megabytes that a process may grow over so many dashboards: Python's and torch's own allocators.
GROWTH = 40


def ladder() -> list[av.Attack]:
    """Return attacks of every kind of start."""
    return [
        av.fgsm(EPSILON),
        av.pgd(steps=5, epsilon=EPSILON, restarts=2),
        av.cw(steps=5, epsilon=EPSILON),
    ]


def train_to_judge(folder: Path) -> None:
    """Train a network that some attacks fool and some do not."""
    model = av.small_cnn(digits(), base_channels=8)
    method = methods.pgd(epsilon=EPSILON, steps=2)
    for _ in av.Training(model, digits().train, method, 60, batch_size=32):
        pass
    torch.save(model.state_dict(), folder / "model.pt")
    result = _judged(folder, torch.arange(IMAGES))
    torch.save(result.correct, folder / "correct.pt")


def _judged(folder: Path, order: torch.Tensor, batch_size: int = 256) -> av.Evaluation:
    model = av.small_cnn(digits(), base_channels=8)
    model.load_state_dict(torch.load(folder / "model.pt"))
    split = digits().test.subset(order)
    return av.evaluate(model.eval(), split, ladder(), batch_size=batch_size, check=False)


_SCRIPT = """
import sys
from pathlib import Path
import torch
from tests.torture import others
torch.set_num_threads(int(sys.argv[2]))
order = torch.tensor([int(number) for number in sys.argv[4].split()])
torch.save(others._judged(Path(sys.argv[1]), order, int(sys.argv[3])).correct, sys.argv[5])
"""


def judged_otherwise(folder: Path, chance: random.Random, place: Path) -> str:
    """Judge the same images in another order, subset, batch, thread count, sometimes process."""
    expected = torch.load(folder / "correct.pt")
    order = torch.tensor(chance.sample(range(IMAGES), chance.randrange(1, IMAGES + 1)))
    size, threads = chance.randrange(1, IMAGES + 1), chance.choice((1, 2))
    if chance.random() < 0.15:
        words = [str(folder), str(threads), str(size), " ".join(map(str, order.tolist()))]
        saved = str(place / "found.pt")
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *words, saved], capture_output=True, text=True
        )
        if done.returncode:
            raise Broken(done.stderr.strip().splitlines()[-1])
        found = torch.load(saved)
    else:
        with one_thread():
            torch.set_num_threads(threads)
            found = _judged(folder, order, size).correct
    if not torch.equal(found, expected[:, order]):
        many = int((found != expected[:, order]).sum())
        raise Broken(f"{many} other verdicts with batch_size = {size}, {threads} threads")
    return ""


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def dashboards(
    cycles: int, told: Callable[[int, dict[str, float]], object] = lambda n, now: None
) -> dict[str, float]:
    """Open, turn, train and close dashboards; return by how much the process grew.

    The first tenth, when caches fill, is left out.

    Raises:
        Broken: threads, open files or widgets are not as many as before, or memory grows.
    """
    import ipywidgets

    from avmixup_kit import live

    def now() -> dict[str, float]:
        gc.collect()
        return {
            "threads": threading.active_count(),
            "open files": len(os.listdir("/proc/self/fd")),
            "widgets": len(ipywidgets.Widget.get_manager_state()["state"]),
            "MB": round(_resident(), 1),
        }

    before: dict[str, float] = {}
    for cycle in range(cycles):
        training = Lab(steps=3)._training()  # pyright: ignore[reportPrivateUsage]
        lab = live.show(
            training, data=digits(), probe_every=2, probe_images=4, period=0.05, folder=None
        )
        lab.numbers["gamma"].box.value = 1.0 + cycle % 3
        lab.start()
        lab.join(120)
        if cycle % 2:
            lab.trainer.close()
        lab.close()
        if cycle + 1 == max(1, cycles // 10):
            before = now()
        if cycle % 25 == 24:
            told(cycle + 1, now())
    after = now()
    grown = {name: round(after[name] - before[name], 1) for name in after}
    if any(grown[name] > 0 for name in ("threads", "open files", "widgets")):
        raise Broken(f"not flat over {cycles} dashboards: {grown}")
    if grown["MB"] > GROWTH:
        raise Broken(f"memory is not flat over {cycles} dashboards: {grown}")
    return grown


def settings(seed: int, number: int) -> dict[str, int]:
    """Return what became of so many settings: the next ``DRAWN`` of ``properties.draws``.

    Raises:
        Broken: a draw is neither refused in one clear line nor goes on bit for bit.
        Skipped: the property test that draws them is not there.
    """
    try:
        properties = importlib.import_module("tests.properties")
    except ImportError as error:
        raise Skipped(f"there is no property test of settings: {error}") from error
    counts = Counter[str]()
    first = number * DRAWN
    for draw in itertools.islice(properties.draws(first + DRAWN, seed), first, None):
        verdict, words = properties.judge(draw)
        if verdict == "failed":
            raise Broken(f"{draw}: {words}")
        counts["survived" if verdict == "survived" else "refused"] += 1
    return dict(counts)
