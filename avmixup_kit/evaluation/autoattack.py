"""AutoAttack (Croce and Hein, ICML 2020) as an entry of ``evaluate``'s list of attacks.

The attacks are the AutoAttack authors' own, from their package ``pyautoattack``; this module
chooses their settings, hands over the images still standing, and decides where random numbers
come from. What holds:

* ``per="image"`` (the default): each verdict is that of pyautoattack called on this image alone
  with the same seed (``run_standard_evaluation(x[i:i+1], y[i:i+1])``), so neither batch size, nor
  order, nor company changes it. Every image then sees the same random numbers.
* ``per="batch"``: verdicts are those of one call of pyautoattack on all images, in their order,
  with ``batch_size`` of ``evaluate``: what papers report. Random numbers then depend on an image's
  place among those still standing, so another batch size or order changes a few verdicts.

Both are equalities up to the rounding of a forward pass, which may differ between batch sizes.

Below four classes APGD-T's loss, the targeted difference of logits ratio, is not defined (it needs
the fourth largest logit). There APGD-T climbs the margin z_target - z_y itself, towards every wrong
class; its stage is then called "APGD-T (margin)", and a note says why.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from logging.handlers import BufferingHandler
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from avmixup_kit._base import check
from avmixup_kit._base.texts import text_of
from avmixup_kit.evaluation.images import ImageSet, model_device
from avmixup_kit.evaluation.record import Verdict
from avmixup_kit.methods.attacks import Norm, check_epsilon, lengths

Version = Literal["standard", "quick"]
Randomness = Literal["image", "batch"]

TITLES = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}
THEIR_NORMS = {"linf": "Linf", "l2": "L2"}
DLR_NEEDS = 4  # classes: the targeted loss divides by z_1 - (z_3 + z_4) / 2
SLACK = 1e-6


@dataclass(frozen=True)
class AutoAttack:
    """APGD-CE, APGD-T, FAB-T and Square, one after the other, on what still stands.

    Args:
        epsilon: radius of the ball, in units of [0, 1] pixels.
        attacks: which of "apgd-ce", "apgd-t", "fab-t", "square", in this order.
        targets: how many of the likeliest wrong classes APGD-T and FAB-T aim at in turn; there
            are never more than all of them.
        queries: forward passes that Square may spend on an image.
        per: where random numbers come from (see this module's first lines).
        title: the row's heading; the norm follows it where that is l2.
        norm: ``"linf"`` or ``"l2"``.

    Raises:
        ValueError: epsilon outside (0, 1] (l2: not positive), an unknown attack or norm, targets or
            queries below 1.
    """

    epsilon: float = 8 / 255
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    targets: int = 9
    queries: int = 5000
    per: Randomness = "image"
    title: str = "AutoAttack"
    norm: Norm = "linf"

    def __repr__(self) -> str:
        return text_of(self, "norm")

    def __post_init__(self) -> None:
        check.settle(self)
        check_epsilon(self.epsilon, self.norm)
        fine = isinstance(self.attacks, tuple) and len(self.attacks) > 0
        fine = fine and all(isinstance(name, str) and name in TITLES for name in self.attacks)
        fine = fine and len(set(self.attacks)) == len(self.attacks)
        check.that(fine, "attacks", self.attacks, f"one or more of {', '.join(TITLES)}, in a tuple")
        check.that(isinstance(self.title, str), "title", self.title, "the row's heading, a text")
        check.whole("targets", self.targets)
        check.whole("queries", self.queries)
        check.one_of("per", self.per, get_args(Randomness))

    @property
    def name(self) -> str:
        """The row's heading."""
        return self.title if self.norm == "linf" else f"{self.title} {self.norm}"

    @property
    def passes(self) -> int:
        """How many rounds over the standing images there are, for a progress bar."""
        return len(self.attacks)

    def check(self, classes: int, shape: tuple[int, int, int]) -> None:
        """Refuse what it cannot attack, before any other attack is paid for.

        Raises:
            ImportError: pyautoattack is not installed.
            ValueError: fewer than two classes; images whose sides Square cannot tile under l2.
        """
        _package()
        check.that(classes > 1, "number of classes", classes, "there is no wrong class to aim at")
        if self.norm == "l2" and "square" in self.attacks:
            side = shape[1] // 5
            first = (shape[1] - 5 * side) // 2
            fine = side > 0 and all(side == 1 or first + n // side * side <= n for n in shape[1:])
            others = tuple(name for name in self.attacks if name != "square")
            allowed = (
                "pyautoattack's Square cannot tile them under l2, as it can 28 x 28 or 32 x 32; "
                f"leave it out with attacks={others}"
            )
            check.that(fine, "image size", " x ".join(map(str, shape[1:])), allowed)

    def judge(
        self,
        model: nn.Module,
        images: ImageSet,
        standing: Tensor,
        batch_size: int,
        seed: int,
        advance: Callable[[int], object],
    ) -> Verdict:
        """Return which of the images numbered ``standing`` no attack fooled, as (N,) bool.

        The global random generators are left as they were found.

        Raises:
            ImportError: pyautoattack is not installed.
        """
        package = _package()
        kept = torch.zeros(len(images), dtype=torch.bool)
        left, stages, gradients, notes = standing, [], 0, []
        device = model_device(model)
        for attack in self.attacks:
            title = TITLES[attack]
            if attack == "apgd-t" and images.num_classes < DLR_NEEDS:
                title = f"{title} (margin)"
                has = f"its DLR loss needs {DLR_NEEDS} classes, the model has {images.num_classes}"
                notes.append(f"{TITLES[attack]} climbs the margin: {has}")
            if len(left):
                x, y = images.batch(left.to(images.device))
                # The package reshapes with .view, which channels_last does not allow.
                x, labels = x.contiguous(), y.argmax(1)
                adversary = self.adversary(package, model, seed, attack, images.num_classes, device)
                # FAB-T starts at the image and draws nothing; the mode would only slow it down.
                same_for_all = self.per == "image" and attack != "fab-t"
                with _apart(same_for_all), _warnings() as said, counted(model) as count:
                    x_hat, predicted = adversary.run_standard_evaluation(
                        x, labels, batch_size=batch_size
                    )
                gradients += count["gradients"]
                lines = (line.getMessage() for line in said)
                notes += [f"{title}: {line}" for line in lines if "DLR loss" not in line]
                _inside(x_hat, x, self.epsilon, title, self.norm)
                advance(len(left))
                left = left[(predicted == labels).cpu()]
            stages.append((title, len(left)))
        kept[left] = True
        return Verdict(kept, gradients, tuple(stages), tuple(dict.fromkeys(notes)))

    def adversary(
        self,
        package: Any,
        model: nn.Module,
        seed: int,
        attack: str,
        num_classes: int,
        device: torch.device,
    ) -> Any:
        """Return pyautoattack's object for one of the attacks, set as ``judge`` uses it."""
        made = package.AutoAttack(
            model,
            attacks=[attack],
            eps=self.epsilon,
            norm=THEIR_NORMS[self.norm],
            seed=seed,
            version="custom",
            device=device,
        )
        made.apgd.n_restarts = 1
        made.apgd_targeted.n_target_classes = min(self.targets, num_classes - 1)
        made.fab.n_target_classes = min(self.targets, num_classes - 1)
        made.square.n_queries = self.queries
        if num_classes < DLR_NEEDS:
            made.apgd_targeted.dlr_loss_targeted = partial(_margin_to, made.apgd_targeted)
        return made


def autoattack(
    epsilon: float = 8 / 255,
    version: Version = "standard",
    *,
    norm: Norm = "linf",
    attacks: Iterable[str] | None = None,
    targets: int | None = None,
    queries: int | None = None,
    per: Randomness = "image",
) -> AutoAttack:
    """Return AutoAttack as an entry of ``evaluate``'s list of attacks.

    ``"standard"`` is the package's own: APGD-CE, APGD-T on 9 classes, FAB-T on 9 classes, Square
    with 5 000 queries. ``"quick"``, for notebooks, leaves out FAB-T, aims at 3 classes and gives
    Square 1 000 queries: an upper bound of the standard version, under one seed image by image.
    Two and three classes work, too: see this module's first lines.

    Args:
        epsilon, norm, per: as in ``AutoAttack``.
        attacks, targets, queries: as in ``AutoAttack``, in place of the version's; the row's
            heading then tells what differs.

    Raises:
        ValueError: an unknown version, and as ``AutoAttack`` (8 instead of 8 / 255).
    """
    check.one_of("version", version, get_args(Version))
    whole = AutoAttack(epsilon, per=per, norm=norm)
    if version == "quick":
        chosen = "apgd-ce", "apgd-t", "square"
        whole = replace(whole, attacks=chosen, targets=3, queries=1000, title="AutoAttack (quick)")
    given: dict[str, Any] = {"targets": targets, "queries": queries}
    if attacks is not None:
        given["attacks"] = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    own = {k: v for k, v in given.items() if v is not None and v != getattr(whole, k)}
    if not own:
        return whole
    made = replace(whole, **own)
    said = ["quick"] if version == "quick" else []
    said += [TITLES[name] for name in made.attacks] if "attacks" in own else []
    said += [f"{key}={own[key]}" for key in ("targets", "queries") if key in own]
    return replace(made, title=f"AutoAttack ({', '.join(said)})")


def _package() -> Any:
    try:
        import pyautoattack
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs its authors' package pyautoattack, which is not installed: "
            "pip install 'avmixup-kit[autoattack]'"
        ) from error
    return pyautoattack


def _margin_to(attack: Any, logits: Tensor, y: Tensor) -> Tensor:
    """Return how far the target's logit is above the true one's, (N,): APGD-T's loss unscaled."""
    both = torch.stack([attack.y_target, y], dim=1)
    target, true = logits.gather(1, both).unbind(1)
    return target - true


class _SameForAll(TorchFunctionMode):
    """Random draws with an axis of images are drawn for one image and given to all.

    That is what each image sees when it is alone in its batch. The mode is this thread's alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draws = func is torch.rand or func is torch.randn
        if draws and args and not isinstance(args[0], int) and len(args[0]) == 4:
            shape = tuple(args[0])
            return func((1, *shape[1:]), **kwargs).repeat(shape[0], 1, 1, 1)
        return func(*args, **kwargs)


@contextmanager
def _apart(same_for_all: bool) -> Iterator[None]:
    """Give back the global generators, and the trace function that the package switches off."""
    trace = sys.gettrace()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            if same_for_all:
                with _SameForAll():
                    yield
            else:
                yield
    finally:
        sys.settrace(trace)


@contextmanager
def _warnings() -> Iterator[list[logging.LogRecord]]:
    """Collect what the package warns of, which would else go to the terminal."""
    logger = logging.getLogger("auto-attack")
    handler, propagate = BufferingHandler(capacity=sys.maxsize), logger.propagate
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.buffer
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


@contextmanager
def counted(model: nn.Module) -> Iterator[dict[str, int]]:
    """Count the images whose forward pass prepares an input gradient."""
    count = {"gradients": 0}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            count["gradients"] += len(inputs[0])

    handle = model.register_forward_pre_hook(before)
    try:
        yield count
    finally:
        handle.remove()


def _inside(x_hat: Tensor, x: Tensor, epsilon: float, name: str, norm: Norm = "linf") -> None:
    delta = x_hat - x
    reach = float((delta.abs() if norm == "linf" else lengths(delta)).max())
    low, high = float(x_hat.min()), float(x_hat.max())
    if not (reach <= epsilon + SLACK * max(1.0, epsilon) and low >= 0 and high <= 1):
        raise RuntimeError(
            f"{name} of pyautoattack left the ball or the valid pixels: |delta| up to {reach:g} "
            f"with epsilon = {epsilon:g}, pixels from {low:g} to {high:g}"
        )
