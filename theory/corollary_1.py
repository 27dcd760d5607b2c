"""Executable check of corollary_1.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
import sympy as sp
from scipy import stats
from scipy.special import ndtr

n, sigma_s, sigma_r = sp.symbols("n sigma_s sigma_r", positive=True)
root = 2 * sp.sqrt(n)
pi = (root - 1) / (sigma_s * (root + 4 * sigma_s))  # Equation (6)
tight = (root - 1) / (root + 4 * sigma_r) - sigma_r / sigma_s * (root - 1) / (root + 4 * sigma_s)


def mean_abs(s):
    return 2 * ndtr(1 / s) - 1 + 2 * s * stats.norm.pdf(1 / s)


def test_step_1_the_papers_bound_is_affine():
    five = (root - 1) * (1 - sigma_r / sigma_s) / (root + 4 * sigma_s)
    assert sp.simplify(five - pi * (sigma_s - sigma_r)) == 0
    assert sp.simplify(sp.diff(five, sigma_r) + pi) == 0
    assert sp.simplify(five.subs(sigma_r, 0) - (root - 1) / (root + 4 * sigma_s)) == 0
    assert float(pi.subs({n: 1, sigma_s: 1})) == pytest.approx(0.166666666667, rel=1e-11)


def test_step_2_the_tight_bound_is_convex_and_steeper():
    slope = -pi - 4 * (root - 1) / (root + 4 * sigma_r) ** 2
    assert sp.simplify(sp.diff(tight, sigma_r) - slope) == 0
    curvature = 32 * (root - 1) / (root + 4 * sigma_r) ** 3
    assert sp.simplify(sp.diff(tight, sigma_r, 2) - curvature) == 0
    ratio = sp.simplify((slope / -pi).subs(sigma_r, sigma_s))
    assert sp.simplify(ratio - 1 - 4 * sigma_s / (root + 4 * sigma_s)) == 0
    rates = sp.lambdify((n, sigma_s, sigma_r), slope / -pi)
    rng = np.random.default_rng(2)
    count, s = rng.integers(1, 1000, 500), 10 ** rng.uniform(-2, 2, 500)
    assert np.all(rates(count, s, s * rng.uniform(0, 1, 500)) > 1)


def test_step_3_every_version_decreases_in_sigma_r():
    s = sp.symbols("s", positive=True)
    phi = sp.exp(-1 / (2 * s**2)) / sp.sqrt(2 * sp.pi)
    h = sp.erf(1 / (s * sp.sqrt(2))) + 2 * s * phi
    assert sp.simplify(sp.diff(h, s) - 2 * phi) == 0
    nu = np.linspace(1e-3, 1, 500)
    for noise in (0.05, 0.5, 2.0, 30.0):
        bracket = 1 - nu * np.sqrt((1 + nu**2 * noise**2) / (1 + noise**2))
        assert np.all(np.diff(bracket) < 0)
        assert np.all(np.diff(bracket / mean_abs(nu * noise)) < 0)


def test_step_4_the_error_itself():
    sigma = np.geomspace(0.05, 50, 4000)
    for count, epsilon in [(1, 0.3), (10, 0.5), (100, 0.9)]:
        h = mean_abs(sigma / np.sqrt(count))
        score = (1 - epsilon * h) / (sigma * np.sqrt(1 + sigma**2 / count))
        usable = epsilon * h < 1
        assert usable.any()
        assert np.all(np.diff(score[usable]) < 0)
        assert score[~usable].max() < 0
        # Far out the score climbs back to 0: noise lowers an error that is above one half.
        assert score[-1] > score.min()
        assert np.diff(score)[-1] > 0


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
