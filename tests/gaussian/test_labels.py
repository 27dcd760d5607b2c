"""Labels that a model sets: against draws, differences, descent, and what the other losses know."""

from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import PRESETS, AVmixup, FeatureModel, LabelSmoothing, labels
from avmixup_kit.gaussian.labels import Labelled

EPSILON = 0.2
MODEL = FeatureModel(4, 2, 0.6, 0.6, 1.0)
MEAN = np.array(MODEL.groups("observed")[:2])
VARIANCE = np.array(MODEL.groups("observed")[2:])
W = np.array([0.9, 0.7])
OBJECTIVES = [
    Labelled(0.5, source="hard"),
    Labelled(2.0, source="fixed", lam=0.8),
    Labelled(2.0, mixed=True, source="fixed", lam=0.6),
    Labelled(0.5, source="averaged", share=0.3, temperature=2.0),
    Labelled(2.0, mixed=True, source="averaged", temperature=1.5, asked="point"),
    Labelled(2.0, source="standard", temperature=5.0, asked="attacked"),
    Labelled(2.0, mixed=True, source="robust", share=0.2, temperature=0.5, asked="point"),
    Labelled(3.5, source="standard", temperature=0.0, asked="attacked"),
    Labelled(3.5, mixed=True, source="oracle", temperature=0.0, asked="point"),
    Labelled(3.5, False, "standard", 0.7, 0.0, 0.0, "attacked", ((2.0, 0.0), (5.0, 1.0))),
]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)


def model_asked(objective):
    if objective.source in ("hard", "fixed"):
        return np.zeros(2)
    if objective.source == "averaged":
        return W
    return labels.teacher(MODEL, EPSILON, objective.source)


def draw(objective, x, y, w, v, rng):
    """The loss and its slope by each weight, image by image, of attacked images x (N, d + 1)."""
    sharp = np.arange(MODEL.d + 1) <= MODEL.c
    full, other = (np.where(sharp, p[0] / sharp.sum(), p[1] / (~sharp).sum()) for p in (w, v))
    delta = -y[:, None] * EPSILON * np.sign(full)
    u = rng.random(y.size) if objective.mixed else np.ones(y.size)
    point = x + (u * objective.gamma)[:, None] * delta
    where = {"clean": x, "attacked": x + delta, "point": point}[objective.asked]
    said = y * (where @ other)
    t = objective.temperature
    said = expit(said / t) if t else said > 0
    given = {"hard": 1.0, "fixed": objective.lam}.get(objective.source, objective.share)
    if objective.mixed:
        given = 1 - u * (1 - given)
    q = given + (1 - given) * said * (objective.source not in ("hard", "fixed"))
    terms = [(1.0, point, q)]
    terms += [(weight, x + push * delta, 1.0) for weight, push in objective.hard_terms]
    loss, slopes = 0.0, 0.0
    for weight, at, mass in terms:
        z = y * (at @ full)
        loss = loss + weight * (mass * np.logaddexp(0, -z) + (1 - mass) * np.logaddexp(0, z))
        slopes = slopes + (weight * (expit(z) - mass) * y)[:, None] * at[:, [0, -1]]
    return np.asarray(loss), np.asarray(slopes)


@pytest.fixture(scope="module")
def observed():
    return MODEL.sample_observed(1_000_000, np.random.default_rng(8))


@each_objective
def test_loss_and_gradient_against_draws(observed, objective):
    """Within 4 standard errors, which are about 1 % of the loss and of the slopes' size."""
    (x, y), v = observed, model_asked(objective)
    loss, slopes = draw(objective, x, y, W, v, np.random.default_rng(9))
    claimed = labels.labelled_gradient(MODEL, W, EPSILON, objective)
    size = np.abs(slopes).mean(axis=0)
    for drawn, value, scale in (
        (loss, labels.labelled_loss(MODEL, W, EPSILON, objective), loss.mean()),
        (slopes[:, 0], claimed[0], size[0]),
        (slopes[:, 1], claimed[1], size[1]),
    ):
        error = drawn.std() / np.sqrt(drawn.size)
        assert 4 * error < 0.012 * scale
        assert drawn.mean() == pytest.approx(value, abs=4 * error)


@each_objective
def test_gradient_is_the_difference_of_the_loss(objective):
    """The model that is asked stays: no gradient goes through the label."""
    v = model_asked(objective)
    claimed = labels.labelled_gradient(MODEL, W, EPSILON, objective)
    for i, h in enumerate(np.eye(2) * 1e-5):
        up, down = (
            labels.labelled_loss(MODEL, W + s * h, EPSILON, objective, asked=v) for s in (1, -1)
        )
        assert claimed[i] == pytest.approx((up - down) / 2e-5, rel=1e-7, abs=1e-9)


@each_objective
def test_descent_from_small_weights_ends_there(objective):
    w, end = np.array([0.05, 0.05]), labels.ending(MODEL, EPSILON, objective)
    weight = 1 + sum(weight for weight, _ in objective.hard_terms)
    there = end.norm * np.array([1 - end.B, end.B])
    for _ in range(3000):
        step = labels.labelled_gradient(MODEL, w, EPSILON, objective) / VARIANCE / weight
        w = np.maximum(w - step, 0)
        if np.abs(step).max() < 1e-5:
            break
    assert end.kind == "point"
    assert w == pytest.approx(there, rel=5e-2, abs=1e-5)  # hard labels creep at the end
    rest = labels.labelled_gradient(MODEL, there, EPSILON, objective)
    assert rest[there > 0] == pytest.approx(0, abs=1e-11)
    assert (rest[there == 0] >= 0).all()
    assert end.robust_error == MODEL.robust_error(end.B, EPSILON)


def test_four_numbers_give_the_weights():
    """w = [(G₀/H) Σ⁻¹(μ - κ) + (P/H) v]₊ with kappa and pull as returned, G₀/H from one of them."""
    objective = Labelled(0.5, source="standard", temperature=3.0)
    end = labels.ending(MODEL, EPSILON, objective)
    w, v = end.norm * np.array([1 - end.B, end.B]), labels.teacher(MODEL, EPSILON, "standard")
    assert end.kappa == pytest.approx(0.5 * EPSILON)
    shares = (w - end.pull * v) * VARIANCE / (MEAN - end.kappa)
    assert shares[0] == pytest.approx(shares[1], rel=1e-6)
    assert shares[0] > 0


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_hard_and_fixed_labels_at_one_point_are_those_of_a_smaller_or_larger_radius(name, gamma):
    model, epsilon = PRESETS[name]
    known = g.stationary_point(model, gamma * epsilon, "logistic", None)
    end = labels.ending(model, epsilon, Labelled(gamma))
    assert pytest.approx(known.B, rel=1e-6, abs=1e-9) == end.B
    assert end.norm == pytest.approx(known.norm, rel=1e-6)
    assert (end.kappa, end.pull) == (pytest.approx(gamma * epsilon), 0)
    known = g.stationary_point(model, gamma * epsilon, LabelSmoothing(0.8), None)
    end = labels.ending(model, epsilon, Labelled(gamma, source="fixed", lam=0.8))
    assert pytest.approx(known.B, rel=1e-6, abs=1e-9) == end.B
    assert end.norm == pytest.approx(known.norm, rel=1e-6)


@pytest.mark.parametrize("name", ["S1", "S2", "S4", "S5"])
@pytest.mark.parametrize("lam", [0.5, 0.7, 0.9])
def test_fixed_labels_at_the_vertex_are_avmixup(name, lam):
    model, epsilon = PRESETS[name]
    known = g.stationary_point(model, epsilon, AVmixup(2.0, 1.0, lam), None)
    end = labels.ending(model, epsilon, Labelled(2.0, mixed=True, source="fixed", lam=lam))
    assert pytest.approx(known.B, rel=1e-6, abs=1e-9) == end.B
    assert end.norm == pytest.approx(known.norm, rel=1e-6)
    assert end.kappa == pytest.approx(known.kappa, rel=1e-5)


@pytest.mark.parametrize("name", ["S1", "S5"])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("source", ["standard", "robust", "oracle"])
def test_a_teacher_asked_at_the_point_is_copied_wherever_it_lies(name, gamma, source):
    """Theory, Step 8; in S1 at temperature 1 the labels differ from hard ones by 1e-140."""
    model, epsilon = PRESETS[name]
    weights = labels.teacher(model, epsilon, source)
    for t in (1.0, 100.0):
        objective = Labelled(gamma, source=source, temperature=t, asked="point")
        end = labels.ending(model, epsilon, objective)
        assert end.norm == pytest.approx(weights.sum() / t, rel=1e-5)
        assert pytest.approx(weights[1] / weights.sum(), rel=1e-4, abs=1e-9) == end.B


def test_teachers_are_the_optima_they_are_named_for():
    for model, epsilon in PRESETS.values():
        for source, radius in (("standard", 0.0), ("robust", epsilon)):
            known = g.stationary_point(model, radius, "logistic", None)
            weights = labels.teacher(model, epsilon, source)
            assert weights == pytest.approx(known.norm * np.array([1 - known.B, known.B]))
        oracle = labels.teacher(model, epsilon, "oracle")
        best = model.robust_optimum(epsilon)
        if model.robust_error(best, epsilon) >= 0.5:
            assert not oracle.any()
            continue
        assert oracle[1] / oracle.sum() == pytest.approx(best)
        margin, deviation = model.mean(best) - epsilon, np.sqrt(model.variance(best))
        nodes = margin + deviation * np.linspace(-10, 10, 2001)
        density = np.exp(-(np.linspace(-10, 10, 2001) ** 2) / 2)

        def loss(norm, nodes=nodes, density=density):
            return np.logaddexp(0, -norm * nodes) @ density

        assert loss(oracle.sum()) < min(loss(0.99 * oracle.sum()), loss(1.01 * oracle.sum()))


@pytest.mark.parametrize("asked", ["clean", "point"])
@pytest.mark.parametrize("t", [1.0, 3.0])
@pytest.mark.parametrize("name", ["S1", "S4", "S5"])
def test_an_own_label_at_one_point_has_the_direction_of_hard_labels(name, t, asked):
    """Theory, Steps 4 to 6: the scale lies between the hard label's and the fixed label's."""
    model, epsilon = PRESETS[name]
    for gamma in (0.5, 2.0):
        hard = labels.ending(model, epsilon, Labelled(gamma))
        fixed = labels.ending(model, epsilon, Labelled(gamma, source="fixed", lam=0.75))
        own = labels.ending(
            model,
            epsilon,
            Labelled(gamma, source="averaged", share=0.5, temperature=t, asked=asked),
        )
        assert pytest.approx(hard.B, rel=1e-5, abs=1e-9) == own.B
        if asked == "point":
            same = own.norm == pytest.approx(hard.norm, rel=1e-6)
            assert same if t == 1 else fixed.norm < own.norm < hard.norm


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("asked", ["clean", "point"])
def test_an_own_label_at_temperature_1_never_lifts_weight_onto_b(name, asked):
    """Theory, Step 7: AVmixup's fixed label does, in S1 to the robust optimum."""
    model, epsilon = PRESETS[name]
    share = labels.teacher(model, epsilon, "standard")
    own = labels.ending(model, epsilon, Labelled(2.0, mixed=True, source="averaged", asked=asked))
    assert share[1] / share.sum() >= own.B
    assert 0 < own.kappa < 2 * epsilon
    fixed = labels.ending(model, epsilon, Labelled(2.0, mixed=True, source="fixed", lam=0.5))
    assert share[1] / share.sum() < fixed.B


def test_temperature_decides_where_nothing_is_given():
    model, epsilon = PRESETS["S1"]

    def end(t, **settings):
        return labels.ending(
            model, epsilon, Labelled(0.5, source="averaged", temperature=t, **settings)
        )

    still = end(1.0, asked="point")
    assert (still.kind, still.B) == ("start", model.uniform_share)
    assert still.robust_error == model.robust_error(model.uniform_share, epsilon)
    for w in ([0.3, 4.0], [2.0, 0.0]):
        objective = Labelled(0.5, source="averaged", asked="point")
        gradient = labels.labelled_gradient(model, w, epsilon, objective)
        assert gradient == pytest.approx(0, abs=1e-12)
    hot, cold = end(2.0, asked="point"), end(0.5, asked="point")
    assert (hot.kind, hot.norm, hot.robust_error) == ("zero", 0, 0.5)
    assert (cold.kind, cold.norm) == ("unbounded", np.inf)
    assert pytest.approx(labels.ending(model, epsilon, Labelled(0.5)).B, rel=1e-6) == cold.B
    assert end(4.0).kind == "zero"
    assert end(1.0).kind == "point"
    beside = {"asked": "point", "hard_terms": ((1.0, 1.0),)}
    assert end(2.0, **beside).kind == "point"
    silent = end(1.0, **beside)  # only the hard labels speak
    attacked = labels.ending(model, epsilon, Labelled(1.0))
    assert (silent.B, silent.norm) == pytest.approx((attacked.B, attacked.norm), rel=1e-6)


def test_an_own_label_without_a_given_part_rests_up_to_a_temperature():
    """At 1.15 some directions forget at once, that of B(k) does not; at 1.18 all do."""
    model = FeatureModel(4, 1, 0.8, 2.0, 2.2)
    variance, hard = np.array(model.groups("observed")[2:]), labels.ending(model, 0.4, Labelled(1))
    for t, rests in ((1.15, True), (1.18, False)):
        objective, w = Labelled(1.0, source="averaged", temperature=t), np.array([0.05, 0.05])
        for _ in range(4000):
            step = labels.labelled_gradient(model, w, 0.4, objective) / variance
            w = np.maximum(w - step, 0)
        end = labels.ending(model, 0.4, objective)
        assert end.kind == ("point" if rests else "zero")
        assert pytest.approx(hard.B if rests else 0, rel=1e-6) == end.B
        assert end.norm == pytest.approx(w.sum(), abs=1e-3)


def test_an_arg_max_at_the_point_grows_for_ever_towards_its_teacher():
    model, epsilon = PRESETS["S1"]
    weights = labels.teacher(model, epsilon, "standard")
    for objective in (
        Labelled(1.0, source="standard", temperature=0, asked="attacked"),
        Labelled(2.0, source="standard", temperature=0, asked="point"),
        Labelled(0.0, source="standard", temperature=0, asked="clean"),
    ):
        end = labels.ending(model, epsilon, objective)
        assert (end.kind, end.norm) == ("unbounded", np.inf)
        assert pytest.approx(weights[1] / weights.sum()) == end.B
    others: list[dict[str, Any]] = [{"share": 0.2}, {"hard_terms": ((1.0, 0.0),)}]
    for other in others:
        held = Labelled(1.0, source="standard", temperature=0, asked="attacked", **other)
        assert labels.ending(model, epsilon, held).kind == "point"


def test_a_hot_label_is_the_fixed_one():
    """Theory, Step 13."""
    model, epsilon = PRESETS["S4"]
    for source in ("averaged", "standard", "oracle"):
        hot = Labelled(2.0, True, source, share=0.4, temperature=1e9)
        end = labels.ending(model, epsilon, hot)
        fixed = labels.ending(model, epsilon, Labelled(2.0, True, "fixed", lam=0.7))
        assert (end.B, end.norm) == pytest.approx((fixed.B, fixed.norm), rel=1e-5)


def test_the_segment_is_integrated_where_a_confident_teacher_turns():
    """A logistic function a thousandth of the segment wide, against adaptive quadrature."""
    model, epsilon = PRESETS["S5"]
    v, w = labels.teacher(model, epsilon, "standard"), np.array([40.0, 30.0])
    objective = Labelled(4.0, True, "standard", asked="point")
    means = np.array(model.groups("observed")[:2])
    crossing = v @ means / (4 * epsilon * v.sum())
    assert 0 < crossing < 1

    def at(u):
        cell = Labelled(4.0 * u, False, "standard", share=1 - u, asked="point")
        return labels.labelled_gradient(model, w, epsilon, cell)

    claimed = labels.labelled_gradient(model, w, epsilon, objective)
    for i in range(2):
        value, error = quad(lambda u, i=i: at(u)[i], 0, 1, points=[crossing], limit=400)
        assert error < 1e-7
        assert claimed[i] == pytest.approx(value, abs=1e-7)


def test_hat_is_a_hard_label_beyond_the_ball_and_lifts_inside_it():
    """Theory, Step 11, and its condition."""
    for name in ("S1", "S4", "S2", "S5"):
        model, epsilon = PRESETS[name]
        standard = labels.teacher(model, epsilon, "standard")
        for gamma, hard in ((2.0, True), (0.5, False)):
            hat = Labelled(gamma, source="standard", temperature=0, asked="attacked")
            end = labels.ending(model, epsilon, hat)
            if hard:
                assert pytest.approx(labels.ending(model, epsilon, Labelled(gamma)).B) == end.B
            else:
                assert standard[1] / standard.sum() < end.B


def test_the_whole_loss_of_hat_is_the_sum_of_its_terms():
    terms = ((2.0, 0.0), (5.0, 1.0))
    hat = Labelled(3.5, source="standard", temperature=0, asked="attacked")
    whole = Labelled(3.5, source="standard", temperature=0, asked="attacked", hard_terms=terms)
    for value in (labels.labelled_loss, labels.labelled_gradient):
        parts = value(MODEL, W, EPSILON, hat) + sum(
            weight * value(MODEL, W, EPSILON, Labelled(push)) for weight, push in terms
        )
        assert value(MODEL, W, EPSILON, whole) == pytest.approx(parts, rel=1e-12)


GRID = {  # theory/network_labels.md: B and robust test error in S1
    ("hard", "inside"): (0.048, 0.1029),
    ("fixed", "vertex"): (0.596, 0.0636),
    ("standard", "inside"): (0.064, 0.1021),
    ("standard", "vertex"): (0.268, 0.0911),
    ("standard", "beyond"): (0.020, 0.1041),
    ("robust", "inside"): (0.027, 0.1038),
    ("robust", "vertex"): (0.264, 0.0914),
    ("robust", "beyond"): (0.0, 0.1049),
    ("oracle", "inside"): (0.739, 0.0493),
    ("oracle", "vertex"): (0.428, 0.0795),
    ("oracle", "beyond"): (0.482, 0.0747),
    ("HAT", "inside"): (0.145, 0.0982),
}


def test_the_grid_has_names_and_the_proofs_numbers():
    model, epsilon = PRESETS["S1"]
    grid = labels.grid(model, epsilon, 2.0)
    assert grid.labels == ("hard", "fixed", "averaged", "standard", "robust", "oracle", "HAT")
    assert grid.points == ("inside", "vertex", "beyond")
    errors = grid.array()
    assert errors.shape == grid.array("kind").shape == (7, 3)
    for i, label in enumerate(grid.labels):
        for j, point in enumerate(grid.points):
            end = grid[label, point]
            assert end == labels.ending(model, epsilon, grid.objectives[i][j])
            assert errors[i, j] == end.robust_error
    for cell, (B, error) in GRID.items():
        assert pytest.approx(B, abs=6e-4) == grid[cell].B
        assert grid[cell].robust_error == pytest.approx(error, abs=6e-5)
    assert errors.min() >= model.robust_error(model.robust_optimum(epsilon), epsilon)


def test_the_grid_stands_where_no_teacher_has_a_margin():
    """S6: every B errs on more than half, and the oracle says nothing."""
    grid = labels.grid(*PRESETS["S6"], 1.5, inside=0.25, lam=0.6, share=0.3)
    assert np.isfinite(grid.array()).all()
    assert pytest.approx(grid["hard", "beyond"].B, abs=1e-9) == grid["oracle", "beyond"].B
    inside = grid.objectives[3][0]
    assert (inside.gamma, inside.share, inside.asked) == (0.25, 0.3, "clean")
    beyond = Labelled(1.5, False, "standard", 0.6, temperature=0.0, asked="attacked")
    assert grid.objectives[6][2] == beyond


def test_confidence_sets_the_temperature():
    model, epsilon = PRESETS["S5"]
    means = np.array(model.groups("observed")[:2])
    for source in ("standard", "robust", "oracle"):
        t = labels.temperature_of(model, epsilon, source, 0.8)
        assert expit(labels.teacher(model, epsilon, source) @ means / t) == pytest.approx(0.8)
    grid = labels.grid(model, epsilon, confidence=0.8)
    assert grid.objectives[3][1].temperature == labels.temperature_of(
        model, epsilon, "standard", 0.8
    )


call: Any = labels
BAD = [
    (lambda: call.Labelled(-1), "gamma = -1.0 is not allowed: finite and >= 0"),
    (lambda: call.Labelled(1, source="soft"), "source = 'soft' is not allowed: one of hard, fixed"),
    (lambda: call.Labelled(1, asked="x"), "asked = 'x' is not allowed: one of clean, attacked"),
    (lambda: call.Labelled(1, lam=1.5), r"lam = 1.5 is not allowed: finite and in \[0, 1\]"),
    (lambda: call.Labelled(1, share=-1), r"share = -1.0 is not allowed: finite and in \[0, 1\]"),
    (lambda: call.Labelled(1, temperature=-1), "temperature = -1.0 is not allowed: .* >= 0"),
    (
        lambda: call.Labelled(1, hard_terms=(1.0, 2.0)),
        r"hard_terms = \(1.0, 2.0\) is not allowed: pairs \(weight, push\)",
    ),
    (
        lambda: call.ending(FeatureModel(9, 1, 0.3, 0, 1), 0.1, Labelled(1)),
        "is not allowed: sigma_a > 0 and sigma_b > 0 where the scale is learned",
    ),
    (lambda: call.ending(MODEL, -1, Labelled(1)), "epsilon = -1.0 is not allowed: .* >= 0"),
    (
        lambda: call.ending(MODEL, 1, Labelled(2, source="robust", temperature=0)),
        "epsilon = 1.0 is not allowed: so small that the robust teacher, whose arg max is asked",
    ),
    (
        lambda: call.ending(
            MODEL, 1, Labelled(2, source="averaged", temperature=0.5, asked="point")
        ),
        "epsilon = 1.0 is not allowed: so small that a class's mean is further away",
    ),
    (lambda: call.teacher(MODEL, 0.1, "averaged"), "source = 'averaged' .* one of standard"),
    (
        lambda: call.labelled_loss(MODEL, [1, 2, 3], 0.1, Labelled(1)),
        r"weights.shape = \(3,\) is not allowed: \(2,\), totals on A and on B",
    ),
    (
        lambda: call.labelled_gradient(MODEL, [1, 2], 0.1, Labelled(1), [1]),
        r"asked.shape = \(1,\) is not allowed: \(2,\)",
    ),
    (lambda: call.labelled_loss(MODEL, [-1, 2], 0.1, Labelled(1)), "weights = -1.0 is .* >= 0"),
    (
        lambda: call.labelled_loss(
            MODEL, [0, 0], 0.1, Labelled(1, source="averaged", temperature=0)
        ),
        r"weights = .* is not allowed: not 0 at temperature 0",
    ),
    (lambda: call.grid(MODEL, 0.1, 1.0), "gamma = 1.0 is not allowed: finite and > 1"),
    (lambda: call.grid(MODEL, 0.1, inside=1), r"inside = 1.0 is not allowed: .* in \(0, 1\)"),
    (lambda: call.grid(MODEL, 0.1, confidence=0.5), r"confidence = 0.5 is .* in \(0.5, 1\)"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_input_says_what_is_allowed(bad, message):
    with pytest.raises(ValueError, match=message) as raised:
        bad()
    assert "\n" not in str(raised.value)


def test_cells_that_a_grid_does_not_have():
    grid: Any = labels.LabelGrid(MODEL, 0.1, ("hard",), ("inside",), (), ())
    with pytest.raises(ValueError, match="label = 'soft' is not allowed: one of hard"):
        grid["soft", "inside"]
    with pytest.raises(ValueError, match="point = 'vertex' is not allowed: one of inside"):
        grid["hard", "vertex"]
    with pytest.raises(ValueError, match="name = 'error' is not allowed: one of kind, B"):
        grid.array("error")


def test_repr_rebuilds_the_settings():
    for objective in OBJECTIVES:
        assert eval(repr(objective)) == objective
