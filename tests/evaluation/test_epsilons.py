"""Accuracy against epsilon: monotone by construction, or said to be not."""

from typing import Any, cast

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.evaluation.autoattack import AutoAttack
from avmixup_kit.evaluation.epsilons import EpsilonCurve
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch

RADII = (0.3, 0.05, 0.1, 0.2)


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(100)


def test_each_ball_by_itself_is_an_evaluation_at_that_radius(trained, split):
    curve = av.accuracy_against_epsilon(trained, split, RADII, cumulative=False)
    assert curve.epsilons == (0.0, 0.05, 0.1, 0.2, 0.3)
    assert (curve.n, curve.attack, curve.cumulative) == (100, "PGD20", False)
    for radius, row, accuracy, interval in zip(
        curve.epsilons, curve.correct, curve.accuracy, curve.intervals, strict=True
    ):
        alone = evaluate(trained, split, [av.pgd(steps=20, epsilon=radius or 1)])
        name = "PGD20" if radius else "Clean"
        assert torch.equal(row, alone.of(name))
        assert accuracy == alone.accuracy(name)
        assert interval == alone.interval(name)
    assert "\nNote:" not in str(curve)


def test_a_cumulative_curve_is_the_running_minimum_and_costs_less(trained, split):
    class Counting(nn.Module):
        images = 0

        def forward(self, x):
            self.images += len(x)
            return trained(x)

    apart, together = Counting(), Counting()
    each = av.accuracy_against_epsilon(apart, split, RADII, cumulative=False)
    curve = av.accuracy_against_epsilon(together, split, RADII)
    assert torch.equal(curve.correct, each.correct.cummin(0).values)
    assert together.images < apart.images
    assert not curve.rises


def test_a_curve_that_rises_says_so(trained, split):
    fgsm = av.fgsm  # a function from epsilon to the attack
    curve = av.accuracy_against_epsilon(trained, split, RADII, attack=fgsm, cumulative=False)
    assert curve.attack == "FGSM"
    made = EpsilonCurve(
        (0.0, 0.1, 0.2), torch.eye(3, 4).bool().cumsum(0).flip(0).bool(), "A", False
    )
    assert made.rises == ()
    up = EpsilonCurve((0.0, 0.1, 0.2), made.correct[[0, 2, 1]], "A", False)
    assert up.rises == ((0.1, 0.2),)
    assert "Note: not monotone, accuracy rises from epsilon 0.1 to 0.2: the attack misses" in str(
        up
    )


@pytest.mark.parametrize(
    "attack",
    [
        av.fgsm(0.1),
        av.pgd(steps=5, epsilon=0.1, step_size=0.05),
        RandomSearch(0.1, 20),
        AutoAttack(0.1, ("apgd-ce",)),
        lambda epsilon: av.cw(steps=5, epsilon=epsilon),
    ],
    ids=["FGSM", "PGD", "random search", "AutoAttack", "function"],
)
def test_any_row_can_be_asked_and_its_step_grows_with_the_radius(trained, split, attack):
    few = split.subset(40)
    curve = av.accuracy_against_epsilon(trained, few, [0.2], attack=attack, seed=2)
    by_hand = {
        "FGSM": av.fgsm(0.2),
        "PGD5": av.pgd(steps=5, epsilon=0.2, step_size=0.1),
        "Search20": RandomSearch(0.2, 20),
        "AutoAttack": AutoAttack(0.2, ("apgd-ce",)),
        "CW5": av.cw(steps=5, epsilon=0.2),
    }[curve.attack]
    alone = evaluate(trained, few, [by_hand], seed=2)
    assert torch.equal(curve.correct, alone.correct)


def test_a_figure_of_the_curve_has_intervals(trained, split):
    pytest.importorskip("plotly")
    x, _ = split.batch(torch.arange(100))
    curve = av.accuracy_against_epsilon(trained, (x, split.labels), [0.1, 0.2])
    figure = av.evaluation.epsilon_figure(curve)
    (line,) = cast(Any, figure.data)
    assert list(line.x) == [0.0, 0.1, 0.2]
    assert list(line.y) == pytest.approx([100 * a for a in curve.accuracy])
    assert len(line.error_y.array) == 3
    assert figure.layout.title.text == "Accuracy against epsilon under PGD20, n = 100"
    assert figure.layout.xaxis.title.text == "epsilon, in units of [0, 1] pixels"


def test_a_random_network_has_a_curve_over_draws(trained, split):
    class Noisy(nn.Module):
        def forward(self, x):
            return trained(x + 0.2 * torch.randn_like(x))

    curve = av.accuracy_against_epsilon(Noisy(), split, [0.1, 0.3], draws=4)
    assert not curve.rises
    assert curve.accuracy[0] > curve.accuracy[2]
    with pytest.raises(ValueError, match="not deterministic"):
        av.accuracy_against_epsilon(Noisy(), split, [0.1])


@pytest.mark.parametrize(
    ("epsilons", "attack", "error", "message"),
    [
        ([], None, ValueError, r"epsilons = \[\] is not allowed: one radius or more above 0"),
        ([0], None, ValueError, r"epsilons = \[\] is not allowed"),
        ([0.1, 8], None, ValueError, "epsilon = 8.0 is not allowed: .*write 8 / 255"),
        ([-0.1], None, ValueError, "epsilon = -0.1 is not allowed"),
        ([0.1], "pgd", TypeError, "attack = 'pgd' is not allowed: an attack, or a function from"),
        ([0.1], type("Own", (), {"epsilon": 1, "__repr__": lambda self: "own"})(), TypeError,
         "attack = own is not allowed: its epsilon cannot be set; give a function"),
        ([0.1, 0.2], lambda e: av.pgd(steps=int(100 * e), epsilon=e), ValueError,
         r"attack = \['PGD10', 'PGD20'\] is not allowed: one name at every radius"),
    ],
)  # fmt: skip
def test_what_makes_no_curve_is_named(trained, split, epsilons, attack, error, message):
    with pytest.raises(error, match=message):
        av.accuracy_against_epsilon(trained, split, epsilons, attack=attack)
