"""Evaluation: an attacks x examples matrix of what was classified correctly; the rest is sums.

Randomness comes from (seed, image) alone, so neither batch size, nor order, nor whatever else is
evaluated changes a verdict, and no generator of a training is touched. Only examples still
standing are attacked.
"""

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from avmixup_kit import distributed
from avmixup_kit.attacks import Attack, ascend, ball, frozen
from avmixup_kit.checks import FloatImages, as_images, check_logits, inspect
from avmixup_kit.data import Split
from avmixup_kit.intervals import CLEAN, wilson
from avmixup_kit.intervals import Comparison as Comparison
from avmixup_kit.intervals import compare as compare
from avmixup_kit.intervals import mcnemar as mcnemar
from avmixup_kit.losses import TransportDistance

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from avmixup_kit.alarms import Alarm

Rule = Literal["any", "last"]
Images = Split | FloatImages
Pair = tuple[Tensor, Tensor]


class Verdict(NamedTuple):
    """What a ``Judge`` found: who is still correct (N,), at what cost, stage by stage.

    ``stages`` says how many images each of its attacks left standing; ``notes`` are for the reader.
    """

    correct: Tensor
    gradients: int
    stages: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


class Judge(Protocol):
    """An attack that keeps its own books: AutoAttack, random search.

    ``judge`` returns who of the images numbered ``standing`` is still correct, all others False,
    and calls ``advance(images)`` as it goes, ``passes`` times the number of those standing at most.
    """

    @property
    def name(self) -> str: ...

    @property
    def epsilon(self) -> float: ...

    @property
    def passes(self) -> int: ...

    def judge(
        self,
        model: nn.Module,
        images: Images,
        standing: Tensor,
        batch_size: int,
        seed: int,
        advance: Callable[[int], object],
    ) -> Verdict: ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model got right: ``correct`` is bool (attacks, examples), row 0 the clean images.

    ``gradients`` counts, for each row, how many input gradients of single images it took; ``rule``
    says when an attack has won: at ``"any"`` iterate, or only with its ``"last"``. With ``ladder``
    a row says what stands after its attack and those before it. ``epsilon`` is the largest of the
    attacks', ``stages`` how many images each attack of a composed row left standing, ``notes`` what
    a reader should know. ``model`` and ``images`` are what was evaluated; they are not saved.
    """

    names: tuple[str, ...]
    correct: Tensor
    gradients: tuple[int, ...]
    rule: Rule
    seed: int
    data: str
    epsilon: float | None = None
    ladder: bool = False
    stages: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    model: nn.Module | None = field(default=None, repr=False)
    images: Images | None = field(default=None, repr=False)

    @property
    def n(self) -> int:
        """How many examples were evaluated."""
        return self.correct.shape[1]

    def of(self, name: str) -> Tensor:
        """Return the row of an attack by its name: bool (N,)."""
        if name not in self.names:
            raise ValueError(f"{name!r} was not evaluated: one of {', '.join(self.names)}")
        return self.correct[self.names.index(name)]

    def accuracy(self, name: str = CLEAN) -> float:
        """Return the (robust) accuracy under the named attack, as a fraction."""
        return float(self.of(name).double().mean())

    def interval(self, name: str = CLEAN, confidence: float = 0.95) -> tuple[float, float]:
        """Return Wilson's confidence interval of the accuracy, as fractions."""
        return wilson(int(self.of(name).sum()), self.n, confidence)

    def worst(self) -> Tensor:
        """Return which examples no attack of this evaluation fooled: bool (N,)."""
        return self.correct.all(0)

    def table(self) -> str:
        """Return a text table: attack, accuracy in percent, 95 % interval, n."""
        rows = [("attack", "accuracy", "95 % interval", "n")]
        for name in self.names:
            low, high = self.interval(name)
            cells = (f"{self.accuracy(name):.2%}", f"{low:.2%} to {high:.2%}", str(self.n))
            rows.append((name, *cells))
        if len(self.names) > 2:
            standing = int(self.worst().sum())
            low, high = wilson(standing, self.n)
            cells = (f"{standing / self.n:.2%}", f"{low:.2%} to {high:.2%}", str(self.n))
            rows.append(("worst case", *cells))
        return "\n".join([text_table(rows), *(f"Note: {note}." for note in self.notes)])

    def alarms(
        self,
        model: nn.Module | None = None,
        images: "Images | Pair | None" = None,
        *,
        sources: Mapping[str, nn.Module] | None = None,
        count: int = 200,
        epsilon: float | None = None,
    ) -> "list[Alarm]":
        """Return the signs of hidden gradients that ring, each with figure and sentence.

        What was evaluated is probed again with attacks chosen to disagree where robustness is not
        real; ``alarms.probe`` returns the silent ones and those that could not be tried as well.

        Args:
            model, images: what was evaluated; needed only after ``Evaluation.load``.
            sources: other models, whose adversarial examples are tried too.
            count: how many images are probed, the same for the same images and count.
            epsilon: radius; needed only where no attack was evaluated.

        Raises:
            ValueError: model or images are missing, or are not those that were evaluated.
        """
        from avmixup_kit import alarms

        every = alarms.probe(self, model, images, sources=sources, count=count, epsilon=epsilon)
        return [alarm for alarm in every if alarm.rings]

    def to_html(
        self,
        path: str | Path,
        model: nn.Module | None = None,
        images: "Images | Pair | None" = None,
        *,
        sources: Mapping[str, nn.Module] | None = None,
        count: int = 200,
        title: str = "Is it really robust?",
    ) -> None:
        """Write one self-contained page: accuracies, alarms, radii, worst examples, transfer.

        Args:
            path: the file; it is written whole or not at all.
            model, images, sources, count: as in ``alarms``; ``sources`` also make the transfer
                table.
        """
        from avmixup_kit import report

        report.write(path, self, model, images, sources=sources, count=count, title=title)

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> dict[str, object]:
        """Return accuracies, intervals and settings, ready for JSON."""
        return {
            "data": self.data,
            "n": self.n,
            "rule": self.rule,
            "seed": self.seed,
            "accuracy": {name: self.accuracy(name) for name in self.names},
            "interval95": {name: list(self.interval(name)) for name in self.names},
            "worst_case": float(self.worst().double().mean()),
            "gradients": dict(zip(self.names, self.gradients, strict=True)),
            "epsilon": self.epsilon,
            "ladder": self.ladder,
            "stages": {name: dict(stages) for name, stages in self.stages.items()},
            "notes": list(self.notes),
        }

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write the whole matrix as .npz."""
        np.savez_compressed(
            path,
            names=np.array(self.names),
            correct=self.correct.numpy(),
            gradients=np.array(self.gradients),
            rule=self.rule,
            seed=self.seed,
            data=self.data,
            more=json.dumps(
                {
                    "epsilon": self.epsilon,
                    "ladder": self.ladder,
                    "stages": {name: list(stages) for name, stages in self.stages.items()},
                    "notes": list(self.notes),
                }
            ),
        )

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Read what ``save`` wrote."""
        # From memory: numpy leaves a damaged file open that it opened itself.
        content = io.BytesIO(Path(path).read_bytes())
        with np.load(content, allow_pickle=False) as file:
            more = json.loads(str(file["more"])) if "more" in file else {}
            return cls(
                tuple(str(name) for name in file["names"]),
                torch.from_numpy(file["correct"]),
                tuple(int(g) for g in file["gradients"]),
                "last" if str(file["rule"]) == "last" else "any",
                int(file["seed"]),
                str(file["data"]),
                more.get("epsilon"),
                more.get("ladder", False),
                {
                    name: tuple((str(stage), int(left)) for stage, left in stages)
                    for name, stages in more.get("stages", {}).items()
                },
                tuple(more.get("notes", ())),
            )


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def evaluate(
    model: nn.Module,
    split: "Images | Pair",
    attacks: Sequence[Attack | Judge] = (),
    *,
    batch_size: int = 256,
    seed: int = 0,
    rule: Rule = "any",
    ladder: bool = False,
    check: bool = True,
    progress: bool = False,
) -> Evaluation:
    """Return what ``model`` classifies correctly, clean and under each attack.

    Attacks that differ in nothing but their number of steps share one run (PGD10 is a prefix of
    PGD20). Images misclassified without an attack count as fooled by every attack. Processes that
    train together (``distributed.joined``) share the images out; each must call this, and each gets
    the whole evaluation.

    Args:
        model: from images in [0, 1] to logits (N, K); left as it was found.
        split: images and labels, a ``Split`` or a pair (x in [0, 1], class numbers); moved batch by
            batch to the model's device.
        attacks: rows, among them ``autoattack()``; each crafts with batch norm in eval mode,
            whatever its own setting.
        batch_size: how many images are attacked at once; changes nothing but speed and memory
            (``autoattack(per="batch")`` excepted).
        seed: of the attacks' starts, together with each image's content; AutoAttack's seed.
        rule: ``"any"`` counts an image as fooled when any iterate, the start included, fools the
            model; ``"last"``, which most repositories report, only when the last one does.
            Transferred examples are always the last iterate.
        ladder: attack only what the attacks before left standing, so that a row is the worst case
            so far and the last row that of all: fewer gradients, the same worst case.
        check: look for what would make an evaluation worthless first (``checks.inspect``).
        progress: show a progress bar.

    Raises:
        ValueError: no images, another number of classes, an attack whose images influence each
            other, two attacks of one name, and whatever ``checks.inspect`` finds: probabilities in
            place of logits, a model that is random or stuck in training mode, NaN, other pixels.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule = {rule!r} is not allowed: one of {', '.join(get_args(Rule))}")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size!r} is not allowed: 1 or more")
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
    notes = inspect(model, split, attacked=bool(attacks)) if check else ()
    with frozen(model):
        clean = torch.zeros(len(split), dtype=torch.bool)
        for part in torch.arange(len(split))[distributed.share(len(split))].split(batch_size):
            if len(part):
                clean[part] = _correct(model, *_images(model, split, part)).cpu()
        rows = {CLEAN: Verdict(clean, 0)}
        left = clean
        groups = list(_groups(attacks))
        bar = progress and distributed.rank() == 0
        with _bar(int(clean.sum()) * sum(map(_passes, groups)), bar) as advance:
            for group in groups:
                standing = (left if ladder else clean).nonzero().squeeze(1)
                found = _judged(model, split, group, standing, batch_size, seed, rule, advance)
                for attack in group:
                    verdict = found[attack.name]
                    if ladder:
                        left = left & verdict.correct
                        verdict = verdict._replace(correct=left)
                    rows[attack.name] = verdict
    rows = {name: _whole(rows[name]) for name in names}
    return Evaluation(
        names,
        torch.stack([rows[name].correct for name in names]),
        tuple(rows[name].gradients for name in names),
        rule,
        seed,
        split.name,
        max((attack.epsilon for attack in attacks), default=None),
        ladder,
        {name: rows[name].stages for name in names if rows[name].stages},
        (*notes, *(note for name in names for note in rows[name].notes)),
        model,
        split,
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


def _judged(
    model: nn.Module,
    split: Images,
    group: Sequence[Attack | Judge],
    standing: Tensor,
    batch_size: int,
    seed: int,
    rule: Rule,
    advance: Callable[[int], object],
) -> dict[str, Verdict]:
    """Return the verdicts of attacks that share one run, by name."""
    attacks = [attack for attack in group if isinstance(attack, Attack)]
    if not attacks:
        (judge,) = group
        assert not isinstance(judge, Attack)
        return {judge.name: judge.judge(model, split, standing, batch_size, seed, advance)}
    if attacks[-1].source is not None:
        return _transfer(model, split, attacks, standing, batch_size, seed, advance)
    return _Run(model, split, attacks, batch_size, seed, rule, advance)(standing)


def transfer_matrix(
    models: Mapping[str, nn.Module],
    split: Images,
    attack: Attack,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> "TransferMatrix":
    """Return how each model fares on the adversarial examples of each other one (Table 2).

    The diagonal is the attack on the model itself, with the last-iterate rule as everywhere else.
    """
    correct = torch.stack(
        [
            torch.stack(
                [
                    evaluate(
                        defender,
                        split,
                        [replace(attack, source=source)],
                        batch_size=batch_size,
                        seed=seed,
                    ).correct[1]
                    for source in models.values()
                ]
            )
            for defender in models.values()
        ]
    )
    return TransferMatrix(tuple(models), correct, attack.name)


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """``correct`` is bool (defenders, sources, examples); ``names`` are both."""

    names: tuple[str, ...]
    correct: Tensor
    attack: str

    @property
    def accuracy(self) -> Tensor:
        """Accuracy of row = defender on the examples of column = source, as fractions."""
        return self.correct.double().mean(2)

    @property
    def n(self) -> int:
        """How many examples each cell is about."""
        return self.correct.shape[2]

    def interval(self, defender: int, source: int) -> tuple[float, float]:
        """Return Wilson's 95 % interval of one cell, as fractions."""
        return wilson(int(self.correct[defender, source].sum()), self.n)

    def figure(self) -> "go.Figure":
        """Return the table as a heat map."""
        from avmixup_kit import report

        return report.transfer_heatmap(self)

    def __str__(self) -> str:
        head = (f"defender \\ {self.attack} from", *self.names)
        body = [
            (name, *(f"{value:.2%}" for value in row.tolist()))
            for name, row in zip(self.names, self.accuracy, strict=True)
        ]
        return f"{text_table([head, *body])}\nn = {self.n} in each cell"


# ---------------------------------------------------------------------------------- how it is done


@contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    if not show:
        yield lambda count: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="image", desc="attack", leave=False) as bar:
        yield bar.update


def model_device(model: nn.Module) -> torch.device:
    """Return where the model is; a model without parameters is on the CPU."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _images(model: nn.Module, split: Images, part: Tensor) -> tuple[Tensor, Tensor]:
    x, y = split.batch(part.to(split.device))
    device = model_device(model)
    return x.to(device), y.to(device)


def _correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return _verdict(model(x), y)


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


def starts(split: Images, part: Tensor, attack: Attack, seed: int, restart: int = 0) -> Tensor:
    """Return the attack's first perturbations for images ``part``, (len(part), C, H, W), on CPU.

    Each depends on the seed, the restart and the image's own pixels and label, on nothing else.
    """
    shape = (len(part), *split.shape)
    if attack.start == "zero":
        return torch.zeros(shape)
    images = split.images[part.to(split.device)].permute(0, 2, 3, 1).contiguous().cpu().numpy()
    labels = split.labels[part.to(split.device)].tolist()
    noise = np.empty(shape, np.float32)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"avmixup")
        digest.update(f"{label} {seed} {restart}".encode())
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest())))
        if attack.start == "uniform":
            stream.random(out=noise[i], dtype=np.float32)
        else:
            stream.standard_normal(out=noise[i], dtype=np.float32)
    if attack.start == "uniform":
        return torch.from_numpy(noise).mul_(2).sub_(1).mul_(attack.epsilon)
    return torch.from_numpy(noise).mul_(0.001)


class _Run:
    """One white-box ladder: attacks alike but for their steps, on one model."""

    def __init__(
        self,
        model: nn.Module,
        split: Images,
        ladder: list[Attack],
        batch_size: int,
        seed: int,
        rule: Rule,
        advance: Callable[[int], object],
    ) -> None:
        self.model, self.split, self.ladder, self.seed = model, split, ladder, seed
        self.batch_size, self.advance, self.drop = batch_size, advance, rule == "any"
        self.attack = ladder[-1]
        self.marks = [attack.steps for attack in ladder]
        self.gradients = dict.fromkeys(self.marks, 0)

    def __call__(self, standing: Tensor) -> dict[str, Verdict]:
        """Return, for each attack of the ladder, what stayed correct (N,) and its gradients."""
        kept = torch.zeros(len(self.marks), len(self.split), dtype=torch.bool)
        kept[:, standing] = True
        for restart in range(self.attack.restarts):
            kept &= self._once(kept[-1].nonzero().squeeze(1), restart)
        return {
            attack.name: Verdict(row, self.gradients[attack.steps])
            for attack, row in zip(self.ladder, kept, strict=True)
        }

    def _once(self, queue: Tensor, restart: int) -> Tensor:
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
        x, y = _images(self.model, self.split, index)
        delta = starts(self.split, index, self.attack, self.seed, restart).to(x)
        if self.attack.clip_start:
            delta = torch.clamp(delta, *ball(x, self.attack.epsilon))
        with torch.no_grad():
            reference = self.attack.objective.reference(self.model, x)
        return _Pool(index, x, y, delta, torch.zeros(len(index), dtype=torch.long), reference)

    def _step(self, pool: "_Pool", kept: Tensor) -> tuple["_Pool", "_Pool"]:
        """Take one gradient step; return those that go on and those at their last iterate."""
        attack = self.attack
        x_hat = (pool.x + pool.delta).requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(x_hat)
            value = attack.objective(logits, pool.y, pool.reference).sum()
            (gradient,) = torch.autograd.grad(value, x_hat)
        for mark in self.marks:
            self.gradients[mark] += int((pool.t < mark).sum())
        right = self._judge(pool, logits.detach(), kept)
        low, high = ball(pool.x, attack.epsilon)
        pool.delta = torch.clamp(pool.delta + attack.step * gradient.sign(), low, high)
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
            logits = self.model(pool.x + pool.delta)
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
        return _Pool(
            self.index[there],
            self.x[on_device],
            self.y[on_device],
            self.delta[on_device],
            self.t[there],
            None if self.reference is None else self.reference[on_device],
        )

    def join(self, other: "_Pool") -> "_Pool":
        return _Pool(
            torch.cat([self.index, other.index]),
            torch.cat([self.x, other.x]),
            torch.cat([self.y, other.y]),
            torch.cat([self.delta, other.delta]),
            torch.cat([self.t, other.t]),
            None
            if self.reference is None or other.reference is None
            else torch.cat([self.reference, other.reference]),
        )


def _transfer(
    model: nn.Module,
    split: Images,
    ladder: list[Attack],
    standing: Tensor,
    batch_size: int,
    seed: int,
    advance: Callable[[int], object],
) -> dict[str, Verdict]:
    """Give the last iterates of another model's attack to this one."""
    (attack,) = ladder
    assert attack.source is not None
    kept = torch.zeros(len(split), dtype=torch.bool)
    kept[standing] = True
    for restart in range(attack.restarts):
        for part in kept.nonzero().squeeze(1).split(batch_size):
            x, y = _images(model, split, part)
            delta = craft(replace(attack, restarts=1), attack.source, split, part, seed, restart)
            kept[part] = _correct(model, x + delta.to(x), y).cpu()
            advance(len(part))
    gradients = attack.steps * attack.restarts * len(standing)
    return {attack.name: Verdict(kept, gradients)}


def craft(
    attack: Attack, model: nn.Module, split: Images, part: Tensor, seed: int = 0, restart: int = 0
) -> Tensor:
    """Return the attack's perturbations of images ``part``, (len(part), C, H, W), as evaluated.

    The starts are those of ``evaluate`` under the same seed, whatever the batch.
    """
    x, y = _images(model, split, part)
    delta = starts(split, part, attack, seed, restart).to(x)
    if attack.clip_start:
        delta = torch.clamp(delta, *ball(x, attack.epsilon))
    with frozen(model):
        reference = attack.objective.reference(model, x)
        return ascend(
            lambda x_hat: attack.objective(model(x_hat), y, reference).sum(),
            x,
            delta,
            attack.epsilon,
            attack.step,
            attack.steps,
        )
