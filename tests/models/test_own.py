"""Networks and data sets of one's own: one registered function each, saved, from the shell."""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import cli, models, runs
from avmixup_kit._base import plugins
from avmixup_kit._base.registry import Registry
from avmixup_kit.data import DATASETS, load
from avmixup_kit.models import NETWORKS, ImageShape, Shape

PLUGIN = '''
"""A linear network, and stripes to tell apart."""
import math
import torch
from torch import nn
import avmixup_kit as av

@av.models.NETWORKS.register(title="Linear")
def linear(data: av.models.ImageShape, bias: bool = True) -> nn.Module:
    """Return one layer."""
    inputs = math.prod(data.shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, data.num_classes, bias))

@av.data.DATASETS.register(title="Stripes")
def stripes(count: int = 60) -> av.Data:
    """Rows or columns of light."""
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 6, 6, dtype=torch.uint8)
    images[labels == 0, :, ::2] = images[labels == 1, :, :, ::2] = 255
    split = av.Split(images, labels, ("rows", "columns"), name="stripes")
    return av.Data("stripes", split, split.subset(20), split.subset(20), epsilon=0.1)
'''
SHORT = ["--method", "standard", "--steps", "4", "--batch-size", "16", "--curve-images", "10"]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What a test registers and loads is forgotten after it."""
    registries: list[Registry] = [NETWORKS, DATASETS]
    before = [dict(registry.entries) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.entries.clear()
        registry.entries.update(entries)
    sys.modules.pop("my_things", None)
    plugins.LOADED.clear()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_things.py"
    path.write_text(PLUGIN)
    return path


def linear(data: ImageShape, bias: bool = True) -> nn.Module:
    inputs = math.prod(data.shape)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, data.num_classes, bias))


def call(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr("sys.argv", ["avmixup_kit", *map(str, words)])
    cli.main()


def test_a_network_of_ones_own_is_built_again_from_its_text(digits: av.Data) -> None:
    NETWORKS.register(title="Linear")(linear)
    network: Any = models.build("linear", digits, seed=3, bias=False)
    assert network.architecture == f"{__name__}.linear(shape=(1, 8, 8), num_classes=10, bias=False)"
    state = torch.get_rng_state()
    again: Any = models.from_architecture(network.architecture, seed=3)
    other: Any = models.build("linear", digits, seed=4, bias=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network[1].weight, again[1].weight)
    assert again[1].bias is None
    assert not torch.equal(network[1].weight, other[1].weight)


def test_a_network_of_ones_own_sees_nothing_but_the_shape_of_its_data(digits: av.Data) -> None:
    seen = []

    def curious(data: ImageShape) -> nn.Module:
        seen.append(data)
        return linear(data)

    curious.__qualname__ = "curious"
    NETWORKS.register()(curious)
    models.build("curious", digits)
    assert seen == [Shape((1, 8, 8), 10)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bias": torch.ones(1)}, "architecture = .* is not allowed: a call such as"),
        (
            {"width": 3},
            "network linear: got an unexpected keyword argument 'width'; it has data",
        ),
        ({"data": 10}, "data = 10 is not allowed: network linear takes a data set"),
    ],
)
def test_what_a_run_folder_could_not_build_again_is_refused(
    digits: av.Data, settings: dict[str, Any], message: str
) -> None:
    NETWORKS.register()(linear)
    given: dict[str, Any] = {"data": digits} | settings
    with pytest.raises(ValueError, match=message) as caught:
        models.build("linear", **given)
    assert "\n" not in str(caught.value)


def test_functions_that_cannot_be_found_again_or_return_something_else_are_refused(
    digits: av.Data,
) -> None:
    NETWORKS.register("hidden")(lambda data: linear(data))
    with pytest.raises(ValueError, match="registered function at the top of a module"):
        models.build("hidden", digits)

    def nothing(data: ImageShape) -> None: ...

    nothing.__qualname__ = "nothing"
    NETWORKS.register()(nothing)
    with pytest.raises(ValueError, match="network nothing returned = None is not allowed: a Mod"):
        models.build("nothing", digits)
    DATASETS.register("nothing")(lambda: 3)
    with pytest.raises(ValueError, match="data set nothing returned = 3 is not allowed: a Data"):
        load("nothing")


@pytest.mark.parametrize(
    "text", ["os.system(shape=(1, 8, 8), num_classes=2)", "nowhere.at_all.mine(shape=1)"]
)
def test_code_that_an_architecture_names_is_never_run(text: str) -> None:
    module = text.partition("(")[0].rpartition(".")[0]
    with pytest.raises(ValueError, match=rf"is not there: import {module} first, or pass --plugin"):
        models.from_architecture(text)


@pytest.mark.parametrize(("registry", "name"), [(NETWORKS, "small_cnn"), (DATASETS, "digits")])
def test_a_name_that_is_taken_is_refused(registry: Registry, name: str) -> None:
    message = f"{registry.kind} = '{name}' is not allowed: avmixup_kit.* has that name already"
    with pytest.raises(ValueError, match=message):
        registry.register(name)(lambda data: None)


@pytest.mark.parametrize("registry", [NETWORKS, DATASETS])
def test_every_entry_has_a_title_of_its_own_and_a_summary(registry: Registry) -> None:
    entries = registry.entries.values()
    assert len({entry.title for entry in entries}) == len(entries)
    assert all(entry.summary and entry.make.__module__.startswith("avmixup") for entry in entries)


def test_every_size_that_is_said_is_the_size_that_is_there(digits: av.Data) -> None:
    size = DATASETS.entries["digits"].size
    assert (size.num_classes, size.shape) == (digits.num_classes, digits.shape)
    assert size.test == len(digits.test)


def test_a_plugin_trains_resumes_and_is_evaluated_from_the_shell(
    monkeypatch: pytest.MonkeyPatch, plugin: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["--plugin", plugin, "--data", "stripes", "--network", "linear"]
    call(monkeypatch, "train", tmp_path / "whole", *words, *SHORT)
    about = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert about["architecture"] == "my_things.linear(shape=(1, 6, 6), num_classes=2)"
    assert about["data"] == "stripes"
    call(monkeypatch, "train", tmp_path / "part", *words, *SHORT, "--minutes", "1e-9")
    call(monkeypatch, "train", tmp_path / "part", *words, *SHORT, "--resume")
    states = [runs.load_model(tmp_path / name).state_dict() for name in ("whole", "part")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    call(monkeypatch, "evaluate", tmp_path / "whole", *words[:4], "--steps", "1")
    assert "FGSM" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(monkeypatch, "search", "--plugin", plugin, "--help")
    said = re.sub(r"[\s│]", "", capsys.readouterr().out)
    assert "small_cnn,linear}" in said
    assert "image_folder,stripes}" in said


def test_a_run_of_a_plugin_that_is_not_loaded_says_which_to_pass(
    monkeypatch: pytest.MonkeyPatch, plugin: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["--plugin", plugin, "--network", "linear"]
    call(monkeypatch, "train", tmp_path / "run", *words, *SHORT)
    capsys.readouterr()
    del NETWORKS.entries["linear"]
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "evaluate", tmp_path / "run")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: my_things.linear is not there: import my_things first, or pass ")
    assert said.strip().count("\n") == 0


def test_further_processes_of_a_search_load_the_plugins_too(plugin: Path, capfd: Any) -> None:
    study = pytest.importorskip("avmixup_kit.search.study")
    plugins.load_plugin(plugin)
    with study.helper_processes(models.build, ("linear", Shape((1, 6, 6), 2)), 1):
        pass
    assert "Traceback" not in capfd.readouterr().err
