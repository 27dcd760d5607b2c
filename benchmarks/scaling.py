"""What several processes are worth: measured on this machine's cores, or by a model for GPUs.

    python benchmarks/scaling.py [--rounds 9] [--network preact_resnet18] [--output FILE]
    python benchmarks/scaling.py --model [--tflops 400] [--gb-per-s 400 25]

Measured: two processes of one thread each, over gloo, against one process of two threads, at the
same global batch. Both are kept ready and take turns, so that only one works at a time; a row's
images/s are over rounds, the ratio is within a round, and the single process is timed twice (A/A).

The model: a step computes for FLOP / (rate x GPUs) and then sends every gradient once around a
ring, 2 (n - 1) / n x 4 bytes x parameters per GPU, at the slowest link's bandwidth. It leaves out
that small batches compute less efficiently, so it is a bound, and rates are what you give it.
"""

import argparse
import json
import os
import socket
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import avmixup_kit as av
from avmixup_kit import methods, models
from avmixup_kit._base import distributed
from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import text_table
from avmixup_kit.data import Augmentation, Split
from avmixup_kit.reproduce import cost

MODELLED = ("wrn-34-10", "preact_resnet18")


def serve(
    rank: int, world: int, port: int, connection: Connection, threads: int, name: str, batch: int
) -> None:
    """Train as many steps as is asked for, again and again; answers with the seconds they took."""
    torch.set_num_threads(threads)
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    shape = (1, 8, 8) if name == "small_cnn" else (3, 32, 32)
    pixels = torch.randint(0, 256, (1024, *shape), generator=rng, dtype=torch.uint8)
    labels = torch.randint(10, (1024,), generator=rng)
    classes = tuple(map(str, range(10)))
    split = Split(pixels, labels, classes, Augmentation(shape[1] // 8, True))
    options = {} if name.startswith("wrn") else {"base_channels": 16}
    with distributed.joined("cpu"):
        network = models.build(name, split, **options)
        run = av.Training(network, split, methods.avmixup(), 10**6, batch_size=batch)
        next(run)
        connection.send(0.0)
        while (steps := connection.recv()) is not None:
            began = time.perf_counter()
            for _ in range(steps):
                next(run)
            connection.send(time.perf_counter() - began)


class Team:
    """Processes that train one network together when asked to."""

    def __init__(self, world: int, threads: int, name: str, batch: int) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        context = mp.get_context("spawn")
        self.ends, self.processes = [], []
        for rank in range(world):
            here, there = context.Pipe()
            words = (rank, world, port, there, threads, name, batch)
            process = context.Process(target=serve, args=words, daemon=True)
            process.start()
            self.ends.append(here)
            self.processes.append(process)
        for end in self.ends:
            end.recv()

    def seconds(self, steps: int) -> float:
        """Return how long so many steps take, until the last process is done."""
        for end in self.ends:
            end.send(steps)
        return max(end.recv() for end in self.ends)

    def close(self) -> None:
        for end in self.ends:
            end.send(None)
        for process in self.processes:
            process.join()


def measured(name: str, batch: int, rounds: int, burst: float) -> dict[str, dict[str, float]]:
    """Return images/s and the ratio to one process, medians and quartiles over rounds."""
    one, two = Team(1, 2, name, batch), Team(2, 1, name, batch)
    steps = max(1, round(burst / one.seconds(1)))
    rows = {"1 process, 2 threads": one, "the same again (A/A)": one, "2 processes, 1 thread": two}
    rates: dict[str, list[float]] = {row: [] for row in rows}
    for number in range(rounds):
        order = list(rows) if number % 2 else list(rows)[::-1]
        for row in order:
            rates[row].append(batch * steps / rows[row].seconds(steps))
    one.close()
    two.close()
    base = rates["1 process, 2 threads"]
    found = {}
    for row, values in rates.items():
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        found[row] = {
            "images_per_s": statistics.median(values),
            "ratio": middle,
            "quartile_1": low,
            "quartile_3": high,
        }
    return found


def modelled(tflops: float, bandwidths: list[float], batches: tuple[int, ...]) -> list[list[str]]:
    """Return rows of the model: ms of computing and of sending a step, and what is gained."""
    rows = [["network", "batch", "GPUs", "compute ms"]]
    rows[0] += [f"send ms at {bandwidth:g} GB/s" for bandwidth in bandwidths]
    rows[0] += [f"speed-up at {bandwidth:g} GB/s" for bandwidth in bandwidths]
    for name in MODELLED:
        network = models.build(name, 10)
        flop = 2 * cost.step_macs(cost.macs(network, (3, 32, 32)), methods.avmixup())
        size = 4 * sum(p.numel() for p in network.parameters())
        for batch in batches:
            alone = 1e3 * flop * batch / (tflops * 1e12)
            for gpus in (1, 8, 64):
                sends = [1e3 * 2 * (gpus - 1) / gpus * size / (b * 1e9) for b in bandwidths]
                gains = [f"{alone / (alone / gpus + send):.1f}" for send in sends]
                cells = [name, str(batch), str(gpus), f"{alone / gpus:.2f}"]
                rows.append([*cells, *(f"{send:.2f}" for send in sends), *gains])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--burst", type=float, default=4.0, help="seconds of each timing")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--network", default="preact_resnet18", choices=sorted(models.NETWORKS))
    parser.add_argument("--model", action="store_true", help="the model instead of a measurement")
    parser.add_argument("--tflops", type=float, default=400.0, help="for --model: rate of one GPU")
    parser.add_argument("--gb-per-s", type=float, nargs="+", default=[400.0, 25.0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.model:
        print(text_table(modelled(options.tflops, options.gb_per_s, (128, 1024, 8192))))
        return
    found = measured(options.network, options.batch, options.rounds, options.burst)
    rows = [["row", "images/s", "ratio (quartiles)"]]
    for row, v in found.items():
        ratio = f"{v['ratio']:.2f} ({v['quartile_1']:.2f} to {v['quartile_3']:.2f})"
        rows.append([row, f"{v['images_per_s']:.0f}", ratio])
    print(text_table(rows))
    if options.output:
        content = {
            "network": options.network, "batch": options.batch, "rounds": options.rounds,
            "provenance": provenance(), "rows": found,
        }  # fmt: skip
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
