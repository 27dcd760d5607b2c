"""Executable check of example_1.md, one test a step. Independent of avmixup_kit."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy import integrate, stats
from scipy.special import log_ndtr, ndtr, ndtri


def mean_abs(s: float) -> float:
    return float(2 * ndtr(1 / s) - 1 + 2 * s * stats.norm.pdf(1 / s))


def test_step_1_margin_is_normal():
    rng = default_rng(1)
    theta, w, sigma, size = np.array([1.0, -2.0, 0.5]), np.array([0.3, -1.0, 2.0]), 0.7, 200_000
    y = rng.choice([-1.0, 1.0], size)
    x = y[:, None] * theta + sigma * rng.standard_normal((size, 3))
    score = (y * (x @ w) - w @ theta) / (sigma * np.linalg.norm(w))
    assert stats.kstest(score, "norm").pvalue > 1e-3
    assert stats.kstest(score * 1.02, "norm").pvalue < 1e-3  # the test can see 2 %


def test_step_2_standard_error():
    theta, w, sigma = np.ones(3), np.array([1.0, 2.0, 3.0]), 2.0
    exact = ndtr(-(w @ theta) / (sigma * np.linalg.norm(w)))
    assert exact == pytest.approx(0.211339037085, rel=1e-11)
    size = 400_000
    noise = default_rng(2).standard_normal((size, 3))
    wrong = np.mean((theta + sigma * noise) @ w < 0)
    assert wrong == pytest.approx(exact, abs=4 * np.sqrt(exact / size))


def test_step_3_robust_error_equals_the_best_attack():
    rng = default_rng(3)
    theta, w, sigma, epsilon = np.ones(3), np.array([1.0, -2.0, 3.0]), 2.0, 0.3
    exact = ndtr((epsilon * np.abs(w).sum() - w @ theta) / (sigma * np.linalg.norm(w)))
    y = rng.choice([-1.0, 1.0], 200_000)
    x = y[:, None] * theta + sigma * rng.standard_normal((y.size, 3))
    corners = epsilon * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    # A linear function on a box is smallest at a corner, so the corners are a full search.
    worst = y * (x @ w) + (y[:, None] * (corners @ w)).min(axis=1)
    assert np.allclose(worst, y * (x @ w) - epsilon * np.abs(w).sum())
    assert np.mean(worst < 0) == pytest.approx(exact, abs=4 * np.sqrt(exact / y.size))
    scaled = ndtr((epsilon * np.abs(7 * w).sum() - 7 * w @ theta) / (sigma * 7 * np.sqrt(w @ w)))
    assert scaled == pytest.approx(exact, rel=1e-14)
    reference = ndtr((0.3 * 6 - 6) / (2 * np.sqrt(14)))
    assert reference == pytest.approx(0.287314035295, rel=1e-11)


def test_step_4_a_training_set_is_one_gaussian_vector():
    rng = default_rng(4)
    n, sigma, theta = 7, 1.3, np.array([1.0, -1.0])
    y = rng.choice([-1.0, 1.0], (50_000, n))
    x = y[..., None] * theta + sigma * rng.standard_normal((50_000, n, 2))
    z = ((y[..., None] * x).mean(axis=1) - theta) / (sigma / np.sqrt(n))
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z.T)[0, 1]) < 4 / np.sqrt(50_000)


def test_step_5_two_numbers_give_the_score():
    rng = default_rng(5)
    d, n, sigma = 9, 2, 1.5
    s, size = sigma / np.sqrt(n), 40_000
    theta = rng.standard_normal(d)
    theta *= np.sqrt(d) / np.linalg.norm(theta)
    z = theta + s * rng.standard_normal((size, d))
    full = z @ theta / (sigma * np.linalg.norm(z, axis=1))
    a = np.sqrt(d) + s * rng.standard_normal(size)
    short = np.sqrt(d) / sigma * a / np.sqrt(a**2 + s**2 * rng.chisquare(d - 1, size))
    assert stats.ks_2samp(full, short).pvalue > 1e-3


def law(beta: float, d: int, n: int, sigma: float) -> float:
    k = ndtri(1 - beta) * sigma / np.sqrt(d)
    t = np.sqrt(d - 1) * k / np.sqrt(1 - k**2)
    return float(stats.nct.sf(t, d - 1, np.sqrt(d * n) / sigma))


@pytest.mark.parametrize(
    ("d", "n", "sigma", "beta"), [(100, 1, 2.0, 0.01), (5, 3, 1.5, 0.2), (2, 1, 0.9, 0.4)]
)
def test_step_6_law_of_the_standard_error(d, n, sigma, beta):
    s, k = sigma / np.sqrt(n), ndtri(1 - beta) * sigma / np.sqrt(d)

    def given_radius(r: float) -> float:  # Pr[a >= k s r / sqrt(1-k^2)] times the chi density
        a = k * s * r / np.sqrt(1 - k**2)
        return ndtr((np.sqrt(d) - a) / s) * stats.chi.pdf(r, d - 1)

    centre = np.sqrt(d)
    quadrature = integrate.quad(given_radius, 0, centre + 20, points=[centre], epsabs=1e-12)[0]
    assert law(beta, d, n, sigma) == pytest.approx(quadrature, rel=1e-8)


def test_step_6_reference_and_sign():
    assert law(0.01, 100, 1, 2.0) == pytest.approx(0.419679965727, rel=1e-9)
    t = sp.symbols("t", real=True)
    nu = sp.symbols("nu", positive=True)
    slope = sp.simplify(sp.diff(t / sp.sqrt(t**2 + nu), t) * (t**2 + nu) ** sp.Rational(3, 2))
    assert slope == nu  # strictly increasing


@pytest.mark.parametrize("s", [0.3, 0.5, 1.0, 2.0, 7.0])
def test_step_7_moments(s):
    def expect(f):
        pieces = [-12 - 1 / s, -1 / s, 12]
        return sum(
            integrate.quad(lambda g: f(1 + s * g) * stats.norm.pdf(g), lo, hi, epsabs=1e-13)[0]
            for lo, hi in pairwise(pieces)
        )

    p, q = 2 * ndtr(1 / s) - 1, 2 * s * stats.norm.pdf(1 / s)
    assert mean_abs(s) == pytest.approx(expect(abs), rel=1e-9)
    assert (1 + s**2) * p + q == pytest.approx(expect(lambda u: u * abs(u)), rel=1e-9)
    third = (1 + 3 * s**2) * p + (1 + 2 * s**2) * q
    assert third == pytest.approx(expect(lambda u: abs(u) ** 3), rel=1e-9)
    assert 2 * s**2 == pytest.approx(expect(lambda u: u**3) - (1 + s**2), rel=1e-8)
    fourth = expect(lambda u: u**4) - (1 + s**2) ** 2
    assert 4 * s**2 + 2 * s**4 == pytest.approx(fourth, rel=1e-8)


def test_step_7_reference_values():
    for s, value in [(0.5, 1.00849070262), (1, 1.16663094118), (2, 1.79118622961)]:
        assert mean_abs(s) == pytest.approx(value, rel=1e-10)


def test_step_8_limit_and_jump():
    rng, d, n, sigma = default_rng(8), 200_000, 4, 2.0
    s = sigma / np.sqrt(n)
    u = 1 + s * rng.standard_normal((20, d))
    s1, s2, a = u.sum(1), (u**2).sum(1), np.abs(u).sum(1)
    critical = 1 / mean_abs(s)
    for epsilon in (0.0, 0.3, critical, 1.2):
        score = (s1 - epsilon * a) / (sigma * np.sqrt(s2))
        typical = np.sqrt(d) * (1 - epsilon * mean_abs(s)) / (sigma * np.sqrt(1 + s**2))
        assert np.max(np.abs(score - typical)) < 5  # O(1) around something of order 450
    assert ndtr(-np.sqrt(d) * 0.02) < 1e-15  # 2 % off the jump is already certainty here
    s = 31.6 / 10
    z = 1000 / (31.6 * np.sqrt(1 + s**2))
    assert z == pytest.approx(9.54774972893, rel=1e-11)
    assert log_ndtr(-z) / np.log(10) == pytest.approx(-21.178670304, rel=1e-10)
    assert log_ndtr(-1000 / np.sqrt(2)) / np.log(10) == pytest.approx(-108576.869052, rel=1e-11)


def test_step_9_square_root_gap():
    s = 1e4
    assert mean_abs(s) / (s * np.sqrt(2 / np.pi)) == pytest.approx(1, abs=1e-7)
    d, kappa, epsilon = 1e16, 0.5, 0.01
    sigma = kappa * d**0.25
    score = np.sqrt(d) / (sigma * np.sqrt(1 + sigma**2))
    assert score == pytest.approx(1 / kappa**2, rel=1e-6)
    n = 2 / np.pi * epsilon**2 * kappa**2 * np.sqrt(d)
    assert 1 / mean_abs(sigma / np.sqrt(n)) == pytest.approx(epsilon, rel=1e-3)


def test_step_10_dense_mean_is_worst():
    rng, s, d = default_rng(10), 0.8, 50

    def expected_norm(theta):
        m = np.abs(theta)
        return np.sum(m * (2 * ndtr(m / s) - 1) + 2 * s * stats.norm.pdf(m / s))

    dense = expected_norm(np.ones(d))
    assert dense == pytest.approx(d * mean_abs(s), rel=1e-13)
    for _ in range(200):
        theta = rng.standard_normal(d) ** rng.integers(1, 4)
        theta *= np.sqrt(d) / np.linalg.norm(theta)
        assert expected_norm(theta) < dense
    m = np.linspace(1e-3, 8, 4000)
    assert np.all(np.diff((2 * ndtr(m / s) - 1) / (2 * m)) < 0)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
