"""What a run folder holds, read again: network, data, log. ``runs`` writes it."""

import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from avmixup_kit import models
from avmixup_kit._base import check, files, plugins
from avmixup_kit._base.files import json_lines
from avmixup_kit.data.datasets import load, recalled
from avmixup_kit.data.splits import Data, Split
from avmixup_kit.methods.method import parse
from avmixup_kit.models.weights import load_weights
from avmixup_kit.training.checkpoints import load_checkpoint, training_of
from avmixup_kit.training.dial import Turn, step_of
from avmixup_kit.training.settings import Settings

NO_RUN = "is damaged or no run's: take another folder"
# What run.json, its images and a line of log.jsonl hold under these names, where they are there.
TEXTS = "settings method data checksum augmentation network architecture optimizer schedule"
ABOUT: dict[str, Any] = dict.fromkeys(TEXTS.split(), str)
ABOUT |= {"stages": dict, "networks": dict, "images": dict, "threads": int, "average": int | float}
IMAGES = {"loader": str, "arguments": dict, "classes": list, "checksums": dict}
LINE: dict[str, Any] = {"step": int, "before_step": int, "loss": int | float, "lr": int | float}
LINE |= {"curves": dict, "change": dict, "stages": dict, "sign": str, "words": str}
# A network of one's own: itself, what makes it, or that as "module:qualname".
Own = nn.Module | Callable[[], nn.Module] | str | None
Weights = Literal["averaged", "trained"]


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    network: Own = None,
    *,
    weights: Weights = "averaged",
) -> nn.Module:
    """Return the trained network of a checkpoint file, or of a run folder's latest checkpoint.

    Args:
        weights: the averaged copy's where there is one, or those that were "trained".
        network: one of your own, whose weights are overwritten, or the function or class that makes
            one, itself or as "module:qualname" of a module that is imported. None: as the
            checkpoint or run.json says; what they name is never imported.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged or holds no network, nothing says how to build the network, or it
            has other weights.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "latest.pt"
    return _network(path, load_checkpoint(path, device), network, weights).to(device).eval()


def _network(path: Path, state: Any, network: Own, weights: Weights = "averaged") -> nn.Module:
    check.one_of("weights", weights, get_args(Weights))
    if not isinstance(state, dict) or "model" not in state or "architecture" not in state:
        raise ValueError(f"{path} holds no network of avmixup_kit.models")
    if network is None and state["architecture"]:
        model = models.from_architecture(state["architecture"])
    else:
        if network is None and (path.parent / "run.json").exists():
            network = read(path.parent).get("network")
        model = _own_network(path, network)
    trained = weights == "trained" and "training" in state
    with files.blamed(path, "holds no weights", (KeyError, TypeError)):
        saved = (state["training"] if trained else state)["model"]
    load_weights(model, saved)
    return model


def _own_network(path: Path, network: Own) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    make: Any = plugins.found(network) if isinstance(network, str) else network
    if make is None or (isinstance(make, type) and not issubclass(make, nn.Module)):
        module = str(network).partition(":")[0]
        lead = f"{network}: import {module} first, or pass --plugin {module}.py, or"
        raise ValueError(
            f"{path} holds a network of your own, {lead if network else 'which no module names:'} "
            "pass it or the function that makes it: runs.open(folder, network=...)"
        )
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise ValueError(
            f"{path} holds a network of your own, {network}, that is not made without arguments "
            f"({error}): pass it or the function that makes it: runs.open(folder, network=...)"
        ) from error
    model = make()
    check.that(isinstance(model, nn.Module), f"what {network} returned", model, "a Module")
    return model


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder that was read; ``open`` makes it.

    Attributes:
        folder: where it lies.
        about: run.json, everything that was noted about the run.
        model: the trained network, in eval mode; the averaged copy where there is one.
        settings: how its weights were updated.
        step: after how many steps the checkpoint was made.
    """

    folder: Path
    about: dict[str, Any]
    model: nn.Module
    settings: Settings
    step: int

    @cached_property
    def data(self) -> Data:
        """The data, loaded as the training's were; each split that is known is compared.

        Raises:
            ValueError: the run does not say how, or the images or classes are others now.
        """
        name, options = images_of(self.folder)
        data = load(name, **options)
        for part in ("train", "validation", "test"):
            check_images(self.folder, getattr(data, part), part)
        return data

    @property
    def log(self) -> Any:
        """One row a step: step, loss, lr, curves measured after it, change made before it.

        A pandas DataFrame if pandas is installed, else a list of dicts; a row has what there was.
        """
        rows: dict[int, dict[str, Any]] = {}
        for line in log_of(self.folder / "log.jsonl"):
            if "sign" in line:
                continue
            step = step_of(line) - ("curves" in line)  # curves are of the step that has just ended
            row = rows.setdefault(step, {"step": step})
            if "change" in line:
                row["change"] = row.get("change", {}) | Turn.from_json(line).change
            else:
                row |= line.get("curves", {})
                row |= {key: line[key] for key in ("loss", "lr") if key in line}
        table = [rows[step] for step in sorted(rows)]
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            return table
        return pandas.DataFrame(table)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """evaluation.json (accuracies, intervals, settings), None where nothing was evaluated.

        ``Evaluation.load(run.folder / "correct.npz")`` has each image's verdict.
        """
        path = self.folder / "evaluation.json"
        return files.read_json(path) if path.exists() else None


def open(
    folder: str | Path,
    network: Own = None,
    *,
    checkpoint: str = "latest",
    device: str | torch.device = "cpu",
) -> Run:
    """Return what a run folder holds: ``.model``, ``.data``, ``.settings``, ``.log``, ...

    Args:
        network: as of ``load_model``, for a network of your own.
        checkpoint: "latest", "best", or one that was kept, such as "step_000500".

    Raises:
        FileNotFoundError: the folder holds no run, or not that checkpoint.
        ValueError: as ``load_model``.
    """
    folder = Path(folder)
    about, path = read(folder), folder / f"{checkpoint}.pt"
    state = load_checkpoint(path, device)
    model = _network(path, state, network).to(device).eval()
    training = training_of(path, state)
    with files.blamed(path, "is damaged"):
        settings, step = Settings(**training["settings"]), check.whole("step", training["step"], 0)
    return Run(folder, about, model, settings, step)


def about(folder: str | Path, networks: Iterable[nn.Module] = ()) -> dict[str, Any]:
    """Return run.json with its method made again, from text that is parsed and never run.

    ``networks``: those that the method may name, as its attack's source.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it is damaged, or names a stage of one's own or a network that is not there.
    """
    told = read(folder)
    with files.blamed(Path(folder) / "run.json", NO_RUN):
        text = told["method"]
    return told | {"method": parse(text, told.get("stages"), networks)}


def read(folder: str | Path) -> dict[str, Any]:
    """Return run.json.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: it is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no {path.name}")
    with files.blamed(path, NO_RUN, (*files.DAMAGE, RecursionError)):
        told = json.loads(path.read_bytes())
        _check_kinds(told, ABOUT)
        if told.get("images"):
            _check_kinds(told["images"], IMAGES)
        return told


def _check_kinds(told: Any, kinds: Mapping[str, Any]) -> None:
    if not isinstance(told, dict):
        raise TypeError(f"{check.said(told)} is no record")
    for name, kind in kinds.items():
        value = told.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise TypeError(f"{name} = {check.said(value)}")


def log_of(path: Path) -> list[dict[str, Any]]:
    """Return the records of a run folder's log.jsonl, a last line torn by a kill left out.

    Raises:
        ValueError: a line is none of a run's.
    """
    records = json_lines(path)
    for number, record in enumerate(records, 1):
        with files.blamed(path, f"is damaged or no run's: line {number}"):
            _check_kinds(record, LINE)
            step_of(record)
            curves = record.get("curves", {})
            _check_kinds(curves, dict.fromkeys(curves, LINE["loss"]))
    return records


def turns_in(
    records: Iterable[dict[str, Any]], path: Path, networks: Iterable[nn.Module] = ()
) -> list[Turn]:
    """Return the turns among a log's records, by their steps."""
    try:
        turns = [Turn.from_json(line, networks) for line in records if "change" in line]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return sorted(turns, key=lambda turn: turn.step)


def check_threads(about: Mapping[str, Any], device: torch.device, folder: Path) -> None:
    """Warn where a run on a CPU is taken up under another number of threads than it began with."""
    was, now = about.get("threads"), torch.get_num_threads()
    if device.type == "cpu" and was not in (None, now):
        warnings.warn(
            f"{folder}: its run began with {was} threads, now there are {now}: weights will differ "
            f"in their last digits from those of an unbroken run; torch.set_num_threads({was}), or "
            f"OMP_NUM_THREADS={was}, keeps them the same",
            stacklevel=2,
        )


def turns_of(path: str | Path, networks: Iterable[nn.Module] = ()) -> list[Turn]:
    """Return the dial's turns recorded in a run folder, a log or an exported file, oldest first.

    ``networks``: those that a turn may name, as its attack's source.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "log.jsonl"
    return turns_in(log_of(path), path, networks)


def curves_of(folder: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return each curve of a run folder as (steps, values)."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in log_of(Path(folder) / "log.jsonl"):
        for name, value in line.get("curves", {}).items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return curves


def images_of(folder: str | Path) -> tuple[str, dict[str, Any]]:
    """Return a name in ``DATASETS`` and options, with which the run's data are loaded again.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run does not say, or its loader is one's own and not registered now.
    """
    told = read(folder)
    with files.blamed(Path(folder) / "run.json", NO_RUN):
        images = told.get("images") or {"loader": told["data"].split("/")[0]}
    loader = images.get("loader")
    if loader is None or (loader == "image_folder" and "arguments" not in images):
        raise ValueError(
            f"{folder} does not say how its images are loaded, they came from no data set of "
            "data.DATASETS: pass the split, or --data"
        )
    return recalled(loader, images.get("arguments", {}))


def check_images(folder: str | Path, split: Split, part: str, remedy: str = "") -> None:
    """Refuse a split that is not the one of that name ("test") of the run's data.

    What the run does not know of its data is not compared.

    Raises:
        ValueError: other classes or images; the message says which, and the remedy.
    """
    images = read(folder).get("images")
    if images is None:
        return
    with files.blamed(Path(folder) / "run.json", NO_RUN):
        names, checksum = images["classes"], images["checksums"].get(part)
    was: dict[str, Any] = {"number of classes": len(names)}
    now: dict[str, Any] = {"number of classes": split.num_classes}
    both = zip(names, split.classes, strict=False)
    others = [(number, *pair) for number, pair in enumerate(both) if pair[0] != pair[1]]
    for number, old, new in others[:3]:
        was[f"class {number}"], now[f"class {number}"] = old, new
    if was == now and checksum and not (part == "train" and images.get("part")):
        key = f"checksum of the {part} images"
        was[key], now[key] = checksum[:12], split.checksum[:12]
    check.same(was, now, f"{folder} was trained on other data{remedy}")
