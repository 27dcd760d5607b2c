"""Which products of numbers a device has, and holding it to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from avmixup_kit._base.private import cpu_multiplies_bf16


def native_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 itself instead of emulating it.

    On a CPU without it, autocast measured 14 times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return cpu_multiplies_bf16()
    return False


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Hold CUDA's convolutions and matrix products of float32 to float32, or let them be TF32."""
    if device.type != "cuda":
        yield
        return
    # Not the newer fp32_precision: torch.compile reads these, and refuses a mixture of both.
    switches: tuple[Any, Any] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = tf32
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def native_tf32(device: torch.device) -> bool:
    """Return whether the device has TF32 products: NVIDIA's since Ampere."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()
