"""The dashboard: what is turned by hand is repeated headless, and no failure loses a run."""

import errno
import gc
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass
from html import unescape

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import attacks, methods, runs
from avmixup_kit.evaluation import scatter as features
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.loop import Record, Training
from avmixup_kit.training.signs import Sign

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.core.formatters import DisplayFormatter

from avmixup_kit import live
from avmixup_kit.live.lab.run import Curve, LiveRun
from avmixup_kit.live.lab.trainer import Trainer
from avmixup_kit.live.lab.words import turned
from avmixup_kit.training import checkpoints
from tests.live.widgets import number as number_of
from tests.live.widgets import synced, traces

EPSILON = 0.15
STEPS = 40
PATIENCE = 600  # seconds: only a test that will fail waits so long


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """Every test ends with the threads it began with, and keeps its runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    yield
    live.close_all()
    assert set(threading.enumerate()) <= before


def new(digits, dial=None, steps=STEPS, method=None, **options):
    method = methods.avmixup(epsilon=EPSILON, steps=1) if method is None else method
    network = av.small_cnn(digits, seed=2, base_channels=4)
    dial = Dial(method) if dial is None else dial
    return Training(network, digits.train, dial, steps, batch_size=16, seed=4, **options)


def show(digits, training=None, **options):
    options = {"probe_every": 10, "probe_images": 10, "period": 0.05} | options
    return live.show(training or new(digits), data=digits, **options)


def weights(training):
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def headless(digits, turns=(), steps=STEPS):
    """The weights of the same run without a dashboard."""
    training = new(digits, Dial(methods.avmixup(epsilon=EPSILON, steps=1), list(turns)), steps)
    for _ in training:
        pass
    return weights(training)


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def at_step(lab, step):
    until(lambda: lab.training.step >= step)


# ------------------------------------------------------------------------------------- the curves


def test_a_curve_of_100_000_records_stays_small_and_true(digits):
    run = LiveRun("run 1", new(digits), None, 10)
    method = run.method
    losses = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def feed(first, last):
        for step in range(first, last):
            run.note(Record(step, losses[step], 0.1, method))
            if step % 50 == 0:
                run.flush()
        run.flush()

    feed(0, 10_000)
    gc.collect()
    tracemalloc.start()
    feed(10_000, 12_000)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    feed(12_000, 100_000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000
    steps, values = run.loss.arrays()
    assert 500 <= len(steps) <= 1001
    assert (steps[1:] > steps[:-1]).all()
    assert steps[0] < 130
    assert steps[-1] > 99_800
    assert values[:-1].mean() == pytest.approx(float(losses.mean()), abs=1e-3)


def test_a_curve_keeps_the_mean_of_what_it_merges():
    curve = Curve(4)
    for step in range(1, 8):
        curve.add(step, 10.0 * step)
    steps, values = curve.arrays()
    assert steps.tolist() == [1.5, 3.5, 5.5, 7.0]
    assert values.tolist() == [15.0, 35.0, 55.0, 70.0]
    with pytest.raises(ValueError, match="capacity = 3 is not allowed: an even number, 2 or more"):
        Curve(3)


def test_curves_pictures_and_progress_are_written_while_training(digits):
    lab = show(digits)
    lab.start()
    lab.join(PATIENCE)
    until(lambda: "has ended" in lab.state.value and f"step {STEPS} of" in lab.progress.value)
    until(lambda: len(traces(lab.curves)) == 5 and len(traces(lab.curves)[0].x) == STEPS)
    by_name = {trace.meta: trace for trace in traces(lab.curves)}
    until(lambda: list(by_name["Clean, validation"].x) == [0, 10, 20, 30, 40])
    until(lambda: len(by_name["PGD10, train"].y) == 5)
    assert list(by_name["loss"].x) == list(range(1, STEPS + 1))
    accuracy = lab.trainer.run.curves["PGD10, train"].arrays()[1]
    assert list(by_name["PGD10, train"].y) == list(100 * accuracy)
    until(lambda: lab.strip.value.count("<img") == 18)
    assert lab.strip.value.count("trained on: ") == 6
    figure = lab.static()
    assert isinstance(figure, go.Figure)
    assert [len(trace.x) for trace in traces(figure)] == [40, 5, 5, 5, 5]
    evaluation = lab.evaluate(50)
    assert evaluation.names == ("Clean", "FGSM", "PGD20", "CW20")
    until(lambda: "CW20" in lab.evaluation.value)


def test_the_scatter_shown_is_that_of_features(digits):
    lab = show(digits, probe_images=40)
    lab.start()
    lab.join(PATIENCE)
    train, held_out = lab.trainer.run.probed.values()
    found = features.scatter(
        lab.training.model, train, held_out, attacks.pgd(steps=10, epsilon=digits.epsilon)
    )
    until(lambda: len(traces(lab.curves)) == 6 and len(traces(lab.curves)[5].y) == 5)
    shown = {trace.meta: trace.y[-1] for trace in traces(lab.curves)}
    attacked = (found.values["features", name, "attacked"] for name in ("held-out", "train"))
    assert shown["scatter ratio"] == next(attacked) / next(attacked)
    said = lab.static().to_dict()["layout"]["xaxis4"]["title"]["text"]
    assert "scatter ratio: spread within a class, validation over training images" in said


def test_a_scatter_that_cannot_be_measured_is_left_out(digits):
    lab = show(digits)  # ten images: one of each digit has no variance
    lab.start()
    lab.join(PATIENCE)
    until(lambda: len(traces(lab.curves)) == 5 and len(traces(lab.curves)[4].y) == 5)


def test_the_strip_shows_what_the_dial_says(digits):
    lab = show(digits)
    lab.numbers["lambda2"].box.value = 0.4
    lab.numbers["epsilon"].box.value = 0.05
    lab.start()
    lab.join(PATIENCE)
    strip = lab.trainer.run.strip
    assert strip is not None
    assert (strip.adversarial - strip.clean).abs().max() == pytest.approx(0.05, abs=1e-6)
    assert all(0.4 <= target <= 1 for target in strip.targets)
    alpha = (torch.tensor(strip.targets) - 0.4) / 0.6
    expected = strip.clean + (1 - alpha).reshape(-1, 1, 1, 1) * 2 * (
        strip.adversarial - strip.clean
    )
    assert torch.allclose(strip.mixed, expected, atol=1e-5)


# --------------------------------------------------------------- turned by hand, repeated headless


def test_turns_made_by_hand_are_repeated_headless_bit_for_bit(digits, tmp_path):
    lab = show(digits)
    lab.start()
    at_step(lab, 3)
    lab.numbers["gamma"].box.value = 3.0
    at_step(lab, 10)
    lab.numbers["lambda2"].slider.value = 0.55
    lab.numbers["lambda1"].box.value = 0.9
    at_step(lab, 20)
    lab.method.value = "pgd"
    at_step(lab, 25)
    lab.method.value = "avmixup"
    lab.numbers["epsilon"].box.value = 0.1
    lab.join(PATIENCE)
    lab.export(tmp_path / "turns.jsonl")
    turns = runs.turns_of(tmp_path / "turns.jsonl")
    assert [list(turn.change) for turn in turns] == [
        ["gamma"], ["lambda2"], ["lambda1"], ["method"], ["method"], ["epsilon"]
    ]  # fmt: skip
    assert 3 <= turns[0].step < turns[3].step < STEPS
    assert identical(weights(lab.training), headless(digits, turns))
    assert not identical(weights(lab.training), headless(digits, turns[:-1]))
    assert lab.trainer.run.last is not None
    assert lab.trainer.run.last.method == turns[4].change["method"].replace(epsilon=0.1)


def test_looking_does_not_change_the_training(digits):
    lab = show(digits, new(digits, steps=12), probe_every=1)
    lab.start()
    lab.join(PATIENCE)
    assert len(lab.trainer.run.curves["PGD10, train"].arrays()[0]) == 13
    assert identical(weights(lab.training), headless(digits, steps=12))


def test_pause_resume_and_stop(digits):
    lab = show(digits)
    lab.start()
    at_step(lab, 5)
    lab.pause()
    stood = lab.training.step
    until(
        lambda: (
            lab.start_button.description == "Resume"
            and not lab.start_button.disabled
            and lab.pause_button.disabled
        )
    )
    # its thread waits until it is asked, which shows nowhere else
    until(lambda: not lab.trainer._wake.is_set())  # pyright: ignore[reportPrivateUsage]
    assert lab.training.step == stood
    lab.resume()
    lab.join(PATIENCE)
    assert identical(weights(lab.training), headless(digits))
    again = show(digits, name="second")
    again.start()
    at_step(again, 5)
    again.stop()
    stood = again.training.step
    assert stood < STEPS
    again.join(PATIENCE)
    assert again.trainer.run.status == "stopped"
    assert identical(weights(again.training), headless_part(digits, stood))
    with pytest.raises(ValueError, match="run 1 is stopped: fork it to go on from a kept step"):
        again.resume()


def headless_part(digits, steps):
    training = new(digits)
    for _ in range(steps):
        next(training)
    return weights(training)


def test_a_fork_is_another_run_from_there_and_leaves_the_first(digits):
    lab = show(digits)
    lab.numbers["gamma"].box.value = 2.5
    lab.start()
    lab.join(PATIENCE)
    first = weights(lab.training)
    run = lab.fork(20)
    assert run.origin == ("run 1", 20)
    assert lab.training.step == 20
    lab.numbers["gamma"].box.value = 4.0
    lab.start()
    lab.join(PATIENCE)
    assert lab.dial.turns == (Turn(0, {"gamma": 2.5}), Turn(20, {"gamma": 4.0}))
    assert identical(weights(lab.training), headless(digits, lab.dial.turns))
    assert identical(weights(lab.trainer.runs[0].training), first)
    assert not identical(weights(lab.training), first)
    until(lambda: len(traces(lab.curves)) == 10 and len(traces(lab.curves)[5].x) == 20)
    assert [trace.x[0] for trace in traces(lab.curves) if trace.meta == "loss"] == [1, 21]
    until(lambda: lab.run_menu.value == run.name)
    lab.run_menu.value = "run 1"
    until(lambda: lab.trainer.run.name == "run 1")
    until(lambda: lab.numbers["gamma"].value == 2.5)
    with pytest.raises(ValueError, match="step = 40 is not allowed: run 1 ends there"):
        lab.fork()
    with pytest.raises(ValueError, match="states were kept at steps 0, 4, 8, 12"):
        lab.fork(7)
    assert len(lab.trainer.runs) == 2


def test_forks_and_loaded_runs_stay_compiled_and_synchronised(digits, tmp_path):
    model = av.small_cnn(digits, seed=1, base_channels=4)
    training = av.Training(
        model, digits.train, av.Dial(av.standard()), 9, compile=True, sync_batch_norm=True,
        average=0.9, batch_size=16,
    )  # fmt: skip
    run = LiveRun("run 1", training, None, 16)
    run.keep()
    run.save(tmp_path / "run")
    for other in (run.fork(0, "fork"), run.load(tmp_path / "run", "loaded")):
        training = other.training
        assert (training.compiled, training.sync_batch_norm, training.average) == (True, True, 0.9)


def test_a_collapse_is_looked_for_at_what_is_trained_not_at_its_lagging_average(digits):
    training = new(digits, average=0.9999)
    network = LiveRun("run 1", training, None, 16).signs.network()
    assert network is training.model
    assert network is not training.averaged


def test_closing_waits_longer_where_steps_are_compiled(digits, monkeypatch):
    """A first compiled step takes minutes."""
    waited, join = [], threading.Thread.join

    def noted(thread, timeout=None):
        waited.append(timeout)
        join(thread)

    monkeypatch.setattr(threading.Thread, "join", noted)
    for compile in (False, True):
        model, dial = av.small_cnn(digits, seed=1, base_channels=4), Dial(av.standard())
        Trainer(Training(model, digits.train, dial, 9, compile=compile)).close()
    assert waited == [30, 600]


def test_a_fork_of_the_present_step_pauses_the_first_run(digits):
    lab = show(digits)
    lab.start()
    at_step(lab, 5)
    lab.fork_button.click()
    until(lambda: len(lab.trainer.runs) == 2)
    main, fork = lab.trainer.runs
    assert main.status == "paused"
    assert fork.training.step == main.training.step
    assert identical(weights(fork.training), weights(main.training))
    lab.start()
    lab.join(PATIENCE)
    lab.trainer.switch("run 1").result()
    lab.resume()
    lab.join(PATIENCE)
    assert identical(weights(main.training), weights(fork.training))


def test_a_saved_run_goes_on_here_and_headless(digits, tmp_path):
    lab = show(digits)
    lab.start()
    at_step(lab, 5)
    lab.numbers["gamma"].box.value = 3.0
    at_step(lab, 12)
    lab.pause()
    lab.save(tmp_path / "run")
    loaded = lab.load(tmp_path / "run")
    assert loaded.training.step == lab.trainer.runs[0].training.step
    assert loaded.curves["Clean, train"].arrays()[0].tolist()[:2] == [0, 10]
    lab.resume()
    lab.join(PATIENCE)
    turns = lab.dial.turns
    assert [turn.change for turn in turns] == [{"gamma": 3.0}]
    expected = headless(digits, turns)
    assert identical(weights(lab.training), expected)
    again = new(digits)
    for _ in runs.log(again, tmp_path / "run", resume=True):
        pass
    assert identical(weights(again), expected)
    assert again.dial is not None
    assert again.dial.turns == turns
    loaded_model = runs.load_model(tmp_path / "run")
    assert identical(loaded_model.state_dict(), expected)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["checksum"] == digits.train.checksum
    start = checkpoints.load_checkpoint(tmp_path / "run" / "step_000000.pt")
    assert identical(start["model"], weights(new(digits)))


def test_an_evaluated_model_is_saved_with_its_evaluation(digits, tmp_path):
    lab = show(digits)
    lab.start()
    lab.join(PATIENCE)
    evaluation = lab.evaluate(40)
    lab.save(tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert saved["accuracy"]["PGD20"] == evaluation.accuracy("PGD20")
    assert saved["n"] == 40


# ------------------------------------------------------------------------------- dial and controls


def test_turns_from_code_move_the_controls_and_are_counted_once(digits):
    lab = show(digits)
    lab.dial.turn(gamma=3.5, lambda1=0.3, lambda2=0.7)
    lab.trainer.changed.set()
    until(lambda: lab.numbers["gamma"].value == 3.5 and lab.numbers["lambda2"].value == 0.7)
    assert lab.dial.turns == (Turn(0, {"gamma": 3.5, "lambda1": 0.3, "lambda2": 0.7}),)
    until(lambda: "λ₁ &lt; λ₂ is legal: the target rises" in lab.note.value)
    assert "0.414 at the adversarial example" in lab.note.value


def test_a_replayed_turn_moves_the_controls(digits):
    dial = Dial(methods.avmixup(epsilon=EPSILON, steps=1), [Turn(8, {"gamma": 3.0})])
    lab = show(digits, new(digits, dial))
    lab.start()
    lab.join(PATIENCE)
    until(lambda: lab.numbers["gamma"].value == 3.0)
    assert dial.turns == (Turn(8, {"gamma": 3.0}),)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gamma", 0.5, "gamma = 0.5 is not allowed: the vertex lies at gamma &gt;= 1"),
        ("lambda1", 1.5, "lambda1 = 1.5 is not allowed: it is the probability kept"),
        ("lambda2", -0.1, "lambda2 = -0.1 is not allowed"),
        ("epsilon", 8.0, "epsilon = 8.0 is not allowed: pixels live in [0, 1]"),
    ],
)
def test_an_illegal_value_is_refused_beside_its_slider(digits, name, value, message):
    lab = show(digits)
    before = lab.dial.method
    until(lambda: lab.method.value == "avmixup")
    lab.numbers[name].box.value = value
    assert message in lab.numbers[name].error.value
    assert 'role="alert"' in lab.numbers[name].error.value
    assert lab.dial.method == before
    assert lab.dial.turns == ()
    lab.numbers[name].box.value = 1.5 if name == "gamma" else 0.8
    until(lambda: lab.numbers[name].error.value == "")


def test_a_lambda1_below_lambda2_is_legal_and_explained(digits):
    lab = show(digits)
    lab.numbers["lambda1"].box.value = 0.5
    lab.numbers["lambda2"].box.value = 0.7
    until(lambda: "rises along the attack's direction" in unescape(lab.note.value))
    assert lab.numbers["lambda1"].error.value == ""
    now = lab.dial.method.parameters
    assert (now["lambda1"], now["lambda2"]) == (0.5, 0.7)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_can_be_switched_to_and_trains(digits, name):
    first = methods.pgd(epsilon=EPSILON, steps=2) if name == "avmixup" else None
    asked = {"average": 0.9, "teacher": av.small_cnn(digits, base_channels=4)}
    lab = show(digits, new(digits, steps=4, method=first, **asked))
    until(lambda: lab.method.value is not None)
    lab.method.value = name
    assert methods.name_of(lab.dial.method) == name
    lab.start()
    lab.join(PATIENCE)
    assert lab.trainer.run.last is not None
    assert methods.name_of(lab.trainer.run.last.method) == name
    assert methods.parse(repr(lab.dial.method)) == lab.dial.method
    parameters = lab.dial.method.parameters
    assert parameters.get("epsilon", EPSILON) == EPSILON
    if name == "trades":
        assert parameters["step_size"] == EPSILON / 4
    for number in lab.numbers.values():
        until(lambda number=number: number.box.disabled == (number.name not in parameters))


@pytest.mark.parametrize(("name", "lacks"), [("adr", "average"), ("hat", "teacher")])
def test_a_method_that_asks_for_what_is_not_there_is_refused_beside_the_menu(digits, name, lacks):
    lab = show(digits, new(digits, steps=4))
    until(lambda: lab.method.value == "avmixup")
    lab.method.value = name
    assert f"{lacks} = None is not allowed" in lab.method.error.value
    assert methods.name_of(lab.dial.method) == "avmixup"
    assert lab.dial.turns == ()


def strip_of(lab):
    strip = lab.trainer.run.strip
    assert strip is not None
    return strip


def test_the_pictures_show_the_label_that_a_network_sets(digits):
    first = methods.adr(epsilon=EPSILON, steps=1, interpolation=(0.9, 0.9))
    lab = show(digits, new(digits, steps=4, method=first))
    until(lambda: lab.trainer.run.strip is not None)
    assert all(0.1 < share < 0.99 for share in strip_of(lab).targets)
    lab.dial.turn(method=methods.avmixup(lambda2=0.3, label="averaged"), alpha=0.0)
    lab.start()
    lab.join(PATIENCE)
    until(lambda: "what the averaged copy says" in lab.note.value)
    assert all(0.3 < share < 0.99 for share in strip_of(lab).targets)


def test_a_method_that_is_left_comes_back_as_it_was(digits):
    lab = show(digits)
    until(lambda: lab.method.value == "avmixup")
    lab.numbers["gamma"].box.value = 3.3
    lab.method.value = "standard"
    lab.method.value = "avmixup"
    assert lab.dial.method == methods.avmixup(3.3, epsilon=EPSILON, steps=1)
    until(lambda: lab.numbers["gamma"].value == 3.3)


def test_a_method_of_ones_own_has_no_name():
    assert methods.name_of(methods.Method(perturb=lambda model, batch: batch.x)) is None
    assert methods.name_of(methods.label_smoothing(0.8)) == "label_smoothing"


def test_turns_are_told_by_step(monkeypatch):
    turns = (Turn(3, {"gamma": 2.0}), Turn(3, {"gamma": 3.0}), Turn(9, {"method": methods.pgd()}))
    assert turned(turns) == {3: "γ = 3", 9: "PGD"}
    monkeypatch.setattr(
        "avmixup_kit.live.lab.words.title", lambda *_: "<a href=//evil.example>x</a>"
    )
    assert turned(turns)[9] == "&lt;a href=//evil.example&gt;x&lt;/a&gt;"


# ------------------------------------------------------------------------------ what can go wrong


ERRORS = (ZeroDivisionError("once"), torch.OutOfMemoryError("CUDA out of memory. Tried to"))
CALLS = []


@dataclass(frozen=True)
class Stumble:
    """A loss that fails once, at a step's very end."""

    at: int
    error: int

    def __call__(self, model, batch):
        CALLS.append(batch)
        value = methods.losses.CrossEntropy()(model, batch)
        if len(CALLS) == self.at:
            raise ERRORS[self.error]
        return value


def test_a_training_that_goes_wrong_is_told_where_errors_are(digits):
    lab = show(digits, new(digits))
    lab.trainer.run.warnings.append((200, Sign("collapse", "collapse: <all> is one")))
    lab.trainer.changed.set()
    until(lambda: "run 1, step 200: collapse: &lt;all&gt; is one" in lab.alert.value)


@pytest.mark.parametrize("error", ERRORS)
def test_a_step_that_fails_is_told_and_can_be_taken_again_exactly(digits, error):
    training = new(digits, method=methods.avmixup(epsilon=EPSILON, steps=1).replace(
        loss=Stumble(7, ERRORS.index(error))))  # fmt: skip
    CALLS.clear()
    lab = show(digits, training)
    lab.start()
    with pytest.raises(type(error), match=str(error)):
        lab.join(PATIENCE)
    until(lambda: str(error) in lab.alert.value)
    assert 'role="alert"' in lab.alert.value
    assert "Traceback" in lab.alert.value
    assert training.step == 6
    until(lambda: lab.start_button.description == "Try again")
    until(lambda: "stands as it was before the failed step" in lab.state.value)
    assert identical(weights(training), headless_part(digits, 6))
    lab.resume()
    lab.join(PATIENCE)
    assert identical(weights(training), headless(digits))
    until(lambda: lab.alert.value == "")


def test_a_turn_made_during_the_failed_step_acts_when_it_is_taken_again(digits, monkeypatch):
    dial = Dial(methods.avmixup(epsilon=EPSILON, steps=1))
    training = new(digits, dial)
    real, calls = training.optimiser.zero_grad, []

    def stumble(**options):
        calls.append(1)
        if len(calls) == 7:
            dial.turn(gamma=3.0)
            raise OSError("once")
        real(**options)

    monkeypatch.setattr(training.optimiser, "zero_grad", stumble)
    lab = show(digits, training)
    lab.start()
    with pytest.raises(OSError, match="once"):
        lab.join(PATIENCE)
    assert dial.turns == (Turn(6, {"gamma": 3.0}),)
    lab.resume()
    lab.join(PATIENCE)
    assert identical(weights(training), headless(digits, [Turn(6, {"gamma": 3.0})]))


def test_a_failure_that_had_changed_weights_goes_back_to_a_kept_step(digits, monkeypatch):
    training = new(digits)
    real, calls = training.optimiser.step, []

    def stumble():
        calls.append(1)
        real()
        if len(calls) == 7:
            raise OSError("once")

    monkeypatch.setattr(training.optimiser, "step", stumble)
    lab = show(digits, training)
    lab.start()
    at_step(lab, 5)
    with pytest.raises(OSError, match="once"):
        lab.join(PATIENCE)
    assert training.step == 4
    until(lambda: "went back to step 4: the failed step had changed weights" in lab.state.value)
    lab.resume()
    lab.join(PATIENCE)
    assert identical(weights(training), headless(digits))


def test_a_diverging_run_is_told_and_kept(digits, tmp_path):
    lab = show(digits)
    lab.start()
    at_step(lab, 3)
    lab.pause()
    with torch.no_grad():
        lab.training.model.get_parameter("head.weight")[0, 0] = float("nan")
    lab.resume()
    with pytest.raises(av.TrainingDiverged, match="the loss is nan at step"):
        lab.join(PATIENCE)
    until(lambda: "the loss is nan" in lab.alert.value)
    with pytest.raises(ValueError, match="no longer finite: such weights are never saved"):
        lab.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    lab.fork(0)
    lab.start()
    lab.join(PATIENCE)
    assert identical(weights(lab.training), headless(digits))


def test_a_full_disk_is_told_and_the_run_goes_on(digits, tmp_path, monkeypatch):
    lab = show(digits)
    lab.folder.value = str(tmp_path / "run")
    lab.start()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    at_step(lab, 3)
    monkeypatch.setattr(os, "fsync", full)
    lab.save_button.click()
    until(lambda: "Could not save" in lab.alert.value)
    assert "No space left on device" in lab.alert.value
    monkeypatch.undo()
    lab.join(PATIENCE)
    assert identical(weights(lab.training), headless(digits))
    lab.save_button.click()
    until(lambda: (tmp_path / "run" / "run.json").exists())
    until(lambda: "Saved step 40" in lab.state.value and lab.alert.value == "")


def test_a_folder_that_holds_another_run_is_not_overwritten(digits, tmp_path):
    for _ in runs.log(new(digits, steps=2), tmp_path):
        pass
    before = (tmp_path / "latest.pt").read_bytes()
    lab = show(digits)
    with pytest.raises(FileExistsError, match="already holds a run: choose another folder"):
        lab.save(tmp_path)
    assert (tmp_path / "latest.pt").read_bytes() == before
    with pytest.raises(FileNotFoundError, match="holds no run: there is no run.json"):
        lab.load(tmp_path / "nowhere")


def test_a_saved_run_that_went_on_elsewhere_or_is_in_use_is_not_overwritten(digits, tmp_path):
    lab = show(digits)
    lab.start()
    at_step(lab, 3)
    lab.pause()
    lab.save(tmp_path)
    lab.save(tmp_path)
    records = runs.log(new(digits), tmp_path, resume=True)
    next(records)
    with pytest.raises(BlockingIOError, match=f"the run folder {tmp_path} is in use by another"):
        lab.save(tmp_path)
    for _ in records:
        pass
    with pytest.raises(FileExistsError, match="already holds a run: choose another folder"):
        lab.save(tmp_path)
    assert checkpoints.load_checkpoint(tmp_path / "latest.pt")["training"]["step"] == STEPS
    lab.load(tmp_path)
    lab.save(tmp_path)


def test_a_run_of_other_images_is_not_loaded(digits, tmp_path):
    fewer = Training(
        av.small_cnn(digits, base_channels=4), digits.train.subset(100),
        Dial(methods.pgd(epsilon=EPSILON, steps=1)), 2, batch_size=16,
    )  # fmt: skip
    for _ in runs.log(fewer, tmp_path):
        pass
    lab = show(digits)
    with pytest.raises(ValueError, match="the saved training used other images"):
        lab.load(tmp_path)
    assert len(lab.trainer.runs) == 1


def test_data_that_are_not_there_are_told_and_the_run_kept(digits, tmp_path):
    lab = show(digits)
    lab.start()
    at_step(lab, 3)
    lab.new["data"].value = "cifar10"
    lab.new["root"].value = str(tmp_path / "nothing")
    lab.make_button.click()
    until(lambda: "Could not make the run" in lab.alert.value)
    assert str(tmp_path / "nothing") in lab.alert.value
    lab.join(PATIENCE)
    assert len(lab.trainer.runs) == 1
    assert identical(weights(lab.training), headless(digits))


def test_a_new_run_is_made_with_a_teacher_and_an_averaged_copy(digits, tmp_path):
    list(runs.log(new(digits, steps=2), tmp_path / "clean"))
    lab = show(digits)
    lab.new["steps"].value, lab.new["method"].value = 3, "hat"
    lab.make_button.click()
    until(lambda: "teacher = None is not allowed: Helped asks a fixed teacher" in lab.alert.value)
    lab.new["teacher"].value = str(tmp_path / "clean")
    lab.make_button.click()
    until(lambda: len(lab.trainer.runs) == 2)
    assert lab.training.teacher is not None
    assert lab.training.averaged is None
    lab.new["method"].value, lab.new["average"].value = "adr", 0.7
    lab.make_button.click()
    until(lambda: len(lab.trainer.runs) == 3)
    assert lab.training.average == lab.dial.method.average == 0.7


def test_a_new_run_is_made_without_code(digits):
    lab = show(digits)
    lab.new["steps"].value = 3
    lab.new["method"].value = "pgd"
    lab.new["lr"].value = -1.0
    lab.make_button.click()
    until(lambda: "lr = -1.0 is not allowed: a positive number" in lab.alert.value)
    lab.new["lr"].value = 0.05
    lab.make_button.click()
    until(lambda: len(lab.trainer.runs) == 2)
    lab.start()
    lab.join(PATIENCE)
    assert methods.name_of(lab.dial.method) == "pgd"
    assert lab.training.settings == av.Settings(3, lr=0.05)
    same = Training(
        av.small_cnn(digits), digits.train, methods.pgd(epsilon=EPSILON), 3, lr=0.05, batch_size=128
    )
    for _ in same:
        pass
    assert identical(weights(lab.training), weights(same))


def test_an_evaluation_without_test_images_is_refused(digits):
    lab = live.show(new(digits), probe_images=10)
    with pytest.raises(ValueError, match=r"there are no test images: show\(training, data=data\)"):
        lab.evaluate()
    assert set(lab.trainer.run.probed) == {"train"}


# --------------------------------------------------------------------------------- many, and none


def test_running_the_cell_again_closes_the_first_dashboard(digits):
    first = show(digits)
    first.start()
    at_step(first, 3)
    second = show(digits)
    assert not first.trainer.thread.is_alive()
    assert not first.thread.is_alive()
    assert first.trainer.run.status == "paused"
    with pytest.raises(RuntimeError, match="could not start: this dashboard is closed"):
        first.start()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("lab (trains)") == names.count("lab (shows)") == 1
    # The same training may be shown again: it goes on where it stood.
    stood = first.training.step
    third = show(digits, first.training)
    assert not second.trainer.thread.is_alive()
    assert third.training.step == stood
    third.start()
    third.join(PATIENCE)
    assert identical(weights(third.training), headless(digits))


def test_two_dashboards_run_side_by_side(digits):
    a, b = show(digits, name="a"), show(digits, name="b")
    b.numbers["gamma"].box.value = 3.0
    a.start()
    b.start()
    a.join(PATIENCE)
    b.join(PATIENCE)
    assert identical(weights(a.training), headless(digits))
    assert identical(weights(b.training), headless(digits, [Turn(0, {"gamma": 3.0})]))
    with pytest.raises(ValueError, match="this training is in the dashboard 'a': close that first"):
        show(digits, a.training, name="c")


def test_a_dashboard_whose_trainer_is_closed_already_closes_at_once(digits):
    lab = show(digits)
    changed, waits = lab.trainer.changed, []
    wait = changed.wait

    def watched(timeout=None):
        waits.append(timeout)
        woken = wait(timeout)
        waits.append("woken")
        return woken

    changed.wait = watched
    lab.trainer.close()
    until(lambda: waits and waits[-1] is None and not changed.is_set())
    lab.close()
    assert not lab.thread.is_alive()


def test_a_closed_dashboard_leaves_no_widget_behind(digits):
    def registered():
        return set(widgets.Widget.get_manager_state()["state"])

    show(digits).close()  # plotly's code comes with the first figure and stays
    other = live.soft_labels()
    before = registered()
    lab = show(digits)
    assert len(registered() - before) > 100
    lab.close()
    assert registered() == before
    number_of(other, "gamma").box.value = 3.0
    assert other.controls["gamma"].value == 3.0


def test_a_training_has_one_thread_that_trains_it(digits):
    lab = show(digits)
    said = "this training is in the dashboard 'lab': close that first"
    with pytest.raises(ValueError, match=said):
        Trainer(lab.training)
    two = show(digits, name="two")
    with pytest.raises(ValueError, match=said):
        two.trainer.add(lambda: (lab.training, None)).result(PATIENCE)
    lab.close()
    Trainer(lab.training, probe_images=10).close()


def test_a_step_by_hand_waits_until_the_dashboard_has_looked(digits):
    lab = show(digits)
    looking, enough, went_wrong = threading.Event(), threading.Event(), []

    def look():
        with attacks.frozen(lab.training.model):
            looking.set()
            enough.wait(PATIENCE)

    def step():
        try:
            next(lab.training)
        except RuntimeError as error:
            went_wrong.append(error)

    asked = lab.trainer.ask("look", look)
    assert looking.wait(PATIENCE)
    by_hand = threading.Thread(target=step)
    by_hand.start()
    by_hand.join(0.5)
    enough.set()
    asked.result(PATIENCE)
    by_hand.join(PATIENCE)
    assert not went_wrong
    lab.start()
    lab.join(PATIENCE)
    assert identical(weights(lab.training), headless(digits))


def test_a_closed_dashboard_lets_go_of_its_model(digits):
    import weakref

    lab = show(digits)
    lab.start()
    lab.join(PATIENCE)
    model = weakref.ref(lab.training.model)
    lab.close()
    lab.close()
    del lab
    gc.collect()
    assert model() is None


def test_bad_arguments_are_named(digits):
    plain = Training(
        av.small_cnn(digits), digits.train, methods.pgd(epsilon=EPSILON), 2, batch_size=16
    )
    with pytest.raises(TypeError, match="a training without a Dial cannot be turned"):
        live.show(plain)
    with pytest.raises(ValueError, match="dial is another one than the training's"):
        live.show(new(digits), Dial(methods.pgd()))
    with pytest.raises(ValueError, match="probe_every = 0 is not allowed: a whole number, 1 or"):
        show(digits, probe_every=0)
    with pytest.raises(ValueError, match="period = 0 is not allowed: seconds, more than 0"):
        show(digits, period=0)
    with pytest.raises(ValueError, match="data = digits holds other training images"):
        live.show(new(digits), data=av.digits(validation=0.2))
    lab = show(digits)
    with pytest.raises(RuntimeError, match="run 1 was not started: there is nothing to wait for"):
        lab.join()
    with pytest.raises(ValueError, match="images = 0 is not allowed: a whole number, 1 or more"):
        lab.evaluate(0)


def test_join_can_time_out_and_ends_with_the_dashboard(digits, monkeypatch):
    trainer = Trainer(new(digits, steps=10_000), probe_images=10)
    trainer.start().result()
    with pytest.raises(TimeoutError, match="run 1 is running after 0.05 s"):
        trainer.join(0.05)
    closing = threading.Thread(target=trainer.close)
    status = trainer._status  # pyright: ignore[reportPrivateUsage]  # what join waits on
    wait = status.wait

    def close_then_wait(timeout):  # join holds the lock here, so that no change escapes it
        if closing.ident is None:
            closing.start()
        return wait(timeout)

    monkeypatch.setattr(status, "wait", close_then_wait)
    with pytest.raises(RuntimeError, match="the dashboard was closed while run 1 was paused"):
        trainer.join(PATIENCE)
    closing.join(PATIENCE)
    trainer.thread.join(PATIENCE)


def test_what_is_stored_of_a_dashboard_never_changes(digits):
    bundle, _ = DisplayFormatter().format(show(digits))
    assert bundle["text/plain"] == "avmixup_kit.live.show: run this cell to get the dashboard"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_a_page_opened_later_begins_with_the_curves_as_they_stand(digits):
    lab = show(digits)
    lab.start()
    lab.join(PATIENCE)
    until(lambda: len(traces(lab.curves)[0].x) == STEPS)
    until(lambda: len(synced(lab.curves, "_widget_data")[0]["x"]) == STEPS)


def test_a_program_that_ends_while_training_ends_cleanly(tmp_path):
    script = """
import torch
torch.set_num_threads(1)
import avmixup_kit as av
from avmixup_kit import live
digits = av.digits()
dial = av.Dial(av.avmixup(epsilon=0.15, steps=1))
lab = live.show(av.Training(av.small_cnn(digits), digits.train, dial, 100_000, batch_size=16))
lab.start()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
