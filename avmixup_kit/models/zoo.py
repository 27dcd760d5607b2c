"""Networks that take images in [0, 1] (N, C, H, W) and return logits (N, K).

Pixel normalisation is the first layer of each, so every attack lives in [0, 1]. A network keeps how
it was built in ``architecture``, the text of the call that builds it again.
"""

import ast
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
from torch import nn

from avmixup_kit._base import check
from avmixup_kit.models.networks import (
    AuthorsPreActivation,
    Channels,
    Network,
    Normalise,
    PreActivation,
    SameConv,
    Standardise,
    conv3x3,
    pooled,
)

Normalisation = Literal["per_image"] | tuple[Channels, Channels]

ZERO_ONE_TO_MINUS_ONE_ONE: Normalisation = (0.5, 0.5)


class ImageShape(Protocol):
    """What a builder asks of a data set: the shape of one image (C, H, W) and how many classes."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_classes(self) -> int: ...


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
    fine = isinstance(depth, int) and depth >= 10 and (depth - 4) % 6 == 0
    check.that(fine, "depth", depth, "6 n + 4 with n >= 1 (10, 16, 22, ...)")
    check.whole("width", width)
    check.one_of("variant", variant, ("standard", "authors"))
    classes, channels = _sizes(data, num_classes, in_channels)
    authors = variant == "authors"
    if normalisation is None:
        normalisation = "per_image" if authors else ZERO_ONE_TO_MINUS_ONE_ONE
    architecture = _call(
        "wide_resnet",
        depth=depth,
        width=width,
        num_classes=classes,
        in_channels=channels,
        variant=variant,
        normalisation=normalisation,
    )

    def assemble() -> Network:
        parts: list[tuple[str, nn.Module]] = [
            ("stem", SameConv(channels, 16) if authors else conv3x3(channels, 16))
        ]
        size = 16
        for group, stride in enumerate((1, 2, 2)):
            units: list[nn.Module] = []
            for unit in range((depth - 4) // 6):
                out, step = 16 * width * 2**group, stride if unit == 0 else 1
                if authors:
                    units.append(AuthorsPreActivation(size, out, step, group == unit == 0))
                else:
                    units.append(PreActivation(size, out, step))
                size = out
            parts.append((f"group{group + 1}", nn.Sequential(*units)))
        parts += pooled(size, nn.LeakyReLU(0.1) if authors else nn.ReLU())
        return _network(architecture, channels, classes, normalisation, parts, size)

    # uniform_unit_scaling_initializer(1), TensorFlow's for the authors' last layer.
    return _seeded(assemble, seed, head_bound=math.sqrt(3) if authors else 1.0)


def wide_resnet_authors(
    data: ImageShape | int | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    seed: int = 0,
) -> Network:
    """Return the network of the authors' code: ``wide_resnet(34, 10, variant="authors")``."""
    return wide_resnet(
        34,
        10,
        data,
        num_classes=num_classes,
        in_channels=in_channels,
        variant="authors",
        seed=seed,
    )


def preact_resnet18(
    data: ImageShape | int | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    base_channels: int = 64,
    normalisation: Normalisation = ZERO_ONE_TO_MINUS_ONE_ONE,
    seed: int = 0,
) -> Network:
    """Return a PreActResNet18 with a 3x3 stem, for images of 32x32 or, pooled globally, any size.

    ``base_channels``: of the first of four stages, each next one twice as wide. The other arguments
    are ``wide_resnet``'s.
    """
    check.whole("base_channels", base_channels)
    classes, channels = _sizes(data, num_classes, in_channels)
    architecture = _call(
        "preact_resnet18",
        num_classes=classes,
        in_channels=channels,
        base_channels=base_channels,
        normalisation=normalisation,
    )

    def assemble() -> Network:
        size = base_channels
        parts: list[tuple[str, nn.Module]] = [("stem", conv3x3(channels, size))]
        for stage, stride in enumerate((1, 2, 2, 2)):
            out = base_channels * 2**stage
            units = PreActivation(size, out, stride), PreActivation(out, out, 1)
            parts.append((f"stage{stage + 1}", nn.Sequential(*units)))
            size = out
        parts += pooled(size, nn.ReLU())
        return _network(architecture, channels, classes, normalisation, parts, size)

    return _seeded(assemble, seed)


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
    check.whole("base_channels", base_channels)
    classes, channels = _sizes(data, num_classes, in_channels, default_channels=1)
    height, width = _image_size(data, image_size)
    architecture = _call(
        "small_cnn",
        num_classes=classes,
        in_channels=channels,
        image_size=(height, width),
        base_channels=base_channels,
        normalisation=normalisation,
    )

    def assemble() -> Network:
        parts: list[tuple[str, nn.Module]] = []
        size, (h, w) = channels, (height, width)
        for layer in range(3):
            stride = 2 if layer < 2 or max(h, w) > 4 else 1
            out = base_channels * 2**layer
            unit = conv3x3(size, out, stride), nn.BatchNorm2d(out), nn.ReLU()
            parts.append((f"conv{layer + 1}", nn.Sequential(*unit)))
            size, h, w = out, math.ceil(h / stride), math.ceil(w / stride)
        parts.append(("flatten", nn.Flatten()))
        return _network(
            architecture, channels, classes, normalisation, parts, size * h * w, (height, width)
        )

    return _seeded(assemble, seed)


NAMES: dict[str, Callable[..., Network]] = {
    "wrn-34-10": partial(wide_resnet, 34, 10),
    "wrn-28-10": partial(wide_resnet, 28, 10),
    "wrn-16-8": partial(wide_resnet, 16, 8),
    "wrn-34-10-authors": wide_resnet_authors,
    "preact_resnet18": preact_resnet18,
    "small_cnn": small_cnn,
}

_BUILDERS = {
    "wide_resnet": wide_resnet,
    "preact_resnet18": preact_resnet18,
    "small_cnn": small_cnn,
}


def build(name: str, data: ImageShape | int | None = None, **settings: object) -> Network:
    """Return the network of this name (a key of ``NAMES``) for a data set or number of classes.

    Raises:
        ValueError: no network has this name, or it has no such setting.
    """
    check.one_of("network", name, NAMES)
    try:
        return NAMES[name](data, **settings)
    except TypeError as error:
        raise ValueError(f"network {name}: {error}") from error


def from_architecture(text: str, *, seed: int = 0) -> Network:
    """Return a network built as ``text`` says, another network's ``architecture``, new weights.

    The text is parsed, never evaluated, so it may come from a file.

    Raises:
        ValueError: the text is not a call of a builder of this module with literal arguments.
    """
    complaint = (
        f"architecture = {text!r} is not allowed: a call such as "
        "wide_resnet(depth=34, width=10, num_classes=10, in_channels=3)"
    )
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError(complaint)
        builder = _BUILDERS[call.func.id]
        settings = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        raise ValueError(complaint) from error
    try:
        return builder(**settings, seed=seed)
    except TypeError as error:
        raise ValueError(complaint) from error


def _network(
    architecture: str,
    in_channels: int,
    num_classes: int,
    normalisation: Normalisation,
    parts: list[tuple[str, nn.Module]],
    num_features: int,
    image_size: tuple[int, int] | None = None,
) -> Network:
    if normalisation == "per_image":
        normalise: nn.Module = Standardise()
    else:
        fine = isinstance(normalisation, tuple) and len(normalisation) == 2
        check.that(fine, "normalisation", normalisation, "'per_image' or a pair (mean, std)")
        normalise = Normalise(*normalisation, in_channels=in_channels)
    body = nn.Sequential(OrderedDict(parts))
    head = nn.Linear(num_features, num_classes)
    return Network(architecture, in_channels, normalise, body, head, image_size)


def _seeded(assemble: Callable[[], Network], seed: int, head_bound: float = 1.0) -> Network:
    """Return the assembled network with weights that depend on the seed alone.

    Convolutions: N(0, sqrt(2 / (k k out))); the last layer: U(-b, b) with b = head_bound /
    sqrt(its inputs), bias zero.
    """
    # Not torch.manual_seed: it would also seed the generators of all accelerators.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        network = assemble()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        bound = head_bound / math.sqrt(network.head.in_features)
        nn.init.uniform_(network.head.weight, -bound, bound)
        nn.init.zeros_(network.head.bias)
    return network


def _sizes(
    data: ImageShape | int | None,
    num_classes: int | None,
    in_channels: int | None,
    default_channels: int = 3,
) -> tuple[int, int]:
    """Return (classes, channels): the data's, else the arguments', else (10, default_channels)."""
    known_classes = known_channels = None
    if isinstance(data, int):
        known_classes = data
    elif data is not None:
        if not hasattr(data, "shape") or not hasattr(data, "num_classes"):
            raise TypeError(
                f"data of type {type(data).__name__} is not allowed: a number of classes or a data "
                "set with .shape (C, H, W) and .num_classes"
            )
        check.that(len(data.shape) == 3, "data.shape", tuple(data.shape), "one image's (C, H, W)")
        known_classes, known_channels = data.num_classes, data.shape[0]
    return (
        _agreed("num_classes", known_classes, num_classes, default=10, least=2),
        _agreed("in_channels", known_channels, in_channels, default_channels, least=1),
    )


def _agreed(name: str, known: int | None, asked: int | None, default: int, least: int) -> int:
    fine = known is None or asked is None or known == asked
    check.that(fine, name, asked, f"the data says {known}")
    value = known if known is not None else asked if asked is not None else default
    check.whole(name, value, least)
    return int(value)


def _image_size(
    data: ImageShape | int | None, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    known = None if data is None or isinstance(data, int) else tuple(data.shape[1:])
    size = image_size if image_size is not None else known if known is not None else (8, 8)
    fine = known is None or tuple(size) == known
    check.that(fine, "image_size", image_size, f"the data says {known}")
    fine = len(size) == 2 and all(isinstance(side, int) and side >= 1 for side in size)
    check.that(fine, "image_size", image_size, "(H, W), whole numbers >= 1")
    return size[0], size[1]


def _call(builder: str, **settings: object) -> str:
    return f"{builder}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"
