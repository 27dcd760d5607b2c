"""Executable check of example_3.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy import integrate, stats
from scipy.special import log_ndtr, ndtr

S1 = (0.28, 0.05, 0.7)  # eta, sigma_A, sigma_B


def divergence(eta, sigma_a, sigma_b):
    ratio = (sigma_a**2 + (1 - eta) ** 2) / (2 * sigma_b**2)
    return np.log(sigma_b / sigma_a) + ratio - 0.5


def log_probability(n, eta, sigma_a, sigma_b):
    rho = (sigma_a / sigma_b) ** 2
    return log_ndtr(-(1 - eta) * np.sqrt(n) / sigma_b) + stats.chi2.logcdf(n * rho, n - 1)


def test_step_1_divergence():
    eta, a, b = sp.symbols("eta sigma_A sigma_B", positive=True)
    first = sp.log(b / a) + (a**2 + (1 - eta) ** 2) / (2 * b**2) - sp.Rational(1, 2)
    rho = a**2 / b**2
    second = (1 - eta) ** 2 / (2 * b**2) + (sp.log(1 / rho) + rho - 1) / 2
    assert sp.simplify(sp.expand_log(first - second, force=True)) == 0
    for at in [S1, (0.5, 0.4, 0.9)]:
        like, true = stats.norm(1, at[1]), stats.norm(at[0], at[2])
        value = integrate.quad(
            lambda x, like=like, true=true: like.pdf(x) * (like.logpdf(x) - true.logpdf(x)),
            1 - 10 * at[1],
            1 + 10 * at[1],
        )[0]
        assert divergence(*at) == pytest.approx(value, rel=1e-9)
    assert divergence(*S1) == pytest.approx(2.67058794186, rel=1e-11)


def test_step_2_exact_probability():
    rng, n, (eta, sigma_a, sigma_b), size = default_rng(2), 3, (0.5, 0.5, 0.9), 400_000
    v = eta + sigma_b * rng.standard_normal((size, n))
    passes = np.mean((v.mean(1) >= 1) & (v.var(1) <= sigma_a**2))
    exact = np.exp(log_probability(n, eta, sigma_a, sigma_b))
    assert passes == pytest.approx(exact, abs=4 * np.sqrt(exact / size))


def test_step_3_bound():
    rng = default_rng(3)
    for _ in range(300):
        eta, sigma_b = rng.uniform(0, 0.99), 10 ** rng.uniform(-1, 1)
        sigma_a = sigma_b * rng.uniform(0.02, 0.999)
        n = int(rng.integers(2, 200))
        bound = np.log(sigma_b / sigma_a) - n * divergence(eta, sigma_a, sigma_b)
        assert log_probability(n, eta, sigma_a, sigma_b) <= bound
    t, n, rho = sp.symbols("t n rho", positive=True)
    markov = sp.exp(t * n * rho) * (1 + 2 * t) ** (-(n - 1) / 2)
    at = markov.subs(t, (1 / rho - 1) / 2)
    claimed = sp.exp(n * (1 - rho) / 2) * rho ** ((n - 1) / 2)
    assert sp.simplify(sp.powsimp(at / claimed, force=True)) == 1


def test_step_4_rate():
    for at in [S1, (0.5, 0.4, 0.9)]:
        gaps = []
        for n in (30, 100, 300):
            gaps.append(-log_probability(n, *at) / n - divergence(*at))
        assert 0 < gaps[2] < gaps[1] < gaps[0]
        assert gaps[2] < 0.03


def test_step_5_how_many():
    count = [100 * np.exp(log_probability(n, *S1)) for n in (2, 3)]
    assert count == pytest.approx([0.59, 0.03], abs=5e-3)
    threshold = (np.log(100) + np.log(0.7 / 0.05)) / divergence(*S1)
    assert 2 < threshold < 3


def test_step_6_milder_form():
    for n, expected in [(100, 26.7), (400, 2.6)]:
        assert 200 * ndtr(-0.1 * np.sqrt(n) / 0.9) == pytest.approx(expected, abs=0.05)
    rng, trials = default_rng(6), 400
    means = 0.1 + 0.9 / 10 * rng.standard_normal((trials, 200))
    survivors = (means > 0.2).sum(1)
    slack = 4 * survivors.std() / np.sqrt(trials)
    assert survivors.mean() == pytest.approx(200 * ndtr(-1 / 0.9), abs=slack)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
