"""How sure a figure is: intervals over images and over seeds, and paired comparisons."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy
from torch import Tensor


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of a proportion, as fractions."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes = {successes} of n = {n} is not allowed: 0 <= successes <= n")
    interval = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(
    correct_a: Tensor,
    correct_b: Tensor,
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> float:
    """Return the exact p-value that two models err equally often on paired examples.

    Args:
        correct_a, correct_b: bool (N,), the same examples in the same order.
        alternative: that they differ, or that the first is right more often.
    """
    if correct_a.shape != correct_b.shape:
        raise ValueError(f"{len(correct_a)} and {len(correct_b)} examples cannot be paired")
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((~correct_a & correct_b).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_a, only_a + only_b, 0.5, alternative).pvalue)


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the mean over seeds and half its confidence interval (Student's t).

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} seed has no interval over seeds: two or more are needed")
    quantile = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), quantile * error


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are (Holm 1979), in the order given.

    Below a level are those that may be called different so that, at that level, none is by chance.
    """
    order = np.argsort(p_values)
    raised = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return corrected.tolist()


def spread(values: Sequence[float], sign: bool = False) -> str:
    """Return mean ± half the 95 % interval over seeds, in percent; of one value, itself."""
    if len(values) == 1:
        return f"{100 * values[0]:{'+' if sign else ''}.1f}"
    mean, half = over_seeds(values)
    return f"{100 * mean:{'+' if sign else ''}.1f} ± {100 * half:.1f}"
