"""The training dashboard: ``show`` puts a training beside the sliders that turn it.

Two threads: the trainer's, which alone touches the model, and one that alone writes what is seen.
What the reader does only turns the dial or asks the trainer for something.
"""

import atexit
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import ipywidgets as widgets
import plotly.graph_objects as go

from avmixup_kit import methods
from avmixup_kit._base import check, html
from avmixup_kit._base.plots import GREY
from avmixup_kit.data import Data
from avmixup_kit.live.controls import Choice, Control, Number, close, grid, row, stored
from avmixup_kit.live.figures import LiveFigure
from avmixup_kit.live.lab import menu, new_run, panels, words
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.live.lab.trainer import Trainer, check_free
from avmixup_kit.methods.method import Method
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training

P = ParamSpec("P")
T = TypeVar("T")

NOW = "the present one"
_open: dict[str, "Dashboard"] = {}


def show(
    training: Training,
    dial: Dial | None = None,
    data: Data | None = None,
    *,
    name: str = "lab",
    probe_every: int = 50,
    probe_images: int = 128,
    period: float = 0.5,
) -> "Dashboard":
    """Return a dashboard of the training, at once; as the last line of a cell it is displayed.

    Training begins with its Start button or ``start()``. A dashboard of the same name is closed
    first, so a cell may be run again; give two that should live side by side two names.

    The fourth panel, scatter, is adversarial feature overfitting: the variance of features within
    classes under PGD10, on training and on validation images (``features.scatter``).

    Args:
        training: made with a Dial; its model is trained in place.
        dial: the training's own; may be left out.
        data: the training's data set, for curves of validation images and for evaluation.
        name: of the dashboard.
        probe_every: steps between two measurements of clean and robust accuracy.
        probe_images: how many images of each split they use.
        period: seconds between two redrawings.

    Raises:
        TypeError: the training has no dial.
        ValueError: another training's dial or data; a training that another dashboard shows.
    """
    if training.dial is None:
        raise TypeError(
            "a training without a Dial cannot be turned: Training(model, split, Dial(method))"
        )
    if dial is not None and dial is not training.dial:
        raise ValueError("dial is another one than the training's: pass the one it was made with")
    if data is not None and data.train.checksum != training.split.checksum:
        raise ValueError(f"data = {data.name} holds other training images than the training's")
    check.number("period", period, "(0, inf)", "seconds, more than 0")
    check_free(training, _open[name].trainer if name in _open else None)
    if name in _open:
        _open[name].close()
    trainer = Trainer(training, data, probe_every=probe_every, probe_images=probe_images, name=name)
    try:
        _open[name] = Dashboard(name, trainer, period)
    except BaseException:
        trainer.close()
        raise
    return _open[name]


@atexit.register
def close_all() -> None:
    """Close every dashboard; done when the program ends, so that no thread outlives it."""
    for dashboard in list(_open.values()):
        dashboard.close()


def _waits(
    ask: Callable[Concatenate[Trainer, P], "Future[T]"],
) -> Callable[Concatenate["Dashboard", P], T]:
    """Return a dashboard's method that asks the trainer, and returns when it is done."""

    @wraps(ask)
    def method(dashboard: "Dashboard", *args: P.args, **settings: P.kwargs) -> T:
        return ask(dashboard.trainer, *args, **settings).result()

    return method


class Dashboard(widgets.VBox):
    """A live training: buttons, dials, curves, adversarial images. ``show`` makes it.

    The methods do what the buttons do, and return when it is done.
    """

    _ended = True  # until it has begun: ipywidgets closes what could not be built, too

    def __init__(self, name: str, trainer: Trainer, period: float) -> None:
        self.name, self.trainer, self.period = name, trainer, period
        self.trouble: Exception | None = None
        self._seen: dict[str, Any] = {}
        self._left_methods: dict[str, Method] = {}
        self._controls()
        self._actions()
        self.progress, self.state, self.alert = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.note, self.strip, self.evaluation = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.curves = LiveFigure(panels.drawn(trainer.runs, trainer.run))
        dials = widgets.VBox([self.method, *self.numbers.values(), self.note])
        form = grid(*self.new.values())
        self.thread = threading.Thread(target=self._live, name=f"{name} (shows)", daemon=True)
        super().__init__(
            [
                self.progress,
                row(self.start_button, self.pause_button, self.stop_button, self.state),
                grid(dials, self.strip, least="26em"),
                self.curves,
                self.alert,
                row(self.run_menu, self.step_menu, self.fork_button),
                row(self.folder, self.save_button, self.load_button, self.export_button),
                row(self.images, self.evaluate_button),
                self.evaluation,
                widgets.Accordion([widgets.VBox([form, self.make_button])], titles=["A new run"]),
            ]
        )
        self._ended = False
        self.thread.start()

    # ---------------------------------------------------------------------- from code, as by hand

    @property
    def training(self) -> Training:
        """The training of the current run."""
        return self.trainer.training

    @property
    def dial(self) -> Dial:
        """The dial of the current run."""
        return self.trainer.dial

    start = _waits(Trainer.start)
    pause = _waits(Trainer.pause)
    resume = _waits(Trainer.resume)
    stop = _waits(Trainer.stop)
    fork = _waits(Trainer.fork)
    save = _waits(Trainer.save)
    load = _waits(Trainer.load)
    export = _waits(Trainer.export)
    evaluate = _waits(Trainer.evaluate)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the run has ended, and raise what went wrong in it."""
        self.trainer.join(timeout)
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        """End both threads and take the dashboard off the page; the model stays as it is."""
        if self._ended:
            return
        self._ended = True
        if _open.get(self.name) is self:
            del _open[self.name]
        self.trainer.close()
        self.trainer.changed.set()  # a trainer that was closed before will not say so again
        if threading.current_thread() is not self.thread:
            self.thread.join(30)
        close(self)
        super().close()

    def static(self) -> go.Figure:
        """Return the curves as they stand, as a plain figure that needs no kernel."""
        return panels.drawn(self.trainer.runs, self.trainer.run).update_layout(width=950)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return stored(super()._repr_mimebundle_(**kwargs), "show", "the dashboard")

    # ----------------------------------------------------------------------------- what can be done

    def _controls(self) -> None:
        run = self.trainer.run
        epsilon, named = run.epsilon, methods.name_of(run.method)
        options = menu.titles() | {"(your own)": None}
        self.method = Choice("method", "method", options, named)
        numbers = menu.mixing_numbers(epsilon, least=epsilon / 50)
        self.numbers = {number.name: number for number in numbers}
        for number in self.numbers.values():
            # A drag is one turn, not a hundred.
            number.slider.continuous_update = False
            number.listen(self._turned)
        self.method.listen(self._switched)

    def _actions(self) -> None:
        self.start_button = self._button("Start", "begin training", self.trainer.start)
        self.pause_button = self._button("Pause", "hold after this step", self.trainer.pause)
        self.stop_button = self._button("Stop", "end here, keep the model", self.trainer.stop)
        self.run_menu = widgets.Dropdown(description="run", layout={"width": "22em"})
        self.run_menu.observe(self._chosen, "value")
        self.step_menu = widgets.Dropdown(description="from step", layout={"width": "22em"})
        self.fork_button = self._button(
            "Fork from here",
            "continue from this step as a run of its own; both curves stay",
            lambda: self.trainer.fork(self._step()),
        )
        self.folder = widgets.Text(
            f"runs/{self.name}", description="folder", layout={"width": "24em", "max_width": "100%"}
        )
        self.save_button = self._button(
            "Save", "write a run folder there", lambda: self.trainer.save(self.folder.value)
        )
        self.load_button = self._button(
            "Load", "take up the run folder there", lambda: self.trainer.load(self.folder.value)
        )
        self.export_button = self._button(
            "Export the dial's turns",
            "write turns.jsonl there; a headless run repeats it",
            lambda: self.trainer.export(Path(self.folder.value) / "turns.jsonl"),
        )
        self.new = new_run.fields()
        self.make_button = self._button(
            "Make this run", "load the data and add a run; the others stay", self._made
        )
        self.images = widgets.IntText(500, description="test images", layout={"width": "14em"})
        self.evaluate_button = self._button(
            "Evaluate",
            "clean, FGSM, PGD20, CW20; training waits meanwhile",
            lambda: self.trainer.evaluate(self.images.value),
        )

    def _button(self, label: str, tip: str, ask: "Callable[[], Future[Any]]") -> widgets.Button:
        button = widgets.Button(description=label, tooltip=tip, layout={"width": "auto"})
        # What goes wrong is told by the trainer; the Future is for callers from code.
        button.on_click(lambda _: ask())
        return button

    def _made(self) -> "Future[LiveRun]":
        chosen = {key: widget.value for key, widget in self.new.items()}
        return self.trainer.add(lambda: new_run.make(**chosen))

    def _step(self) -> int | None:
        return None if (step := self.step_menu.value) in (None, NOW) else int(step)

    def _by_hand(self) -> bool:
        return threading.current_thread() is not self.thread

    def _chosen(self, change: Any) -> None:
        if self._by_hand() and change.new is not None and change.new != self.trainer.run.name:
            self.trainer.switch(change.new)

    def _turned(self, control: Control) -> None:
        """Turn the dial as the reader did; a refusal is told beside the control."""
        if not self._by_hand():
            return
        assert isinstance(control, Number)
        if control.box.value == self.dial.method.parameters.get(control.name):
            control.complain("")
        else:
            self._turn(control, {control.name: control.box.value})

    def _switched(self, control: Control) -> None:
        if not self._by_hand() or control.value in (None, methods.name_of(self.dial.method)):
            return
        old = self.dial.method
        self._left_methods[str(methods.name_of(old))] = old
        self._turn(control, {"method": self._method(control.value, old)})

    def _turn(self, control: Control, change: dict[str, Any]) -> None:
        try:
            self.dial.turn(**change)
        except ValueError as error:
            control.complain(str(error))
        else:
            control.complain("")
        self.trainer.changed.set()

    def _method(self, name: str, old: Method) -> Method:
        """Return the named method at the present epsilon, with the settings it had when left."""
        epsilon = old.parameters.get("epsilon", self.trainer.run.epsilon)
        if name in self._left_methods:
            method = self._left_methods[name]
            return method.replace(epsilon=epsilon) if "epsilon" in method.parameters else method
        steps = menu.steps_of(old, *self._left_methods.values(), self.dial.initial)
        method, average = menu.named(name, epsilon, steps), self.training.average
        return method.replace(average=average) if average and method.average else method

    # -------------------------------------------------------------------- only on the own thread

    def _live(self) -> None:
        drawn, stale = 0.0, True
        try:
            while not self._ended:
                moves = stale or self.trainer.run.status == "running"
                pause = max(0.0, drawn + self.period - time.monotonic()) if moves else None
                self.trainer.changed.wait(pause)
                if self._ended:
                    break
                stale = stale or moves or self.trainer.changed.is_set()
                self.trainer.changed.clear()
                self._say()
                if time.monotonic() - drawn >= self.period:
                    stale = False
                    self._draw()
                    drawn = time.monotonic()
        except Exception as error:
            self.trouble = error
            self.alert.value = words.alert("The dashboard stopped drawing", traceback.format_exc())

    def _say(self) -> None:
        """Write words and controls; what has not changed sends nothing."""
        trainer, run = self.trainer, self.trainer.run
        self.progress.value = words.progress(run)
        self.state.value = words.state(trainer, run)
        told = words.alert(trainer.complaint) if trainer.complaint else ""
        if run.status == "failed":
            told += words.alert(f"{run.name} failed: {run.error}", run.traceback)
        for step, sign in run.warnings:
            told += words.alert(f"{run.name}, step {step}: {sign.words}")
        self.alert.value = told
        running, final = run.status == "running", run.status in ("stopped", "ended")
        labels = {"ready": "Start", "failed": "Try again"}
        self.start_button.description = labels.get(run.status, "Start" if final else "Resume")
        self.start_button.disabled, self.pause_button.disabled = running or final, not running
        self.stop_button.disabled = run.status not in ("running", "paused")
        if self._is_new("runs", [run.name for run in trainer.runs]) | self._is_new("at", run.name):
            self.run_menu.options = [run.name for run in trainer.runs]
            self.run_menu.value = run.name
        if self._is_new("kept", (run.name, sorted(run.kept))):
            kept = [str(step) for step in sorted(run.kept) if step < run.training.steps]
            chosen = self.step_menu.value
            self.step_menu.options = [NOW, *kept]
            self.step_menu.value = chosen if chosen in kept else NOW
        if self._is_new("method", run.method):
            self._follow(run.method)
        if run.evaluation and self._is_new("evaluation", run.evaluation):
            self.evaluation.value = words.evaluated(*run.evaluation, run.epsilon)

    def _is_new(self, what: str, value: Any) -> bool:
        if what in self._seen and self._seen[what] == value:
            return False
        self._seen[what] = value
        return True

    def _follow(self, method: Method) -> None:
        """Set the controls to the method in force, whoever turned it."""
        self.method.value = methods.name_of(method)
        title = menu.title(method, "this method")
        for name, number in self.numbers.items():
            there = name in method.parameters
            number.box.disabled = number.slider.disabled = not there
            if there:
                if number.box.value != method.parameters[name]:
                    number.value = method.parameters[name]
                number.complain("")
            else:
                said = '<span style="color:{}">{} has none</span>'
                number.error.value = str(html.markup(said, GREY, title))
        self.note.value = words.label_note(method)

    def _draw(self) -> None:
        run = self.trainer.run
        with self.curves.batch_update():
            panels.fill(self.curves, self.trainer.runs, run, every=False)
        self.curves.remember()
        if run.strip is not None and self._is_new("strip", (run.name, run.measured)):
            self.strip.value = words.strip(run.strip)
