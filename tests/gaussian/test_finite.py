"""Training on drawn data: what it converges to, and what the toy model claims about it."""

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss
from scipy.optimize import minimize

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import PRESETS, AVmixup, FeatureModel, LabelSmoothing

ABOVE = FeatureModel(200, 0, 0.1, 0.6, 0.9, control=True)  # at epsilon = 0.2 = 2 eta
BELOW = FeatureModel(200, 0, 0.28, 0.6, 0.9, control=True)


def trained(model, n, seeds=3, **settings):
    runs = [
        g.train_on_sample(model, n, 0.2, np.random.default_rng(seed), **settings)
        for seed in range(seeds)
    ]
    errors = np.array([run.robust_error() for run in runs])
    return errors.min(axis=1).mean(), errors[:, -1].mean(), runs


@pytest.mark.parametrize("loss", ["logistic", LabelSmoothing(0.9), AVmixup(2, 1, 0.5)], ids=str)
def test_training_ends_at_the_convex_optimum(loss):
    """Against L-BFGS-B on the same objective, written out again with its own quadrature over α."""
    model = FeatureModel(4, 1, 0.3, 1.2, 1.0)
    run = g.train_on_sample(
        model, 200, 0.2, np.random.default_rng(0), planted=True, loss=loss, steps=4000
    )
    z = run.x * run.y[:, None]
    if isinstance(loss, AVmixup):
        nodes, weight = leggauss(40)
        u, weight = (nodes + 1) / 2, weight / 2
        push, label = u * 2 * 0.2, 1 - 0.5 * u
    else:
        weight, push = np.ones(1), np.array([0.2])
        label = np.array([0.9 if isinstance(loss, LabelSmoothing) else 1.0])

    def objective(w):
        margin = (z @ w)[:, None] - push * w.sum()
        return ((np.logaddexp(0, -margin) + (1 - label) * margin) @ weight).mean()

    best = minimize(objective, np.full(5, 0.2), bounds=[(0, None)] * 5, tol=1e-14)
    assert run.training_loss[-1] == pytest.approx(best.fun, abs=1e-7)
    assert run.weights[-1] == pytest.approx(best.x, abs=2e-3)


@pytest.mark.parametrize("planted", [True, False])
@pytest.mark.parametrize("scale", [1.0, None])
def test_large_samples_follow_the_population(planted, scale):
    """0.1 is about two standard errors of a weight at n = 5000."""
    model = FeatureModel(6, 2, 0.3, 0.9, 1.0)
    run = g.train_on_sample(
        model, 5000, 0.2, np.random.default_rng(1), planted, scale=scale, steps=1500
    )
    population = model if planted else FeatureModel(6, 0, 0.3, 0.9, 1.0, control=True)
    end = g.stationary_point(population, 0.2, "logistic", scale)
    weights = end.norm * population.weights(end.B) / (scale or 1.0)
    assert run.weights[-1] == pytest.approx(weights, abs=0.1)
    assert run.weights[-1].sum() == pytest.approx(weights.sum(), rel=0.05)


def test_planting_is_what_is_drawn():
    model, epsilon = PRESETS["S1"]
    for planted, means in ((True, model.means("observed")), (False, model.means("true"))):
        run = g.train_on_sample(
            model, 5000, epsilon, np.random.default_rng(0), planted, steps=1, record=2
        )
        assert g.sample_means(run.x, run.y) == pytest.approx(means, abs=0.06)


def test_planted_training_overshoots_and_its_control_does_not():
    model, epsilon = PRESETS["S1"]
    rng = np.random.default_rng(0)
    planted = g.train_on_sample(model, 500, epsilon, rng, True, scale=1.0, steps=8000)
    errors = planted.robust_error()
    assert errors[0] > 2 * errors.min() < errors[-1]
    assert planted.train_robust_error()[-1] == 0
    free = g.train_on_sample(model, 500, epsilon, rng, False, scale=1.0, steps=8000)
    assert free.robust_error()[-1] < 1e-50


def test_robust_overfitting_appears_without_planting():
    """At ε = 2η. The chance features, whose sample mean exceeds ε, hold the weight at the least
    error. By the end the others, kept out by that rule, hold as much: it is a rule of the start.
    """
    least, last, runs = trained(ABOVE, 100)
    assert least == pytest.approx(0.17, abs=0.02)
    assert last > 1.3 * least
    for run in runs:
        survivors = g.sample_means(run.x, run.y) > 0.2
        best, end = run.weights[run.robust_error().argmin()], run.weights[-1]
        assert best[~survivors].sum() < 0.15 * best.sum()
        assert end[~survivors].sum() > 0.25 * end.sum()
        assert survivors.sum() == pytest.approx(1 + ABOVE.chance_features(100, 0.2), abs=16)
    many_least, many_last, _ = trained(ABOVE, 400)
    assert many_last / many_least < last / least


def test_rise_is_small_below_eta():
    least, last, _ = trained(BELOW, 100)
    assert least == pytest.approx(0.0913, abs=0.02)
    assert last < 1.2 * least


def test_smoothing_harms_when_data_can_be_interpolated_and_helps_a_little_when_not():
    few = [trained(ABOVE, 100, loss=loss)[1] for loss in ("logistic", LabelSmoothing(0.9))]
    many = [trained(ABOVE, 400, loss=loss)[1] for loss in ("logistic", LabelSmoothing(0.9))]
    assert few[1] > few[0]
    assert many[1] < many[0]
