"""Wide convolutions of tiny maps: the kit's product beside the library's convolution.

    python benchmarks/tiny_maps.py [--rounds 15] [--output FILE]

Forward and backward of one 3x3 convolution, batch 128, channels_last, eager, as the last stage of
PreActResNet18 with ``stem_stride=2`` has them: once with the weights' gradient (a training step)
and once with the input's alone (crafting). Below ``WIDE`` channels the product is timed all the
same, though the kit does not use it there. Time is processor time of one thread; rounds are
interleaved, and a ratio, the product's time over the convolution's, is formed within a round. A/A
is the convolution timed a second time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import text_table
from avmixup_kit.models.networks import Conv3x3

BATCH = 128
SHAPES = (
    (160, 160, 2, 1),
    (256, 256, 2, 1),
    (256, 512, 4, 2),
    (384, 384, 2, 1),
    (512, 512, 2, 1),
)


def passes(
    unit: Conv3x3, x: Tensor, convolve: Callable[[Conv3x3, Tensor], Tensor]
) -> Callable[[], object]:
    """Return forward and backward of ``convolve``, which takes the unit and x."""
    wanted = [x, unit.weight] if unit.weight.requires_grad else [x]
    gradient = torch.randn_like(convolve(unit, x))
    return lambda: torch.autograd.grad(convolve(unit, x), wanted, gradient)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a row for each shape, number format and kind of step."""
    found = []
    for channels, out, size, stride in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for trained in (True, False):
                unit = Conv3x3(channels, out, stride).to(dtype, memory_format=torch.channels_last)
                unit.requires_grad_(trained)
                x = torch.randn(BATCH, channels, size, size).to(dtype)
                x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
                rows = [
                    passes(unit, x, convolve)
                    for convolve in (nn.Conv2d.forward, nn.Conv2d.forward, Conv3x3.product)
                ]
                seconds: list[list[float]] = [[] for _ in rows]
                for turn in range(rounds + 2):
                    for row, run in zip(seconds, rows, strict=True):
                        start = time.process_time()
                        run()
                        if turn > 1:
                            row.append(time.process_time() - start)
                same, kit = (
                    [a / b for a, b in zip(row, seconds[0], strict=True)] for row in seconds[1:]
                )
                low, middle, high = statistics.quantiles(kit, n=4)
                found.append(
                    {
                        "convolution": f"{channels} -> {out}, {size}x{size}, stride {stride}",
                        "format": str(dtype).removeprefix("torch."),
                        "gradients": "input and weights" if trained else "input",
                        "convolution, ms": round(1e3 * statistics.median(seconds[0]), 2),
                        "A/A": round(statistics.median(same), 2),
                        "ratio": round(middle, 2),
                        "quartiles": f"{low:.2f} to {high:.2f}",
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options.rounds)
    print(text_table([list(rows[0]), *([str(value) for value in row.values()] for row in rows)]))
    if options.output:
        told = {"rounds": options.rounds, "rows": rows, "provenance": provenance()}
        options.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
