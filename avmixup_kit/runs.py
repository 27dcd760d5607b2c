"""Run folders: what a training was, what it did, and where to take it up again.

    runs/<name>/
      run.json                 settings as reprs, seed, commit, versions, device, data checksum
      log.jsonl                one record a line; dial turns and curves among them
      latest.pt, best.pt, step_040000.pt      training.state_dict()
      evaluation.json, correct.npz            when evaluated

Every file is written whole or not at all. Killed at any moment, a run goes on from its last
checkpoint and ends with the weights of one that was left alone.
"""

import io
import json
import os
import platform
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy
import torch
from torch import nn

from avmixup_kit import models
from avmixup_kit.evaluation import Evaluation
from avmixup_kit.training import Dial, Record, Training, TrainingDiverged, Turn, load_weights

Curves = Callable[[Training], dict[str, float]]


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it could not be written (a full disk); what stood there before is kept.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"could not write {path} ({error.strerror}); the file before it is kept"
        ) from error


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a training's state, or any tree of tensors and plain values, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return what ``save_checkpoint`` wrote, loaded with ``weights_only=True``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, altered or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"checksum of {bad} does not match")
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is truncated, altered or no checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'unreadable'})"
        ) from error
    return state


def load_model(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Return the trained network of a checkpoint file, or of a run folder's latest checkpoint."""
    path = Path(path)
    if path.is_dir():
        path = path / "latest.pt"
    state = load_checkpoint(path, device)
    if not isinstance(state, dict) or "model" not in state or not state.get("architecture"):
        raise ValueError(f"{path} holds no network of avmixup_kit.models")
    model = models.from_architecture(state["architecture"])
    load_weights(model, state["model"])
    return model.to(device).eval()


def provenance() -> dict[str, Any]:
    """Return where a result was made: commit, whether the tree was dirty, versions, machine."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": numpy.__version__,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(training: Training) -> dict[str, Any]:
    """Return what run.json holds about a training, apart from where it was made."""
    return {
        "settings": repr(training.settings),
        "method": repr(training.method),
        "architecture": getattr(training.model, "architecture", None),
        "data": training.split.name,
        "checksum": training.split.checksum,
    }


def turns_of(path: str | Path) -> list[Turn]:
    """Return the dial's turns recorded in a run folder, a log or an exported file, oldest first."""
    path = Path(path)
    if path.is_dir():
        path = path / "log.jsonl"
    return [Turn.from_json(line) for line in _lines(path) if "change" in line]


def export_turns(dial: Dial, path: str | Path) -> None:
    """Write a dial's turns, one JSON line each, so that a headless run can repeat them."""
    lines = "".join(json.dumps(turn.to_json()) + "\n" for turn in dial.turns)
    write_atomic(path, lines.encode())


def curves_of(folder: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return each curve of a run folder as (steps, values)."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in _lines(Path(folder) / "log.jsonl"):
        for name, value in line.get("curves", {}).items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return curves


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return a log's records; a last line torn by a kill is left out."""
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines) - 1:
                raise ValueError(f"line {number + 1} of {path} is not JSON: {error}") from error
    return records


def save_evaluation(folder: str | Path, evaluation: Evaluation) -> None:
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
) -> Iterator[Record]:
    """Train, write everything into a run folder, and yield each step's record.

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

    Raises:
        FileExistsError: the folder holds a run and ``resume`` is False.
        FileNotFoundError: ``resume`` and there is no run to take up.
        BlockingIOError: another process is using the folder.
        ValueError: the folder's run had other settings, images or another network.
        TrainingDiverged: the loss or a weight is no longer finite; the last checkpoint is good.
    """
    for name, value in (("checkpoint_every", checkpoint_every), ("curves_every", curves_every)):
        if value < 1:
            raise ValueError(f"{name} = {value!r} is not allowed: 1 or more")
    if best is not None and curves is None:
        raise ValueError(f"best = {best!r} needs curves to choose by")
    return _Run(
        training, Path(folder), checkpoint_every, keep_every, curves, curves_every, best
    ).records(resume)


class _Run:
    def __init__(
        self,
        training: Training,
        folder: Path,
        checkpoint_every: int,
        keep_every: int | None,
        curves: Curves | None,
        curves_every: int,
        best: str | None,
    ) -> None:
        self.training, self.folder = training, folder
        self.checkpoint_every, self.keep_every = checkpoint_every, keep_every
        self.curves, self.curves_every, self.best = curves, curves_every, best
        self.highest = float("-inf")
        self.logged_turns = 0

    def records(self, resume: bool) -> Iterator[Record]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BlockingIOError(
                f"the run folder {self.folder} is in use by another process"
            ) from None
        try:
            self._take_up() if resume else self._begin()
            with (self.folder / "log.jsonl").open("a", buffering=1) as self.file:
                yield from self._train()
        finally:
            lock.release()

    def _begin(self) -> None:
        if (self.folder / "run.json").exists():
            raise FileExistsError(
                f"{self.folder} already holds a run: resume it or choose another folder"
            )
        about = describe(self.training) | provenance()
        write_atomic(self.folder / "log.jsonl", b"")
        self._checkpoint("latest.pt")
        write_atomic(self.folder / "run.json", json.dumps(about, indent=2).encode())

    def _take_up(self) -> None:
        if not (self.folder / "run.json").exists():
            raise FileNotFoundError(f"{self.folder} holds no run to resume")
        was = json.loads((self.folder / "run.json").read_text())
        for name, value in describe(self.training).items():
            if was.get(name) != value:
                raise ValueError(
                    f"{self.folder} holds a run with another {name}: {was.get(name)}, not {value}"
                )
        state = load_checkpoint(self.folder / "latest.pt")
        self.training.load_state_dict(state["training"])
        step = self.training.step
        records = _lines(self.folder / "log.jsonl")
        dial = self.training.dial
        if dial is not None:
            logged = [Turn.from_json(record) for record in records if "change" in record]
            dial.expect(logged[len(dial.turns) :])
            self.logged_turns = sum(turn.step < step for turn in logged)
        kept = [r for r in records if r["step"] < step or (r["step"] == step and "curves" in r)]
        scores = [r["curves"][self.best] for r in kept if self.best in r.get("curves", {})]
        self.highest = max(scores, default=self.highest)
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomic(self.folder / "log.jsonl", text.encode())

    def _train(self) -> Iterator[Record]:
        training = self.training
        began = time.perf_counter()
        for record in training:
            self._log_turns()
            self._write({"step": record.step, "loss": record.loss, "lr": record.lr})
            done = record.step + 1
            ended = done == training.steps
            if self.curves and (ended or done % self.curves_every == 0):
                self._measure(done, time.perf_counter() - began)
            if self.keep_every and done % self.keep_every == 0:
                self._checkpoint(f"step_{done:06d}.pt")
            if ended or done % self.checkpoint_every == 0:
                self._checkpoint("latest.pt")
            yield record
        self._log_turns()

    def _measure(self, done: int, seconds: float) -> None:
        assert self.curves is not None
        values = self.curves(self.training)
        self._write({"step": done, "curves": values, "seconds": round(seconds, 3)})
        if self.best is not None:
            if self.best not in values:
                raise ValueError(f"best = {self.best!r} is not allowed: one of {', '.join(values)}")
            if values[self.best] > self.highest:
                self.highest = values[self.best]
                self._checkpoint("best.pt")

    def _log_turns(self) -> None:
        if self.training.dial is not None:
            turns = self.training.dial.turns
            for turn in turns[self.logged_turns :]:
                self._write(turn.to_json())
            self.logged_turns = len(turns)

    def _write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")

    def _checkpoint(self, name: str) -> None:
        state = self.training.state_dict()
        for tensor_name, tensor in state["model"].items():
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingDiverged(
                    f"{tensor_name} is no longer finite after step {self.training.step - 1}: "
                    "training stopped, the checkpoint before it is kept"
                )
        architecture = getattr(self.training.model, "architecture", None)
        save_checkpoint(
            self.folder / name,
            {"architecture": architecture, "model": state["model"], "training": state},
        )
