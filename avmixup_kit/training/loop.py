"""Training as an iterator: one optimiser step per ``next()``, settings turned in between."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from avmixup_kit._base import check, distributed
from avmixup_kit._base.precision import native_bf16, native_tf32
from avmixup_kit._base.texts import checksum
from avmixup_kit.data.splits import Source, split_for
from avmixup_kit.methods.batch import Memory
from avmixup_kit.methods.method import Method, networks_of
from avmixup_kit.models.weights import check_weights, first_answer, load_weights
from avmixup_kit.training.captured import Captured
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.needs import Has, check_arguments, check_steps, check_teacher
from avmixup_kit.training.settings import Settings
from avmixup_kit.training.signs import Sign
from avmixup_kit.training.step import Step, TrainingDiverged, Watch, stop_if_diverged
from avmixup_kit.training.updates import Optimizer, Schedule, Updates

__all__ = ["Methods", "Record", "Training", "TrainingDiverged", "Watch"]

Methods = Callable[[int], Method]


@dataclass(frozen=True)
class Record:
    """What one optimiser step did: its number (from 0), mean loss, learning rate and method.

    From ``runs.log`` also what was measured after it: ``curves`` by name (empty at most steps), and
    ``signs`` that the training goes wrong, each when it is first seen.
    """

    step: int
    loss_tensor: Tensor = field(repr=False)
    lr: float
    method: Method
    curves: Mapping[str, float] = field(default_factory=dict)
    signs: tuple[Sign, ...] = ()

    @property
    def loss(self) -> float:
        """The loss as a number; on CUDA, asking waits for the step to end."""
        return float(self.loss_tensor)

    @property
    def numbers(self) -> dict[str, float]:
        """Loss, learning rate and curves by name, as any logger takes them."""
        return {"loss": self.loss, "lr": self.lr, **self.curves}


class Training(Step, Iterator[Record]):
    """An iterator that trains: each ``next()`` is one optimiser step (Algorithm 1).

    The same seed, settings and turns give the same weights, bit for bit on a CPU; so does a run
    that was saved with ``state_dict`` and taken up again. With several processes
    (``distributed.joined``) each works on its share of every batch, and weights are those of one
    process but for rounding and, unless ``sync_batch_norm``, batch norm.

    A step holds ``lock``; so does a dashboard, whose thread looks at the network between steps.

    Args:
        model: from images (N, C, H, W) in [0, 1] to logits (N, K); trained in place, its weights
            laid out as channels_last.
        split: training images, a ``Split`` or what ``Split.of`` makes one of; moved to the model's
            device.
        method: a Method, a Dial, or any function from step to Method.
        steps: optimiser steps in all.
        device: "auto", "cuda" or "cpu", where to move the model to; None: it stays where it is.
        compile: compile the network's passes (``compiled.Compiled``); on CUDA a whole step is then
            one graph, where method and update allow it (``captured.Captured``).
        sync_batch_norm: with several processes, whether a batch norm sees the whole batch instead
            of its process's share. In both cases running averages are the same on all processes.
        optimizer: "sgd" (the paper's), "adam" or "adamw", with lr and weight decay of the settings;
            or a function of the list of parameters, such as ``partial(torch.optim.AdamW,
            lr=0.001)``, which brings all its settings. Its step() is called without arguments.
        schedule: of the learning rate, which the optimizer's lr is the peak of, group by group:
            "steps" (the paper's, ``decay_at``); "cyclic", a straight line from 0 before the first
            step up to the peak at 40 % of the steps and down to 0 after the last; "cosine", from
            the peak down to 0 after the last step; or a function from step (0 is the first) to the
            learning rate itself, of all groups. What it says is set anew before each step.
        average: how much of the averaged copy of the weights stays at each step, such as 0.995;
            None keeps no copy, unless the method says how much (ADR).
        teacher: a fixed network that the method's stages may ask, as ``model.teacher``; moved to
            the model's device, and put in eval mode.
        settings: fields of Settings by name (seed, batch_size, lr, ...).

    ``averaged`` is the averaged copy of the model, where ``average`` asks for one: it follows the
    weights after each step, and takes over batch norm's running averages, which are averages of
    nearly the same network already. After the last step the model is in eval mode.

    Raises:
        TypeError: something else in place of a method, an argument that there is none of, or a
            function as optimizer that returns something else.
        ValueError: an illegal setting, or one that optimizer or schedule would leave unused; fewer
            images than one batch; a model with another number of classes than the data; a precision
            that the device only emulates; a batch that cannot be shared out evenly.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Source,
        method: Method | Dial | Methods,
        steps: int | None = None,
        *,
        device: str | torch.device | None = None,
        compile: bool = False,
        sync_batch_norm: bool = False,
        optimizer: Optimizer = "sgd",
        schedule: Schedule = "steps",
        average: float | None = None,
        teacher: nn.Module | None = None,
        settings: Settings | None = None,
        **changes: Any,
    ) -> None:
        check_arguments(model, method, changes, split)
        check.flag("compile", compile)
        check.flag("sync_batch_norm", sync_batch_norm)
        fine = teacher is None or isinstance(teacher, nn.Module)
        check.that(fine, "teacher", teacher, "a network, or None")
        if settings is None:
            if steps is None:
                raise ValueError("steps is missing: how many optimiser steps to train")
            settings = Settings(steps, **changes)
        elif steps is not None or changes:
            raise ValueError("pass either settings or steps and its companions, not both")
        if device is not None:
            fine = isinstance(device, str | torch.device)
            check.that(fine, "device", device, "'auto', 'cuda', 'cpu', or a torch.device")
            model = model.to(
                distributed.choose_device(device) if isinstance(device, str) else device
            )
        # Channels last is the faster layout of every convolution here; values are the same.
        self.model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.device = next(model.parameters()).device
        self.split = split_for(split, self._outputs).to(self.device)
        self.dial = method if isinstance(method, Dial) else None
        self.method = method.initial if isinstance(method, Dial) else method
        self._method_at: Methods = (lambda step: method) if isinstance(method, Method) else method
        self.lock = threading.RLock()
        self._next_step = 0
        self._order: Tensor | None = None
        self._epoch = -1
        self.rng = Generator(device=self.device).manual_seed(settings.seed)
        self.settings = settings
        self._check(model)
        self.sync_batch_norm = sync_batch_norm
        if sync_batch_norm:
            distributed.synchronise_batch_norm(model)
        self.compiled = compile
        self._network = self.model
        self.captured: Captured | None = None
        if compile:
            from avmixup_kit.training.compiled import Compiled

            self._network = Compiled(self.model)
            self.captured = Captured(self) if self.device.type == "cuda" else None
        self._updated = distributed.wrapped(self._network)
        allowed = "from 0 up to 1, such as 0.995, or None"
        average = check.number("average", average, "[0, 1)", allowed, none=True)
        self.teacher = None
        if teacher is not None:
            check_teacher(teacher, self.model)
            self._check_classes("teacher", teacher.to(self.device))
            self.teacher = teacher.eval()
        if isinstance(self.method, Method):
            average = self.method.average if average is None else average
            for network in networks_of(self.method).values():
                network.to(self.device)
            Has(average, teacher)(self.method)
        if self.dial:
            self.dial.hold_to(Has(average, teacher))
        self.average, self._average = average, None
        if average is not None:
            self._average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(average))
            self._average.requires_grad_(False).eval()
        self.memory = Memory(len(self.split))
        self._watch = Watch(self.device)
        self.updates = Updates(model, settings, changes, optimizer, schedule)
        self.settings = self.updates.settings

    def _check(self, model: nn.Module) -> None:
        split, size, precision = self.split, self.settings.batch_size, self.settings.precision
        allowed = f"{split.name} has only {len(split)} images"
        check.that(size <= len(split), "batch_size", size, allowed)
        world = distributed.world()
        allowed = f"a multiple of {world}, so that each of {world} processes has an equal share"
        check.that(size % world == 0, "batch_size", size, allowed)
        allowed = f"this {self.device.type} would emulate it, many times slower; use 'float32'"
        check.that(precision != "bf16" or native_bf16(self.device), "precision", precision, allowed)
        allowed = f"only CUDA devices since Ampere have it, not this {self.device.type}"
        check.that(precision != "tf32" or native_tf32(self.device), "precision", precision, allowed)
        self._check_classes("model", model)

    def _check_classes(self, name: str, network: nn.Module) -> None:
        outputs, split = self._outputs(self.split.batch([0])[0], network), self.split
        if outputs != split.num_classes:
            raise ValueError(
                f"the {name} has {outputs} classes, {split.name} has {split.num_classes}"
            )

    def _outputs(self, x: Tensor, network: nn.Module | None = None) -> int:
        """Return how many classes the model, or another network, tells apart."""
        network = self.model if network is None else network
        was_training = network.training
        network.eval()
        with torch.no_grad():
            outputs = first_answer(network, x.to(self.device)).shape[-1]
        network.train(was_training)
        return outputs

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """What updates the weights."""
        return self.updates.optimiser

    @optimiser.setter
    def optimiser(self, other: object) -> None:
        raise AttributeError(
            f"optimiser = {type(other).__name__} is not allowed: a training keeps its optimiser; "
            "pass Training(..., optimizer=...)"
        )

    optimizer = optimiser

    @property
    def averaged(self) -> nn.Module | None:
        """The averaged copy of the model, in eval mode; None without ``average``."""
        return None if self._average is None else self._average.module

    @property
    def judged(self) -> nn.Module:
        """The network that curves, checkpoints and evaluations are about.

        It is the averaged copy where there is one, else the model.
        """
        return self.averaged or self.model

    @property
    def asked(self) -> nn.Module:
        """The model as stages see it: with its averaged copy and its teacher, where it has them."""
        return self._asked(self.model)

    @property
    def networks(self) -> dict[str, str]:
        """Checksums of the fixed networks that the training asks, by where they stand.

        Those of a Dial's method stand in its text.
        """
        held = {} if self.dial else networks_of(self.method)
        held |= {} if self.teacher is None else {"teacher": self.teacher}
        return {name: checksum(network) for name, network in held.items()}

    @property
    def step(self) -> int:
        """How many steps are done: the number of the next one."""
        return self._next_step

    @property
    def steps(self) -> int:
        """How many steps there are in all."""
        return self.settings.steps

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass over the data; the rest of a pass is dropped."""
        return len(self.split) // self.settings.batch_size

    def indices(self, step: int) -> Tensor:
        """Return the training images of ``step``, (batch_size,), from the seed and step alone."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch or self._order is None:
            state = np.random.SeedSequence((self.settings.seed, epoch)).generate_state(1, np.uint64)
            order = Generator().manual_seed(int(state[0]) >> 1)
            permutation = torch.randperm(len(self.split), generator=order)
            if self.device.type == "cuda":
                permutation = permutation.pin_memory()
            self._order = permutation.to(self.device, non_blocking=True)
            self._epoch = epoch
        size = self.settings.batch_size
        return self._order[batch * size : (batch + 1) * size]

    def __next__(self) -> Record:
        with self.lock:
            return self._step()

    def _step(self) -> Record:
        if self._next_step >= self.settings.steps:
            self._watch.check()
            self.model.eval()
            raise StopIteration
        step = self._next_step
        method = self._method_at(step)
        lr = self.updates.begin(step)
        loss, reason = None, ""
        try:
            loss = self._update(step, lr, method)
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        if loss is None:
            # Raised out here, so that the error does not keep the failed step's tensors alive.
            raise torch.OutOfMemoryError(
                f"out of memory at step {step} with batch_size = {self.settings.batch_size} and "
                f"precision = {self.settings.precision!r}: a smaller batch or 'bf16' needs less; "
                f"the last checkpoint is kept ({reason})"
            )
        self._next_step = step + 1
        if self._next_step >= self.settings.steps:
            self.model.eval()
        return Record(step, loss, lr, method)

    def _update(self, step: int, lr: float, method: Method) -> Tensor:
        """Return the batch's mean loss, after weights have been updated with its gradient."""
        on_cuda = self.device.type == "cuda"
        index, mean = self.indices(step), None

        def see(loss: Tensor) -> None:
            if on_cuda:
                self._watch.see(loss, step, lr, method)
            else:
                stop_if_diverged(float(loss), step, lr, method)

        if self.captured is not None:
            mean = self.captured(index, method, see)
        if mean is None:
            if self.compiled and on_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            progress = step / self.settings.steps
            mean = self.computed(index, method, progress=progress, see=see)
        if self._average is not None:
            self._average.update_parameters(self.model)
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a bit-identical continuation needs: tensors, plain values."""
        return {
            "step": self._next_step,
            "model": {name: t.clone() for name, t in self.model.state_dict().items()},
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
            "generator": self.rng.get_state(),
            "settings": self.settings.as_json(),
            **self.updates.texts,
            "data": self.split.checksum,
            "networks": self.networks,
            "dial": self.dial.state_dict() if self.dial else None,
            "average": None if self._average is None else copy.deepcopy(self._average.state_dict()),
            "memory": {name: rows.clone() for name, rows in self.memory.kept.items()},
        }

    def load_state_dict(self, state: dict[str, Any], *, new_settings: bool = False) -> None:
        """Take up a saved training where it stood.

        More steps than it had are allowed where the learning rate of those done does not depend on
        their number. ``new_settings=True`` allows settings and schedule to differ (to fork a run);
        data, optimizer and fixed networks never may.

        Raises:
            ValueError: other settings, training images, source or teacher, or weights of another
                architecture.
        """
        try:
            self._load(state, new_settings)
        except (KeyError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {check.cut(str(error))}"
            raise ValueError(f"this is no training's state, or a damaged one ({reason})") from error

    def _load(self, state: dict[str, Any], new_settings: bool) -> None:
        saved = {"optimizer": "sgd", "schedule": "steps"} | state
        was: dict[str, Any] = dict(state["settings"])
        step = check.whole("step", state["step"], 0, most=check.whole("steps", was["steps"]))
        was |= {name: saved[name] for name in self.updates.texts}
        mine: dict[str, Any] = self.settings.as_json() | self.updates.texts
        if new_settings:
            mine = {"optimizer": mine["optimizer"]}
        elif was["steps"] < mine["steps"] and mine | {"steps": was["steps"]} == was:
            self.updates.goes_on(was["steps"], step)
            if step:
                methods = (self.method, self.dial and self.dial.method)
                check_steps(methods, mine["steps"], was["steps"])
            del mine["steps"]
        check.same(was, mine, "the saved training had other settings")
        images = {"checksum of the images": self.split.checksum}
        was["checksum of the images"] = state["data"]
        check.same(was, images, f"the saved training used other images than {self.split.name}")
        old, new = state.get("networks", self.networks), self.networks
        old, new = ({key: each.get(key) for key in {**old, **new}} for each in (old, new))
        check.same(old, new, "the saved training asked other networks")
        average = state.get("average")
        if self._average is not None and average is not None:
            check_weights(self._average, average)
        check_weights(self.model, state["model"])
        generator = Generator(device=self.device).set_state(state["generator"].cpu())
        optimiser, dial = copy.deepcopy(self.optimiser.state_dict()), self.dial
        before = dial.state_dict() if dial else None
        try:
            # What may be refused comes before the first weight is touched.
            if dial and state["dial"]:
                dial.load_state_dict(state["dial"])
            self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
            self.updates.check_loaded(optimiser["param_groups"], new_settings)
            load_weights(self.model, state["model"])
        except Exception:
            self.optimiser.load_state_dict(optimiser)
            if dial and before:
                dial.load_state_dict(before)
            raise
        if self._average is not None:
            if average is not None:
                self._average.load_state_dict(average)
            else:
                self._average.module.load_state_dict(state["model"])
        self.rng.set_state(generator.get_state())
        self._next_step = step
        kept = state.get("memory", {})
        self.memory.kept = {name: rows.to(self.device).clone() for name, rows in kept.items()}
