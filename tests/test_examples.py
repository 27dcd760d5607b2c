"""The examples run as they stand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*words: object, name: str = "own_everything.py") -> str:
    words = (sys.executable, EXAMPLES / name, *words)
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_of_ones_own_is_trained_killed_resumed_judged_and_handed_on(tmp_path):
    pytest.importorskip("pyautoattack")
    said = run(tmp_path / "own")
    assert "killed after step 97, done after 150 steps" in said
    assert "APGD-T climbs the margin: its DLR loss needs 4 classes, the model has 3" in said
    card = json.loads((tmp_path / "own" / "own.json").read_text())
    assert float(card["clean_acc"]) > 80
    assert 0 < float(card["autoattack_acc"]) <= card["accuracies"]["PGD20"]
    assert "AutoAttack" in (tmp_path / "own" / "report.html").read_text()

    run(tmp_path / "whole", 1000)  # the same training, left alone
    whole = torch.load(tmp_path / "whole" / "latest.pt", weights_only=True)["model"]
    exported = load_file(tmp_path / "own" / "own.safetensors")
    assert set(exported) == set(whole)
    assert all(torch.equal(exported[name], whole[name]) for name in whole)


def test_a_network_of_torchvisions_with_a_new_head_is_fine_tuned(tmp_path):
    said = run(
        tmp_path / "run", "--steps", 3, "--images", 10, name="fine_tune_torchvision.py"
    )  # fmt: skip
    assert "step 0: loss" in said
    assert [line.split()[0] for line in said.splitlines()[-4:]] == [
        "Clean",
        "FGSM",
        "PGD20",
        "worst",
    ]
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["schedule"] == "cyclic"
    assert "AdamW(lr=0.001, weight_decay=0.01)" in about["optimizer"]
