"""The idiom of every explorer: labelled controls, one figure updated in place, one line of text.

An explorer is three things: controls, a blank figure whose traces have names, and a pure function
``draw(**values) -> View``. Moving a control calls ``draw`` and puts the view's data into the traces
of the one figure. Values that ``draw`` refuses leave the figure as it was, and the reason appears
beside the control that was moved.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import ipywidgets as widgets
import plotly.graph_objects as go
import plotly.io as pio
from plotly.basedatatypes import BaseFigure

from avmixup_kit._base import html
from avmixup_kit.live.drawing import ALARM
from avmixup_kit.live.figures import LiveFigure

_F = TypeVar("_F", bound=BaseFigure)
_LABEL = {"description_width": "8.5em"}
_IN_VIEW = 3
_NOTE = "4.5em"  # room for the longest note, so that nothing below moves while a film plays
_WIDE = {"width": "15em", "flex": "0 0 auto"}  # each box has its own layout, to close with it


class Control(widgets.HBox):
    """One named value, with a place beside it for what is wrong with it.

    The first part holds the value; `listen` registers who is told when the user changes it.
    """

    def __init__(self, name: str, field: Any, *parts: widgets.Widget):
        self.name, self.field = name, field
        self.listeners: list[Callable[[Control], None]] = []
        self.error = widgets.HTML()
        layout = widgets.Layout(flex_flow="row wrap", min_width="24em")
        super().__init__([field, *parts, self.error], layout=layout)

    @property
    def value(self) -> Any:
        """What the control stands at.

        Raises:
            ValueError: a number out of range; the message says what is allowed.
        """
        return self._read(self.field.value)

    @value.setter
    def value(self, value: Any) -> None:
        self.field.value = self._shown(value)

    def _read(self, shown: Any) -> Any:
        return shown

    def _shown(self, value: Any) -> Any:
        return value

    def listen(self, listener: Callable[["Control"], None]) -> None:
        """Call ``listener(control)`` after each change."""
        self.listeners.append(listener)

    def complain(self, reason: str) -> None:
        """Show the reason beside the control; an empty one clears it."""
        said = '<span role="alert" style="border-left:4px solid {};padding-left:0.5em">{}</span>'
        shown = html.markup(said, ALARM, reason)
        self.error.value = str(shown) if reason else ""

    def _changed(self, change: object = None) -> None:
        for listener in self.listeners:
            listener(self)


class Number(Control):
    """A number: a slider for the hand and a labelled box for exact values and screen readers.

    Args:
        name: the name ``draw`` takes it under.
        label: what the reader sees.
        low, high: the range, both ends allowed.
        value: where it starts.
        step: of the slider; 1/100 of the range if None, one percent of a decade if ``log``.
        log: slide in the logarithm.
        whole: whole numbers only.
        play: put a play button before the slider, which walks through whole numbers.

    ``slid`` says whether the last change was the slider's, the box's otherwise.
    """

    def __init__(
        self,
        name: str,
        label: str,
        low: float,
        high: float,
        value: float,
        step: float | None = None,
        log: bool = False,
        whole: bool = False,
        play: bool = False,
    ):
        self.low, self.high, self.decades, self.whole = low, high, log, whole
        self._syncing = self.slid = False
        box = widgets.IntText if whole else widgets.FloatText
        self.box = box(
            value=value, description=label, style=_LABEL, layout=_WIDE, continuous_update=False
        )
        self.step = step or (0.01 if log else 1 if whole else (high - low) / 100)
        plain = widgets.IntSlider if whole else widgets.FloatSlider
        self.slider = (widgets.FloatLogSlider if log else plain)(
            value=value,
            min=math.log10(low) if log else low,
            max=math.log10(high) if log else high,
            step=self.step,
            readout=False,
            layout=widgets.Layout(flex="1 1 8em", max_width="20em"),
        )
        self.slider.observe(self._slid, "value")
        self.box.observe(self._typed, "value")
        buttons: list[widgets.Widget] = []
        if play:
            self.play = widgets.Play(
                value=value, min=low, max=high, step=1, interval=150, show_repeat=False
            )
            self.link = widgets.jslink((self.play, "value"), (self.slider, "value"))
            buttons.append(self.play)
        super().__init__(name, self.box, self.slider, *buttons)

    def _read(self, shown: float) -> float:
        if not self.low <= shown <= self.high:
            raise ValueError(
                f"{self.name} must be between {self.low:g} and {self.high:g}, got {shown:g}"
            )
        return shown

    def _slid(self, change: Any) -> None:
        # on display a browser sends back the slider's stop nearest to the number in the box
        if self._syncing or self._stops_from_box(change.new) < 0.51:
            return
        # a log slider stops at numbers with many digits; three are enough, inside the ends
        value = min(max(float(f"{change.new:.3g}"), self.low), self.high)
        self._sync(self.box, round(value) if self.whole else value)

    def _stops_from_box(self, value: float) -> float:
        a, b = value, min(max(self.box.value, self.low), self.high)
        if self.decades:
            a, b = math.log10(a), math.log10(b)
        return abs(a - b) / self.step

    def _typed(self, change: Any) -> None:
        if not self._syncing:
            self._sync(self.slider, min(max(change.new, self.low), self.high))

    def widen(self, value: float) -> None:
        """Let slider and range reach a value beyond their ends; not in the logarithm."""
        if self.low <= value <= self.high:
            return
        self.slider.min = self.low = min(self.low, value)
        self.slider.max = self.high = max(self.high, value)
        self._syncing = True
        self.slider.value = min(max(self.box.value, self.low), self.high)
        self._syncing = False

    def _sync(self, other: Any, value: float) -> None:
        self._syncing, self.slid = True, other is self.box
        other.value = value
        self._syncing = False
        self._changed()


class Choice(Control):
    """One of several named values.

    Args:
        name: the name ``draw`` takes it under.
        label: what the reader sees.
        options: values by what the reader sees, or those where they are seen as they are.
        value: where it starts.
    """

    def __init__(
        self, name: str, label: str, options: Mapping[str, Any] | Sequence[str], value: Any
    ):
        same = not isinstance(options, Mapping)
        self.options = dict(zip(options, options, strict=True)) if same else dict(options)
        # a menu shows nothing for the value None, so it holds what the reader sees
        self.menu = widgets.Dropdown(
            options=list(self.options),
            value=self._shown(value),
            description=label,
            style=_LABEL,
            layout=widgets.Layout(width="28em", max_width="100%"),
        )
        self.menu.observe(self._changed, "value")
        super().__init__(name, self.menu)

    def _read(self, shown: str) -> Any:
        return self.options[shown]

    def _shown(self, value: Any) -> str:
        for said, option in self.options.items():
            if option == value:
                return said
        raise ValueError(f"value must be one of {list(self.options.values())!r}, got {value!r}")


class Switch(Control):
    """Yes or no."""

    def __init__(self, name: str, label: str, value: bool):
        self.box = widgets.Checkbox(value=value, description=label, indent=True, style=_LABEL)
        self.box.observe(self._changed, "value")
        super().__init__(name, self.box)


class View(NamedTuple):
    """What an explorer shows at some values.

    traces: new properties, such as x and y, by trace name. note: one line of HTML under the figure.
    layout: new properties of the figure's layout, such as annotations.
    """

    traces: Mapping[str, Mapping[str, Any]]
    note: str = ""
    layout: Mapping[str, Any] = {}


class Explorer(widgets.VBox):
    """Controls above a live figure above a line of text; displays itself in a notebook.

    Args:
        name: of the explorer, shown where no widget can be.
        controls: in reading order.
        blank: a figure with every trace that `draw` fills, by name.
        draw: from the controls' values, by name, to a View. A ValueError or RuntimeError is shown.
        start: values to open with instead of the controls' own.
        presets: settings by name, each some of the values; a menu of them is called "preset".
        opened: the controls in view, by name; a button unfolds the others. The first three if None,
            the presets' menu counted first.
        clicks: the two controls, by name, that a click on a trace of that name sets to the x and y
            of the point clicked on.

    Raises:
        ValueError: `start` or a preset names no control, or `draw` refuses the first values.
    """

    def __init__(
        self,
        name: str,
        controls: Sequence[Control],
        blank: go.Figure,
        draw: Callable[..., View],
        start: Mapping[str, Any] | None = None,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        opened: Sequence[str] | None = None,
        clicks: Mapping[str, tuple[str, str]] | None = None,
    ):
        self.name, self.draw, self.blank = name, draw, blank
        self.controls = {control.name: control for control in controls}
        self._setting = False
        self.presets = Choice(
            "preset", "preset", {"(your own)": None, **{name: name for name in presets or {}}}, None
        )
        self._started = dict(start or {})
        self._assign(self._started)
        for name, preset in (presets or {}).items():
            if self.values.items() >= preset.items():
                self.presets.value = name
        view = draw(**self.values)
        filled = fill(go.Figure(blank), view)
        self.figure = LiveFigure(filled.update_layout(uirevision="keep", autosize=True))
        self.note = widgets.HTML(view.note, layout={"min_height": _NOTE})
        for control in controls:
            control.listen(self._moved_by_hand)
        for name, controlled in (clicks or {}).items():
            trace: Any = next(self.figure.select_traces({"name": name}))
            trace.on_click(partial(self._clicked, controlled))
        self.presets.listen(lambda menu: menu.value and self.set(**(presets or {})[menu.value]))
        every = {"preset": self.presets, **self.controls} if presets else self.controls
        first = list(every)[:_IN_VIEW] if opened is None else opened
        self.folded = [control for name, control in every.items() if name not in first]
        self.unfold, box = more(*self.folded)
        controlling = [grid(*(every[name] for name in first)), self.unfold, box]
        super().__init__([*controlling[: None if self.folded else 1], self.figure, self.note])

    @property
    def values(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values: Any) -> None:
        """Set several controls and draw once; a refusal is shown beside the last one named."""
        self._assign(values)
        self._moved(self.controls[list(values)[-1]])

    def static(self) -> go.Figure:
        """Return the figure as it stands, as a plain one that needs no kernel."""
        return fill(go.Figure(self.blank), self.draw(**self.values))

    def _assign(self, values: Mapping[str, Any]) -> None:
        unknown = set(values) - set(self.controls)
        if unknown:
            allowed = ", ".join(self.controls)
            raise ValueError(f"{self.name} has no control {min(unknown)!r}; it has {allowed}")
        self._setting = True
        for name, value in values.items():
            self.controls[name].value = value
        self._setting = False

    def _moved_by_hand(self, control: Control) -> None:
        if not self._setting:
            self.presets.value = None
            self._moved(control)

    def _clicked(self, names: tuple[str, str], trace: Any, points: Any, state: Any) -> None:
        if points.xs:
            self.presets.value = None
            self.set(**dict(zip(names, (points.xs[0], points.ys[0]), strict=True)))

    def _moved(self, control: Control) -> None:
        for other in self.controls.values():
            other.complain("")
        values, suspect = {}, control
        try:
            for suspect in self.controls.values():
                values[suspect.name] = suspect.value
            suspect = control
            view = self.draw(**values)
        except (ValueError, RuntimeError) as error:
            suspect.complain(str(error))
            self.unfold.value |= suspect in self.folded
        else:
            self._show(view)

    def _show(self, view: View) -> None:
        fill(self.figure, view)
        self.figure.remember()
        self.note.value = view.note

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        given = ", ".join(f"{name}={self.values[name]!r}" for name in self._started)
        name = f"{self.name}({given})"
        bundle = stored(super()._repr_mimebundle_(**kwargs), name, "the sliders")
        if "png" in str(pio.renderers.default).split("+"):  # outputs are stored
            bundle |= pio.renderers["png"].to_mimebundle(self.static().to_dict())
        return bundle


def row(*children: widgets.Widget) -> widgets.HBox:
    """Return the widgets side by side, on more lines where there is no room."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))


def grid(*children: widgets.Widget, least: str = "24em") -> widgets.Box:
    """Return the widgets in columns no narrower than ``least``."""
    return widgets.Box(
        children,
        layout=widgets.Layout(
            display="grid",
            grid_gap="0 0.75em",
            grid_template_columns=f"repeat(auto-fit, minmax({least}, 1fr))",
        ),
    )


def more(*folded: widgets.Widget) -> tuple[widgets.ToggleButton, widgets.Box]:
    """Return a button that shows the widgets and hides them again, and the box of them, hidden."""
    box = grid(*folded)
    box.layout.display = "none"
    button = widgets.ToggleButton(value=False, description=f"{len(folded)} more")
    button.observe(lambda c: setattr(box.layout, "display", "grid" if c.new else "none"), "value")
    return button, box


def inside(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """Yield every widget inside one, the innermost first."""
    for child in getattr(widget, "children", ()):
        yield from inside(child)
        yield child


def close(widget: widgets.Widget) -> None:
    """Close all that is inside a widget, and the looks of it all; the widget itself stays.

    ipywidgets keeps every widget that is open, layouts and styles too, in a list of its own.
    """
    parts = list(inside(widget))
    for part in [*parts, widget]:
        for look in (getattr(part, "layout", None), getattr(part, "style", None)):
            if isinstance(look, widgets.Widget):
                look.close()
    for part in parts:
        part.close()


def stored(bundle: dict[str, Any] | None, name: str, what: str) -> dict[str, Any]:
    """Return the live view, and a text for where there is none that is the same every run."""
    return {**(bundle or {}), "text/plain": f"avmixup_kit.live.{name}: run this cell to get {what}"}


def fill(figure: _F, view: View) -> _F:
    """Return the figure itself, with the view put into its traces and layout at once.

    Raises:
        KeyError: the view names a trace that the figure does not have.
    """
    every: Any = figure.data
    traces = {trace.name: trace for trace in every}
    with figure.batch_update():
        for name, properties in view.traces.items():
            traces[name].update(properties)
        if view.layout:
            figure.update_layout(view.layout)
    return figure
