"""A run made without code: the form that is filled in, and the training that comes of it."""

import os
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import torch

from avmixup_kit import models, zoo
from avmixup_kit._base.registry import Registry
from avmixup_kit.data import DATASETS, Data, cifar10_or_mirror, load
from avmixup_kit.data.samples import MIRROR
from avmixup_kit.live.lab.menu import named, titles
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.folders import load_model
from avmixup_kit.training.loop import Training

ZOO = "zoo: "  # before the name of a trained network, which a run may start from


def _titles(registry: Registry) -> list[tuple[str, str]]:
    return [(entry.title, name) for name, entry in registry.entries.items()]


def fields() -> dict[str, Any]:
    """Return the form's widgets, by the arguments of ``make`` that they are."""
    form = {
        "data": widgets.Dropdown(options=_titles(DATASETS), description="data"),
        "root": widgets.Text(os.environ.get("AVMIXUP_DATA", "data"), description="its folder"),
        "download": widgets.Checkbox(False, description="download if it is missing"),
        "network": widgets.Dropdown(
            options=[*_titles(models.NETWORKS), *((f"{n}, trained", ZOO + n) for n in zoo.names())],
            value="small_cnn",
            description="network",
        ),
        "method": widgets.Dropdown(
            options=list(titles().items()),
            value="avmixup",
            description="method",
        ),
        "steps": widgets.IntText(400, description="steps"),
        "batch_size": widgets.IntText(128, description="batch size"),
        "lr": widgets.FloatText(0.1, description="learning rate"),
        "seed": widgets.IntText(0, description="seed"),
        "average": widgets.FloatText(0, description="averaged copy"),
        "teacher": widgets.Text("", description="teacher's run"),
    }
    for widget in form.values():
        widget.style.description_width = "7em"
    return form


def make(
    data: str,
    root: str,
    download: bool,
    network: str,
    method: str,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    average: float,
    teacher: str,
) -> tuple[Training, Data]:
    """Return a training of the named parts, or of a trained network once more, and its data set.

    ``average``: 0 keeps no averaged copy, unless the method asks for one. ``teacher``: the run
    folder of a fixed network; "" is none. Where CIFAR-10 is asked for and its JPEG mirror lies in
    ``root``, the mirror's photographs are taken; the data's name says so.
    """
    asked = {"root": root, "path": root, "download": download}
    settings = DATASETS.entries[data].settings
    options = {name: value for name, value in asked.items() if name in settings}
    there = data == "cifar10" and (download or (Path(root) / MIRROR).is_file())
    loaded = cifar10_or_mirror(root) if there else load(data, **options)
    loaded = loaded.to("cuda" if torch.cuda.is_available() else "cpu")
    if network.startswith(ZOO):
        model = zoo.load(network.removeprefix(ZOO))
    else:
        model = models.build(network, loaded, seed=seed)
    model = model.to(loaded.train.device)
    chosen = named(method, loaded.epsilon, 10)
    if average and chosen.average is not None:
        chosen = chosen.replace(average=average)
    fixed = load_model(Path(teacher).expanduser()) if teacher else None
    settings = {"batch_size": batch_size, "lr": lr, "seed": seed}
    settings |= {"average": average or None, "teacher": fixed}
    return Training(model, loaded.train, Dial(chosen), steps, **settings), loaded
