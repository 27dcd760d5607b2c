"""Signs of hidden gradients, after Athalye et al. (2018) and Carlini et al. (2019).

Soft labels, saturated logits and shattered gradients can make a gradient attack fail where an
adversarial example exists. Such robustness is not real, and it shows: attacks that ought to be
weaker succeed where PGD20 failed. Each alarm looks for one such sign, carries a number with its
limit, a figure and a sentence, and rings only when chance is ruled out:

* an alarm about images (an attack fools k of n that PGD20 left standing) rings when the lower end
  of Wilson's 98 % interval of k / n, a one-sided 99 % bound, lies above its limit;
* an alarm about two accuracies rings when the one-sided exact McNemar test has p < 0.01;
* an alarm about a mean rings when its one-sided 99 % bound lies beyond the limit.

Limits are what robust models without hidden gradients are known to show. ``BLIND``: an attack that
is weaker than PGD20 or sees no gradient should win nothing over it; 2 % leaves room for luck.
``OBJECTIVE`` and ``WORK``: the margin loss, or ten times the work, lowers the accuracy of models
trained by PGD or TRADES by at most about 3 points. ``AUTOATTACK``: by 3.0 (PGD training) and 3.3
(TRADES) from PGD20 in AutoAttack's own table, by 24 for Feature Scatter. ``FAR``: at the radius 1
any image can become any other, and accuracy must vanish up to a weak attack's few failures.
``ALIGNED``: neighbours' gradients of models without hidden gradients have mean cosines well above
it (0.7 and more on digits); under catastrophic overfitting they fall to about 0 (Andriushchenko
and Flammarion 2020). With fourteen alarms at 1 % each, a model that sits on every limit at once
would ring one falsely in at most 14 % of evaluations.

Silence proves nothing: AutoAttack's verdict stands above that of any alarm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from scipy import stats
from torch import Tensor, nn

from avmixup_kit._base.statistics import wilson
from avmixup_kit.data.splits import choose
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.images import Images, Pair, as_images, model_device
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.evaluation.record import CLEAN, Evaluation
from avmixup_kit.methods.attacks import cw, fgsm, frozen, pgd
from avmixup_kit.methods.losses import soft_cross_entropy

if TYPE_CHECKING:
    import plotly.graph_objects as go


BLIND = 0.02
OBJECTIVE = 0.03
WORK = 0.03
AUTOATTACK = 0.05
FAR = 0.05
RISE = 0.05
VANISHED = 0.02
ALIGNED = 0.3
LEVEL = 0.01

REFERENCE = "PGD20"


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
    """One sign of hidden gradients: whether it rings, its number, limit, sentence and figure.

    ``rings`` is None where it could not be tried; the sentence then says why.
    """

    name: str
    rings: bool | None
    value: float
    limit: float
    sentence: str
    drawing: Drawing | None = None

    def __str__(self) -> str:
        state = {True: "RINGS", False: "silent", None: "not tried"}[self.rings]
        return f"[{state}] {self.name}: {self.sentence}"

    def figure(self) -> "go.Figure":
        """Return the alarm's figure.

        Raises:
            ValueError: the alarm was not tried.
        """
        from avmixup_kit._base import plots

        if self.drawing is None:
            raise ValueError(f"{self.name} was not tried, so there is nothing to draw")
        return draw(self.drawing, plots.styled, self.name)


def draw(drawing: Drawing, styled, title: str) -> "go.Figure":
    """Return a plotly figure of a drawing, in the kit's look."""
    from avmixup_kit._base import plots

    figure = plots.graph_objects().Figure()
    for number, (name, values) in enumerate(drawing.series.items()):
        colour = plots.COLOURS[number % len(plots.COLOURS)]
        if drawing.kind == "histogram":
            figure.add_histogram(x=list(values), name=name, marker_color=colour, nbinsx=40)
            continue
        error = None
        if drawing.intervals and name in drawing.intervals:
            bounds = drawing.intervals[name]
            error = {
                "type": "data",
                "array": [high - v for (_, high), v in zip(bounds, values, strict=True)],
                "arrayminus": [v - low for (low, _), v in zip(bounds, values, strict=True)],
                "color": plots.GREY,
            }
        if drawing.kind == "bar":
            figure.add_bar(
                x=list(drawing.x), y=list(values), name=name, marker_color=colour, error_y=error
            )
        else:
            dash = plots.DASHES[number % len(plots.DASHES)]
            figure.add_scatter(
                x=list(drawing.x),
                y=list(values),
                name=name,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                error_y=error,
            )
    figure.update_layout(showlegend=len(drawing.series) > 1)
    return styled(figure, title, drawing.x_title, drawing.y_title)


# ------------------------------------------------------------------------------------- the probe


@dataclass(frozen=True, eq=False)
class _Bench:
    """What is probed: the model, a few images, the radius, and what PGD20 and FGSM found there."""

    model: nn.Module
    images: Images
    epsilon: float
    seed: int
    batch_size: int
    clean: Tensor
    one_step: Tensor
    reference: Tensor

    @property
    def n(self) -> int:
        return len(self.images)

    def batches(self) -> list[Tensor]:
        return list(torch.arange(self.n).split(self.batch_size))

    def fooled(self, attacks: Sequence) -> dict[str, int]:
        """Return how many images that PGD20 left standing each attack fools."""
        standing = self.reference.nonzero().squeeze(1)
        if not len(standing):
            return {attack.name: 0 for attack in attacks}
        left = evaluate(
            self.model,
            self.images.subset(standing),
            attacks,
            batch_size=self.batch_size,
            seed=self.seed,
            check=False,
        )
        return {attack.name: int((~left.of(attack.name)).sum()) for attack in attacks}


def alarms(
    result: Evaluation,
    model: nn.Module,
    images: Images | Pair,
    *,
    sources: Mapping[str, nn.Module] | None = None,
    count: int = 200,
    epsilon: float | None = None,
) -> list[Alarm]:
    """Return the signs of hidden gradients that ring, each with figure and sentence.

    What was evaluated is probed again with attacks chosen to disagree where robustness is not
    real; ``probe`` returns the silent ones and those that could not be tried as well.

    Args:
        result, model, images: an evaluation and what was evaluated.
        sources: other models, whose adversarial examples are tried too.
        count: how many images are probed, the same for the same images and count.
        epsilon: radius; needed only where no attack was evaluated.

    Raises:
        ValueError: the radius is missing, or model or images are not those that were evaluated.
    """
    every = probe(result, model, images, sources=sources, count=count, epsilon=epsilon)
    return [alarm for alarm in every if alarm.rings]


def probe(
    result: Evaluation,
    model: nn.Module,
    images: Images | Pair,
    *,
    sources: Mapping[str, nn.Module] | None = None,
    count: int = 200,
    epsilon: float | None = None,
    batch_size: int = 256,
) -> list[Alarm]:
    """Return every alarm, ringing, silent or not tried, about an evaluated model.

    Attacks ``count`` of the evaluated images anew, at the evaluation's radius and seed; rows of
    AutoAttack and of transferred examples are read off the evaluation itself. The arguments are
    those of ``alarms``.

    Raises:
        ValueError: the radius is missing, or model or images are not those that were evaluated.
    """
    images = as_images(model, images)
    epsilon = result.epsilon if epsilon is None else epsilon
    if epsilon is None:
        raise ValueError("epsilon is missing: no attack was evaluated, so the radius is unknown")
    if len(images) != result.n:
        raise ValueError(f"{len(images)} images were given, {result.n} were evaluated")
    index = torch.from_numpy(choose(images.labels.cpu().numpy(), min(count, len(images)), seed=0))
    subset = images.subset(index)
    seed = result.seed
    found = evaluate(
        model,
        subset,
        [fgsm(epsilon), pgd(steps=20, epsilon=epsilon)],
        batch_size=batch_size,
        seed=seed,
        check=False,
    )
    if not torch.equal(found.of(CLEAN), result.of(CLEAN)[index]):
        raise ValueError(
            "the model does not classify these images as it did when it was evaluated: it was "
            "trained on, or model or images are others; evaluate again"
        )
    bench = _Bench(
        model,
        subset,
        epsilon,
        seed,
        batch_size,
        found.of(CLEAN),
        found.of("FGSM"),
        found.of(REFERENCE),
    )
    return [
        _fgsm_above_clean(bench),
        _iterative_above_one_step(bench),
        _one_step_wins(bench),
        *_other_attacks(bench),
        _transfer(bench, result, sources),
        _square(result),
        _autoattack(result),
        _radii(bench),
        _label_line(bench),
        *_gradients(bench),
    ]


def _lower(k: int, n: int) -> float:
    return wilson(k, n, 1 - 2 * LEVEL)[0] if n else 0.0


def _share(
    name: str, k: int, n: int, limit: float, what: str, meaning: str, bars: Mapping[str, int]
) -> Alarm:
    """Return an alarm about k of n images; ``bars`` are counts of n for its figure."""
    lower = _lower(k, n)
    rings = lower > limit
    sentence = f"{what}: {_bounded(k, n, lower, limit)}. "
    sentence += meaning if rings else "No sign of hidden gradients here."
    drawing = Drawing(
        "bar",
        list(bars),
        {"accuracy": [100 * right / n for right in bars.values()]},
        "attack",
        "accuracy (%)",
        {"accuracy": [_percent(wilson(right, n)) for right in bars.values()]},
    )
    return Alarm(name, rings, k / n, limit, sentence, drawing)


def _bounded(k: int, n: int, lower: float, limit: float) -> str:
    return f"{k} of {n} ({k / n:.1%}; 99 % lower bound {lower:.1%}, limit {limit:.0%})"


def _percent(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]


def _paired(name: str, weak: Tensor, strong: Tensor, words: tuple[str, str], meaning: str) -> Alarm:
    """Return an alarm that rings where ``strong`` is right on more images than ``weak``."""
    n = len(weak)
    more, fewer = int((strong & ~weak).sum()), int((weak & ~strong).sum())
    p = 1.0
    if more + fewer:
        p = float(stats.binomtest(more, more + fewer, 0.5, alternative="greater").pvalue)
    rings = p < LEVEL
    right = {words[0]: int(weak.sum()), words[1]: int(strong.sum())}
    sentence = (
        f"accuracy is {right[words[1]] / n:.1%} {words[1]} and {right[words[0]] / n:.1%} "
        f"{words[0]} (n = {n}, one-sided McNemar p = {p:.2g}). "
    )
    sentence += meaning if rings else "The order is as it should be."
    drawing = Drawing(
        "bar",
        list(words),
        {"accuracy": [100 * right[word] / n for word in words]},
        "",
        "accuracy (%)",
        {"accuracy": [_percent(wilson(right[word], n)) for word in words]},
    )
    return Alarm(name, rings, (more - fewer) / n, 0.0, sentence, drawing)


def _fgsm_above_clean(bench: _Bench) -> Alarm:
    right = torch.zeros(bench.n, dtype=torch.bool)
    attack = fgsm(bench.epsilon)
    for part in bench.batches():
        x, y = _batch(bench, part)
        delta = craft(attack, bench.model, bench.images, part, bench.seed)
        with frozen(bench.model), torch.no_grad():
            right[part] = (bench.model(x + delta).argmax(1) == y.argmax(1)).cpu()
    return _paired(
        "FGSM above clean",
        bench.clean,
        right,
        ("on clean images", "under FGSM"),
        "An attack that helps the model follows a gradient that points the wrong way.",
    )


def _iterative_above_one_step(bench: _Bench) -> Alarm:
    return _paired(
        "PGD above FGSM",
        bench.one_step,
        bench.reference,
        ("under FGSM", f"under {REFERENCE}"),
        "Twenty steps do worse than one: the gradients along the way are misleading.",
    )


def _one_step_wins(bench: _Bench) -> Alarm:
    k = int((bench.reference & ~bench.one_step).sum())
    return _share(
        "one step beats many",
        k,
        bench.n,
        BLIND,
        f"FGSM fools images that {REFERENCE} could not",
        f"One step finds what {REFERENCE} misses: do not trust {REFERENCE}.",
        {
            "FGSM": int(bench.one_step.sum()),
            REFERENCE: int(bench.reference.sum()),
            "both": int((bench.one_step & bench.reference).sum()),
        },
    )


def _other_attacks(bench: _Bench) -> list[Alarm]:
    """CW, random search, more steps, more restarts, each on what PGD20 left standing."""
    epsilon = bench.epsilon
    tried = (
        (
            "CW beats PGD",
            cw(steps=20, epsilon=epsilon),
            OBJECTIVE,
            "CW20, the margin loss, fools images that {0} could not",
            "Cross-entropy's gradient is hidden, as soft labels and large logits hide it: read the "
            "CW and AutoAttack rows instead.",
        ),
        (
            "random search beats PGD",
            RandomSearch(epsilon, 500),
            BLIND,
            "500 random queries without any gradient fool images that {0} could not",
            "An attack that sees no gradient wins over one that does: the gradients are hidden.",
        ),
        (
            "more steps still help",
            pgd(steps=100, epsilon=epsilon, step_size=epsilon / 10),
            WORK,
            "PGD100 with smaller steps fools images that {0} could not",
            "Twenty steps were far from enough: the accuracy would go on falling.",
        ),
        (
            "more restarts still help",
            pgd(steps=20, epsilon=epsilon, restarts=10),
            WORK,
            "ten starts fool images that one could not",
            "The loss is rugged, one start is luck: the accuracy would go on falling.",
        ),
    )
    fooled = bench.fooled([attack for _, attack, *_ in tried])
    standing = int(bench.reference.sum())
    return [
        _share(
            name,
            fooled[attack.name],
            bench.n,
            limit,
            what.format(REFERENCE),
            meaning,
            {REFERENCE: standing, f"then {attack.name}": standing - fooled[attack.name]},
        )
        for name, attack, limit, what, meaning in tried
    ]


def _transfer(
    bench: _Bench, evaluation: Evaluation, sources: Mapping[str, nn.Module] | None
) -> Alarm:
    name = "transfer beats PGD"
    meaning = "Another model's gradients attack better than its own: its own are hidden."
    own = [row for row in evaluation.names if row == REFERENCE]
    rows = [row for row in evaluation.names if row.endswith("(transfer)")]
    if sources:
        fooled = {
            source: bench.fooled([pgd(steps=20, epsilon=bench.epsilon, source=other)])[
                f"{REFERENCE} (transfer)"
            ]
            for source, other in sources.items()
        }
        n, standing = bench.n, int(bench.reference.sum())
    elif own and rows and not evaluation.ladder:
        reference = evaluation.of(REFERENCE)
        fooled = {row: int((reference & ~evaluation.of(row)).sum()) for row in rows}
        n, standing = evaluation.n, int(reference.sum())
    else:
        why = "no other model was given: alarms(sources={'name': model}) tries its examples."
        return Alarm(name, None, float("nan"), BLIND, why)
    worst = max(fooled, key=lambda source: fooled[source])
    return _share(
        name,
        fooled[worst],
        n,
        BLIND,
        f"adversarial examples of another model ({worst}) fool images that {REFERENCE} could not",
        meaning,
        {REFERENCE: standing, **{f"then from {s}": standing - k for s, k in fooled.items()}},
    )


def _square(evaluation: Evaluation) -> Alarm:
    name = "Square beats white-box attacks"
    for row, stages in evaluation.stages.items():
        titles = [title for title, _ in stages]
        if "Square" in titles[1:]:
            place = titles.index("Square")
            before, after = stages[place - 1][1], stages[place][1]
            return _share(
                name,
                before - after,
                evaluation.n,
                BLIND,
                f"in {row}, Square fools images that {' and '.join(titles[:place])} could not",
                "Queries without gradients win over AutoAttack's gradients: more of them would "
                "win more, and even AutoAttack's figure is too high.",
                {title: left for title, left in stages},
            )
    why = "AutoAttack was not evaluated; random search stands in for Square."
    return Alarm(name, None, float("nan"), BLIND, why)


def _autoattack(evaluation: Evaluation) -> Alarm:
    name = "AutoAttack far below PGD"
    rows = [row for row in evaluation.stages if row.startswith("AutoAttack")]
    if not rows or REFERENCE not in evaluation.names or evaluation.ladder:
        why = (
            f"needs rows of {REFERENCE} and of autoattack(), each by itself: evaluate both "
            "without ladder=True."
        )
        return Alarm(name, None, float("nan"), AUTOATTACK, why)
    reference = evaluation.of(REFERENCE)
    right = {row: evaluation.of(row) for row in rows}
    strongest = min(rows, key=lambda row: int(right[row].sum()))
    return _share(
        name,
        int((reference & ~right[strongest]).sum()),
        evaluation.n,
        AUTOATTACK,
        f"{strongest} fools images that {REFERENCE} could not",
        f"{REFERENCE} misses far more than it does on honest models: quote {strongest} instead.",
        {REFERENCE: int(reference.sum()), **{row: int(right[row].sum()) for row in rows}},
    )


def _radii(bench: _Bench) -> Alarm:
    """The accuracy under PGD20 as the ball grows until it holds every image."""
    radii = [bench.epsilon / 2]
    while radii[-1] < 1:
        radii.append(min(1.0, 2 * radii[-1]))
    right = [
        int(
            evaluate(
                bench.model,
                bench.images,
                [pgd(steps=20, epsilon=radius)],
                batch_size=bench.batch_size,
                seed=bench.seed,
                check=False,
            )
            .of(REFERENCE)
            .sum()
        )
        for radius in radii
    ]
    n, k = bench.n, right[-1]
    lower = _lower(k, n)
    rings = lower > FAR
    sentence = (
        f"at radius 1, where any image can become any other, {REFERENCE} leaves standing "
        f"{_bounded(k, n, lower, FAR)}. "
    )
    sentence += (
        "The attack fails for want of gradients, not for want of adversarial examples."
        if rings
        else "Accuracy vanishes, as it must."
    )
    drawing = Drawing(
        "line",
        [0.0, *radii],
        {REFERENCE: [100 * r / n for r in (int(bench.clean.sum()), *right)]},
        "epsilon, in units of [0, 1] pixels",
        "accuracy (%)",
        {REFERENCE: [_percent(wilson(r, n)) for r in (int(bench.clean.sum()), *right)]},
    )
    return Alarm("accuracy does not vanish as epsilon grows", rings, k / n, FAR, sentence, drawing)


def label_line(
    model: nn.Module,
    images: Images,
    epsilon: float,
    places: Sequence[float],
    *,
    batch_size: int = 256,
) -> Tensor:
    """Return the true class's probability at x + t delta, (places, N), for each t of ``places``.

    delta is FGSM's: the first-order attack direction at full epsilon, not clipped to valid pixels,
    like the vertex of Equation (12).
    """
    rows = []
    for part in torch.arange(len(images)).split(batch_size):
        x, y = (tensor.to(model_device(model)) for tensor in images.batch(part.to(images.device)))
        with frozen(model):
            gradient = _input_gradient(model, x, y)
            with torch.no_grad():
                line = [
                    (model(x + t * epsilon * gradient.sign()).softmax(1) * y).sum(1) for t in places
                ]
        rows.append(torch.stack(line).cpu())
    return torch.cat(rows, dim=1)


def _label_line(bench: _Bench) -> Alarm:
    places = [t / 4 for t in range(9)]
    line = label_line(
        bench.model, bench.images, bench.epsilon, places, batch_size=bench.batch_size
    )[:, bench.clean]
    n = line.shape[1]
    name = "label rises along the attack direction"
    if not n:
        return Alarm(name, None, float("nan"), RISE, "no image is classified correctly.")
    k = int((line[4] > line[0] + 0.01).sum())
    lower = _lower(k, n)
    rings = lower > RISE
    sentence = (
        f"along FGSM's direction the true class's probability is higher at epsilon than at the "
        f"image for {_bounded(k, n, lower, RISE)}; its mean goes from {line[0].mean():.2f} to "
        f"{line[4].mean():.2f}. "
    )
    sentence += (
        "The model has learned to be surer where attacks go, so their gradients lead nowhere."
        if rings
        else "It falls, as it should."
    )
    quartiles = torch.quantile(line.double(), torch.tensor([0.25, 0.5, 0.75]).double(), dim=1)
    series = {"mean": line.double().mean(1).tolist()} | {
        label: row.tolist()
        for label, row in zip(
            ("lower quartile", "median", "upper quartile"), quartiles, strict=True
        )
    }
    drawing = Drawing("line", places, series, "t, in x + t delta", "probability of the true class")
    return Alarm(name, rings, k / n, RISE, sentence, drawing)


def _batch(bench: _Bench, part: Tensor) -> tuple[Tensor, Tensor]:
    x, y = bench.images.batch(part.to(bench.images.device))
    device = model_device(bench.model)
    return x.to(device), y.to(device)


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        return torch.autograd.grad(soft_cross_entropy(model(x), y).sum(), x)[0]


def _gradients(bench: _Bench) -> list[Alarm]:
    """Whether cross-entropy's input gradients are there at all, and agree between neighbours."""
    here, there = [], []
    rng = torch.Generator().manual_seed(bench.seed)
    # One neighbour's direction for all images, so that verdicts do not depend on the batch.
    shift = (torch.rand(1, *bench.images.shape, generator=rng) * 2 - 1) * bench.epsilon
    for part in bench.batches():
        x, y = _batch(bench, part)
        with frozen(bench.model):
            here.append(_input_gradient(bench.model, x, y).flatten(1).cpu())
            neighbour = (x + shift.to(x)).clamp(0, 1)
            there.append(_input_gradient(bench.model, neighbour, y).flatten(1).cpu())
    first, second = torch.cat(here)[bench.clean], torch.cat(there)[bench.clean]
    return [_vanishing(first), _aligned(first, second)]


def _vanishing(gradient: Tensor) -> Alarm:
    n = len(gradient)
    name = "gradients vanish"
    if not n:
        return Alarm(name, None, float("nan"), VANISHED, "no image is classified correctly.")
    k = int(((gradient == 0).double().mean(1) > 0.5).sum())
    lower = _lower(k, n)
    rings = lower > VANISHED
    sentence = (
        f"the gradient is exactly zero on most pixels of {_bounded(k, n, lower, VANISHED)} images. "
    )
    sentence += (
        "Cross-entropy underflows, as with very large logits: divide the logits by a number, or "
        "read the CW and AutoAttack rows."
        if rings
        else "Attacks have gradients to follow."
    )
    size = gradient.abs().amax(1).clamp_min(1e-45).double().log10().tolist()
    drawing = Drawing(
        "histogram", [], {"images": size}, "log10 of the largest entry (-45: zero)", "images"
    )
    return Alarm(name, rings, k / n, VANISHED, sentence, drawing)


def _aligned(first: Tensor, second: Tensor) -> Alarm:
    name = "gradients of neighbours do not align"
    # Scaled before squaring: gradients of sure models are too small for float32's squares.
    largest = [g.double().abs().amax(1) for g in (first, second)]
    there = (largest[0] > 0) & (largest[1] > 0)
    if int(there.sum()) < 2:
        why = "hardly any image has a gradient (see: gradients vanish)."
        return Alarm(name, None, float("nan"), ALIGNED, why)
    scaled = [
        g.double()[there] / size[there].unsqueeze(1)
        for g, size in zip((first, second), largest, strict=True)
    ]
    cosines = torch.cosine_similarity(*scaled, dim=1)
    n, mean = len(cosines), float(cosines.mean())
    upper = mean + float(stats.t.ppf(1 - LEVEL, n - 1)) * float(cosines.std()) / n**0.5
    rings = upper < ALIGNED
    sentence = (
        f"gradients at an image and at a random neighbour inside the ball have a mean cosine of "
        f"{mean:.2f} (n = {n}; 99 % upper bound {upper:.2f}, limit {ALIGNED:.1f}). "
    )
    sentence += (
        "They point in unrelated directions: one gradient says nothing about the ball."
        if rings
        else "Each says something about the other."
    )
    drawing = Drawing(
        "histogram", [], {"images": cosines.tolist()}, "cosine with a neighbour's", "images"
    )
    return Alarm(name, rings, mean, ALIGNED, sentence, drawing)
