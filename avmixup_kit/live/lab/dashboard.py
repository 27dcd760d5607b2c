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

from avmixup_kit._base import check
from avmixup_kit.data import Data
from avmixup_kit.live.controls import close, grid, row, stored
from avmixup_kit.live.figures import LiveFigure
from avmixup_kit.live.lab import new_run, panels, table, words
from avmixup_kit.live.lab.dials import Dials
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.live.lab.shelf import slug
from avmixup_kit.live.lab.trainer import Trainer, check_free
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training

P = ParamSpec("P")
T = TypeVar("T")

NOW = "the present one"
GONE = (
    "The kernel has ended or was started anew: nothing below answers any more. Run the cells above "
    "and this one again"
)
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
    folder: str | Path | None = "runs",
) -> "Dashboard":
    """Return a dashboard of the training, at once; as the last line of a cell it is displayed.

    Training begins with its Start button or ``start()``. A dashboard of the same name is closed
    first, so a cell may be run again; give two that should live side by side two names. Every run
    is kept in a run folder of its own, so that one of an earlier cell or kernel can be taken up.

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
        folder: runs are kept in folder/name/001-run-1 and so on, written every 30 seconds and
            whenever they rest; None keeps none.

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
    probing = {"probe_every": probe_every, "probe_images": probe_images}
    shelf = None if folder is None else Path(folder) / slug(name)
    trainer = Trainer(training, data, **probing, name=name, folder=shelf)
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
        dashboard.dials.settle()
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
        self._sorted: tuple[str, bool] = ("", False)
        self.dials = Dials(trainer, self._by_hand)
        self.preset, self.method = self.dials.preset, self.dials.method
        self.numbers, self.note = self.dials.numbers, self.dials.note
        self._actions()
        self.progress, self.state, self.alert = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.strip, self.program = widgets.HTML(), widgets.HTML()
        self.evaluation = widgets.HTML(layout={"overflow": "auto"})
        kept = f"; the runs are in {Path(self.folder.value).parent}: take them up below."
        gone = GONE + (kept if trainer.shelf.folder else ".")
        self.curves = LiveFigure(panels.drawn(trainer.runs, trainer.run), gone)
        self.curves.on_msg(lambda _, told, __: "say" in told and self.sort(told["say"]))
        form = grid(*self.new.values())
        self.thread = threading.Thread(target=self._live, name=f"{name} (shows)", daemon=True)
        super().__init__(
            [
                self.progress,
                row(self.start_button, self.pause_button, self.stop_button, self.state),
                self.alert,
                grid(self.dials, self.strip, least="24em"),
                self.curves,
                row(self.run_menu, self.step_menu, self.fork_button),
                self.before,
                row(self.folder, self.save_button, self.load_button, self.export_button),
                row(self.images, self.autoattack, self.evaluate_button),
                self.evaluation,
                widgets.Accordion(
                    [
                        widgets.VBox([self.script_button, self.program]),
                        widgets.VBox([form, self.make_button]),
                    ],
                    titles=["The script that repeats this run", "A new run"],
                ),
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
    script = _waits(Trainer.script)

    def sort(self, column: str) -> None:
        """Sort the table of runs by a column; once more turns it round.

        Raises:
            ValueError: there is no such column.
        """
        check.one_of("column", column, table.COLUMNS)
        was, descending = self._sorted
        self._sorted = column, not descending if column == was else column in table.ATTACKS
        self.trainer.changed.set()

    def csv(self) -> str:
        """Return the table of runs as CSV, accuracies as fractions with their 95 % intervals."""
        return table.as_csv(table.rows(self.trainer.runs))

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
        return panels.drawn(self.trainer.runs, self.trainer.run)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return stored(super()._repr_mimebundle_(**kwargs), "show", "the dashboard")

    # ----------------------------------------------------------------------------- what can be done

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
        shelf = self.trainer.shelf.folder or Path("runs") / slug(self.name)
        here = shelf.relative_to(Path.cwd()) if shelf.is_relative_to(Path.cwd()) else shelf
        self.earlier = widgets.Dropdown(description="earlier run", layout={"width": "30em"})
        take_up = self._button(
            "Take up",
            "go on with a run of an earlier cell or kernel",
            lambda: self.trainer.load(str(self.earlier.value)),
        )
        self.before = row(self.earlier, take_up)
        self.folder = widgets.Text(
            str(here / "saved"), description="folder", layout={"width": "24em", "max_width": "100%"}
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
        self.images = widgets.BoundedIntText(
            500, min=1, max=500, description="test images", layout={"width": "14em"}
        )
        self.autoattack = widgets.Checkbox(False, description="AutoAttack (quick)", indent=False)
        self.autoattack.layout.width = "auto"
        self.evaluate_button = self._button(
            "Evaluate",
            "clean, FGSM, PGD20, CW20; training waits meanwhile",
            lambda: self.trainer.evaluate(self.images.value, self.autoattack.value),
        )
        self.script_button = self._button(
            "Write the script", "data, network, turns: as code to copy", self._written
        )

    def _button(self, label: str, tip: str, ask: "Callable[[], Future[Any]]") -> widgets.Button:
        button = widgets.Button(description=label, tooltip=tip, layout={"width": "auto"})
        # What goes wrong is told by the trainer; the Future is for callers from code.
        button.on_click(lambda _: self.dials.settle() or ask())
        return button

    def _written(self) -> "Future[str]":
        def show(asked: "Future[str]") -> None:
            text = "" if asked.exception() else words.program(asked.result(), self.curves.model_id)
            self.program.value = text

        asked = self.trainer.script()
        asked.add_done_callback(show)
        return asked

    def _made(self) -> "Future[LiveRun]":
        chosen = {key: widget.value for key, widget in self.new.items()}
        return self.trainer.add(lambda: new_run.make(**chosen))

    def _step(self) -> int | None:
        return None if (step := self.step_menu.value) in (None, NOW) else int(step)

    def _by_hand(self) -> bool:
        return threading.current_thread() is not self.thread

    def _chosen(self, change: Any) -> None:
        if self._by_hand() and change.new is not None and change.new != self.trainer.run.name:
            self.dials.settle()
            self.trainer.switch(change.new)

    # -------------------------------------------------------------------- only on the own thread

    def _live(self) -> None:
        drawn, stale = 0.0, True
        try:
            while not self._ended:
                moves = stale or self.trainer.run.status == "running"
                pauses = [max(0.0, drawn + self.period - time.monotonic())] if moves else []
                if (due := self.dials.due()) is not None:
                    pauses.append(due)
                self.trainer.changed.wait(min(pauses, default=None))
                if self._ended:
                    break
                if self.dials.due() == 0:
                    self.dials.settle()
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
        if self._is_new("kept", (run.name, sorted(run.kept), final)):
            self._offer_steps(run)
        if self._is_new("method", (run.method, run.dial.ahead)):
            self.dials.follow(run.method)
        if self._is_new("homes", [run.home for run in trainer.runs]):
            found = trainer.shelf.others(trainer.runs)
            self.earlier.options = [(words.earlier(path), str(path)) for path in found]
            self.before.layout.display = "" if found else "none"
        if self._is_new("data", run.data):
            there = len(run.data.test) if run.data else 0
            self.images.max = max(1, there)
            self.images.value = min(500, max(1, there))
        counted = [(r.name, r.status, len(r.evaluations), r.method) for r in trainer.runs]
        if self._is_new("table", (counted, self._sorted)):
            found = table.rows(trainer.runs)
            self.evaluation.value = table.drawn(found, *self._sorted, self.curves.model_id)

    def _offer_steps(self, run: LiveRun) -> None:
        """Offer the steps to fork from, and choose one that can go on."""
        now = [NOW] if run.training.step < run.training.steps else []
        kept = [str(step) for step in sorted(run.kept) if step < run.training.steps]
        chosen = self.step_menu.value
        self.step_menu.options = there = [*now, *kept]
        if there:
            self.step_menu.value = chosen if chosen in there else (now or kept[len(kept) // 2 :])[0]
        self.fork_button.disabled = not there

    def _is_new(self, what: str, value: Any) -> bool:
        if what in self._seen and self._seen[what] == value:
            return False
        self._seen[what] = value
        return True

    def _draw(self) -> None:
        run = self.trainer.run
        with self.curves.batch_update():
            panels.fill(self.curves, self.trainer.runs, run, every=False)
        self.curves.remember()
        if run.strip is not None and self._is_new("strip", (run.name, run.measured)):
            self.strip.value = words.strip(run.strip)
