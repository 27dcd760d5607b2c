"""The text of a frozen record, which is saved and read back; networks stand in it by checksum."""

import hashlib
import weakref
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import nn

# Whoever moves a network's tensors raises their versions or takes others.
_KNOWN: "weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]]" = weakref.WeakKeyDictionary()


def text_of(record: Any, *later: str) -> str:
    """Return a dataclass's repr without those fields of ``later`` that are at their default.

    What was saved before there were such fields keeps its text. A network is
    ``Network('0123456789abcdef')``, by its checksum.
    """
    shown = (f for f in fields(record) if f.repr)
    kept = (f.name for f in shown if f.name not in later or getattr(record, f.name) != f.default)
    words = ", ".join(f"{name}={text(getattr(record, name))}" for name in kept)
    return f"{type(record).__qualname__}({words})"


def text(value: Any) -> str:
    """Return the code that gives a value back: its repr, or a network's checksum."""
    return f"Network({checksum(value)!r})" if isinstance(value, nn.Module) else repr(value)


class NetworkAbsentError(ValueError):
    """A text names a network that nobody passed."""


def network_of(known_by: str, networks: Iterable[nn.Module]) -> nn.Module:
    """Return the network that has this checksum.

    Raises:
        NetworkAbsentError: it is none of these.
    """
    for network in networks:
        if checksum(network) == known_by:
            return network
    raise NetworkAbsentError(
        f"Network({known_by!r}) is not there: pass the network whose weights have this "
        "checksum, as source of the method that the training starts with, or "
        "Dial(method, networks=[...])"
    )


def checksum(network: nn.Module) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a network's weights and buffers.

    Names, types, shapes and values count; device, memory layout and ``torch.compile`` do not.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    # A tensor made under inference_mode counts no versions.
    stamp = [(id(t), t.data_ptr(), -1 if t.is_inference() else t._version) for _, t in tensors]
    known = _KNOWN.get(network)
    if known is not None and known[0] == stamp and not any(t.is_inference() for _, t in tensors):
        return known[1]
    digest = hashlib.sha256()
    for name, tensor in tensors:
        kept = tensor.detach().cpu().contiguous()
        about = name.replace("_orig_mod.", ""), str(kept.dtype), tuple(kept.shape)
        digest.update(repr(about).encode())
        digest.update(kept.flatten().view(torch.uint8).numpy().data)
    _KNOWN[network] = stamp, digest.hexdigest()[:16]
    return _KNOWN[network][1]
