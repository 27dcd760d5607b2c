"""Accuracies while training, and figures of accuracies."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from avmixup_kit import methods
from avmixup_kit._base.plots import COLOURS, DASHES, GREY, error_bars, graph_objects, label, styled
from avmixup_kit.data import Data
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.methods import attacks
from avmixup_kit.methods.method import Method

if TYPE_CHECKING:
    import plotly.graph_objects as go

CURVE_IMAGES = 250


def robust_curves(data: Data, images: int | None = None) -> Callable[[nn.Module], dict[str, float]]:
    """Return a measure of a network for ``runs.log(curves=...)``: how many images it gets right.

    Clean, under FGSM and under PGD10, of training and of validation images: "PGD10, validation".

    Args:
        data: its training and validation splits are used, never its test split.
        images: at most so many of each; None is all.
    """
    ladder = [attacks.fgsm(data.epsilon), attacks.pgd(steps=10, epsilon=data.epsilon)]
    splits = {
        name: split if images is None else split.subset(min(images, len(split)))
        for name, split in (("train", data.train), ("validation", data.validation))
    }

    def measure(network: nn.Module) -> dict[str, float]:
        curves = {}
        for name, split in splits.items():
            evaluation = evaluate(network, split, ladder, check=False)
            curves |= {f"{row}, {name}": evaluation.accuracy(row) for row in evaluation.names}
        return curves

    return measure


def method_colours(named: Mapping[str, Method]) -> dict[str, str]:
    """Return the colour of each method in every figure, grey for one of the user's own."""
    names = {title: methods.name_of(method) for title, method in named.items()}
    return {t: methods.METHODS.entries[name].colour if name else GREY for t, name in names.items()}


def accuracy_curves(
    runs: Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]],
    names: Sequence[str],
    *,
    colours: Mapping[str, str] | None = None,
) -> "go.Figure":
    """Return accuracy against training steps, as in Figure 2: a colour per run, a dash per curve.

    Args:
        runs: of each run's name, its curves by name as (steps, fractions), as ``runs.curves_of``.
        names: which curves to draw.
        colours: by run; where left out, runs called like a method have its colour.
    """
    figure = graph_objects().Figure()
    for run, colour in _coloured(runs, colours):
        for dash, name in zip(cycle(DASHES), names, strict=False):
            steps, values = runs[run][name]
            figure.add_scatter(
                x=np.asarray(steps),
                y=100 * np.asarray(values),
                name=label(f"{run}, {name}"),
                mode="lines",
                line={"color": colour, "dash": dash},
            )
    figure.update_layout(hovermode="x unified")
    return styled(figure, "Accuracy while training", "optimiser step", "accuracy (%)")


def accuracy_bars(
    evaluations: Mapping[str, Evaluation], *, colours: Mapping[str, str] | None = None
) -> "go.Figure":
    """Return the accuracy of each model under each attack, with 95 % intervals.

    ``colours`` are as in ``accuracy_curves``.
    """
    figure = graph_objects().Figure()
    for model, colour in _coloured(evaluations, colours):
        evaluation = evaluations[model]
        values = [100 * evaluation.accuracy(name) for name in evaluation.names]
        bounds = [evaluation.interval(name) for name in evaluation.names]
        figure.add_bar(
            x=list(map(label, evaluation.names)),
            y=values,
            name=label(model),
            marker_color=colour,
            error_y=error_bars(values, [(100 * low, 100 * high) for low, high in bounds]),
        )
    return styled(figure, "Accuracy on test images, 95 % intervals", "attack", "accuracy (%)")


def _coloured(names: Iterable[str], colours: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    """Yield names with their colours; what no method is called takes a colour that is free."""
    known = {entry.title: entry.colour for entry in methods.METHODS.entries.values()}
    known |= colours or {}
    names = list(names)
    taken = {known[name] for name in names if name in known}
    free = cycle([colour for colour in COLOURS if colour not in taken] or COLOURS)
    for name in names:
        yield name, known[name] if name in known else next(free)
