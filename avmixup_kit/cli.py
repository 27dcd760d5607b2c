"""The command line: python -m avmixup_kit train | evaluate | demo | search."""

import ast
import sys
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from avmixup_kit import methods, models, zoo
from avmixup_kit import search as tuning
from avmixup_kit._base import check, distributed, files
from avmixup_kit._base.distributed import RankFailed, choose_device
from avmixup_kit._base.plots import graph_objects
from avmixup_kit._base.provenance import without_home
from avmixup_kit.cli_options import (
    AttackNames,
    DataOptions,
    MethodOptions,
    NetworkName,
    Plugins,
    RunDataOptions,
    radius,
    seen_in,
    tyro,
    with_method,
)
from avmixup_kit.data import Data
from avmixup_kit.demo import demo
from avmixup_kit.evaluation.autoattack import AutoAttack, autoattack
from avmixup_kit.evaluation.compare import comparison_table
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.report import report
from avmixup_kit.methods import attacks
from avmixup_kit.methods.attacks import Attack, Norm
from avmixup_kit.training import runs
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training
from avmixup_kit.training.settings import Precision, Settings
from avmixup_kit.training.updates import OptimizerName, ScheduleName


@dataclass(frozen=True)
class Train:
    """Train a network into a run folder; the same seed gives the same weights on a CPU.

    torchrun --nproc-per-node 8 -m avmixup_kit train ... shares every batch out among 8 processes.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """The run folder."""
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    method: Annotated[MethodOptions, tyro.conf.arg(name="")] = field(default_factory=MethodOptions)
    network: NetworkName = "small_cnn"
    """The network."""
    base_channels: int | None = None
    """Width of a network that has this setting, where not the default."""
    plugin: Plugins = ()
    turns: Path | None = None
    """A run folder or exported file whose dial turns are replayed."""
    resume: bool = False
    """Go on with the run in the folder; for more steps, where the schedule allows."""
    optimizer: OptimizerName = "sgd"
    """What updates the weights; adam and adamw want an lr of their own, such as 0.001."""
    schedule: ScheduleName = "steps"
    """Of the learning rate: decay_at; or up to 40 % of the steps, then down to 0; or a cosine."""
    average: float | None = None
    """Also keep an averaged copy of the weights, which is then measured, saved and evaluated: how
    much of it stays at each step, such as 0.995."""
    teacher: Path | None = None
    """Run folder, or checkpoint file, of the fixed network that the method asks."""
    awp: float | None = None
    """Weight perturbation (AWP) around the method: its rho, such as 0.005."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    curves_every: int = 500
    """Steps between measurements of accuracy, clean, under FGSM and PGD10, on training and
    validation images."""
    curve_images: int = 500
    """How many images of each split those use."""
    compile: bool = False
    """Compile the network's passes: a minute at first, faster steps then."""
    sync_batch_norm: bool = False
    """With several processes: batch norm over the whole batch, not each process's share."""
    minutes: float | None = None
    """Save and end after so many minutes; --resume goes on."""
    checkpoint_minutes: float | None = None
    """Minutes between checkpoints, in place of steps."""
    checkpoint_piece_mib: int | None = None
    """Keep every file of a checkpoint below so many MiB."""

    def __call__(self) -> None:
        with distributed.joined(self.data.device):
            self._train()

    def _train(self) -> None:
        loaded = self.data.load()
        method = self.method.build(loaded.epsilon)
        if self.average is not None and method.average is not None:
            method = method.replace(average=self.average)
        method = method if self.awp is None else methods.awp(method, self.awp)
        dial = Dial(method, runs.turns_of(self.turns) if self.turns else ())
        options = {} if self.base_channels is None else {"base_channels": self.base_channels}
        network = models.build(self.network, loaded, seed=self.settings.seed, **options)
        training = Training(
            network.to(loaded.train.device),
            loaded.train,
            dial,
            compile=self.compile,
            sync_batch_norm=self.sync_batch_norm,
            optimizer=self.optimizer,
            schedule=self.schedule,
            average=self.average,
            teacher=None if self.teacher is None else runs.load_model(self.teacher),
            settings=self.settings,
        )
        records = runs.log(
            training,
            self.folder,
            resume=self.resume,
            checkpoint_every=self.checkpoint_every,
            curves=robust_curves(loaded, self.curve_images),
            curves_every=self.curves_every,
            best="PGD10, validation",
            minutes=self.minutes,
            checkpoint_minutes=self.checkpoint_minutes,
            piece_mib=self.checkpoint_piece_mib,
        )
        talks = distributed.rank() == 0
        first = next(records, None)  # what is wrong with the folder is told before a bar appears
        if first is not None:
            going = chain([first], records)
            for _ in runs.told(going, training.steps, str(self.folder), quiet=not talks):
                pass
        if not talks:
            return
        if training.step < training.steps:
            print(
                f"stopped and saved after {training.step} of {training.steps} steps: the time was "
                "up; --resume goes on"
            )
        for name, (steps, values) in runs.curves_of(self.folder).items():
            print(f"{name}: {values[-1]:.2%} after {steps[-1]} steps")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run folder's network on test images; writes evaluation.json and correct.npz.

    With --zoo NAME a network that comes with the kit, which writes nothing.

    torchrun --nproc-per-node 8 -m avmixup_kit evaluate ... shares the images out among 8 processes.
    """

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """The run folder."""
    zoo: str | None = None
    """A network of the zoo in its place, by name, such as digits/pgd."""
    data: Annotated[RunDataOptions, tyro.conf.arg(name="")] = field(default_factory=RunDataOptions)
    anyway: bool = False
    """Insist on images or class names that are not those of the run."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which network: the last, or the best on validation images."""
    weights: Literal["averaged", "trained"] = "averaged"
    """Which of its weights: the averaged copy's, where the run has one, or those trained."""
    split: Literal["test", "validation", "train"] = "test"
    """Which images."""
    images: int | None = None
    """How many of them, drawn with each class in proportion; all where left out."""
    epsilon: float | None = None
    """Radius of the ball in [0, 1] pixels; the data set's own where left out."""
    norm: Norm = "linf"
    """The ball's; l2 needs an --epsilon of its own."""
    attacks: AttackNames = ("fgsm", "pgd", "cw")
    """Rows of the table, by name; those of a plugin, too."""
    steps: tuple[int, ...] = (10, 20)
    """PGD steps; each is a row."""
    restarts: int = 1
    """Random restarts of attacks that start at random."""
    autoattack: Literal["quick", "standard"] | None = None
    """AutoAttack as well: quick takes minutes on small images, standard is the one to quote."""
    html: Path | None = None
    """Write a page about it: accuracies, alarms, worst examples."""
    rule: Literal["any", "last"] = "any"
    """Which iterates count."""
    transfer_from: tuple[Path, ...] = ()
    """Run folders whose PGD20 examples are tried as well."""
    batch_size: int = 256
    """Images attacked at once."""
    seed: int = 0
    """Of the attacks' starts."""
    draws: int | None = None
    """Of a random network: how many forwards each gradient and verdict is a mean over."""
    plugin: Plugins = ()

    def __call__(self) -> None:
        with distributed.joined(self.data.device):
            self._evaluate()

    def _rows(self, epsilon: float) -> list[Attack | AutoAttack]:
        rows: list[Attack | AutoAttack] = []
        for name in self.attacks:
            given = {"epsilon": epsilon, "restarts": self.restarts, "norm": self.norm}
            has = attacks.ATTACKS.entries[name].settings
            fine = self.norm == "linf" or "norm" in has
            check.that(fine, "norm", self.norm, f"the attack {name} knows l-infinity alone")
            given = {key: value for key, value in given.items() if key in has}
            each = [{"steps": n} for n in self.steps] if name == "pgd" else [{}]
            rows += [attacks.ATTACKS.build(name, **given, **more) for more in each]
        if self.autoattack:
            rows.append(autoattack(epsilon, self.autoattack, norm=self.norm))
        return rows

    def _loaded(self) -> tuple[Data, torch.nn.Module]:
        """Return the images and the network.

        Raises:
            ValueError: neither or both of run folder and --zoo; images that are not the network's.
        """
        insist = " (--anyway to insist)"
        if self.zoo is not None:
            fine = self.folder is None
            check.that(fine, "folder", str(self.folder), "a run folder or --zoo, not both")
            network = zoo.load(self.zoo, choose_device(self.data.device))
            loaded = self.data.of_card(network.card)
            allowed = f"{self.zoo} was trained on {network.card['dataset']}{insist}"
            fine = self.anyway or loaded.name == network.card["dataset"]
            check.that(fine, "data", loaded.name, allowed)
            return loaded, network
        if self.folder is None:
            raise ValueError(f"folder is missing: a run folder, or --zoo {' | '.join(zoo.names())}")
        loaded = self.data.of(self.folder)
        split = getattr(loaded, self.split)
        if not self.anyway:
            runs.check_images(self.folder, split, self.split, insist)
        path = self.folder / f"{self.checkpoint}.pt"
        return loaded, runs.load_model(path, split.device, weights=self.weights)

    def _evaluate(self) -> None:
        if self.html is not None:
            graph_objects()
            parent, alone = self.html.resolve().parent, distributed.world() == 1
            check.that(parent.is_dir(), "html", str(self.html), f"{parent} is no folder; make it")
            check.that(alone, "html", str(self.html), "one process writes a page; start only one")
            files.check_writable(parent)
        loaded, network = self._loaded()
        talks = distributed.rank() == 0
        if talks and self.folder is not None:
            files.check_writable(self.folder)
        split = getattr(loaded, self.split)
        split = split if self.images is None else split.sample(self.images)
        epsilon = radius(self.epsilon, loaded.epsilon, self.norm)
        given = {"batch_size": self.batch_size, "seed": self.seed, "draws": self.draws}
        judge = partial(evaluate, network, split, **given)
        result = judge(self._rows(epsilon), rule=self.rule, progress=sys.stderr.isatty())
        if talks:
            print(result, flush=True)  # whatever becomes of the files
            if self.folder is not None:
                runs.save_evaluation(self.folder, result)
        sources = {
            without_home(run): runs.load_model(run, split.device) for run in self.transfer_from
        }
        for other, source in sources.items():
            attack = attacks.pgd(steps=20, epsilon=epsilon, norm=self.norm, source=source)
            transferred = judge([attack])
            low, high = transferred.interval(attack.name)
            if talks:
                print(
                    f"PGD20 from {other}: {transferred.accuracy(attack.name):.2%} "
                    f"[{low:.2%}, {high:.2%}]"
                )
        if self.html is not None:
            report(result, network, split, self.html, sources=sources)
            print(f"page: {self.html}")


@dataclass(frozen=True)
class Demo:
    """Train Standard, PGD, LS0.8 and AVmixup on digits; one table, one page."""

    folder: Path = Path("demo")
    """Where to write."""
    steps: int = 1000
    """Optimiser steps of each method."""
    seed: int = 0
    """Of networks, data order and attacks."""
    data_root: Path | None = None
    """Where CIFAR-10 or its JPEG mirror lies, for photographs; else $AVMIXUP_DATA or data."""

    def __call__(self) -> None:
        torch.set_num_threads(1)  # at 8x8 pixels further threads only wait for each other
        print(comparison_table(demo(**vars(self))))
        print(f"\ncurves and adversarial images: {self.folder / 'index.html'}")


@dataclass(frozen=True)
class Search:
    """Search gamma, lambda1 and lambda2, or settings of another method, by robust accuracy on
    validation images, with Optuna; then measure the best and the paper's setting again, over seeds,
    on test images."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("search")
    """Where to write; a search in it is gone on with."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")] = field(default_factory=DataOptions)
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Settings(360)
    )
    trials: int = 100
    """How many trials the study holds in the end, whoever did them."""
    method: str = "avmixup"
    """What is trained: a method of the kit or of a plugin."""
    gamma: tuple[float, float] = (1.0, 4.0)
    """Lowest and highest, where the method has it; so for the next two."""
    lambda1: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest."""
    lambda2: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest."""
    also: tuple[str, ...] = ()
    """Settings that are searched as well, each yes or no: clip_vertex, per_example."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest of further settings: --ranges beta 1 9."""
    epsilon: float | None = None
    """Radius of the ball in [0, 1] pixels; the data set's own where left out."""
    attack_steps: int | None = None
    """Gradient steps of the attack in training; the method's own where left out."""
    network: NetworkName = "small_cnn"
    """The network."""
    base_channels: int | None = None
    """Width of a network that has this setting, where not the default."""
    objective: str = "cw"
    """What judges: cw (CW20, 3 restarts), apgd-t or autoattack (quick)."""
    average: float | None = None
    """Keep, and judge, an averaged copy of the weights: how much of it stays at each step."""
    teacher: Path | None = None
    """Run folder, or checkpoint file, of the fixed network that the method asks."""
    hold: dict[str, str] = field(default_factory=dict)
    """Settings at another value than the method's own, not searched: --hold label averaged."""
    awp: float | None = None
    """Adversarial weight perturbation around the method, of this rho."""
    images: int | None = None
    """How many validation images it is measured on; all where left out."""
    prune: bool = True
    """End hopeless trials early."""
    storage: str | None = None
    """The study's SQLite file (study.db in the folder where left out), a journal file (.journal),
    or a database's URL."""
    study: str = "search"
    """The study's name in the storage."""
    jobs: int = 1
    """Processes that work on it, with one thread each."""
    checkpoint_every: int = 50
    """Steps of a trial that a killed process can lose."""
    adopt: bool = False
    """Also take up unfinished trials of other folders, on which nothing works any more."""
    seeds: int = 5
    """Networks of each setting that meet the test images in the end; 0 leaves test images alone."""
    plugin: Plugins = ()

    def __call__(self) -> None:
        check.whole("seeds", self.seeds, 0)
        shared = {f.name for f in fields(tuning.Plan)} & {f.name for f in fields(self)}
        given: dict[str, Any] = {name: getattr(self, name) for name in shared}
        given["hold"] = {name: _plain(word) for name, word in self.hold.items()}
        plan = tuning.Plan(**given)
        options = self.data
        if options.data == "digits" and options.validation is None:
            options = replace(options, validation=0.25)  # 135 images would rank settings by luck
        loaded = options.load()
        if loaded.train.device.type == "cpu":
            torch.set_num_threads(1)  # the same weights whatever --jobs is
        found = tuning.search(
            loaded,
            self.folder,
            trials=self.trials,
            plan=plan,
            storage=self.storage,
            study=self.study,
            jobs=self.jobs,
            checkpoint_every=self.checkpoint_every,
            adopt=self.adopt,
            say=True,
        )
        if found.running:
            print(f"{len(found.running)} trials are in other hands; who ends last reports")
            return
        if self.seeds:
            found = tuning.remeasure(
                found,
                loaded,
                self.folder,
                plan=plan,
                seeds=range(self.seeds),
                jobs=self.jobs,
                say=True,
            )
        print(f"{found}\n\nfigures: {self.folder / 'report.html'}")


@dataclass(frozen=True)
class Reproduce:
    """The paper's tables, its numbers and ours side by side; killed or ended, it goes on."""

    tables: Annotated[tuple[str, ...], tyro.conf.Positional]
    """table1 to table6, figure2, or all."""
    scale: str = "smoke"
    """smoke (digits, on a CPU), laptop (CIFAR-10, half an hour of a core a network), short
    (PreActResNet18, an hour of GPU a table) or full."""
    estimate: bool = False
    """Only tell what it would cost."""
    table: bool = False
    """Only make the tables from the results that are there."""
    seeds: tuple[int, ...] | None = None
    """Of networks, data order and attacks; the scale's own where left out."""
    rows: tuple[str, ...] | None = None
    """Only these networks, in this order, by their names in the tables (PGD AVmixup)."""
    minutes: float | None = None
    """Save and end after so long; the same command goes on."""
    data_root: Path = Path("data")
    """Where data sets lie or are downloaded to; or the archive cifar10-jpeg.tar.xz itself."""
    results: Path = Path("results")
    """Where results and tables are written."""
    runs: Path = Path("runs/reproduce")
    """Where networks are kept."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; digits always on the CPU unless cuda is asked for."""
    precision: Precision | None = None
    """Of training; left out, bf16 at scale short where the device has it, else float32."""
    compile: bool = False
    """Train compiled networks on a CPU, too; on CUDA and at scale laptop they always are."""
    eager: bool = False
    """Train no compiled networks, wherever it is."""
    jobs: int = 1
    """Processes that work on it, with one thread each."""

    def __call__(self) -> None:
        from avmixup_kit.reproduce import reproduce

        check.that(
            not (self.compile and self.eager), "eager", True, "--compile or --eager, not both"
        )
        on_cpu = self.scale == "smoke" and self.device == "auto"
        device = choose_device("cpu" if on_cpu else self.device)
        if device.type == "cpu" and self.scale == "smoke":
            torch.set_num_threads(1)  # at 8x8 pixels further threads only wait for each other
        same = "tables", "scale", "seeds", "rows", "results", "data_root", "precision", "jobs"
        reproduce(
            **{name: getattr(self, name) for name in same},
            folder=self.runs,
            minutes=self.minutes,
            device=device,
            compiled=self.compile if self.compile or self.eager else None,
            only_table=self.table,
            only_estimate=self.estimate,
        )


def main() -> None:
    """Run a command; what a user can put right is told in one line, with exit status 2."""
    words = sys.argv[1:]
    try:
        seen = seen_in(words)
        commands = {
            "train": with_method(Train, words[1:], seen) if words[:1] == ["train"] else Train,
            "evaluate": Evaluate,
            "demo": Demo,
            "reproduce": Reproduce,
            "search": Search,
        }
        tyro.extras.subcommand_cli_from_dict(commands, prog="python -m avmixup_kit")()
    except KeyboardInterrupt:
        fresh = words[:1] == ["train"] and "--resume" not in words
        goes_on = {"train", "search", "reproduce"} & set(words[:1])
        how = f": the same command{' with --resume' if fresh else ''} goes on" if goes_on else ""
        print(f"\ninterrupted{how}", file=sys.stderr)
        raise SystemExit(130) from None
    except torch.OutOfMemoryError as error:
        _end(str(error).splitlines()[0])
    except FloatingPointError as error:
        _end(error, status=3)
    except (ValueError, OSError, ImportError, RankFailed) as error:
        _end(error)


def _plain(word: str) -> Any:
    """A word of the shell as the Python value that it spells, or as text."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _end(why: object, status: int = 2) -> None:
    print(f"error: {why}", file=sys.stderr)
    raise SystemExit(status) from None
