"""What a bad argument is told: "x = v is not allowed: what is, and what to do"."""

import ast
from collections.abc import Iterable, Iterator, Mapping
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
        yield f"{name} was {was!r}, is {now!r}"
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
        call = ast.parse(value if isinstance(value, str) else repr(value), mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(call, ast.Call) or call.args:
        return None
    code = {str(word.arg): ast.unparse(word.value) for word in call.keywords}
    return {"": ast.unparse(call.func)} | code
