"""A real network that nobody here trained, on real images: the known figures come out."""

import importlib.util
from pathlib import Path

import pytest
import torch

import avmixup_kit as av

pytest.importorskip("pyautoattack")

SCRIPT = Path(__file__).parents[2] / "examples" / "evaluate_public_resnet.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("evaluate_public_resnet", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# About a minute: a full ResNet-18 on a CPU, 200 images, and a small network trained beside it.
def test_the_shipped_resnet_is_accurate_and_not_robust(example, real_images):
    archive = real_images / "cifar10-jpeg.tar.xz"
    test = example.first_images(archive, "test", 20)
    assert torch.bincount(test.labels).tolist() == [20] * 10
    resnet = example.public_resnet()
    result = av.evaluate(resnet, test, [av.pgd(steps=20, epsilon=8 / 255)])
    assert result.accuracy() == pytest.approx(0.835)
    assert result.accuracy("PGD20") == 0
    # As a transfer source, the paper's Standard column, against a model trained with the kit.
    train = example.first_images(archive, "train", 100)
    kit = av.preact_resnet18(train, base_channels=8)
    for _ in av.Training(kit, train, av.standard(), 100, batch_size=64, lr=0.05):
        pass
    attacks = [av.pgd(steps=5, epsilon=8 / 255), av.pgd(steps=5, epsilon=8 / 255, source=resnet)]
    transferred = av.evaluate(kit, test.subset(40), attacks)
    assert transferred.accuracy("Clean") > 0.2
    assert transferred.accuracy("PGD5 (transfer)") > transferred.accuracy("PGD5") + 0.1
