"""Search for gamma, lambda1 and lambda2 with Optuna, judged on validation images alone.

    found = tuning.search(av.digits(validation=0.25), "search", trials=100)
    found.best, found.importance, found.heat_map(), found.slices("gamma")
    tuning.remeasure(found, data, "search")          # only now test images are looked at

Each trial trains one network whose weights follow from (seed of the plan, number of the trial) and
the settings Optuna chose. Any number of processes may work on one study: a trial is held by a lock
that the operating system lets go of when its process dies, so whoever asks next takes it up from
its last checkpoint. The objective is robust accuracy under a margin-based attack; cross-entropy
attacks are refused, because soft labels fool them.
"""

from avmixup_kit.search.plan import (
    BEST,
    OBJECTIVES,
    PAPER,
    SEARCHED,
    UNMIXED,
    Plan,
)
from avmixup_kit.search.remeasure import remeasure
from avmixup_kit.search.result import Found, Grid, Trial, importance, progress
from avmixup_kit.search.study import measure, search

__all__ = [
    "BEST",
    "OBJECTIVES",
    "PAPER",
    "SEARCHED",
    "UNMIXED",
    "Found",
    "Grid",
    "Plan",
    "Trial",
    "importance",
    "measure",
    "progress",
    "remeasure",
    "search",
]
