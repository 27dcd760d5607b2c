"""Was it the vertex or the label? Mixing and soft-label defences on digits, on one protocol.

    python studies/labels.py

The grid holds AVmixup at the paper's lambda1 = 1, lambda2 = 0.1, and changes two things alone.
*Where the point lies*: each trains at x + t delta, t uniform on [0, gamma], delta PGD's at epsilon;

    inside   gamma = 1    all of the segment is in the ball, its end is the adversarial example
    vertex   gamma = 2    the paper's
    beyond   gamma = 3.5  as far as HAT's helpers

*Where the label comes from*: it falls from the true class's at x to the following at the far end;

    hard      the true class's, at the far end too (lambda2 = 1)
    fixed     0.1 on the true class, 0.9 spread evenly: AVmixup's; at the vertex, AVmixup itself
    averaged  0.1 on the true class, 0.9 as the averaged copy of the weights sees x + delta
    teacher   0.1 on the true class, 0.9 as a fixed, standardly trained network sees x + delta

All twelve are judged by the weights that were trained, never by an averaged copy, so that nothing
else differs. The methods beside the grid are the field's and the candidates, each as it is meant.

Settings are chosen on validation images (a quarter of what is not test), by accuracy under CW20
with three restarts, in TRIALS short trainings each: the method's own defaults first, then Optuna's
quasi-random points, which fill the space evenly. Each method searches the learning rate and the
numbers of its own that ROWS names; one without numbers of its own spends all on the learning rate.
Then networks are trained with five seeds, to the last step, and meet all 449 test images once:
PGD20, CW20, standard AutoAttack, alarms, and how many rivals share the gradient.

    results/labels/search/NAME.json            every trial, and what was chosen
    results/labels/evaluation/NAME-SEED.json   accuracies, alarms, rivals, settings
    results/labels/evaluation/NAME-SEED.npz    every verdict, for paired tests
    results/labels/table.md, summary.json      tables and answer, made from those files alone

Killed at any moment it goes on where it stood, losing one short training or one network. Any number
of processes may work on the same folders: each takes what no other is at. ``--table`` makes the
tables again without training, of the rows that have as many seeds as any; ``--estimate`` prints the
cost. Networks and teachers stay in ``--runs``, which the repository ignores.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import digits
import optuna
import torch
from scipy import stats
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods, models, search
from avmixup_kit._base import check, files, provenance
from avmixup_kit._base.statistics import holm, over_seeds, spread
from avmixup_kit._base.tables import markdown_table
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.compare import compare
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import CLEAN, Evaluation
from avmixup_kit.evaluation.scatter import rivals
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.losses import SquaredError, Trades, check_factor, soft_cross_entropy
from avmixup_kit.methods.mixing import AVmixup
from avmixup_kit.training import checkpoints
from avmixup_kit.training.folders import load_model
from avmixup_kit.training.loop import TrainingDiverged

EPSILON = digits.EPSILON
SEEDS = (0, 1, 2, 3, 4)
SEARCH_SEED = 100  # of every trial, so that settings differ in nothing else
TEACHER_SEED = 1000  # plus the seed of whom it teaches
HELD_OUT = 0.25
# ADR keeps 0.995 of 391 steps a pass; here a pass is 8 steps, and 500 are all there are.
AVERAGE = 0.98
TEACHERS = {"standard": methods.standard(), "robust": methods.pgd(epsilon=EPSILON)}
AUTOATTACK = autoattack(EPSILON)
ATTACKS = (av.pgd(steps=20, epsilon=EPSILON), av.cw(steps=20, epsilon=EPSILON), AUTOATTACK)
COLUMNS = (CLEAN, *(attack.name for attack in ATTACKS))
REFERENCES = ("PGD", "TRADES", "AVmixup")


@dataclass(frozen=True)
class Protocol:
    """What all networks of one results folder have in common."""

    steps: int = 500
    trials: int = 8
    trial_steps: int = 200
    images: int | None = None  # of validation and of test; None: all


@dataclass(frozen=True)
class WithVertex:
    """TRADES' loss on x and x + delta, plus ``weight`` times cross-entropy on the mixed example."""

    beta: float
    weight: float
    passes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_factor("beta", self.beta)
        check_factor("weight", self.weight)

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        there = replace(batch, x_hat=batch.x + batch.need("delta"), y_hat=batch.y)
        mixed = soft_cross_entropy(model(batch.need("x_hat")), batch.need("y_hat"))
        return Trades(self.beta)(model, there) + self.weight * mixed.mean()


def trades_with_vertex(beta: float, weight: float, **mix: Any) -> av.Method:
    """Return TRADES with a term at AVmixup's example, labelled as ``mix`` says."""
    trades = methods.at_epsilon("trades", EPSILON)
    return trades.replace(mix=AVmixup(**mix), loss=WithVertex(beta, weight))


def avmixup_squared(**mix: Any) -> av.Method:
    """Return AVmixup with the squared error of its probabilities in place of cross-entropy."""
    return methods.at_epsilon("avmixup", EPSILON, **mix).replace(loss=SquaredError())


Space = Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Row:
    """A method: a registered name or a function of its settings, and what is chosen for it.

    ``space`` has the lowest value, the one tried first and the highest; on a logarithmic scale
    where the highest is four times the lowest or more. ``average`` and ``teacher`` are what the
    training has; ``judged`` says whether the averaged copy is judged or the weights trained.
    ``family``: it mixes towards a vertex.
    """

    title: str
    method: str | Callable[..., av.Method]
    space: Space = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    average: float | None = None
    teacher: str | None = None
    judged: str = "averaged"
    family: bool = False

    def build(self, settings: Mapping[str, float]) -> av.Method:
        """Return the method with these settings, of which the learning rate is the training's."""
        given = {**self.fixed, **{k: v for k, v in settings.items() if k != "lr"}}
        if isinstance(self.method, str):
            return methods.at_epsilon(self.method, EPSILON, **given)
        return self.method(**given)

    @property
    def searched(self) -> Space:
        """The learning rate's range, and those of its own numbers."""
        return {"lr": (0.05, 0.1, 0.2), **self.space}

    @property
    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """What Optuna draws from."""
        return {
            name: optuna.distributions.FloatDistribution(low, high, log=0 < 4 * low <= high)
            for name, (low, _, high) in self.searched.items()
        }


LABELS: Mapping[str, Mapping[str, Any]] = {
    "hard": {"fixed": {"lambda2": 1.0}},
    "fixed": {"fixed": {"lambda2": 0.1}},
    "averaged": {"fixed": {"lambda2": 0.1, "label": "averaged"}, "average": AVERAGE},
    "teacher": {"fixed": {"lambda2": 0.1, "label": "teacher"}, "teacher": "standard"},
}
POINTS = {"inside": 1.0, "vertex": 2.0, "beyond": 3.5}


def cell(label: str, point: str) -> str:
    """Return the name of the row in this cell of the grid."""
    return "AVmixup" if (label, point) == ("fixed", "vertex") else f"{label}-{point}"


def _grid() -> Iterator[tuple[str, Row]]:
    for label, point in itertools.product(LABELS, POINTS):
        about = dict(LABELS[label])
        about["fixed"] = {**about["fixed"], "gamma": POINTS[point]}
        name = cell(label, point)
        title = name if name == "AVmixup" else f"{label} label, {point}"
        yield name, Row(title, "avmixup", judged="trained", family=True, **about)


_BETA, _WEIGHT = (1.0, 6.0, 12.0), (0.1, 0.5, 1.0)
_A = (0.2, 1.0, 2.0)
GRID = dict(_grid())
FIRST = {
    "PGD": Row("PGD", "pgd"),
    "TRADES": Row("TRADES", "trades", {"beta": _BETA}),
}
FIELD = {
    "HAT": Row(
        "HAT", "hat",
        {"h": (1.5, 3.5, 5.0), "beta": (1.0, 2.5, 6.0), "weight": _WEIGHT}, teacher="standard",
    ),
    "ADR": Row("ADR", "adr", {"average": (0.95, AVERAGE, 0.995)}),
    "TRADES-AWP": Row("TRADES + AWP", "trades_awp", {"beta": _BETA, "rho": (0.001, 0.005, 0.02)}),
    "PGD-AWP": Row("PGD + AWP", "pgd_awp", {"rho": (0.002, 0.01, 0.02)}),
    "MART": Row("MART", "mart", {"beta": (1.0, 5.0, 8.0)}),
    "adversarial-mixup": Row("Adversarial mixup", "adversarial_mixup", {"a": (0.2, 1.4, 2.0)}),
    "LS": Row("Label smoothing", "label_smoothing", {"lam": (0.5, 0.8, 0.98)}),
    "LSE": Row("PGD, squared error", "lse"),
    "TRADES-LSE": Row("TRADES, squared error", "trades_lse", {"beta": (1.0, 4.0, 8.0)}),
    "IAT": Row("IAT", "iat", {"a": _A}),
    "ALP": Row("ALP", "alp", {"weight": (0.1, 0.5, 2.0)}),
    "temporal": Row("Temporal ensembling", "temporal_ensembling", {"weight": (5.0, 30.0, 60.0)}),
    "Standard": Row("Standard training", "standard"),
    "Mixup": Row("Mixup", "mixup", {"a": _A}),
    "FGSM-RS": Row("FGSM-RS", "fgsm_rs"),
    "N-FGSM": Row("N-FGSM", "n_fgsm", {"noise": (1.0, 2.0, 3.0)}),
    "Feature-Scatter": Row("Feature Scatter", "feature_scatter", {"lam": (0.3, 0.5, 1.0)}),
    "Feature-Scatter-AVmixup": Row(
        "Feature Scatter + AVmixup", "feature_scatter_avmixup",
        {"gamma": (1.0, 1.0, 3.5), "lambda1": (0.0, 0.5, 1.0), "lambda2": (0.0, 0.7, 1.0)},
        family=True,
    ),
    "five-attacks": Row("AVmixup over five attacks", "mixture", family=True),
}  # fmt: skip
_SOFT = {"lambda1": 1.0, "gamma": 2.0}
CANDIDATES = {
    "AVmixup-searched": Row(
        "AVmixup, searched", "avmixup",
        {"gamma": (1.0, 2.0, 4.0), "lambda1": (0.5, 1.0, 1.0), "lambda2": (0.0, 0.1, 1.0)},
        family=True,
    ),
    "AVmixup-LSE": Row(
        "AVmixup, squared error", avmixup_squared,
        {"gamma": (1.0, 2.0, 4.0), "lambda2": (0.0, 0.1, 1.0)}, family=True,
    ),
    "AVmixup-averaged": Row(
        "AVmixup, label and weights averaged, asked at x", "avmixup",
        {"gamma": (1.0, 2.0, 4.0), "lambda2": (0.0, 0.1, 1.0)},
        {"label": "averaged", "asked_at": "clean"}, average=AVERAGE, family=True,
    ),
    "AVmixup-robust-teacher": Row(
        "AVmixup, label of a robust teacher", "avmixup",
        {"gamma": (1.0, 2.0, 4.0), "lambda2": (0.0, 0.1, 1.0)},
        {"label": "teacher"}, teacher="robust", family=True,
    ),
    "HAT-alpha": Row(
        "HAT with AVmixup's alpha", trades_with_vertex,
        {"gamma": (1.5, 3.5, 5.0), "beta": (1.0, 2.5, 6.0), "weight": _WEIGHT},
        {"lambda2": 0.0, "label": "teacher"}, teacher="standard", family=True,
    ),
    "TRADES-vertex": Row(
        "TRADES + AVmixup's example", trades_with_vertex,
        {"beta": _BETA, "weight": _WEIGHT}, {"gamma": 2.0, "lambda2": 0.1}, family=True,
    ),
    "PGD-averaged": Row("PGD, weights averaged", "pgd", average=AVERAGE),
    "mild-averaged": Row(
        "AVmixup near the ball, weights averaged", "avmixup",
        {"gamma": (1.0, 1.25, 1.5), "lambda2": (0.8, 0.9, 0.95)}, average=AVERAGE, family=True,
    ),
    "adversarial-mixup-averaged": Row(
        "Adversarial mixup, weights averaged", "adversarial_mixup", {"a": (0.2, 1.4, 2.0)},
        average=AVERAGE,
    ),
}  # fmt: skip
ROWS = FIRST | GRID | FIELD | CANDIDATES


# ------------------------------------------------------------------------------- the experiment


@dataclass(frozen=True)
class Study:
    """The study in its folders."""

    results: Path
    folder: Path
    protocol: Protocol

    def __post_init__(self) -> None:
        for place in (self.results / "search", self.results / "evaluation", self.folder):
            files.make_folder(place)
        path, now = self.results / "protocol.json", asdict(self.protocol)
        with files.held(self.folder / "protocol.lock", -1):
            if not path.exists():
                files.write_atomic(path, json.dumps(now, indent=1).encode())
            check.same(files.read_json(path), now, f"{path} has another protocol")

    @cached_property
    def data(self) -> av.Data:
        """Digits, with as many validation and test images as the protocol says."""
        data, count = av.digits(validation=HELD_OUT), self.protocol.images
        if count is None:
            return data
        fewer = {part: getattr(data, part).sample(count) for part in ("validation", "test")}
        return replace(data, **fewer)

    def __call__(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        """Do what is missing: first what no other process is at, then what others left undone."""
        for patience, seed, name in itertools.product((0, -1), seeds, names):
            if self.path(name, seed).exists():
                continue
            try:
                held = files.held(self.folder / f"{name}-{seed}.lock", patience)
            except BlockingIOError:
                continue
            with held:
                if not self.path(name, seed).exists():
                    self.judge(name, seed)

    def path(self, name: str, seed: int) -> Path:
        """Return where the verdicts of one network are."""
        return self.results / "evaluation" / f"{name}-{seed}.npz"

    def train(self, row: Row, settings: Mapping[str, float], steps: int, seed: int) -> nn.Module:
        """Return the network that is judged, after its last step."""
        training = self.training(row, settings, steps, seed)
        for _ in training:
            pass
        return training.model if row.judged == "trained" else training.judged

    def training(
        self, row: Row, settings: Mapping[str, float], steps: int, seed: int
    ) -> av.Training:
        """Return the training of one network at its start."""
        teacher = None if row.teacher is None else self.teacher(row.teacher, seed)
        return av.Training(
            models.small_cnn(self.data, seed=seed), self.data.train, row.build(settings), steps,
            seed=seed, lr=settings["lr"], average=row.average, teacher=teacher,
        )  # fmt: skip

    def teacher(self, kind: str, seed: int) -> nn.Module:
        """Return the fixed network that networks of this seed ask."""
        path = self.folder / f"teacher-{kind}-{seed}.pt"
        if not path.exists():
            row, own = Row(kind, lambda: TEACHERS[kind]), TEACHER_SEED + seed
            _keep(path, self.train(row, {"lr": 0.1}, self.protocol.steps, own))
        return load_model(path)

    def choose(self, name: str) -> dict[str, float]:
        """Return the settings that stand best on validation images."""
        row, path = ROWS[name], self.results / "search" / f"{name}.json"
        with files.held(self.folder / f"search-{name}.lock", -1):
            done = files.read_json(path)["trials"] if path.exists() else []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.QMCSampler(scramble=True, seed=0)
            drawn = optuna.create_study(direction="maximize", sampler=sampler)
            drawn.enqueue_trial({key: first for key, (_, first, _) in row.searched.items()})
            for number in range(self.protocol.trials):
                trial = drawn.ask(row.distributions)
                if number == len(done):
                    done.append(self.trial(row, trial.params))
                    about = {"command": "python studies/labels.py", "objective": "CW20x3"}
                    about |= {"trials": done, "provenance": provenance.provenance()}
                    files.write_atomic(path, json.dumps(about, indent=1).encode())
                    print(f"{name} trial {number}: {done[-1]['value']:.3f}", flush=True)
                check.same(done[number]["settings"], trial.params, f"{path}, trial {number}")
                drawn.tell(trial, done[number]["value"])
        return max(done, key=lambda trial: trial["value"])["settings"]

    def trial(self, row: Row, settings: Mapping[str, float]) -> dict[str, Any]:
        """Return one short training's accuracy on validation images; 0 where it diverged."""
        began, judge = time.process_time(), search.OBJECTIVES["cw"](EPSILON)
        try:
            network = self.train(row, settings, self.protocol.trial_steps, SEARCH_SEED)
            found = evaluate(network, self.data.validation, [judge], batch_size=512, check=False)
            value = found.accuracy(judge.name)
        except TrainingDiverged:
            value = 0.0
        seconds = round(time.process_time() - began, 1)
        return {"settings": dict(settings), "value": value, "processor_seconds": seconds}

    def judge(self, name: str, seed: int) -> None:
        """Train one network with what was chosen, and write what test images say of it."""
        row, settings = ROWS[name], self.choose(name)
        began = time.process_time()
        network = self.train(row, settings, self.protocol.steps, seed)
        _keep(self.folder / f"{name}-{seed}.pt", network)
        trained = time.process_time()
        test = self.data.test
        found = evaluate(network, test, ATTACKS, batch_size=512, seed=seed)
        rung = av.alarms(found, network, test, batch_size=512)
        seconds = {"training": trained - began, "evaluation": time.process_time() - trained}
        digits.save(
            self.path(name, seed), found, command="python studies/labels.py",
            method=repr(row.build(settings)), settings=settings, average=row.average,
            teacher=row.teacher, judged=row.judged, steps=self.protocol.steps,
            alarms=[alarm.key for alarm in rung],
            rivals=float(rivals(network, test, ATTACKS[0], batch_size=512, seed=seed).mean()),
            processor_seconds={key: round(value, 1) for key, value in seconds.items()},
        )  # fmt: skip
        print(f"{name} seed {seed}\n{found}\n", flush=True)


# Core-seconds: verdicts and alarms of one network, and CW20 with three restarts of one trial.
JUDGING, MEASURING = 45.0, 0.6


def _keep(path: Path, network: nn.Module) -> None:
    weights = {"architecture": network.architecture, "model": network.state_dict()}
    checkpoints.save_checkpoint(path, weights)


def estimate(protocol: Protocol, names: Sequence[str], seeds: Sequence[int]) -> str:
    """Return what the study costs: steps timed here, verdicts as the digits study's were."""
    rows, total = [["row", "ms a step", "core-minutes"]], 0.0
    each = protocol.steps * len(seeds) + protocol.trial_steps * protocol.trials
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), Path(folder), replace(protocol, steps=4))
        for name in names:
            first = {key: value for key, (_, value, _) in ROWS[name].searched.items()}
            training = study.training(ROWS[name], first, 4, SEARCH_SEED)
            next(training)
            began = time.process_time()
            done = sum(1 for _ in training)
            step = (time.process_time() - began) / done
            seconds = each * step + JUDGING * len(seeds) + MEASURING * protocol.trials
            total += seconds
            rows.append([name, f"{1000 * step:.0f}", f"{seconds / 60:.1f}"])
    return f"{markdown_table(rows)}\n\nIn all {total / 3600:.2f} core-hours."


# -------------------------------------------------------------------------------- what it found


def summary(results: Path) -> dict[str, Any]:
    """Return all that tables and notebook show, made from the saved files alone."""
    found, rows = {}, {}
    for name in ROWS:
        paths = {seed: results / "evaluation" / f"{name}-{seed}.npz" for seed in SEEDS}
        found[name] = {s: Evaluation.load(path) for s, path in paths.items() if path.exists()}
    most = max(map(len, found.values()))
    for name, row in ROWS.items():
        if len(found[name]) < most:  # fewer seeds are no match: it is still awaited
            found[name] = {}
        files_of = {seed: results / "evaluation" / f"{name}-{seed}.json" for seed in found[name]}
        told = [files.read_json(path) for path in files_of.values()]
        if told:
            path = results / "search" / f"{name}.json"
            tried = files.read_json(path)["trials"] if path.exists() else []
            rows[name] = {
                "trials": len(tried),
                "trial_seconds": sum(each["processor_seconds"] for each in tried),
                "title": row.title,
                "family": row.family,
                "settings": told[0]["settings"],
                "seeds": list(found[name]),
                "n": told[0]["n"],
                **{c: [e.accuracy(c) for e in found[name].values()] for c in COLUMNS},
                "said": {c: spread([e.accuracy(c) for e in found[name].values()]) for c in COLUMNS},
                "rivals": [each["rivals"] for each in told],
                "alarms": [each["alarms"] for each in told],
                "core_seconds": sum(sum(each["processor_seconds"].values()) for each in told),
            }
    if not rows:
        raise SystemExit(f"{results} holds no verdicts yet")
    grid = {label: {point: cell(label, point) for point in POINTS} for label in LABELS}
    protocol = files.read_json(results / "protocol.json")
    told = {"protocol": protocol, "epsilon": EPSILON, "gamma": POINTS, "grid": grid, "rows": rows}
    told |= {"comparisons": _comparisons(found), "contrasts": _contrasts(rows)}
    told["masking"] = _masking(rows)
    return told | {"answer": answer(told)}


def _masking(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return how rivals and what PGD20 overstates go together over rows (Spearman's rho, its p)."""
    rivals = [fmean(row["rivals"]) for row in rows.values()]
    gap = [fmean(row["PGD20"]) - fmean(row[AUTOATTACK.name]) for row in rows.values()]
    if min(len(set(rivals)), len(set(gap))) < 2:
        return {}
    found = stats.spearmanr(rivals, gap)
    return {"rho": float(found.statistic), "p": float(found.pvalue), "rows": len(rows)}


def _comparisons(found: Mapping[str, Mapping[int, Evaluation]]) -> list[dict[str, Any]]:
    """Return each row against each reference under AutoAttack, a family of tests a reference."""
    compared = []
    for against in REFERENCES:
        family = []
        for name, networks in found.items():
            seeds = [seed for seed in networks if seed in found[against]]
            if name == against or not seeds:
                continue
            both = ([found[one][seed] for seed in seeds] for one in (name, against))
            said = compare(*both, AUTOATTACK.name)
            family.append(
                {
                    "row": name,
                    "against": against,
                    "seeds": len(seeds),
                    "difference": said.difference,
                    "interval": list(said.interval),
                    "p": said.p,
                }
            )
        corrected = holm([each["p"] for each in family])
        for each, p in zip(family, corrected, strict=True):
            each["p_holm"] = p
        compared += family
    return compared


def _contrasts(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, seed by seed, what label and point alone do to AVmixup under AutoAttack.

    label: the paper's vertex is kept and a network asked, mean of averaged copy and teacher.
    point: the paper's label is kept and the point brought into the ball. Intervals are those of
    three means at once (Bonferroni), 95 % together.
    """
    names = [cell(*c) for c in (("averaged", "vertex"), ("teacher", "vertex"), ("fixed", "inside"))]
    names = [cell("fixed", "vertex"), *names]
    if not all(name in rows for name in names):
        return {}
    value = {n: dict(zip(rows[n]["seeds"], rows[n][AUTOATTACK.name], strict=True)) for n in names}
    seeds = sorted(set.intersection(*map(set, value.values())))
    if not seeds:
        return {}
    values: dict[str, list[float]] = {"label": [], "point": [], "label - point": []}
    for seed in seeds:
        paper, averaged, teacher, inside = (value[name][seed] for name in names)
        label, point = (averaged + teacher) / 2 - paper, inside - paper
        for key, each in zip(values, (label, point, label - point), strict=True):
            values[key].append(each)
    told: dict[str, Any] = {"seeds": seeds}
    for key, each in values.items():
        told[key] = {"values": each, "mean": fmean(each)}
        if len(seeds) > 1:
            mean, half = over_seeds(each, 1 - 0.05 / len(values))
            told[key]["interval"] = [mean - half, mean + half]
    return told


def answer(told: Mapping[str, Any]) -> str:
    """Return the answer in two sentences, computed from a summary, whichever it is."""
    contrasts = told["contrasts"]
    if len(contrasts.get("seeds", ())) < 2:
        first = "Whether it was the vertex or the label is open: two seeds of the grid are needed."
    else:
        (low, high), (least, most) = (
            contrasts[key]["interval"] for key in ("label", "label - point")
        )
        verdict = "open"
        if low > 0 and least > 0:
            verdict = "confirmed"
        elif high < 0 or most < 0:
            verdict = "refuted"
        changes = {key: _points(contrasts[key]) for key in ("label", "point", "label - point")}
        first = (
            f'"The label, not the vertex" is {verdict} on digits: under AutoAttack, asking a '
            f"network for AVmixup's label changes its accuracy by {changes['label']} points, "
            f"bringing its point into the ball by {changes['point']}, a difference of "
            f"{changes['label - point']} ({len(contrasts['seeds'])} seeds, 95 % together)."
        )
    best = None
    for each in told["comparisons"]:
        family = told["rows"][each["row"]]["family"]
        if family and each["against"] == "PGD":
            best = max(best or each, each, key=lambda c: c["difference"])
    if best is None:
        return f"{first} Nothing is there yet to hold against PGD training."
    title = told["rows"][best["row"]]["title"]
    beats = [
        each["against"]
        for each in told["comparisons"]
        if each["row"] == best["row"] and each["difference"] > 0 and each["p_holm"] < 0.05
    ]
    beats = [against for against in beats if against in ("PGD", "TRADES")]
    second = (
        f"Of AVmixup's family {title} comes highest, {_points(best | {'mean': best['difference']})}"
        f" points from PGD training (p = {best['p_holm']:.2g}, Holm), and "
        + (f"beats {' and '.join(beats)}." if beats else "no evidence says it beats PGD or TRADES.")
    )
    return f"{first} {second}"


def _points(told: Mapping[str, Any]) -> str:
    text = f"{100 * told['mean']:+z.1f}"
    if "interval" in told:
        low, high = told["interval"]
        text += f" ({100 * low:+z.1f} to {100 * high:+z.1f})"
    return text


def table(told: Mapping[str, Any]) -> str:
    """Return a summary's tables as Markdown: the grid and its answer first."""
    rows, protocol = told["rows"], told["protocol"]
    n = next(iter(rows.values()))["n"]
    counts = sorted({len(row["seeds"]) for row in rows.values()})
    seeds = " to ".join(dict.fromkeys((str(counts[0]), str(counts[-1]))))
    tried = " or ".join(map(str, sorted({row["trials"] for row in rows.values()})))
    hours = {
        kind: sum(row[kind] for row in rows.values()) / 3600
        for kind in ("trial_seconds", "core_seconds")
    }
    lines = [
        "# Was it the vertex or the label?",
        "",
        "`python studies/labels.py`",
        "",
        f"Accuracy under standard AutoAttack in percent on {n} test digits, epsilon {EPSILON}, "
        f"{protocol['steps']} steps, {seeds} seed{'s' * (seeds != '1')}; in brackets how many "
        "rivals share the gradient where PGD20 ends. Means ± half the 95 % interval over seeds "
        "(t).",
        "",
    ]
    cells = [["label", *(f"{point}, gamma = {far:g}" for point, far in POINTS.items())]]
    for label, its in told["grid"].items():
        found = [rows.get(name) for name in its.values()]
        cells.append(
            [
                label,
                *(
                    f"{spread(r[AUTOATTACK.name])} ({fmean(r['rivals']):.1f})" if r else ""
                    for r in found
                ),
            ]
        )
    lines += [
        markdown_table(cells),
        "",
        told["answer"],
        "",
        f"{len(rows)} of {len(ROWS)} methods; settings from {tried} trials of "
        f"{protocol['trial_steps']} steps each, {hours['trial_seconds']:.1f} core-hours; networks "
        f"and verdicts {hours['core_seconds']:.1f} core-hours.",
        "",
    ]
    body = [["method", "seeds", *COLUMNS, "PGD20 - AutoAttack", "rivals", "alarms", "chosen"]]
    for row in sorted(rows.values(), key=lambda row: -fmean(row[AUTOATTACK.name])):
        gap = [a - b for a, b in zip(row["PGD20"], row[AUTOATTACK.name], strict=True)]
        rung = Counter(itertools.chain.from_iterable(row["alarms"]))
        body.append(
            [
                row["title"],
                str(len(row["seeds"])),
                *(spread(row[column]) for column in COLUMNS),
                spread(gap),
                f"{fmean(row['rivals']):.1f}",
                ", ".join(f"{key} {count}" for key, count in rung.items()),
                ", ".join(f"{key} {value:.3g}" for key, value in row["settings"].items()),
            ]
        )
    lines += [markdown_table(body), ""]
    if masking := told["masking"]:
        lines += [
            f"Over {masking['rows']} methods, the more rivals share the gradient the more PGD20 "
            f"overstates: Spearman's rho {masking['rho']:.2f} (p = {masking['p']:.2g}).",
            "",
        ]
    lines += [
        "Paired with each reference, seed by seed on the same images, under AutoAttack, in points; "
        "p of the paired t-test over seeds, corrected by Holm for all rows held against that "
        "reference.",
        "",
    ]
    pairs = [["method", "against", "difference", "95 % interval", "p", "p (Holm)", "seeds"]]
    for each in sorted(told["comparisons"], key=lambda c: (c["against"], -c["difference"])):
        low, high = each["interval"]
        pairs.append(
            [
                rows[each["row"]]["title"],
                each["against"],
                f"{100 * each['difference']:+z.1f}",
                f"{100 * low:+z.1f} to {100 * high:+z.1f}",
                f"{each['p']:.2g}",
                f"{each['p_holm']:.2g}",
                str(each["seeds"]),
            ]
        )
    return "\n".join([*lines, markdown_table(pairs, left=2)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/labels"))
    parser.add_argument("--runs", type=Path, default=Path("runs/labels"))
    parser.add_argument("--names", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    for name, value in asdict(Protocol()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--table", action="store_true", help="only make the tables again")
    parser.add_argument("--estimate", action="store_true", help="only print what it would cost")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not chosen.table:
        os.nice(19)
        protocol = Protocol(**{name: getattr(chosen, name) for name in asdict(Protocol())})
        if chosen.estimate:
            print(estimate(protocol, chosen.names, chosen.seeds))
            return
        Study(chosen.results, chosen.runs, protocol)(chosen.names, chosen.seeds)
    files.make_folder(chosen.runs)
    with files.held(chosen.runs / "tables.lock", -1):  # of processes that end together
        told = summary(chosen.results)
        text = table(told)
        files.write_atomic(chosen.results / "summary.json", json.dumps(told, indent=1).encode())
        files.write_atomic(chosen.results / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
