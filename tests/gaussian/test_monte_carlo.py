"""Formulas against simulation. Every check would fail if its formula were off by 1 %.

`pins` demands that the mean of the draws is within 4 standard errors of the formula, and that 4
standard errors are less than 0.5 % of it, so that a formula 1 % off is at least 4 errors away.
"""

import numpy as np
import pytest
from scipy.special import expit, ndtri, ndtri_exp

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import PRESETS, AVmixup, FeatureModel, LabelSmoothing

EPSILON = 0.2
MODEL = FeatureModel(4, 2, 0.6, 0.6, 1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(20200613)


def pins(draws, value):
    draws = np.asarray(draws, dtype=float)
    error = draws.std(ddof=1) / np.sqrt(draws.size)
    assert 4 * error < 0.005 * abs(value), f"too few draws: standard error {error / value:.2%}"
    miss = (draws.mean() - value) / error
    assert abs(miss) < 4, f"{draws.mean():.6g} is {miss:+.1f} standard errors from {value:.6g}"


@pytest.mark.parametrize("factor", [0.99, 1.01])
def test_a_formula_off_by_one_percent_fails(rng, factor):
    x, y = g.sample([1.0, 0.5, 0.2], 1.5, 3_000_000, rng)
    wrong = x @ [1.0, 1.0, 1.0] * y <= 0
    value = g.standard_error([1, 1, 1], [1.0, 0.5, 0.2], 1.5)
    pins(wrong, value)
    with pytest.raises(AssertionError, match="standard errors from"):
        pins(wrong, factor * value)


def test_too_few_draws_to_tell_fail(rng):
    with pytest.raises(AssertionError, match="too few draws"):
        pins(rng.random(100) < 0.5, 0.5)


def test_sample_has_the_moments_of_equation_2(rng):
    theta = np.array([1.0, -2.0])
    x, y = g.sample(theta, 0.5, 1_500_000, rng)
    assert abs(y.mean()) < 4e-3
    for i in range(2):
        pins(y * x[:, i], theta[i])
        pins((x[:, i] - y * theta[i]) ** 2, 0.25)
    noise = x - y[:, None] * theta
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < 4 * 0.25e-3


def test_robust_error_is_that_of_the_worst_attack(rng):
    """The attack is explicit, and the best of every corner of the ball."""
    w, theta = np.array([1.0, -0.5, 0.3]), np.array([1.0, 0.2, 0.5])
    x, y = g.sample(theta, 1.3, 3_000_000, rng)
    attacked = x - 0.25 * y[:, None] * np.sign(w)
    wrong = attacked @ w * y <= 0
    pins(wrong, g.robust_error(w, theta, 1.3, 0.25))
    corners = 0.25 * np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    few = slice(20_000)
    any_corner = ((x[few] @ w)[:, None] + corners @ w) * y[few, None] <= 0
    assert (any_corner.any(axis=1) == wrong[few]).all()


@pytest.mark.parametrize(("d", "n", "sigma"), [(1, 2, 1.5), (4, 3, 2.0)])
def test_law_of_the_error_against_real_training_sets(rng, d, n, sigma):
    theta = np.ones(d)
    sets = 1_000_000
    y = rng.choice([-1.0, 1.0], (sets, n))
    x = y[..., None] * theta + sigma * rng.standard_normal((sets, n, d))
    errors = g.standard_error(g.fit(x, y), theta, sigma)
    law = g.error_law(d, n, sigma)
    for beta in (0.4, 0.5) if d > 1 else (0.5,):
        pins(errors <= beta, law.cdf(beta))
    pins(errors, law.rvs(4_000_000, rng).mean())


def test_law_does_not_depend_on_theta(rng):
    theta = np.array([2.0, 0.0, 0.0, 0.0])
    mean = theta + 2 / np.sqrt(3) * rng.standard_normal((1_000_000, 4))
    pins(g.standard_error(mean, theta, 2.0) <= 0.3, g.error_law(4, 3, 2.0).cdf(0.3))


@pytest.mark.parametrize(("d", "n", "sigma"), [(2, 1, 3.0), (30, 4, 2.0), (10**6, 3, 300.0)])
def test_rvs_follow_cdf(rng, d, n, sigma):
    law = g.error_law(d, n, sigma)
    errors = law.rvs(2_000_000, rng)
    for beta in np.quantile(errors[:1000], [0.4, 0.9]):
        pins(errors <= beta, law.cdf(beta))


@pytest.mark.parametrize(("density", "epsilon"), [(1.0, 0.0), (0.4, 0.3)])
def test_exact_sampler_against_real_training_sets(rng, density, epsilon):
    d, n, sigma, sets = 5, 2, 2.0, 700_000
    active = round(density * d)
    theta = np.where(np.arange(d) < active, np.sqrt(d / active), 0.0)
    y = rng.choice([-1.0, 1.0], (sets, n))
    x = y[..., None] * theta + sigma * rng.standard_normal((sets, n, d))
    direct = g.robust_error(g.fit(x, y), theta, sigma, epsilon)
    drawn = g.robust_errors_exact(d, n, sigma, epsilon, 2_000_000, rng, density)
    pins(direct, drawn.mean())
    middle = np.median(direct)
    pins(direct <= middle, (drawn <= middle).mean())


def test_pieces_of_the_exact_sampler_join_without_a_seam(rng):
    """d beyond one piece, so that sums run over several draws of the buffer."""
    d = 80_000
    z = -ndtri(g.robust_errors_exact(d, 1, 90.0, [0.0, 0.01], 400, rng))
    assert z.shape == (400, 2)
    typical = g.typical_z(d, 1, 90.0, [0.0, 0.01])
    spread = z.std(axis=0) / 20
    assert (np.abs(z.mean(axis=0) - typical) < 4 * spread).all()
    assert (spread < 0.1 * typical).all()


@pytest.mark.parametrize(
    ("d", "density", "tolerance"), [(30, 1.0, 0.03), (1000, 1.0, 0.01), (1000, 0.1, 0.02)]
)
@pytest.mark.parametrize("sigma", [0.5, 2.0, 10.0])
def test_fast_sampler_has_the_quantiles_of_the_exact_one(rng, d, density, tolerance, sigma):
    """In z; 4 standard errors of a quantile's difference are allowed on top of the tolerance."""
    sets = 40_000
    z = [
        -ndtri_exp(np.log(10) * sampler(d, 1, sigma, 0.2, sets, rng, density, log10=True))
        for sampler in (g.robust_errors_exact, g.robust_errors_fast)
    ]
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    exact, fast = (np.quantile(draws, levels) for draws in z)
    noise = 4 * np.sqrt(2 / sets) * 2.1 * z[0].std()
    assert noise < 0.03
    assert np.abs(exact - fast).max() < tolerance + noise


def test_fast_sampler_is_exact_without_an_attack(rng):
    drawn = g.robust_errors_fast(7, 2, 3.0, 0.0, 3_000_000, rng)
    law = g.error_law(7, 2, 3.0)
    for beta in (0.3, 0.4):
        pins(drawn <= beta, law.cdf(beta))


@pytest.mark.parametrize("s", [0.5, 1.0, 4.0])
def test_mean_abs(rng, s):
    pins(np.abs(1 + s * rng.standard_normal(4_000_000)), g.mean_abs(s))


def test_typical_z_and_critical_radius_are_the_large_d_values(rng):
    d, n, sigma, density = 10**6, 2, 30.0, 0.3
    z = -ndtri(g.robust_errors_fast(d, n, sigma, 0.03, 100_000, rng, density))
    pins(z, g.typical_z(d, n, sigma, 0.03, density))
    at_the_edge = g.critical_epsilon(n, sigma, density)
    sides = [
        g.robust_errors_fast(10**8, n, 1.0, factor * g.critical_epsilon(n, 1.0), 100, rng)
        for factor in (0.99, 1.01)
    ]
    assert (sides[0] < 1e-6).all()
    assert (sides[1] > 1 - 1e-6).all()
    assert g.typical_z(d, n, sigma, at_the_edge, density) == pytest.approx(0, abs=1e-9)


def test_dense_theta_is_the_worst():
    """The typical robust z rises as θ* gets sparser at the same norm."""
    z = g.typical_z(100, 1, 1.0, 0.2, np.array([1.0, 0.5, 0.2, 0.05]))
    assert (np.diff(z) > 0).all()


@pytest.mark.parametrize(("n", "sigma_s", "nu"), [(1, 1.0, 0.5), (4, 3.0, 0.8), (2, 6.0, 0.3)])
def test_exact_radius_makes_typical_errors_equal(rng, n, sigma_s, nu):
    d = 10**7
    epsilon = g.epsilon_exact(n, sigma_s, nu)
    robust = g.robust_errors_fast(d, n, nu * sigma_s, epsilon, 20_000, rng, log10=True)
    standard = g.error_law(d, n, sigma_s).rvs(20_000, rng, log10=True)
    pins(np.sqrt(-robust), np.sqrt(-standard).mean())


def test_actual_probability_is_at_least_the_claimed_one(rng):
    """Both halves of Theorem 1 at Equation (5) and at the tight radius."""
    for d, n, sigma_s, nu in [(50, 1, 1.0, 0.5), (120, 1, 2.0, 0.7), (30, 9, 1.0, 0.9)]:
        bound = g.standard_error_bound(d, n, sigma_s, log10=True)
        standard = g.error_law(d, n, sigma_s).cdf(bound, log10=True)
        radii = np.stack([f(n, sigma_s, nu) for f in (g.epsilon_paper, g.epsilon_tight)])
        drawn = g.robust_errors_exact(d, n, nu * sigma_s, radii, 20_000, rng, log10=True)
        claimed = g.theorem_1_probability(d, sigma_s, nu)
        assert 0 < claimed < 1
        for robust in (drawn <= bound).mean(axis=0):
            assert standard * robust >= claimed


@pytest.mark.parametrize("under", ["true", "observed"])
def test_feature_model_samples_and_moments(rng, under):
    draw = MODEL.sample_true if under == "true" else MODEL.sample_observed
    x, y = draw(2_000_000, rng)
    assert abs(y.mean()) < 5e-3
    for i, (mean, deviation) in enumerate(
        zip(MODEL.means(under), MODEL.deviations(under), strict=True)
    ):
        pins(x[:, i] * y, mean)
        pins((x[:, i] - y * mean) ** 2, deviation**2)
    for B in (0.3, 0.8):
        projected = x @ MODEL.weights(B)
        mean = MODEL.mean(B, under)
        pins(projected * y, mean)
        pins((projected - y * mean) ** 2, MODEL.variance(B, under))
        pins(projected**2, MODEL.variance(B, under, conditional=False))
        pins(projected * y <= 0.7, MODEL.robust_error(B, 0.7, under))
    w = np.array([0.5, -0.3, 0.2, 0.4, 0.1])
    attacked = (x - 0.6 * y[:, None] * np.sign(w)) @ w
    pins(attacked * y <= 0, MODEL.robust_error_of(w, 0.6, under))


@pytest.fixture(scope="module")
def observed():
    return MODEL.sample_observed(3_000_000, np.random.default_rng(8))


def soft_loss(loss, x, y, w, rng):
    """Return the per-example loss of weights w >= 0 by drawing α and attacking each point."""
    if isinstance(loss, AVmixup):
        u = rng.random(y.size)
        push = u * loss.gamma * EPSILON
        label = loss.lambda1 - u * (loss.lambda1 - loss.lambda2)
    else:
        push = np.full(y.size, EPSILON)
        label = np.full(y.size, loss.lam if isinstance(loss, LabelSmoothing) else 1.0)
    z = y * (x @ w) - push * w.sum()
    if loss == "exponential":
        return np.exp(-z), -np.exp(-z)
    if loss == "hinge":
        return np.maximum(1 - z, 0), -(z < 1).astype(float)
    p = expit(z)
    return -label * np.log(p) - (1 - label) * np.log1p(-p), p - label


@pytest.mark.parametrize(
    "loss",
    ["logistic", "exponential", "hinge", LabelSmoothing(0.8), AVmixup(2, 1, 0.5)],
    ids=lambda value: str(value),
)
def test_expected_loss_and_slope(rng, observed, loss):
    B, scale = 0.9, 1.0
    x, y = observed
    w = scale * MODEL.weights(B)
    value, derivative = soft_loss(loss, x, y, w, rng)
    pins(value, g.expected_loss(MODEL, B, EPSILON, loss, scale))
    step = scale * (MODEL.weights(1.0) - MODEL.weights(0.0))
    pins(derivative * y * (x @ step), g.loss_slope(MODEL, B, EPSILON, loss, scale))


def test_effective_radius_from_draws(rng, observed):
    loss, B, scale = AVmixup(2, 1, 0.9), 0.9, 1.0
    x, y = observed
    u = rng.random(y.size)
    z = y * (x @ (scale * MODEL.weights(B))) - u * 2 * EPSILON * scale
    force = 1 - 0.1 * u - expit(z)
    kappa = g.effective_epsilon(MODEL, B, EPSILON, loss, scale)
    noise = (2 * EPSILON * u * force - kappa * force).std() / np.sqrt(y.size) / abs(force.mean())
    assert 4 * noise < 0.005 * kappa
    assert (2 * EPSILON * u * force).mean() / force.mean() == pytest.approx(kappa, abs=4 * noise)


def test_chance_features(rng):
    model = FeatureModel(40, 1, 0.1, 0.6, 0.9)
    n = 25
    means = 0.1 + 0.9 / np.sqrt(n) * rng.standard_normal((100_000, 40))
    pins((means > EPSILON).sum(axis=1), model.chance_features(n, EPSILON))


def test_planting_divergence(rng):
    model = PRESETS["S1"].model
    x = 1 + model.sigma_a * rng.standard_normal(1_000_000)
    log_ratio = (
        np.log(model.sigma_b / model.sigma_a)
        - ((x - 1) / model.sigma_a) ** 2 / 2
        + ((x - model.eta) / model.sigma_b) ** 2 / 2
    )
    pins(log_ratio, model.planting_divergence())
