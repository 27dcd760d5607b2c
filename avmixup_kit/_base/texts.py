"""The text of a frozen record, which is saved and read back."""

from dataclasses import fields
from typing import Any


def text_of(record: Any, *later: str) -> str:
    """Return a dataclass's repr without those fields of ``later`` that are at their default.

    What was saved before there were such fields keeps its text.
    """
    shown = (f for f in fields(record) if f.repr)
    kept = (f.name for f in shown if f.name not in later or getattr(record, f.name) != f.default)
    return f"{type(record).__qualname__}({', '.join(f'{k}={getattr(record, k)!r}' for k in kept)})"
