"""The method in force and the controls that turn it, which never say different things."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ipywidgets as widgets

from avmixup_kit import methods
from avmixup_kit._base import html
from avmixup_kit.live.controls import Choice, Control, Number
from avmixup_kit.live.lab import menu, words
from avmixup_kit.live.lab.trainer import Trainer
from avmixup_kit.methods.method import Method

REST = 0.6  # seconds; a key that is held repeats sooner


class Dials(widgets.VBox):
    """Menus and sliders of the current run's dial.

    What is typed or chosen acts at once; a slider's value when it has rested, so that a drag or a
    key that is held is one turn. A refused value gives way to the one in force. What somebody else
    turns moves the controls; one that nobody else has turned is the reader's, who may be at it.

    Args:
        trainer: whose current run is turned.
        by_hand: whether it is the reader who moves controls now.
    """

    def __init__(self, trainer: Trainer, by_hand: Callable[[], bool]) -> None:
        self.trainer, self.by_hand = trainer, by_hand
        epsilon = trainer.run.epsilon
        own = {"(your own)": None}
        presets = own | {name: name for name in menu.PRESETS}
        self.preset = Choice("preset", "to try", presets, None)
        named = methods.name_of(trainer.run.method)
        self.method = Choice("method", "method", menu.titles() | own, named)
        numbers = menu.mixing_numbers(epsilon, least=epsilon / 50)
        self.numbers = {number.name: number for number in numbers}
        self.note = widgets.HTML()
        self._left: dict[str, Method] = {}
        self._shown: dict[str, Any] = {}  # what each control was set to last, here or by the reader
        self._moved: dict[str, Number] = {}
        self._rests = 0.0
        self._lock = threading.Lock()
        for number in self.numbers.values():
            number.slider.continuous_update = False
        self.follow(self.now)
        for number in numbers:
            number.listen(self._turned)
        self.method.listen(self._switched)
        self.preset.listen(self._tried)
        super().__init__([self.preset, self.method, *numbers, self.note])

    @property
    def now(self) -> Method:
        """The method in force."""
        return self.trainer.dial.method

    def due(self) -> float | None:
        """Return in how many seconds ``settle`` is to be called; None where nothing moves."""
        return max(0.0, self._rests - time.monotonic()) if self._moved else None

    def settle(self) -> None:
        """Turn the dial to where sliders have been moved."""
        with self._lock:
            moved, self._moved = self._moved, {}
        for name, number in moved.items():
            value = number.box.value
            if value != self.now.parameters.get(name):
                self._turn(number, value, {name: value})

    def follow(self, method: Method) -> None:
        """Set the controls to a method, whoever turned it."""
        self._show(self.method, methods.name_of(method))
        epsilon, steps = self._epsilon(), menu.steps_of(method)
        alike = [name for name in menu.PRESETS if menu.preset(name, epsilon, steps) == method]
        self._show(self.preset, alike[0] if alike else None)
        title = menu.title(method, "this method")
        for name, number in self.numbers.items():
            there = name in method.parameters
            number.box.disabled = number.slider.disabled = not there
            if not there:
                number.error.value = str(html.markup("{} has none", title))
            elif name not in self._moved:
                value = method.parameters[name]
                number.widen(value)
                self._show(number, value)
                number.complain("")
        self._say(method)

    def _show(self, control: Control, value: Any) -> None:
        if self._shown.get(control.name, ...) != value:
            self._shown[control.name] = value
            control.value = value

    def _say(self, method: Method) -> None:
        self.note.value = words.label_note(method) + words.ahead(self.trainer.dial.ahead)

    def _turned(self, control: Control) -> None:
        if not self.by_hand():
            return
        assert isinstance(control, Number)
        name, value = control.name, control.box.value
        with self._lock:
            self._moved.pop(name, None)
            if control.slid:
                self._moved[name], self._rests = control, time.monotonic() + REST
            moved = {name: number.box.value for name, number in self._moved.items()}
        if control.slid:
            with suppress(ValueError):  # told when it has come to rest
                self._say(self.now.replace(**moved))
            self.trainer.changed.set()
        elif value == self.now.parameters.get(name):
            control.complain("")
        else:
            self.settle()
            self._turn(control, value, {name: value})

    def _switched(self, control: Control) -> None:
        if not self.by_hand():
            return
        named = methods.name_of(self.now)
        if control.value is None:
            control.value = named  # one's own can be shown, not chosen
        elif control.value != named:
            self.settle()
            self._left[str(named)] = self.now
            self._turn(control, control.value, {"method": self._named(control.value)})

    def _tried(self, control: Control) -> None:
        if not self.by_hand() or control.value is None:
            return
        self.settle()
        old = self.now
        new = menu.preset(control.value, self._epsilon(), self._steps())
        change: dict[str, Any] = {"method": new}
        if methods.name_of(new) == methods.name_of(old):
            was, wanted = old.parameters, new.parameters
            change = {name: wanted[name] for name in menu.GREEK if wanted[name] != was[name]}
        if change and new != old:
            self._turn(control, control.value, change)

    def _turn(self, control: Control, value: Any, change: dict[str, Any]) -> None:
        """Turn the dial as the reader did; a refusal is told beside the control."""
        try:
            self.trainer.dial.turn(**change)
        except ValueError as error:
            self._shown.clear()
            self.follow(self.now)
            control.complain(str(error))
        else:
            self._shown[control.name] = value
            control.complain("")
        self.trainer.changed.set()

    def _epsilon(self) -> float:
        return self.now.parameters.get("epsilon", self.trainer.run.epsilon)

    def _steps(self) -> int:
        return menu.steps_of(self.now, *self._left.values(), self.trainer.dial.initial)

    def _named(self, name: str) -> Method:
        """Return the named method at the present epsilon, with the settings it had when left."""
        epsilon = self._epsilon()
        if name in self._left:
            method = self._left[name]
            return method.replace(epsilon=epsilon) if "epsilon" in method.parameters else method
        method, average = menu.named(name, epsilon, self._steps()), self.trainer.training.average
        return method.replace(average=average) if average and method.average else method
