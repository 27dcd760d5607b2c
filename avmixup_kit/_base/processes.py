"""Further processes that do the same work, one thread each; time spent, and time left."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from avmixup_kit._base import check, plugins

NOTHING = {"wall": 0.0, "processor": 0.0}


def spent() -> dict[str, float]:
    """Return the seconds of the clock and of processors, each from a moment of its own.

    Processors' are those of this process and of those that it started and waited for.
    """
    times = os.times()
    processor = times.user + times.system + times.children_user + times.children_system
    return {"wall": time.perf_counter(), "processor": processor}


def spent_since(began: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Return what was spent before and since ``began``; what was not counted before is not now."""
    now = spent()
    return {kind: seconds + now[kind] - began[kind] for kind, seconds in before.items()}


def by_kind(seconds: Any) -> dict[str, float]:
    """Return seconds as a file holds them; older files have those of the clock alone."""
    found = seconds if isinstance(seconds, dict) else {"wall": seconds}
    return {kind: float(found[kind]) for kind in NOTHING if kind in found}


class Clock:
    """Tells whether the minutes are over; without minutes they never are."""

    def __init__(self, minutes: float | None = None) -> None:
        check.number("minutes", minutes, "(0, inf)", "a positive number", none=True)
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def over(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end

    @property
    def left(self) -> float | None:
        """The minutes left, a little more than none; None where there is no end."""
        return None if self.end is None else max((self.end - time.monotonic()) / 60, 1e-6)


class _Plugins:
    """The plugins of this process; who unpickles it has loaded them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return plugins.load_plugins, (tuple(plugins.LOADED.values()),)


def _helper(_: Any, target: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    target(*arguments)


@contextmanager
def helper_processes(
    target: Callable[..., None], arguments: tuple[Any, ...], count: int
) -> Iterator[None]:
    """Run a function in ``count`` further processes meanwhile, one thread each, here too."""
    context = multiprocessing.get_context("spawn")
    # Plugins come first: what follows may be made of what they define.
    words = _Plugins(), target, *arguments
    processes = [context.Process(target=_helper, args=words) for _ in range(count)]
    threads = torch.get_num_threads()
    if processes:
        torch.set_num_threads(1)
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        torch.set_num_threads(threads)
