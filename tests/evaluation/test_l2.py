"""Evaluations in an l2 ball, and towards a chosen class, hold what those of l-infinity hold."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.evaluation.alarms import alarms
from avmixup_kit.evaluation.attack_signs import Bench
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.evidence import SIGNS
from avmixup_kit.evaluation.gradient_signs import stationary
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.evaluation.transfer import transfer_matrix
from avmixup_kit.methods.attacks import ascend
from avmixup_kit.methods.losses import TargetedCrossEntropy

RADIUS = 0.6
L2 = [
    av.fgsm(RADIUS, norm="l2"),
    av.pgd(steps=20, epsilon=RADIUS, norm="l2"),
    av.cw(steps=20, epsilon=RADIUS, norm="l2"),
]


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(100)


def test_l2_verdicts_are_those_of_attacking_everything(trained, split):
    attack = L2[1]
    everyone = torch.arange(len(split))
    x, y = split.batch(everyone)
    standing = trained(x).argmax(1) == y.argmax(1)
    delta = av.evaluation.starts(split, everyone, attack, 0)
    for steps in range(attack.steps + 1):
        settings = attack.epsilon, attack.step, min(steps, 1)
        delta = ascend(
            lambda x_hat: attack.objective(trained(x_hat), y, None).sum(),
            x, delta, *settings, norm="l2",
        )  # fmt: skip
        standing &= trained(x + delta).argmax(1) == y.argmax(1)
    for size in (7, 256):
        result = evaluate(trained, split, [replace(attack, steps=10), attack], batch_size=size)
        assert torch.equal(result.of("PGD20 l2"), standing)
    assert 0.05 < result.accuracy("PGD20 l2") < result.accuracy("Clean")


def test_the_record_says_which_ball_and_survives_its_file(trained, split, tmp_path):
    result = evaluate(trained, split, L2)
    assert (result.norm, result.epsilon, result.notes) == ("l2", RADIUS, ())
    assert result.ball == "l2 ball of radius 0.6"
    assert result.to_json()["norm"] == "l2"
    result.save(tmp_path / "correct.npz")
    assert Evaluation.load(tmp_path / "correct.npz").to_json() == result.to_json()
    assert evaluate(trained, split, [av.fgsm(0.15)]).ball == "epsilon = 0.15"


def test_attacks_of_two_norms_stand_side_by_side_and_a_note_says_whose_epsilon_it_is(
    trained, split
):
    both = evaluate(trained, split, [av.pgd(steps=20, epsilon=0.1), *L2])
    assert (both.norm, both.epsilon) == ("linf", 0.1)
    assert "attacks of two norms were tried; epsilon is that of l-infinity" in both.notes
    assert torch.equal(both.of("PGD20 l2"), evaluate(trained, split, L2).of("PGD20 l2"))


def test_an_l2_evaluation_of_an_honest_network_is_silent(trained, split):
    result = evaluate(trained, split, L2)
    found = alarms(result, trained, split, silent=True)
    assert [alarm.key for alarm in found] == list(SIGNS)
    assert [alarm.key for alarm in found if alarm.rings] == []
    said = {alarm.key: alarm.sentence for alarm in found}
    assert said["cw"].startswith("CW20 l2, the margin loss, fools images that PGD20 l2 could not")
    assert "at radius 8, where any image can become any other, PGD20 l2" in said["radii"]
    assert "under FGSM l2" in said["fgsm-above-clean"]


def test_fosc_in_an_l2_ball_is_its_formula(trained, split):
    bench = Bench(trained, split.subset(30), RADIUS, 0, 256, "l2")
    part = bench.reference.nonzero().squeeze(1)
    x, y = bench.images.batch(part)
    delta = craft(bench.pgd20(), trained, bench.images, part)
    x_hat = (x + delta).requires_grad_()
    loss = -(trained(x_hat).log_softmax(1) * y).sum()
    (gradient,) = torch.autograd.grad(loss, x_hat)
    best = RADIUS * gradient.flatten(1).norm(dim=1)
    gain = best - (delta * gradient).flatten(1).sum(1)
    found = stationary(bench)
    assert found.value == pytest.approx(float((gain / (2 * best)).mean()), abs=1e-4)
    assert 0 < found.value < 0.1


class Saturated(nn.Module):
    """Large logits: the cross-entropy's gradient is zero for all that is right."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return 1e4 * self.model(x)


def test_an_l2_evaluation_of_hidden_gradients_rings(trained, split):
    model = Saturated(trained).eval()
    result = evaluate(model, split, L2)
    keys = {alarm.key for alarm in av.alarms(result, model, split)}
    assert {"cw", "random-search", "radii", "vanishing"} <= keys


def test_random_search_finds_l2_examples_inside_the_ball(trained, split):
    class Watched(nn.Module):
        def forward(self, z):
            seen.append(z)
            return trained(z)

    seen: list[torch.Tensor] = []
    search = RandomSearch(RADIUS, 300, "l2")
    alone = evaluate(trained, split.subset([4, 7]), [search], batch_size=1).of(search.name)
    whole = evaluate(trained, split, [search], batch_size=64)
    assert torch.equal(whole.of(search.name)[[4, 7]], alone)
    assert whole.accuracy(search.name) < whole.accuracy("Clean") - 0.05
    one = split.subset([4])
    evaluate(Watched().eval(), one, [search], check=False)
    x, _ = one.batch(torch.arange(1))
    far = torch.cat(seen) - x
    assert float(far.double().flatten(1).norm(dim=1).max()) <= RADIUS + 1e-6


def test_transfer_and_autoattack_under_l2_have_their_rows_read(trained, network, split):
    pytest.importorskip("pyautoattack")
    lent = replace(L2[1], source=network)
    strong = av.autoattack(RADIUS, "quick", norm="l2", queries=100, targets=1)
    result = evaluate(trained, split, [*L2, lent, strong])
    assert result.names[-2:] == (
        "PGD20 l2 (transfer)",
        "AutoAttack (quick, targets=1, queries=100) l2",
    )
    found = {alarm.key: alarm for alarm in alarms(result, trained, split, silent=True)}
    assert found["transfer"].rings is False
    assert found["square"].rings is False
    assert found["autoattack"].rings is False
    assert strong.name in found["autoattack"].sentence
    matrix = transfer_matrix({"a": trained, "b": network}, split.subset(20), L2[1])
    assert matrix.attack == "PGD20 l2"


def test_the_report_of_an_l2_evaluation_speaks_of_its_ball(trained, split, tmp_path):
    pytest.importorskip("plotly")
    few = split.subset(40)
    av.report(evaluate(trained, few, L2), trained, few, tmp_path / "page.html")
    page = " ".join((tmp_path / "page.html").read_text().split())
    assert "l2 ball of radius 0.6" in page
    assert "change an image by an l2 length of at most" in page
    assert "every pixel" not in page
    assert "Under PGD20 in the l2 ball of radius 0.6, worst first." in page


# -------------------------------------------------------------------------------- a chosen class


@pytest.mark.parametrize("lent", [False, True])
def test_images_of_the_chosen_class_are_not_attacked_and_counted_so(trained, network, split, lent):
    attack = av.pgd(steps=10, epsilon=0.15, target=3, source=network if lent else None)
    result = evaluate(trained, split, [attack], batch_size=16)
    own = split.labels == 3
    assert torch.equal(result.of(attack.name)[own], result.of("Clean")[own])
    count = int(own.sum())
    note = f"{attack.name}: {count} of 100 images are of class 3, which it aims at, and were not"
    assert any(each.startswith(note) for each in result.notes)
    if not lent:
        assert result.accuracy(attack.name) < result.accuracy("Clean")
        assert result.gradients[1] <= 10 * int((result.of("Clean") & ~own).sum())


def test_a_class_that_is_not_there_is_refused_before_the_first_attack(trained, split):
    class Paid(nn.Module):
        def forward(self, x):
            assert not x.requires_grad, "an attack was run"
            return trained(x)

    first = av.pgd(steps=1, epsilon=0.1)
    with pytest.raises(ValueError, match="target = 10 is not allowed: 0 to 9, the model has 10 cl"):
        evaluate(Paid().eval(), split, [first, av.pgd(target=10)])
    with pytest.raises(ValueError, match="rank = 10 is not allowed: there are 9 wrong classes"):
        evaluate(Paid().eval(), split, [first, av.Attack(TargetedCrossEntropy(10))])
