"""Methods since the paper: their formulas, the identities between them, and who takes gradients."""

import ast
import copy
import inspect
import json
import math
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import cli, methods, runs
from avmixup_kit.methods import asked, losses
from avmixup_kit.methods.asked import Ensembled, Helped, Rectified
from avmixup_kit.methods.attacks import TRAINING
from avmixup_kit.methods.batch import Memory, Networks, answer
from avmixup_kit.methods.labels import one_hot
from avmixup_kit.methods.losses import CleanAndAdversarial
from avmixup_kit.methods.mixing import AsClimbed, AVmixup, Mixup
from avmixup_kit.methods.weights import AWP
from avmixup_kit.search import Plan

EPSILON = 0.15
ANY: dict[str, Any] = {
    "number": 2.5, "single": (0.5,), "mean": "mean", "far": "far", "attack": TRAINING,
}  # fmt: skip
CRAFTING: dict[str, Any] = {"epsilon": EPSILON, "steps": 2}
NEW = (
    "adversarial_mixup", "mart", "hat", "adr", "alp", "lse", "trades_lse", "iat",
    "temporal_ensembling", "pgd_awp", "trades_awp",
)  # fmt: skip


def built(name, **settings):
    return methods.build(name, **CRAFTING, **settings)


def new(digits, method, steps=6, *, seed=2, **options):
    model = av.small_cnn(digits, seed=seed, base_channels=4)
    chosen: dict[str, Any] = {"batch_size": 32, "seed": 4, "lr": 0.05} | options
    return av.Training(model, digits.train, method, steps, **chosen)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def after(digits, method, steps=4, **options):
    """The trained network, weights and buffers, after some steps."""
    training = new(digits, method, steps, **options)
    list(training)
    return training.model


@pytest.fixture(scope="session")
def standard(digits) -> nn.Module:
    """A network trained on clean images: HAT's teacher."""
    trained = after(digits, av.standard(), 40, seed=9)
    trained.zero_grad()
    return trained


class Truth(nn.Module):
    """Names what each image of the training set is, as long as no pixel moves it elsewhere."""

    def __init__(self, split):
        super().__init__()
        self.register_buffer("images", split.batch(range(len(split)))[0].flatten(1))
        self.register_buffer("labels", split.labels)

    def forward(self, x):
        nearest = torch.cdist(x.flatten(1), self.get_buffer("images")).argmin(1)
        return 9.0 * one_hot(self.get_buffer("labels")[nearest], 10)


# --------------------------------------------------------------------------- identities, formulas


def test_hat_with_weight_0_is_trades(digits, standard):
    trades = methods.trades(2.5, epsilon=EPSILON, step_size=None, steps=2)
    assert same(after(digits, built("hat", weight=0.0), teacher=standard), after(digits, trades))
    assert not same(after(digits, built("hat"), teacher=standard), after(digits, trades))


def test_hat_with_h_1_and_hard_labels_is_clean_plus_pgd(digits):
    small: dict[str, Any] = {"epsilon": 0.02, "steps": 1}  # no digit becomes another's neighbour
    hat = methods.hat(Truth(digits.train), 1.0, 0.0, 0.7, **small)
    both = hat.replace(loss=CleanAndAdversarial(0.7))
    for mine, theirs in zip(
        after(digits, hat, 1).parameters(), after(digits, both, 1).parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_hats_loss_is_its_formula_with_the_teachers_word_at_the_adversarial_image(
    network, standard, batch
):
    x, y = batch
    network.eval()
    delta = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).sign()
    delta = (x + delta).clamp(0, 1) - x
    step = av.Batch(x, y, delta=delta, x_hat=x + delta, y_hat=y)
    named = standard(x + delta).argmax(1)
    assert (named != y.argmax(1)).any()
    trades = losses.Trades(2.5)(network, step)
    expected = trades + 0.5 * nn.functional.cross_entropy(network(x + 3.5 * delta), named)
    for teacher, model in ((standard, network), (None, Networks(network, teacher=standard))):
        torch.testing.assert_close(Helped(teacher=teacher)(model, step), expected)


def test_adr_with_interpolation_0_is_pgd(digits):
    rectified = built("adr", interpolation=(0.0, 0.0))
    assert same(after(digits, rectified), after(digits, methods.pgd(**CRAFTING)))
    assert not same(after(digits, built("adr")), after(digits, methods.pgd(**CRAFTING)))


def test_adrs_label_keeps_the_true_class_first_and_follows_a_cosine(digits, network, standard):
    x, y = digits.train.batch(range(200))
    model, source = Networks(network, averaged=standard), Rectified()
    for progress, temperature, most in ((0.0, 2.5, 0.7), (0.5, 2.25, 0.825), (1.0, 2.0, 0.95)):
        label = source.label(model, av.Batch(x, y, progress=progress))
        q = (standard(x) / temperature).softmax(1)
        lead = q.max(1).values - q[y.bool()]
        share = (most - lead).clamp(0, 1)[:, None]
        torch.testing.assert_close(label, share * q + (1 - share) * y)
        assert torch.equal(label.argmax(1), y.argmax(1))
    assert (standard(x).argmax(1) != y.argmax(1)).any()


def test_adr_climbs_and_descends_one_label_asked_of_the_clean_image(network, standard, batch):
    x, y = batch
    seen: list[Any] = []

    class Attacked(av.Attack):
        def __call__(self, model, x, y=None, rng=None):
            assert isinstance(x, av.Batch)
            seen.append(x.y)
            return super().__call__(model, x, y, rng)

    source = Rectified(Attacked(epsilon=EPSILON, steps=1))
    step = av.Batch(x, y, rng=torch.Generator().manual_seed(1), progress=0.3)
    model = Networks(network, averaged=standard)
    step.delta = source(model, step)
    step.x_hat, step.y_hat = methods.adr().mix(model, step)
    assert step.y_hat is seen[0]
    assert torch.equal(step.y_hat, source.label(model, av.Batch(x, y, progress=0.3)))
    assert torch.equal(step.x_hat, x + step.delta)


@pytest.mark.parametrize(
    "method", [methods.pgd(**CRAFTING), built("iat"), methods.avmixup(**CRAFTING)]
)
def test_awp_with_rho_0_is_its_method(digits, method):
    assert same(after(digits, av.awp(method, 0.0)), after(digits, method))
    assert not same(after(digits, av.awp(method, 0.02)), after(digits, method))


def test_awp_takes_the_gradient_where_kernels_are_moved_and_updates_from_where_they_were(
    digits, network
):
    x, y = digits.train.batch(range(32))
    step = av.Batch(x, y, x_hat=x, y_hat=y)
    network.train()
    twin, other = copy.deepcopy(network), copy.deepcopy(network)
    losses.CrossEntropy()(twin, step).backward()
    for mine, theirs in zip(other.parameters(), twin.parameters(), strict=True):
        assert theirs.grad is not None
        if theirs.ndim > 1:
            ratio = 0.05 * theirs.detach().norm() / theirs.grad.norm()
            mine.data += ratio * theirs.grad
    losses.CrossEntropy()(other, step).backward()

    def again():
        network.zero_grad()
        losses.CrossEntropy()(network, step).backward()

    again()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    AWP(0.05)(network, step, again)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_weights_are_where_they_were_when_awps_second_pass_fails(network, batch):
    x, y = batch
    losses.CrossEntropy()(network, av.Batch(x, y, x_hat=x, y_hat=y)).backward()
    before = copy.deepcopy(network)

    def fails():
        assert not same(network, before)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        AWP(0.05)(network, av.Batch(x, y), fails)
    assert same(network, before)


def test_awp_waits_until_a_part_of_the_steps_is_done(digits):
    pgd = methods.pgd(**CRAFTING)
    late, plain = (new(digits, m, 8) for m in (av.awp(pgd, 0.05, since=0.5), pgd))
    equal = []
    for _ in zip(late, plain, strict=True):
        equal.append(same(late.model, plain.model))
    assert equal == [True] * 4 + [False] * 4


def test_mart_is_its_formula_in_double_precision(network, batch):
    x, y = batch
    network.double().eval()
    x, y = x.double(), y.double()
    x_hat = (x + 0.2).clamp(0, 1)
    found = losses.Mart(5.0)(network, av.Batch(x, y, x_hat=x_hat, y_hat=y))

    def probabilities(images):
        z = network(images).detach().numpy()
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q, labels, n = probabilities(x), probabilities(x_hat), y.argmax(1).numpy(), len(x)
    total = 0.0
    for i in range(n):
        rivals = [q[i, k] for k in range(10) if k != labels[i]]
        boosted = -math.log(q[i, labels[i]]) - math.log(1.0001 - max(rivals) + 1e-12)
        kl = sum(p[i, k] * (math.log(p[i, k]) - math.log(q[i, k] + 1e-12)) for k in range(10))
        total += boosted + 5.0 * kl * (1.0000001 - p[i, labels[i]])
    assert float(found.detach()) == pytest.approx(total / n, rel=1e-9)


def test_adversarial_mixup_with_alpha_1_is_pgd_training(digits):
    still: dict[str, Any] = {**CRAFTING, "start": "zero"}  # partners are drawn all the same
    mixed = methods.adversarial_mixup(**still).replace(alpha=1.0)
    assert same(after(digits, mixed), after(digits, methods.pgd(**still)))
    assert methods.adversarial_mixup(**CRAFTING).parameters["a"] == 1.4


def test_alp_lse_and_iat_are_their_formulas(network, batch):
    x, y = batch
    network.eval()
    x_hat = (x + 0.2).clamp(0, 1)
    step = av.Batch(x, y, rng=torch.Generator().manual_seed(0), x_hat=x_hat, y_hat=y)
    z, z_hat = network(x), network(x_hat)
    p, q = z.softmax(1), z_hat.softmax(1)
    ce = nn.functional.cross_entropy
    paired = (ce(z, y) + ce(z_hat, y)) / 2 + 0.3 * ((z - z_hat) ** 2).sum(1).mean()
    torch.testing.assert_close(losses.LogitPairing(0.3)(network, step), paired)
    torch.testing.assert_close(losses.SquaredError()(network, step), ((q - y) ** 2).sum(1).mean())
    squared = ((p - y) ** 2).sum(1).mean() + 4.0 * ((q - p) ** 2).sum(1).mean()
    torch.testing.assert_close(losses.SquaredTrades()(network, step), squared)
    torch.testing.assert_close(losses.SquaredToClean()(z_hat, y, z), ((q - p) ** 2).sum(1))
    unmixed = losses.Interpolated(av.Mixup(alpha=1.0))(network, step)
    torch.testing.assert_close(unmixed, (ce(z, y) + ce(z_hat, y)) / 2)
    mixed = losses.Interpolated(av.Mixup(1.0))
    state = torch.Generator().manual_seed(5)
    step.rng = torch.Generator().manual_seed(5)
    found = mixed(network, step)
    expected = 0.0
    for images in (x, x_hat):
        pairs = av.Batch(x, y, rng=state, delta=images - x)
        images, label = av.Mixup(1.0)(network, pairs)
        expected = expected + losses.soft_cross_entropy(network(images), label).mean() / 2
    torch.testing.assert_close(found, expected)


# ----------------------------------------------------------------------- AVmixup's other labels


@pytest.mark.parametrize("label", ["averaged", "teacher"])
def test_avmixup_with_lambda_1_everywhere_has_hard_labels_whoever_is_asked(digits, standard, label):
    options = {"average": 0.9, "teacher": standard}
    hard = methods.avmixup(2.0, 1.0, 1.0, **CRAFTING)
    asked = methods.avmixup(2.0, 1.0, 1.0, label=label, **CRAFTING)
    assert same(after(digits, asked, **options), after(digits, hard, **options))
    softer = methods.avmixup(2.0, 1.0, 0.9, label=label, **CRAFTING)
    assert not same(after(digits, softer, **options), after(digits, hard, **options))


@pytest.mark.parametrize("label", ["averaged", "teacher"])
def test_who_is_asked_places_what_lambda2_leaves_at_the_image_that_is_named(
    network, standard, trained, batch, label
):
    x, y = batch
    delta = torch.full_like(x, 0.1)
    model = Networks(network, averaged=standard, teacher=trained)
    asked = standard if label == "averaged" else trained
    assert AVmixup(2.0, 1.0, 0.1, label=label).asked_at == "adversarial"
    places: dict[Any, torch.Tensor] = {
        "clean": x, "adversarial": x + delta, "vertex": x + 2 * delta
    }  # fmt: skip
    mix = AVmixup(2.0, 0.9, 0.3, label=label, alpha=0.0)
    assert methods.parse(repr(mix)) == mix
    for place, image in places.items():
        mix = AVmixup(2.0, 0.9, 0.3, label=label, asked_at=place, alpha=0.0)
        x_hat, y_hat = mix(model, av.Batch(x, y, delta=delta))
        torch.testing.assert_close(x_hat, x + 2 * delta)
        torch.testing.assert_close(y_hat, 0.3 * y + 0.7 * asked(image).softmax(1))
        x_hat, y_hat = mix.__class__(**{**vars(mix), "alpha": 1.0})(
            model, av.Batch(x, y, delta=delta)
        )
        torch.testing.assert_close(y_hat, methods.labels.smooth(y, 0.9))
    assert "label" not in repr(AVmixup())


# ------------------------------------------------------------------------ temporal ensembling


def test_temporal_ensembling_remembers_each_image_and_draws_attack_and_loss_to_it(network, batch):
    x, y = batch
    memory, index = Memory(100), torch.arange(32) + 50
    rng, source = torch.Generator(), Ensembled(TRAINING, weight=30.0, memory=0.9, ramp=(0.2, 0.6))

    def begin(progress):
        step = av.Batch(x, y, index, rng.manual_seed(0), progress=progress)
        step.memory = memory.begun()
        return step, source(network, step)

    step, delta = begin(0.1)
    assert torch.equal(delta, TRAINING(network, av.Batch(x, y, rng=rng.manual_seed(0))))
    assert not step.asked
    memory.keep()
    assert not memory.kept
    p = answer(network, x).softmax(1)
    begin(0.7)
    memory.begun()  # that step failed
    memory.keep()
    assert not memory.kept
    for share in (0.1, 0.9 * 0.1 + 0.1):
        begin(0.7)
        memory.keep()
        torch.testing.assert_close(memory.kept["ensemble"][50:82], share * p)
        assert not memory.kept["ensemble"][:50].any()
    step, other = begin(0.7)
    assert not torch.equal(other, delta)
    target, weight = step.asked["pull"].target, step.asked["pull"].weight
    torch.testing.assert_close(target, p)
    assert weight == 30.0
    assert begin(0.4)[0].asked["pull"].weight == pytest.approx(30 * math.exp(-5 * 0.5**2))
    step.delta, step.x_hat, step.y_hat = other, x + other, y
    loss = methods.temporal_ensembling().loss(network.eval(), step)
    z = network(x + other)
    expected = nn.functional.cross_entropy(z, y)
    expected = expected + 30 * ((z.softmax(1) - p) ** 2).sum(1).mean()
    torch.testing.assert_close(loss, expected)


def test_a_training_remembers_by_number_and_keeps_only_what_a_finished_step_noted(digits):
    training = new(digits, built("temporal_ensembling", ramp=(0.0, 0.0)), 4)
    index = training.indices(0)
    next(training)
    kept = training.memory.kept["ensemble"]
    assert kept.shape == (len(digits.train), 10)
    assert sorted(kept.sum(1).nonzero().flatten().tolist()) == sorted(index.tolist())
    torch.testing.assert_close(kept[index].sum(1), torch.full((32,), 0.1))


# ------------------------------------------------------------------------ gradients and passes


def test_teacher_and_averaged_copy_take_no_gradient_and_stay_as_they_are(digits, standard):
    before = copy.deepcopy(standard)
    standard.train()
    for method in (
        methods.hat(standard, **CRAFTING),
        built("adr"),
        methods.avmixup(label="teacher", **CRAFTING),
        methods.avmixup(label="averaged", **CRAFTING),
    ):
        average = None if method.average else 0.9
        training = new(digits, method, 2, teacher=copy.deepcopy(before), average=average)
        list(training)
        assert training.averaged is not None
        assert training.teacher is not None
        for network in (training.teacher, training.averaged, standard):
            assert all(p.grad is None for p in network.parameters())
        assert same(training.teacher, before)
        assert same(standard, before)
        assert all(p.grad is not None for p in training.model.parameters())
    standard.eval()


@contextmanager
def passes(**networks):
    """How many passes go through each network, and how many of them back to its weights."""
    count: Counter[str] = Counter()

    def seen(name):
        def hook(module, inputs, outputs):
            count[name] += 1
            if outputs.requires_grad and all(p.requires_grad for p in module.parameters()):
                outputs.register_hook(lambda gradient: count.update([f"{name}, backward"]))

        return hook

    handles = [net.register_forward_hook(seen(name)) for name, net in networks.items()]
    yield count
    for handle in handles:
        handle.remove()


def counted(digits, method, standard, **options):
    training = new(digits, method, 2, teacher=standard, **options)
    networks = {"model": training.model, "teacher": standard}
    if training.averaged is not None:
        networks["averaged"] = training.averaged
    with passes(**networks) as count:
        next(training)
    return dict(count)


def test_a_step_costs_what_its_passes_cost(digits, standard):
    def cost(method, **options):
        return counted(digits, method, standard, **options)

    pgd, trades = cost(methods.pgd(**CRAFTING)), cost(methods.trades(**CRAFTING))
    assert pgd == {"model": 2 + 1, "model, backward": 1}
    assert trades == {"model": 1 + 2 + 2, "model, backward": 2}
    one_more = {"model": trades["model"] + 1, "model, backward": 3, "teacher": 1}
    assert cost(built("hat")) == one_more
    assert cost(built("hat", weight=0.0)) == trades
    assert cost(built("adr")) == pgd | {"averaged": 1}
    awp = {name: count + 1 for name, count in pgd.items()}
    assert cost(built("pgd_awp")) == awp
    assert cost(built("trades_awp")) == {"model": trades["model"] + 2, "model, backward": 4}
    ensembled = built("temporal_ensembling", ramp=(0.0, 0.0))
    assert cost(ensembled) == pgd | {"model": pgd["model"] + 1}
    assert cost(built("temporal_ensembling", ramp=(0.5, 0.5))) == pgd
    for name in ("mart", "alp", "iat"):
        assert cost(built(name)) == {"model": 2 + 2, "model, backward": 2}
    for name in ("adversarial_mixup", "lse", "fgsm_rs", "n_fgsm"):
        steps = 1 if "fgsm" in name else 2
        method = methods.build(name, epsilon=EPSILON) if steps == 1 else built(name)
        assert cost(method) == {"model": steps + 1, "model, backward": 1}
    for label in ("averaged", "teacher"):
        found = cost(methods.avmixup(label=label, **CRAFTING), average=0.9)
        assert found == pgd | {label: 1}


def test_the_estimate_counts_the_same_passes(digits):
    from avmixup_kit.reproduce import cost

    macs = cost.Macs(1, 2, 3)
    pgd, trades = 2 * 2 + 3, 2 * 2 + 1 + 2 * 3
    expected = {
        "adversarial_mixup": pgd, "mart": pgd + 3, "hat": trades + 3, "adr": pgd + 1,
        "alp": pgd + 3, "lse": pgd, "trades_lse": trades, "iat": pgd + 3,
        "temporal_ensembling": pgd + 1, "pgd_awp": pgd + 3, "trades_awp": trades + 6,
    }  # fmt: skip
    assert {name: cost.step_macs(macs, built(name)) for name in NEW} == expected
    assert cost.step_macs(macs, methods.n_fgsm()) == 2 + 3


# -------------------------------------------------------------------- saved, taken up, refused


STATEFUL = {
    "averaged copy": (built("adr"), {}),
    "asked averaged copy": (methods.avmixup(label="averaged", **CRAFTING), {"average": 0.9}),
    "ensemble": (built("temporal_ensembling", ramp=(0.1, 0.5)), {}),
    "AWP and batch norm": (built("pgd_awp", since=0.2), {}),
    "AWP that draws again": (av.awp(built("iat"), 0.02), {"average": 0.9}),
}

KILLED = """
import os, sys, torch
torch.set_num_threads(int(sys.argv[3]))
sys.path.insert(0, sys.argv[1])
from test_beyond import STATEFUL, av, new, runs
method, options = STATEFUL["ensemble"]
training = new(av.digits(), av.Dial(method), 9, **options)
for record in runs.log(training, sys.argv[2], checkpoint_every=4):
    if record.step == 5:
        os.kill(os.getpid(), 9)
"""


def test_what_was_remembered_survives_a_kill(digits, tmp_path):
    words = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "run")]
    words.append(str(torch.get_num_threads()))
    assert subprocess.run(words, timeout=600, check=False).returncode == -9
    method, options = STATEFUL["ensemble"]
    whole, rest = (new(digits, av.Dial(method), 9, **options) for _ in range(2))
    list(whole)
    assert next(runs.log(rest, tmp_path / "run", resume=True)).step == 4
    list(rest)
    assert same(rest.model, whole.model)
    assert torch.equal(rest.memory.kept["ensemble"], whole.memory.kept["ensemble"])


@pytest.mark.parametrize("name", STATEFUL)
def test_a_killed_run_goes_on_bit_for_bit_and_so_does_a_fork(digits, tmp_path, name):
    method, options = STATEFUL[name]
    whole = new(digits, av.Dial(method), 9, **options)
    list(whole)
    records = runs.log(new(digits, av.Dial(method), 9, **options), tmp_path, checkpoint_every=4)
    for _ in zip(range(6), records, strict=False):
        pass
    records.close()
    rest, fork = (new(digits, av.Dial(method), 9, **options) for _ in range(2))
    fork.load_state_dict(runs.load_checkpoint(tmp_path / "latest.pt")["training"])
    assert fork.step == 4
    list(fork)
    assert [r.step for r in runs.log(rest, tmp_path, resume=True)] == [4, 5, 6, 7, 8]
    for other in (rest, fork):
        assert same(other.model, whole.model)
        assert same(other.judged, whole.judged)
        assert other.memory.kept.keys() == whole.memory.kept.keys()
        assert all(torch.equal(t, whole.memory.kept[k]) for k, t in other.memory.kept.items())
        assert torch.equal(other.rng.get_state(), whole.rng.get_state())
    assert runs.about(tmp_path)["method"] == method


def test_turns_of_schedules_are_replayed_bit_for_bit(digits, tmp_path):
    dial = av.Dial(built("adr"))
    training = new(digits, dial, 8)
    for record in runs.log(training, tmp_path):
        if record.step == 2:
            dial.turn(temperature=(1.5, 1.0), interpolation=(0.2, 0.4))
        if record.step == 4:
            dial.turn(around=AWP(0.01))
        if record.step == 6:
            dial.turn(rho=0.02)
    assert dial.method.parameters["temperature"] == (1.5, 1.0)
    again = new(digits, av.Dial(built("adr"), runs.turns_of(tmp_path)), 8)
    list(again)
    assert same(again.model, training.model)
    assert not same(again.model, after(digits, built("adr"), 8))


def test_what_a_method_asks_is_told_in_one_line_when_it_starts_and_when_it_is_turned(
    digits, standard
):
    averaged = (
        r"average = None is not allowed: AVmixup asks the averaged copy of the weights, which"
    )
    teacher = (
        r"teacher = None is not allowed: Helped asks a fixed teacher: Training\(\.\.\., teacher"
    )
    later = [av.Turn(3, {"method": built("hat")})]
    for method, message in (
        (methods.avmixup(label="averaged"), averaged),
        (av.Dial(methods.avmixup(label="averaged")), averaged),
        (methods.avmixup(label="teacher"), "teacher = None is not allowed: AVmixup asks a fixed"),
        (built("hat"), teacher),
        (av.Dial(methods.pgd(), later), teacher),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            new(digits, method)
        assert "\n" not in str(caught.value)
    dial = av.Dial(methods.avmixup(**CRAFTING))
    training = new(digits, dial, 4)
    for change, message in (
        ({"label": "averaged"}, averaged),
        ({"method": built("hat")}, teacher),
        ({"method": built("adr")}, "average = None is not allowed: Rectified asks the averaged"),
    ):
        with pytest.raises(ValueError, match=message):
            dial.turn(**change)
    assert dial.turns == ()
    list(training)
    dial = av.Dial(built("adr", average=0.9))
    training = new(digits, dial, 4)
    assert training.average == 0.9
    with pytest.raises(ValueError, match="average = 0.99 is not allowed: this training's aver"):
        dial.turn(average=0.99)
    with pytest.raises(ValueError, match="average = 0.995 .* keeps 0.9 at each step"):
        new(digits, built("adr"), average=0.9)


def test_a_teacher_is_another_network_of_the_same_classes(digits, standard):
    model = av.small_cnn(digits, base_channels=4)
    with pytest.raises(ValueError, match="teacher = 'Network' is not allowed: it is the network"):
        av.Training(model, digits.train, built("hat"), 2, teacher=model)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="the teacher has 3 classes, digits/train has 10"):
        new(digits, built("hat"), teacher=other)
    path: Any = "runs/standard"
    for call in (lambda: new(digits, built("hat"), teacher=path), lambda: methods.hat(path)):
        with pytest.raises(ValueError, match="teacher = 'runs/standard' is not allowed: a network"):
            call()
    dial = av.Dial(methods.hat(standard, **CRAFTING))
    assert "Network('" in repr(dial.method)
    assert methods.name_of(dial.method) == "hat"
    new(digits, dial)


def test_a_run_with_a_teacher_is_not_resumed_with_another(digits, standard, tmp_path):
    def started(teacher):
        return new(digits, built("hat"), 4, teacher=teacher)

    next(runs.log(started(standard), tmp_path, checkpoint_every=1))
    about = json.loads((tmp_path / "run.json").read_text())
    assert list(about["networks"]) == ["teacher"]
    other = after(digits, av.standard(), 3)
    with pytest.raises(ValueError, match="teacher was '[0-9a-f]+', is '[0-9a-f]+'"):
        next(runs.log(started(other), tmp_path, resume=True))
    list(runs.log(started(copy.deepcopy(standard)), tmp_path, resume=True))


@pytest.mark.parametrize("name", ["adr", "temporal_ensembling", "pgd_awp"])
def test_what_moves_with_the_part_that_is_done_does_not_go_on_for_more_steps(
    digits, tmp_path, name
):
    method = built(name, **({"since": 0.5} if name == "pgd_awp" else {}))

    def started(steps):
        return new(digits, method, steps, decay_at=())

    list(runs.log(started(3), tmp_path))
    with pytest.raises(ValueError, match="steps = 6 is not allowed: .* moves with the part of all"):
        next(runs.log(started(6), tmp_path, resume=True))
    list(runs.log(new(digits, built("pgd_awp"), 3, decay_at=()), tmp_path / "awp"))
    more = new(digits, built("pgd_awp"), 4, decay_at=())
    assert [r.step for r in runs.log(more, tmp_path / "awp", resume=True)] == [3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.mart(-1), "beta = -1 is not allowed: a finite number, 0 or more"),
        (lambda: methods.hat(h=math.inf), "h = inf is not allowed: a finite number of perturb"),
        (lambda: methods.hat(weight=-0.1), "weight = -0.1 is not allowed: a finite number"),
        (lambda: methods.alp(math.nan), "weight = nan is not allowed: a finite number"),
        (lambda: methods.trades_lse(-1), "beta = -1 is not allowed"),
        (lambda: CleanAndAdversarial(-1), "beta = -1 is not allowed"),
        (lambda: methods.adversarial_mixup(0), r"a = 0 is not allowed: Beta\(a, a\) needs a > 0"),
        (lambda: methods.adr((2.5, 0.0)), r"temperature = \(2.5, 0.0\) is not allowed: a tuple of"),
        (lambda: methods.adr(ANY["number"]), "temperature = 2.5 is not allowed: a tuple of"),
        (lambda: methods.adr(interpolation=(0, 1.1)), "interpolation = .* two, from 0 to 1, at th"),
        (lambda: methods.adr(average=1.0), "average = 1.0 is not allowed: from 0 up to 1"),
        (lambda: methods.temporal_ensembling(memory=1.0), "memory = 1.0 is not allowed: from 0"),
        (lambda: methods.temporal_ensembling(-1), "weight = -1 is not allowed"),
        (lambda: methods.temporal_ensembling(ramp=(0.5, 0.4)), "ramp = .* not below the first"),
        (lambda: methods.temporal_ensembling(ramp=ANY["single"]), r"ramp = \(0.5,\) is not al"),
        (lambda: av.awp(ANY["attack"]), "method = .* is not allowed: a method, such as av.pgd_tr"),
        (lambda: av.awp(ANY["mean"]), "method = 'mean' is not allowed: a method, such as av.pgd_t"),
        (lambda: av.awp(av.standard(), -1), "rho = -1 is not allowed: a finite number, 0 or more"),
        (lambda: av.awp(av.standard(), since=2), "since = 2 is not allowed: a part of all steps"),
        (lambda: AVmixup(label=ANY["mean"]), "label = 'mean' is not allowed: one of fixed, aver"),
        (lambda: AVmixup(asked_at=ANY["far"]), "asked_at = 'far' is not allowed: one of clean,"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_by_hand_what_a_stage_lacks_is_named(network, batch):
    x, y = batch
    for stage, message in (
        (Rectified(), r"asks for model.averaged, which is not there: train with average=0.995"),
        (Ensembled(), "batch.progress is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            stage(network, av.Batch(x, y))
    with pytest.raises(ValueError, match="batch.progress is missing"):
        Rectified()(Networks(network, averaged=network), av.Batch(x, y))


# --------------------------------------------------------------------------- shell and search


SHORT = ["--steps", "4", "--batch-size", "16", "--base-channels", "4", "--curve-images", "10"]


def call(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["avmixup_kit", *map(str, words)])
    cli.main()


def test_the_shell_has_teacher_average_and_weight_perturbation(monkeypatch, tmp_path, capsys):
    small = [*SHORT, "--attack-steps", "1"]
    call(monkeypatch, "train", tmp_path / "clean", *SHORT, "--method", "standard")
    words = ["--method", "hat", *small]
    with pytest.raises(SystemExit):
        call(monkeypatch, "train", tmp_path / "hat", *words)
    error = capsys.readouterr().err
    assert error.startswith("error: teacher = None is not allowed: Helped asks a fixed teacher")
    assert error.strip().count("\n") == 0
    words += ["--teacher", tmp_path / "clean", "--h", "3", "--awp", "0.01"]
    call(monkeypatch, "train", tmp_path / "hat", *words)
    about = runs.about(tmp_path / "hat")
    assert about["method"].around == AWP(0.01)
    assert about["method"].parameters["h"] == 3.0
    assert list(about["networks"]) == ["teacher"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call(monkeypatch, "train", tmp_path / "away", *words[:-2], "--teacher", tmp_path / "none")
    assert "there is no checkpoint" in capsys.readouterr().err
    words = ["--method", "adr", *small, "--temperature", "2", "1.5", "--average", "0.5"]
    call(monkeypatch, "train", tmp_path / "adr", *words)
    about = runs.about(tmp_path / "adr")
    assert about["average"] == about["method"].average == 0.5
    assert about["method"].parameters["temperature"] == (2.0, 1.5)
    words = ["--method", "avmixup", "--label", "averaged", "--asked-at", "clean", *small]
    with pytest.raises(SystemExit):
        call(monkeypatch, "train", tmp_path / "asked", *words)
    assert "in the shell --average 0.995" in capsys.readouterr().err
    call(monkeypatch, "train", tmp_path / "asked", *words, "--average", "0.9")
    mix = runs.about(tmp_path / "asked")["method"].mix
    assert (mix.label, mix.asked_at) == ("averaged", "clean")


def test_a_search_trains_with_teacher_and_average_and_judges_the_averaged_copy(
    digits, standard, tmp_path, monkeypatch
):
    pytest.importorskip("optuna")
    from avmixup_kit.search import study

    list(runs.log(new(digits, av.standard(), 2), tmp_path / "clean"))
    given: dict[str, Any] = {
        "attack_steps": 1, "base_channels": 4, "images": 20, "prune": False,
        "settings": av.Settings(4, batch_size=16),
    }  # fmt: skip
    plan = av.search.Plan("hat", ranges={"h": (1, 4)}, teacher=tmp_path / "clean", **given)
    training = plan.training(digits.train, plan.build({}, EPSILON), 0)
    assert same(training.teacher, runs.load_model(tmp_path / "clean"))
    assert "teacher" in plan.identity(digits)
    assert not {"teacher", "average"} & av.search.Plan(**given).identity(digits).keys()
    with pytest.raises(ValueError, match="teacher = None is not allowed: Helped asks"):
        av.search.Plan("hat", ranges={"h": (1, 4)}, **given).check(digits)
    adr = av.search.Plan("adr", ranges={"average": (0.5, 0.9)}, average=0.8, **given)
    assert adr.training(digits.train, adr.build({}, EPSILON), 0).average == 0.8
    plan = av.search.Plan("alp", ranges={"weight": (0.1, 1)}, average=0.7, **given)
    judged = []

    def measure(network, *rest):
        judged.append(network)
        return 0.5

    monkeypatch.setattr(study, "measure", measure)
    av.search.search(digits, tmp_path / "found", trials=1, plan=plan)
    assert judged
    fresh = plan.training(digits.train, plan.build({}, EPSILON), 0)
    assert fresh.average == 0.7
    assert all(type(network) is type(fresh.judged) for network in judged)
    assert not any(p.requires_grad for network in judged for p in network.parameters())


def test_every_new_method_has_title_colour_summary_and_help_for_each_setting():
    entries = methods.METHODS.entries
    colours = [entry.colour for entry in entries.values()]
    assert len(set(colours)) == len(colours)
    for name in (*NEW, "fgsm_rs", "n_fgsm"):
        entry = entries[name]
        assert entry.title != name
        assert "20" in (entry.make.__doc__ or "") or name in ("trades_lse", "pgd_awp", "trades_awp")
        assert entry.summary.startswith("Return ")
        assert hasattr(methods, name)
        for setting in entry.settings:
            assert setting in methods.SETTINGS or setting in ("teacher", "average"), setting


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (losses.Interpolated, {"mixup": 8.0}, "mixup = 8.0 is not allowed: a Mixup, such as"),
        (Helped, {"loss": 1}, "loss = 1 is not allowed: a loss, such as Trades"),
        (Ensembled, {"attack": "x"}, "attack = 'x' is not allowed: an attack, such as"),
        (Rectified, {"attack": None}, "attack = None is not allowed: an attack, such as"),
        (Plan, {"method": "hat", "teacher": 0.5}, "teacher = 0.5 is not allowed: a run folder's"),
    ],
)
def test_a_stage_within_a_stage_that_is_none_is_refused(kind: Any, given: Any, message: str):
    with pytest.raises(ValueError, match=message):
        kind(**given)


# What each method is made of and no other has: its stages, and the function that composes them.
OF_ITS_OWN: dict[str, tuple[Any, ...]] = {
    "adversarial_mixup": (methods.adversarial_mixup, AsClimbed, Mixup),
    "mart": (methods.mart, losses.Mart),
    "hat": (methods.hat, Helped),
    "adr": (methods.adr, Rectified),
    "alp": (methods.alp, losses.LogitPairing),
    "lse": (methods.lse, losses.SquaredError),
    "trades_lse": (methods.trades_lse, losses.SquaredTrades, losses.SquaredToClean),
    "iat": (methods.iat, losses.Interpolated),
    "temporal_ensembling": (methods.temporal_ensembling, Ensembled, asked.PulledCrossEntropy),
    "pgd_awp": (methods.awp, methods.pgd_awp, AWP),
    "trades_awp": (methods.awp, methods.trades_awp, AWP),
}


def lines_of_code(made: Any) -> int:
    """Lines of a class or function that hold more than a comment, a docstring or nothing."""
    source = textwrap.dedent(inspect.getsource(made))
    said = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in said
        for number, line in lines
    )


def test_no_method_adds_more_than_60_lines():
    assert OF_ITS_OWN.keys() == set(NEW)
    added = {name: sum(map(lines_of_code, parts)) for name, parts in OF_ITS_OWN.items()}
    assert max(added.values()) <= 60, added
    assert min(added.values()) > 5, added
