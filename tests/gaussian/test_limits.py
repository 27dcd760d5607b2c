"""Degenerate limits have the right value, no NaN and no warning (warnings are errors here)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import PRESETS, AVmixup, FeatureModel, LabelSmoothing

LOSSES = ["logistic", "exponential", "hinge", LabelSmoothing(0.8), AVmixup(2, 1, 0.5)]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_imports_without_torch():
    """The folder alone, under an empty parent: only numpy and scipy are needed."""
    folder = Path(g.__file__).parent.parent
    code = (
        "import sys, types\n"
        "sys.modules['torch'] = None\n"
        "parent = types.ModuleType('avmixup_kit')\n"
        f"parent.__path__ = [{str(folder)!r}]\n"
        "sys.modules['avmixup_kit'] = parent\n"
        "import avmixup_kit.gaussian as g\n"
        "assert all(hasattr(g, name) for name in g.__all__)\n"
        "third = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(m for m in third if not m.startswith('_')))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(out.stdout)) - {"avmixup_kit", "torch", "cython_runtime", "sitecustomize"}
    assert {"numpy", "scipy"} <= loaded
    assert not loaded & {"torch", "torchvision", "matplotlib", "plotly", "ipywidgets", "sklearn"}


def test_sigma_0_has_no_error_inside_the_radius(rng):
    assert g.standard_error([1, 2], [1, 1], 0) == 0
    assert g.standard_error([1, 2], [1, 1], 0, log10=True) == -np.inf
    assert g.standard_error([1, -2], [1, 1], 0) == 1
    assert g.standard_error([1, -1], [1, 1], 0) == 1, "a tie is no label"
    assert list(g.robust_error([1, 1], [1, 1], 0, [0.9, 1.0, 1.1])) == [0, 1, 1]
    law = g.error_law(10, 2, 0)
    assert list(law.cdf([0, 0.5, 1])) == [1, 1, 1]
    assert (law.rvs(5, rng) == 0).all()
    for sampler in (g.robust_errors_exact, g.robust_errors_fast):
        for sigma in (0, 1e-300, 1e-120, 1e-90):
            assert (sampler(10, 2, sigma, [0.5, 1.5], 3, rng) == [0, 1]).all()
            assert (sampler(10, 2, sigma, [0.5, 1.5], 3, rng, 0.5) == [0, 1]).all()
    assert g.typical_z(10, 1, 0, 0.5) == np.inf
    assert g.typical_z(10, 1, 0, 1.5) == -np.inf
    assert g.critical_epsilon(1, 0) == 1
    assert (g.sample([1.0, 2.0], 0, 3, rng)[0] ** 2 == [1, 4]).all()
    assert g.alignment_bound(1, 0) == 0.5
    assert g.standard_error_bound(10, 1, 0) == 0
    assert list(g.robust_error_bound(10, 1, 0, [0.4, 0.5, 0.6])) == [0, 1, 1]
    assert g.probability(100, 0) == pytest.approx(1 - 2 * np.exp(-12.5))
    assert g.probability(100, 0, sharp=True) == pytest.approx(1 - np.exp(-50))
    assert g.slope(4, 0) == np.inf
    assert g.slope_tight(4, 0, 0.5) == np.inf
    assert g.epsilon_paper(1, 0, 0.5) == 0.25
    assert g.epsilon_for_error(10, 1, 0, 0.1) == 0.5


def test_nu_0_and_1():
    for n, sigma in [(1, 1.0), (9, 5.0)]:
        assert g.epsilon_paper(n, sigma, 0) == pytest.approx(g.alignment_bound(n, sigma))
        assert g.epsilon_tight(n, sigma, 0) == pytest.approx(1 - 0.5 / np.sqrt(n))
        assert g.epsilon_exact(n, sigma, 0) == 1
        for radius in (g.epsilon_paper, g.epsilon_tight, g.epsilon_exact):
            assert radius(n, sigma, 1) == pytest.approx(0, abs=1e-15)
    assert g.theorem_1_probability(1000, 2, 0) == pytest.approx(g.probability(1000, 2))


def test_tiny_and_huge_numbers():
    assert g.mean_abs(1e-300) == 1
    assert g.mean_abs(1e300) == pytest.approx(1e300 * np.sqrt(2 / np.pi))
    assert g.standard_error([1e-200, 1e-200], [1, 1], 1) == g.standard_error([1, 1], [1, 1], 1)
    assert g.standard_error([1e200, 1e200], [1, 1], 1) == g.standard_error([1, 1], [1, 1], 1)
    assert g.robust_error_bound(1e6, 1, 1e-200, 0.1) == 0
    assert g.critical_epsilon(1, 1e100) == pytest.approx(np.sqrt(np.pi / 2) / 1e100)
    assert np.isfinite(g.standard_error([1], [1], 1e-100, log10=True))


def test_a_million_dimensions(rng):
    d = 10**6
    law = g.error_law(d, 1, 1)
    drawn = law.rvs(1000, rng, log10=True)
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(-108576.87, rel=1e-3)
    assert law.cdf(np.median(drawn), log10=True) == pytest.approx(0.5, abs=0.06)
    assert (g.robust_errors_exact(d, 1, 1, 0.1, 2, rng, log10=True) < -50_000).all()
    model = FeatureModel(d, 1, 0.28, 0.05, 1)
    best = model.robust_optimum(0.2)
    assert model.robust_error(best, 0.2, log10=True) < -100
    assert model.means().shape == (d + 1,)
    assert g.theorem_3_weight(d, 1) == pytest.approx(1 / (d + 3))
    for loss in LOSSES:
        path = g.flow(model, 0.2, loss, 1.0, [0.0, 1.0, 10.0])
        assert np.isfinite(path.robust_error(log10=True)).all()


def test_one_dimension(rng):
    """f_{n,σ} is then sgn(± x): two errors, and the law has two steps."""
    law = g.error_law(1, 4, 2.0)
    low, high = g.error_at([0.5, -0.5])
    assert np.unique(law.rvs(1000, rng)) == pytest.approx([low, high])
    right = 1 - g.error_at(1.0)
    assert law.cdf([0.0, low - 1e-9, low + 1e-9, 0.5, high - 1e-9, high + 1e-9, 1.0]) == (
        pytest.approx([0, 0, right, right, right, 1, 1])
    )
    assert g.robust_errors_fast(1, 4, 2.0, 0.3, 9, rng).shape == (9,)


def test_shapes(rng):
    assert g.standard_error(np.ones((4, 3)), [1, 1, 1], [[1], [2]]).shape == (2, 4)
    assert g.error_law([10, 100], 1, [[1], [2], [3]]).cdf(0.1).shape == (3, 2)
    assert g.error_law([10, 100], 1, 1).rvs((5, 2), rng).shape == (5, 2)
    for sampler in (g.robust_errors_exact, g.robust_errors_fast):
        assert sampler(10, 1, 1, 0.1, (2, 3), rng).shape == (2, 3)
        assert sampler(10, 1, 1, [0.1, 0.2], (2, 3), rng).shape == (2, 3, 2)
        assert sampler(10, 1, 1, [0.1, 0.2], 0, rng).shape == (0, 2)
    assert isinstance(g.epsilon_paper(1, 1, 0.5), float)
    assert isinstance(PRESETS["S1"].model.robust_error(0.5, 0.2), float)
    assert g.rise_factor(100, 1, np.full((3, 1), 0.3), 0.1, 1, [0.1, 0.2]).shape == (3, 2)


def test_draws_repeat_with_the_seed():
    one, two = (
        g.robust_errors_exact(70_000, 1, 9.0, 0.1, 3, np.random.default_rng(1)) for _ in range(2)
    )
    assert (one == two).all()


def test_theorem_1_clamps_each_factor():
    """Two negative factors would multiply to a positive, meaningless number."""
    raw = (1 - 2 * np.exp(-2 / (8 * 26))) * (1 - 2 * np.exp(-2 / (8 * 7.25)))
    assert raw > 0.9
    for noise in ("independent", "any", "shared"):
        assert g.theorem_1_probability(2, 5, 0.5, noise) == 0


def test_rho_1_gives_uniform_weights():
    model = FeatureModel(20, 5, 0.3, 0.7, 0.7)
    assert model.rho == pytest.approx(1)
    for under in ("true", "observed"):
        assert model.minimise_variance(under) == pytest.approx(np.full(21, 1 / 21))
        assert model.variance_optimum(under) == pytest.approx(model.uniform_share)


def test_no_noise_in_a_feature_group():
    sharp = FeatureModel(20, 5, 0.3, 0.0, 0.7)
    assert sharp.rho == 0
    assert sharp.variance_optimum("observed") == 0
    assert sharp.robust_error(0.0, 0.2, "observed") == 0
    assert 0 < sharp.robust_optimum(0.2) < 1
    assert sharp.robust_optimum(0.2, "observed") == 0
    assert sharp.planting_divergence() == np.inf
    assert sharp.minimise_variance("observed")[-1] == pytest.approx(0, abs=1e-12)
    exact = FeatureModel(20, 5, 0.3, 0.1, 0.0)
    assert exact.rho == np.inf
    assert exact.robust_optimum(0.2) == 1
    assert exact.robust_error(1.0, 0.2) == 0
    silent = FeatureModel(20, 5, 0.3, 0.0, 0.0)
    assert silent.robust_error(silent.robust_optimum(0.2), 0.2) == 0
    assert silent.variance_optimum() == 0
    for model in (sharp, exact, silent):
        for loss in LOSSES:
            path = g.flow(model, 0.2, loss, 1.0, [0.0, 5.0])
            assert np.isfinite(path.B).all()
            assert 0 <= g.stationary_point(model, 0.2, loss, 1.0).B <= 1


def test_control_has_no_overshoot():
    """With c = 0 the sample distribution is the true one."""
    for preset in ("S1", "S2", "S4"):
        model, epsilon = PRESETS[preset]
        control = FeatureModel(model.d, 0, model.eta, model.sigma_a, model.sigma_b, control=True)
        assert (control.means("true") == control.means("observed")).all()
        assert (control.deviations("true") == control.deviations("observed")).all()
        best = control.robust_optimum(epsilon)
        assert best == control.robust_optimum(epsilon, "observed")
        path = g.flow(control, epsilon, "logistic", 1.0, np.linspace(0, 60, 200))
        assert (np.diff(path.robust_error()) < 1e-15).all()
        assert path.robust_error()[-1] < 1e-50


def test_radius_at_and_above_eta():
    for name in ("S5", "S6"):
        model, epsilon = PRESETS[name]
        assert model.robust_optimum(epsilon) == 0
        for loss in ("logistic", "exponential", "hinge", LabelSmoothing(0.9)):
            assert g.stationary_point(model, epsilon, loss, None).B == 0
        path = g.flow(model, epsilon, "logistic", None, [0, 50, 500], geometry="projected")
        assert (np.diff(path.robust_error()) <= 0).all()
    assert path.B[-1] == 0, "for epsilon > eta the weights reach 0, for epsilon = eta they decay"
    assert path.robust_error()[-1] == model.robust_error(0, epsilon)


def test_radius_that_no_classifier_survives():
    model = PRESETS["S1"].model
    for loss in LOSSES[:4]:
        end = g.stationary_point(model, 1.5, loss, None)
        assert (end.B, end.norm, end.kappa) == (0, 0, 1.5)
        for geometry in ("exponentiated", "projected"):
            path = g.flow(model, 1.5, loss, None, [0, 1, 300], geometry)
            assert path.norm[-1] < 0.01
            assert np.isfinite(path.robust_error()).all()


def test_labels_without_information_end_at_0():
    model, epsilon = PRESETS["S1"]
    for loss in (LabelSmoothing(0.5), AVmixup(1, 0.5, 0.5)):
        assert g.stationary_point(model, epsilon, loss, None).norm == 0
        path = g.flow(model, epsilon, loss, None, [0, 1, 1e4], geometry="projected")
        assert (path.norm[-1], path.B[-1]) == (0, 0)


@pytest.mark.filterwarnings("ignore:lsoda")
def test_a_flow_that_cannot_be_integrated_says_so():
    model = FeatureModel(5, 0, 0.82, 0.99, 0.42, control=True)
    with pytest.raises(RuntimeError, match="the flow could not be integrated"):
        g.flow(model, 0.82, "exponential", 100.0, [0.0, 20.0], geometry="projected")


def test_flow_at_time_0_and_repeated_times():
    model, epsilon = PRESETS["S1"]
    for scale in (1.0, None):
        path = g.flow(model, epsilon, "logistic", scale, [0.0, 0.0])
        assert list(path.B) == pytest.approx([model.uniform_share] * 2)
        path = g.flow(model, epsilon, "logistic", scale, [0.0, 1.0, 1.0])
        assert path.B[1] == path.B[2]


def test_projected_flow_stops_at_the_end():
    model, epsilon = PRESETS["S1"]
    path = g.flow(model, epsilon, "logistic", 1.0, [0, 1.0, 10.0, 1e4], geometry="projected")
    assert path.B[0] > path.B[1] > 0
    assert list(path.B[2:]) == [0, 0]


def test_frozen_hinge_is_no_optimum():
    """At a large scale the hinge's slope underflows on the way; its stationary point does not."""
    model, epsilon = PRESETS["S3"]
    path = g.flow(model, epsilon, "hinge", 20.0, [0.0, 1e3])
    assert path.B[-1] > 0.1
    assert g.stationary_point(model, epsilon, "hinge", 20.0).B == 0


def test_time_to_share_never_reached():
    model, epsilon = PRESETS["S1"]
    assert g.time_to_share(model, epsilon, "logistic", 1.0, 0.995) == np.inf
    assert g.time_to_share(model, epsilon, LabelSmoothing(0.8), 4.0, 0.3) == np.inf
    assert g.time_to_share(model, epsilon, "logistic", 1.0, 0.5, start=0.5) == 0


def test_logistic_end_at_a_scale_where_the_loss_underflows():
    """S1 keeps B = 0 up to a scale near 600, where the loss is below 1e-13."""
    model, epsilon = PRESETS["S1"]
    assert g.stationary_point(model, epsilon, "logistic", 400.0).B == 0
    assert g.stationary_point(model, epsilon, "logistic", 1000.0).B > 0
    edge = (1 - model.eta) * 2 / model.sigma_a**2
    assert g.stationary_point(model, epsilon, "exponential", 0.999 * edge).B == 0
    assert g.stationary_point(model, epsilon, "exponential", 1.001 * edge).B > 0


def test_flat_learned_scale_is_still_solved():
    """AVmixup with two hard labels is flat to 1e-100; its end is B = 0 all the same."""
    end = g.stationary_point(*PRESETS["S1"], AVmixup(2, 1, 1), None)
    assert end.B == 0
    assert 0.28 < end.kappa < 0.4


def test_errors_of_finite_training(rng):
    for preset in ("S1", "S5"):
        model, epsilon = PRESETS[preset]
        for loss in LOSSES:
            for scale in (1.0, None):
                step_size = 0.01 if loss == "exponential" else None
                run = g.train_on_sample(
                    model, 8, epsilon, rng, True, loss, scale, steps=50, step_size=step_size
                )
                assert run.weights.shape == (run.steps.size, model.d + 1)
                assert (run.weights >= 0).all()
                assert np.isfinite(run.robust_error(log10=True)).all()
                assert run.training_loss[-1] < run.training_loss[0]
                if scale is not None:
                    assert run.weights.sum(axis=1) == pytest.approx(1)


def test_a_step_too_long_is_refused(rng):
    with (
        pytest.raises(
            ValueError,
            match="step_size = 10000.0 is not allowed: so small that the loss stays finite",
        ),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        g.train_on_sample(
            FeatureModel(5, 1, 0.1, 2, 2), 50, 0.2, rng, loss="exponential", step_size=1e4
        )
