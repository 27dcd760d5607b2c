"""The dashboard as a reader meets it: a first action that works, and nothing that is lost."""

import csv
import io
import itertools
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import methods, runs
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.loop import Training

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from avmixup_kit import live
from avmixup_kit.live.lab import menu, new_run, panels, table
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.live.lab.script import script as script_of
from avmixup_kit.live.lab.shelf import slug
from avmixup_kit.methods import METHODS
from tests.live.test_dashboard import (
    EPSILON,
    PATIENCE,
    STEPS,
    at_step,
    headless,
    identical,
    new,
    nothing_left,
    show,
    until,
    weights,
)
from tests.live.widgets import traces

ROOT = Path(__file__).parents[2]
__all__ = ["nothing_left"]  # the fixture, which is every test's


def ended(lab):
    """Train to the end, and wait until the page says so."""
    lab.start()
    lab.join(PATIENCE)
    until(lambda: "has ended" in lab.state.value)
    return lab


def planned(digits, turns, steps=STEPS):
    return new(digits, Dial(methods.avmixup(epsilon=EPSILON, steps=1), turns), steps)


# ------------------------------------------------------------------------------ the first action


def test_it_opens_paused_at_step_0_with_a_preset_to_try(digits):
    lab = show(digits)
    assert lab.preset.value == "AVmixup, the paper's with PGD"
    assert lab.training.step == 0
    assert lab.trainer.run.status == "ready"
    assert not lab.start_button.disabled
    lab.preset.value = "AVmixup without a vertex: γ = 1"
    assert lab.dial.turns == (Turn(0, {"gamma": 1.0}),)
    lab.preset.value = "PGD training, no mixing"
    assert methods.name_of(lab.dial.method) == "pgd"
    assert lab.dial.method.parameters["epsilon"] == EPSILON
    until(lambda: lab.method.value == "pgd" and lab.numbers["gamma"].box.disabled)
    lab.preset.value = "AVmixup, with Feature Scatter, CIFAR-10"
    lab.numbers["lambda1"].box.value = 0.9
    until(lambda: lab.preset.value is None)


@pytest.mark.parametrize("name", menu.PRESETS)
def test_every_preset_can_be_tried(digits, name):
    lab = show(digits, new(digits, steps=2))
    lab.preset.value = name
    until(lambda: lab.preset.value == name)
    ended(lab)


def test_the_first_fork_after_a_run_can_run(digits):
    lab = ended(show(digits))
    until(lambda: lab.step_menu.value not in (None, "the present one"))
    lab.fork_button.click()
    until(lambda: len(lab.trainer.runs) == 2)
    assert lab.alert.value == ""
    assert 0 < lab.training.step < STEPS
    lab.start_button.click()
    lab.join(PATIENCE)


def test_a_run_that_was_never_to_take_a_step_offers_none_to_fork_from(digits):
    training = new(digits, steps=1)
    next(training)
    lab = show(digits, training)
    until(lambda: lab.fork_button.disabled)
    assert lab.step_menu.options == ()


def test_a_turn_by_hand_wins_over_one_that_was_planned(digits):
    turns = [Turn(10, {"gamma": 3.0, "lambda1": 0.9}), Turn(30, {"lambda2": 0.3})]
    lab = show(digits, planned(digits, turns))
    until(lambda: "To come: γ = 3, λ₁ = 0.9 at step 10; λ₂ = 0.3 at step 30" in lab.note.value)
    lab.numbers["gamma"].box.value = 1.5
    until(lambda: "To come: λ₁ = 0.9 at step 10" in lab.note.value)
    ended(lab)
    assert lab.dial.turns == (
        Turn(0, {"gamma": 1.5}), Turn(10, {"lambda1": 0.9}), Turn(30, {"lambda2": 0.3}),
    )  # fmt: skip
    assert identical(weights(lab.training), headless(digits, lab.dial.turns))


def test_a_fork_keeps_what_its_reader_turns(digits):
    lab = ended(show(digits, planned(digits, [Turn(30, {"gamma": 3.0})])))
    lab.fork(20)
    lab.numbers["gamma"].box.value = 1.25
    ended(lab)
    assert lab.dial.turns == (Turn(20, {"gamma": 1.25}),)
    assert lab.dial.method.parameters["gamma"] == 1.25


# ------------------------------------------------------------------- controls that never disagree


def shown(lab, name):
    """What box, slider and sentence say of a number."""
    number = lab.numbers[name]
    return number.box.value, number.slider.value, f"{lab.dial.method.parameters[name]:.3g} times"


def test_a_refused_value_gives_way_to_the_one_in_force_everywhere(digits):
    lab = show(digits)
    assert "2 times as far" in lab.note.value
    lab.numbers["gamma"].box.value = 0.5
    assert "gamma = 0.5 is not allowed" in lab.numbers["gamma"].error.value
    assert shown(lab, "gamma") == (2.0, 2.0, "2 times")
    assert "2 times as far" in lab.note.value
    lab.method.value = "hat"
    assert "teacher = None is not allowed" in lab.method.error.value
    assert lab.method.value == "avmixup"
    lab.method.value = None
    assert lab.method.value == "avmixup", "one's own is shown, not chosen"
    assert lab.dial.turns == ()


@pytest.mark.parametrize(
    ("name", "value", "turned"),
    [
        ("gamma", 3.0, {"gamma": 3.0}),
        ("method", "standard", {"method": methods.standard()}),
        ("preset", "AVmixup without a vertex: γ = 1", {"gamma": 1.0}),
    ],
)
def test_a_value_chosen_while_the_page_sets_the_controls_is_the_readers(
    digits, name, value, turned
):
    lab = show(digits)
    before, dials = lab.dial.method, lab.dials
    asked = dials.by_hand

    def sets_first():  # between the reader's choice and its turn
        dials.by_hand = asked
        dials.follow(before)
        return True

    dials.by_hand = sets_first
    control = lab.numbers["gamma"].box if name == "gamma" else getattr(lab, name)
    control.value = value
    assert lab.dial.turns == (Turn(0, turned),)
    assert control.value == value


def test_a_value_beyond_the_slider_moves_its_end(digits):
    lab = show(digits)
    lab.numbers["gamma"].box.value = 6.0
    until(lambda: lab.numbers["gamma"].slider.value == 6.0)
    assert lab.numbers["gamma"].slider.max == lab.numbers["gamma"].value == 6.0
    assert lab.dial.turns == (Turn(0, {"gamma": 6.0}),)


def test_a_key_that_is_held_is_one_turn(digits):
    lab = show(digits)
    gamma = lab.numbers["gamma"]
    for stop in range(1, 11):
        gamma.slider.value = 2 + stop / 20
    assert gamma.box.value == 2.5
    assert "2.5 times as far" in lab.note.value, "said before it counts"
    assert lab.dial.turns == ()
    until(lambda: lab.dial.turns == (Turn(0, {"gamma": 2.5}),))
    gamma.slider.value = 3.0
    lab.start_button.click()
    assert lab.dial.turns[1].change == {"gamma": 3.0}, "whatever is pressed comes after it"
    lab.numbers["lambda1"].slider.value = 0.8
    lab.numbers["lambda1"].slider.value = lab.dial.method.parameters["lambda1"]
    time.sleep(1)
    assert len(lab.dial.turns) == 2, "it was moved back"


# ------------------------------------------------------------------------------- nothing is lost


def folders(tmp_path, name="lab"):
    return sorted(path.name for path in (tmp_path / "runs" / name).glob("*"))


def test_every_run_is_kept_and_a_cell_that_runs_again_offers_them(digits, tmp_path):
    lab = show(digits)
    assert folders(tmp_path) == []
    ended(lab)
    lab.evaluate(30)
    lab.fork(20)
    lab.numbers["gamma"].box.value = 3.0
    lab.start()
    at_step(lab, 23)
    before, second = lab.trainer.runs
    again = show(digits)
    assert folders(tmp_path) == ["001-run-1", "002-fork-2-at-step-20"]
    until(lambda: len(again.earlier.options) == 2)
    assert again.before.layout.display == ""
    assert again.earlier.options[0][0].startswith("001-run-1, ")
    taken = again.load(again.earlier.options[1][1])
    assert taken.training.step == second.training.step
    assert taken.dial.turns == (Turn(20, {"gamma": 3.0}),)
    assert sorted(taken.kept) == [0, taken.training.step]
    until(lambda: len(again.earlier.options) == 1)
    ended(again)
    assert identical(weights(again.training), headless(digits, again.dial.turns))
    assert folders(tmp_path) == ["001-run-1", "002-fork-2-at-step-20"], "it goes on in its own"
    first = again.load(again.earlier.options[0][1])
    assert identical(weights(first.training), weights(before.training))
    assert first.loss.arrays()[0].tolist() == before.loss.arrays()[0].tolist()
    ((step, evaluation),) = first.evaluations
    assert (step, evaluation.n) == (STEPS, 30)
    assert torch.equal(evaluation.correct, before.evaluations[0][1].correct)
    again.close()
    assert runs.open(tmp_path / "runs/lab/002-fork-2-at-step-20").step == STEPS


def test_git_knows_nothing_of_the_runs_that_a_dashboard_keeps():
    assert "runs/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_run_of_other_images_is_taken_up_with_its_own(digits, tmp_path):
    other = av.digits(validation=0.2)
    first = live.show(new(other), data=other, name="lab", probe_images=10)
    ended(first)
    lab = show(digits)
    until(lambda: lab.earlier.options)
    taken = lab.load(lab.earlier.options[0][1])
    assert taken.training.split.checksum == other.train.checksum
    assert taken.data is not None
    assert taken.data.name == "digits"


KILLED = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
import avmixup_kit as av
from avmixup_kit import live
from avmixup_kit.live.lab import shelf
shelf.SAFE = 0.0
digits = av.digits()
dial = av.Dial(av.avmixup(epsilon=0.15, steps=1))
network = av.small_cnn(digits, seed=2, base_channels=4)
lab = live.show(av.Training(network, digits.train, dial, 40, batch_size=16, seed=4), data=digits,
                probe_images=10)
lab.start()
for record in iter(lambda: lab.training.step, None):
    if record >= 12:
        print(record, flush=True)
        import time; time.sleep(600)
"""


def test_a_killed_kernel_loses_no_run(digits, tmp_path):
    command = [sys.executable, "-c", KILLED, str(torch.get_num_threads())]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    lab = show(digits)
    until(lambda: lab.earlier.options)
    taken = lab.load(lab.earlier.options[0][1])
    assert taken.training.step >= min(seen - 1, STEPS)
    ended(lab)
    assert identical(weights(lab.training), headless(digits))


def test_runs_that_cannot_be_kept_are_told_once_and_go_on(digits, tmp_path, monkeypatch):
    (tmp_path / "runs").write_text("a file, where the folder is to be")
    lab = ended(show(digits))
    until(lambda: "Could not keep run 1 in" in lab.alert.value)
    assert identical(weights(lab.training), headless(digits))
    lab.evaluate(10)


def test_none_keeps_nothing_and_a_name_is_made_a_folders(digits, tmp_path):
    ended(show(digits, folder=None))
    assert list(tmp_path.iterdir()) == []
    assert slug("../a <b>/c") == "a-b-c"
    assert slug("///") == "unnamed"


def test_an_evaluation_of_an_earlier_step_is_never_the_folders(digits, tmp_path):
    lab = show(digits)
    lab.start()
    at_step(lab, 5)
    lab.pause()
    lab.evaluate(20)
    folder = tmp_path / "runs/lab/001-run-1"
    until(lambda: (folder / "evaluation.json").exists())
    lab.resume()
    lab.join(PATIENCE)
    lab.close()
    assert not (folder / "evaluation.json").exists()
    assert [path.name[:12] for path in folder.glob("evaluated*")] == ["evaluated_00"]


# --------------------------------------------------------------------------------- the table


def test_each_evaluation_is_a_row_with_its_run(digits):
    lab = ended(show(digits))
    found = lab.evaluate(40)
    lab.fork(20)
    lab.numbers["gamma"].box.value = 3.0
    lines = list(csv.DictReader(io.StringIO(lab.csv())))
    assert [line["run"] for line in lines] == ["run 1", "fork 2 at step 20"]
    assert float(lines[0]["PGD20"]) == found.accuracy("PGD20")
    low, high = found.interval("worst case")
    assert (float(lines[0]["worst case low"]), float(lines[0]["worst case high"])) == (low, high)
    assert lines[0]["settings"].startswith("AVmixup, γ = 2, λ₁ = 1, λ₂ = 0.1, ε = 0.15, lr 0.1")
    assert "γ = 3" in lines[1]["settings"]
    assert lines[1]["Clean"] == ""
    until(lambda: found.within("CW20") in lab.evaluation.value)
    until(lambda: unescape(lab.evaluation.value).count("<tr>") == 3)
    assert "download=" in lab.evaluation.value


def test_the_table_is_sorted_by_a_press_on_a_heading(digits):
    lab = ended(show(digits))
    lab.evaluate(40)
    lab.fork(4)
    ended(lab)
    lab.evaluate(20)

    def order():
        cells = lab.evaluation.value.split("<tbody>")[1]
        return [cells.index("run 1"), cells.index("fork 2 at step 4")]

    until(lambda: "fork 2" in lab.evaluation.value)
    assert order() == sorted(order())
    lab.curves._handle_custom_msg({"say": "images"}, [])  # pyright: ignore[reportPrivateUsage]
    until(lambda: 'aria-sort="ascending"' in lab.evaluation.value and order()[0] > order()[1])
    lab.sort("images")
    until(lambda: 'aria-sort="descending"' in lab.evaluation.value and order()[0] < order()[1])
    with pytest.raises(ValueError, match="column = 'price' is not allowed: one of run, settings"):
        lab.sort("price")


def test_a_row_without_a_value_stands_last_and_no_cell_is_a_formula(digits):
    run = LiveRun("=1+1", new(digits), digits, 10)
    run.keep()
    blank, full = table.Row(run, 0, None), table.Row(run, 0, run.evaluate(10))
    for descending in (True, False):
        assert table.ordered([blank, full], "PGD20", descending) == [full, blank]
    assert table.as_csv([blank]).splitlines()[1].startswith("'=1+1,")


def test_autoattack_is_a_column_and_fewer_images_are_said(digits):
    pytest.importorskip("pyautoattack")
    lab = show(digits, new(digits, steps=2))
    found = lab.evaluate(10, autoattack=True)
    assert "AutoAttack (quick)" in found.names
    (line,) = csv.DictReader(io.StringIO(lab.csv()))
    assert float(line["AutoAttack (quick)"]) == found.accuracy("AutoAttack (quick)")
    found = lab.evaluate(500)
    until(lambda: "Evaluated on 449 test images, all there are of the 500" in lab.state.value)
    assert (lab.images.max, lab.images.value) == (449, 449)


# --------------------------------------------------------------------------------- the figure


def test_four_panels_share_one_axis_and_turns_stand_below_it(digits):
    lab = show(digits, probe_images=40)
    lab.numbers["gamma"].box.value = 3.0
    ended(lab)
    until(lambda: len(traces(lab.curves)) == 6)
    figure = lab.static()
    layout = figure.to_dict()["layout"]
    axes = [layout[f"xaxis{number}"] for number in ("", "2", "3", "4")]
    assert {tuple(axis["range"]) for axis in axes} == {(0, STEPS)}
    assert [axis.get("matches") for axis in axes] == ["x4", "x4", "x4", None]
    (note,) = layout["annotations"]
    assert note["text"] == "γ = 3"
    assert (note["yref"], note["y"], note["yanchor"]) == ("paper", 0, "top")
    assert note["yshift"] < -20
    assert note["font"]["size"] >= 12
    assert "width" not in layout
    room = (layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]) * 0.91 / 4
    for number in ("", "2", "3", "4"):
        assert 7.5 * len(layout[f"yaxis{number}"]["title"]["text"]) <= room + 5, (
            "they would collide"
        )


def test_words_of_turns_never_overlap():
    figure = live.chart("", "", "")
    marks = {step: f"γ = {step}" for step in range(0, 400, 5)}
    panels.mark(figure, marks, 400)
    notes = figure.to_dict()["layout"]["annotations"]
    assert len(figure.to_dict()["layout"]["shapes"]) == len(marks)
    assert 10 < len(notes) < 60
    assert notes[0]["text"] == "γ = 395"
    for shift in {note["yshift"] for note in notes}:
        starts = sorted(note["x"] for note in notes if note["yshift"] == shift)
        assert all(b - a > 20 for a, b in itertools.pairwise(starts))


def test_a_run_has_the_colour_of_its_method_and_a_fork_a_shade_of_it(digits):
    lab = show(digits)
    lab.fork(0)
    lab.fork(0)
    lab.method.value = "pgd"
    until(lambda: "pgd" in str(lab.method.value))
    colours = {trace.name: trace.line.color for trace in traces(lab.static())}
    avmixup = METHODS.entries["avmixup"].colour
    assert colours["run 1"] == avmixup
    assert colours["fork 2 at step 0"] == panels.shade(avmixup, -0.4)
    assert colours["fork 3 at step 0"] == METHODS.entries["pgd"].colour
    assert panels.shade("#000000", 0.5) == "#808080"


# ----------------------------------------------------------------------- what is told meanwhile


def test_masked_gradients_are_told_while_training(digits):
    @torch.no_grad()
    def masked(lab):
        # large logits, whose cross-entropy has no gradient left
        lab.training.model.head.weight.mul_(1e4)
        lab.training.model.head.bias.mul_(1e4)

    lab = show(digits, new(digits, steps=120, method=methods.standard()), probe_images=60)
    lab.start()
    at_step(lab, 100)
    lab.pause()
    masked(lab)
    lab.trainer.ask("look", lab.trainer.run.look).result()
    until(lambda: "masked gradients, " in lab.alert.value)
    assert "the gradient is exactly zero on most pixels" in lab.alert.value
    told = len(lab.trainer.run.warnings)
    lab.trainer.ask("look", lab.trainer.run.look).result()
    assert len(lab.trainer.run.warnings) == told, "once"


# ------------------------------------------------------------------------------------ the script


def executed(text):
    names = {}
    threads = torch.get_num_threads()
    exec(compile(text, "script", "exec"), names)
    torch.set_num_threads(threads)
    return names


def test_the_script_repeats_a_fork_bit_for_bit(digits, capsys):
    lab = show(digits)
    lab.numbers["lambda1"].box.value = 0.9
    lab.start()
    at_step(lab, 12)
    lab.method.value = "pgd"
    lab.join(PATIENCE)
    lab.fork(8)
    lab.numbers["gamma"].box.value = 3.0
    lab.start()
    at_step(lab, 20)
    lab.stop()
    found = lab.evaluate(20)
    text = lab.script()
    assert "av.Turn(8, {'gamma': 3.0})" in text
    assert "runs.load_model" not in text
    names = executed(text)
    assert identical(weights(names["training"]), weights(lab.training))
    assert str(found) in capsys.readouterr().out
    lab.script_button.click()
    until(lambda: "while training.step" in lab.program.value)


def test_the_script_of_a_zoo_network_a_new_run_and_own_weights_repeat_them(digits, tmp_path):
    lab = show(digits, new(digits, steps=3))
    lab.new["steps"].value, lab.new["network"].value = 2, "zoo: digits/pgd"
    lab.new["average"].value = 0.9
    lab.make_button.click()
    until(lambda: len(lab.trainer.runs) == 2)
    ended(lab)
    text = lab.script()
    assert "av.zoo.load('digits/pgd')" in text
    names = executed(text)
    assert identical(weights(names["training"]), weights(lab.training))
    assert names["network"] is names["training"].averaged
    own = av.small_cnn(digits, seed=77, base_channels=4)
    other = Training(own, digits.train, Dial(methods.pgd(epsilon=EPSILON, steps=1)), 3)
    lab.trainer.add(lambda: (other, digits)).result()
    with pytest.raises(ValueError, match="first weights = .* save the run, and the script"):
        lab.script()
    ended(lab)
    until(lambda: lab.trainer.run.folders)
    text = lab.script()
    assert "runs.load_model(" in text
    assert identical(weights(executed(text)["training"]), weights(other))


def test_what_a_script_cannot_repeat_is_said(digits):
    def script(training, data=digits):
        run = LiveRun("run 1", training, data, 10)
        run.keep()
        return lambda: script_of(run)

    begun = new(digits)
    next(begun)
    teacher = av.small_cnn(digits, base_channels=4)
    few = Training(
        av.small_cnn(digits), digits.train.subset(100), Dial(methods.pgd()), 2, batch_size=16
    )
    cases = [
        (script(begun), "first step = 1 is not allowed: a script cannot repeat what was before"),
        (script(new(digits, teacher=teacher)), "a script cannot make it"),
        (script(few), "training images = .* is not allowed: all training images of a data set"),
        (script(new(digits, optimizer=torch.optim.AdamW)), "optimizer = .* function of your own"),
    ]
    for asked, said in cases:
        with pytest.raises(ValueError, match=said):
            asked()


# ------------------------------------------------------------------------------- starting points


def test_photographs_are_found_where_they_lie(digits, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(new_run, "cifar10_or_mirror", lambda root: asked.append(root) or digits)
    form = {name: widget.value for name, widget in new_run.fields().items()}
    form |= {"data": "cifar10", "root": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match="cifar-10-python"):
        new_run.make(**form)
    (tmp_path / "cifar10-jpeg.tar.xz").touch()
    training, data = new_run.make(**form)
    assert asked == [str(tmp_path)]
    assert data.test.checksum == digits.test.checksum
    assert training.split.checksum == digits.train.checksum
    monkeypatch.setenv("AVMIXUP_DATA", str(tmp_path))
    assert new_run.fields()["root"].value == str(tmp_path)
