"""What a bad argument is told: "x = v is not allowed: what is, and what to do"."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

MOST = 2**63 - 1  # the largest int of torch's
FLOAT32 = (2 - 2**-23) * 2.0**127  # its largest
LONGEST = 300  # letters of a value that a message shows


def said(value: Any) -> str:
    """Return a value as a message shows it: its repr, in one line of bounded length."""
    try:
        words = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"{type(value).__name__} of thousands of digits"
    return cut(words)


def cut(words: str) -> str:
    """Return words in one line of bounded length."""
    words = " ".join(words.split()) if "\n" in words else words
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 20]} ... {words[-15:]}"


def that(fine: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ValueError unless ``fine``; ``allowed`` says what is, and what to do."""
    if not fine:
        raise ValueError(f"{name} = {said(value)} is not allowed: {allowed}")


def plain(value: Any) -> Any:
    """Return numbers and texts of numpy, of torch (0-d) and of subclasses as Python's.

    So are those in tuples; whatever else is returned as it is.
    """
    if type(value) is tuple:
        return tuple(map(plain, value))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or type(value) in (int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def settle(record: Any) -> None:
    """Make the numbers and texts of a new frozen record Python's, which its repr gives back."""
    for field in fields(record):
        value = getattr(record, field.name)
        settled = plain(value)
        if settled is not value:
            object.__setattr__(record, field.name, settled)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether value is a number that float32 holds, and as an int one that torch takes."""
    most = MOST if isinstance(value, int) else FLOAT32
    return _is_real(value) and -most <= value <= most


def number(name: str, value: Any, interval: str, allowed: str, *, none: bool = False) -> Any:
    """Return value as Python's number, finite and in the interval, such as "(0, 1]".

    ``none`` allows None as well.

    Raises:
        ValueError: it is no number (True is none), or not in there; ``allowed`` says what is.
    """
    value = plain(value)
    if none and value is None:
        return None
    low, high = _ends(interval)
    if not _is_real(value) and "number" not in allowed:
        allowed = f"a number; {allowed}"
    if isinstance(value, int) and abs(value) > MOST:
        allowed += "; so large a number is written as a float"
    elif isinstance(value, float) and FLOAT32 < abs(value) < float("inf"):
        allowed += "; float32 holds none so large"
    fine = is_number(value)
    fine = fine and (value >= low if interval[0] == "[" else value > low)
    fine = fine and (value <= high if interval[-1] == "]" else value < high)
    that(fine, name, value, allowed)
    return value


@cache
def _ends(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def whole(
    name: str,
    value: Any,
    least: int = 1,
    what: str = "a whole number",
    *,
    most: int = MOST,
    none: bool = False,
) -> Any:
    """Return value as Python's int (True is none), ``least`` to ``most``.

    ``none`` allows None as well.

    Raises:
        ValueError: it is something else.
    """
    value = plain(value)
    if none and value is None:
        return None
    fine = isinstance(value, int) and not isinstance(value, bool)
    that(fine and value >= least, name, value, f"{what}, {least} or more")
    that(value <= most, name, value, f"{what}, {most} at most")
    return value


def flag(name: str, value: Any) -> bool:
    """Return value as Python's bool; raise ValueError where it is something else."""
    value = plain(value)
    that(isinstance(value, bool), name, value, "True or False")
    return value


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise ValueError unless value is among the options, which the message lists."""
    options, value = list(options), plain(value)
    fine = any(type(value) is type(option) and value == option for option in options)
    that(fine, name, value, f"one of {', '.join(map(str, options))}")


def expression(code: Any) -> ast.expr:
    """Return the syntax of one expression, which is never run.

    Raises:
        ValueError: it is none, or larger or more deeply nested than what a repr gives.
    """
    that(isinstance(code, str) and len(code) <= 100_000, "text", code, "one expression")
    try:
        return ast.parse(code, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(cut(str(error)) or "too deeply nested") from error


def same(was: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise ValueError unless ``was`` holds all of ``now``; the message says only what differs."""
    different = [
        difference
        for key, value in now.items()
        if was.get(key) != value
        for difference in _differences(key, was.get(key), value)
    ]
    if different:
        raise ValueError(f"{where}: {'; '.join(different)}")


def _differences(name: str, was: Any, now: Any) -> Iterator[str]:
    """Yield what differs; of two reprs of one kind, only the arguments that do."""
    old, new = (_arguments(value) for value in (was, now))
    if old is None or new is None or old[""] != new[""]:
        yield f"{name} was {said(was)}, is {said(now)}"
        return
    for key in {**old, **new}:
        before, after = (_Code(each.get(key, "left out")) for each in (old, new))
        if before != after:
            yield from _differences(f"{name}.{key}", before, after)


class _Code(str):
    """Code, which is shown as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _arguments(value: Any) -> dict[str, str] | None:
    """Return the keyword arguments of a call as code by name, and its function as ""."""
    try:
        call = expression(value if isinstance(value, str) else repr(value))
    except ValueError:
        return None
    if not isinstance(call, ast.Call) or call.args:
        return None
    code = {str(word.arg): ast.unparse(word.value) for word in call.keywords}
    return {"": ast.unparse(call.func)} | code
