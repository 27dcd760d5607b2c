"""Memory that training takes: the data set once, and the network's own need.

    python benchmarks/memory.py PATH [--base-channels 64] [--batch 128] [--output FILE]

PATH is a folder or archive of CIFAR-10-like images, as ``image_folder`` reads it. Two processes
train the same PreActResNet18 for two steps of PGD: one on all images, one on 512 of them, whose
decoded copy is read from the same cache. The difference of their peaks is what the data need.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import text_table

TRAIN = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import avmixup_kit as av

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20

path, images, base, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
imported = resident()
data = av.image_folder(path)
split = data.train.subset(images) if images else data.train
if images:
    split = split.to("cpu")
    del data
loaded = resident()
model = av.preact_resnet18(split, base_channels=base)
training = av.Training(model, split, av.methods.pgd(steps=1), 2, batch_size=batch)
list(training)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(imported, loaded, peak, split.images.numel() / 2**20)
"""


def measure(path: Path, images: int, base: int, batch: int) -> dict[str, float]:
    """Return resident MiB after import, after loading, at the peak, and the split's uint8 MiB."""
    words = [sys.executable, "-c", TRAIN, str(path), str(images), str(base), str(batch)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    values = map(float, done.stdout.split())
    return dict(zip(("imported", "loaded", "peak", "pixels"), values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--base-channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = {
        name: measure(options.path, images, options.base_channels, options.batch)
        for name, images in (("all images", 0), ("512 images", 512))
    }
    head = ("MiB resident", *rows)
    body = [
        (f"{key}", *(f"{row[key]:.0f}" for row in rows.values()))
        for key in ("pixels", "imported", "loaded", "peak")
    ]
    print(text_table([head, *body]))
    if options.output:
        content = {"provenance": provenance(), "batch": options.batch, "MiB": rows,
                   "base_channels": options.base_channels}  # fmt: skip
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
