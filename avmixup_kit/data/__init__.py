"""Data sets as one uint8 tensor per split on a device, with batched augmentation there."""

from avmixup_kit.data.datasets import (
    DATASETS,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    image_folder,
    load,
    svhn,
    tiny_imagenet,
)
from avmixup_kit.data.samples import cifar10_or_mirror, cifar10_sample
from avmixup_kit.data.splits import Augmentation, Data, Split

__all__ = [
    "DATASETS",
    "Augmentation",
    "Data",
    "Split",
    "cifar10",
    "cifar10_or_mirror",
    "cifar10_sample",
    "cifar100",
    "digits",
    "fashion_mnist",
    "image_folder",
    "load",
    "svhn",
    "tiny_imagenet",
]
