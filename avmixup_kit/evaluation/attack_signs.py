"""Signs that attacks give: those that ought to be weaker win where PGD20 failed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.epsilons import accuracy_against_epsilon
from avmixup_kit.evaluation.evidence import Alarm, accuracies, bars, paired, share, untried
from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.evaluation.record import CLEAN, Evaluation, Judge
from avmixup_kit.methods.attacks import Attack, Norm, cw, fgsm, frozen, pgd


def reference_name(norm: Norm) -> str:
    """Return the row of the attack that all others are held against: PGD20, PGD20 l2."""
    return pgd(steps=20, norm=norm).name


def of_its_norm(result: Evaluation) -> list[str]:
    """Return the composed rows whose ball is the evaluation's."""
    return [row for row in result.stages if row.endswith(" l2") == (result.norm == "l2")]


@dataclass(frozen=True, eq=False)
class Bench:
    """What is probed: the model, a few images, the ball, and what PGD20 and FGSM find there."""

    model: nn.Module
    images: ImageSet
    epsilon: float
    seed: int
    batch_size: int
    norm: Norm = "linf"

    @property
    def reference_name(self) -> str:
        """The row of PGD20."""
        return reference_name(self.norm)

    @property
    def one_step(self) -> Attack:
        """FGSM."""
        return fgsm(self.epsilon, norm=self.norm)

    def pgd20(self, epsilon: float | None = None, source: nn.Module | None = None) -> Attack:
        """Return PGD20, at the bench's radius unless another is given."""
        radius = self.epsilon if epsilon is None else epsilon
        return pgd(steps=20, epsilon=radius, source=source, norm=self.norm)

    @property
    def n(self) -> int:
        """How many images are probed."""
        return len(self.images)

    @cached_property
    def baseline(self) -> Evaluation:
        """The clean images, FGSM and PGD20."""
        return self.evaluate(self.images, [self.one_step, self.pgd20()])

    @property
    def reference(self) -> Tensor:
        """Which images PGD20 left standing, bool (n,)."""
        return self.baseline.of(self.reference_name)

    def batches(self) -> Iterator[Tensor]:
        """Yield the numbers of the images, a batch at a time."""
        yield from torch.arange(self.n).split(self.batch_size)

    def evaluate(self, images: ImageSet, attacks: Sequence[Attack | Judge]) -> Evaluation:
        """Return what the model gets right of some images, with the bench's settings."""
        size, seed = self.batch_size, self.seed
        return evaluate(self.model, images, attacks, batch_size=size, seed=seed, check=False)

    def fooled(self, attacks: Sequence[Attack | Judge]) -> dict[str, int]:
        """Return how many images that PGD20 left standing each attack fools."""
        standing = self.reference.nonzero().squeeze(1)
        if not len(standing):
            return {attack.name: 0 for attack in attacks}
        left = self.evaluate(self.images.subset(standing), attacks)
        return {attack.name: int((~left.of(attack.name)).sum()) for attack in attacks}


def fgsm_above_clean(bench: Bench) -> Alarm:
    """Whether one step towards a larger loss helps the model."""
    right = torch.zeros(bench.n, dtype=torch.bool)
    attack = bench.one_step
    for part in bench.batches():
        x, y = batch_on(bench.model, bench.images, part)
        delta = craft(attack, bench.model, bench.images, part, bench.seed)
        with frozen(bench.model), torch.no_grad():
            right[part] = (bench.model(x + delta).argmax(1) == y.argmax(1)).cpu()
    return paired(
        "fgsm-above-clean",
        bench.baseline.of(CLEAN),
        right,
        ("on clean images", f"under {attack.name}"),
        "An attack that helps the model follows a gradient that points the wrong way.",
    )


def pgd_above_fgsm(bench: Bench) -> Alarm:
    """Whether twenty steps do worse than one."""
    one_step = bench.one_step.name
    return paired(
        "pgd-above-fgsm",
        bench.baseline.of(one_step),
        bench.reference,
        (f"under {one_step}", f"under {bench.reference_name}"),
        "Twenty steps do worse than one: the gradients along the way are misleading.",
    )


def one_step(bench: Bench) -> Alarm:
    """Whether one step finds what twenty miss."""
    fast, slow = bench.one_step.name, bench.reference_name
    one, many = bench.baseline.of(fast), bench.reference
    both = one & many
    right = {fast: int(one.sum()), slow: int(many.sum()), "both": int(both.sum())}
    return share(
        "one-step",
        int((many & ~one).sum()),
        bench.n,
        f"{fast} fools images that {slow} could not:",
        f"One step finds what {slow} misses: do not trust {slow}.",
        bars(right, bench.n),
    )


def other_attacks(bench: Bench) -> list[Alarm]:
    """CW, random search, more steps, more restarts, each on what PGD20 left standing."""
    epsilon, norm, reference = bench.epsilon, bench.norm, bench.reference_name
    margin = cw(steps=20, epsilon=epsilon, norm=norm)
    longer = pgd(steps=100, epsilon=epsilon, step_size=epsilon / 10, norm=norm)
    tried = (
        (
            "cw",
            margin,
            f"{margin.name}, the margin loss, fools images that {reference} could not:",
            "Cross-entropy's gradient is hidden, as soft labels and large logits hide it: read the "
            "CW and AutoAttack rows instead.",
        ),
        (
            "random-search",
            RandomSearch(epsilon, 500, norm),
            f"500 random queries without any gradient fool images that {reference} could not:",
            "An attack that sees no gradient wins over one that does: the gradients are hidden.",
        ),
        (
            "more-steps",
            longer,
            f"{longer.name} with smaller steps fools images that {reference} could not:",
            "Twenty steps were far from enough: the accuracy would go on falling.",
        ),
        (
            "more-restarts",
            replace(bench.pgd20(), restarts=10),
            "ten starts fool images that one could not:",
            "The loss is rugged, one start is luck: the accuracy would go on falling.",
        ),
    )
    fooled = bench.fooled([attack for _, attack, *_ in tried])
    standing = int(bench.reference.sum())
    found = []
    for key, attack, what, meaning in tried:
        k = fooled[attack.name]
        drawing = bars({reference: standing, f"then {attack.name}": standing - k}, bench.n)
        found.append(share(key, k, bench.n, what, meaning, drawing))
    return found


def transfer(bench: Bench, result: Evaluation, sources: Mapping[str, nn.Module] | None) -> Alarm:
    """Whether other models' adversarial examples win, newly made or read off the evaluation."""
    name = bench.reference_name
    suffix = " l2 (transfer)"
    rows = [row for row in result.names if row.endswith("(transfer)")]
    rows = [row for row in rows if row.endswith(suffix) == (bench.norm == "l2")]
    if sources:
        attacks = {s: bench.pgd20(source=m) for s, m in sources.items()}
        fooled = {s: bench.fooled([attack])[attack.name] for s, attack in attacks.items()}
        n, standing = bench.n, int(bench.reference.sum())
    elif name in result.names and rows and not result.ladder:
        reference = result.of(name)
        fooled = {row: int((reference & ~result.of(row)).sum()) for row in rows}
        n, standing = result.n, int(reference.sum())
    else:
        why = "no other model was given: alarms(sources={'name': model}) tries its examples."
        return untried("transfer", why)
    worst = max(fooled, key=lambda source: fooled[source])
    left = {f"then from {source}": standing - k for source, k in fooled.items()}
    return share(
        "transfer",
        fooled[worst],
        n,
        f"adversarial examples of another model ({worst}) fool images that {name} could not:",
        "Another model's gradients attack better than its own: its own are hidden.",
        bars({name: standing, **left}, n),
    )


def square(result: Evaluation) -> Alarm:
    """Whether AutoAttack's Square wins over its gradient attacks, as evaluated."""
    rows = [row for row in of_its_norm(result) if "Square" in dict(result.stages[row][1:])]
    if not rows:
        why = "AutoAttack was not evaluated; random search stands in for Square."
        return untried("square", why)
    titles, left = zip(*result.stages[rows[0]], strict=True)
    place = titles.index("Square")
    return share(
        "square",
        left[place - 1] - left[place],
        result.n,
        f"in {rows[0]}, Square fools images that {' and '.join(titles[:place])} could not:",
        "Queries without gradients win over AutoAttack's gradients: more of them would win more, "
        "and even AutoAttack's figure is too high.",
        bars(dict(result.stages[rows[0]]), result.n),
    )


def autoattack(result: Evaluation) -> Alarm:
    """Whether AutoAttack finds far more than PGD20, as evaluated."""
    reference = reference_name(result.norm)
    rows = [row for row in of_its_norm(result) if row.startswith("AutoAttack")]
    if not rows or reference not in result.names or result.ladder:
        why = (
            f"needs rows of {reference} and of autoattack(), each by itself: evaluate both "
            "without ladder=True."
        )
        return untried("autoattack", why)
    right = {row: int(result.of(row).sum()) for row in (reference, *rows)}
    strongest = min(rows, key=lambda row: right[row])
    return share(
        "autoattack",
        int((result.of(reference) & ~result.of(strongest)).sum()),
        result.n,
        f"{strongest} fools images that {reference} could not:",
        f"{reference} misses far more than it does on honest models: quote {strongest} instead.",
        bars(right, result.n),
    )


def radii(bench: Bench) -> Alarm:
    """Whether the accuracy under PGD20 vanishes as the ball grows until it holds every image."""
    name, far = bench.reference_name, 1.0
    if bench.norm == "l2":
        far = math.prod(bench.images.shape) ** 0.5
    places = [bench.epsilon / 2]
    while places[-1] < far:
        places.append(min(far, 2 * places[-1]))
    curve = accuracy_against_epsilon(
        bench.model,
        bench.images,
        places,
        attack=bench.pgd20(bench.epsilon),
        cumulative=False,
        batch_size=bench.batch_size,
        seed=bench.seed,
        check=False,
    )
    right = curve.correct.sum(1).tolist()
    return share(
        "radii",
        right[-1],
        bench.n,
        f"at radius {far:.3g}, where any image can become any other, {name} leaves standing",
        "The attack fails for want of gradients, not for want of adversarial examples.",
        accuracies("line", list(curve.epsilons), right, bench.n, name),
        silent="Accuracy vanishes, as it must.",
    )
