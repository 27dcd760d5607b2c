"""A network handed on: weights, card, and a loader that needs torch alone."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit.models.export import CARD, LOADER


def network():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4)
    )  # fmt: skip


def test_weights_come_back_bit_for_bit_with_torch_alone(tmp_path):
    model = network()
    path = av.export(model, {"name": "mine"}, tmp_path / "new" / "mine.v2")
    assert path == tmp_path / "new" / "mine.v2.safetensors"
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from load_safetensors import load\n"
        "import torch; torch.save(load('mine.v2.safetensors'), 'again.pt')\n"
        "print(sorted({'avmixup_kit', 'safetensors', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path.parent, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
    again = torch.load(path.parent / "again.pt", weights_only=True)
    state = model.state_dict()
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert len(LOADER.split("def load")[1].splitlines()) <= 10


def test_half_precision_halves_the_file_and_leaves_the_network(tmp_path):
    model = network()
    whole = av.export(model, {}, tmp_path / "whole")
    half = av.export(model, {}, tmp_path / "half", half=True)
    size = sum(p.numel() for p in model.state_dict().values() if p.is_floating_point())
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * size, abs=64)
    assert model[0].weight.dtype == torch.float32


def test_a_card_has_robustbenchs_fields_and_ones_own(tmp_path, digits):
    model = av.small_cnn(digits, base_channels=4)
    given = {"clean_acc": "98.4", "seed": 3, "architecture": ""}
    path = av.export(model, given, tmp_path / "net.safetensors")
    card = json.loads((tmp_path / "net.json").read_text())
    assert set(card) == {*CARD, "sha256", "seed"}
    assert (card["clean_acc"], card["seed"], card["additional_data"]) == ("98.4", 3, False)
    assert card["architecture"] == model.architecture
    assert av.models.from_architecture(card["architecture"]).architecture == model.architecture
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"clean_acc": "0.984x"}, "clean_acc = '0.984x' is not allowed: per cent, 0 to 100"),
        ({"autoattack_acc": 101}, "autoattack_acc = 101 is not allowed: per cent, 0 to 100"),
        ({"seed": {1}}, "card is not allowed: JSON cannot hold it"),
        ({"loss": float("nan")}, "card is not allowed: JSON cannot hold it"),
    ],
)
def test_a_card_that_cannot_be_is_refused_before_anything_is_written(tmp_path, card, message):
    with pytest.raises(ValueError, match=message):
        av.export(network(), card, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
