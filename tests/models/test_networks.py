import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from avmixup_kit import models
from avmixup_kit.models.networks import (
    WIDE,
    AuthorsPreActivation,
    Conv1x1,
    Conv3x3,
    Network,
    Normalise,
    PreActivation,
    Standardise,
)

TINY = {
    "standard": lambda: models.wide_resnet(10, 1, 4, seed=1),
    "authors": lambda: models.wide_resnet(10, 2, 4, variant="authors", seed=1),
    "preact": lambda: models.preact_resnet18(4, base_channels=4, seed=1),
    "small": lambda: models.small_cnn(4, in_channels=3, image_size=(8, 8), seed=1),
}


@dataclass(frozen=True)
class Images:
    shape: tuple[int, ...]
    num_classes: int


def images(count: int = 4, size: int = 8, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator)


def with_statistics(model: Network, size: int = 8, channels: int = 3) -> Network:
    """Give batch norm running statistics that are not the identity, then freeze them."""
    model.train()
    with torch.no_grad():
        for seed in range(3):
            model(images(16, size, channels, seed=100 + seed).to(next(model.parameters()).dtype))
    return model.eval()


# The counts of the papers: 46.16 M and 36.48 M are widely published, WRN-16-8 is 11.0 M in
# Zagoruyko and Komodakis' Table 5; PreActResNet18 is 11.17 M.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("wrn-34-10", 46.16),
        ("wrn-28-10", 36.48),
        ("wrn-16-8", 10.96),
        ("preact_resnet18", 11.17),
    ],
)
def test_a_network_has_the_published_number_of_parameters(name: str, millions: float) -> None:
    count = sum(p.numel() for p in models.build(name).parameters())
    assert round(count / 1e6, 2) == millions


def test_the_authors_network_has_no_weights_in_its_shortcuts() -> None:
    count = sum(p.numel() for p in models.wide_resnet_authors().parameters())
    shortcuts = 16 * 160 + 160 * 320 + 320 * 640
    assert count == 46_160_474 - shortcuts


def test_the_authors_network_has_their_layers() -> None:
    model = models.wide_resnet_authors()
    units = [m for m in model.modules() if isinstance(m, AuthorsPreActivation)]
    assert len(units) == 15
    assert [unit.activate_shortcut for unit in units] == [True] + [False] * 14
    assert [unit.conv2.out_channels for unit in units] == [160] * 5 + [320] * 5 + [640] * 5
    assert [unit.stride for unit in units] == [1] * 5 + [2, 1, 1, 1, 1] * 2
    assert isinstance(model.normalise, Standardise)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}
    assert isinstance(model.body.activation, nn.LeakyReLU)
    assert model.body.activation.negative_slope == 0.1


def tensorflow_same(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A "SAME" convolution from its definition: output pixel o sees inputs from o stride - before.

    ``before`` is half, rounded down, of what ceil(size / stride) outputs lack.
    """
    n, _, height, width = x.shape
    out_h, out_w = -(-height // stride), -(-width // stride)
    before_h = max((out_h - 1) * stride + 3 - height, 0) // 2
    before_w = max((out_w - 1) * stride + 3 - width, 0) // 2
    out = torch.zeros(n, weight.shape[0], out_h, out_w, dtype=x.dtype)
    for i in range(out_h):
        for j in range(out_w):
            for a in range(3):
                for b in range(3):
                    row, column = i * stride - before_h + a, j * stride - before_w + b
                    if 0 <= row < height and 0 <= column < width:
                        out[:, :, i, j] += x[:, :, row, column] @ weight[:, :, a, b].T
    return out


def normed(x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    mean, var, weight, bias = (
        v.detach().reshape(1, -1, 1, 1)
        for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, 0.1 * x, x)


@pytest.mark.parametrize("activate_shortcut", [False, True])
@pytest.mark.parametrize(("stride", "size"), [(1, 6), (2, 6), (2, 5)])
def test_a_unit_of_the_authors_is_what_its_plain_operations_give(
    stride: int, size: int, activate_shortcut: bool
) -> None:
    torch.manual_seed(0)
    unit = AuthorsPreActivation(4, 8, stride, activate_shortcut).double()
    for bn in (unit.bn1, unit.bn2):
        for value in (bn.running_mean, bn.weight.data, bn.bias.data):
            assert value is not None
            value.normal_()
        assert bn.running_var is not None
        bn.running_var.uniform_(0.5, 2)
    unit.eval()
    x = torch.randn(2, 4, size, size, dtype=torch.float64)

    a = leaky(normed(x, unit.bn1))
    h = tensorflow_same(a, unit.conv1.weight.detach(), stride)
    h = tensorflow_same(leaky(normed(h, unit.bn2)), unit.conv2.weight.detach(), 1)
    short = a if activate_shortcut else x
    if stride == 2:
        rows = [short[:, :, i : i + 2].mean(2) for i in range(0, size, 2)]
        short = torch.stack(rows, 2)
        short = torch.stack([short[..., j : j + 2].mean(3) for j in range(0, size, 2)], 3)
    padded = torch.zeros(2, 8, *short.shape[2:], dtype=torch.float64)
    padded[:, 2:6] = short

    torch.testing.assert_close(unit(x), h + padded, rtol=1e-12, atol=1e-12)


def test_a_standard_unit_activates_the_input_of_its_1x1_shortcut_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for out, stride in ((4, 1), (8, 2)):
        unit = PreActivation(4, out, stride).double().eval()
        a = F.relu(normed(x, unit.bn1))
        h = F.conv2d(a, unit.conv1.weight, stride=stride, padding=1)
        h = F.conv2d(F.relu(normed(h, unit.bn2)), unit.conv2.weight, padding=1)
        if unit.shortcut is None:
            assert (out, stride) == (4, 1)
            short = x
        else:
            short = torch.einsum(
                "nchw,oc->nohw", a[:, :, ::2, ::2], unit.shortcut.weight[..., 0, 0]
            )
        torch.testing.assert_close(unit(x), h + short, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("training", [True, False])
def test_activations_need_no_memory_of_their_own_and_change_no_bit(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, made, leaky = [], [], F.leaky_relu
    for inplace in (True, False):
        model, given = TINY[name]().train(training), images().requires_grad_(True)
        if not inplace:
            monkeypatch.setattr(F, "leaky_relu", lambda x, slope, inplace: leaky(x, slope))
            for module in model.modules():
                if isinstance(module, PreActivation):
                    module.activation = F.relu
                if isinstance(module, nn.ReLU | nn.LeakyReLU):
                    module.inplace = False
        with Named() as names:
            logits = model(given)
        made.append({name for name in names if "relu" in name})
        logits.square().sum().backward()
        found.append([logits, given.grad, *(w.grad for w in model.parameters())])

    assert all(name.endswith("_") for name in made[0])
    assert made[1] == {name.removesuffix("_") for name in made[0]} != set()
    for ours, plain in zip(*found, strict=True):
        assert ours is not None
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("unit", [PreActivation, AuthorsPreActivation])
def test_a_unit_whose_batch_norm_is_taken_out_leaves_its_input_alone(unit: type) -> None:
    block, x = unit(4, 4, 1), images(channels=4) - 0.5
    block.bn1 = nn.Identity()
    given = x.clone()
    block(given)
    assert torch.equal(given, x)


class Named(TorchDispatchMode):
    """The names of the operations called inside."""

    def __enter__(self) -> set[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.names = set()
        super().__enter__()
        return self.names

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_initial_weights_have_the_stated_spread() -> None:
    model = models.wide_resnet(10, 4, variant="authors")
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5_000:
            expected = np.sqrt(2 / (9 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03)
            assert module.weight.mean().item() == pytest.approx(0, abs=expected / 20)
    head = model.head.weight
    assert head.abs().max().item() == pytest.approx(np.sqrt(3 / 256), rel=0.01)
    assert head.std().item() == pytest.approx(np.sqrt(1 / 256), rel=0.05)
    assert not model.head.bias.any()


def test_standardise_is_tensorflows_on_pixels_from_0_to_255() -> None:
    x = images(5, 6)
    x[2] = 0.5 + 0.002 * (x[2] - 0.5)
    x[3] = 0.5 + 0.0002 * (x[3] - 0.5)
    x[4] = 0.25
    pixels = 255 * x.double().numpy()
    mean = pixels.mean((1, 2, 3), keepdims=True)
    std = pixels.std((1, 2, 3), keepdims=True)
    floor = 1 / np.sqrt(3 * 6 * 6)
    assert (std.ravel() < floor).tolist() == [False, False, False, True, True]
    expected = (pixels - mean) / np.maximum(std, floor)
    np.testing.assert_allclose(Standardise()(x.double()).numpy(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(Standardise()(x).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_standardise_passes_gradients_through_mean_and_deviation() -> None:
    x = images(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(Standardise(), x)
    weights = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((Standardise()(x) * weights).sum(), x)
    # Adding a constant or stretching the contrast changes nothing, so both slopes are zero.
    centred = (x - x.mean((1, 2, 3), keepdim=True)).detach()
    assert gradient.abs().max() > 0.1
    assert gradient.sum((1, 2, 3)).abs().max() < 1e-10
    assert (gradient * centred).sum((1, 2, 3)).abs().max() < 1e-10


def test_a_constant_image_has_finite_logits_and_gradient() -> None:
    model = with_statistics(TINY["authors"]())
    x = torch.full((2, 3, 8, 8), 0.5, requires_grad=True)
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert logits.isfinite().all()
    assert gradient.isfinite().all()


def test_normalise_uses_one_constant_per_channel() -> None:
    x = images()
    out = Normalise((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), in_channels=3)(x)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 2.0)]):
        torch.testing.assert_close(out[:, channel], (x[:, channel] - mean) / std)


@pytest.mark.parametrize("name", TINY)
def test_the_input_gradient_matches_numerical_differences(name: str) -> None:
    model = with_statistics(TINY[name]()).double()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x = images(1, 8, seed=5).double().requires_grad_()
    assert torch.autograd.gradcheck(model, x, eps=1e-7, atol=1e-5)
    (gradient,) = torch.autograd.grad(model(x)[0, 0], x)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("name", TINY)
def test_in_eval_mode_an_image_ignores_its_batch_mates(name: str) -> None:
    model = with_statistics(TINY[name]()).double()
    x = images(6).double()
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-10, atol=1e-10)
    model.train()
    assert (model(x)[2:3] - model(x[1:4])[1:2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", TINY)
def test_logits_are_the_head_of_the_features(name: str) -> None:
    model = with_statistics(TINY[name]())
    x = images()
    features = model.features(x)
    assert features.shape == (4, model.head.in_features)
    assert torch.equal(model(x), model.head(features))
    assert model(x).shape == (4, 4)


@pytest.mark.parametrize("name", ["standard", "authors", "preact"])
def test_pooled_networks_take_64x64_images(name: str) -> None:
    assert TINY[name]()(images(2, 64)).shape == (2, 4)


@pytest.mark.parametrize("name", TINY)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    model = with_statistics(TINY[name]()).double()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = images().double()
    y = other(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 4, 7, 8, 12, 16])
def test_a_shortcut_of_few_channels_has_the_right_gradients(channels: int) -> None:
    unit = Conv1x1(channels, 2 * channels, 2)
    x = torch.randn(32, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    y, exact = unit(x), copy.deepcopy(unit).double()
    expected = F.conv2d(x.double(), exact.weight, stride=2)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = x.to(memory_format=layout).requires_grad_()
        z = unit.to(memory_format=layout)(laid_out)
        torch.testing.assert_close(z.double(), expected, rtol=1e-4, atol=1e-4)
        found.append(torch.autograd.grad((z * weights).sum(), (laid_out, unit.weight)))
    images = x.double().requires_grad_()
    loss = (F.conv2d(images, exact.weight, stride=2) * weights.double()).sum()
    right = torch.autograd.grad(loss, (images, exact.weight))
    for gradients in found:
        for gradient, wanted in zip(gradients, right, strict=True):
            torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 4), (4, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_wide_convolution_of_a_tiny_map_is_one_product(
    size: tuple[int, int],
    stride: int,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unit = Conv3x3(WIDE, WIDE, stride).double().to(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, WIDE, *size, dtype=torch.double, generator=generator)
    x = x.to(memory_format=layout).requires_grad_()
    wanted = F.conv2d(x, unit.weight, stride=stride, padding=1)
    weights = torch.linspace(-1, 1, wanted.numel(), dtype=torch.double).reshape(wanted.shape)
    right = torch.autograd.grad((wanted * weights).sum(), (x, unit.weight))
    called: list[int] = []
    convolution = nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, x: called.append(1) or convolution(self, x)
    )
    y = unit(x)
    found = torch.autograd.grad((y * weights).sum(), (x, unit.weight))
    tiny = max(wanted.shape[2:]) <= 2
    assert called == ([] if tiny else [1])
    torch.testing.assert_close(y, wanted)
    for gradient, expected in zip(found, right, strict=True):
        torch.testing.assert_close(gradient, expected)
    narrow = Conv3x3(WIDE - 1, WIDE, stride).double()
    narrow(x[:, :-1])
    assert called == ([1] if tiny else [1, 1])


@pytest.mark.parametrize("name", TINY)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    architecture = TINY[name]().architecture
    torch.manual_seed(1)
    first = models.from_architecture(architecture, seed=7)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = models.from_architecture(architecture, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    other = models.from_architecture(architecture, seed=8)
    for (key, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert not torch.equal(first.state_dict()["head.weight"], other.state_dict()["head.weight"])
    convolutions = [m for m in first.modules() if isinstance(m, nn.Conv2d)]
    others = [m for m in other.modules() if isinstance(m, nn.Conv2d)]
    for a, b in zip(convolutions, others, strict=True):
        assert not torch.equal(a.weight, b.weight)


def test_building_leaves_the_generators_of_accelerators_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seeded(seed: int) -> None:
        raise AssertionError("CUDA's generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    with pytest.raises(AssertionError, match="CUDA's"):
        torch.manual_seed(0)
    models.small_cnn(4, seed=3)


@pytest.mark.parametrize("name", TINY)
def test_the_architecture_builds_the_same_network_again(name: str) -> None:
    model = with_statistics(TINY[name]())
    again = models.from_architecture(model.architecture, seed=99)
    assert again.architecture == model.architecture
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images()), model(images()))


def test_the_architecture_holds_everything_that_was_asked_for() -> None:
    model = models.preact_resnet18(
        7, in_channels=2, base_channels=8, normalisation=((0.1, 0.2), (0.3, 0.4))
    )
    again = models.from_architecture(model.architecture)
    assert again.num_classes == 7
    assert again.in_channels == 2
    assert torch.equal(again.get_buffer("normalise.mean"), model.get_buffer("normalise.mean"))
    assert torch.equal(again.get_buffer("normalise.std"), torch.tensor([0.3, 0.4]).reshape(2, 1, 1))
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_different_networks_have_different_architectures() -> None:
    texts = {
        models.wide_resnet(10, 1).architecture,
        models.wide_resnet(10, 2).architecture,
        models.wide_resnet(16, 1).architecture,
        models.wide_resnet(10, 1, 11).architecture,
        models.wide_resnet(10, 1, in_channels=1).architecture,
        models.wide_resnet(10, 1, variant="authors").architecture,
        models.wide_resnet(10, 1, normalisation="per_image").architecture,
    }
    assert len(texts) == 7


@pytest.mark.parametrize("name", models.NETWORKS)
def test_every_named_network_takes_its_sizes_from_the_data(name: str) -> None:
    model = models.build(name, Images((1, 16, 16), 3))
    assert model.num_classes == 3
    with torch.no_grad():
        assert model.eval()(images(1, 16, channels=1)).shape == (1, 3)


@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_small_cnn_sizes_itself(size: int) -> None:
    data = Images((1, size, size), 10)
    model = models.small_cnn(data)
    assert model(images(2, size, channels=1)).shape == (2, 10)
    assert 20_000 <= sum(p.numel() for p in model.parameters()) <= 60_000


def test_small_cnn_learns_digits_in_seconds() -> None:
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1_347], order[1_347:]
    model = models.small_cnn(Images((1, 8, 8), 10))
    optimiser = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    rng = torch.Generator().manual_seed(0)
    for step in range(200):
        if step == 130:
            optimiser.param_groups[0]["lr"] = 0.01
        picked = train[torch.randint(len(train), (128,), generator=rng)]
        loss = F.cross_entropy(model(x[picked]), y[picked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    assert accuracy >= 0.97


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.wide_resnet(33, 10), r"depth = 33 .*6 n \+ 4"),
        (lambda: models.wide_resnet(4, 10), r"depth = 4 "),
        (lambda: models.wide_resnet(10, 0), r"width = 0 .*1 or more"),
        (lambda: models.wide_resnet(10, 1, 1), r"num_classes = 1 .*2 or more"),
        (lambda: models.wide_resnet(10, 1, num_classes=True), r"num_classes = True"),
        (lambda: models.wide_resnet(10, 1, in_channels=0), r"in_channels = 0 .*1 or more"),
        (
            lambda: models.wide_resnet(10, 1, variant="tf"),  # pyright: ignore
            r"variant = 'tf' .*: one of standard, authors",
        ),
        (lambda: models.build("resnet50"), r"network = 'resnet50' .*wrn-34-10, .*small_cnn"),
        (lambda: models.preact_resnet18(base_channels=0), r"base_channels = 0"),
        (lambda: models.small_cnn(base_channels=0), r"base_channels = 0"),
        (lambda: models.small_cnn(image_size=(8, 0)), r"image_size = \(8, 0\) .*\(H, W\)"),
        (
            lambda: models.small_cnn(Images((1, 8, 8), 10), image_size=(9, 9)),
            r"image_size = \(9, 9\) .*data says \(8, 8\)",
        ),
        (
            lambda: models.small_cnn(Images((1, 8, 8), 10), image_size=np.array([])),  # pyright: ignore
            r"image_size = array\(.* .*data says \(8, 8\)",
        ),
        (
            lambda: models.preact_resnet18(Images((3, 8, 8), 10), num_classes=5),
            r"num_classes = 5 .*data says 10",
        ),
        (
            lambda: models.preact_resnet18(Images((3, 8, 8), 10), in_channels=1),
            r"in_channels = 1 .*data says 3",
        ),
        (
            lambda: models.preact_resnet18(Images((8, 8), 10)),
            r"data.shape = \(8, 8\) .*\(C, H, W\)",
        ),
        (
            lambda: models.wide_resnet(10, 1, normalisation="imagenet"),  # pyright: ignore
            r"normalisation = 'imagenet' .*per_image",
        ),
        (
            lambda: models.wide_resnet(10, 1, normalisation=((0.5, 0.5), 0.5)),
            r"mean = \(0.5, 0.5\) .*3 channels",
        ),
        (lambda: models.wide_resnet(10, 1, normalisation=(0.5, 0.0)), r"std = 0.0 .*> 0"),
        (lambda: models.small_cnn(10, normalisation=np.ones(2)), "normalisation = array.* pair"),  # pyright: ignore
        (lambda: models.from_architecture("resnet(3)"), r"architecture = 'resnet\(3\)' "),
        (lambda: models.from_architecture("small_cnn(("), r"architecture = "),
        (lambda: models.from_architecture("__import__('os').getcwd()"), r"architecture = "),
        (lambda: models.from_architecture("small_cnn(colour=3)"), r"architecture = "),
        (lambda: models.from_architecture("small_cnn(num_classes=id(1))"), r"architecture = "),
        (lambda: models.from_architecture("wide_resnet(depth=16)"), r"architecture = "),
        (lambda: models.from_architecture("small_cnn(**{'seed': 3})"), r"architecture = "),
        (lambda: models.from_architecture("small_cnn(seed=3)"), r"architecture = "),
        (lambda: models.from_architecture("wide_resnet(depth=33, width=1)"), r"depth = 33 "),
    ],
)
def test_bad_settings_are_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_data_of_a_wrong_kind_is_refused() -> None:
    with pytest.raises(TypeError, match=r"data of type str .*\.num_classes"):
        models.preact_resnet18("cifar10")  # pyright: ignore


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 8, 8, 3)])
def test_images_of_the_wrong_shape_are_refused_in_one_line(
    name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"x.shape = .*C = 3") as caught:
        TINY[name]()(torch.zeros(shape))
    assert "\n" not in str(caught.value)


def test_small_cnn_refuses_another_image_size() -> None:
    with pytest.raises(ValueError, match=r"x.shape = \(2, 3, 16, 16\) .*\(8, 8\)"):
        TINY["small"]()(images(2, 16))
