"""What a bad argument is told: "x = v is not allowed: what is, and what to do"."""

from collections.abc import Iterable, Mapping
from typing import Any


def that(fine: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ValueError unless ``fine``; ``allowed`` says what is, and what to do."""
    if not fine:
        raise ValueError(f"{name} = {value!r} is not allowed: {allowed}")


def whole(name: str, value: Any, least: int = 1, what: str = "a whole number") -> None:
    """Raise ValueError unless value is an int (True is none) of ``least`` or more."""
    fine = isinstance(value, int) and not isinstance(value, bool) and value >= least
    that(fine, name, value, f"{what}, {least} or more")


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise ValueError unless value is among the options, which the message lists."""
    options = list(options)
    that(value in options, name, value, f"one of {', '.join(map(str, options))}")


def same(was: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise ValueError unless ``was`` holds all of ``now``; the message says only what differs."""
    different = [
        f"{key} was {was.get(key)!r}, is {value!r}"
        for key, value in now.items()
        if was.get(key) != value
    ]
    if different:
        raise ValueError(f"{where}: {'; '.join(different)}")
