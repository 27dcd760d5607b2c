"""Labels as probability vectors: one-hot, and the paper's smoothing function phi."""

import torch
from torch import Tensor
from torch.nn import functional as F

from avmixup_kit._base import check
from avmixup_kit._base.shapes import Labels


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels (N,) of integers in [0, num_classes) as one-hot float32 (N, num_classes)."""
    return F.one_hot(labels, num_classes).to(torch.float32)


def smooth(y: Labels, lam: float) -> Labels:
    """Return phi(y, lambda), the paper's label smoothing (Definition 6), shape (N, K).

    phi puts ``lam`` on the true class and (1 - lam) / (K - 1) on each other; ``y`` is one-hot.
    PyTorch's ``label_smoothing=a`` is the same with lambda = 1 - a + a / K.
    """
    check_lambda("lam", lam)
    return spread(y, lam)


def spread(y: Labels, lam: float) -> Labels:
    """Return what ``smooth`` does for a ``lam`` that a stage has checked, and may be a tensor."""
    num_classes = y.shape[-1]
    return y * lam + (1 - y) * ((1 - lam) / (num_classes - 1))


def check_lambda(name: str, value: float) -> None:
    """Raise ValueError unless value, the probability left on the true class, lies in [0, 1]."""
    allowed = "it is the probability kept on the true class, a number from 0 to 1"
    check.number(name, value, "[0, 1]", allowed)
