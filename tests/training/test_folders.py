"""Run folders read again: data, network, log; what is not the run's own is refused."""

import builtins
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import avmixup_kit as av
from avmixup_kit import data, methods, models, runs
from avmixup_kit.data import DATASETS, Augmentation, Data


class Flat(nn.Module):
    """A network of one's own: a class at the top of a module, made without arguments."""

    def __init__(self, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


class Sized(Flat):
    def __init__(self, inputs: int) -> None:
        super().__init__(inputs)


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def not_a_network() -> int:
    return 5


def train(folder, split, model=None, size=16, **options):
    model = av.small_cnn(split, base_channels=4) if model is None else model
    training = av.Training(model, split, methods.standard(), 4, batch_size=size)
    for _ in runs.log(training, folder, **options):
        pass
    return training


def told(folder) -> dict[str, Any]:
    return json.loads((Path(folder) / "run.json").read_text())


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of images, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("ant", "bee"):
            folder = tmp_path / "mine" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "mine"


# ------------------------------------------------------------------------------------------- data


def test_a_run_remembers_how_its_images_were_loaded(pictures, tmp_path):
    kind = Augmentation(1, True)
    images = av.image_folder("mine", size=(6, 7), validation=0.25, augmentation=kind, device="cpu")
    train(tmp_path / "run", images.train, size=8)
    about = told(tmp_path / "run")["images"]
    assert about == {
        "classes": ["ant", "bee"],
        "checksums": {
            part: getattr(images, part).checksum for part in ("train", "validation", "test")
        },
        "loader": "image_folder",
        "arguments": {
            "path": "mine",
            "size": [6, 7],
            "validation": 0.25,
            "augmentation": {"pad": 1, "flip": True},
        },
        "part": False,
    }
    assert told(tmp_path / "run")["augmentation"] == repr(kind)
    assert str(tmp_path) not in json.dumps(told(tmp_path / "run")), "nobody asked for this path"
    again = runs.open(tmp_path / "run").data
    for part in ("train", "validation", "test"):
        assert getattr(again, part).checksum == getattr(images, part).checksum
    assert again.train.augmentation == kind


def test_renamed_classes_and_other_images_are_told_by_their_name(pictures, tmp_path):
    train(tmp_path / "run", av.image_folder("mine").train, size=8)
    (pictures / "test/bee/0.png").write_bytes((pictures / "test/ant/0.png").read_bytes())
    with pytest.raises(ValueError, match="run was trained on other data: checksum of the test im"):
        _ = runs.open(tmp_path / "run").data
    for part in ("train", "test"):
        (pictures / part / "bee").rename(pictures / part / "wasp")
    with pytest.raises(ValueError, match="other data: class 1 was 'bee', is 'wasp'$"):
        _ = runs.open(tmp_path / "run").data
    split = av.image_folder("mine").test
    with pytest.raises(ValueError, match="number of classes was 2, is 3"):
        runs.check_images(tmp_path / "run", replace(split, classes=("ant", "bee", "cat")), "test")


def test_a_run_on_part_of_the_images_still_finds_the_others(digits, tmp_path):
    train(tmp_path, digits.train.sample(100))
    assert told(tmp_path)["images"]["part"]
    again = runs.open(tmp_path).data
    assert again.test.checksum == digits.test.checksum
    assert len(again.train) == len(digits.train)


def test_a_run_on_images_of_no_loader_says_so(tmp_path, digits):
    x, _ = digits.train.batch(torch.arange(40))
    train(tmp_path, (x, digits.train.labels[:40]), av.small_cnn(digits, base_channels=4))
    assert told(tmp_path)["images"].keys() == {"classes", "checksums"}
    with pytest.raises(ValueError, match="does not say how its images are loaded.* or --data"):
        _ = runs.open(tmp_path).data


def test_a_run_whose_loader_is_named_no_more_says_so(digits, tmp_path):
    train(tmp_path, digits.train)
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"loader"', '"loaded"'))
    with pytest.raises(ValueError, match="does not say how its images are loaded"):
        runs.images_of(tmp_path)


def test_a_run_of_version_0_1_is_read_by_the_name_of_its_data(digits, tmp_path):
    train(tmp_path, digits.train)
    old = told(tmp_path)
    del old["images"], old["augmentation"]
    (tmp_path / "run.json").write_text(json.dumps(old))
    assert runs.open(tmp_path).data.test.checksum == digits.test.checksum
    train(tmp_path, digits.train, resume=True)
    (tmp_path / "run.json").write_text(json.dumps(old | {"data": "image_folder/train"}))
    with pytest.raises(ValueError, match="does not say how its images are loaded"):
        runs.images_of(tmp_path)


def test_another_augmentation_is_another_run(digits, tmp_path):
    train(tmp_path, digits.train)
    padded = replace(digits.train, augmentation=Augmentation(1))
    with pytest.raises(ValueError, match=r"another run: augmentation.pad was 0, is 1"):
        train(tmp_path, padded, resume=True)


def stripes(width: int = 2, **more: int) -> Data:
    images = av.digits()
    return Data(f"stripes{width}", images.train, images.validation, images.test)


def test_a_loader_of_ones_own_is_found_where_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(DATASETS, "entries", dict(DATASETS.entries))
    DATASETS.register()(stripes)
    train(tmp_path, data.load("stripes", width=3, colour=1).train)
    about = told(tmp_path)["images"]
    assert about["loader"] == f"{__name__}:stripes"
    assert about["arguments"] == {"width": 3, "colour": 1}
    assert runs.open(tmp_path).data.name == "stripes3"
    del DATASETS.entries["stripes"]
    with pytest.raises(ValueError, match=f"stripes is not there: import {__name__} first, or pass"):
        _ = runs.open(tmp_path).data


def test_a_loader_given_what_cannot_be_written_is_not_remembered(monkeypatch):
    monkeypatch.setattr(DATASETS, "entries", dict(DATASETS.entries))
    odd = DATASETS.register()(lambda thing: stripes())
    origin = odd(object()).train.origin
    assert origin is not None
    assert origin.loader == "digits", "as the digits it is made of"


def test_a_function_that_is_no_loader_is_never_called(digits, tmp_path):
    train(tmp_path, digits.train)
    about = told(tmp_path)
    about["images"] |= {"loader": "os:system", "arguments": {"command": "touch evil"}}
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="os:system is not there"):
        _ = runs.open(tmp_path).data


# ---------------------------------------------------------------------------------------- network


def test_open_gives_model_settings_and_step(digits, tmp_path):
    training = train(tmp_path, digits.train, keep_every=2)
    run = runs.open(tmp_path)
    assert run.settings == training.settings
    assert (run.step, run.evaluation, run.model.training) == (4, None, False)
    assert run.about["method"] == repr(methods.standard())
    for name, tensor in training.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor)
    assert runs.open(tmp_path, checkpoint="step_000002").step == 2
    runs.save_evaluation(tmp_path, av.evaluate(run.model, run.data.test.sample(20)))
    evaluation = runs.open(tmp_path).evaluation
    assert evaluation is not None
    assert evaluation["n"] == 20
    with pytest.raises(FileNotFoundError, match="holds no run"):
        runs.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*best.pt"):
        runs.open(tmp_path, checkpoint="best")


def test_a_network_of_ones_own_is_made_by_its_class_its_factory_or_passed(digits, tmp_path):
    by_class = train(tmp_path / "class", digits.train, Flat())
    assert told(tmp_path / "class")["network"] == f"{__name__}:Flat"
    by_factory = train(tmp_path / "factory", digits.train, flat(), network=flat)
    assert told(tmp_path / "factory")["network"] == f"{__name__}:flat"
    passed = train(tmp_path / "passed", digits.train, flat())
    assert "network" not in told(tmp_path / "passed")
    x, _ = digits.test.batch(torch.arange(9))
    for folder, network, training in (
        ("class", None, by_class),
        ("factory", None, by_factory),
        ("passed", flat(), passed),
        ("passed", flat, passed),
        ("passed", f"{__name__}:flat", passed),
    ):
        with torch.no_grad():
            logits = runs.open(tmp_path / folder, network).model(x)
            assert torch.equal(logits, training.model.eval()(x))
    with pytest.raises(ValueError, match="your own, which no module names: pass it or the func"):
        runs.load_model(tmp_path / "passed")
    with pytest.raises(ValueError, match=r"another architecture: 2 of 2 tensors differ"):
        runs.open(tmp_path / "passed", network=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))


def test_what_cannot_make_the_network_is_told(digits, tmp_path):
    train(tmp_path, digits.train, Sized(64))
    with pytest.raises(ValueError, match=r"Sized, that is not made without arg.*'inputs'.*: pass"):
        runs.load_model(tmp_path)
    about = told(tmp_path)
    for home, message in (
        ("elsewhere:net", "elsewhere:net: import elsewhere first, or pass --plugin elsewhere.py"),
        ("os:fdopen", "os:fdopen: import os first"),
        ("builtins:exit", "builtins:exit: import"),
        ("torch.random:seed", "torch.random:seed: import torch.random first"),  # it would be called
        (f"{__name__}:replace", f"replace: import {__name__} first"),
        (f"{__name__}:Path", "pass it or the function"),
        (f"{__name__}:not_a_network", "returned = 5 is not allowed: a Module"),
    ):
        (tmp_path / "run.json").write_text(json.dumps(about | {"network": home}))
        with pytest.raises(ValueError, match=message):
            runs.open(tmp_path)


def test_a_script_s_own_network_is_found_by_the_name_of_its_file(digits, tmp_path, monkeypatch):
    main = SimpleNamespace(__file__="/somewhere/my_script.py")
    monkeypatch.setitem(sys.modules, "__main__", main)

    class Net(Flat):
        pass

    Net.__module__, Net.__qualname__ = "__main__", "Net"
    monkeypatch.setattr(main, "Net", Net, raising=False)
    train(tmp_path, digits.train, Net())
    assert told(tmp_path)["network"] == "my_script:Net"
    assert isinstance(runs.open(tmp_path).model, Net)
    plugin = ModuleType("my_script")
    plugin.Net = type("Net", (Flat,), {"__module__": "my_script"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_script", plugin)
    monkeypatch.delattr(main, "Net")
    assert type(runs.open(tmp_path).model) is plugin.Net


def test_a_registered_network_opens_as_before(digits, tmp_path):
    train(tmp_path, digits.train, models.build("small_cnn", digits, base_channels=4))
    assert "network" not in told(tmp_path)
    assert isinstance(runs.open(tmp_path).model, models.Network)


# -------------------------------------------------------------------------------------------- log


def logged(digits, folder):
    dial = av.Dial(av.avmixup(epsilon=0.15, steps=1))
    training = av.Training(av.small_cnn(digits), digits.train, dial, 4, batch_size=16)
    curves = {"accuracy": 0.5, "other": 1.0}
    for record in runs.log(training, folder, curves=lambda _: curves, curves_every=2):
        if record.step == 1:
            dial.turn(gamma=3.0)
            dial.turn(clip_vertex=False, loss=methods.losses.CrossEntropy())
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()], dial


def test_numbers_in_the_log_are_numbers_and_no_two_records_have_one_step(digits, tmp_path):
    lines, dial = logged(digits, tmp_path)
    turns = [line for line in lines if "change" in line]
    assert turns[0] == {"before_step": 2, "change": {"gamma": 3.0}}
    assert turns[1]["change"]["clip_vertex"] is False
    assert isinstance(turns[1]["change"]["loss"], str)
    steps = [line["step"] for line in lines if "step" in line and "curves" not in line]
    assert steps == [0, 1, 2, 3]
    assert runs.turns_of(tmp_path) == list(dial.turns)


def test_a_log_of_version_0_1_still_gives_its_turns(tmp_path):
    line = {"step": 3, "change": {"gamma": "3.0", "clip_vertex": "False"}}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert runs.turns_of(tmp_path) == [av.Turn(3, {"gamma": 3.0, "clip_vertex": False})]


def test_the_log_is_a_table_with_one_row_a_step(digits, tmp_path, monkeypatch):
    logged(digits, tmp_path)
    asked, load = [], builtins.__import__

    def without(name, *more, **options):
        if name == "pandas":
            raise ImportError(name)
        return load(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    rows = runs.open(tmp_path).log
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row.get("accuracy") for row in rows] == [None, 0.5, None, 0.5]
    assert rows[2]["change"]["gamma"] == 3.0
    assert rows[2]["change"]["clip_vertex"] is False
    assert all(isinstance(row["loss"], float) and row["lr"] > 0 for row in rows)
    monkeypatch.undo()
    pandas = SimpleNamespace(DataFrame=lambda table: asked.append(table) or "a DataFrame")
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert runs.open(tmp_path).log == "a DataFrame"
    assert asked == [rows]
