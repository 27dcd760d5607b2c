"""When two outputs of a cell agree: numbers to a tolerance, everything else exactly.

Numbers in text and in plotly figures differ in their last digits from one CPU to the
next, so here a float may differ by 2e-3 of itself (one of 1e-2 fails) and an integer not at all.

Training in float32 is chaos: a CPU with other instructions rounds otherwise, and after 90 steps
not the last digit differs but the third. A cell that shows what such a training gave says so in
its metadata, {"tolerance": {"accuracy": 0.05, "curve": 0.1}} with one of the two or both, and is
then compared like this:

    accuracy  A number with % after it may be off by this much: 0.05 is 5 points.
    curve     Another float in text may be off by this much, or by this share of it above 1.
              In a figure, an array of floats may be off by this share of its largest entry at
              every point; an image by this share of white on average, because single pixels flip;
              a map or table of classes in this share of its entries. x is compared strictly.

Words, integers, layouts and everything else in such a cell must still agree exactly, but runs of
spaces and of dashes count as one: a table's column is narrower at 9.98% than at 10.02%. Where a
printed word hangs on a near tie, choose another example, not a wider tolerance. Claims belong in
assertions, with room for another CPU. A cell without the declaration is compared strictly.
"""

import base64
import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

RELATIVE = 2e-3
ABSOLUTE = 1e-12  # below this a number is rounding error around 0
WIDEST = 0.25  # no claim about accuracies survives more
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
FIGURE = "application/vnd.plotly.v1+json"


@dataclass(frozen=True)
class Tolerance:
    """What a cell declares; 0 where it declares nothing, and then the strict rule holds."""

    accuracy: float = 0.0
    curve: float = 0.0


def declared(metadata: Mapping[str, Any]) -> Tolerance | None:
    """Return the tolerance that a cell's metadata declare, or None.

    Raises:
        ValueError: the declaration is not one of those above, or as wide as to check nothing.
    """
    if "tolerance" not in metadata:
        return None
    given, known = metadata["tolerance"], [field.name for field in fields(Tolerance)]
    if not isinstance(given, Mapping) or not given or not set(given) <= set(known):
        raise ValueError(f"tolerance = {given!r} is not allowed: a dict of {' and '.join(known)}")
    for name, value in given.items():
        if not isinstance(value, float) or not RELATIVE < value < WIDEST:
            raise ValueError(
                f"tolerance: {name} = {value!r} is not allowed: "
                f"more than {RELATIVE} and less than {WIDEST}"
            )
    return Tolerance(**given)


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


def _close_texts(stored: str, fresh: str, tolerance: Tolerance | None = None) -> bool:
    if tolerance is not None:
        stored, fresh = _one_gap(stored), _one_gap(fresh)
    if NUMBER.sub("#", stored) != NUMBER.sub("#", fresh):
        return False
    pairs = zip(NUMBER.finditer(stored), NUMBER.finditer(fresh), strict=True)
    return all(
        a[0] == b[0] or _close_numerals(a[0], b[0], stored.startswith("%", a.end()), tolerance)
        for a, b in pairs
    )


def _one_gap(text: str) -> str:
    return re.sub(r"-{2,}", "--", re.sub(r" {2,}", " ", text))


def _close_numerals(a: str, b: str, percent: bool, tolerance: Tolerance | None) -> bool:
    one, other = (float(numeral.replace("−", "-")) for numeral in (a, b))
    if percent and tolerance is not None and tolerance.accuracy:
        return _within(one, other, 100 * tolerance.accuracy)
    if not all(any(mark in numeral.lower() for mark in ".e") for numeral in (a, b)):
        return False
    if not percent and tolerance is not None and tolerance.curve:
        return _within(one, other, tolerance.curve * max(1.0, abs(one), abs(other)))
    return _close_floats(one, other)


def _within(a: float, b: float, limit: float) -> bool:
    return abs(a - b) <= limit * (1 + 1e-9)  # 5 points are 5 points in binary too


def _close_arrays(stored: dict, fresh: dict, curve: float = 0.0) -> bool:
    """Compare two of plotly's typed arrays, {"dtype", "bdata", "shape"}."""
    if any(stored.get(key) != fresh.get(key) for key in ("dtype", "shape")):
        return False
    a, b = (
        np.frombuffer(base64.b64decode(one["bdata"]), np.dtype(one["dtype"]))
        for one in (stored, fresh)
    )
    if a.shape != b.shape:
        return False
    flat = "shape" not in stored
    if curve and a.dtype == np.uint8 and not flat:
        return bool(np.abs(a.astype(float) - b).mean() <= 255 * curve)
    if curve and a.dtype.kind in "iu" and not flat:
        return bool((a != b).mean() <= curve)
    if a.dtype.kind != "f":
        return bool((a == b).all())
    limits = {"rtol": RELATIVE, "atol": ABSOLUTE}
    if curve and a.size:
        limits = {"rtol": 0.0, "atol": curve * float(np.nanmax(np.abs(np.append(a, b))))}
    return bool(np.isclose(b, a, **limits, equal_nan=True).all())


def _close_drawn(stored: Any, fresh: Any, curve: float) -> bool:
    """Compare what two figures draw: every array with the tolerance, the rest strictly."""
    if isinstance(stored, dict) and isinstance(fresh, dict):
        if stored.keys() != fresh.keys():
            return False
        if "bdata" in stored:
            return _close_arrays(stored, fresh, curve)
        # no training decides where a curve is measured, only where a map's words find room
        exact = set() if stored.get("mode") == "text" else {"x"}
        return all(
            close(stored[key], fresh[key])
            if key in exact
            else _close_drawn(stored[key], fresh[key], curve)
            for key in stored
        )
    if isinstance(stored, list) and isinstance(fresh, list):
        if len(stored) != len(fresh):
            return False
        if _is_table(stored) and _is_table(fresh):
            a, b = np.array(stored), np.array(fresh)
            return a.shape == b.shape and bool((a != b).mean() <= curve)
        return all(_close_drawn(a, b, curve) for a, b in zip(stored, fresh, strict=True))
    return close(stored, fresh)


def _is_table(value: list) -> bool:
    rows = all(isinstance(row, list) and 0 < len(row) == len(value[0]) for row in value)
    return bool(value) and rows and all(isinstance(entry, str) for row in value for entry in row)


def _close_figures(stored: Any, fresh: Any, tolerance: Tolerance) -> bool:
    """Compare two figures: what is drawn with the tolerance, layout and the rest strictly."""
    parts = isinstance(stored, dict) and isinstance(fresh, dict) and stored.keys() == fresh.keys()
    return parts and all(
        _close_drawn(stored[part], fresh[part], tolerance.curve)
        if part == "data"
        else close(stored[part], fresh[part])
        for part in stored
    )


def agree(fresh: dict, stored: dict, tolerance: Tolerance | None) -> dict:
    """Return the fresh output with every part that agrees as it is stored."""
    result = copy.copy(fresh)
    for key in ("text", "evalue"):
        if key in stored and key in fresh and _agrees(key, stored[key], fresh[key], tolerance):
            result[key] = stored[key]
    if "data" in stored and "data" in fresh:
        result["data"] = {
            kind: stored["data"][kind]
            if kind in stored["data"] and _agrees(kind, stored["data"][kind], value, tolerance)
            else value
            for kind, value in fresh["data"].items()
        }
    return result


def _agrees(kind: str, stored: Any, fresh: Any, tolerance: Tolerance | None) -> bool:
    if tolerance is not None and kind == FIGURE:
        return _close_figures(stored, fresh, tolerance)
    if tolerance is not None and isinstance(stored, str) and isinstance(fresh, str):
        return _close_texts(stored, fresh, tolerance)
    return close(stored, fresh)
