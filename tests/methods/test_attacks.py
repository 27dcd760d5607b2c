"""Every attack keeps one contract, which a do-nothing attack breaks, and matches known oracles."""

import copy
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import avmixup_kit as av
from avmixup_kit import attacks
from avmixup_kit.methods import balls, losses
from avmixup_kit.methods.attacks import NoAttack, frozen
from avmixup_kit.methods.losses import KLToClean, TransportDistance

EPSILON = 0.15

ALL = {
    "FGSM": av.fgsm(EPSILON),
    "PGD10": av.pgd(steps=10, epsilon=EPSILON),
    "PGD5x3": av.pgd(steps=5, epsilon=EPSILON, restarts=3),
    "CW10": av.cw(steps=10, epsilon=EPSILON),
    "KL": av.Attack(KLToClean(), EPSILON, None, 10, "normal", False),
    "FS": av.Attack(TransportDistance(), EPSILON, EPSILON, 1, clip_start=False),
    "batch": av.pgd(steps=5, epsilon=EPSILON, batch_norm="batch"),
    "train": av.pgd(steps=5, epsilon=EPSILON, batch_norm="train"),
    "huge step": av.pgd(steps=3, epsilon=1.0, step_size=5.0),
}


def contract(attack, model, x, y, objective, epsilon, *, updates_norm=False):
    """What every attack must do; raises AssertionError where it does not."""
    model = copy.deepcopy(model).train()
    model.body[0].eval()  # a mixed state, which must come back as it was
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    images, labels = x.clone(), y.clone()
    everyone = torch.random.get_rng_state()
    delta = attack(model, x, y, torch.Generator().manual_seed(0))

    assert delta.shape == x.shape
    assert not delta.requires_grad
    assert delta.abs().max() <= epsilon
    assert (x + delta).min() >= 0
    assert (x + delta).max() <= 1
    assert torch.equal(everyone, torch.random.get_rng_state()), "the global generator moved"
    assert torch.equal(x, images)
    assert torch.equal(y, labels)
    assert [m.training for m in model.modules()] == modes, "training modes changed"
    assert [p.requires_grad for p in model.parameters()] == wanted
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    unchanged = all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert unchanged != updates_norm, "batch norm's running averages"
    with torch.no_grad(), frozen(model, getattr(attack, "batch_norm", "eval")):
        reference = objective.reference(model, x)
        climbed = objective(model(x + delta), y, reference)
        started = objective(model(x), y, reference)
    assert (climbed.sum() - started.sum()) > 0.03, "the objective was not raised"


@pytest.mark.parametrize("name", ALL)
def test_every_attack_keeps_the_contract(name, trained, batch: tuple[Tensor, Tensor]):
    attack = ALL[name]
    contract(
        attack, trained, *batch, attack.objective, attack.epsilon, updates_norm=name == "train"
    )


def test_the_contract_rejects_an_attack_that_does_nothing(trained, batch: tuple[Tensor, Tensor]):
    with pytest.raises(AssertionError, match="not raised"):
        contract(NoAttack(), trained, *batch, losses.LabelCrossEntropy(), EPSILON)


def test_the_contract_rejects_noise_and_leaving_the_ball(trained, batch: tuple[Tensor, Tensor]):
    def noise(model, x, y, rng):
        return torch.clamp(
            torch.empty_like(x).uniform_(-EPSILON, EPSILON, generator=rng) * 0.2,
            *attacks.ball(x, EPSILON),
        )

    with pytest.raises(AssertionError, match="not raised"):
        contract(noise, trained, *batch, losses.LabelCrossEntropy(), EPSILON)
    with pytest.raises(AssertionError):
        contract(
            av.pgd(steps=10, epsilon=EPSILON * 1.01),
            trained,
            *batch,
            losses.LabelCrossEntropy(),
            EPSILON,
        )


@pytest.mark.parametrize("kind", ["pgd", "fgsm"])
def test_pgd_and_fgsm_equal_foolboxs_from_the_same_start(kind, trained, batch):
    foolbox = pytest.importorskip("foolbox")
    eagerpy = pytest.importorskip("eagerpy")
    x, y = batch
    theirs = foolbox.PyTorchModel(trained, bounds=(0, 1), device="cpu")
    labels = y.argmax(1)
    if kind == "pgd":
        attack = foolbox.attacks.LinfPGD(abs_stepsize=0.03, steps=10, random_start=False)
        ours = av.pgd(steps=10, epsilon=EPSILON, step_size=0.03, start="zero")
    else:
        attack = foolbox.attacks.FGSM(random_start=False)
        ours = av.fgsm(EPSILON)
    adversarial = attack.run(
        theirs,
        eagerpy.astensor(x),
        foolbox.criteria.Misclassification(eagerpy.astensor(labels)),
        epsilon=EPSILON,
    ).raw
    x_hat = x + ours(trained, x, y)
    same = (adversarial - x_hat).abs() < 1e-6
    assert same.float().mean() > 0.999  # signs of gradients that are zero up to rounding


def test_pgd_equals_a_plain_loop(trained, batch):
    x, y = batch
    rng = torch.Generator().manual_seed(4)
    delta = av.pgd(steps=6, epsilon=EPSILON, step_size=0.04)(trained, x, y, rng)
    rng = torch.Generator().manual_seed(4)
    expected = (x + (torch.rand(x.shape, generator=rng) * 2 - 1) * EPSILON).clamp(0, 1)
    for _ in range(6):
        expected.requires_grad_(True)
        loss = nn.functional.cross_entropy(trained(expected), y.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, expected)
        with torch.no_grad():
            expected = expected + 0.04 * gradient.sign()
            expected = torch.min(torch.max(expected, x - EPSILON), x + EPSILON).clamp(0, 1)
    assert ((x + delta - expected).abs() < 1e-6).float().mean() > 0.999


def test_cw_climbs_the_margin_loss_with_its_kappa():
    y = torch.eye(3)
    logits = torch.tensor([[5.0, 1.0, 2.0], [9.0, 1.0, 0.0], [0.0, 4.0, 1.0]])
    torch.testing.assert_close(losses.margin(logits, y), torch.tensor([3.0, -8.0, -3.0]))
    objective = losses.Margin(kappa=5.0)
    torch.testing.assert_close(objective(logits, y, None), torch.tensor([-8.0, 0.0, -2.0]))
    logits.requires_grad_(True)
    losses.Margin()(logits, y, None).sum().backward()
    expected = torch.tensor([[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    torch.testing.assert_close(logits.grad, expected)


def test_integer_labels_are_one_hot_labels(trained, batch):
    x, y = batch
    attack = av.pgd(steps=3, epsilon=EPSILON, start="zero")
    assert torch.equal(attack(trained, x, y.argmax(1)), attack(trained, x, y))


def test_restarts_never_lower_the_objective(trained, batch):
    x, y = batch

    def value(restarts):
        attack = av.pgd(steps=3, epsilon=EPSILON, restarts=restarts)
        delta = attack(trained, x, y, torch.Generator().manual_seed(0))
        with torch.no_grad():
            return losses.soft_cross_entropy(trained(x + delta), y)

    one, five = value(1), value(5)
    assert (five >= one - 1e-5).all()
    assert (five > one + 1e-4).any()


def test_a_source_lends_its_gradients(trained, network, batch):
    x, y = batch
    network.eval()
    lent = av.pgd(steps=5, epsilon=EPSILON, source=network)(
        trained, x, y, torch.Generator().manual_seed(1)
    )
    own = av.pgd(steps=5, epsilon=EPSILON)(network, x, y, torch.Generator().manual_seed(1))
    assert torch.equal(lent, own)
    assert av.pgd(steps=5, epsilon=EPSILON, source=network).name == "PGD5 (transfer)"


@pytest.mark.parametrize("start", ["uniform", "normal", "zero"])
def test_the_start_is_drawn_as_it_says(start, batch):
    x, _ = batch
    x = x.clamp(0.3, 0.7)
    attack = replace(av.pgd(steps=1, epsilon=EPSILON), start=start)
    first = attack.first_delta(x, torch.Generator().manual_seed(0))
    spread = {"uniform": EPSILON / 3**0.5, "normal": 0.001, "zero": 0.0}[start]
    assert float(first.std()) == pytest.approx(spread, rel=0.05)


def test_a_random_start_needs_a_generator(trained, batch):
    with pytest.raises(ValueError, match="pass rng"):
        av.pgd(steps=3, epsilon=EPSILON)(trained, *batch)


def test_clip_start_keeps_the_first_iterate_in_the_valid_pixels(batch):
    x, _ = batch
    rng = torch.Generator().manual_seed(0)
    assert (x + replace(ALL["FS"]).first_delta(x, rng)).min() < 0
    assert (x + av.pgd(steps=1, epsilon=EPSILON).first_delta(x, rng)).min() >= 0


def test_batch_norm_modes_differ(trained, batch):
    x, y = batch
    trained = copy.deepcopy(trained)
    crafted = {
        mode: av.pgd(steps=5, epsilon=EPSILON, start="zero", batch_norm=mode)(trained, x, y)
        for mode in ("eval", "batch", "train")
    }
    assert not torch.equal(crafted["eval"], crafted["batch"])
    assert torch.equal(crafted["batch"], crafted["train"])


def test_a_failing_model_is_left_as_it_was(network, batch):
    network.train()
    with pytest.raises(ValueError, match="not allowed"):
        av.pgd(steps=2, epsilon=EPSILON, batch_norm="batch")(
            network, batch[0][:, :, :4], batch[1], torch.Generator()
        )
    assert all(m.training for m in network.modules())
    assert all(p.requires_grad for p in network.parameters())
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.track_running_stats for m in norms)


def test_the_ball_is_kept_exactly_at_every_rounding():
    x = torch.rand(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for epsilon in (8 / 255, 0.031, 0.15, 1.0):
        low, high = attacks.ball(x, epsilon)
        for edge in (low, high):
            assert ((x + edge) >= 0).all()
            assert ((x + edge) <= 1).all()
            assert (edge.abs() <= epsilon).all()


# -------------------------------------------------------------- the deterministic cost of crafting


class Count:
    """Forwards, input gradients and weight gradients, counted with hooks."""

    def __init__(self, model):
        self.forwards = self.inputs = self.weights = 0
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        model.register_forward_hook(lambda *_: setattr(self, "forwards", self.forwards + 1))
        first.register_forward_pre_hook(self._watch)
        for parameter in model.parameters():
            parameter.register_hook(self._weight)

    def _watch(self, module, arguments):
        if arguments[0].requires_grad:
            arguments[0].register_hook(self._input)

    def _input(self, grad):
        self.inputs += 1

    def _weight(self, grad):
        self.weights += 1


@pytest.mark.parametrize("mode", ["eval", "batch", "train"])
@pytest.mark.parametrize(
    "attack",
    [av.pgd(steps=10, epsilon=EPSILON), av.cw(steps=10, epsilon=EPSILON)],
    ids=["PGD", "CW"],
)
def test_ten_steps_cost_ten_forwards_ten_input_gradients_and_no_weight_gradient(
    digits, batch, attack, mode, rng
):
    model = av.small_cnn(digits)
    count = Count(model)
    replace(attack, batch_norm=mode)(model, *batch, rng)
    assert (count.forwards, count.inputs, count.weights) == (10, 10, 0)


def test_one_avmixup_step_costs_ten_crafting_passes_and_one_full_pass(digits):
    model = av.small_cnn(digits)
    training = av.Training(model, digits.train, av.avmixup(epsilon=EPSILON), 1)
    count = Count(model)
    next(training)
    parameters = len(list(model.parameters()))
    assert (count.forwards, count.inputs, count.weights) == (11, 10, parameters)


def test_no_gradient_lives_on_into_the_next_forward(digits, batch, rng, monkeypatch):
    """One that a CUDA graph wrote would make the next replay a capture: 22 graphs instead of 4."""
    living, direction = [], balls.direction

    def noted(gradient, norm):
        living.append(weakref.ref(gradient))
        return direction(gradient, norm)

    def looked_at(module, arguments):
        assert not any(gradient() is not None for gradient in living)

    monkeypatch.setattr(balls, "direction", noted)
    model = av.small_cnn(digits)
    model.register_forward_pre_hook(looked_at)
    av.pgd(steps=3, epsilon=EPSILON)(model, batch[0], batch[1], rng)
    assert len(living) == 3


def test_the_count_sees_wasted_work(digits, batch):
    model = av.small_cnn(digits)
    count = Count(model)
    x = batch[0].clone().requires_grad_(True)
    model(x).sum().backward()
    assert (count.forwards, count.inputs) == (1, 1)
    assert count.weights == len(list(model.parameters()))
