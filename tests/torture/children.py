"""Work in processes of its own, so that it may be killed, die or hang without the one that asks."""

import ctypes
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tests.torture.works import Broken

T = TypeVar("T")
DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG


class Skipped(Exception):
    """This cannot be tried here; the message says why."""


def start(function: Callable[[], object]) -> int:
    """Return the number of a new process that calls ``function`` and ends; 1 if it raised."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DIES_WITH_ITS_PARENT, signal.SIGKILL)
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(number: int, patience: float = 300) -> int:
    """Return a process's exit status, minus the signal where one ended it.

    Raises:
        Broken: it was still there after so many seconds; it is killed.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    raise Broken(f"it hangs: not done after {patience:g} s")


def in_child(function: Callable[[], T], patience: float = 300) -> T:
    """Return what ``function`` returns in a process of its own.

    Raises:
        Skipped: as it raised.
        Broken: as it raised, or anything else that went wrong there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer"

        def answer() -> None:
            try:
                said = ("made", function())
            except Skipped as reason:
                said = ("skipped", str(reason))
            except Broken as error:
                said = ("broken", str(error))
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                at = f"{Path(where.filename).name}:{where.lineno}"
                said = ("broken", f"{type(error).__name__} in {at}: {error}")
            path.write_bytes(pickle.dumps(said))

        status = ended(start(answer), patience)
        if not path.exists():
            raise Broken(f"its process died with status {status}")
        kind, content = pickle.loads(path.read_bytes())
    if kind == "skipped":
        raise Skipped(content)
    if kind == "broken":
        raise Broken(content)
    return content
