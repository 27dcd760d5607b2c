"""Several processes, one training: who is who, whose rows are whose, what they exchange.

Every random number is drawn for the whole batch, on every process alike, and each process keeps
its rows. So the generators agree everywhere, the numbers are those of one process, and a checkpoint
goes on with any number of processes. Alone, everything here does nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from avmixup_kit._base import check
from avmixup_kit._base.private import AnyBatchNorm

T = TypeVar("T")


class RankFailed(RuntimeError):
    """Another process ended with an error, and so must this one."""


class _Shard(NamedTuple):
    rows: slice
    total: int


_shard: ContextVar[_Shard | None] = ContextVar("shard", default=None)


# --------------------------------------------------------------------------------- who is who


def world() -> int:
    """Return how many processes train together; 1 alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; 0 writes."""
    return dist.get_rank() if world() > 1 else 0


def choose_device(name: str) -> torch.device:
    """Return the device called "auto", "cpu" or "cuda"; under torchrun each process its own GPU.

    Raises:
        ValueError: CUDA is asked for and absent, or a machine has fewer GPUs than processes.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    check.one_of("device", name, ("auto", "cpu", "cuda"))
    check.that(name != "cuda" or there > 0, "device", name, "this machine has no CUDA device")
    if name == "cpu" or not there:
        return torch.device("cpu")
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda")
    local = int(os.environ["LOCAL_RANK"])
    allowed = f"this machine has {there} CUDA devices, one for each process "
    check.that(local < there, "LOCAL_RANK", local, f"{allowed}(torchrun --nproc-per-node)")
    return torch.device("cuda", local)


@contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Join the processes that torchrun started for the time of a ``with``; alone, do nothing.

    What ends one process ends all: the others raise RankFailed, which names the first error.

    Raises:
        RankFailed: another process failed, or the connection to it broke.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or world() > 1:
        yield
        return
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, own, size = next(iter(rendezvous("env://")))
    dist.init_process_group(backend, store=store, rank=own, world_size=size)
    told, ended = PrefixStore("avmixup_kit", store), False
    try:
        yield
        ended = True
    except Exception as error:
        first = _first_error(told, own, error)
        if first is error:
            raise
        raise first from error
    finally:
        # After an error NCCL could wait for processes that wait for this one: torchrun ends all.
        if ended or chosen.type == "cpu":
            dist.destroy_process_group()


def _first_error(store: Any, own: int, error: Exception) -> Exception:
    """Return ``error`` if no process failed before this one, else what the first one said.

    A process tells before it closes its connections, so who sees a broken one finds the reason.
    """
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    try:
        first, _, said = store.compare_set("error", "", f"{own}|{text}").decode().partition("|")
    except (RuntimeError, ValueError):
        return error  # the store's host is gone too
    if int(first) != own:
        return RankFailed(f"process {first} of this training ended with {said}")
    if isinstance(error, dist.DistError) or "onnection" in text:
        return RankFailed(f"another process of this training went away ({text})")
    return error


# ------------------------------------------------------------------------------- whose rows


def share(count: int) -> slice:
    """Return this process's part of ``count`` things: contiguous, sizes differing by at most 1."""
    size = world()
    return slice(rank() * count // size, (rank() + 1) * count // size)


@contextmanager
def one_batch(total: int) -> Iterator[slice]:
    """Make draws and exchanges inside the ``with`` those of one batch; yields this process's rows.

    It holds for this thread alone.
    """
    rows = share(total)
    token = _shard.set(_Shard(rows, total) if world() > 1 else None)
    try:
        yield rows
    finally:
        _shard.reset(token)


def _of(count: int) -> _Shard | None:
    shard = _shard.get()
    # A source that works on a part of the rows draws for that part alone.
    return shard if shard and count == shard.rows.stop - shard.rows.start else None


def whole(count: int) -> int:
    """Return how many examples the whole batch has, of which ``count`` are at hand."""
    shard = _of(count)
    return shard.total if shard else count


def mine(drawn: Tensor, count: int) -> Tensor:
    """Return this process's ``count`` rows of what was drawn for ``whole(count)`` examples."""
    shard = _of(count)
    return drawn[shard.rows] if shard else drawn


def empty_like(x: Tensor) -> Tensor:
    """Return memory like that of x, (N, ...), with room for the whole batch's rows."""
    shard = _of(len(x))
    if shard is None:
        return torch.empty_like(x)
    # The same strides, so that a generator fills it in the same order.
    shape = (shard.total, *x.shape[1:])
    return torch.empty_strided(shape, x.stride(), dtype=x.dtype, device=x.device)


def gathered(rows: Tensor) -> Tensor:
    """Return the whole batch's rows, (N, ...); a gradient flows to one's own rows only."""
    if _of(len(rows)) is None:
        return rows
    flat = rows.detach().contiguous()
    parts = [torch.empty_like(flat) for _ in range(world())]
    dist.all_gather(parts, flat)
    parts[rank()] = rows
    return torch.cat(parts)


def per_example(count: int, draw: Callable[[int], Tensor]) -> Tensor:
    """Return ``draw(n)`` for the n examples of the whole batch, these ``count`` rows of it."""
    return mine(draw(whole(count)), count)


def partners(rng: Generator, *rows: Tensor) -> list[Tensor]:
    """Return each example's rows, (N, ...), as those of a random other one of the whole batch."""
    count, device = len(rows[0]), rows[0].device
    partner = per_example(count, lambda n: torch.randperm(n, generator=rng, device=device))
    return [gathered(each)[partner] for each in rows]


# ----------------------------------------------------------------------------- what is exchanged


def summed(values: Tensor) -> Tensor:
    """Return the sum of every process's ``values``; they may live on the CPU."""
    if world() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def mean(value: Tensor) -> Tensor:
    """Return the mean of every process's ``value``."""
    return summed(value) / world() if world() > 1 else value


def from_rank_0(make: Callable[[], T]) -> T:
    """Return, on every process, what ``make()`` returns on process 0; what it raises, all raise."""
    if world() == 1:
        return make()
    told: list[Any] = [None]
    if rank() == 0:
        try:
            told = [(make(), None)]
        except Exception as error:
            told = [(None, error)]
    dist.broadcast_object_list(told)
    value, error = told[0]
    if error is not None:
        raise error
    return value


def everyones(value: T) -> list[T]:
    """Return every process's ``value``, in order."""
    values: list[Any] = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def wrapped(network: nn.Module) -> nn.Module:
    """Return the network as one whose gradients are the mean of all processes'; alone, itself."""
    if world() == 1:
        return network
    # Buffers are our own business. torch 2.14 has the option under another name.
    known = signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(network, **options)


def average_batch_norm(model: nn.Module) -> None:
    """Replace batch norm's running averages by their mean over processes, in place."""
    if world() == 1:
        return
    averages = [
        average
        for module in model.modules()
        if isinstance(module, AnyBatchNorm)
        for average in (module.running_mean, module.running_var)
        if average is not None
    ]
    if averages:
        flat = mean(torch.cat(averages))
        for average, new in zip(averages, flat.split([len(a) for a in averages]), strict=True):
            average.copy_(new)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Make every batch norm of a model use the whole batch's statistics, in place, names kept."""
    if world() == 1:
        return
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, AnyBatchNorm):
            module.__class__ = _WholeBatchNorm


class _WholeBatchNorm(AnyBatchNorm):
    """Batch norm over the batches of all processes; nn.SyncBatchNorm does not work on a CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()  # statistics of bf16 activations need float32, too
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        count = x.numel() // x.shape[1] * world()
        average = _Summed.apply(x.sum(axes)) / count
        centred = x - average.reshape(shape)
        variance = _Summed.apply(centred.square().sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None:
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                weight = self.momentum
                weight = 1 / float(self.num_batches_tracked) if weight is None else weight
                self.running_mean.lerp_(average, weight)
                self.running_var.lerp_(variance * (count / (count - 1)), weight)
        output = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            output = output * self.weight.reshape(shape) + self.bias.reshape(shape)
        return output.to(input.dtype)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return summed(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return summed(gradient)
