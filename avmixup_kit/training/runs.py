"""Run folders: what a training was, what it did, and where to take it up again.

    runs/<name>/
      run.json                 settings as reprs, seed, commit, versions, device; how the images
                               were loaded, their classes and checksums; whose the network is
      log.jsonl                one record a line; dial turns and curves among them
      latest.pt, best.pt, step_040000.pt      training.state_dict()
      evaluation.json, correct.npz            when evaluated

A checkpoint may lie in pieces (latest.pt.1a2b3c4d.000, ...), which latest.pt then lists. Every file
is written whole or not at all. Killed at any moment, a run goes on from its last checkpoint and
ends with the weights of one that was left alone.
"""

import io
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from avmixup_kit._base import check, distributed, files, plugins
from avmixup_kit._base.files import json_lines, write_atomic
from avmixup_kit._base.provenance import provenance
from avmixup_kit.methods.method import own_stages
from avmixup_kit.training.checkpoints import check_piece_mib, load_checkpoint, save_checkpoint
from avmixup_kit.training.dial import Dial, Turn, step_of
from avmixup_kit.training.folders import Own as Own
from avmixup_kit.training.folders import Run as Run
from avmixup_kit.training.folders import about as about
from avmixup_kit.training.folders import check_images as check_images
from avmixup_kit.training.folders import curves_of as curves_of
from avmixup_kit.training.folders import images_of as images_of
from avmixup_kit.training.folders import load_model as load_model
from avmixup_kit.training.folders import open as open
from avmixup_kit.training.folders import turns_of as turns_of
from avmixup_kit.training.loop import Record, Training, TrainingDiverged

Curves = Callable[[Training], dict[str, float]]

# To read a loss on a device is to wait for its step, so losses are logged in blocks of 50; on a CPU
# the step is done.
LOGGED_AT_ONCE = {"cpu": 1}


def describe(training: Training) -> dict[str, Any]:
    """Return what run.json holds about a training, apart from where it was made."""
    more = {"stages": own_stages(training.method), "average": training.average}
    return {name: value for name, value in more.items() if value} | {
        "settings": repr(training.settings),
        "method": repr(training.method),
        "architecture": getattr(training.model, "architecture", None),
        "data": training.split.name,
        "checksum": training.split.checksum,
        "augmentation": repr(training.split.augmentation),
    }


def remember(training: Training, network: Own = None) -> dict[str, Any]:
    """Return what run.json holds so that data and network are found again.

    Paths are as the user gave them. ``network``: the function that makes a network of one's own;
    left out, its class.
    """
    split, origin = training.split, training.split.origin
    images: dict[str, Any] = {"classes": split.classes, "checksums": {"train": split.checksum}}
    if origin is not None:
        images |= {"loader": origin.loader, "arguments": origin.arguments, "part": origin.part}
        images["checksums"] |= origin.checksums
    told: dict[str, Any] = {"images": images}
    if getattr(training.model, "architecture", None) is None:
        kind = type(training.model)
        home = network if isinstance(network, str) else plugins.home_of(network or kind)
        if network or kind.__module__.split(".")[0] != "torch":
            told["network"] = home
    return told


def export_turns(dial: Dial, path: str | Path) -> None:
    """Write a dial's turns, one JSON line each, so that a headless run can repeat them."""
    lines = "".join(json.dumps(turn.to_json()) + "\n" for turn in dial.turns)
    write_atomic(path, lines.encode())


class Savable(Protocol):
    """What an evaluation is to a run folder."""

    def to_json(self) -> dict[str, object]: ...

    def save(self, path: IO[bytes], /) -> None: ...


def save_evaluation(folder: str | Path, evaluation: Savable) -> None:
    """Write evaluation.json and correct.npz into a run folder."""
    folder = Path(folder)
    buffer = io.BytesIO()
    evaluation.save(buffer)
    write_atomic(folder / "correct.npz", buffer.getvalue())
    text = json.dumps(evaluation.to_json() | {"provenance": provenance()}, indent=2)
    write_atomic(folder / "evaluation.json", text.encode())


def log(
    training: Training,
    folder: str | Path,
    *,
    resume: bool = False,
    checkpoint_every: int = 500,
    keep_every: int | None = None,
    curves: Curves | None = None,
    curves_every: int = 500,
    best: str | None = None,
    minutes: float | None = None,
    piece_mib: int | None = None,
    network: Own = None,
) -> Generator[Record, None, None]:
    """Train, write everything into a run folder, and yield each step's record.

    Processes that train together (``distributed.joined``) all call this; process 0 writes.

    Args:
        training: what to train; with ``resume`` it continues where the folder stands.
        folder: made if need be; one run at a time may use it.
        resume: take up an earlier run. Turns of the dial made after its last checkpoint are
            replayed.
        checkpoint_every: steps between overwriting latest.pt.
        keep_every: steps between checkpoints that are kept as step_NNNNNN.pt; None keeps none.
        curves: measures the model (on training and validation data, never on test data); its
            numbers go into the log. It must leave model and generators as it found them.
        curves_every: steps between two measurements; the last step is always measured.
        best: name of a curve; the checkpoint where it was highest is kept as best.pt.
        minutes: end with a checkpoint after the first step that is over so long after the call; the
            run can be taken up with ``resume``. None trains to the end.
        piece_mib: keep every file of a checkpoint below so many MiB.
        network: the function that makes a network of your own, or "module:qualname" of it, which
            run.json keeps so that ``open`` can make the network again; its class where left out.

    Raises:
        FileExistsError: the folder holds a run and ``resume`` is False.
        FileNotFoundError: ``resume`` and there is no run to take up.
        BlockingIOError: another process is using the folder.
        ValueError: the folder's run had other settings, images or another network.
        TrainingDiverged: the loss or a weight is no longer finite; the last checkpoint is good.
    """
    check.whole("checkpoint_every", checkpoint_every)
    check.whole("curves_every", curves_every)
    fine = minutes is None or 0 < minutes < float("inf")
    check.that(fine, "minutes", minutes, "a positive number, or None")
    check_piece_mib(piece_mib)
    check.that(best is None or curves is not None, "best", best, "curves are missing to choose by")
    until = None if minutes is None else time.monotonic() + 60 * minutes
    run = _Run(
        training, Path(folder), checkpoint_every, keep_every, curves, curves_every, best, until,
        piece_mib, network,
    )  # fmt: skip
    return run.records(resume)


@dataclass
class _Run:
    training: Training
    folder: Path
    checkpoint_every: int
    keep_every: int | None
    curves: Curves | None
    curves_every: int
    best: str | None
    until: float | None
    piece_mib: int | None
    network: Own
    highest: float = float("-inf")
    logged_turns: int = 0
    writes: bool = field(default_factory=lambda: distributed.rank() == 0)
    waiting: list[Record] = field(default_factory=list)

    def records(self, resume: bool) -> Generator[Record, None, None]:
        with ExitStack() as held:

            def hold() -> None:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = files.held(self.folder / "lock", what=f"the run folder {self.folder}")
                held.enter_context(lock)

            distributed.from_rank_0(hold)
            self._take_up() if resume else self._begin()
            # Other processes write nowhere.
            log = self.folder / "log.jsonl" if self.writes else Path(os.devnull)
            with log.open("a", buffering=1) as self.file:
                try:
                    yield from self._train()
                finally:
                    self._log_steps()

    def _begin(self) -> None:
        def new() -> None:
            if (self.folder / "run.json").exists():
                raise FileExistsError(
                    f"{self.folder} already holds a run: resume it or choose another folder"
                )

        training = self.training
        distributed.from_rank_0(new)
        about = describe(training) | remember(training, self.network) | provenance()
        about |= {
            "device": str(training.device),
            "compiled": training.compiled,
            "processes": distributed.world(),
            "sync_batch_norm": training.sync_batch_norm,
        }
        if self.writes:
            write_atomic(self.folder / "log.jsonl", b"")
        self._checkpoint("latest.pt")
        if self.writes:
            write_atomic(self.folder / "run.json", json.dumps(about, indent=2).encode())

    def _take_up(self) -> None:
        state, records = distributed.from_rank_0(self._saved)
        logged = [Turn.from_json(record) for record in records if "change" in record]
        self.training.load_state_dict(state)
        step = self.training.step
        dial = self.training.dial
        if dial is not None:
            dial.expect(logged[len(dial.turns) :])
            self.logged_turns = sum(turn.step < step for turn in logged)
        kept = [r for r in records if step_of(r) < step or (step_of(r) == step and "curves" in r)]
        scores = [r["curves"][self.best] for r in kept if self.best in r.get("curves", {})]
        self.highest = max(scores, default=self.highest)
        if self.writes:
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_atomic(self.folder / "log.jsonl", text.encode())

    def _saved(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the training's state and the log of the folder's run."""
        if not (self.folder / "run.json").exists():
            raise FileNotFoundError(f"{self.folder} holds no run to resume")
        was = json.loads((self.folder / "run.json").read_text())
        # These stand there only where in use, or only since version 0.2.
        augmentation = repr(self.training.split.augmentation)
        optional = {"stages": None, "average": None, "augmentation": augmentation}
        check.same(
            optional | was, optional | describe(self.training), f"{self.folder} holds another run"
        )
        state = load_checkpoint(self.folder / "latest.pt")
        return state["training"], json_lines(self.folder / "log.jsonl")

    def _train(self) -> Generator[Record, None, None]:
        training = self.training
        began = time.perf_counter()
        for record in training:
            self._log_turns()
            self.waiting.append(record)
            if len(self.waiting) >= LOGGED_AT_ONCE.get(training.device.type, 50):
                self._log_steps()
            done = record.step + 1
            ended = done == training.steps
            if self.curves and (ended or done % self.curves_every == 0):
                self._measure(done, time.perf_counter() - began)
            if self.keep_every and done % self.keep_every == 0:
                self._checkpoint(f"step_{done:06d}.pt")
            time_is_up = not ended and self._time_is_up(done)
            if ended or time_is_up or done % self.checkpoint_every == 0:
                self._checkpoint("latest.pt")
            yield record
            if time_is_up:
                break
        self._log_turns()

    def _time_is_up(self, done: int) -> bool:
        if self.until is None:
            return False
        over = time.monotonic() >= self.until
        if distributed.world() == 1:
            return over
        # All must stop at the same step; asking costs a message, so not after each.
        return done % 10 == 0 and distributed.from_rank_0(lambda: over)

    def _measure(self, done: int, seconds: float) -> None:
        assert self.curves is not None
        values = self.curves(self.training)
        self._write({"step": done, "curves": values, "seconds": round(seconds, 3)})
        if self.best is not None:
            check.one_of("best", self.best, values)
            if values[self.best] > self.highest:
                self.highest = values[self.best]
                self._checkpoint("best.pt")

    def _log_turns(self) -> None:
        if self.training.dial is not None:
            turns = self.training.dial.turns
            for turn in turns[self.logged_turns :]:
                self._write(turn.to_json())
            self.logged_turns = len(turns)

    def _log_steps(self) -> None:
        steps, self.waiting = self.waiting, []
        if steps:
            losses = torch.stack([record.loss_tensor for record in steps]).tolist()
            for record, loss in zip(steps, losses, strict=True):
                self._write({"step": record.step, "loss": loss, "lr": record.lr})

    def _write(self, record: dict[str, Any]) -> None:
        self._log_steps()
        self.file.write(json.dumps(record) + "\n")

    def _checkpoint(self, name: str) -> None:
        # A checkpoint without the log that led to it would be taken up with a gap.
        self._log_steps()
        state = self.training.state_dict()
        for tensor_name, tensor in state["model"].items():
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingDiverged(
                    f"{tensor_name} is no longer finite after step {self.training.step - 1}: "
                    "training stopped, the checkpoint before it is kept"
                )
        architecture = getattr(self.training.model, "architecture", None)
        content = {"architecture": architecture, "model": state["model"], "training": state}
        distributed.from_rank_0(
            lambda: save_checkpoint(self.folder / name, content, piece_mib=self.piece_mib)
        )
