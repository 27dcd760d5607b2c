"""Training methods: three stages, and the named compositions of the paper's tables.

    perturb(model, x, y, rng)      -> delta            Algorithm 1, line 3
    mix(x, delta, y, rng)          -> (x_hat, y_hat)   Algorithm 1, lines 5 to 7
    loss(model, x, x_hat, y_hat)   -> scalar           Algorithm 1, line 9

x is (N, C, H, W) in [0, 1], y (N, K), rng a ``torch.Generator`` on their device. Any attack, any
mix and any loss make a method; ``Method(pgd(10), AVmixup(2.0, 1.0, 0.1))`` is the paper's.
"""

from avmixup_kit.methods import attacks, labels, losses, mixing, sources, transport
from avmixup_kit.methods.method import Method, Perturb, parse
from avmixup_kit.methods.named import (
    BY_NAME,
    avmixup,
    build,
    feature_scatter,
    feature_scatter_avmixup,
    label_smoothing,
    mixture,
    mixup,
    pgd,
    standard,
    trades,
)

__all__ = [
    "BY_NAME",
    "Method",
    "Perturb",
    "attacks",
    "avmixup",
    "build",
    "feature_scatter",
    "feature_scatter_avmixup",
    "label_smoothing",
    "labels",
    "losses",
    "mixing",
    "mixture",
    "mixup",
    "parse",
    "pgd",
    "sources",
    "standard",
    "trades",
    "transport",
]
