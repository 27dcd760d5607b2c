"""One run of the dashboard: its training, thinned curves, pictures, and states to fork from.

Its methods that look at the model belong to the thread that trains (see ``trainer``).
"""

import copy
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from avmixup_kit import models
from avmixup_kit._base import check, files, provenance
from avmixup_kit.data import Data, Split
from avmixup_kit.evaluation import attack_signs, gradient_signs
from avmixup_kit.evaluation import scatter as features
from avmixup_kit.evaluation.attack_signs import Bench
from avmixup_kit.evaluation.autoattack import autoattack as composed
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.images import as_images
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import CLEAN, Evaluation
from avmixup_kit.methods import attacks
from avmixup_kit.methods.asked import Rectified
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.method import Method
from avmixup_kit.training import checkpoints, folders, runs
from avmixup_kit.training.dial import Dial, step_of
from avmixup_kit.training.loop import Record, Training
from avmixup_kit.training.settings import Settings
from avmixup_kit.training.signs import Sign, Signs

Status = Literal["ready", "running", "paused", "stopped", "ended", "failed"]

KEPT = 10
STRIP = 6
ROWS = ("Clean", "PGD10")
RATIO = "scatter ratio"  # of the features, attacked, on validation images over training images
EVALUATED = "evaluated_{:02d}_at_{:06d}.npz"


class Curve:
    """A series of (step, value) that never holds more than ``capacity`` points.

    When it is full, neighbours become their mean, so what is drawn stays the whole course.
    """

    def __init__(self, capacity: int = 1000) -> None:
        even = capacity >= 2 and capacity % 2 == 0
        check.that(even, "capacity", capacity, "an even number, 2 or more")
        self._points = np.empty((2, capacity))
        self._count, self._stride = 0, 1
        self._held, self._steps, self._values = 0, 0.0, 0.0
        self._lock = threading.Lock()

    def add(self, step: int, value: float) -> None:
        """Append a point; steps must grow."""
        with self._lock:
            self._held += 1
            self._steps += step
            self._values += value
            if self._held < self._stride:
                return
            if self._count == self._points.shape[1]:
                self._count //= 2
                self._points[:, : self._count] = self._points.reshape(2, -1, 2).mean(2)
                self._stride *= 2
                return
            self._points[:, self._count] = self._steps / self._held, self._values / self._held
            self._count += 1
            self._held, self._steps, self._values = 0, 0.0, 0.0

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of steps and values; points that still gather are the last, as a mean."""
        with self._lock:
            points = self._points[:, : self._count].copy()
            if self._held:
                last = [[self._steps / self._held], [self._values / self._held]]
                points = np.concatenate([points, last], axis=1)
        return points[0], points[1]


@dataclass(frozen=True)
class Strip:
    """A few images now: clean, adversarial, as mixed for training, (N, C, H, W) each, on CPU.

    ``labels`` are the true classes, ``said`` what the network says of the adversarial image and how
    surely, ``targets`` the true class's share of the training label.
    """

    clean: Tensor
    adversarial: Tensor
    mixed: Tensor
    labels: list[str]
    said: list[tuple[str, float]]
    targets: list[float]
    epsilon: float


class LiveRun:
    """One run: a training, its images, what has been seen of it, and states to fork from.

    Args:
        name: by which the dashboard calls it.
        training: made with a Dial.
        data: gives validation and test images and the epsilon robust accuracy is measured at; None
            measures on training images only, at the method's epsilon.
        probe_images: how many images of each split the curves are measured on.
        origin: (name, step) of the run this one was forked from.
    """

    def __init__(
        self,
        name: str,
        training: Training,
        data: Data | None,
        probe_images: int,
        origin: tuple[str, int] | None = None,
    ) -> None:
        if training.dial is None:
            raise TypeError(
                "a training without a Dial cannot be turned: Training(model, split, Dial(method))"
            )
        self.name, self.training, self.data, self.origin = name, training, data, origin
        self.probe_images = probe_images
        self.dial: Dial = training.dial
        own = training.method.parameters.get("epsilon", 8 / 255)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
        self.epsilon: float = data.epsilon if data else own
        self.probed: dict[str, Split] = {"train": _some(training.split, probe_images)}
        if data and len(data.validation):
            self.probed["validation"] = _some(data.validation, probe_images)
        last = next(reversed(self.probed.values()))
        self.shown = last.subset(torch.arange(min(STRIP, len(last)))).to(training.device)
        self.status: Status = "ended" if training.step >= training.steps else "ready"
        self.error: Exception | None = None
        self.traceback = ""
        self.last: Record | None = None
        self.loss = Curve()
        self.loss_now: float | None = None
        self.curves = {f"{row}, {part}": Curve() for part in self.probed for row in ROWS}
        self.scattered = len(self.probed) == 2 and features.measurable(
            training.model, *self.probed.values()
        )
        if self.scattered:
            rows = [f"features, {name}, attacked" for name in features.SETS]
            self.curves |= {row: Curve() for row in (*rows, RATIO)}
        self.measured = -1
        self.strip: Strip | None = None
        self.kept: dict[int, dict[str, Any]] = {}
        self.keep_every = max(1, math.ceil(training.steps / KEPT))
        self.start: dict[str, Any] = {}  # the first state that was seen
        self.evaluations: list[tuple[int, Evaluation]] = []
        self.folders: dict[Path, object] = {}  # saved or loaded, and which checkpoint it was
        self.home: Path | None = None  # the folder that follows the run by itself
        self.safe: object = None  # what of it is there
        self.warnings: list[tuple[int, Sign]] = []
        self.signs = Signs(training.split, lambda: training.model)
        self._losses: list[tuple[int, Tensor]] = []
        self._pace: deque[tuple[float, int]] = deque(maxlen=20)

    @property
    def method(self) -> Method:
        """What the next step trains with."""
        return self.dial.method

    def images_per_second(self) -> float:
        """Return the pace of the last seconds, 0 before there is one."""
        pace = list(self._pace)
        if len(pace) < 2 or pace[-1][0] <= pace[0][0]:
            return 0.0
        steps = pace[-1][1] - pace[0][1]
        return steps * self.training.settings.batch_size / (pace[-1][0] - pace[0][0])

    def note(self, record: Record) -> None:
        """Take note of a step; its loss is asked for later, so that CUDA need not wait."""
        self.last = record
        self._losses.append((record.step, record.loss_tensor))

    def flush(self) -> None:
        """Put the losses noted so far into the curve."""
        if self._losses:
            values = torch.stack([loss for _, loss in self._losses]).tolist()
            for (step, _), value in zip(self._losses, values, strict=True):
                self.loss.add(step + 1, value)
                self._note(step + 1, self.signs.see_loss(value))
            self.loss_now = values[-1]
            self._losses.clear()
            self._pace.append((time.monotonic(), self.training.step))

    def _note(self, step: int, signs: Iterable[Sign]) -> None:
        self.warnings += [(step, sign) for sign in signs]

    def rest(self) -> None:
        """Forget the pace, which a pause would falsify."""
        self._pace.clear()

    def measure(self) -> None:
        """Measure accuracies and scatter, take new pictures; the training is not changed."""
        attack, found = attacks.pgd(steps=10, epsilon=self.epsilon), {}
        ladder = [attacks.fgsm(self.epsilon), attack]
        for name, split in self.probed.items():
            evaluation = evaluate(self.training.judged, split, ladder, check=False)
            found |= {f"{row}, {name}": evaluation.accuracy(row) for row in evaluation.names}
        for name in found.keys() & self.curves.keys():
            self.curves[name].add(self.training.step, found[name])
        self._note(self.training.step, self.signs.see_curves(found))
        if self.scattered:
            train, validation = self.probed.values()
            scatter = features.scatter(self.training.model, train, validation, attack)
            found = scatter.curves() | {RATIO: scatter.gap()}
            for row in found.keys() & self.curves.keys():
                self.curves[row].add(self.training.step, found[row])
        self.strip = self._strip()
        self.measured = self.training.step

    def _strip(self) -> Strip:
        model, split, method = self.training.model, self.shown, self.method
        epsilon, everything = method.parameters.get("epsilon", self.epsilon), range(len(split))
        x, y = split.batch(everything)
        delta = craft(
            attacks.pgd(steps=10, epsilon=epsilon), model, split, torch.tensor(everything)
        )
        with torch.no_grad(), attacks.frozen(model):
            confidence, said = model(x + delta).softmax(1).max(1)
            rng = Generator(device=x.device).manual_seed(0)
            now = self.training.step / self.training.steps
            batch = Batch(x, y, rng=rng, delta=delta, progress=now)
            if isinstance(method.perturb, Rectified):
                batch.y_hat = method.perturb.label(self.training.asked, batch)
            mixed, y_hat = method.mix(self.training.asked, batch)
        names = [split.classes[int(label)] for label in split.labels]
        return Strip(
            x.cpu(),
            (x + delta).cpu(),
            mixed.cpu(),
            names,
            [(split.classes[int(k)], p) for k, p in zip(said, confidence.tolist(), strict=True)],
            (y_hat * y).sum(1).tolist(),
            epsilon,
        )

    def look(self) -> None:
        """Look for masked gradients, on the images that the curves are measured on."""
        model, split = self.training.judged, next(reversed(self.probed.values()))
        bench = Bench(model, as_images(model, split), self.epsilon, seed=0, batch_size=256)
        alarms = [
            attack_signs.fgsm_above_clean(bench),
            attack_signs.pgd_above_fgsm(bench),
            attack_signs.one_step(bench),
            *gradient_signs.gradients(bench),
        ]
        if bench.baseline.accuracy(CLEAN) > self.signs.chance:
            for alarm in alarms:
                words = f"masked gradients, {alarm.name}: {alarm.sentence}"
                if alarm.rings:
                    self._note(self.training.step, self.signs.tell(alarm.key, words))

    def keep(self) -> None:
        """Keep the present state in memory, to fork from."""
        self.kept[self.training.step] = _on_cpu(self.training.state_dict())
        self.start = self.start or self.kept[self.training.step]

    def method_at(self, step: int) -> Method:
        """Return what the last of so many steps trained with, the first method before any."""
        dial = Dial(self.dial.initial, self.dial.turns, self.dial.networks)
        return dial(step - 1)

    def fork(self, step: int, name: str) -> "LiveRun":
        """Return a copy that stands at ``step``: the present one, or one a state was kept at.

        Raises:
            ValueError: no state was kept there, or it is the last step.
        """
        training = self.training
        check.that(step < training.steps, "step", step, f"{self.name} ends there")
        kept = ", ".join(map(str, sorted(self.kept)))
        there = step == training.step or step in self.kept
        check.that(there, "step", step, f"states were kept at steps {kept}")
        state = training.state_dict() if step == training.step else self.kept[step]
        model = copy.deepcopy(training.model)
        dial = Dial(self.dial.initial, networks=self.dial.networks)
        options = _options(training) | training.updates.made_of
        twin = Training(model, training.split, dial, settings=training.settings, **options)
        twin.load_state_dict(state)
        run = LiveRun(name, twin, self.data, self.probe_images, (self.name, step))
        run.start = self.start
        return run

    def evaluate(self, images: int, autoattack: bool = False) -> Evaluation:
        """Return the model's evaluation on test images under FGSM, PGD20 and CW20.

        ``autoattack`` adds its quick version.
        """
        if self.data is None:
            raise ValueError("there are no test images: show(training, data=data) brings them")
        check.whole("images", images)
        ladder = [
            attacks.fgsm(self.epsilon),
            attacks.pgd(steps=20, epsilon=self.epsilon),
            attacks.cw(steps=20, epsilon=self.epsilon),
            *([composed(self.epsilon, "quick")] if autoattack else []),
        ]
        model = self.training.judged.eval()
        evaluation = evaluate(model, _some(self.data.test, images), ladder)
        self.evaluations.append((self.training.step, evaluation))
        return evaluation

    def save(self, folder: Path) -> None:
        """Write a run folder that ``runs.log(resume=True)`` takes up; losses are thinned in it.

        Raises:
            FileExistsError: the folder holds a run that did not come from here, or went on since.
            ValueError: a weight is not finite.
            OSError: it could not be written; what stood there is kept. BlockingIOError where
                another process is using the folder.
        """
        training = self.training
        first = f"step_{self.start['step']:06d}.pt"
        states = {first: self.start, "latest.pt": training.state_dict()}
        about = runs.describe(training)
        try:
            made = {k: checkpoints.content(about["architecture"], v) for k, v in states.items()}
        except FloatingPointError as error:
            raise ValueError(f"{error}: such weights are never saved") from None
        about |= runs.remember(training)
        about |= provenance.provenance() | {"command": "avmixup_kit.live", "run": self.name}
        text = "".join(json.dumps(line) + "\n" for line in self._log())
        files.make_folder(folder)
        with files.held(folder / "lock", what=f"the run folder {folder}"):
            if (folder / "run.json").exists() and not self._left_alone(folder):
                raise FileExistsError(f"{folder} already holds a run: choose another folder")
            try:
                # What is taken up must lie within the log, and all be there once it is a run.
                files.write_atomic(folder / "log.jsonl", text.encode())
                for name, content in made.items():
                    checkpoints.save_checkpoint(folder / name, content)
                files.write_atomic(folder / "run.json", json.dumps(about, indent=2).encode())
                for name in ("evaluation.json", "correct.npz"):
                    files.remove(folder / name)  # it may be an earlier step's
                for number, (step, evaluation) in enumerate(self.evaluations):
                    evaluation.save(folder / EVALUATED.format(number, step))
                    if step == training.step:
                        runs.save_evaluation(folder, evaluation)
            finally:
                self.folders[folder.resolve()] = _state_of(folder)

    def _left_alone(self, folder: Path) -> bool:
        """Return whether a run folder is as this run wrote or read it."""
        return self.folders.get(folder.resolve()) == _state_of(folder)

    def _log(self) -> list[dict[str, Any]]:
        """Return turns and curves, thinned as they are, as lines of a run folder's log."""
        lines = [turn.to_json() for turn in self.dial.turns]
        lines += [sign.to_json(step) for step, sign in self.warnings]
        for step, loss in zip(*self.loss.arrays(), strict=True):
            lines.append({"step": int(step) - 1, "loss": loss})
        for name, curve in self.curves.items():
            for step, value in zip(*curve.arrays(), strict=True):
                lines.append({"step": int(step), "curves": {name: value}})
        return sorted(lines, key=step_of)

    def load(self, folder: Path, name: str, data: Data | None = None) -> "LiveRun":
        """Return a run that takes up a run folder, of the same images as this one or of ``data``'s.

        Raises:
            FileNotFoundError: the folder holds no run.
            ValueError: its checkpoint is damaged or its run had other images.
        """
        split, data = (data.train, data) if data else (self.training.split, self.data)
        networks, read = self.dial.networks, _state_of(folder)
        about = runs.about(folder, networks)
        content = checkpoints.load_checkpoint(folder / "latest.pt")
        state, here = checkpoints.training_of(folder / "latest.pt", content), self.training
        with files.blamed(folder / "latest.pt", "is damaged"):
            settings = Settings(**state["settings"])
        folders.check_threads(about, here.device, folder)
        dial = Dial(about["method"], networks=networks)
        if content["architecture"] is None:
            model = copy.deepcopy(here.model)
        else:
            model = models.from_architecture(content["architecture"]).to(here.device)
        options: dict[str, Any] = _options(here) | {"average": about.get("average")}
        for key in ("optimizer", "schedule"):
            options |= {key: here.updates.recalled(key, about[key])} if key in about else {}
        training = Training(model, split, dial, settings=settings, **options)
        training.load_state_dict(state)
        dial.expect(runs.turns_of(folder, networks)[len(dial.turns) :])
        run = LiveRun(name, training, data, self.probe_images)
        run.folders[folder.resolve()] = read
        run.recall(folder)
        return run

    def recall(self, folder: Path) -> None:
        """Take over what a run folder tells beside its latest state, as far as that is."""
        now, lines = self.training.step, folders.log_of(folder / "log.jsonl")
        for line in lines:
            step = step_of(line)
            if "loss" in line and step < now:
                self.loss.add(step + 1, line["loss"])
            for row, value in line.get("curves", {}).items():
                if step < now and row in self.curves:
                    self.curves[row].add(step, value)
            if "sign" in line and step <= now:
                self.warnings.append((step, Sign(line["sign"], line["words"])))
        self.signs.replay(line for line in lines if step_of(line) <= now)
        paths = sorted(folder.glob("step_*.pt"))
        for path in paths[:: 1 + len(paths) // KEPT]:
            state = checkpoints.training_of(path, checkpoints.load_checkpoint(path))
            if state["step"] <= now:
                self.kept[state["step"]] = state
        if self.kept:
            self.start = self.kept[min(self.kept)]
        for path in sorted(folder.glob("evaluated_*.npz")):
            if (at := re.search(r"_at_(\d+)\.npz$", path.name)) and int(at[1]) <= now:
                self.evaluations.append((int(at[1]), Evaluation.load(path)))


def _state_of(folder: Path) -> object:
    path = folder / "latest.pt"
    found = path.stat() if path.exists() else None
    return found and (found.st_ino, found.st_mtime_ns)


def _options(training: Training) -> dict[str, Any]:
    """Return what a training that goes on from this one is made with, besides settings."""
    return {
        "average": training.average,
        "teacher": training.teacher,
        "compile": training.compiled,
        "sync_batch_norm": training.sync_batch_norm,
    }


def _some(split: Split, images: int) -> Split:
    return split.subset(min(images, len(split)))


def _on_cpu(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _on_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_on_cpu(value) for value in tree]
    return tree
