"""Run folders: what a training was, what it did, and where to take it up again.

    runs/<name>/
      run.json                 settings as reprs, seed, commit, versions, device; how the images
                               were loaded, their classes and checksums; whose the network is
      log.jsonl                one record a line; dial turns, curves and signs among them
      latest.pt, best.pt, step_040000.pt      training.state_dict(), and the weights to judge: the
                                              averaged copy's where there is one
      evaluation.json, correct.npz            when evaluated

A checkpoint may lie in pieces (latest.pt.1a2b3c4d.000, ...), which latest.pt then lists. Every file
is written whole or not at all. Killed at any moment, a run goes on from its last checkpoint and
ends with the weights of one that was left alone.
"""

import io
import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import nn

from avmixup_kit._base import check, distributed, files, plugins
from avmixup_kit._base.files import write_atomic
from avmixup_kit._base.provenance import provenance
from avmixup_kit.methods.method import own_stages
from avmixup_kit.training.checkpoints import (
    check_piece_mib,
    content,
    load_checkpoint,
    save_checkpoint,
    sweep,
    training_of,
)
from avmixup_kit.training.dial import Dial, step_of
from avmixup_kit.training.folders import (
    Own,
    Run,
    about,
    check_images,
    check_threads,
    curves_of,
    images_of,
    load_model,
    log_of,
    open,
    read,
    turns_in,
    turns_of,
)
from avmixup_kit.training.loop import Record, Training, TrainingDiverged
from avmixup_kit.training.signs import Sign, Signs
from avmixup_kit.training.telling import tensorboard, told

__all__ = [
    "Curves",
    "Own",
    "Run",
    "about",
    "check_images",
    "curves_of",
    "describe",
    "export_turns",
    "images_of",
    "load_model",
    "log",
    "open",
    "remember",
    "save_evaluation",
    "tensorboard",
    "told",
    "turns_of",
]

# What a run has unless its run.json says otherwise.
USUAL = {"stages": None, "networks": {}, "average": None, "optimizer": "sgd", "schedule": "steps"}

Curves = Callable[[nn.Module], Mapping[str, float]]

# To read a loss on a device is to wait for its step, so losses are logged in blocks of 50; on a CPU
# the step is done.
LOGGED_AT_ONCE = {"cpu": 1}


def describe(training: Training) -> dict[str, Any]:
    """Return what run.json holds about a training, apart from where it was made.

    Raises:
        ValueError: its optimizer or schedule could not be found again.
    """
    training.updates.check_saved()
    more = {"stages": own_stages(training.method), "average": training.average}
    more["networks"] = training.networks
    more |= training.updates.texts
    return {name: value for name, value in more.items() if value and value != USUAL[name]} | {
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
    files.remove(folder / "evaluation.json")  # it never stands beside verdicts of another
    write_atomic(folder / "correct.npz", buffer.getvalue())
    text = json.dumps(evaluation.to_json() | {"provenance": provenance()}, indent=2)
    write_atomic(folder / "evaluation.json", text.encode())


def log(
    training: Training,
    folder: str | Path,
    *,
    resume: bool = False,
    checkpoint_every: int = 500,
    checkpoint_minutes: float | None = None,
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
            replayed. With more steps than it was to have, it goes on, where the learning rate of
            the steps it has done does not depend on their number.
        checkpoint_every: steps between overwriting latest.pt.
        checkpoint_minutes: minutes between the two instead; None counts steps.
        keep_every: steps between checkpoints that are kept as step_NNNNNN.pt; None keeps none.
        curves: a function of the network, in eval mode, that measures it (on training and
            validation data, never on test data), such as ``evaluation.robust_curves(data)``: a
            number by name, for the log and the record. With ``average`` it gets the averaged copy.
            It must leave network and generators as it found them.
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
        ValueError: the folder's run had other settings, images or another network; an optimizer or
            schedule that could not be found again.
        TrainingDiverged: the loss or a weight is no longer finite; the last checkpoint is good.
    """
    check.whole("checkpoint_every", checkpoint_every)
    check.whole("curves_every", curves_every)
    for name, value in (("minutes", minutes), ("checkpoint_minutes", checkpoint_minutes)):
        check.number(name, value, "(0, inf)", "a positive number, or None", none=True)
    check.whole("keep_every", keep_every, none=True)
    check_piece_mib(piece_mib)
    check.that(best is None or curves is not None, "best", best, "curves are missing to choose by")
    describe(training)  # what cannot be saved is told before a step is taken
    until = None if minutes is None else time.monotonic() + 60 * minutes
    run = _Run(
        training, Path(folder), checkpoint_every, checkpoint_minutes, keep_every, curves,
        curves_every, best, until, piece_mib, network,
    )  # fmt: skip
    return run.records(resume)


@dataclass
class _Run:
    training: Training
    folder: Path
    checkpoint_every: int
    checkpoint_minutes: float | None
    keep_every: int | None
    curves: Curves | None
    curves_every: int
    best: str | None
    until: float | None
    piece_mib: int | None
    network: Own
    highest: float = float("-inf")
    logged_turns: int = 0
    saved: float = field(default_factory=time.monotonic)
    writes: bool = field(default_factory=lambda: distributed.rank() == 0)
    file: IO[str] | None = None
    torn: bool = False
    waiting: list[Record] = field(default_factory=list)
    new_signs: list[Sign] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signs = Signs(self.training.split, lambda: self.training.model)

    def records(self, resume: bool) -> Generator[Record, None, None]:
        with ExitStack() as held:

            def hold() -> None:
                if resume and not (self.folder / "run.json").exists():
                    raise FileNotFoundError(f"{self.folder} holds no run to resume")
                files.make_folder(self.folder)
                lock = files.held(self.folder / "lock", what=f"the run folder {self.folder}")
                held.enter_context(lock)
                sweep(self.folder)

            distributed.from_rank_0(hold)
            self._take_up() if resume else self._begin()
            # Other processes write nowhere.
            log = self.folder / "log.jsonl" if self.writes else Path(os.devnull)
            with log.open("a", buffering=1) as self.file:
                try:
                    yield from self._train()
                finally:
                    self._log_turns()
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
        dial = self.training.dial
        networks = dial.networks if dial else ()
        logged = turns_in(records, self.folder / "log.jsonl", networks)
        self.training.load_state_dict(state["training"])
        step = self.training.step
        measured = {"curves", "sign"}  # after so many steps; the others are about the step's own
        kept = [r for r in records if step_of(r) < step + bool(measured & r.keys())]
        self.signs.replay(kept)
        # Checkpoints have a checksum, logs have none.
        scores = [r["curves"][self.best] for r in kept if self.best in r.get("curves", {})]
        self.highest = state["best"].get(self.best, max(scores, default=self.highest))
        self._tell_steps()
        if dial is not None:
            dial.expect(logged[len(dial.turns) :])
            self.logged_turns = sum(turn.step < step for turn in dial.turns)
            if len(logged) > len(dial.turns):
                # The log is about to lose them; they must outlive a second kill.
                self._checkpoint("latest.pt")
        if self.writes:
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_atomic(self.folder / "log.jsonl", text.encode())

    def _tell_steps(self) -> None:
        """Let run.json say how many steps the run is to have now."""
        path = self.folder / "run.json"
        if self.writes:
            about = read(self.folder) | {"settings": repr(self.training.settings)}
            write_atomic(path, json.dumps(about, indent=2).encode())

    def _saved(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the checkpoint and the log of the folder's run."""
        was = read(self.folder)
        # Since version 0.2 alone.
        usual = USUAL | {"augmentation": repr(self.training.split.augmentation)}
        now = usual | describe(self.training)
        del now["settings"], now["networks"]  # ``load_state_dict`` looks at them
        check.same(usual | was, now, f"{self.folder} holds another run")
        check_threads(was, self.training.device, self.folder)
        path = self.folder / "latest.pt"
        saved = load_checkpoint(path)
        with files.blamed(path, "is damaged"):
            best = {str(name): float(value) for name, value in saved.get("best", {}).items()}
        state = {"training": training_of(path, saved), "best": best}
        return state, log_of(self.folder / "log.jsonl")

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
                curves = self._measure(done, time.perf_counter() - began)
                record = replace(record, curves=curves)
            if self.keep_every and done % self.keep_every == 0:
                self._checkpoint(f"step_{done:06d}.pt")
            time_is_up = not ended and self._time_is_up(done)
            if ended or time_is_up or self._is_due(done):
                self._checkpoint("latest.pt")
            signs, self.new_signs = tuple(self.new_signs), []
            yield replace(record, signs=signs) if signs else record
            if time_is_up:
                break
        self._log_turns()

    def _time_is_up(self, done: int) -> bool:
        return self.until is not None and self._past(self.until, done)

    def _is_due(self, done: int) -> bool:
        """Return whether the next checkpoint is, by steps or by minutes."""
        if self.checkpoint_minutes is None:
            return done % self.checkpoint_every == 0
        due = self._past(self.saved + 60 * self.checkpoint_minutes, done)
        self.saved = time.monotonic() if due else self.saved
        return due

    def _past(self, moment: float, done: int) -> bool:
        over = time.monotonic() >= moment
        if distributed.world() == 1:
            return over
        # All must do so at the same step; asking costs a message, so not after each.
        return done % 10 == 0 and distributed.from_rank_0(lambda: over)

    def _measure(self, done: int, seconds: float) -> dict[str, float]:
        assert self.curves is not None
        network = self.training.judged
        was_training = network.training
        values = dict(self.curves(network.eval()))
        network.train(was_training)
        self._write({"step": done, "curves": values, "seconds": round(seconds, 3)})
        self._note(done, self.signs.see_curves(values))
        if self.best is not None:
            check.one_of("best", self.best, values)
            if values[self.best] > self.highest:
                self.highest = values[self.best]
                self._checkpoint("best.pt")
        return values

    def _note(self, done: int, signs: Iterable[Sign]) -> None:
        for sign in signs:
            self._write(sign.to_json(done))
            self.new_signs.append(sign)

    def _log_turns(self) -> None:
        if self.training.dial is not None:
            turns = self.training.dial.turns
            if new := turns[self.logged_turns :]:
                for turn in new:
                    self._write(turn.to_json())
                self._settle()
            self.logged_turns = len(turns)

    def _log_steps(self) -> None:
        steps, self.waiting = self.waiting, []
        if steps:
            losses = torch.stack([record.loss_tensor for record in steps]).tolist()
            for record, loss in zip(steps, losses, strict=True):
                self._write({"step": record.step, "loss": loss, "lr": record.lr})
                self._note(record.step + 1, self.signs.see_loss(loss))

    def _write(self, record: dict[str, Any]) -> None:
        self._log_steps()
        assert self.file is not None
        if self.torn:
            return
        with self._blaming_the_log():
            self.file.write(json.dumps(record) + "\n")

    def _settle(self) -> None:
        """Have the log on disk, where no power loss takes it."""
        if self.writes and self.file is not None and not self.torn:
            with self._blaming_the_log():
                os.fsync(self.file.fileno())

    @contextmanager
    def _blaming_the_log(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.torn = True  # a line written now would stand behind half of one
            raise OSError(
                error.errno,
                f"could not write {self.folder / 'log.jsonl'} ({error.strerror}); the last "
                "checkpoint is kept",
            ) from error

    def _checkpoint(self, name: str) -> None:
        # A checkpoint without the log that led to it would be taken up with a gap.
        self._log_steps()
        distributed.from_rank_0(self._settle)
        architecture = getattr(self.training.model, "architecture", None)
        try:
            saved = content(architecture, self.training.state_dict())
        except FloatingPointError as error:
            raise TrainingDiverged(
                f"{error} after step {self.training.step - 1}: training stopped, the checkpoint "
                "before it is kept"
            ) from None
        if self.best is not None:
            saved["best"] = {self.best: self.highest}
        distributed.from_rank_0(
            lambda: save_checkpoint(self.folder / name, saved, piece_mib=self.piece_mib)
        )
