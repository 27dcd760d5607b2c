"""Intervals over seeds; those over images, and the paired tests: evaluation/test_verdicts.py."""

import numpy as np
import pytest
from scipy import stats

from avmixup_kit._base.statistics import over_seeds, spread


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
    assert spread([0.70, 0.72]) == "71.0 +- 12.7"
    assert spread([0.01, 0.03], sign=True) == "+2.0 +- 12.7"
    assert spread([0.7]) == "70.0"
