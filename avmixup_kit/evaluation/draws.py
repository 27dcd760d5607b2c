"""Random networks: the mean over many draws, which attacks follow and verdicts are about."""

import torch
from torch import Tensor, nn

from avmixup_kit._base import check


class MeanOverDraws(nn.Module):
    """A random network's mean answer over ``draws`` forwards, with fresh random numbers each.

    Expectation over transformation (Athalye et al. 2018): from images to the logarithm of the mean
    of ``draws`` softmax probabilities, (N, K), logits of the classifier that averages. A gradient
    through it is the mean over the draws, each weighted by its share of the probability climbed.
    Random numbers follow from the seed and the number of the call; the global generators stay as
    they were. A gradient holds all draws in memory: ``draws`` times a batch.

    Args:
        model: from images to logits (N, K), random where it draws from torch's generators.
        draws: how many forwards an answer takes.

    Raises:
        ValueError: draws < 1.
    """

    def __init__(self, model: nn.Module, draws: int, seed: int = 0) -> None:
        super().__init__()
        check.whole("draws", draws)
        self.model, self.draws = model, draws
        self.seeds = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return log of the mean probability of each class, (N, K)."""
        seed = int(torch.randint(2**62, (1,), generator=self.seeds))
        used = [torch.default_generator]
        used += [torch.cuda.default_generators[x.device.index]] if x.is_cuda else []
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            for generator in used:
                generator.manual_seed(seed)
            every = [self.model(x).log_softmax(1) for _ in range(self.draws)]
        return torch.stack(every).logsumexp(0) - torch.tensor(self.draws).log().to(x)


def averaged(model: nn.Module, draws: int | None, seed: int = 0) -> nn.Module:
    """Return the model itself, or where ``draws`` are asked for its mean over them."""
    if draws is None or isinstance(model, MeanOverDraws):
        return model
    return MeanOverDraws(model, draws, seed)
