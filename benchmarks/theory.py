"""Print what avmixup_kit.gaussian costs: medians of process CPU time over repeats, and ratios.

    python benchmarks/theory.py [--repeats 9]

Then the slowest answer of each explorer to a slider, from hand to figure with nothing kept, where
the notebooks' extra is installed.

Process CPU time is what one core works, so other programs on the machine do not count. Run with
one BLAS thread (OMP_NUM_THREADS=1) for a fair sum.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import avmixup_kit.gaussian as g

D = 10**6
SETS = 100_000
PIECE = 1 << 15
EXPLORERS = (
    "lottery",
    "theorem_1",
    "theorems_2_and_3",
    "overfitting",
    "phase_map",
    "drawn_data",
    "soft_labels",
)
ANSWER = 0.1


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def normals(count: int, rng: np.random.Generator) -> None:
    """Draw normals in pieces that stay in cache: the floor under any exact sampler."""
    buffer = np.empty(PIECE)
    for _ in range(count // PIECE):
        rng.standard_normal(out=buffer)


def rows() -> list[tuple[str, Callable[[], object], float | None, Callable[[], object] | None]]:
    """Return what is timed: name, call, allowed seconds, and the floor it is compared with."""
    rng = np.random.default_rng(0)
    model, epsilon = g.PRESETS["S1"]
    times = np.linspace(0, 20, 1000)
    long = np.geomspace(0.01, 1e4, 1000)
    soft = g.AVmixup(2, 1, 0.5)
    law = g.error_law(D, 1, 30.0)
    eta, radius = np.linspace(0, 0.6, 61)[:, None], np.linspace(0, 0.6, 61)
    return [
        ("100 000 standard errors, d = 1e6, O(1) law", lambda: law.rvs(SETS, rng), 0.2, None),
        (
            "100 000 robust errors, d = 1e6, O(1) law",
            lambda: g.robust_errors_fast(D, 1, 30.0, 0.1, SETS, rng),
            0.2,
            None,
        ),
        (
            "20 robust errors, d = 1e6, exact O(d)",
            lambda: g.robust_errors_exact(D, 1, 30.0, 0.1, 20, rng),
            None,
            lambda: normals(20 * D, rng),
        ),
        (
            "20 000 robust errors, d = 1000, exact O(d)",
            lambda: g.robust_errors_exact(1000, 1, 5.0, 0.1, 20_000, rng),
            None,
            lambda: normals(20_000 * 1000, rng),
        ),
        (
            "flow, 1000 times, logistic, simplex",
            lambda: g.flow(model, epsilon, "logistic", 1.0, times),
            0.1,
            None,
        ),
        (
            "flow, 1000 times, exponential, simplex",
            lambda: g.flow(model, epsilon, "exponential", 1.0, times),
            0.1,
            None,
        ),
        (
            "flow, 1000 times, hinge, simplex",
            lambda: g.flow(model, epsilon, "hinge", 1.0, times),
            0.1,
            None,
        ),
        (
            "flow, 1000 times, AVmixup, simplex",
            lambda: g.flow(model, epsilon, soft, 4.0, times),
            0.1,
            None,
        ),
        (
            "flow, 1000 times to 1e4, logistic, free scale",
            lambda: g.flow(model, epsilon, "logistic", None, long, "projected"),
            0.1,
            None,
        ),
        (
            "flow, 1000 times to 1e4, AVmixup, free scale",
            lambda: g.flow(model, epsilon, soft, None, long, "projected"),
            0.1,
            None,
        ),
        (
            "stationary point, AVmixup, learned scale",
            lambda: g.stationary_point(model, epsilon, soft, None),
            0.1,
            None,
        ),
        (
            "exact cdf of the error, 1000 values, d = 1e6",
            lambda: law.cdf(np.linspace(0, 1, 1000)),
            0.1,
            None,
        ),
        ("phase map, 61 x 61", lambda: g.rise_factor(100, 1, eta, 0.05, 0.7, radius), 0.1, None),
        (
            "training on 100 drawn examples, 500 steps",
            lambda: g.train_on_sample(model, 100, epsilon, rng, steps=500),
            0.1,
            None,
        ),
    ]


def answers(repeats: int) -> list[tuple[str, str, float]]:
    """Return each explorer's slowest slider end: both names and the median CPU time."""
    from avmixup_kit import live
    from avmixup_kit.live.controls import Number

    found = []
    for name in EXPLORERS:
        explorer = getattr(live, name)()
        spent = []
        for control in explorer.controls.values():
            if not isinstance(control, Number):
                continue
            for end, other in ((control.low, control.high), (control.high, control.low)):
                taken = []
                for _ in range(repeats):
                    control.slider.value = other
                    forget(getattr(live, name).__module__)
                    slider = control.slider
                    taken.append(seconds(lambda s=slider, end=end: setattr(s, "value", end)))
                spent.append((statistics.median(taken), f"{control.name} = {end:g}"))
        slowest, where = max(spent)
        found.append((name, where, slowest))
    return found


def forget(module: str) -> None:
    """Empty the explorer's caches, which would answer at once."""
    for function in vars(sys.modules[module]).values():
        getattr(function, "cache_clear", lambda: None)()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print(f"numpy {np.__version__}, median CPU time of {repeats} repeats")
    print(f"{'what':50} {'time':>10} {'allowed':>10} {'ratio':>7}")
    for name, call, allowed, floor in rows():
        call()
        # the floor is timed right after each call, so that both see the same machine
        pairs = [(seconds(call), seconds(floor) if floor else 0.0) for _ in range(repeats)]
        cost = statistics.median(spent for spent, _ in pairs)
        if floor:
            limit = 1.5 * statistics.median(least for _, least in pairs)
            ratio = statistics.median(spent / least for spent, least in pairs)
        else:
            limit = allowed or 0.0
            ratio = cost / limit
        note = " x its random numbers" if floor else " of the limit"
        print(f"{name:50} {cost * 1e3:7.1f} ms {limit * 1e3:7.1f} ms {ratio:7.2f}{note}")
    if all(importlib.util.find_spec(needed) for needed in ("ipywidgets", "anywidget", "plotly")):
        for name, where, cost in answers(repeats):
            words = f"slowest slider, {name}: {where}"
            print(
                f"{words:50} {cost * 1e3:7.1f} ms {ANSWER * 1e3:7.1f} ms {cost / ANSWER:7.2f}"
                " of the limit"
            )


if __name__ == "__main__":
    main()
