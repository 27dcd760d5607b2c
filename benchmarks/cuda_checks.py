"""What training must hold on a CUDA device: plain functions, each raising AssertionError.

``tests/test_cuda.py`` runs them under pytest, ``make cuda`` where pytest is not installed. Those in
``ANYWHERE`` hold on a CPU too, and are run there by every test run.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import avmixup_kit as av
from avmixup_kit import attacks, methods, runs, training
from avmixup_kit.data import Augmentation
from avmixup_kit.evaluation.draws import MeanOverDraws
from avmixup_kit.methods import transport
from avmixup_kit.training.captured import Captured
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training, TrainingDiverged

EPSILON = 0.15
METHODS = {
    "standard": methods.standard(),
    "mixup": methods.mixup(0.4),
    "avmixup": methods.avmixup(epsilon=EPSILON, steps=3),
    "avmixup, batch norm train": methods.avmixup(epsilon=EPSILON, steps=2, batch_norm="train"),
    "trades": methods.trades(6.0, epsilon=EPSILON, step_size=None, steps=3),
    "feature scatter": methods.feature_scatter(epsilon=EPSILON),
    "five sources": methods.mixture(epsilon=EPSILON, steps=2),
}


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Make whatever waits for a CUDA device raise."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def new(device: torch.device, method: methods.Method, steps: int = 40, **options: Any) -> Training:
    """Return a short training on digits, its dial at ``method``, three epochs long or less."""
    digits = av.digits()
    split = replace(digits.train.subset(320), augmentation=Augmentation(1, True))
    network = av.small_cnn(digits, seed=2)
    words: dict[str, Any] = {"batch_size": 32, "seed": 4} | options
    return Training(network, split, Dial(method), steps, device=device, **words)


def check_steps_wait_for_nothing(device: torch.device) -> None:
    """No step of any method reads anything back, not even where an epoch begins."""
    for method in METHODS.values():
        run = new(device, method)
        for _ in range(8):
            next(run)
        with no_waiting(device):
            for _ in range(12):
                next(run)
        assert run.step == 20
        assert math.isfinite(next(run).loss)


def check_lower_precision_trains(device: torch.device) -> None:
    """TF32 and bf16 lower the loss as float32 does, and weights stay float32."""
    assert training.native_bf16(device), "this GPU has no bf16"
    ends = {}
    for precision in ("float32", "tf32", "bf16"):
        run = new(device, METHODS["avmixup"], 60, precision=precision)
        losses = [record.loss for record in run]
        assert all(map(math.isfinite, losses)), precision
        assert all(p.dtype == torch.float32 for p in run.model.parameters())
        ends[precision] = sum(losses[-20:]) / 20
    for end in ends.values():
        assert abs(end - ends["float32"]) < 0.15, ends
    assert torch.backends.cudnn.allow_tf32, "torch's own setting is put back"


def check_first_loss_is_the_cpus(device: torch.device) -> None:
    """Without random numbers a device computes what a CPU does, in float32 to rounding."""
    method = methods.avmixup(epsilon=EPSILON, steps=3, start="zero").replace(alpha=0.4)
    losses = []
    for where in (torch.device("cpu"), device):
        run = new(where, method)
        run.split = replace(run.split, augmentation=Augmentation())
        losses.append([next(run).loss for _ in range(3)])
    for mine, cpu in zip(*losses, strict=True):
        assert abs(mine - cpu) < 2e-3 * abs(cpu), losses


def alike(eager: list[float], compiled: list[float], first: float) -> bool:
    """Whether losses of eight steps are alike: the first to ``first`` of it, the mean to 5 %.

    An attack's signs turn on the last bit, so later steps part, those of bf16 by more than 5 %.
    """
    one, other = sum(eager) / len(eager), sum(compiled) / len(compiled)
    return abs(eager[0] - compiled[0]) < first * eager[0] and abs(one - other) < 0.05 * one


def check_whole_steps_are_one_graph(device: torch.device) -> None:
    """Whole steps captured have the losses of steps without, and a turn captures nothing."""
    for name in ("avmixup", "trades", "feature scatter"):
        losses = []
        for whole in (False, True):
            run = new(device, METHODS[name])
            run.captured = Captured(run) if whole else None
            losses.append([next(run).loss for _ in range(8)])
        assert alike(*losses, first=2e-3), (name, losses)
        assert run.captured is not None
        assert run.dial is not None
        graph = run.captured.graph
        assert graph is not None, "nothing was captured"
        run.dial.turn(epsilon=0.1)
        with no_waiting(device):
            next(run)
        assert run.captured.graph is graph


def check_compiled_steps(device: torch.device) -> None:
    """Compiled steps lower the loss alike, wait for nothing, and turns compile nothing again."""
    precisions = {"float32": 2e-3} | ({"bf16": 0.05} if training.native_bf16(device) else {})
    for precision, close in precisions.items():
        first = {}
        for compiled in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # compiling failed
                run = new(device, METHODS["avmixup"], 200, compile=compiled, precision=precision)
                first[compiled] = [next(run).loss for _ in range(8)]
        assert alike(first[False], first[True], close), (precision, first)
    assert run.dial is not None
    torch.compiler.set_stance("fail_on_recompile")
    try:
        with no_waiting(device):
            for turn in range(100):
                run.dial.turn(
                    gamma=1 + turn / 50,
                    lambda1=1 - turn / 200,
                    lambda2=turn / 200,
                    epsilon=0.05 + turn / 1000,
                )
                next(run)
    finally:
        torch.compiler.set_stance("default")
    assert math.isfinite(next(run).loss)
    assert not any("_orig_mod" in name for name in run.state_dict()["model"])


def check_compiled_references_survive(device: torch.device) -> None:
    """Logits that an attack keeps for later are not overwritten by a CUDA graph's next replay."""
    for name in ("trades", "feature scatter"):
        eager, compiled = (new(device, METHODS[name], compile=c) for c in (False, True))
        losses = [[next(run).loss for _ in range(8)] for run in (eager, compiled)]
        assert alike(*losses, first=2e-3), (name, losses)


def check_resume(device: torch.device) -> None:
    """A run taken up from its folder goes on where it stood; draws are the same."""
    method = METHODS["avmixup"]
    with tempfile.TemporaryDirectory() as folder:
        records = runs.log(new(device, method, 12), folder, checkpoint_every=5, piece_mib=1)
        for record in records:
            if record.step == 7:
                break
        records.close()
        again = new(device, method, 12)
        ends = [record.step for record in runs.log(again, folder, resume=True)]
        assert ends == list(range(5, 12))
        lines = (Path(folder) / "log.jsonl").read_text().splitlines()
        assert len(lines) == 12
    whole = new(device, method, 12)
    losses = [record.loss for record in whole]
    assert torch.equal(whole.rng.get_state(), again.rng.get_state())
    assert math.isfinite(losses[-1])


def check_divergence_is_noticed(device: torch.device) -> None:
    """A loss that is no number ends training without any step having waited for it."""
    run = new(device, METHODS["standard"], 60)
    next(run)
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    said = "nothing"
    try:
        for _ in run:
            pass
    except TrainingDiverged as error:
        said = str(error)
    assert "the loss is nan" in said, said


def check_evaluation_is_the_cpus(device: torch.device) -> None:
    """Verdicts do not depend on the batch, and are those of a CPU but for rounding."""
    run = new(device, METHODS["avmixup"], 150)
    for _ in run:
        pass
    split, ladder = (
        av.digits().test.subset(200),
        [av.pgd(steps=5, epsilon=EPSILON), av.cw(steps=5, epsilon=EPSILON)],
    )
    with training.float32_products(device, tf32=False):
        here, small = (
            av.evaluate(run.model, split.to(device), ladder, batch_size=size) for size in (256, 32)
        )
    cpu = av.evaluate(run.model.to("cpu"), split, ladder)
    for other in (small, cpu):
        agree = (here.correct == other.correct).float().mean()
        assert agree > 0.98, float(agree)
    assert here.accuracy() > 0.5


def check_draws_follow_from_the_seed(device: torch.device) -> None:
    """A random network's mean over draws is fresh at each call and leaves the generators alone."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5)).train().to(device)
    x = torch.rand(8, 1, 4, 4, device=device)
    before = [torch.random.get_rng_state()]
    before += [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    first, again = (MeanOverDraws(network, 3, seed=5) for _ in range(2))
    answers = [first(x), first(x)]
    assert not torch.equal(*answers)
    assert all(torch.equal(again(x), answer) for answer in answers)
    after = [torch.random.get_rng_state()]
    after += [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def check_transport_is_captured(device: torch.device) -> None:
    """The transport distance and its gradient are the CPU's and fit in a CUDA graph."""
    generator = torch.Generator().manual_seed(0)
    a, noise = (torch.randn(64, 10, generator=generator) for _ in range(2))

    def compute(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moved = b.detach().requires_grad_(True)
        distance = transport.distance(a, moved, iterations=20)
        return distance.detach(), torch.autograd.grad(distance, moved)[0]

    expected, expected_gradient = compute(a, a + 0.3 * noise)
    a, b = a.to(device), (a + 0.3 * noise).to(device)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            compute(a, b)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        distance, gradient = compute(a, b)
    graph.replay()
    torch.cuda.synchronize()
    assert abs(float(distance) - float(expected)) < 1e-4
    # A sum near the tolerance may end a round apart.
    apart = (gradient.cpu() - expected_gradient).norm() / expected_gradient.norm()
    assert float(apart) < 0.05, float(apart)


def check_out_of_memory_is_named(device: torch.device) -> None:
    """More memory than there is ends in one line that says what to change; training can go on."""

    def greedy(model, batch):
        if run.step == 2:
            torch.empty(2**46, dtype=torch.uint8, device=batch.x.device)
        return attacks.NoAttack()(model, batch)

    run = new(device, methods.avmixup(perturb=greedy))
    next(run)
    next(run)
    said = "nothing"
    try:
        next(run)
    except torch.OutOfMemoryError as error:
        said = str(error)
    assert "batch_size = 32 and precision = 'float32'" in said, said
    assert "\n" not in said
    assert run.step == 2


ANYWHERE: tuple[Callable[[torch.device], None], ...] = (
    check_steps_wait_for_nothing,
    check_first_loss_is_the_cpus,
    check_resume,
    check_divergence_is_noticed,
    check_evaluation_is_the_cpus,
    check_draws_follow_from_the_seed,
)
ON_CUDA: tuple[Callable[[torch.device], None], ...] = (
    *ANYWHERE,
    check_lower_precision_trains,
    check_transport_is_captured,
    check_out_of_memory_is_named,
    check_whole_steps_are_one_graph,
    # Compiling takes longest: what does not fit into the time is left out at the end.
    check_compiled_steps,
    check_compiled_references_survive,
)
