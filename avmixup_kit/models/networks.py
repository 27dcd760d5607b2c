"""Layers and blocks that networks are made of; pixel normalisation is the first layer of each."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmixup_kit._base import check

Channels = float | tuple[float, ...]
WIDE = 256  # channels from which on a convolution of tiny maps is a product


class Normalise(nn.Module):
    """(x - mean) / std with one constant per channel, both in the images' [0, 1] units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Channels, std: Channels, in_channels: int) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            allowed = f"one finite number, or one for each of the {in_channels} channels"
            given = value if isinstance(value, tuple) else (value,)
            fine = len(given) in (1, in_channels) and all(map(check.is_number, given))
            check.that(fine, name, value, allowed)
            values = torch.tensor(given, dtype=torch.float32)
            check.that(bool(values.isfinite().all()), name, value, allowed)
            check.that(
                name == "mean" or bool(values.min() > 0), name, value, "every entry must be > 0"
            )
            # Not in the state dict: the architecture text already holds them.
            channels = values.expand(in_channels).reshape(-1, 1, 1).clone()
            self.register_buffer(name, channels, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Standardise(nn.Module):
    """Each image minus its mean, over max(its standard deviation, 1 / sqrt(number of elements)).

    The authors' networks see pixels from 0 to 255; as images here lie in [0, 1], the same floor is
    255 times lower. Gradients flow through both statistics, as they do in the authors' code.
    """

    def forward(self, x: Tensor) -> Tensor:
        dimensions = (1, 2, 3)
        centred = x - x.mean(dimensions, keepdim=True)
        elements = x[0].numel()
        variance = centred.square().mean(dimensions, keepdim=True)
        # Clamping before the root keeps a constant image's gradient finite.
        return centred * variance.clamp_min(1 / (255**2 * elements)).rsqrt()


class Network(nn.Module):
    """Logits (N, K) of images (N, C, H, W) in [0, 1]: head(body(normalise(x))).

    ``architecture`` is the call that builds it again (see ``from_architecture``). ``image_size`` is
    set only for a network that takes no other size. ``card`` is that of a network of the zoo.
    """

    def __init__(
        self,
        architecture: str,
        in_channels: int,
        normalise: nn.Module,
        body: nn.Module,
        head: nn.Linear,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.card: dict[str, Any] = {}
        self.in_channels = in_channels
        self.num_classes = head.out_features
        self.image_size = image_size
        self.normalise = normalise
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (N, F), what the last linear layer sees."""
        shape = tuple(x.shape)
        fine = x.ndim == 4 and shape[1] == self.in_channels
        check.that(fine, "x.shape", shape, f"(N, C, H, W) with C = {self.in_channels}")
        fine = self.image_size in (None, shape[2:])
        check.that(fine, "x.shape", shape, f"images of (H, W) = {self.image_size} alone")
        return self.body(self.normalise(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Return ``norm(x)``, and never x itself: what follows works in place."""
    y = norm(x)
    return y.clone() if y is x else y


class PreActivation(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, added to a shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input (Zagoruyko and
    Komodakis; He et al., Identity Mappings); elsewhere it is the input itself. ``activation`` takes
    ReLU's place.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = Conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = Conv1x1(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(normed(self.bn1, x))
        residual = self.conv2(self.activation(self.bn2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class AuthorsPreActivation(nn.Module):
    """The unit of the authors' code: leaky ReLU 0.1 and a shortcut without weights.

    Where the width changes, the shortcut is an average pool with zero channels padded on both
    sides. Only the network's first unit (``activate_shortcut``) pools the activated input.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activate_shortcut: bool = False
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = SameConv(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = SameConv(out_channels, out_channels)
        self.stride = stride
        self.padding = (out_channels - in_channels) // 2
        self.activate_shortcut = activate_shortcut

    def forward(self, x: Tensor) -> Tensor:
        activated = F.leaky_relu(normed(self.bn1, x), 0.1, inplace=True)
        residual = self.conv2(F.leaky_relu(self.bn2(self.conv1(activated)), 0.1, inplace=True))
        shortcut = activated if self.activate_shortcut else x
        if self.stride > 1:
            shortcut = F.avg_pool2d(shortcut, self.stride, ceil_mode=True)
        if self.padding:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return residual + shortcut


class SameConv(nn.Conv2d):
    """A 3x3 convolution with TensorFlow's "SAME" padding.

    With stride 2 on an even size that pads one row below and one column right, where PyTorch's
    padding = 1 would sample the other pixels; the authors' networks are TensorFlow's.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=0, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        (bottom, right) = (self._missing(size) for size in input.shape[2:])
        if bottom == right == 2:
            return F.conv2d(input, self.weight, stride=self.stride, padding=1)
        sides = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
        return super().forward(F.pad(input, sides))

    def _missing(self, size: int) -> int:
        stride = self.stride[0]
        return max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution without bias, of a few channels too.

    On CPUs oneDNN writes past its workspace for the weights' gradient of a strided 1x1 convolution
    whose channels_last input has fewer channels than a vector has numbers (uxlfoundation/oneDNN
    #6035). There the pixels are taken before the convolution, which is then not strided.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if self.in_channels >= 16:
            return super().forward(input)
        down, right = self.stride
        return F.conv2d(input[:, :, ::down, ::right], self.weight)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without bias, padded by one pixel; as one product where it is wide.

    On maps of 2x2 pixels or fewer most of a filter lies on padding, and oneDNN is slow there: on a
    CPU a wide one is computed as the product of each pixel's neighbourhood and the weights.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        side = max((size - 1) // self.stride[0] + 1 for size in input.shape[2:])
        wide = min(self.in_channels, self.out_channels) >= WIDE
        tiny = wide and side <= 2 and input.device.type == "cpu"
        return self.product(input) if tiny else super().forward(input)

    def product(self, input: Tensor) -> Tensor:
        """Return the same convolution as one product of matrices."""
        step = self.stride[0]
        height, width = ((size - 1) // step + 1 for size in input.shape[2:])
        padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        taps = [
            padded[:, down : down + height * step : step, right : right + width * step : step]
            for down in range(3)
            for right in range(3)
        ]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(torch.cat(taps, dim=-1), weight).permute(0, 3, 1, 2)
