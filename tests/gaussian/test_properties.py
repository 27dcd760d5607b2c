"""Section 3.1's theorems, the overshoot theorem and those on soft labels, on random settings."""

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import minimize_scalar
from scipy.special import expit

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import AVmixup, FeatureModel, LabelSmoothing
from avmixup_kit.gaussian.objectives import forces


def on(*strategies, examples=60):
    """Return a decorator that runs a test on that many random arguments, however slow they are."""
    return lambda test: settings(deadline=None, max_examples=examples)(given(*strategies)(test))


unit = st.floats(0, 1)
sizes = st.integers(1, 10_000)
dimensions = st.integers(1, 10**6)
deviations = st.floats(0.01, 100)
hard = st.sampled_from(["logistic", "exponential", "hinge"])


@st.composite
def feature_models(draw, low_eta=0.0, d=200):
    dimension = draw(st.integers(2, d))
    sigma_b = draw(st.floats(0.1, 2))
    return FeatureModel(
        dimension,
        draw(st.integers(1, dimension - 1)),
        draw(st.floats(low_eta, 0.9)),
        sigma_b * draw(st.floats(0.05, 0.95)),
        sigma_b,
    )


# Theorem 1 and Corollary 1


@on(dimensions, sizes, deviations, unit, unit)
def test_condition_5_implies_the_bound(d, n, sigma_s, nu, share):
    epsilon = share * g.epsilon_paper(n, sigma_s, nu)
    robust = g.robust_error_bound(d, n, nu * sigma_s, epsilon, log10=True)
    standard = g.standard_error_bound(d, n, sigma_s, log10=True)
    assert robust <= standard * (1 - 1e-9)


@on(dimensions, sizes, deviations, st.floats(0.01, 0.99))
def test_tight_radius_is_where_the_bounds_meet(d, n, sigma_s, nu):
    epsilon = g.epsilon_tight(n, sigma_s, nu)
    standard = g.standard_error_bound(d, n, sigma_s, log10=True)

    def robust(radius):
        return g.robust_error_bound(d, n, nu * sigma_s, radius, log10=True)

    assert robust(epsilon) == pytest.approx(standard, rel=1e-8)
    assert robust(0.99 * epsilon) < standard < robust(1.01 * epsilon)


@on(sizes, deviations, unit)
def test_tight_radius_exceeds_the_paper_s_by_the_stated_gap(n, sigma_s, nu):
    top, root = 2 * np.sqrt(n) - 1, 2 * np.sqrt(n)
    bottom = (root + 4 * nu * sigma_s) * (root + 4 * sigma_s)
    gap = 4 * sigma_s * (1 - nu) * top / bottom
    paper, tight = g.epsilon_paper(n, sigma_s, nu), g.epsilon_tight(n, sigma_s, nu)
    assert tight >= paper
    assert tight - paper == pytest.approx(gap, rel=1e-7, abs=1e-14)


@on(sizes, deviations, st.floats(0.001, 1))
def test_exact_radius_is_where_typical_errors_meet(n, sigma_s, nu):
    epsilon = g.epsilon_exact(n, sigma_s, nu)
    assert epsilon >= g.epsilon_tight(n, sigma_s, nu) - 1e-12
    robust = g.typical_z(100, n, nu * sigma_s, epsilon)
    assert robust == pytest.approx(g.typical_z(100, n, sigma_s), rel=1e-6)


@on(dimensions, sizes, deviations)
def test_probability_is_at_most_that_of_the_exact_law(d, n, sigma):
    bound = g.standard_error_bound(d, n, sigma, log10=True)
    actual = g.error_law(d, n, sigma).cdf(bound, log10=True)
    assert g.probability(d, sigma) <= g.probability(d, sigma, sharp=True) <= actual + 1e-12


@on(st.integers(1, 400), st.floats(0.01, 10), unit)
def test_probabilities_of_theorem_1_are_ordered(d, sigma_s, nu):
    """Neither product nor union beats shared noise, and no factor is ever negative."""
    values = {
        noise: g.theorem_1_probability(d, sigma_s, nu, noise)
        for noise in ("independent", "any", "shared")
    }
    assert 0 <= values["any"] <= values["independent"] + 1e-15
    assert values["independent"] <= values["shared"] <= 1
    if d <= 8 * np.log(2) * (sigma_s**2 + 1):
        assert values["independent"] == 0


@on(dimensions, sizes, deviations, st.floats(0.001, 1))
def test_schmidt_s_radius_gives_the_error_asked_for(d, n, sigma, beta):
    epsilon = g.epsilon_for_error(d, n, sigma, beta)
    assume(epsilon > 0)
    assert g.robust_error_bound(d, n, sigma, epsilon) == pytest.approx(beta, rel=1e-6)


@on(sizes, deviations, unit)
def test_equation_5_is_affine_in_sigma_r_with_slope_pi(n, sigma_s, nu):
    expected = g.slope(n, sigma_s) * (sigma_s - nu * sigma_s)
    assert g.epsilon_paper(n, sigma_s, nu) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@on(sizes, deviations, st.floats(0.05, 0.95))
def test_tight_radius_has_its_own_slope(n, sigma_s, nu):
    h = 1e-4
    rise = g.epsilon_tight(n, sigma_s, nu - h) - g.epsilon_tight(n, sigma_s, nu + h)
    assert rise / (2 * h * sigma_s) == pytest.approx(g.slope_tight(n, sigma_s, nu), rel=1e-3)
    assert g.slope_tight(n, sigma_s, nu) > g.slope(n, sigma_s)


# The law of the error


@on(dimensions, sizes, st.floats(0.01, 1000), st.lists(unit, min_size=2, max_size=5))
def test_cdf_rises_from_0_to_1(d, n, sigma, betas):
    law = g.error_law(d, n, sigma)
    values = law.cdf(np.sort(betas))
    assert (np.diff(values) >= -1e-12).all()
    assert law.cdf(1.0) == 1
    assert 0 <= values.min() <= values.max() <= 1


@on(st.integers(2, 60), st.integers(1, 20), st.floats(0.3, 10), st.floats(0.02, 0.98))
def test_cdf_is_the_noncentral_t_integral(d, n, sigma, share):
    """Against mpmath's adaptive quadrature over the chi of the definition, to 10 digits."""
    beta = 0.5 * share
    z = -float(mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(beta) - 1))
    assume(z * sigma / np.sqrt(d) < 0.999)
    k = z * sigma / np.sqrt(d)
    slope, shift, df = k / np.sqrt(1 - k * k), np.sqrt(d * n) / sigma, d - 1
    log_norm = (df / 2 - 1) * mpmath.log(2) + mpmath.loggamma(df / 2)

    def integrand(chi):
        density = mpmath.exp((df - 1) * mpmath.log(chi) - chi * chi / 2 - log_norm)
        return density * mpmath.ncdf(shift - slope * chi)

    middle = np.sqrt(df)
    knee = shift / slope
    points = sorted({1e-30, max(0.3, middle - 3), middle + 1, middle + 4, middle + 12})
    points = sorted(
        {
            *points,
            *[p for p in (knee - 1 / slope, knee, knee + 1 / slope) if 1e-3 < p < middle + 12],
        }
    )
    exact: Any = mpmath.quad(integrand, points)
    assert g.error_law(d, n, sigma).cdf(beta) == pytest.approx(float(exact), abs=1e-10)


@on(sizes, st.floats(0.01, 50), st.floats(0.02, 1))
def test_critical_radius_is_where_the_typical_margin_is_0(n, sigma, density):
    edge = g.critical_epsilon(n, sigma, density)
    assert g.typical_z(1, n, sigma, edge, density) == pytest.approx(0, abs=1e-12)
    assert edge >= g.critical_epsilon(n, sigma) - 1e-12


# Theorems 2 and 3


@on(feature_models(d=40))
def test_theorem_2_needs_no_tie(model):
    w = model.minimise_variance("observed")
    share = g.theorem_2_weight(model.d, model.c, model.rho)
    assert w[model.c + 1 :] == pytest.approx(np.full(model.d - model.c, share), abs=1e-9)
    assert w[: model.c + 1] == pytest.approx(np.full(model.c + 1, w[0]), abs=1e-9)
    assert share > 0


@on(feature_models(d=40))
def test_theorem_3_needs_the_observed_tie(model):
    share = g.theorem_3_weight(model.d, model.c, model.rho)
    w = model.minimise_variance("true", tie="observed")
    assert w[-1] == pytest.approx(share, abs=1e-9)
    for tie in ("none", "true"):
        untied = model.minimise_variance("true", tie=tie)
        assert untied[1:] == pytest.approx(
            np.full(model.d, g.untied_weight(model.d, model.rho)), abs=1e-9
        )


@on(feature_models(), st.sampled_from(["true", "observed"]), st.booleans())
def test_variance_optimum_is_the_least(model, under, conditional):
    best = model.variance_optimum(under, conditional)
    found: Any = minimize_scalar(
        lambda B: model.variance(B, under, conditional), bounds=(0, 1), options={"xatol": 1e-9}
    )
    least = model.variance(best, under, conditional)
    assert least <= found.fun * (1 + 1e-12)
    assert (least <= model.variance(np.linspace(0, 1, 99), under, conditional) * (1 + 1e-12)).all()


@on(feature_models(d=30), st.sampled_from(["true", "observed"]))
def test_search_agrees_with_the_unconditional_closed_form(model, under):
    w = model.minimise_variance(under, conditional=False, tie="observed")
    share = w[model.c + 1 :].sum()
    assert share == pytest.approx(model.variance_optimum(under, conditional=False), abs=1e-7)


@on(st.integers(2, 10**6), unit)
def test_theorems_at_rho_0_and_1(d, share):
    c = max(1, min(d - 1, round(share * d)))
    assert g.theorem_2_weight(d, c) == 0
    assert g.theorem_3_weight(d, c) == pytest.approx(c / (c * d + 2 * c + 1), rel=1e-12)
    for weight in (g.theorem_2_weight, g.theorem_3_weight):
        assert weight(d, c, 1.0) == pytest.approx(1 / (d + 1), rel=1e-9)
    first_order = (g.theorem_3_weight(d, c, 1e-6) - g.theorem_3_weight(d, c)) / 1e-6
    assert first_order == pytest.approx((1 + c) ** 2 / (c * d + 2 * c + 1) ** 2, rel=1e-3, abs=1e-9)


# The overshoot theorem


@on(feature_models(low_eta=0.05), st.floats(0, 0.99))
def test_overshoot_below_eta(model, share):
    epsilon = share * model.eta
    true, observed = (model.robust_optimum(epsilon, under) for under in ("true", "observed"))
    assert model.uniform_share > true > observed > 0
    ends = model.robust_error([model.uniform_share, true, observed, 0.0], epsilon, log10=True)
    assert ends[0] >= ends[1] <= ends[2] <= ends[3]
    grid = model.robust_error(np.linspace(0, 1, 201), epsilon, log10=True)
    assert grid.min() >= ends[1] - 1e-9 * abs(ends[1])
    down = np.linspace(model.uniform_share, 0, 400)
    slope = np.diff(model.robust_error(down, epsilon, log10=True))
    noise = 1e-12 * np.abs(ends).max()
    assert (slope[down[1:] > true] <= noise).all()
    assert (slope[down[:-1] < true] >= -noise).all()


@on(feature_models(), st.floats(0, 1))
def test_no_overshoot_from_eta_on(model, share):
    epsilon = model.eta + share * (1 - model.eta) / (1 + model.c)
    assume(model.mean(0) - epsilon > 1e-9)
    assert model.robust_optimum(epsilon) == 0
    errors = model.robust_error(np.linspace(0, 1, 200), epsilon, log10=True)
    assert (np.diff(errors) >= -1e-12).all()
    numbers = (model.d, model.c, model.eta, model.sigma_a, model.sigma_b)
    assert g.rise_factor(*numbers, epsilon) == pytest.approx(1, abs=1e-9)


@on(feature_models(), st.floats(0, 3), st.sampled_from(["true", "observed"]))
def test_robust_optimum_beats_a_grid(model, epsilon, under):
    """Also where every B errs on more than half and the optimum is an end."""
    best = model.robust_error(model.robust_optimum(epsilon, under), epsilon, under, log10=True)
    grid = model.robust_error(np.linspace(0, 1, 301), epsilon, under, log10=True)
    assert best <= grid.min() + 1e-9 * abs(grid.min())


@on(feature_models(low_eta=0.05), st.floats(0, 2))
def test_rise_factor_is_the_ratio_of_errors(model, share):
    epsilon = share * model.eta
    down = np.linspace(model.uniform_share, 0, 3001)
    errors = model.robust_error(down, epsilon, log10=True)
    numbers = (model.d, model.c, model.eta, model.sigma_a, model.sigma_b)
    rise = np.log10(g.rise_factor(*numbers, epsilon))
    assume(np.isfinite(rise))
    assert rise == pytest.approx(errors[-1] - errors.min(), rel=1e-2, abs=1e-3)


# Lemma 1 and the flows


@on(feature_models(low_eta=0.05), st.floats(0, 0.95), hard)
def test_lemma_1_holds_from_eta_on_with_free_scale(model, epsilon, loss):
    end = g.stationary_point(model, epsilon, loss, None)
    assert (end.B == 0) == (epsilon >= model.eta)
    w = end.norm * model.weights(end.B)
    f = forces(
        loss,
        model.mean(end.B, "observed"),
        np.sqrt(model.variance(end.B, "observed")),
        end.norm,
        epsilon,
    )
    pull = f.g0 * (model.means("observed") - epsilon) - model.deviations("observed") ** 2 * w * f.h
    assert pull[0] == pytest.approx(0, abs=1e-6)
    if epsilon < model.eta:
        assert pull[-1] == pytest.approx(0, abs=1e-6)
    else:
        assert pull[-1] <= 0


@on(feature_models(), st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.2, 5))
def test_the_adversary_is_inert_on_the_simplex(model, one, two, scale):
    """With the exponential loss ε only changes the clock: t becomes t exp(sε)."""
    ends = [g.stationary_point(model, e, "exponential", scale).B for e in (one, two)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-10)
    times = np.array([0.5, 2.0])
    slow = g.flow(model, one, "exponential", scale, times)
    fast = g.flow(model, two, "exponential", scale, times * np.exp(scale * (one - two)))
    assert np.abs(slow.B - fast.B).max() < 1e-6


@on(feature_models(), st.floats(0, 0.9), hard, st.floats(0.2, 10))
def test_simplex_end_is_the_least_loss(model, epsilon, loss, scale):
    end = g.stationary_point(model, epsilon, loss, scale)
    least = g.expected_loss(model, end.B, epsilon, loss, scale)
    others = g.expected_loss(model, np.linspace(0, 1, 101), epsilon, loss, scale)
    assert (least <= others * (1 + 1e-9)).all()
    if loss == "exponential":
        inside_simplex = scale * model.sigma_a**2 / (1 + model.c) > 1 - model.eta
        assert (end.B > 0) == inside_simplex


@on(
    feature_models(),
    st.floats(0, 0.6),
    st.sampled_from(["logistic", "exponential", "hinge", LabelSmoothing(0.8), AVmixup(2, 1, 0.5)]),
    st.sampled_from([0.5, 2.0, None]),
    st.sampled_from(["exponentiated", "projected"]),
    examples=40,
)
def test_flows_descend_and_stay_inside(model, epsilon, loss, scale, geometry):
    path = g.flow(model, epsilon, loss, scale, np.linspace(0, 5, 40), geometry)
    assert path.B[0] == pytest.approx(model.uniform_share)
    assert ((path.B >= 0) & (path.B <= 1)).all()
    losses = path.training_loss()
    assert (np.diff(losses) <= 1e-7).all()
    if scale is not None:
        end = g.stationary_point(model, epsilon, loss, scale).B
        towards = np.diff(path.B) * np.sign(end - model.uniform_share)
        assert (towards >= -1e-8).all()


@on(
    feature_models(d=8),
    st.floats(0, 0.6),
    st.sampled_from(["exponentiated", "projected"]),
    examples=10,
)
def test_flow_is_the_limit_of_descent_on_every_weight(model, epsilon, geometry):
    """Small discrete steps in all d + 1 weights, with Gauss-Hermite quadrature of its own."""
    nodes, weight = hermegauss(60)
    weight = weight / weight.sum()
    means, variances = model.means("observed"), model.deviations("observed") ** 2
    w = np.full(model.d + 1, 1 / (model.d + 1))
    step, time = 2e-3, 0.6

    def gradient(w):
        z = w @ means - epsilon + np.sqrt(variances @ w**2) * nodes
        p = expit(-z)
        return -(weight @ p) * (means - epsilon) + (weight @ (p * (1 - p))) * variances * w

    for _ in range(round(time / step)):
        slope = gradient(w)
        if geometry == "exponentiated":
            w = w * np.exp(-step * slope)
            w /= w.sum()
        else:
            w = w - step * (slope - slope.mean())
    assume(w.min() > 1e-3)
    path = g.flow(model, epsilon, "logistic", 1.0, [time], geometry)
    assert path.B[0] == pytest.approx(w[model.c + 1 :].sum(), abs=2e-3)


@on(feature_models(low_eta=0.05), st.floats(0, 0.5), hard, st.floats(0.1, 0.9))
def test_time_to_share_agrees_with_the_flow(model, epsilon, loss, share):
    end = g.stationary_point(model, epsilon, loss, 1.0).B
    start = model.uniform_share
    B = end + share * (start - end)
    for geometry in ("exponentiated", "projected"):
        time = g.time_to_share(model, epsilon, loss, 1.0, B, geometry)
        assume(time < 1e4)
        path = g.flow(model, epsilon, loss, 1.0, [time], geometry)
        assert path.B[0] == pytest.approx(B, abs=1e-6)


# Soft labels


@on(feature_models(low_eta=0.05), st.floats(0, 0.9), st.floats(0.55, 0.99), examples=30)
def test_smoothing_keeps_the_direction_at_learned_scale(model, epsilon, lam):
    soft = g.stationary_point(model, epsilon, LabelSmoothing(lam), None)
    plain = g.stationary_point(model, epsilon, "logistic", None)
    assert abs(soft.B - plain.B) < 1e-6
    assert soft.norm < plain.norm


@on(feature_models(low_eta=0.05), st.floats(0, 0.6))
def test_hard_label_is_smoothing_1(model, epsilon):
    for scale in (0.5, 3.0):
        soft = g.expected_loss(model, 0.4, epsilon, LabelSmoothing(1.0), scale)
        assert soft == g.expected_loss(model, 0.4, epsilon, "logistic", scale)


@on(
    feature_models(low_eta=0.05, d=60),
    st.floats(0.05, 0.6),
    st.floats(0.5, 3),
    st.floats(0.8, 1),
    st.floats(0.3, 0.7),
    examples=25,
)
def test_avmixup_is_adversarial_training_at_its_effective_radius(
    model, epsilon, gamma, lambda1, lambda2
):
    loss = AVmixup(gamma, lambda1, lambda2)
    end = g.stationary_point(model, epsilon, loss, None)
    assume(end.norm > 0)
    assume(1e-6 < end.B < 1 - 1e-6)
    assume(abs(1 - end.kappa) > 1e-3)
    ratio = end.B / (model.d - model.c) / ((1 - end.B) / (1 + model.c))
    assert ratio == pytest.approx(model.rho * (model.eta - end.kappa) / (1 - end.kappa), rel=1e-4)
    around = [
        g.expected_loss(model, B, epsilon, loss, norm)
        for B in (end.B - 1e-3, end.B, end.B + 1e-3)
        if 0 <= B <= 1
        for norm in (0.99 * end.norm, end.norm, 1.01 * end.norm)
    ]
    assert g.expected_loss(model, end.B, epsilon, loss, end.norm) <= min(around) + 1e-12


@on(feature_models(low_eta=0.05, d=60), st.floats(0, 0.99), st.floats(0.5, 8))
def test_matching_smoothing_hits_the_robust_optimum(model, share, scale):
    epsilon = share * model.eta
    lam = g.matching_smoothing(model, epsilon, scale)
    assume(0 <= lam <= 1)
    end = g.stationary_point(model, epsilon, LabelSmoothing(lam), scale)
    slope = g.loss_slope(model, model.robust_optimum(epsilon), epsilon, LabelSmoothing(lam), scale)
    assert slope == pytest.approx(0, abs=1e-12)
    assert g.expected_loss(model, end.B, epsilon, LabelSmoothing(lam), scale) == pytest.approx(
        g.expected_loss(model, model.robust_optimum(epsilon), epsilon, LabelSmoothing(lam), scale),
        abs=1e-12,
    )


@on(st.floats(0.55, 1), st.floats(0, 0.5))
def test_zero_crossing_is_the_fitted_line_s(lambda1, lambda2):
    crossing = g.zero_crossing(lambda1, lambda2)
    u = (np.arange(4000) + 0.5) / 4000
    label = lambda1 - u * (lambda1 - lambda2)
    found: Any = minimize_scalar(
        lambda k: np.mean(np.logaddexp(0, -k * (crossing - u)) + (1 - label) * k * (crossing - u)),
        bounds=(0, 60),
        method="bounded",
        options={"xatol": 1e-8},
    )
    gap = label - expit(found.x * (crossing - u))
    assert gap.mean() == pytest.approx(0, abs=1e-5)
    assert (gap * u).mean() == pytest.approx(0, abs=1e-5)


@on(st.floats(-60, 60), st.floats(0.01, 30), examples=12)
def test_logistic_quadrature_is_relative_even_where_the_loss_underflows(mean, deviation):
    """Against mpmath, 30 digits, with the factor 1e-100 and less that a sharp model has."""
    f = forces("logistic", mean, deviation, 1.0, 0.0)
    with mpmath.workdps(30):
        m, s = mpmath.mpf(mean), mpmath.mpf(deviation)
        peak = sorted([m - s * s, mpmath.mpf(0), m])[1]
        edges = sorted(
            {peak + k * s for k in (-14, -8, -4, -2, 0, 2, 4, 8, 14)} | {-30, -5, 0, 5, 30}
        )
        edges = [e for e in edges if peak - 14 * s <= e <= peak + 14 * s]

        def slope(z):
            return mpmath.npdf(z, m, s) / (1 + mpmath.exp(z))

        g0: Any = mpmath.quad(slope, edges)
        h: Any = mpmath.quad(lambda z: slope(z) / (1 + mpmath.exp(-z)), edges)
        assert float(mpmath.log(g0)) == pytest.approx(float(np.log(f.g0) + f.log_scale), abs=1e-9)
        assert float(h / g0) == pytest.approx(float(f.h / f.g0), rel=1e-6, abs=1e-12)
