"""What a search found, as data, text and figures."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from avmixup_kit import methods
from avmixup_kit._base import check, files, html, plots, provenance
from avmixup_kit._base.statistics import spread
from avmixup_kit._base.tables import markdown_table
from avmixup_kit.data import Data
from avmixup_kit.evaluation.compare import Comparison, compare
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.search.plan import BEST, PAPER, Plan
from avmixup_kit.search.storage import optuna_package, quiet

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Trial:
    """One trial: settings, robust validation accuracy after so many steps, how it ended.

    ``value`` is the last accuracy measured; ``taken_up`` the steps at which a process began on it.
    """

    number: int
    params: dict[str, Any]
    measured: dict[int, float]
    state: str
    steps: int
    seconds: float
    taken_up: tuple[int, ...]
    diverged: str | None = None

    @property
    def value(self) -> float:
        """Return the last accuracy measured; 0 where training diverged."""
        if self.diverged is not None or not self.measured:
            return 0.0
        return self.measured[max(self.measured)]

    @classmethod
    def of(cls, frozen: "optuna.trial.FrozenTrial") -> "Trial":
        """Return an Optuna trial as plain values."""
        attributes = frozen.user_attrs
        return cls(
            frozen.number,
            dict(frozen.params),
            dict(frozen.intermediate_values),
            frozen.state.name.lower(),
            int(attributes.get("steps", frozen.last_step or 0)),
            float(attributes.get("seconds", 0.0)),
            tuple(attributes.get("taken up after", ())),
            attributes.get("diverged"),
        )

    @classmethod
    def from_json(cls, one: dict[str, Any]) -> "Trial":
        """Return the trial that JSON made of its fields."""
        measured = {int(step): value for step, value in one["measured"].items()}
        return cls(**one | {"measured": measured, "taken_up": tuple(one["taken_up"])})


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found: every trial, and how much each setting matters.

    ``searched`` is what the study holds to, ``published`` the paper's setting (``reference`` is
    then "paper") or the method's own default, ``again`` the evaluations on test images that
    ``remeasure`` added, seed by seed, from ``files`` in the search's folder.
    """

    searched: dict[str, Any]
    published: dict[str, Any]
    rungs: tuple[int, ...]
    trials: tuple[Trial, ...]
    importance: dict[str, float]
    again: dict[str, tuple[Evaluation, ...]] = field(default_factory=dict)
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str = PAPER

    @classmethod
    def of(cls, study: "optuna.Study", plan: Plan, data: Data) -> "Found":
        """Return what a study holds now."""
        every = map(Trial.of, study.get_trials(deepcopy=False))
        trials = tuple(trial for trial in every if trial.state not in ("waiting", "fail"))
        about = plan.identity(data), plan.published(data.name), plan.rungs
        return cls(*about, trials, importance(trials), reference=plan.reference)

    @property
    def finished(self) -> tuple[Trial, ...]:
        """The trials that trained to the end."""
        return tuple(trial for trial in self.trials if trial.state == "complete")

    @property
    def pruned(self) -> tuple[Trial, ...]:
        """The trials that were ended early."""
        return tuple(trial for trial in self.trials if trial.state == "pruned")

    @property
    def running(self) -> tuple[Trial, ...]:
        """The trials that other processes, alive or dead, have not ended."""
        return tuple(trial for trial in self.trials if trial.state == "running")

    @property
    def best(self) -> Trial:
        """The trial with the highest robust validation accuracy, the first of equals.

        Raises:
            ValueError: no trial has been trained to the end.
        """
        if not self.finished:
            raise ValueError(f"none of {len(self.trials)} trials has been trained to the end")
        return max(self.finished, key=lambda trial: (trial.value, -trial.number))

    @property
    def training_steps(self) -> int:
        """Optimiser steps of all trials together."""
        return sum(trial.steps for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Processor seconds of all trials together."""
        return sum(trial.seconds for trial in self.trials)

    def summary(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return {
            "searched": self.searched,
            "published": self.published,
            "reference": self.reference,
            "rungs": list(self.rungs),
            "best": self.best.params | {"value": self.best.value, "number": self.best.number},
            "importance": self.importance,
            "trials trained to the end": len(self.finished),
            "training steps": self.training_steps,
            "training steps without pruning": len(self.trials) * self.rungs[-1],
            "processor seconds": round(self.seconds, 1),
            "again": self.files,
            "comparisons": [str(c) for c in self.comparisons()],
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
            "provenance": provenance.provenance(),
        }

    def save(self, folder: str | Path, *, page: bool = True) -> None:
        """Write summary.json and report.html."""
        folder = Path(folder)
        files.make_folder(folder)
        text = json.dumps(self.summary(), indent=1)
        files.write_atomic(folder / "summary.json", text.encode())
        if page:
            files.write_atomic(folder / "report.html", self.page().encode())

    @classmethod
    def load(cls, folder: str | Path) -> "Found":
        """Return what ``save`` wrote.

        Raises:
            FileNotFoundError: the folder holds no search.
            ValueError: its summary.json is damaged.
        """
        folder = Path(folder)
        path = folder / "summary.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no search: there is no {path}")
        read = files.read_json(path)
        with files.blamed(path, files.DAMAGED):
            names = {name: tuple(of_name) for name, of_name in read["again"].items()}
            found = cls(
                read["searched"],
                read["published"],
                tuple(read["rungs"]),
                tuple(map(Trial.from_json, read["trials"])),
                read["importance"],
                files=names,
                reference=read.get("reference", PAPER),
            )
        again: dict[str, tuple[Evaluation, ...]] = {}
        for name, path in ((n, folder / "again" / file) for n in names for file in names[n]):
            again[name] = (*again.get(name, ()), Evaluation.load(path))
        return dataclasses.replace(found, again=again)

    def comparisons(self) -> list[Comparison]:
        """Return the best setting against each other one, under each attack, over seeds."""
        if BEST not in self.again:
            return []
        return [
            dataclasses.replace(found, attack=f"{BEST} against {other}, {row}")
            for other in self.again
            if other != BEST
            for row in self.again[BEST][0].names
            for found in [compare(self.again[BEST], self.again[other], row)]
        ]

    def table(self) -> str:
        """Return the evaluations on test images as Markdown: mean and 95 % interval over seeds."""
        if not self.again:
            return "Not measured on test images yet."
        comparisons = (f"- {comparison}" for comparison in self.comparisons())
        return "\n".join([self._head(), "", markdown_table(self._rows()), "", *comparisons])

    def _head(self) -> str:
        first = next(iter(self.again.values()))
        return (
            f"Accuracy in percent on {first[0].n} test images: mean over {len(first)} seeds, "
            "± half the 95 % interval over seeds."
        )

    def _rows(self) -> list[list[str]]:
        names = next(iter(self.again.values()))[0].names
        return [["setting", *names]] + [
            [name, *(spread([e.accuracy(row) for e in evaluations]) for row in names)]
            for name, evaluations in self.again.items()
        ]

    def _verdict(self) -> str:
        words = ", ".join(f"{name} = {short(value)}" for name, value in self.best.params.items())
        part = self.training_steps / (len(self.trials) * self.rungs[-1])
        judge = _name(self.searched["objective"])
        others = len(self.running)
        rest = f"; {others} are still in other hands" if others else ""
        return (
            f"best of {len(self.trials)} trials ({len(self.finished)} trained to the end, "
            f"{self.training_steps} steps, {part:.0%} of a search without pruning{rest}): {words}; "
            f"{self.best.value:.1%} on validation images under {judge}"
        )

    def __str__(self) -> str:
        weights = ", ".join(f"{name} {value:.0%}" for name, value in self.importance.items())
        return f"{self._verdict()}\nimportance: {weights or 'too few trials'}\n{self.table()}"

    # ------------------------------------------------------------------------------- figures

    def heat_map(self, cells: int = 5) -> "go.Figure":
        """Return Table 6 as a map: the best accuracy of each square of ``axes``."""
        grid = self.grid(cells)
        x, y = self.axes
        figure = plots.graph_objects().Figure()
        figure.add_heatmap(
            z=[[None if math.isnan(v) else 100 * v for v in row] for row in grid.best.tolist()],
            x=grid.x.tolist(),
            y=grid.y.tolist(),
            colorscale="Cividis",
            text=[
                [f"{100 * v:.0f} ({n})" if n else "" for v, n in zip(*rows, strict=True)]
                for rows in zip(grid.best.tolist(), grid.count.tolist(), strict=True)
            ],
            texttemplate="%{text}",
            colorbar={"title": "%"},
        )
        for name, params, symbol, size, colour in (
            (BEST, self.best.params, "star", 14, plots.COLOURS[1]),
            (self.reference, self.published, "x", 12, plots.COLOURS[3]),
        ):
            marker = {"symbol": symbol, "size": size, "color": colour}
            figure.add_scatter(
                x=[params[x]], y=[params[y]], mode="markers", marker=marker, name=plots.label(name)
            )
        figure.update_layout(legend={"orientation": "h", "y": -0.2})
        title = "Best robust validation accuracy in percent (how many trials)"
        return plots.styled(figure, title, plots.label(x), plots.label(y))

    @property
    def axes(self) -> list[str]:
        """The two settings of the map: lambda1 and lambda2, else the first that are numbers."""
        numbers = [name for name, limits in self._space.items() if not isinstance(limits[0], bool)]
        return sorted(numbers, key=lambda name: not name.startswith("lambda"))[:2]

    @property
    def _space(self) -> dict[str, list[Any]]:
        return self.searched["search space"]

    def grid(self, cells: int = 5) -> "Grid":
        """Return the best last-measured accuracy in each square of ``axes``."""
        allowed = "a map has two settings that are numbers; slices() shows any"
        check.that(len(self.axes) == 2, "axes", self.axes, allowed)
        trials = self.finished + self.pruned
        x, y = ([trial.params[name] for trial in trials] for name in self.axes)
        limits = [self._space[name] for name in self.axes]
        values = [trial.value for trial in trials]
        best = scipy.stats.binned_statistic_2d(x, y, values, "max", cells, limits).statistic
        count, *edges = np.histogram2d(x, y, cells, limits)
        columns, rows = ((edge[:-1] + edge[1:]) / 2 for edge in edges)
        return Grid(columns, rows, best.T, count.T.astype(int))

    def slices(self, *names: str) -> "go.Figure":
        """Return accuracy against each named setting (all where none is named), trial by trial."""
        plots.graph_objects()
        names = names or tuple(self._space)
        for name in names:
            check.one_of("name", name, self._space)
        from plotly.subplots import make_subplots

        figure = make_subplots(1, len(names), shared_yaxes=True)
        for column, name in enumerate(names, 1):
            for colour, symbol, title, trials in (
                (plots.GREY, "circle-open", "pruned: its last accuracy", self.pruned),
                (plots.COLOURS[0], "circle", "trained to the end", self.finished),
            ):
                values = [trial.params[name] for trial in trials]
                figure.add_scatter(
                    x=[str(value) if isinstance(value, bool) else value for value in values],
                    y=[100 * trial.value for trial in trials],
                    mode="markers",
                    marker={"color": colour, "symbol": symbol, "size": 8},
                    name=title,
                    legendgroup=title,
                    showlegend=column == 1,
                    text=[f"trial {trial.number}" for trial in trials],
                    row=1,
                    col=column,
                )
        plots.styled(figure, "Robust validation accuracy of each trial", "", "accuracy (%)")
        for column, name in enumerate(names, 1):
            figure.update_xaxes(title_text=plots.label(name), row=1, col=column)
        figure.update_layout(legend={"orientation": "h", "y": -0.25})
        return figure

    def importance_figure(self) -> "go.Figure":
        """Return how much each setting matters, as bars; they add up to 1."""
        figure = plots.graph_objects().Figure()
        figure.add_bar(
            x=list(self.importance.values()),
            y=list(map(plots.label, self.importance)),
            orientation="h",
            marker_color=plots.COLOURS[0],
        )
        figure.update_yaxes(autorange="reversed")
        return plots.styled(figure, "What decides whether a trial is among the best", "share", "")

    def page(self) -> str:
        """Return the report as one self-contained HTML page."""
        *others, last = self._space
        return html.page(
            "search/result.html.j2",
            f"Which {', '.join(others)} and {last}?" if others else f"Which {last}?",
            verdict=self._verdict(),
            axes=self.axes,
            head=self._head() if self.again else "",
            rows=self._rows() if self.again else [],
            comparisons=self.comparisons(),
            heat_map=self.heat_map() if len(self.axes) == 2 else None,
            slices=[
                self.slices(name).update_layout(title=plots.label(name)) for name in self._space
            ],
            importance=self.importance_figure() if self.importance else None,
            progress=progress({"this search": self}),
        )


@dataclass(frozen=True, eq=False)
class Grid:
    """Squares of two settings: their middles, best accuracy [y, x] (nan: no trial), trials."""

    x: np.ndarray
    y: np.ndarray
    best: np.ndarray
    count: np.ndarray


def progress(searches: Mapping[str, Found]) -> "go.Figure":
    """Return the best accuracy so far against training steps spent, a line for each search."""
    figure = plots.graph_objects().Figure()
    for i, (name, found) in enumerate(searches.items()):
        spent = np.cumsum([trial.steps for trial in found.trials])
        ends = [trial.value if trial.state == "complete" else 0.0 for trial in found.trials]
        best = np.maximum.accumulate(ends)
        figure.add_scatter(
            x=spent[best > 0].tolist(),
            y=(100 * best[best > 0]).tolist(),
            name=plots.label(name),
            mode="lines",
            line={"shape": "hv", "color": plots.COLOURS[i], "dash": plots.DASHES[i]},
        )
    return plots.styled(figure, "Best so far", "optimiser steps of all trials", "accuracy (%)")


def _name(judge: str) -> str:
    """Return the heading of an attack from its repr."""
    title = re.search(r"title='([^']*)'", judge)
    if title:
        return title[1]
    if not judge.startswith("Attack("):
        return judge
    own, lent = re.subn(r", source=Network\('\w+'\)", "", judge)
    return methods.parse(own).name + " (transfer)" * lent


def importance(trials: Sequence[Trial]) -> dict[str, float]:
    """Return each setting's share in whether a trial is among the best tenth (PED-ANOVA).

    A pruned trial counts with its last accuracy, which is below those that went on: only ranks
    matter. Empty where fewer than ten trials were measured.
    """
    optuna = optuna_package()
    measured = [trial for trial in trials if trial.measured and trial.state != "running"]
    if len(measured) < 10:
        return {}
    with quiet():
        study = optuna.create_study(direction="maximize")
        distributions = {}
        for name, value in measured[0].params.items():
            values = [trial.params[name] for trial in measured]
            distributions[name] = (
                optuna.distributions.CategoricalDistribution([False, True])
                if isinstance(value, bool)
                else optuna.distributions.FloatDistribution(min(values), max(values))
            )
        for trial in measured:
            about = {"params": trial.params, "distributions": distributions}
            study.add_trial(optuna.trial.create_trial(**about, value=trial.value))
        found = optuna.importance.get_param_importances(study)
    return {name: float(value) for name, value in found.items()}


def short(value: Any) -> str:
    """Return a setting as text, numbers with two decimals."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
