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
from avmixup_kit.data.samples import MIRROR, ORIGINALS, cifar10_at_hand, cifar10_or_mirror
from avmixup_kit.data.splits import Split
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


def photographs(
    count: int = 50, *, method: str = "avmixup", root: str | Path | None = None
) -> tuple[Network, Split]:
    """Return a trained network of CIFAR-10 and test images for it, always the same ones.

    Args:
        count: of images, each class in proportion; fewer where there are not so many.
        method: the last word of the network's name; another where there is none of that.
        root: where to look for the images first, as of ``data.samples.cifar10_at_hand``.

    Raises:
        FileNotFoundError: no such network comes with the kit, or no images are there; the message,
            one line, says what to fetch.
        ValueError: what is there is damaged.
    """
    there = [name for name in names() if name.startswith("cifar10")]
    if not there:
        raise FileNotFoundError("no network of CIFAR-10 comes with this version of the kit")
    place = cifar10_at_hand(root)
    if place is None:
        raise FileNotFoundError(
            f"no photographs are there: put https://www.cs.toronto.edu/~kriz/{ORIGINALS[0]}, or "
            f"its JPEG mirror {MIRROR}, into {root or 'data'}"
        )
    name = next((name for name in there if name.endswith(f"/{method}")), there[0])
    test = cifar10_or_mirror(place).test
    return load(name), test.sample(min(count, len(test)))


def _whole(weight: Tensor) -> Tensor:
    return weight.float() if weight.is_floating_point() else weight
