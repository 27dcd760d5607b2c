"""Checks of arguments: each returns the checked value or raises one line that names it."""

import numbers

import numpy as np
from numpy.typing import ArrayLike

Numbers = float | np.ndarray


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
        raise TypeError(f"{name} must be a real number or an array of them, got {value!r}")
    array = array.astype(np.float64)
    good = np.isfinite(array)
    if low is not None:
        good &= array > low if open_low else array >= low
    if high is not None:
        good &= array < high if open_high else array <= high
    if not good.all():
        raise ValueError(
            f"{name} must be finite{_range(low, high, open_low, open_high)}, "
            f"got {float(array[~good].flat[0])!r}"
        )
    return array


def _range(low: float | None, high: float | None, open_low: bool, open_high: bool) -> str:
    if low is not None and high is not None:
        return f" and in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    if low is not None:
        return f" and {'>' if open_low else '>='} {low:g}"
    if high is not None:
        return f" and {'<' if open_high else '<='} {high:g}"
    return ""


def number(
    name: str,
    value: ArrayLike,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as one float, checked as `real` checks it."""
    array = real(name, value, low, high, open_low, open_high)
    if array.ndim:
        raise ValueError(f"{name} must be one number, got an array of shape {array.shape}")
    return float(array)


def count(name: str, value: object, low: int = 1) -> int:
    """Return `value` as an int >= `low`; a float that is a whole number counts as one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a whole number >= {low}, got {value!r}")
    whole = float(value)
    if not np.isfinite(whole) or whole != int(whole) or whole < low:
        raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
    return int(whole)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return `value`, one of the words `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def generator(rng: object) -> np.random.Generator:
    """Return `rng`, a numpy.random.Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
    return rng


def broadcast(**arrays: np.ndarray) -> tuple[int, ...]:
    """Return the common shape of `arrays`, or say which shapes do not fit together."""
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"shapes must broadcast together, got {shapes}") from None
