"""Make entries of the zoo, the trained networks that come with the kit.

    python studies/zoo.py --digits                 the digits study's networks, seed 0
    python studies/zoo.py cifar10-jpeg/pgd RUN --data-root data --command "..."

An entry is a run folder's network in half precision (safetensors), evaluated in that precision on
test images (--images of them, each class in proportion, always the same) under PGD20, CW20 and
AutoAttack, and a card in RobustBench's fields. RUN is a folder of ``reproduce`` or of
``benchmarks/time_to_robustness.py``, or any other; its images are loaded as its training's were,
or, with --data-root, from there. Evaluating takes minutes on digits, half an hour on CIFAR-10.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods, models, runs, zoo
from avmixup_kit._base import files
from avmixup_kit.data import Split
from avmixup_kit.data.samples import cifar10_or_mirror
from avmixup_kit.evaluation.autoattack import Version, autoattack
from avmixup_kit.evaluation.record import card
from avmixup_kit.training import checkpoints

IMAGES = 1000
DIGITS = ("PGD", "LS0.8", "AVmixup", "AVmixup-mild", "AVmixup-diverse")
STUDY = Path("results/digits/evaluation")


def halved(network: nn.Module) -> nn.Module:
    """Return a copy whose weights went through half precision, as the zoo's do."""
    return copy.deepcopy(network).half().float().eval()


def make(
    name: str,
    network: nn.Module,
    test: Split,
    epsilon: float,
    version: Version,
    about: dict[str, Any],
) -> None:
    """Evaluate a network as it will be loaded, and write its files into the package."""
    made = halved(network)
    attacks = [
        av.pgd(steps=20, epsilon=epsilon),
        av.cw(steps=20, epsilon=epsilon),
        autoattack(epsilon, version),
    ]
    found = av.evaluate(made, test, attacks)
    print(f"{name}\n{found}\n", flush=True)
    filled = card(found, **about, test_checksum=test.checksum)
    home = zoo.HERE / name
    with tempfile.TemporaryDirectory() as scratch:
        written = av.export(made, filled, Path(scratch) / home.name, half=True)
        # The loader that stands beside an export is no part of the kit.
        for path in (written, written.with_suffix(".json")):
            home.parent.mkdir(exist_ok=True)
            files.write_atomic(home.parent / path.name, path.read_bytes())


def of_digits() -> None:
    """Make the entries of the digits study's first seed."""
    data = av.digits()
    for name in DIGITS:
        state = checkpoints.load_checkpoint(STUDY / "networks" / f"{name}.pt")
        network = models.from_architecture(state["architecture"])
        models.load_weights(network, state["model"])
        about = _study(name)
        make(f"digits/{name.lower()}", network, data.test, data.epsilon, "standard", about)


def _study(name: str) -> dict[str, Any]:
    said = json.loads((STUDY / f"{name}-0.json").read_text())
    return {
        "name": name,
        "dataset": "digits",
        "method": said["method"],
        "recipe": f"{said['steps']} steps",
        "command": said["command"],
        "training_seed": 0,
        "commit": said["provenance"]["commit"],
    }


def of_run(options: argparse.Namespace) -> None:
    """Make the entry of a run folder's network."""
    run = runs.open(options.run, checkpoint=options.checkpoint)
    data = cifar10_or_mirror(options.data_root) if options.data_root else run.data
    told = run.about
    title = methods.name_of(runs.about(options.run)["method"])
    about = {
        "name": options.title or (methods.METHODS.entries[title].title if title else options.name),
        "dataset": data.name,
        "method": told["method"],
        "recipe": told["settings"] + f", schedule={told.get('schedule', 'steps')!r}",
        "average": told.get("average"),
        "command": options.command,
        "training_seed": run.settings.seed,
        "commit": told["commit"],
        "steps": run.step,
        "checkpoint": options.checkpoint,
    }
    test = data.test if len(data.test) <= options.images else data.test.sample(options.images)
    make(options.name, run.model, test, data.epsilon, options.autoattack, about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="such as cifar10-jpeg/pgd")
    parser.add_argument("run", nargs="?", type=Path, help="its run folder")
    parser.add_argument("--digits", action="store_true", help="the digits study's networks")
    parser.add_argument("--data-root", type=Path, help="where CIFAR-10 or its JPEG mirror lies")
    parser.add_argument("--checkpoint", choices=["latest", "best"], default="latest")
    parser.add_argument("--title", default="")
    parser.add_argument("--command", default="", help="the one that trained it, for its card")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--autoattack", choices=["quick", "standard"], default="quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.digits:
        return of_digits()
    if options.name is None or options.run is None or not options.command.strip():
        parser.error("a name, a run folder and --command, or --digits")
    of_run(options)


if __name__ == "__main__":
    main()
