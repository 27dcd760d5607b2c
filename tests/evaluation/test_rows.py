"""Rows of one's own beside the kit's, and what is no row named at once."""

import re
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch

import avmixup_kit as av
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch

EPSILON = 0.15


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(100)


@dataclass(frozen=True)
class Own:
    """The kit's PGD as a user's callable, with something done to its perturbation."""

    name: str = "mine"
    epsilon: float = EPSILON
    factor: float = 1.0
    start: str = "zero"

    def __call__(self, model, x, y, rng):
        assert y.shape == (len(x), 10)
        attack = av.Attack(epsilon=EPSILON, steps=5, start=self.start)  # pyright: ignore
        return self.factor * attack(model, x, y, rng)


def test_an_attack_of_ones_own_is_a_row_with_gradients_and_a_note(trained, split):
    kit = av.Attack(epsilon=EPSILON, steps=5, start="zero")
    result = evaluate(trained, split, [Own(), kit, av.fgsm(EPSILON)], rule="last")
    assert torch.equal(result.of("mine"), result.of("PGD5"))
    assert result.gradients[1] == result.gradients[2] > 0
    assert result.names == ("Clean", "mine", "PGD5", "FGSM")
    (note,) = result.notes
    assert "mine is an attack of your own" in note
    assert "may depend on the batch size (here 256)" in note
    ladder = evaluate(trained, split, [av.fgsm(EPSILON), Own()], ladder=True)
    assert torch.equal(ladder.of("mine"), ladder.worst())
    assert evaluate(trained, split, [Own(epsilon=0.3)]).epsilon == 0.3


def test_its_random_numbers_follow_from_the_seed_and_the_batch(trained, split):
    seen = []

    def noise(model, x, y, rng):
        seen.append(torch.rand(x.shape, generator=rng))
        return torch.zeros_like(x)

    noise.name, noise.epsilon = "noise", EPSILON  # pyright: ignore[reportFunctionMemberAccess]
    everyone = torch.random.get_rng_state()
    for seed in (0, 0, 1):
        evaluate(trained, split, [noise], batch_size=40, seed=seed)  # pyright: ignore
    first, again, other = seen[:3], seen[3:6], seen[6:]
    assert [len(x) for x in first][:2] == [40, 40]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(everyone, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (
            Own(factor=1.5),
            r"\|delta\| of mine = 0.2\d+ is not allowed: at most epsilon = 0.15; ret",
        ),
        (Own(factor=float("nan")), r"\|delta\| of mine = nan is not allowed"),
        (
            Own(factor=-1.0),
            r"pixels of mine = \(-0.1\d+, \d.\d+\) is not allowed: x \+ delta stays",
        ),
        (Own(epsilon=8), "epsilon = 8 is not allowed: .*in pixels of 0..255 write 8 / 255"),
    ],
)
def test_an_attack_that_leaves_ball_or_pixels_is_refused_by_name(trained, split, attack, message):
    with pytest.raises(ValueError, match=message):
        evaluate(trained, split, [attack])


def test_what_is_no_perturbation_is_refused_by_name(trained, split):
    class Short(Own):
        def __call__(self, model, x, y, rng):
            return x[:1]

    class Nothing(Own):
        def __call__(self, model, x, y, rng):
            return cast(Any, None)

    attacks: Any = [(Short(), r"\(1, 1, 8, 8\)"), (Nothing(), "'NoneType'")]
    for attack, said in attacks:
        message = (
            rf"what mine returns = {said} is not allowed: delta, a tensor of the images' shape"
        )
        with pytest.raises(ValueError, match=message):
            evaluate(trained, split, [attack])


def test_rounding_is_no_reason_to_refuse(trained, split):
    result = evaluate(trained, split, [Own(factor=1 + 1e-7)])
    assert torch.equal(result.of("mine"), evaluate(trained, split, [Own()]).of("mine"))


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        (av.pgd(steps=20), "attacks = PGD20 is not allowed: a list of attacks, such as [attack]"),
        (RandomSearch(), "attacks = RandomSearch(epsilon=0."),
        ("pgd", "attacks = 'pgd' is not allowed: a list of attacks"),
        (None, "attacks = None is not allowed: a list of attacks"),
        ([av.fgsm], "attacks[0] = fgsm is not allowed: if it makes an attack, call it, fgsm();"),
        ([av.autoattack], "attacks[0] = autoattack is not allowed: if it makes an attack, call it"),
        ([av.fgsm(), av.Attack], "attacks[1] = Attack is not allowed: if it makes an attack, call"),
        ([lambda model, x, y, rng: x], "attack(model, x, y, rng) of your own needs a name and "),
        (["pgd"], "attacks[0] = 'pgd' is not allowed: a name is no attack; write av.attacks.ATTACKS"
                  ".build('pgd')"),
        (["PGD-20"], "attacks[0] = 'PGD-20' is not allowed: a name is no attack; write av.pgd(st"),
        ([0.1], "attacks[0] = 0.1 is not allowed: an attack, such as av.pgd(steps=20) or av.auto"),
    ],
)  # fmt: skip
def test_what_is_no_attack_is_one_line_before_anything_runs(network, split, attacks, message):
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(TypeError, match=re.escape(message)) as caught:
        evaluate(network, split, attacks)
    assert "\n" not in str(caught.value)
    assert not passes


@dataclass(frozen=True)
class OwnL2:
    """The gradient's direction, ``length`` far; its ball is one of radius 0.5."""

    length: float = 0.5
    name: str = "mine"
    epsilon: float = 0.5
    norm: str = "l2"

    def __call__(self, model, x, y, rng):
        attack = av.Attack(epsilon=self.length, steps=1, step_size=9.0, start="zero", norm="l2")
        return attack(model, x, y, rng)


def test_an_attack_of_ones_own_may_have_an_l2_ball_and_is_held_to_it(trained, split):
    result = evaluate(trained, split, [OwnL2()])
    assert (result.norm, result.epsilon) == ("l2", 0.5)
    with pytest.raises(ValueError, match=r"\|delta\| of mine = 0.6\d* is not allowed: at most"):
        evaluate(trained, split, [OwnL2(length=0.7)])
