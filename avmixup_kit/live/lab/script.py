"""The script that repeats a run without a dashboard, as text to copy."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from avmixup_kit import models, zoo
from avmixup_kit._base import check
from avmixup_kit.data.datasets import recalled
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.methods.method import own_stages

SEEDS = range(5)  # tried for the first weights, beside the training's own


def script(run: LiveRun) -> str:
    """Return a program that ends with the run's present weights: on a CPU, bit for bit.

    Raises:
        ValueError: something of the run cannot be told in a program; the message says what.
    """
    training, turns = run.training, run.dial.turns
    step = training.step
    first = run.start["step"]
    check.that(first == 0, "first step", first, "a script cannot repeat what was before it")
    check.that(
        training.teacher is None and not run.dial.networks,
        "network that is asked",
        "a teacher or source",
        "a script cannot make it; runs.log(resume=True) takes up the run's folder with it",
    )
    changes = [turn.to_json() for turn in turns if turn.step < step]
    homes = own_stages((run.dial.initial, *(tuple(turn.change.values()) for turn in turns)))
    lines = [
        f"# {run.name}, {step} of {training.steps} steps",
        "import torch",
        "",
        "import avmixup_kit as av",
        "from avmixup_kit import methods, runs",
        *_imports(homes),
        "",
        f"torch.set_num_threads({torch.get_num_threads()})  # others round otherwise",
        f"data = {_data(run)}",
        f"network = {_network(run)}",
        f"method = methods.parse({_code(repr(run.dial.initial), homes)})",
        "turns = [",
        *(f"    {_turn(change, homes)}," for change in changes),
        "]",
        "training = av.Training(",
        "    network,",
        "    data.train,",
        "    av.Dial(method, turns),",
        f"    settings=av.Settings({_settings(run)}),",
        *(f"    {name}={value!r}," for name, value in _options(run)),
        ")",
        f"while training.step < {step}:",
        "    next(training)",
        "network = training.judged.eval()",
        *_evaluation(run),
    ]
    return "\n".join(lines) + "\n"


def _imports(homes: Mapping[str, str]) -> Iterator[str]:
    for module in sorted({home.partition(":")[0] for home in homes.values()}):
        own = module == "__main__"
        yield f"# here comes what defines {', '.join(sorted(homes))}" if own else f"import {module}"


def _code(text: str, homes: Mapping[str, str]) -> str:
    return f"{text!r}, {dict(homes)!r}" if homes else repr(text)


def _turn(record: dict[str, Any], homes: Mapping[str, str]) -> str:
    change = {
        name: f"methods.parse({_code(value, homes)})" if isinstance(value, str) else repr(value)
        for name, value in record["change"].items()
    }
    said = ", ".join(f"{name!r}: {value}" for name, value in change.items())
    return f"av.Turn({record['before_step']}, {{{said}}})"


def _data(run: LiveRun) -> str:
    split, device = run.training.split, run.training.device
    origin = split.origin
    allowed = "all training images of a data set of data.DATASETS can be loaded again"
    check.that(origin is not None, "training images", split.name, allowed)
    assert origin is not None
    whole = not origin.part and split.checksum not in origin.checksums.values()
    check.that(whole, "training images", split.name, allowed)
    name, _ = recalled(origin.loader, origin.arguments)
    given = [f", {key}={_argument(value)}" for key, value in origin.arguments.items()]
    moved = "" if device.type == "cpu" else f'.to("{device}")'
    return f"av.data.load({name!r}{''.join(given)}){moved}"


def _argument(value: Any) -> str:
    return f"av.data.Augmentation(**{value!r})" if isinstance(value, dict) else repr(value)


def _network(run: LiveRun) -> str:
    """Return what makes the network with the weights it had before the first step."""
    model, start = run.training.model, run.start["model"]
    moved = "" if run.training.device.type == "cpu" else f'.to("{run.training.device}")'
    text = getattr(model, "architecture", None)
    if text:
        for name in zoo.names() if getattr(model, "card", None) else ():
            if _same(zoo.load(name).state_dict(), start):
                return f"av.zoo.load({name!r}){moved}"
        for seed in dict.fromkeys((run.training.settings.seed, *SEEDS)):
            if _same(models.from_architecture(text, seed=seed).state_dict(), start):
                return f"av.models.from_architecture({text!r}, seed={seed}){moved}"
    saved = [folder for folder in run.folders if (folder / "step_000000.pt").exists()]
    allowed = "weights of a seed or of the zoo; save the run, and the script loads them from there"
    check.that(bool(saved and text), "first weights", "the network's own", allowed)
    path = json.dumps(str(saved[-1] / "step_000000.pt"))
    return f'runs.load_model({path}, weights="trained"){moved}'


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].cpu(), b[name].cpu()) for name in a)


def _settings(run: LiveRun) -> str:
    """Return the settings that are not the usual ones, as arguments."""
    settings = run.training.settings
    told = {field.name: getattr(settings, field.name) for field in fields(settings)}
    usual = {field.name: field.default for field in fields(settings)}
    return ", ".join(f"{k}={v!r}" for k, v in told.items() if v != usual[k])


def _options(run: LiveRun) -> Iterable[tuple[str, Any]]:
    """Yield the training's other arguments, where they are not the usual ones."""
    training = run.training
    usual = {"optimizer": "sgd", "schedule": "steps", "average": None}
    usual |= {"compile": False, "sync_batch_norm": False}
    given = training.updates.made_of | {"average": training.average, "compile": training.compiled}
    given |= {"sync_batch_norm": training.sync_batch_norm}
    for name, value in given.items():
        if value != usual[name]:
            fine = not callable(value)
            check.that(fine, name, value, "a script cannot write a function of your own down")
            yield name, value


def _evaluation(run: LiveRun) -> Iterator[str]:
    if run.data is not None and run.evaluations and run.evaluations[-1][0] == run.training.step:
        found, radius = run.evaluations[-1][1], run.epsilon
        yield f"epsilon = {radius!r}"
        yield "attacks = [av.fgsm(epsilon), av.pgd(steps=20, epsilon=epsilon)]"
        yield "attacks += [av.cw(steps=20, epsilon=epsilon)]"
        if len(found.names) > 4:
            yield 'attacks += [av.autoattack(epsilon, "quick")]'
        yield f"print(av.evaluate(network, data.test.subset({found.n}), attacks))"
