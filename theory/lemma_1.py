"""Executable check of lemma_1.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import integrate
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, ndtr

# The trapezoid rule, not Gauss-Hermite: at a margin's deviation of 10, 100 Hermite nodes leave
# an error of 4e-4 in the logistic loss, this rule one of 1e-15.
NODES = np.linspace(-10, 10, 1601)
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()
S1 = (100, 1, 0.28, 0.05, 0.7)  # d, c, eta, sigma_A, sigma_B


def pdf(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def logistic(m, v):
    z = np.add.outer(m, np.zeros(1)) + np.multiply.outer(np.sqrt(v), NODES)
    return np.logaddexp(0, -z) @ WEIGHTS


def exponential(m, v):
    return np.exp(-m + v / 2)


def hinge(m, v):
    t = np.sqrt(np.maximum(v, 1e-300))
    return (1 - m) * ndtr((1 - m) / t) + t * pdf((1 - m) / t)


LOSSES = {"logistic": logistic, "exponential": exponential, "hinge": hinge}
VALUE_AT_ZERO = {"logistic": np.log(2), "exponential": 1.0, "hinge": 1.0}
SLOPE_AT_ZERO = {"logistic": -0.5, "exponential": -1.0, "hinge": -1.0}
each_loss = pytest.mark.parametrize("name", LOSSES)


def features(d, c, eta, sigma_a, sigma_b):
    mu = np.r_[np.ones(c + 1), np.full(d - c, eta)]
    return mu, np.r_[np.full(c + 1, sigma_a), np.full(d - c, sigma_b)]


def settings(count, seed):
    rng = default_rng(seed)
    for _ in range(count):
        d = int(rng.integers(2, 8))
        sigma_b = rng.uniform(0.5, 2)
        sigma_a = sigma_b * rng.uniform(0.3, 1)
        setting = d, int(rng.integers(0, d)), rng.uniform(0, 0.9), sigma_a, sigma_b
        yield setting, rng.uniform(0, 0.95)


def test_step_1_two_numbers():
    rng, size = default_rng(1), 400_000
    mu, sigma = features(4, 1, 0.3, 0.4, 0.9)
    w, epsilon = np.array([0.5, -0.2, 0.1, 0.3, -0.4]), 0.25
    y = rng.choice([-1.0, 1.0], size)
    x = y[:, None] * mu + sigma * rng.standard_normal((size, 5))
    margin = y * ((x - y[:, None] * epsilon * np.sign(w)) @ w)
    m, v = w @ mu - epsilon * np.abs(w).sum(), np.sum(w**2 * sigma**2)
    assert margin.mean() == pytest.approx(m, abs=4 * np.sqrt(v / size))
    assert margin.var() == pytest.approx(v, rel=4 * np.sqrt(2 / size))
    loss = np.logaddexp(0, -margin)
    assert loss.mean() == pytest.approx(logistic(m, v).item(), abs=4 * loss.std() / np.sqrt(size))


@each_loss
def test_step_2_noise_costs(name):
    v = np.linspace(1e-3, 6, 300)
    for m in np.linspace(-3, 3, 13):
        values = LOSSES[name](np.full_like(v, m), v)
        assert np.all(np.diff(values) > -1e-12)
        assert values[-1] > values[0]
        limit = {"logistic": np.logaddexp(0, -m), "exponential": np.exp(-m)}.get(
            name, max(0, 1 - m)
        )
        assert np.all(values >= limit - 1e-12)


@each_loss
def test_step_3_non_positive_margins_lose(name):
    rng = default_rng(3)
    m, v = -rng.uniform(0, 4, 500), rng.uniform(1e-6, 5, 500)
    assert np.all(LOSSES[name](m, v) > VALUE_AT_ZERO[name])


def test_step_4_cauchy_schwarz():
    rng = default_rng(4)
    for setting, epsilon in settings(100, 4):
        mu, sigma = features(*setting)
        gain = np.maximum(mu - epsilon, 0)
        q = np.sum(gain**2 / sigma**2)
        w = rng.standard_normal(mu.size)
        m, v = w @ mu - epsilon * np.abs(w).sum(), np.sum(w**2 * sigma**2)
        assert m <= np.sqrt(v * q) * (1 + 1e-12)
        best = 0.7 * gain / sigma**2
        m, v = best @ (mu - epsilon), np.sum(best**2 * sigma**2)
        assert m == pytest.approx(np.sqrt(v * q))


@each_loss
def test_step_5_one_scale(name):
    for q in (0.05, 1.0, 9.0):
        f = lambda t, q=q: np.ravel(LOSSES[name](t * q, t**2 * q))[0]  # noqa: E731
        slope = (f(1e-6) - VALUE_AT_ZERO[name]) / 1e-6
        assert slope == pytest.approx(SLOPE_AT_ZERO[name] * q, rel=1e-4)
        t = np.linspace(1e-3, 12 / np.sqrt(q), 2000)
        values = np.ravel(LOSSES[name](t * q, t**2 * q))
        least = values.argmin()
        assert 0 < least < t.size - 1
        assert np.all(np.diff(values[: least + 1]) < 0)
        assert np.all(np.diff(values[least:]) > 0)


def scale(name, q):
    return minimize_scalar(
        lambda t: np.ravel(LOSSES[name](t * q, t**2 * q))[0],
        bounds=(1e-6, 12 / np.sqrt(q)),
        method="bounded",
        options={"xatol": 1e-10},
    ).x


@each_loss
def test_step_6_minimiser_over_all_weights(name):
    rng = default_rng(6)
    for setting, epsilon in settings(6, 6):
        mu, sigma = features(*setting)
        gain = np.maximum(mu - epsilon, 0)
        q = np.sum(gain**2 / sigma**2)

        def risk(w, mu=mu, sigma=sigma, epsilon=epsilon):
            m = w @ mu - epsilon * np.abs(w).sum()
            return np.ravel(LOSSES[name](m, np.sum(w**2 * sigma**2)))[0]

        claimed = scale(name, q) * gain / sigma**2
        for _ in range(200):  # signed neighbours and far points alike
            step = rng.standard_normal(mu.size) * 10 ** rng.uniform(-3, 0.5)
            assert risk(claimed + step) > risk(claimed)
        size = mu.size  # split w into positive parts so that the search sees no kink
        found = minimize(
            lambda p, size=size, risk=risk: np.log(risk(p[:size] - p[size:])),
            np.full(2 * size, 0.1),
            bounds=[(0, None)] * (2 * size),
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000, "maxfun": 100_000},
        ).x
        found = found[:size] - found[size:]
        assert risk(claimed) <= risk(found) * (1 + 1e-9)
        assert risk(found) <= risk(claimed) * (1 + 1e-3)
        cosine = found @ claimed / np.sqrt((found @ found) * (claimed @ claimed))
        assert cosine > 0.9999


def test_step_6_all_features_weaker_than_epsilon():
    mu, sigma = features(5, 2, 0.3, 0.4, 0.9)
    rng = default_rng(66)
    for name, loss in LOSSES.items():
        for w in rng.standard_normal((200, 6)) * 0.5:
            m = w @ mu - 1.1 * np.abs(w).sum()
            assert np.ravel(loss(m, np.sum(w**2 * sigma**2)))[0] > VALUE_AT_ZERO[name]


def test_step_7_zero_exactly_when_epsilon_reaches_eta():
    for setting, epsilon in settings(60, 7):
        d, c, eta, sigma_a, sigma_b = setting
        mu, sigma = features(*setting)
        for name in LOSSES:
            q = (c + 1) * (1 - epsilon) ** 2 / sigma_a**2
            a = scale(name, q) * (1 - epsilon) / sigma_a**2  # best w with w_B = 0

            risks = []
            for b in (0, 1e-5):
                w = np.r_[np.full(c + 1, a), np.full(d - c, b)]
                m = w @ (mu - epsilon)
                risks.append(np.ravel(LOSSES[name](m, np.sum(w**2 * sigma**2)))[0])
            if abs(eta - epsilon) > 0.05:
                assert (risks[1] < risks[0]) == (epsilon < eta)
    d, c, eta, sigma_a, sigma_b = S1
    ratio = (sigma_a / sigma_b) ** 2 * (eta - 0.2) / 0.8
    assert ratio == pytest.approx(5.102e-4, rel=1e-4)


def test_step_8_scales_and_counter_examples():
    for q in (0.3, 2.0, 30.0):
        assert scale("logistic", q) == pytest.approx(2, abs=1e-4)
        assert scale("exponential", q) == pytest.approx(1, abs=1e-5)
        odd = lambda x, q=q: x * pdf((x - q) / np.sqrt(q)) * expit(-2 * x)  # noqa: E731
        x = np.linspace(0.01, 10, 200)
        assert np.allclose(odd(x), -odd(-x), rtol=1e-9, atol=1e-300)
    rng = default_rng(8)  # max(0, -z): every non-zero w is worse than 0, though epsilon < eta
    mu, sigma = features(4, 1, 0.5, 0.4, 0.9)
    for w in rng.uniform(0, 1, (100, 5)):
        m, t = w @ (mu - 0.1), np.sqrt(np.sum(w**2 * sigma**2))
        assert -m * ndtr(-m / t) + t * pdf(m / t) > 0
    w = np.array([1.0, 1.0, 0.3, 0.2, 0.7])  # -z: no dependence on w_B at epsilon = eta
    assert -(w @ (mu - 0.5)) == pytest.approx(-(w[:2] @ (mu[:2] - 0.5)))


def simplex(name, share, setting, epsilon, s):
    d, c, eta, sigma_a, sigma_b = setting
    m = 1 - (1 - eta) * share
    v = sigma_a**2 * (1 - share) ** 2 / (1 + c) + sigma_b**2 * share**2 / (d - c)
    return np.ravel(LOSSES[name](s * (m - epsilon), s**2 * v))[0]


def slope(name, share, setting, epsilon, s):
    d, c, eta, sigma_a, sigma_b = setting
    m = 1 - (1 - eta) * share
    v = sigma_a**2 * (1 - share) ** 2 / (1 + c) + sigma_b**2 * share**2 / (d - c)
    dv = -2 * sigma_a**2 * (1 - share) / (1 + c) + 2 * sigma_b**2 * share / (d - c)
    if name == "hinge":
        u, t = 1 - s * (m - epsilon), s * np.sqrt(v)
        first, second = -ndtr(u / t), pdf(u / t) / t
    elif name == "logistic":
        z = s * (m - epsilon + np.sqrt(v) * NODES)
        first, second = -(expit(-z) @ WEIGHTS), (expit(z) * expit(-z)) @ WEIGHTS
    else:
        second = exponential(s * (m - epsilon), s**2 * v)
        first = -second
    return -s * (1 - eta) * first + s**2 / 2 * second * dv


def test_step_9_adversary_is_inert():
    rng = default_rng(9)
    mu, sigma = features(6, 2, 0.3, 0.4, 0.9)
    for w in rng.dirichlet(np.ones(7), 20):
        x = rng.standard_normal((50, 7))
        delta = rng.uniform(-0.2, 0.2, (2000, 1, 7))
        assert np.all((x + delta) @ w >= x @ w - 0.2)
        assert np.allclose((x - 0.2) @ w, x @ w - 0.2)
    for share in np.linspace(0, 1, 9):
        for epsilon in (0.1, 0.5):
            attacked = simplex("exponential", share, S1, epsilon, 3.0)
            clean = simplex("exponential", share, S1, 0.0, 3.0)
            assert attacked == pytest.approx(np.exp(3 * epsilon) * clean, rel=1e-12)


@each_loss
def test_step_10_convex_in_one_variable(name):
    for setting, epsilon in settings(20, 10):
        for s in (0.5, 3.0):
            share = np.linspace(0, 1, 201)
            values = np.array([simplex(name, b, setting, epsilon, s) for b in share])
            assert np.diff(values, 2).min() > -1e-12
            for b in (0.1, 0.5, 0.9):
                up, down = (simplex(name, b + h, setting, epsilon, s) for h in (1e-5, -1e-5))
                claimed = slope(name, b, setting, epsilon, s)
                assert claimed == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7)


def test_step_10_reference_values():
    for name, value in [
        ("logistic", 0.497339071545),
        ("exponential", 0.644535702081),
        ("hinge", 0.56),
    ]:
        assert simplex(name, 0.5, S1, 0.2, 1.0) == pytest.approx(value, rel=1e-11)
    assert slope("logistic", 0.5, S1, 0.2, 1.0) == pytest.approx(0.282522874213, rel=1e-10)
    assert slope("hinge", 0.5, S1, 0.2, 1.0) == pytest.approx(0.72, rel=1e-12)
    direct = integrate.quad(  # the quadrature itself, against an adaptive one
        lambda g: np.logaddexp(0, -(0.44 + np.sqrt(0.00154987373737) * g)) * pdf(g), -12, 12
    )[0]
    assert direct == pytest.approx(0.497339071545, rel=1e-9)


def test_step_11_when_zero_is_optimal():
    rng = default_rng(11)
    seen = {True: 0, False: 0}
    for setting, epsilon in settings(80, 11):
        d, c, eta, sigma_a, sigma_b = setting
        s = 10 ** rng.uniform(-1.5, 0.9)
        enough = s * sigma_a**2 / (1 + c) <= 1 - eta
        seen[enough] += 1
        for name in LOSSES:
            at_zero = slope(name, 0.0, setting, epsilon, s)
            least = min(simplex(name, b, setting, epsilon, s) for b in np.linspace(0.005, 1, 60))
            value = simplex(name, 0.0, setting, epsilon, s)
            if at_zero >= 0:
                assert least >= value - 1e-12 * (1 + abs(value))
            if name == "exponential" and s < 5:
                assert (at_zero >= 0) == enough
            if name == "logistic" and enough:
                assert at_zero >= 0
    assert min(seen.values()) > 10


@each_loss
def test_step_12_at_small_scale_for_every_epsilon(name):
    for setting, _ in settings(40, 12):
        for epsilon in (0.0, 0.1, 0.5, 0.9):
            assert slope(name, 0.0, setting, epsilon, 0.02) > 0


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
