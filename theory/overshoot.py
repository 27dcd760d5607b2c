"""Executable check of overshoot.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
import sympy as sp
from numpy.random import default_rng
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, ndtr

NODES = np.linspace(-10, 10, 1601)
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()
# d, c, eta, sigma_A, sigma_B, epsilon
S1 = (100, 1, 0.28, 0.05, 0.7, 0.2)
S2 = (1000, 1, 0.28, 0.05, 1.0, 0.2)
S4 = (200, 10, 0.25, 0.05, 0.4, 0.2)
S5 = (100, 10, 0.3, 0.1, 0.5, 0.3)
S6 = (100, 10, 0.1, 0.1, 1.0, 0.2)


def parts(d, c, eta, sigma_a, sigma_b, epsilon):
    margin_b = eta - epsilon
    margin_a = (1 + c * eta) / (1 + c) - epsilon
    q0 = (sigma_a**2 + c * sigma_b**2) / (1 + c) ** 2
    return margin_b, margin_a, q0, sigma_b**2 / (d - c)


def score(share, setting):
    margin_b, margin_a, q0, q1 = parts(*setting)
    top = margin_a * (1 - share) + margin_b * share
    return top / np.sqrt(q0 * (1 - share) ** 2 + q1 * share**2)


def error(share, setting):
    return ndtr(-score(share, setting))


def share_of(ratio, d, c):
    """B from b/a."""
    return (d - c) * ratio / ((1 + c) + (d - c) * ratio)


def best_share(setting):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    rho, gap = (sigma_a / sigma_b) ** 2, max(eta - epsilon, 0)
    return share_of(gap * (c + rho) / ((1 - epsilon) + c * gap), d, c)


def sample_share(setting):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    rho, gap = (sigma_a / sigma_b) ** 2, max(eta - epsilon, 0)
    return share_of(rho * gap / (1 - epsilon), d, c)


def settings(count, seed, least_c=0, top_epsilon=0.99):
    rng = default_rng(seed)
    for _ in range(count):
        d = int(np.ceil(10 ** rng.uniform(0.4, 3)))
        sigma_b = 10 ** rng.uniform(-1, 0.5)
        yield (
            d,
            int(rng.integers(least_c, min(d, 20))),
            rng.uniform(0, 0.99),
            sigma_b * 10 ** rng.uniform(-2, 0),
            sigma_b,
            rng.uniform(0, top_epsilon),
        )


def test_step_1_exact_robust_error():
    rng, size = default_rng(1), 300_000
    setting = (8, 2, 0.3, 0.4, 0.9, 0.15)
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    for share in (0.0, 0.4, 1.0):
        w = np.r_[np.full(c + 1, (1 - share) / (1 + c)), np.full(d - c, share / (d - c))]
        y = rng.choice([-1.0, 1.0], size)
        sigma = np.r_[sigma_a, np.full(d, sigma_b)]
        x = y[:, None] * np.r_[1, np.full(d, eta)] + sigma * rng.standard_normal((size, d + 1))
        wrong = np.mean(y * ((x - epsilon * y[:, None]) @ w) < 0)
        exact = error(share, setting)
        assert wrong == pytest.approx(exact, abs=4 * np.sqrt(exact / size))
    for value, share in [(0.104356760567, 99 / 101), (0.10493043883, 0.0)]:
        assert error(share, S1) == pytest.approx(value, rel=1e-10)
    assert error(0.0, S2) == pytest.approx(0.189727191305, rel=1e-10)
    assert error(190 / 201, S4) == pytest.approx(0.0281237105828, rel=1e-10)
    assert error(0.0, S4) == pytest.approx(0.152224769172, rel=1e-10)


def test_step_2_derivative():
    share, margin_b, margin_a, q0, q1 = sp.symbols("B M M_A q_0 q_1", real=True)
    v = q0 * (1 - share) ** 2 + q1 * share**2
    z = (margin_a * (1 - share) + margin_b * share) / sp.sqrt(v)
    claimed = margin_b * q0 * (1 - share) - margin_a * q1 * share
    assert sp.simplify(sp.diff(z, share) * v ** sp.Rational(3, 2) - claimed) == 0


def test_step_3_optimum():
    found = 0
    for setting in settings(400, 3):
        d, c, eta, _, sigma_b, epsilon = setting
        if epsilon >= eta:
            continue
        found += 1
        best = best_share(setting)
        for factor in (0.5, 0.9, 1.1):
            other = best * factor
            if other < 1:
                assert score(other, setting) < score(best, setting)
        gain = (eta - epsilon) ** 2 * (d - c) / sigma_b**2
        assert score(best, setting) ** 2 == pytest.approx(score(0, setting) ** 2 + gain)
        if found <= 20:
            shares = np.linspace(0, 1, 20_001)
            values = score(shares, setting)
            assert abs(shares[values.argmax()] - best) < 1e-4
            assert np.all(np.diff(values[: values.argmax()]) > 0)
            assert np.all(np.diff(values[values.argmax() :]) < 0)
    assert found > 100


def test_step_3_reference_values():
    for setting, share, value in [
        (S1, 0.818937644342, 0.0452502817462),
        (S2, 0.978505076954, 0.00371477048447),
        (S4, 0.869344868445, 0.022437218371),
    ]:
        assert best_share(setting) == pytest.approx(share, rel=1e-11)
        assert error(share, setting) == pytest.approx(value, rel=1e-10)


def test_step_4_training_optimum():
    for setting in settings(40, 4):
        d, c, eta, sigma_a, sigma_b, epsilon = setting

        def train(share, at=setting):
            d, c, eta, sigma_a, sigma_b, epsilon = at
            v = sigma_a**2 * (1 - share) ** 2 / (1 + c) + sigma_b**2 * share**2 / (d - c)
            return -(1 - (1 - eta) * share - epsilon) / np.sqrt(v)

        claimed = sample_share(setting)
        found = minimize_scalar(train, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
        assert train(claimed) <= found.fun + 1e-9 * abs(found.fun)
    assert error(sample_share(S1), S1) == pytest.approx(0.103890633138, rel=1e-9)
    assert error(sample_share(S2), S2) == pytest.approx(0.184371838051, rel=1e-9)


def test_step_5_order():
    checked = 0
    for setting in settings(4000, 5, least_c=1):
        d, c, eta, *_, epsilon = setting
        if epsilon < eta:
            checked += 1
            assert (d - c) / (d + 1) > best_share(setting) > sample_share(setting) > 0
    assert checked > 1000
    above = (50, 3, 0.9, 4.0, 1.0, 0.1)  # rho (eta - epsilon) > 1 - epsilon: the order reverses
    assert 47 / 51 < best_share(above) < sample_share(above)
    c, rho, gap, room = sp.symbols("c rho M r", positive=True)  # r = 1 - epsilon
    true, sample = gap * (c + rho) / (room + c * gap), rho * gap / room
    assert sp.simplify((1 - true) * (room + c * gap) - (room - rho * gap)) == 0
    difference = (true - sample) * (room + c * gap) * room / gap
    assert sp.simplify(difference - c * (room - rho * gap)) == 0


def test_step_6_no_overshoot_when_epsilon_reaches_eta():
    checked = 0
    for setting in settings(1500, 6):
        margin_b, margin_a, *_ = parts(*setting)
        if margin_b <= 0 <= margin_a:
            checked += 1
            assert np.all(np.diff(score(np.linspace(0, 1, 200), setting)) < 0)
    assert checked > 100
    values = error(np.linspace(0, 1, 500), S5)
    assert np.all(np.diff(values) > 0)
    assert values[0] == pytest.approx(0.32930, abs=5e-6)
    assert error(90 / 101, S5) == pytest.approx(0.44434, abs=5e-6)


def test_step_7_negative_margin():
    checked = above_one = 0
    for setting in settings(3000, 7, top_epsilon=1.5):
        d, c, *_, epsilon = setting
        margin_b, margin_a, q0, q1 = parts(*setting)
        if margin_a >= 0:
            continue
        checked += 1
        assert margin_b < 0
        worst = margin_b * q0 / (margin_b * q0 + margin_a * q1)
        shares = np.linspace(0, 1, 400)
        slopes = -np.diff(score(shares, setting))  # of the sign of R'
        assert np.all(score(shares, setting) < 0)
        middle = (shares[1:] + shares[:-1]) / 2
        assert np.all(slopes[middle < worst - 0.003] > 0)
        assert np.all(slopes[middle > worst + 0.003] < 0)
        if epsilon <= 1:
            assert worst > (d - c) / (d + 1)
        else:
            above_one += worst < (d - c) / (d + 1)
    assert checked > 200
    assert above_one > 0  # so the restriction to epsilon <= 1 is needed
    assert error(90 / 101, S6) == pytest.approx(0.82120, abs=5e-6)
    assert error(0.0, S6) == pytest.approx(0.52520, abs=5e-6)


def slope(share, setting, s):
    """dF/dB of the logistic risk on the sample distribution, on the simplex at scale s."""
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    m = 1 - (1 - eta) * share - epsilon
    v = sigma_a**2 * (1 - share) ** 2 / (1 + c) + sigma_b**2 * share**2 / (d - c)
    dv = -2 * sigma_a**2 * (1 - share) / (1 + c) + 2 * sigma_b**2 * share / (d - c)
    z = s * (m + np.sqrt(v) * NODES)
    second = (expit(z) * expit(-z)) @ WEIGHTS
    return s * (1 - eta) * (expit(-z) @ WEIGHTS) + s**2 / 2 * second * dv


def test_step_8_flows():
    rng = default_rng(8)
    d, c = 7, 2
    gradient = np.r_[np.full(c + 1, rng.normal()), np.full(d - c, rng.normal())]
    for share in (0.2, 0.7):
        w = np.r_[np.full(c + 1, (1 - share) / (1 + c)), np.full(d - c, share / (d - c))]
        slope_b = gradient[-1] - gradient[0]
        replicator = -w * (gradient - w @ gradient)
        assert replicator[c + 1 :].sum() == pytest.approx(-share * (1 - share) * slope_b)
        projected = -(gradient - gradient.mean())
        claimed = -(d - c) * (1 + c) / (d + 1) * slope_b
        assert projected[c + 1 :].sum() == pytest.approx(claimed)


def test_step_8_overshoot_along_the_flow():
    def rate(_, logit):  # in the logit of B the flow is minus F'
        return -slope(expit(logit[0]), S1, 1.0)

    times = np.array([0, 1, 10, 20, 60.0])
    start = np.log(99 / 2)
    flow = solve_ivp(rate, (0, 60), [start], t_eval=times, rtol=1e-9, atol=1e-11, dense_output=True)
    shares = expit(flow.y[0])
    for value, at in [(0.972298934095, 1), (0.646260236014, 2), (0.116684214433, 3)]:
        assert shares[at] == pytest.approx(value, rel=1e-6)
    errors = error(shares, S1)
    assert errors[1] == pytest.approx(0.0964187183777, rel=1e-6)
    assert errors[2] == pytest.approx(0.0583757842517, rel=1e-6)
    path = error(expit(flow.sol(np.linspace(0, 60, 3000))[0]), S1)
    least = path.argmin()
    assert np.all(np.diff(path[: least + 1]) < 0)
    assert np.all(np.diff(path[least:]) > 0)
    when = brentq(lambda t: expit(flow.sol(t)[0]) - best_share(S1), 1, 20)
    assert when == pytest.approx(7.10156901414, rel=1e-6)


def test_step_9_not_specific_to_adversarial_training():
    for epsilon, rise in [(0.0, 5690), (0.1, 43.8), (0.2, 2.32), (0.26, 1.06), (0.28, 1.0)]:
        setting = (*S1[:5], epsilon)
        ratio = error(0.0, setting) / error(best_share(setting), setting)
        assert ratio == pytest.approx(rise, rel=3e-3)


def test_step_10_variance_does_not_decide():
    for setting in settings(500, 10):
        d, c, eta, sigma_a, sigma_b, epsilon = setting
        margin_b, margin_a, *_ = parts(*setting)
        assert margin_a - margin_b == pytest.approx((1 - eta) / (1 + c))
        rho = (sigma_a / sigma_b) ** 2
        variance_ratio = (c + rho) / (1 + c)
        if epsilon < eta:
            true_ratio = margin_b * (c + rho) / ((1 - epsilon) + c * margin_b)
            assert true_ratio / variance_ratio == pytest.approx(margin_b / margin_a)
            assert best_share(setting) < share_of(variance_ratio, d, c)
        elif margin_a >= 0:
            assert score(0.0, setting) > score(share_of(variance_ratio, d, c), setting)
    rho = (0.05 / 0.7) ** 2
    at_variance_optimum = error(share_of((1 + rho) / 2, 100, 1), S1)
    assert at_variance_optimum == pytest.approx(0.0866863517934, rel=1e-9)


def test_step_11_control():
    for setting in settings(200, 11):
        control = (setting[0], 0, *setting[2:])
        assert best_share(control) == pytest.approx(sample_share(control))
    noisy = (200, 0, 0.28, 0.6, 0.9, 0.2)
    values = [error(b, noisy) for b in (200 / 201, best_share(noisy), 0.0)]
    assert values == pytest.approx([0.0937, 0.0334, 0.0912], abs=5e-5)
    assert slope(0.0, noisy, 1.0) > 0  # at scale 1 training does run on to 0
    sharp = (100, 0, *S1[2:])
    assert error(0.0, sharp) < 1e-50


def test_free_scale_flow_numerically():
    d, c, eta, sigma_a, sigma_b, epsilon = S1

    def rate(_, w):
        a, b = w
        m = (1 + c) * a * (1 - epsilon) + (d - c) * b * (eta - epsilon)
        v = (1 + c) * a**2 * sigma_a**2 + (d - c) * b**2 * sigma_b**2
        z = m + np.sqrt(v) * NODES
        push, curve = expit(-z) @ WEIGHTS, (expit(z) * expit(-z)) @ WEIGHTS
        return [
            push * (1 - epsilon) - curve * sigma_a**2 * a,
            push * (eta - epsilon) - curve * sigma_b**2 * b,
        ]

    times = np.r_[0.0, 4, 100, 1000, 10_000]
    flow = solve_ivp(rate, (0, 10_000), [1 / 101, 1 / 101], "LSODA", times, rtol=1e-8, atol=1e-10)
    a, b = flow.y
    errors = error((d - c) * b / ((1 + c) * a + (d - c) * b), S1)
    assert errors[0] == pytest.approx(0.10436, abs=5e-6)
    assert errors[1] < 0.047
    assert np.all(np.diff(errors[1:]) > 0)
    assert errors[[2, 3, 4]] == pytest.approx([0.05076, 0.05788, 0.06447], abs=5e-6)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
