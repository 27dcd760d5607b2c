"""Compiled training: the same numbers, no recompilation however dials turn, an announced retreat.

Compiling takes a C++ compiler and, on a slow machine, some 10 s for each of the two graphs.
"""

import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from torch._dynamo.utils import counters

import avmixup_kit as av
from avmixup_kit import methods, runs
from avmixup_kit.training import checkpoints
from avmixup_kit.training.compiled import Compiled
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training
from tests.conftest import skip

EPSILON = 0.15


class Tiny(torch.nn.Module):
    """One convolution, one batch norm, one linear layer: quick to compile."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 4, 3, stride=2)
        self.bn = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(36, 10)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.conv(x))).flatten(1))


def new(digits, *, compile, steps=110):
    with torch.random.fork_rng():
        network = Tiny()
    dial = Dial(methods.avmixup(epsilon=EPSILON, steps=2))
    return Training(network, digits.train, dial, steps, batch_size=16, seed=4, compile=compile)


@pytest.fixture
def compiler():
    if not shutil.which("g++"):
        skip("compiling to C++ needs g++")


@pytest.mark.usefixtures("compiler")
def test_compiled_steps_are_the_eager_ones_and_turns_recompile_nothing(digits, tmp_path):
    run, eager = new(digits, compile=True), new(digits, compile=False)
    for _ in range(3):
        torch.testing.assert_close(next(run).loss, next(eager).loss, rtol=1e-5, atol=0)
    state = run.state_dict()["model"]
    assert state.keys() == eager.state_dict()["model"].keys(), "plain names, no _orig_mod"
    torch.testing.assert_close(state, eager.state_dict()["model"], rtol=1e-4, atol=1e-6)
    graphs = counters["stats"]["unique_graphs"]
    torch.compiler.set_stance("fail_on_recompile")
    try:
        rates = set()
        for turn in range(100):
            assert run.dial is not None
            run.dial.turn(
                gamma=1 + turn / 50, lambda1=turn / 100, lambda2=1 - turn / 100,
                epsilon=0.05 + turn / 1000,
            )  # fmt: skip
            rates.add(next(run).lr)
        assert len(rates) == 3, "the learning rate decayed too"
        with pytest.raises(RuntimeError, match="recompile"):
            # the compiled one, which no step gives a batch of another size
            run._network(torch.rand(3, 1, 8, 8))  # pyright: ignore[reportPrivateUsage]
    finally:
        torch.compiler.set_stance("default")
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(p.requires_grad for p in run.model.parameters())
    checkpoints.save_checkpoint(tmp_path / "state.pt", run.state_dict())
    eager.load_state_dict(checkpoints.load_checkpoint(tmp_path / "state.pt"))
    assert eager.step == run.step == 103
    torch.testing.assert_close(next(eager).loss, next(run).loss, rtol=1e-5, atol=0)


def test_each_thread_has_a_store_of_cuda_graphs_of_its_own():
    """torch before 2.12 gives one to the first thread alone; a dashboard's is another."""
    from torch._inductor import cudagraph_trees as trees

    compiled = Compiled(Tiny())
    compiled.cuda_graphs = True
    compiled.__dict__["runs"] = {True: compiled.network}
    found, x = [], torch.zeros(2, 1, 8, 8)

    def steps():
        found.append(hasattr(trees.local, "tree_manager_containers"))
        for _ in range(2):
            compiled(x)
            found.append(vars(trees.local)["tree_manager_containers"])

    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
    assert found[:2] == [False, {}]
    assert found[1] is found[2]


def test_several_processes_graphs_are_not_cut_where_gradients_are_sent():
    torch._dynamo.config.optimize_ddp = True  # pyright: ignore
    Compiled(Tiny())
    assert torch._dynamo.config.optimize_ddp is False  # pyright: ignore


WITHOUT = """
import warnings, torch
torch.set_num_threads(1)
import avmixup_kit as av
data = av.digits()
method = av.avmixup(epsilon=0.15, steps=1)
def run(compile):
    network = av.small_cnn(data, seed=2, base_channels=4)
    return [r.loss for r in av.Training(network, data.train, method, 3, batch_size=16, compile=compile)]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    losses = run(True)
print([str(w.message).split("(")[0] for w in said if "compil" in str(w.message)])
print(losses == run(False))
"""  # noqa: E501


@pytest.mark.usefixtures("compiler")
def test_an_evaluation_compiled_once_for_all_batch_sizes_finds_the_same(digits, network):
    compiled = Compiled(network, dynamic=True)
    network.eval()
    attack, first = av.pgd(steps=3, epsilon=EPSILON), digits.test.sample(30)
    assert torch.equal(
        av.evaluate(compiled, first, [attack]).correct,
        av.evaluate(network, first, [attack]).correct,
    )
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for count in (31, 47, 80):
            part = digits.test.sample(count)
            found = av.evaluate(compiled, part, [attack], batch_size=count - 7, check=False)
            assert torch.equal(
                found.correct, av.evaluate(network, part, [attack], check=False).correct
            )
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.usefixtures("compiler")
def test_an_evaluation_is_compiled_once_for_both_layouts_and_any_number_of_images():
    network = av.small_cnn(num_classes=3, in_channels=3, image_size=(8, 8), seed=0).eval()
    network.requires_grad_(False)
    compiled = Compiled(network, dynamic=True)
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def gradient(model, count, layout):
        x = images[:count].contiguous(memory_format=layout).requires_grad_()
        return torch.autograd.grad(model(x).square().sum(), x)[0]

    gradient(compiled, 40, torch.channels_last)
    torch.compiler.set_stance("fail_on_recompile")
    try:
        for count, layout in ((40, torch.contiguous_format), (17, torch.channels_last)):
            found = gradient(compiled, count, layout)
            torch.testing.assert_close(found, gradient(network, count, layout))
    finally:
        torch.compiler.set_stance("default")


def test_without_a_c_compiler_training_says_so_once_and_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        env=os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.splitlines() == [
        "['compiling the network failed, training goes on without ']",
        "True",
    ], done.stderr


def test_importing_the_kit_does_not_load_the_compiler():
    code = "import sys, avmixup_kit; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_record_of_what_was_compiled_is_kept(digits, tmp_path):
    import json

    run = Training(av.small_cnn(digits), digits.train, methods.standard(), 1, device="cpu")
    list(runs.log(run, tmp_path))
    about = json.loads((tmp_path / "run.json").read_text())
    assert (about["device"], about["compiled"], about["processes"]) == ("cpu", False, 1)
