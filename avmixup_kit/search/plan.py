"""What is searched, and how one trial trains and is judged."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np

from avmixup_kit import methods, models, paper
from avmixup_kit._base import check
from avmixup_kit._base.texts import checksum
from avmixup_kit.data import Data, Split
from avmixup_kit.evaluation.autoattack import AutoAttack, autoattack
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.evaluation.record import Judge, Refusing
from avmixup_kit.methods import attacks
from avmixup_kit.methods.attacks import Attack
from avmixup_kit.methods.losses import Margin
from avmixup_kit.methods.mixing import Adversarial
from avmixup_kit.training.folders import load_model
from avmixup_kit.training.loop import Training
from avmixup_kit.training.settings import Settings

Range = tuple[float, float]

OBJECTIVES: dict[str, Callable[[float], Attack | Judge]] = {
    "cw": lambda epsilon: attacks.cw(steps=20, epsilon=epsilon, restarts=3),
    "apgd-t": lambda epsilon: AutoAttack(epsilon, ("apgd-t",), 3, title="APGD-T"),
    "autoattack": lambda epsilon: autoattack(epsilon, "quick"),
}
FOOLED = ("pgd", "fgsm", "apgd", "apgd-ce", "ce")
SEARCHED = ("gamma", "lambda1", "lambda2")
PRUNED_TO = 3  # one trial in so many goes on at each rung
BEST, PAPER, DEFAULT, UNMIXED = "best", "paper", "default", "no mixing"
_PUBLISHED = {
    "avmixup": paper.RECIPES,
    "feature_scatter_avmixup": paper.FEATURE_SCATTER_RECIPES,
}


@dataclass(frozen=True)
class Plan:
    """What is searched, and how one trial trains and is judged; a study holds to one plan.

    Args:
        method: a name of ``methods.METHODS``, one's own among them.
        gamma, lambda1, lambda2: the lowest and highest value that is tried, where the method has
            them.
        also: settings of the method that are searched as well, each yes or no: ``"clip_vertex"``
            (the authors' code; the paper does not), ``"per_example"``.
        epsilon: radius in [0, 1] pixels; None is the data set's own.
        attack_steps: gradient steps of the attack in training; None is the method's own.
        settings: of one trial's training. Its seed is that of the whole search.
        network: a name of ``models.NETWORKS``; ``base_channels`` its width, None for its own.
        objective: ``"cw"`` (CW20 with 3 restarts), ``"apgd-t"`` (3 targets), ``"autoattack"``
            (quick), or an entry of ``evaluate``'s list that climbs a margin.
        images: how many validation images it is measured on; None is all.
        prune: end hopeless trials early (asynchronous successive halving): after a sixth and
            half of the steps the best third goes on.
        ranges: lowest and highest value of further settings of the method that are numbers.
        average: how much of an averaged copy of the weights stays at each step; that copy is then
            judged. None: as the method says.
        teacher: run folder, or checkpoint file, of the fixed network that the method asks.
        hold: settings of the method at other values than its own, not searched:
            ``{"label": "averaged"}``.
        awp: rho of adversarial weight perturbation around the method; None is none.

    Raises:
        ValueError: a range outside what the method allows or upside down, an unknown name, nothing
            to search, an objective that soft labels fool.
    """

    method: str = "avmixup"
    gamma: Range = (1.0, 4.0)
    lambda1: Range = (0.0, 1.0)
    lambda2: Range = (0.0, 1.0)
    also: tuple[str, ...] = ()
    epsilon: float | None = None
    attack_steps: int | None = None
    settings: Settings = field(default_factory=lambda: Settings(360))
    network: str = "small_cnn"
    base_channels: int | None = None
    objective: "str | Attack | Judge" = "cw"
    images: int | None = None
    prune: bool = True
    ranges: Mapping[str, Range] = field(default_factory=dict)
    average: float | None = None
    teacher: str | Path | None = None
    hold: Mapping[str, Any] = field(default_factory=dict)
    awp: float | None = None

    def __post_init__(self) -> None:
        for name in (*SEARCHED, "also"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check.settle(self)
        check.one_of("method", self.method, methods.METHODS)
        check.one_of("network", self.network, models.NETWORKS)
        options = [name for name, s in self._takes.items() if isinstance(s.default, bool)]
        check.that(
            isinstance(self.also, tuple), "also", self.also, f"some of {options}, in a tuple"
        )
        for option in self.also:
            check.one_of("also", option, options)
        for name in ("images", "attack_steps", "base_channels"):
            check.whole(name, getattr(self, name), none=True)
        check.flag("prune", self.prune)
        fine = self.teacher is None or (isinstance(self.teacher, str | Path) and self.teacher != "")
        check.that(fine, "teacher", self.teacher, "a run folder's or checkpoint's path, or None")
        if self.epsilon is not None:
            attacks.check_epsilon(self.epsilon)
        fine = isinstance(self.settings, Settings)
        check.that(fine, "settings", self.settings, "Settings of one trial, such as Settings(360)")
        fine = isinstance(self.ranges, Mapping)
        check.that(fine, "ranges", self.ranges, "(lowest, highest) by name of a setting")
        check.number("awp", self.awp, "[0, inf)", "a finite number, 0 or more", none=True)
        fine = isinstance(self.hold, Mapping)
        check.that(fine, "hold", self.hold, "a value by name of a setting")
        free = [each for each in self._takes if each not in ("epsilon", *self.also, *self.ranges)]
        for name in self.hold:
            check.one_of("hold", name, free)
        self.judge(self.epsilon or 0.1)
        self.build({}, self.epsilon or 0.1)
        for name in SEARCHED:
            _check_pair(name, getattr(self, name))
            free = name in self._takes and name not in self.hold
            allowed = "hold has it" if name in self.hold else f"no setting of {self.method}"
            kept = free or getattr(self, name) == vars(Plan)[name]
            check.that(kept, name, getattr(self, name), allowed)
        for name, limits in self.space.items():
            self._check_range(name, limits)
        allowed = f"it has none of {', '.join(SEARCHED)}; put settings that it has into ranges"
        check.that(bool(self.space or self.also), "method", self.method, allowed)

    def _check_range(self, name: str, limits: Range) -> None:
        # The radius is the plan's or the data set's: verdicts under several are not comparable.
        check.one_of("ranges", name, [each for each in self._takes if each != "epsilon"])
        _check_pair(name, limits)
        for value in map(float, limits):  # what is drawn between them is no whole number
            try:
                self.build({name: value}, self.epsilon or 0.1)
            except ValueError as error:
                check.that(False, name, limits, f"lowest and highest; {error}")

    @property
    def _takes(self) -> dict[str, Parameter]:
        return methods.METHODS.entries[self.method].settings

    @property
    def space(self) -> dict[str, Range]:
        """The lowest and highest value of every number that is searched."""
        free = (name for name in SEARCHED if name in self._takes and name not in self.hold)
        own = {name: getattr(self, name) for name in free}
        given = ((k, tuple(v) if isinstance(v, list) else v) for k, v in self.ranges.items())
        return own | {name: check.plain(limits) for name, limits in given}

    @property
    def rungs(self) -> tuple[int, ...]:
        """After how many steps a trial is measured; the last is its end."""
        first = max(1, self.settings.steps // 6)
        inner = (first * PRUNED_TO**k for k in range(2))
        return (*(step for step in inner if step < self.settings.steps), self.settings.steps)

    def judge(self, epsilon: float) -> "Attack | Judge":
        """Return the attack that measures a trial.

        Raises:
            ValueError: it climbs cross-entropy alone, or is unknown.
        """
        if not isinstance(self.objective, str):
            return _margin_based(self.objective)
        name = self.objective.lower()
        _check_not_fooled(name.rstrip("0123456789") not in FOOLED, self.objective)
        allowed = f"one of {', '.join(OBJECTIVES)}"
        check.that(name in OBJECTIVES, "objective", self.objective, allowed)
        return OBJECTIVES[name](epsilon)

    def build(self, changes: Mapping[str, Any], epsilon: float) -> methods.Method:
        """Return the method with these settings."""
        given: dict[str, Any] = {} if self.attack_steps is None else {"steps": self.attack_steps}
        if self.average is not None and "average" in self._takes:
            given["average"] = self.average
        method = methods.at_epsilon(self.method, epsilon, **{**given, **self.hold, **changes})
        return method if self.awp is None else methods.awp(method, self.awp)

    @property
    def reference(self) -> str:
        """Whose setting the best is held against: the paper's, or the method's own default."""
        return PAPER if self.method in _PUBLISHED else DEFAULT

    def published(self, data: str) -> dict[str, Any]:
        """Return the paper's setting for a data set (CIFAR-10's for an unknown), or the default."""
        values = {name: self._takes[name].default for name in (*self.space, *self.also)}
        if recipes := _PUBLISHED.get(self.method):
            recipe = recipes.get(data, recipes["cifar10"])
            values |= {name: getattr(recipe, name) for name in SEARCHED if name not in self.hold}
        return values

    def seed_of(self, number: int) -> int:
        """Return the seed of a trial's network and training."""
        sequence = np.random.SeedSequence((self.settings.seed, number))
        return int(sequence.generate_state(1)[0]) >> 1

    def unmixed(self, epsilon: float) -> methods.Method:
        """Return the same training without mixing: PGD, or Feature Scatter as released."""
        lam = 0.5 if self.method == "feature_scatter_avmixup" else 1.0
        return self.build({}, epsilon).replace(mix=Adversarial(lam))

    def epsilon_on(self, data: Data) -> float:
        """Return the radius: its own, or the data set's."""
        return data.epsilon if self.epsilon is None else self.epsilon

    def check(self, data: Data) -> None:
        """Raise ValueError unless a trial can train and be measured on this data.

        ImportError where the objective needs a package that is not installed.
        """
        available = len(data.validation)
        enough = 0 < available >= (self.images or 0)
        check.that(enough, "images", self.images, f"{data.validation.name} has {available}")
        judge = self.judge(self.epsilon_on(data))
        if isinstance(judge, Refusing):
            judge.check(data.train.num_classes, data.train.shape)
        self.training(data.train, self.build({}, self.epsilon_on(data)), seed=0)

    def training(self, train: Split, method: methods.Method, seed: int) -> Training:
        """Return the training of one network, at its start."""
        width = {} if self.base_channels is None else {"base_channels": self.base_channels}
        network = models.build(self.network, train, seed=seed, **width).to(train.device)
        settings = dataclasses.replace(self.settings, seed=seed)
        teacher = None if self.teacher is None else load_model(self.teacher)
        options = {"average": self.average, "teacher": teacher}
        return Training(network, train, method, settings=settings, **options)

    @property
    def _asked(self) -> dict[str, Any]:
        """What the method asks for beside its own settings, where anything was said."""
        told: dict[str, Any] = {} if self.average is None else {"average": self.average}
        if self.teacher is not None:
            told["teacher"] = checksum(load_model(self.teacher))
        return told

    def identity(self, data: Data) -> dict[str, Any]:
        """Return all that decides a trial, as plain values: what two searches must share."""
        epsilon = self.epsilon_on(data)
        return {
            "data": data.name,
            "training images": data.train.checksum,
            "validation images": data.validation.checksum,
            "method": repr(self.build({}, epsilon)),
            "search space": {name: list(limits) for name, limits in self.space.items()}
            | {name: [False, True] for name in self.also},
            "objective": repr(self.judge(epsilon)),
            "objective's images": self.images,
            "network": [self.network, self.base_channels],
            "settings": repr(self.settings),
            "prune": self.prune,
        } | self._asked


def _check_pair(name: str, limits: Any) -> None:
    fine = isinstance(limits, tuple) and len(limits) == 2
    fine = fine and all(map(check.is_number, limits)) and limits[0] <= limits[1]
    check.that(fine, name, limits, "lowest and highest, two finite numbers")


def _check_not_fooled(fine: bool, name: str) -> None:
    allowed = (
        "soft labels flatten the cross-entropy that it climbs, so a search would find settings "
        f"that hide gradients; take one that climbs a margin: {', '.join(OBJECTIVES)}"
    )
    check.that(fine, "objective", name, allowed)


def _margin_based(given: object) -> "Attack | Judge":
    if isinstance(given, Attack):
        _check_not_fooled(isinstance(given.objective, Margin), given.name)
        return given
    if isinstance(given, AutoAttack | RandomSearch):
        hard = isinstance(given, AutoAttack) and given.attacks == ("apgd-ce",)
        _check_not_fooled(not hard, "APGD-CE")
        return given
    said = check.said(given)
    raise TypeError(f"objective = {said} is not allowed: a name or an attack on the margin")
