"""Whole data sets of real images, where AVMIXUP_TEST_DATA names a folder of them."""

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import avmixup_kit as av

# These take longer than five seconds because they decode everything that the archives hold.


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many archives were opened and how many images."""
    counts: Counter[str] = Counter()
    for what, module in (("archives", tarfile), ("images", Image)):

        def counted(*given, what=what, opened=module.open, **named):
            counts[what] += 1
            return opened(*given, **named)

        monkeypatch.setattr(module, "open", counted)
    return counts


def test_all_of_cifar10_as_jpeg_and_its_second_start(
    real_images: Path, tmp_path: Path, read: Counter[str]
) -> None:
    path = real_images / "cifar10-jpeg.tar.xz"
    first = av.image_folder(path, cache=tmp_path, validation=0.02)
    assert [len(s) for s in (first.train, first.validation, first.test)] == [49_000, 1_000, 10_000]
    assert first.shape == (3, 32, 32)
    assert first.classes == tuple(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    )
    assert torch.bincount(first.train.labels).tolist() == [4_900] * 10
    assert torch.bincount(first.test.labels).tolist() == [1_000] * 10
    # JPEG hardly moves the mean colour of CIFAR-10's training images.
    mean = first.train.images.double().mean((0, 2, 3)) / 255
    assert np.abs(mean.numpy() - [0.4914, 0.4822, 0.4465]).max() < 0.005

    assert read == {"archives": 1, "images": 60_000}
    read.clear()
    second = av.image_folder(path, cache=tmp_path, validation=0.02)
    assert not read
    for split in ("train", "validation", "test"):
        assert getattr(second, split).checksum == getattr(first, split).checksum


def test_a_subset_of_tiny_imagenet(real_images: Path, tmp_path: Path, read: Counter[str]) -> None:
    path = real_images / "tiny-imagenet-200-subset.tar.xz"
    first = av.tiny_imagenet(path, cache=tmp_path, validation=200)
    assert [len(s) for s in (first.train, first.validation, first.test)] == [7_800, 200, 2_000]
    assert first.shape == (3, 64, 64)
    assert first.num_classes == len(set(first.classes)) == 200
    assert first.classes[:3] == ("goldfish", "European fire salamander", "bullfrog")
    for split, count in ((first.train, 39), (first.validation, 1), (first.test, 10)):
        assert torch.bincount(split.labels).tolist() == [count] * 200

    assert read["images"] >= 10_000
    read.clear()
    second = av.tiny_imagenet(path, cache=tmp_path, validation=200)
    assert not read
    assert second.train.checksum == first.train.checksum
