"""The one thing that moves: a method whose settings are turned between steps, on record."""

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from avmixup_kit._base import check
from avmixup_kit._base.texts import text
from avmixup_kit.methods.method import Method, check_saved, networks_of, own_stages, parse, plain


@dataclass(frozen=True)
class Turn:
    """One turn of a dial: from ``step`` on, ``change`` is in force."""

    step: int
    change: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready record; values that are no numbers are the code that rebuilds them.

        It has no "step" of its own, since the step it acts before has a record, too.
        """
        change = {k: v if _is_number(v) else text(v) for k, v in self.change.items()}
        record = {"before_step": self.step, "change": change}
        stages = own_stages(tuple(self.change.values()))
        return record | {"stages": stages} if stages else record

    @classmethod
    def from_json(cls, record: dict[str, Any], networks: Iterable[nn.Module] = ()) -> "Turn":
        """Return the turn that ``to_json`` wrote, or that version 0.1 did: "step", all code.

        ``networks``: those that it may name.
        """
        stages = record.get("stages")
        change = {
            key: parse(value, stages, networks) if isinstance(value, str) else value
            for key, value in record["change"].items()
        }
        return cls(step_of(record), change)


def step_of(line: dict[str, Any]) -> int:
    """Return the step of a line of log.jsonl; a turn stands before the record of its step."""
    return int(line["before_step"] if "before_step" in line else line["step"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


class Dial:
    """The one thing that moves: a method whose settings are turned between training steps.

    ``turn`` swaps the whole immutable method at once, so a step never sees a half-turned dial, and
    records when. It may be called from any thread.

    Args:
        method: what is in force at step 0.
        turns: turns to come, of an earlier run: replaying them repeats that run.
        networks: fixed networks, beside those of ``method``, that attacks of later turns follow as
            their source. A run is taken up with networks of the same weights.
    """

    def __init__(
        self,
        method: Method,
        turns: "list[Turn] | tuple[Turn, ...]" = (),
        networks: Iterable[nn.Module] = (),
    ) -> None:
        _check_method(method)
        self.networks = (*networks, *networks_of(method).values())
        check_saved("method", method, self.networks)
        self.initial = method
        self._method = method
        self._turns: list[Turn] = []
        self._ahead = sorted(turns, key=lambda turn: turn.step)
        self._next_step = 0
        self._lock = threading.Lock()
        self.hold_to(lambda method: None)

    def hold_to(self, check: Callable[[Method], object]) -> None:
        """Let ``check`` refuse methods, of this moment, of turns to come and of later ones."""
        with self._lock:
            method = self._method
            check(method)
            for turn in self._ahead:
                method = _apply(method, turn.change)
                check(method)
            self._check = check

    @property
    def method(self) -> Method:
        """The method the next step will use."""
        return self._method

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Every turn that is in force, oldest first."""
        return tuple(self._turns)

    @property
    def ahead(self) -> tuple[Turn, ...]:
        """Turns still to come, oldest first."""
        return tuple(self._ahead)

    def turn(self, **change: Any) -> Method:
        """Change settings from the next step on, and return the new method.

        ``dial.turn(gamma=3.0)``; ``dial.turn(method=methods.pgd())`` swaps the method. A refused
        value, or one that could not be saved, raises ValueError and leaves everything as it was.

        It wins over turns to come: they lose the settings that it changes, and go altogether where
        they or it swap the method.
        """
        change = {name: plain(value) for name, value in change.items()}
        with self._lock:
            method = _apply(self._method, change)
            for name, value in change.items():
                check_saved(name, value, self.networks)
            self._check(method)
            self._turns.append(Turn(self._next_step, change))
            self._ahead = _yielding(self._ahead, self._turns[-1])
            self._method = method
        return method

    def __call__(self, step: int) -> Method:
        """Return the method of ``step``; turns made later act at a later step."""
        with self._lock:
            while self._ahead and self._ahead[0].step <= step:
                turn = self._ahead.pop(0)
                self._method = _apply(self._method, turn.change)
                self._turns.append(turn)
            self._next_step = step + 1
            return self._method

    def expect(self, turns: list[Turn]) -> None:
        """Add turns to come, those that are expected already left out."""
        with self._lock:
            others = [turn for turn in self._ahead if turn not in turns]
            for turn in turns:
                others = others if turn in self._ahead else _yielding(others, turn)
            self._ahead = sorted([*turns, *others], key=lambda turn: turn.step)

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain values that ``torch.load(weights_only=True)`` accepts."""
        with self._lock:
            return {
                "initial": repr(self.initial),
                "stages": own_stages(self.initial),
                "turns": [turn.to_json() for turn in self._turns],
                "ahead": [turn.to_json() for turn in self._ahead],
                "next_step": self._next_step,
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved dial: its first method, its turns, and those still to come."""
        initial = parse(state["initial"], state.get("stages"), self.networks)
        turns = [Turn.from_json(record, self.networks) for record in state["turns"]]
        method = initial
        for turn in turns:
            method = _apply(method, turn.change)
        ahead = [Turn.from_json(record, self.networks) for record in state["ahead"]]
        with self._lock:
            self.initial, self._method, self._turns = initial, method, turns
            self._ahead = ahead
            self._next_step = int(state["next_step"])


def _yielding(ahead: list[Turn], by_hand: Turn) -> list[Turn]:
    """Return what stays of turns to come beside one by hand that was made before them."""
    stays = []
    for turn in ahead:
        change = turn.change
        if turn.step >= by_hand.step:
            swapped = "method" in change or "method" in by_hand.change
            lost = change if swapped else by_hand.change
            change = {name: value for name, value in change.items() if name not in lost}
        if change:
            stays.append(Turn(turn.step, change))
    return stays


def _check_method(method: Any) -> None:
    if not isinstance(method, Method):
        raise TypeError(
            f"method = {check.said(method)} is not allowed: a Method, such as avmixup()"
        )


def _apply(method: Method, change: dict[str, Any]) -> Method:
    if not change:
        raise ValueError("turn() needs a change, such as gamma=3.0")
    rest = dict(change)
    method = rest.pop("method", method)
    _check_method(method)
    return method.replace(**rest) if rest else method
