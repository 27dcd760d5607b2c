"""FGSM-RS and N-FGSM: one step from noise, the one inside the ball, the other beyond it."""

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.methods import attacks

EPSILON = 0.1
GREY = torch.full((64, 1, 8, 8), 0.5)
CLASSES = torch.arange(64) % 10


def delta_of(attack, network, x=GREY, seed=0):
    return attack(network, x, CLASSES[: len(x)], torch.Generator().manual_seed(seed))


def test_n_fgsm_reaches_3_epsilon_and_no_further_where_no_pixel_ends(network):
    delta = delta_of(attacks.n_fgsm(EPSILON), network)
    assert 2.98 * EPSILON < delta.max() <= 3.0001 * EPSILON
    assert 2.98 * EPSILON < -delta.min() <= 3.0001 * EPSILON
    assert (delta.abs() > EPSILON).float().mean() > 0.5


def test_n_fgsm_is_noise_clipped_to_pixels_plus_a_step_up_the_cross_entropy(network, batch):
    x, y = batch
    noise = torch.empty_like(x).uniform_(
        -2 * EPSILON, 2 * EPSILON, generator=torch.Generator().manual_seed(7)
    )
    start = ((x + noise).clamp(0, 1)).requires_grad_()
    network.eval()
    nn.functional.cross_entropy(network(start), y, reduction="sum").backward()
    assert start.grad is not None
    expected = (start.detach() + EPSILON * start.grad.sign()).clamp(0, 1)
    delta = attacks.n_fgsm(EPSILON)(network, x, y, torch.Generator().manual_seed(7))
    torch.testing.assert_close(x + delta, expected, rtol=0, atol=1e-6)


def test_fgsm_rs_is_a_step_of_a_quarter_more_than_epsilon_inside_the_ball(network, batch):
    attack = attacks.fgsm_rs(EPSILON)
    assert (attack.step, attack.steps, attack.name) == (1.25 * EPSILON, 1, "FGSM-RS")
    pgd = av.pgd(steps=1, epsilon=EPSILON, step_size=1.25 * EPSILON)
    for x in (GREY, batch[0]):
        delta = delta_of(attack, network, x)
        assert delta.abs().max() <= EPSILON
        assert torch.equal(delta, delta_of(pgd, network, x))
    assert attacks.fgsm_rs(EPSILON, step_size=0.03).step == 0.03


def test_both_keep_pixels_valid_and_the_step_size_follows_a_turned_epsilon(network, batch):
    for make in (attacks.fgsm_rs, attacks.n_fgsm):
        x_hat = batch[0] + delta_of(make(0.3), network, batch[0])
        assert (float(x_hat.min()), float(x_hat.max())) == (0.0, 1.0)
        turned = av.Method(make(0.3)).replace(epsilon=0.2).perturb
        assert turned == make(0.2)


def test_noise_and_batch_norm_are_settings_and_an_l2_ball_has_its_own_noise(network, batch):
    assert delta_of(attacks.n_fgsm(EPSILON, noise=0), network).unique().tolist() == pytest.approx(
        [-EPSILON, EPSILON]
    )
    calm, batchwise = (
        delta_of(attacks.n_fgsm(EPSILON, batch_norm=mode), network, batch[0])
        for mode in ("eval", "batch")
    )
    assert not torch.equal(calm, batchwise)
    far = attacks.lengths(delta_of(attacks.n_fgsm(0.5, norm="l2"), network))
    assert 1.0 < far.max() <= 1.5
    with pytest.raises(ValueError, match="noise = -1 is not allowed: times epsilon, 0 or more"):
        attacks.n_fgsm(noise=-1)


def test_an_evaluation_refuses_n_fgsm_in_one_line_and_takes_fgsm_rs(trained, digits):
    few = digits.test.subset(20)
    with pytest.raises(
        ValueError,
        match=r"attacks\[1\] = 'N-FGSM' is not allowed: it leaves the ball of epsilon = 0.1 and is "
        "for training alone; take av.attacks.fgsm_rs",
    ) as caught:
        av.evaluate(trained, few, [av.fgsm(EPSILON), attacks.n_fgsm(EPSILON)])
    assert "\n" not in str(caught.value)
    assert "n_fgsm" not in attacks.ATTACKS
    result = av.evaluate(trained, few, [attacks.fgsm_rs(EPSILON), av.fgsm(EPSILON)])
    assert result.names == ("Clean", "FGSM-RS", "FGSM")


@pytest.mark.parametrize("name", ["fgsm_rs", "n_fgsm"])
def test_both_train_are_named_and_found_again(digits, name, tmp_path):
    method = methods.build(name, epsilon=digits.epsilon)
    assert methods.name_of(method) == name
    assert methods.name_of(method.replace(step_size=0.01, epsilon=0.2)) == name
    assert methods.name_of(methods.pgd(steps=1)) == "pgd"
    assert methods.parse(repr(method)) == method
    assert getattr(methods, f"{name}_training") is methods.METHODS[name]
    model = av.small_cnn(digits, base_channels=4)
    training = av.Training(model, digits.train, av.Dial(method), 30, batch_size=32)
    records = list(av.runs.log(training, tmp_path, curves=robust_curves(digits, 50)))
    assert records[-1].loss < records[0].loss
    assert not any(record.signs for record in records)
    assert av.runs.about(tmp_path)["method"] == method
