"""CONTRIBUTING.md says what is so: its recipes run, its drawings are the house, its table finds."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = {
    part.split("\n")[0]: part
    for part in PAGE.split("## Add your own")[1].split("\n## ")[0].split("\n### ")[1:]
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def forgetful(monkeypatch, tmp_path):
    """An empty folder to stand in; what is registered there is forgotten afterwards."""
    registries = [av.methods.METHODS, av.attacks.ATTACKS, av.models.NETWORKS, av.data.DATASETS]
    before = [dict(registry.entries) for registry in registries]
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.entries.clear()
        registry.entries.update(entries)
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_works_as_it_stands(monkeypatch, forgetful, capsys, kind):
    (path,) = set(re.findall(r"`(my_\w+\.py)`", RECIPES[kind]))
    (code,) = blocks(RECIPES[kind], "python")
    Path(path).write_text(code)
    commands = [line for block in blocks(RECIPES[kind], "sh") for line in block.splitlines()]
    if not commands:  # a script
        runpy.run_path(path, run_name="__main__")
        assert "FGSM" in (said := capsys.readouterr().out)
        assert ("DLR20" in said) == (kind == "An attack")
    for command in commands:
        python, dash, package, *words = shlex.split(command)
        assert (python, dash, package) == ("python", "-m", "avmixup_kit")
        monkeypatch.setattr("sys.argv", [package, *words])
        cli.main()
    for folder in Path("runs").glob("*"):
        values = av.runs.load_model(folder).state_dict().values()
        assert all(bool(torch.isfinite(value).all()) for value in values)


def test_there_is_a_recipe_for_each_kind():
    assert list(RECIPES) == [
        "A method", "A mix", "A loss", "An attack", "A network", "A data set"
    ]  # fmt: skip


def test_the_drawing_of_the_floors_is_what_the_layers_test_checks():
    floors = runpy.run_path(str(Path(__file__).parent / "test_layers.py"))["FLOORS"]
    drawing = re.search(r"^    cli  .*?(?=\n\n\|)", PAGE, re.M | re.S)
    assert drawing is not None
    drawn = [
        {room.strip() for room in re.split(r"\s{3,}", floor.strip())[0].split("|")}
        for floor in re.split(r"^    -+$", drawing[0], flags=re.M)
    ]
    aside = {"cli_options", "__main__", "plots", "tuning"}  # other names, parts of cli
    assert drawn == [set().union(*floor) - aside for floor in floors]


@pytest.mark.parametrize(
    ("what", "sign"),
    [
        ("Equation (13)", r"Equation \(13\)|Equations \(12\) and \(13\)"),
        ("Sinkhorn", "Sinkhorn"),
        ("lock of a run folder", "flock|lockf|held"),
        ("AutoAttack's adapter", "pyautoattack"),
        ("colours of the methods", "METHOD_COLOURS"),
        ("dashboard's thread", "Thread"),
        ("Table 3", "(?i)table.?3"),
    ],
)
def test_what_the_table_says_is_where_it_says(what, sign):
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| ") and what in line]
    paths = re.findall(r"`([\w/]+\.py)`", row.split("|")[2])
    assert paths
    for path in paths:
        assert re.search(sign, (ROOT / "avmixup_kit" / path).read_text()), path
