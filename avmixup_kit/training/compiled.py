"""A network whose passes are compiled; where that fails it says so once and goes on without."""

import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

# One graph for each combination of training mode, batch norm while crafting and gradients asked
# for; torch's own limit of 8 would be reached by turning through all methods.
GRAPHS = 64


def graphs_of_this_thread() -> None:
    """Give this thread a store of CUDA graphs of its own.

    Before torch 2.12 only the thread that first imports that module has one, and in any other, such
    as a dashboard's, compiled steps end in a bare AssertionError.
    """
    from torch._inductor import cudagraph_trees

    name = "tree_manager_containers"
    local, inside = cudagraph_trees.local, torch._C  # pyright: ignore[reportPrivateUsage]
    if hasattr(local, name) or inside._is_key_in_tls(name):  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
        return
    local.tree_manager_containers = {}
    local.tree_manager_locks = defaultdict(threading.Lock)
    for key in (name, "tree_manager_locks"):
        inside._stash_obj_in_tls(key, getattr(local, key))  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]


class Compiled(nn.Module):
    """The same network, compiled: with CUDA graphs on CUDA, to C++ on a CPU.

    Only the network is compiled. What a dial turns (gamma, lambda1, lambda2, epsilon, the learning
    rate) never enters what is compiled, so no turn compiles anything again.

    ``dynamic``: one graph for batches of any number of images in any layout, as an evaluation has
    them. Their shape is no variable in it, which would take minutes to compile.
    """

    runs: dict[bool, Callable[[Tensor], Tensor]]

    def __init__(self, network: nn.Module, *, dynamic: bool = False) -> None:
        super().__init__()
        self.network = network
        self.failed = False
        self.dynamic = dynamic
        self.cuda_graphs = next(network.parameters()).is_cuda
        config = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
        config.recompile_limit = max(config.recompile_limit, GRAPHS)
        # Else several processes' graphs end wherever gradients are sent in pieces.
        config.optimize_ddp = False
        # Not submodules: the network's tensors are there once, under their own names.
        self.__dict__["runs"] = {
            graphs: torch.compile(network, mode=mode, dynamic=None if dynamic else False)
            for graphs, mode in ((False, "default"), (True, "reduce-overhead"))
        }

    @contextmanager
    def without_graphs(self) -> Iterator[None]:
        """Inside, a pass is no CUDA graph of its own, so that it can be part of a larger one."""
        was, self.cuda_graphs = self.cuda_graphs, False
        try:
            yield
        finally:
            self.cuda_graphs = was

    def forward(self, x: Tensor) -> Tensor:
        if self.failed:
            return self.network(x)
        if self.cuda_graphs:
            graphs_of_this_thread()
        if self.dynamic:
            x = x.contiguous(memory_format=torch.channels_last)
            torch._dynamo.maybe_mark_dynamic(x, 0)  # pyright: ignore[reportPrivateUsage]
        try:
            logits = self.runs[self.cuda_graphs](x)
        except FailOnRecompileLimitHit:
            raise
        except TorchDynamoException as error:
            self.failed = True
            reason = next(filter(None, map(str.strip, str(error).splitlines())), "no reason given")
            warnings.warn(
                f"compiling the network failed, training goes on without ({type(error).__name__}: "
                f"{reason})",
                RuntimeWarning,
                stacklevel=2,
            )
            return self.network(x)
        # A CUDA graph's output is overwritten by its next replay; reference logits live longer.
        return logits.clone() if self.cuda_graphs else logits
