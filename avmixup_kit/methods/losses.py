"""What weights descend (means over the batch) and what attacks climb (sums over the batch)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmixup_kit._base import check, distributed
from avmixup_kit._base.shapes import Images, Labels, Logits, PerExample, Scalar
from avmixup_kit._base.texts import text_of
from avmixup_kit.methods import transport
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.mixing import Mixup


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


def squared_error(logits: Logits, y: Labels) -> PerExample:
    """Return |softmax(logits) - y|^2 of each example, (N,), for soft labels (N, K)."""
    return (logits.softmax(1) - y).square().sum(1)


def check_factor(name: str, value: float) -> None:
    """Raise ValueError unless value is what a term of a loss may be multiplied by."""
    check.number(name, value, "[0, inf)", "a finite number, 0 or more")


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
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check.settle(self)
        check_factor("beta", self.beta)

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        clean = model(batch.x)
        divergence = kl_divergence(clean, model(batch.need("x_hat"))).mean()
        return soft_cross_entropy(clean, batch.need("y_hat")).mean() + self.beta * divergence


@dataclass(frozen=True)
class CleanAndAdversarial:
    """CE(f(x), y) + beta CE(f(x_hat), y_hat), means over the batch, one pass after the other."""

    beta: float = 1.0
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check.settle(self)
        check_factor("beta", self.beta)

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        clean = soft_cross_entropy(model(batch.x), batch.y)
        hat = soft_cross_entropy(model(batch.need("x_hat")), batch.need("y_hat"))
        return clean.mean() + self.beta * hat.mean()


@dataclass(frozen=True)
class LogitPairing:
    """Adversarial logit pairing (Kannan, Kurakin, Goodfellow 2018).

    Cross-entropy on clean and adversarial images, half and half, plus weight |z - z_hat|^2 of their
    logits, means over the batch.
    """

    weight: float = 0.5
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check.settle(self)
        check_factor("weight", self.weight)

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        clean, hat = model(batch.x), model(batch.need("x_hat"))
        both = soft_cross_entropy(clean, batch.y) + soft_cross_entropy(hat, batch.need("y_hat"))
        return (both / 2 + self.weight * (clean - hat).square().sum(1)).mean()


@dataclass(frozen=True)
class Mart:
    """MART (Wang et al. 2020): boosted cross-entropy, and KL weighted by the clean image's lack.

    With p and p' the probabilities at x and x_hat, and k the likeliest class at x_hat but y:
    CE(x_hat, y) - log(1.0001 - p'_k + 1e-12) + beta KL(p || p') (1.0000001 - p_y), means over the
    batch, logarithms of p' guarded by 1e-12, gradients through both, as in the authors' code.
    """

    beta: float = 5.0
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check.settle(self)
        check_factor("beta", self.beta)

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        clean, hat = model(batch.x), model(batch.need("x_hat"))
        log_p, q = F.log_softmax(clean, dim=1), hat.softmax(1)
        rival = q.scatter(1, batch.y.argmax(1, keepdim=True), float("-inf")).amax(1)
        boosted = soft_cross_entropy(hat, batch.need("y_hat")) - (1.0001 - rival + 1e-12).log()
        divergence = (log_p.exp() * (log_p - (q + 1e-12).log())).sum(1)
        lacking = 1.0000001 - (log_p.exp() * batch.y).sum(1)
        return boosted.mean() + self.beta * (divergence * lacking).mean()


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error between probabilities and label on x_hat: SCORE (Pang et al. 2022)."""

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        return squared_error(model(batch.need("x_hat")), batch.need("y_hat")).mean()


@dataclass(frozen=True)
class SquaredTrades:
    """TRADES with squared errors of probabilities for cross-entropy and KL: SCORE on TRADES.

    |p - y|^2 + beta |p' - p|^2, means over the batch, gradients through both.
    """

    beta: float = 4.0
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check.settle(self)
        check_factor("beta", self.beta)

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        clean, hat = model(batch.x), model(batch.need("x_hat"))
        apart = squared_error(hat, clean.softmax(1)).mean()
        return squared_error(clean, batch.need("y_hat")).mean() + self.beta * apart


@dataclass(frozen=True)
class Interpolated:
    """Interpolated adversarial training (Lamb et al. 2019): the mean of two cross-entropies.

    One on a mixup of the clean images, one on a mixup of x_hat; each draws partners and weights of
    its own, and goes through the network by itself.
    """

    mixup: Mixup = Mixup()  # noqa: RUF009 (frozen, no state)
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        fine = isinstance(self.mixup, Mixup)
        check.that(fine, "mixup", self.mixup, "a Mixup, such as Mixup(a=1.0)")

    def __call__(self, model: nn.Module, batch: Batch) -> Scalar:
        x, x_hat = batch.x, batch.need("x_hat")
        losses = []
        for delta, y in ((torch.zeros_like(x), batch.y), (x_hat - x, batch.need("y_hat"))):
            with torch.no_grad():
                mixed, label = self.mixup(model, replace(batch, y=y, delta=delta))
            losses.append(soft_cross_entropy(model(mixed), label).mean())
        return (losses[0] + losses[1]) / 2


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
        check_factor("kappa", self.kappa)

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

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
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
class SquaredToClean(_FromCleanLogits):
    """|p(x + delta) - p(x)|^2, which TRADES with squared errors climbs; labels play no part."""

    name: ClassVar[str] = "LSE"

    def __call__(self, logits: Logits, y: Labels, reference: Tensor | None) -> PerExample:
        assert reference is not None
        return squared_error(logits, reference.softmax(1))


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
