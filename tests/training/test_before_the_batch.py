"""Twenty steps of every method end where they did before stages saw a batch (commit 3e9984c).

Bits depend on the CPU, so they are compared where they were recorded: on one thread of AMD's, with
AVX-512, with AVX2, and with neither AVX nor FMA. In double precision sums agree on any CPU to about
1e-8.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods
from avmixup_kit._base.provenance import provenance

BEFORE = json.loads(Path(__file__).with_name("before_the_batch.json").read_text())
E = av.digits().epsilon
METHODS = {
    "standard": methods.standard(),
    "mixup": methods.mixup(),
    "mixup, one weight a batch": methods.mixup(per_example=False),
    "pgd": methods.pgd(epsilon=E, steps=3),
    "pgd, running statistics": methods.pgd(epsilon=E, steps=3, batch_norm="eval", start="zero"),
    "label_smoothing": methods.label_smoothing(0.8, epsilon=E, steps=3),
    "avmixup": methods.avmixup(2.0, 1.0, 0.1, epsilon=E, steps=3),
    "avmixup, clipped, one weight a batch": methods.avmixup(
        2.0, 1.0, 0.1, epsilon=E, steps=3, clip_vertex=True, per_example=False
    ),
    "trades": methods.trades(6.0, epsilon=E, step_size=E / 4, steps=3),
    "feature_scatter": methods.feature_scatter(0.5, epsilon=E),
    "feature_scatter_avmixup": methods.feature_scatter_avmixup(1.0, 0.5, 0.7, epsilon=E),
    "mixture": methods.mixture(2.0, 1.0, 0.1, epsilon=E, steps=3),
}


class Double(nn.Module):
    """A network that computes in double precision, from weights that no rounding touches."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()
        rng = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for weights in self.parameters():
                if weights.ndim > 1:
                    drawn = torch.rand(weights.shape, generator=rng, dtype=torch.float64)
                    weights.copy_((drawn * 2 - 1) * (3 / weights[0].numel()) ** 0.5)

    def forward(self, x):
        return self.inner(x.double())


def trained(data, model, method):
    training = av.Training(model, data.train, method, 20, seed=7, batch_size=32)
    for _ in training:
        pass
    return training


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_generator_have_the_bits_they_had(digits, name):
    recorded = None
    if provenance()["machine"].startswith("AMD") and torch.get_num_threads() == 1:
        recorded = BEFORE["bits"].get(torch.backends.cpu.get_cpu_capability())
    training = trained(digits, av.small_cnn(digits, seed=5, base_channels=8), METHODS[name])
    digest = hashlib.sha256()
    for key, tensor in training.model.state_dict().items():
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    digest.update(training.rng.get_state().numpy().tobytes())
    assert recorded is None or digest.hexdigest()[:16] == recorded[name]


@pytest.mark.parametrize("name", METHODS)
def test_sums_in_double_precision_are_what_they_were_on_any_cpu(digits, name):
    model = Double(av.small_cnn(digits, seed=5, base_channels=8))
    trained(digits, model, METHODS[name])
    sums = [float(weights.detach().abs().sum()) for weights in model.parameters()]
    assert sums == pytest.approx(BEFORE["sums"][name], rel=1e-6)
