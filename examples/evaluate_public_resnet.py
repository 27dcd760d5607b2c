"""Evaluate a network that nobody here trained: the CIFAR-10 ResNet-18 shipped with pyautoattack.

    pip install 'avmixup-kit[plots,autoattack]'
    python examples/evaluate_public_resnet.py cifar10-jpeg.tar.xz --page resnet.html

It was trained without adversaries: its robust accuracy at 8/255 should be zero. The archive holds
CIFAR-10 as JPEG files, test/<class>/*.jpg and train/<class>/*.jpg; JPEG changes pixels, so figures
are not those of the original CIFAR-10. Only the first images of each class, by name, are read.

The same network then serves as a transfer source, the paper's "Standard" column of Table 2: its
adversarial examples are given to a small network that this script trains by PGD, with few steps and
few images, to have one. ``--run`` names the run folder of a better one.
"""

import argparse
import io
import tarfile
from collections import defaultdict
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods, models, runs
from avmixup_kit.data import Split
from avmixup_kit.evaluation.transfer import transfer_matrix

EPSILON = 8 / 255


def first_images(archive: Path, part: str, count: int) -> Split:
    """Return the first ``count`` images, by name, of each class of "train" or "test"."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(archive) as file:
        for member in file:
            name = PurePosixPath(member.name)
            if member.isfile() and len(name.parts) >= 3 and name.parts[-3] == part:
                content = file.extractfile(member)
                assert content is not None
                found[name.parts[-2]][name.name] = content.read()
    classes = tuple(sorted(found))
    pixels, labels = [], []
    for label, name in enumerate(classes):
        for image in sorted(found[name])[:count]:
            pixels.append(np.asarray(Image.open(io.BytesIO(found[name][image])).convert("RGB")))
            labels.append(label)
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    return Split(images, torch.tensor(labels), classes, name=f"{archive.name.split('.')[0]}/{part}")


def public_resnet() -> nn.Module:
    """Return pyautoattack's ResNet-18: pixels in [0, 1], no normalisation."""
    from pyautoattack.examples.resnet import ResNet18

    model = ResNet18()
    weights = resources.files("pyautoattack") / "examples" / "model_test.pt"
    with resources.as_file(weights) as path:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def small_robust(archive: Path, steps: int, seed: int = 0) -> nn.Module:
    """Return a narrow PreActResNet18, trained by PGD for a few steps on a few images."""
    train = first_images(archive, "train", 200)
    model = models.preact_resnet18(train, base_channels=8, seed=seed)
    method = methods.pgd(epsilon=EPSILON, steps=3)
    for record in av.Training(model, train, method, steps, seed=seed, batch_size=64, lr=0.05):
        if record.step % 50 == 0:
            print(f"  step {record.step} of {steps}, loss {record.loss:.3f}", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="CIFAR-10 as JPEG, train/ and test/")
    parser.add_argument("--count", type=int, default=20, help="test images of each class")
    parser.add_argument("--run", type=Path, help="run folder of a network trained with the kit")
    parser.add_argument("--steps", type=int, default=200, help="training steps where there is none")
    parser.add_argument("--page", type=Path, help="also write the report to this HTML file")
    chosen = parser.parse_args()
    test = first_images(chosen.archive, "test", chosen.count)
    resnet = public_resnet()
    evaluation = av.evaluate(resnet, test, [av.pgd(steps=20, epsilon=EPSILON)])
    print(f"pyautoattack's ResNet-18 on {test.name}, first {chosen.count} images of each class")
    print(evaluation)
    print("training a small network to transfer to" if chosen.run is None else f"{chosen.run}")
    kit = small_robust(chosen.archive, chosen.steps) if chosen.run is None else None
    kit = runs.load_model(chosen.run) if kit is None else kit
    few = test.subset(min(50, len(test)))
    print(
        transfer_matrix({"ResNet-18": resnet, "kit": kit}, few, av.pgd(steps=20, epsilon=EPSILON))
    )
    if chosen.page is not None:
        av.report(evaluation, resnet, test, chosen.page, sources={"kit": kit}, count=50)
        print(f"written: {chosen.page}")


if __name__ == "__main__":
    main()
