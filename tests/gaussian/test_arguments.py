"""Every bad input raises one line that names the argument and what is allowed."""

from typing import Any

import numpy as np
import pytest

from avmixup_kit import gaussian
from avmixup_kit.gaussian import AVmixup, LabelSmoothing

# Called here with what their types forbid.
g: Any = gaussian
FeatureModel: Any = gaussian.FeatureModel

RNG = np.random.default_rng(0)
MODEL = FeatureModel(10, 2, 0.3, 0.1, 0.5)

BAD = {
    "n < 1": [
        (lambda: g.sample([1.0], 1, 0, RNG), "n = 0 is not allowed: a whole number >= 1"),
        (lambda: g.error_law(10, 0, 1), "n = 0.0 is not allowed: finite and >= 1"),
        (
            lambda: g.robust_errors_exact(10, 0, 1, 0, 5, RNG),
            "n = .* is not allowed: a whole number >= 1",
        ),
        (
            lambda: g.robust_errors_fast(10, 0.5, 1, 0, 5, RNG),
            "n = .* is not allowed: a whole number >= 1",
        ),
        (lambda: g.typical_z(10, 0, 1), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.critical_epsilon(0, 1), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.alignment_bound([1, 0], 1), "n = 0.0 is not allowed: finite and >= 1"),
        (lambda: g.standard_error_bound(10, 0, 1), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.robust_error_bound(10, 0, 1, 0.1), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.epsilon_paper(0, 1, 0.5), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.epsilon_tight(0, 1, 0.5), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.epsilon_exact(0, 1, 0.5), "n = .* is not allowed: finite and >= 1"),
        (lambda: g.slope(0, 1), "n = .* is not allowed: finite and >= 1"),
        (lambda: MODEL.sample_true(0, RNG), "n = .* is not allowed: a whole number >= 1"),
        (lambda: MODEL.sample_observed(2.5, RNG), "n = 2.5 is not allowed: a whole number >= 1"),
        (lambda: MODEL.chance_features(0, 0.1), "n = .* is not allowed: finite and >= 1"),
        (
            lambda: g.train_on_sample(MODEL, 0, 0.1, RNG),
            "n = .* is not allowed: a whole number >= 1",
        ),
    ],
    "d < 1": [
        (lambda: g.error_law(0, 1, 1), "d = 0.0 is not allowed: finite and >= 1"),
        (
            lambda: g.robust_errors_exact(0, 1, 1, 0, 5, RNG),
            "d = .* is not allowed: a whole number >= 1",
        ),
        (
            lambda: g.robust_errors_fast(0, 1, 1, 0, 5, RNG),
            "d = .* is not allowed: a whole number >= 1",
        ),
        (lambda: g.typical_z(0, 1, 1), "d = .* is not allowed: finite and >= 1"),
        (lambda: g.standard_error_bound(0, 1, 1), "d = .* is not allowed: finite and >= 1"),
        (lambda: g.epsilon_for_error(0, 1, 1, 0.1), "d = .* is not allowed: finite and >= 1"),
        (lambda: g.probability(0, 1), "d = .* is not allowed: finite and >= 1"),
        (lambda: g.theorem_1_probability(0, 1, 0.5), "d = .* is not allowed: finite and >= 1"),
        (lambda: FeatureModel(0, 1, 0.1, 1, 1), "d = 0 is not allowed: a whole number >= 1"),
        (lambda: g.theorem_2_weight(0, 1), "d = .* is not allowed: finite and >= 1"),
        (lambda: g.untied_weight(0, 0.1), "d = .* is not allowed: finite and >= 1"),
        (lambda: g.rise_factor(0, 1, 0.3, 0.1, 1, 0.1), "d = .* is not allowed: finite and >= 1"),
    ],
    "c outside (0, d)": [
        (
            lambda: FeatureModel(10, 0, 0.1, 1, 1),
            r"c = .* is not allowed: a whole number with 0 < c < d = 10",
        ),
        (lambda: FeatureModel(10, 0, 0.1, 1, 1), r"c = 0 is .*control=True\)\)"),
        (lambda: FeatureModel(10, 10, 0.1, 1, 1), "c = 10 is .* 0 < c < d = 10"),
        (lambda: FeatureModel(10, -1, 0.1, 1, 1), "c = -1 is .* 0 < c < d = 10"),
        (lambda: FeatureModel(10, 1.5, 0.1, 1, 1), "c = 1.5 is .* 0 < c < d = 10"),
        (
            lambda: FeatureModel(10, 1, 0.1, 1, 1, control=True),
            "c = 1 is not allowed: 0 with control=True",
        ),
        (lambda: g.theorem_2_weight(10, 0), "c = .* is not allowed: 0 < c < d"),
        (lambda: g.theorem_3_weight(10, [1, 10]), "c = .* is not allowed: 0 < c < d"),
        (lambda: g.rise_factor(10, 10, 0.3, 0.1, 1, 0.1), "c must satisfy 0 <= c < d"),
        (lambda: g.rise_factor(10, 0, 0.3, 0.0, 1, 0.1), "c > 0 where sigma_a is 0"),
    ],
    "sigma < 0": [
        (lambda: g.standard_error([1], [1], -1), "sigma = -1.0 is not allowed: finite and >= 0"),
        (lambda: g.robust_error([1], [1], -1, 0.1), "sigma = .* is not allowed: finite and >= 0"),
        (lambda: g.sample([1.0], -1, 1, RNG), "sigma = .* is not allowed: finite and >= 0"),
        (lambda: g.error_law(10, 1, -1), "sigma = .* is not allowed: finite and >= 0"),
        (
            lambda: g.robust_errors_exact(10, 1, -1, 0, 5, RNG),
            "sigma = .* is not allowed: finite and >= 0",
        ),
        (
            lambda: g.robust_errors_fast(10, 1, -1, 0, 5, RNG),
            "sigma = .* is not allowed: finite and >= 0",
        ),
        (lambda: g.typical_z(10, 1, -1), "sigma = .* is not allowed: finite and >= 0"),
        (lambda: g.alignment_bound(1, -1), "sigma = .* is not allowed: finite and >= 0"),
        (lambda: g.epsilon_paper(1, -1, 0.5), "sigma_s = .* is not allowed: finite and >= 0"),
        (lambda: g.slope(1, -1), "sigma_s = .* is not allowed: finite and >= 0"),
        (lambda: g.probability(10, -1), "sigma = .* is not allowed: finite and >= 0"),
        (
            lambda: g.theorem_1_probability(10, -1, 0.5),
            "sigma_s = .* is not allowed: finite and >= 0",
        ),
        (lambda: g.mean_abs(-1), "s = .* is not allowed: finite and >= 0"),
        (lambda: FeatureModel(10, 1, 0.1, -1, 1), "sigma_a = -1.0 is not allowed: finite and >= 0"),
        (lambda: FeatureModel(10, 1, 0.1, 1, -1), "sigma_b = -1.0 is not allowed: finite and >= 0"),
        (
            lambda: g.rise_factor(10, 1, 0.3, 0.1, 0, 0.1),
            "sigma_b = .* is not allowed: finite and > 0",
        ),
    ],
    "nu outside [0, 1]": [
        (lambda: g.epsilon_paper(1, 1, 1.1), r"nu = 1.1 is not allowed: finite and in \[0, 1\]"),
        (lambda: g.epsilon_tight(1, 1, -0.1), r"nu = .* is not allowed: finite and in \[0, 1\]"),
        (
            lambda: g.epsilon_exact(1, 1, [0.5, 2]),
            r"nu = 2.0 is not allowed: finite and in \[0, 1\]",
        ),
        (
            lambda: g.theorem_1_probability(9, 1, 2),
            r"nu = .* is not allowed: finite and in \[0, 1\]",
        ),
        (lambda: g.slope_tight(1, 1, 2), r"nu = .* is not allowed: finite and in \[0, 1\]"),
        (lambda: g.vacuous(9, 1, 1, 2), r"nu = .* is not allowed: finite and in \[0, 1\]"),
    ],
    "eta outside [0, 1)": [
        (
            lambda: FeatureModel(10, 1, 1.0, 1, 1),
            r"eta = 1.0 is not allowed: finite and in \[0, 1\)",
        ),
        (
            lambda: FeatureModel(10, 1, -0.1, 1, 1),
            r"eta = .* is not allowed: finite and in \[0, 1\)",
        ),
        (
            lambda: g.rise_factor(10, 1, 1, 0.1, 1, 0.1),
            r"eta = .* is not allowed: finite and in \[0, 1\)",
        ),
    ],
    "w = 0": [
        (lambda: g.standard_error([0, 0], [1, 1], 1), "w = 0 is not allowed: a non-zero entry"),
        (
            lambda: g.robust_error([[1, 0], [0, 0]], [1, 1], 1, 0),
            "w = 0 is not allowed: a non-zero entry",
        ),
        (
            lambda: MODEL.robust_error_of(np.zeros(11), 0.1),
            "w = 0 is not allowed: a non-zero entry",
        ),
        (lambda: g.fit([[1.0], [1.0]], [1, -1]), "mean of y x = 0 is not allowed"),
    ],
    "mismatched shapes": [
        (
            lambda: g.standard_error([1, 2], [1, 2, 3], 1),
            r"theta.shape = \(3,\) is .* the last dimension of",
        ),
        (lambda: g.standard_error(1.0, [1, 2], 1), r"w.shape = \(\) is not allowed: \(..., d\)"),
        (
            lambda: g.standard_error(np.ones((2, 3)), np.ones(3), [1, 1, 1]),
            "shapes that broadcast together",
        ),
        (lambda: g.robust_error([1, 1], [1, 1], [1, 1], [0, 0, 0]), r"sigma \(2,\), epsilon \(3,"),
        (lambda: g.sample(np.ones((2, 2)), 1, 5, RNG), r"theta.shape = \(2, 2\) is .*: \(d,\)"),
        (lambda: g.fit(np.ones((3, 2)), np.ones(2)), r"shapes of x and y = .*: \(..., n, d\)"),
        (lambda: g.fit(np.ones((0, 2)), np.ones(0)), "shapes of x and y = .* is not allowed"),
        (lambda: g.typical_z([1, 2], [1, 2, 3], 1), r"d \(2,\), n \(3,\)"),
        (lambda: g.error_law([1, 2], 1, 1).cdf([0.1, 0.2, 0.3]), r"beta \(3,\), d \(2,\)"),
        (lambda: g.epsilon_paper([1, 2], 1, [0, 0.5, 1]), r"n \(2,\), .*nu \(3,\)"),
        (lambda: MODEL.robust_error([0.1, 0.2], [0, 0, 0]), r"B \(2,\), epsilon \(3,\)"),
        (lambda: MODEL.robust_error_of(np.ones(10), 0.1), r"w.shape = .* \(..., d \+ 1 = 11"),
        (lambda: g.expected_loss(MODEL, [0, 1], 0, "hinge", [1, 2, 3]), r"B \(2,\), scale \(3,\)"),
        (
            lambda: FeatureModel(10, 1, [0.1, 0.2], 1, 1),
            r"eta's shape = \(2,\) is not allowed: one number",
        ),
        (
            lambda: g.sample_means(np.ones((2, 3)), np.ones(3)),
            "shapes of x and y = .* is not allowed",
        ),
        (
            lambda: g.flow(MODEL, 0.1, "hinge", 1, [[1.0]]),
            r"times = .* is not allowed: shape \(T,\)",
        ),
    ],
    "non-finite": [
        (lambda: g.standard_error([np.nan], [1], 1), "w = nan is not allowed: finite"),
        (lambda: g.standard_error([1], [np.inf], 1), "theta = inf is not allowed: finite"),
        (lambda: g.standard_error([1], [1], np.inf), "sigma = inf is not allowed: finite and >= 0"),
        (
            lambda: g.robust_error([1], [1], 1, np.nan),
            "epsilon = nan is not allowed: finite and >= 0",
        ),
        (lambda: g.fit([[np.nan]], [1]), "x = .* is not allowed: finite"),
        (lambda: g.error_law(np.inf, 1, 1), "d = inf is not allowed: finite and >= 1"),
        (lambda: FeatureModel(10, 1, np.nan, 1, 1), "eta = .* is not allowed: finite"),
        (lambda: FeatureModel(np.inf, 1, 0.1, 1, 1), "d = .* is not allowed: a whole number"),
        (lambda: MODEL.robust_error(np.nan, 0.1), "B = .* is not allowed: finite"),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [np.nan]), "times = .* is not allowed: finite"),
        (
            lambda: g.flow(MODEL, 0.1, "hinge", np.inf, [1]),
            "scale = .* is not allowed: finite and > 0",
        ),
        (lambda: AVmixup(np.inf, 1, 0.5), "gamma = .* is not allowed: finite and >= 0"),
    ],
    "other ranges": [
        (lambda: g.robust_error([1], [1], 1, -0.1), "epsilon = .* is not allowed: finite and >= 0"),
        (
            lambda: g.error_law(9, 1, 1).cdf(1.5),
            r"beta = .* is not allowed: finite and in \[0, 1\]",
        ),
        (
            lambda: g.error_law(9, 1, 1).cdf(1.5, log10=True),
            "beta = .* is not allowed: finite and <= 0",
        ),
        (
            lambda: g.epsilon_for_error(9, 1, 1, 0),
            r"beta = .* is not allowed: finite and in \(0, 1\]",
        ),
        (
            lambda: g.typical_z(9, 1, 1, density=0),
            r"density = .* is not allowed: finite and in \(0, 1\]",
        ),
        (lambda: g.fit([[1.0]], [0]), r"y = \[0.0\] is not allowed: -1 or \+1"),
        (
            lambda: g.theorem_1_probability(9, 1, 0.5, "same"),
            "noise = 'same' is not allowed: one of independent",
        ),
        (lambda: g.theorem_2_weight(9, 1, -1), "rho = .* is not allowed: finite and >= 0"),
        (lambda: MODEL.mean(1.2), r"B = 1.2 is not allowed: finite and in \[0, 1\]"),
        (
            lambda: MODEL.mean(0.2, "sample"),
            "under = 'sample' is not allowed: one of true, observed",
        ),
        (lambda: MODEL.minimise_variance(tie="all"), "tie = .* is not allowed: one of"),
        (lambda: MODEL.robust_optimum(-1), "epsilon = .* is not allowed: finite and >= 0"),
        (
            lambda: g.flow(MODEL, 0.1, "squared", 1, [1]),
            "loss = .* is not allowed: one of logistic",
        ),
        (
            lambda: g.flow(MODEL, 0.1, "hinge", 1, [1], "newton"),
            "geometry = .* is not allowed: one of",
        ),
        (lambda: g.flow(MODEL, 0.1, "hinge", 0, [1]), "scale = .* is not allowed: finite and > 0"),
        (
            lambda: g.flow(MODEL, 0.1, "hinge", 1, [2, 1]),
            "times = .* is not allowed: shape .* not falling",
        ),
        (
            lambda: g.flow(MODEL, 0.1, "hinge", 1, [-1]),
            "times = .* is not allowed: finite and >= 0",
        ),
        (lambda: g.flow(MODEL, 0.1, "hinge", 1, [1], start=1), r"start = .* in \(0, 1\)"),
        (
            lambda: g.flow(FeatureModel(9, 2, 0.3, 0.1, 9), 0.1, "exponential", 300, [1]),
            "scale = 300.0 is not allowed: so small that the loss .* stays finite",
        ),
        (lambda: LabelSmoothing(1.5), r"lam = .* is not allowed: finite and in \[0, 1\]"),
        (lambda: AVmixup(-1, 1, 0.5), "gamma = .* is not allowed: finite and >= 0"),
        (lambda: AVmixup(2, 1.1, 0.5), r"lambda1 = .* is not allowed: finite and in \[0, 1\]"),
        (lambda: AVmixup(2, 1, -0.5), r"lambda2 = .* is not allowed: finite and in \[0, 1\]"),
        (lambda: g.zero_crossing(0.5, 0.5), "lambda2 = 0.5 is not allowed: < lambda1 = 0.5"),
        (lambda: g.matching_gamma(MODEL, 0), "epsilon = .* is not allowed: finite and > 0"),
        (
            lambda: g.stationary_point(FeatureModel(9, 1, 0.3, 0, 1), 0.1, "logistic", None),
            "is not allowed: sigma_a > 0 and sigma_b > 0 where the scale is learned",
        ),
        (
            lambda: g.train_on_sample(MODEL, 9, 0.1, RNG, steps=0),
            "steps = .* is not allowed: a whole number",
        ),
        (
            lambda: g.train_on_sample(MODEL, 9, 0.1, RNG, record=1),
            "record = .* is not allowed: a whole numbe",
        ),
        (lambda: g.train_on_sample(MODEL, 9, 0.1, RNG, step_size=0), "step_size = 0.0 is .* > 0"),
        (
            lambda: g.robust_errors_fast(9, 1, 1, 0, -1, RNG),
            "size = .* is not allowed: a whole number >= 0",
        ),
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
        (
            lambda: g.standard_error(["a"], [1], 1),
            "w = .* is not allowed: a real number or an array of them",
        ),
        (lambda: g.standard_error([1], [1], 1j), "sigma = .* is not allowed: a real number"),
        (lambda: g.standard_error([1], [1], None), "sigma = .* is not allowed: a real number"),
        (lambda: g.sample([1.0], 1, "5", RNG), "n = '5' is not allowed: a whole number >= 1"),
        (lambda: g.sample([1.0], 1, True, RNG), "n = True is not allowed: a whole number >= 1"),
        (
            lambda: g.sample([1.0], 1, 5, 0),
            "rng = .* is not allowed: a numpy.random.Generator",
        ),
        (
            lambda: g.error_law(9, 1, 1).rvs(5, np.random),
            "rng = .* is not allowed: a numpy.random.Generator",
        ),
        (lambda: FeatureModel("10", 1, 0.1, 1, 1), "d = '10' is not allowed: a whole number >= 1"),
        (lambda: FeatureModel(10, "1", 0.1, 1, 1), "c = '1' is not allowed: a real number"),
        (
            lambda: MODEL.sample_true(5, 0),
            "rng = .* is not allowed: a numpy.random.Generator",
        ),
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
