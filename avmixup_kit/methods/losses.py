"""What weights descend (means over the batch) and what attacks climb (sums over the batch)."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmixup_kit._base import check, distributed
from avmixup_kit._base.shapes import Images, Labels, Logits, PerExample, Scalar
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods import transport
from avmixup_kit.methods.batch import Batch


def soft_cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """Return the cross-entropy of each example, (N,), for logits (N, K) and soft labels (N, K)."""
    return -(y * F.log_softmax(logits, dim=1)).sum(1)


def margin(logits: Logits, y: Labels) -> PerExample:
    """Return z_y - max over j != y of z_j of each example, (N,): negative means misclassified.

    ``y`` is one-hot (N, K); its largest entry names the true class.
    """
    true = y.argmax(1, keepdim=True)
    rival = logits.scatter(1, true, float("-inf")).amax(1)
    return logits.gather(1, true).squeeze(1) - rival


def kl_divergence(logits: Logits, logits_hat: Logits) -> PerExample:
    """Return KL(softmax(logits) || softmax(logits_hat)) of each example, (N,)."""
    log_p = F.log_softmax(logits, dim=1)
    return (log_p.exp() * (log_p - F.log_softmax(logits_hat, dim=1))).sum(1)


# Sinkhorn rounds on a device that nobody looks at, of which each costs time, needed or not.
UNSEEN = 20

# ------------------------------------------------------------------------- what weights descend


@runtime_checkable
class Loss(Protocol):
    """What one training step descends: a scalar from the model and all that the batch holds."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> Scalar: ...


@dataclass(frozen=True)
class CrossEntropy:
    """Mean soft-label cross-entropy on x_hat alone, Algorithm 1 line 9."""

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        return soft_cross_entropy(model(batch.need("x_hat")), batch.need("y_hat")).mean()


@dataclass(frozen=True)
class Trades:
    """CE(f(x), y) + beta * KL(f(x) || f(x_hat)), means over the batch, gradients through both.

    beta is 1/lambda in TRADES' paper and in Table 3: 1 or 6. Clean and adversarial images go
    through the network one after the other, as in TRADES' released code, so batch norm sees each
    by itself.
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        check.settle(self)
        check.number("beta", self.beta, "[0, inf)", "a finite number, 0 or more")

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        clean = model(batch.x)
        divergence = kl_divergence(clean, model(batch.need("x_hat"))).mean()
        return soft_cross_entropy(clean, batch.need("y_hat")).mean() + self.beta * divergence


# ---------------------------------------------------------------------------- what attacks climb


@runtime_checkable
class Objective(Protocol):
    """What an attack climbs: the value of each example, (N,), from its adversarial logits (N, K).

    ``reference`` is looked up once for the clean images, before the first step: None, or a tensor
    whose first axis runs over the examples.
    """

    name: ClassVar[str]

    def reference(self, model: nn.Module, x: Images) -> Tensor | None: ...

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample: ...


class _WithoutReference:
    def reference(self, model: nn.Module, x: Images) -> None:
        return None


class _FromCleanLogits:
    def reference(self, model: nn.Module, x: Images) -> Tensor | None:
        with torch.no_grad():
            return model(x)


@dataclass(frozen=True)
class LabelCrossEntropy(_WithoutReference):
    """The cross-entropy on the true label: PGD and FGSM."""

    name: ClassVar[str] = "PGD"

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
        return soft_cross_entropy(logits, y)


@dataclass(frozen=True)
class Margin(_WithoutReference):
    """The CW margin loss -relu(z_y - max_{j != y} z_j + kappa), the paper's "CW".

    Misclassified by more than kappa, an example has nothing left to gain.
    """

    kappa: float = 50.0
    name: ClassVar[str] = "CW"

    def __post_init__(self) -> None:
        check.settle(self)
        check.number("kappa", self.kappa, "[0, inf)", "a finite number, 0 or more")

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
        return -F.relu(margin(logits, y) + self.kappa)


@dataclass(frozen=True)
class TargetedCrossEntropy(_FromCleanLogits):
    """The log-probability of one wrong class, fixed before the first step: a targeted attack.

    The target is the wrong class that is ``rank``-th most likely on the clean image (1: the
    runner-up), so that it depends on the image alone; or the class numbered ``target``, for every
    image that is not of that class already.

    Raises:
        ValueError: rank or target is no whole number, or both are given; when called, there is no
            such class.
    """

    rank: int = 1
    target: int | None = None
    name: ClassVar[str] = "Targeted"

    def __post_init__(self) -> None:
        check.settle(self)
        check.whole("rank", self.rank)
        if self.target is not None:
            check.whole("target", self.target, 0, "None, or the number of a class")
            check.that(self.rank == 1, "rank", self.rank, "target chooses the class; leave it out")

    def __repr__(self) -> str:
        return text_of(self, "target")

    def reference(self, model: nn.Module, x: Images) -> Tensor | None:
        return super().reference(model, x) if self.target is None else None

    def check(self, classes: int, *_: object) -> None:
        """Raise ValueError unless a model of so many classes has the one that is aimed at."""
        allowed = f"there are {classes - 1} wrong classes"
        check.that(self.rank < classes, "rank", self.rank, allowed)
        allowed = f"0 to {classes - 1}, the model has {classes} classes"
        check.that((self.target or 0) < classes, "target", self.target, allowed)

    def __call__(self, logits: Tensor, y: Tensor, reference: Tensor | None) -> Tensor:
        self.check(logits.shape[1])
        if self.target is not None:
            return F.log_softmax(logits, dim=1)[:, self.target]
        assert reference is not None
        wrong = reference.masked_fill(y > 0.5, float("-inf"))
        target = wrong.topk(self.rank, dim=1).indices[:, -1:]
        return F.log_softmax(logits, dim=1).gather(1, target).squeeze(1)


@dataclass(frozen=True)
class KLToClean(_FromCleanLogits):
    """KL(f(x) || f(x + delta)), which TRADES climbs; labels play no part."""

    name: ClassVar[str] = "KL"

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
        assert reference is not None
        return kl_divergence(reference, logits)


@dataclass(frozen=True)
class TransportDistance(_FromCleanLogits):
    """Feature Scatter's optimal-transport distance between clean and perturbed logits.

    One number for the whole batch, shared out equally: examples of a batch influence each other,
    so the perturbation depends on who else is in it. Cost max(0, 1 - cosine), entropic
    ``regularisation``, at most ``iterations`` Sinkhorn rounds, ended once the summed change of u is
    below ``tolerance`` (None: always all of them). On CUDA, where to look is to wait, there are at
    most 20 rounds, of which those after that one change nothing; training on digits took 2 to 19.
    With several processes the transport is that of the whole batch, not of each process's share.
    """

    regularisation: float = 0.01
    iterations: int = 100
    tolerance: float | None = 0.1
    name: ClassVar[str] = "FS"

    def __post_init__(self) -> None:
        check.settle(self)
        transport.check_sinkhorn(self.regularisation, self.iterations, self.tolerance)

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
        assert reference is not None
        unseen = logits.is_cuda and self.tolerance is not None
        distance = transport.distance(
            distributed.gathered(reference),
            distributed.gathered(logits),
            regularisation=self.regularisation,
            iterations=min(self.iterations, UNSEEN) if unseen else self.iterations,
            tolerance=self.tolerance,
        )
        return (distance / len(logits)).expand(len(logits))
