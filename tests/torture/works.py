"""The kit's pieces of work that are tortured: each goes on where it stood, and says what it made.

All are tiny: what is asked of them does not depend on size.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch

import avmixup_kit as av
from avmixup_kit import methods, runs
from avmixup_kit.training import checkpoints
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training

EPSILON = 0.15
# Not the same when done twice, and no part of what was asked for.
PASSING = ("seconds", "provenance", "processor seconds", "taken_up", "taken up after")
REFUSALS = (ValueError, OSError, ImportError, FloatingPointError, TypeError)


class Broken(AssertionError):
    """Something was lost, changed, or went wrong without a word."""


def refusal(error: BaseException) -> str:
    """Return the line in which something was refused.

    Raises:
        Broken: it was none: another kind of error, nothing said, or more than a line.
    """
    said = str(error)
    if not isinstance(error, REFUSALS) or not said.strip() or "\n" in said.strip():
        raise Broken(f"{type(error).__name__}: {said[:400]!r} is no refusal in one line") from error
    return said


@cache
def digits() -> av.Data:
    return av.digits(validation=0.25)


def digest(tree: Any) -> str:
    """Return a checksum of tensors and plain values, whatever holds them."""
    mark = hashlib.sha256()

    def add(branch: Any) -> None:
        if isinstance(branch, torch.Tensor):
            mark.update(repr((branch.dtype, tuple(branch.shape))).encode())
            mark.update(branch.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(branch, dict):
            for key, value in branch.items():
                mark.update(repr(key).encode())
                add(value)
        elif isinstance(branch, list | tuple):
            mark.update(b"[" + str(len(branch)).encode())
            for value in branch:
                add(value)
        else:
            mark.update(repr(branch).encode())

    add(tree)
    return mark.hexdigest()[:16]


def without_passing(tree: Any) -> Any:
    """Return a tree of plain values without what a second run makes otherwise."""
    if isinstance(tree, dict):
        return {k: without_passing(v) for k, v in tree.items() if k not in PASSING}
    if isinstance(tree, list):
        return [without_passing(value) for value in tree]
    return tree


def apart(was: Any, now: Any) -> tuple[Any, Any]:
    """Return what only the one has and only the other, of two lists; else both."""
    if isinstance(was, list) and isinstance(now, list):
        return [one for one in was if one not in now], [one for one in now if one not in was]
    return was, now


def names(folder: Path) -> list[str]:
    """Return what lies in a folder but for locks, and for how long a training took.

    Pieces go without the checksum in their name: a run taken up pickles the same state otherwise.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    passing = ("lock", "seconds.json")
    ours = (p for p in files if p.suffix not in (".lock", ".claim") and p.name not in passing)
    return sorted(re.sub(r"pt\.[0-9a-f]{8}\.", "pt.*.", str(p.relative_to(folder))) for p in ours)


def run_folder(folder: Path) -> dict[str, Any]:
    """Return what a run folder holds: states, log, turns, names."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {
        path.stem: digest(checkpoints.load_checkpoint(path)) for path in folder.glob("*.pt")
    }
    return found | {"log": digest(without_passing(lines)), "names": names(folder)}


Promise = Callable[[Any], None]


def nothing(what: Any) -> None:
    """Take a promise, and do nothing about it."""


class Work(Protocol):
    """A piece of work in a folder."""

    @property
    def name(self) -> str: ...

    def run(self, folder: Path, promise: Promise = nothing) -> None:
        """Begin, or go on, to the end; tell what from now on must never be lost."""
        ...

    def made(self, folder: Path) -> dict[str, Any]:
        """Return what it made, without what passes."""
        ...

    def kept(self, folder: Path, promised: tuple[str, ...]) -> None:
        """Raise Broken unless what was promised is there."""
        ...


def score(network: torch.nn.Module) -> dict[str, float]:
    """Return a curve that rises and falls, and follows from the weights alone."""
    return {"score": float(next(network.parameters()).detach().double().abs().sum()) * 1e3 % 1}


@dataclass(frozen=True)
class Train:
    """A training with curves, a best checkpoint and a turn by hand; checkpoints maybe in pieces."""

    name: str = "train"
    piece_mib: int | None = None
    steps: int = 12
    base_channels: int = 4
    seed: int = 0
    until: int | None = None

    def run(self, folder: Path, promise: Promise = nothing) -> None:
        run, data = folder / "run", digits()
        method = methods.avmixup(epsilon=EPSILON, steps=1)
        dial = Dial(
            method if self.piece_mib is None else methods.label_smoothing(epsilon=EPSILON, steps=1)
        )
        network = av.small_cnn(data, seed=self.seed, base_channels=self.base_channels)
        training = Training(network, data.train, dial, self.steps, batch_size=8, seed=self.seed)
        there = (run / "run.json").exists()
        records = runs.log(
            training, run, resume=there, checkpoint_every=4, keep_every=8, curves=score,
            curves_every=3, best="score", piece_mib=self.piece_mib,
        )  # fmt: skip
        for record in records:
            done = record.step + 1
            # Killed twice, the log may have lost the turn that the checkpoint still expects.
            if done == 6 and not dial.state_dict()["ahead"]:
                dial.turn(epsilon=0.1)
            if done % 4 == 0:
                promise(f"step {done}")
            if done == 7:
                promise("turn")
            if done == self.until:
                break
        records.close()

    def made(self, folder: Path) -> dict[str, Any]:
        return run_folder(folder / "run")

    def kept(self, folder: Path, promised: tuple[str, ...]) -> None:
        if not promised:
            return
        run = folder / "run"
        step = checkpoints.load_checkpoint(run / "latest.pt")["training"]["step"]
        least = max((int(p.split()[1]) for p in promised if p.startswith("step")), default=0)
        if step < least:
            raise Broken(f"step {least} was saved, {step} is there")
        if "turn" in promised and not runs.turns_of(run):
            raise Broken("a turn is lost")


@dataclass(frozen=True)
class Judge:
    """A run evaluated twice, the second time on more images."""

    name: str = "evaluate"
    seed: int = 0

    def run(self, folder: Path, promise: Promise = nothing) -> None:
        run = folder / "run"
        Train(seed=self.seed, steps=4).run(folder)
        opened = runs.open(run)
        for images in (10, 20):
            found = av.evaluate(opened.model, digits().test.subset(images), [av.fgsm(EPSILON)])
            runs.save_evaluation(run, found)
            promise(images)

    def made(self, folder: Path) -> dict[str, Any]:
        self.kept(folder, ("20",))
        return {"names": names(folder / "run")}

    def kept(self, folder: Path, promised: tuple[str, ...]) -> None:
        run = folder / "run"
        if not (run / "run.json").exists():
            return
        told = runs.open(run).evaluation
        if told is None:
            if "20" in promised:
                raise Broken("an evaluation is lost")
            return
        result = av.Evaluation.load(run / "correct.npz")
        accuracy = {name: result.accuracy(name) for name in result.names}
        if (accuracy, result.n) != (told["accuracy"], told["n"]):
            raise Broken("evaluation.json stands beside the verdicts of another")
        if "20" in promised and result.n != 20:
            raise Broken("a later evaluation is lost")


@dataclass(frozen=True)
class Search:
    """A search of a few trials, one of them ended early, on SQLite."""

    name: str = "search"
    trials: int = 4
    seed: int = 0
    shared: bool = False

    def run(self, folder: Path, promise: Promise = nothing) -> None:
        from avmixup_kit import search

        found = search.search(
            digits(), folder / "search", trials=self.trials, plan=self._plan(), checkpoint_every=2
        )
        promise(f"trials {len(found.finished)}")

    def _plan(self) -> Any:
        from avmixup_kit import search

        return search.Plan(
            settings=av.Settings(12, batch_size=16, seed=self.seed),
            base_channels=4,
            attack_steps=1,
            images=60,
            epsilon=0.03,
            objective=av.cw(steps=2, epsilon=0.03),
        )

    def made(self, folder: Path) -> dict[str, Any]:
        told = json.loads((folder / "search" / "summary.json").read_text())
        # Processes that share a search take up different trials each time.
        trials = len(told["trials"]) if self.shared else digest(without_passing(told["trials"]))
        return {"trials": trials, "names": names(folder)}

    def kept(self, folder: Path, promised: tuple[str, ...]) -> None:
        from avmixup_kit import search

        if promised and len(search.Found.load(folder / "search").trials) < self.trials:
            raise Broken("trials are lost")


@dataclass(frozen=True)
class Reproduce:
    """Two columns of the paper's Table 6 at a tiny scale."""

    name: str = "reproduce"
    seed: int = 0

    def run(self, folder: Path, promise: Promise = nothing) -> None:
        from avmixup_kit.reproduce import plans, reproduce

        # Half of the images between two saves, so that there is something to go on with.
        scale = replace(
            plans.SMOKE,
            steps=3,
            images=12,
            measurements=1,
            curve_images=6,
            chunk=6,
            seeds=(self.seed,),
        )
        reproduce(
            ["figure2"], scale, results=folder / "results", folder=folder / "runs",
            say=nothing,
        )  # fmt: skip
        promise("table")

    def made(self, folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = {"names": names(folder)}
        for path in sorted((folder / "results").rglob("*.json")):
            found[path.name] = digest(without_passing(json.loads(path.read_text())))
            result = av.Evaluation.load(path.with_suffix(".npz"))
            found[path.stem + ".npz"] = digest([result.correct, result.names])
        for path in sorted((folder / "runs").rglob("latest.pt")):
            found[str(path.parent.name)] = digest(checkpoints.load_checkpoint(path))
        return found

    def kept(self, folder: Path, promised: tuple[str, ...]) -> None:
        if promised and not list((folder / "results").rglob("table.md")):
            raise Broken("a table is lost")


@dataclass(frozen=True)
class Lab:
    """A run that a dashboard's shelf keeps, three times while it goes on, taken up headless."""

    name: str = "dashboard save"
    seed: int = 0
    steps: int = 9

    def run(self, folder: Path, promise: Promise = nothing) -> None:
        from avmixup_kit.live.lab.run import LiveRun
        from avmixup_kit.live.lab.shelf import Shelf

        run = folder / "run"
        if (run / "run.json").exists():
            # Turned by hand it may be before any step; the folder knows.
            for _ in runs.log(self._training(), run, resume=True, checkpoint_every=4):
                pass
            return
        live = LiveRun("run 1", self._training(), None, 4)
        live.keep()
        live.home, shelf = run, Shelf(folder)
        for step in range(self.steps):
            live.note(next(live.training))
            live.flush()
            if step % 3 == 2:
                shelf.keep(live)
                promise(f"step {step + 1}")

    def _training(self) -> Training:
        data = digits()
        dial = Dial(methods.avmixup(epsilon=EPSILON, steps=1))
        network = av.small_cnn(data, seed=self.seed, base_channels=4)
        return Training(network, data.train, dial, self.steps, batch_size=8, seed=self.seed)

    def made(self, folder: Path) -> dict[str, Any]:
        run = folder / "run"
        lines = (run / "log.jsonl").read_text().splitlines()
        steps = [line["step"] for line in map(json.loads, lines)]
        if steps != list(range(self.steps)):
            raise Broken(f"log.jsonl has a gap: steps {steps}")
        return {"weights": digest(checkpoints.load_checkpoint(run / "latest.pt")["model"])}

    def kept(self, folder: Path, promised: tuple[str, ...]) -> None:
        if promised:
            state = checkpoints.load_checkpoint(folder / "run" / "latest.pt")["training"]
            if state["step"] < max(int(p.split()[1]) for p in promised):
                raise Broken("a saved step is lost")


PIECES = Train("train in pieces", piece_mib=1, base_channels=48, steps=8)
WORKS: tuple[Work, ...] = (Train(), PIECES, Judge(), Search(), Reproduce(), Lab())


def go_on(work: Work, folder: Path) -> str:
    """Have a work go on in a folder where something happened to it.

    Returns:
        "" where it went on, the refusal where nothing had been made yet, after it was begun anew.

    Raises:
        Broken: see ``refusal``.
    """
    try:
        work.run(folder)
    except Exception as error:
        return refusal(error)
    return ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
