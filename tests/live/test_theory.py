"""The explorers of the theory: every control at both ends, at what work, and what they refuse.

Work is counted, not timed: a clock tells of the machine. `benchmarks/theory.py` has the times.
"""

import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

import plotly.graph_objects as go
from plotly.callbacks import InputDeviceState, Points

from avmixup_kit import gaussian, live
from avmixup_kit.live import controls, figures
from avmixup_kit.live.controls import Choice, Explorer, LiveFigure, Number, Switch, View
from avmixup_kit.live.theory import lottery, overfitting
from tests.live.widgets import number, synced, traces

NAMES = (
    "lottery",
    "theorem_1",
    "theorems_2_and_3",
    "overfitting",
    "phase_map",
    "drawn_data",
    "soft_labels",
    "scores",
    "label_line",
    "two_bells",
)
# One move's calls of functions, of Python's and of C's, and the bytes it allocates at most: twice
# what each explorer needs, for other versions of numpy and scipy. 60 000 calls take about 0.1 s.
WORK = {
    "lottery": (1_700, 2_200_000),
    "theorem_1": (2_500, 350_000),
    "theorems_2_and_3": (500, 50_000),
    "overfitting": (60_000, 100_000),
    "phase_map": (1_000, 900_000),
    "drawn_data": (30_000, 4_000_000),
    "soft_labels": (60_000, 800_000),
    "scores": (75_000, 200_000),
    "label_line": (60_000, 760_000),
    "two_bells": (1_000, 80_000),
}
NUMBERS_SENT = 5_000
# one slider end in all of them is illegal on its own: c = 10 features do not fit into d = 2
ILLEGAL = {("drawn_data", "d", 2)}
# each is a fact: the variance given the class does not contain eta, c plants nothing unless asked,
# and with learned scale label smoothing keeps the direction; each moves its figure in a test below
UNMOVED = {("theorems_2_and_3", "eta"), ("drawn_data", "c"), ("soft_labels", "lam")}


def numbers_of(name: str) -> list[str]:
    explorer = getattr(live, name)()
    return [one for one, control in explorer.controls.items() if isinstance(control, Number)]


NUMBERS = [(name, number) for name in NAMES for number in numbers_of(name)]


@pytest.fixture(autouse=True)
def forget() -> None:
    """No test finds another's results in a cache."""
    clear()


def clear() -> None:
    cached = ("_drawn", "_path", "_run", "end", "_rule")
    for name in NAMES:
        module = sys.modules[getattr(live, name).__module__]
        for function in filter(None, (getattr(module, one, None) for one in cached)):
            getattr(function, "cache_clear", lambda: None)()


def drawn(figure: Any) -> dict[str, np.ndarray]:
    """Every number that the figure draws, by trace and property."""
    found = {}
    for trace in figure.data:
        for key in ("x", "y", "z", "width"):
            value = getattr(trace, key, None) if key in trace else None
            if value is not None and np.asarray(value).dtype.kind in "fiu":
                found[f"{trace.name}.{key}"] = np.asarray(value, dtype=float)
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def assert_drawable(figure: Any) -> None:
    for key, values in drawn(figure).items():
        assert np.isfinite(values).all(), key


class Work:
    """Counts what is called and allocated inside its with block."""

    calls = allocated = 0

    def __enter__(self) -> "Work":
        self._before = sys.getprofile()
        tracemalloc.start()
        sys.setprofile(self._see)
        return self

    def _see(self, frame: Any, event: str, argument: Any) -> None:
        self.calls += event in ("call", "c_call")

    def __exit__(self, *error: Any) -> None:
        sys.setprofile(self._before)
        self.allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Every kind of message that figures send to the browser, and how often."""
    said: Counter[str] = Counter()

    def counted(name: str) -> Any:
        send = getattr(go.FigureWidget, name)
        return lambda *given, **named: (said.update([name]), send(*given, **named))[1]

    for name in dir(go.FigureWidget):
        if name.startswith("_send_"):
            monkeypatch.setattr(go.FigureWidget, name, counted(name))
    return said


@pytest.mark.parametrize(("name", "number"), NUMBERS)
def test_slider_at_both_ends_draws_once_at_little_work_and_moves_the_figure(
    monkeypatch: pytest.MonkeyPatch, told: Counter[str], name: str, number: str
) -> None:
    explorer = getattr(live, name)()
    control = explorer.controls[number]
    calls, allocated = WORK[name]
    draw, moves, pictures = explorer.draw, [], []

    def metered(**values: Any) -> View:
        with Work() as work:
            moves.append(work)
            return draw(**values)

    monkeypatch.setattr(explorer, "draw", metered)
    for end, other in ((control.low, control.high), (control.high, control.low)):
        control.slider.value = other
        clear()
        moves.clear()
        told.clear()
        control.slider.value = end
        (work,) = moves
        if (name, number, end) in ILLEGAL:
            assert "is not allowed" in control.error.value
            assert not told
            continue
        assert work.calls < calls
        assert work.allocated < allocated
        assert told <= Counter({"_send_update_msg": 1})  # none where nothing moves
        assert sum(values.size for values in drawn(explorer.figure).values()) < NUMBERS_SENT
        assert [c.error.value for c in explorer.controls.values()] == [""] * len(explorer.controls)
        assert control.value == end
        assert_drawable(explorer.figure)
        assert "nan" not in explorer.note.value
        pictures.append(drawn(explorer.figure))
    assert len(pictures) < 2 or same(*pictures) == ((name, number) in UNMOVED)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("overfitting", "frame"),
        ("overfitting", "epsilon_test"),
        ("drawn_data", "frame"),
        ("scores", "frame"),
        ("scores", "epsilon"),
    ],
)
def test_time_s_slider_draws_from_the_path_that_is_there(name: str, number: str) -> None:
    """A film plays at 150 ms a frame: it cannot train again for each."""
    explorer = getattr(live, name)()
    values = {one: control.value for one, control in explorer.controls.items()}
    with Work() as first:
        clear()
        explorer.draw(**values)
    with Work() as again:
        explorer.draw(**values | {number: 0})
    assert again.calls < first.calls / 10


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_and_preset_draws(name: str) -> None:
    explorer = getattr(live, name)()
    for control in explorer.controls.values():
        if isinstance(control, Choice):
            for value in [*control.options.values(), control.value]:
                control.value = value
                assert control.error.value == ""
                assert_drawable(explorer.figure)
        if isinstance(control, Switch):
            before = drawn(explorer.figure)
            control.value = not control.value
            assert not same(before, drawn(explorer.figure))
    for said in list(explorer.presets.options)[1:]:
        explorer.presets.menu.value = said
        assert "role" not in "".join(c.error.value for c in explorer.controls.values())
        assert_drawable(explorer.figure)


@pytest.mark.parametrize("name", NAMES)
def test_figure_reads_in_both_themes_and_offline(name: str) -> None:
    figure = getattr(live, name)().static()
    assert type(figure) is go.Figure
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.font.color == "#808080"
    assert "$" not in str(figure.to_json())
    assert all(trace.name for trace in traces(figure))


@pytest.mark.parametrize("name", NAMES)
def test_stored_output_is_the_same_every_run(name: str) -> None:
    first, second = (getattr(live, name)()._repr_mimebundle_() for _ in range(2))
    view = "application/vnd.jupyter.widget-view+json"
    assert set(first) == {view, "text/plain"}
    assert first["text/plain"] == second["text/plain"]
    assert first[view]["model_id"] != second[view]["model_id"]


@pytest.mark.parametrize("name", NAMES)
def test_figures_fit_their_page_and_send_nothing_away(name: str) -> None:
    explorer = getattr(live, name)()
    for figure in (explorer.static(), explorer.figure):
        assert figure.layout.width is None
        assert figure.layout.modebar.remove == ("sendcharttocloud",)
        assert figure.layout.font.size is None or figure.layout.font.size >= 12
    config = explorer.figure._config  # pyright: ignore[reportPrivateUsage]
    assert config["displayModeBar"] is config["showSendToCloud"] is False


@pytest.mark.parametrize("name", NAMES)
def test_static_figure_draws_what_the_live_one_does(name: str) -> None:
    explorer = getattr(live, name)()
    assert same(drawn(explorer.static()), drawn(explorer.figure))


@pytest.mark.parametrize("asked", ["", "plotly_mimetype+png"])
def test_a_picture_of_what_is_shown_is_made_where_outputs_are_stored_alone(asked: str) -> None:
    """It takes a browser seconds; notebooks are stored with one because they ask for it."""
    code = """from plotly.io import _base_renderers
from avmixup_kit import live
_base_renderers.to_image = lambda figure, **named: str(figure["data"][1]).encode()
explorer = live.label_line(gamma=3.0)
explorer.set(gamma=2.5)
for shown in (explorer, live.label_line(gamma=2.5).static()):
    bundle = shown._repr_mimebundle_()
    print(bundle.get("image/png"))
    print(bundle.get("text/plain", ""))"""
    environment = {**os.environ, "PLOTLY_RENDERER": asked}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    picture, said, static, _ = run.stdout.split("\n", 3)
    assert said.startswith("avmixup_kit.live.label_line(gamma=2.5): ")
    assert picture == static
    assert (picture == "None") == (asked == "")


def test_importing_the_kit_loads_neither_widgets_nor_plotting() -> None:
    code = (
        "import sys, avmixup_kit; "
        "print([m for m in ('plotly', 'ipywidgets', 'anywidget', 'avmixup_kit.live') "
        "if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ------------------------------------------------------------------------- what the pictures say


def area(figure: Any, name: str, of: str) -> float:
    """The area under one trace as a share of the area under another."""
    by_name = {trace.name: trace for trace in traces(figure)}
    parts = (by_name[one] for one in (name, of))
    wrong, whole = (np.trapezoid(np.asarray(one.y), np.asarray(one.x)) for one in parts)
    return float(wrong / whole)


@pytest.mark.parametrize(("frame", "push"), [(0, 0.2), (30, 0.35), (80, 0.2), (60, 0.0)])
def test_area_past_zero_is_the_robust_error(frame: int, push: float) -> None:
    explorer = live.scores(frame=frame, epsilon=push)
    model = gaussian.PRESETS["S1"].model
    bars = {trace.name: trace for trace in traces(explorer.figure)}["weight"].y
    assert sum(bars) == pytest.approx(1)
    for space, under in (("", "observed"), (" ", "true")):
        error = float(model.robust_error(bars[2], push, under))
        drawn_area = area(explorer.figure, "wrong" + space, "one class, pushed" + space)
        assert drawn_area == pytest.approx(error, abs=2e-4)
        assert f"{error:.1%}" in explorer.note.value


def test_film_of_scores_starts_at_equal_weights_and_passes_the_best() -> None:
    model, epsilon = gaussian.PRESETS["S1"]
    explorer = live.scores()
    shares = []
    for frame in range(81):
        explorer.set(frame=frame)
        shares.append({trace.name: trace for trace in traces(explorer.figure)}["weight"].y[2])
    errors = model.robust_error(np.array(shares), epsilon)
    assert shares[0] == pytest.approx(model.uniform_share)
    assert (np.diff(shares) <= 0).all()
    assert np.abs(np.diff(errors)).max() < 0.1 * np.ptp(errors)  # no frame leaps
    best = int(errors.argmin())
    assert 10 < best < 70  # both halves of the story have frames
    assert shares[best] == pytest.approx(model.robust_optimum(epsilon), abs=0.03)


def test_axes_of_the_score_picture_stand_while_it_plays_and_is_pushed() -> None:
    explorer = live.scores()
    before = explorer.figure.layout.xaxis.range
    for values in ({"frame": 40}, {"frame": 80}, {"epsilon": 0.5}):
        explorer.set(**values)
        assert explorer.figure.layout.xaxis.range == before
        assert explorer.figure.layout.xaxis3.range == before
    assert explorer.figure.layout.yaxis.range == (0, 1.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frame": 0}, "all 101 weights are alike"),
        ({"frame": 10}, "both pictures get better"),
        ({"frame": 80}, "Too far"),
        ({"frame": 80, "c": 0}, "No feature only looks robust"),
        ({"frame": 80, "epsilon": 0.3, "trained_at": 0.3}, "training is right"),
    ],
)
def test_score_picture_says_what_it_shows(values: dict[str, float], words: str) -> None:
    assert words in live.scores(**values).note.value


def test_four_moments_are_told_from_start_to_end() -> None:
    model, epsilon = gaussian.PRESETS["S1"]
    figure = live.moments(model, epsilon)
    weak = [trace.y[2] for trace in traces(figure) if trace.type == "bar"]
    assert weak[0] == pytest.approx(model.uniform_share)
    assert weak[1] == pytest.approx(model.robust_optimum(epsilon), abs=0.03)
    assert weak == sorted(weak, reverse=True)
    said = " ".join(one.text or "" for one in figure.layout.annotations)
    for B in weak:
        assert f"{100 * float(model.robust_error(B, epsilon)):.1f} %" in said


def test_bells_of_any_scores_are_wrong_by_what_the_push_takes_past_zero() -> None:
    figure = live.bells({"lucky": (3.0, 2.0, 1.0), "unlucky": (0.5, 2.0, 1.0)})
    said = [one.text for one in figure.layout.annotations]
    for space, z in (("", 1.0), (" ", -0.25)):
        error = float(gaussian.error_at(z))
        drawn_area = area(figure, "wrong" + space, "one class, pushed" + space)
        assert drawn_area == pytest.approx(error, abs=2e-4)
        assert sum(f">{100 * error:.1f} %<" in one for one in said) == 1
    assert {"lucky", "unlucky"} <= set(said)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [({}, "helps"), ({"epsilon": 0.5}, "harms"), ({"lambda2": 0.1}, "harms")],
)
def test_label_line_crosses_where_training_ends(values: dict[str, float], verdict: str) -> None:
    explorer = live.label_line(**values)
    at = {"gamma": 2.0, "lambda2": 0.5, "epsilon": 0.2} | values
    model = gaussian.PRESETS["S1"].model
    method = gaussian.AVmixup(at["gamma"], 1.0, at["lambda2"])
    end = gaussian.stationary_point(model, at["epsilon"], method, None)
    by_name = {trace.name: trace for trace in traces(explorer.figure)}
    (crossing,) = by_name["the crossing"].x
    line = by_name["what is learned (mean)"]
    x, y = np.asarray(line.x), np.asarray(line.y)
    assert crossing == pytest.approx(float(model.mean(end.B, "observed")) / at["epsilon"])
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    assert x[0] - y[0] / slope == pytest.approx(crossing)
    assert slope == pytest.approx(-end.norm * at["epsilon"])
    asked = by_name["label asked for"]
    assert 1 / (1 + np.exp(-asked.y[-1])) == pytest.approx(at["lambda2"])
    hard = gaussian.stationary_point(model, at["epsilon"], "logistic", None).B
    for space, B in (("", end.B), (" ", hard)):
        error = float(model.robust_error(B, at["epsilon"]))
        drawn_area = area(explorer.figure, "wrong" + space, "pushed" + space)
        assert drawn_area == pytest.approx(error, abs=2e-4)
    assert f"the soft label {verdict} here" in explorer.note.value


def test_two_bells_have_one_area_at_the_exact_radius_alone() -> None:
    exact = float(gaussian.epsilon_exact(25, 5.0, 0.5))
    areas = {}
    for push in (0.15, exact, 0.8):
        figure = live.two_bells(epsilon=push).figure
        areas[push] = [
            area(figure, f"wrong, {name}", name)
            for name in ("noisy data, no push", "quiet data, pushed by ε")
        ]
        assert areas[push][0] == pytest.approx(
            float(gaussian.error_at(gaussian.typical_z(100, 25, 5.0))), abs=2e-4
        )
        assert areas[push][1] == pytest.approx(
            float(gaussian.error_at(gaussian.typical_z(100, 25, 2.5, push))), abs=2e-4
        )
    assert areas[0.15][1] < areas[0.15][0] < areas[0.8][1]
    assert areas[exact][0] == pytest.approx(areas[exact][1], abs=2e-4)
    opened = live.two_bells()
    assert area(opened.figure, "wrong, quiet data, pushed by ε", "quiet data, pushed by ε") == (
        pytest.approx(areas[exact][0], abs=2e-4)
    )
    said = " as often as ", " less often than ", " more often than "
    for push, word in zip((opened.values["epsilon"], 0.15, 0.8), said, strict=True):
        assert word in live.two_bells(epsilon=push).note.value
    marked = {trace.name: trace.x[0] for trace in traces(opened.figure)}
    assert marked["the tight condition"] == float(gaussian.epsilon_tight(25, 5.0, 0.5))
    assert marked["the paper's condition (5)"] == float(gaussian.epsilon_paper(25, 5.0, 0.5))


# ------------------------------------------------------------------------------ what is refused


def test_illegal_combination_is_explained_and_keeps_the_figure() -> None:
    explorer = live.theorems_2_and_3(d=30, c=10)
    before, note = drawn(explorer.figure), explorer.note.value
    number(explorer, "c").slider.value = 40
    said = explorer.controls["c"].error.value
    assert 'role="alert"' in said
    assert "c = 40 is not allowed: a whole number with 0 &lt; c &lt; d = 30" in said
    assert explorer.controls["d"].error.value == ""
    assert same(before, drawn(explorer.figure))
    assert explorer.note.value == note

    number(explorer, "d").slider.value = 100
    assert explorer.controls["c"].error.value == ""
    assert not same(before, drawn(explorer.figure))


@pytest.mark.parametrize(("typed", "control"), [(1.2, "nu"), (-0.1, "nu"), (0, "d")])
def test_number_out_of_range_is_explained_beside_it(typed: float, control: str) -> None:
    explorer = live.theorem_1()
    before = drawn(explorer.figure)
    number(explorer, control).box.value = typed
    ends = {"nu": "between 0 and 1", "d": "between 1 and 1e+06"}[control]
    assert f"{control} must be {ends}, got {typed:g}" in explorer.controls[control].error.value
    assert same(before, drawn(explorer.figure))
    number(explorer, "n").slider.value = 10  # another control: the message stays where it belongs
    assert explorer.controls["n"].error.value == ""
    assert f"got {typed:g}" in explorer.controls[control].error.value


def test_exponential_loss_at_its_steepest_draws() -> None:
    explorer = live.overfitting(sigma_a=2.0, sigma_b=2.0, d=2, c=1)
    explorer.set(loss="exponential", scale=8.0)
    assert_drawable(explorer.figure)


def test_unknown_start_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"lottery has no control 'sigm'; it has d, n, sigma, eps"):
        live.lottery(sigm=1)


def test_first_values_that_cannot_be_drawn_raise() -> None:
    with pytest.raises(ValueError, match="c = .* is not allowed: a whole number"):
        live.theorems_2_and_3(d=5, c=9)


def test_unknown_choice_is_named() -> None:
    with pytest.raises(ValueError, match=r"value must be one of \['nu', 'sigma_r'\], got 'x'"):
        live.theorem_1(against="x")


def test_view_of_a_trace_that_is_not_there_fails() -> None:
    with pytest.raises(KeyError, match="missing"):
        controls.fill(go.Figure(), View({"missing": {"x": [1]}}))


# ------------------------------------------------------------------------------- the controls


@pytest.mark.parametrize("name", NAMES)
def test_an_explorer_opens_with_three_controls_and_unfolds_the_others(name: str) -> None:
    explorer = getattr(live, name)()
    every = {*explorer.controls.values()}
    if len(explorer.presets.options) > 1:
        every.add(explorer.presets)
    first, button, box = explorer.children[:3]
    assert len(first.children) <= 3
    assert {*first.children, *box.children} == every
    assert button.description == f"{len(box.children)} more"
    assert box.layout.display == "none"
    button.value = True
    assert box.layout.display == "grid"
    button.value = False
    assert box.layout.display == "none"


def test_refusal_beside_a_folded_control_unfolds_it() -> None:
    explorer = live.scores()
    assert not explorer.unfold.value
    number(explorer, "c").box.value = 60
    assert "must be between 0 and 50, got 60" in explorer.controls["c"].error.value
    assert explorer.unfold.value


@pytest.mark.parametrize("name", ["overfitting", "drawn_data", "scores"])
def test_films_open_at_their_first_frame(name: str) -> None:
    explorer = getattr(live, name)()
    assert explorer.controls["frame"].value == number(explorer, "frame").low == 0


def extents(explorer: Explorer) -> dict[tuple[str, str], Any]:
    """What each axis fits: its range where it has one, else the least and largest of its data."""
    found: dict[tuple[str, str], Any] = {}
    layout = explorer.figure.to_dict()["layout"]
    for one in traces(explorer.figure):
        for letter in ("x", "y"):
            name = getattr(one, f"{letter}axis") or letter
            fixed = layout[f"{letter}axis{name[1:]}"].get("range")
            if fixed is None and len(one[letter]):
                low, high = found.get((letter, name), (np.inf, -np.inf))
                values = np.asarray(one[letter], dtype=float)
                found[letter, name] = min(low, values.min()), max(high, values.max())
            elif fixed is not None:
                found[letter, name] = tuple(fixed)
    return found


@pytest.mark.parametrize(
    ("name", "planted"), [("overfitting", {}), ("drawn_data", {"planted": True})]
)
def test_axes_of_a_film_stand_while_its_dots_move(name: str, planted: dict[str, bool]) -> None:
    explorer = getattr(live, name)(**planted)
    before, dots = extents(explorer), drawn(explorer.figure)
    for frame in (15, 30, 45, number(explorer, "frame").high):
        number(explorer, "frame").box.value = frame
        assert extents(explorer) == before
        assert not same(dots, dots := drawn(explorer.figure))


def test_preset_menu_names_what_an_explorer_opens_with() -> None:
    assert live.overfitting().presets.value == "S1: falls, then rises as far"
    assert live.overfitting(d=99).presets.value is None


def test_click_on_the_map_moves_your_point() -> None:
    explorer = live.phase_map()
    heatmap = next(trace for trace in traces(explorer.figure) if trace.name == "rise")
    points = Points(trace_name="rise", xs=[0.31], ys=[0.4], point_inds=[(0, 0)])
    heatmap._dispatch_on_click(points, InputDeviceState())
    assert (explorer.values["epsilon"], explorer.values["eta"]) == (0.31, 0.4)
    point = next(trace for trace in traces(explorer.figure) if trace.name == "your point")
    assert (point.x[0], point.y[0]) == (0.31, 0.4)
    assert explorer.presets.value is None
    heatmap._dispatch_on_click(Points(trace_name="rise"), InputDeviceState())
    assert explorer.values["epsilon"] == 0.31


def test_box_takes_exact_numbers_and_a_browser_rounding_the_slider_keeps_them() -> None:
    number = Number("sigma", "noise", 0.01, 10, 1.0, log=True)
    told = []
    number.listen(lambda control: told.append(control.value))
    number.box.value = 0.123456
    assert told == [0.123456]
    assert number.slider.value == pytest.approx(0.123456)
    number.slider.value = 10**-0.91  # the slider's nearest stop, 0.12303, as a browser sends it
    assert number.value == 0.123456
    number.slider.value = 10**-0.89
    assert number.value == pytest.approx(0.129)
    assert told == [0.123456, pytest.approx(0.129)]


def test_whole_numbers_stay_whole_on_a_log_slider() -> None:
    number = Number("d", "dimension", 1, 10**6, 100, log=True, whole=True)
    number.slider.value = 123.456
    assert number.value == 123
    assert isinstance(number.value, int)
    number.slider.value = 10**6
    assert number.value == 10**6


def test_box_is_labelled_for_screen_readers() -> None:
    for name in NAMES:
        for control in getattr(live, name)().controls.values():
            if isinstance(control, Number):
                assert control.box.description


def test_preset_menu_steps_aside_when_a_slider_moves() -> None:
    explorer = live.phase_map()
    explorer.presets.menu.value = "S4"
    assert explorer.values["d"] == 200
    number(explorer, "eta").slider.value = 0.5
    assert explorer.presets.value is None
    explorer.presets.menu.value = "S4"
    assert explorer.values["eta"] == 0.25


def test_setting_several_values_draws_once(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = live.phase_map()
    seen = []
    monkeypatch.setattr(explorer, "draw", lambda **v: seen.append(v) or View({}))
    explorer.set(d=50, c=3, epsilon=0.1)
    assert len(seen) == 1
    assert (seen[0]["d"], seen[0]["c"], seen[0]["epsilon"]) == (50, 3, 0.1)


def test_browser_hears_of_the_figure_only_when_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    opened = go.FigureWidget.open
    monkeypatch.setattr(
        go.FigureWidget,
        "open",
        lambda self: told.append(len(synced(self, "_widget_data"))) or opened(self),
    )
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    LiveFigure(figure)
    assert told == [1]
    go.FigureWidget(figure)  # plotly's own: told while empty. If this changes, LiveFigure may go
    assert told == [1, 0]


def test_figures_share_one_copy_of_plotlys_code() -> None:
    one, other = (LiveFigure(go.Figure()) for _ in range(2))
    shared = synced(one, "_library_id")
    assert shared == synced(other, "_library_id") != ""
    assert [synced(each, "_own_id") for each in (one, other)] == [one.model_id, other.model_id]
    assert max(len(value) for value in one.get_state().values() if isinstance(value, str)) < 5000
    code = figures.library().get_state()["code"]
    assert "newPlot" in code
    figures.library().close()  # as Widget.close_all() does
    assert synced(LiveFigure(go.Figure()), "_library_id") != shared


def test_view_opened_later_begins_with_the_figure_as_it_stands() -> None:
    explorer = live.overfitting()
    number(explorer, "frame").slider.value = 60
    now = next(t for t in synced(explorer.figure, "_widget_data") if t["name"] == "now, test")
    assert now["x"][0] == explorer.draw(**explorer.values).traces["now, test"]["x"][0]


# ------------------------------------------------------------------ that they draw the right thing


def trace(explorer: Explorer, name: str) -> Any:
    return next(one for one in traces(explorer.figure) if one.name == name)


def test_lottery_draws_a_law_that_fits_the_draws() -> None:
    explorer = live.lottery(d=100, n=1, sigma=2.0)
    law = np.asarray(trace(explorer, "exact law, standard error").y)
    bars = np.asarray(trace(explorer, "standard error, drawn").y)
    assert law.sum() == pytest.approx(1, abs=2e-3)
    assert bars.sum() == pytest.approx(1)
    expected = law * lottery.SETS
    enough = expected > 20
    chi2 = ((bars * lottery.SETS - expected)[enough] ** 2 / expected[enough]).sum()
    assert chi2 < 2 * enough.sum()
    critical = trace(explorer, "critical radius").x[0]
    assert critical == pytest.approx(gaussian.critical_epsilon(1, 2.0))


def test_theorem_1_badge_follows_the_bound() -> None:
    explorer = live.theorem_1(d=1000, n=1, sigma_s=1.0)
    assert "bound says something" in explorer.note.value
    assert explorer.figure.layout.title.text == ""
    number(explorer, "d").box.value = 20
    assert "bound vacuous" in explorer.note.value
    assert explorer.figure.layout.title.text == "BOUND VACUOUS HERE"
    claimed, *_, actual, _ = trace(explorer, "probability of the statement").y
    assert claimed < actual


def test_theorem_1_marks_the_three_radii() -> None:
    explorer = live.theorem_1(n=1, sigma_s=1.0, nu=0.5)
    expected = [1 / 12, 1 / 6, 0.599624062879]
    assert list(trace(explorer, "your ν").y) == pytest.approx(expected)
    explorer.controls["against"].value = "sigma_r"
    assert trace(explorer, "your ν").x[0] == 0.5
    assert explorer.figure.layout.xaxis.title.text == "σᵣ"


def test_theorems_2_and_3_mark_exact_and_claimed_minima() -> None:
    explorer = live.theorems_2_and_3(d=100, c=10, rho=0.01)
    exact = trace(explorer, "least true variance, exact").x[0]
    assert exact == pytest.approx(90 * 0.00979547900969)
    assert trace(explorer, "Theorem 3 says (11)").x[0] == pytest.approx(90 * 0.00979431929481)
    assert trace(explorer, "Theorem 2 says (10)").x[0] == 0
    explorer.controls["tied"].value = False
    assert trace(explorer, "least true variance").y[2] == pytest.approx(0.005, rel=1e-6)
    variance = trace(explorer, "true variance").y
    explorer.controls["conditional"].value = False
    number(explorer, "eta").box.value = 0.6
    assert (np.asarray(trace(explorer, "true variance").y) > variance).all()
    assert trace(explorer, "least sample variance, exact").x[0] == 1


def test_film_turns_at_the_best_share() -> None:
    explorer = live.overfitting()
    errors = np.asarray(trace(explorer, "test error along the path").y)
    turn = int(errors.argmin())
    number(explorer, "frame").box.value = turn
    assert trace(explorer, "now, test").x[0] == pytest.approx(0.818937644342, abs=0.03)
    assert trace(explorer, "now, test ").x[0] == pytest.approx(7.1, rel=0.1)
    assert errors[-1] > 2 * errors[turn]
    number(explorer, "c").box.value = 0
    control = np.asarray(trace(explorer, "test error along the path").y)
    assert control[-1] == pytest.approx(control.min(), abs=1e-6)


def test_map_is_flat_on_and_under_the_line() -> None:
    explorer = live.phase_map()
    assert "10^" not in trace(explorer, "rise").hovertemplate  # the factor itself, not its log
    assert np.allclose(
        np.log10(trace(explorer, "rise").customdata.clip(max=100)), trace(explorer, "rise").z
    )
    rise = trace(explorer, "rise")
    z = np.asarray(rise.z)
    eta, epsilon = np.meshgrid(rise.y, rise.x, indexing="ij")
    assert np.abs(z[epsilon >= eta]).max() < 1e-9
    assert z[epsilon < eta - 0.05].min() > 0.1


def test_drawn_data_counts_what_it_shows() -> None:
    explorer = live.drawn_data(n=50, seed=3)
    means = np.asarray(trace(explorer, "weak").x)
    assert means.size == 200
    assert f"{(means > 0.2).sum()} have a sample mean above ε" in explorer.note.value
    explorer.controls["planted"].value = True
    assert len(trace(explorer, "looks robust").x) == 10
    assert np.mean(trace(explorer, "looks robust").x) == pytest.approx(1, abs=0.1)
    number(explorer, "c").box.value = 20
    assert len(trace(explorer, "looks robust").x) == 20


@pytest.mark.parametrize(
    ("preset", "verdict"),
    [
        ("ε < η: S1", "helps"),
        ("ε < η: S4", "helps"),
        ("ε = η: S5, where softening harms", "harms"),
        ("ε = 2η, where softening harms", "harms"),
    ],
)
def test_soft_labels_say_where_they_help_and_where_they_harm(preset: str, verdict: str) -> None:
    explorer = live.soft_labels()
    explorer.presets.menu.value = preset
    assert explorer.figure.layout.title.text == f"AVmixup {verdict} here"
    ours = trace(explorer, "AVmixup").y[0]
    hard = trace(explorer, "adversarial training").y[0]
    assert (ours < hard) == (verdict == "helps")


def test_soft_labels_skip_the_exact_search_that_a_theorem_spares() -> None:
    explorer = live.soft_labels(lam=0.7)
    model = overfitting.feature_model(100, 1, 0.28, 0.05, 0.7)
    exact = gaussian.stationary_point(model, 0.2, gaussian.LabelSmoothing(0.7), None)
    assert trace(explorer, "label smoothing").x[0] == pytest.approx(exact.B, rel=1e-6)
    explorer.controls["scale"].value = 8.0
    exact = gaussian.stationary_point(model, 0.2, gaussian.LabelSmoothing(0.7), 8.0)
    assert trace(explorer, "label smoothing").x[0] == exact.B
    number(explorer, "lam").box.value = 0.9
    assert trace(explorer, "label smoothing").x[0] < exact.B
    assert len(trace(explorer, "low-noise rule").x) > 0
    explorer.set(lambda1=0.5, lambda2=0.7)
    assert len(trace(explorer, "low-noise rule").x) == 0, "labels that rise ask for nothing"


def test_soft_labels_wear_the_colours_that_their_methods_have_everywhere() -> None:
    from avmixup_kit.methods import METHODS

    explorer = live.soft_labels()
    names = {"adversarial training": "pgd", "label smoothing": "label_smoothing"}
    for said, name in (names | {"AVmixup": "avmixup", "AVmixup, exact": "avmixup"}).items():
        assert trace(explorer, said).marker.color == METHODS.entries[name].colour
