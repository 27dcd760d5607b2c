"""Checks of arguments: each returns the checked value or raises one line that names it."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from avmixup_kit._base import check

Numbers = float | np.ndarray

# What an argument may be wherever it has this name: lowest, highest, whether each end is left out.
RANGES: dict[str, tuple[float | bool | None, ...]] = {
    **dict.fromkeys(("d", "n"), (1,)),
    **dict.fromkeys(("s", "sigma", "sigma_s", "sigma_a", "rho", "epsilon", "scale"), (0,)),
    **dict.fromkeys(("nu", "B"), (0, 1)),
    "c": (0,),
    "eta": (0, 1, False, True),
    "sigma_b": (0, None, True),
    **dict.fromkeys(("beta", "density"), (0, 1, True)),
}


def real(
    name: str,
    value: ArrayLike,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
) -> np.ndarray:
    """Return `value` as a float64 array, every entry finite and between `low` and `high`.

    Raises:
        TypeError: `value` is not made of real numbers.
        ValueError: an entry is not finite or is out of range.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} = {value!r} is not allowed: a real number or an array of them")
    array = array.astype(np.float64)
    good = np.isfinite(array)
    if low is not None:
        good &= array > low if open_low else array >= low
    if high is not None:
        good &= array < high if open_high else array <= high
    if not good.all():  # only then are there words to be made
        worst = float(array[~good].flat[0])
        check.that(False, name, worst, f"finite{_range(low, high, open_low, open_high)}")
    return array


def _range(low: float | None, high: float | None, open_low: bool, open_high: bool) -> str:
    if low is not None and high is not None:
        return f" and in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if low is not None:
        return f" and {'>' if open_low else '>='} {low:g}"
    if high is not None:
        return f" and {'<' if open_high else '<='} {high:g}"
    return ""


def reals(**values: ArrayLike) -> list[np.ndarray]:
    """Return float64 arrays whose shapes broadcast, each in its name's range of `RANGES`."""
    limits: dict[str, Any] = RANGES
    arrays = {name: real(name, value, *limits[name]) for name, value in values.items()}
    broadcast(**arrays)
    return list(arrays.values())


def number(name: str, value: ArrayLike, *limits: Any, **opened: bool) -> float:
    """Return `value` as one float, checked as `real` checks it."""
    array = real(name, value, *limits, **opened)
    check.that(not array.ndim, f"{name}'s shape", array.shape, "one number, no array")
    return float(array)


def count(name: str, value: object, low: int = 1) -> int:
    """Return `value` as an int >= `low`; a float that is a whole number counts as one."""
    allowed = f"a whole number >= {low}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} = {value!r} is not allowed: {allowed}")
    whole = float(value)
    check.that(whole.is_integer() and whole >= low, name, value, allowed)
    return int(whole)


def generator(rng: object) -> np.random.Generator:
    """Return `rng`, a numpy.random.Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng = {rng!r} is not allowed: a numpy.random.Generator")
    return rng


def broadcast(**arrays: np.ndarray) -> tuple[int, ...]:
    """Return the common shape of `arrays`, or say which shapes do not fit together."""
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{shapes} are not allowed: shapes that broadcast together") from None
