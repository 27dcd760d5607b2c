"""The search itself: any number of processes that take trials from one study."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avmixup_kit._base import check, files
from avmixup_kit._base.processes import helper_processes
from avmixup_kit.data import Data, Split
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.search.plan import PRUNED_TO, Plan
from avmixup_kit.search.result import Found, short
from avmixup_kit.search.storage import Place, optuna_package, quiet, taken_up
from avmixup_kit.training import checkpoints
from avmixup_kit.training.loop import Training, TrainingDiverged

if TYPE_CHECKING:
    import filelock
    import optuna


@dataclass(frozen=True, eq=False)
class Worker:
    """One process at work on a study; it holds no test images."""

    place: Place
    name: str
    plan: Plan
    identity: dict[str, Any]
    published: dict[str, Any]
    train: Split
    validation: Split
    epsilon: float
    trials: int
    checkpoint_every: int
    adopt: bool
    say: bool

    def on(self, device: str | torch.device) -> "Worker":
        """Return a worker whose images live there."""
        train, validation = self.train.to(device), self.validation.to(device)
        return dataclasses.replace(self, train=train, validation=validation)

    def open(self) -> "optuna.Study":
        """Return the study, made if need be; the paper's own setting is its first trial.

        Raises:
            ValueError: a study of this name is there and is another search.
        """
        optuna, plan, place = optuna_package(), self.plan, self.place
        files.make_folder(place.folder / "trials")
        pruner = optuna.pruners.NopPruner()
        if plan.prune:
            pruner = optuna.pruners.SuccessiveHalvingPruner(plan.rungs[0], PRUNED_TO)
        with place.claiming(), quiet():
            shared = {"storage": place.open(), "study_name": self.name, "pruner": pruner}
            try:
                study = optuna.load_study(**shared)
            except KeyError:
                study = optuna.create_study(**shared, direction="maximize", load_if_exists=True)
            there = study.user_attrs.get("plan")
            where = f"{place.file or place.storage} holds"
            if there is not None:
                where += f" another search under the name {self.name!r}"
                check.same(there, self.identity, where)
            elif study.trials:
                raise ValueError(f"{where} a study {self.name!r} that avmixup_kit did not make")
            else:
                study.set_user_attr("plan", self.identity)
                start = {name: self.published[name] for name in plan.space}
                numbers = all(map(check.is_number, start.values()))
                ranges = plan.space.items()
                if numbers and all(low <= start[name] <= high for name, (low, high) in ranges):
                    study.enqueue_trial(self.published, skip_if_exists=True)
        return study

    def __call__(self, study: "optuna.Study") -> None:
        """Train and measure trials until the study has as many as it should."""
        while (claimed := self._claim(study)) is not None:
            trial, lock = claimed
            with lock:
                self._run(study, trial)

    def _claim(
        self, study: "optuna.Study"
    ) -> "tuple[optuna.Trial, filelock.AcquireReturnProxy] | None":
        """Return a trial that is now ours: one whose process died, else a new one."""
        optuna = optuna_package()
        running, waiting = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING
        failed = optuna.trial.TrialState.FAIL
        with self.place.claiming(), quiet():
            token = self.place.token()
            every = study.get_trials(deepcopy=False)
            for frozen in every:
                owner = frozen.user_attrs.get("folder")
                # Trials are marked under this lock, so in a file an unmarked one lost its process.
                ours = owner == token or (owner is None and self.place.file is not None)
                if frozen.state == running and (ours or self.adopt):
                    try:
                        held = files.held(self.place.lock(frozen.number), 0.0)
                    except BlockingIOError:
                        continue
                    # Its process may have finished it since the trials were read.
                    now = study.get_trials(deepcopy=False)[frozen.number]
                    if now.state == running:
                        self._sample_as_before(study, now)
                        return self._mark(taken_up(study, now), token), held
                    held.lock.release()
            if sum(t.state not in (waiting, failed) for t in every) >= self.trials:
                return None
            study.sampler = self._sampler(len(every))
            trial = study.ask()
            held = files.held(self.place.lock(trial.number), -1)
            self._mark(trial, token)
        before = study.get_trials(deepcopy=False)[: trial.number]
        if sum(t.state not in (waiting, failed) for t in before) >= self.trials:
            # Only where folders share nothing but a database: two asked for the last trial.
            study.tell(trial, state=failed)
            held.lock.release()
            return None
        return trial, held

    def _sampler(self, there: int) -> "optuna.samplers.TPESampler":
        """Return the sampler of a trial that is asked for when so many are there."""
        sequence = np.random.SeedSequence((self.plan.settings.seed, there))
        return optuna_package().samplers.TPESampler(seed=int(sequence.generate_state(1)[0]))

    def _sample_as_before(self, study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
        """Put the study's sampler where the process left it that died while marking the trial."""
        sampler = self._sampler(trial.number)
        space = sampler.infer_relative_search_space(study, trial)
        # What was enqueued was not drawn; these are drawn together, again at the first suggestion.
        fixed = trial.system_attrs.get("fixed_params", {})
        known = fixed | sampler.sample_relative(study, trial, space)
        study.sampler = self._sampler(trial.number)
        for name, distribution in trial.distributions.items():
            if name not in known and not distribution.single():
                study.sampler.sample_independent(study, trial, name, distribution)

    def _mark(self, trial: "optuna.Trial", token: str) -> "optuna.Trial":
        trial.set_user_attr("folder", token)
        for name, limits in self.plan.space.items():
            trial.suggest_float(name, *limits)
        for name in self.plan.also:
            trial.suggest_categorical(name, [False, True])
        return trial

    def _run(self, study: "optuna.Study", trial: "optuna.Trial") -> None:
        """Train one trial from its last checkpoint on, and tell the study what came of it."""
        optuna = optuna_package()
        plan, path = self.plan, self.place.checkpoint(trial.number)
        began = time.process_time()
        seed = plan.seed_of(trial.number)
        training = plan.training(self.train, plan.build(trial.params, self.epsilon), seed)
        if path.exists():
            training.load_state_dict(checkpoints.load_checkpoint(path, training.device))
        starts = [*trial.user_attrs.get("taken up after", ()), training.step]
        trial.set_user_attr("taken up after", starts)
        measured = study.get_trials(deepcopy=False)[trial.number].intermediate_values
        state, value = optuna.trial.TrialState.COMPLETE, 0.0
        try:
            for step in plan.rungs:
                if step < training.step:
                    continue
                self._train_to(step, training, path)
                value = measure(training.judged, self.validation, plan, self.epsilon)
                if step not in measured:
                    trial.report(value, step)
                if step < training.steps and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
        except TrainingDiverged as error:
            value = 0.0  # a network that is no longer made of numbers resists nothing
            trial.set_user_attr("diverged", str(error))
        seconds = trial.user_attrs.get("seconds", 0.0) + time.process_time() - began
        trial.set_user_attr("seconds", round(seconds, 2))
        trial.set_user_attr("steps", training.step)
        with quiet():
            finished = state == optuna.trial.TrialState.COMPLETE
            study.tell(trial, value if finished else None, state)
        self.place.settle()
        path.unlink(missing_ok=True)
        if self.say:
            words = ", ".join(f"{k} {short(v)}" for k, v in trial.params.items())
            what = "done" if finished else f"pruned after {training.step} steps"
            print(f"trial {trial.number}: {value:.3f}, {what} ({words})", flush=True)

    def _train_to(self, step: int, training: Training, path: Path) -> None:
        while training.step < step:
            next(training)
            if training.step % self.checkpoint_every == 0 or training.step == step:
                self.place.settle()
                checkpoints.save_checkpoint(path, training.state_dict())


def measure(model: torch.nn.Module, split: Split, plan: Plan, epsilon: float) -> float:
    """Return a network's robust accuracy under the plan's objective, as a fraction."""
    images = split if plan.images is None else split.subset(min(plan.images, len(split)))
    judge = plan.judge(epsilon)
    return evaluate(model, images, [judge], check=False).accuracy(judge.name)


def _search_on(device: str, worker: Worker) -> None:
    worker = worker.on(device)
    worker(worker.open())


def search(
    data: Data,
    folder: str | Path = "search",
    *,
    trials: int = 100,
    plan: Plan | None = None,
    storage: str | Path | None = None,
    study: str = "search",
    jobs: int = 1,
    checkpoint_every: int = 50,
    adopt: bool = False,
    say: bool = False,
) -> Found:
    """Return what was found after ``trials`` trials, those of earlier calls included.

    Test images are not looked at. Writes into ``folder``: the study (study.db), checkpoints of
    running trials (trials/), summary.json, report.html.

    Args:
        data: training images to train on, validation images to judge by.
        folder: where to write. A search in it is gone on with; processes that share a study on one
            file system should share the folder too.
        trials: how many the study holds in the end, whoever did them.
        plan: what is searched and how; the default is AVmixup's three settings.
        storage: None is an SQLite file in the folder; a path ending in .journal or .log a journal
            file (for a shared disk), any other path an SQLite file; with :// a database's URL.
        study: its name in the storage.
        jobs: how many processes work on it, each with one thread.
        checkpoint_every: steps of a trial that a killed process can lose.
        adopt: also take up unfinished trials of other folders, from their first step: only when
            nothing works on them any more.
        say: print a line for each trial.

    Raises:
        ValueError: trials or jobs < 1, a damaged storage, or one that holds another search.
        ImportError: Optuna is not installed.
    """
    for name, value in (("trials", trials), ("jobs", jobs), ("checkpoint_every", checkpoint_every)):
        check.whole(name, value)
    optuna_package()
    plan = Plan() if plan is None else plan
    plan.check(data)
    place = Place(Path(folder), storage)
    worker = Worker(
        place, study, plan, plan.identity(data), plan.published(data.name), data.train,
        data.validation, plan.epsilon_on(data), trials, checkpoint_every, adopt, say,
    )  # fmt: skip
    opened = worker.open()
    away = worker.on("cpu") if jobs > 1 else worker  # CUDA tensors cannot be sent
    with helper_processes(_search_on, (str(data.train.device), away), jobs - 1):
        worker(opened)
    worker(opened)  # what a process that died beside this one has left
    with place.claiming(), quiet():  # processes that end together write one after the other
        found = Found.of(opened, plan, data)
        if not found.running:
            # Of processes that died between telling the study and removing their trial's state.
            for left in (place.folder / "trials").glob("*.pt*"):
                left.unlink(missing_ok=True)
        if found.finished:
            found.save(folder)
    return found
