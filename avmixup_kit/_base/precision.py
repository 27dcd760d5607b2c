"""Which products of numbers a device has, and holding it to them."""

import threading
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


# Not the newer fp32_precision: torch.compile reads these, and refuses a mixture of both.
SWITCHES: tuple[Any, Any] = (torch.backends.cudnn, torch.backends.cuda.matmul)
_turn = threading.Condition()
_queue: list[object] = []  # who waits, first come first served
_inside: list[tuple[int, bool]] = []  # thread and what it holds the switches to
_before: list[bool] = []


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Hold CUDA's convolutions and matrix products of float32 to float32, or let them be TF32.

    The switches are the process's: a thread that wants them otherwise waits until those inside are
    out.
    """
    if device.type != "cuda":
        yield
        return
    mine, token = (threading.get_ident(), tf32), object()
    with _turn:
        if all(thread != mine[0] for thread, _ in _inside):
            _queue.append(token)
            _turn.wait_for(lambda: _queue[0] is token and all(v == tf32 for _, v in _inside))
            _queue.remove(token)
            _turn.notify_all()
        if not _inside:
            _before[:] = [switch.allow_tf32 for switch in SWITCHES]
        _inside.append(mine)
        _switch(tf32, tf32)
    try:
        yield
    finally:
        with _turn:
            _inside.remove(mine)
            _switch(*([_inside[-1][1]] * 2 if _inside else _before))
            _turn.notify_all()


def _switch(*values: bool) -> None:
    for switch, value in zip(SWITCHES, values, strict=True):
        if switch.allow_tf32 != value:
            switch.allow_tf32 = value


def native_tf32(device: torch.device) -> bool:
    """Return whether the device has TF32 products: NVIDIA's since Ampere."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()
