"""Evaluation: an attacks x examples matrix of what was classified correctly; the rest is sums.

Randomness comes from (seed, image) alone, so neither batch size, nor order, nor whatever else is
evaluated changes a verdict, and no generator of a training is touched. Only examples still
standing are attacked.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from avmixup_kit._base import check as checked
from avmixup_kit._base import distributed
from avmixup_kit.data.splits import Source
from avmixup_kit.evaluation.crafting import craft, first_state
from avmixup_kit.evaluation.draws import MeanOverDraws, averaged
from avmixup_kit.evaluation.images import ImageSet, answered, as_images, batch_on
from avmixup_kit.evaluation.record import CLEAN, Evaluation, Judge, Refusing, Rule, Verdict
from avmixup_kit.evaluation.rows import Row, as_rows
from avmixup_kit.evaluation.sanity import Again, check_logits, check_source, inspect
from avmixup_kit.methods.attacks import Attack, Ball, Norm, frozen
from avmixup_kit.methods.losses import TransportDistance


def evaluate(
    model: nn.Module,
    split: Source,
    attacks: Sequence[Row] = (),
    *,
    batch_size: int = 256,
    seed: int = 0,
    rule: Rule = "any",
    ladder: bool = False,
    check: bool = True,
    draws: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Return what ``model`` classifies correctly, clean and under each attack.

    Attacks that differ in nothing but their number of steps share one run (PGD10 is a prefix of
    PGD20). Images misclassified without an attack count as fooled by every attack. Processes that
    train together (``distributed.joined``) share the images out; each must call this, and each gets
    the whole evaluation.

    Args:
        model: from images in [0, 1] to logits (N, K); left as it was found.
        split: images and labels, a ``Split`` or what ``Split.of`` makes one of; moved batch by
            batch to the model's device.
        attacks: rows, among them ``autoattack()`` and callables of one's own (``rows.Crafter``);
            each crafts with batch norm in eval mode, whatever its own setting.
        batch_size: how many images are attacked at once; changes nothing but speed and memory
            (``autoattack(per="batch")`` excepted).
        seed: of the attacks' starts, together with each image's content; AutoAttack's seed.
        rule: ``"any"`` counts an image as fooled when any iterate, the start included, fools the
            model; ``"last"``, which most repositories report, only when the last one does.
            Transferred examples are always the last iterate.
        ladder: attack only what the attacks before left standing, so that a row is the worst case
            so far and the last row that of all: fewer gradients, the same worst case.
        check: look for what would make an evaluation worthless first (``sanity.inspect``).
        draws: of a random network (dropout left on, noise layers): every gradient and every verdict
            is about the mean probabilities of so many forwards (``draws.MeanOverDraws``), each of
            which counts as a gradient. Verdicts then depend on the batch. None: one forward.
        progress: show a progress bar.

    Raises:
        TypeError: something else in place of a list of attacks, or in it; a model that is no
            Module or returns no float tensor.
        ValueError: no images, another number of classes, an attack whose images influence each
            other, two attacks of one name, a callable's perturbation outside the ball or the valid
            pixels, and whatever ``sanity.inspect`` and ``sanity.Again`` find: probabilities in
            place of logits, a model that is random (without ``draws``) or stuck in training mode,
            NaN, other pixels.
    """
    attacks = as_rows(attacks)
    if isinstance(model, MeanOverDraws):
        model, draws = model.model, model.draws
    checked.one_of("rule", rule, get_args(Rule))
    checked.whole("batch_size", batch_size)
    seed = int(seed) if isinstance(seed, np.integer) else seed
    checked.whole("seed", seed, 0)
    checked.that(seed < 2**63, "seed", seed, "a whole number below 2**63")
    split = as_images(model, split)
    if len(split) == 0:
        raise ValueError(f"{split.name} has no images to evaluate")
    names = (CLEAN, *(attack.name for attack in attacks))
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two attacks are called {', '.join(twins)}: evaluate them separately")
    for attack in attacks:
        if isinstance(attack, Attack) and isinstance(attack.objective, TransportDistance):
            raise ValueError(
                f"{attack.name} cannot be evaluated: its images influence each other, so a "
                "verdict would depend on the batch"
            )
        able = attack.objective if isinstance(attack, Attack) else attack
        if isinstance(able, Refusing):
            able.check(split.num_classes, split.shape)
        if isinstance(attack, Attack) and attack.source is not None:
            check_source(attack.source, split, attack.name)
    notes = inspect(model, split, attacked=bool(attacks), draws=draws) if check else ()
    model = averaged(model, draws, seed)
    with frozen(model):
        clean = torch.zeros(len(split), dtype=torch.bool)
        mine = torch.arange(len(split))[distributed.share(len(split))]
        again = Again(mine if check and draws is None else mine[:0], bool(attacks))
        for part in mine.split(batch_size):
            if len(part):
                x, y = batch_on(model, split, part)
                with torch.no_grad():
                    logits = answered(model, x, batch_size)
                clean[part] = _verdict(logits, y).cpu()
                again.keep(part, logits)
        again.check(model, split)
        rows = {CLEAN: Verdict(clean, 0)}
        left = clean
        groups = list(_groups(attacks))
        bar = progress and distributed.rank() == 0
        with _bar(int(clean.sum()) * sum(map(_passes, groups)), bar) as advance:
            shared = _Shared(model, split, batch_size, seed, rule, advance)
            for group in groups:
                standing = (left if ladder else clean).nonzero().squeeze(1)
                found = _judged(shared, group, standing)
                for attack in group:
                    verdict = found[attack.name]
                    if draws and getattr(attack, "source", None) is None:
                        # AutoAttack advises what has been done.
                        said = tuple(note for note in verdict.notes if "randomized" not in note)
                        verdict = verdict._replace(gradients=verdict.gradients * draws, notes=said)
                    if ladder:
                        left = left & verdict.correct
                        verdict = verdict._replace(correct=left)
                    rows[attack.name] = verdict
    rows = {name: _whole(rows[name]) for name in names}
    norms: list[Norm] = [getattr(attack, "norm", "linf") for attack in attacks]
    norm: Norm = "l2" if norms and "linf" not in norms else "linf"
    if len(set(norms)) > 1:
        notes = (*notes, "attacks of two norms were tried; epsilon is that of l-infinity")
    radii = [attack.epsilon for attack, its in zip(attacks, norms, strict=True) if its == norm]
    return Evaluation(
        names,
        torch.stack([rows[name].correct for name in names]),
        tuple(rows[name].gradients for name in names),
        rule,
        seed,
        split.name,
        max(radii, default=None),
        ladder,
        {name: rows[name].stages for name in names if rows[name].stages},
        (*notes, *(note for name in names for note in rows[name].notes)),
        draws,
        norm,
    )


def _whole(part: Verdict) -> Verdict:
    """Return the verdict on all images from those of all processes, each on its share."""
    if distributed.world() == 1:
        return part
    counts = torch.tensor([part.gradients, *(left for _, left in part.stages)])
    gradients, *left = distributed.summed(counts).tolist()
    stages = tuple((name, n) for (name, _), n in zip(part.stages, left, strict=True))
    notes = dict.fromkeys(note for each in distributed.everyones(part.notes) for note in each)
    correct = distributed.summed(part.correct.to(torch.uint8)).bool()
    return Verdict(correct, gradients, stages, tuple(notes))


def _passes(group: Sequence[Attack | Judge]) -> int:
    last = group[-1]
    return last.restarts if isinstance(last, Attack) else last.passes


@dataclass(frozen=True)
class _Shared:
    """What all attacks of an evaluation have in common."""

    model: nn.Module
    split: ImageSet
    batch_size: int
    seed: int
    rule: Rule
    advance: Callable[[int], object]


def _judged(
    shared: _Shared, group: Sequence[Attack | Judge], standing: Tensor
) -> dict[str, Verdict]:
    """Return the verdicts of attacks that share one run, by name."""
    attacks = [attack for attack in group if isinstance(attack, Attack)]
    if not attacks:
        (judge,) = group
        assert not isinstance(judge, Attack)
        model, split, batch_size, seed = shared.model, shared.split, shared.batch_size, shared.seed
        found = judge.judge(model, split, standing, batch_size, seed, shared.advance)
        return {judge.name: found}
    target, note = attacks[-1].target, ()
    spared = standing[:0]
    if target is not None:
        labels = shared.split.labels.cpu()
        own = labels[standing] == target
        standing, spared = standing[~own], standing[own]
        count = f"{int((labels == target).sum())} of {len(labels)} images are of class {target}"
        note = (f"{attacks[-1].name}: {count}, which it aims at, and were not attacked",)
    if attacks[-1].source is not None:
        found = _transfer(shared, attacks[-1], standing)
    else:
        found = _Ladder(shared, attacks)(standing)
    for verdict in found.values():
        verdict.correct[spared] = True
    return {name: verdict._replace(notes=note) for name, verdict in found.items()}


# ---------------------------------------------------------------------------------- how it is done


@contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    if not show:
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="image", desc="attack", leave=False, disable=None) as bar:
        done, all_of_it = 0, max(total, 1)

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            bar.update(count)
            # Nothing but a terminal or a notebook can show a bar; files get ten lines.
            if bar.disable and 10 * done // all_of_it > 10 * before // all_of_it:
                print(f"attack: {done} of {total} images", file=sys.stderr, flush=True)

        yield advance


def _correct(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return _verdict(answered(model, x, batch_size), y)


def _verdict(logits: Tensor, y: Tensor) -> Tensor:
    check_logits(logits, y)
    return logits.argmax(1) == y.argmax(1)


def _groups(attacks: Sequence[Attack | Judge]) -> Iterator[list[Attack | Judge]]:
    """Yield attacks that share one run, fewest steps first."""
    groups: dict[object, list[Attack | Judge]] = defaultdict(list)
    for attack in attacks:
        key: object = id(attack)
        if isinstance(attack, Attack) and attack.restarts == 1 and attack.source is None:
            key = replace(attack, steps=1, step_size=attack.step, batch_norm="eval", source=None)
        groups[key].append(attack)
    for group in groups.values():
        yield sorted(group, key=lambda attack: attack.steps if isinstance(attack, Attack) else 0)


class _Ladder:
    """One white-box ladder: attacks alike but for their steps, on one model."""

    def __init__(self, shared: _Shared, attacks: list[Attack]) -> None:
        self.model, self.split, self.seed = shared.model, shared.split, shared.seed
        self.batch_size, self.advance = shared.batch_size, shared.advance
        self.drop = shared.rule == "any"
        self.attacks, self.attack = attacks, attacks[-1]
        self.marks = [attack.steps for attack in attacks]
        self.gradients = dict.fromkeys(self.marks, 0)

    def __call__(self, standing: Tensor) -> dict[str, Verdict]:
        """Return, for each attack of the ladder, what stayed correct (N,) and its gradients."""
        kept = torch.zeros(len(self.marks), len(self.split), dtype=torch.bool)
        kept[:, standing] = True
        for restart in range(self.attack.restarts):
            kept &= self._from_start(kept[-1].nonzero().squeeze(1), restart)
        return {
            attack.name: Verdict(row, self.gradients[attack.steps])
            for attack, row in zip(self.attacks, kept, strict=True)
        }

    def _from_start(self, queue: Tensor, restart: int) -> Tensor:
        """Return which examples of the queue each mark left standing, (marks, N); others False.

        A pool of at most ``batch_size`` examples moves together, each at its own iterate. The
        forward that gives the next gradient also tells whether this iterate already fools the
        model; those it fools leave, and the pool is filled up from the queue. Examples that have
        taken their last step wait for a forward without gradient.
        """
        kept = torch.zeros(len(self.marks), len(self.split), dtype=torch.bool)
        if not len(queue):
            return kept
        done: list[_Pool] = []
        pool = self._enter(queue[: self.batch_size], restart)
        position = len(pool)
        while len(pool) or position < len(queue):
            room = self.batch_size - len(pool)
            # Refilling by dribs costs a data fetch each; a quarter of a batch is worth one.
            if position < len(queue) and room * 4 >= self.batch_size:
                pool = pool.join(self._enter(queue[position : position + room], restart))
                position += room
            pool, finished = self._step(pool, kept)
            if len(finished):
                done.append(finished)
            last = not len(pool) and position >= len(queue)
            while done and (last or sum(map(len, done)) >= self.batch_size):
                self._finish(done, kept)
        return kept

    def _enter(self, index: Tensor, restart: int) -> "_Pool":
        x, y, delta, reference = first_state(
            self.attack, self.model, self.split, index, self.seed, restart
        )
        return _Pool(index, x, y, delta, torch.zeros(len(index), dtype=torch.long), reference)

    def _step(self, pool: "_Pool", kept: Tensor) -> tuple["_Pool", "_Pool"]:
        """Take one gradient step; return those that go on and those at their last iterate."""
        attack = self.attack
        x_hat = (pool.x + pool.delta).requires_grad_(True)
        with torch.enable_grad():
            logits = answered(self.model, x_hat, self.batch_size)
            value = attack.objective(logits, pool.y, pool.reference).sum()
            (gradient,) = torch.autograd.grad(value, x_hat)
        for mark in self.marks:
            self.gradients[mark] += int((pool.t < mark).sum())
        right = self._judge(pool, logits.detach(), kept)
        allowed = Ball(pool.x, attack.epsilon, attack.norm)
        pool.delta = allowed.climb(pool.delta, gradient, attack.step)
        pool.t = pool.t + 1
        if self.drop:
            self.advance(int((~right).sum()))
            pool = pool.keep(right)
        last = pool.t == self.marks[-1]
        return pool.keep(~last), pool.keep(last)

    def _finish(self, done: list["_Pool"], kept: Tensor) -> None:
        pool = done.pop()
        while done and len(pool) + len(done[-1]) <= self.batch_size:
            pool = pool.join(done.pop())
        with torch.no_grad():
            logits = answered(self.model, pool.x + pool.delta, self.batch_size)
        self._judge(pool, logits, kept)
        self.advance(len(pool))

    def _judge(self, pool: "_Pool", logits: Tensor, kept: Tensor) -> Tensor:
        """Write the verdicts of the pool's iterates t into ``kept`` and return them, (len,)."""
        right = _verdict(logits, pool.y).cpu()
        for row, mark in enumerate(self.marks):
            if self.drop:
                # Standing at iterate `mark` means no earlier iterate, start included, fooled.
                kept[row, pool.index[right & (pool.t == mark)]] = True
            else:
                kept[row, pool.index[pool.t == mark]] = right[pool.t == mark]
        return right


@dataclass
class _Pool:
    """Images under attack: their numbers, pixels, labels, perturbations and iterates."""

    index: Tensor
    x: Tensor
    y: Tensor
    delta: Tensor
    t: Tensor
    reference: Tensor | None

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, mask: Tensor) -> "_Pool":
        if bool(mask.all()):
            return self
        there = mask.nonzero().squeeze(1)
        on_device = there.to(self.x.device)
        return self._with(
            lambda name, held: held[there if held.device == there.device else on_device]
        )

    def join(self, other: "_Pool") -> "_Pool":
        return self._with(lambda name, held: torch.cat([held, getattr(other, name)]))

    def _with(self, change: Callable[[str, Tensor], Tensor]) -> "_Pool":
        """Return a pool with every tensor changed, given its name; no reference stays none."""
        held = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **{name: change(name, tensor) for name, tensor in held.items()})


def _transfer(shared: _Shared, attack: Attack, standing: Tensor) -> dict[str, Verdict]:
    """Give the last iterates of another model's attack to this one."""
    assert attack.source is not None
    model, split, seed = shared.model, shared.split, shared.seed
    kept = torch.zeros(len(split), dtype=torch.bool)
    kept[standing] = True
    for restart in range(attack.restarts):
        for part in kept.nonzero().squeeze(1).split(shared.batch_size):
            x, y = batch_on(model, split, part)
            delta = craft(replace(attack, restarts=1), attack.source, split, part, seed, restart)
            kept[part] = _correct(model, x + delta.to(x), y, shared.batch_size).cpu()
            shared.advance(len(part))
    gradients = attack.steps * attack.restarts * len(standing)
    return {attack.name: Verdict(kept, gradients)}
