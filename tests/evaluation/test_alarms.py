"""Models that hide their gradients ring, a plainly PGD-trained one does not."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods
from avmixup_kit.evaluation.alarms import alarms
from avmixup_kit.evaluation.attack_signs import Bench
from avmixup_kit.evaluation.autoattack import AutoAttack
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.evidence import SIGNS, bars, paired, share
from avmixup_kit.evaluation.gradient_signs import stationary
from avmixup_kit.evaluation.images import as_images
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.methods.attacks import ball

EPSILON = 0.15
LADDER = [av.fgsm(EPSILON), av.pgd(steps=20, epsilon=EPSILON), av.cw(steps=20, epsilon=EPSILON)]


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(140)


def trained_by(digits, method, steps=200, seed=1):
    model = av.small_cnn(digits, seed=seed)
    for _ in av.Training(model, digits.train, method, steps, seed=seed, batch_size=64):
        pass
    return model.eval()


def ringing(model, split, attacks=LADDER, **options):
    found = alarms(evaluate(model, split, attacks), model, split, silent=True, **options)
    assert [alarm.key for alarm in found] == list(SIGNS)
    return {alarm.key for alarm in found if alarm.rings}, {a.key: a for a in found}


# ---------------------------------------------------------------------------- the model as a whole


def test_a_plainly_pgd_trained_network_is_silent(trained, split):
    result = evaluate(trained, split, LADDER)
    assert av.alarms(result, trained, split) == []


def test_label_smoothing_alone_rings(digits):
    model = trained_by(digits, methods.standard().replace(lam=0.5), seed=2)
    keys, found = ringing(model, digits.test.subset(200))
    assert "random-search" in keys
    assert found["random-search"].value > 0.04


def test_an_extreme_lambda_rings(digits, split):
    model = trained_by(digits, methods.label_smoothing(0.2, epsilon=EPSILON, steps=3))
    keys, _ = ringing(model, split)
    assert {"cw", "random-search"} <= keys


class Scaled(nn.Module):
    """The same decisions, logits multiplied: softmax underflows and cross-entropy goes flat."""

    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


def test_a_temperature_that_underflows_cross_entropy_rings(trained, split):
    keys, found = ringing(Scaled(trained, 1000.0), split)
    assert {
        "cw",
        "random-search",
        "radii",
        "vanishing",
    } <= keys
    assert found["vanishing"].value > 0.9
    assert "divide the logits by a number" in found["vanishing"].sentence
    # The same network, read plainly, is silent: nothing but its gradients was hidden.
    assert (
        evaluate(trained, split, LADDER)
        .of("Clean")
        .equal(evaluate(Scaled(trained, 1000.0), split).of("Clean"))
    )


# ------------------------------------------------------------------ each alarm by what it looks for


class Backward(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a given factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.saved_tensors[0], None


class Reversed(nn.Module):
    """Gradients that point away from danger."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(Backward.apply(x, torch.tensor(-1.0)))


class Flat(nn.Module):
    """No gradient at all."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(Backward.apply(x, torch.tensor(0.0)))


class OnGrid(nn.Module):
    """Honest gradients on images of whole grey levels, reversed ones everywhere else."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        off = ((x * 255).round() / 255 - x).abs().amax((1, 2, 3), keepdim=True) > 1e-6
        return self.model(Backward.apply(x, torch.where(off, -1.0, 1.0)))


class Shattered(nn.Module):
    """A fine ripple on the pixels: each point's gradient sign is its own."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x + 0.004 * torch.cos(3000 * x))


@pytest.fixture(scope="module")
def weak(digits):
    """About three quarters right, so that an attack that helps shows."""
    return trained_by(digits, methods.pgd(epsilon=EPSILON, steps=2), steps=12)


def test_gradients_that_point_the_wrong_way(weak, split):
    keys, found = ringing(Reversed(weak), split)
    assert {"fgsm-above-clean", "label-line"} <= keys
    assert "points the wrong way" in found["fgsm-above-clean"].sentence
    assert "radii" in keys


def test_gradients_that_are_right_only_for_one_step(trained, split):
    keys, _ = ringing(OnGrid(trained), split)
    assert {"pgd-above-fgsm", "one-step"} <= keys


def test_gradients_that_do_not_align(trained, split):
    keys, found = ringing(Shattered(trained), split)
    assert "alignment" in keys
    assert found["alignment"].value < 0.3


def test_transfer_from_another_model(trained, split):
    masked = Scaled(trained, 1000.0)
    keys, found = ringing(masked, split, sources={"plain": trained})
    assert "transfer" in keys
    assert "another model (plain)" in found["transfer"].sentence
    keys, found = ringing(masked, split)
    assert found["transfer"].rings is None
    assert "no other model was given" in found["transfer"].sentence
    rows = [*LADDER, av.pgd(steps=20, epsilon=EPSILON, source=trained)]
    keys, _ = ringing(masked, split, rows)
    assert "transfer" in keys


def test_autoattack_and_its_square(trained, split):
    few = split.subset(80)
    short = AutoAttack(EPSILON, ("apgd-t", "square"), 1, 300)
    keys, found = ringing(Scaled(trained, 1000.0), few, [av.pgd(steps=20, epsilon=EPSILON), short])
    assert "autoattack" in keys
    assert found["square"].rings is False
    keys, found = ringing(Flat(trained), few, [av.pgd(steps=20, epsilon=EPSILON), short])
    assert "square" in keys
    keys, found = ringing(trained, few, [av.pgd(steps=20, epsilon=EPSILON), short])
    assert not keys
    assert found["autoattack"].rings is False


class Lucky(nn.Module):
    """Has a gradient only where a pixel it does not look at happens to be bright enough."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        gate = (x[:, :, :1, :1] > 0.8 * EPSILON).float()
        seen = x.clone()
        seen[:, :, 0, 0] = 0
        return self.model(Backward.apply(seen, gate))


class Slow(nn.Module):
    """Shows the gradient of two rows of pixels at a time, others at every step."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        row = (x.sum((1, 2, 3)) * 1e4).long() % 8
        rows = nn.functional.one_hot(row, 8) + nn.functional.one_hot((row + 3) % 8, 8)
        return self.model(Backward.apply(x, rows[:, None, :, None]))


def test_more_restarts_still_help(trained, split):
    keys, _ = ringing(Lucky(trained), split)
    assert "more-restarts" in keys
    assert "more-steps" not in keys


def test_more_steps_still_help(trained, digits):
    keys, _ = ringing(Slow(trained), digits.test.subset(200))
    assert "more-steps" in keys


def test_pgd_that_ends_far_from_any_maximum(trained, split):
    keys, found = ringing(Shattered(trained), split)
    assert "fosc" in keys
    assert found["fosc"].value > 0.2
    assert "It stopped far from any maximum" in found["fosc"].sentence
    _, found = ringing(trained, split)
    assert found["fosc"].rings is False
    assert 0 < found["fosc"].value < 0.04
    assert "nats" in found["fosc"].sentence
    assert found["fosc"].sentence.endswith("It has converged.")


def test_no_scale_of_the_logits_changes_whether_pgd_converged(trained, split):
    for factor in (0.1, 10.0):
        _, found = ringing(Scaled(trained, factor), split)
        assert found["fosc"].rings is False
        assert found["fosc"].value < 0.04


def test_the_stationary_condition_is_that_of_a_brute_force(digits):
    """A linear model: c by trying each corner of ball and valid pixels."""
    torch.manual_seed(0)
    images = torch.rand(6, 1, 2, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
    labels = model(images).argmax(1)
    bench = Bench(model, as_images(model, (images, labels)), 0.15, 0, 4)
    alarm = stationary(bench)
    drawing = alarm.drawing
    assert drawing is not None
    standing = bench.reference.nonzero().squeeze(1)
    delta = craft(av.pgd(steps=20, epsilon=0.15), model, bench.images, standing)
    x, y = images[standing], nn.functional.one_hot(labels[standing], 3).float()
    x_hat = (x + delta).requires_grad_(True)
    loss = -(model(x_hat).log_softmax(1) * y).sum()
    (g,) = torch.autograd.grad(loss, x_hat)
    low, high = ball(x, 0.15)
    sides = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(16, 1, 1, 2, 2)
    corners = low + sides * (high - low)
    reached = (corners * g).flatten(2).sum(2)
    now = (delta * g).flatten(1).sum(1)
    best, worst = reached.amax(0), reached.amin(0)
    expected = ((best - now) / (best - worst)).tolist()
    assert drawing.series["images"] == pytest.approx(expected, abs=1e-6)
    assert alarm.value == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_where_nothing_stands_or_has_a_gradient_convergence_is_not_tried(trained, split):
    _, found = ringing(Flat(trained), split.subset(40))
    assert found["fosc"].rings is None
    wide = alarms(evaluate(trained, split), trained, split, epsilon=1.0, count=40, silent=True)
    assert {alarm.key: alarm.rings for alarm in wide}["fosc"] is None


class Noisy(nn.Module):
    """A model behind random pixels."""

    def __init__(self, model, noise=0.05):
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x):
        return self.model(x + self.noise * torch.randn_like(x))


def test_a_random_network_is_probed_over_the_draws_of_its_evaluation(trained, network, split):
    model, everyone = Noisy(trained), torch.random.get_rng_state()
    result = evaluate(model, split, LADDER, draws=4)
    found = alarms(result, model, split, count=60, silent=True)
    assert [alarm.key for alarm in found] == list(SIGNS)
    assert not {alarm.key for alarm in found if alarm.rings} & {"cw", "random-search", "alignment"}
    again = alarms(result, model, split, count=60, silent=True)
    assert [str(alarm) for alarm in again] == [str(alarm) for alarm in found]
    assert torch.equal(everyone, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="does not classify these images as it did"):
        alarms(result, Noisy(network), split, count=60)


# --------------------------------------------------------------------------------- the statistics


def test_limits_are_tested_with_a_bound_and_not_with_the_figure_itself():
    def rings(k, n):
        return share("one-step", k, n, "w", "m", bars({"a": n, "b": n - k}, n)).rings

    assert not rings(6, 200)  # 3 %, but 2 % is not ruled out
    assert rings(12, 200)
    assert rings(300, 10_000)  # 3 %, surely above 2 %
    assert not rings(0, 200)
    one = torch.zeros(100, dtype=torch.bool)

    def stronger(gained, lost):
        weak, strong = one.clone(), one.clone()
        weak[:lost] = True
        strong[lost : lost + gained] = True
        return paired("pgd-above-fgsm", weak, strong, ("a", "b"), "m").rings

    assert not stronger(6, 0)  # 2 ** -6 = 0.016
    assert stronger(7, 0)  # 2 ** -7 = 0.008
    assert not stronger(12, 6)
    assert not stronger(0, 30)


def test_every_alarm_has_a_number_a_sentence_and_a_figure(trained, split):
    found = alarms(evaluate(trained, split, LADDER), trained, split, silent=True)
    for alarm in found:
        assert alarm.sentence.endswith(".")
        if alarm.rings is None:
            with pytest.raises(ValueError, match="was not tried, so there is nothing to draw"):
                alarm.figure()
            assert str(alarm).startswith("[not tried]")
        else:
            assert alarm.value == pytest.approx(alarm.value)
            assert str(alarm).startswith("[silent]")
            figure = alarm.figure()
            assert figure.data
            assert figure.layout.title.text == alarm.name
    radii = {a.key: a for a in found}["radii"].drawing
    assert radii is not None
    assert radii.x == [0.0, 0.075, 0.15, 0.3, 0.6, 1.0]
    assert radii.series["PGD20"][-1] == 0


def test_the_probe_is_the_same_every_time_and_in_every_batch(trained, split):
    result = evaluate(trained, split, LADDER)
    everyone = torch.random.get_rng_state()
    first = [str(alarm) for alarm in alarms(result, trained, split, count=40, silent=True)]
    again = alarms(result, trained, split, count=40, batch_size=25, silent=True)
    assert [str(alarm) for alarm in again] == first
    assert torch.equal(everyone, torch.random.get_rng_state())


def test_random_search_needs_no_gradient_and_no_luck(trained, split):
    search = RandomSearch(EPSILON, 100)
    result = evaluate(Scaled(trained, 1e6), split, [search, av.pgd(steps=20, epsilon=EPSILON)])
    assert result.accuracy("Search100") < result.accuracy("PGD20") - 0.1
    assert result.gradients[1] == 0
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:50]
    some = evaluate(Scaled(trained, 1e6), split.subset(order), [search], batch_size=9)
    assert torch.equal(some.of("Search100"), result.of("Search100")[order])
    more = evaluate(trained, split, [RandomSearch(EPSILON, 10)])
    assert evaluate(trained, split, [search]).accuracy("Search100") < more.accuracy("Search10")
    with pytest.raises(ValueError, match="queries = 0 is not allowed: a whole number, 1 or more"):
        RandomSearch(EPSILON, 0)
    with pytest.raises(ValueError, match="in pixels of 0..255 write 8 / 255"):
        RandomSearch(8)


def test_random_search_stays_in_the_ball_and_in_the_valid_pixels(trained, split):
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return trained(x)

    few = split.subset(torch.arange(10))
    x, _ = few.batch(torch.arange(10))
    evaluate(Watching(), few, [RandomSearch(EPSILON, 30)], check=False)
    for x_hat in (s for s in seen[1:] if len(s) == 10):
        assert (x_hat - x).abs().max() <= EPSILON + 1e-7
        assert x_hat.min() >= 0
        assert x_hat.max() <= 1
    assert len(seen) > 10


# ---------------------------------------------------------------------------------- bad beginnings


def test_what_cannot_be_probed_is_named(trained, network, split, tmp_path):
    result = evaluate(trained, split, LADDER)
    result.save(tmp_path / "correct.npz")
    loaded = Evaluation.load(tmp_path / "correct.npz")
    assert not {"model", "images"} & {field.name for field in fields(loaded)}
    assert av.alarms(loaded, trained, split, count=30) == []
    with pytest.raises(ValueError, match="does not classify these images as it did"):
        av.alarms(loaded, network, split)
    with pytest.raises(ValueError, match="100 images were given, 140 were evaluated"):
        av.alarms(loaded, trained, split.subset(100))
    with pytest.raises(ValueError, match="epsilon is missing: no attack was evaluated"):
        av.alarms(evaluate(trained, split), trained, split)
    clean = evaluate(trained, split)
    assert av.alarms(clean, trained, split, epsilon=EPSILON, count=30) == []


def test_a_model_that_gets_nothing_right_has_nothing_to_hide(trained, split):
    wrong = replace(split, labels=(split.labels + 1) % 10)
    right = evaluate(trained, wrong).of("Clean")
    keys, found = ringing(trained, wrong.subset(~right))
    assert not keys
    assert found["vanishing"].rings is None
