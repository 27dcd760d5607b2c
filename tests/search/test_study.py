"""The search: judged by a margin on validation images, shared, resumable, the same every time."""

import contextlib
import dataclasses
import gc
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch

import avmixup_kit as av
from avmixup_kit import cli, methods, paper, tuning
from avmixup_kit.data import Split
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.search import result as result_module
from avmixup_kit.search import storage as storage_module
from avmixup_kit.search import study as study_module

optuna = pytest.importorskip("optuna")

TINY = av.Settings(12, batch_size=32)
EPSILON = 0.03  # so small that 12 steps tell settings apart
OBJECTIVE = av.cw(steps=3, epsilon=EPSILON)


def traces(figure: Any) -> list[Any]:
    return list(figure.data)


def plan(**changes: Any) -> tuning.Plan:
    """A trial of 12 small steps, measured after 2, 6 and 12."""
    tiny: dict[str, Any] = {"settings": TINY, "base_channels": 4, "attack_steps": 1, "images": 200}
    tiny |= {"epsilon": EPSILON, "objective": OBJECTIVE}
    return tuning.Plan(**(tiny | changes))


def plain(found: tuning.Found) -> list[tuple[Any, ...]]:
    """What must repeat: everything but times."""
    return [(t.number, t.params, t.measured, t.state, t.steps) for t in found.trials]


@pytest.fixture(scope="module")
def data() -> av.Data:
    return av.digits(validation=0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(data: av.Data, folder: Path) -> tuning.Found:
    """A finished search of 12 trials."""
    return tuning.search(data, folder, trials=12, plan=plan())


# --------------------------------------------------------------------------- what a trial is


def test_a_trial_is_a_plain_training_of_its_settings_and_seed(data, found):
    for number in (0, 3, 5):
        trial = found.trials[number]
        method = av.avmixup(**trial.params, epsilon=EPSILON, steps=1)
        seed = int(np.random.SeedSequence((0, number)).generate_state(1)[0]) >> 1
        network = av.small_cnn(data, seed=seed, base_channels=4)
        training = av.Training(network, data.train, method, 12, batch_size=32, seed=seed)
        for _ in range(trial.steps):
            next(training)
        result = av.evaluate(training.model, data.validation.subset(200), [OBJECTIVE])
        assert trial.value == result.accuracy("CW3")
    assert len({trial.value for trial in found.trials}) >= 6, "too coarse to tell trials apart"


def test_the_same_search_twice_is_the_same_and_another_seed_is_not(tmp_path, data, found):
    again = tuning.search(data, tmp_path / "again", trials=4, plan=plan())
    assert plain(again) == plain(found)[:4]
    other = plan(settings=dataclasses.replace(TINY, seed=1))
    assert plain(tuning.search(data, tmp_path / "other", trials=4, plan=other)) != plain(again)


class Killed(BaseException):
    """The process ends here."""


def quickly(worker: study_module.Worker, study: Any, trial: Any) -> None:
    """In place of a training: a value of the settings alone, which the sampler then follows."""
    params = trial.params
    study.tell(trial, params["gamma"] / 4 - abs(params["lambda2"] - 0.3) + params["clip_vertex"])


def killed_before_suggestion(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let this process die before the suggestion of that number from now, and leave no trace."""
    count = iter(range(10**6))

    def dying(suggest: Any) -> Any:
        def suggested(trial: Any, *given: Any, **named: Any) -> Any:
            if next(count) == number:
                raise Killed
            return suggest(trial, *given, **named)

        return suggested

    for kind in ("suggest_float", "suggest_categorical"):
        patch.setattr(optuna.Trial, kind, dying(getattr(optuna.Trial, kind)))


@pytest.mark.parametrize("inside", [True, False])
def test_killed_between_any_two_suggestions_it_goes_on_as_the_same_search(
    tmp_path, data, monkeypatch, inside
):
    """Ten trials are drawn at random, later ones from those before; the first may be enqueued."""
    monkeypatch.setattr(study_module.Worker, "_run", quickly)
    monkeypatch.setattr(tuning.Found, "save", lambda *_, **__: None)
    monkeypatch.setattr("avmixup_kit.search.result.importance", lambda _: {})
    searched = plan(also=("clip_vertex",), **({} if inside else {"gamma": (2.5, 3.0)}))

    def go_on(name: str, trials: int, number: int | None = None) -> list[Any]:
        def search() -> tuning.Found:
            about: dict[str, Any] = {"plan": searched, "storage": tmp_path / name / "a.journal"}
            return tuning.search(data, tmp_path / name, trials=trials, **about)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            if number is not None:
                killed_before_suggestion(number, patch)
            search()
            assert number is None
        gc.collect()  # with the process, its locks would be gone
        return [(t.number, t.params, t.state) for t in search().trials]

    whole = go_on("whole", 12)
    assert len({tuple(params.values()) for _, params, _ in whole}) == 12
    go_on("ten", 10)
    for before, number in ((0, 0), (0, 1), (0, 3), (0, 5), (0, 7), (10, 0), (10, 1), (10, 3)):
        name = f"killed {before} {number}"
        if before:
            shutil.copytree(tmp_path / "ten", tmp_path / name)
        trials = before + 2
        assert go_on(name, trials, number) == whole[:trials], (before, number)


def test_the_papers_setting_is_the_first_trial_where_it_is_in_the_space(tmp_path, data, found):
    assert found.trials[0].params == {"gamma": 2.0, "lambda1": 1.0, "lambda2": 0.1}
    narrow = tuning.search(data, tmp_path, trials=1, plan=plan(gamma=(2.5, 3.0)))
    assert 2.5 <= narrow.trials[0].params["gamma"] <= 3.0


def test_feature_scatter_and_further_options_are_searched(tmp_path, data):
    scatter = plan(method="feature_scatter_avmixup", also=("clip_vertex",), attack_steps=None)
    found = tuning.search(data, tmp_path, trials=3, plan=scatter)
    published = {"gamma": 1.0, "lambda1": 0.5, "lambda2": 0.7}
    assert {k: v for k, v in found.trials[0].params.items() if k in published} == published
    assert found.trials[0].params["clip_vertex"] is False
    assert all(isinstance(trial.params["clip_vertex"], bool) for trial in found.trials)
    assert "clip_vertex" in str(found.slices().to_json())
    recipe = paper.FEATURE_SCATTER_RECIPES["cifar100"]
    assert scatter.published("cifar100")["lambda2"] == recipe.lambda2 == 0.42


def test_without_mixing_it_is_pgd_or_feature_scatter_as_released():
    assert tuning.Plan().unmixed(0.1) == methods.pgd(epsilon=0.1)
    scatter = tuning.Plan(method="feature_scatter_avmixup")
    assert scatter.unmixed(0.1) == methods.feature_scatter(epsilon=0.1)


def test_settings_of_any_method_are_searched_at_the_radius_of_the_data():
    beta = tuning.Plan(method="trades", ranges={"beta": (1, 9)})
    assert beta.space == {"beta": (1, 9)}
    assert beta.build({"beta": 2.0}, 0.1) == methods.trades(2.0, epsilon=0.1, step_size=0.1 / 4)
    assert (beta.reference, beta.published("digits")) == ("default", {"beta": 6.0})
    five = tuning.Plan(method="mixture", also=("per_example",))
    assert five.published("digits") == {
        "gamma": 2.0, "lambda1": 1.0, "lambda2": 0.1, "per_example": True,
    }  # fmt: skip


def test_what_is_held_is_no_part_of_the_space_and_trains_every_trial(data, tmp_path):
    held = plan(hold={"label": "averaged", "lambda1": 1}, awp=0.01, average=0.9)
    assert held.space.keys() == {"gamma", "lambda2"}
    assert held.published("digits").keys() == {"gamma", "lambda2"}
    expected = methods.avmixup(1.5, 1, 0.3, label="averaged", epsilon=EPSILON, steps=1)
    assert held.build({"gamma": 1.5, "lambda2": 0.3}, EPSILON) == av.awp(expected, 0.01)
    assert held.identity(data) != plan(average=0.9).identity(data)
    trial = tuning.search(data, tmp_path, trials=1, plan=held).trials[0]
    method = av.awp(methods.avmixup(
        **trial.params, lambda1=1, label="averaged", epsilon=EPSILON, steps=1), 0.01
    )  # fmt: skip
    seed = held.seed_of(0)
    network = av.small_cnn(data, seed=seed, base_channels=4)
    training = av.Training(network, data.train, method, 12, batch_size=32, seed=seed, average=0.9)
    for _ in range(trial.steps):
        next(training)
    averaged = training.averaged
    assert averaged is not None
    result = av.evaluate(averaged, data.validation.subset(200), [OBJECTIVE])
    assert trial.value == result.accuracy("CW3")


def test_the_shell_holds_settings_and_perturbs_weights(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(cli.tuning, "search", lambda *_, plan, **__: asked.append(plan) or 1 / 0)
    words = "search --trials 1 --hold label averaged lambda1 0.9 clip_vertex True --awp 0.01"
    monkeypatch.setattr("sys.argv", ["avmixup_kit", *words.split(), "--average", "0.9"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cli.main()
    assert asked[0].hold == {"label": "averaged", "lambda1": 0.9, "clip_vertex": True}
    assert (asked[0].awp, asked[0].average) == (0.01, 0.9)


class Sealed:
    """Test images that no search may look at."""

    def __init__(self, split: Split) -> None:
        self.classes, self.shape, self.name = split.classes, split.shape, split.name
        self.num_classes = split.num_classes

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the search looked at the test images ({name})")


def test_the_search_never_touches_test_images(tmp_path, data):
    sealed: Any = Sealed(data.test)
    whole = tuning.search(dataclasses.replace(data, test=sealed), tmp_path, trials=2, plan=plan())
    assert len(whole.trials) == 2
    with pytest.raises(AssertionError, match="looked at the test images"):
        tuning.remeasure(whole, dataclasses.replace(data, test=sealed), tmp_path, plan=plan())


def test_a_diverging_trial_is_worth_nothing_and_counts(tmp_path, data):
    wild = plan(settings=dataclasses.replace(TINY, lr=1e30))
    found = tuning.search(data, tmp_path, trials=2, plan=wild)
    assert [trial.value for trial in found.trials] == [0.0, 0.0]
    assert "the loss is" in str(found.trials[0].diverged)
    assert found.training_steps < 2 * 12


# --------------------------------------------------------------------------- pruning


def test_pruned_trials_end_at_a_rung_and_save_steps(tmp_path, data, found):
    assert found.rungs == (2, 6, 12)
    for trial in found.trials:
        assert trial.steps == max(trial.measured)
        assert (trial.state == "complete") == (trial.steps == 12)
        assert trial.steps in found.rungs
    assert {trial.state for trial in found.trials} == {"complete", "pruned"}
    whole = tuning.search(data, tmp_path, trials=4, plan=plan(prune=False))
    assert whole.training_steps == 4 * 12
    assert all(set(trial.measured) == {2, 6, 12} for trial in whole.trials)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["training steps"] == summary["training steps without pruning"] == 48


@pytest.mark.parametrize("steps", [1, 2, 5, 17, 360, 10_001])
def test_rungs_ascend_and_end_with_the_training(steps):
    rungs = tuning.Plan(settings=av.Settings(steps)).rungs
    assert list(rungs) == sorted(set(rungs))
    assert rungs[0] >= 1
    assert rungs[-1] == steps


# --------------------------------------------------------------------------- killed, and shared


def test_an_interrupted_trial_is_taken_up_where_it_stood(tmp_path, monkeypatch, data, found):
    real, calls = study_module.measure, []

    def pull_the_plug(*words: Any) -> float:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(study_module, "measure", pull_the_plug)
    with pytest.raises(KeyboardInterrupt):
        tuning.search(data, tmp_path, trials=4, plan=plan(), checkpoint_every=5)
    assert len(list((tmp_path / "trials").glob("*.pt"))) == 1
    monkeypatch.undo()
    whole = tuning.search(data, tmp_path, trials=4, plan=plan(), checkpoint_every=5)
    assert plain(whole) == plain(found)[:4]
    starts = [trial.taken_up for trial in whole.trials]
    assert sum(len(start) for start in starts) == 5
    (twice,) = [start for start in starts if len(start) == 2]
    assert twice[1] > 0
    assert not list((tmp_path / "trials").glob("*.pt"))


# A process of its own: it says that it is ready, waits for the word, and searches.
PROCESS = """
import sys
from pathlib import Path
import torch
import avmixup_kit as av
from avmixup_kit import tuning
torch.set_num_threads(1)
folder, trials, every, prune = Path(sys.argv[1]), *map(int, sys.argv[2:5])
settings = av.Settings(20, batch_size=32)
plan = tuning.Plan(settings=settings, base_channels=4, attack_steps=1, images=200,
                   epsilon=0.03, objective=av.cw(steps=3, epsilon=0.03), prune=bool(prune))
data = av.digits(validation=0.25)
for storage in sys.argv[5:]:
    print("ready", flush=True)
    sys.stdin.readline()
    tuning.search(data, folder / storage, trials=trials, plan=plan, checkpoint_every=every,
                  storage=folder / storage / storage, say=True)
    print("searched", flush=True)
"""
TWENTY = av.Settings(20, batch_size=32)


def start(*words: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def go(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_a_search_killed_with_9_loses_no_more_than_since_its_checkpoint(tmp_path, data):
    process = start(tmp_path, 3, 3, 0, "study.db")
    go(process)
    folder = tmp_path / "study.db"
    checkpoint = folder / "trials" / "0001.pt"
    deadline = time.monotonic() + 600
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, error = process.communicate()
    assert checkpoint.exists(), error
    was = plan(settings=TWENTY, prune=False)
    went_on = tuning.search(
        data, folder, trials=3, plan=was, storage=folder / "study.db", checkpoint_every=3
    )
    assert [trial.taken_up[0] for trial in went_on.trials] == [0, 0, 0]
    assert went_on.trials[1].taken_up[1] >= 3, "its checkpoint was not used"
    assert [len(trial.taken_up) for trial in went_on.trials] == [1, 2, 1]
    left_alone = tuning.search(data, tmp_path / "alone", trials=3, plan=was)
    assert plain(went_on) == plain(left_alone)


def test_two_processes_share_a_study_and_no_trial_is_lost_or_done_twice(tmp_path):
    total, storages = 10, ("study.sqlite3", "study.journal")
    both = [start(tmp_path, total, 50, 1, *storages) for _ in range(2)]
    for storage in storages:
        go(*both)
        shares: list[list[int]] = [[], []]
        for process, share in zip(both, shares, strict=True):
            assert process.stdout is not None
            while (line := process.stdout.readline()).startswith("trial "):
                share.append(int(line.split()[1].rstrip(":")))
            assert line == "searched\n", process.communicate()
        assert sorted(shares[0] + shares[1]) == list(range(total))
        assert all(shares), f"one process did everything, so {storage} was not shared"
        shared = tuning.Found.load(tmp_path / storage)
        assert [trial.number for trial in shared.trials] == list(range(total))
        assert all(trial.taken_up == (0,) for trial in shared.trials)
        assert {trial.state for trial in shared.trials} <= {"complete", "pruned"}
    for process in both:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error


def test_jobs_are_processes_and_do_all_trials(tmp_path, data, found):
    shared = tuning.search(data, tmp_path, trials=5, plan=plan(), jobs=2)
    assert [trial.number for trial in shared.trials] == list(range(5))
    assert all(trial.taken_up == (0,) for trial in shared.trials)
    assert shared.trials[0].measured == found.trials[0].measured  # the paper's, whoever does it


def test_trials_count_the_whole_study_and_can_be_added(tmp_path, data, found):
    tuning.search(data, tmp_path, trials=2, plan=plan())
    assert len(tuning.search(data, tmp_path, trials=2, plan=plan()).trials) == 2
    assert plain(tuning.search(data, tmp_path, trials=4, plan=plan())) == plain(found)[:4]


def die(*words: Any) -> float:
    raise KeyboardInterrupt


def half_done(data: av.Data, folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study_module, "measure", die)
        tuning.search(data, folder, trials=1, plan=plan(), storage=file)


def test_another_folders_trial_is_left_alone_unless_it_is_adopted(tmp_path, monkeypatch, data):
    file = tmp_path / "shared.db"
    half_done(data, tmp_path / "a", file, monkeypatch)
    left = tuning.search(data, tmp_path / "b", trials=2, plan=plan(), storage=file)
    assert [trial.state for trial in left.trials] == ["running", "complete"]
    assert "1 are still in other hands" in str(left)
    whole = tuning.search(data, tmp_path / "b", trials=2, plan=plan(), storage=file, adopt=True)
    assert [trial.state for trial in whole.trials] == ["complete", "complete"]
    assert whole.trials[0].taken_up == (0, 0)


def test_a_surplus_trial_of_a_database_without_a_common_folder_is_given_up(
    tmp_path, monkeypatch, data
):
    real, raced = optuna.Study.ask, []

    def overtaken(study: Any) -> Any:
        if not raced and len(study.trials) == 2:
            raced.append(real(study).number)  # another machine asks in the same moment
        return real(study)

    monkeypatch.setattr(optuna.Study, "ask", overtaken)
    found = tuning.search(data, tmp_path, trials=3, plan=plan())
    assert raced == [2]
    assert [trial.number for trial in found.trials] == [0, 1, 2]


def test_a_trial_that_ends_while_it_is_looked_for_is_not_done_again(tmp_path, monkeypatch, data):
    file = tmp_path / "study.db"
    half_done(data, tmp_path, file, monkeypatch)
    real = study_module.files.held

    def ends_just_now(path: Path, *rest: Any) -> filelock.AcquireReturnProxy:
        if path.name == "0000.lock":
            theirs = optuna.load_study(study_name="search", storage=f"sqlite:///{file}")
            theirs.tell(0, 0.5)
        return real(path, *rest)

    monkeypatch.setattr(study_module.files, "held", ends_just_now)
    found = tuning.search(data, tmp_path, trials=1, plan=plan(), storage=file)
    assert [(trial.state, trial.taken_up) for trial in found.trials] == [("complete", (0,))]


def test_optunas_private_number_of_a_trial_still_takes_it_up():
    study = optuna.create_study()
    study.ask().suggest_float("x", 0, 1)
    asked = study.ask()
    asked.suggest_float("x", 0, 1)
    again = storage_module.taken_up(study, study.get_trials()[1])
    assert (again.number, again.params) == (1, asked.params)
    study.tell(again, 0.5)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "COMPLETE"]


@pytest.mark.parametrize("file", ["study.db", "study.journal"])
def test_trials_are_handed_out_one_at_a_time(tmp_path, monkeypatch, data, file):
    real, asked = optuna.Study.ask, []

    def watched(study: Any) -> Any:
        asked.append(1)
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(tmp_path / f".{file}.claim").acquire(timeout=0)
        return real(study)

    monkeypatch.setattr(optuna.Study, "ask", watched)
    tuning.search(data, tmp_path, trials=2, plan=plan(), storage=tmp_path / file)
    assert len(asked) == 2


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": (0.5, 2.0)}, r"gamma = \(0.5, 2.0\) is not allowed: .* gamma >= 1"),
        ({"lambda1": (0.0, 1.2)}, r"lambda1 = \(0.0, 1.2\) is not allowed: .* from 0 to 1"),
        ({"lambda2": (0.8, 0.2)}, r"lambda2 = \(0.8, 0.2\) is not allowed: lowest and highest"),
        ({"gamma": (1.0, float("nan"))}, r"gamma = \(1.0, nan\) is not allowed"),
        ({"method": "hinge"}, "method = 'hinge' is not allowed: one of standard, mixup, pgd"),
        ({"method": "pgd"}, "method = 'pgd' is not allowed: it has none of gamma, lambda1, lamb"),
        ({"method": "trades", "gamma": (1, 2)}, r"gamma = \(1, 2\) is not allowed: no setting of"),
        ({"ranges": {"beta": (1, 2)}}, "ranges = 'beta' is not allowed: one of gamma, lambda1"),
        ({"ranges": {"steps": (1.0, 2.0)}}, r"steps = \(1.0, 2.0\) is not allowed: .* whole num"),
        ({"also": ("beta",)}, "also = 'beta' is not allowed: one of clip_vertex, per_example"),
        ({"hold": {"beta": 1}}, "hold = 'beta' is not allowed: one of gamma, lambda1"),
        ({"hold": {"epsilon": 0.1}}, "hold = 'epsilon' is not allowed: one of gamma, lambda1"),
        ({"hold": "label"}, "hold = 'label' is not allowed: a value by name of a setting"),
        ({"hold": {"label": "hard"}}, "label = 'hard' is not allowed: one of fixed, averaged, tea"),
        ({"hold": {"gamma": 2}, "gamma": (1, 2)}, r"gamma = \(1, 2\) is not allowed: hold has it"),
        ({"hold": {"steps": 2}, "ranges": {"steps": (1, 2)}}, "hold = 'steps' is not allowed: one"),
        ({"awp": -1}, "awp = -1 is not allowed: a finite number, 0 or more"),
        ({"network": "resnet"}, "network = 'resnet' is not allowed: one of "),
        ({"images": 0}, "images = 0 is not allowed: a whole number, 1 or more"),
        ({"images": True}, "images = True is not allowed: a whole number"),
        ({"attack_steps": 0}, "attack_steps = 0 is not allowed: a whole number, 1 or more"),
        ({"attack_steps": "3"}, "attack_steps = '3' is not allowed: a whole number"),
        ({"attack_steps": 2.5}, "attack_steps = 2.5 is not allowed: a whole number"),
        ({"base_channels": 0}, "base_channels = 0 is not allowed: a whole number, 1 or more"),
        ({"prune": "no"}, "prune = 'no' is not allowed: True or False"),
        ({"also": "clip_vertex"}, "also = 'clip_vertex' is not allowed: some of .*, in a tuple"),
        ({"also": None}, "also = None is not allowed: some of"),
        ({"gamma": 2.0}, "gamma = 2.0 is not allowed: lowest and highest, two finite numbers"),
        ({"gamma": (1.0,)}, r"gamma = \(1.0,\) is not allowed: lowest and highest, two finite"),
        ({"lambda1": ("0", "1")}, r"lambda1 = \('0', '1'\) is not allowed: lowest and highest"),
        ({"lambda1": (False, True)}, r"lambda1 = \(False, True\) is not allowed: lowest and"),
        ({"gamma": np.array([1, 2])}, r"gamma = array\(\[1, 2\]\) is not allowed: lowest"),
        ({"ranges": {"steps": (1, 2)}}, r"steps = \(1, 2\) is not allowed: .* whole number"),
        ({"ranges": {"clip_vertex": (0, 1)}}, r"clip_vertex = \(0, 1\) is .*: True or False"),
        ({"ranges": [("alpha", 1)]}, "ranges = .* is not allowed: .lowest, highest. by name"),
        ({"ranges": {"epsilon": (0.0, 0.1)}}, "ranges = 'epsilon' is not allowed: one of gamma"),
        ({"settings": 5}, "settings = 5 is not allowed: Settings of one trial"),
        ({"teacher": ""}, "teacher = '' is not allowed: a run folder's or checkpoint's path, or"),
        ({"epsilon": 0}, "epsilon = 0 is not allowed: pixels live in"),
        ({"epsilon": "x"}, "epsilon = 'x' is not allowed: a number; pixels live in"),
        ({"method": 5}, "method = 5 is not allowed: one of standard"),
        ({"epsilon": 8.0}, r"epsilon = 8.0 is not allowed.*8 / 255"),
        ({"objective": "hinge"}, "objective = 'hinge' is not allowed: one of cw, apgd-t, autoatt"),
        ({"objective": "pgd"}, "objective = 'pgd' is not allowed: soft labels flatten the cross-"),
        ({"objective": "PGD20"}, "objective = 'PGD20' is not allowed: soft labels flatten"),
        ({"objective": av.pgd(epsilon=0.15)}, "objective = 'PGD20' is not allowed: soft labels"),
        ({"objective": av.fgsm(0.15)}, "objective = 'FGSM' is not allowed: soft labels"),
        (
            {"objective": dataclasses.replace(autoattack(0.15), attacks=("apgd-ce",))},
            "objective = 'APGD-CE' is not allowed: soft labels",
        ),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        plan(**changes)
    assert "\n" not in str(caught.value)


def test_an_objective_that_follows_another_network_is_part_of_the_search(data):
    lent = [av.cw(steps=2, source=av.small_cnn(data, seed=seed)) for seed in (1, 2)]
    objectives = [plan(objective=attack).identity(data)["objective"] for attack in lent]
    assert objectives[0] != objectives[1]
    name = result_module._name  # pyright: ignore[reportPrivateUsage]
    assert [name(text) for text in objectives] == ["CW2 (transfer)"] * 2


def test_a_plan_of_numpys_numbers_is_the_same_plan(data):
    held = plan(
        gamma=np.array([1.0, 2.0]).tolist(), lambda1=tuple(np.array([0.25, 0.5], np.float32)),
        epsilon=np.float64(0.1), attack_steps=np.int64(2), images=np.int32(8),
        ranges={"step_size": [np.float32(0.125), 0.25]},
    )  # fmt: skip
    plain = plan(
        gamma=(1.0, 2.0), lambda1=(0.25, 0.5), epsilon=0.1, attack_steps=2, images=8,
        ranges={"step_size": (0.125, 0.25)},
    )  # fmt: skip
    assert json.dumps(held.identity(data)) == json.dumps(plain.identity(data))


def test_a_setting_without_a_number_as_default_can_be_searched(data, tmp_path):
    chosen = plan(ranges={"step_size": (0.02, 0.05)}, prune=False)
    result = tuning.search(data, tmp_path, trials=1, plan=chosen)
    assert 0.02 <= result.trials[0].params["step_size"] <= 0.05


def test_a_search_on_three_classes_ends_with_a_result_and_is_measured_again(data, tmp_path):
    """APGD-T's own loss needs four classes; every trial used to be trained, then the end failed."""
    pytest.importorskip("pyautoattack")

    def three(split, count):
        few = split.subset((split.labels < 3).nonzero().squeeze(1)[:count])
        return dataclasses.replace(few, classes=("0", "1", "2"))

    counts = {"train": 60, "validation": 4, "test": 3}
    parts = {part: three(getattr(data, part), count) for part, count in counts.items()}
    few = dataclasses.replace(data, **parts)
    chosen = plan(objective="apgd-t", images=4, prune=False)
    result = tuning.search(few, tmp_path, trials=2, plan=chosen)
    assert [trial.state for trial in result.trials] == ["complete", "complete"]
    again = tuning.remeasure(result, few, tmp_path, plan=chosen, seeds=(0,))
    notes = again.again["best"][0].notes
    assert [note for note in notes if note.startswith("APGD-T climbs the margin")]


def test_an_objective_that_cannot_attack_the_images_is_refused_before_the_first_trial(data):
    pytest.importorskip("pyautoattack")

    def grown(split):
        return dataclasses.replace(split, images=split.images.repeat(1, 1, 2, 2)[..., :12, :12])

    parts = {part: grown(getattr(data, part)) for part in ("train", "validation", "test")}
    wide = dataclasses.replace(data, **parts)
    with pytest.raises(ValueError, match="image size = '12 x 12' is not allowed"):
        plan(objective=autoattack(0.5, norm="l2")).check(wide)


def test_attacks_on_the_margin_are_taken_and_nothing_else():
    for given in (av.cw(steps=5, epsilon=0.1), autoattack(0.1), RandomSearch(0.1, 10)):
        assert plan(objective=given).judge(0.1) is given
    assert plan(objective="cw").judge(0.1) == av.cw(steps=20, epsilon=0.1, restarts=3)
    with pytest.raises(TypeError, match="objective = 3 is not allowed: a name or an attack"):
        plan(objective=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials = 0 is not allowed: a whole number, 1 or more"),
        ({"trials": 2.5}, "trials = 2.5 is not allowed"),
        ({"jobs": 0}, "jobs = 0 is not allowed"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0 is not allowed"),
        ({"plan": plan(images=9999)}, "images = 9999 is not allowed: digits/validation has 337"),
        ({"plan": plan(settings=av.Settings(5, batch_size=5000))}, "batch_size = 5000 is not all"),
        ({"plan": plan(network="wrn-16-8")}, "network wrn-16-8: .*base_channels"),
        ({"storage": "nonsense://a"}, "storage = 'nonsense://a' cannot be opened"),
        (
            {"storage": "postgresql+nodriver://me:secret@host/x"},
            r"storage = 'postgresql\+nodriver://me:\*\*\*@host/x' cannot be opened",
        ),
    ],
)
def test_a_search_that_cannot_be_is_one_line_and_leaves_no_study(tmp_path, data, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        tuning.search(data, tmp_path / "new", **({"trials": 1, "plan": plan()} | options))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "new" / "study.db").exists()


def test_no_validation_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images = None is not allowed: digits/validation has 0"):
        tuning.search(av.digits(validation=0), tmp_path, plan=plan(images=None))


OTHERS = [
    ({"gamma": (1.0, 3.0)}, "search space was"),
    ({"also": ("clip_vertex",)}, "search space was"),
    ({"method": "feature_scatter_avmixup"}, "method.perturb.objective was"),
    ({"objective": "apgd-t"}, "objective was"),
    ({"images": 30}, "'search': objective's images was 200, is 30$"),
    ({"settings": av.Settings(13, batch_size=32)}, "settings.steps was 12, is 13"),
    ({"prune": False}, "'search': prune was True, is False$"),
]


@pytest.mark.parametrize("file", ["study.db", "study.journal"])
def test_another_searchs_study_is_refused_and_kept(tmp_path, data, file):
    path = tmp_path / file
    tuning.search(data, tmp_path, trials=1, plan=plan(), storage=path)
    before = path.read_bytes()
    for changes, difference in OTHERS:
        with pytest.raises(ValueError, match=f"{file} holds another .*{difference}") as caught:
            tuning.search(data, tmp_path, trials=2, plan=plan(**changes), storage=path)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


def test_other_images_are_another_search(tmp_path, data):
    tuning.search(data, tmp_path, trials=1, plan=plan())
    for other, difference in (
        (dataclasses.replace(data, name="letters"), "data was 'digits', is 'letters'"),
        (av.digits(validation=0.2), "training images was"),
    ):
        with pytest.raises(ValueError, match=f"holds another search .*{difference}"):
            tuning.search(other, tmp_path, trials=1, plan=plan())


def test_a_study_of_somebody_elses_is_refused(tmp_path, data):
    url = f"sqlite:///{tmp_path / 'theirs.db'}"
    theirs = optuna.create_study(storage=url, study_name="search")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    theirs._storage.remove_session()
    with pytest.raises(ValueError, match="holds a study 'search' that avmixup_kit did not make"):
        tuning.search(data, tmp_path, trials=1, plan=plan(), storage=url)
    assert len(theirs.trials) == 1


def garbage(path: Path) -> None:
    path.write_bytes(b"these are my holiday notes\n" * 200)


def another_program(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE birds (name TEXT)")
    database.close()


def overwritten(path: Path) -> None:
    """A real study, a kilobyte in its middle gone."""
    tuning.search(av.digits(validation=0.25), path.parent, trials=1, plan=plan(), storage=path)
    content = bytearray(path.read_bytes())
    middle = content.find(b"\n", len(content) // 2) + 1 if path.suffix == ".journal" else 4096
    content[middle : middle + 1024] = b"\xff" * 1024
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("study.db", garbage),
        ("study.db", another_program),
        ("study.db", overwritten),
        ("study.journal", garbage),
        ("study.journal", overwritten),
    ],
)
def test_a_damaged_study_is_refused_in_one_line_and_kept(tmp_path, data, file, damage):
    path = tmp_path / file
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{file} is no study of Optuna's, or is dam") as caught:
        tuning.search(data, tmp_path, trials=2, plan=plan(), storage=path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_without_optuna_one_line_names_the_extra():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['optuna'] = None\n"
         "import avmixup_kit as av\nav.tuning.search(av.digits())"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    *_, last = done.stderr.strip().splitlines()
    assert last == (
        "ImportError: searching needs optuna, which is not installed: "
        "pip install 'avmixup-kit[search]'"
    )


# --------------------------------------------------------------------------- the findings


def synthetic(count: int = 200) -> tuning.Found:
    """Trials whose accuracy is lambda2, a little gamma, and no lambda1."""
    draw = np.random.default_rng(0)
    trials = []
    for number in range(count):
        params = {
            "gamma": float(draw.uniform(1, 4)),
            "lambda1": float(draw.uniform()),
            "lambda2": float(draw.uniform()),
        }
        value = 0.5 * params["lambda2"] + 0.02 * params["gamma"]
        state, steps = ("complete", 12) if number % 2 else ("pruned", 6)
        trials.append(tuning.Trial(number, params, {steps: value}, state, steps, 1.0, (0,)))
    published = {"gamma": 2.0, "lambda1": 1.0, "lambda2": 0.1}
    space = {"gamma": [1, 4], "lambda1": [0, 1], "lambda2": [0, 1]}
    searched = {"objective": repr(OBJECTIVE), "search space": space}
    return tuning.Found(searched, published, (2, 6, 12), tuple(trials), tuning.importance(trials))


def test_importance_finds_what_matters():
    shares = synthetic().importance
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["lambda2"] > 0.7
    assert shares["lambda1"] < 0.1
    assert tuning.importance(synthetic().trials[:9]) == {}


def test_the_grid_holds_the_best_of_each_square():
    found = synthetic()
    grid = found.grid(4)
    assert grid.count.sum() == 200
    for row in range(4):
        for column in range(4):
            inside = [
                trial.value
                for trial in found.trials
                if row / 4 <= trial.params["lambda2"] < (row + 1) / 4
                and column / 4 <= trial.params["lambda1"] < (column + 1) / 4
            ]
            assert grid.count[row, column] == len(inside)
            assert grid.best[row, column] == max(inside)
    empty = dataclasses.replace(found, trials=found.trials[:2]).grid(4)
    assert int(np.isnan(empty.best).sum()) >= 14


def test_figures_show_every_trial_and_where_best_and_paper_are():
    found = synthetic()
    heat, best, published = traces(found.heat_map())
    assert np.nanmax(np.array(heat.z, float)) == pytest.approx(
        100 * max(trial.value for trial in found.trials)
    )
    assert (best.x[0], best.y[0]) == (
        found.best.params["lambda1"], found.best.params["lambda2"],
    )  # fmt: skip
    assert (published.x[0], published.y[0]) == (1.0, 0.1)
    pruned, finished = traces(found.slices("gamma"))
    assert len(pruned.x) == len(finished.x) == 100
    assert finished.y[0] == pytest.approx(100 * found.finished[0].value)
    assert len(traces(found.slices())) == 6
    assert list(traces(found.importance_figure())[0].y) == list(found.importance)
    (line,) = traces(tuning.progress({"a": found}))
    assert line.x[-1] == found.training_steps == 100 * 12 + 100 * 6
    assert line.y[-1] == pytest.approx(100 * found.best.value)
    with pytest.raises(ValueError, match="name = 'beta' is not allowed: one of gamma, lambda1"):
        found.slices("beta")


@pytest.mark.parametrize(
    ("objective", "name"),
    [(av.cw(epsilon=0.1, restarts=3), "CW20x3"), ("apgd-t", "APGD-T"),
     ("autoattack", "AutoAttack (q"),
     (RandomSearch(0.1, 10), "RandomSearch(epsilon=0.1")],
)  # fmt: skip
def test_the_objective_is_named_in_words(data, objective, name):
    searched = synthetic().searched | plan(objective=objective).identity(data)
    assert f"under {name}" in str(dataclasses.replace(synthetic(), searched=searched))


def test_the_best_is_the_best_of_those_trained_to_the_end():
    found = synthetic()
    assert found.best.value == max(t.value for t in found.trials if t.state == "complete")
    higher = dataclasses.replace(found.trials[0], measured={6: 0.99})
    assert higher.state == "pruned"
    same = dataclasses.replace(found, trials=(higher, *found.trials[1:]))
    assert same.best == found.best
    none = dataclasses.replace(found, trials=found.trials[:1])
    with pytest.raises(ValueError, match="none of 1 trials has been trained to the end"):
        _ = none.best


def test_the_report_is_written_and_the_summary_read_back(folder, found):
    page = (folder / "report.html").read_text()
    assert '<h2 id="verdict">In short</h2>' in page
    assert f"{found.best.value:.1%} on validation images under CW3.</p>" in page
    for heading in ("lambda1 and lambda2", "Slices", "Importance", "Best so far"):
        assert f"<h2>{heading}" in page
    again = tuning.Found.load(folder)
    assert "on validation images under CW3\n" in str(again)
    assert again.trials == found.trials
    assert str(again) == str(found)


def test_a_damaged_or_missing_summary_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no search: there is no"):
        tuning.Found.load(tmp_path)
    for text in ("{", "[]", '{"trials": []}', '{"trials": 3}'):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(ValueError, match=r"summary.json is damaged or of another") as caught:
            tuning.Found.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_the_best_and_the_papers_setting_meet_the_test_images(folder, data, found):
    small = dataclasses.replace(data, test=data.test.subset(100))
    rows = [av.pgd(steps=5, epsilon=EPSILON), av.cw(steps=5, epsilon=EPSILON)]
    options: Any = {"plan": plan(), "seeds": (0, 1), "rows": rows}
    again = tuning.remeasure(found, small, folder, jobs=2, **options)
    assert list(again.again) == ["best", "paper", "no mixing"]
    for name, method in (
        ("best", av.avmixup(**found.best.params, epsilon=EPSILON, steps=1)),
        ("paper", av.avmixup(epsilon=EPSILON, steps=1)),
        ("no mixing", av.methods.pgd(epsilon=EPSILON, steps=1)),
    ):
        network = av.small_cnn(data, seed=1, base_channels=4)
        for _ in av.Training(network, data.train, method, 12, batch_size=32, seed=1):
            pass
        alone = av.evaluate(network, small.test, rows, seed=1)
        assert again.again[name][1].names == alone.names == ("Clean", "PGD5", "CW5")
        assert torch.equal(again.again[name][1].correct, alone.correct)
    files = {path: path.stat().st_mtime_ns for path in (folder / "again").iterdir()}
    assert {path.suffix for path in files} == {".npz", ".json"}
    more = tuning.remeasure(found, small, folder, **options)
    assert files == {path: path.stat().st_mtime_ns for path in (folder / "again").iterdir()}
    assert str(more) == str(again) == str(tuning.Found.load(folder))
    assert "- best against paper, CW5: " in again.table()
    torn = folder / "again" / again.files["paper"][0]
    whole = torn.read_bytes()
    for part in (b"", whole[:50], whole[: len(whole) // 2], b"notes"):
        torn.write_bytes(part)
        with pytest.raises(ValueError, match=rf"{torn.name} is damaged or of another") as caught:
            tuning.Found.load(folder)
        assert "\n" not in str(caught.value)
    torn.write_bytes(whole)
    comparison = again.comparisons()[2]
    means = [np.mean([e.accuracy("CW5") for e in again.again[n]])
             for n in ("best", "paper")]  # fmt: skip
    assert comparison.difference == pytest.approx(means[0] - means[1])


def test_the_default_attacks_are_the_ones_that_count(tmp_path, data, found):
    few = dataclasses.replace(data, test=data.test.subset(2))
    again = tuning.remeasure(
        found, few, tmp_path, plan=plan(), seeds=(0,), others={"mine": {"gamma": 1.5}}, page=False
    )
    assert list(again.again) == ["best", "paper", "no mixing", "mine"]
    for (evaluation,) in again.again.values():
        assert evaluation.names == ("Clean", "PGD20", "CW20", "AutoAttack (quick)")
        assert (evaluation.n, evaluation.epsilon) == (2, EPSILON)
    assert not (tmp_path / "report.html").exists()
    about = json.loads(
        (tmp_path / "again" / again.files["mine"][0].replace("npz", "json")).read_text()
    )
    assert methods.parse(about["method"]) == av.avmixup(1.5, epsilon=EPSILON, steps=1)


def test_remeasuring_refuses_another_plan_and_no_seeds(tmp_path, data, found):
    with pytest.raises(ValueError, match="holds another search.*prune was True, is False"):
        tuning.remeasure(found, data, tmp_path, plan=plan(prune=False))
    with pytest.raises(ValueError, match=r"seeds = \(\) is not allowed"):
        tuning.remeasure(found, data, tmp_path, plan=plan(), seeds=())


# --------------------------------------------------------------------------- the command line


def call(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", "search", *map(str, words)])
    cli.main()


def test_the_command_is_the_library(monkeypatch, tmp_path, capsys, data):
    words = ["--dataset", "digits", "--trials", 3, "--steps", 12, "--batch-size", 32,
             "--base-channels", 4, "--attack-steps", 1, "--images", 200, "--seeds", 0,
             "--epsilon", EPSILON]  # fmt: skip
    call(monkeypatch, tmp_path / "a", *words)
    out = capsys.readouterr().out
    assert out.count("\ntrial ") + out.startswith("trial ") == 3
    direct = tuning.search(data, tmp_path / "b", trials=3, plan=plan(objective="cw"))
    assert plain(tuning.Found.load(tmp_path / "a")) == plain(direct)
    assert str(direct.best.number) in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "pgd"], "objective = 'pgd' is not allowed: soft labels"),
        (["--trials", "0"], "trials = 0 is not allowed"),
        (["--seeds", "-1"], "seeds = -1 is not allowed"),
        (["--lambda1", "0.5", "2"], r"lambda1 = \(0.5, 2.0\) is not allowed"),
        (["--validation", "1.5"], "validation = 1.5"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(monkeypatch, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, tmp_path / "x", *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.match(f"error: .*{message}", error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_process_that_ends_first_does_not_report(monkeypatch, tmp_path, capsys, data):
    only = tuning.Plan(images=20)
    file = tmp_path / "study.db"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study_module.Worker, "_run", die)
        tuning.search(data, tmp_path / "a", trials=1, plan=only, storage=file)
    call(monkeypatch, tmp_path / "b", "--trials", 1, "--images", 20, "--storage", file)
    assert capsys.readouterr().out == "1 trials are in other hands; who ends last reports\n"
    assert not (tmp_path / "b" / "summary.json").exists()


def test_an_unknown_data_set_is_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, tmp_path / "x", "--dataset", "emnist")
    assert stop.value.code == 2
    assert "emnist" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
