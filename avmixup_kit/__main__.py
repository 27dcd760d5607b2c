"""The command line: python -m avmixup_kit train | evaluate | demo."""

import sys
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import torch
from tqdm.auto import tqdm

from avmixup_kit import attacks, methods, models, runs
from avmixup_kit.data import Augmentation, Data, load
from avmixup_kit.demo import comparison_table, demo, robust_curves
from avmixup_kit.evaluation import evaluate
from avmixup_kit.training import Dial, Settings, Training

try:
    import tyro
except ImportError:
    raise SystemExit(
        "the command line needs tyro, which is not installed: pip install 'avmixup-kit[cli]'"
    ) from None

DataName = Literal[
    "digits", "fashion_mnist", "cifar10", "cifar100", "svhn", "tiny_imagenet", "image_folder"
]
NetworkName = Literal[
    "small_cnn",
    "preact_resnet18",
    "wrn-16-8",
    "wrn-28-10",
    "wrn-34-10",
    "wrn-34-10-authors",
]
MethodName = Literal[
    "standard",
    "mixup",
    "pgd",
    "label_smoothing",
    "avmixup",
    "trades",
    "feature_scatter",
    "feature_scatter_avmixup",
]


@dataclass(frozen=True)
class DataOptions:
    """Which images."""

    data: DataName = "digits"
    """The data set."""
    root: Path | None = None
    """Where it lies, or is downloaded to; for image_folder the folder or archive itself."""
    pad: int | None = None
    """Zeros around each side before a random crop; the data set's own where left out."""
    flip: bool | None = None
    """Mirror images at random; the data set's own where left out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where images, network and attacks live; auto is CUDA where there is one."""

    def load(self) -> Data:
        """Return the data set on its device."""
        options: dict[str, object] = {"device": choose_device(self.device)}
        if self.root is not None:
            options["path" if self.data == "image_folder" else "root"] = self.root
        elif self.data == "image_folder":
            raise ValueError("--root is missing: the folder or archive of images")
        if self.pad is not None or self.flip is not None:
            options["augmentation"] = Augmentation(self.pad or 0, bool(self.flip))
        return load(self.data, **options)


@dataclass(frozen=True)
class MethodOptions:
    """What is trained. Left out, a setting is the method's own default; one that the chosen method
    does not have is refused."""

    method: MethodName = "avmixup"
    """The training method."""
    epsilon: float | None = None
    """Radius of the ball in [0, 1] pixels; the data set's own where left out."""
    step_size: float | None = None
    """Step of the attack in [0, 1] pixels; a quarter of epsilon where left out."""
    attack_steps: int | None = None
    """Gradient steps of the attack."""
    batch_norm: attacks.BatchNorm | None = None
    """Batch norm while crafting."""
    start: attacks.Start | None = None
    """Where the attack starts."""
    gamma: float | None = None
    """AVmixup: how far out the vertex lies, 1 or more."""
    lambda1: float | None = None
    """AVmixup: the true class's share of the label at the clean image."""
    lambda2: float | None = None
    """AVmixup: the same at the vertex."""
    clip_vertex: bool | None = None
    """AVmixup: clip the vertex to valid pixels, as the authors' code does."""
    per_example: bool | None = None
    """AVmixup, Mixup: one mixing weight per example rather than per batch."""
    lam: float | None = None
    """Label smoothing, Feature Scatter: the true class's share of the label."""
    beta: float | None = None
    """TRADES: weight of the KL term."""
    a: float | None = None
    """Mixup: weights come from Beta(a, a)."""

    def build(self, epsilon: float) -> methods.Method:
        """Return the method, at this epsilon unless another was asked for."""
        given = {
            "steps" if f.name == "attack_steps" else f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name != "method" and getattr(self, f.name) is not None
        }
        if self.method not in ("standard", "mixup", "trades"):
            given.setdefault("epsilon", epsilon)
        return methods.build(self.method, **given)


@dataclass(frozen=True)
class Train:
    """Train a network into a run folder; the same seed gives the same weights on a CPU."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    method: Annotated[MethodOptions, tyro.conf.arg(name="")] = field(default_factory=MethodOptions)
    network: NetworkName = "small_cnn"
    """The network."""
    base_channels: int | None = None
    """Width of small_cnn or preact_resnet18, where not the default."""
    turns: Path | None = None
    """A run folder or exported file whose dial turns are replayed."""
    resume: bool = False
    """Go on with the run in the folder."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    curves_every: int = 500
    """Steps between measurements of clean and PGD10 accuracy on training and validation images."""
    curve_images: int = 500
    """How many images of each split those use."""

    def __call__(self) -> None:
        loaded = self.data.load()
        method = self.method.build(loaded.epsilon)
        dial = Dial(method, runs.turns_of(self.turns) if self.turns else ())
        options = {} if self.base_channels is None else {"base_channels": self.base_channels}
        network = models.build(self.network, loaded, seed=self.settings.seed, **options)
        training = Training(
            network.to(loaded.train.device), loaded.train, dial, settings=self.settings
        )
        records = runs.log(
            training,
            self.folder,
            resume=self.resume,
            checkpoint_every=self.checkpoint_every,
            curves=robust_curves(loaded, self.curve_images),
            curves_every=self.curves_every,
            best="PGD10, validation",
        )
        first = next(records, None)  # what is wrong with the folder is told before a bar appears
        if first is not None:
            for record in tqdm(
                chain([first], records),
                total=training.steps,
                initial=first.step,
                unit="step",
                desc=str(self.folder),
            ):
                if record.step % 100 == 0:
                    tqdm.write(f"step {record.step}: loss {record.loss:.4f}, lr {record.lr:g}")
        for name, (steps, values) in runs.curves_of(self.folder).items():
            print(f"{name}: {values[-1]:.2%} after {steps[-1]} steps")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run folder's network on test images; writes evaluation.json and correct.npz."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    checkpoint: Literal["latest", "best"] = "latest"
    """Which network: the last, or the best on validation images."""
    split: Literal["test", "validation", "train"] = "test"
    """Which images."""
    images: int | None = None
    """How many of them; all where left out."""
    epsilon: float | None = None
    """Radius of the ball in [0, 1] pixels; the data set's own where left out."""
    steps: tuple[int, ...] = (10, 20)
    """PGD steps; each is a column."""
    restarts: int = 1
    """Random restarts of PGD and CW."""
    rule: Literal["any", "last"] = "any"
    """Which iterates count."""
    transfer_from: tuple[Path, ...] = ()
    """Run folders whose PGD20 examples are tried as well."""
    batch_size: int = 256
    """Images attacked at once."""
    seed: int = 0
    """Of the attacks' starts."""

    def __call__(self) -> None:
        loaded = self.data.load()
        split = getattr(loaded, self.split)
        split = split if self.images is None else split.subset(self.images)
        epsilon = loaded.epsilon if self.epsilon is None else self.epsilon
        network = runs.load_model(self.folder / f"{self.checkpoint}.pt", split.device)
        columns = [
            attacks.fgsm(epsilon),
            *(attacks.pgd(steps, epsilon, restarts=self.restarts) for steps in self.steps),
            attacks.cw(20, epsilon, restarts=self.restarts),
        ]
        judge = partial(evaluate, network, split, batch_size=self.batch_size, seed=self.seed)
        result = judge(columns, rule=self.rule, progress=True)
        runs.save_evaluation(self.folder, result)
        print(result)
        for other in self.transfer_from:
            source = runs.load_model(other, split.device)
            attack = attacks.pgd(20, epsilon, source=source)
            transferred = judge([attack])
            low, high = transferred.interval(attack.name)
            print(
                f"PGD20 from {other}: {transferred.accuracy(attack.name):.2%} "
                f"[{low:.2%}, {high:.2%}]"
            )


@dataclass(frozen=True)
class Demo:
    """Train Standard, PGD, LS0.8 and AVmixup on digits; one table, one page."""

    folder: Path = Path("demo")
    """Where to write."""
    steps: int = 1000
    """Optimiser steps of each method."""
    seed: int = 0
    """Of networks, data order and attacks."""

    def __call__(self) -> None:
        torch.set_num_threads(1)  # at 8x8 pixels further threads only wait for each other
        print(comparison_table(demo(self.folder, steps=self.steps, seed=self.seed)))
        print(f"\ncurves and adversarial images: {self.folder / 'index.html'}")


def choose_device(name: str) -> torch.device:
    """Return the device called "auto", "cpu" or "cuda".

    Raises:
        ValueError: CUDA is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = 'cuda' is not allowed: this machine has no CUDA device")
    return torch.device(name)


def main() -> None:
    """Run a command; what a user can put right is told in one line, with exit status 2."""
    commands = {"train": Train, "evaluate": Evaluate, "demo": Demo}
    try:
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m avmixup_kit")()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
