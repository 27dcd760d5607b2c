"""AutoAttack through the kit gives what its authors' package gives, example by example."""

import importlib
import logging
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.evaluation.autoattack import AutoAttack, autoattack
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation

pyautoattack = pytest.importorskip("pyautoattack")
# The package exports a function of the same name, which hides the module.
module = importlib.import_module("avmixup_kit.evaluation.autoattack")

EPSILON = 0.15
# All four attacks, but few targets and queries: seconds instead of minutes.
SHORT = AutoAttack(EPSILON, targets=1, queries=40)


def direct(model, x, y, short, seed, batch_size):
    """The package called by hand, all stages in one call, as its README shows."""
    if short is None:
        adversary = pyautoattack.AutoAttack(model, eps=EPSILON, seed=seed)
    else:
        adversary = pyautoattack.AutoAttack(
            model, eps=short.epsilon, seed=seed, version="custom", attacks=list(short.attacks)
        )
        adversary.apgd.n_restarts = 1
        adversary.apgd_targeted.n_target_classes = short.targets
        adversary.fab.n_target_classes = short.targets
        adversary.square.n_queries = short.queries
    _, predicted = adversary.run_standard_evaluation(x, y, batch_size=batch_size)
    return predicted == y


def tensors(split):
    x, y = split.batch(torch.arange(len(split)))
    return x.contiguous(), y.argmax(1)


def test_verdicts_are_the_package_s_on_each_image_alone(trained, digits):
    split = digits.test.subset(8)
    result = evaluate(trained, split, [SHORT], seed=5)
    x, y = tensors(split)
    alone = [direct(trained, x[i : i + 1], y[i : i + 1], SHORT, 5, 1) for i in range(len(split))]
    assert torch.equal(result.of("AutoAttack"), torch.cat(alone))
    assert 0 < int(result.of("AutoAttack").sum()) < int(result.of("Clean").sum())


def test_a_few_random_queries_are_the_package_s_on_each_image_alone(trained, digits):
    """So few that the random numbers decide: the same call on a batch gives other verdicts."""
    split = digits.test.subset(60)
    few = AutoAttack(0.3, ("square",), queries=12)
    x, y = tensors(split)
    one_by_one = torch.cat(
        [direct(trained, x[i : i + 1], y[i : i + 1], few, 3, 1) for i in range(len(split))]
    )
    result = evaluate(trained, split, [few], seed=3)
    assert torch.equal(result.of("AutoAttack"), one_by_one)
    assert not torch.equal(direct(trained, x, y, few, 3, 60), one_by_one)


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t"])
def test_starts_are_those_of_each_image_alone(trained, digits, attack):
    """Three steps at a wide radius: the adversarial images still show where they started."""
    x, y = tensors(digits.test.subset(12))
    wide = AutoAttack(0.4, (attack,), targets=2)

    def run(images, labels, same_for_all):
        made = wide.adversary(pyautoattack, trained, 7, attack, 10, torch.device("cpu"))
        made.apgd.n_iter = made.apgd_targeted.n_iter = 3
        with module._apart(same_for_all), module._warnings():
            return made.run_standard_evaluation(images, labels, batch_size=12)[0]

    alone = torch.cat([run(x[i : i + 1], y[i : i + 1], False) for i in range(len(x))])
    together = run(x, y, True)
    assert int((together != x).flatten(1).any(1).sum()) >= 8  # fooled, so returned
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(run(x, y, False), alone, atol=1e-3)


def test_the_standard_version_is_the_package_s_own(trained, digits):
    # Longer than five seconds: 5 000 queries and 19 runs of 100 steps are what "standard" means.
    split = digits.test.subset(60)
    robust = evaluate(trained, split, [av.pgd(steps=20, epsilon=EPSILON)]).of("PGD20")
    chosen = [int(robust.nonzero()[0]), int((~robust).nonzero()[0])]
    split = split.subset(chosen)
    result = evaluate(trained, split, [autoattack(EPSILON)], seed=1)
    x, y = tensors(split)
    alone = [direct(trained, x[i : i + 1], y[i : i + 1], None, 1, 1) for i in range(len(split))]
    assert torch.equal(result.of("AutoAttack"), torch.cat(alone))
    assert autoattack(EPSILON).attacks == ("apgd-ce", "apgd-t", "fab-t", "square")


def test_per_batch_is_one_call_of_the_package_on_all_images(trained, digits):
    split = digits.test.subset(30)
    result = evaluate(trained, split, [replace(SHORT, per="batch")], batch_size=20, seed=2)
    x, y = tensors(split)
    assert torch.equal(result.of("AutoAttack"), direct(trained, x, y, SHORT, 2, 25))


def test_verdicts_do_not_depend_on_batch_size_order_or_company(trained, digits):
    split = digits.test.subset(40)
    whole = evaluate(trained, split, [SHORT])
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(3))[:20]
    shuffled = evaluate(trained, split.subset(order), [SHORT, av.fgsm(EPSILON)], batch_size=7)
    assert torch.equal(shuffled.of("AutoAttack"), whole.of("AutoAttack")[order])


def test_more_of_each_attack_only_fools_more(trained, digits):
    split = digits.test.subset(50)
    less = AutoAttack(EPSILON, ("apgd-ce", "apgd-t", "square"), 1, 20, title="less")
    more = AutoAttack(EPSILON, ("apgd-ce", "apgd-t", "square"), 3, 60, title="more")
    result = evaluate(trained, split, [less, more])
    assert not (result.of("more") & ~result.of("less")).any()
    quick, standard = autoattack(EPSILON, "quick"), autoattack(EPSILON)
    assert set(quick.attacks) < set(standard.attacks)
    assert (quick.targets, quick.queries) == (3, 1000)
    assert (standard.targets, standard.queries) == (9, 5000)


def test_what_it_leaves_behind_is_nothing(trained, digits):
    split = digits.test.subset(10)
    everyone = torch.random.get_rng_state()
    logger = logging.getLogger("auto-attack")
    before = list(logger.handlers), logger.propagate, sys.gettrace()
    hooks = len(trained._forward_pre_hooks)
    gradients = [p.grad for p in trained.parameters()]
    evaluate(trained, split, [SHORT])
    assert torch.equal(everyone, torch.random.get_rng_state())
    assert (list(logger.handlers), logger.propagate, sys.gettrace()) == before
    assert len(trained._forward_pre_hooks) == hooks
    assert all(p.requires_grad for p in trained.parameters())
    assert all(p.grad is g for p, g in zip(trained.parameters(), gradients, strict=True))


def test_stages_gradients_and_the_package_s_warnings_are_kept(trained, digits, tmp_path):
    split = digits.test.subset(40)
    result = evaluate(trained, split, [SHORT])
    stages = dict(result.stages["AutoAttack"])
    assert list(stages) == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert sorted(stages.values(), reverse=True) == list(stages.values())
    assert stages["Square"] == int(result.of("AutoAttack").sum())
    standing = int(result.of("Clean").sum())
    assert result.gradients[1] >= 101 * standing  # APGD-CE alone takes 101
    result.save(tmp_path / "correct.npz")
    back = Evaluation.load(tmp_path / "correct.npz")
    assert back.stages == result.stages
    assert back.to_json() == result.to_json()
    assert result.notes == ()


class Flat(nn.Module):
    """Right logits, but the gradient is multiplied by zero."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).detach() + 0 * self.model(x)


def test_the_package_s_warnings_reach_the_reader_not_the_terminal(trained, digits, capfd):
    split = digits.test.subset(20)
    short = AutoAttack(EPSILON, ("apgd-t", "square"), 1, 300)
    result = evaluate(Flat(trained), split, [short])
    assert any("APGD-T: there are" in note and "zero gradient" in note for note in result.notes)
    assert "zero gradient" in str(result)
    assert capfd.readouterr().err == ""


def test_an_adversary_that_leaves_the_ball_is_refused(trained):
    x = torch.full((1, 1, 8, 8), 0.5)
    module._inside(x + EPSILON, x, EPSILON, "APGD-CE")
    with pytest.raises(RuntimeError, match="APGD-CE of pyautoattack left the ball"):
        module._inside(x + 2 * EPSILON, x, EPSILON, "APGD-CE")
    with pytest.raises(RuntimeError, match="left the ball or the valid pixels"):
        module._inside(x + 0.6, x, 0.7, "Square")


def test_without_the_package_the_error_says_how_to_get_it(trained, digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r"pip install 'avmixup-kit\[autoattack\]'"):
        evaluate(trained, digits.test.subset(5), [autoattack(EPSILON, "quick")])


def test_few_classes(digits):
    split = replace(digits.test, labels=digits.test.labels % 3, classes=("a", "b", "c"))
    model = av.small_cnn(split)
    with pytest.raises(ValueError, match="apgd-t needs 4 classes or more, the model has 3"):
        evaluate(model, split.subset(20), [autoattack(EPSILON)])
    left = AutoAttack(EPSILON, ("apgd-ce", "fab-t", "square"), queries=20)
    result = evaluate(model, split.subset(6), [left])
    assert result.n == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autoattack(8), r"epsilon = 8 is not allowed.*in pixels of 0..255 write 8 / 255"),
        (
            lambda: autoattack(0.1, cast(Any, "rand")),
            "version = 'rand' is not allowed: one of standard, quick",
        ),
        (lambda: AutoAttack(0.1, ("pgd",)), r"attacks = \('pgd',\) is not allowed: one or more of"),
        (lambda: AutoAttack(0.1, ()), r"attacks = \(\) is not allowed"),
        (lambda: AutoAttack(0.1, queries=0), "queries = 0 is not allowed: a whole number"),
        (
            lambda: AutoAttack(0.1, targets=cast(Any, 1.5)),
            "targets = 1.5 is not allowed: a whole number",
        ),
        (
            lambda: AutoAttack(0.1, per=cast(Any, "epoch")),
            "per = 'epoch' is not allowed: one of image, batch",
        ),
    ],
)
def test_a_bad_setting_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
