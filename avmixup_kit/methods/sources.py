"""Diversity of perturbations: a source that is several sources, the paper's Section 5.4.

The paper notes that AVmixup may not withstand attacks it was not trained on, and names more
diverse perturbations as a way out. ``Mixture`` is a perturbation source like any other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import numpy as np
import torch
from torch import Generator, Tensor, nn

from avmixup_kit._base import check
from avmixup_kit._base.shapes import Images
from avmixup_kit.methods.attacks import TRAINING, Crafting, settings_of
from avmixup_kit.methods.batch import Batch, check_place
from avmixup_kit.methods.losses import KLToClean, Margin, TargetedCrossEntropy, TransportDistance

Source = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Mixture:
    """A perturbation source that draws one of ``sources`` for each batch, all equally likely.

    Raises:
        ValueError: no sources, or one that cannot be called.
    """

    sources: tuple[Source, ...]
    captured: ClassVar[bool] = False  # its draw decides what the host does

    def __post_init__(self) -> None:
        fine = isinstance(self.sources, tuple) and bool(self.sources)
        fine = fine and all(map(callable, self.sources))
        allowed = "a tuple of one or more perturbation sources, called with (model, batch)"
        check.that(fine, "sources", self.sources, allowed)
        for source in self.sources:
            check_place("sources", source, "perturb")

    def __call__(self, model: nn.Module, batch: Batch) -> Images:
        """Return one source's delta (N, C, H, W); the draw comes from ``rng`` before its own."""
        return self.sources[_drawn(len(self.sources), batch.drawn_from())](model, batch)


def _drawn(count: int, rng: Generator) -> int:
    """Return a number below ``count``, each equally likely, without waiting for a device."""
    if rng.device.type != "cuda":
        return int(torch.randint(count, (1,), generator=rng, device=rng.device))
    # What a CUDA generator draws is known after a wait only; where it stands is known at once.
    position = rng.get_offset()
    rng.set_offset(position + 4)
    key = np.random.SeedSequence((rng.initial_seed(), position))
    return int(np.random.Generator(np.random.Philox(key)).integers(count))


@settings_of(TRAINING)
def five(**crafting: Unpack[Crafting]) -> Mixture:
    """Return the mixture of PGD, CW, a targeted attack, TRADES' KL and Feature Scatter.

    The first four take ``steps`` steps; Feature Scatter takes its one step of the full epsilon
    from an unclipped start, and TRADES' KL starts near the image, as in their authors' codes.
    """
    pgd = replace(TRAINING, **crafting)
    unclipped = replace(pgd, clip_start=False)
    return Mixture(
        (
            pgd,
            replace(pgd, objective=Margin()),
            replace(pgd, objective=TargetedCrossEntropy()),
            replace(unclipped, objective=KLToClean(), start="normal"),
            replace(unclipped, objective=TransportDistance(), step_size=pgd.epsilon, steps=1),
        )
    )
