"""One sign of hidden gradients: what is measured, where its limit lies, when chance is ruled out.

Limits are what robust models without hidden gradients are known to show. ``BLIND``: an attack that
is weaker than PGD20 or sees no gradient should win nothing over it; 2 % leaves room for luck.
``OBJECTIVE`` and ``TEN_TIMES``: the margin loss, or ten times the work, lowers the accuracy of
models trained by PGD or TRADES by at most about 3 points. ``AUTOATTACK``: by 3.0 (PGD training) and
3.3 (TRADES) from PGD20 in AutoAttack's own table, by 24 for Feature Scatter. ``FAR``: at the radius
1 any image can become any other, and accuracy must vanish up to a weak attack's few failures.
``ALIGNED``: neighbours' gradients of models without hidden gradients have mean cosines well above
it (0.7 and more on digits); under catastrophic overfitting they fall to about 0 (Andriushchenko and
Flammarion 2020). ``UNCLIMBED``: where PGD20 ends, 1 to 4 % of the loss's first-order range are
still to be gained on digits, over eleven networks of the kit's methods and any scale of their
logits (1 % on a ResNet-18 for CIFAR-10); 6 to 8 % after 5 steps, 36 to 42 % after one; 28 % where
gradients are shattered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from avmixup_kit._base import plots
from avmixup_kit._base.statistics import mcnemar, wilson

if TYPE_CHECKING:
    import plotly.graph_objects as go


BLIND = 0.02
OBJECTIVE = 0.03
TEN_TIMES = 0.03
AUTOATTACK = 0.05
FAR = 0.05
RISE = 0.05
VANISHED = 0.02
ALIGNED = 0.3
UNCLIMBED = 0.1
LEVEL = 0.01

SIGNS: Mapping[str, tuple[str, float]] = {
    "fgsm-above-clean": ("FGSM above clean", 0.0),
    "pgd-above-fgsm": ("PGD above FGSM", 0.0),
    "one-step": ("one step beats many", BLIND),
    "cw": ("CW beats PGD", OBJECTIVE),
    "random-search": ("random search beats PGD", BLIND),
    "more-steps": ("more steps still help", TEN_TIMES),
    "more-restarts": ("more restarts still help", TEN_TIMES),
    "transfer": ("transfer beats PGD", BLIND),
    "square": ("Square beats white-box attacks", BLIND),
    "autoattack": ("AutoAttack far below PGD", AUTOATTACK),
    "radii": ("accuracy does not vanish as epsilon grows", FAR),
    "label-line": ("label rises along the attack direction", RISE),
    "vanishing": ("gradients vanish", VANISHED),
    "alignment": ("gradients of neighbours do not align", ALIGNED),
    "fosc": ("PGD has not converged", UNCLIMBED),
}
"""Each alarm's key, with its name and its limit."""


@dataclass(frozen=True)
class Drawing:
    """What an alarm's figure shows: bars or lines of named series over common places.

    ``intervals`` are (low, high) of each value, by series, where there are any.
    """

    kind: Literal["bar", "line", "histogram"]
    x: Sequence[float] | Sequence[str]
    series: Mapping[str, Sequence[float]]
    x_title: str
    y_title: str
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None


@dataclass(frozen=True)
class Alarm:
    """One sign of hidden gradients: whether it rings, its number, sentence and figure.

    ``key`` is one of ``SIGNS`` and never changes; ``rings`` is None where it could not be tried;
    the sentence then says why.
    """

    key: str
    rings: bool | None
    value: float
    sentence: str
    drawing: Drawing | None = None

    @property
    def name(self) -> str:
        """What the alarm is about, for people."""
        return SIGNS[self.key][0]

    @property
    def limit(self) -> float:
        """What its number is held against."""
        return SIGNS[self.key][1]

    def __str__(self) -> str:
        state = {True: "RINGS", False: "silent", None: "not tried"}[self.rings]
        return f"[{state}] {self.name}: {self.sentence}"

    def figure(self) -> "go.Figure":
        """Return the alarm's figure.

        Raises:
            ValueError: the alarm was not tried.
        """
        if self.drawing is None:
            raise ValueError(f"{self.name} was not tried, so there is nothing to draw")
        return draw(self.drawing, self.name)


def draw(drawing: Drawing, title: str) -> "go.Figure":
    """Return a drawing as a figure."""
    figure = plots.graph_objects().Figure()
    places = [plots.label(place) if isinstance(place, str) else place for place in drawing.x]
    for number, (name, values) in enumerate(drawing.series.items()):
        colour = plots.COLOURS[number % len(plots.COLOURS)]
        if drawing.kind == "histogram":
            figure.add_histogram(
                x=list(values), name=plots.label(name), marker_color=colour, nbinsx=40
            )
            continue
        curve = {"x": places, "y": list(values), "name": plots.label(name)}
        if drawing.intervals and name in drawing.intervals:
            curve["error_y"] = plots.error_bars(values, drawing.intervals[name])
        if drawing.kind == "bar":
            figure.add_bar(marker_color=colour, **curve)
        else:
            dash = plots.DASHES[number % len(plots.DASHES)]
            line = {"color": colour, "dash": dash}
            figure.add_scatter(mode="lines+markers", line=line, **curve)
    figure.update_layout(showlegend=len(drawing.series) > 1)
    return plots.styled(figure, plots.label(title), drawing.x_title, drawing.y_title)


def accuracies(
    kind: Literal["bar", "line"], x: Sequence, right: Sequence[int], n: int, name: str
) -> Drawing:
    """Return the drawing of ``right`` of n images in percent, with 95 % intervals, over x."""
    bounds = [(100 * low, 100 * high) for low, high in (wilson(k, n) for k in right)]
    title = "attack" if kind == "bar" else "epsilon, in units of [0, 1] pixels"
    values = {name: [100 * k / n for k in right]}
    return Drawing(kind, x, values, title, "accuracy (%)", {name: bounds})


def bars(right: Mapping[str, int], n: int) -> Drawing:
    """Return the drawing of how many of n images are right under each attack."""
    return accuracies("bar", list(right), list(right.values()), n, "accuracy")


def untried(key: str, why: str) -> Alarm:
    """Return an alarm that could not be tried."""
    return Alarm(key, None, float("nan"), why)


def share(
    key: str,
    k: int,
    n: int,
    what: str,
    meaning: str,
    drawing: Drawing,
    *,
    more: str = "",
    silent: str = "No sign of hidden gradients here.",
) -> Alarm:
    """Return an alarm about k of n images: rings where Wilson's 99 % bound is above its limit.

    Its sentences: ``what``, the figures and ``more``; then ``meaning`` or ``silent``.
    """
    limit = SIGNS[key][1]
    lower = wilson(k, n, 1 - 2 * LEVEL)[0]
    rings = lower > limit
    figures = f"{k} of {n} ({k / n:.1%}; 99 % lower bound {lower:.1%}, limit {limit:.0%})"
    sentence = f"{what} {figures}{more}. {meaning if rings else silent}"
    return Alarm(key, rings, k / n, sentence, drawing)


def paired(key: str, weak: Tensor, strong: Tensor, words: tuple[str, str], meaning: str) -> Alarm:
    """Return an alarm that rings where ``strong`` is right on more images than ``weak``."""
    n = len(weak)
    more, fewer = int((strong & ~weak).sum()), int((weak & ~strong).sum())
    p = mcnemar(strong, weak, "greater")
    rings = p < LEVEL
    right = {words[0]: int(weak.sum()), words[1]: int(strong.sum())}
    sentence = (
        f"accuracy is {right[words[1]] / n:.1%} {words[1]} and {right[words[0]] / n:.1%} "
        f"{words[0]} (n = {n}, one-sided McNemar p = {p:.2g}). "
        f"{meaning if rings else 'The order is as it should be.'}"
    )
    return Alarm(key, rings, (more - fewer) / n, sentence, bars(right, n))
