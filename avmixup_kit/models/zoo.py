"""Networks that take images in [0, 1] (N, C, H, W) and return logits (N, K).

Pixel normalisation is the first layer of each, so every attack lives in [0, 1]. A network keeps how
it was built in ``architecture``, the text of the call that builds it again. One of your own is a
function in ``NETWORKS`` from the data's shape and number of classes to any ``nn.Module``::

    @NETWORKS.register(title="Linear")
    def linear(data: ImageShape, bias: bool = True) -> nn.Module:
        inputs = math.prod(data.shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, data.num_classes, bias))
"""

import ast
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from avmixup_kit._base import check
from avmixup_kit._base.registry import Registry
from avmixup_kit.models.networks import (
    AuthorsPreActivation,
    Channels,
    Conv3x3,
    Network,
    Normalise,
    PreActivation,
    SameConv,
    Standardise,
)

NETWORKS = Registry("network")
NAMES = NETWORKS  # its name in version 0.1

Normalisation = Literal["per_image"] | tuple[Channels, Channels]

LARGEST = 4096  # side of an image, and width of a network: more is a slip, not a network

ZERO_ONE_TO_MINUS_ONE_ONE: Normalisation = (0.5, 0.5)
ACTIVATIONS = {"relu": torch.relu_, "silu": F.silu}


class ImageShape(Protocol):
    """What a builder asks of a data set: the shape of one image (C, H, W) and how many classes."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_classes(self) -> int: ...


@dataclass(frozen=True)
class Shape:
    """A data set's image shape (C, H, W) and number of classes, and nothing else of it."""

    shape: tuple[int, ...]
    num_classes: int


def wide_resnet(
    depth: int,
    width: int,
    data: ImageShape | int | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    variant: Literal["standard", "authors"] = "standard",
    normalisation: Normalisation | None = None,
    seed: int = 0,
) -> Network:
    """Return a wide residual network; 34-10, 28-10 and 16-8 are the paper's.

    Args:
        depth: 6 n + 4 layers: 3 groups of n units.
        width: the groups have 16, 32 and 64 times as many channels.
        data: a data set (its ``shape`` and ``num_classes`` are used), or the number of classes.
        variant: "standard" is Zagoruyko and Komodakis' (ReLU, 1x1 shortcuts; what TRADES and
            Feature Scatter train), "authors" the released AVmixup code's (``AuthorsPreActivation``,
            input standardised per image).
        normalisation: "per_image" or (mean, std), numbers or one per channel. Default: (0.5, 0.5),
            which maps [0, 1] to [-1, 1], for "standard"; "per_image" for "authors".
        seed: of the initial weights; the global generator is not touched.

    Raises:
        ValueError: depth is not 6 n + 4, width < 1, num_classes < 2, unknown variant.
    """
    allowed = "6 n + 4 with n >= 1 (10, 16, 22, ...)"
    depth = check.whole("depth", depth, 10, allowed, most=LARGEST)
    check.that((depth - 4) % 6 == 0, "depth", depth, allowed)
    width = check.whole("width", width, most=LARGEST)
    check.one_of("variant", variant, ("standard", "authors"))
    authors = variant == "authors"
    if normalisation is None:
        normalisation = "per_image" if authors else ZERO_ONE_TO_MINUS_ONE_ONE
    settings = {"depth": depth, "width": width} | _sizes(data, num_classes, in_channels)
    settings |= {"variant": variant, "normalisation": normalisation}
    channels = settings["in_channels"]
    with _seeded(seed):
        stem = SameConv(channels, 16) if authors else Conv3x3(channels, 16)
        unit = AuthorsPreActivation if authors else PreActivation
        widths = [16 * width * 2**group for group in range(3)]
        parts = _residual(stem, "group", unit, widths, (depth - 4) // 6)
        parts["activation"] = nn.LeakyReLU(0.1, inplace=True) if authors else nn.ReLU(inplace=True)
        # uniform_unit_scaling_initializer(1), TensorFlow's for the authors' last layer.
        bound = math.sqrt(3) if authors else 1.0
        network = _network("wide_resnet", settings, parts, widths[-1], bound)
    for first in [m for m in network.modules() if isinstance(m, AuthorsPreActivation)][:1]:
        first.activate_shortcut = True
    return network


def _named(name: str, *given: int, **fixed: str) -> Callable[..., Network]:
    make = update_wrapper(partial(wide_resnet, *given, **fixed), wide_resnet)  # type: ignore
    del make.__wrapped__  # its arguments are those that are left
    return NETWORKS.register(name, title=name.replace("wrn", "WRN"))(make)


_named("wrn-34-10", 34, 10)
_named("wrn-28-10", 28, 10)
_named("wrn-16-8", 16, 8)
wide_resnet_authors = _named("wrn-34-10-authors", 34, 10, variant="authors")
wide_resnet_authors.__doc__ = "Return the network of the authors' code."


@NETWORKS.register(title="PreActResNet18")
def preact_resnet18(
    data: ImageShape | int | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    base_channels: int = 64,
    normalisation: Normalisation = ZERO_ONE_TO_MINUS_ONE_ONE,
    stem_stride: int = 1,
    activation: Literal["relu", "silu"] = "relu",
    seed: int = 0,
) -> Network:
    """Return a PreActResNet18 with a 3x3 stem, for images of 32x32 or, pooled globally, any size.

    Args:
        base_channels: of the first of four stages, each next one twice as wide.
        stem_stride: 2 halves the image at once: twice the ``base_channels`` at the same cost.
        activation: "relu", or the smooth "silu" (Xie et al., Smooth Adversarial Training).
        data, num_classes, in_channels, normalisation, seed: as in ``wide_resnet``.
    """
    base_channels = check.whole("base_channels", base_channels, most=LARGEST)
    stem_stride = check.whole("stem_stride", stem_stride, most=LARGEST)
    check.one_of("activation", activation, ACTIVATIONS)
    settings = _sizes(data, num_classes, in_channels)
    settings |= {"base_channels": base_channels, "normalisation": normalisation}
    # Texts of networks without them stay as they were.
    settings |= {"stem_stride": stem_stride} if stem_stride > 1 else {}
    settings |= {"activation": activation} if activation != "relu" else {}
    with _seeded(seed):
        widths = [base_channels * 2**stage for stage in range(4)]
        stem = Conv3x3(settings["in_channels"], base_channels, stem_stride)
        unit = partial(PreActivation, activation=ACTIVATIONS[activation])
        parts = _residual(stem, "stage", unit, widths, 2)
        parts["activation"] = nn.SiLU() if activation == "silu" else nn.ReLU(inplace=True)
        return _network("preact_resnet18", settings, parts, widths[-1])


@NETWORKS.register(title="small CNN")
def small_cnn(
    data: ImageShape | int | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    base_channels: int = 16,
    normalisation: Normalisation = ZERO_ONE_TO_MINUS_ONE_ONE,
    seed: int = 0,
) -> Network:
    """Return a small CNN for digits: three 3x3 convolutions with batch norm, one linear layer.

    The first two halve the image, the third too where more than 4x4 is left. Nothing is pooled, so
    the network takes one image size: that of ``data``, else ``image_size`` (H, W), else 8x8; the
    channels without data are one. ``base_channels`` are the first convolution's, each next one has
    twice as many. The other arguments are ``wide_resnet``'s.
    """
    base_channels = check.whole("base_channels", base_channels, most=LARGEST)
    settings = _sizes(data, num_classes, in_channels, default_channels=1)
    _, told = _told(data)
    asked = tuple(image_size) if isinstance(image_size, list) else check.plain(image_size)
    size_of = check.plain(_agreed("image_size", told and told[1:], asked, (8, 8)))
    fine = isinstance(size_of, tuple) and len(size_of) == 2
    fine = fine and all(type(side) is int and 1 <= side <= LARGEST for side in size_of)
    check.that(fine, "image_size", size_of, f"(H, W), whole numbers from 1 to {LARGEST}")
    settings |= {"image_size": size_of, "base_channels": base_channels}
    settings |= {"normalisation": normalisation}
    with _seeded(seed):
        parts: dict[str, nn.Module] = {}
        size, (h, w) = settings["in_channels"], size_of
        for layer in range(3):
            stride = 2 if layer < 2 or max(h, w) > 4 else 1
            out = base_channels * 2**layer
            unit = Conv3x3(size, out, stride), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
            parts[f"conv{layer + 1}"] = nn.Sequential(*unit)
            size, h, w = out, math.ceil(h / stride), math.ceil(w / stride)
        parts["flatten"] = nn.Flatten()
        return _network("small_cnn", settings, parts, size * h * w)


def build(
    name: str, data: ImageShape | int | None = None, *, seed: int = 0, **settings: Any
) -> nn.Module:
    """Return the network of this name, a key of ``NETWORKS``, for a data set or number of classes.

    One of your own sees the data's ``Shape`` alone, and torch's generator is seeded around it, so
    that a run folder can build it again.

    Raises:
        ValueError: no network has this name, it has no such setting, or it could not be saved and
            found again.
    """
    if name not in NETWORKS or "." not in _text_of(name):
        return NETWORKS.build(name, data, seed=seed, **settings)
    classes, shape = _told(data)
    check.that(shape is not None, "data", data, f"network {name} takes a data set")
    settings = {"shape": shape, "num_classes": classes} | settings
    return from_architecture(_call(_text_of(name), settings), seed=seed)


def from_architecture(text: str, *, seed: int = 0) -> nn.Module:
    """Return a network built as ``text`` says, another network's ``architecture``, new weights.

    The text is parsed, never evaluated, so it may come from a file.

    Raises:
        ValueError: the text is not a call with literal arguments of a registered function, or the
            module of that function is not imported.
    """
    complaint = (
        f"architecture = {check.said(text)} is not allowed: a call such as "
        "wide_resnet(depth=34, width=10, num_classes=10, in_channels=3), of a registered function "
        "at the top of a module, with numbers, texts and tuples"
    )
    try:
        call = check.expression(text)
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(complaint)
        settings = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(complaint) from error
    builder, names = ast.unparse(call.func), {_text_of(name): name for name in NETWORKS}
    module = builder.rpartition(".")[0]
    if re.fullmatch(r"[\w.]+", module) and builder not in names:
        raise ValueError(
            f"{builder} is not there: import {module} first, or pass --plugin "
            f"{module.rpartition('.')[2]}.py; code that a run folder names is never run"
        )
    try:
        name = names[builder]
        if not module:
            return getattr(NETWORKS[name], "func", NETWORKS[name])(**settings, seed=seed)
        data = Shape(settings.pop("shape"), settings.pop("num_classes"))
    except (TypeError, KeyError) as error:
        raise ValueError(complaint) from error
    with _seeded(seed):
        network = NETWORKS.build(name, data, **settings)
    check.that(isinstance(network, nn.Module), f"what network {name} returned", network, "a Module")
    network.architecture = text
    return network


def _text_of(name: str) -> str:
    """Return what a network's function is called in texts, one's own with its module."""
    make = NETWORKS[name]
    own = make.__module__ != __name__
    return f"{make.__module__}.{make.__qualname__}" if own else make.__name__


def _call(builder: str, settings: dict[str, Any]) -> str:
    return f"{builder}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"


def _residual(
    stem: nn.Conv2d,
    name: str,
    unit: Callable[[int, int, int], nn.Module],
    widths: Sequence[int],
    depth: int,
) -> dict[str, nn.Module]:
    """Return a stem, groups of ``depth`` units of these widths, and what pools their features.

    Each group but the first halves the image.
    """
    parts: dict[str, nn.Module] = {"stem": stem}
    before = stem.out_channels
    for group, after in enumerate(widths, 1):
        first = unit(before, after, 1 if group == 1 else 2)
        others = (unit(after, after, 1) for _ in range(depth - 1))
        parts[f"{name}{group}"] = nn.Sequential(first, *others)
        before = after
    return parts | {
        "bn": nn.BatchNorm2d(before),
        "activation": nn.ReLU(inplace=True),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw weights on the CPU from this seed alone; no generator is touched."""
    seed = check.whole("seed", seed, 0, most=2**64 - 1)
    # Not torch.manual_seed: it would also seed the generators of all accelerators.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


def _network(
    builder: str,
    settings: dict[str, Any],
    parts: dict[str, nn.Module],
    num_features: int,
    head_bound: float = 1.0,
) -> Network:
    """Return the network of these parts with new weights.

    Convolutions: N(0, sqrt(2 / (k k out))); the last layer: U(-b, b) with b = head_bound /
    sqrt(its inputs), bias zero.
    """
    settings["normalisation"] = normalisation = check.plain(settings["normalisation"])
    in_channels = settings["in_channels"]
    if isinstance(normalisation, tuple) and len(normalisation) == 2:
        normalise: nn.Module = Normalise(*normalisation, in_channels=in_channels)
    else:
        fine = isinstance(normalisation, str) and normalisation == "per_image"
        check.that(fine, "normalisation", normalisation, "'per_image' or a pair (mean, std)")
        normalise = Standardise()
    body = nn.Sequential(OrderedDict(parts))
    head = nn.Linear(num_features, settings["num_classes"])
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    bound = head_bound / math.sqrt(num_features)
    nn.init.uniform_(head.weight, -bound, bound)
    nn.init.zeros_(head.bias)
    architecture = _call(builder, settings)
    return Network(architecture, in_channels, normalise, body, head, settings.get("image_size"))


def _told(data: ImageShape | int | None) -> tuple[int | None, tuple[int, ...] | None]:
    """Return what is known of (classes, (C, H, W)) from the data."""
    data = check.plain(data)
    if data is None or isinstance(data, int):
        return data, None
    if not hasattr(data, "shape") or not hasattr(data, "num_classes"):
        raise TypeError(
            f"data of type {type(data).__name__} is not allowed: a number of classes or a data "
            "set with .shape (C, H, W) and .num_classes"
        )
    check.that(len(data.shape) == 3, "data.shape", tuple(data.shape), "one image's (C, H, W)")
    return data.num_classes, tuple(data.shape)


def _sizes(
    data: ImageShape | int | None,
    num_classes: int | None,
    in_channels: int | None,
    default_channels: int = 3,
) -> dict[str, Any]:
    """Return classes and channels: the data's, else the arguments', else 10 and the default."""
    told, shape = _told(data)
    num_classes = check.whole("num_classes", num_classes, 2, most=10**6, none=True)
    in_channels = check.whole("in_channels", in_channels, most=LARGEST, none=True)
    classes = _agreed("num_classes", told, num_classes, 10)
    return {
        "num_classes": check.whole("num_classes", classes, 2, most=10**6),
        "in_channels": _agreed("in_channels", shape and shape[0], in_channels, default_channels),
    }


def _agreed(name: str, told: Any, asked: Any, default: Any) -> Any:
    asked = check.plain(asked)
    fine = told is None or asked is None or (type(asked) is type(told) and asked == told)
    check.that(fine, name, asked, f"the data says {told}")
    return next(value for value in (told, asked, default) if value is not None)
