"""Two models on the same images, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from avmixup_kit._base.statistics import mcnemar, over_seeds
from avmixup_kit._base.tables import text_table
from avmixup_kit.evaluation.record import CLEAN, Evaluation


@dataclass(frozen=True)
class Comparison:
    """How two methods differ under one attack, on the same images, over seeds.

    ``differences`` are accuracy of the first minus that of the second, seed by seed, as
    fractions; ``p_values`` McNemar's for each seed. ``p`` is that of the paired t-test over seeds
    (of one seed: McNemar's), ``interval`` the 95 % interval of the mean difference (of one seed:
    of the paired difference over images).
    """

    attack: str
    n: int
    differences: tuple[float, ...]
    p_values: tuple[float, ...]
    p: float
    interval: tuple[float, float]

    @property
    def seeds(self) -> int:
        """How many networks of each method were compared."""
        return len(self.differences)

    @property
    def difference(self) -> float:
        """The mean difference, as a fraction."""
        return sum(self.differences) / len(self.differences)

    def __str__(self) -> str:
        low, high = self.interval
        each = ", ".join(f"{p:.2g}" for p in self.p_values)
        return (
            f"{self.attack}: {100 * self.difference:+.1f} points (95 % interval {100 * low:+.1f} "
            f"to {100 * high:+.1f}, p = {self.p:.2g}, {self.seeds} seeds, n = {self.n}; McNemar "
            f"{each})"
        )


def compare(
    a: Evaluation | Sequence[Evaluation],
    b: Evaluation | Sequence[Evaluation],
    name: str = CLEAN,
) -> Comparison:
    """Return how ``a`` and ``b`` differ under the named attack: single models, or seeds in order.

    ``name`` may be ``"worst case"``. Several seeds are compared seed by seed; what is then
    generalised to is networks trained again, and images stay the same.

    Raises:
        ValueError: different images, different numbers of seeds, or an attack not evaluated.
    """
    first = list(a) if isinstance(a, Sequence) else [a]
    second = list(b) if isinstance(b, Sequence) else [b]
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} seeds cannot be paired")
    pairs = list(zip(first, second, strict=True))
    for one, other in pairs:
        if (one.data, one.n) != (other.data, other.n):
            raise ValueError(
                f"{one.data} ({one.n} images) and {other.data} ({other.n} images) cannot be paired"
            )
    rows = [(one.of(name), other.of(name)) for one, other in pairs]
    over_images = [(x.double() - y.double()).tolist() for x, y in rows]
    differences = [float(np.mean(each)) for each in over_images]
    sample = over_images[0] if len(pairs) == 1 else differences
    mean, half = over_seeds(sample) if len(sample) > 1 else (sample[0], 0.0)
    p_values = tuple(mcnemar(x, y) for x, y in rows)
    p = p_values[0]
    if len(pairs) > 1:
        # Seeds that agree to the last image leave no spread to test against, but for rounding.
        spread = half > 1e-12
        test: Any = scipy.stats.ttest_1samp(differences, 0) if spread else None
        p = float(test.pvalue) if spread else float(abs(mean) < 1e-12)
    ends = mean - half, mean + half
    return Comparison(name, pairs[0][0].n, tuple(differences), p_values, p, ends)


def comparison_rows(evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Return a row per model, a column per attack, with 95 % intervals, below their headings."""
    names = next(iter(evaluations.values())).names
    rows = [["method", *names, "n"]]
    for method, evaluation in evaluations.items():
        rows.append([method, *map(evaluation.bracketed, names), str(evaluation.n)])
    return rows


def comparison_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Return ``comparison_rows`` as a text table."""
    return text_table(comparison_rows(evaluations))
