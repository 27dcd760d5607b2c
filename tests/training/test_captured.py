"""Whole steps as one CUDA graph: the bits of steps without, whatever is turned, or it says why not.

The CPU runs the function that is captured on the tensors that a graph would read; a pretended
device (tests/pretended.py) captures and replays it.
"""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import avmixup_kit as av
from avmixup_kit.methods.losses import CrossEntropy, Interpolated
from avmixup_kit.training import captured
from avmixup_kit.training.captured import WARM_UP, Captured
from tests import pretended
from tests.training.test_dry_run import METHODS, method_named, training, turn

STEPS = 9
OF_THEIR_OWN = {"mixture", "adr", "temporal_ensembling"}  # what is drawn or done turns on a number
# Where kernels have no fused multiply-add, uniform_ rounds twice, and no tensor's product does.
FUSED = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
ONCE = pytest.mark.filterwarnings("ignore:no CUDA graph of a whole step")


def done(method, device, *, whole, turned=turn, precision="float32"):
    """Return what a training did: its losses, all its state, and its ``Captured``."""
    run = training("small_cnn", method, device, precision, steps=STEPS)
    run._captured = Captured(run) if whole else None
    losses = []
    for record in run:
        losses.append(record.loss)
        if record.step == WARM_UP + 1:
            turned(run.dial)
    state = run.state_dict()
    return losses, [*state["model"].values(), state["generator"]], run


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


@pytest.mark.skipif(not FUSED, reason="uniform_ rounds otherwise without fused multiply-add")
@ONCE
@pytest.mark.parametrize("name", ALL)
def test_a_step_on_tensors_of_its_own_has_the_bits_of_a_step_without(name):
    method = method_named(name) if name in METHODS else EXTRA[name]
    whole, plain = (done(method, "cpu", whole=each) for each in (True, False))
    assert same(whole, plain)
    assert bool(whole[2]._captured.told) == (name in OF_THEIR_OWN)


@pytest.mark.skipif(not FUSED, reason="uniform_ rounds otherwise without fused multiply-add")
@pytest.mark.parametrize("name", [name for name in ALL if name not in OF_THEIR_OWN])
def test_replays_have_the_bits_of_steps_without_a_graph_and_turns_capture_nothing(name):
    method = method_named(name) if name in METHODS else EXTRA[name]
    with pretended.device() as host, pretended.graphs() as log:
        plain = done(method, "cuda", whole=False)
        assert not log
        host.waits.clear()
        whole = done(method, "cuda", whole=True)
        assert same(whole, plain)
    assert log == ["wait"] * 2 * WARM_UP + ["capture"] + ["replay"] * (STEPS - WARM_UP)
