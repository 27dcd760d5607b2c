"""How `pytest --nbval notebooks/` compares: numbers to a tolerance, everything else exactly.

nbval runs each notebook and compares every output with the stored one. Pictures and widget views
it ignores. Numbers in text and in plotly figures differ in their last digits from one CPU to the
next, so here a float may differ by 2e-3 of itself (one of 1e-2 fails) and an integer not at all.

Stored outputs hold a PNG beside each figure, for sites that show notebooks without running them.
Making those needs Chrome; comparing does not. To store them anew:

    PLOTLY_RENDERER=plotly_mimetype+png jupyter nbconvert --to notebook --execute --inplace \\
        --ExecutePreprocessor.store_widget_state=False \\
        --ExecutePreprocessor.record_timing=False notebooks/01_*.ipynb
    nbstripout --keep-output --keep-count --keep-id notebooks/01_*.ipynb
"""

import base64
import math
import os
import re
from typing import Any

import nbformat
import numpy as np
from nbval.plugin import IPyNbCell

RELATIVE = 2e-3
ABSOLUTE = 1e-12  # below this a number is rounding error around 0
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)

os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"


def close(stored: Any, fresh: Any) -> bool:
    """Return whether two outputs agree: figures and text with tolerance, the rest exactly."""
    if isinstance(stored, dict) and isinstance(fresh, dict):
        if stored.keys() != fresh.keys():
            return False
        if "bdata" in stored:
            return _close_arrays(stored, fresh)
        return all(close(stored[key], fresh[key]) for key in stored)
    if isinstance(stored, list) and isinstance(fresh, list):
        return len(stored) == len(fresh) and all(map(close, stored, fresh))
    if isinstance(stored, float) and isinstance(fresh, float):
        return _close_floats(stored, fresh)
    if isinstance(stored, str) and isinstance(fresh, str):
        return _close_texts(stored, fresh)
    return type(stored) is type(fresh) and stored == fresh


def _close_floats(stored: float, fresh: float) -> bool:
    return math.isclose(stored, fresh, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _close_texts(stored: str, fresh: str) -> bool:
    if NUMBER.sub("#", stored) != NUMBER.sub("#", fresh):
        return False
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(fresh), strict=True)
    return all(
        a == b or (_is_float(a) and _is_float(b) and _close_numerals(a, b)) for a, b in pairs
    )


def _is_float(numeral: str) -> bool:
    return any(mark in numeral.lower() for mark in ".e")


def _close_numerals(a: str, b: str) -> bool:
    return _close_floats(float(a.replace("−", "-")), float(b.replace("−", "-")))


def _close_arrays(stored: dict, fresh: dict) -> bool:
    """Compare two of plotly's typed arrays, {"dtype", "bdata", "shape"}."""
    if any(stored.get(key) != fresh.get(key) for key in ("dtype", "shape")):
        return False
    a, b = (
        np.frombuffer(base64.b64decode(one["bdata"]), np.dtype(one["dtype"]))
        for one in (stored, fresh)
    )
    if a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool((a == b).all())
    return bool(np.isclose(b, a, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True).all())


_compare_exactly = IPyNbCell.compare_outputs


def _compare(cell: IPyNbCell, fresh: list, stored: list, skip_compare: Any = None) -> bool:
    # what agrees is replaced by what is stored, so that nbval's own comparison reports the rest
    pairs = list(zip(fresh, stored, strict=False))
    agreed = [_agreed(new, old) for new, old in pairs] + list(fresh[len(pairs) :])
    return _compare_exactly(cell, agreed, stored, skip_compare)


def _agreed(fresh: dict, stored: dict) -> dict:
    result = nbformat.from_dict(dict(fresh))
    for key in ("text", "evalue"):
        if key in stored and key in fresh and close(stored[key], fresh[key]):
            result[key] = stored[key]
    if "data" in stored and "data" in fresh:
        result["data"] = {
            kind: stored["data"][kind] if close(stored["data"].get(kind), value) else value
            for kind, value in fresh["data"].items()
        }
    return result


IPyNbCell.compare_outputs = _compare
