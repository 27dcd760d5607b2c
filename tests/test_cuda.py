"""What must hold on a CUDA device, where there is one; what also holds on a CPU, always."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import pretended

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
cuda_checks, scaling = map(importlib.import_module, ("cuda_checks", "scaling"))


def name(check):
    return check.__name__.removeprefix("check_")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.filterwarnings("default")  # the compiler advises on TF32 and the like
@pytest.mark.parametrize("check", cuda_checks.ON_CUDA, ids=name)
def test_on_cuda(check):
    check(torch.device("cuda"))


@pytest.mark.parametrize("check", cuda_checks.ANYWHERE, ids=name)
def test_on_the_cpu(check):
    check(torch.device("cpu"))


def test_the_check_of_whole_steps_holds_on_a_pretended_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    with pretended.device(), pretended.graphs() as log:
        cuda_checks.check_whole_steps_are_one_graph(torch.device("cuda"))
    assert log.count("capture") == 3


def test_losses_are_alike_by_their_first_and_their_mean():
    """Eight adversarial steps in bf16: some stray by 8 %, as two eager runs would."""
    eager = [2.30, 2.10, 2.00, 1.90, 1.80, 1.75, 1.70, 1.65]
    strayed = [2.31, 2.26, 1.85, 2.00, 1.72, 1.85, 1.62, 1.70]
    assert cuda_checks.alike(eager, strayed, 0.05)
    assert not cuda_checks.alike(eager, strayed, 0.002)
    assert not cuda_checks.alike(eager, [2.30, *(1.1 * loss for loss in eager[1:])], 0.05)


# Its clock is the processor's here: programs beside it must not use up the time it is given.
COUNTED = """import runpy, sys, time
time.monotonic = time.process_time
sys.argv, sys.path[0] = sys.argv[1:], sys.argv[1].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")"""


def run(*words, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", COUNTED, str(ROOT / "benchmarks" / "cuda_benchmark.py"),
         *map(str, words)],
        capture_output=True, text=True, timeout=6000, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip


def test_without_a_gpu_the_benchmark_says_so(tmp_path):
    done = run(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: this machine has no CUDA device that torch can use; --device cpu --network "
        "small_cnn --seconds 20 tries the code on a CPU"
    )


def test_make_cuda_needs_no_installation():
    dry = subprocess.run(
        ["make", "--dry-run", "cuda"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert dry.returncode == 0, dry.stderr
    assert "benchmarks/cuda_benchmark.py" in dry.stdout
    assert "pip install" not in dry.stdout


def test_the_benchmark_in_small_on_a_cpu(tmp_path):
    """Every part of the benchmark but the compiled rows, for which the budget is too small."""
    done = run(
        "--device", "cpu", "--network", "small_cnn", "--seconds", 20,
        CUDA_VISIBLE_DEVICES="", OUT=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["matrix_tflops"]["float32"] > 0
    assert report["copy_gb_per_s"] > 0
    network = report["networks"]["small_cnn"]
    rows = network["rows"]
    assert {"plain loop", "plain loop again (A/A)", "kit"} <= rows.keys()
    assert all(row["images_per_s"]["median"] > 0 for row in rows.values())
    assert 0 < rows["kit"]["utilisation"] < 1
    assert network["dial"]["first_step_after_a_turn_s"] > 0
    assert network["evaluation"]["over_floor"] > 0.5
    assert any("compiled" in line for line in report["skipped"])
    table = (tmp_path / "table.md").read_text()
    assert "| kit |" in table
    assert "small_cnn" in table


def test_the_model_of_data_parallelism_is_arithmetic():
    """WRN-34-10, batch 128: 39.2 TFLOP a step, 184.6 MB of gradients."""
    head, *rows = scaling.modelled(400.0, [400.0, 25.0], (128,))
    assert head[:4] == ["network", "batch", "GPUs", "compute ms"]
    wide = [row for row in rows if row[0] == "wrn-34-10"]
    assert [row[2] for row in wide] == ["1", "8", "64"]
    one, eight, _ = ([float(cell) for cell in row[3:]] for row in wide)
    compute = 128 * 2 * (10 * 13.32e9 + 19.98e9) / 400e12 * 1e3
    assert one[0] == pytest.approx(compute, rel=0.01)
    assert one[1:] == [0, 0, 1, 1]
    send = 2 * 7 / 8 * 4 * 46_160_474 / 400e9 * 1e3
    assert eight[:2] == pytest.approx([compute / 8, send], rel=0.01)
    assert eight[3] == pytest.approx(compute / (compute / 8 + send), rel=0.02)
    assert eight[4] < eight[3] < 8
