from typing import Any

import numpy as np
import ot
import pytest
import torch

from avmixup_kit.methods import transport
from avmixup_kit.methods.losses import TransportDistance
from tests import pretended


def logits(rows: int, columns: int = 5, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def pair(rows: int = 6, columns: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return logits(rows, seed=1), logits(columns, seed=2)


def test_cost_is_one_minus_the_cosine_of_each_pair() -> None:
    a, b = (batch.numpy() for batch in pair())
    expected = np.empty((6, 8))
    for i in range(6):
        for j in range(8):
            expected[i, j] = 1 - a[i] @ b[j] / np.sqrt((a[i] @ a[i]) * (b[j] @ b[j]))
    np.testing.assert_allclose(transport.cost(*pair()).numpy(), expected, atol=1e-12)


def test_cost_ignores_the_length_of_logits_and_is_never_negative() -> None:
    a, b = pair()
    torch.testing.assert_close(transport.cost(7 * a, 0.1 * b), transport.cost(a, b))
    single = logits(200, 10).float()
    cost = transport.cost(single, single)
    assert (cost >= 0).all()
    assert cost.diagonal().max() < 1e-6
    # Without the clamp, rounding would have made some of these negative.
    rows = torch.nn.functional.normalize(single, dim=1)
    assert ((1 - (rows * rows).sum(1)) < 0).any()


def test_logits_of_zero_are_at_right_angles_to_everything() -> None:
    zero = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    cost = transport.cost(logits(3), zero)
    assert torch.equal(cost, torch.ones(3, 1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(cost.sum(), zero)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_raised_to_float32(half: torch.dtype) -> None:
    a, b = (batch.to(half) for batch in pair())
    torch.testing.assert_close(transport.cost(a, b), transport.cost(a.float(), b.float()))
    assert transport.distance(a, b).dtype == torch.float32


def test_autocast_does_not_round_the_distance() -> None:
    a, b = (batch.float() for batch in pair())
    expected = transport.distance(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transport.distance(a, b), expected)


@pytest.mark.parametrize("regularisation", [0.01, 0.1, 1.0])
def test_the_plan_is_pots(regularisation: float) -> None:
    cost = transport.cost(*pair())
    plan = transport.sinkhorn(cost, regularisation, iterations=5000, tolerance=None)
    uniform = np.full(6, 1 / 6), np.full(8, 1 / 8)
    expected: Any = ot.sinkhorn(
        *uniform,
        cost.numpy(),
        regularisation,
        method="sinkhorn_log",
        numItermax=10000,
        stopThr=1e-12,
    )
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-8)


def test_the_distance_tends_to_the_exact_transport_cost() -> None:
    a, b = pair()
    cost = transport.cost(a, b)
    exact: Any = ot.emd2(np.full(6, 1 / 6), np.full(8, 1 / 8), cost.numpy())
    excess = [
        float(transport.distance(a, b, regularisation, iterations=5000, tolerance=None)) - exact
        for regularisation in (0.3, 0.1, 0.03, 0.01)
    ]
    assert all(value > 0 for value in excess)
    assert excess == sorted(excess, reverse=True)
    # The entropy of a plan of 6 x 8 cells between uniform marginals differs by at most log 6.
    assert excess[-1] < 0.01 * np.log(6)
    assert excess[-1] < 1e-3


def test_two_points_of_each_kind_have_the_plan_that_algebra_gives() -> None:
    """Cost ((0, c), (c, 0)): the plan is 1/2 (p, 1 - p; 1 - p, p), p = 1 / (1 + exp(-c/eps))."""
    c, regularisation = 0.3, 0.2
    cost = torch.tensor([[0, c], [c, 0]], dtype=torch.float64)
    plan = transport.sinkhorn(cost, regularisation, tolerance=1e-12)
    p = 1 / (1 + np.exp(-c / regularisation))
    np.testing.assert_allclose(plan.numpy(), [[p / 2, (1 - p) / 2], [(1 - p) / 2, p / 2]])


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (1, 4), (4, 1), (1, 1)])
def test_marginals_are_uniform(shape: tuple[int, int]) -> None:
    cost = transport.cost(logits(shape[0], seed=1), logits(shape[1], seed=2))
    plan = transport.sinkhorn(cost, 0.1, iterations=2000, tolerance=None)
    rows, columns = shape
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((rows,), 1 / rows).double())
    torch.testing.assert_close(plan.sum(0), torch.full((columns,), 1 / columns).double())


def test_the_defaults_stop_where_the_released_code_does() -> None:
    """u and v in the cost's units, updated until u moves by less than 0.1 in sum, at most 100."""
    cost = transport.cost(logits(20, seed=3), logits(20, seed=4))
    matrix, log = cost.numpy(), np.log(1 / 20)
    u, v, rounds = np.zeros(20), np.zeros(20), 0
    for _ in range(100):
        before = u
        modified = (-matrix + u[:, None] + v[None, :]) / 0.01
        u = 0.01 * (log - np.log(np.exp(modified).sum(1))) + u
        modified = (-matrix + u[:, None] + v[None, :]) / 0.01
        v = 0.01 * (log - np.log(np.exp(modified).sum(0))) + v
        rounds += 1
        if np.abs(u - before).sum() < 0.1:
            break
    assert 2 < rounds < 100
    expected = np.exp((-matrix + u[:, None] + v[None, :]) / 0.01)
    np.testing.assert_allclose(transport.sinkhorn(cost).numpy(), expected, rtol=1e-8, atol=1e-12)
    fixed = transport.sinkhorn(cost, iterations=rounds, tolerance=None)
    assert torch.equal(transport.sinkhorn(cost), fixed)
    assert not torch.equal(fixed, transport.sinkhorn(cost, iterations=rounds - 1, tolerance=None))
    assert not torch.equal(fixed, transport.sinkhorn(cost, iterations=rounds + 1, tolerance=None))


@pytest.mark.parametrize("regularisation", [0.5, 0.05])
def test_the_gradient_flows_through_cost_and_plan(regularisation: float) -> None:
    a, b = logits(3, 4, seed=1), logits(5, 4, seed=2).requires_grad_()

    def distance(b: torch.Tensor) -> torch.Tensor:
        return transport.distance(a, b, regularisation, iterations=30, tolerance=None)

    assert torch.autograd.gradcheck(distance, b)
    (gradient,) = torch.autograd.grad(distance(b), b)
    matrix = transport.cost(a, b)
    plan = transport.sinkhorn(matrix, regularisation, iterations=30, tolerance=None)
    (through_cost,) = torch.autograd.grad((plan.detach() * matrix).sum(), b)
    assert (gradient - through_cost).abs().max() > 1e-3


def test_small_regularisation_does_not_underflow_in_float32() -> None:
    # Opposite logits cost 2: exp(-2 / 0.01) is zero in float32 and in the kernel of plain Sinkhorn.
    a = torch.eye(4)
    b = -a.roll(1, 0).requires_grad_()
    cost = transport.cost(torch.cat([a, -a]), torch.cat([b, b]))
    assert cost.max() == 2
    assert torch.exp(-cost / 0.01).min() == 0
    plan = transport.sinkhorn(cost, iterations=1000, tolerance=None)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), torch.full((8,), 1 / 8))
    everything = torch.ones(3, 4), -torch.ones(3, 4).requires_grad_()
    distance = transport.distance(*everything)
    assert distance.item() == pytest.approx(2.0)
    (gradient,) = torch.autograd.grad(transport.distance(a, b), b)
    assert gradient.isfinite().all()


def test_equal_batches_stay_where_they_are() -> None:
    a = logits(6, 12)
    plan = transport.sinkhorn(transport.cost(a, a), iterations=1000, tolerance=None)
    torch.testing.assert_close(plan, torch.eye(6).double() / 6, atol=1e-6, rtol=0)
    torch.testing.assert_close(plan, plan.T)
    assert transport.distance(a, a).item() < 1e-6


def test_swapping_the_batches_transposes_the_plan() -> None:
    a, b = pair()
    forward = transport.sinkhorn(transport.cost(a, b), 0.1, 5000, None)
    backward = transport.sinkhorn(transport.cost(b, a), 0.1, 5000, None)
    torch.testing.assert_close(forward, backward.T)


def test_the_order_of_a_batch_does_not_change_the_distance() -> None:
    a, b = pair()
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    torch.testing.assert_close(transport.distance(a, b[order]), transport.distance(a, b))


def test_one_step_up_the_distance_raises_it() -> None:
    a = logits(20, 10)
    b = (a + 0.1 * logits(20, 10, seed=9)).requires_grad_()
    distance = transport.distance(a, b)
    (gradient,) = torch.autograd.grad(distance, b)
    higher = transport.distance(a, b + 0.05 * gradient.sign())
    assert higher > 1.5 * distance


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: transport.sinkhorn(c, 0.0), r"regularisation = 0.0 .*> 0"),
        (lambda c: transport.sinkhorn(c, -1.0), r"regularisation = -1.0 .*> 0"),
        (lambda c: transport.sinkhorn(c, float("nan")), r"regularisation = nan .*> 0"),
        (lambda c: transport.sinkhorn(c, float("inf")), r"regularisation = inf .*> 0"),
        (lambda c: transport.sinkhorn(c, iterations=0), r"iterations = 0 .*1 or more"),
        (lambda c: transport.sinkhorn(c, tolerance=-0.1), r"tolerance = -0.1 .*>= 0, or None"),
        (lambda c: transport.sinkhorn(c[0]), r"shape of cost = \(8,\) .*\(N, M\)"),
        (lambda c: transport.sinkhorn(c[:0]), r"shape of cost = \(0, 8\) .*\(N, M\)"),
        (lambda c: transport.sinkhorn(c / 0), r"cost holds nan or inf"),
        (lambda c: transport.cost(c[0], c), r"shape of logits = \(8,\) .*\(N, K\)"),
        (lambda c: transport.cost(c, c[:0]), r"shape of logits_adv = \(0, 8\) .*\(N, K\)"),
        (
            lambda c: transport.cost(c, c[:, :5]),
            r"shape of logits_adv = \(6, 5\) .*as many columns",
        ),
        (lambda c: transport.distance(c, c * float("nan")), r"cost holds nan or inf"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(transport.cost(*pair()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0])
def test_on_cuda_rounds_after_the_last_change_nothing_and_nothing_is_read_back(scale) -> None:
    """Plan and gradient are the CPU's, bit for bit, wherever 20 rounds suffice."""
    a = logits(20, seed=3).float()
    b = a + scale * logits(20, seed=4).float()

    def both(a: torch.Tensor, b: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
        b = b.detach().requires_grad_()
        distance = transport.distance(a, b, **options)
        return distance.detach(), *torch.autograd.grad(distance, b)

    found, rounds = both(a, b), []
    for most in range(1, 21):
        fixed = both(a, b, iterations=most, tolerance=None)
        rounds += [most] if all(map(torch.equal, fixed, found)) else []
    assert rounds[0] <= 19, "which 20 rounds are for"
    with pretended.device() as host:
        there = a.to("cuda"), b.to("cuda")
        host.waits.clear()
        far = both(*there, iterations=20)
        assert host.waits == []
        assert all(torch.equal(x.cpu(), y) for x, y in zip(far, found, strict=True))
        cut = both(*there, iterations=max(rounds[0] - 1, 1))
        assert rounds[0] == 1 or not torch.equal(cut[0].cpu(), found[0])


def test_feature_scatter_takes_twenty_rounds_on_cuda_at_most(monkeypatch) -> None:
    taken = []

    def counted(*arguments: Any, iterations: int, **options: Any) -> torch.Tensor:
        taken.append(iterations)
        return distance(*arguments, iterations=iterations, **options)

    distance = transport.distance
    monkeypatch.setattr(transport, "distance", counted)
    a = logits(4)
    for objective in (
        TransportDistance(), TransportDistance(iterations=7), TransportDistance(tolerance=None),
    ):  # fmt: skip
        objective(a, a, a)
        with pretended.device():
            objective(*(x.to("cuda") for x in (a, a, a)))
    assert taken == [100, 20, 7, 7, 100, 100]


def test_without_a_tolerance_nothing_is_read_back() -> None:
    """Tensors on the meta device hold no values; a CUDA graph forbids the same read-back."""
    a, b = torch.empty(4, 5, device="meta"), torch.empty(4, 5, device="meta")
    assert transport.distance(a, b, tolerance=None).shape == ()
    with pytest.raises(RuntimeError, match="meta"):
        transport.distance(a, b)
