"""Executable check of label_smoothing.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, minimize, minimize_scalar
from scipy.special import expit, logit, ndtr

NODES = np.linspace(-10, 10, 1601)
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()
S1 = (100, 1, 0.28, 0.05, 0.7, 0.2)  # d, c, eta, sigma_A, sigma_B, epsilon
LAMBDAS = (0.6, 0.8, 0.9, 0.99, 1.0)


def soft_loss(z, q):
    return np.logaddexp(0, -z) + (1 - q) * z


def features(d, c, eta, sigma_a, sigma_b):
    return (
        np.r_[np.ones(c + 1), np.full(d - c, eta)],
        np.r_[np.full(c + 1, sigma_a), np.full(d - c, sigma_b)],
    )


def settings(count, seed):
    rng = default_rng(seed)
    for _ in range(count):
        d = int(rng.integers(2, 8))
        sigma_b = rng.uniform(0.5, 2)
        sigma_a = sigma_b * rng.uniform(0.3, 1)
        yield (
            d,
            int(rng.integers(0, d)),
            rng.uniform(0, 0.9),
            sigma_a,
            sigma_b,
            rng.uniform(0, 0.95),
        )


def risk(w, mu, sigma, epsilon, q):
    m, t = w @ mu - epsilon * np.abs(w).sum(), np.sqrt(np.sum(w**2 * sigma**2))
    return soft_loss(m + t * NODES, q) @ WEIGHTS


def scale(information, q):
    """tau: the root of the derivative of the risk along the ray."""

    def derivative(t):
        x = information + np.sqrt(information) * NODES
        return ((expit(t * x) - q) * x) @ WEIGHTS

    return brentq(derivative, 1e-9, 60, xtol=1e-13)


def test_error(share, setting):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    m = (1 + c * eta) / (1 + c) * (1 - share) + eta * share - epsilon
    v = (sigma_a**2 + c * sigma_b**2) * (1 - share) ** 2 / (1 + c) ** 2
    return ndtr(-m / np.sqrt(v + sigma_b**2 * share**2 / (d - c)))


test_error.__test__ = False


def test_step_1_the_loss_qualifies():
    z, q = sp.symbols("z q", real=True)
    loss = q * sp.log(1 + sp.exp(-z)) + (1 - q) * sp.log(1 + sp.exp(z))
    sigma = 1 / (1 + sp.exp(-z))
    assert sp.simplify(sp.diff(loss, z) - (sigma - q)) == 0
    assert sp.simplify(sp.diff(loss, z, 2) - sigma * (1 - sigma)) == 0
    grid = np.linspace(-30, 30, 401)
    for value in LAMBDAS:
        direct = value * np.logaddexp(0, -grid) + (1 - value) * np.logaddexp(0, grid)
        assert np.allclose(direct, soft_loss(grid, value))
        assert direct.min() >= 0
    assert expit(logit(0.8)) - 0.8 == pytest.approx(0)


@pytest.mark.parametrize("q", [0.6, 0.8, 0.95])
def test_step_2_direction_neutral(q):
    rng = default_rng(2)
    for d, c, eta, sigma_a, sigma_b, epsilon in settings(8, 2):
        mu, sigma = features(d, c, eta, sigma_a, sigma_b)
        gain = np.maximum(mu - epsilon, 0)
        information = np.sum(gain**2 / sigma**2)
        claimed = scale(information, q) * gain / sigma**2
        least = risk(claimed, mu, sigma, epsilon, q)
        for _ in range(150):  # signed weights too
            step = rng.standard_normal(mu.size) * 10 ** rng.uniform(-3, 0.5)
            assert risk(claimed + step, mu, sigma, epsilon, q) > least
        size = mu.size

        def lifted(p, mu=mu, sigma=sigma, epsilon=epsilon, size=size):  # w = p[:size] - p[size:]
            w = p[:size] - p[size:]
            t = np.sqrt(np.sum(w**2 * sigma**2))
            z = w @ mu - epsilon * p.sum() + t * NODES
            g0, curve = (q - expit(z)) @ WEIGHTS, (expit(z) * expit(-z)) @ WEIGHTS
            push = w * sigma**2 * curve - g0 * mu
            return soft_loss(z, q) @ WEIGHTS, np.r_[push, -push] + g0 * epsilon

        found = minimize(
            lifted,
            np.r_[np.full(size, 0.1), np.full(size, 0.05)],
            jac=True,
            bounds=[(0, None)] * (2 * size),
            options={"ftol": 1e-16, "gtol": 1e-11, "maxiter": 2000},
        ).x
        found = found[:size] - found[size:]
        assert least <= risk(found, mu, sigma, epsilon, q) + 1e-12
        assert found == pytest.approx(claimed, abs=1e-4 * claimed.max())


def test_step_2_reference_values():
    d, c, eta, sigma_a, sigma_b, epsilon = S1
    mu, sigma = features(*S1[:5])
    gain = (mu - epsilon) / sigma**2
    information = np.sum(gain * (mu - epsilon))
    share = gain[c + 1 :].sum() / gain.sum()
    assert share == pytest.approx(1 / (1 + (2 * 0.8 / 0.05**2) / (99 * 0.08 / 0.7**2)), rel=1e-12)
    assert test_error(share, S1) == pytest.approx(0.103890633138, rel=1e-10)
    for q, norm in [(0.9, 2.80812382928), (0.8, 1.77013647146)]:
        found = scale(information, q) * gain.sum()
        assert found == pytest.approx(norm, rel=1e-7)


def test_step_3_stationarity():
    rng = default_rng(3)
    negative = 0
    for d, c, eta, sigma_a, sigma_b, epsilon in settings(60, 3):
        mu, sigma = features(d, c, eta, sigma_a, sigma_b)
        w, q = rng.uniform(0.05, 1, mu.size), rng.uniform(0.5, 1)
        z = w @ mu - epsilon * w.sum() + np.sqrt(np.sum(w**2 * sigma**2)) * NODES
        g0, curve = (q - expit(z)) @ WEIGHTS, (expit(z) * expit(-z)) @ WEIGHTS
        claimed = -g0 * (mu - epsilon) + w * sigma**2 * curve
        for i, h in enumerate(np.eye(mu.size) * 1e-5):
            up, down = (risk(w + k, mu, sigma, epsilon, q) for k in (h, -h))
            assert claimed[i] == pytest.approx((up - down) / 2e-5, abs=1e-8)
        # Weights on features weaker than epsilon only: G0 is at least q - 1/2.
        weak = np.where(mu < epsilon, w, 0)
        if weak.any():
            negative += 1
            m, t = weak @ (mu - epsilon), np.sqrt(np.sum(weak**2 * sigma**2))
            assert m <= 0
            assert (q - expit(m + t * NODES)) @ WEIGHTS >= q - 0.5 - 1e-12
    assert negative > 10


def test_step_4_the_boundary():
    mu, sigma = features(4, 1, 0.1, 0.5, 1.0)
    epsilon, q = 0.3, 0.9
    gain = np.maximum(mu - epsilon, 0)
    w = scale(np.sum(gain**2 / sigma**2), q) * gain / sigma**2
    z = w @ (mu - epsilon) + np.sqrt(np.sum(w**2 * sigma**2)) * NODES
    g0 = (q - expit(z)) @ WEIGHTS
    assert -g0 * (mu[-1] - epsilon) > 0  # of F: stay at the boundary
    assert -g0 * mu[-1] < 0  # of the code whose sgn(0) is 0: leave it
    inside = w + np.r_[0, 0, 1e-4, 0, 0]
    assert risk(inside, mu, sigma, epsilon, q) > risk(w, mu, sigma, epsilon, q)


def test_step_5_the_scale_grows_with_lambda():
    for information in (0.1, 3.0, 40.0):
        taus = [scale(information, q) for q in np.linspace(0.51, 1, 40)]
        assert np.all(np.diff(taus) > 0)
        assert taus[-1] == pytest.approx(2, rel=1e-8)
        assert scale(information, 0.5 + 1e-6) < 1e-4
        t, h, q = taus[20], 1e-6, 0.7

        def slope(q, t=t, information=information):
            x = information + np.sqrt(information) * NODES
            return ((expit(t * x) - q) * x) @ WEIGHTS

        assert (slope(q + h) - slope(q - h)) / (2 * h) == pytest.approx(-information)


def simplex(share, setting, s, q):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    m = 1 - (1 - eta) * share - epsilon
    v = sigma_a**2 * (1 - share) ** 2 / (1 + c) + sigma_b**2 * share**2 / (d - c)
    return soft_loss(s * (m + np.sqrt(v) * NODES), q) @ WEIGHTS


def simplex_slope(share, setting, s, q):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    m = 1 - (1 - eta) * share - epsilon
    v = sigma_a**2 * (1 - share) ** 2 / (1 + c) + sigma_b**2 * share**2 / (d - c)
    dv = -2 * sigma_a**2 * (1 - share) / (1 + c) + 2 * sigma_b**2 * share / (d - c)
    z = s * (m + np.sqrt(v) * NODES)
    curve = (expit(z) * expit(-z)) @ WEIGHTS
    return s * (1 - eta) * ((q - expit(z)) @ WEIGHTS) + s**2 / 2 * curve * dv


def best(setting, s, q):
    if simplex_slope(0.0, setting, s, q) >= 0:
        return 0.0
    if simplex_slope(1.0, setting, s, q) <= 0:
        return 1.0
    return brentq(simplex_slope, 0, 1, args=(setting, s, q), xtol=1e-13)


def test_step_6_one_variable():
    for setting in settings(20, 6):
        for s, q in [(1.0, 0.8), (4.0, 0.95)]:
            values = [simplex(b, setting, s, q) for b in np.linspace(0, 1, 41)]
            assert np.diff(values, 2).min() > -1e-12
            for b in (0.2, 0.7):
                up, down = (simplex(b + h, setting, s, q) for h in (1e-5, -1e-5))
                claimed = simplex_slope(b, setting, s, q)
                assert claimed == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-8)
            found = minimize_scalar(
                simplex, bounds=(0, 1), args=(setting, s, q), method="bounded"
            ).x
            assert best(setting, s, q) == pytest.approx(found, abs=1e-4)
    assert simplex(0.5, S1, 3.0, 0.9) == pytest.approx(0.369919049444, rel=1e-10)
    assert best(S1, 4.0, 0.8) == pytest.approx(0.621297060124, rel=1e-9)


def test_step_7_monotone_in_lambda():
    for setting in settings(15, 7):
        shares = np.array([best(setting, 5.0, q) for q in np.linspace(0.52, 1, 25)])
        inside = (shares > 0) & (shares < 1)
        assert np.all(np.diff(shares) <= 0)
        assert np.all(np.diff(shares[inside]) < 0)
    target = 0.818937644342  # the robust optimum of S1, overshoot.md
    hit = brentq(lambda q: best(S1, 8.0, q) - target, 0.6, 0.95, xtol=1e-12)
    assert hit == pytest.approx(0.828130522845, rel=1e-8)
    harmed = (100, 10, 0.3, 0.1, 0.5, 0.3)  # epsilon = eta
    softened = best(harmed, 8.0, 0.8)
    assert softened > 0
    assert test_error(softened, harmed) > test_error(0.0, harmed)


def test_step_8_when_it_acts():
    for setting in settings(40, 8):
        d, c, eta, sigma_a, _, epsilon = setting
        for s, q in [(2.0, 0.7), (2.0, 0.95), (8.0, 0.95)]:
            z = s * (1 - epsilon) + s * sigma_a / np.sqrt(1 + c) * NODES
            left = (1 - eta) * (q - expit(z) @ WEIGHTS)
            right = s * sigma_a**2 / (1 + c) * ((expit(z) * expit(-z)) @ WEIGHTS)
            others = min(simplex(b, setting, s, q) for b in np.linspace(1e-3, 1, 50))
            if abs(left - right) > 1e-3:
                assert (left >= right) == (simplex(0.0, setting, s, q) <= others)
    quiet = (*S1[:3], 1e-6, *S1[4:])
    for s in (1.0, 3.0, 6.0):
        edge = expit(s * 0.8)
        assert best(quiet, s, edge + 1e-4) == 0 < best(quiet, s, edge - 1e-3)


def test_step_9_limit_of_little_noise():
    for q, s in [(0.8, 8.0), (0.9, 4.0), (0.7, 3.0)]:
        limit = np.clip((0.8 - logit(q) / s) / 0.72, 0, 1)
        gaps = [abs(best((*S1[:3], 0.05 * k, 0.7 * k, 0.2), s, q) - limit) for k in (1, 0.1, 0.01)]
        assert gaps[2] < 1e-4
        assert gaps[2] < gaps[1] < gaps[0]
    assert test_error(best(S1, 2.0, 0.9), S1) == pytest.approx(0.1049, abs=5e-5)
    assert best(S1, 8.0, 0.55) == 1
    assert test_error(1.0, S1) == pytest.approx(0.1277, abs=5e-5)


def test_speed_numerically():
    d, c, eta, sigma_a, sigma_b, epsilon = S1

    def rate(_, w, q):
        a, b = w
        m = (1 + c) * a * (1 - epsilon) + (d - c) * b * (eta - epsilon)
        v = (1 + c) * a**2 * sigma_a**2 + (d - c) * b**2 * sigma_b**2
        z = m + np.sqrt(v) * NODES
        push, curve = (q - expit(z)) @ WEIGHTS, (expit(z) * expit(-z)) @ WEIGHTS
        return [
            push * (1 - epsilon) - curve * sigma_a**2 * a,
            push * (eta - epsilon) - curve * sigma_b**2 * b,
        ]

    for q, value in [(1.0, 0.0508), (0.9, 0.0963), (0.8, 0.103)]:
        flow = solve_ivp(rate, (0, 100), [1 / 101] * 2, "LSODA", args=(q,), rtol=1e-8, atol=1e-10)
        a, b = flow.y[:, -1]
        error = test_error((d - c) * b / ((1 + c) * a + (d - c) * b), S1)
        assert error == pytest.approx(value, rel=5e-3)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
