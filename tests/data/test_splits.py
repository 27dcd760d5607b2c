"""Split, Data and how validation images are held out; the digits."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import avmixup_kit as av
from avmixup_kit.data import Augmentation, Data, Split, load
from avmixup_kit.data.splits import choose


def make(count: int = 12, classes: int = 3, size: int = 4, name: str = "train") -> Split:
    rng = np.random.RandomState(count)
    images = torch.tensor(rng.randint(0, 256, (count, 3, size, size)), dtype=torch.uint8)
    labels = torch.arange(count) % classes
    return Split(images, labels, tuple("abcdefghij"[:classes]), Augmentation(1, True), name)


def test_images_are_logical_nchw_stored_channels_last() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    split = Split(images, torch.zeros(5, dtype=torch.int64), ("a",), Augmentation(1))
    assert torch.equal(split.images, images)
    assert split.images.permute(0, 2, 3, 1).is_contiguous()
    assert (len(split), split.num_classes, split.shape) == (5, 1, (3, 4, 6))
    assert split.device == torch.device("cpu")


def test_images_stored_so_already_are_not_copied_unless_windows_need_room() -> None:
    split = make()
    assert replace(split, augmentation=Augmentation(1)).images.data_ptr() == split.images.data_ptr()
    assert replace(split, augmentation=Augmentation(2)).images.data_ptr() != split.images.data_ptr()
    assert split.to("cpu").images.data_ptr() == split.images.data_ptr()


def test_the_memory_is_the_pixels_and_a_margin() -> None:
    split = make(count=100)
    assert split.images.untyped_storage().nbytes() == 100 * 48 + 2 * (4 + 1) * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": torch.zeros(12, 3, 4, 4).double()},
            r"images' shape and type = \(\(12, 3, 4, 4\), torch.float64\) is not allowed: uint8",
        ),
        ({"images": torch.full((12, 3, 4, 4), 1.5)}, r"range = \(1.5, 1.5\) .*divide by 255"),
        ({"images": torch.zeros(12, 4, 4, dtype=torch.uint8)}, r"uint8, or float32 in \[0, 1\]"),
        ({"labels": torch.zeros(11, dtype=torch.int64)}, r"not allowed: int64 \(12,\)"),
        ({"labels": torch.zeros(12)}, r"torch.float32\) is not allowed: int64 \(12,\)"),
        ({"labels": torch.full((12,), 3)}, r"range = \(3, 3\) is not allowed: 0 to 2, there are 3"),
        ({"labels": torch.full((12,), -1)}, r"range = \(-1, -1\) is not allowed: 0 to 2"),
        (
            {"labels": torch.zeros(12, dtype=torch.int64, device="meta")},
            "device = 'meta' is not al",
        ),
        ({"augmentation": Augmentation(4)}, "pad = 4 is not allowed: 0 to 3 for images of 4x4"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make(), **changes)


def test_a_split_is_shown_in_a_line() -> None:
    assert repr(make()) == (
        "<Split train: 12 images of 3x4x4, 3 classes, Augmentation(pad=1, flip=True), on cpu>"
    )


def test_a_split_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        make().name = "other"  # type: ignore[misc]


def test_cuda_asked_for_and_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device = 'cuda' is not allowed: 'cpu'"):
        make().to("cuda")


def test_the_checksum_sees_pixels_labels_classes_and_shape_only() -> None:
    split = make()
    images = split.images.clone()
    images[3, 1, 2, 0] += 1
    labels = split.labels.clone()
    labels[[0, 1]] = labels[[1, 0]]
    changed = [
        replace(split, images=images),
        replace(split, labels=labels),
        replace(split, classes=("a", "b", "d")),
        replace(split, images=split.images.reshape(12, 3, 2, 8)),
    ]
    assert len({one.checksum for one in [split, *changed]}) == 5
    same = replace(split, augmentation=Augmentation(), images=split.images.contiguous(), name="x")
    assert same.checksum == split.checksum
    assert len(split.checksum) == 64
    assert split.subset(0).checksum != split.checksum


def test_a_subset_of_indices_keeps_their_order() -> None:
    split = make()
    for indices in ([5, 0, 7], torch.tensor([5, 0, 7]), np.array([5, 0, 7])):
        part = split.subset(indices)  # type: ignore[arg-type]
        assert torch.equal(part.images, split.images[[5, 0, 7]])
        assert torch.equal(part.labels, split.labels[[5, 0, 7]])
        assert (part.classes, part.augmentation) == (split.classes, split.augmentation)


def test_a_subset_of_a_mask_is_what_it_marks() -> None:
    split = make()
    assert torch.equal(split.subset(split.labels == 1).labels, torch.ones(4, dtype=torch.int64))


def test_a_subset_of_a_number_has_the_classes_in_proportion() -> None:
    part = make(count=30).subset(12)
    assert torch.bincount(part.labels).tolist() == [4, 4, 4]
    assert part.checksum == make(count=30).subset(12).checksum
    assert (len(make().subset(0)), len(make().subset(12))) == (0, 12)


@pytest.mark.parametrize("count", [-1, 13])
def test_a_subset_of_an_impossible_number_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"n = {count} is not allowed: 0 to 12, train has no"):
        make().subset(count)


def test_choose_takes_each_class_in_proportion_and_chance_within_it() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    for seed in range(20):
        chosen = choose(labels, 20, seed)
        assert np.bincount(labels[chosen]).tolist() == [10, 6, 3, 1]
        assert (np.diff(chosen) > 0).all()
    often = np.bincount(np.concatenate([choose(labels, 20, seed) for seed in range(1000)]))
    assert often.shape == (100,)
    assert 140 < often.min() < often.max() < 260  # 200 expected, five deviations of 12.6
    # 2 of 7: whole parts 0, 0 and 1, and the one left to the largest remainder, 4 / 7.
    uneven = np.repeat([0, 1, 2], [1, 2, 4])
    assert uneven[choose(uneven, 2, seed=0)].tolist() == [1, 2]


def test_choose_never_changes() -> None:
    assert choose(np.repeat([0, 1], 10), 6, seed=0).tolist() == [2, 4, 8, 11, 13, 15]


def test_data_of_different_classes_or_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="classes of test = 2 is not .* order as the 3 of train"):
        Data("mine", make(), make(), make(classes=2, name="test"))
    with pytest.raises(ValueError, match=r"shape of test = \(3, 5, 5\) is not allowed: \(3, 4"):
        Data("mine", make(), make(), make(size=5, name="test"))
    with pytest.raises(ValueError, match="same names in the same order"):
        Data("mine", make(), make(), replace(make(), classes=("c", "b", "a")))


@pytest.mark.parametrize("epsilon", [0, -0.1, 1.01, 8, float("nan")])
def test_an_epsilon_outside_0_1_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon = {epsilon} is not allowed: 0 < epsilon <= 1"):
        Data("mine", make(), make(), make(), epsilon=epsilon)


def test_digits_are_scikit_learns_each_in_one_split(digits: av.Data) -> None:
    source: Any = load_digits()
    assert digits.epsilon == 0.15
    assert digits.classes == tuple("0123456789")
    assert digits.shape == (1, 8, 8)
    found = [
        (bytes(image.numpy().tobytes()), int(label))
        for split in (digits.train, digits.validation, digits.test)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    expected = [
        (np.floor(image * 255 / 16 + 0.5).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(source.images, source.target, strict=True)
    ]
    assert sorted(found) == sorted(expected)
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1213, 135, 449]


def test_digits_have_every_class_in_proportion_in_every_split(digits: av.Data) -> None:
    share = np.bincount(load_digits(return_X_y=True)[1]) / 1797
    for split in (digits.train, digits.validation, digits.test):
        counts = torch.bincount(split.labels).numpy()
        assert np.abs(counts - share * len(split)).max() < 2


def test_digits_seed_moves_validation_and_never_test(digits: av.Data) -> None:
    other = av.digits(seed=1)
    assert av.digits().train.checksum == digits.train.checksum
    assert other.validation.checksum != digits.validation.checksum
    assert other.test.checksum == digits.test.checksum


def test_only_training_images_are_augmented() -> None:
    how = Augmentation(1, True)
    data = av.digits(augmentation=how)
    assert data.train.augmentation == how
    assert data.validation.augmentation == data.test.augmentation == Augmentation()
    assert [data.train.name, data.validation.name] == ["digits/train", "digits/validation"]


@pytest.mark.parametrize(("validation", "count"), [(0, 0), (0.0, 0), (0.25, 337), (100, 100)])
def test_validation_is_a_part_or_a_count(validation: float, count: int) -> None:
    data = av.digits(validation=validation)
    assert (len(data.validation), len(data.train)) == (count, 1348 - count)


@pytest.mark.parametrize("validation", [1.0, -0.1, -1, 1348, float("nan"), True, "half"])
def test_validation_out_of_range_is_refused(validation: Any) -> None:
    message = r"a part in \[0, 1\) or a count from 0 to 1347, of 1348 training images"
    with pytest.raises(ValueError, match=f"validation = {validation!r} is not allowed: {message}"):
        av.digits(validation=validation)


def test_load_finds_data_sets_by_name(digits: av.Data) -> None:
    assert load("digits", seed=0).train.checksum == digits.train.checksum
    with pytest.raises(
        ValueError, match="data set = 'mnist' is not allowed: one of digits, fashion_mnist, c"
    ):
        load("mnist")


def test_data_moves_as_a_whole(digits: av.Data) -> None:
    moved = digits.to("cpu")
    assert (moved.name, moved.epsilon, moved.classes) == ("digits", 0.15, digits.classes)
    assert moved.test.checksum == digits.test.checksum
    assert moved.num_classes == 10
