"""Executable check of theorem_3.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy.optimize import minimize, minimize_scalar

c, d, rho, eta, B = sp.symbols("c d rho eta B", positive=True)
sA, sB = sp.symbols("sigma_A sigma_B", positive=True)
optimum = (c + rho) / ((1 + c) ** 2 + (d - c) * (c + rho))
eleven = c / (c * d + 2 * c + 1)


def settings(count, seed, least=0):
    rng = default_rng(seed)
    for _ in range(count):
        size = int(rng.integers(2, 30))
        sigma_b = 10 ** rng.uniform(-1, 1)
        sigma_a = sigma_b * 10 ** rng.uniform(-1.5, 0)
        yield int(rng.integers(least, size)), size, rng.uniform(0, 0.99), sigma_a, sigma_b


def minimise(matrix, constraints):
    """The minimiser of w' matrix w over the simplex, under further linear constraints."""
    size = len(matrix)
    scaled = matrix / np.abs(matrix).max()
    rows = np.vstack([np.ones(size), *constraints])
    target = np.r_[1.0, np.zeros(len(rows) - 1)]
    return minimize(
        lambda w: w @ scaled @ w,
        np.full(size, 1 / size),
        jac=lambda w: 2 * scaled @ w,
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda w: rows @ w - target, "jac": lambda w: rows},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    ).x


def true_variances(d, sigma_a, sigma_b):
    return np.r_[sigma_a, np.full(d, sigma_b)] ** 2


def ties(groups, size):
    """One row per equality inside a group of indices."""
    rows = []
    for group in groups:
        for i in group[1:]:
            row = np.zeros(size)
            row[group[0]], row[i] = 1, -1
            rows.append(row)
    return rows


def test_step_1_variance_of_tied_weights():
    rng, size = default_rng(1), 300_000
    c_, d_, eta_, sigma_a, sigma_b, share = 2, 6, 0.3, 0.2, 0.9, 0.4
    w = np.r_[np.full(c_ + 1, (1 - share) / (1 + c_)), np.full(d_ - c_, share / (d_ - c_))]
    mu = np.r_[1, np.full(d_, eta_)]
    noise = np.sqrt(true_variances(d_, sigma_a, sigma_b)) * rng.standard_normal((size, d_ + 1))
    claimed = (sigma_a**2 + c_ * sigma_b**2) * (1 - share) ** 2 / (1 + c_) ** 2
    claimed += sigma_b**2 * share**2 / (d_ - c_)
    for y in (-1, 1):
        assert np.var((y * mu + noise) @ w) == pytest.approx(claimed, rel=4 * np.sqrt(2 / size))


def test_step_2_lagrange():
    a, b, multiplier = sp.symbols("a b lambda", positive=True)
    objective = (sA**2 + c * sB**2) * a**2 + (d - c) * sB**2 * b**2
    lagrangian = objective - multiplier * ((1 + c) * a + (d - c) * b - 1)
    solution = sp.solve(
        [sp.diff(lagrangian, v) for v in (a, b, multiplier)], [a, b, multiplier], dict=True
    )[0]
    r = sA**2 / sB**2
    assert sp.simplify(solution[b] - optimum.subs(rho, r)) == 0
    assert sp.simplify(solution[b] / solution[a] - (c + r) / (1 + c)) == 0


def test_step_2_full_dimension_search():
    for c_, d_, _, sigma_a, sigma_b in settings(15, 2):
        groups = [list(range(c_ + 1)), list(range(c_ + 1, d_ + 1))]
        var = true_variances(d_, sigma_a, sigma_b)
        found = minimise(np.diag(var), ties(groups, d_ + 1))
        claimed = float(optimum.subs({c: c_, d: d_, rho: (sigma_a / sigma_b) ** 2}))
        assert found[-1] == pytest.approx(claimed, abs=1e-4)


def test_step_2_reference():
    at = {c: 10, d: 100, rho: sp.Rational(1, 100)}
    assert float(optimum.subs(at)) == pytest.approx(0.00979547900969, rel=1e-11)
    assert float(eleven.subs(at)) == pytest.approx(0.00979431929481, rel=1e-11)
    assert float((rho / (1 + d * rho)).subs(at)) == pytest.approx(0.005, rel=1e-14)


def test_step_3_limit():
    assert sp.simplify(sp.limit(optimum, rho, 0) - eleven) == 0
    first = sp.diff(optimum, rho).subs(rho, 0)
    assert sp.simplify(first - (1 + c) ** 2 / (c * d + 2 * c + 1) ** 2) == 0
    assert sp.simplify(optimum.subs(rho, 1) - 1 / (d + 1)) == 0
    # The remainder: a concave function of rho lies below its tangent.
    second = sp.factor(sp.diff(optimum, rho, 2))
    denominator = ((1 + c) ** 2 + (d - c) * (c + rho)) ** 3
    assert sp.simplify(second * denominator + 2 * (1 + c) ** 2 * (d - c)) == 0


def test_step_4_ratios():
    def variance(share):
        return c * (1 - share) ** 2 / (1 + c) ** 2 + share**2 / (d - c)  # rho = 0, sigma_B = 1

    best = variance((d - c) * eleven)
    uniform = variance((d - c) / (d + 1)) / best
    assert sp.simplify(uniform - 1 - (d - c) / (c * (d + 1) ** 2)) == 0
    zero = variance(0) / best
    assert sp.simplify(zero - (c * d + 2 * c + 1) / (1 + c) ** 2) == 0
    assert float(uniform.subs({c: 1, d: 100})) == pytest.approx(1.0097, abs=5e-5)
    assert float(zero.subs({c: 1, d: 100})) == 25.75


def test_step_5_untied_and_tied_by_true_distribution():
    for _, d_, _, sigma_a, sigma_b in settings(15, 5):
        var = true_variances(d_, sigma_a, sigma_b)
        r = (sigma_a / sigma_b) ** 2
        claimed = np.r_[1, np.full(d_, r)] / (1 + d_ * r)
        for groups in ([], [[0], list(range(1, d_ + 1))]):
            found = minimise(np.diag(var), ties(groups, d_ + 1))
            assert found == pytest.approx(claimed, abs=2e-3)
            assert found @ (var * found) >= claimed @ (var * claimed) * (1 - 1e-9)


def test_step_6_the_feasible_set_changes_the_optimum():
    share = (d - c) * optimum
    tied = (rho + c) * (1 - share) ** 2 / (1 + c) ** 2 + share**2 / (d - c)
    untied = rho / (1 + d * rho)  # 1 / sum of inverse variances, sigma_B = 1
    claimed = (c + rho) * (1 + d * rho)
    claimed /= rho * ((1 + c) ** 2 + (d - c) * (c + rho))
    assert sp.simplify(tied / untied - claimed) == 0
    assert sp.limit(claimed.subs({c: 3, d: 20}), rho, 0) == sp.oo
    assert sp.simplify(claimed.subs(c, 0)) == 1  # the control: no tie, no change
    for c_, d_, _, sigma_a, sigma_b in settings(200, 6, least=1):
        ratio = float(claimed.subs({c: c_, d: d_, rho: (sigma_a / sigma_b) ** 2}))
        assert ratio >= 1


def test_step_7_unconditional_variance():
    q, m0 = (sA**2 + c * sB**2) / (1 + c) ** 2, (1 + c * eta) / (1 + c)
    mean = m0 * (1 - B) + eta * B
    total = q * (1 - B) ** 2 + sB**2 * B**2 / (d - c) + mean**2
    claimed = (q + m0 * (m0 - eta)) / (q + sB**2 / (d - c) + (m0 - eta) ** 2)
    assert sp.simplify(sp.solve(sp.diff(total, B), B)[0] - claimed) == 0
    function = sp.lambdify((B, c, d, eta, sA, sB), total)
    for setting in settings(12, 7):
        c_, d_, eta_, sigma_a, sigma_b = setting
        best = min(1, float(claimed.subs(dict(zip((c, d, eta, sA, sB), setting, strict=True)))))
        searched = minimize_scalar(
            lambda b, at=setting: function(b, *at), bounds=(0, 1), method="bounded"
        )
        assert best == pytest.approx(searched.x, abs=1e-4)
        mu = np.r_[1, np.full(d_, eta_)]
        groups = [list(range(c_ + 1)), list(range(c_ + 1, d_ + 1))]
        matrix = np.diag(true_variances(d_, sigma_a, sigma_b)) + np.outer(mu, mu)
        w = minimise(matrix, ties(groups, d_ + 1))
        assert function(best, *setting) == pytest.approx(w @ matrix @ w, rel=1e-5)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
