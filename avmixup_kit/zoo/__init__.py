"""Trained networks that come with the kit, each with a card that says how it was made.

    network = av.zoo.load("digits/pgd")
    network.card["autoattack_acc"], network.card["command"]

Weights are safetensors in half precision beside this file, cards in RobustBench's fields
(``evaluation.record.card``); ``studies/zoo.py`` made them. Loading needs no network and runs no
code: the architecture is a text that is parsed, the weights are checked against the card's SHA-256.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avmixup_kit._base import check, files
from avmixup_kit.models.networks import Network
from avmixup_kit.models.weights import load_weights
from avmixup_kit.models.zoo import from_architecture

HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of the networks that are there, data set first: "digits/pgd"."""
    paths = sorted(HERE.glob("*/*.safetensors"))
    return tuple(f"{path.parent.name}/{path.stem}" for path in paths)


def card(name: str) -> dict[str, Any]:
    """Return a network's card: method, data, command, seed, commit, accuracies with intervals.

    Raises:
        ValueError: there is no network of that name, or its card is damaged.
    """
    check.one_of("zoo name", name, names())
    return files.read_json(HERE / f"{name}.json", words="is no card: install the kit anew")


def load(name: str, device: str | torch.device = "cpu") -> Network:
    """Return a trained network, float32 and in eval mode, with its ``card``.

    Args:
        name: one of ``names()``.

    Raises:
        ValueError: there is no network of that name, or its file is not the one of its card.
    """
    from safetensors.torch import load as tensors

    about = card(name)
    path = HERE / f"{name}.safetensors"
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != about.get("sha256"):
        raise ValueError(
            f"{path} is truncated or altered, its SHA-256 is {found[:12]}..., its card's "
            f"{str(about.get('sha256'))[:12]}...: install the kit anew"
        )
    network = from_architecture(about["architecture"])
    assert isinstance(network, Network)
    load_weights(network, {name: _whole(weight) for name, weight in tensors(content).items()})
    network.card = about
    return network.to(device).eval()


def _whole(weight: Tensor) -> Tensor:
    return weight.float() if weight.is_floating_point() else weight
