"""The record one training step works on, and the networks its stages may ask."""

from dataclasses import dataclass

from torch import Generator, Tensor, nn

from avmixup_kit._base import check
from avmixup_kit._base.shapes import Images, Labels


@dataclass(eq=False)
class Batch:
    """What a step knows of its images; stages fill it as they go (Algorithm 1).

    Args:
        x: clean images (N, C, H, W) in [0, 1].
        y: labels as probabilities (N, K).
        index: which training images these are, (N,).
        rng: where stages draw from, on the device of x; only a stage that draws nothing can do
            without.
        delta: the perturbation (N, C, H, W), line 3.
        x_hat, y_hat: what is trained on, (N, C, H, W) and (N, K), lines 5 to 7.

    Raises:
        ValueError: labels that are no (N, K).
    """

    x: Images
    y: Labels
    index: Tensor | None = None
    rng: Generator | None = None
    delta: Images | None = None
    x_hat: Images | None = None
    y_hat: Labels | None = None

    def __post_init__(self) -> None:
        fine = self.y.ndim == 2 and len(self.y) == len(self.x)
        allowed = f"probabilities ({len(self.x)}, K), such as labels.one_hot(y, num_classes)"
        check.that(fine, "shape of y", tuple(self.y.shape), allowed)

    def need(self, name: str) -> Tensor:
        """Return delta, x_hat, y_hat or index.

        Raises:
            ValueError: no stage has filled it yet.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"batch.{name} is missing: the stage before fills it, or Batch(...)")
        return value

    def drawn_from(self) -> Generator:
        """Return ``rng``.

        Raises:
            ValueError: there is none.
        """
        if self.rng is None:
            raise ValueError("batch.rng is missing: this stage draws random numbers, pass rng")
        return self.rng


class Networks(nn.Module):
    """The network in training, which calls go to, with its averaged copy and a fixed teacher.

    Any ``nn.Module`` will do as the model of a stage that asks for neither.
    """

    averaged: nn.Module | None
    teacher: nn.Module | None

    def __init__(
        self,
        network: nn.Module,
        averaged: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        # No submodules: what freezes or trains the network leaves them alone.
        self.__dict__.update(averaged=averaged, teacher=teacher)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def averaged(model: nn.Module) -> nn.Module:
    """Return the averaged copy of the network in training.

    Raises:
        ValueError: there is none.
    """
    return _asked(model, "averaged", "train with average=0.995, or Networks(network, averaged=...)")


def teacher(model: nn.Module) -> nn.Module:
    """Return the fixed teacher.

    Raises:
        ValueError: there is none.
    """
    return _asked(model, "teacher", "train with teacher=network, or Networks(network, teacher=...)")


def _asked(model: nn.Module, name: str, remedy: str) -> nn.Module:
    found = getattr(model, name, None)
    if found is None:
        raise ValueError(f"this method asks for model.{name}, which is not there: {remedy}")
    return found
