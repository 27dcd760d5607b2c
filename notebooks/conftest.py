"""How `pytest --nbval notebooks/` compares: as `agreement` says, and what that leaves to nbval.

nbval runs each notebook and compares every output with the stored one. Pictures and widget views
it ignores.

A cell that shows photographs, which do not come with the kit, says in its metadata of which data
set its stored outputs are, {"images": "cifar10-jpeg/test"}, and prints it. Where the kernel has
others or none, the cell is run and then skipped, not compared; with $AVMIXUP_REQUIRE_ALL it fails.
Photographs are looked for where the notebooks look, and in $AVMIXUP_TEST_DATA.

Stored outputs hold a PNG of each figure and explorer, for where notebooks are shown but not run.
Making those needs Chrome; comparing does not. To store them anew:

    PLOTLY_RENDERER=plotly_mimetype+png jupyter nbconvert --to notebook --execute --inplace \\
        --ExecutePreprocessor.store_widget_state=False \\
        --ExecutePreprocessor.record_timing=False notebooks/01_*.ipynb
    nbstripout --keep-output --keep-count --keep-id notebooks/01_*.ipynb
"""

import os
import tempfile
from typing import Any

import pytest
from nbval.plugin import IPyNbCell

from notebooks.agreement import agree, declared

os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"
if "AVMIXUP_TEST_DATA" in os.environ:
    os.environ.setdefault("AVMIXUP_DATA", os.environ["AVMIXUP_TEST_DATA"])
    os.environ.setdefault("AVMIXUP_CACHE", tempfile.gettempdir())  # not beside them

_compare_exactly = IPyNbCell.compare_outputs


def _compare(cell: IPyNbCell, fresh: list, stored: list, skip_compare: Any = None) -> bool:
    images = cell.cell.metadata.get("images", "")
    if images not in str(fresh) and not os.environ.get("AVMIXUP_REQUIRE_ALL"):
        pytest.skip(f"shows images of {images}, which are not here")
    # what agrees is replaced by what is stored, so that nbval's own comparison reports the rest
    tolerance = declared(cell.cell.metadata)
    pairs = list(zip(fresh, stored, strict=False))
    agreed = [agree(new, old, tolerance) for new, old in pairs] + list(fresh[len(pairs) :])
    return _compare_exactly(cell, agreed, stored, skip_compare)


IPyNbCell.compare_outputs = _compare
