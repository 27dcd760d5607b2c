"""Power losses: a work's operations on files, and how it goes on from every disk they may leave."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.torture.disk import Loss, Recorder, losses
from tests.torture.layer import Operation, no_half
from tests.torture.works import Broken, Work, apart, go_on

# What a work's processes write in C, unseen.
FOREIGN = {"search": ("search/study.db",)}


def operations_of(work: Work, folder: Path) -> list[Operation]:
    """Return what a work, which is done here, did to files in a folder, and what it promised."""
    folder.mkdir(parents=True)
    with Recorder(folder, FOREIGN.get(work.name, ())) as recorder:
        work.run(folder, recorder.promise)
    return [replace(one, half=no_half) for one in recorder.operations]


def recorded(work: Work, folder: Path, seed: int = 0, most: int = 8) -> list[Loss]:
    """Return every disk that a power loss may leave of a work, which is done here, in a folder."""
    return list(losses(operations_of(work, folder), seed, most))


def survive(work: Work, loss: Loss, folder: Path, reference: dict[str, object]) -> str:
    """Go on after a power loss; return the refusal, "" where it went on.

    Raises:
        Broken: what was promised is gone, or it ends otherwise than one that was left alone.
    """
    shutil.rmtree(folder, ignore_errors=True)
    loss.lay_out(folder)
    where = f"{work.name}, power lost after operation {loss.after}"
    try:
        work.kept(folder, loss.promised)
        said = go_on(work, folder)
        if said and loss.promised:
            raise Broken(f"{loss.promised[-1]} was promised, but: {said}")
        if not said and (made := work.made(folder)) != reference:
            wrong = [key for key in reference if made.get(key) != reference[key]]
            both = [apart(reference[key], made.get(key)) for key in wrong]
            raise Broken(f"not as one left alone: {wrong}, which were and are {both}")
    except Broken as error:
        raise Broken(f"{where}: {error}") from error
    except Exception as error:
        raise Broken(f"{where}: {type(error).__name__}: {error}") from error
    return said


def all_survive(work: Work, folder: Path, seed: int = 0, most: int = 8) -> Iterator[str]:
    """Yield what came of each power loss: the refusal, "" where it went on."""
    found = recorded(work, folder / "whole", seed, most)
    reference = work.made(folder / "whole")
    for loss in found:
        yield survive(work, loss, folder / "lost", reference)
