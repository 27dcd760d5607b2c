"""Processor seconds that each notebook takes, run from top to bottom with nothing beside it.

    python benchmarks/running_times.py [--rounds 3] [--output FILE]

A kernel of one thread runs a copy of the notebook, imports included; what it has used at the end,
its child processes too, are the seconds that the notebook's first cell names, for they hardly
depend on what else the machine does. Each round takes the notebooks in an order of its own.
"""

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import text_table

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
USED = "import os as _os; print(sum(_os.times()[:4]))"


def seconds(path: Path) -> tuple[float, float]:
    """Return processor and wall seconds of one run."""
    book = nbformat.read(path, 4)
    book.cells.append(nbformat.v4.new_code_cell(USED))
    where = {"metadata": {"path": str(path.parent)}}
    began = time.perf_counter()
    NotebookClient(book, timeout=None, resources=where).execute()
    return float(book.cells[-1].outputs[0].text), time.perf_counter() - began


def main() -> None:
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description="Seconds that each notebook takes.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
    paths, chance = sorted(FOLDER.glob("*.ipynb")), random.Random(0)
    found: dict[str, list[tuple[float, float]]] = {path.name: [] for path in paths}
    for _ in range(given.rounds):
        for path in chance.sample(paths, len(paths)):
            found[path.name].append(seconds(path))
    rows = [("notebook", "processor s", "wall s")]
    middles = {
        name: [statistics.median(one) for one in zip(*runs, strict=True)]
        for name, runs in found.items()
    }
    rows += [(name, f"{used:.1f}", f"{wall:.1f}") for name, (used, wall) in middles.items()]
    print(text_table(rows))
    if given.output:
        report = {"rounds": given.rounds, "provenance": provenance(), "seconds": found}
        given.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
