"""Training methods: attacks, mixes and losses, and what the field composes of them."""

from avmixup_kit.methods import attacks, labels, losses, mixing, sources, transport
from avmixup_kit.methods.batch import Batch, Networks
from avmixup_kit.methods.method import Method, Perturb, parse
from avmixup_kit.methods.named import (
    BY_NAME,
    METHODS,
    SETTINGS,
    at_epsilon,
    avmixup,
    build,
    feature_scatter,
    feature_scatter_avmixup,
    label_smoothing,
    mixture,
    mixup,
    name_of,
    pgd,
    pgd_training,
    standard,
    trades,
)

__all__ = [
    "BY_NAME",
    "METHODS",
    "SETTINGS",
    "Batch",
    "Method",
    "Networks",
    "Perturb",
    "at_epsilon",
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
    "name_of",
    "parse",
    "pgd",
    "pgd_training",
    "sources",
    "standard",
    "trades",
    "transport",
]
