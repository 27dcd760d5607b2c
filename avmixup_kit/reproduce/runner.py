"""Do what a plan asks for: train, evaluate, write results; at any moment it may be stopped.

Each network is trained once, in a run folder of its own, whichever tables need it, and each of its
verdicts is taken once. The run folder's lock keeps two processes from training the same network:
the second says so and goes on with another, so that several processes may work on one table.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avmixup_kit import __version__, models
from avmixup_kit._base import check, files, provenance
from avmixup_kit._base.processes import NOTHING, Clock, by_kind, spent, spent_since
from avmixup_kit.data import DATASETS, Augmentation, Data, cifar10_or_mirror, load
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Refusing
from avmixup_kit.reproduce import results
from avmixup_kit.reproduce.plans import Column, Row, Run, Scale, TablePlan, plan
from avmixup_kit.reproduce.results import Result
from avmixup_kit.reproduce.verdicts import Verdicts, groups
from avmixup_kit.training import checkpoints, runs
from avmixup_kit.training.compiled import Compiled
from avmixup_kit.training.folders import log_of
from avmixup_kit.training.loop import Training, TrainingDiverged
from avmixup_kit.training.settings import Precision

ROBUST = "PGD10, validation"  # the curve by which the best checkpoint is chosen
BATCH = 512
HELD = 6  # networks: one that is judged and those whose examples it is given
COUNTED = 50  # steps between two notes of what a training has cost, which outlive a kill
MINUTES = 2  # between checkpoints on CUDA, where 500 steps may take seconds


def load_data(name: str, root: str | Path, device: torch.device | str = "cpu") -> Data:
    """Return a data set of the tables; for CIFAR-10 its JPEG mirror where that is what there is.

    Args:
        name: digits, cifar10, cifar100, svhn or tiny_imagenet.
        root: the folder of data sets, or the mirror's archive itself.

    Raises:
        OSError, ValueError, RuntimeError: it is not there and cannot be downloaded.
    """
    if name == "digits":
        return load("digits", device=device)
    if name == "cifar10":
        return cifar10_or_mirror(root).to(device)
    allowed = f"it holds no {DATASETS.entries[name].title}"
    check.that(not Path(root).is_file(), "data_root", str(root), allowed)
    return load(name, root=root, device=device)


class Runner:
    """The tables' work at one scale.

    Args:
        scale: how much of the paper's work.
        folder: of the run folders; a folder named after the scale is made in it.
        data_root: see ``load_data``.
        device, precision, compiled: where and how networks are trained, see ``Training``; left out,
            networks are compiled on CUDA and where the scale says so.
        minutes: after which it is saved and ended; None is never.
        say: told what happens, line by line.
    """

    def __init__(
        self,
        scale: Scale,
        folder: str | Path = "runs/reproduce",
        *,
        data_root: str | Path = "data",
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        compiled: bool | None = None,
        minutes: float | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.scale, self.folder = scale, Path(folder) / scale.name
        self.data_root, self.device = data_root, torch.device(device)
        self.precision: Precision = precision
        usual = scale.compiled or self.device.type == "cuda"
        self.compiled = usual if compiled is None else compiled
        if self.device.type == "cpu" and (self.compiled or usual):
            import torch._inductor.config as inductor

            # What a pool of compilers spends, none of them waited for, would not be counted.
            inductor.compile_threads = 1
        self.clock, self.say = Clock(minutes), say
        self.left: list[str] = []
        self._data: dict[str, Data | Exception] = {}
        self._trained: set[Run] = set()
        self._networks: dict[tuple[Path, int], nn.Module] = {}

    # ---------------------------------------------------------------------------------- data

    def data(self, run: Run) -> Data:
        """Return a run's images, augmented as it wants them.

        Raises:
            OSError, ValueError, RuntimeError: they are not to be had.
        """
        if run.data not in self._data:
            try:
                data = load_data(run.data, self.data_root, self.device)
                if self.scale.images is not None and len(data.test) > self.scale.images:
                    data = replace(data, test=data.test.subset(self.scale.images))
                self._data[run.data] = data
            except (OSError, ValueError, RuntimeError) as error:
                self._data[run.data] = error
        found = self._data[run.data]
        if isinstance(found, Exception):
            raise found
        augmentation = Augmentation(run.pad, run.flip)
        return replace(found, train=replace(found.train, augmentation=augmentation))

    def available(self, run: Run) -> bool:
        """Return whether the run's images are there; where not, say so once."""
        known = run.data in self._data
        try:
            self.data(run)
        except (OSError, ValueError, RuntimeError) as error:
            if not known:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                title = DATASETS.entries[run.data].title
                self.say(f"{title} is left out, its images are not to be had: {why}")
            return False
        return True

    # ------------------------------------------------------------------------------ training

    def train(self, run: Run) -> bool:
        """Train what is left of a run; return whether it is done.

        Raises:
            ValueError: its folder holds a run with other settings.
            TrainingDiverged: the loss is no longer finite.
        """
        data, settings = self.data(run), run.settings
        folder = self.folder / run.folder
        began, before = spent(), self._spent(folder)
        network = models.build(run.network, data, seed=settings.seed, **dict(run.network_options))
        training = Training(
            network.to(self.device),
            data.train,
            run.method,
            settings=settings,
            compile=self.compiled,
            schedule=run.schedule,
            average=run.average,
        )
        every = max(1, settings.steps // self.scale.measurements)
        records = runs.log(
            training,
            folder,
            resume=(folder / "run.json").exists(),
            checkpoint_every=min(every, 500),
            checkpoint_minutes=MINUTES if self.device.type == "cuda" else None,
            curves=robust_curves(data, self.scale.curve_images),
            curves_every=every,
            best=ROBUST,
            minutes=self.clock.left,
        )

        def note() -> dict[str, float]:
            seconds = spent_since(began, before)
            files.write_atomic(folder / "seconds.json", json.dumps(seconds).encode())
            return seconds

        first = None
        try:
            for record in records:
                first = record.step if first is None else first
                for sign in record.signs:
                    self.say(f"{run.folder}, after {record.step + 1} steps: {sign.words}")
                if (record.step + 1) % COUNTED == 0:
                    note()
        finally:
            if first is not None:
                seconds = note()["wall"] - before["wall"]
                self.say(
                    f"trained {run.folder}: steps {first} to {training.step} of {training.steps} "
                    f"in {seconds:.0f} s"
                )
        return training.step == training.steps

    def _spent(self, folder: Path) -> dict[str, float]:
        path = folder / "seconds.json"
        if not path.exists():
            return NOTHING
        found = files.read_json(path, object)
        with files.blamed(path, files.DAMAGED):
            return by_kind(found)

    def trained(self, run: Run) -> bool:
        """Return whether a run's last step is done, without taking its lock.

        Raises:
            ValueError: its folder holds a run with other settings or on other images.
        """
        if run in self._trained:
            return True
        folder = self.folder / run.folder
        if not (folder / "run.json").exists():
            return False
        was = runs.USUAL | files.read_json(folder / "run.json")
        now = {
            "settings": repr(run.settings),
            "method": repr(run.method),
            "schedule": run.schedule,
            "average": run.average,
            "checksum": self.data(run).train.checksum,
        }
        check.same(was, now, f"{folder} holds another run (choose another --runs)")
        steps = checkpoints.load_checkpoint(folder / "latest.pt")["training"]["step"]
        if steps == run.settings.steps:
            self._trained.add(run)
        return steps == run.settings.steps

    def network(self, run: Run, checkpoint: str = "latest") -> nn.Module:
        """Return a trained network; those asked for last are held, not loaded again."""
        path = self.folder / run.folder / f"{checkpoint}.pt"
        key = path, path.stat().st_mtime_ns
        found = self._networks.pop(key, None)
        if found is None:
            found = runs.load_model(path, self.device)
            found = Compiled(found, dynamic=True).eval() if self.scale.compiled else found
        if len(self._networks) == HELD:
            del self._networks[next(iter(self._networks))]
        self._networks[key] = found
        return found

    # ---------------------------------------------------------------------------- evaluation

    def verdicts(self, run: Run) -> Verdicts:
        """Return what is known of a network."""
        test = self.data(run).test
        return Verdicts.load(self.folder / run.folder / "verdicts.npz", test.checksum, len(test))

    def judge(self, run: Run, columns: Iterable[Column]) -> bool:
        """Evaluate what is left of the columns; return whether all is done.

        Saved after every ``scale.chunk`` images and every group of attacks that share their work.

        Raises:
            BlockingIOError: another process is evaluating this network.
        """
        columns = list({column.key: column for column in columns}.values())
        split = self.data(run).test
        folder = self.folder / run.folder
        with files.held(folder / "lock", what=f"the run folder {folder}"):
            verdicts = self.verdicts(run)
            for first in range(0, len(split), self.scale.chunk):
                last = min(first + self.scale.chunk, len(split))
                for group in groups(verdicts.waiting(columns, first, last)):
                    if self.clock.over:
                        return False
                    part = split.subset(torch.arange(first, last))
                    self._judge(run, group, part, first, verdicts)
                    verdicts.save()
        return True

    def _judge(
        self, run: Run, group: list[Column], part: Any, first: int, verdicts: Verdicts
    ) -> None:
        began = spent()
        attacked = [column for column in group if column.attack is not None]
        attacks = [
            column.attack
            if column.source is None
            else replace(column.attack, source=self.network(column.source))
            for column in attacked
        ]
        found = evaluate(
            self.network(run, group[0].checkpoint),
            part,
            attacks,
            batch_size=BATCH,
            seed=run.settings.seed,
        )
        for column in group:
            at = 0 if column.attack is None else 1 + attacked.index(column)
            verdicts.add(column.key, first, found.correct[at], found.gradients[at])
        before = verdicts.about["seconds"]
        verdicts.about["seconds"] = spent_since(began, before)
        seconds = verdicts.about["seconds"]["wall"] - before["wall"]
        verdicts.about["provenance"] = provenance.provenance()
        verdicts.about["notes"] = list(dict.fromkeys([*verdicts.about["notes"], *found.notes]))
        names = ", ".join(column.key for column in group)
        self.say(f"evaluated {run.folder}, {len(part)} images: {names} in {seconds:.0f} s")

    # ------------------------------------------------------------------------------- results

    def export(self, table: TablePlan, row: Row, folder: str | Path) -> None:
        """Write a row's result as far as it is known, unless it stands there already."""
        run, data, verdicts = row.run, self.data(row.run), self.verdicts(row.run)
        columns = [column for column in row.columns if verdicts.done(column)]
        path = results.folder_of(folder, table) / f"{row.slug}-{run.settings.seed}.json"
        if not columns:
            return
        evaluation = verdicts.evaluation(columns, data, run.settings.seed)
        if path.exists() and path.with_suffix(".npz").exists():
            with files.blamed(path, results.CORRUPTED):
                if tuple(files.read_json(path)["accuracy"]) == evaluation.names:
                    return
        trained = files.read_json(self.folder / run.folder / "run.json")
        wanted = () if table.published is not None else ("PGD10, train", ROBUST)
        log = self.folder / run.folder / "log.jsonl"
        with files.blamed(log, "is damaged: remove the run folder, and it is trained again"):
            found = runs.curves_of(log.parent) if wanted else {}
            curves = {name: found[name] for name in wanted}
            signs = [record for record in log_of(log) if "sign" in record]
        said, precision = evaluation.to_json(), run.settings.precision
        cost = {
            "training": self._spent(self.folder / run.folder),
            "evaluation for all tables": verdicts.about["seconds"],
        }
        about = {
            "format": results.FORMAT,
            "kit": __version__,
            "table": table.name,
            "scale": table.scale.name,
            "row": row.title,
            "seed": run.settings.seed,
            "command": results.command(
                table.name,
                table.scale.name,
                [run.settings.seed],
                "" if precision == "float32" else precision,
            ),
            "run": run.folder,
            "data": {
                "name": data.name,
                "n": evaluation.n,
                "epsilon": data.epsilon,
                "train_checksum": data.train.checksum,
                "test_checksum": data.test.checksum,
            },
            "precision": precision,
            "network": run.network,
            "architecture": trained["architecture"],
            "method": repr(run.method),
            "settings": asdict(run.settings),
            "schedule": run.schedule,
            "average": run.average,
            "augmentation": repr(data.train.augmentation),
            "attacks": {column.title: column.key for column in columns},
            **{key: said[key] for key in ("rule", "accuracy", "interval95")},
            "curves": curves,
            "signs": signs,
            "notes": verdicts.about["notes"],
            "seconds": {part: round(its["wall"], 1) for part, its in cost.items()},
            "processor seconds": {
                part: round(its["processor"], 1) for part, its in cost.items() if "processor" in its
            },
            "provenance": {
                "training": {key: trained.get(key) for key in provenance.provenance()},
                "evaluation": verdicts.about["provenance"],
            },
        }
        results.save(Result(path, row.title, run.settings.seed, about), evaluation)

    # ------------------------------------------------------------------------------- all of it

    def tables(
        self,
        names: Sequence[str],
        seeds: Sequence[int],
        folder: str | Path,
        rows: Sequence[str] | None = None,
    ) -> None:
        """Train, evaluate and write what the tables' results lack, seed by seed.

        ``rows``: these alone, in this order; None is all of them. What could not be done stands in
        ``left`` afterwards.

        Raises:
            ImportError: an attack's package is missing; nothing has been trained then.
            ValueError: results are there that do not belong (see ``results.load``), or that are
                about other images.
            FileNotFoundError: none of the images are to be had.
        """
        before = {name: results.load(name, self.scale, folder) for name in names}
        for seed in seeds:
            plans = [plan(name, self.scale, seed, self.precision).only(rows) for name in names]
            todo = [
                (table, row)
                for table in plans
                for row in table.rows
                if not _complete(before[table.name], row)
            ]
            self._check_same(before, todo)
            self._check_attacks(todo)
            for run in dict.fromkeys(
                run
                for table, row in todo
                for run in (*[c.source for c in row.columns if c.source], row.run)
            ):
                self._train_and_judge(run, [pair for pair in todo if pair[1].run == run], folder)
            self._transfers(todo, folder)
        if self._data and all(isinstance(data, Exception) for data in self._data.values()):
            raise FileNotFoundError(
                f"data_root = {str(self.data_root)!r} holds none of the images that "
                f"{', '.join(names)} at scale {self.scale.name} is about"
            )

    def _check_same(
        self, before: dict[str, results.Assembled], todo: list[tuple[TablePlan, Row]]
    ) -> None:
        """Refuse to add to results that ours could not stand beside, before any work is done."""
        for result in [
            r for name in {table.name for table, _ in todo} for r in before[name].results
        ]:
            its_runs = [row.run for _, row in todo if row.run.data == result.dataset]
            about = result.about["data"]
            if its_runs and self.available(its_runs[0]):
                data = self.data(its_runs[0])
                test, train = data.test.checksum, data.train.checksum
                about = {"test_checksum": test, "train_checksum": train}
            here = results.origin(result.dataset, self.precision, about)
            where = f"{result.path} could not stand beside what is made (choose another --results)"
            check.same(result.origin, here, where)

    def _check_attacks(self, todo: list[tuple[TablePlan, Row]]) -> None:
        """Refuse attacks that cannot run here, a package missing, before any work is done."""
        for run, attack in {(r.run, c.attack) for _, r in todo for c in r.columns}:
            if isinstance(attack, Refusing) and self.available(run):
                data = self.data(run)
                attack.check(data.num_classes, data.shape)

    def _train_and_judge(
        self, run: Run, rows: list[tuple[TablePlan, Row]], folder: str | Path
    ) -> None:
        """Train and evaluate one network and write its rows, transfers excepted."""
        if not self.available(run):
            self.left.append(f"{run.folder}: no images")
            return
        if self.clock.over:
            self.left.append(f"{run.folder}: the minutes are over")
            return
        own = [c for _, row in rows for c in row.columns if c.source is None]
        try:
            done = self.trained(run) or self.train(run)
            if not done or not self.judge(run, own):
                self.left.append(f"{run.folder}: the minutes are over")
        except BlockingIOError as error:
            self.say(f"skipped {run.folder}: {error}")
            self.left.append(f"{run.folder}: another process is at it")
            return
        except (TrainingDiverged, RuntimeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.say(f"gave up {run.folder}: {why}")
            self.left.append(f"{run.folder}: {why}")
            return
        if done:
            for table, row in rows:
                self.export(table, row, folder)

    def _transfers(self, todo: list[tuple[TablePlan, Row]], folder: str | Path) -> None:
        """Give the networks that are there each other's adversarial examples (Table 2)."""
        for table, row in todo:
            columns = [(c, c.source) for c in row.columns if c.source is not None]
            if not columns or not self.available(row.run) or not self.trained(row.run):
                continue
            ready = [column for column, source in columns if self.trained(source)]
            try:
                done = self.judge(row.run, ready) and len(ready) == len(columns)
            except BlockingIOError as error:
                self.say(f"skipped {row.run.folder}: {error}")
                done = False
            if not done:
                self.left.append(f"{row.run.folder}: examples of other networks")
            self.export(table, row, folder)


def _complete(assembled: results.Assembled, row: Row) -> bool:
    """Return whether a row's result is there with all of its columns and their verdicts."""
    wanted = {column.title for column in row.columns}
    return any(
        result.seed == row.run.settings.seed
        and wanted == result.accuracy.keys()
        and result.path.with_suffix(".npz").exists()
        for result in assembled.of(row.title)
    )
