"""The folder where a dashboard's runs are kept as they train, so that none is lost."""

import re
import time
from collections.abc import Iterable
from pathlib import Path

from avmixup_kit.live.lab.run import LiveRun

SAFE = 30.0  # seconds of training that may be lost where a kernel dies


class Shelf:
    """Run folders below one folder, numbered, one a run.

    Args:
        folder: made when there is something to keep; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder and folder.expanduser().absolute()
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Return whether a run that trains has not been kept for long."""
        return time.monotonic() - self._saved > SAFE

    def others(self, runs: Iterable[LiveRun]) -> list[Path]:
        """Return the run folders that are none of these runs', oldest first."""
        homes = {run.home for run in runs}
        found = self.folder.glob("*/run.json") if self.folder else ()
        return sorted(path.parent for path in found if path.parent not in homes)

    def holds(self, folder: Path) -> bool:
        """Return whether a folder stands here."""
        return folder.absolute().parent == self.folder

    def keep(self, run: LiveRun) -> None:
        """Write the run's folder anew, unless it tells everything; a failure is raised once.

        Raises:
            OSError, ValueError: as ``LiveRun.save``.
        """
        self._saved = time.monotonic()
        there = run.training.step, len(run.evaluations), len(run.dial.turns)
        idle = run.safe is None and run.training.step == run.start["step"] and not run.evaluations
        if self.folder is None or idle or there == run.safe:
            return
        run.safe = there
        with run.training.lock:
            run.flush()
            run.home = run.home or self._free(run.name)
            try:
                run.save(run.home)
            except FileExistsError:  # it went on elsewhere
                run.home = self._free(run.name)
                run.save(run.home)

    def _free(self, name: str) -> Path:
        assert self.folder is not None
        taken = [re.match(r"\d+", path.name) for path in self.folder.glob("*")]
        number = 1 + max((int(found[0]) for found in taken if found), default=0)
        return self.folder / f"{number:03d}-{slug(name)}"


def slug(name: str) -> str:
    """Return a name as a folder may be called."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:60] or "unnamed"
