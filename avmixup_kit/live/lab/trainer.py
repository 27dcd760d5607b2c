"""The thread that trains: one optimiser step after another, requests served in between.

Nothing here knows of widgets, so all of it runs headless. Only this thread touches a model; others
turn the dial, which is atomic, or ask for something to be done between two steps.
"""

import atexit
import queue
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from avmixup_kit import data as datasets
from avmixup_kit._base import check, files
from avmixup_kit.data import Data
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.live.lab.run import LiveRun, Status
from avmixup_kit.live.lab.script import script
from avmixup_kit.live.lab.shelf import Shelf
from avmixup_kit.training import runs
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training

T = TypeVar("T")

FINAL = ("stopped", "ended", "failed")

_alive: "weakref.WeakSet[Trainer]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    # A daemon thread inside torch when the interpreter goes aborts the process.
    for trainer in list(_alive):
        trainer.close()


def check_free(training: Training, but: "Trainer | None" = None) -> None:
    """Refuse a training that an open trainer holds, ``but`` apart.

    Raises:
        ValueError: two threads would train one network.
    """
    for other in list(_alive):
        held = any(run.training is training for run in other.runs)
        if held and other is not but and other.thread.is_alive():
            raise ValueError(f"this training is in the dashboard {other.name!r}: close that first")


class _BeforeStep:
    """What a step that fails half-way has to give back, so that it can be taken again exactly."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.generator = training.rng.get_state()
        self.buffers = [buffer.clone() for buffer in training.model.buffers()]
        self.versions = [p._version for p in training.model.parameters()]

    def restore(self) -> bool:
        """Put everything back; False if weights were changed already, which cannot be undone."""
        training, dial, step = self.training, self.training.dial, self.training.step
        training.rng.set_state(self.generator)
        with torch.no_grad():
            for buffer, before in zip(training.model.buffers(), self.buffers, strict=True):
                buffer.copy_(before)
        assert dial is not None
        dial(step - 1)
        if any(turn.step > step for turn in dial.turns):
            # Turned during the failed step: it acts when the step is taken again.
            state = dial.state_dict()
            for turn in state["turns"]:
                turn["before_step"] = min(turn["before_step"], step)
            dial.load_state_dict(state)
        return self.versions == [p._version for p in training.model.parameters()]


class Trainer:
    """One daemon thread that trains the current one of its runs.

    Every method that changes something returns a Future at once; the thread does it between two
    steps. What goes wrong in a request is kept in ``complaint`` and in the Future, and changes
    nothing; what goes wrong in a step makes the run ``failed``, puts back what the step had
    begun, and is raised by ``join``.

    Args:
        training: made with a Dial; its model is trained in place.
        data: where validation and test images come from; None: curves of training images only.
        probe_every: steps between two measurements of accuracy.
        probe_images: how many images of each split they use.
        name: of the dashboard.
        folder: where each run has a run folder, numbered, which is written anew every 30 seconds
            and whenever the run rests; None keeps none.

    Raises:
        ValueError: another trainer holds the training and is not closed.
    """

    def __init__(
        self,
        training: Training,
        data: Data | None = None,
        *,
        probe_every: int = 50,
        probe_images: int = 128,
        name: str = "trainer",
        folder: Path | None = None,
    ) -> None:
        check.whole("probe_every", probe_every)
        check.whole("probe_images", probe_images)
        check_free(training)
        self.name, self.shelf = name, Shelf(folder)
        self.probe_every, self.probe_images = probe_every, probe_images
        self.changed = threading.Event()
        self.runs: list[LiveRun] = [LiveRun("run 1", training, data, probe_images)]
        self.run = self.runs[0]
        self.doing = ""
        self.complaint = ""
        self.news = ""
        self._queue: queue.SimpleQueue[tuple[str, Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._wake = threading.Event()
        self._gate = threading.Lock()
        self._closing = False
        self._status = threading.Condition()
        self._flushed = time.monotonic()
        self.thread = threading.Thread(target=self._work, name=f"{name} (trains)", daemon=True)
        self.run.keep()
        _alive.add(self)
        self.thread.start()
        self.ask("measure", self.run.measure)

    # ------------------------------------------------------------------------------- for others

    @property
    def training(self) -> Training:
        """The training of the current run."""
        return self.run.training

    @property
    def dial(self) -> Dial:
        """The dial of the current run."""
        return self.run.dial

    def ask(self, what: str, function: Callable[[], T]) -> "Future[T]":
        """Have the training thread call ``function`` between two steps; returns at once.

        Raises:
            RuntimeError: the trainer is closed.
        """
        future: Future[T] = Future()
        with self._gate:
            if self._closing:
                raise RuntimeError(f"could not {what}: this dashboard is closed")
            self.doing = what
            self._queue.put((what, function, future))
        self._wake.set()
        self.changed.set()
        return future

    def start(self) -> "Future[None]":
        """Begin training, or go on."""
        return self.ask("start", self._go)

    def pause(self) -> "Future[None]":
        """Hold training after the step that is under way."""
        return self.ask("pause", self._hold)

    def resume(self) -> "Future[None]":
        """Go on after a pause, or try a failed step again."""
        return self.ask("resume", self._go)

    def stop(self) -> "Future[None]":
        """End this run here; the model stays, and can be evaluated, saved and forked."""
        return self.ask("stop", self._stop)

    def fork(self, step: int | None = None) -> "Future[LiveRun]":
        """Continue from a kept step, or from the present one, as a paused run of its own."""
        return self.ask("fork", lambda: self._fork(step))

    def switch(self, name: str) -> "Future[LiveRun]":
        """Make another run the current one; the one that was running is paused."""
        return self.ask("switch", lambda: self._switch(name))

    def add(self, make: Callable[[], tuple[Training, Data | None]]) -> "Future[LiveRun]":
        """Call ``make`` and add its training as a paused run, which becomes the current one."""
        return self.ask("make the run", lambda: self._add(*make()))

    def evaluate(self, images: int = 500, autoattack: bool = False) -> "Future[Evaluation]":
        """Measure accuracy on test images, clean, under FGSM, PGD20, CW20, AutoAttack (quick)."""
        return self.ask("evaluate", lambda: self._evaluate(images, autoattack))

    def script(self) -> "Future[str]":
        """Write the script that repeats the current run, as far as it is, without a dashboard."""
        return self.ask("write the script", lambda: script(self.run))

    def save(self, folder: str | Path) -> "Future[Path]":
        """Write a run folder, which ``runs.log(resume=True)`` and ``load`` take up again."""
        return self.ask("save", lambda: self._save(Path(folder).expanduser()))

    def load(self, folder: str | Path) -> "Future[LiveRun]":
        """Take up a run folder, and its images where no run has them, as a paused run."""
        return self.ask("load", lambda: self._load(Path(folder).expanduser()))

    def export(self, path: str | Path) -> "Future[Path]":
        """Write the dial's turns; ``Dial(method, runs.turns_of(path))`` repeats them headless."""
        return self.ask("export", lambda: self._export(Path(path).expanduser()))

    def join(self, timeout: float | None = None) -> None:
        """Wait until the current run is ended, stopped or failed.

        Raises:
            RuntimeError: it was never started, or the dashboard was closed meanwhile.
            TimeoutError: it took longer than ``timeout`` seconds.
            Exception: whatever ended the training.
        """
        # Behind everything asked for before, a start among them.
        asked = self.ask("wait", lambda: self.run)
        if asked not in wait([asked], timeout).done:
            raise TimeoutError(f"{self.run.name} is {self.run.status} after {timeout:g} s")
        run = asked.result()
        if run.status == "ready":
            raise RuntimeError(f"{run.name} was not started: there is nothing to wait for")
        with self._status:
            there = self._status.wait_for(lambda: self._closing or run.status in FINAL, timeout)
        if not there:
            raise TimeoutError(f"{run.name} is {run.status} after {timeout:g} s")
        if run.error is not None:
            raise run.error
        if run.status not in FINAL:
            raise RuntimeError(f"the dashboard was closed while {run.name} was {run.status}")

    def close(self, timeout: float | None = None) -> None:
        """End the thread after the step that is under way; the models stay as they are.

        Args:
            timeout: seconds to wait for it; None: 30, or 600 where steps are compiled, the first
                of which takes minutes.

        Raises:
            TimeoutError: the step took longer than ``timeout`` seconds.
        """
        if timeout is None:
            timeout = 600 if any(run.training.compiled for run in self.runs) else 30
        with self._gate:
            self._closing = True
        self._wake.set()
        if threading.current_thread() is not self.thread:
            self.thread.join(timeout)
            if self.thread.is_alive():
                raise TimeoutError(f"a training step did not end in {timeout:g} seconds")

    # -------------------------------------------------------------------- only on the own thread

    def _work(self) -> None:
        try:
            while not self._closing:
                self._serve()
                if self._closing:
                    break
                if self.run.status == "running":
                    self._advance(self.run)
                    if self.shelf.due():
                        self._keep_all()
                else:
                    self._keep_all()
                    self._wake.wait()
                    self._wake.clear()
        finally:
            with self._gate:
                self._closing = True
                while not self._queue.empty():
                    self._queue.get()[2].set_exception(RuntimeError("this dashboard is closed"))
            self._hold()
            self._keep_all()
            with self._status:
                self._status.notify_all()
            self.changed.set()

    def _serve(self) -> None:
        while not self._closing:
            try:
                what, function, future = self._queue.get_nowait()
            except queue.Empty:
                return
            self.doing = what
            self.changed.set()
            if what != "wait":
                self.complaint = self.news = ""
            try:
                with self.training.lock:
                    self._flush()
                    result = function()
            except Exception as error:
                self.complaint, self.doing = f"Could not {what}: {_one_line(error)}", ""
                _free(error)
                future.set_exception(error)
            else:
                self.doing = ""
                future.set_result(result)
            self.run.rest()
            self.changed.set()

    def _keep_all(self) -> None:
        for run in self.runs:
            try:
                self.shelf.keep(run)
            except Exception as error:
                self.complaint = f"Could not keep {run.name} in {run.home}: {_one_line(error)}"
                self.changed.set()

    def _advance(self, run: LiveRun) -> None:
        with run.training.lock:
            self._take_step(run)

    def _take_step(self, run: LiveRun) -> None:
        training = run.training
        before: _BeforeStep | None = _BeforeStep(training)
        try:
            record = next(training)
            before = None
            run.note(record)
            done = training.step
            ended = done >= training.steps
            if time.monotonic() - self._flushed > 0.2 or ended:
                self._flush()
            if ended or done % self.probe_every == 0:
                run.measure()
            if ended or done % run.keep_every == 0:
                run.look()
                run.keep()
            if ended:
                self._set(run, "ended")
        except Exception as error:
            run.error, run.traceback = error, traceback.format_exc()
            _free(error)
            try:
                if before is not None:
                    self._put_back(run, before)
                self._flush()
            except Exception as second:
                self.news = f"The failed step could not be undone: {_one_line(second)}."
            self._set(run, "failed")

    def _put_back(self, run: LiveRun, before: _BeforeStep) -> None:
        if before.restore():
            self.news = f"{run.name} stands as it was before the failed step."
            return
        # The optimiser had begun to write: only a kept state is whole.
        step, turns = max(run.kept), run.dial.turns
        run.training.load_state_dict(run.kept[step])
        run.dial.expect(list(turns[len(run.dial.turns) :]))
        self.news = f"{run.name} went back to step {step}: the failed step had changed weights."

    def _flush(self) -> None:
        self.run.flush()
        self._flushed = time.monotonic()

    def _set(self, run: LiveRun, status: Status) -> None:
        with self._status:
            run.status = status
            self._status.notify_all()
        if status != "running":
            run.rest()
        self.changed.set()

    def _go(self) -> None:
        run = self.run
        if run.status in ("stopped", "ended"):
            raise ValueError(f"{run.name} is {run.status}: fork it to go on from a kept step")
        run.error, run.traceback = None, ""
        self._set(run, "running")

    def _hold(self) -> None:
        if self.run.status == "running":
            self._set(self.run, "paused")

    def _stop(self) -> None:
        run = self.run
        if run.status in ("running", "paused"):
            try:
                if run.measured != run.training.step:
                    run.measure()
                run.keep()
            finally:
                self._set(run, "stopped")

    def _fork(self, step: int | None) -> LiveRun:
        step = self.training.step if step is None else step
        return self._enter(self.run.fork(step, f"fork {len(self.runs) + 1} at step {step}"))

    def _add(self, training: Training, data: Data | None) -> LiveRun:
        check_free(training)
        name = f"run {len(self.runs) + 1}"
        return self._enter(LiveRun(name, training, data, self.probe_images))

    def _enter(self, run: LiveRun) -> LiveRun:
        run.measure()
        run.keep()
        self._hold()
        self.runs = [*self.runs, run]
        self.run = run
        return run

    def _switch(self, name: str) -> LiveRun:
        names = [run.name for run in self.runs]
        check.one_of("name", name, names)
        if name != self.run.name:
            self._hold()
            self.run = self.runs[names.index(name)]
        return self.run

    def _evaluate(self, images: int, autoattack: bool) -> Evaluation:
        found = self.run.evaluate(images, autoattack)
        less = f", all there are of the {images} asked for" if found.n < images else ""
        self.news = f"Evaluated on {found.n} test images{less}."
        return found

    def _save(self, folder: Path) -> Path:
        self.run.save(folder)
        self.news = f"Saved step {self.training.step} of {self.run.name} in {folder}."
        return folder

    def _load(self, folder: Path) -> LiveRun:
        checksum = runs.about(folder, self.dial.networks).get("checksum")
        now = [run for run in self.runs if run.training.split.checksum == checksum]
        name, data = f"run {len(self.runs) + 1}, from {folder.name}", None
        if not now and checksum and self.shelf.holds(folder):
            loader, options = runs.images_of(folder)
            data = datasets.load(loader, **options).to(self.training.device)
        run = (now[0] if now else self.run).load(folder, name, data)
        run.home = folder.absolute() if self.shelf.holds(folder) else None
        self._enter(run)
        self.news = f"Loaded step {run.training.step} of {folder}."
        return run

    def _export(self, path: Path) -> Path:
        files.make_folder(path.parent)
        runs.export_turns(self.dial, path)
        self.news = f"Wrote {len(self.dial.turns)} turns to {path}."
        return path


def _one_line(error: Exception) -> str:
    text = str(error).split("\n")[0]
    plain = isinstance(error, ValueError | OSError | RuntimeError)
    return text if plain and text else f"{type(error).__name__}: {text}"


def _free(error: Exception) -> None:
    """After CUDA ran out of memory, hand back what only the allocator's cache still holds."""
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        torch.cuda.empty_cache()
