"""Split.of: images of one's own in one line, no pixel changed, what cannot be meant refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import avmixup_kit as av
from avmixup_kit.data import Augmentation

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)  # NHWC
LABELS = np.arange(12) % 3
NCHW = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
NAMES = ("ant", "bee", "cat")


class Pictures(Dataset[Any]):
    """Items made by a function of the item's number, as a torchvision data set makes them."""

    def __init__(self, item: Any, count: int = 12) -> None:
        self.item, self.count = item, count
        self.classes = list(NAMES)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def pil(index: int) -> tuple[Image.Image, int]:
    return Image.fromarray(PIXELS[index]), int(LABELS[index])


def tensors(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return NCHW[index].float().div(255), torch.tensor(LABELS[index])


class Stream(IterableDataset[Any]):
    def __iter__(self):
        return map(pil, range(12))


@pytest.mark.parametrize(
    ("source", "names", "title"),
    [
        (Pictures(pil), NAMES, "pictures"),
        (Pictures(tensors), NAMES, "pictures"),
        (Pictures(lambda i: (NCHW[i].numpy(), LABELS[i])), NAMES, "pictures"),
        (Subset(Pictures(pil), range(12)), NAMES, "pictures"),
        (Stream(), ("0", "1", "2"), "stream"),
        (DataLoader(Pictures(tensors), batch_size=5), NAMES, "pictures"),
        (TensorDataset(NCHW, torch.from_numpy(LABELS)), ("0", "1", "2"), "tensordataset"),
        ((NCHW, torch.from_numpy(LABELS)), ("0", "1", "2"), "images"),
        ((NCHW.numpy(), LABELS.astype(np.uint8)), ("0", "1", "2"), "images"),
        ([NCHW.numpy() / 255, LABELS.astype(np.int16)], ("0", "1", "2"), "images"),
        ((NCHW.double() / 255, LABELS.tolist()), ("0", "1", "2"), "images"),
    ],
)
def test_every_source_gives_the_same_bytes(source, names, title):
    split = av.Split.of(source)
    assert split.images.dtype == torch.uint8
    assert torch.equal(split.images, NCHW)
    assert split.labels.tolist() == LABELS.tolist()
    assert (split.classes, split.name) == (names, title)


@pytest.mark.parametrize("source", [
    (PIXELS, LABELS), (torch.from_numpy(PIXELS) / 255, LABELS),
    DataLoader(Pictures(lambda i: (PIXELS[i], LABELS[i])), batch_size=5),
    Pictures(lambda i: (PIXELS[i] / np.float32(255), LABELS[i])),
])  # fmt: skip
def test_images_with_channels_last_are_read_when_that_is_said_and_refused_when_not(source):
    assert torch.equal(av.Split.of(source, layout="NHWC").images, NCHW)
    said = r"layout = 'NCHW' is not allowed: images of shape .* look like 'NHWC': say so"
    with pytest.raises(ValueError, match=said):
        av.Split.of(source)
    with pytest.raises(ValueError, match="layout = 'NHWC' is not allowed: .* look like 'NCHW'"):
        av.Split.of((NCHW, LABELS), layout="NHWC")


def test_a_grey_picture_has_one_channel():
    grey = Pictures(lambda i: (Image.fromarray(PIXELS[i, ..., 0]), 0))
    assert torch.equal(av.Split.of(grey).images, NCHW[:, :1])


def test_floats_between_bytes_stay_exact_and_are_cropped_and_flipped_as_bytes_are():
    x = torch.rand(40, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    kinds = Augmentation(2, True)
    floats = av.Split.of((x, torch.arange(40) % 3), augmentation=kinds)
    assert floats.images.dtype == torch.float32
    assert torch.equal(floats.images, x)
    assert torch.equal(floats.batch(torch.arange(40))[0], x)
    assert torch.equal(floats.subset([3, 1]).to("cpu").batch([1, 0])[0], x[[1, 3]])
    coded = av.Split.of(((x * 255).byte(), torch.arange(40) % 3), augmentation=kinds)
    back = av.Split.of((coded.images.float() / 256, coded.labels), augmentation=kinds)
    assert back.images.dtype == torch.float32
    one, other = (
        split.batch(torch.arange(40), torch.Generator().manual_seed(5))[0]
        for split in (coded, back)
    )
    assert torch.equal(one, (other * 256).div(255))
    assert not torch.equal(one, coded.batch(torch.arange(40))[0])
    half = x.half()
    assert torch.equal(av.Split.of((half, torch.zeros(40).long())).images, half.float())


def test_the_checksum_tells_floats_from_other_floats_and_from_bytes():
    x = torch.rand(4, 3, 6, 7)
    labels = torch.zeros(4).long()
    sums = {av.Split.of((pixels, labels)).checksum for pixels in (x, x * 0.5, (x * 255).byte())}
    assert len(sums) == 3


def test_names_augmentation_and_a_split_itself():
    split = av.Split.of(Pictures(pil), ["x", "y", "z"], augmentation=Augmentation(1), name="mine")
    assert (split.classes, split.name, split.augmentation.pad) == (("x", "y", "z"), "mine", 1)
    assert av.Split.of(split) is split
    assert av.Split.of(split, 5).classes == tuple("01234")
    assert av.Split.of(split, 5).augmentation == split.augmentation
    named = Pictures(pil)
    named.classes = [("ant", "emmet"), "bee", "cat"]  # as torchvision's ImageNet has them
    assert av.Split.of(named).classes == ("ant, emmet", "bee", "cat")


def test_what_cannot_be_meant_is_told_in_a_line(digits):
    wild = Pictures(lambda i: (torch.rand(3, 6, 7), 0))
    for source, message in (
        ((NCHW.long(), LABELS), r"torch.int64\) is not allowed: uint8, or float in \[0, 1\]"),
        ((NCHW[:, 0], LABELS), r"grey \(N, H, W\) becomes that by \[:, None\]"),
        ((NCHW.float(), LABELS), r"images' range = .* divide by 255"),
        ((NCHW.float() / 128 - 1, LABELS), "undo the normalisation"),
        ((NCHW, LABELS[:5]), r"one class number for each of the 12 images"),
        ((NCHW, LABELS / 1), r"torch.float64\) is not allowed: one class number"),
        ((NCHW, LABELS - 1), r"labels' range = \(-1, 1\) is not allowed: 0 to 1"),
        (wild, "pictures gives other pixels each time .* random transforms"),
        (DataLoader(wild), "pictures gives other pixels each time"),
        (Pictures(lambda i: NCHW[i]), "item 0 = 'Tensor' is not allowed: a pair"),
        (Pictures(lambda i: (NCHW[i], 0, 1)), "item 0 = '3 parts' is not allowed: a pair"),
        (Pictures(pil, 0), "there are no images"),
        (
            Pictures(lambda i: (NCHW[i, :, i % 2 :], 0)),
            r"images of item 1 = \(3, 5, 7\) is not allowed: \(3, 6, 7\), as the first; resize",
        ),
        (Pictures(lambda i: (pil(i)[0].convert("RGBA"), 0)), "mode = 'RGBA' is not .*convert"),
        (Pictures(lambda i: (pil(i)[0], 7)), r"labels' range = \(7, 7\) is not allowed: 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            av.Split.of(source)
    with pytest.raises(TypeError, match="image of type str is not allowed: a PIL image, a"):
        av.Split.of(Pictures(lambda i: ("ant.png", 0)))
    for source, name in ((NCHW, "Tensor"), ("images", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"images of type {name} are not allowed: a Split"):
            av.Split.of(source)  # pyright: ignore[reportArgumentType]
    several = "Data has several splits: data.train, data.validation or data.test"
    with pytest.raises(TypeError, match=several):
        av.Split.of(digits)
    with pytest.raises(TypeError, match=several):
        av.evaluate(av.small_cnn(digits), digits)
    with pytest.raises(TypeError, match=several):
        av.Training(av.small_cnn(digits), digits, av.standard(), 1)
    with pytest.raises(ValueError, match="layout = 'HWC' is not allowed: one of NCHW, NHWC"):
        av.Split.of((NCHW, LABELS), layout="HWC")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="classes = 'abc' is not allowed: a list of names"):
        av.Split.of((NCHW, LABELS), "abc")


@pytest.mark.parametrize("source", [Pictures(pil), DataLoader(Pictures(tensors), batch_size=5)])
def test_training_and_evaluation_take_what_split_of_takes(source):
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 7, 3))

    states = []
    for images in (source, av.Split.of(source)):
        training = av.Training(network(), images, av.standard(), 3, batch_size=6)
        losses = [record.loss for record in training]
        states.append((losses, av.evaluate(training.model, images, [av.fgsm(0.1)]).correct))
    assert states[0][0] == states[1][0]
    assert torch.equal(states[0][1], states[1][1])


def test_unnamed_classes_are_as_many_as_the_model_has():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 7, 5))
    training = av.Training(model, (NCHW, LABELS), av.standard(), 1, batch_size=6)
    assert training.split.num_classes == 5
    assert len(list(training)) == 1
    two = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 7, 2))
    with pytest.raises(ValueError, match=r"range = \(0, 2\) .*: 0 to 1, the model has 2 classes"):
        av.Training(two, (NCHW, LABELS), av.standard(), 1, batch_size=6)
    with pytest.raises(ValueError, match="the model has 5 classes, pictures has 3"):
        av.Training(model, Pictures(pil), av.standard(), 1, batch_size=6)


def test_a_sample_is_seeded_and_has_every_class_where_the_first_images_have_one():
    order = np.sort(LABELS)
    split = av.Split.of((NCHW, order), NAMES)
    assert split.subset(range(4)).labels.tolist() == [0, 0, 0, 0]
    assert split.sample(6).labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.sample(6, seed=1).checksum == split.sample(6, seed=1).checksum
    assert len({split.sample(6, seed).checksum for seed in range(8)}) > 1
    assert split.sample(6).checksum == split.subset(6).checksum
    for n in (13, -1, 1.5):
        with pytest.raises(ValueError, match=f"n = {n} is not allowed: 0 to 12, images has no"):
            split.sample(n)  # pyright: ignore[reportArgumentType]
