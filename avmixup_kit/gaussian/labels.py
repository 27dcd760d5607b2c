r"""Labels that a model sets, at points inside the ball, along AVmixup's segment and beyond it.

The point is x + k δ with δ = -y sgn(w): k = γ ε, or k = u γ ε with u uniform on (0, 1) for AVmixup.
Its true class has the mass

    q = r + (1 - r) g(z_T / T),   z_T = y vᵀx - k_T ‖v‖₁,

r given and the rest asked of a model v >= 0 at the clean image (k_T = 0), at x' (k_T = ε) or at the
point itself (k_T = k); g is the logistic function, at T = 0 the arg max. By Stein's identity

    -∂/∂w_i = G₀ μ_i - G₁ - σ_i² (H w_i - P v_i),
    G₀ = E[q - σ(z)],  G₁ = E[k (q - σ(z))],  H = E[σ'(z)],  P = E[∂q/∂z_T],

four integrals over one normal variable each: a label that a model sets pulls towards its weights.
All is proved in theory/network_labels.md. Weights are tied; "A" and "B" are `Groups`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, logit

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import number, real
from avmixup_kit.gaussian.features import FeatureModel, Groups
from avmixup_kit.gaussian.objectives import logistic_tails, softplus_mean
from avmixup_kit.gaussian.stationary import root, root_in_share

SOURCES = ("hard", "fixed", "averaged", "standard", "robust", "oracle")
ASKED = ("clean", "attacked", "point")
POINTS = ("inside", "vertex", "beyond")
_NODES, _WEIGHTS = leggauss(12)
# a logistic function along the segment bends within one width and fades over many
_BENDS = np.concatenate([-(steps := 2.0 * 4.0 ** np.arange(7)), [0.0], steps])
_SMALLEST = 1e-3


@dataclass(frozen=True)
class Labelled:
    r"""Training on points x + γ δ whose label comes from `source`, by the logistic loss.

    Args:
        gamma: how many ε away the point is, >= 0; below 1 it is inside the ball.
        mixed: average over AVmixup's segment from x to that point, which then is the vertex. The
            given part of the label falls along it, from 1 at x to `share` (or `lam`) at the vertex.
        source: "hard"; "fixed"; "averaged", the network itself; or a teacher, `teacher`.
        lam: mass on the true class if fixed, in [0, 1]; 1/2 is the uniform label.
        share: r, the part of the label that is given, in [0, 1]. The model sets the rest.
        temperature: T >= 0 by which the model's logit is divided; 0 is its arg max.
        asked: where the model is asked: "clean" (as ADR), "attacked", at x' = x + δ (as HAT), or
            "point".
        hard_terms: (weight, push) of each term on hard labels beside this one, at x + push δ. HAT
            on adversarial training has ((2, 0), (5, 1)) for weight 0.5 and beta 2.5.
    """

    gamma: float
    mixed: bool = False
    source: str = "hard"
    lam: float = 0.5
    share: float = 0.0
    temperature: float = 1.0
    asked: str = "clean"
    hard_terms: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check.one_of("source", self.source, SOURCES)
        check.one_of("asked", self.asked, ASKED)
        for name, high in (("gamma", None), ("lam", 1), ("share", 1), ("temperature", None)):
            object.__setattr__(self, name, number(name, getattr(self, name), 0, high))
        terms = real("hard_terms", self.hard_terms or np.empty((0, 2)), 0)
        fine = terms.ndim == 2 and terms.shape[1] == 2
        check.that(fine, "hard_terms", self.hard_terms, "pairs (weight, push)")
        object.__setattr__(self, "hard_terms", tuple((float(w), float(p)) for w, p in terms))

    @property
    def alone(self) -> bool:
        """Return True where all points have one push and no part of any label is given."""
        return not (self.mixed or self.hard_terms or self.share)

    @property
    def at_the_point(self) -> bool:
        """Return True where the model is asked where the network is trained."""
        return self.asked == "point" or self.gamma == ("clean", "attacked").index(self.asked)


@dataclass(frozen=True)
class Ending:
    """Where gradient descent on the population loss ends.

    kind is "point": at share B and norm ‖w‖₁. "zero": at w = 0, the network says nothing, B is 0.
    "unbounded": the norm, inf, grows for ever in the direction of B. "start": every w is at rest,
    so the start decides; B is that of uniform weights.

    kappa = G₁/G₀, the radius of the hard-label training whose direction the point and the label
    would have by themselves; pull = P/H, the multiple of the teacher's weights on top; both nan
    where there is no such point. robust_error is exact and under Ψ_true, 1/2 at w = 0.
    """

    kind: str
    B: float
    norm: float
    kappa: float
    pull: float
    robust_error: float


@dataclass(frozen=True)
class LabelGrid:
    """`ending` for every label (rows) at every point (columns): ``grid["fixed", "vertex"]``."""

    model: FeatureModel
    epsilon: float
    labels: tuple[str, ...]
    points: tuple[str, ...]
    objectives: tuple[tuple[Labelled, ...], ...]
    endings: tuple[tuple[Ending, ...], ...]

    def __getitem__(self, cell: tuple[str, str]) -> Ending:
        label, point = cell
        check.one_of("label", label, self.labels)
        check.one_of("point", point, self.points)
        return self.endings[self.labels.index(label)][self.points.index(point)]

    def array(self, name: str = "robust_error") -> np.ndarray:
        """Return one field of `Ending` as an array (labels, points)."""
        check.one_of("name", name, Ending.__dataclass_fields__)
        return np.array([[getattr(cell, name) for cell in row] for row in self.endings])


class _Pull(NamedTuple):
    """G₀, G₁, H and P, each to be multiplied by exp(log_scale)."""

    g0: float
    g1: float
    h: float
    p: float
    log_scale: float


def teacher(model: FeatureModel, epsilon: float, source: str) -> np.ndarray:
    r"""Return a teacher's weights (2,), the totals on A and on B.

    "standard": 2 Σ⁻¹μ, the logistic optimum on Ψ_sample,c without an attack. "robust":
    2 Σ⁻¹(μ - ε)₊, under the attack. "oracle": the tied weights of least robust error under Ψ_true
    (`FeatureModel.robust_optimum`) at their best scale, 0 where their margin is not positive.

    Args:
        model: the features; sigma_a and sigma_b must be > 0.
        epsilon: radius of the attack, >= 0.
        source: "standard", "robust" or "oracle".
    """
    epsilon, g = _checked(model, epsilon)
    check.one_of("source", source, SOURCES[3:])
    if source == "oracle":
        B = model.robust_optimum(epsilon)
        scale = max(2 * (model.mean(B) - epsilon) / model.variance(B), 0.0)
        return scale * np.array([1 - B, B])
    radius = 0.0 if source == "standard" else epsilon
    return 2 * np.maximum([g.mean_a - radius, g.mean_b - radius], 0) / g[2:]


def temperature_of(
    model: FeatureModel, epsilon: float, source: str, confidence: float = 0.9
) -> float:
    """Return the temperature at which a teacher's mean clean logit means this confidence.

    Args:
        model: the features.
        epsilon: radius of the attack, >= 0.
        source: as in `teacher`.
        confidence: mass on the true class, in (1/2, 1).
    """
    confidence = number("confidence", confidence, 0.5, 1, open_low=True, open_high=True)
    weights = teacher(model, epsilon, source)
    return float(weights @ model.groups("observed")[:2] / logit(confidence)) or 1.0


def labelled_loss(
    model: FeatureModel,
    weights: ArrayLike,
    epsilon: float,
    objective: Labelled,
    asked: ArrayLike | None = None,
) -> float:
    """Return the population loss on Ψ_sample,c at tied weights, totals (2,) >= 0 on A and on B.

    Args:
        model: the features; sigma_a and sigma_b must be > 0.
        weights: the network's, (2,).
        epsilon: radius of the attack, >= 0.
        objective: points and labels.
        asked: weights (2,) of the model that sets the labels. None: the network itself (no gradient
            goes through it) if averaged, else the objective's `teacher`.
    """
    epsilon, g, w, v = _arguments(model, weights, epsilon, objective, asked)
    weight, push, log_doubt, log_pull = _labels(g, w, v, epsilon, objective)
    mean, deviation = w @ g[:2] - epsilon * push * w.sum(), _deviation(g, w)
    value = softplus_mean(mean, deviation) + np.exp(log_doubt) * mean
    return float(weight @ (value - np.exp(log_pull) * (np.array(g[2:]) * w @ v)))


def labelled_gradient(
    model: FeatureModel,
    weights: ArrayLike,
    epsilon: float,
    objective: Labelled,
    asked: ArrayLike | None = None,
) -> np.ndarray:
    r"""Return ∂F/∂w_i (2,) of `labelled_loss` for a feature of A and for one of B.

    -(G₀ μ_i - G₁) + σ_i² (H w_i - P v_i). Arguments as in `labelled_loss`.
    """
    epsilon, g, w, v = _arguments(model, weights, epsilon, objective, asked)
    f = _pull(g, w, v, epsilon, objective)
    return _gradient(g, w, v, f) * np.exp(f.log_scale)


def ending(model: FeatureModel, epsilon: float, objective: Labelled) -> Ending:
    r"""Return where gradient descent on `labelled_loss` ends, exactly up to roots of 1D integrals.

    A teacher's labels, fixed and hard ones have one minimiser. Labels of the network itself change
    with it, and training ends where its own gradient vanishes: the first such norm, coming from
    small weights, in the direction that is at rest there.

    Args:
        model: the features; sigma_a and sigma_b must be > 0.
        epsilon: radius of the attack, >= 0.
        objective: points and labels.
    """
    epsilon, g = _checked(model, epsilon)
    own = objective.source == "averaged"
    asked = None if own else _asked(model, epsilon, objective)
    copies = objective.alone and objective.at_the_point and objective.source in SOURCES[2:]
    if copies and (own or objective.temperature == 0):
        return _without_a_point(model, epsilon, objective, asked)

    def at(B: float, norm: float) -> tuple[np.ndarray, _Pull]:
        w = norm * np.array([1 - B, B])
        v = w if asked is None else asked
        f = _pull(g, w, v, epsilon, objective)
        return _gradient(g, w, v, f), f

    def tilt(B: float) -> float:
        gradient, _ = at(B, max(_first_rest(along(B), own), _SMALLEST * own))
        return float(gradient[1] - gradient[0])

    def along(B: float) -> Callable[[float], float]:
        return lambda norm: float(at(B, norm)[0] @ [1 - B, B])

    B = root_in_share(tilt)
    norm = _first_rest(along(B), own)
    if norm == 0:
        return Ending("zero", 0.0, 0.0, np.nan, np.nan, 0.5)
    f = at(B, norm)[1]
    kappa = f.g1 / f.g0 if f.g0 else np.inf
    return Ending("point", B, norm, kappa, f.p / f.h, float(model.robust_error(B, epsilon)))


def grid(
    model: FeatureModel,
    epsilon: float,
    gamma: float = 2.0,
    *,
    inside: float = 0.5,
    lam: float = 0.7,
    share: float = 0.0,
    temperature: float = 1.0,
    confidence: float = 0.9,
    asked: str = "clean",
    hard_terms: tuple[tuple[float, float], ...] = (),
) -> LabelGrid:
    """Return where training ends for each label's source at each point.

    Labels: "hard", "fixed", "averaged", the teachers "standard", "robust" and "oracle", and "HAT",
    the arg max of the standard teacher at x'. Points: "inside", x + inside δ; "vertex", AVmixup's
    segment up to x + gamma δ; "beyond", x + gamma δ itself.

    Args:
        model: the features; sigma_a and sigma_b must be > 0.
        epsilon: radius of the attack, >= 0.
        gamma: how many ε away vertex and helper are, > 1.
        inside: how many ε away the point inside is, in (0, 1).
        temperature: T of the network's own label.
        confidence: of the teachers' labels (`temperature_of`), in (1/2, 1).
        lam, share, asked, hard_terms: as in `Labelled`.
    """
    gamma = number("gamma", gamma, 1, open_low=True)
    inside = number("inside", inside, 0, 1, open_low=True, open_high=True)
    settings = {"lam": lam, "share": share, "asked": asked, "hard_terms": hard_terms}
    labels = {source: {"source": source, "temperature": temperature} for source in SOURCES[:3]}
    for source in SOURCES[3:]:
        warm = temperature_of(model, epsilon, source, confidence)
        labels[source] = {"source": source, "temperature": warm}
    labels["HAT"] = {"source": "standard", "temperature": 0.0, "asked": "attacked", "share": 0.0}
    where = ((inside, False), (gamma, True), (gamma, False))
    objectives = tuple(
        tuple(Labelled(*point, **{**settings, **label}) for point in where)
        for label in labels.values()
    )
    endings = tuple(tuple(ending(model, epsilon, cell) for cell in row) for row in objectives)
    return LabelGrid(model, epsilon, tuple(labels), POINTS, objectives, endings)


def _checked(model: FeatureModel, epsilon: float) -> tuple[float, Groups]:
    fine = model.sigma_a > 0 and model.sigma_b > 0
    check.that(fine, "model", model, "sigma_a > 0 and sigma_b > 0 where the scale is learned")
    return number("epsilon", epsilon, 0), model.groups("observed")


def _asked(model: FeatureModel, epsilon: float, objective: Labelled) -> np.ndarray:
    if objective.source in SOURCES[:3]:
        return np.zeros(2)
    weights = teacher(model, epsilon, objective.source)
    fine = objective.temperature > 0 or bool(weights.any())
    allowed = f"so small that the {objective.source} teacher, whose arg max is asked, is not 0"
    check.that(fine, "epsilon", epsilon, allowed)
    return weights


def _arguments(
    model: FeatureModel,
    weights: ArrayLike,
    epsilon: float,
    objective: Labelled,
    asked: ArrayLike | None,
) -> tuple[float, Groups, np.ndarray, np.ndarray]:
    epsilon, g = _checked(model, epsilon)
    w = real("weights", weights, 0)
    own = asked is None and objective.source == "averaged"
    v = (
        w
        if own
        else _asked(model, epsilon, objective)
        if asked is None
        else real("asked", asked, 0)
    )
    for name, value in (("weights", w), ("asked", v)):
        check.that(value.shape == (2,), f"{name}.shape", value.shape, "(2,), totals on A and on B")
    fine = objective.temperature > 0 or objective.source in SOURCES[:2] or bool(v.any())
    check.that(fine, "asked" if asked is not None else "weights", v, "not 0 at temperature 0")
    return epsilon, g, w, v


def _deviation(g: Groups, w: np.ndarray) -> np.ndarray:
    return np.hypot(*(np.sqrt(g[2:]) * w))


def _labels(
    g: Groups, w: np.ndarray, v: np.ndarray, epsilon: float, objective: Labelled
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return quadrature weights, pushes in ε, log E(1 - q) and log P, each (K,)."""
    temperature, gamma = objective.temperature, objective.gamma
    weight, u = np.ones(1), np.ones(1)
    if objective.mixed:
        lines = [(w, 1.0)]
        if objective.asked == "point" and objective.source in SOURCES[2:]:
            lines.append((v, temperature))
        weight, u = _along(g, lines, gamma * epsilon)
    given = {"hard": 1.0, "fixed": objective.lam}.get(objective.source, objective.share)
    push, rest = gamma * u, 1 - given if not objective.mixed else u * (1 - given)
    with np.errstate(divide="ignore"):
        log_doubt = np.log(rest * np.ones_like(u))
    log_pull = np.full(u.size, -np.inf)
    if objective.source in SOURCES[2:]:
        where = {"clean": 0.0, "attacked": 1.0, "point": push}[objective.asked]
        mean = v @ g[:2] - epsilon * where * v.sum() + np.zeros(u.size)
        deviation = _deviation(g, v)
        if temperature:
            doubt, pull, scale = logistic_tails(mean / temperature, deviation / temperature)
            log_pull = log_doubt + np.log(pull / temperature) + scale
            log_doubt = log_doubt + np.log(doubt) + scale
        else:
            z = mean / deviation
            log_pull = log_doubt - z * z / 2 - np.log(np.sqrt(2 * np.pi) * deviation)
            log_doubt = log_doubt + log_ndtr(-z)
    terms = np.array(objective.hard_terms).reshape(-1, 2).T
    nothing = np.full(terms.shape[1], -np.inf)
    return (
        np.concatenate([weight, terms[0]]),
        np.concatenate([push, terms[1]]),
        np.concatenate([log_doubt, nothing]),
        np.concatenate([log_pull, nothing]),
    )


def _along(
    g: Groups, lines: list[tuple[np.ndarray, float]], reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and nodes in u on (0, 1), dense where a line of logits bends."""
    edges = [np.array([0.0, 1.0])]
    for w, temperature in lines:
        fall = reach * w.sum()
        if fall > 0:
            width = max(temperature, float(_deviation(g, w))) / fall
            edges.append(min(max(w @ g[:2] / fall, 0), 1) + width * _BENDS)
    cuts = np.unique(np.clip(np.concatenate(edges), 0, 1))
    half = np.diff(cuts)[:, None] / 2
    return (half * _WEIGHTS).ravel(), (cuts[:-1, None] + half * (1 + _NODES)).ravel()


def _pull(g: Groups, w: np.ndarray, v: np.ndarray, epsilon: float, objective: Labelled) -> _Pull:
    weight, push, log_doubt, log_pull = _labels(g, w, v, epsilon, objective)
    mean = w @ g[:2] - epsilon * push * w.sum()
    slope, curve, scale = logistic_tails(mean, _deviation(g, w))
    common = max(scale.max(), log_doubt.max(), log_pull.max())
    student = weight * np.exp(scale - common)
    gap = student * slope - weight * np.exp(log_doubt - common)
    pull = float(weight @ np.exp(log_pull - common))
    g0, g1, h = float(gap.sum()), float(epsilon * (push @ gap)), float(student @ curve)
    return _Pull(g0, g1, h, pull, float(common))


def _gradient(g: Groups, w: np.ndarray, v: np.ndarray, f: _Pull) -> np.ndarray:
    return f.g1 - f.g0 * np.array(g[:2]) + np.array(g[2:]) * (f.h * w - f.p * v)


def _without_a_point(
    model: FeatureModel, epsilon: float, objective: Labelled, asked: np.ndarray | None
) -> Ending:
    """Return the ending where the label repeats what its model says at this very point."""
    if asked is None and objective.temperature > 1:
        return Ending("zero", 0.0, 0.0, np.nan, np.nan, 0.5)
    if asked is None and objective.temperature == 1:
        kind, B = "start", model.uniform_share
    else:
        if asked is None:
            asked = teacher(model, objective.gamma * epsilon, "robust")
            allowed = "so small that a class's mean is further away than the point"
            check.that(bool(asked.any()), "epsilon", epsilon, allowed)
        kind, B = "unbounded", float(asked[1] / asked.sum())
    error = float(model.robust_error(B, epsilon))
    norm = 1.0 if kind == "start" else np.inf
    return Ending(kind, B, norm, np.nan, np.nan, error)


def _first_rest(slope: Callable[[float], float], own: bool) -> float:
    """Return the least norm at which the loss stops falling outwards, 0 if it never does."""
    low = _SMALLEST * own
    if slope(low) >= 0:
        return 0.0
    high = max(1.0, 4 * low)
    while slope(high) < 0:
        low, high = high, 4 * high
        if high > 1e12:
            raise RuntimeError("the norm at which training rests is beyond 1e12")
    return root(slope, low, high)
