"""Further processes that do the same work, one thread each."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from avmixup_kit._base import plugins


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
