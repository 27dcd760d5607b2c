"""Images per second of Split.batch on one thread, beside a DataLoader and a plain gather.

    python benchmarks/augmentation.py

Every row makes batches of 128 float32 images of 3x32x32 in [0, 1] from 50 000 bytes images in
memory; all but the plain gather pad by 2, crop and flip. Rounds are interleaved; time is process
CPU time; a row's ratio is to the kit's time in the same round. "the kit again" is the A/A row:
what its quartiles span cannot be told apart here.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from avmixup_kit.data import Augmentation, Split

COUNT, BATCH, ROUNDS = 50_000, 128, 21


class Transformed(Dataset[tuple[Tensor, int]]):
    """What a user writes with torchvision: one image at a time through its transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.contiguous(), labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=2),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def machine() -> str:
    """The processor's name, and the versions that speed depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, one thread"
    )


def main() -> None:
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 10, (COUNT,), generator=rng)
    classes = tuple("0123456789")
    split = Split(images, labels, classes, Augmentation(pad=2, flip=True))
    nhwc = split.images.permute(0, 2, 3, 1)

    def indices() -> Tensor:
        return torch.randint(0, COUNT, (BATCH,), generator=rng)

    def loader() -> Iterator[object]:
        while True:
            yield from DataLoader(
                Transformed(images, labels), batch_size=BATCH, shuffle=True, drop_last=True
            )

    batches = loader()
    rows: dict[str, tuple[Callable[[], object], int]] = {
        "Split.batch, crop and flip": (lambda: split.batch(indices(), rng), 100),
        "the kit again (A/A)": (lambda: split.batch(indices(), rng), 100),
        "Split.batch, not augmented": (lambda: split.batch(indices()), 100),
        "index_select, float, / 255": (
            lambda: nhwc.index_select(0, indices()).float().div_(255),
            100,
        ),
        "DataLoader + torchvision v2": (lambda: next(batches), 1),
    }
    # As any training step does, this lets glibc keep the memory that it frees; without it, half
    # of the time goes into pages given back to the system and taken again.
    torch.empty(24 << 20, dtype=torch.uint8).fill_(1)

    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(ROUNDS + 1):
        for name, (make, repeats) in rows.items():
            start = time.process_time()
            for _ in range(repeats):
                make()
            if turn:  # the first round warms up
                seconds[name].append((time.process_time() - start) / repeats / BATCH)

    print(machine())
    print(f"{ROUNDS} interleaved rounds, batch {BATCH}, median [quartiles]")
    first = seconds[next(iter(rows))]
    for name, values in seconds.items():
        low, mid, high = statistics.quantiles([1 / value for value in values], n=4)
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        a, b, c = statistics.quantiles(ratios, n=4)
        print(
            f"{name:30} {mid:9,.0f} images/s [{low:9,.0f}, {high:9,.0f}]"
            f"   time ratio {b:6.2f} [{a:.2f}, {c:.2f}]"
        )


if __name__ == "__main__":
    main()
