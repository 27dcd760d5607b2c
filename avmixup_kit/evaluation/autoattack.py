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
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import BufferingHandler
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from avmixup_kit._base import check
from avmixup_kit.evaluation.images import ImageSet, model_device
from avmixup_kit.evaluation.record import Verdict
from avmixup_kit.methods.attacks import check_epsilon

Version = Literal["standard", "quick"]
Randomness = Literal["image", "batch"]

TITLES = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}
SLACK = 1e-6


@dataclass(frozen=True)
class AutoAttack:
    """APGD-CE, APGD-T, FAB-T and Square, one after the other, on what still stands.

    Args:
        epsilon: radius of the l-infinity ball, in units of [0, 1] pixels.
        attacks: which of "apgd-ce", "apgd-t", "fab-t", "square", in this order.
        targets: how many of the likeliest wrong classes APGD-T and FAB-T aim at in turn; there
            are never more than all of them.
        queries: forward passes that Square may spend on an image.
        per: where random numbers come from (see this module's first lines).
        title: the row's heading.

    Raises:
        ValueError: epsilon outside (0, 1], an unknown attack, targets or queries below 1.
    """

    epsilon: float = 8 / 255
    attacks: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    targets: int = 9
    queries: int = 5000
    per: Randomness = "image"
    title: str = "AutoAttack"

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        unknown = [name for name in self.attacks if name not in TITLES]
        fine = self.attacks and not unknown and len(set(self.attacks)) == len(self.attacks)
        check.that(bool(fine), "attacks", self.attacks, f"one or more of {', '.join(TITLES)}")
        check.whole("targets", self.targets)
        check.whole("queries", self.queries)
        check.one_of("per", self.per, get_args(Randomness))

    @property
    def name(self) -> str:
        """The row's heading."""
        return self.title

    @property
    def passes(self) -> int:
        """How many rounds over the standing images there are, for a progress bar."""
        return len(self.attacks)

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
            ValueError: fewer than four classes, which APGD-T's loss needs.
        """
        package = _package()
        if "apgd-t" in self.attacks and images.num_classes < 4:
            raise ValueError(
                f"apgd-t needs 4 classes or more, the model has {images.num_classes}: leave it "
                "out with attacks=('apgd-ce', 'fab-t', 'square')"
            )
        kept = torch.zeros(len(images), dtype=torch.bool)
        left, stages, gradients, notes = standing, [], 0, []
        device = model_device(model)
        for attack in self.attacks:
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
                notes += [f"{TITLES[attack]}: {line.getMessage()}" for line in said]
                _inside(x_hat, x, self.epsilon, TITLES[attack])
                advance(len(left))
                left = left[(predicted == labels).cpu()]
            stages.append((TITLES[attack], len(left)))
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
            model, attacks=[attack], eps=self.epsilon, seed=seed, version="custom", device=device
        )
        made.apgd.n_restarts = 1
        made.apgd_targeted.n_target_classes = min(self.targets, num_classes - 1)
        made.fab.n_target_classes = min(self.targets, num_classes - 1)
        made.square.n_queries = self.queries
        return made


def autoattack(
    epsilon: float = 8 / 255, version: Version = "standard", *, per: Randomness = "image"
) -> AutoAttack:
    """Return AutoAttack as an entry of ``evaluate``'s list of attacks.

    ``"standard"`` is the package's own: APGD-CE, APGD-T on 9 classes, FAB-T on 9 classes, Square
    with 5 000 queries. ``"quick"``, for notebooks, leaves out FAB-T, aims at 3 classes and gives
    Square 1 000 queries: an upper bound of the standard version, under one seed image by image.

    Raises:
        ValueError: an unknown version, epsilon outside (0, 1] (8 instead of 8 / 255).
    """
    check.one_of("version", version, get_args(Version))
    if version == "standard":
        return AutoAttack(epsilon, per=per)
    return AutoAttack(epsilon, ("apgd-ce", "apgd-t", "square"), 3, 1000, per, "AutoAttack (quick)")


def _package() -> Any:
    try:
        import pyautoattack
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs its authors' package pyautoattack, which is not installed: "
            "pip install 'avmixup-kit[autoattack]'"
        ) from error
    return pyautoattack


class _SameForAll(TorchFunctionMode):
    """Random draws with an axis of images are drawn for one image and given to all.

    That is what each image sees when it is alone in its batch. The mode is this thread's alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand and args and not isinstance(args[0], int) and len(args[0]) == 4:
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


def _inside(x_hat: Tensor, x: Tensor, epsilon: float, name: str) -> None:
    reach = float((x_hat - x).abs().max())
    low, high = float(x_hat.min()), float(x_hat.max())
    if not (reach <= epsilon + SLACK and low >= 0 and high <= 1):
        raise RuntimeError(
            f"{name} of pyautoattack left the ball or the valid pixels: |delta| up to {reach:g} "
            f"with epsilon = {epsilon:g}, pixels from {low:g} to {high:g}"
        )
