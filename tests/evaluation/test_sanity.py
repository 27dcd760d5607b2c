"""What makes an evaluation worthless is found before it spends its time, and named."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.evaluation.images import as_images
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.sanity import inspect
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
