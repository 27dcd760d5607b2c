"""What makes an evaluation worthless is found before it spends its time, and named."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.evaluation import ladder
from avmixup_kit.evaluation.crafting import starts
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.evaluation.images import as_images
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.sanity import Again, inspect
from tests import pretended

EPSILON = 0.15


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(100)


class Wrapped(nn.Module):
    """A model with something done to its images or logits."""

    def __init__(self, model, before=None, after=None):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        logits = self.model(x if self.before is None else self.before(x))
        return logits if self.after is None else self.after(logits)


class Stuck(nn.Module):
    """Does not pass eval mode on."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)

    def train(self, mode=True):
        return super().train(True)


class BatchStatistics(nn.Module):
    """Batch norm without running statistics: in eval mode it still looks at the batch."""

    def __init__(self, model):
        super().__init__()
        self.model, self.norm = model, nn.BatchNorm1d(10, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.model(x))


BAD = {
    "probabilities": (
        lambda m: Wrapped(m, after=lambda z: z.softmax(1)),
        "returns probabilities, not logits: .*return what comes before the softmax",
    ),
    "training mode": (
        Stuck,
        r"stays in training mode after model.eval\(\) .*let its train\(mode\) pass the mode on",
    ),
    "batch statistics": (
        BatchStatistics,
        "with the other images of its batch: .*keep running statistics for eval mode",
    ),
    "dropout": (
        lambda m: Wrapped(m, after=lambda z: nn.functional.dropout(z, 0.3)),
        "not deterministic: logits of the same images move by .*switch its noise off",
    ),
    "noise": (
        lambda m: Wrapped(m, before=lambda x: x + 0.1 * torch.randn_like(x)),
        "not deterministic",
    ),
    "classes": (
        lambda m: Wrapped(m, after=lambda z: z[:, :7]),
        r"output has shape \(64, 7\), the labels have \(64, 10\): the class counts disagree",
    ),
    "NaN": (
        lambda m: Wrapped(m, after=lambda z: (z - z.max()).sqrt()),
        "logits that are not finite: nothing to evaluate; look for where training diverged",
    ),
    "pixels to 255": (
        lambda m: Wrapped(m, before=lambda x: x / 255),
        "correctly, but .* as 255 x .pixels from 0 to 255.: it expects another range; make",
    ),
    "no gradient": (
        lambda m: Wrapped(m, after=lambda z: z.detach()),
        "no gradient reaches the images: the model detaches them",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_named_before_any_attack(trained, split, name):
    build, message = BAD[name]
    model = build(trained)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    everyone = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(model, split, [av.pgd(steps=20, epsilon=EPSILON)])
    assert "\n" not in str(caught.value)
    assert len(passes) < 10  # twenty steps would take more
    assert torch.equal(everyone, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("seems", "convert", "message"),
    [
        (lambda x: x.min() == -1, lambda x: (x + 1) / 2, r"as 2 x - 1 \(pixels from -1 to 1\)"),
        (
            lambda x: x.mean().abs() < 1e-4,
            lambda x: x * 0.38 + 0.31,
            r"as \(x - mean\) / std of each channel",
        ),
    ],
)
def test_a_model_with_its_normalisation_left_outside(trained, split, seems, convert, message):
    class Outside(nn.Module):
        def forward(self, x):
            # Lost on pixels that are not normalised as in its training.
            return trained(convert(x)) if seems(x) else trained(0 * x)

    with pytest.raises(ValueError, match=message):
        evaluate(Outside(), split)


def test_training_mode_is_noted_and_left(network, split):
    network.train()
    result = evaluate(network, split)
    assert network.training
    assert len(result.notes) == 1
    assert "was in training mode: it was evaluated in eval mode" in str(result)
    network.eval()
    again = evaluate(network, split)
    assert again.notes == ()
    assert torch.equal(again.correct, result.correct)


def test_a_good_model_passes_and_costs_little(trained, split, network):
    assert inspect(trained, split) == ()
    assert inspect(network.eval(), split.subset(3)) == ()
    passes = []
    handle = trained.register_forward_hook(lambda m, inputs, _: passes.append(len(inputs[0])))
    inspect(trained, split)
    handle.remove()
    assert sum(passes) < 6 * 64


def test_checks_can_be_switched_off(trained, split):
    model = Wrapped(trained, after=lambda z: z.softmax(1))
    result = evaluate(model, split, [av.fgsm(EPSILON)], check=False)
    assert torch.equal(result.of("Clean"), evaluate(trained, split).of("Clean"))


class Odd(nn.Module):
    """Is sound on the first ``sound`` images it sees and in small batches, and odd elsewhere."""

    def __init__(self, model, oddly, batch=0, sound=10**9):
        super().__init__()
        self.model, self.oddly, self.batch, self.sound = model, oddly, batch, sound
        self.rows = 0

    def forward(self, x):
        logits = self.model(x)
        if not x.requires_grad:
            self.rows += len(x)
        if len(x) > self.batch and self.rows > self.sound:
            return self.oddly(logits)
        return logits


# What `inspect` looks at: 64 images twice, two more, three times 64 in other units, one gradient.
LOOKED_AT = 5 * 64 + 2


@pytest.mark.parametrize("attacked", [True, False])
@pytest.mark.parametrize(
    ("oddly", "batch", "sound"),
    [
        (lambda z: z + torch.randn_like(z), 0, LOOKED_AT),
        (lambda z: z - z.mean(0), 64, 0),
        (lambda z: z.roll(1, 0), 64, 0),
        (lambda z: z * len(z), 0, LOOKED_AT),
        (lambda z: z if len(z) > 64 else z * torch.nan, 0, LOOKED_AT),
    ],
)
def test_a_model_at_odds_with_itself_where_nobody_looked_is_named(
    trained, digits, oddly, batch, sound, attacked
):
    model = Odd(trained, oddly, batch, sound).eval()
    attacks = [av.pgd(steps=1, epsilon=EPSILON)] if attacked else []
    with pytest.raises(ValueError, match="move by .* asked for again in other company: the model"):
        evaluate(model, digits.test, attacks)


def test_looking_again_costs_a_hundredth_of_an_evaluation_at_most(trained, digits):
    model = Odd(trained, lambda z: z)
    for count, attacks, more in (
        (449, [], 4),
        (449, [av.pgd(steps=20, epsilon=EPSILON)], 4),
        (90, [av.fgsm(EPSILON)], 1),
        (90, [], 0),
        (1, [av.fgsm(EPSILON)], 0),
    ):
        split, rows = digits.test.subset(torch.arange(count)), []
        for checked in (True, False):
            model.rows = 0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ladder, "inspect", lambda *_, **__: ())
                found = evaluate(model, split, attacks, check=checked)
            rows.append(model.rows)
        assert rows[0] - rows[1] == more
        assert more <= 0.01 * (rows[1] + 3 * sum(found.gradients))


def test_where_all_images_are_seen_once_each_the_grid_holds_them_in_their_order(trained, digits):
    part = torch.arange(449).flip(0)
    again = Again(part, True)
    assert len(again.index) == len(set(again.index.tolist())) == 4
    x = digits.test.batch(part)[0]
    for rows, numbers in zip(x.split(100), part.split(100), strict=True):
        again.keep(numbers, trained(rows).detach())
    again.check(trained, digits.test)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x, "model = <lambda> is not allowed: an nn.Module; call a class or function"),
        (av.small_cnn, "model = small_cnn is not allowed: an nn.Module"),
        (None, "model = None is not allowed: an nn.Module"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_what_is_no_module_is_named(split, model, message, check):
    for source in (split, split.batch(range(4))):
        images = source if source is split else (source[0], source[1].argmax(1))
        with pytest.raises(TypeError, match=message):
            evaluate(model, images, check=check)


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        (lambda z: (z, z), "tuple"),
        (lambda z: {"logits": z}, "dict"),
        (lambda z: None, "NoneType"),
        (lambda z: z.to(torch.complex64), "torch.complex64"),
        (lambda z: z.long(), "torch.int64"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_an_output_that_is_no_tensor_of_floats_is_named(trained, split, after, kind, check):
    x, y = split.batch(range(30))
    for images in (split, (x, y.argmax(1))):
        with pytest.raises(TypeError, match=f"the model returned = {kind} is not allowed: logits"):
            evaluate(Wrapped(trained, after=after), images, check=check)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_logits_of_another_precision_are_evaluated(trained, split, kind):
    plain = evaluate(trained, split)
    assert torch.equal(evaluate(Wrapped(trained, after=lambda z: z.to(kind)), split).correct,
                       plain.correct)  # fmt: skip


def seven() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (seven, r"PGD2 \(transfer\), of its source: the model's output has shape \(1, 7\), the"),
        (lambda: lambda x: x, r"source = <function .*> is not allowed: a network, or None"),
        (lambda: seven().half(), r"of its source: the model's weights are torch.float16, images"),
        (lambda: Wrapped(seven(), after=lambda z: (z,)), "source: what the model returned = tuple"),
    ],
)
def test_a_source_that_cannot_answer_is_named_before_any_attack(trained, split, source, message):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate(trained, split, [av.pgd(steps=2, epsilon=EPSILON, source=source())], check=False)


@pytest.mark.parametrize("seed", ["a", None, float("nan"), 1.5, True, -1, 2**63])
def test_a_seed_that_is_no_number_is_named(trained, split, seed):
    with pytest.raises(ValueError, match=r"^seed = .* is not allowed: a whole number"):
        evaluate(trained, split, seed=seed)
    attack = [av.pgd(steps=1, epsilon=EPSILON)]
    numpys: Any = np.int64(3)
    twice = [evaluate(trained, split, attack, seed=number).correct for number in (3, numpys)]
    assert torch.equal(*twice)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.float() / 255,
        lambda x: x.float() * (1 / 255),
        lambda x: (x.half() / 255).float(),
        lambda x: x.double() / 255,
    ],
)
def test_images_that_are_bytes_but_for_rounding_start_where_those_bytes_do(digits, convert):
    """Their pixels differ in the last places; their random starts no longer do."""
    bytes_, part = digits.test, torch.arange(449)
    floats = as_images(nn.Flatten(), (convert(bytes_.images), bytes_.labels))
    attack = av.pgd(steps=20, epsilon=EPSILON)
    assert torch.equal(starts(floats, part, attack, 0), starts(bytes_, part, attack, 0))
    x = bytes_.batch(part)[0]
    others = replace(bytes_, images=x + 1e-3 * (x < 0.5))
    assert not torch.equal(starts(others, part, attack, 0), starts(bytes_, part, attack, 0))


def test_tensors_give_the_verdicts_of_the_split_they_came_from(trained, split):
    x, y = split.batch(torch.arange(len(split)))
    attacks = [av.fgsm(EPSILON), av.pgd(steps=3, epsilon=EPSILON)]
    pair = evaluate(trained, (x, split.labels), attacks)
    assert torch.equal(pair.correct, evaluate(trained, split, attacks).correct)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    started = [av.pgd(steps=5, epsilon=EPSILON), av.cw(steps=5, epsilon=EPSILON)]
    whole = evaluate(trained, (x, split.labels), started)
    mixed = evaluate(trained, (x[order], split.labels[order]), started, batch_size=13)
    assert torch.equal(mixed.correct, whole.correct[:, order])
    images = as_images(trained, (x, split.labels))
    assert (images.shape, images.num_classes, len(images)) == ((1, 8, 8), 10, 100)
    assert torch.equal(images.images, split.images)


def test_bad_tensors_are_named(trained, split):
    x, _ = split.batch(torch.arange(len(split)))
    labels = split.labels
    for given, message in (
        ((x * 255, labels), r"images' range = \(0.0, 255.0\) is not allowed: .*; divide by 255"),
        ((x * 2 - 1, labels), r"range = \(-1.0, 1.0\) is not allowed: .*undo the normalisation"),
        ((x.where(x < 1, float("nan")), labels), r"images' range = \(nan, nan\) is not allowed"),
        (((x * 255).long(), labels), r"torch.int64\) is not allowed: uint8, or float"),
        ((x[0], labels), r"images' shape and type = \(\(1, 8, 8\), "),
        ((x, labels + 1), r"labels' range = \(1, 10\) is not allowed: 0 to 9, the model has 10"),
        ((x, labels - 1), r"labels' range = \(-1, 8\) is not allowed"),
        ((x, labels[:5]), r"labels' shape and type = \(\(5,\), "),
        ((x, labels.float()), r"torch.float32\) is not allowed: one class number"),
        ((x[:0], labels[:0]), "images has no images to evaluate"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(trained, given)
    with pytest.raises(
        TypeError, match="images of type Tensor are not allowed: a Split, a torch Dataset"
    ):
        evaluate(trained, x)
    with pytest.raises(ValueError, match=r"labels' range = \(0, 9\) is not allowed: 0 to 8"):
        replace(split, classes=split.classes[:9])
    with pytest.raises(ValueError, match="in pixels of 0..255 write 8 / 255"):
        evaluate(trained, split, [av.pgd(steps=20, epsilon=8)])


def test_a_probe_while_training_looks_for_nothing_and_ends_nothing(digits):
    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] + torch.rand(len(x), 10)

    with pytest.raises(ValueError, match="not deterministic"):
        av.evaluate(Noisy(), digits.validation)
    assert len(robust_curves(digits, 5)(Noisy())) == 6


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_model_of_another_precision_is_named(digits, split, kind):
    model = av.small_cnn(digits, base_channels=4).to(kind)
    message = f"weights are {kind}, images are torch.float32: call model.float"
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(model, split)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        evaluate(model, (split.batch(torch.arange(5))[0], split.labels[:5]))
    with pytest.raises(ValueError, match=message):
        av.Training(model, digits.train, av.standard(), steps=1)


def test_a_model_of_half_precision_that_converts_is_evaluated(digits, split):
    model = av.small_cnn(digits, base_channels=4)
    half = Wrapped(copy.deepcopy(model).bfloat16(), lambda x: x.bfloat16(), lambda z: z.float())
    assert evaluate(half, split).of("Clean").eq(evaluate(model, split).of("Clean")).sum() >= 95


def test_a_model_is_compared_with_itself_without_tf32(digits, split):
    """TF32's 10 bits move logits from one batch size to another by 0.001, like a random model."""
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return network(x)

    before = torch.backends.cudnn.allow_tf32
    with pretended.device():
        network = av.small_cnn(digits, base_channels=4).to("cuda").eval()
        model = Looks()
        model.network = network
        evaluate(model, split)
    assert before
    assert set(seen[1:3]) == {False}, "the first asks how many classes there are"
    assert seen[-1], "the evaluation is torch's own setting again"
