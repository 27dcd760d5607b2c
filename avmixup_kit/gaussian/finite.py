"""Adversarial training of the linear model on drawn data, with or without Example 3 planted.

The population flows of `flow` assume that insufficient features exist. Here n examples are drawn,
from Ψ_sample,c (planted) or from Ψ_true (not), and the test error is still exact.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import count, generator, number, real
from avmixup_kit.gaussian.features import FeatureModel
from avmixup_kit.gaussian.model import error_at
from avmixup_kit.gaussian.objectives import Loss, pointwise, segment


@dataclass(frozen=True)
class SampleTraining:
    """A run of full-batch adversarial training: recorded steps (T,) and weights (T, d + 1)."""

    model: FeatureModel
    epsilon: float
    loss: Loss
    x: np.ndarray
    y: np.ndarray
    steps: np.ndarray
    weights: np.ndarray
    training_loss: np.ndarray

    def robust_error(self, epsilon: float | None = None, log10: bool = False) -> np.ndarray:
        """Return the exact robust test error (T,) under Ψ_true; 1/2 while w = 0.

        Args:
            epsilon: radius of the attack at test, the radius of training if None.
            log10: return log10 of the errors.
        """
        radius = self.epsilon if epsilon is None else epsilon
        alive = self.weights.any(axis=1)
        out = np.array(error_at(np.zeros(alive.size), log10))
        if alive.any():
            out[alive] = self.model.robust_error_of(self.weights[alive], radius, log10=log10)
        return out

    def train_robust_error(self) -> np.ndarray:
        """Return the share (T,) of training examples that an attack of radius ε turns or ties."""
        norm = self.weights.sum(axis=1)
        margin = self.weights @ (self.x * self.y[:, None]).T - self.epsilon * norm[:, None]
        return (margin <= 0).mean(axis=1)

    def shares(self) -> np.ndarray:
        """Return the share (T,) of ‖w‖₁ on the sufficient non-robust features x_{c+2}..x_{d+1}."""
        norm = self.weights.sum(axis=1)
        rest = self.weights[:, self.model.c + 1 :].sum(axis=1)
        return rest / np.where(norm > 0, norm, 1.0)


def train_on_sample(
    model: FeatureModel,
    n: int,
    epsilon: float,
    rng: np.random.Generator,
    planted: bool = False,
    loss: Loss = "logistic",
    scale: float | None = None,
    steps: int = 2000,
    step_size: float | None = None,
    record: int = 100,
) -> SampleTraining:
    r"""Return adversarial training on n drawn examples, from equal weights of ‖w‖₁ = 1.

    w >= 0, so the worst perturbation is -y ε in every coordinate (Definition 4). With free scale:
    projected gradient descent. On the simplex: exponentiated gradient descent of logits scale wᵀx.

    Args:
        model: the features.
        n: size of the training set, >= 1.
        epsilon: radius of the attack, >= 0.
        rng: where the training set comes from.
        planted: draw from Example 3's Ψ_sample,c; False draws from Ψ_true and plants nothing.
        loss: "logistic", "exponential", "hinge", a LabelSmoothing or an AVmixup.
        scale: logit scale on the simplex, > 0; None learns it.
        steps: number of full-batch steps, >= 1.
        step_size: > 0; None takes one over a bound on the logistic loss's curvature.
        record: how many points of the path to keep, >= 2, spread evenly in log(step).
    """
    n, epsilon, rng = count("n", n), number("epsilon", epsilon, 0), generator(rng)
    steps, record, way = count("steps", steps), count("record", record, 2), segment(loss)
    if scale is not None:
        scale = number("scale", scale, 0, open_low=True)
    x, y = model.sample_observed(n, rng) if planted else model.sample_true(n, rng)
    z = x * y[:, None]
    if step_size is None:
        step_size = _step_size(z, epsilon * float(way.push.max()), scale)
    step_size = number("step_size", step_size, 0, open_low=True)

    keep = np.unique(np.concatenate([[0], np.geomspace(1, steps, record - 1).round()])).astype(int)
    push = epsilon * way.push
    w = np.full(model.d + 1, 1 / (model.d + 1))
    log_w = np.log(w)
    weights, losses = [], []
    for step in range(steps + 1):
        norm = (1.0 if scale is None else scale) * w.sum()
        clean = z @ w if scale is None else scale * (z @ w)
        value, pull = pointwise(loss, clean[:, None] - push * norm, way.label)
        if step == keep[len(weights)]:
            mean_loss = float((value @ way.weight).mean())
            fine = bool(np.isfinite(mean_loss))
            check.that(fine, "step_size", step_size, "so small that the loss stays finite")
            weights.append(w)
            losses.append(mean_loss)
            if step == steps:
                break
        pull = pull * way.weight
        descent = z.T @ pull.sum(axis=1) / n - (pull @ push).mean()
        if scale is None:
            w = np.maximum(w + step_size * descent, 0.0)
        else:
            log_w = log_w + step_size * scale * descent
            log_w -= log_w.max()
            w = np.exp(log_w)
            w /= w.sum()
    return SampleTraining(model, epsilon, loss, x, y, keep, np.array(weights), np.array(losses))


def _step_size(z: np.ndarray, push: float, scale: float | None) -> float:
    # the logistic loss's second derivative is at most 1/4; a perturbed point lies between z and
    # z - push, and on the simplex smoothness is measured in the largest coordinate
    ends = (z, z - push)
    if scale is not None:
        return 4 / max(scale**2 * float(np.square(end).max()) for end in ends)
    return 4 * len(z) / max(float(np.linalg.norm(end, 2)) ** 2 for end in ends)


def sample_means(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Return the mean of y x over examples, shape (d + 1,): what decides which weights survive.

    Early in adversarial training on drawn data a feature keeps weight only if this exceeds ε. Later
    the examples still at a loss decide, and features below ε come back.

    Args:
        x: inputs, shape (n, d + 1).
        y: labels, shape (n,).
    """
    x, y = real("x", x), real("y", y)
    fine = x.ndim == 2 and y.shape == x.shape[:1] and y.size > 0
    check.that(fine, "shapes of x and y", (x.shape, y.shape), "(n, d + 1) and (n,)")
    return y @ x / len(y)
