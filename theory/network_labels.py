"""Executable check of network_labels.md, one test a step. Independent of avmixup_kit."""

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from numpy.random import default_rng
from scipy.optimize import brentq, minimize, root
from scipy.special import expit, logit, ndtr

NODES = np.linspace(-9, 9, 301)
WEIGHTS = np.exp(-(NODES**2) / 2)
WEIGHTS /= WEIGHTS.sum()
U, U_WEIGHTS = leggauss(24)
U, U_WEIGHTS = (U + 1) / 2, U_WEIGHTS / 2
# d, c, eta, sigma_A, sigma_B, epsilon
S1 = (100, 1, 0.28, 0.05, 0.7, 0.2)
S4 = (200, 10, 0.25, 0.05, 0.4, 0.2)
S5 = (100, 10, 0.3, 0.1, 0.5, 0.3)


def softplus(z):
    return np.logaddexp(0, z)


def groups(setting):
    """Means and variances of the sums over A and over B, for total weights."""
    d, c, eta, sigma_a, sigma_b, _ = setting
    return np.array([1, eta]), np.array([sigma_a**2 / (1 + c), sigma_b**2 / (d - c)])


def settings(count, seed, low_eta=0.05):
    """Settings with visible noise, so that no integral is all tail."""
    rng = default_rng(seed)
    for _ in range(count):
        d = int(rng.integers(2, 20))
        sigma_b = rng.uniform(0.6, 1.5)
        sigma_a = sigma_b * rng.uniform(0.3, 0.9)
        c, eta = int(rng.integers(0, d)), rng.uniform(low_eta, 0.9)
        yield (d, c, eta, sigma_a, sigma_b, rng.uniform(0.05, 0.6))


def one(k, r=0.0, temperature=1.0, asked=0.0):
    """One point: a list of (weight, push, given part, temperature, push at which it is asked)."""
    return [(1.0, k, r, temperature, asked)]


def along(reach, temperature=1.0, asked=0.0, given=0.0):
    """AVmixup's segment; asked=None asks at the point."""
    return [
        (p, u * reach, 1 - u * (1 - given), temperature, u * reach if asked is None else asked)
        for p, u in zip(U_WEIGHTS, U, strict=True)
    ]


def asked_of(v, mean, variance, r, temperature, where):
    """E q and P for each given part r, temperature and push, by one integral over a margin."""
    r, temperature, where = np.broadcast_arrays(r, temperature, where)
    m, t = v @ mean - where * v.sum(), np.sqrt(v**2 @ variance)
    if not temperature.any():
        density = np.exp(-((m / t) ** 2) / 2) / np.sqrt(2 * np.pi) / t
        return r + (1 - r) * ndtr(m / t), (1 - r) * density
    z = (m[..., None] + t * NODES) / temperature[..., None]
    slope = (expit(z) * expit(-z)) @ WEIGHTS / temperature
    return r + (1 - r) * (expit(z) @ WEIGHTS), (1 - r) * slope


def numbers(w, v, mean, variance, points):
    """G0, G1, H, P and the risk."""
    p, k, *label = np.array(points).T
    q, pull = asked_of(v, mean, variance, *label)
    m = w @ mean - k * w.sum()
    z = m[:, None] + np.sqrt(w**2 @ variance) * NODES
    gap = expit(-z) @ WEIGHTS - (1 - q)  # q - sigma(z), exact where sigma(z) rounds to 1
    risk = softplus(-z) @ WEIGHTS + (1 - q) * m - pull * ((w * v) @ variance)
    return p @ np.stack([gap, k * gap, (expit(z) * expit(-z)) @ WEIGHTS, pull, risk], axis=1)


def force(w, v, mean, variance, points):
    g0, g1, h, p, _ = numbers(w, v, mean, variance, points)
    return g0 * mean - g1 - variance * (h * w - p * v)


def minimiser(v, mean, variance, points, start=None):
    def risk(w):
        g0, g1, h, p, value = numbers(w, v, mean, variance, points)
        return value, g1 - g0 * mean + variance * (h * w - p * v)

    options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 5000, "maxfun": 20_000}
    start = np.full(mean.size, 0.5) if start is None else start
    bounds = [(0, None)] * mean.size
    return minimize(risk, start, jac=True, bounds=bounds, options=options).x


def gap_at(w, v, mean, variance, points):
    return numbers(w, v, mean, variance, points)[0]


def ratio(w, setting):
    """(b/a) / rho from totals."""
    mean, variance = groups(setting)
    return w[1] * variance[1] / (w[0] * variance[0])


def hard(mean, variance, k):
    return np.maximum(mean - k, 0) / variance


def share(w):
    return w[1] / w.sum()


def robust_share(setting):
    """The robust optimum, overshoot.md steps 3 and 6, where it has a margin."""
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    gap = max(eta - epsilon, 0)
    top = gap * (sigma_a**2 + c * sigma_b**2) / (1 + c) ** 2
    bottom = ((1 - epsilon) + c * (eta - epsilon)) / (1 + c) * sigma_b**2 / (d - c)
    return top / (top + bottom)


def test_error(B, setting):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    m = (1 + c * eta) / (1 + c) * (1 - B) + eta * B - epsilon
    v = (sigma_a**2 + c * sigma_b**2) * (1 - B) ** 2 / (1 + c) ** 2
    return ndtr(-m / np.sqrt(v + sigma_b**2 * B**2 / (d - c)))


test_error.__test__ = False


def test_step_1_force():
    """Against a plane of quadrature nodes: the label is asked image by image."""
    rng = default_rng(1)
    nodes, weights = hermegauss(90)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    g = np.stack(np.meshgrid(nodes, nodes, indexing="ij")).reshape(2, -1)
    for _ in range(12):
        mean, sigma = rng.uniform(0, 1, 2), rng.uniform(0.3, 0.9, 2)
        w, v = rng.uniform(0.2, 1.5, (2, 2))
        points = [
            (p, *rng.uniform(0, 1, 2), rng.uniform(0.7, 3), rng.uniform(0, 1)) for p in (1, 2)
        ]
        x = mean[:, None] + sigma[:, None] * g

        def risk(w, x=x, v=v, points=points):
            total = 0.0
            for p, k, r, temperature, asked in points:
                q = r + (1 - r) * expit((v @ x - asked * v.sum()) / temperature)
                z = w @ x - k * w.sum()
                total += p * (softplus(-z) + (1 - q) * z) @ weights
            return total

        assert risk(w) == pytest.approx(numbers(w, v, mean, sigma**2, points)[4], rel=1e-6)
        for i, h in enumerate(np.eye(2) * 1e-5):
            slope = (risk(w + h) - risk(w - h)) / 2e-5
            claimed = -force(w, v, mean, sigma**2, points)[i]
            assert claimed == pytest.approx(slope, abs=1e-6)


def test_step_1_force_of_an_arg_max():
    rng, size = default_rng(11), 2_000_000
    mean, sigma = np.array([1.0, 0.4]), np.array([0.8, 0.9])
    w, v, k, asked = np.array([0.7, 0.4]), np.array([0.9, 0.5]), 0.6, 0.3
    x = mean[:, None] + sigma[:, None] * rng.standard_normal((2, size))
    gap = (v @ x - asked * v.sum() > 0) - expit(w @ x - k * w.sum())
    claimed = force(w, v, mean, sigma**2, one(k, 0.0, 0, asked))
    for i in range(2):
        draws = gap * (x[i] - k)
        assert draws.mean() == pytest.approx(claimed[i], abs=4 * draws.std() / np.sqrt(size))


def test_step_2_one_minimiser_in_full_dimension():
    rng = default_rng(2)
    for d, c, eta, sigma_a, sigma_b, epsilon in settings(8, 2):
        mean = np.r_[np.ones(c + 1), np.full(d - c, eta)]
        variance = np.r_[np.full(c + 1, sigma_a**2), np.full(d - c, sigma_b**2)]
        v = rng.uniform(0, 1, d + 1)
        points = along(2 * epsilon, rng.uniform(0.5, 3), 0.0, rng.uniform(0, 1))
        w = minimiser(v, mean, variance, points)
        other = minimiser(v, mean, variance, points, rng.uniform(0, 2, d + 1))
        g0, g1, h, p, _ = numbers(w, v, mean, variance, points)
        claimed = np.maximum(g0 * mean - g1 + p * variance * v, 0) / (variance * h)
        assert w == pytest.approx(claimed, abs=1e-4 * (1 + w.max()))
        assert other == pytest.approx(w, abs=1e-4 * (1 + w.max()))


def test_step_2_an_arg_max_at_the_point_has_none():
    for setting in settings(6, 22):
        mean, variance = groups(setting)
        v = mean / variance
        unit = v / v.sum()
        here, elsewhere = one(0.5, 0.0, 0, 0.5), one(0.5, 0.0, 0, 0.2)
        risks = [numbers(t * unit, v, mean, variance, here)[4] for t in (1, 10, 100, 400)]
        assert np.all(np.diff(risks) < 0)
        assert risks[-1] < 0.02
        far, further = (numbers(t * unit, v, mean, variance, elsewhere)[4] for t in (300, 600))
        assert further > far
        given = one(0.5, 0.3, 0, 0.5)
        far, further = (numbers(t * unit, v, mean, variance, given)[4] for t in (300, 600))
        assert further > far


def test_step_3_point_and_label_add_up():
    rng = default_rng(3)
    negative = 0
    for setting in settings(60, 3):
        mean, variance = groups(setting)
        eta, tau = setting[2], rng.uniform(0.2, 2)
        radius = rng.uniform(0, eta)
        v = tau * (mean - radius) / variance
        k, t = rng.uniform(0.1, 0.9), rng.uniform(0.5, 8)
        points = along(k, t) if rng.uniform() < 0.5 else one(k, 0.0, t, rng.uniform(0, 1.5))
        w = minimiser(v, mean, variance, points)
        g0, g1, h, p, _ = numbers(w, v, mean, variance, points)
        if g0 > 0:
            added = np.maximum(g0 / h * (mean - g1 / g0) / variance + p / h * v, 0)
            assert w == pytest.approx(added, abs=1e-4 * (1 + w.max()))
        if g0 + p * tau > 1e-3:
            blended = hard(mean, variance, (g1 + p * tau * radius) / (g0 + p * tau))
            assert share(w) == pytest.approx(share(blended), abs=2e-3)
            negative += g0 < 0
    assert negative > 3


def rest_points(mean, variance, points, starts):
    """Positive rest points of the own label, by Newton from many starts."""
    for start in starts:
        found = root(lambda w: force(w, w, mean, variance, points), start, tol=1e-12)
        if found.success and (found.x > 1e-3).all() and np.abs(found.fun).max() < 1e-9:
            yield found.x


def test_step_4_own_labels_are_direction_neutral():
    rng, found, sides = default_rng(4), 0, set()
    for setting in settings(30, 4, low_eta=0.3):
        mean, variance = groups(setting)
        k = rng.uniform(0, 0.9 * setting[2])
        t, r = rng.uniform(1, 4), rng.choice([0.0, 0.4, 0.8])
        points = one(k, r, t, rng.uniform(0, k))
        for w in rest_points(mean, variance, points, rng.uniform(0.1, 4, (6, 2))):
            g0, _, h, p, _ = numbers(w, w, mean, variance, points)
            if abs(g0) > 1e-6:
                found += 1
                sides.add(g0 > 0)
                assert (h > p) == (g0 > 0)
                assert share(w) == pytest.approx(share(hard(mean, variance, k)), abs=1e-5)
    assert found > 20
    assert True in sides


def test_step_4_without_features_below_the_push():
    found = 0
    for setting in settings(12, 44):
        mean, variance = groups(setting)
        k = (1 + setting[2]) / 2  # above eta: B gets nothing
        points = one(k, 0.5, 2.0, 0.0)
        assert not list(rest_points(mean, variance, points, default_rng(4).uniform(0.1, 4, (5, 2))))
        path = descent(np.array([0.6, 0.6]), mean, variance, points, 1500)
        found += path[-1][1] == 0 < path[-1][0]
    assert found == 12
    for t in (1.0, 2.0, 5.0):  # a normal variable of negative mean has a positive bracket
        z = -0.7 + 1.3 * NODES
        assert (expit(z / t) - expit(z)) @ WEIGHTS >= 0


def descent(w, mean, variance, points, steps):
    """Descend on the own label, projected onto the orthant."""
    path = [w]
    for _ in range(steps):
        w = np.maximum(w + 0.3 * force(w, w, mean, variance, points), 0)
        path.append(w)
    return np.array(path)


def test_step_5_at_temperature_1_the_own_label_says_nothing():
    rng = default_rng(5)
    for setting in settings(20, 5):
        mean, variance = groups(setting)
        w, k, r = rng.uniform(0.1, 3, 2), rng.uniform(0, 1.5), rng.uniform(0, 1)
        still = force(w, w, mean, variance, one(k, 0.0, 1.0, k))
        assert still == pytest.approx(0, abs=1e-12)
        slowed = force(w, w, mean, variance, one(k, r, 1.0, k))
        full = force(w, w, mean, variance, one(k, 1.0, 1.0, k))
        assert slowed == pytest.approx(r * full, abs=1e-12)
        own = force(w, w, mean, variance, along(k, 1.0, None, 0.2))
        weighted = [(p * r, push, 1.0, t, a) for p, push, r, t, a in along(k, 1.0, None, 0.2)]
        assert own == pytest.approx(force(w, w, mean, variance, weighted), abs=1e-12)


def potential(w, mean, variance, k, r, t):
    z = w @ mean - k * w.sum() + np.sqrt(w**2 @ variance) * NODES
    return (r * softplus(-z) + (1 - r) * (softplus(z) - t * softplus(z / t))) @ WEIGHTS


def test_step_6_potential():
    rng = default_rng(6)
    for setting in settings(10, 6):
        mean, variance = groups(setting)
        w, k, r, t = rng.uniform(0.2, 2, 2), *rng.uniform(0, 1, 2), rng.uniform(0.4, 4)
        claimed = force(w, w, mean, variance, one(k, r, t, k))
        for i, h in enumerate(np.eye(2) * 1e-5):
            up, down = (potential(w + s * h, mean, variance, k, r, t) for s in (1, -1))
            assert claimed[i] == pytest.approx(-(up - down) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_step_6_the_network_forgets_or_becomes_sure(t):
    for setting in settings(5, 66):
        mean, variance = groups(setting)
        path = descent(np.array([1.0, 0.8]), mean, variance, one(0.2, 0.0, t, 0.2), 2000)
        norms = np.linalg.norm(path, axis=1)
        assert np.all(np.sign(np.diff(norms)) == np.sign(1 - t))
        assert norms[-1] < 0.2 if t > 1 else norms[-1] > 1.8


def test_step_6_scale_falls_with_the_temperature():
    for information in (0.5, 2.0):
        x = information + np.sqrt(information) * NODES
        for r in (0.2, 0.6):

            def psi(tau, t, x=x, r=r):
                return (x * (r + (1 - r) * expit(tau * x / t) - expit(tau * x))) @ WEIGHTS

            assert psi(1e-9, 3.0) == pytest.approx(r / 2 * information, rel=1e-6)
            assert psi(3000.0, 3.0) == pytest.approx(r * (x * (x < 0)) @ WEIGHTS, abs=2e-2)
            scales = []
            for t in (1.0, 1.5, 3.0, 10.0, 1e7):
                grid = np.linspace(1e-3, 4, 800)
                first = np.argmax(np.array([psi(tau, t) for tau in grid]) < 0)
                scales.append(brentq(psi, grid[first - 1], grid[first], args=(t,)))
            assert scales[0] == pytest.approx(2, rel=1e-6)
            assert np.all(np.diff(scales) < 0)
            fixed = (x * ((1 + r) / 2 - expit(scales[-1] * x))) @ WEIGHTS
            assert fixed == pytest.approx(0, abs=1e-6)


def test_step_7_own_label_at_temperature_1_never_lifts():
    rng, found = default_rng(7), 0
    for setting in settings(20, 7, low_eta=0.3):
        mean, variance = groups(setting)
        eta, reach = setting[2], rng.uniform(0.2, 0.95)
        asked = rng.choice([0.0, np.nan])
        points = along(reach, 1.0, None if np.isnan(asked) else 0.0, rng.uniform(0, 0.9))
        points += [(rng.uniform(0, 2), rng.uniform(0, 0.9), 1.0, 1.0, 0.0)]  # a hard-label term
        for w in rng.uniform(0.1, 4, (3, 2)):
            g0, g1, *_ = numbers(w, w, mean, variance, points)
            assert g0 > 0
            assert 0 <= g1 / g0 <= max(reach, points[-1][1])
        for w in rest_points(mean, variance, points, rng.uniform(0.1, 4, (2, 2))):
            found += 1
            g0, g1, h, p, _ = numbers(w, w, mean, variance, points)
            assert h > p
            claimed = max(eta - g1 / g0, 0) / (1 - g1 / g0)
            assert ratio(w, setting) == pytest.approx(claimed, rel=1e-5)
            assert ratio(w, setting) <= eta
    assert found > 10


def test_step_8_a_teacher_asked_at_the_point_is_copied():
    rng = default_rng(8)
    for setting in settings(10, 8):
        mean, variance = groups(setting)
        v, t = rng.uniform(0.2, 3, 2), rng.uniform(0.5, 3)
        pushes = rng.uniform(0, 2, 3)  # inside, beyond, several at once
        for points in ([(1.0, k, 0.0, t, k) for k in pushes], one(pushes[0], 0.0, t, pushes[0])):
            assert force(v / t, v, mean, variance, points) == pytest.approx(0, abs=1e-12)
            assert minimiser(v, mean, variance, points) == pytest.approx(v / t, abs=1e-4)


def test_step_9_any_teacher_pulls_towards_its_share():
    rng, found = default_rng(9), 0
    for setting in settings(40, 9):
        mean, variance = groups(setting)
        v, k = rng.uniform(0.1, 3, 2), rng.uniform(0, 0.95)
        points = one(k, rng.uniform(0, 0.9), rng.uniform(0.7, 3), rng.uniform(0, 1))
        w = minimiser(v, mean, variance, points)
        if gap_at(w, v, mean, variance, points) > 1e-3:
            found += 1
            low, high = sorted([share(hard(mean, variance, k)), share(v)])
            assert low - 1e-4 <= share(w) <= high + 1e-4
    assert found > 15


def test_step_9_standard_teacher_pulls_onto_non_robust_features():
    rng, signs = default_rng(99), []
    for setting in settings(60, 99):
        mean, variance = groups(setting)
        eta, k = setting[2], rng.uniform(0.05, 0.95)
        v = 2 * mean / variance
        points = one(k, 0.0, rng.uniform(1, 20), rng.uniform(0, 1))
        w = minimiser(v, mean, variance, points)
        g0 = gap_at(w, v, mean, variance, points)
        if abs(g0) < 1e-3 or w.sum() < 1e-3:
            continue
        signs.append(g0 > 0)
        if g0 > 0:
            assert max(eta - k, 0) / (1 - k) - 1e-4 <= ratio(w, setting) < eta + 1e-4
        else:
            assert w[0] < 1e-6 or ratio(w, setting) > eta - 1e-4
    assert {True, False} <= set(signs)


def test_step_9_robust_teacher():
    rng = default_rng(999)
    for setting in settings(30, 999, low_eta=0.3):
        mean, variance = groups(setting)
        epsilon = rng.uniform(0.05, 0.9 * setting[2])
        v = 2 * (mean - epsilon) / variance
        t, r = rng.uniform(1, 10), rng.uniform(0, 0.9)
        w = minimiser(v, mean, variance, one(epsilon, r, t, rng.uniform(0, epsilon)))
        assert share(w) == pytest.approx(share(v), abs=1e-4)  # adversarial training's direction
        for k in (epsilon / 2, min(2 * epsilon, 0.9)):
            points = one(k, 0.0, t, 0.0)
            w = minimiser(v, mean, variance, points)
            if gap_at(w, v, mean, variance, points) > 1e-3:
                ends = sorted([share(v), share(hard(mean, variance, k))])
                assert ends[0] - 1e-4 <= share(w) <= ends[1] + 1e-4


def quiet(setting, factor):
    d, c, eta, sigma_a, sigma_b, epsilon = setting
    return d, c, eta, sigma_a * factor, sigma_b * factor, epsilon


@pytest.mark.parametrize(
    ("k", "asked", "r", "sign"),
    [(0.3, 0.0, 0.0, 1), (0.1, 0.3, 0.0, -1), (0.5, 0.2, 0.3, 1), (0.2, 0.2, 0.5, 1)],
)
def test_step_10_little_noise(k, asked, r, sign):
    for setting in settings(6, 10, low_eta=0.2):
        mean, variance = groups(setting)
        v, t = np.array([1.5, 1.2]), 1.5
        zeta = (v @ mean - asked * v.sum()) / t
        assert zeta > 0
        q = r + (1 - r) * expit(zeta)
        pull, h = (1 - r) * expit(zeta) * expit(-zeta) / t, q * (1 - q)
        assert pull / h == pytest.approx(expit(zeta) / (t * q))

        def weights(nu, v=v, mean=mean, variance=variance, pull=pull, h=h):
            return np.maximum(pull / h * v + nu * (mean - k) / variance, 0)

        nu = brentq(lambda n, q=q, mean=mean: weights(n) @ (mean - k) - logit(q), -50, 50)
        assert np.sign(nu) == sign
        if r == 0:
            gap = logit(q) - pull / h * v @ (mean - k)
            assert gap == pytest.approx((k - asked) * v.sum() / t)
        mean, small = groups(quiet(setting, 0.02))
        points = one(k, r, t, asked)
        w = minimiser(v, mean, small, points, weights(nu))
        assert w == pytest.approx(weights(nu), abs=2e-3 * (1 + weights(nu).max()))
        gap = gap_at(refine(v, mean, small, points, w), v, mean, small, points)
        assert np.sign(gap) == sign


def test_step_11_arg_max_of_the_standard_teacher():
    rng, signs, fooled = default_rng(11), set(), 0
    for setting in settings(60, 111):
        mean, variance = groups(setting)
        eta, epsilon = setting[2], rng.uniform(0.02, 1.3)
        v, k = mean / variance, rng.uniform(0.05, 0.95)  # the teacher's scale is irrelevant
        q_total, theta = mean @ v, mean @ v / v.sum()
        z = np.sqrt(q_total) * (1 - epsilon / theta)
        mass, pull = asked_of(2 * v, mean, variance, 0.0, 0, epsilon)
        assert mass == pytest.approx(ndtr(z))
        density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        assert 2 * variance * v * pull == pytest.approx(density / np.sqrt(q_total) * mean)
        assert (mass < 0.5) == (epsilon > theta)
        assert theta >= eta
        fooled += epsilon > theta
        points = one(k, 0.0, 0, epsilon)
        w = minimiser(v, mean, variance, points)
        if w.sum() > 30:  # k is so near to epsilon that there is almost no minimiser
            continue
        g0, g1, h, _, _ = numbers(w, v, mean, variance, points)
        claimed = np.maximum((g0 + density / np.sqrt(q_total)) * mean - g1, 0) / variance / h
        assert w == pytest.approx(claimed, abs=1e-3 * (1 + w.max()))
        if w.sum() < 1e-2 or abs(g0) < 1e-3:
            continue
        signs.add(g0 > 0)
        if g0 > 0:
            assert max(eta - k, 0) / (1 - k) - 1e-3 <= ratio(w, setting) <= eta + 1e-3
        else:
            assert w[0] < 1e-6 or ratio(w, setting) > eta - 1e-3
    assert signs == {True, False}
    assert fooled > 5


def test_step_11_a_teacher_that_errs_less_gives_hard_labels():
    z = np.linspace(-30, 30, 301)
    assert (softplus(-z) <= np.exp(-z / 2)).all()
    rng, gaps = default_rng(110), []
    for setting in settings(12, 112, low_eta=0.2):
        mean, variance = groups(setting)
        eta, epsilon = setting[2], 0.1
        v, k = mean / variance, eta + 0.3 * (1 - eta)
        teacher = np.sqrt(mean @ v) * (1 - epsilon * v.sum() / (mean @ v))
        own = np.sqrt(hard(mean, variance, k) @ (mean - k))
        assert teacher > own
        far = []
        for size in (1.0, 2.5):  # the z-score of training at the point
            small = variance * (own / size) ** 2
            w = minimiser(v, mean, small, one(k, 0.0, 0, epsilon))
            score = w @ (mean - k) / np.sqrt(w**2 @ small)
            assert score <= size * (1 + 1e-9)
            assert numbers(2 * hard(mean, small, k), v, mean, small, one(k, 0.0, 0, epsilon))[
                4
            ] <= np.exp(-(size**2) / 2) + 2 * size**2 * ndtr(-size * teacher / own)
            random = rng.uniform(0, 5, (20, 2))
            for p in [w, *random]:
                floor = ndtr(-(p @ (mean - k)) / np.sqrt(p**2 @ small)) - ndtr(
                    -size * teacher / own
                )
                assert numbers(p, v, mean, small, one(k, 0.0, 0, epsilon))[4] >= np.log(2) * floor
            far.append(share(w))  # B(k) = 0
        gaps.append(far)
    first, second = np.array(gaps).T
    assert (second <= first + 1e-9).all()
    assert second.max() < 0.05


def test_step_11_a_fooled_teacher_leaves_nothing():
    for setting in settings(20, 1111, low_eta=0.3):
        mean, variance = groups(quiet(setting, 0.05))
        v = mean / variance
        epsilon = 1.3 * mean @ v / v.sum()
        w = minimiser(v, mean, variance, one(0.5 * setting[2], 0.0, 0, epsilon))
        assert w.sum() < 0.05


def fitted_crossing(lambda2):
    """u0 of avmixup.md for labels that fall from 1 to lambda2."""
    q = 1 - U * (1 - lambda2)

    def miss(line):
        gap = U_WEIGHTS * (q - expit(line[0] - line[1] * U))
        return [gap.sum(), (gap * U).sum()]

    z0, k = root(miss, [3.0, 3.0], tol=1e-13).x
    return z0 / k


def test_step_12_at_the_vertex_only_confidence_matters():
    assert fitted_crossing(0.5) == pytest.approx(0.929109827136, rel=1e-8)
    for setting, reach in ((S1, 0.4), (S4, 0.4)):
        mean, variance = groups(quiet(setting, 0.05))
        eta = setting[2]
        for confidence in (0.7, 0.9):
            limit = np.clip((1 - reach * fitted_crossing(confidence)) / (1 - eta), 0, 1)
            for asked in (0.0, 0.2):
                for v in (np.array([1.0, 0.05]), np.array([1.0, 2.0]), np.array([0.3, 3.0])):
                    t = (v @ mean - asked * v.sum()) / logit(confidence)
                    if t <= 0:
                        continue
                    w = minimiser(v, mean, variance, along(reach, t, asked))
                    assert share(w) == pytest.approx(limit, abs=6e-3)


def test_step_13_a_hot_label_is_the_fixed_one():
    rng = default_rng(13)
    for setting in settings(8, 13):
        mean, variance = groups(setting)
        v, r = rng.uniform(0.2, 2, 2), rng.uniform(0.1, 0.8)
        for hot, given in ((one(0.3, r, 1e6, 0.1), r), (along(0.6, 1e6, 0.0, r), None)):
            push = np.array([p[1] for p in hot])
            mass = np.array([(1 + r) / 2]) if given else 1 - push / 0.6 * (1 - (1 + r) / 2)
            weight = np.array([p[0] for p in hot])

            def fixed(w, mean=mean, variance=variance, push=push, mass=mass, weight=weight):
                m = w @ mean - push * w.sum()
                z = m[:, None] + np.sqrt(w**2 @ variance) * NODES
                return weight @ (softplus(-z) @ WEIGHTS + (1 - mass) * m)

            options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000}
            found = minimize(fixed, [0.5, 0.5], bounds=[(0, None)] * 2, options=options).x
            w = minimiser(v, mean, variance, hot)
            assert w == pytest.approx(found, abs=1e-3 * (1 + found.max()))


def test_step_14_where_it_helps():
    rng, seen = default_rng(14), 0
    for setting in settings(120, 14, low_eta=0.3):
        d, c, eta, sigma_a, sigma_b, _ = setting
        epsilon = rng.uniform(0.05, 0.8 * eta)
        setting = (d, c, eta, sigma_a, sigma_b, epsilon)
        rho, gap = (sigma_a / sigma_b) ** 2, eta - epsilon
        if c == 0 or rho * eta > gap * (c + rho) / ((1 - epsilon) + c * gap):
            continue
        mean, variance = groups(setting)

        def error(w, setting=setting):
            return test_error(share(w), setting)

        direction = [error(hard(mean, variance, k)) for k in np.linspace(0, eta, 20)]
        assert np.all(np.diff(direction) > 0)  # the nearer the point, the better
        k = rng.uniform(0.1, 0.9) * min(2 * epsilon, 0.95)
        plain = error(hard(mean, variance, k))
        standard, robust = 2 * mean / variance, 2 * (mean - epsilon) / variance
        best = robust_share(setting)
        oracle = np.array([1 - best, best]) * robust.sum()
        for v, helps in ((standard, True), (robust, k > epsilon), (oracle, True)):
            points = one(k, 0.0, 5.0, 0.0)
            w = minimiser(v, mean, variance, points)
            if gap_at(w, v, mean, variance, points) > 1e-3:
                seen += 1
                assert (error(w) <= plain + 1e-6) if helps else (error(w) >= plain - 1e-6)
    assert seen > 30


def test_step_14_where_it_harms():
    rng, seen = default_rng(15), 0
    for setting in settings(120, 141):
        d, c, eta, sigma_a, sigma_b, _ = setting
        top = (1 + c * eta) / (1 + c)  # M_A >= 0 up to here
        if top < eta + 0.02:
            continue
        setting = (d, c, eta, sigma_a, sigma_b, rng.uniform(eta, top))
        mean, variance = groups(setting)
        errors = test_error(np.linspace(0, 1, 30), setting)
        assert np.all(np.diff(errors) > 0)
        v, k = 2 * mean / variance, rng.uniform(0.3, 0.95)
        w = minimiser(v, mean, variance, one(k, 0.0, rng.uniform(1, 10), 0.0))
        if share(w) > 1e-3:
            seen += 1
            assert test_error(share(w), setting) > errors[0]
        safe = np.array([v[0], 0.0])
        k = max(k, eta)
        w = minimiser(safe, mean, variance, one(k, 0.0, 5.0, 0.0))
        if gap_at(w, safe, mean, variance, one(k, 0.0, 5.0, 0.0)) > 1e-3:
            assert share(w) < 1e-4
    assert seen > 10


TABLE = {
    ("standard", "inside"): ["0.064 0.1021", "0.061 0.1457", "0.084 0.3294"],
    ("standard", "vertex"): ["0.268 0.0911", "0.317 0.1113", "0.000 0.3293"],
    ("standard", "beyond"): ["0.020 0.1041", "0.012 0.1510", "0.000 0.3293"],
    ("robust", "inside"): ["0.027 0.1038", "0.019 0.1502", "0.008 0.3293"],
    ("robust", "vertex"): ["0.264 0.0914", "0.316 0.1114", "0.000 0.3293"],
    ("robust", "beyond"): ["0.000 0.1049", "0.000 0.1522", "0.000 0.3293"],
    ("oracle", "inside"): ["0.739 0.0493", "0.784 0.0274", "0.008 0.3293"],
    ("oracle", "vertex"): ["0.428 0.0795", "0.361 0.1039", "0.000 0.3293"],
    ("oracle", "beyond"): ["0.482 0.0747", "0.512 0.0759", "0.000 0.3293"],
}


@pytest.mark.parametrize(("who", "where"), TABLE)
def test_table_of_teachers_at_finite_noise(who, where):
    for setting, cell in zip((S1, S4, S5), TABLE[who, where], strict=True):
        mean, variance = groups(setting)
        epsilon, best = setting[-1], robust_share(setting)
        v = {
            "standard": mean / variance,
            "robust": hard(mean, variance, epsilon),
            "oracle": np.array([1 - best, best]),
        }[who]
        t = v @ mean / logit(0.9)  # so its scale is irrelevant
        points = {
            "inside": one(epsilon / 2, 0.0, t, 0.0),
            "vertex": along(2 * epsilon, t, 0.0),
            "beyond": one(2 * epsilon, 0.0, t, 0.0),
        }[where]
        w = refine(v, mean, variance, points, np.array([2.0, 1.0]))
        B, error = map(float, cell.split())
        assert share(w) == pytest.approx(B, abs=6e-4)
        assert test_error(share(w), setting) == pytest.approx(error, abs=6e-5)


def refine(v, mean, variance, points, start):
    """Newton after the search: where noise is little two leading terms nearly cancel."""
    w = minimiser(v, mean, variance, points, start)
    for active in ([0, 1], [0], [1]):

        def pull(p, active=active):
            full = np.zeros(2)
            full[active] = p
            return (force(full, v, mean, variance, points) / variance)[active]

        found = root(pull, w[active], tol=1e-14)
        full = np.zeros(2)
        full[active] = found.x
        if (full >= 0).all() and np.abs(found.fun).max() < 1e-8:
            return full
    raise AssertionError("no minimiser found")


def test_table_of_the_own_label_at_finite_noise():
    for setting, cell in zip(
        (S1, S4, S5), ["0.648 0.0582", "0.671 0.0445", "0.367 0.3328"], strict=True
    ):
        mean, variance = groups(setting)
        points = along(2 * setting[-1], 4.0, 0.0)
        w = root(lambda w, p=points, m=mean, s=variance: force(w, w, m, s, p), [2.0, 3.0]).x
        B, error = map(float, cell.split())
        assert share(w) == pytest.approx(B, abs=6e-4)
        assert test_error(share(w), setting) == pytest.approx(error, abs=6e-5)


def test_table_closed_forms():
    for factor, cells in (
        (0.5, ["0.048 0.1029", "0.043 0.1477", "0.055 0.3293"]),
        (2.0, ["0.000 0.1049", "0.000 0.1522", "0.000 0.3293"]),
    ):
        for setting, cell in zip((S1, S4, S5), cells, strict=True):
            found = share(hard(*groups(setting), factor * setting[-1]))
            B, error = map(float, cell.split())
            assert found == pytest.approx(B, abs=6e-4)
            assert test_error(found, setting) == pytest.approx(error, abs=6e-5)


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
