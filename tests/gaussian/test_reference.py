"""Values derived by hand, symbolic algebra or independent quadrature, to the digits they have."""

import numpy as np
import pytest

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import PRESETS, AVmixup, FeatureModel, LabelSmoothing

S1, S2, S3, S4, S5, S6 = PRESETS.values()
E2 = g.Preset(FeatureModel(100, 10, 0.15, 0.1, 0.5), 0.3)  # epsilon = 2 eta, as in S6


def error_of(preset, B):
    model, epsilon = preset
    return model.robust_error(B, epsilon)


def eg(preset, loss, times):
    return g.flow(preset.model, preset.epsilon, loss, 1.0, times)


def minimum_time(loss):
    model, epsilon = S1
    return g.time_to_share(model, epsilon, loss, 1.0, model.robust_optimum(epsilon))


def learned(preset, loss):
    return g.stationary_point(preset.model, preset.epsilon, loss, None)


REFERENCE = {
    "A1": (lambda: g.standard_error([1, 2, 3], [1, 1, 1], 2), 0.211339037085),
    "A2": (lambda: g.robust_error([1, 2, 3], [1, 1, 1], 2, 0.3), 0.287314035295),
    "A4 s=0.5": (lambda: g.mean_abs(0.5), 1.00849070262),
    "A4 s=1": (lambda: g.mean_abs(1), 1.16663094118),
    "A4 s=2": (lambda: g.mean_abs(2), 1.79118622961),
    "A5": (lambda: g.error_law(100, 1, 2).cdf(0.01), 0.419679965727),
    "A7": (lambda: g.typical_z(1e6, 100, 31.6), 9.54774972893),
    "A9": (lambda: g.error_at(g.typical_z(1e6, 100, 31.6), log10=True), -21.178670304),
    "A10": (lambda: g.error_at(g.typical_z(1e6, 1, 1), log10=True), -108576.869052),
    "B1": (lambda: g.alignment_bound(1, 1), 0.166666666667),
    "B3": (lambda: g.standard_error_bound(100, 1, 1), 0.249352208777),
    "B5": (lambda: g.probability(100, 1), 0.996139091728),
    "B7": (lambda: g.epsilon_for_error(1000, 100, 4, 0.01), 0.143895704803),
    "B9a": (lambda: g.epsilon_paper(1, 1, 0.5), 0.0833333333333),
    "B9b": (lambda: g.epsilon_tight(1, 1, 0.5), 0.166666666667),
    "B9c": (lambda: g.epsilon_exact(1, 1, 0.5), 0.599624062879),
    "B12": (lambda: g.slope(1, 1), 0.166666666667),
    "C1": (lambda: g.theorem_2_weight(100, 10, 0.01), 0.000840336134454),
    "C2": (lambda: g.theorem_3_weight(100, 10, 0.01), 0.00979547900969),
    "C3": (lambda: g.theorem_3_weight(100, 10), 0.00979431929481),
    "C5": (lambda: g.untied_weight(100, 0.01), 0.005),
    "D1.S1": (lambda: S1.model.robust_optimum(0.2), 0.818937644342),
    "D2.S1.u": (lambda: error_of(S1, S1.model.uniform_share), 0.104356760567),
    "D2.S1.o": (lambda: error_of(S1, S1.model.robust_optimum(0.2)), 0.0452502817462),
    "D2.S1.v": (lambda: error_of(S1, S1.model.variance_optimum()), 0.0866863517934),
    "D2.S1.z": (lambda: error_of(S1, 0), 0.10493043883),
    "D2.S1.s": (lambda: error_of(S1, S1.model.robust_optimum(0.2, "observed")), 0.103890633138),
    "D1.S2": (lambda: S2.model.robust_optimum(0.2), 0.978505076954),
    "D2.S2.o": (lambda: error_of(S2, S2.model.robust_optimum(0.2)), 0.00371477048447),
    "D2.S2.z": (lambda: error_of(S2, 0), 0.189727191305),
    "D2.S2.s": (lambda: error_of(S2, S2.model.robust_optimum(0.2, "observed")), 0.184371838051),
    "D1.S4": (lambda: S4.model.robust_optimum(0.2), 0.869344868445),
    "D2.S4.u": (lambda: error_of(S4, S4.model.uniform_share), 0.0281237105828),
    "D2.S4.o": (lambda: error_of(S4, S4.model.robust_optimum(0.2)), 0.022437218371),
    "D2.S4.z": (lambda: error_of(S4, 0), 0.152224769172),
    "D3": (
        lambda: S1.model.robust_error(S1.model.uniform_share, 0.2, "observed"),
        0.0858469811483,
    ),
    "D4": (lambda: S1.model.mean(0.5, "observed") - 0.2, 0.44),
    "D5": (lambda: S1.model.variance(0.5, "observed"), 0.00154987373737),
    "D6 logistic": (lambda: g.expected_loss(S1.model, 0.5, 0.2, "logistic", 1), 0.497339071545),
    "D7 logistic": (lambda: g.loss_slope(S1.model, 0.5, 0.2, "logistic", 1), 0.282522874213),
    "D6 exp": (lambda: g.expected_loss(S1.model, 0.5, 0.2, "exponential", 1), 0.644535702081),
    "D6 hinge": (lambda: g.expected_loss(S1.model, 0.5, 0.2, "hinge", 1), 0.56),
    "D7 hinge": (lambda: g.loss_slope(S1.model, 0.5, 0.2, "hinge", 1), 0.72),
    "D8 t=1": (lambda: eg(S1, "logistic", [1.0]).B[0], 0.972298934095),
    "D8 t=10": (lambda: eg(S1, "logistic", [10.0]).B[0], 0.646260236014),
    "D8 t=20": (lambda: eg(S1, "logistic", [20.0]).B[0], 0.116684214433),
    "D9 t=1": (lambda: eg(S1, "logistic", [1.0]).robust_error()[0], 0.0964187183777),
    "D9 t=10": (lambda: eg(S1, "logistic", [10.0]).robust_error()[0], 0.0583757842517),
    "D10 logistic": (lambda: minimum_time("logistic"), 7.10156901414),
    "D10 hinge": (lambda: minimum_time("hinge"), 3.32334194902),
    "D13": (lambda: S1.model.planting_divergence(), 2.67058794186),
    "E1": (
        lambda: g.stationary_point(S1.model, 0.2, LabelSmoothing(0.8), 4).B,
        0.621297060124,
    ),
    "E3": (lambda: g.matching_smoothing(S1.model, 0.2, 8), 0.828130522845),
    "E7": (lambda: g.expected_loss(S1.model, 0.5, 0.2, LabelSmoothing(0.9), 3), 0.369919049444),
    "E8a": (lambda: learned(S1, LabelSmoothing(0.9)).norm, 2.80812382928),
    "E8b": (lambda: learned(S1, LabelSmoothing(0.9)).B, 0.0246329962499),
    "E8c": (lambda: error_of(S1, learned(S1, LabelSmoothing(0.9)).B), 0.10389063301),
    "E9a": (lambda: learned(S1, AVmixup(2, 1, 0.5)).norm, 5.51270177893),
    "E9b": (lambda: learned(S1, AVmixup(2, 1, 0.5)).B, 0.797113172363),
    "E9c": (lambda: error_of(S1, learned(S1, AVmixup(2, 1, 0.5)).B), 0.0456392596935),
    "E11 (1, 0.5)": (lambda: g.zero_crossing(1, 0.5), 0.929109827136),
    "E11 (1, 0.7)": (lambda: g.zero_crossing(1, 0.7), 1.24697964712),
}


def test_every_reference_value_is_here():
    assert len(REFERENCE) == 62


# The flows' error is their integrator's tolerance; E8's printed values stop short of the optimum,
# which the next test has in closed form.
TOLERANCE = {"D8": 1e-8, "D9": 1e-8, "E8": 2e-7}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_value(name):
    compute, value = REFERENCE[name]
    assert compute() == pytest.approx(value, rel=TOLERANCE.get(name[:2], 2e-11))


def test_smoothing_optimum_is_the_closed_form_that_e8_approximates():
    rho = S1.model.rho
    ratio = rho * (0.28 - 0.2) / (1 - 0.2)
    share = learned(S1, LabelSmoothing(0.9)).B
    assert share == pytest.approx(99 * ratio / (2 + 99 * ratio), rel=1e-10)
    assert ratio == pytest.approx(5.102e-4, rel=1e-4)


def shown(value, text):
    """Return whether value rounds to text, half a unit of its last digit either way."""
    digits = len(text.partition(".")[2])
    return abs(value - float(text)) <= 0.5 * 10**-digits + 1e-12


@pytest.mark.parametrize(
    ("name", "start", "least", "end", "share"),
    [
        ("S1", ".10436", ".04525", ".10493", ".8189"),
        ("S2", ".00531", ".00371", ".18973", ".9785"),
        ("S3", ".09480", ".03868", ".09540", ".8829"),
        ("S4", ".02812", ".02244", ".15222", ".8693"),
        ("S5", ".44434", ".32930", ".32930", "0"),
        ("S6", ".82120", ".52520", ".52520", "0"),
    ],
)
def test_presets(name, start, least, end, share):
    model, epsilon = PRESETS[name]
    best = model.robust_optimum(epsilon)
    assert shown(best, share)
    assert shown(model.robust_error(model.uniform_share, epsilon), start)
    assert shown(model.robust_error(best, epsilon), least)
    assert shown(model.robust_error(0, epsilon), end)


def test_rise_factors():
    model = S1.model
    numbers = (model.d, model.c, model.eta, model.sigma_a, model.sigma_b)
    factors = g.rise_factor(*numbers, [0, 0.1, 0.2, 0.26, 0.28, 0.5])
    for factor, text in zip(factors, ["5690", "43.8", "2.32", "1.06", "1", "1"], strict=True):
        assert shown(factor, text)
    assert shown(g.rise_factor(1000, 1, 0.28, 0.05, 1, 0.2), "51")
    assert shown(g.rise_factor(200, 10, 0.25, 0.05, 0.4, 0.2), "6.8")


def test_training_error_of_s1_vanishes_where_test_error_does_not():
    assert shown(S1.model.robust_error(0, 0.2, "observed", log10=True), "-113")


def test_time_of_the_minimum_with_the_exponential_loss():
    assert shown(minimum_time("exponential"), "3.7708")


def test_simplex_optimum_overshoots_at_a_large_scale_even_in_the_control():
    noisy = FeatureModel(200, 0, 0.28, 0.6, 0.9, control=True)
    for scale, text in zip([1, 2, 5, 10, 20], ["0", "0", ".288", ".663", ".830"], strict=True):
        assert shown(g.stationary_point(noisy, 0.2, "logistic", scale).B, text)
    assert shown(noisy.robust_error(noisy.uniform_share, 0.2), ".0937")
    assert shown(noisy.robust_error(noisy.robust_optimum(0.2), 0.2), ".0334")
    assert shown(noisy.robust_error(0, 0.2), ".0912")


def test_free_scale_drift_is_slow_for_hard_labels():
    path = g.flow(*S1, "logistic", None, [0, 100, 1e3, 1e4], geometry="projected")
    for error, text in zip(path.robust_error(), [".1044", ".051", ".058", ".064"], strict=True):
        assert shown(error, text)


def test_free_scale_reaches_the_end_sooner_with_smoothing():
    ends = [
        g.flow(*S1, loss, None, [100], geometry="projected").robust_error()[0]
        for loss in ("logistic", LabelSmoothing(0.9), LabelSmoothing(0.8))
    ]
    assert ends == pytest.approx([0.0507, 0.0963, 0.103], rel=5e-3)


def test_scale_that_smoothing_needs():
    for scale, text in zip([2, 4, 8, 16], [".6008", ".6921", ".8281", ".9486"], strict=True):
        assert shown(g.matching_smoothing(S1.model, 0.2, scale), text)


@pytest.mark.parametrize(
    ("loss", "texts"),
    [
        (LabelSmoothing(0.9), [".1049", ".0860", ".0517", ".0501"]),
        (LabelSmoothing(0.8), [".0980", ".0610", ".0464", ".0824"]),
        (AVmixup(2, 1, 0.5), [".0865", ".0527", ".0483", ".0687"]),
        (AVmixup(2, 1, 1), [".1049", ".1049", ".1049", ".1049"]),
    ],
)
def test_soft_labels_at_fixed_scale(loss, texts):
    for scale, text in zip([2, 4, 8, 16], texts, strict=True):
        assert shown(error_of(S1, g.stationary_point(*S1, loss, scale).B), text)


FREE = [
    ("logistic", ["025/.1039", "017/.1505", "111/.1844", "0/.3293", "0/.6932"]),
    (LabelSmoothing(0.9), ["025/.1039", "017/.1505", "111/.1844", "0/.3293", "0/.6932"]),
    (AVmixup(2, 1, 0.5), ["797/.0456", "826/.0238", "857/.0430", "612/.3510", "509/.9306"]),
    (AVmixup(2, 1, 0.7), ["596/.0636", "651/.0482", "674/.1153", "339/.3321", "283/.8175"]),
    (AVmixup(2, 1, 0.9), ["262/.0915", "315/.1115", "325/.1697", "0/.3293", "0/.6932"]),
    (AVmixup(1, 1, 0.5), ["932/.0671", "1/.0424", "1/.0057", "955/.4772", "805/.9960"]),
    (AVmixup(2, 0.9, 0.9), ["0/.1049", "0/.1522", "0/.1897", "0/.3293", "0/.6932"]),
    (AVmixup(2, 1, 1), ["0/.1049", "0/.1522", "0/.1897", "0/.3293", "0/.6932"]),
    (AVmixup(1, 0.5, 0.7), ["0/.1049", "0/.1522", "0/.1897", "0/.3293", "0/.6932"]),
]


@pytest.mark.parametrize(("loss", "cells"), FREE, ids=lambda value: str(value))
def test_soft_labels_at_learned_scale(loss, cells):
    for preset, cell in zip([S1, S4, S2, S5, E2], cells, strict=True):
        share, error = cell.split("/")
        B = learned(preset, loss).B
        assert shown(B, share if share in "01" else "." + share)
        assert shown(error_of(preset, B), error)


def test_norms_at_learned_scale():
    assert shown(learned(S1, LabelSmoothing(0.9)).norm, "2.81")
    assert shown(learned(S1, LabelSmoothing(0.8)).norm, "1.77")


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ((1, 0.5), ".929"),
        ((1, 0.6), "1.069"),
        ((1, 0.7), "1.247"),
        ((1, 0.8), "1.489"),
        ((1, 0.9), "1.878"),
        ((0.9, 0.5), ".956"),
        ((0.9, 0.7), "1.616"),
    ],
)
def test_zero_crossings(labels, text):
    assert shown(g.zero_crossing(*labels), text)


def test_gamma_that_matches_the_robust_optimum():
    for preset, text in zip([S1, S4, S2], ["2.21", "1.87", "1.59"], strict=True):
        assert shown(g.matching_gamma(*preset), text)


def test_literal_second_label_of_ten_classes_flips_two():
    B = learned(S1, AVmixup(2, 1, 0.1)).B
    assert B == 1.0
    assert shown(error_of(S1, B), ".1277")


def test_mean_margin_matching_of_smoothing():
    exact = g.stationary_point(*S1, LabelSmoothing(0.8), 8).B
    matched = (0.8 - np.log(4) / 8) / (1 - 0.28)
    assert shown(exact, ".851")
    assert shown(matched, ".870")


def test_where_the_bounds_say_something():
    """Dimensions where the standard bound passes 1/2, and where the probability passes 0."""
    for n, sigma, d in [(1, 1, 49.9), (1, 5, 16774), (1, 10, 244542), (100, 10, 1382.5)]:
        assert g.standard_error_bound(d, n, sigma) == pytest.approx(0.5, rel=1e-3)
        assert g.vacuous(0.99 * d, n, sigma, 1)
    for sigma in (1, 5):
        edge = 8 * np.log(2) * (sigma**2 + 1)
        assert g.probability(0.999 * edge, sigma) == 0
        assert 0 < g.probability(1.001 * edge, sigma) < 0.01
    assert not g.vacuous(60, 1, 1, 0.5)


def test_failure_bounds_of_theorem_1():
    assert shown(1 - g.probability(20, 1), ".573")
    assert shown(1 - g.probability(20, 1, sharp=True), ".082")


def test_nu_1_does_not_make_the_statement_fail_as_the_paper_says():
    """At ν = 1 the typical robust error stays below the standard bound up to ε = 0.655."""
    d = 1e6
    inside, outside = (g.error_at(g.typical_z(d, 1, 1, e), log10=True) for e in (0.654, 0.656))
    assert inside < g.standard_error_bound(d, 1, 1, log10=True) < outside


def test_bound_is_far_from_the_truth():
    assert shown(g.standard_error_bound(100, 1, 1), ".249")
    assert g.error_at(g.typical_z(100, 1, 1)) == pytest.approx(7.7e-13, rel=0.01)


def test_variance_is_blind_to_the_approach():
    model = FeatureModel(100, 1, 0.28, 0.0, 1.0)
    least = model.variance(model.variance_optimum())
    assert shown(model.variance(model.uniform_share) / least, "1.0097")
    assert shown(model.variance(0) / least, "25.75")


def test_chance_features():
    model = FeatureModel(200, 1, 0.1, 0.6, 0.9)
    few = model.chance_features([100, 400], 0.2)
    assert shown(few[0], "26.7")
    assert shown(few[1], "2.6")
