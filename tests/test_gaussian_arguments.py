"""Every bad input raises one line that names the argument and what is allowed."""

import numpy as np
import pytest

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import AVmixup, FeatureModel, LabelSmoothing

RNG = np.random.default_rng(0)
MODEL = FeatureModel(10, 2, 0.3, 0.1, 0.5)

BAD = {
    "n < 1": [
        (lambda: g.sample([1.0], 1, 0, RNG), "n must be a whole number >= 1, got 0"),
        (lambda: g.error_law(10, 0, 1), "n must be finite and >= 1, got 0.0"),
        (lambda: g.robust_errors_exact(10, 0, 1, 0, 5, RNG), "n must be a whole number >= 1"),
        (lambda: g.robust_errors_fast(10, 0.5, 1, 0, 5, RNG), "n must be a whole number >= 1"),
        (lambda: g.typical_z(10, 0, 1), "n must be finite and >= 1"),
        (lambda: g.critical_epsilon(0, 1), "n must be finite and >= 1"),
        (lambda: g.alignment_bound([1, 0], 1), "n must be finite and >= 1, got 0.0"),
        (lambda: g.standard_error_bound(10, 0, 1), "n must be finite and >= 1"),
        (lambda: g.robust_error_bound(10, 0, 1, 0.1), "n must be finite and >= 1"),
        (lambda: g.epsilon_paper(0, 1, 0.5), "n must be finite and >= 1"),
        (lambda: g.epsilon_tight(0, 1, 0.5), "n must be finite and >= 1"),
        (lambda: g.epsilon_exact(0, 1, 0.5), "n must be finite and >= 1"),
        (lambda: g.slope(0, 1), "n must be finite and >= 1"),
        (lambda: MODEL.sample_true(0, RNG), "n must be a whole number >= 1"),
        (lambda: MODEL.sample_observed(2.5, RNG), "n must be a whole number >= 1, got 2.5"),
        (lambda: MODEL.chance_features(0, 0.1), "n must be finite and >= 1"),
        (lambda: g.train_on_sample(MODEL, 0, 0.1, RNG), "n must be a whole number >= 1"),
    ],
    "d < 1": [
        (lambda: g.error_law(0, 1, 1), "d must be finite and >= 1, got 0.0"),
        (lambda: g.robust_errors_exact(0, 1, 1, 0, 5, RNG), "d must be a whole number >= 1"),
        (lambda: g.robust_errors_fast(0, 1, 1, 0, 5, RNG), "d must be a whole number >= 1"),
        (lambda: g.typical_z(0, 1, 1), "d must be finite and >= 1"),
        (lambda: g.standard_error_bound(0, 1, 1), "d must be finite and >= 1"),
        (lambda: g.epsilon_for_error(0, 1, 1, 0.1), "d must be finite and >= 1"),
        (lambda: g.probability(0, 1), "d must be finite and >= 1"),
        (lambda: g.theorem_1_probability(0, 1, 0.5), "d must be finite and >= 1"),
        (lambda: FeatureModel(0, 1, 0.1, 1, 1), "d must be a whole number >= 1, got 0"),
        (lambda: g.theorem_2_weight(0, 1), "d must be finite and >= 1"),
        (lambda: g.untied_weight(0, 0.1), "d must be finite and >= 1"),
        (lambda: g.rise_factor(0, 1, 0.3, 0.1, 1, 0.1), "d must be finite and >= 1"),
    ],
    "c outside (0, d)": [
        (lambda: FeatureModel(10, 0, 0.1, 1, 1), r"c must be a whole number with 0 < c < d = 10"),
        (lambda: FeatureModel(10, 0, 0.1, 1, 1), r"control=True\)\), got 0"),
        (lambda: FeatureModel(10, 10, 0.1, 1, 1), "0 < c < d = 10 .* got 10"),
        (lambda: FeatureModel(10, -1, 0.1, 1, 1), "0 < c < d = 10 .* got -1"),
        (lambda: FeatureModel(10, 1.5, 0.1, 1, 1), "0 < c < d = 10 .* got 1.5"),
        (lambda: FeatureModel(10, 1, 0.1, 1, 1, control=True), "c must be 0 with control=True"),
        (lambda: g.theorem_2_weight(10, 0), "c must satisfy 0 < c < d"),
        (lambda: g.theorem_3_weight(10, [1, 10]), "c must satisfy 0 < c < d"),
        (lambda: g.rise_factor(10, 10, 0.3, 0.1, 1, 0.1), "c must satisfy 0 <= c < d"),
        (lambda: g.rise_factor(10, 0, 0.3, 0.0, 1, 0.1), "c > 0 where sigma_a is 0"),
    ],
    "sigma < 0": [
        (lambda: g.standard_error([1], [1], -1), "sigma must be finite and >= 0, got -1.0"),
        (lambda: g.robust_error([1], [1], -1, 0.1), "sigma must be finite and >= 0"),
        (lambda: g.sample([1.0], -1, 1, RNG), "sigma must be finite and >= 0"),
        (lambda: g.error_law(10, 1, -1), "sigma must be finite and >= 0"),
        (lambda: g.robust_errors_exact(10, 1, -1, 0, 5, RNG), "sigma must be finite and >= 0"),
        (lambda: g.robust_errors_fast(10, 1, -1, 0, 5, RNG), "sigma must be finite and >= 0"),
        (lambda: g.typical_z(10, 1, -1), "sigma must be finite and >= 0"),
        (lambda: g.alignment_bound(1, -1), "sigma must be finite and >= 0"),
        (lambda: g.epsilon_paper(1, -1, 0.5), "sigma_s must be finite and >= 0"),
        (lambda: g.slope(1, -1), "sigma_s must be finite and >= 0"),
        (lambda: g.probability(10, -1), "sigma must be finite and >= 0"),
        (lambda: g.theorem_1_probability(10, -1, 0.5), "sigma_s must be finite and >= 0"),
        (lambda: g.mean_abs(-1), "s must be finite and >= 0"),
        (lambda: FeatureModel(10, 1, 0.1, -1, 1), "sigma_a must be finite and >= 0, got -1.0"),
        (lambda: FeatureModel(10, 1, 0.1, 1, -1), "sigma_b must be finite and >= 0, got -1.0"),
        (lambda: g.rise_factor(10, 1, 0.3, 0.1, 0, 0.1), "sigma_b must be finite and > 0"),
    ],
    "nu outside [0, 1]": [
        (lambda: g.epsilon_paper(1, 1, 1.1), r"nu must be finite and in \[0, 1\], got 1.1"),
        (lambda: g.epsilon_tight(1, 1, -0.1), r"nu must be finite and in \[0, 1\]"),
        (lambda: g.epsilon_exact(1, 1, [0.5, 2]), r"nu must be finite and in \[0, 1\], got 2.0"),
        (lambda: g.theorem_1_probability(9, 1, 2), r"nu must be finite and in \[0, 1\]"),
        (lambda: g.slope_tight(1, 1, 2), r"nu must be finite and in \[0, 1\]"),
        (lambda: g.vacuous(9, 1, 1, 2), r"nu must be finite and in \[0, 1\]"),
    ],
    "eta outside [0, 1)": [
        (lambda: FeatureModel(10, 1, 1.0, 1, 1), r"eta must be finite and in \[0, 1\), got 1.0"),
        (lambda: FeatureModel(10, 1, -0.1, 1, 1), r"eta must be finite and in \[0, 1\)"),
        (lambda: g.rise_factor(10, 1, 1, 0.1, 1, 0.1), r"eta must be finite and in \[0, 1\)"),
    ],
    "w = 0": [
        (lambda: g.standard_error([0, 0], [1, 1], 1), "w must have a non-zero entry"),
        (lambda: g.robust_error([[1, 0], [0, 0]], [1, 1], 1, 0), "w must have a non-zero entry"),
        (lambda: MODEL.robust_error_of(np.zeros(11), 0.1), "w must have a non-zero entry"),
        (lambda: g.fit([[1.0], [1.0]], [1, -1]), "non-zero mean of y x"),
    ],
    "mismatched shapes": [
        (lambda: g.standard_error([1, 2], [1, 2, 3], 1), r"theta must have the last dimension of"),
        (lambda: g.standard_error(1.0, [1, 2], 1), r"w must have shape \(..., d\)"),
        (lambda: g.standard_error(np.ones((2, 3)), np.ones(3), [1, 1, 1]), "must broadcast"),
        (lambda: g.robust_error([1, 1], [1, 1], [1, 1], [0, 0, 0]), r"sigma \(2,\), epsilon \(3,"),
        (lambda: g.sample(np.ones((2, 2)), 1, 5, RNG), r"theta must have shape \(d,\)"),
        (lambda: g.fit(np.ones((3, 2)), np.ones(2)), r"x and y must have shapes \(..., n, d\)"),
        (lambda: g.fit(np.ones((0, 2)), np.ones(0)), "x and y must have shapes"),
        (lambda: g.typical_z([1, 2], [1, 2, 3], 1), r"d \(2,\), n \(3,\)"),
        (lambda: g.error_law([1, 2], 1, 1).cdf([0.1, 0.2, 0.3]), r"beta \(3,\), d \(2,\)"),
        (lambda: g.epsilon_paper([1, 2], 1, [0, 0.5, 1]), r"n \(2,\), .*nu \(3,\)"),
        (lambda: MODEL.robust_error([0.1, 0.2], [0, 0, 0]), r"B \(2,\), epsilon \(3,\)"),
        (lambda: MODEL.robust_error_of(np.ones(10), 0.1), r"w must have shape \(..., d \+ 1 = 11"),
        (lambda: g.expected_loss(MODEL, [0, 1], 0, "hinge", [1, 2, 3]), r"B \(2,\), scale \(3,\)"),
        (lambda: FeatureModel(10, 1, [0.1, 0.2], 1, 1), "eta must be one number, got an array"),
        (lambda: g.sample_means(np.ones((2, 3)), np.ones(3)), "x and y must have shapes"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [[1.0]]), r"times must have shape \(T,\)"),
    ],
    "non-finite": [
        (lambda: g.standard_error([np.nan], [1], 1), "w must be finite, got nan"),
        (lambda: g.standard_error([1], [np.inf], 1), "theta must be finite, got inf"),
        (lambda: g.standard_error([1], [1], np.inf), "sigma must be finite and >= 0, got inf"),
        (lambda: g.robust_error([1], [1], 1, np.nan), "epsilon must be finite and >= 0, got nan"),
        (lambda: g.fit([[np.nan]], [1]), "x must be finite"),
        (lambda: g.error_law(np.inf, 1, 1), "d must be finite and >= 1, got inf"),
        (lambda: FeatureModel(10, 1, np.nan, 1, 1), "eta must be finite"),
        (lambda: FeatureModel(np.inf, 1, 0.1, 1, 1), "d must be a whole number"),
        (lambda: MODEL.robust_error(np.nan, 0.1), "B must be finite"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [np.nan]), "times must be finite"),
        (lambda: g.flow(MODEL, 0.1, "hinge", np.inf, [1]), "scale must be finite and > 0"),
        (lambda: AVmixup(np.inf, 1, 0.5), "gamma must be finite and >= 0"),
    ],
    "other ranges": [
        (lambda: g.robust_error([1], [1], 1, -0.1), "epsilon must be finite and >= 0"),
        (lambda: g.error_law(9, 1, 1).cdf(1.5), r"beta must be finite and in \[0, 1\]"),
        (lambda: g.error_law(9, 1, 1).cdf(1.5, log10=True), "beta must be finite and <= 0"),
        (lambda: g.epsilon_for_error(9, 1, 1, 0), r"beta must be finite and in \(0, 1\]"),
        (lambda: g.typical_z(9, 1, 1, density=0), r"density must be finite and in \(0, 1\]"),
        (lambda: g.fit([[1.0]], [0]), "y must be -1 or \\+1 everywhere"),
        (lambda: g.theorem_1_probability(9, 1, 0.5, "same"), "noise must be one of 'independent'"),
        (lambda: g.theorem_2_weight(9, 1, -1), "rho must be finite and >= 0"),
        (lambda: MODEL.mean(1.2), r"B must be finite and in \[0, 1\], got 1.2"),
        (lambda: MODEL.mean(0.2, "sample"), "under must be one of 'true', 'observed', got 'sample"),
        (lambda: MODEL.minimise_variance(tie="all"), "tie must be one of"),
        (lambda: MODEL.robust_optimum(-1), "epsilon must be finite and >= 0"),
        (lambda: g.flow(MODEL, 0.1, "squared", 1, [1]), "loss must be one of 'logistic'"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [1], "newton"), "geometry must be one of"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 0, [1]), "scale must be finite and > 0"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [2, 1]), "times must have shape .* not fall"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [-1]), "times must be finite and >= 0"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [1], start=1), r"start must be .* in \(0, 1\)"),
        (
            lambda: g.flow(FeatureModel(9, 2, 0.3, 0.1, 9), 0.1, "exponential", 300, [1]),
            "scale must keep the loss finite, got 300.0",
        ),
        (lambda: LabelSmoothing(1.5), r"lam must be finite and in \[0, 1\]"),
        (lambda: AVmixup(-1, 1, 0.5), "gamma must be finite and >= 0"),
        (lambda: AVmixup(2, 1.1, 0.5), r"lambda1 must be finite and in \[0, 1\]"),
        (lambda: AVmixup(2, 1, -0.5), r"lambda2 must be finite and in \[0, 1\]"),
        (lambda: g.zero_crossing(0.5, 0.5), "lambda2 must be < lambda1"),
        (lambda: g.matching_gamma(MODEL, 0), "epsilon must be finite and > 0"),
        (
            lambda: g.stationary_point(FeatureModel(9, 1, 0.3, 0, 1), 0.1, "logistic", None),
            "model must have sigma_a > 0 and sigma_b > 0 where the scale is learned",
        ),
        (lambda: g.train_on_sample(MODEL, 9, 0.1, RNG, steps=0), "steps must be a whole number"),
        (lambda: g.train_on_sample(MODEL, 9, 0.1, RNG, record=1), "record must be a whole numbe"),
        (lambda: g.train_on_sample(MODEL, 9, 0.1, RNG, step_size=0), "step_size must be .* > 0"),
        (lambda: g.robust_errors_fast(9, 1, 1, 0, -1, RNG), "size must be a whole number >= 0"),
    ],
}


@pytest.mark.parametrize(
    ("call", "message"), [pytest.param(*case, id=kind) for kind in BAD for case in BAD[kind]]
)
def test_value_error(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: g.standard_error(["a"], [1], 1), "w must be a real number or an array of them"),
        (lambda: g.standard_error([1], [1], 1j), "sigma must be a real number"),
        (lambda: g.standard_error([1], [1], None), "sigma must be a real number"),
        (lambda: g.sample([1.0], 1, "5", RNG), "n must be a whole number >= 1, got '5'"),
        (lambda: g.sample([1.0], 1, True, RNG), "n must be a whole number >= 1, got True"),
        (lambda: g.sample([1.0], 1, 5, 0), "rng must be a numpy.random.Generator, got int"),
        (lambda: g.error_law(9, 1, 1).rvs(5, np.random), "rng must be a numpy.random.Generator"),
        (lambda: FeatureModel("10", 1, 0.1, 1, 1), "d must be a whole number >= 1, got '10'"),
        (lambda: FeatureModel(10, "1", 0.1, 1, 1), "c must be a whole number"),
        (lambda: MODEL.sample_true(5, 0), "rng must be a numpy.random.Generator, got int"),
    ],
)
def test_type_error(call, message):
    with pytest.raises(TypeError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_whole_floats_count_as_whole_numbers():
    assert FeatureModel(1e2, 1.0, 0.1, 1, 1) == FeatureModel(100, 1, 0.1, 1.0, 1.0)
    assert g.robust_errors_fast(1e6, 2.0, 1, 0.1, 3, RNG).shape == (3,)


def test_repr_rebuilds_the_settings():
    for value in (
        MODEL,
        FeatureModel(9, 0, 0.1, 1, 1, control=True),
        AVmixup(2, 1, 0.5),
        LabelSmoothing(1),
        g.PRESETS["S1"].model,
    ):
        assert eval(repr(value)) == value
