"""Networks that take images in [0, 1] (N, C, H, W) and return logits (N, K)."""

from avmixup_kit.models.networks import (
    AuthorsPreActivation,
    Network,
    Normalise,
    PreActivation,
    SameConv,
    Standardise,
)
from avmixup_kit.models.weights import load_weights
from avmixup_kit.models.zoo import (
    NAMES,
    NETWORKS,
    ZERO_ONE_TO_MINUS_ONE_ONE,
    ImageShape,
    Normalisation,
    Shape,
    build,
    from_architecture,
    preact_resnet18,
    small_cnn,
    wide_resnet,
    wide_resnet_authors,
)

__all__ = [
    "NAMES",
    "NETWORKS",
    "ZERO_ONE_TO_MINUS_ONE_ONE",
    "AuthorsPreActivation",
    "ImageShape",
    "Network",
    "Normalisation",
    "Normalise",
    "PreActivation",
    "SameConv",
    "Shape",
    "Standardise",
    "build",
    "from_architecture",
    "load_weights",
    "preact_resnet18",
    "small_cnn",
    "wide_resnet",
    "wide_resnet_authors",
]
