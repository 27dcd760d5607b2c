"""Check and measure training on a CUDA device, within nine minutes: ``make cuda``.

    python benchmarks/cuda_benchmark.py [--seconds 540] [--network wrn-34-10 ...] [--output DIR]
    python benchmarks/cuda_benchmark.py --accuracy --data cifar10-jpeg.tar.xz --minutes 30
    python benchmarks/cuda_benchmark.py --device cpu --network small_cnn --seconds 20 --output DIR

Needs torch, torchvision, numpy, scipy, scikit-learn and what ``make cuda-pack`` brings. Writes
results/cuda/<gpu>/benchmark.json and table.md; what did not fit into the time is skipped and named.

The plain loop is AVmixup as most public code writes it: float32, NCHW, eager, parameters not frozen
while crafting, images already on the device. Each round times every row once, in an order of its
own; the medians and quartiles are over rounds. The plain loop is timed twice: what the second
strays from the first is noise. Utilisation is model FLOP (avmixup_kit/cost.py) over the rate of a
large matrix product measured in the same run.

``--accuracy`` trains PreActResNet18 by AVmixup in float32 and in bf16, three seeds each, and
compares their accuracy under PGD20; it goes on where the time ended.
"""

import argparse
import json
import math
import os
import random
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

try:
    import torch
except ImportError:
    raise SystemExit("error: this needs torch >= 2.11, which is not installed") from None
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "cuda-pack" / "site"))  # what a bare machine lacks

import cuda_checks  # noqa: E402

import avmixup_kit as av  # noqa: E402
from avmixup_kit import attacks, methods, models, runs  # noqa: E402
from avmixup_kit._base import files, provenance  # noqa: E402
from avmixup_kit._base.distributed import choose_device  # noqa: E402
from avmixup_kit._base.precision import float32_products, native_bf16  # noqa: E402
from avmixup_kit.data import Augmentation, Split  # noqa: E402
from avmixup_kit.evaluation.ladder import evaluate  # noqa: E402
from avmixup_kit.methods.attacks import frozen  # noqa: E402
from avmixup_kit.reproduce import cost  # noqa: E402
from avmixup_kit.training.dial import Dial  # noqa: E402
from avmixup_kit.training.loop import Training  # noqa: E402

METHOD = methods.avmixup()
BATCH = 128
NETWORKS = ("wrn-34-10", "preact_resnet18")
# Seconds that compiling a network may take, from which on it is not begun any more.
COMPILING = {"wrn-34-10": 150, "preact_resnet18": 90}


class Clock:
    """How much of the time is left, and what has been skipped for want of it."""

    def __init__(self, seconds: float) -> None:
        self.began = time.monotonic()
        self.seconds = seconds
        self.skipped: list[str] = []

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    def allows(self, what: str, seconds: float) -> bool:
        """Return whether so much is left; if not, note what is skipped."""
        if self.left >= seconds:
            return True
        self.skipped.append(f"{what}: {self.left:.0f} s were left, it may take {seconds:.0f} s")
        say(f"skipped {self.skipped[-1]}")
        return False


def say(line: str) -> None:
    print(line, flush=True)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Return the seconds one call takes, of ``times`` in a row."""
    wait(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    wait(device)
    return (time.perf_counter() - began) / times


def best(run: Callable[[], object], device: torch.device, seconds: float = 1.0) -> float:
    """Return the median seconds of a call over so many seconds of calls, after a warm-up."""
    run()
    times = max(1, int(0.05 / max(seconds_of(run, device), 1e-7)))
    ends, found = time.monotonic() + seconds, []
    while time.monotonic() < ends or len(found) < 3:
        found.append(seconds_of(run, device, times))
    return statistics.median(found)


# ----------------------------------------------------------------------------- what the device can


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the TFLOP/s of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / best(lambda: torch.mm(a, b, out=out), device) / 1e12


def copy_rate(device: torch.device) -> float:
    """Return the GB/s of a copy inside the device, bytes read and written both counted."""
    count = 2**28 if device.type == "cuda" else 2**22
    a = torch.ones(count, device=device)
    b = torch.empty_like(a)
    return 2 * 4 * count / best(lambda: b.copy_(a), device) / 1e9


# --------------------------------------------------------------------------------------- the rows


def images_for(name: str, device: torch.device) -> Split:
    """Random images of the network's size: time does not depend on what they show."""
    count, shape = (2048, (1, 8, 8)) if name == "small_cnn" else (8192, (3, 32, 32))
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), generator=rng, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=rng)
    names = tuple(map(str, range(10)))
    return Split(pixels, labels, names, Augmentation(shape[1] // 8, True), "random").to(device)


def plain_loop(name: str, split: Split, tf32: bool | None) -> Callable[[], None]:
    """One step of AVmixup as most public code writes it; ``tf32`` None leaves torch's own choice.

    torch's own choice on CUDA is TF32 in convolutions.
    """
    device = split.device
    model = models.build(name, split, seed=0).to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    x = split.batch(torch.arange(BATCH))[0].contiguous()
    y = split.labels[:BATCH]
    one_hot = nn.functional.one_hot(y, 10).float()
    epsilon, step_size = METHOD.parameters["epsilon"], METHOD.parameters["epsilon"] / 4

    def step() -> None:
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
        for _ in range(METHOD.parameters["steps"]):
            delta.requires_grad_(True)
            loss = nn.functional.cross_entropy(model(torch.clamp(x + delta, 0, 1)), y)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = torch.clamp(delta.detach() + step_size * gradient.sign(), -epsilon, epsilon)
        vertex = x + 2.0 * delta
        alpha = torch.rand(len(x), 1, device=device)
        mixed = alpha[:, :, None, None] * x + (1 - alpha[:, :, None, None]) * vertex
        smoothed = one_hot * 0.1 + (1 - one_hot) * (0.9 / 9)
        labels = alpha * one_hot + (1 - alpha) * smoothed
        optimiser.zero_grad()
        (-(labels * nn.functional.log_softmax(model(mixed), 1)).sum(1).mean()).backward()
        optimiser.step()

    def with_precision() -> None:
        if tf32 is None:
            step()
        else:
            with float32_products(device, tf32):
                step()

    return with_precision


def kit_training(name: str, split: Split, precision: str, compiled: bool) -> Training:
    network = models.build(name, split, seed=0)
    return Training(
        network, split, Dial(METHOD), 10**6, device=split.device, compile=compiled,
        batch_size=BATCH, precision=precision,
    )  # fmt: skip


def quartiles(values: list[float]) -> dict[str, object]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "quartiles": [low, high], "rounds": len(values)}


def interleaved(
    rows: dict[str, Callable[[], object]], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Return each row's images/s, a number per round, from at least five rounds of all rows."""
    chance, order, found = random.Random(0), list(rows), {name: [] for name in rows}
    times = {name: max(1, int(0.2 / seconds_of(run, device))) for name, run in rows.items()}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or len(found[order[0]]) < 5:
        chance.shuffle(order)
        for name in order:
            found[name].append(BATCH / seconds_of(rows[name], device, times[name]))
    return found


def memory(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def measure(name: str, device: torch.device, clock: Clock, rates: dict[str, float]) -> dict:
    """Return everything about one network; the compiled row is what most is waited for."""
    split = images_for(name, device)
    macs = cost.macs(models.build(name, split), split.shape)
    flop = 2 * cost.step_macs(macs, METHOD)
    precision = "bf16" if native_bf16(device) else "float32"
    trainings: dict[str, Training] = {}
    rows: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}

    def add(row: str, build: Callable[[], Callable[[], object]], warm: int) -> None:
        before = memory(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.monotonic()
        run = build()
        for _ in range(warm):
            run()
        wait(device)
        rows[row] = run
        if device.type == "cuda":
            peaks[row] = torch.cuda.max_memory_allocated(device) / 2**30 - before
        say(f"{name}, {row}: ready after {time.monotonic() - began:.1f} s")

    def kit(row: str, compiled: bool) -> Callable[[], Callable[[], object]]:
        def build() -> Callable[[], object]:
            trainings[row] = kit_training(name, split, precision, compiled)
            return lambda: next(trainings[row])

        return build

    last = "kit"
    if clock.allows(f"{name}, compiled", COMPILING.get(name, 60)):
        add("kit, compiled", kit("kit, compiled", True), 8)
        last = "kit, compiled"
    add("kit", kit("kit", False), 3)
    add("plain loop", lambda: plain_loop(name, split, None), 2)
    if device.type == "cuda":
        add("plain loop, TF32 off", lambda: plain_loop(name, split, False), 2)
    add("plain loop again (A/A)", lambda: plain_loop(name, split, None), 2)
    found = interleaved(rows, device, min(40.0, max(clock.left / 8, 1.0)))
    base = found["plain loop"]
    report: dict = {
        "batch": BATCH,
        "precision": precision,
        "macs": {"forward": macs.forward, "to_input": macs.to_input, "full": macs.full},
        "flop_per_image": flop,
        "rows": {},
    }
    for row, values in found.items():
        middle = statistics.median(values)
        report["rows"][row] = {
            "images_per_s": quartiles(values),
            "tflops": middle * flop / 1e12,
            "utilisation": middle * flop / 1e12 / rates[precision],
            "over_plain_loop": quartiles([v / b for v, b in zip(values, base, strict=True)]),
            "peak_gib": peaks.get(row),
        }
    report["training_tflops"] = report["rows"][last]["tflops"]
    report["dial"] = {"row": last} | dial_turn(trainings[last], device)
    rows.clear()
    trainings.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if device.type == "cpu" or clock.allows(f"{name}, evaluation", 30):
        report["evaluation"] = evaluation(name, split, clock)
    return report


def dial_turn(run: Training, device: torch.device) -> dict[str, float]:
    """Return the seconds of a step before a turn of the dial, the first after it, and later."""
    assert run.dial is not None

    def steps(count: int) -> list[float]:
        return [seconds_of(lambda: next(run), device) for _ in range(count)]

    before, first, later = steps(10), [], []
    for turn in range(5):
        run.dial.turn(gamma=1.5 + turn / 10, lambda2=0.2 + turn / 100, epsilon=(7 + turn) / 255)
        first += steps(1)
        later += steps(3)
    return {
        "step_s": statistics.median(before),
        "first_step_after_a_turn_s": statistics.median(first),
        "slowest_first_step_s": max(first),
        "later_step_s": statistics.median(later),
    }


def evaluation(name: str, split: Split, clock: Clock) -> dict[str, float]:
    """Return the seconds of PGD20 over its floor: the same gradients, frozen, in full batches.

    Labels are what the network says and the radius is tiny, so that all images stay standing.
    """
    device = split.device
    model = models.build(name, split, seed=0).to(device).eval()
    model = model.to(memory_format=torch.channels_last)
    size = 256
    with torch.no_grad():
        batches = torch.arange(len(split)).split(size)
        said = torch.cat([model(split.batch(part)[0]).argmax(1) for part in batches])
    split = replace(split, labels=said, augmentation=Augmentation())
    x, y = split.batch(torch.arange(size))

    def gradient() -> None:
        x_hat = x.detach().requires_grad_(True)
        torch.autograd.grad(nn.functional.cross_entropy(model(x_hat), y), x_hat)

    with frozen(model):
        floor = best(gradient, device, 1.0) / size
    count = int(min(len(split), max(clock.left / 4, 1) / (20 * floor)))
    count = max(count // size * size, size)
    split = split.subset(torch.arange(count))
    attack = [attacks.pgd(steps=20, epsilon=1e-6)]

    def judge() -> None:
        nonlocal result
        result = evaluate(model, split, attack, check=False, batch_size=size)

    result = evaluate(model, split.subset(torch.arange(size)), attack, check=False)
    seconds = seconds_of(judge, device)
    return {
        "images": count,
        "standing": float(result.accuracy("PGD20")),
        "seconds": seconds,
        "floor_seconds": floor * result.gradients[1],
        "over_floor": seconds / (floor * result.gradients[1]),
    }


# ----------------------------------------------------------------------------------- what is made


def table(report: dict) -> str:
    """Return the report as Markdown."""
    rates = ", ".join(f"{kind} {rate:.3g}" for kind, rate in report["matrix_tflops"].items())
    lines = [
        f"# {report['device']}",
        "",
        f"`{report['command']}`, commit {report['provenance']['commit']}, torch "
        f"{report['provenance']['torch']}. Matrix product: {rates} TFLOP/s; copy: "
        f"{report['copy_gb_per_s']:.0f} GB/s. Checks: {report['checks']}.",
    ]
    for name, network in report["networks"].items():
        if "rows" not in network:
            lines += ["", f"## {name}", "", f"failed: {network['failed']}"]
            continue
        lines += [
            "",
            f"## {name}, AVmixup with PGD-10, batch {network['batch']}, kit in "
            f"{network['precision']}",
            "",
            "| row | images/s (quartiles) | over the plain loop | TFLOP/s | utilisation | GiB |",
            "|---|---|---|---|---|---|",
        ]
        for row, values in network["rows"].items():
            rate, ratio = values["images_per_s"], values["over_plain_loop"]
            low, high = rate["quartiles"]
            peak = "" if values["peak_gib"] is None else f"{values['peak_gib']:.1f}"
            lines.append(
                f"| {row} | {rate['median']:.0f} ({low:.0f} to {high:.0f}) | {ratio['median']:.2f}x"
                f" | {values['tflops']:.3g} | {values['utilisation']:.0%} | {peak} |"
            )
        dial = network["dial"]
        lines += [
            "",
            f"Dial ({dial['row']}): a step takes {1e3 * dial['step_s']:.1f} ms, the first after a "
            f"turn {1e3 * dial['first_step_after_a_turn_s']:.1f} ms (slowest of 5: "
            f"{1e3 * dial['slowest_first_step_s']:.1f} ms).",
        ]
        if "evaluation" in network:
            judged = network["evaluation"]
            lines.append(
                f"PGD20 of {judged['images']} images, all standing: {judged['seconds']:.1f} s, "
                f"{judged['over_floor']:.2f} times its floor."
            )
    lines += ["", *(f"Skipped: {line}." for line in report["skipped"])]
    return "\n".join(lines).rstrip() + "\n"


def check_all(device: torch.device, clock: Clock) -> tuple[str, list[str]]:
    """Run the checks; return how many hold, and one line for each that does not."""
    checks = cuda_checks.ON_CUDA if device.type == "cuda" else cuda_checks.ANYWHERE[:1]
    failed, done = [], 0
    for check in checks:
        name = check.__name__.removeprefix("check_")
        if clock.spent > clock.seconds / 3:
            clock.skipped.append(f"check {name}: a third of the time was over")
            continue
        done += 1
        try:
            check(device)
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
            traceback.print_exc()
        say(f"{'FAILED' if failed and failed[-1].startswith(name) else 'holds'}: {name}")
    return f"{done - len(failed)} of {done} hold", failed


def accuracy(device: torch.device, options: argparse.Namespace, output: Path) -> None:
    """Train in float32 and bf16 from the same seeds; write how PGD20 accuracy differs."""
    data = av.image_folder(options.data, device=device)
    ends = time.monotonic() + 60 * options.minutes
    found: dict[str, dict[int, float]] = {"float32": {}, "bf16": {}}
    test = data.test.subset(min(len(data.test), options.images))
    for seed in range(options.seeds):
        for precision, accuracies in found.items():
            network = models.build(options.network[0], data.train, seed=seed)
            run = Training(
                network, data.train, METHOD, options.steps, device=device,
                compile=device.type == "cuda", seed=seed, precision=precision, batch_size=BATCH,
            )  # fmt: skip
            folder = output / "runs" / f"{precision}-{seed}"
            left = (ends - time.monotonic()) / 60
            if left <= 0:
                continue
            resume = (folder / "run.json").exists()
            for _ in runs.log(run, folder, resume=resume, checkpoint_every=500, minutes=left):
                pass
            if run.step < run.steps:
                say(f"{precision}, seed {seed}: saved at step {run.step}; call again to go on")
                continue
            result = evaluate(network, test, [attacks.pgd(steps=20, epsilon=data.epsilon)])
            accuracies[seed] = result.accuracy("PGD20")
            say(f"{precision}, seed {seed}: PGD20 {accuracies[seed]:.2%}")
    seeds = sorted(found["float32"].keys() & found["bf16"].keys())
    report: dict = {
        "network": options.network[0], "steps": options.steps, "data": str(Path(options.data).name),
        "images": len(test), "pgd20": found, "provenance": provenance.provenance(),
    }  # fmt: skip
    if len(seeds) > 1:
        differences = [found["bf16"][s] - found["float32"][s] for s in seeds]
        report["difference"] = statistics.mean(differences)
        report["noise"] = statistics.stdev(found["float32"][s] for s in seeds)
        # Student's t for two degrees of freedom; other numbers of seeds are left to the reader.
        if len(seeds) == 3:
            report["half_interval"] = 4.303 * statistics.stdev(differences) / math.sqrt(3)
        say(
            f"bf16 minus float32: {100 * report['difference']:+.2f} points over {len(seeds)} "
            f"seeds; float32 seeds differ by {100 * report['noise']:.2f} (standard deviation)"
        )
    files.write_atomic(output / "accuracy.json", json.dumps(report, indent=2).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--network", nargs="+", default=None, choices=sorted(models.NETWORKS))
    parser.add_argument("--seconds", type=float, default=540.0)
    # Lent machines say in OUT which folder comes back.
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    where = "folder; $OUT, else results/cuda/<gpu>, where left out"
    parser.add_argument("--output", type=Path, default=out, help=where)
    parser.add_argument("--no-checks", action="store_true", help="measure only")
    parser.add_argument("--accuracy", action="store_true", help="bf16 against float32 instead")
    parser.add_argument("--data", help="for --accuracy: CIFAR-10's folder or archive of images")
    parser.add_argument("--minutes", type=float, default=9.0, help="for --accuracy: save and end")
    parser.add_argument("--steps", type=int, default=2000, help="for --accuracy")
    parser.add_argument("--seeds", type=int, default=3, help="for --accuracy")
    parser.add_argument("--images", type=int, default=2000, help="for --accuracy: test images")
    options = parser.parse_args()
    clock = Clock(options.seconds)
    try:
        device = choose_device(options.device)
    except ValueError:
        print(
            "error: this machine has no CUDA device that torch can use; --device cpu --network "
            "small_cnn --seconds 20 tries the code on a CPU",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    if device.type == "cpu":
        torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")
    output = options.output or ROOT / "results" / "cuda" / slug
    output.mkdir(parents=True, exist_ok=True)
    if options.accuracy:
        if not options.data:
            parser.error("--accuracy needs --data")
        options.network = options.network or ["preact_resnet18"]
        accuracy(device, options, output)
        return
    report: dict = {
        "device": machine,
        "command": f"python benchmarks/cuda_benchmark.py {' '.join(sys.argv[1:])}".strip(),
        "provenance": provenance.provenance(),
    }
    report["matrix_tflops"] = {"float32": matrix_rate(device, torch.float32)}
    if native_bf16(device):
        report["matrix_tflops"]["bf16"] = matrix_rate(device, torch.bfloat16)
    report["copy_gb_per_s"] = copy_rate(device)
    say(f"{machine}: {report['matrix_tflops']} TFLOP/s, copy {report['copy_gb_per_s']:.0f} GB/s")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    report["checks"], report["failed_checks"] = (
        ("not run", []) if options.no_checks else check_all(device, clock)
    )
    report["networks"] = {}
    report["skipped"] = clock.skipped

    def write() -> None:
        report["seconds"] = clock.spent
        files.write_atomic(output / "benchmark.json", json.dumps(report, indent=2).encode())
        files.write_atomic(output / "table.md", table(report).encode())

    for name in options.network or NETWORKS:
        if device.type == "cpu" or clock.allows(name, 60):
            try:
                report["networks"][name] = measure(name, device, clock, report["matrix_tflops"])
            except Exception as error:
                traceback.print_exc()
                report["networks"][name] = {"failed": f"{type(error).__name__}: {error}"}
            write()
    write()
    say((output / "table.md").read_text())
    for line in report["failed_checks"]:
        print(f"FAILED check {line}", file=sys.stderr)
    if report["failed_checks"] or any("failed" in n for n in report["networks"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
