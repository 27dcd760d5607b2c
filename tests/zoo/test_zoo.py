"""Networks that come with the kit: one line loads them, and their cards say what is true."""

import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import cli, cli_options, methods, runs
from avmixup_kit.live.lab import new_run
from avmixup_kit.models.export import CARD

ROOT = Path(__file__).parents[2]
SIZE = 25 * 2**20


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The zoo in a folder of its own, to be damaged and added to."""
    folder = tmp_path / "zoo"
    shutil.copytree(av.zoo.HERE / "digits", folder / "digits")
    monkeypatch.setattr(av.zoo, "HERE", folder)
    return folder


def near(accuracy: float):
    """One of 449 images may turn where another CPU rounds otherwise."""
    return pytest.approx(accuracy, abs=100 / 449 + 0.01)


def evaluate(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", "evaluate", *map(str, words)])
    cli.main()


# ------------------------------------------------------------------------------- what is there


def test_a_network_and_evaluate_reproduce_a_cards_figures_in_five_lines():
    network, data = av.zoo.load("digits/pgd"), av.digits()
    attacks = [av.pgd(steps=20, epsilon=data.epsilon), av.cw(steps=20, epsilon=data.epsilon)]
    result = av.evaluate(network, data.test, attacks)
    for name in result.names:
        assert 100 * result.accuracy(name) == near(network.card["accuracies"][name])


def test_the_documented_lines_reproduce_a_card_on_photographs(real_images, monkeypatch, capsys):
    page = (ROOT / "docs" / "library.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "cifar10_sample" in b)
    assert block.count("\n") <= 5
    monkeypatch.setenv("AVMIXUP_DATA", str(real_images))
    cache = os.environ.get("AVMIXUP_CACHE", tempfile.gettempdir())  # not beside the images
    monkeypatch.setenv("AVMIXUP_CACHE", cache)
    names = {"av": av}
    exec(block, names)
    said, card = capsys.readouterr().out, names["network"].card
    assert "cifar10-jpeg" in said
    assert names["images"].checksum == card["test_checksum"]
    for name in names["found"].names:
        accuracy = 100 * names["found"].accuracy(name)
        assert accuracy == pytest.approx(card["accuracies"][name], abs=0.5)  # 5 of 1 000 images


@pytest.mark.parametrize("name", av.zoo.names())
def test_every_network_loads_and_its_card_has_robustbenchs_fields_and_where_it_comes_from(name):
    network = av.zoo.load(name)
    card = network.card
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert CARD.keys() <= card.keys()
    assert card["dataset"] == name.split("/")[0]
    assert methods.parse(card["method"])
    assert all(card[field] for field in ("recipe", "command", "commit", "n", "architecture"))
    assert {"Clean", "PGD20", "CW20"} <= card["intervals"].keys()
    strongest = min(v for k, v in card["accuracies"].items() if k.startswith("AutoAttack"))
    assert float(card["autoattack_acc"]) == strongest


def test_all_of_them_together_are_smaller_than_25_mb():
    assert sum(path.stat().st_size for path in av.zoo.HERE.rglob("*.*")) < SIZE


# --------------------------------------------------------------------------------- bad input


def test_a_name_that_is_not_there_lists_those_that_are():
    with pytest.raises(ValueError, match=r"zoo name = 'digits/none' is not allowed: .*digits/pgd"):
        av.zoo.load("digits/none")


def test_an_altered_weight_file_is_refused(copy):
    path = copy / "digits" / "pgd.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pgd.safetensors is truncated or altered, its SHA-256"):
        av.zoo.load("digits/pgd")


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_a_damaged_card_is_refused(copy, text):
    (copy / "digits" / "pgd.json").write_text(text)
    with pytest.raises(ValueError, match=r"pgd.json is no card|pgd.safetensors is truncated"):
        av.zoo.load("digits/pgd")


def test_a_card_cannot_run_code(copy, tmp_path):
    path = copy / "digits" / "pgd.json"
    card = json.loads(path.read_text())
    trap = f"open({str(tmp_path / 'opened')!r}, 'w')"
    path.write_text(json.dumps(card | {"architecture": trap}))
    with pytest.raises(ValueError, match="architecture = .* is not allowed"):
        av.zoo.load("digits/pgd")
    assert not (tmp_path / "opened").exists()


# -------------------------------------------------------------------------- who starts from it


def test_the_command_line_evaluates_a_network_of_the_zoo(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    evaluate(monkeypatch, "--zoo", "digits/pgd", "--attacks", "pgd", "--steps", "20")
    (found,) = re.findall(r"PGD20 +([\d.]+)%", capsys.readouterr().out)
    assert float(found) == near(av.zoo.card("digits/pgd")["accuracies"]["PGD20"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zoo", "nothing"], "zoo name = 'nothing' is not allowed: one of"),
        ([], "folder is missing: a run folder, or --zoo cifar10"),
        (["here", "--zoo", "digits/pgd"], "folder = 'here' is not allowed: a run folder or --zoo"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, *words)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_images_of_another_data_set_are_refused(monkeypatch, capsys, copy):
    path = copy / "digits" / "pgd.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "svhn"}))
    with pytest.raises(SystemExit):
        evaluate(monkeypatch, "--zoo", "digits/pgd", "--data", "digits")
    wanted = "data = 'digits' is not allowed: digits/pgd was trained on svhn (--anyway to insist)"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(("root", "asked"), [((), Path("data")), (("--root", "x"), Path("x"))])
def test_a_network_of_cifar10_is_evaluated_on_what_lies_in_a_folder(
    monkeypatch, capsys, copy, digits, root, asked
):
    def found(folder):
        assert Path(folder) == asked
        return replace(digits, name="cifar10-jpeg")

    path = copy / "digits" / "pgd.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "cifar10-jpeg"}))
    monkeypatch.setattr(cli_options, "cifar10_or_mirror", found)
    evaluate(monkeypatch, "--zoo", "digits/pgd", "--images", "20", "--attacks", "fgsm", *root)
    assert "FGSM" in capsys.readouterr().out


def test_the_dashboards_next_run_can_start_from_a_network_of_the_zoo():
    form = new_run.fields()
    trained = [value for _, value in form["network"].options if value.startswith(new_run.ZOO)]
    assert trained == [new_run.ZOO + name for name in av.zoo.names()]
    given = {name: widget.value for name, widget in form.items()}
    training, data = new_run.make(**given | {"data": "digits", "network": trained[-1]})
    accuracy = av.evaluate(training.model, data.test, []).accuracy()
    assert accuracy > 0.9
    next(training)


# --------------------------------------------------------------------------------- making one


@pytest.fixture
def script():
    """studies/zoo.py as a module."""
    spec = importlib.util.spec_from_file_location("make_zoo", ROOT / "studies" / "zoo.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("command", [(), ("--command", " ")])
def test_an_entry_without_the_command_that_made_it_is_refused_before_anything_is_evaluated(
    script, tmp_path, monkeypatch, capsys, command
):
    words = ["zoo.py", "digits/mine", str(tmp_path / "run"), *command]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        script.main()
    assert "a name, a run folder and --command, or --digits" in capsys.readouterr().err


def test_a_run_folder_becomes_an_entry_whose_figures_are_those_of_its_half_precision(
    script, copy, tmp_path, monkeypatch, digits, capsys
):
    pytest.importorskip("pyautoattack")
    dial = av.Dial(av.pgd_training(epsilon=digits.epsilon, steps=1))
    training = av.Training(av.small_cnn(digits), digits.train, dial, 30, average=0.9, seed=5)
    for _ in runs.log(training, tmp_path / "run"):
        pass
    words = ["digits/mine", tmp_path / "run", "--images", 20, "--command", "make mine"]
    monkeypatch.setattr(sys, "argv", ["zoo.py", *map(str, words)])
    script.main()
    network = av.zoo.load("digits/mine")
    card = network.card
    assert training.averaged is not None
    for given, kept in zip(training.averaged.parameters(), network.parameters(), strict=True):
        assert torch.equal(given.half().float(), kept)
    about = {key: card[key] for key in ("name", "training_seed", "command", "n", "average")}
    assert about == {
        "name": "PGD",
        "training_seed": 5,
        "command": "make mine",
        "n": 20,
        "average": 0.9,
    }
    attack = av.pgd(steps=20, epsilon=digits.epsilon)
    found = av.evaluate(network, digits.test.sample(20), [attack])
    assert card["accuracies"]["PGD20"] == round(100 * found.accuracy("PGD20"), 2)
    assert {path.suffix for path in (copy / "digits").iterdir()} == {".json", ".safetensors"}
