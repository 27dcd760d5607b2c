"""A GPU's first twenty minutes, in two commands: ``make cuda-first``, ``make cuda-tables``.

    python benchmarks/cuda_runs.py first  [--seconds 540] [--output DIR]
    python benchmarks/cuda_runs.py tables [--seconds 540] [--output DIR]
    python benchmarks/cuda_runs.py tables --rehearse --seconds 20 --output DIR

``first`` asks what the device does: versions; what cudnn.benchmark, channels and launches cost an
eager gradient; then WRN-34-10, its compiled row first, with a profile; then PreActResNet18.
``tables`` runs the checks, then trains, compiled, and evaluates Table 1's Standard, PGD and AVmixup
on CIFAR-10, in a sixteenth of the paper's steps.

Nothing is installed: what a bare machine lacks comes from the folder that ``make cuda-pack`` wrote.
Everything is written below ``--output``, or $OUT, each part as soon as it is there; networks are
written in half precision, as checkpoints are too large to travel. A part that is still running
GRACE seconds after ``--seconds`` is named, and the command ends. ``--rehearse`` does both on a CPU,
on digits, with a small network.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACK = Path(os.environ.get("AVMIXUP_CUDA_PACK", ROOT / "cuda-pack"))
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
sys.path.append(str(PACK / "site"))

import cuda_benchmark as benchmark  # noqa: E402

import avmixup_kit as av  # noqa: E402
from avmixup_kit import methods, models  # noqa: E402
from avmixup_kit._base import files, provenance  # noqa: E402
from avmixup_kit._base.distributed import choose_device  # noqa: E402
from avmixup_kit._base.precision import native_bf16  # noqa: E402
from avmixup_kit.data import originals  # noqa: E402
from avmixup_kit.data.samples import MIRROR  # noqa: E402
from avmixup_kit.reproduce import plan, plans, runner  # noqa: E402

PACKAGES = "torch", "torchvision", "numpy", "scipy", "sklearn", "tqdm", "pyautoattack"
ROWS = "Standard", "PGD", "AVmixup"
GRACE = 50.0
LEASE = replace(
    plans.SHORT,
    name="lease",
    about="What fits into ten minutes of one GPU: PreActResNet18 in place of the paper's network, "
    "a sixteenth of its steps on CIFAR10, 2 000 test images; AutoAttack quick.",
    share=tuple((data, 1 / 16) for data, _ in plans.SHORT.share),
    images=2000,
    measurements=4,
)
SMALL = replace(plans.SMOKE, name="rehearsal", steps=30, images=40, measurements=1, curve_images=20)


class Report:
    """What has been found, written below a folder whenever there is more of it."""

    def __init__(self, output: Path, name: str, device: torch.device) -> None:
        self.output, self.name, self.device, self.under_way = output, name, device, ""
        self.found: dict[str, Any] = {"provenance": provenance.provenance(), "failed": []}
        output.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, make: Callable[[], object]) -> None:
        """Add what ``make`` returns; what goes wrong is noted, and the next part begun."""
        began, self.under_way = time.monotonic(), name
        try:
            self.found[name] = make()
        except Exception as error:
            traceback.print_exc()
            line = (str(error).splitlines() or [""])[0]
            self.found["failed"].append(f"{name}: {type(error).__name__}: {line}")
        self.found.setdefault("seconds", {})[name] = round(time.monotonic() - began, 1)
        self.write()
        benchmark.say(f"{name}: {self.found['seconds'][name]} s")

    def end_after(self, seconds: float) -> None:
        """Let a part that does not end take no more than the rest of ``seconds`` with it."""

        def end() -> None:
            self.found["failed"].append(f"{self.under_way}: still running after {seconds:g} s")
            self.write()
            print(f"FAILED {self.found['failed'][-1]}", file=sys.stderr, flush=True)
            os._exit(124)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()

    def write(self) -> None:
        text = json.dumps(self.found, indent=2, default=str)
        files.write_atomic(self.output / f"{self.name}.json", text.encode())


def versions() -> dict[str, str]:
    """Return the version of each package, all of which are imported now."""
    return {name: getattr(importlib.import_module(name), "__version__", "") for name in PACKAGES}


def eager(network: str, device: torch.device) -> dict[str, Any]:
    """Return what one eager gradient costs, and what is in the way of a faster one."""
    split = benchmark.images_for(network, device)
    precision = "bf16" if native_bf16(device) else "float32"
    found: dict[str, Any] = {"precision": precision}
    for tuned in (False, True):
        torch.backends.cudnn.benchmark = tuned
        run = benchmark.kit_training(network, split, precision, compiled=False)
        for _ in range(3):
            next(run)
        seconds = benchmark.best(lambda run=run: next(run), device, 2.0)
        found[f"images/s, cudnn.benchmark {tuned}"] = benchmark.BATCH / seconds
    torch.backends.cudnn.benchmark = False
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for channels in (3, 8):
        # The last gradient, to the image's few channels, was once slow in half precision.
        conv = torch.nn.Conv2d(channels, 64, 3, padding=1, device=device, dtype=dtype)
        conv = conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = torch.rand(benchmark.BATCH, channels, 32, 32, device=device, dtype=dtype)
        x = x.to(memory_format=torch.channels_last).requires_grad_()

        def gradient(conv: torch.nn.Module = conv, x: torch.Tensor = x) -> None:
            torch.autograd.grad(conv(x).sum(), x)

        found[f"ms of a gradient to {channels} channels"] = 1e3 * benchmark.best(gradient, device)
    run = benchmark.kit_training(network, split, precision, compiled=False)
    next(run)
    benchmark.wait(device)
    began = time.perf_counter()
    for _ in range(5):
        next(run)
    queued = (time.perf_counter() - began) / 5
    benchmark.wait(device)
    found["ms a step that the host takes to queue it"] = 1e3 * queued
    found["ms a step"] = 1e3 * (time.perf_counter() - began) / 5
    return found


def profile(network: str, device: torch.device, path: Path, compiled: bool) -> str:
    """Write which operations two steps spend their time in; return the path's name."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    split = benchmark.images_for(network, device)
    precision = "bf16" if native_bf16(device) else "float32"
    run = benchmark.kit_training(network, split, precision, compiled)
    for _ in range(8 if compiled else 2):
        next(run)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profiled(activities=activities) as seen:
        for _ in range(2):
            next(run)
        benchmark.wait(device)
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=by, row_limit=60, max_name_column_width=80)
    files.write_atomic(path, table.encode())
    return path.name


def scatter(network: str, device: torch.device) -> dict[str, float]:
    """Return the images/s of Feature Scatter beside one-step PGD: what its transport costs."""
    split = benchmark.images_for(network, device)
    found = {}
    for name, method in (
        ("feature_scatter", methods.feature_scatter()),
        ("pgd, one step", methods.pgd(steps=1)),
    ):
        model = models.build(network, split, seed=0)
        run = av.Training(model, split, av.Dial(method), 10**6, device=device)
        seconds = benchmark.best(lambda run=run: next(run), device, 2.0)
        found[name] = benchmark.BATCH / seconds
    return found


def first(report: Report, clock: benchmark.Clock, rehearse: bool) -> None:
    """What the device does, the most wanted number first."""
    device = report.device
    wide, narrow = ("small_cnn", "small_cnn") if rehearse else ("wrn-34-10", "preact_resnet18")
    report.part("versions", versions)
    report.part("eager", lambda: eager(narrow, device))

    def rates() -> dict[str, float]:
        kinds = {"float32": torch.float32} | (
            {"bf16": torch.bfloat16} if native_bf16(device) else {}
        )
        return {name: benchmark.matrix_rate(device, kind) for name, kind in kinds.items()}

    report.part("matrix_tflops", rates)

    def looked() -> str:
        path = report.output / f"profile-{wide}.txt"
        return profile(wide, device, path, compiled=device.type == "cuda")

    report.found["networks"], report.found["skipped"] = {}, clock.skipped
    for name in dict.fromkeys((wide, narrow)):
        if name != wide and not clock.allows(name, 60):
            continue

        def measured(name: str = name) -> dict[str, Any]:
            known = report.found["matrix_tflops"]
            about = benchmark.measure(name, device, clock, known)
            report.found["networks"][name] = about
            return about["rows"]

        report.part(f"rows of {name}", measured)
        if name == wide and (rehearse or clock.allows(f"profile of {wide}", 90)):
            report.part("profile", looked)
    if rehearse or clock.allows("Feature Scatter", 20):
        report.part("scatter", lambda: scatter(narrow, device))


def tables(report: Report, clock: benchmark.Clock, rehearse: bool) -> None:
    """The checks, and Table 1's first rows."""
    report.part("versions", versions)

    def checks() -> str:
        said, failed = benchmark.check_all(report.device, clock)
        report.found["failed"] += [f"check {line}" for line in failed]
        return said

    report.part("checks", checks)
    # A bare machine has no network to download from, and need not wait to know it.
    originals.SILENCE = 5.0
    scale = SMALL if rehearse else LEASE
    precision = "bf16" if native_bf16(report.device) and not rehearse else "float32"
    with tempfile.TemporaryDirectory() as folder:
        made = runner.Runner(
            scale, folder, data_root=PACK / "data", device=report.device, precision=precision,
            minutes=max(clock.left, 1e-3) / 60, say=benchmark.say,
        )  # fmt: skip
        table = plan("table1", scale, precision=precision)
        wanted = {row.title: row for row in table.rows if row.run.data in ("cifar10", "digits")}
        for title in ROWS:
            row = wanted[title]
            report.part(f"row {title}", lambda row=row: make_row(made, table, row, report.output))
    report.found["left"] = made.left


def make_row(made: runner.Runner, table: Any, row: Any, output: Path) -> dict[str, Any]:
    """Train, judge and export one row; return where it stands, and its network if it is done."""
    trained = made.train(row.run)
    judged = trained and made.judge(row.run, row.columns)
    found: dict[str, Any] = {"trained": trained, "judged": judged}
    if trained:
        network = made.network(row.run)
        path = output / "networks" / row.run.folder.replace("/", "-")
        found["weights"] = av.export(network, {"name": row.title}, path, half=True).name
        made.export(table, row, output / "results")
    else:
        made.left.append(f"{row.run.folder}: the minutes are over")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("first", "tables"))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "results/cuda")))
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, in small")
    options = parser.parse_args()
    try:
        device = choose_device("cpu" if options.rehearse else "cuda")
    except ValueError:
        print("error: there is no CUDA device; --rehearse tries it on a CPU", file=sys.stderr)
        raise SystemExit(2) from None
    if not (PACK / "data" / MIRROR).is_file():
        print(f"error: {PACK} holds no CIFAR-10: make cuda-pack", file=sys.stderr)
        raise SystemExit(2)
    if device.type == "cpu":
        torch.set_num_threads(1)
    report, clock = Report(options.output, options.what, device), benchmark.Clock(options.seconds)
    if not options.rehearse:
        report.end_after(options.seconds + GRACE)
    {"first": first, "tables": tables}[options.what](report, clock, options.rehearse)
    report.write()
    for line in report.found["failed"]:
        print(f"FAILED {line}", file=sys.stderr)
    raise SystemExit(1 if report.found["failed"] else 0)


if __name__ == "__main__":
    main()
