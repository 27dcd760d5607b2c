"""Optimal transport between two batches of logits: the Sinkhorn loop of Feature Scatter.

Source: Zhang and Wang, "Defense against adversarial attacks using feature scattering-based
adversarial training" (2019), and its released code.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from avmixup_kit._base import check


def cost(logits: Tensor, logits_adv: Tensor) -> Tensor:
    """Return the cost matrix (N, M) of moving row i of logits (N, K) to row j of logits_adv (M, K).

    The cost is max(0, 1 - cosine); the clamp only removes rounding below zero. Half precision is
    raised to float32.

    Raises:
        ValueError: the two are not matrices with the same number of columns, or one has no rows.
    """
    for name, value in (("logits", logits), ("logits_adv", logits_adv)):
        fine = value.ndim == 2 and len(value) > 0 and value.shape[1] == logits.shape[1]
        allowed = "(N, K), N >= 1, as many columns as logits"
        check.that(fine, f"shape of {name}", tuple(value.shape), allowed)
    rows, columns = (
        F.normalize(value.to(torch.promote_types(value.dtype, torch.float32)), dim=1, eps=1e-6)
        for value in (logits, logits_adv)
    )
    # Products and a sum, not a matrix product: autocast and TF32 would round the latter to three
    # digits, and costs near zero are what the transport plan turns on.
    return (1 - (rows.unsqueeze(1) * columns).sum(2)).clamp_min(0)


def check_sinkhorn(regularisation: float, iterations: int, tolerance: float | None) -> None:
    """Raise ValueError unless ``sinkhorn`` takes these arguments."""
    check.number("regularisation", regularisation, "(0, inf)", "a number > 0")
    check.whole("iterations", iterations)
    check.number("tolerance", tolerance, "[0, inf)", "a number >= 0, or None", none=True)


def sinkhorn(
    cost: Tensor,
    regularisation: float = 0.01,
    iterations: int = 100,
    tolerance: float | None = 0.1,
) -> Tensor:
    """Return the entropic transport plan (N, M) of a cost matrix (N, M) between uniform marginals.

    The plan minimises <plan, cost> - regularisation * entropy(plan); its columns sum to 1 / M, its
    rows to 1 / N up to what the last iteration still moved. Gradients flow through all iterations.
    Unlike the released code, which adds 1e-6 inside its logarithms to survive underflow, this works
    on logarithms throughout.

    Args:
        cost: finite, as ``cost`` returns it.
        regularisation: weight of the entropy, in the cost's units.
        iterations: the most there may be, each one update of both potentials.
        tolerance: stop once the row potentials u, in the cost's units, change by less than this in
            sum. None runs all iterations. On CUDA, where to look at a change is to wait for the
            device, the iterations after that one change nothing instead: the plan and its gradient
            are those of a CPU, the work is that of all iterations. Nothing is read back there, and
            a non-finite cost is not noticed; so it is with None.

    Raises:
        ValueError: regularisation <= 0, iterations < 1, tolerance < 0, cost not a matrix or, with a
            tolerance and not on CUDA, not finite.
    """
    check_sinkhorn(regularisation, iterations, tolerance)
    fine = cost.ndim == 2 and cost.numel() > 0
    check.that(fine, "shape of cost", tuple(cost.shape), "(N, M), N and M >= 1")
    looks = tolerance is not None and not cost.is_cuda
    if looks and not bool(cost.isfinite().all()):
        raise ValueError("cost holds nan or inf, which is not allowed: are the logits finite?")

    log_kernel = -cost / regularisation
    log_row, log_column = -math.log(cost.shape[0]), -math.log(cost.shape[1])
    # The potentials over the regularisation: u / regularisation and v / regularisation.
    u, v = cost.new_zeros(cost.shape[0], 1), cost.new_zeros(1, cost.shape[1])
    ended: Tensor | None = None
    for _ in range(iterations):
        previous = u
        u = log_row - (log_kernel + v).logsumexp(1, keepdim=True)
        if ended is not None:
            # v follows from u, so u alone need stand still.
            u = torch.where(ended, previous, u)
        v = log_column - (log_kernel + u).logsumexp(0, keepdim=True)
        if tolerance is None:
            continue
        change = regularisation * (u - previous).detach().abs().sum()
        if not looks:
            ended = change < tolerance  # and ever after, as u then moves by 0
        elif float(change) < tolerance:
            break
    return (log_kernel + u + v).exp()


def distance(
    logits: Tensor,
    logits_adv: Tensor,
    regularisation: float = 0.01,
    iterations: int = 100,
    tolerance: float | None = 0.1,
) -> Tensor:
    """Return the scalar <plan, cost> between two batches of logits, what Feature Scatter climbs.

    The arguments are ``sinkhorn``'s; the gradient also flows through the plan, as in the released
    code.
    """
    matrix = cost(logits, logits_adv)
    return (sinkhorn(matrix, regularisation, iterations, tolerance) * matrix).sum()
