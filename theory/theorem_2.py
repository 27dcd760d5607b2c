"""Executable check of theorem_2.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy.optimize import minimize, minimize_scalar

c, d, rho, eta, B = sp.symbols("c d rho eta B", positive=True)
sA, sB = sp.symbols("sigma_A sigma_B", positive=True)


def settings(count, seed):
    rng = default_rng(seed)
    for _ in range(count):
        size = int(rng.integers(2, 30))
        sigma_b = 10 ** rng.uniform(-1, 1)
        yield (
            int(rng.integers(0, size)),
            size,
            rng.uniform(0, 0.99),
            sigma_b * 10 ** rng.uniform(-2, 0),
            sigma_b,
        )


def minimise_over_simplex(matrix):
    """The minimiser of w' matrix w over the simplex, with no tying, by its own search."""
    size = len(matrix)
    scaled = matrix / np.abs(matrix).max()
    found = minimize(
        lambda w: w @ scaled @ w,
        np.full(size, 1 / size),
        jac=lambda w: 2 * scaled @ w,
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(size)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


def sample_moments(c, d, eta, sigma_a, sigma_b):
    mu = np.r_[np.ones(c + 1), np.full(d - c, eta)]
    return mu, np.r_[np.full(c + 1, sigma_a), np.full(d - c, sigma_b)] ** 2


def test_step_1_variance_given_the_class():
    rng = default_rng(1)
    mu, var = sample_moments(2, 5, 0.3, 0.4, 1.1)
    w, size = rng.dirichlet(np.ones(6)), 400_000
    for y in (-1, 1):
        x = y * mu + np.sqrt(var) * rng.standard_normal((size, 6))
        claimed = 0.4**2 * (w[:3] ** 2).sum() + 1.1**2 * (w[3:] ** 2).sum()
        assert np.var(x @ w) == pytest.approx(claimed, rel=4 * np.sqrt(2 / size))


def test_step_2_exact_minimiser_without_tying():
    for c_, d_, _, sigma_a, sigma_b in settings(25, 2):
        r = (sigma_a / sigma_b) ** 2
        _, var = sample_moments(c_, d_, 0.0, sigma_a, sigma_b)
        claimed = np.r_[np.ones(c_ + 1), np.full(d_ - c_, r)] / ((1 + c_) + (d_ - c_) * r)
        assert claimed.sum() == pytest.approx(1)
        best = claimed @ (var * claimed)
        assert best == pytest.approx(1 / np.sum(1 / var))
        found = minimise_over_simplex(np.diag(var))
        assert found @ (var * found) == pytest.approx(best, rel=1e-5)
        assert found == pytest.approx(claimed, abs=2e-3)
        for _ in range(50):
            other = default_rng(3).dirichlet(np.ones(d_ + 1))
            assert other @ (var * other) > best
    assert pytest.approx(0.000840336134454, rel=1e-11) == 0.01 / (11 + 90 * 0.01)


def test_step_2_lagrange():
    a, b, multiplier = sp.symbols("a b lambda", positive=True)
    objective = sA**2 * (1 + c) * a**2 + sB**2 * (d - c) * b**2
    lagrangian = objective - multiplier * ((1 + c) * a + (d - c) * b - 1)
    solution = sp.solve([sp.diff(lagrangian, v) for v in (a, b, multiplier)], [a, b, multiplier])
    found = solution[b] if isinstance(solution, dict) else solution[0][1]
    r = sA**2 / sB**2
    assert sp.simplify(found - r / ((1 + c) + (d - c) * r)) == 0


def test_step_3_limit():
    weight = rho / ((1 + c) + (d - c) * rho)
    assert sp.limit(weight, rho, 0) == 0
    assert sp.simplify(weight.subs(rho, 1) - 1 / (d + 1)) == 0
    slope = sp.diff(weight, rho) * ((1 + c) + (d - c) * rho) ** 2
    assert sp.simplify(slope - (1 + c)) == 0  # increasing


def test_step_4_a_small_ratio_is_not_enough():
    total = (d - c) * rho / ((1 + c) + (d - c) * rho)
    assert sp.simplify(total.subs(rho, (1 + c) / (d - c))) == sp.Rational(1, 2)
    value = float(total.subs({rho: sp.Rational(1, 100), c: 1, d: 10**6}))
    assert value == pytest.approx(0.9998, abs=5e-5)


def test_step_5_no_noise():
    _, var = sample_moments(3, 8, 0.0, 0.0, 1.0)
    for w in default_rng(5).dirichlet(np.ones(4), 20):
        full = np.r_[w, np.zeros(5)]
        assert full @ (var * full) == 0  # many minimisers, all with w_B = 0


def test_step_6_averaging_over_a_group_never_raises_the_variance():
    rng = default_rng(6)
    for c_, d_, _, sigma_a, sigma_b in settings(50, 6):
        _, var = sample_moments(c_, d_, 0.0, sigma_a, sigma_b)
        w = rng.dirichlet(np.ones(d_ + 1))
        tied = np.r_[np.full(c_ + 1, w[: c_ + 1].mean()), np.full(d_ - c_, w[c_ + 1 :].mean())]
        assert tied.sum() == pytest.approx(1)
        assert tied @ (var * tied) < w @ (var * w)


def test_step_7_unconditional_variance():
    total = sA**2 * (1 - B) ** 2 / (1 + c) + sB**2 * B**2 / (d - c) + (1 - (1 - eta) * B) ** 2
    claimed = sA**2 / (1 + c) + 1 - eta
    claimed /= sA**2 / (1 + c) + sB**2 / (d - c) + (1 - eta) ** 2
    assert sp.simplify(sp.solve(sp.diff(total, B), B)[0] - claimed) == 0
    function = sp.lambdify((B, c, d, eta, sA, sB), total)
    for setting in settings(15, 7):
        c_, d_, eta_, sigma_a, sigma_b = setting
        best = min(1, float(claimed.subs(dict(zip((c, d, eta, sA, sB), setting, strict=True)))))
        mu, var = sample_moments(*setting)
        untied = minimise_over_simplex(np.diag(var) + np.outer(mu, mu))
        value = untied @ (var * untied) + (mu @ untied) ** 2
        assert function(best, *setting) == pytest.approx(value, rel=1e-5)
        searched = minimize_scalar(
            lambda b, at=setting: function(b, *at), bounds=(0, 1), method="bounded"
        )
        assert best == pytest.approx(searched.x, abs=1e-4)
    limit = (1 - eta) / (sB**2 / (d - c) + (1 - eta) ** 2)
    assert sp.simplify(sp.limit(claimed, sA, 0) - limit) == 0
    edge = sp.sqrt(eta * (1 - eta) * (d - c))
    assert sp.simplify(limit.subs(sB, edge) - 1) == 0


def test_step_7_law_of_total_variance():
    rng = default_rng(8)
    mu, var = sample_moments(1, 4, 0.3, 0.4, 1.1)
    w, size = rng.dirichlet(np.ones(5)), 400_000
    y = rng.choice([-1.0, 1.0], size)
    x = y[:, None] * mu + np.sqrt(var) * rng.standard_normal((size, 5))
    assert np.var(x @ w) == pytest.approx(w @ (var * w) + (mu @ w) ** 2, rel=0.01)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
