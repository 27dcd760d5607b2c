"""Whole steps as one CUDA graph: the bits of steps without, whatever is turned, or it says why not.

The CPU runs the function that is captured on the tensors that a graph would read; a pretended
device (tests/pretended.py) captures and replays it.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

import avmixup_kit as av
from avmixup_kit.methods.losses import CrossEntropy, Interpolated
from avmixup_kit.training import captured
from avmixup_kit.training.captured import NUMBERS, WARM_UP, Captured
from tests import pretended
from tests.training.test_dry_run import METHODS, build, images, method_named, training

STEPS = WARM_UP + 3
OF_THEIR_OWN = {"mixture", "adr", "temporal_ensembling"}  # what is drawn or done turns on a number
# Where kernels have no fused multiply-add, uniform_ rounds twice, and no tensor's product does.
FUSED = torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def turned(method, by=0.9):
    """Return the numbers that a graph reads, each a little smaller where it may be."""
    changes = {}
    for name in NUMBERS.keys() & method.parameters.keys():
        with suppress(ValueError, TypeError):
            method.replace(**{name: by * method.parameters[name]})
            changes[name] = by * method.parameters[name]
    return changes


def begun(method, device, steps=STEPS, *, whole=True, precision="float32") -> Any:
    run: Any = training("small_cnn", method, device, precision, steps)
    run.captured = Captured(run) if whole else None
    return run


def done(run):
    """Return what a training did: its losses, and tensors that hold all its state."""
    losses = []
    for record in run:
        losses.append(record.loss)
        if record.step == WARM_UP and run.dial and (changes := turned(run.dial.method)):
            run.dial.turn(**changes)
    state = run.state_dict()
    momentum = [each["momentum_buffer"] for each in state["optimiser"]["state"].values()]
    averaged = state["average"].values()
    return losses, [*state["model"].values(), state["generator"], *momentum, *averaged]


def same(first, second):
    return first[0] == second[0] and all(map(torch.equal, first[1], second[1]))


EXTRA = {
    "avmixup, clipped": av.avmixup(steps=2, clip_vertex=True, per_example=False),
    "avmixup, asked": av.avmixup(steps=2, label="averaged", asked_at="vertex"),
    "avmixup, l2": av.avmixup(steps=2, epsilon=0.5, norm="l2", batch_norm="eval"),
    "fgsm_rs, its own step": av.methods.fgsm_rs(step_size=0.02),
    "pgd, two starts": av.Method(av.pgd(steps=2, restarts=2, start="normal")),
}
ALL = {**{name: name for name in METHODS}, **EXTRA}


def named(name):
    return method_named(name) if name in METHODS else EXTRA[name]


@pytest.mark.skipif(not FUSED, reason="uniform_ rounds otherwise without fused multiply-add")
@pytest.mark.filterwarnings("ignore:no CUDA graph of a whole step")
@pytest.mark.parametrize("name", ALL)
def test_a_step_on_tensors_of_its_own_has_the_bits_of_a_step_without(name):
    runs = [begun(named(name), "cpu", whole=whole) for whole in (True, False)]
    assert same(*map(done, runs))
    assert bool(runs[0].captured.told) == (name in OF_THEIR_OWN)


@pytest.mark.skipif(not FUSED, reason="uniform_ rounds otherwise without fused multiply-add")
@pytest.mark.parametrize("name", [name for name in ALL if name not in OF_THEIR_OWN])
def test_replays_have_the_bits_of_steps_without_a_graph_and_turns_capture_nothing(name):
    with pretended.device() as host, pretended.graphs() as log:
        plain = done(begun(named(name), "cuda", whole=False))
        assert not log
        run = begun(named(name), "cuda")
        host.waits.clear()
        whole = done(run)
        assert same(whole, plain)
    assert log == ["wait"] * 2 * WARM_UP + ["capture"] + ["replay"] * (STEPS - WARM_UP)


@pytest.mark.skipif(not FUSED, reason="uniform_ rounds otherwise without fused multiply-add")
# CUDA's autocast computes TRADES' losses in float32, the CPU's that stands in leaves them in half.
@pytest.mark.parametrize("name", ["avmixup", "pgd_awp"])
def test_replays_in_half_precision_have_the_bits_of_steps_without_a_graph(name):
    with pretended.device(), pretended.graphs():
        runs = [begun(named(name), "cuda", whole=w, precision="bf16") for w in (True, False)]
        assert same(*map(done, runs))


def test_a_replay_waits_for_nothing_and_reads_the_tensors_of_the_first():
    with pretended.device() as host, pretended.graphs():
        run = begun(av.avmixup(steps=2), "cuda", STEPS + 2)
        run._average, where = None, []
        host.waits.clear()
        for record in run:
            if record.step >= WARM_UP:
                run.dial.turn(**turned(run.dial.method))
                tensors = run.captured.index, *run.captured.numbers, *run.model.parameters()
                where.append([tensor.data_ptr() for tensor in tensors])
                assert record.loss_tensor.data_ptr() != run.captured._loss.data_ptr()
                host.operations.clear()
                run.captured.graph.operations.clear()  # what remains is done outside of it
        assert host.waits == []
        assert len(where) == STEPS + 2 - WARM_UP
        assert all(each == where[0] for each in where)
        # images' numbers, five settings that were turned, the loss for the record and its watch
        assert host.launched() <= 8


def replayed(network, precision, steps):
    """Return how many operations one replay is."""
    with pretended.device(), pretended.graphs():
        run: Any = training(network, av.avmixup(steps=steps), "cuda", precision, WARM_UP + 1)
        whole: Any = Captured(run)
        run.captured = whole
        list(run)
        return whole.graph.launched()


@pytest.mark.parametrize(
    ("network", "precision", "most"),
    [("small_cnn", "float32", 36), ("preact_resnet18", "bf16", 174)],  # 4 for so few channels
)
def test_a_captured_gradient_takes_no_more_operations_than_one_without(network, precision, most):
    two, three = (replayed(network, precision, steps) for steps in (2, 3))
    assert 0 < three - two <= most


# ------------------------------------------------------------------ what cannot be captured says so


@dataclass(frozen=True)
class Own:
    """A loss of one's own."""

    beta: float = 0.5

    def __call__(self, model, batch):
        return self.beta * CrossEntropy()(model, batch)


@dataclass(frozen=True)
class Opted(Own):
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class Looks(Opted):
    def __call__(self, model, batch):
        loss = super().__call__(model, batch)
        return loss if float(loss.detach()) > 0 else -loss


def halved(model, batch):
    return batch.x / 2, batch.y


PGD = av.pgd_training(steps=1)
REFUSED = {
    "what Mixture does next turns on a number": av.methods.mixture(steps=1),
    "Rectified asks how much of the training is done": av.methods.adr(steps=1),
    "Own may look at numbers; captured = True in its class says it does not": PGD.replace(
        loss=Own()
    ),
    "halved may look at numbers": PGD.replace(mix=halved),
    "its loss draws random numbers, which moved weights must see again": av.methods.awp(
        av.Method(PGD.perturb, loss=Interpolated())
    ),
    r"capturing failed \(aten._local_scalar_dense.default: operation not perm": PGD.replace(
        loss=Looks()
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_captured_is_trained_without_a_graph_and_said_once(words):
    def began(whole):
        split = images("small_cnn")
        run: Any = av.Training(
            build("small_cnn", split), split, REFUSED[words], STEPS, device="cuda",
            batch_size=8, seed=4, average=0.995,
        )  # fmt: skip
        run.captured = Captured(run) if whole else None
        return run

    with pretended.device(), pretended.graphs() as log:
        plain = done(began(False))
        with pytest.warns(RuntimeWarning, match=f"training goes on without: {words}") as said:
            whole = done(began(True))
        assert "replay" not in log
        assert len(said) == 1
    assert same(whole, plain) or not FUSED


def test_a_stage_of_ones_own_that_asks_for_it_is_captured():
    with pretended.device(), pretended.graphs() as log:
        runs = [begun(PGD.replace(loss=Opted()), "cuda", whole=w) for w in (True, False)]
        assert same(*map(done, runs)) or not FUSED
        assert log.count("capture") == 1


def test_only_sgd_and_only_one_process_are_captured(monkeypatch):
    assert captured.obstacle(PGD, "sgd") is None
    assert captured.obstacle(PGD, "adam") == "the update is adam's, and only 'sgd' is captured"
    monkeypatch.setattr(captured.distributed, "world", lambda: 2)
    assert captured.obstacle(PGD, "sgd") == "several processes train as one"


# --------------------------------------------------------------------- what needs another graph


def more_steps(run):
    run.dial.turn(steps=2)


def frozen_weights(run):
    next(run.model.parameters()).requires_grad_(False)


def loaded(run):
    run.load_state_dict(run.state_dict())


def heavier(run):
    run.optimiser.param_groups[0]["weight_decay"] = 0.1


def other_images(run):
    run.split = replace(run.split, images=255 - run.split.images)


@pytest.mark.skipif(not FUSED, reason="uniform_ rounds otherwise without fused multiply-add")
@pytest.mark.parametrize("change", [more_steps, frozen_weights, loaded, heavier, other_images])
def test_what_a_graph_holds_fixed_has_another_one_captured_when_it_changes(change):
    ends = []
    with pretended.device(), pretended.graphs() as log:
        for whole in (False, True):
            run = begun(PGD, "cuda", 2 * STEPS, whole=whole)
            for _ in range(STEPS):
                next(run)
            change(run)
            ends.append(done(run))
    assert same(*ends)
    once = ["wait"] * 2 * WARM_UP + ["capture"] + ["replay"] * (STEPS - WARM_UP)
    assert log == 2 * once


def test_a_smaller_batch_is_left_to_a_step_without_a_graph():
    with pretended.device(), pretended.graphs() as log:
        run = begun(PGD, "cuda")
        list(run)
        was, before = list(log), run.state_dict()
        method, seen = run.dial.method, []
        assert run.captured(run.indices(0)[:3], method, seen.append) is None
        assert log == was
        assert not seen
        torch.testing.assert_close(run.state_dict()["model"], before["model"], rtol=0, atol=0)
        assert run.captured(run.indices(0), method, seen.append) is not None
        assert log == [*was, "replay"]


def test_compiled_passes_are_graphs_of_their_own_only_where_no_step_is_one():
    used = []
    with pretended.device(), pretended.graphs():
        split = images("small_cnn")
        run: Any = av.Training(
            build("small_cnn", split), split, av.Dial(PGD), 2, device="cuda", batch_size=8,
            compile=True,
        )  # fmt: skip
        assert isinstance(run.captured, Captured)
        run._network.__dict__["runs"] = {
            graphs: lambda x, graphs=graphs: used.append(graphs) or run.model(x)
            for graphs in (False, True)
        }
        next(run)
        assert used == [False, False]
        run.dial.turn(method=av.methods.mixture(steps=1))
        with pytest.warns(RuntimeWarning, match="what Mixture does next turns on a number"):
            next(run)
        assert set(used[2:]) == {True}
    cpu = av.Training(build("small_cnn", split), split, PGD, 2, batch_size=8, compile=True)
    assert cpu.captured is None
