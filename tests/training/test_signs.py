"""A training that goes wrong says so while it does, and a healthy one says nothing."""

import json
import math

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit.training import signs
from avmixup_kit.training.signs import Signs

EPSILON = 0.15
STEPS = 220


def new(digits, lr, steps=STEPS, split=None, average=None):
    model = av.small_cnn(digits, seed=0, base_channels=4)
    method = av.Dial(av.avmixup(epsilon=EPSILON, steps=1))
    split = digits.train if split is None else split
    return av.Training(model, split, method, steps, batch_size=32, lr=lr, average=average)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_collapse_is_told_once_in_record_and_log_while_it_happens(digits, tmp_path):
    records = list(runs.log(new(digits, lr=3.0), tmp_path))
    (told,) = [(record.step, sign) for record in records for sign in record.signs]
    assert told[0] == signs.WHILE - 1 < STEPS - 1
    assert told[1].name == "collapse"
    assert "is guessing) and 9% of clean training images are right" in told[1].words
    assert [line for line in lines(tmp_path) if "sign" in line] == [
        {"step": signs.WHILE, "sign": "collapse", "words": told[1].words}
    ]


def test_a_healthy_training_with_soft_labels_says_nothing(digits, tmp_path):
    records = list(runs.log(new(digits, lr=0.1), tmp_path))
    assert not [sign for record in records for sign in record.signs]


def test_an_averaged_copy_that_lags_behind_is_no_collapse(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(signs, "GUESSED", 0.0)  # every loss is suspicious
    training = new(digits, lr=0.1, average=0.9999)
    records = list(runs.log(training, tmp_path))
    assert training.averaged is not None
    lagging, trained = (
        av.evaluate(network, digits.train, check=False).accuracy("Clean")
        for network in (training.averaged, training.model)
    )
    assert lagging < 0.15 < 0.5 < trained
    assert not [sign for record in records for sign in record.signs]


def test_looking_for_signs_does_not_change_a_training(digits, tmp_path):
    bare, watched = new(digits, lr=3.0), new(digits, lr=3.0)
    list(bare)
    records = list(runs.log(watched, tmp_path))
    assert any(record.signs for record in records)
    for mine, theirs in zip(
        bare.model.state_dict().values(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("stop", [150, 205])
def test_a_run_that_is_taken_up_tells_as_much_as_one_left_alone(digits, tmp_path, stop):
    list(runs.log(new(digits, lr=3.0), tmp_path / "whole"))
    records = runs.log(new(digits, lr=3.0), tmp_path / "part", checkpoint_every=5)
    for _ in zip(range(stop), records, strict=False):
        pass
    records.close()
    list(runs.log(new(digits, lr=3.0), tmp_path / "part", resume=True))
    assert lines(tmp_path / "part") == lines(tmp_path / "whole")


class Constant(torch.nn.Module):
    """A network that names one class whatever the image; ``right`` of them by their labels."""

    def __init__(self, split, right):
        super().__init__()
        self.split, self.right, self.asked = split, right, 0

    def forward(self, x):
        self.asked += 1
        logits = torch.zeros(len(x), 10)
        count = round(self.right * len(x))
        at = torch.linspace(0, len(self.split) - 1, len(x)).long()
        truth = self.split.labels[at]
        logits[
            torch.arange(len(x)), torch.where(torch.arange(len(x)) < count, truth, truth - 1)
        ] = 1
        return logits


@pytest.mark.parametrize(
    ("loss", "right", "collapsed"),
    [
        (1.0, 0.10, True),
        (1.2, 0.10, True),
        (0.99, 0.14, True),
        (0.97, 0.10, False),
        (1.0, 0.17, False),
        (1.2, 0.9, False),
    ],
)
def test_a_collapse_needs_a_loss_of_guessing_and_accuracy_of_chance(digits, loss, right, collapsed):
    network = Constant(digits.train, right)
    watch = Signs(digits.train, lambda: network)
    told = [list(watch.see_loss(loss * math.log(10))) for _ in range(2 * signs.WHILE)]
    assert any(told) == collapsed
    assert not any(told[: signs.WHILE - 1])
    assert network.asked <= 2, "accuracy is looked at where the loss is suspicious, and seldom"
    assert network.training


@pytest.mark.parametrize(
    ("clean", "fgsm", "pgd", "overfitted"),
    [
        (0.9, 0.85, 0.02, True),
        (0.8, 0.41, 0.04, True),
        (0.8, 0.39, 0.02, False),
        (0.9, 0.85, 0.10, False),
        (0.85, 0.55, 0.48, False),
        (0.14, 0.10, 0.00, False),
    ],
)
def test_catastrophic_overfitting_is_fgsm_high_and_pgd_near_0(digits, clean, fgsm, pgd, overfitted):
    watch = Signs(digits.train, lambda: torch.nn.Flatten())
    curves = {"Clean, train": 0.9, "FGSM, train": 0.6, "PGD10, train": 0.5, "other": 1.0}
    curves |= {"Clean, validation": clean, "FGSM, validation": fgsm, "PGD10, validation": pgd}
    told = list(watch.see_curves(curves))
    assert [sign.name for sign in told] == ["catastrophic overfitting"] * overfitted
    assert not overfitted or f"FGSM leaves {fgsm:.0%} of validation images right" in told[0].words
    assert not list(watch.see_curves(curves)), "told once"


def test_curves_that_overfit_are_told_by_the_run_that_measures_them(digits, tmp_path):
    curves = {"Clean, train": 0.9, "FGSM, train": 0.8, "PGD10, train": 0.0}
    options = {"curves": lambda network: curves, "curves_every": 2}
    records = list(runs.log(new(digits, lr=0.1, steps=4), tmp_path, **options))
    assert [[sign.name for sign in r.signs] for r in records] == [
        [], ["catastrophic overfitting"], [], [],
    ]  # fmt: skip
    assert [line["step"] for line in lines(tmp_path) if "sign" in line] == [2]


def test_the_dashboards_run_keeps_and_saves_what_was_told(digits, tmp_path):
    from avmixup_kit.live.lab.run import LiveRun

    run = LiveRun("run 1", new(digits, lr=3.0, steps=201), digits, 20)
    run.keep()
    for record in run.training:
        run.note(record)
    run.flush()
    run.measure()
    assert [(step, sign.name) for step, sign in run.warnings] == [(200, "collapse")]
    assert math.isnan(run.curves["features, train, attacked"].arrays()[1][-1]), "without a unit"
    run.save(tmp_path)
    assert [line["sign"] for line in lines(tmp_path) if "sign" in line] == ["collapse"]
