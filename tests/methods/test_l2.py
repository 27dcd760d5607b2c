"""Attacks in an l2 ball keep their contract exactly and agree with Foolbox and torchattacks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import avmixup_kit as av
from avmixup_kit import methods
from avmixup_kit.evaluation import craft, starts
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.methods import attacks, losses
from avmixup_kit.methods.attacks import Ball, direction, in_l2_ball, lengths
from avmixup_kit.training import runs

EPSILON = 0.5


def inside(x, delta, epsilon=EPSILON):
    """Whether delta is in the ball and x + delta in [0, 1], with no room for rounding."""
    length = delta.double().flatten(1).norm(dim=1)
    return bool((length <= epsilon).all() and (x + delta).min() >= 0 and (x + delta).max() <= 1)


@pytest.mark.parametrize(
    "attack",
    [
        av.fgsm(EPSILON, norm="l2"),
        av.pgd(steps=10, epsilon=EPSILON, norm="l2"),
        av.pgd(steps=5, epsilon=EPSILON, norm="l2", restarts=3),
        av.cw(steps=10, epsilon=EPSILON, norm="l2"),
        av.pgd(steps=5, epsilon=EPSILON, norm="l2", start="normal"),
        av.Attack(losses.KLToClean(), EPSILON, start="normal", clip_start=False, norm="l2"),
        av.pgd(steps=3, epsilon=30.0, step_size=100.0, norm="l2"),
    ],
    ids=lambda attack: attack.name,
)
def test_every_l2_attack_stays_inside_exactly_and_climbs(attack, trained, batch):
    x, y = batch
    delta = attack(trained, x, y, torch.Generator().manual_seed(0))
    assert inside(x, delta, attack.epsilon)
    reference = attack.objective.reference(trained, x)
    with torch.no_grad():
        before = attack.objective(trained(x), y, reference).sum()
        after = attack.objective(trained(x + delta), y, reference).sum()
    assert after > before + 0.03


def test_the_projection_is_exact_at_every_rounding_and_leaves_what_is_inside_alone():
    rng = torch.Generator().manual_seed(0)
    for shape in ((4000, 1, 4, 4), (300, 3, 32, 32)):
        x = torch.rand(shape, generator=rng)
        for epsilon in (0.031, 128 / 255, 1.0, 2.7):
            ball = Ball(x, epsilon, "l2")
            for scale in (1e-6, 1.0, 1e6):
                assert inside(x, ball.project(scale * torch.randn(shape, generator=rng)), epsilon)
            # One that is in the ball and the pixels already comes back with every bit.
            short = torch.randn(shape, generator=rng)
            short = 0.9 * epsilon * short / lengths(short).float()
            fits = short.clamp(ball.low, ball.high)
            assert torch.equal(ball.project(fits), fits)


def test_what_is_too_long_ends_on_the_sphere():
    x = torch.full((50, 3, 32, 32), 0.5)
    delta = Ball(x, EPSILON, "l2").project(torch.randn(x.shape))
    torch.testing.assert_close(lengths(delta).flatten(), torch.full((50,), EPSILON).double())


def test_a_step_has_the_gradients_direction_and_length_one_however_small_it_is():
    gradient = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    for scale in (1.0, 1e-20, 1e-36, 1e30):
        torch.testing.assert_close(
            direction(gradient * scale, "l2"), expected, rtol=1e-5, atol=1e-6
        )
    assert torch.equal(direction(gradient, "linf"), gradient.sign())
    assert torch.equal(direction(torch.zeros_like(gradient), "l2"), torch.zeros_like(gradient))


@pytest.mark.parametrize("dimensions", [(1, 1, 3), (1, 8, 8)])
def test_starts_are_uniform_in_the_l2_ball(dimensions):
    """The share of volume within a start's radius is uniform, and so is its direction."""
    d, n = math.prod(dimensions), 4000
    x = torch.full((n, *dimensions), 0.5)
    attack = av.pgd(epsilon=0.4, norm="l2")
    for first in (
        attack.first_delta(x, torch.Generator().manual_seed(0)),
        in_l2_ball(torch.randn(x.shape), torch.rand(n), 0.4),
    ):
        volume = (lengths(first).flatten() / 0.4) ** d
        edges = np.sort(volume.numpy())
        # Kolmogorov and Smirnov's distance, whose 99.9 % point is 1.95 / sqrt(n).
        assert np.abs(edges - np.arange(n) / n).max() < 1.95 / n**0.5
        ways = first / lengths(first)
        assert float(ways.mean(0).abs().max()) < 5 / (n * d) ** 0.5


def test_starts_in_an_evaluation_follow_from_seed_and_image_alone(digits):
    attack = av.pgd(epsilon=EPSILON, norm="l2")
    split = digits.test.subset(20)
    whole = starts(split, torch.arange(20), attack, seed=3)
    assert torch.equal(whole[[7, 2]], starts(split, torch.tensor([7, 2]), attack, seed=3))
    assert not torch.equal(whole, starts(split, torch.arange(20), attack, seed=4))
    assert not torch.equal(whole, starts(split, torch.arange(20), attack, seed=3, restart=1))
    assert float(lengths(whole).max()) <= EPSILON * (1 + 1e-6)
    assert float(lengths(whole).std()) > 0


def torchattacks_l2(model, x, y, start, epsilon, step_size, steps):
    """torchattacks 3.5, PGDL2.forward, from a given start."""
    adv = torch.clamp(x + start, 0, 1)
    for _ in range(steps):
        adv.requires_grad_(True)
        cost = F.cross_entropy(model(adv), y.argmax(1))
        (grad,) = torch.autograd.grad(cost, adv)
        norms = torch.norm(grad.view(len(x), -1), p=2, dim=1) + 1e-10
        adv = adv.detach() + step_size * grad / norms.view(-1, 1, 1, 1)
        delta = adv - x
        factor = torch.min(
            epsilon / torch.norm(delta.view(len(x), -1), p=2, dim=1), torch.ones(len(x))
        )
        adv = torch.clamp(x + delta * factor.view(-1, 1, 1, 1), 0, 1).detach()
    return adv


def test_l2_pgd_equals_torchattacks_from_the_same_start(trained, digits):
    split = digits.test.subset(32)
    x, y = split.batch(torch.arange(32))
    x = x.contiguous()
    for attack in (
        av.pgd(steps=10, epsilon=EPSILON, norm="l2"),
        av.pgd(steps=7, epsilon=1.3, step_size=0.4, norm="l2"),
    ):
        start = starts(split, torch.arange(32), attack, seed=0)
        settings = attack.epsilon, attack.step, attack.steps
        theirs = torchattacks_l2(trained, x, y, start, *settings)
        ours = x + craft(attack, trained, split, torch.arange(32))
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["pgd", "fgsm"])
def test_l2_pgd_and_fgsm_equal_foolboxs_from_the_same_start(kind, trained, batch):
    foolbox = pytest.importorskip("foolbox")
    eagerpy = pytest.importorskip("eagerpy")
    x, y = batch[0].contiguous(), batch[1]
    if kind == "pgd":
        theirs = foolbox.attacks.L2PGD(abs_stepsize=0.1, steps=10, random_start=False)
        ours = av.pgd(steps=10, epsilon=EPSILON, step_size=0.1, start="zero", norm="l2")
    else:
        theirs = foolbox.attacks.FGM(random_start=False)
        ours = av.fgsm(EPSILON, norm="l2")
    adversarial = theirs.run(
        foolbox.PyTorchModel(trained, bounds=(0, 1), device="cpu"),
        eagerpy.astensor(x),
        foolbox.criteria.Misclassification(eagerpy.astensor(y.argmax(1))),
        epsilon=EPSILON,
    ).raw
    torch.testing.assert_close(x + ours(trained, x, y), adversarial, atol=2e-5, rtol=0)


def test_names_show_the_norm_and_the_target():
    l2 = av.pgd(steps=20, epsilon=EPSILON, norm="l2")
    assert l2.name == "PGD20 l2"
    assert replace(l2, restarts=3).name == "PGD20x3 l2"
    assert av.fgsm(EPSILON, norm="l2").name == "FGSM l2"
    assert av.cw(steps=20, norm="l2").name == "CW20 l2"
    assert av.pgd(steps=20, target=3).name == "PGD20 to 3"
    assert replace(l2, source=nn.Identity()).name == "PGD20 l2 (transfer)"
    assert RandomSearch(EPSILON, 50, "l2").name == "Search50 l2"


def test_texts_of_l_infinity_stay_and_those_of_l2_rebuild_it():
    assert ", norm=" not in repr(av.pgd())
    assert "target" not in repr(losses.TargetedCrossEntropy(2))
    for attack in (av.pgd(norm="l2", epsilon=1.5), av.pgd(target=3), av.cw(norm="l2"), av.pgd()):
        method = methods.Method(attack)
        assert methods.parse(repr(method)) == method


def test_settings_show_norm_and_target_with_their_help():
    settings = attacks.ATTACKS.entries["pgd"].settings
    assert settings["norm"].annotation is attacks.Norm
    assert settings["norm"].default == "linf"
    assert settings["target"].default is None
    assert all("norm" in entry.settings for entry in attacks.ATTACKS.entries.values())
    assert "l2" in methods.SETTINGS["norm"]
    assert "class" in methods.SETTINGS["target"]


def test_training_in_an_l2_ball_is_saved_and_found_again(digits, tmp_path):
    method = methods.avmixup(2.0, 1.0, 0.1, epsilon=EPSILON, steps=2, norm="l2")
    training = av.Training(
        av.small_cnn(digits, base_channels=4), digits.train, av.Dial(method), 6, batch_size=32
    )
    for _ in runs.log(training, tmp_path):
        pass
    assert runs.about(tmp_path)["method"] == method
    assert "norm='l2'" in (tmp_path / "run.json").read_text()
    model = runs.load_model(tmp_path)
    x, y = digits.train.batch(torch.arange(16))
    assert inside(x, methods.parse(repr(method.perturb))(model, x, y, torch.Generator()))


# -------------------------------------------------------------------------------- a chosen class


def test_a_chosen_class_becomes_likelier_and_its_own_images_are_left_alone(trained, digits):
    split = digits.test.subset(100)
    x, y = split.batch(torch.arange(100))
    attack = av.pgd(steps=10, epsilon=0.15, target=3)
    own = y.argmax(1) == 3
    assert 0 < int(own.sum()) < 50
    for delta in (
        attack(trained, x, y, torch.Generator().manual_seed(0)),
        craft(attack, trained, split, torch.arange(100)),
    ):
        assert bool((delta[own] == 0).all())
        with torch.no_grad():
            before, after = (trained(z).log_softmax(1)[~own, 3] for z in (x, x + delta))
        assert (after > before + 1).float().mean() > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: av.pgd(norm="l3"), "norm = 'l3' is not allowed: one of linf, l2"),  # type: ignore[arg-type]
        (lambda: av.pgd(epsilon=0.0, norm="l2"), "epsilon = 0.0 is not allowed: the length of"),
        (lambda: av.pgd(epsilon=1.5), "epsilon = 1.5 is not allowed: pixels live in"),
        (lambda: RandomSearch(float("inf"), 5, "l2"), "epsilon = inf is not allowed: the length"),
        (lambda: av.pgd(target=-1), "target = -1 is not allowed: None, or the number of a class"),
        (lambda: losses.TargetedCrossEntropy(2, 3), "rank = 2 is not allowed: target chooses"),
    ],
)
def test_a_bad_norm_or_target_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
