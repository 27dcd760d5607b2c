"""What speed rests on, counted: random numbers, evaluations, bytes. benchmarks/theory.py times."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

import avmixup_kit.gaussian as g
from avmixup_kit.gaussian import features, flows, laws, stationary

D = 10**6


class Drawn(np.random.Generator):
    """Counts its random numbers, and the pieces they are drawn in."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))
        self.numbers = self.pieces = 0

    def _count(self, drawn):
        self.numbers += np.size(drawn)
        self.pieces += 1
        return drawn

    def standard_normal(self, *args: Any, **options: Any) -> Any:
        return self._count(super().standard_normal(*args, **options))

    def standard_gamma(self, *args: Any, **options: Any) -> Any:
        return self._count(super().standard_gamma(*args, **options))


@pytest.fixture
def rng():
    return Drawn()


@pytest.fixture
def count(monkeypatch):
    """Count a module's calls of one of its functions, and the numbers it returned by them."""

    def watch(module, name):
        function, seen = getattr(module, name), {"calls": 0, "numbers": 0}

        def counted(*args, **kwargs):
            result = function(*args, **kwargs)
            seen["calls"] += 1
            seen["numbers"] += np.size(result) if isinstance(result, (np.ndarray, float)) else 1
            return result

        monkeypatch.setattr(module, name, counted)
        return seen

    return watch


def peak(call):
    """The bytes that were allocated at once at most."""
    tracemalloc.start()
    call()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


@pytest.mark.parametrize("d", [30, D, 10**9])
def test_fast_laws_draw_two_or_three_numbers_a_training_set_in_any_dimension(rng, count, d):
    errors = count(laws, "error_at")
    law = g.error_law(d, 1, 30.0)
    law.rvs(100_000, rng)
    assert (rng.numbers, rng.pieces) == (200_000, 2)
    g.robust_errors_fast(d, 1, 30.0, 0.1, 100_000, rng)
    assert (rng.numbers, rng.pieces) == (500_000, 5)
    assert errors == {"calls": 2, "numbers": 200_000}


def test_fast_laws_allocate_a_few_numbers_a_training_set(rng):
    law = g.error_law(D, 1, 30.0)
    assert peak(lambda: law.rvs(100_000, rng)) < 12 * 8 * 100_000
    fast = peak(lambda: g.robust_errors_fast(D, 1, 30.0, 0.1, 100_000, rng))
    assert fast < 16 * 8 * 100_000


@pytest.mark.parametrize(("d", "sets"), [(D, 5), (1000, 5000)])
def test_exact_sampler_draws_what_it_must_in_pieces_that_fill_the_cache(rng, d, sets):
    g.robust_errors_exact(d, 1, 5.0, 0.1, sets, rng)
    assert rng.numbers == d * sets
    assert rng.pieces < 1.1 * d * sets / 2**15


@pytest.mark.parametrize(("d", "few", "many"), [(10, 10_000, 100_000), (200_000, 2, 20)])
def test_exact_sampler_s_memory_does_not_grow(rng, d, few, many):
    """Beyond the results themselves: a few numbers a training set, never d of them."""
    small, large = (
        peak(lambda sets=sets: g.robust_errors_exact(d, 1, 5.0, 0.1, sets, rng))
        for sets in (few, many)
    )
    assert large - small < 150 * (many - few) + 50_000
    assert large < 2**21 + 150 * many


@pytest.mark.parametrize("loss", ["logistic", "exponential", "hinge", g.AVmixup(2, 1, 0.5)])
@pytest.mark.parametrize("scale", [1.0, None])
def test_flow_of_1000_times_costs_what_one_of_10_does(count, loss, scale):
    model, epsilon = g.PRESETS["S1"]
    forces = count(flows, "forces")
    spent = []
    for times in (10, 1000):
        before = forces["calls"]
        g.flow(model, epsilon, loss, scale, np.linspace(0, 20, times))
        spent.append(forces["calls"] - before)
    assert spent[1] <= spent[0] + 10
    assert spent[1] < 1000


def test_what_a_slider_asks_for_takes_few_evaluations(count):
    model, epsilon = g.PRESETS["S1"]
    forces, errors = count(stationary, "forces"), count(features, "error_at")
    g.stationary_point(model, epsilon, g.AVmixup(2, 1, 0.5), None)
    assert 0 < forces["calls"] < 500

    eta = np.linspace(0, 0.6, 61)
    g.rise_factor(100, 1, eta[:, None], 0.05, 0.7, eta)
    assert errors["calls"] <= 3
    assert errors["numbers"] <= 3 * 61 * 61

    law, values = g.error_law(D, 1, 30.0), np.linspace(0, 1, 200)
    densities, integrands = count(laws, "ndtr"), [count(laws, n) for n in ("gammainc", "gammaincc")]
    law.cdf(values)
    assert 0 < sum(one["numbers"] for one in (densities, *integrands)) <= 96 * values.size

    steps = count(features, "_onto_simplex")
    model.minimise_variance()
    assert 0 < steps["calls"] < 400


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_optimum_of_hard_labels_is_a_formula(count, loss):
    model, epsilon = g.PRESETS["S1"]
    forces = count(stationary, "forces")
    g.stationary_point(model, epsilon, loss, None)
    assert forces["calls"] == 0
