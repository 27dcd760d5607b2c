"""A mixture of perturbations: one source per batch, from the generator, inside the ball."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import methods
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.methods import sources
from avmixup_kit.methods.losses import TargetedCrossEntropy
from avmixup_kit.methods.sources import Mixture, five

EPSILON = 0.15


@dataclass(frozen=True)
class Constant:
    """A source that says who it is."""

    value: float

    def __call__(self, model, batch):
        return torch.full_like(batch.x, self.value)


def test_every_source_is_drawn_equally_often_from_the_generator(network, batch, rng):
    x, y = batch
    mixture = Mixture((Constant(0.0), Constant(0.25), Constant(0.5)))
    drawn = [float(mixture(network, av.Batch(x[:1], y[:1], rng=rng)).mean()) for _ in range(600)]
    counts = Counter(drawn)
    assert set(counts) == {0.0, 0.25, 0.5}
    assert all(150 < count < 250 for count in counts.values())  # 200 +- 4.3 deviations
    everyone = torch.random.get_rng_state()
    again = torch.Generator().manual_seed(0)
    assert [
        float(mixture(network, av.Batch(x[:1], y[:1], rng=again)).mean()) for _ in range(600)
    ] == drawn
    assert torch.equal(everyone, torch.random.get_rng_state())


def test_a_mixture_of_one_is_that_source(network, batch):
    x, y = batch
    rng = torch.Generator().manual_seed(1)
    mixed = Mixture((av.pgd(steps=3, epsilon=EPSILON),))(network, av.Batch(x, y, rng=rng))
    rng = torch.Generator().manual_seed(1)
    torch.randint(1, (1,), generator=rng)
    assert torch.equal(mixed, av.pgd(steps=3, epsilon=EPSILON)(network, x, y, rng))


def test_the_five_are_the_issue_s_and_stay_in_the_ball(network, batch, rng):
    x, y = batch
    sources = [s for s in five(epsilon=EPSILON, steps=4).sources if isinstance(s, av.Attack)]
    assert [s.objective.name for s in sources] == ["PGD", "CW", "Targeted", "KL", "FS"]
    deltas = [source(network, x, y, rng) for source in sources]
    for delta in deltas:
        assert delta.abs().max() <= EPSILON
        assert (x + delta).min() >= 0
        assert (x + delta).max() <= 1
    for i, one in enumerate(deltas):
        assert all(not torch.equal(one, other) for other in deltas[:i])


def test_the_targeted_objective_raises_the_runner_up(trained, digits):
    x, y = digits.test.batch(torch.arange(100))
    with torch.no_grad():
        clean = trained(x)
    runner_up = clean.masked_fill(y > 0, float("-inf")).argmax(1, keepdim=True)
    attack = av.Attack(TargetedCrossEntropy(), EPSILON, steps=5, start="zero")
    delta = attack(trained, x, y)
    with torch.no_grad():
        after = trained(x + delta).log_softmax(1).gather(1, runner_up)
    before = clean.log_softmax(1).gather(1, runner_up)
    assert (after >= before).all()
    assert (after > before + 1).float().mean() > 0.5
    objective = TargetedCrossEntropy(2)
    third = clean.masked_fill(y > 0, float("-inf")).topk(2).indices[:, 1]
    value = objective(clean, y, objective.reference(trained, x))
    assert torch.equal(value, clean.log_softmax(1)[torch.arange(100), third])
    narrow = evaluate(trained, digits.test.subset(60), [attack], batch_size=7)
    wide = evaluate(trained, digits.test.subset(60), [attack])
    assert torch.equal(narrow.correct, wide.correct)


def test_one_line_composes_it_and_its_repr_rebuilds_it():
    method = methods.mixture(1.5, 1.0, 0.7, epsilon=EPSILON, steps=3)
    assert method == methods.avmixup(1.5, 1.0, 0.7, perturb=five(epsilon=EPSILON, steps=3))
    assert methods.parse(repr(method)) == method
    alone = Mixture((av.pgd(steps=2, epsilon=EPSILON),))
    assert methods.parse(repr(alone)) == alone
    changed = method.replace(gamma=3.0, sources=(av.pgd(steps=2, epsilon=EPSILON),))
    assert changed.parameters["gamma"] == 3.0
    assert isinstance(changed.perturb, Mixture)
    assert changed.perturb.sources == (av.pgd(steps=2, epsilon=EPSILON),)
    with pytest.raises(ValueError, match="does not describe a method"):
        methods.parse("Mixture(sources=(print('x'),))")


def test_training_on_it_repeats_and_resumes_bit_for_bit(digits):
    def train(steps, state=None):
        model = av.small_cnn(digits, seed=0)
        dial = av.Dial(methods.mixture(epsilon=EPSILON, steps=2))
        training = av.Training(model, digits.train, dial, 8, batch_size=32)
        if state is not None:
            training.load_state_dict(state)
        for _ in range(steps):
            next(training)
        return training

    whole, half = train(8), train(4)
    rest = train(4, half.state_dict())
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, rest.model.state_dict()[name])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mixture(()), r"sources = \(\) is not allowed: a tuple of one or more"),
        (
            lambda: Mixture(cast(Any, [av.pgd()])),
            "is not allowed: a tuple of one or more perturbation",
        ),
        (
            lambda: Mixture((av.pgd(), cast(Any, 3))),
            r"sources = .*, 3\) is not allowed: .* called with",
        ),
        (lambda: five(epsilon=8), "in pixels of 0..255 write 8 / 255"),
        (lambda: TargetedCrossEntropy(0), "rank = 0 is not allowed: a whole number, 1 or more"),
    ],
)
def test_a_bad_setting_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_rank_beyond_the_classes_is_named(network, batch):
    attack = av.Attack(TargetedCrossEntropy(10), EPSILON, steps=1, start="zero")
    with pytest.raises(ValueError, match="rank = 10 is not allowed: there are 9 wrong classes"):
        attack(network, *batch)
    assert sources.five().sources[0] == av.pgd(steps=10, batch_norm="batch")
