"""One list per kind of thing that has a name: methods, attacks, networks, data sets.

Command line, dashboard, search and documentation are derived from these lists.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from avmixup_kit._base import check
from avmixup_kit._base.plots import GREY, METHOD_COLOURS

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One thing of a registry: the function that makes it, its title for people, its colour.

    ``size`` is what is known of a data set before it is there.
    """

    name: str
    make: Callable[..., Any]
    title: str
    colour: str
    size: Any = None

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """Its arguments by name, with their defaults and types."""
        return dict(inspect.signature(self.make, eval_str=True).parameters)

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring, in one line."""
        return " ".join((inspect.getdoc(self.make) or "").split("\n\n")[0].split())


class Registry(Mapping[str, Callable[..., Any]]):
    """Functions by name, in the order in which they were registered.

    Args:
        kind: what they make, for messages: "method".
        around: wraps each function that is registered, given its name; None: nothing does.
    """

    def __init__(self, kind: str, around: Callable[[str, Any], Any] | None = None) -> None:
        self.kind = kind
        self.around = around
        self.entries: dict[str, Entry] = {}

    def register(
        self,
        name: str | None = None,
        *,
        title: str | None = None,
        colour: str | None = None,
        size: Any = None,
    ) -> Callable[[F], F]:
        """Return a decorator that adds a function, under its own name unless another is given.

        Args:
            title: for people; the name with spaces where left out.
            colour: of its curves in every figure, "#rrggbb"; ``METHOD_COLOURS``' where left out.
            size: of a data set, before it is there.

        Raises:
            ValueError: the name is taken, unless by an earlier run of the same notebook cell.
        """

        def add(make: F) -> F:
            chosen = name or make.__name__
            old = self.entries.get(chosen)
            if old is not None and not (make.__module__ == old.make.__module__ == "__main__"):
                taken = f"{old.make.__module__} has that name already; choose another"
                check.that(False, self.kind, chosen, taken)
            said = title or chosen.replace("_", " ")
            shown = colour or METHOD_COLOURS.get(chosen, GREY)
            make = self.around(chosen, make) if self.around else make
            self.entries[chosen] = Entry(chosen, make, said, shown, size)
            return make

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self.entries[name].make

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def build(self, name: str, *arguments: Any, **settings: Any) -> Any:
        """Return what the named function makes.

        Raises:
            ValueError: an unknown name, or a setting that it does not have.
        """
        check.one_of(self.kind, name, self)
        entry = self.entries[name]
        try:
            inspect.signature(entry.make).bind(*arguments, **settings)
        except TypeError as error:
            has = ", ".join(entry.settings) or "no settings"
            raise ValueError(f"{self.kind} {name}: {error}; it has {has}") from error
        return entry.make(*arguments, **settings)
