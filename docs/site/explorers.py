"""The theory's explorers for pages without a kernel: every view they can show, computed beforehand.

An explorer of `avmixup_kit.live` is asked for its view at each point of a grid. What differs
between views is kept once for each different value; numbers that are one curve, moved and scaled,
as that curve and two numbers each. The browser looks views up and never computes one.
"""

import base64
import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from avmixup_kit import live
from avmixup_kit._base import files
from avmixup_kit.live.theory.overfitting import preset_values
from avmixup_kit.live.theory.two_bells import EQUAL

_POINTS = 81  # of a curve
_EXACT = 2e-3  # what a curve may be off, as a part of its height


@dataclass(frozen=True)
class Axis:
    """One control: the values each of its stops sets, by what the reader sees.

    A menu's first entry is where it opens; a slider opens at the stop nearest to what the explorer
    itself opens with.
    """

    name: str
    label: str
    stops: Mapping[str, Mapping[str, Any]]
    kind: str = "slider"


@dataclass(frozen=True)
class Played:
    """An explorer on the site: three axes, and which two a click on a trace of that name sets.

    A film is the last axis: live explorers remember the few paths they computed last.
    """

    title: str
    axes: tuple[Axis, ...]
    clicks: Mapping[str, tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        assert len(self.axes) <= 3, f"{self.title}: three controls at first sight, no more"


def _slide(name: str, label: str, stops: Sequence[float], kind: str = "slider") -> Axis:
    return Axis(name, label, {f"{stop:g}": {name: stop} for stop in stops}, kind)


def _steps(low: float, high: float, count: int) -> list[float]:
    return [round(float(stop), 6) for stop in np.linspace(low, high, count)]


def _presets(**notes: str) -> dict[str, dict[str, Any]]:
    return {note: preset_values(name) for name, note in notes.items()}


_CASES: dict[str, dict[str, Any]] = _presets(S1="one of 100 weak features looks robust")
_CASES |= {f"one of {d} does": {**preset_values("S1"), "d": d} for d in (10, 1000)}
_CASES |= _presets(S4="ten of 100 do", S5="the same, push in training 0.28", control="none does")
_CASES["ten of 100 do, noisier"] = {  # notebook 3
    **preset_values("S1"), "c": 10, "sigma_a": 0.1, "sigma_b": 1.0,
}  # fmt: skip
for _values in _CASES.values():
    _values["trained_at"] = _values["epsilon"]
_FILMS = _presets(
    S1="S1: falls, then rises", S2="S2: rises much further", S4="S4: ten look robust",
    S5="S5: ε = η, no overshoot", S6="S6: ε = 2η, hopeless", control="S1, none looks robust",
)  # fmt: skip
for _values in _FILMS.values():
    _values["epsilon_test"] = _values["epsilon"]
_MAPS = _presets(S1="S1", S2="S2", S3="S3", S4="S4", S6="S6", control="S1, none looks robust")

_SOFT = {
    **_presets(S1="ε < η: S1", S4="ε < η: S4", S2="ε < η: S2", S5="ε = η: S5"),
    "ε = 2η": {"d": 100, "c": 10, "eta": 0.15, "sigma_a": 0.1, "sigma_b": 0.5, "epsilon": 0.3},
}
_RADII = (0, 0.05, 0.1, 0.15, 0.2, 0.24, 0.28, 0.35, 0.42, 0.5, 0.6)

EXPLORERS = {
    "scores": Played(
        "The score picture",
        (
            Axis("case", "features", _CASES, "menu"),
            _slide("epsilon", "push ε", _RADII),
            _slide("frame", "training", range(0, 81, 2), "film"),
        ),
    ),
    "overfitting": Played(
        "The film of the errors",
        (
            Axis("case", "preset", _FILMS, "menu"),
            _slide("epsilon", "ε in training", _RADII),
            _slide("frame", "time", range(0, 101, 4), "film"),
        ),
    ),
    "phase_map": Played(
        "The map of overshoot",
        (
            Axis("case", "preset", _MAPS, "menu"),
            _slide("epsilon", "radius ε", _steps(0, 0.6, 16)),
            _slide("eta", "mean η", _steps(0, 0.6, 16)),
        ),
        {"rise": ("epsilon", "eta")},
    ),
    "label_line": Played(
        "The label line",
        (
            _slide("gamma", "vertex γ", (0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4)),
            _slide("lambda2", "vertex label λ₂", _steps(0, 0.9, 10)),
            _slide("epsilon", "push ε", (0.05, 0.1, 0.2, 0.28, 0.4, 0.5)),
        ),
    ),
    "two_bells": Played(
        "Theorem 1 as a picture",
        (
            _slide("epsilon", "push ε", sorted({*_steps(0, 1, 41), EQUAL})),
            _slide("nu", "ratio ν = σᵣ/σₛ", _steps(0.1, 1, 10)),
            _slide("n", "examples n", (1, 4, 10, 25, 100, 400)),
        ),
    ),
    "lottery": Played(
        "The training-set lottery",
        (
            _slide("d", "dimension d", (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)),
            _slide("sigma", "noise σ", (0.5, 1, 2, 3, 5, 10, 20)),
            _slide("epsilon", "push ε", _steps(0, 1.5, 16)),
        ),
    ),
    "theorem_1": Played(
        "Theorem 1 in numbers",
        (
            _slide("nu", "ratio ν = σᵣ/σₛ", _steps(0, 1, 21)),
            _slide("sigma_s", "noise σₛ", (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40)),
            _slide("n", "examples n", (1, 4, 10, 25, 100, 400, 1000)),
        ),
    ),
    "theorems_2_and_3": Played(
        "The weights of least variance",
        (
            _slide("rho", "ratio ρ", [float(f"{rho:.1g}") for rho in np.geomspace(1e-4, 1, 13)]),
            _slide("c", "insufficient c", (1, 2, 5, 10, 20)),
            _slide("d", "features d", (30, 50, 100, 200, 500, 1000)),
        ),
    ),
    "soft_labels": Played(
        "Where each method ends",
        (
            Axis("case", "preset", _SOFT, "menu"),
            _slide("gamma", "vertex γ", (0, 0.5, 0.75, *_steps(1, 2.5, 7), 3, 3.5, 4)),
            _slide("lambda2", "vertex label λ₂", _steps(0, 1, 11)),
        ),
    ),
    "drawn_data": Played(
        "Training on drawn data",
        (
            _slide("n", "examples n", (25, 50, 100, 200, 400)),
            _slide("seed", "seed", range(8)),
            _slide("frame", "training", range(0, 61, 2), "film"),
        ),
    ),
}


def table(name: str) -> dict[str, Any]:
    """Return what the browser needs to show an explorer, as JSON holds it.

    axes: name, label, kind and stops, each with the stops of other axes that choosing it moves to.
    start: the stops to open at. figure: what plotly draws. views: by path in the figure, a pool of
    values, and each view's place in it, the last axis running fastest; "note" among them.
    """
    played = EXPLORERS[name]
    explorer = getattr(live, name)()
    views: dict[tuple[str | int, ...], list[Any]] = {}
    places = {trace.name: place for place, trace in enumerate(explorer.blank.data)}
    points = {trace.name for trace in explorer.blank.select_traces({"mode": "markers"})}
    for stops in itertools.product(*(axis.stops.values() for axis in played.axes)):
        view = explorer.draw(**settled(explorer, played.axes, stops))
        views.setdefault(("note",), []).append(view.note)
        for trace, properties in view.traces.items():
            for key, value in properties.items():
                path = ("data", places[trace], key)
                views.setdefault(path, []).append(_plain(value, trace not in points))
        for path, value in _leaves(view.layout, ("layout",)):
            views.setdefault(path, []).append(value)
    count = len(views["note",])
    assert all(len(found) == count for found in views.values()), f"{name}: a view lacks something"
    return {
        "title": played.title,
        "axes": [_axis(axis, played.axes) for axis in played.axes],
        "start": [_nearest(axis, explorer.values.get(axis.name)) for axis in played.axes],
        "clicks": played.clicks or {},
        "figure": json.loads(explorer.blank.to_json()),
        "views": [{"path": path, **_pooled(found)} for path, found in views.items()],
    }


def opened(name: str, given: Mapping[str, Any]) -> str | None:
    """Return where ``live.NAME(**given)`` opens, as a link has it; None where no stops are that."""
    axes, explorer = EXPLORERS[name].axes, getattr(live, name)()
    wanted = _each_rounded(getattr(live, name)(**given).values)
    for said in itertools.product(*(axis.stops for axis in axes)):
        stops = [axis.stops[one] for axis, one in zip(axes, said, strict=True)]
        if _each_rounded(settled(explorer, axes, stops)) == wanted:
            return urlencode(dict(zip((axis.name for axis in axes), said, strict=True)))
    return None


def write(name: str, folder: Path) -> None:
    """Write the table as a script, which pages opened from a disk can load, too."""
    text = json.dumps(table(name), ensure_ascii=False, separators=(",", ":")).encode()
    packed = base64.b64encode(gzip.compress(text, mtime=0)).decode()
    files.write_atomic(folder / f"{name}.js", f'explorerArrived("{name}", "{packed}");\n'.encode())


def settled(
    explorer: live.Explorer, axes: Sequence[Axis], stops: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return an explorer's values at one stop of each axis; what a menu sets, sliders set anew."""
    values = explorer.values
    for menus in (True, False):
        for axis, stop in zip(axes, stops, strict=True):
            values |= stop if (axis.kind == "menu") is menus else {}
    return values


def _axis(axis: Axis, every: Sequence[Axis]) -> dict[str, Any]:
    jumps = [
        {
            other.name: _nearest(other, values[other.name])
            for other in every
            if axis.kind == "menu" and other.name in values
        }
        for values in axis.stops.values()
    ]
    about = {"name": axis.name, "label": axis.label, "kind": axis.kind, "stops": list(axis.stops)}
    return about | {"jumps": jumps}


def _nearest(axis: Axis, value: float | None) -> int:
    if value is None or axis.kind == "menu":
        return 0
    return int(np.argmin([abs(values[axis.name] - value) for values in axis.stops.values()]))


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield paths into nested mappings and lists of mappings, and what stands there."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, place))
    else:
        yield path, _plain(value)


def _plain(value: Any, thin: bool = False) -> Any:
    """Return an array as nested lists, a long curve with fewer points where it may be thinned."""
    if thin and isinstance(value, np.ndarray) and value.ndim == 1 and value.size > _POINTS:
        value = value[np.linspace(0, value.size - 1, _POINTS).round().astype(int)]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _rounded(value: Any, digits: int = 4) -> Any:
    """Return numbers of that many digits, however deep in lists; None for what JSON lacks."""
    if isinstance(value, list | tuple):
        return [_rounded(one, digits) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}") if np.isfinite(value) else None
    return value


def _each_rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in values.items()}


def _pooled(values: Sequence[Any]) -> dict[str, Any]:
    """Return the different values, and the place of each value among them."""
    places: dict[str, int] = {}
    said = [json.dumps(value) for value in values]  # most are as others are: each is rounded once
    different = dict(zip(said, values, strict=True))
    once = {raw: json.dumps(_rounded(value)) for raw, value in different.items()}
    at = [places.setdefault(once[raw], len(places)) for raw in said]
    if len(places) == 1:
        return {"pool": [json.loads(text) for text in places]}
    pool = {place: value for place, value in zip(at, values, strict=True)}
    found = _scaled([pool[place] for place in range(len(places))])
    return {"at": at} | (found or {"pool": [json.loads(text) for text in places]})


def _scaled(pool: Sequence[Any]) -> dict[str, Any]:
    """Return curves that are one, moved and scaled, as that one and two numbers each, else {}."""
    lengths = {len(one) if isinstance(one, list) else 0 for one in pool}
    if len(lengths) != 1 or max(lengths) < 9 or isinstance(pool[0][0], list | str):
        return {}
    curves = np.array(pool, dtype=float)
    heights = np.ptp(curves, axis=1)
    base = curves[heights.argmax()]
    sides = np.stack([np.ones_like(base), base], axis=1)
    pairs = np.linalg.lstsq(sides, curves.T, rcond=None)[0]
    off = np.abs(sides @ pairs - curves.T).max(axis=0)
    if not (off <= _EXACT * heights).all():  # nor where there is a NaN
        return {}
    return {"base": _rounded(base.tolist(), 5), "pool": _rounded(pairs.T.tolist(), 5)}
