"""Verdicts: exact, cheap, and independent of batch size, order and whatever else runs."""

import json
import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import evaluation, methods
from avmixup_kit.evaluation.autoattack import AutoAttack
from avmixup_kit.evaluation.crafting import craft, starts
from avmixup_kit.evaluation.curves import method_colours
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.evaluation.transfer import transfer_matrix
from avmixup_kit.methods.attacks import ascend, ball
from avmixup_kit.methods.losses import KLToClean, TransportDistance
from avmixup_kit.models.export import CARD

EPSILON = 0.15


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(120)


def brute_force(model, split, attack, seed=0):
    """Every iterate's verdict of every image, nothing skipped: bool (steps + 1, N)."""
    x, y = split.batch(torch.arange(len(split)))
    delta = starts(split, torch.arange(len(split)), attack, seed)
    delta = torch.clamp(delta, *ball(x, attack.epsilon))
    verdicts = []
    for step in range(attack.steps + 1):
        with torch.no_grad():
            verdicts.append(model(x + delta).argmax(1) == y.argmax(1))
        if step < attack.steps:
            delta = ascend(
                lambda x_hat: attack.objective(model(x_hat), y, None).sum(),
                x, delta, attack.epsilon, attack.step, 1,
            )  # fmt: skip
    with torch.no_grad():
        clean = model(x).argmax(1) == y.argmax(1)
    return clean, torch.stack(verdicts)


@pytest.mark.parametrize(
    "attack",
    [av.pgd(steps=20, epsilon=EPSILON), av.cw(steps=20, epsilon=EPSILON)],
    ids=["PGD", "CW"],
)
@pytest.mark.parametrize("batch_size", [7, 32, 500])
def test_any_iterate_verdicts_are_those_of_attacking_everything(trained, split, attack, batch_size):
    clean, iterates = brute_force(trained, split, attack)
    short = replace(attack, steps=10)
    result = evaluate(trained, split, [short, attack], batch_size=batch_size)
    assert torch.equal(result.of("Clean"), clean)
    assert torch.equal(result.of(attack.name), clean & iterates.all(0))
    assert torch.equal(result.of(short.name), clean & iterates[:11].all(0))
    assert 0.05 < result.accuracy(attack.name) < result.accuracy("Clean")
    last = evaluate(trained, split, [short, attack], batch_size=batch_size, rule="last")
    assert torch.equal(last.of(attack.name), clean & iterates[20])
    assert torch.equal(last.of(short.name), clean & iterates[10])


def test_verdicts_do_not_depend_on_batch_size_order_or_company(trained, split, network):
    attacks = [av.fgsm(EPSILON), av.pgd(steps=10, epsilon=EPSILON), av.cw(steps=5, epsilon=EPSILON)]
    whole = evaluate(trained, split, attacks)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(3))
    shuffled = evaluate(trained, split.subset(order), attacks, batch_size=11)
    assert torch.equal(shuffled.correct, whole.correct[:, order])
    alone = evaluate(trained, split.subset(order[:30]), attacks[1:2], batch_size=3)
    assert torch.equal(alone.of("PGD10"), whole.of("PGD10")[order[:30]])


def test_starts_differ_between_images_seeds_and_restarts_and_fill_the_ball(split):
    part = torch.arange(len(split))
    attack = av.pgd(steps=1, epsilon=EPSILON)
    first = starts(split, part, attack, 0)
    assert first.abs().max() <= EPSILON
    assert float(first.std()) == pytest.approx(EPSILON / 3**0.5, rel=0.02)
    assert abs(float(first.mean())) < 0.005
    assert len(first.flatten(1)[:, 0].unique()) == len(split)
    for other in (starts(split, part, attack, 1), starts(split, part, attack, 0, restart=1)):
        assert not torch.equal(first, other)
        assert abs(np.corrcoef(first.flatten(), other.flatten())[0, 1]) < 0.05
    assert torch.equal(starts(split, part.flip(0), attack, 0), first.flip(0))


def test_restarts_only_ever_fool_more(trained, split):
    one = evaluate(trained, split, [av.pgd(steps=3, epsilon=EPSILON)]).correct[1]
    four = evaluate(trained, split, [av.pgd(steps=3, epsilon=EPSILON, restarts=4)]).correct[1]
    assert not (four & ~one).any()
    assert four.sum() < one.sum()


class Counting(nn.Module):
    """Counts the images that pass forward, and those whose gradient is asked for."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images, self.gradients = model, 0, 0

    def forward(self, x):
        self.images += len(x)
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, grad):
        self.gradients += len(grad)


def test_only_standing_examples_cost_gradients(trained, digits):
    """At 45 % clean and about 28 % robust accuracy: at least 2.5 times fewer than attacking all.

    Labels of more than half of the images are replaced by wrong ones, which makes the trained
    network one of 45 % clean accuracy; the radius is chosen for about 28 % robust accuracy.
    """
    split = digits.test.subset(400)
    labels = split.labels.clone()
    labels[180:] = (labels[180:] + 1) % 10
    split = replace(split, labels=labels)
    model = Counting(trained)
    epsilon = next(
        e / 100
        for e in range(4, 30)
        if evaluate(trained, split, [av.pgd(steps=20, epsilon=e / 100)]).accuracy("PGD20") < 0.29
    )
    result = evaluate(model, split, [av.pgd(steps=20, epsilon=epsilon)])
    assert 0.40 < result.accuracy() < 0.47
    assert 0.24 < result.accuracy("PGD20") < 0.29
    assert model.gradients == result.gradients[1]
    everything = 20 * len(split)
    assert everything / model.gradients >= 2.5
    clean, iterates = brute_force(trained, split, av.pgd(steps=20, epsilon=epsilon))
    assert torch.equal(result.of("PGD20"), clean & iterates.all(0))


def test_pgd10_comes_free_with_pgd20(trained, split):
    both, one = Counting(trained), Counting(trained)
    a = evaluate(
        both, split, [av.pgd(steps=10, epsilon=EPSILON), av.pgd(steps=20, epsilon=EPSILON)]
    )
    b = evaluate(one, split, [av.pgd(steps=20, epsilon=EPSILON)])
    assert both.gradients == one.gradients == b.gradients[1] == a.gradients[2]
    alone = evaluate(trained, split, [av.pgd(steps=10, epsilon=EPSILON)])
    assert torch.equal(a.of("PGD10"), alone.of("PGD10"))


def test_evaluation_leaves_model_and_generators_as_they_were(network, split):
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    everyone = torch.random.get_rng_state()
    evaluate(network, split, [av.pgd(steps=3, epsilon=EPSILON, batch_norm="train")])
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.equal(everyone, torch.random.get_rng_state())


def test_what_is_crafted_is_what_was_evaluated(trained, split):
    attack = av.pgd(steps=6, epsilon=EPSILON)
    part = torch.arange(len(split))
    delta = torch.cat([craft(attack, trained, split, p, seed=2) for p in part.split(50)])
    x, y = split.batch(part)
    assert delta.abs().max() <= EPSILON
    assert (x + delta).min() >= 0
    with torch.no_grad():
        right = trained(x + delta).argmax(1) == y.argmax(1)
    clean_and_last = evaluate(trained, split, [attack], seed=2, rule="last")
    assert torch.equal(clean_and_last.correct[1], right & clean_and_last.of("Clean"))


def test_an_attack_with_a_reference_is_evaluated_image_by_image(trained, split):
    kl = av.Attack(KLToClean(), EPSILON, None, 8, "normal")
    wide = evaluate(trained, split, [kl], batch_size=200)
    narrow = evaluate(trained, split, [kl], batch_size=9)
    assert torch.equal(wide.correct, narrow.correct)
    assert wide.accuracy("KL8") < wide.accuracy() - 0.05


def test_the_transfer_matrix_is_table_2(trained, digits, split):
    other = av.small_cnn(digits, seed=9)
    for _ in av.Training(other, digits.train, av.standard(), 100, batch_size=64, seed=9):
        pass
    matrix = transfer_matrix(
        {"PGD": trained, "Standard": other}, split, av.pgd(steps=10, epsilon=EPSILON)
    )
    assert matrix.accuracy.shape == (2, 2)
    own = evaluate(other, split, [av.pgd(steps=10, epsilon=EPSILON)], rule="last")
    assert torch.equal(matrix.correct[1, 1], own.of("PGD10"))
    delta = craft(av.pgd(steps=10, epsilon=EPSILON), other, split, torch.arange(len(split)))
    x, y = split.batch(torch.arange(len(split)))
    with torch.no_grad():
        clean = trained(x).argmax(1) == y.argmax(1)
        right = trained(x + delta).argmax(1) == y.argmax(1)
    assert torch.equal(matrix.correct[0, 1], clean & right)
    assert matrix.accuracy[0, 1] > matrix.accuracy[0, 0]
    assert "defender \\ PGD10 from" in str(matrix)


def test_wilson_and_mcnemar_are_the_textbooks():
    # Wilson (1927) by hand: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    z, n, p = 1.959963984540054, 50, 0.8
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    assert av.wilson(40, 50) == pytest.approx((centre - half, centre + half), rel=1e-9)
    assert av.wilson(0, 10)[0] == 0
    a = torch.tensor([True] * 8 + [False] * 2 + [True] * 10)
    b = torch.tensor([False] * 8 + [True] * 2 + [True] * 10)
    assert av.mcnemar(a, b) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert av.mcnemar(a, a) == 1.0


def test_a_table_shows_n_and_intervals_and_survives_saving(trained, split, tmp_path):
    result = evaluate(
        trained, split, [av.pgd(steps=5, epsilon=EPSILON), av.cw(steps=5, epsilon=EPSILON)], seed=3
    )
    assert "95 % interval" in str(result)
    assert str(len(split)) in str(result)
    assert "worst case" in str(result)
    assert torch.equal(result.worst(), result.correct[0] & result.correct[1] & result.correct[2])
    result.save(tmp_path / "correct.npz")
    back = Evaluation.load(tmp_path / "correct.npz")
    assert torch.equal(back.correct, result.correct)
    assert back.to_json() == result.to_json()
    assert json.loads(json.dumps(result.to_json()))["n"] == len(split)


def test_people_see_a_table_with_half_intervals_or_both_ends_where_they_are_lopsided():
    correct = torch.ones(2, 200, dtype=torch.bool)
    correct[1, :60] = False
    result = Evaluation(("Clean", "<b>PGD"), correct, (0, 0), "any", 0, "", notes=("a < b",))
    low, high = result.interval("<b>PGD")
    assert result.within("<b>PGD") == f"70.0% ± {50 * (high - low):.1f}%"
    assert result.within("Clean") == "100.0% [98.1%, 100.0%]"
    page = cast(Any, result)._repr_html_()
    assert [page.count(f"<{tag}") for tag in ("tr", "td", "b>")] == [3, 6, 0]
    for said in ("&lt;b&gt;PGD", result.within("<b>PGD"), "<td>200", "Note: a &lt; b."):
        assert said in page
    assert repr(result) == str(result) == result.table()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, s: evaluate(m, s, rule=cast(Any, "best")),
            "rule = 'best' is not allowed: one of any, last",
        ),
        (lambda m, s: evaluate(m, s, batch_size=0), "batch_size = 0 is not allowed"),
        (lambda m, s: evaluate(m, s.subset([])), "no images to evaluate"),
        (
            lambda m, s: evaluate(m, s, [av.pgd(steps=2), av.pgd(steps=2)]),
            "two attacks are called PGD2",
        ),
        (
            lambda m, s: evaluate(m, s, [av.Attack(TransportDistance())]),
            "FS10 cannot be evaluated: its images influence each other",
        ),
        (lambda m, s: evaluate(av.small_cnn(7), s), "the class counts disagree"),
        (lambda m, s: evaluate(m, s).of("PGD20"), "'PGD20' was not evaluated: one of Clean"),
        (lambda m, s: evaluation.wilson(3, 2), "successes = 3 of n = 2 is not allowed"),
        (lambda m, s: av.mcnemar(torch.ones(3), torch.ones(4)), "3 and 4 examples cannot be"),
    ],
)
def test_a_bad_call_is_named(trained, split, call, message):
    with pytest.raises(ValueError, match=message):
        call(trained, split)


def test_a_model_that_returns_no_numbers_is_named(digits, split):
    broken = av.small_cnn(digits)
    with torch.no_grad():
        broken.head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits that are not finite"):
        evaluate(broken, split)


def test_a_ladder_attacks_only_what_stands_and_ends_at_the_same_worst_case(trained, split):
    attacks = [
        av.fgsm(EPSILON),
        av.pgd(steps=20, epsilon=EPSILON),
        av.cw(steps=20, epsilon=EPSILON),
    ]
    each, ladder = Counting(trained), Counting(trained)
    apart = evaluate(each, split, attacks)
    result = evaluate(ladder, split, attacks, ladder=True)
    assert torch.equal(result.of("CW20"), apart.worst())
    assert torch.equal(result.worst(), apart.worst())
    assert torch.equal(result.of("FGSM"), apart.of("FGSM"))
    assert torch.equal(result.of("PGD20"), apart.of("FGSM") & apart.of("PGD20"))
    assert sum(result.gradients) == ladder.gradients < each.gradients
    assert not (result.correct[1:] & ~result.correct[:-1]).any()
    short = evaluate(trained, split, [av.pgd(steps=10, epsilon=EPSILON), *attacks], ladder=True)
    assert torch.equal(short.of("CW20"), apart.worst())


def test_a_ladder_of_last_iterates_is_a_worst_case_too(network, split):
    # A later last iterate may be right again where an earlier one was wrong.
    attacks = [av.pgd(steps=steps, epsilon=EPSILON, step_size=2 * EPSILON) for steps in range(1, 9)]
    apart = evaluate(network, split, attacks, rule="last").correct
    assert (apart[1:] & ~apart[:-1]).any()
    ladder = evaluate(network, split, attacks, rule="last", ladder=True).correct
    assert torch.equal(ladder, apart.cummin(0).values)


def test_compare_pairs_images_and_seeds(trained, network, split):
    attack = av.pgd(steps=3, epsilon=EPSILON)
    a, b = evaluate(trained, split, [attack]), evaluate(network, split, [attack])
    one = evaluation.compare(a, b, "PGD3")
    assert one.differences == (pytest.approx(a.accuracy("PGD3") - b.accuracy("PGD3")),)
    assert one.p == av.mcnemar(a.of("PGD3"), b.of("PGD3"))
    d = a.of("PGD3").double() - b.of("PGD3").double()
    half = 1.9801 * float(d.std()) / len(split) ** 0.5  # t, 119 degrees of freedom
    low, high = float(d.mean()) - half, float(d.mean()) + half
    assert one.interval == pytest.approx((low, high), abs=1e-4)
    assert evaluation.compare(a, a).p == 1.0

    def fake(k):
        return replace(a, correct=torch.arange(len(split)).lt(k).expand(2, -1))

    first, second = [fake(k) for k in (60, 64, 62)], [fake(k) for k in (50, 50, 50)]
    found = evaluation.compare(first, second, "worst case")
    values = np.array([10, 14, 12]) / 120
    t = values.mean() / (values.std(ddof=1) / 3**0.5)  # 10.39, two degrees of freedom
    assert found.seeds == 3
    assert found.difference == pytest.approx(0.1)
    assert found.p == pytest.approx(1 - t / (2 + t * t) ** 0.5)
    assert found.interval[0] == pytest.approx(0.1 - 4.30265 * values.mean() / t, abs=1e-5)
    assert "+10.0 points" in str(found)
    assert "3 seeds, n = 120" in str(found)
    # three times 0.1, whose mean is 0.1 but for rounding
    alike = evaluation.compare([fake(72)] * 3, [fake(60)] * 3, "worst case")
    assert alike.p == 0.0
    assert alike.interval == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="3 and 2 seeds cannot be paired"):
        evaluation.compare(first, second[:2])
    with pytest.raises(ValueError, match=r"digits/test \(30 images\) cannot be paired"):
        evaluation.compare(a, evaluate(trained, split.subset(30)))


def test_runs_have_their_methods_colours_and_others_those_that_are_free(trained, network, digits):
    pytest.importorskip("plotly")
    entries = methods.METHODS.entries
    result = av.evaluate(trained, digits.test.subset(20))
    drawn = av.plots.accuracy_bars(dict.fromkeys(("mine", "PGD", "AVmixup", "LS0.8"), result))
    bars: list[Any] = list(drawn.data)
    colours = {bar.name: bar.marker.color for bar in bars}
    assert colours["PGD"] == entries["pgd"].colour
    assert colours["AVmixup"] == entries["avmixup"].colour
    assert len(set(colours.values())) == 4
    named = method_colours(
        {"LS0.8": av.label_smoothing(0.8), "mine": av.methods.Method(mix=cast(Any, len))}
    )
    assert named == {"LS0.8": entries["label_smoothing"].colour, "mine": "#808080"}
    curves = {"LS0.8": {"PGD10, train": ((0, 1), (0.5, 0.6))}}
    drawn = av.plots.accuracy_curves(curves, ["PGD10, train"], colours=named)
    line: Any = drawn.data[0]
    assert line.line.color == named["LS0.8"]


def test_an_evaluation_that_cannot_be_written_leaves_the_one_before_it(
    trained, digits, tmp_path, monkeypatch
):
    result = av.evaluate(trained, digits.test.subset(20))
    result.save(tmp_path / "right")
    before = (tmp_path / "right.npz").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="the file before it is kept"):
        replace(result, seed=1).save(tmp_path / "right.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["right.npz"]
    assert (tmp_path / "right.npz").read_bytes() == before


def test_a_damaged_file_of_verdicts_is_another_s_or_the_same_but_never_other_verdicts(
    trained, split, tmp_path
):
    whole = evaluate(trained, split, [av.pgd(steps=1, epsilon=EPSILON)])
    path, draw = tmp_path / "correct.npz", np.random.default_rng(0)
    whole.save(path)
    content, said = path.read_bytes(), []
    damaged = [content[: int(share * len(content))] for share in np.linspace(0, 0.99, 25)]
    for at in draw.integers(0, 8 * len(content), 400):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        damaged.append(bytes(flipped))
    for torn in damaged:
        path.write_bytes(torn)
        try:
            read = Evaluation.load(path)
        except ValueError as error:
            said.append(str(error))
        else:
            assert str(read) == str(whole)
            assert torch.equal(read.correct, whole.correct)
    assert len(said) > len(damaged) / 2
    form = re.compile(rf"{re.escape(str(path))} is damaged or of another version \(.*\)")
    assert [words for words in said if not form.fullmatch(words)] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": np.array(["Clean"])}, r"matrix = \(2, 2, 2, 'bool'\) is not allowed: \(1, 1, 2"),
        ({"correct": np.zeros((2, 3), np.int8)}, r"matrix = \(2, 2, 2, 'int8'\)"),
        ({"correct": np.zeros(2, bool)}, r"matrix = \(2, 2, 1, 'bool'\)"),
        ({"gradients": np.array([1])}, r"matrix = \(2, 1, 2, 'bool'\)"),
        ({"gradients": np.array(["many", "more"])}, "ValueError: invalid literal for int"),
        ({"more": "[" * 9}, "JSONDecodeError: "),
        ({"more": "[]"}, "AttributeError: 'list' object has no attribute 'get'"),
        ({"more": '{"stages": 1}'}, "AttributeError: 'int' object has no attribute 'items'"),
        ({"more": '{"notes": 1}'}, "TypeError: 'int' object is not iterable"),
        ({"seed": "a"}, "ValueError: invalid literal"),
        ({"rule": None}, "KeyError: "),
    ],
)
def test_a_file_of_other_verdicts_is_refused_with_its_reason(tmp_path, change, reason):
    fields: dict[str, Any] = {
        "names": np.array(["Clean", "FGSM"]), "correct": np.zeros((2, 3), bool), "rule": "any",
        "gradients": np.array([0, 3]), "seed": 0, "data": "digits", "more": "{}",
    }  # fmt: skip
    path = tmp_path / "correct.npz"
    np.savez(path, **fields)
    assert Evaluation.load(path).names == ("Clean", "FGSM")
    np.savez(path, **{k: v for k, v in (fields | change).items() if v is not None})
    with pytest.raises(ValueError, match=rf"correct.npz is damaged or .*{reason}"):
        Evaluation.load(path)


def test_a_card_holds_what_was_measured_and_can_be_exported(trained, split, tmp_path):
    few = split.subset(60)
    quick = AutoAttack(EPSILON, ("apgd-ce",), title="AutoAttack (quick)")
    result = evaluate(trained, few, [av.fgsm(EPSILON), quick])
    made = evaluation.card(result, name="Own", dataset="digits", footnote="mine")
    assert made.keys() >= CARD.keys()
    assert (made["name"], made["dataset"], made["authors"]) == ("Own", "digits", "")
    assert made["clean_acc"] == f"{100 * result.accuracy():.2f}"
    assert made["autoattack_acc"] == f"{100 * result.accuracy('AutoAttack (quick)'):.2f}"
    assert (made["eps"], made["n"], made["number_forward_passes"]) == ("0.15", 60, 1)
    intervals = cast(Any, made["intervals"])
    assert intervals["FGSM"] == pytest.approx([100 * v for v in result.interval("FGSM")], abs=0.01)
    assert made["footnote"] == "mine; autoattack_acc is what AutoAttack (quick) left standing"
    av.export(trained, made, tmp_path / "own")
    assert json.loads((tmp_path / "own.json").read_text())["clean_acc"] == made["clean_acc"]


def test_a_card_says_nothing_of_what_was_not_measured(trained, split):
    plain = evaluation.card(evaluate(trained, split, [av.fgsm(8 / 255)]))
    assert (plain["autoattack_acc"], plain["eps"], plain["footnote"]) == ("", "8/255", "")
    assert evaluation.card(evaluate(trained, split))["eps"] == ""
    standard = AutoAttack(EPSILON, ("apgd-ce",))
    result = evaluate(trained, split.subset(30), [standard])
    assert evaluation.card(result)["footnote"] == ""
    ladder = evaluation.card(replace(result, ladder=True, draws=4))
    assert str(ladder["footnote"]).endswith("AutoAttack left standing after the attacks before it")
    assert ladder["number_forward_passes"] == 4
    with pytest.raises(ValueError, match="clean_acc = 99 is not allowed: it was measured, '"):
        evaluation.card(result, clean_acc=99)
