"""Put what a GPU machine without network lacks into one folder: ``make cuda-pack``.

    python benchmarks/cuda_pack.py --images FOLDER [--output cuda-pack]

``site`` holds the packages that ``cuda_runs.py`` needs beside torch, torchvision, numpy, scipy,
scikit-learn and tqdm, as they are installed here, without pyautoattack's 44 MB of example weights;
``data`` holds CIFAR-10 as JPEG. The folder is ignored by git and stays below 40 MiB.
"""

import argparse
import shutil
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK = ROOT / "cuda-pack"
PACKAGES = "lazy-loader", "packaging", "pyautoattack", "safetensors"
CODE = ".py", ".so", "METADATA"
IMAGES = "cifar10-jpeg.tar.xz"
MOST = 40 * 2**20


def pack(images: Path, output: Path = PACK) -> int:
    """Write the folder anew; return its size in bytes.

    Raises:
        FileNotFoundError: the images are not there.
        importlib.metadata.PackageNotFoundError: a package is not installed here.
        ValueError: it would be larger than 40 MiB.
    """
    archive = images if images.name == IMAGES else images / IMAGES
    if not archive.is_file():
        raise FileNotFoundError(f"{archive} is not there: it holds CIFAR-10 as JPEG")
    files = {output / "data" / IMAGES: archive}
    for name in PACKAGES:
        for file in metadata.distribution(name).files or []:
            if str(file).endswith(CODE) and "examples" not in file.parts:
                files[output / "site" / file] = Path(str(file.locate()))
    size = sum(source.stat().st_size for source in files.values())
    if size > MOST:
        raise ValueError(f"the pack would have {size / 2**20:.1f} MiB: 40 is the most that travels")
    shutil.rmtree(output, ignore_errors=True)
    for target, source in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help=f"the folder of {IMAGES}")
    parser.add_argument("--output", type=Path, default=PACK)
    options = parser.parse_args()
    try:
        size = pack(options.images, options.output)
    except (OSError, ValueError, metadata.PackageNotFoundError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{options.output}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
