"""Costs are counted, and equal what a real step and a real evaluation do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import avmixup_kit as av
from avmixup_kit import methods, models, paper
from avmixup_kit.methods.attacks import Attack, NoAttack
from avmixup_kit.reproduce import cost

# Forward, forward and backward to the input, forward and backward to the weights: 10^9
# multiply-adds an image, and FLOP of 80 000 steps (50 000 at 64x64) of AVmixup with batch 128.
PUBLISHED = {
    ("wrn-34-10", 32): (6.66, 13.32, 19.98, 3.14e18),
    ("wrn-28-10", 32): (5.24, 10.49, 15.73, 2.47e18),
    ("wrn-16-8", 32): (1.55, 3.10, 4.64, 7.3e17),
    ("preact_resnet18", 32): (0.555, 1.11, 1.66, 2.6e17),
    ("preact_resnet18", 64): (2.22, 4.44, 6.66, 6.5e17),
}


class Counted(TorchDispatchMode):
    """Counts the FLOP of all that runs inside; torch's own mode does not bear autograd.grad."""

    def __init__(self):
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_multiply_adds_are_those_of_the_published_table(name, size):
    network = models.build(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = cost.macs(network, (3, size, size))
    forward, to_input, full, flop = PUBLISHED[name, size]
    assert found.forward / 1e9 == pytest.approx(forward, rel=2e-3)
    assert found.to_input / 1e9 == pytest.approx(to_input, rel=2e-3)
    assert found.full / 1e9 == pytest.approx(full, rel=3e-3)
    steps = av.Settings(50_000 if size == 64 else 80_000)
    assert 2 * cost.training_macs(found, av.avmixup(), steps) == pytest.approx(flop, rel=8e-3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert network.training


def test_the_papers_longest_run_is_3_14e18_operations_and_2_2_hours_at_400_tflops():
    network = cost.macs(models.build("wrn-34-10"), (3, 32, 32))
    whole = cost.training_macs(network, av.avmixup(), paper.RECIPES["cifar10"])
    assert 2 * whole == pytest.approx(3.14e18, rel=2e-3)
    assert cost.hours(whole, 400) == pytest.approx(2.18, rel=5e-3)
    assert cost.hours(whole, 100) == pytest.approx(4 * cost.hours(whole, 400))


@pytest.mark.parametrize(
    "method",
    [
        methods.standard(),
        methods.mixup(),
        methods.pgd(epsilon=0.15, steps=3),
        methods.avmixup(epsilon=0.15, steps=2),
        methods.trades(epsilon=0.15, steps=2),
        methods.feature_scatter(epsilon=0.15),
        methods.feature_scatter_avmixup(epsilon=0.15),
        replace(methods.pgd(epsilon=0.15), perturb=av.pgd(steps=2, epsilon=0.15, restarts=3)),
    ],
    ids=lambda method: repr(method)[:60],
)
def test_a_step_costs_what_the_counter_counts_in_a_real_one(digits, method):
    model = av.small_cnn(digits)
    training = av.Training(model, digits.train, method, 2, batch_size=8)
    next(training)
    with Counted() as counter:
        next(training)
    expected = 2 * 8 * cost.step_macs(cost.macs(model, digits.shape), method)
    # The transport's small matrices are all that is not counted.
    assert counter.flop == pytest.approx(expected, rel=0.01)


def test_a_mixture_costs_the_mean_of_its_sources():
    network = cost.Macs(1, 2, 3)
    method = av.avmixup(perturb=av.methods.sources.Mixture((NoAttack(), Attack(steps=10))))
    assert cost.step_macs(network, method) == (0 + 10 * 2) / 2 + 3


@pytest.mark.parametrize("version", ["quick", "standard"])
def test_an_evaluation_where_nothing_falls_costs_what_is_said(digits, trained, version):
    pytest.importorskip("pyautoattack")
    epsilon = 1e-6
    split = digits.test.subset(1)
    attacks: list[Any] = [av.pgd(steps=20, epsilon=epsilon), av.cw(steps=20, epsilon=epsilon)]
    if version == "quick":
        attacks.append(av.autoattack(epsilon, "quick"))
    else:  # the same proportions at a tenth of the price
        attacks.append(replace(av.autoattack(epsilon), targets=1, queries=500))
    with Counted() as counter:
        found = av.evaluate(trained, split, attacks, check=False)
    assert found.worst().all()
    expected = 2 * cost.evaluation_macs(cost.macs(trained, digits.shape), attacks, 1)
    assert counter.flop == pytest.approx(expected, rel=0.1)


def test_what_is_not_known_is_refused():
    network = cost.Macs(1, 2, 3)
    with pytest.raises(ValueError, match=r"^the cost of <function .* is not known$"):
        cost.step_macs(network, av.avmixup(perturb=lambda model, batch: batch.x))
    with pytest.raises(ValueError, match=r"^tflops = 0 is not allowed: a positive number$"):
        cost.hours(1.0, 0)
