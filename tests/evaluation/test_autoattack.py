"""AutoAttack through the kit gives what its authors' package gives, example by example."""

import ast
import importlib
import logging
import re
import sys
from contextlib import nullcontext
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
# av.autoattack is the function; the module of that name stays reachable.
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


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.4), ("l2", 2.5)])
@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-t"])
def test_starts_are_those_of_each_image_alone(trained, digits, attack, norm, radius):
    """Three steps at a wide radius: the adversarial images still show where they started."""
    x, y = tensors(digits.test.subset(12))
    wide = AutoAttack(radius, (attack,), targets=2, norm=norm)

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


class Linear(nn.Module):
    """Logits W x + b: the exact distance to another class is margin / dual norm of w_y - w_j."""

    def __init__(self, classes, side=6):
        super().__init__()
        rng = torch.Generator().manual_seed(classes)
        self.w = nn.Parameter(torch.randn(classes, side * side, generator=rng))
        self.b = nn.Parameter(-self.w.detach() @ torch.full((side * side,), 0.5))

    def forward(self, x):
        return x.flatten(1) @ self.w.T + self.b

    def distance(self, x, y, norm):
        """The radius at which each image falls, (N,), pixel limits aside."""
        with torch.no_grad():
            logits = self(x)
            gaps = logits.gather(1, y[:, None]) - logits
            ways = (self.w[y][:, None] - self.w[None]).norm(1 if norm == "linf" else 2, dim=2)
            return (gaps / ways).scatter(1, y[:, None], float("inf")).amin(1)


@pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
def linear(request):
    """A linear model, images in the middle of the pixels' range, their labels."""
    model = Linear(request.param).eval()
    x = 0.5 + 0.2 * (torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(1)) - 0.5)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attacks", ["apgd-t", "fab-t", None])
def test_below_four_classes_verdicts_are_those_of_a_brute_force(linear, norm, attacks):
    model, x, y = linear
    exact = model.distance(x, y, norm)
    radius = float(exact.median()) * 1.01
    assert radius < 0.35  # no pixel limit is in the way
    assert (exact / radius - 1).abs().min() > 1e-3  # nobody on the edge
    attack = autoattack(radius, norm=norm, attacks=attacks, queries=20)
    result = evaluate(model, (x, y), [attack], batch_size=16)
    found, standing = result.of(attack.name), exact > radius
    assert torch.equal(found, standing)
    assert 5 < int(found.sum()) < 35
    if attacks != "fab-t":
        left = dict(result.stages[attack.name])
        assert "APGD-T (margin)" in left
        assert "APGD-T" not in left
        (note,) = result.notes
        assert note.startswith("APGD-T climbs the margin: its DLR loss needs 4 classes")


def test_with_four_classes_the_packages_own_loss_is_climbed(trained):
    for classes, own in ((3, False), (4, True)):
        device = torch.device("cpu")
        made = SHORT.adversary(pyautoattack, trained, 0, "apgd-t", classes, device)
        assert ("dlr_loss_targeted" not in vars(made.apgd_targeted)) == own


def test_what_cannot_be_attacked_is_refused_before_any_other_attack_is_paid_for(trained, digits):
    class Paid(nn.Module):
        def forward(self, x):
            assert not x.requires_grad, "an attack was run"
            return trained(x[:, :, :8, :8])

    # Square's l2 tiles leave the image at 12 x 12.
    x, y = torch.full((4, 1, 12, 12), 0.5), torch.tensor([0, 1, 2, 3])
    message = r"image size = '12 x 12' is not allowed: .*leave it out with attacks=\('apgd-ce', "
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(Paid().eval(), (x, y), [av.pgd(), autoattack(0.5, norm="l2")], check=False)
    (advised,) = re.findall(r"attacks=(\(.*\))", str(caught.value))
    autoattack(0.5, norm="l2", attacks=ast.literal_eval(advised)).check(10, (1, 12, 12))
    lonely = replace(digits.test, labels=digits.test.labels * 0, classes=("all",))
    with pytest.raises(ValueError, match="number of classes = 1 is not allowed"):
        evaluate(Paid().eval(), lonely, [av.pgd(), autoattack(0.1)], check=False)


@pytest.mark.parametrize("height", range(4, 40, 5))
@pytest.mark.parametrize("wider", [0, 1, 7])
def test_square_under_l2_is_refused_where_the_package_would_fail(height, wider):
    shape = (1, height, height + wider)
    square = AutoAttack(0.5, ("square",), queries=3, norm="l2")
    try:
        square.check(4, shape)
        fine = True
    except ValueError:
        fine = False
    x, y = torch.full((2, *shape), 0.5), torch.zeros(2, dtype=torch.int64)

    class Corner(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 0, 0] + 9, x[:, 0, 0, 1]], dim=1)

    made = square.adversary(pyautoattack, Corner(), 0, "square", 2, torch.device("cpu"))
    with nullcontext() if fine else pytest.raises((RuntimeError, ZeroDivisionError)):
        made.square.perturb(x, y)


def test_l2_verdicts_are_the_package_s_on_each_image_alone(trained, digits):
    split = digits.test.subset(8)
    short = replace(SHORT, epsilon=0.6, norm="l2")
    x, y = tensors(split)
    alone = []
    for i in range(len(split)):
        adversary = pyautoattack.AutoAttack(
            trained, eps=0.6, norm="L2", seed=5, version="custom", attacks=list(short.attacks)
        )
        adversary.apgd.n_restarts = 1
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = 1
        adversary.square.n_queries = 40
        _, predicted = adversary.run_standard_evaluation(x[i : i + 1], y[i : i + 1], batch_size=1)
        alone.append(predicted == y[i : i + 1])
    result = evaluate(trained, split, [short], seed=5)
    assert torch.equal(result.of("AutoAttack l2"), torch.cat(alone))
    assert (result.norm, result.epsilon) == ("l2", 0.6)
    assert 0 < int(result.of("AutoAttack l2").sum()) < int(result.of("Clean").sum())


def test_few_l2_queries_are_the_package_s_on_each_image_alone(trained, digits):
    split = digits.test.subset(40)
    few = AutoAttack(1.8, ("square",), queries=12, norm="l2")
    whole = evaluate(trained, split, [few], seed=3).of(few.name)
    single = [evaluate(trained, split.subset([i]), [few], seed=3).of(few.name) for i in range(40)]
    assert torch.equal(whole, torch.cat(single))
    batch = evaluate(trained, split, [replace(few, per="batch")], seed=3).of(few.name)
    assert not torch.equal(whole, batch)  # the random numbers decide


def test_own_settings_stand_in_the_heading():
    assert autoattack(0.1, attacks=["apgd-ce", "square"]).name == "AutoAttack (APGD-CE, Square)"
    few = autoattack(0.1, "quick", queries=50, norm="l2")
    assert (few.name, few.queries, few.targets) == ("AutoAttack (quick, queries=50) l2", 50, 3)
    assert autoattack(0.1, attacks="apgd-t", targets=2).name == "AutoAttack (APGD-T, targets=2)"
    assert autoattack(0.1, targets=9, queries=5000) == autoattack(0.1)


def test_the_function_leaves_the_module_of_its_name_usable():
    from avmixup_kit.evaluation import autoattack as itself

    assert av.autoattack is itself.autoattack is autoattack
    assert itself is module


def test_the_text_of_an_l_infinity_autoattack_is_what_it_was():
    assert ", norm=" not in repr(AutoAttack(0.1))
    assert repr(AutoAttack(0.1)).startswith("AutoAttack(epsilon=0.1, attacks=('apgd-ce', ")
    assert "norm='l2'" in repr(AutoAttack(0.1, norm="l2"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autoattack(8), r"epsilon = 8 is not allowed.*in pixels of 0..255 write 8 / 255"),
        (
            lambda: autoattack(0.1, cast(Any, "rand")),
            "version = 'rand' is not allowed: one of standard, quick",
        ),
        (lambda: AutoAttack(0.1, ("pgd",)), r"attacks = \('pgd',\) is not allowed: one or more of"),
        (
            lambda: autoattack(0.1, attacks=["ce"]),
            r"attacks = \('ce',\) is not allowed: one or more",
        ),
        (
            lambda: autoattack(0.0, norm="l2"),
            "epsilon = 0.0 is not allowed: the length of a vector",
        ),
        (
            lambda: autoattack(0.1, norm=cast(Any, "l1")),
            "norm = 'l1' is not allowed: one of linf, l2",
        ),
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
