"""What is searched, and how one trial trains and is judged."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from avmixup_kit import methods, models, paper
from avmixup_kit._base import check
from avmixup_kit.data import Data, Split
from avmixup_kit.evaluation.autoattack import AutoAttack, autoattack
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.evaluation.record import Judge
from avmixup_kit.methods import attacks
from avmixup_kit.methods.attacks import Attack
from avmixup_kit.methods.losses import Margin
from avmixup_kit.training.loop import Training
from avmixup_kit.training.settings import Settings

Searched = Literal["avmixup", "feature_scatter_avmixup"]
Option = Literal["clip_vertex", "per_example"]
Range = tuple[float, float]

OBJECTIVES: dict[str, Callable[[float], Attack | Judge]] = {
    "cw": lambda epsilon: attacks.cw(steps=20, epsilon=epsilon, restarts=3),
    "apgd-t": lambda epsilon: AutoAttack(epsilon, ("apgd-t",), 3, title="APGD-T"),
    "autoattack": lambda epsilon: autoattack(epsilon, "quick"),
}
FOOLED = ("pgd", "fgsm", "apgd", "apgd-ce", "ce")
SEARCHED = ("gamma", "lambda1", "lambda2")
UNSAID = {"clip_vertex": False, "per_example": True}  # the paper's, where they are searched
PRUNED_TO = 3  # one trial in so many goes on at each rung
BEST, PAPER, UNMIXED = "best", "paper", "no mixing"


@dataclass(frozen=True)
class Plan:
    """What is searched, and how one trial trains and is judged; a study holds to one plan.

    Args:
        method: ``"avmixup"`` or ``"feature_scatter_avmixup"``.
        gamma, lambda1, lambda2: the lowest and highest value that is tried.
        also: options of the method that are searched as well, each yes or no: ``"clip_vertex"``
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

    Raises:
        ValueError: a range outside what the method allows or upside down, an unknown name, an
            objective that soft labels fool.
    """

    method: Searched = "avmixup"
    gamma: Range = (1.0, 4.0)
    lambda1: Range = (0.0, 1.0)
    lambda2: Range = (0.0, 1.0)
    also: tuple[Option, ...] = ()
    epsilon: float | None = None
    attack_steps: int | None = None
    settings: Settings = field(default_factory=lambda: Settings(360))
    network: str = "small_cnn"
    base_channels: int | None = None
    objective: "str | Attack | Judge" = "cw"
    images: int | None = None
    prune: bool = True

    def __post_init__(self) -> None:
        check.one_of("method", self.method, get_args(Searched))
        check.one_of("network", self.network, models.NETWORKS)
        for option in self.also:
            check.one_of("also", option, get_args(Option))
        if self.images is not None:
            check.whole("images", self.images)
        for name, least, most in (("gamma", 1.0, math.inf), *((n, 0.0, 1.0) for n in SEARCHED[1:])):
            low, high = getattr(self, name)
            fine = least <= low <= high <= most and math.isfinite(high)
            words = "1 or more" if name == "gamma" else "between 0 and 1"
            check.that(fine, name, (low, high), f"lowest and highest, {words}")
        self.judge(self.epsilon or 0.1)
        self.build({}, self.epsilon or 0.1)

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
        steps = {} if self.attack_steps is None else {"steps": self.attack_steps}
        return methods.build(self.method, epsilon=epsilon, **steps, **changes)

    def published(self, data: str) -> dict[str, float]:
        """Return the paper's gamma, lambda1, lambda2 for a data set, CIFAR-10's for an unknown."""
        recipes = paper.RECIPES if self.method == "avmixup" else paper.FEATURE_SCATTER_RECIPES
        recipe = recipes.get(data, recipes["cifar10"])
        return {name: getattr(recipe, name) for name in SEARCHED}

    def seed_of(self, number: int) -> int:
        """Return the seed of a trial's network and training."""
        sequence = np.random.SeedSequence((self.settings.seed, number))
        return int(sequence.generate_state(1)[0]) >> 1

    def unmixed(self, epsilon: float) -> methods.Method:
        """Return the same training without AVmixup: PGD, or Feature Scatter as released."""
        name = "pgd" if self.method == "avmixup" else "feature_scatter"
        steps = {} if self.attack_steps is None else {"steps": self.attack_steps}
        return methods.build(name, epsilon=epsilon, **steps)

    def check(self, data: Data) -> None:
        """Raise ValueError unless a trial can train and be measured on this data."""
        epsilon = data.epsilon if self.epsilon is None else self.epsilon
        available = len(data.validation)
        enough = 0 < available >= (self.images or 0)
        check.that(enough, "images", self.images, f"{data.validation.name} has {available}")
        self.training(data.train, self.build({}, epsilon), seed=0)

    def training(self, train: Split, method: methods.Method, seed: int) -> Training:
        """Return the training of one network, at its start."""
        width = {} if self.base_channels is None else {"base_channels": self.base_channels}
        network = models.build(self.network, train, seed=seed, **width).to(train.device)
        settings = dataclasses.replace(self.settings, seed=seed)
        return Training(network, train, method, settings=settings)

    def identity(self, data: Data) -> dict[str, Any]:
        """Return all that decides a trial, as plain values: what two searches must share."""
        epsilon = data.epsilon if self.epsilon is None else self.epsilon
        return {
            "data": data.name,
            "training images": data.train.checksum,
            "validation images": data.validation.checksum,
            "method": repr(self.build({}, epsilon)),
            "search space": {name: list(getattr(self, name)) for name in SEARCHED}
            | {name: [False, True] for name in self.also},
            "objective": repr(self.judge(epsilon)),
            "objective's images": self.images,
            "network": [self.network, self.base_channels],
            "settings": repr(self.settings),
            "prune": self.prune,
        }


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
    raise TypeError(f"objective = {given!r} is not allowed: a name or an attack on the margin")
