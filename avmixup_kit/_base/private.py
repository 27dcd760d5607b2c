"""What the kit takes from torch's private parts, where torch offers no public way.

Those of one module alone stand there: ``training.compiled`` (torch._dynamo, a thread's CUDA
graphs), ``search.storage`` (Optuna's _trial_id), ``live.lab.trainer`` (a tensor's _version),
``live.figures`` (plotly's and anywidget's JavaScript). tests/test_private_apis.py fails when one of
them changes.
"""

import torch
from torch import Generator, Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

__all__ = ["AnyBatchNorm", "cpu_multiplies_bf16", "standard_gamma"]

AnyBatchNorm = _BatchNorm


def standard_gamma(shape: Tensor, rng: Generator) -> Tensor:
    """Return draws of Gamma(shape, 1) from a generator; the public ones take none."""
    return torch.ops.aten._standard_gamma(shape, rng)


def cpu_multiplies_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 itself."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and (
        torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
        or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
    )
