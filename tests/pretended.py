"""A CUDA device that is pretended: real numbers on the CPU under the rules of another device.

Inside ``device()`` whatever is moved to or made on "cuda" is a ``Far``: a tensor of the CPU that
calls itself one of cuda:0. Every operation, those of a backward pass too, is looked at: far and
near tensors together, a generator of the other device and a far tensor as an array are refused as
CUDA refuses them, and ``waits`` notes each value that is read back and each copy that makes the
host wait. So the branches for CUDA run, and what they compute can be held against the CPU.

Inside ``graphs()`` there are CUDA graphs, too. While one is captured nothing happens: what was
written is put back at its end, and values, states of generators and generators that it does not
know are refused. A replay does the same operations on the same memory, and no Python in between.

Not pretended: Triton, streams that overtake each other, the rounding of other kernels, and
autocast's lists of operations, for which the CPU's stand in.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from traceback import FrameSummary, extract_stack
from typing import Any, ClassVar
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda:0")
aten = torch.ops.aten
Near = torch.Generator
# Their results' sizes, or what the host does next, depend on values: CUDA waits for them.
READING = {
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten.is_nonzero.default, aten._unique2.default,
    aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default,
    aten.repeat_interleave.Tensor,
}  # fmt: skip
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
BLOCKING = "a copy between devices that waits"


class Refused(RuntimeError):
    """What CUDA itself would refuse."""


class Far(torch.Tensor):
    """A tensor of the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore
    device = property(lambda self: CUDA)  # pyright: ignore
    is_cuda = property(lambda self: True)  # pyright: ignore
    is_cpu = property(lambda self: False)  # pyright: ignore

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else str(self), spec)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _near(self).__reduce_ex__(protocol)


class FarGenerator(Near):
    """A generator of the pretended device, or of the CPU where that is asked for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls) if torch.device(device).type == "cuda" else Near(device)

    device = property(lambda self: CUDA)  # pyright: ignore

    def get_offset(self) -> int:
        return vars(self).get("offset", 0)

    def set_offset(self, offset: int) -> Near:
        vars(self)["offset"] = offset
        return self


class Event:
    """One that has always happened."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


class _Rules:
    """What both modes below share."""

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.operations: list[Any] = []
        self.inside_far = False

    def launched(self) -> int:
        """Return how many of the operations are work: neither views nor memory without values."""
        return sum(not (func.is_view or "empty" in str(func)) for func in self.operations)

    def wait(self, what: str) -> None:
        """Note that the host waits, and the line of ours that makes it."""
        at = next((f"{f.filename}:{f.lineno}" for f in reversed(extract_stack()) if _ours(f)), "?")
        self.waits.append(f"{what}, {at}")

    def moved(self, x: torch.Tensor, far: bool, non_blocking: bool) -> None:
        """Note a copy of ``x`` to the other device if the host waits for it."""
        if not (non_blocking and (getattr(x, "pinned", False) or not far)):
            self.wait(BLOCKING)


def _ours(frame: FrameSummary) -> bool:
    return "site-packages" not in frame.filename and frame.filename != __file__


def _is_far(x: Any) -> bool:
    return isinstance(x, Far)


def _far(x: torch.Tensor) -> torch.Tensor:
    return x if isinstance(x, Far) else x.as_subclass(Far)


def _near(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(torch.Tensor)


class _Operations(TorchDispatchMode):
    """Sees every operation, from whatever called it."""

    def __init__(self, rules: _Rules) -> None:
        super().__init__()
        self.rules = rules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, rules = dict(kwargs or {}), self.rules
        rules.operations.append(func)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        far = any(map(_is_far, given))
        device = kwargs.get("device")
        if func is aten.copy_.default:
            target, source = args[:2]
            if _is_far(target) != _is_far(source):
                blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
                held = target if _is_far(source) else source
                if blocking or not getattr(held, "pinned", False):
                    rules.wait(BLOCKING)
            func(*args, **kwargs)
            return target
        if device is not None:
            asked = torch.device(device).type == "cuda"
            kwargs["device"] = torch.device("cpu")
            if func is aten._to_copy.default and asked != far and not rules.inside_far:
                rules.moved(given[0], asked, kwargs.get("non_blocking", False))
            # Within torch's own functions a far tensor's device is the CPU's.
            far = asked or rules.inside_far
        elif not given:
            far = rules.inside_far
        elif far:
            indices = [t for t in args[1] if t is not None] if func in INDEXING else []
            nears = {id(t) for t in given if not _is_far(t) and t.ndim}
            if (indices and not _is_far(args[0])) or nears - {id(t) for t in indices}:
                raise Refused(f"{func} is given tensors of cuda:0 and of the CPU")
            if func in READING or nears or any(t.dtype == torch.bool for t in indices):
                rules.wait(f"{func} of a tensor of cuda:0")
        out = func(*args, **kwargs)
        if not far:
            return out
        mine = {id(t) for t in given}
        return tree_map_only(torch.Tensor, lambda t: t if id(t) in mine else _far(t), out)


class _Calls(TorchFunctionMode):
    """Sees what Python calls: with generators, and devices as they are called there."""

    def __init__(self, rules: _Rules) -> None:
        super().__init__()
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, rules = dict(kwargs or {}), self.rules
        leaves = tree_leaves((args, kwargs))
        tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
        far = any(map(_is_far, tensors))
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self._to(func, *args, **kwargs)
        if func is torch.Tensor.pin_memory:
            if far:
                raise Refused("only memory of the CPU can be pinned")
            held = args[0].clone()
            held.pinned = True
            return held
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and far:
            raise Refused("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu()")
        if func is torch.Tensor.tolist and far:
            rules.wait("tolist of a tensor of cuda:0")
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and device is not None:
            kwargs.pop("device")
            return self._to(torch.Tensor.to, func(*args, **kwargs), device)
        there = far if device is None else torch.device(device).type == "cuda"
        for rng in leaves:
            if isinstance(rng, Near) and isinstance(rng, FarGenerator) != there:
                here = "cuda:0" if there else "the CPU"
                raise Refused(f"{func.__name__} on {here} is given a generator of {rng.device}")
            if Graph.capturing and isinstance(rng, Near) and rng not in Graph.capturing.generators:
                raise RuntimeError(f"{func.__name__} from a generator that the graph does not know")
        was, rules.inside_far = rules.inside_far, far and device is None
        try:
            return func(*args, **kwargs)
        finally:
            rules.inside_far = was

    def _to(self, func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        asked: Any = {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: CUDA}.get(func)
        non_blocking = kwargs.pop("non_blocking", False)
        words = list(args)
        if words and isinstance(words[0], torch.Tensor):
            asked, words[0] = words[0].device, words[0].dtype
        elif words and isinstance(words[0], str | torch.device):
            asked = words.pop(0)
        elif words and words[0] is None:
            words.pop(0)
        asked = kwargs.pop("device", None) or asked
        if len(words) > 1:
            words, non_blocking = words[:1], words[1]
        words = [word for word in words if word is not None]
        far = _is_far(x) if asked is None else torch.device(asked).type == "cuda"
        if far != _is_far(x):
            self.rules.moved(x, far, non_blocking)
            # A copy of its own, whatever else it is converted to.
            x = _far(x.clone()) if far else _near(x.clone())
        if not words and not kwargs:
            return x
        was, self.rules.inside_far = self.rules.inside_far, far
        try:
            return torch.Tensor.to(x, *words, **kwargs)
        finally:
            self.rules.inside_far = was


def _load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """Do what torch.load does; what it loads to "cuda" is far."""
    found = _torch_load(*args, map_location="cpu", **kwargs)
    far = map_location is not None and torch.device(map_location).type == "cuda"
    return tree_map_only(torch.Tensor, _far, found) if far else found


_torch_load = torch.load


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _replace_generators(old: type, new: type) -> None:
    """Replace what the kit's modules call Generator, those loaded meanwhile too."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "avmixup_kit" and vars(module).get("Generator") is old:
            vars(module)["Generator"] = new


@contextmanager
def device() -> Iterator[_Rules]:
    """Pretend that there is a CUDA device; yields what its host had to wait for."""
    rules = _Rules()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as held:
        for name, value in {
            "is_available": lambda: True, "device_count": lambda: 1, "Event": Event,
            "current_device": lambda: 0, "_lazy_init": lambda: None,
            "is_bf16_supported": lambda including_emulation=True: True,
            "is_tf32_supported": lambda: True, "is_current_stream_capturing": lambda: False,
            "get_device_name": lambda *_: "pretended", "empty_cache": lambda: None,
            "synchronize": lambda *_: None,
        }.items():  # fmt: skip
            held.enter_context(mock.patch.object(torch.cuda, name, value))
        held.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        held.enter_context(mock.patch.object(torch, "load", _load))
        held.enter_context(mock.patch.object(torch, "Generator", FarGenerator))
        held.callback(_replace_generators, FarGenerator, Near)
        _replace_generators(Near, FarGenerator)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        held.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        held.enter_context(_Calls(rules))
        held.enter_context(_Operations(rules))
        yield rules


# ------------------------------------------------------------------------------- graphs of it


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """Return the tensors that an operation writes into."""
    if func is aten.native_batch_norm.default:  # its schema does not say so
        return [t for t in args[3:5] if t is not None and args[5]]
    given = zip(func._schema.arguments, args, strict=False)
    named = ((a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs)
    writes = [v for a, v in (*given, *named) if a.alias_info is not None and a.alias_info.is_write]
    return [t for t in tree_leaves(writes) if isinstance(t, torch.Tensor)]


class Graph:
    """One CUDA graph; ``log`` notes captures and replays of all of them."""

    log: ClassVar[list[str]] = []
    capturing: ClassVar["Graph | None"] = None

    def __init__(self) -> None:
        self.operations: list[Any] = []
        self.generators: list[Near] = []
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def register_generator_state(self, rng: Near) -> None:
        self.generators.append(rng)

    def launched(self) -> int:
        """Return how many of the operations are work."""
        return sum(not (f.is_view or "empty" in str(f)) for f, *_ in self.operations)

    @torch.no_grad()
    def replay(self) -> None:
        self.log.append("replay")
        for func, args, kwargs, made in self.operations:
            if func.is_view:
                continue
            with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
                again = tree_leaves(func(*args, **kwargs))
            for old, new in zip(tree_leaves(made), again, strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    _near(old).copy_(_near(new))


class _Recorded(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, graph = dict(kwargs or {}), self.graph
        if func in READING:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        graph.before += [(t, t.clone()) for t in _written(func, args, kwargs)]
        made = func(*args, **kwargs)
        graph.operations.append((func, args, kwargs, made))
        return made


class _Capturing:
    """Stands for torch.cuda.graph."""

    def __init__(self, graph: Graph, *, stream: Any, capture_error_mode: str) -> None:
        assert stream is not None
        assert capture_error_mode == "thread_local"
        self.graph = graph

    def __enter__(self) -> None:
        self.states = [rng.get_state() for rng in self.graph.generators]
        Graph.log.append("capture")
        Graph.capturing = self.graph
        self.mode = _Recorded(self.graph)
        self.mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)
        Graph.capturing = None
        with torch.no_grad():
            for tensor, was in reversed(self.graph.before):
                tensor.copy_(was)
        for rng, state in zip(self.graph.generators, self.states, strict=True):
            rng.set_state(state)


class _Stream:
    def wait_stream(self, other: Any) -> None:
        Graph.log.append("wait")


@torch.no_grad()
def _updated(
    params: Any, grads: Any, momenta: Any, *, weight_decay: float, momentum: float,
    lr: torch.Tensor, nesterov: bool, is_first_step: bool, **_: Any,
) -> None:  # fmt: skip
    """Round as SGD's other kernels do, which the fused one of the CPU does not."""
    assert lr.dtype == torch.float32
    for weight, gradient, moving in zip(params, grads, momenta, strict=True):
        gradient = gradient.add(weight, alpha=weight_decay) if weight_decay else gradient
        moving.copy_(gradient) if is_first_step else moving.mul_(momentum).add_(gradient)
        gradient = gradient.add(moving, alpha=momentum) if nesterov else moving
        weight.copy_((weight.double() - lr.double() * gradient.double()).float())


def _state(self: Any) -> torch.Tensor:
    if Graph.capturing is not None:
        raise RuntimeError("a generator's state while capturing")
    return Near.get_state(self)


@contextmanager
def graphs() -> Iterator[list[str]]:
    """Pretend a CUDA device that has graphs; yields ``Graph.log``."""
    Graph.log.clear()
    with ExitStack() as held:
        for name, value in {
            "CUDAGraph": Graph, "graph": _Capturing, "Stream": _Stream,
            "stream": lambda stream: nullcontext(), "current_stream": _Stream,
        }.items():  # fmt: skip
            held.enter_context(mock.patch.object(torch.cuda, name, value))
        held.enter_context(mock.patch.object(FarGenerator, "get_state", _state))
        held.enter_context(mock.patch.object(torch, "_fused_sgd_", _updated))
        yield Graph.log
