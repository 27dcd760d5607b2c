"""The training dashboard: ``show`` puts a training beside the sliders that turn it.

Two threads: the trainer's, which alone touches the model, and one that alone writes what is seen.
What the reader does only turns the dial or asks the trainer for something.
"""

import atexit
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from avmixup_kit import data, methods, models
from avmixup_kit._base.html import image_tag
from avmixup_kit._base.plots import COLOURS, GREY, styled
from avmixup_kit.data import Data
from avmixup_kit.evaluation import scatter as features
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.live.controls import ALARM, Choice, Control, Number
from avmixup_kit.live.figures import LiveFigure
from avmixup_kit.live.lab.run import LiveRun, Strip
from avmixup_kit.live.lab.trainer import Trainer
from avmixup_kit.methods import attacks
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.mixing import AVmixup
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.loop import Training

TITLES = {
    "standard": "Standard",
    "mixup": "Mixup",
    "pgd": "PGD",
    "label_smoothing": "label smoothing (LS)",
    "avmixup": "AVmixup",
    "trades": "TRADES",
    "feature_scatter": "Feature Scatter",
    "feature_scatter_avmixup": "Feature Scatter + AVmixup",
}
GREEK = {"gamma": "γ", "lambda1": "λ<sub>1</sub>", "lambda2": "λ<sub>2</sub>", "epsilon": "ε"}
MARKED = 12
NOW = "the present one"
STATES = {
    "ready": "is ready",
    "running": "is running",
    "paused": "is paused",
    "stopped": "was stopped",
    "ended": "has ended",
    "failed": "has failed",
}

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
    if not period > 0:
        raise ValueError(f"period = {period!r} is not allowed: seconds, more than 0")
    for other in _open.values():
        if other.name != name and any(run.training is training for run in other.trainer.runs):
            raise ValueError(f"this training is in the dashboard {other.name!r}: close that first")
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


class Dashboard(widgets.VBox):
    """A live training: buttons, dials, curves, adversarial images. ``show`` makes it.

    The methods do what the buttons do, and return when it is done.
    """

    _ended = True  # until it has begun: ipywidgets closes what could not be built, too

    def __init__(self, name: str, trainer: Trainer, period: float) -> None:
        self.name, self.trainer, self.period = name, trainer, period
        self.trouble: Exception | None = None
        self._seen: dict[str, Any] = {}
        self._left: dict[str, Method] = {}
        self._controls()
        self._actions()
        self._new_run()
        self.progress, self.state, self.alert = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.note, self.strip, self.evaluation = widgets.HTML(), widgets.HTML(), widgets.HTML()
        figure = _blank()
        _fill(figure, trainer.runs, trainer.run)
        self.curves = LiveFigure(figure)
        self.thread = threading.Thread(target=self._live, name=f"{name} (shows)", daemon=True)
        super().__init__(
            [
                self.progress,
                _row(self.go, self.hold, self.end, self.state),
                _grid(
                    widgets.VBox([self.method, *self.numbers.values(), self.note]),
                    self.strip,
                ),
                self.curves,
                self.alert,
                _row(self.run_menu, self.step, self.split_off),
                _row(self.folder, self.write, self.read, self.export_turns),
                _row(self.images, self.judge),
                self.evaluation,
                self.more,
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

    def start(self) -> None:
        """Begin training, or go on."""
        self.trainer.start().result()

    def pause(self) -> None:
        """Hold training after the step that is under way."""
        self.trainer.pause().result()

    def resume(self) -> None:
        """Go on after a pause, or try a failed step again."""
        self.trainer.resume().result()

    def stop(self) -> None:
        """End this run here; the model stays."""
        self.trainer.stop().result()

    def fork(self, step: int | None = None) -> LiveRun:
        """Continue from a kept step, or from the present one, as a run of its own."""
        return self.trainer.fork(step).result()

    def save(self, folder: str | Path) -> Path:
        """Write a run folder."""
        return self.trainer.save(folder).result()

    def load(self, folder: str | Path) -> LiveRun:
        """Take up a run folder as a run of its own."""
        return self.trainer.load(folder).result()

    def export(self, path: str | Path) -> Path:
        """Write the dial's turns; ``Dial(method, runs.turns_of(path))`` repeats them headless."""
        return self.trainer.export(path).result()

    def evaluate(self, images: int = 500) -> Evaluation:
        """Return the model's accuracy on test images, clean and under FGSM, PGD20 and CW20."""
        return self.trainer.evaluate(images).result()

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
        if threading.current_thread() is not self.thread:
            self.thread.join(30)
        # ipywidgets keeps every open widget, and with this one its models, in a list of its own.
        for widget in [*_inside(self)]:
            widget.close()
        super().close()

    def static(self) -> go.Figure:
        """Return the curves as they stand, as a plain figure that needs no kernel."""
        figure = _blank()
        _fill(figure, self.trainer.runs, self.trainer.run)
        return figure.update_layout(width=950)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Return the live view, and a text for where there is none that is the same every run."""
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs) or {}
        bundle["text/plain"] = "avmixup_kit.live.show: run this cell to get the dashboard"
        return bundle

    # ----------------------------------------------------------------------------- what can be done

    def _controls(self) -> None:
        epsilon = self.trainer.run.epsilon
        options = {title: key for key, title in TITLES.items()} | {"(your own)": None}
        self.method = Choice("method", "method", options, None)
        self.numbers = {
            "gamma": Number("gamma", "γ (vertex)", 1, 4, 2, step=0.05),
            "lambda1": Number("lambda1", "λ₁ (clean side)", 0, 1, 1, step=0.01),
            "lambda2": Number("lambda2", "λ₂ (vertex side)", 0, 1, 0.1, step=0.01),
            "epsilon": Number(
                "epsilon", "ε (of pixels 0..1)", epsilon / 50, 2 * epsilon, epsilon, epsilon / 50
            ),
        }
        for number in self.numbers.values():
            # A drag is one turn, not a hundred.
            number.slider.continuous_update = False
            number.listen(self._turned)
        self.method.listen(self._switched)

    def _actions(self) -> None:
        self.go = self._button("Start", "begin training", lambda: self.trainer.start())
        self.hold = self._button("Pause", "hold after this step", lambda: self.trainer.pause())
        self.end = self._button("Stop", "end here, keep the model", lambda: self.trainer.stop())
        self.run_menu = _menu("run")
        self.run_menu.observe(self._chosen, "value")
        self.step = _menu("from step")
        self.split_off = self._button(
            "Fork from here",
            "continue from this step as a run of its own; both curves stay",
            lambda: self.trainer.fork(None if (at := self.step.value) in (None, NOW) else int(at)),
        )
        self.folder = widgets.Text(f"runs/{self.name}", description="folder", layout=_WIDE)
        self.write = self._button(
            "Save", "write a run folder there", lambda: self.trainer.save(self.folder.value)
        )
        self.read = self._button(
            "Load", "take up the run folder there", lambda: self.trainer.load(self.folder.value)
        )
        self.export_turns = self._button(
            "Export the dial's turns",
            "write turns.jsonl there; a headless run repeats it",
            lambda: self.trainer.export(Path(self.folder.value) / "turns.jsonl"),
        )
        self.images = widgets.IntText(500, description="test images", layout=_NARROW)
        self.judge = self._button(
            "Evaluate",
            "clean, FGSM, PGD20, CW20; training waits meanwhile",
            lambda: self.trainer.evaluate(self.images.value),
        )

    def _new_run(self) -> None:
        self.new = {
            "data": widgets.Dropdown(options=list(data.DATASETS), description="data"),
            "root": widgets.Text("data", description="its folder"),
            "download": widgets.Checkbox(False, description="download if it is missing"),
            "network": widgets.Dropdown(
                options=list(models.NAMES), value="small_cnn", description="network"
            ),
            "method": widgets.Dropdown(
                options=[(title, key) for key, title in TITLES.items()],
                value="avmixup",
                description="method",
            ),
            "steps": widgets.IntText(400, description="steps"),
            "batch_size": widgets.IntText(128, description="batch size"),
            "lr": widgets.FloatText(0.1, description="learning rate"),
            "seed": widgets.IntText(0, description="seed"),
        }
        self.make = self._button(
            "Make this run", "load the data and add a run; the others stay", self._made
        )
        for widget in self.new.values():
            widget.style.description_width = "7em"
        form = _grid(*self.new.values(), least="24em")
        self.more = widgets.Accordion([widgets.VBox([form, self.make])], titles=["A new run"])

    def _button(self, label: str, tip: str, ask: "Callable[[], Future[Any]]") -> widgets.Button:
        button = widgets.Button(description=label, tooltip=tip, layout=widgets.Layout(width="auto"))
        # What goes wrong is told by the trainer; the Future is for callers from code.
        button.on_click(lambda _: ask())
        return button

    def _made(self) -> "Future[LiveRun]":
        chosen = {key: widget.value for key, widget in self.new.items()}
        return self.trainer.add(lambda: _training(**chosen))

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
        value = control.box.value
        if value == self.dial.method.parameters.get(control.name):
            control.complain("")
            return
        self._turn(control, {control.name: value})

    def _switched(self, control: Control) -> None:
        if not self._by_hand() or control.value in (None, kind(self.dial.method)):
            return
        old = self.dial.method
        self._left[str(kind(old))] = old
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
        if name in self._left:
            method = self._left[name]
            return method.replace(epsilon=epsilon) if "epsilon" in method.parameters else method
        return _named(name, epsilon, self._steps(old))

    def _steps(self, old: Method) -> int:
        for method in (old, *self._left.values(), self.dial.initial):
            if kind(method) in ("pgd", "label_smoothing", "avmixup", "trades"):
                return method.parameters["steps"]
        return 10

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
            self.alert.value = _alert("The dashboard stopped drawing", traceback.format_exc())

    def _say(self) -> None:
        """Write words and controls; what has not changed sends nothing."""
        trainer, run = self.trainer, self.trainer.run
        self.progress.value = _progress(run)
        self.state.value = _state(trainer, run)
        told = _alert(trainer.complaint) if trainer.complaint else ""
        if run.status == "failed":
            told += _alert(f"{run.name} failed: {run.error}", run.traceback)
        self.alert.value = told
        running, final = run.status == "running", run.status in ("stopped", "ended")
        labels = {"ready": "Start", "failed": "Try again"}
        self.go.description = labels.get(run.status, "Start" if final else "Resume")
        self.go.disabled, self.hold.disabled = running or final, not running
        self.end.disabled = run.status not in ("running", "paused")
        if self._new("runs", [run.name for run in trainer.runs]) | self._new("at", run.name):
            self.run_menu.options = [run.name for run in trainer.runs]
            self.run_menu.value = run.name
        if self._new("kept", (run.name, sorted(run.kept))):
            kept = [str(step) for step in sorted(run.kept) if step < run.training.steps]
            chosen = self.step.value
            self.step.options = [NOW, *kept]
            self.step.value = chosen if chosen in kept else NOW
        if self._new("method", run.method):
            self._follow(run.method)
        if run.evaluation and self._new("evaluation", run.evaluation):
            step, evaluation = run.evaluation
            self.evaluation.value = (
                f"<div>On test images of {escape(evaluation.data)} after step {step}, epsilon "
                f"{run.epsilon:.4g}. PGD and CW can be fooled by gradients that soft labels "
                f"flatten: upper bounds.</div><pre>{escape(str(evaluation))}</pre>"
            )

    def _new(self, what: str, value: Any) -> bool:
        if what in self._seen and self._seen[what] == value:
            return False
        self._seen[what] = value
        return True

    def _follow(self, method: Method) -> None:
        """Set the controls to the method in force, whoever turned it."""
        self.method.value = kind(method)
        title = TITLES.get(str(kind(method)), "this method")
        for name, number in self.numbers.items():
            there = name in method.parameters
            number.box.disabled = number.slider.disabled = not there
            if there:
                if number.box.value != method.parameters[name]:
                    number.value = method.parameters[name]
                number.complain("")
            else:
                number.error.value = f'<span style="color:{GREY}">{title} has none</span>'
        self.note.value = _label_note(method)

    def _draw(self) -> None:
        run = self.trainer.run
        with self.curves.batch_update():
            _fill(self.curves, self.trainer.runs, run, every=False)
        self.curves.remember()
        if run.strip is not None and self._new("strip", (run.name, run.measured)):
            self.strip.value = _strip(run.strip)


_WIDE = widgets.Layout(width="24em", max_width="100%")
_NARROW = widgets.Layout(width="14em")


def _menu(label: str) -> widgets.Dropdown:
    return widgets.Dropdown(description=label, layout=widgets.Layout(width="22em"))


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def _grid(*children: widgets.Widget, least: str = "26em") -> widgets.Box:
    return widgets.Box(
        children,
        layout=widgets.Layout(
            display="grid", grid_template_columns=f"repeat(auto-fit, minmax({least}, 1fr))"
        ),
    )


def _inside(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    for child in getattr(widget, "children", ()):
        yield from _inside(child)
        yield child


def kind(method: Method) -> str | None:
    """Return the name of a method as in ``methods.BY_NAME``, or None for one of the user's own."""
    attack = getattr(getattr(method.perturb, "objective", None), "name", None)
    if attack is None and not isinstance(method.perturb, attacks.NoAttack):
        return None
    stages = (attack, type(method.mix).__name__, type(method.loss).__name__)
    return {
        (None, "Adversarial", "CrossEntropy"): "standard",
        (None, "Mixup", "CrossEntropy"): "mixup",
        ("PGD", "AVmixup", "CrossEntropy"): "avmixup",
        ("KL", "Adversarial", "Trades"): "trades",
        ("FS", "Adversarial", "CrossEntropy"): "feature_scatter",
        ("FS", "AVmixup", "CrossEntropy"): "feature_scatter_avmixup",
        ("PGD", "Adversarial", "CrossEntropy"): (
            "pgd" if method.parameters.get("lam") == 1 else "label_smoothing"
        ),
    }.get(stages)


def _named(name: str, epsilon: float, steps: int) -> Method:
    if name in ("standard", "mixup"):
        return methods.build(name)
    if name.startswith("feature_scatter"):
        return methods.build(name, epsilon=epsilon)
    step = {"step_size": epsilon / 4} if name == "trades" else {}
    return methods.build(name, epsilon=epsilon, steps=steps, **step)


def _training(
    data: str,
    root: str,
    download: bool,
    network: str,
    method: str,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> tuple[Training, Data]:
    from avmixup_kit.data import load

    options: dict[str, Any] = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    if data == "image_folder":
        options["path"] = root
    elif data != "digits":
        options |= {"root": root, "download": download}
    loaded = load(data, **options)
    model = models.build(network, loaded, seed=seed).to(loaded.train.device)
    dial = Dial(_named(method, loaded.epsilon, 10))
    settings = {"batch_size": batch_size, "lr": lr, "seed": seed}
    return Training(model, loaded.train, dial, steps, **settings), loaded


# ------------------------------------------------------------------------------------ what is seen


def _progress(run: LiveRun) -> str:
    training, pace = run.training, run.images_per_second()
    left = (training.steps - training.step) * training.settings.batch_size
    words = [f"step {training.step} of {training.steps}"]
    if run.loss_now is not None:
        words.append(f"loss {run.loss_now:.3f}")
    if pace:
        words += [f"{pace:,.0f} images/s".replace(",", " "), f"{_duration(left / pace)} left"]
    return (
        f'<progress value="{training.step}" max="{training.steps}" style="width:16em" '
        f'aria-label="training progress"></progress> {" · ".join(words)}'
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _state(trainer: Trainer, run: LiveRun) -> str:
    words = f"{run.name} {STATES[run.status]}"
    if trainer.doing:
        words += f"; {trainer.doing}: after this step"
    if trainer.news:
        words += f". {trainer.news}"
    return f'<span role="status" aria-live="polite">{escape(words)}</span>'


def _alert(words: str, details: str = "") -> str:
    body = escape(words) + (f"\n\n{escape(details)}" if details else "")
    return (
        f'<pre role="alert" style="border-left:4px solid {ALARM};padding:0.5em;'
        f'white-space:pre-wrap;max-height:24em;overflow:auto">{body}</pre>'
    )


def _label_note(method: Method) -> str:
    mix = method.mix
    if not isinstance(mix, AVmixup):
        return ""
    words = (
        f"The true class's share of the label: {mix.lambda1:.3g} at the image, "
        f"{mix.label_at(1):.3g} at the adversarial example, {mix.lambda2:.3g} at the vertex, "
        f"{mix.gamma:.3g} times as far. "
    )
    if mix.lambda1 < mix.lambda2:
        words += (
            "λ₁ &lt; λ₂ is legal: the target rises along the attack's direction, as in the paper's "
            "setting with Feature Scatter (1, 0.5, 0.7)."
        )
    elif mix.lambda1 == mix.lambda2:
        words += "λ₁ = λ₂: the label does not depend on where the image lies on the line."
    return f'<div style="max-width:36em">{words}</div>'


def _strip(strip: Strip) -> str:
    rows = {
        "clean": (strip.clean, [f"is {label}" for label in strip.labels]),
        f"PGD10, ε = {strip.epsilon:.3g}": (
            strip.adversarial,
            [
                f"{'✓' if label == said else '✗'} {said} ({share:.0%})"
                for (said, share), label in zip(strip.said, strip.labels, strict=True)
            ],
        ),
        "trained on": (
            strip.mixed,
            [
                f"{share:.0%} {label}"
                for share, label in zip(strip.targets, strip.labels, strict=True)
            ],
        ),
    }
    lines = []
    for head, (images, captions) in rows.items():
        cells = "".join(
            f'<td style="text-align:center;padding:0 0.4em;line-height:1.2">'
            f"{image_tag(image, f'{head}: {caption}', 52)}<br>{escape(caption)}</td>"
            for image, caption in zip(images, captions, strict=True)
        )
        lines.append(
            f'<tr><th scope="row" style="text-align:right;padding:0 0.5em;white-space:nowrap">'
            f"{escape(head)}</th>"
            f"{cells}</tr>"
        )
    return f'<table aria-label="adversarial images">{"".join(lines)}</table>'


_PANELS = (
    "loss",
    "clean accuracy (%)",
    "accuracy under PGD10 (%)",
    "scatter under PGD10",
)


def _blank() -> go.Figure:
    figure = make_subplots(1, len(_PANELS), subplot_titles=_PANELS, horizontal_spacing=0.05)
    styled(figure, "", "", "")
    figure.update_layout(
        height=330,
        uirevision="keep",
        autosize=True,
        margin={"l": 40, "r": 10, "t": 40, "b": 70},
        legend={"orientation": "h", "y": -0.16, "x": 1, "xanchor": "right"},
        hovermode="x",
    )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="step (solid: training, dashed: validation images)", col=2)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(range=[-2, 102], col=2)
    figure.update_yaxes(range=[-2, 102], col=3)
    return figure


def _lines(run: LiveRun) -> Iterator[tuple[str, int, str, Any]]:
    """Yield (what, panel, dash, curve) of each of the run's curves."""
    yield "loss", 1, "solid", run.loss
    for panel, row in ((2, "Clean"), (3, "PGD10")):
        for split, dash in zip(run.probed, ("solid", "dash"), strict=False):
            yield f"{row}, {split}", panel, dash, run.curves[f"{row}, {split}"]
    if run.scattered:
        for name, dash in zip(features.SETS, ("solid", "dash"), strict=True):
            row = f"features, {name}, attacked"
            yield row, 4, dash, run.curves[row]


def _fill(figure: Any, runs: list[LiveRun], current: LiveRun, every: bool = True) -> None:
    """Put the runs' curves and the current one's turns into the figure, in place.

    Unless ``every`` is true, only new curves and those of the current run, which alone grow.
    """
    traces = {trace.name + trace.meta: trace for trace in figure.data}
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        for what, panel, dash, curve in _lines(run):
            if run.name + what not in traces:
                figure.add_scatter(
                    name=run.name,
                    meta=what,
                    legendgroup=run.name,
                    showlegend=panel == 1,
                    mode="lines" if panel == 1 else "lines+markers",
                    marker_size=4,
                    line={"color": colour, "dash": dash},
                    hovertemplate=f"%{{y:.4g}} {what}",
                    row=1,
                    col=panel,
                )
                trace = figure.data[-1]
            elif every or run is current:
                trace = traces[run.name + what]
            else:
                continue
            steps, values = curve.arrays()
            trace.x, trace.y = steps, 100 * values if panel in (2, 3) else values
    marks = merged(current.dial.turns)
    wanted = tuple(f"{step} {words}" for step, words in marks.items())
    if figure.layout.meta != wanted:
        figure.layout.meta = wanted
        _mark(figure, marks)


def _mark(figure: Any, marks: Mapping[int, str]) -> None:
    shapes, notes = [], [note for note in figure.layout.annotations if note.text in _PANELS]
    for step in marks:
        for panel in ("", "2", "3", "4"):
            shapes.append(
                {
                    "type": "line",
                    "x0": step,
                    "x1": step,
                    "xref": f"x{panel}",
                    "y0": 0,
                    "y1": 1,
                    "yref": f"y{panel} domain",
                    "line": {"color": GREY, "dash": "dot", "width": 1},
                }
            )
    for number, (step, words) in enumerate(list(marks.items())[-MARKED:]):
        # High and low in turn, so that turns close to each other stay readable.
        notes.append(
            go.layout.Annotation(
                text=words,
                x=step,
                xref="x",
                y=1 - number % 2,
                yref="y domain",
                yanchor="bottom" if number % 2 else "top",
                xanchor="left",
                textangle=-90,
                showarrow=False,
                font={"size": 11},
            )
        )
    figure.layout.shapes, figure.layout.annotations = shapes, notes


def merged(turns: tuple[Turn, ...]) -> dict[int, str]:
    """Return what the turns did, in words by step; a later turn of a step hides an earlier one."""
    changes: dict[int, dict[str, Any]] = {}
    for turn in turns:
        changes.setdefault(turn.step, {}).update(turn.change)
    return {
        step: ", ".join(_words(name, value) for name, value in change.items())
        for step, change in changes.items()
    }


def _words(name: str, value: Any) -> str:
    if isinstance(value, Method):
        return TITLES.get(str(kind(value)), "your own method")
    shown = f"{value:.3g}" if isinstance(value, int | float) else type(value).__name__
    return f"{GREEK.get(name, name)} = {shown}"
