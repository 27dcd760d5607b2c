"""Executable check of avmixup.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss
from numpy.random import default_rng
from scipy import integrate
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtr

NODES = np.linspace(-10, 10, 401)
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()
U, U_WEIGHTS = leggauss(24)
U, U_WEIGHTS = (U + 1) / 2, U_WEIGHTS / 2
# d, c, eta, sigma_A, sigma_B, epsilon
S1 = (100, 1, 0.28, 0.05, 0.7, 0.2)
S2 = (1000, 1, 0.28, 0.05, 1.0, 0.2)
S4 = (200, 10, 0.25, 0.05, 0.4, 0.2)
S5 = (100, 10, 0.3, 0.1, 0.5, 0.3)


def soft_loss(z, q):
    return np.logaddexp(0, -z) + (1 - q) * z


def moments(m, t, norm, epsilon, av):
    """Risk, G0, G1, H for a clean margin N(m, t^2) and weights of this l1 norm."""
    gamma, lambda1, lambda2 = av
    size = U * gamma * epsilon
    z = (m - size * norm)[:, None] + t * NODES
    q = (lambda1 - U * (lambda1 - lambda2))[:, None]
    risk = U_WEIGHTS @ (soft_loss(z, q) @ WEIGHTS)
    gap = (expit(-z) - (1 - q)) @ WEIGHTS  # q - sigma(z), exact where sigma(z) rounds to 1
    curve = U_WEIGHTS @ ((expit(z) * expit(-z)) @ WEIGHTS)
    return risk, U_WEIGHTS @ gap, U_WEIGHTS @ (size * gap), curve


def features(d, c, eta, sigma_a, sigma_b):
    return (
        np.r_[np.ones(c + 1), np.full(d - c, eta)],
        np.r_[np.full(c + 1, sigma_a), np.full(d - c, sigma_b)],
    )


def tied(p, setting):
    """Margin and deviation for total weights p = (on A, on B)."""
    d, c, eta, sigma_a, sigma_b, _ = setting
    t = np.sqrt(p[0] ** 2 * sigma_a**2 / (1 + c) + p[1] ** 2 * sigma_b**2 / (d - c))
    return p[0] + eta * p[1], t


def optimum(setting, av, start=(0.5, 0.5)):
    """The total weights (on A, on B) at the minimum, by descent on the logarithm of the risk."""
    d, c, eta, sigma_a, sigma_b, epsilon = setting

    def risk(p):
        m, t = tied(p, setting)
        value, g0, g1, curve = moments(m, t, p.sum(), epsilon, av)
        noise = np.array([sigma_a**2 / (1 + c), sigma_b**2 / (d - c)])
        return np.log(value), (p * noise * curve - g0 * np.array([1, eta]) + g1) / value

    options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 3000, "maxfun": 10_000}
    return minimize(risk, start, jac=True, bounds=[(0, None)] * 2, options=options).x


def test_error(share, setting):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    m = (1 + c * eta) / (1 + c) * (1 - share) + eta * share - epsilon
    v = (sigma_a**2 + c * sigma_b**2) * (1 - share) ** 2 / (1 + c) ** 2
    return ndtr(-m / np.sqrt(v + sigma_b**2 * share**2 / (d - c)))


test_error.__test__ = False


def settings(count, seed):
    rng = default_rng(seed)
    for _ in range(count):
        d = int(rng.integers(2, 30))
        sigma_b = rng.uniform(0.4, 1.5)
        sigma_a = sigma_b * rng.uniform(0.1, 0.9)
        setting = (d, int(rng.integers(0, d)), rng.uniform(0, 0.9), sigma_a, sigma_b)
        av = (rng.uniform(1, 3), rng.uniform(0.3, 1), rng.uniform(0.3, 1))
        yield (*setting, rng.uniform(0.05, 0.6)), av


def test_step_1_objective_and_convexity():
    rng, size = default_rng(1), 400_000
    (d, c, eta, sigma_a, sigma_b), epsilon, av = (4, 1, 0.3, 0.4, 0.9), 0.25, (2.0, 1.0, 0.5)
    mu, sigma = features(d, c, eta, sigma_a, sigma_b)
    w = rng.uniform(0.1, 1, d + 1)
    y, alpha = rng.choice([-1.0, 1.0], size), rng.uniform(size=size)
    x = y[:, None] * mu + sigma * rng.standard_normal((size, d + 1))
    vertex = x - 2.0 * epsilon * y[:, None] * np.sign(w)  # Equation (12)
    x_hat = alpha[:, None] * x + (1 - alpha[:, None]) * vertex
    label = alpha * 1.0 + (1 - alpha) * 0.5
    margin = y * (x_hat @ w)
    loss = label * np.logaddexp(0, -margin) + (1 - label) * np.logaddexp(0, margin)
    claimed = moments(w @ mu, np.sqrt(np.sum(w**2 * sigma**2)), w.sum(), epsilon, av)[0]
    assert loss.mean() == pytest.approx(claimed, abs=4 * loss.std() / np.sqrt(size))
    for setting, other in settings(30, 1):
        p, r = rng.uniform(0, 4, (2, 2))
        risks = [
            moments(*tied(v, setting), v.sum(), setting[-1], other)[0] for v in (p, (p + r) / 2, r)
        ]
        assert risks[1] < (risks[0] + risks[2]) / 2
        far = moments(*tied(200 * p, setting), 200 * p.sum(), setting[-1], other)[0]
        assert far > risks[0]


def test_step_2_stationarity():
    rng = default_rng(2)
    for (d, c, eta, sigma_a, sigma_b, epsilon), av in settings(20, 2):
        mu, sigma = features(d, c, eta, sigma_a, sigma_b)
        w = rng.uniform(0, 1, d + 1)

        def risk(w, mu=mu, sigma=sigma, epsilon=epsilon, av=av):
            return moments(w @ mu, np.sqrt(np.sum(w**2 * sigma**2)), w.sum(), epsilon, av)

        _, g0, g1, curve = risk(w)
        claimed = -(g0 * mu - g1) + w * sigma**2 * curve
        for i in (0, d):
            h = 1e-5 * np.eye(d + 1)[i]
            assert claimed[i] == pytest.approx((risk(w + h)[0] - risk(w - h)[0]) / 2e-5, abs=1e-8)


def test_step_2_minimiser_in_full_dimension():
    for (d, c, eta, sigma_a, sigma_b, epsilon), av in settings(12, 22):
        mu, sigma = features(d, c, eta, sigma_a, sigma_b)

        def risk(w, mu=mu, sigma=sigma, epsilon=epsilon, av=av):
            t = np.sqrt(np.sum(w**2 * sigma**2))
            value, g0, g1, curve = moments(w @ mu, t, w.sum(), epsilon, av)
            return value, -(g0 * mu - g1) + w * sigma**2 * curve

        options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 3000}
        start = np.full(d + 1, 0.2)
        w = minimize(risk, start, jac=True, bounds=[(0, None)] * (d + 1), options=options).x
        t = np.sqrt(np.sum(w**2 * sigma**2))
        _, g0, g1, curve = moments(w @ mu, t, w.sum(), epsilon, av)
        claimed = np.maximum(g0 * mu - g1, 0) / (sigma**2 * curve)
        assert w == pytest.approx(claimed, abs=1e-4 * (1 + w.max()))


def test_step_3_effective_epsilon():
    rng = default_rng(3)
    for _ in range(30):  # a constant size: kappa is epsilon, whatever the label
        m, t, norm, epsilon, q = rng.uniform(0.1, 1, 5)
        z = m - epsilon * norm + t * NODES
        g0, g1 = (q - expit(z)) @ WEIGHTS, (epsilon * (q - expit(z))) @ WEIGHTS
        assert g1 / g0 == pytest.approx(epsilon)
    p = optimum(S1, (2.0, 1.0, 0.5))
    _, g0, g1, _ = moments(*tied(p, S1), p.sum(), 0.2, (2.0, 1.0, 0.5))
    assert g0 < 0
    assert g1 / g0 == pytest.approx(1.05, abs=0.01)  # S1 acts as if epsilon exceeded 1


def test_step_4_all_cases():
    seen = set()
    for setting, av in settings(120, 4):
        d, c, eta, sigma_a, sigma_b, epsilon = setting
        p = optimum(setting, av)
        if p.sum() < 1e-3:
            continue
        _, g0, g1, _ = moments(*tied(p, setting), p.sum(), epsilon, av)
        if abs(g0) < 1e-4:
            continue
        rho, kappa = (sigma_a / sigma_b) ** 2, g1 / g0
        a, b = p[0] / (1 + c), p[1] / (d - c)
        if g0 > 0:
            case, claimed = "confident enough", rho * max(eta - kappa, 0) / (1 - kappa)
            assert kappa < 1
            assert b / a < rho
        elif kappa > 1:
            case, claimed = "over-confident", rho * (kappa - eta) / (kappa - 1)
            assert b / a > rho
        else:
            case, claimed = "all on B", None
            assert eta < kappa
            assert a < 1e-6
        seen.add(case)
        if claimed is not None:
            assert b / a == pytest.approx(claimed, rel=2e-2, abs=1e-4)
    assert seen == {"confident enough", "over-confident", "all on B"}


def test_step_5_without_softening():
    checked = 0
    for setting, av in settings(300, 5):
        d, c, eta, sigma_a, sigma_b, epsilon = setting
        rarest = np.sqrt((1 + c) / sigma_a**2 + (d - c) * eta**2 / sigma_b**2)
        if av[0] * epsilon > 0.8 or rarest > 6:  # a hard-label risk is all tail: keep it in range
            continue
        checked += 1
        hard = (av[0], 1.0, 1.0)
        p = optimum(setting, hard)
        _, g0, g1, _ = moments(*tied(p, setting), p.sum(), epsilon, hard)
        assert g0 > 0
        assert 0 < g1 / g0 < av[0] * epsilon
        ratio = (p[1] / (d - c)) / (p[0] / (1 + c))
        assert ratio <= (sigma_a / sigma_b) ** 2 * eta * (1 + 1e-3)
    assert checked > 10


def test_step_6_fixed_scale():
    def simplex(share, setting, s, av):
        m, t = tied((1 - share, share), setting)
        return moments(s * m, s * t, s, setting[-1], av)

    for setting, av in settings(30, 6):
        d, c, eta, sigma_a, sigma_b, _ = setting
        for s in (1.0, 5.0):
            for b in (0.2, 0.7):
                _, g0, _, curve = simplex(b, setting, s, av)
                dv = -2 * sigma_a**2 * (1 - b) / (1 + c) + 2 * sigma_b**2 * b / (d - c)
                claimed = s * (1 - eta) * g0 + s**2 / 2 * curve * dv
                up, down = (simplex(b + h, setting, s, av)[0] for h in (1e-5, -1e-5))
                assert claimed == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-8)
            value, g0, _, curve = simplex(0.0, setting, s, av)
            at_zero = (1 - eta) * g0 - s * sigma_a**2 / (1 + c) * curve
            others = min(simplex(b, setting, s, av)[0] for b in np.linspace(0.01, 1, 30))
            if abs(at_zero) > 5e-3:
                assert (at_zero > 0) == (others > value)


def fit(lambda1, lambda2):
    """The line fitted to the soft labels, by Newton on the two normal equations."""
    q, line = lambda1 - U * (lambda1 - lambda2), np.zeros(2)
    design = np.stack([np.ones_like(U), -U], axis=1)
    for _ in range(100):
        z = design @ line
        gradient = design.T @ (U_WEIGHTS * (expit(z) - q))
        hessian = (design.T * (U_WEIGHTS * expit(z) * expit(-z))) @ design
        line = line - np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-12
    return line


def test_step_7_line_fit():
    for lambdas in [(1.0, 0.5), (1.0, 0.7), (0.9, 0.7), (0.5, 0.7)]:
        z0, k = fit(*lambdas)
        for power in (0, 1):
            residual = integrate.quad(
                lambda u, z0=z0, k=k, at=lambdas, power=power: (
                    u**power * (at[0] - u * (at[0] - at[1]) - expit(z0 - k * u))
                ),
                0,
                1,
            )[0]
            assert residual == pytest.approx(0, abs=1e-9)
    z0, k = fit(1.0, 0.5)
    assert z0 / k == pytest.approx(0.929109827136, rel=1e-8)
    z0, k = fit(1.0, 0.7)
    assert z0 / k == pytest.approx(1.24697964712, rel=1e-8)
    for lambdas, value in [((1.0, 0.9), 1.878), ((0.9, 0.7), 1.616)]:
        z0, k = fit(*lambdas)
        assert z0 / k == pytest.approx(value, abs=6e-4)


def test_step_8_reachable_cone():
    rng = default_rng(8)
    mu, _ = features(9, 2, 0.3, 1.0, 1.0)
    for w in rng.exponential(size=(100, 10)):
        share = w[3:].sum() / w.sum()
        assert mu @ w / w.sum() == pytest.approx(1 - (1 - 0.3) * share)
    z = rng.uniform(-4, 4, 50)
    for t in (0.1, 1.0):  # Jensen: noise only adds to the risk
        noisy = soft_loss(z[:, None] + t * NODES, 0.8) @ WEIGHTS
        assert np.all(noisy > soft_loss(z, 0.8))


def quiet(setting, factor):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    return d, c, eta, sigma_a * factor, sigma_b * factor, epsilon


@pytest.mark.parametrize(
    "av", [(2.0, 1.0, 0.5), (2.0, 1.0, 0.7), (1.5, 0.9, 0.7), (2.5, 1.0, 0.9), (1.0, 1.0, 0.5)]
)
def test_step_9_prescribed_sensitivity(av):
    z0, k = fit(av[1], av[2])
    for setting in (S1, S4):
        eta, epsilon = setting[2], setting[5]
        limit = np.clip((1 - av[0] * epsilon * z0 / k) / (1 - eta), 0, 1)
        p = optimum(quiet(setting, 0.03), av)
        assert p[1] / p.sum() == pytest.approx(limit, abs=3e-3)
        if 0 < limit < 1:
            assert p.sum() * av[0] * epsilon == pytest.approx(k, rel=1e-2)


def test_step_10_sign_of_the_slope():
    rng = default_rng(10)
    for lambda1, lambda2 in rng.uniform(0.05, 0.98, (60, 2)):
        _, k = fit(lambda1, lambda2)
        assert np.sign(k) == np.sign(lambda1 - lambda2)
        middle = (lambda1 + lambda2) / 2  # sigma of the best constant logit: the mean label
        slope = -U_WEIGHTS @ (U * (middle - (lambda1 - U * (lambda1 - lambda2))))
        assert slope == pytest.approx(-(lambda1 - lambda2) / 12)


def test_step_11_increasing_labels_do_nothing():
    z0, k = fit(0.5, 0.7)
    assert z0 < 0
    assert k < 0
    assert z0 / k == pytest.approx(0.011, abs=5e-4)
    z0, k = fit(0.8, 0.8)
    assert z0 == pytest.approx(logit(0.8))
    assert k == pytest.approx(0, abs=1e-9)
    for av in [(1.0, 0.5, 0.7), (2.0, 0.9, 0.9), (1.0, 0.8, 0.9)]:
        for setting in (S1, S4, S5):
            p = optimum(quiet(setting, 0.1), av)
            assert p[1] / p.sum() < 2e-3


def test_step_12_tuning_and_harm():
    shares = {S1: 0.818937644342, S4: 0.869344868445, S2: 0.978505076954}  # overshoot.md
    z0, k = fit(1.0, 0.5)
    for setting, gamma in [(S1, 2.21), (S4, 1.87), (S2, 1.59)]:
        formula = (1 - (1 - setting[2]) * shares[setting]) / (setting[5] * z0 / k)
        assert formula == pytest.approx(gamma, abs=6e-3)
        p = optimum(quiet(setting, 0.02), (formula, 1.0, 0.5))
        assert p[1] / p.sum() == pytest.approx(shares[setting], abs=2e-3)
    double = (100, 10, 0.15, 0.1, 0.5, 0.3)  # epsilon = 2 eta
    for setting in (S5, double):
        for lambda2 in (0.5, 0.7):
            p = optimum(setting, (2.0, 1.0, lambda2))
            assert p[1] > 0.1
            assert test_error(p[1] / p.sum(), setting) > test_error(0.0, setting)


TABLE = {
    (2.0, 1.0, 0.5): ["0.797 0.0456", "0.826 0.0238", "0.857 0.0430", "0.612 0.3510"],
    (2.0, 1.0, 0.7): ["0.596 0.0636", "0.651 0.0482", "0.674 0.1153", "0.339 0.3321"],
    (2.0, 1.0, 0.9): ["0.262 0.0915", "0.315 0.1115", "0.325 0.1697", "0.000 0.3293"],
    (1.0, 1.0, 0.5): ["0.932 0.0671", "1.000 0.0424", "1.000 0.0057", "0.955 0.4773"],
    (1.0, 0.5, 0.7): ["0.000 0.1049", "0.000 0.1522", "0.000 0.1897", "0.000 0.3293"],
}


@pytest.mark.parametrize("av", TABLE)
def test_table_at_finite_noise(av):
    for setting, cell in zip((S1, S4, S2, S5), TABLE[av], strict=True):
        share, error = map(float, cell.split())
        p = optimum(setting, av, start=(1.0, 3.0))
        assert p[1] / p.sum() == pytest.approx(share, abs=6e-4)
        assert test_error(p[1] / p.sum(), setting) == pytest.approx(error, abs=6e-5)


def test_table_closed_forms():
    best = ["0.819 0.0453", "0.869 0.0224", "0.979 0.0037", "0.000 0.3293"]
    trained = ["0.025 0.1039", "0.017 0.1505", "0.111 0.1844", "0.000 0.3293"]
    for setting, *cells in zip((S1, S4, S2, S5), best, trained, strict=True):
        d, c, eta, sigma_a, sigma_b, epsilon = setting
        rho, gap = (sigma_a / sigma_b) ** 2, max(eta - epsilon, 0)
        true_ratio = gap * (c + rho) / ((1 - epsilon) + c * gap)  # overshoot.md, steps 3 and 4
        for ratio, cell in zip((true_ratio, rho * gap / (1 - epsilon)), cells, strict=True):
            share, error = map(float, cell.split())
            found = (d - c) * ratio / ((1 + c) + (d - c) * ratio)
            assert found == pytest.approx(share, abs=6e-4)
            assert test_error(found, setting) == pytest.approx(error, abs=6e-5)


def test_reference_values():
    p = optimum(S1, (2.0, 1.0, 0.5))
    assert p.sum() == pytest.approx(5.51270177893, rel=1e-6)
    assert p[1] / p.sum() == pytest.approx(0.797113172363, rel=1e-6)
    assert test_error(p[1] / p.sum(), S1) == pytest.approx(0.0456392596935, rel=1e-6)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
