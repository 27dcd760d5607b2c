"""The command line does what the notebooks do, headless, and parses nothing that it ignores."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import avmixup_kit as av
from avmixup_kit import cli, methods, runs
from avmixup_kit._base.plugins import load_plugins
from avmixup_kit.training import checkpoints

SHORT = ["--steps", "4", "--batch-size", "16", "--base-channels", "4", "--curve-images", "10"]


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", *map(str, words)])
    cli.main()


def test_train_evaluate_and_transfer(monkeypatch, tmp_path, capsys, digits):
    call(monkeypatch, "train", tmp_path / "a", "--gamma", "3.0", "--attack-steps", "1", *SHORT)
    assert "PGD10, validation: " in capsys.readouterr().out
    about = json.loads((tmp_path / "a" / "run.json").read_text())
    assert methods.parse(about["method"]) == methods.avmixup(3.0, epsilon=0.15, steps=1)
    call(monkeypatch, "train", tmp_path / "b", "--method", "standard", *SHORT)
    capsys.readouterr()
    call(
        monkeypatch, "evaluate", tmp_path / "a", "--images", "30", "--steps", "2", "4",
        "--transfer-from", tmp_path / "b",
    )  # fmt: skip
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert list(result["accuracy"]) == ["Clean", "FGSM", "PGD2", "PGD4", "CW20"]
    assert result["n"] == 30
    assert f"PGD20 from {tmp_path / 'b'}: " in out
    network = runs.load_model(tmp_path / "a")
    attacks = [
        av.fgsm(0.15),
        av.pgd(steps=2, epsilon=0.15),
        av.pgd(steps=4, epsilon=0.15),
        av.cw(steps=20, epsilon=0.15),
    ]
    direct = av.evaluate(network, digits.test.subset(30), attacks)
    assert torch.equal(av.Evaluation.load(tmp_path / "a/correct.npz").correct, direct.correct)


def test_train_is_the_library_and_resume_goes_on(monkeypatch, tmp_path, digits):
    words = ["--method", "pgd", "--attack-steps", "1", "--seed", "3", *SHORT]
    call(monkeypatch, "train", tmp_path / "whole", *words)
    network = av.small_cnn(digits, seed=3, base_channels=4)
    training = av.Training(
        network, digits.train, av.Dial(methods.pgd(epsilon=0.15, steps=1)), 4, batch_size=16, seed=3
    )
    records = runs.log(training, tmp_path / "part", checkpoint_every=1)
    next(records)
    next(records)
    records.close()
    call(monkeypatch, "train", tmp_path / "part", *words, "--resume")
    states = [
        checkpoints.load_checkpoint(tmp_path / run / "latest.pt") for run in ("whole", "part")
    ]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name])


def test_exported_turns_are_replayed(monkeypatch, tmp_path):
    dial = av.Dial(av.avmixup(epsilon=0.15))
    dial(0)
    dial.turn(gamma=4.0)
    runs.export_turns(dial, tmp_path / "turns.jsonl")
    call(
        monkeypatch, "train", tmp_path / "run", "--turns", tmp_path / "turns.jsonl",
        "--attack-steps", "1", *SHORT,
    )  # fmt: skip
    assert runs.turns_of(tmp_path / "run") == list(dial.turns)


def test_a_training_of_limited_time_says_how_far_it_came(monkeypatch, tmp_path, capsys):
    words = ["--method", "standard", "--checkpoint-piece-mib", "1", *SHORT]
    call(monkeypatch, "train", tmp_path / "run", *words, "--minutes", "1e-6")
    said = capsys.readouterr().out
    assert "stopped and saved after 1 of 4 steps: the time was up; --resume goes on" in said
    assert list((tmp_path / "run").glob("latest.pt.*.000"))
    call(monkeypatch, "train", tmp_path / "run", *words, "--resume")
    assert "PGD10, validation: " in capsys.readouterr().out


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of 8x8 images of two classes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 6)):
        for name in ("ant", "bee"):
            (tmp_path / "mine" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / part / name / f"{i}.png")
    return tmp_path / "mine"


def refused(monkeypatch, capsys, *words):
    """Return the one line in which the words are refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_evaluate_takes_the_runs_own_images_and_refuses_others(
    monkeypatch, tmp_path, capsys, pictures
):
    words = ["--data", "image_folder", "--root", "mine", "--validation", "0.2", "--method"]
    call(monkeypatch, "train", "run", *words, "standard", *SHORT)
    short = ["--images", "6", "--steps", "1"]
    call(monkeypatch, "evaluate", "run", *short)
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["data"], result["n"]) == ("mine/test", 6)
    images = av.image_folder("mine").test.sample(6)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()
    call(monkeypatch, "evaluate", "run", "--split", "train", *short)

    said = refused(monkeypatch, capsys, "evaluate", "run", "--data", "digits", *short)
    assert said == (
        "error: run was trained on other data (--anyway to insist): "
        "number of classes was 2, is 10; class 0 was 'ant', is '0'; class 1 was 'bee', is '1'"
    )
    for part in ("train", "test"):
        (pictures / part / "ant").rename(pictures / part / "wasp")
    said = refused(monkeypatch, capsys, "evaluate", "run", *short)
    assert "class 0 was 'ant', is 'bee'; class 1 was 'bee', is 'wasp'" in said
    call(monkeypatch, "evaluate", "run", "--anyway", *short)
    pictures.rename(tmp_path / "moved")
    assert "mine" in refused(monkeypatch, capsys, "evaluate", "run", *short)
    call(monkeypatch, "evaluate", "run", "--root", "moved", "--anyway", *short)


NET = """
import avmixup_kit as av
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1))

def stacked():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize("how", ["Net", "stacked"])
def test_evaluate_makes_a_network_of_ones_own_from_a_plugin(
    monkeypatch, tmp_path, capsys, digits, how
):
    file = tmp_path / f"own_{how}.py"
    file.write_text(NET)
    load_plugins([file])
    make = getattr(sys.modules[file.stem], how)
    training = av.Training(make(), digits.train, methods.standard(), 2, batch_size=16)
    list(runs.log(training, tmp_path / "run", network=None if how == "Net" else make))
    words = ["evaluate", tmp_path / "run", "--images", "20", "--steps", "1"]
    del sys.modules[file.stem]
    said = refused(monkeypatch, capsys, *words)
    assert f"import own_{how} first, or pass --plugin own_{how}.py" in said
    call(monkeypatch, *words, "--plugin", file)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["n"] == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "tf32"], "precision = 'tf32' is not allowed: only CUDA"),
        (["--minutes", "0"], "minutes = 0.0 is not allowed"),
        (["--checkpoint-piece-mib", "0"], "piece_mib = 0 is not allowed"),
        (["--gamma", "0.5"], "gamma = 0.5 is not allowed"),
        (["--method", "pgd", "--gamma", "2"], "method pgd: .*gamma"),
        (["--method", "standard", "--epsilon", "0.1"], "method standard: .*epsilon"),
        (["--epsilon", "8"], r"epsilon = 8.0 is not allowed.*write 8 / 255"),
        (["--lr", "0"], "lr = 0.0 is not allowed"),
        (["--network", "wrn-16-8", "--base-channels", "3"], "base_channels"),
        (["--data", "image_folder"], "--root is missing"),
        (["--root", "x"], "data set digits: .*'root'; it has validation"),
        (["--data", "image_folder", "--root", "nowhere-at-all"], "nowhere-at-all"),
        (["--device", "cuda"], "device = 'cuda' is not allowed: this machine has no CUDA"),
        (["--batch-size", "2000"], "batch_size = 2000 is not allowed"),
        (["--resume"], "holds no run to resume"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", tmp_path / "run", "--steps", "4", *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    "words", [["train", "x"], ["train", "x", "--steps", "4", "--nonsense"], ["fly"],
              ["train", "x", "--steps", "4", "--network", "resnet"]],
)  # fmt: skip
def test_an_unknown_word_is_refused(monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 2


def test_a_diverging_training_exits_with_3(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", tmp_path / "run", "--lr", "1e30", "--method", "standard", *SHORT)
    assert stop.value.code == 3
    assert re.search("no longer finite|the loss is", capsys.readouterr().err)


def test_every_name_on_the_command_line_is_one_of_the_library(monkeypatch, capsys):
    from avmixup_kit import data, models

    with pytest.raises(SystemExit):
        call(monkeypatch, "train", "--help")
    said = re.sub(r"[\s│]", "", capsys.readouterr().out)
    for names in (methods.METHODS, models.NETWORKS, data.DATASETS):
        assert f"{{{','.join(names)}}}" in said


def test_the_demonstration_writes_table_page_and_run_folders(monkeypatch, tmp_path, capsys):
    call(monkeypatch, "demo", "--folder", tmp_path, "--steps", "4")
    table = capsys.readouterr().out
    for name in ("Standard", "PGD", "LS0.8", "AVmixup"):
        assert name in table
        assert (tmp_path / name / "correct.npz").exists()
    for column in ("Clean", "FGSM", "PGD20", "CW20"):
        assert column in table
    assert "[" in table
    assert (tmp_path / "table.txt").read_text().strip() in table
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == "python -m avmixup_kit demo --steps 4 --seed 0"
    page = (tmp_path / "index.html").read_text()
    assert page.count("<img ") == 8 * 5
    assert "PGD10, validation" in page
    assert "upper bounds until a stronger" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", markup), "the page fetches something"
    assert "<script src" not in page
    call(monkeypatch, "demo", "--folder", tmp_path, "--steps", "4")  # taken up: nothing to do
    assert capsys.readouterr().out == table
