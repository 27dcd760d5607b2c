"""Intervals over seeds; those over images, and the paired tests: evaluation/test_verdicts.py."""

import numpy as np
import pytest
from scipy import stats

from avmixup_kit._base.statistics import holm, over_seeds, spread


def test_interval_over_seeds_is_students():
    values = [0.70, 0.72, 0.65, 0.74, 0.69]
    mean, half = over_seeds(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)
    assert over_seeds(values, 0.5)[1] < half


def test_a_single_seed_has_no_interval():
    with pytest.raises(ValueError, match="1 seed has no interval over seeds: two or more"):
        over_seeds([0.7])


def test_spread_is_told_in_percent():
    assert spread([0.70, 0.72]) == "71.0 ± 12.7"
    assert spread([0.01, 0.03], sign=True) == "+2.0 ± 12.7"
    assert spread([0.7]) == "70.0"


def test_holm_multiplies_the_least_p_by_how_many_there_are_and_keeps_the_order():
    # Holm 1979: 4 * 0.01, 3 * 0.015, 2 * 0.03, and never less than one before
    assert holm([0.03, 0.01, 0.4, 0.015]) == pytest.approx([0.06, 0.04, 0.4, 0.045])
    assert holm([0.02, 0.021, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
