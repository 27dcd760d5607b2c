"""Random search: an attack that sees no gradient, so no hidden gradient can stop it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avmixup_kit._base import check
from avmixup_kit._base.texts import text_of
from avmixup_kit.evaluation.images import ImageSet, answered, batch_on
from avmixup_kit.evaluation.record import Verdict
from avmixup_kit.methods.attacks import Ball, Norm, check_epsilon
from avmixup_kit.methods.losses import margin


@dataclass(frozen=True)
class RandomSearch:
    """Random blocks of +-epsilon, kept where they lower the margin: a black-box attack.

    Under l2 a block of length epsilon is added, and the sum shortened. A small relative of Square
    Attack that needs no package. Every image sees the same random blocks, drawn from the seed, so a
    verdict depends on neither batch nor order.

    Args:
        epsilon: radius of the ball, in units of [0, 1] pixels.
        queries: forward passes an image may cost.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: epsilon outside (0, 1] (l2: not positive), queries < 1, an unknown norm.
    """

    epsilon: float = 8 / 255
    queries: int = 500
    norm: Norm = "linf"

    def __repr__(self) -> str:
        return text_of(self, "norm")

    def __post_init__(self) -> None:
        check.settle(self)
        check_epsilon(self.epsilon, self.norm)
        check.whole("queries", self.queries)

    @property
    def name(self) -> str:
        """The row's heading."""
        return f"Search{self.queries}" + ("" if self.norm == "linf" else f" {self.norm}")

    @property
    def passes(self) -> int:
        """One round over the standing images."""
        return 1

    def judge(
        self,
        model: nn.Module,
        images: ImageSet,
        standing: Tensor,
        batch_size: int,
        seed: int,
        advance: Callable[[int], object],
    ) -> Verdict:
        """Return which of the images numbered ``standing`` no query fooled, as (N,) bool."""
        kept = torch.zeros(len(images), dtype=torch.bool)
        blocks = self._blocks(images.shape, seed)
        for part in standing.split(batch_size):
            x, y = batch_on(model, images, part)
            allowed = Ball(x, self.epsilon, self.norm)
            best = torch.full((len(x),), float("inf"), device=x.device)
            delta = torch.zeros_like(x)
            for top, left, side, sign in blocks:
                proposal = delta.clone()
                block = proposal[:, :, top : top + side, left : left + side]
                if self.norm == "linf":
                    block[:] = self.epsilon * sign.to(x)
                else:
                    block += self.epsilon * sign.to(x) / block.shape[1:].numel() ** 0.5
                proposal = allowed.project(proposal)
                with torch.no_grad():
                    value = margin(answered(model, x + proposal, batch_size), y)
                better = value < best
                best = torch.where(better, value, best)
                delta = torch.where(better.reshape(-1, 1, 1, 1), proposal, delta)
                left_over = best > 0
                if int(left_over.sum()) <= 3 * len(x) // 4:
                    advance(int((~left_over).sum()))
                    x, y = x[left_over], y[left_over]
                    allowed = Ball(x, self.epsilon, self.norm)
                    delta, best = delta[left_over], best[left_over]
                    part = part[left_over.cpu()]
                if not len(x):
                    break
            advance(len(part))
            kept[part[(best > 0).cpu()]] = True
        return Verdict(kept, 0)

    def _blocks(self, shape: tuple[int, int, int], seed: int) -> list[tuple[int, int, int, Tensor]]:
        """Return (top, left, side, sign per channel or pixel) of every query, large blocks first.

        The first covers the image with a random corner of the ball.
        """
        channels, height, width = shape
        rng = torch.Generator().manual_seed(seed)

        def signs(*size: int) -> Tensor:
            return torch.randint(0, 2, size, generator=rng).float() * 2 - 1

        blocks = [(0, 0, max(height, width), signs(1, channels, height, width))]
        for query in range(1, self.queries):
            side = max(1, round(0.8 * min(height, width) * (1 - query / self.queries) ** 2))
            top = int(torch.randint(0, height - side + 1, (1,), generator=rng))
            left = int(torch.randint(0, width - side + 1, (1,), generator=rng))
            blocks.append((top, left, side, signs(1, channels, 1, 1)))
        return blocks
