"""Executable check of theorem_1.md, one test a step. Independent of avmixup_kit."""

import math

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy import stats
from scipy.special import log_ndtr, ndtr


def a(n, sigma):
    return (2 * np.sqrt(n) - 1) / (2 * np.sqrt(n) + 4 * sigma)


def e(d, sigma):
    return np.exp(-d / (8 * (sigma**2 + 1)))


def log_beta_s(d, n, sigma):
    return -d * a(n, sigma) ** 2 / (2 * sigma**2)


def log_beta_r(d, n, sigma, epsilon):
    return -d * np.maximum(a(n, sigma) - epsilon, 0) ** 2 / (2 * sigma**2)


def tight(n, sigma_s, nu):
    return a(n, nu * sigma_s) - nu * a(n, sigma_s)


def paper(n, sigma_s, nu):
    return (2 * np.sqrt(n) - 1) * (1 - nu) / (2 * np.sqrt(n) + 4 * sigma_s)


def mean_abs(s):
    return 2 * ndtr(1 / s) - 1 + 2 * s * stats.norm.pdf(1 / s)


def exact(n, sigma_s, nu):
    s = sigma_s / np.sqrt(n)
    bracket = 1 - nu * np.sqrt((1 + nu**2 * s**2) / (1 + s**2))
    return bracket / mean_abs(nu * s)


def settings(count, seed):
    rng = default_rng(seed)
    for _ in range(count):
        n = int(np.ceil(10 ** rng.uniform(-0.5, 4)))
        yield n, 10 ** rng.uniform(-1.5, 1.5), rng.uniform(0.02, 0.98)


def robust_log_errors(d, n, sigma, epsilon, size, rng):
    """Exact log errors of `size` training sets, theta = (1, ..., 1)."""
    u = 1 + sigma / np.sqrt(n) * rng.standard_normal((size, d))
    z = (u.sum(1) - epsilon * np.abs(u).sum(1)) / (sigma * np.sqrt((u**2).sum(1)))
    return log_ndtr(-z)


def test_step_1_norm():
    t = sp.symbols("t", positive=True)
    log_bound = -4 * t - sp.log(1 - 2 * t) / 2  # of one dimension
    assert sp.solve(sp.diff(log_bound, t), t) == [sp.Rational(3, 8)]
    best = log_bound.subs(t, sp.Rational(3, 8))
    assert sp.simplify(best + sp.Rational(3, 2) - sp.log(2)) == 0
    rate = 1.5 - math.log(2)
    assert rate > 0.8
    for d in (1, 2, 5, 20, 100):
        assert stats.chi2.logsf(4 * d, d) <= -rate * d <= -d / 2


def test_step_2_chernoff():
    x = np.concatenate([np.linspace(0, 8, 2001), np.geomspace(8, 1e4, 50)])
    assert np.all(log_ndtr(-x) <= -np.log(2) - x**2 / 2 + 1e-12)
    t = sp.symbols("t", positive=True)
    difference = sp.exp(-(t**2) / 2) / 2 - sp.erfc(t / sp.sqrt(2)) / 2
    claimed = (1 / sp.sqrt(2 * sp.pi) - t / 2) * sp.exp(-(t**2) / 2)
    assert sp.simplify(sp.diff(difference, t) - claimed) == 0


def test_step_3_inner_product_tail():
    d, sigma = 20, 1.7
    theta = default_rng(3).standard_normal(d)
    theta *= np.sqrt(d / (theta @ theta))
    g = default_rng(4).standard_normal((200_000, d)) @ theta
    exact_tail = ndtr(-np.sqrt(d) / (2 * sigma))
    tail = np.mean(g < -d / (2 * sigma))
    assert tail == pytest.approx(exact_tail, abs=4 * np.sqrt(exact_tail / g.size))
    assert exact_tail <= np.exp(-d / (8 * sigma**2))


def test_step_4_probability():
    for d in (1, 3, 10, 100, 1000):
        for sigma in np.geomspace(0.01, 100, 60):
            sharper = np.exp(-d / 2) + np.exp(-d / (8 * sigma**2))
            assert sharper <= 2 * e(d, sigma)
            fails = stats.chi2.sf(4 * d, d) + ndtr(-np.sqrt(d) / (2 * sigma))
            assert fails <= sharper
    assert 1 - 2 * e(100, 1) == pytest.approx(0.996139091728, rel=1e-11)


def test_step_5_alignment_on_every_corner_of_the_event():
    assert a(1, 1) == pytest.approx(1 / 6, rel=1e-14)
    d = 7.0
    for n, sigma, _ in settings(200, 5):
        square = np.linspace(0, 4 * d, 81)[:, None]  # of the norm of g
        inner = np.linspace(-min(d / (2 * sigma), 2 * d), 2 * d, 161)[None, :]
        possible = inner**2 <= square * d + 1e-9  # Cauchy-Schwarz
        noise = sigma / np.sqrt(n)
        norm = np.sqrt(np.maximum(d + 2 * noise * inner + noise**2 * square, 1e-300))
        ratio = np.where(possible, (d + noise * inner) / norm, np.inf)
        assert ratio.min() >= np.sqrt(d) * a(n, sigma)


def test_step_6_bounds_hold_on_the_event():
    rng = default_rng(6)
    for d, n, sigma, epsilon in [(20, 1, 1.0, 0.05), (60, 4, 2.0, 0.2), (5, 2, 0.5, 0.3)]:
        theta = rng.standard_normal(d)
        theta *= np.sqrt(d / (theta @ theta))
        g = rng.standard_normal((20_000, d))
        good = (np.linalg.norm(g, axis=1) <= 2 * np.sqrt(d)) & (g @ theta >= -d / (2 * sigma))
        z = theta + sigma / np.sqrt(n) * g[good]
        norm, one = np.linalg.norm(z, axis=1), np.abs(z).sum(1)
        assert np.all(one <= np.sqrt(d) * norm * (1 + 1e-12))
        standard = log_ndtr(-(z @ theta) / (sigma * norm))
        robust = log_ndtr((epsilon * one - z @ theta) / (sigma * norm))
        assert good.sum() > 1000
        assert np.all(standard <= log_beta_s(d, n, sigma))
        assert np.all(robust <= log_beta_r(d, n, sigma, epsilon))
    assert np.exp(log_beta_s(100, 1, 1)) == pytest.approx(0.249352208777, rel=1e-11)
    schmidt = a(100, 4) - 4 * np.sqrt(2 * np.log(1 / 0.01) / 1000)
    assert schmidt == pytest.approx(0.143895704803, rel=1e-11)


def test_step_7_tight_condition_is_an_equivalence():
    for n, sigma_s, nu in settings(300, 7):
        limit, d = tight(n, sigma_s, nu), 50
        assert 0 < limit < a(n, nu * sigma_s)
        level = log_beta_s(d, n, sigma_s)
        assert log_beta_r(d, n, nu * sigma_s, limit) == pytest.approx(level, rel=1e-7)
        assert log_beta_r(d, n, nu * sigma_s, limit * (1 - 1e-4)) < level
        assert log_beta_r(d, n, nu * sigma_s, limit * (1 + 1e-4)) > level
        assert log_beta_r(d, n, nu * sigma_s, a(n, nu * sigma_s) + 0.1) == 0 > level
    assert tight(1, 1, 0.5) == pytest.approx(1 / 6, rel=1e-14)


def test_step_8_gap():
    n, sigma, nu = sp.symbols("n sigma nu", positive=True)
    bound = lambda s: (2 * sp.sqrt(n) - 1) / (2 * sp.sqrt(n) + 4 * s)  # noqa: E731
    five = (2 * sp.sqrt(n) - 1) * (1 - nu) / (2 * sp.sqrt(n) + 4 * sigma)
    gap = bound(nu * sigma) - nu * bound(sigma) - five
    claimed = 4 * sigma * (1 - nu) * (2 * sp.sqrt(n) - 1)
    claimed /= (2 * sp.sqrt(n) + 4 * nu * sigma) * (2 * sp.sqrt(n) + 4 * sigma)
    assert sp.simplify(gap - claimed) == 0
    assert paper(1, 1, 0.5) == pytest.approx(1 / 12, rel=1e-14)
    for count, sigma_s, v in settings(300, 8):  # never equal under (5)
        limit = paper(count, sigma_s, v)
        assert log_beta_r(50, count, v * sigma_s, limit) < log_beta_s(50, count, sigma_s)


def test_step_9_both_errors_below_the_same_number():
    rng = default_rng(9)
    for d, n, sigma_s, nu in [(100, 1, 1.0, 0.5), (200, 4, 3.0, 0.8), (60, 2, 1.0, 0.1)]:
        level = log_beta_s(d, n, sigma_s)
        for limit in (paper(n, sigma_s, nu), tight(n, sigma_s, nu)):
            standard = robust_log_errors(d, n, sigma_s, 0.0, 4000, rng)
            robust = robust_log_errors(d, n, nu * sigma_s, limit, 4000, rng)
            claim = max(1 - 2 * e(d, sigma_s), 0) * max(1 - 2 * e(d, nu * sigma_s), 0)
            # Looseness, measured: with 4000 sets each, not one violation.
            assert np.mean((standard <= level) & (robust <= level)) == 1 >= claim > 0.2


def test_step_10_three_dependence_structures():
    rng, size = default_rng(10), 200_000
    for d, sigma_s, nu in [(3, 1.0, 0.5), (12, 1.0, 0.5), (40, 2.0, 0.9), (40, 2.0, 0.1)]:
        sigma_r = nu * sigma_s
        e_s, e_r = e(d, sigma_s), e(d, sigma_r)

        def good(sigma, first, norm2, d=d):  # first: the component along theta
            return (norm2 <= 4 * d) & (first * np.sqrt(d) >= -d / (2 * sigma))

        first = rng.standard_normal((2, size))
        norm2 = first**2 + rng.chisquare(d - 1, (2, size))
        shared_s, shared_r = good(sigma_s, first[0], norm2[0]), good(sigma_r, first[0], norm2[0])
        assert np.all(shared_r[shared_s])  # nested
        independent = shared_s & good(sigma_r, first[1], norm2[1])
        slack = 4 * np.sqrt(0.25 / size)
        product = max(1 - 2 * e_s, 0) * max(1 - 2 * e_r, 0)
        assert independent.mean() >= product - slack
        assert (shared_s & shared_r).mean() >= 1 - 2 * e_s - slack
        assert max(1 - 2 * e_s, 0) >= product >= 1 - 2 * e_s - 2 * e_r


def test_step_11_two_negative_factors():
    d, sigma = 1, 10.0
    assert d < 8 * np.log(2) * (sigma**2 + 1)
    factor = 1 - 2 * e(d, sigma)
    assert factor < 0
    assert factor**2 == pytest.approx(0.995, abs=5e-4)
    each = ndtr(2) - ndtr(-1 / (2 * sigma))  # |g| <= 2 and g >= -1/(2 sigma), theta = 1
    assert each**2 == pytest.approx(0.247, abs=5e-4)


def test_step_11_no_counter_example_found_numerically():
    rng = default_rng(11)
    for _ in range(150):
        n, sigma_s, nu = int(rng.integers(1, 20)), 10 ** rng.uniform(-0.7, 1.2), rng.uniform(0, 1)
        top = 8 * np.log(2) * ((nu * sigma_s) ** 2 + 1)
        d = int(rng.integers(1, min(int(top), 400) + 1))
        claim = (1 - 2 * e(d, sigma_s)) * (1 - 2 * e(d, nu * sigma_s))
        level = log_beta_s(d, n, sigma_s)
        standard = robust_log_errors(d, n, sigma_s, 0.0, 500, rng) <= level
        limit = paper(n, sigma_s, nu)
        robust = robust_log_errors(d, n, nu * sigma_s, limit, 500, rng) <= level
        assert claim >= 0
        assert standard.mean() * robust.mean() >= claim - 4 * np.sqrt(0.25 / 500)


def test_step_12_vacuity():
    assert 8 * np.log(2) == pytest.approx(5.545, abs=5e-4)
    for n, sigma, d in [(1, 1, 49.9), (1, 5, 16774), (1, 10, 244542), (100, 10, 1382.5)]:
        needed = 2 * np.log(2) * sigma**2 / a(n, sigma) ** 2
        assert needed == pytest.approx(d, rel=5e-4)
        assert np.exp(log_beta_s(needed, n, sigma)) == pytest.approx(0.5, rel=1e-12)
        threshold = 8 * np.log(2) * (sigma**2 + 1)
        assert 1 - 2 * e(threshold, sigma) == pytest.approx(0, abs=1e-12)


def test_step_13_ends():
    for n, sigma_s, _ in settings(100, 13):
        assert paper(n, sigma_s, 1.0) == 0 == tight(n, sigma_s, 1.0)
        assert paper(n, sigma_s, 0.0) == pytest.approx(a(n, sigma_s))
        assert tight(n, sigma_s, 0.0) == pytest.approx(1 - 1 / (2 * np.sqrt(n)))
        assert a(n, sigma_s) < 1 - 1 / (2 * np.sqrt(n)) < 1
    theta = default_rng(14).standard_normal((100, 8))
    theta *= np.sqrt(8) / np.linalg.norm(theta, axis=1, keepdims=True)
    assert np.all(8 / np.abs(theta).sum(1) >= 1)


def test_step_14_equal_variances_do_not_kill_the_probability():
    crossing = (1 - np.sqrt(1 / 18)) / mean_abs(1.0)
    assert crossing == pytest.approx(0.655, abs=5e-4)
    assert -(a(1, 1) ** 2) / 2 == pytest.approx(-1 / 72)
    below, above = [
        np.mean(
            robust_log_errors(20_000, 1, 1.0, epsilon, 60, default_rng(15))
            <= log_beta_s(20_000, 1, 1.0)
        )
        for epsilon in (crossing - 0.03, crossing + 0.03)
    ]
    assert below == 1
    assert above == 0


def test_step_15_exact_analogue():
    assert exact(1, 1, 0.5) == pytest.approx(0.599624062879, rel=1e-11)
    nu = np.linspace(1e-3, 1, 400)
    for n, sigma_s, _ in settings(200, 16):
        curve = exact(n, sigma_s, nu)
        assert np.all(np.diff(curve) < 0)
        assert curve[-1] == pytest.approx(0, abs=1e-12)
        assert exact(n, sigma_s, 1e-9) == pytest.approx(1, abs=1e-6)
        assert np.all(tight(n, sigma_s, nu) <= curve + 1e-12)  # numerical only
        s = sigma_s / np.sqrt(n)
        robust = (1 - curve * mean_abs(nu * s)) / (nu * np.sqrt(1 + (nu * s) ** 2))
        assert np.allclose(robust, 1 / np.sqrt(1 + s**2))
    rng = default_rng(17)
    standard = np.median(robust_log_errors(2000, 1, 1.0, 0.0, 2000, rng))
    robust = np.median(robust_log_errors(2000, 1, 0.5, exact(1, 1, 0.5), 2000, rng))
    assert robust == pytest.approx(standard, rel=0.01)
    assert ndtr(-np.sqrt(100 / 2)) == pytest.approx(7.7e-13, rel=0.01)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
