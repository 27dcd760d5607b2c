"""Random networks: means over draws, followed by attacks, counted and named."""

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.evaluation.autoattack import AutoAttack
from avmixup_kit.evaluation.draws import MeanOverDraws
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation

EPSILON = 0.15


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(100)


class Noisy(nn.Module):
    """A model behind random pixels."""

    def __init__(self, model, noise=0.3):
        super().__init__()
        self.model, self.noise, self.calls = model, noise, 0

    def forward(self, x):
        self.calls += 1
        return self.model(x + self.noise * torch.randn_like(x))


class LeftOn(nn.Module):
    """Monte Carlo dropout: it stays in training mode."""

    def __init__(self, model):
        super().__init__()
        self.model, self.dropout = model, nn.Dropout(0.3)

    def forward(self, x):
        return self.model(self.dropout(x))

    def train(self, mode=True):
        super().train(mode)
        self.dropout.training = True
        return self


def test_the_answer_is_the_log_of_the_mean_probability_and_so_is_its_gradient():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4)).train()
    x = torch.rand(5, 3, 2, 2, requires_grad=True)
    everyone = torch.random.get_rng_state()
    answer = MeanOverDraws(network, 7, seed=3)(x)
    assert torch.equal(everyone, torch.random.get_rng_state())
    seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(3)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mean = torch.stack([network(x).softmax(1) for _ in range(7)]).mean(0)
    torch.testing.assert_close(answer.exp(), mean)
    torch.testing.assert_close(answer.exp().sum(1), torch.ones(5))
    (found,) = torch.autograd.grad(answer[:, 1].sum(), x)
    (by_hand,) = torch.autograd.grad(mean.log()[:, 1].sum(), x)
    torch.testing.assert_close(found, by_hand)


def test_draws_are_fresh_at_each_call_and_repeat_with_the_seed():
    network, x = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train(), torch.rand(5, 1, 4, 4)
    model, again = MeanOverDraws(network, 2, seed=3), MeanOverDraws(network, 2, seed=3)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    assert torch.equal(again(x), first)
    assert torch.equal(again(x), second)


def test_a_random_network_is_refused_and_told_of_draws(trained, split):
    with pytest.raises(ValueError, match=r"not deterministic: .*noise off, .*evaluate.*draws=16"):
        evaluate(Noisy(trained), split, [av.fgsm(EPSILON)])
    with pytest.raises(ValueError, match="stays in training mode"):
        evaluate(LeftOn(trained), split)
    with pytest.raises(ValueError, match="draws = 0 is not allowed: a whole number, 1 or more"):
        evaluate(Noisy(trained), split, draws=0)


@pytest.mark.parametrize("build", [Noisy, LeftOn])
def test_a_random_network_is_evaluated_over_draws_counted_and_named(
    trained, split, build, tmp_path
):
    everyone = torch.random.get_rng_state()
    attacks = [av.fgsm(EPSILON), av.pgd(steps=10, epsilon=EPSILON)]
    model = build(trained).eval()
    result = evaluate(model, split, attacks, draws=8)
    assert torch.equal(everyone, torch.random.get_rng_state())
    assert torch.equal(
        evaluate(build(trained).eval(), split, attacks, draws=8).correct, result.correct
    )
    one = evaluate(model, split, attacks, draws=1)
    assert result.accuracy() > one.accuracy()  # the mean of eight is surer than one
    assert result.accuracy("PGD10") < result.accuracy("FGSM") < result.accuracy()
    assert result.gradients[1] == 8 * int(result.of("Clean").sum())
    (note,) = result.notes
    assert note.startswith("the model is random: every gradient and verdict is about the mean prob")
    assert "of 8 draws (EOT)" in str(result)
    result.save(tmp_path / "correct.npz")
    assert Evaluation.load(tmp_path / "correct.npz").draws == result.to_json()["draws"] == 8


def test_more_draws_attack_a_noisy_network_better(trained, split):
    """What EOT is for: an attack on one draw of strong noise follows the noise."""
    attack, model = [av.pgd(steps=10, epsilon=EPSILON)], Noisy(trained, 0.6)
    crafted = {}
    for draws in (1, 16):
        shown = MeanOverDraws(model, draws)
        parts = torch.arange(len(split))
        crafted[draws] = av.evaluation.craft(attack[0], shown, split, parts)
    x, y = split.batch(torch.arange(len(split)))
    judge = MeanOverDraws(model, 64, seed=9).eval()
    with torch.no_grad():
        right = {n: int((judge(x + d).argmax(1) == y.argmax(1)).sum()) for n, d in crafted.items()}
    assert right[16] < right[1]


def test_a_transferred_row_counts_the_source_alone(trained, split):
    rows = [av.pgd(steps=5, epsilon=EPSILON, source=trained)]
    result = evaluate(Noisy(trained, 0.01), split, rows, draws=4)
    assert result.gradients[1] == 5 * int(result.of("Clean").sum())


def test_autoattack_meets_the_mean_too(trained, split):
    pytest.importorskip("pyautoattack")
    few = split.subset(30)
    result = evaluate(Noisy(trained), few, [AutoAttack(EPSILON, ("apgd-ce",))], draws=4)
    assert result.gradients[1] > 0
    assert result.gradients[1] % 4 == 0
    assert result.accuracy("AutoAttack") < result.accuracy()
    assert len(result.notes) == 2  # in training mode, random: no advice that has been followed


def test_a_mean_made_by_hand_is_the_same_as_asking_for_draws(trained, split):
    model, attacks = Noisy(trained).eval(), [av.pgd(steps=3, epsilon=EPSILON)]
    asked = evaluate(model, split, attacks, draws=4)
    made = evaluate(MeanOverDraws(model, 4, seed=7), split, attacks)
    assert torch.equal(made.correct, asked.correct)
    assert (made.draws, made.gradients, made.notes) == (4, asked.gradients, asked.notes)


def test_a_random_network_has_a_page(trained, split, tmp_path):
    pytest.importorskip("plotly")
    few, everyone = split.subset(40), torch.random.get_rng_state()
    model = Noisy(trained, 0.05).eval()
    result = evaluate(model, few, [av.pgd(steps=20, epsilon=EPSILON)], draws=2)
    path = tmp_path / "report.html"
    av.report(result, model, few, path, sources={"plain": trained})
    assert "of 2 draws (EOT)" in path.read_text()
    assert torch.equal(everyone, torch.random.get_rng_state())


def test_draws_of_a_model_that_has_none_are_noted(trained, split):
    result = evaluate(trained, split, [av.fgsm(EPSILON)], draws=2)
    assert result.notes == ("draws = 2 for a model that answers the same each time: 1 will do",)
    assert torch.equal(result.correct, evaluate(trained, split, [av.fgsm(EPSILON)]).correct)


def test_batch_norm_left_in_training_mode_is_refused_with_draws_too(network, split):
    class Stuck(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network

        def forward(self, x):
            return self.model(x)

        def train(self, mode=True):
            return super().train(True)

    with pytest.raises(ValueError, match=r"stays in training mode after model.eval\(\) \(model"):
        evaluate(Stuck(), split, draws=2)
