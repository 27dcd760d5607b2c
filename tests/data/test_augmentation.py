"""Split.batch: what it may return, how often, and that nothing else moves."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from avmixup_kit.data import Augmentation, Split

CASES = [
    (5, 3, 6, 6, Augmentation(pad=2, flip=True)),
    (4, 1, 5, 7, Augmentation(pad=1, flip=True)),
    (3, 3, 7, 4, Augmentation(pad=3)),
    (3, 2, 5, 6, Augmentation(flip=True)),
    (1, 3, 4, 4, Augmentation(pad=3, flip=True)),
]


def split_of(count: int, channels: int, height: int, width: int, how: Augmentation) -> Split:
    # No zeros among the pixels: a zero is padding.
    images = np.random.RandomState(0).randint(1, 256, (count, channels, height, width))
    labels = torch.arange(count) % 3
    return Split(torch.tensor(images, dtype=torch.uint8), labels, ("a", "b", "c"), how)


def windows(image: np.ndarray, how: Augmentation) -> np.ndarray:
    """Every outcome for one image (C, H, W), by NumPy, windows by row and column, then flipped."""
    p = how.pad
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (p, p), (p, p)))
    found = [
        padded[:, i : i + height, j : j + width] for i in range(2 * p + 1) for j in range(2 * p + 1)
    ]
    return np.stack(found + [one[:, :, ::-1] for one in found] if how.flip else found)


def outcomes(x: Tensor, image: Tensor, how: Augmentation) -> np.ndarray:
    """Which of `windows` each of x, batches of one image, is; fails where one is none of them."""
    possible = windows(image.numpy(), how).astype(np.float32) / 255
    same = (x.numpy()[:, None] == possible[None]).all(axis=(2, 3, 4))
    assert (same.sum(axis=1) == 1).all()
    return same.argmax(axis=1)


@pytest.mark.parametrize(("count", "channels", "height", "width", "how"), CASES)
def test_every_image_is_a_window_of_its_own_zero_padded_image(
    count: int, channels: int, height: int, width: int, how: Augmentation, rng: torch.Generator
) -> None:
    split = split_of(count, channels, height, width, how)
    indices = torch.arange(count).repeat(1500)[torch.randperm(1500 * count, generator=rng)]
    x, y = split.batch(indices, rng)
    assert x.shape == (1500 * count, channels, height, width)
    for i in range(count):
        mine = indices == i
        seen = outcomes(x[mine], split.images[i], how)
        # 1500 draws miss any of at most 98 with a probability below 98 exp(-15).
        assert len(set(seen)) == (2 * how.pad + 1) ** 2 * (1 + how.flip)
        assert (y[mine].argmax(1) == split.labels[i]).all()
    assert torch.equal(y.sum(1), torch.ones(len(y)))


def test_windows_and_flips_are_uniform_and_independent(rng: torch.Generator) -> None:
    how = Augmentation(pad=2, flip=True)
    split = split_of(1, 3, 6, 6, how)
    seen = outcomes(split.batch([0] * 40_000, rng)[0], split.images[0], how)
    counts = np.bincount(seen, minlength=50)
    assert stats.chisquare(counts).pvalue > 0.001  # all 50 joint outcomes
    rows, columns = counts.reshape(2, 5, 5).sum(axis=(0, 2)), counts.reshape(2, 5, 5).sum((0, 1))
    assert stats.chisquare(rows).pvalue > 0.001
    assert stats.chisquare(columns).pvalue > 0.001
    assert stats.chisquare(counts.reshape(2, 25).sum(1)).pvalue > 0.001
    # Neighbours in a batch: 50 x 50 pairs, 8 expected in each cell.
    pairs = np.bincount(seen[::2] * 50 + seen[1::2], minlength=2500)
    assert stats.chisquare(pairs).pvalue > 0.001


def test_the_generator_alone_decides(rng: torch.Generator) -> None:
    split = split_of(4, 3, 8, 8, Augmentation(pad=2, flip=True))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = split.batch(range(4), rng)[0], split.batch(range(4), rng)[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(split.batch(range(4), torch.Generator().manual_seed(0))[0], first)


def test_without_a_generator_pixels_are_divided_by_255_and_nothing_else() -> None:
    split = split_of(4, 3, 8, 8, Augmentation(pad=2, flip=True))
    x, y = split.batch(torch.tensor([3, 0, 3]))
    assert torch.equal(x, split.images[[3, 0, 3]].to(torch.float32) / 255)
    assert y.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_no_augmentation_leaves_images_and_generator_alone(rng: torch.Generator) -> None:
    split = split_of(4, 3, 8, 8, Augmentation())
    before = rng.get_state()
    assert torch.equal(split.batch(range(4), rng)[0], split.batch(range(4))[0])
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("how", [Augmentation(), Augmentation(2), Augmentation(2, True)])
def test_batches_are_float32_channels_last_in_0_1(how: Augmentation, rng: torch.Generator) -> None:
    split = split_of(6, 3, 8, 8, how)
    for x, y in (split.batch(range(6), rng), split.batch(range(6))):
        assert x.dtype == y.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= float(x.min()) <= float(x.max()) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_nothing_is_empty(channels: int, rng: torch.Generator) -> None:
    split = split_of(2, channels, 8, 8, Augmentation(2, True))
    for x, y in (split.batch([], rng), split.batch([])):
        assert x.shape == (0, channels, 8, 8)
        assert y.shape == (0, 3)


def test_the_way_to_flip_on_a_gpu_and_on_a_cpu_agree() -> None:
    split = split_of(5, 3, 6, 6, Augmentation(pad=2, flip=True))
    index, outcome = torch.arange(500) % 5, torch.arange(500) % 50
    # where the images lie decides between the two, and here they lie on a CPU
    by_order = split._flipped_by_order(index, outcome, 25)  # pyright: ignore[reportPrivateUsage]
    by_choice = split._flipped_by_choice(index, outcome, 25)  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(by_order, by_choice)


def test_images_stay_as_they_were(rng: torch.Generator) -> None:
    split = split_of(5, 3, 6, 6, Augmentation(pad=2, flip=True))
    before = split.images.clone()
    x, _ = split.batch(range(5), rng)
    x.zero_()
    split.batch(range(5))[0].zero_()
    assert torch.equal(split.images, before)


def test_an_index_out_of_range_is_refused(rng: torch.Generator) -> None:
    split = split_of(5, 3, 6, 6, Augmentation(pad=2, flip=True))
    for index in (5, -1):
        with pytest.raises(IndexError):
            split.batch([index], rng)


def test_a_generator_on_another_device_is_refused() -> None:
    split = split_of(2, 3, 6, 6, Augmentation(pad=2))
    elsewhere = cast(Any, SimpleNamespace(device=torch.device("cuda", 0)))
    with pytest.raises(
        ValueError, match=r"rng.device = 'cuda:0' is not allowed: the images' device, cpu"
    ):
        split.batch([0], elsewhere)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pad": -1}, "pad = -1 is not allowed: a whole number"),
        ({"pad": 1.5}, "pad = 1.5 is not allowed: a whole number"),
        ({"pad": True}, "pad = True is not allowed: a whole number"),
        ({"flip": 1}, "flip = 1 is not allowed: True or False"),
    ],
)
def test_bad_augmentations_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)


def test_repr_rebuilds_an_augmentation() -> None:
    for how in (Augmentation(), Augmentation(pad=4, flip=True)):
        assert eval(repr(how)) == how


def test_on_cuda_batches_come_from_the_same_windows_without_a_wait() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    how = Augmentation(pad=2, flip=True)
    host = split_of(2, 3, 6, 6, how)
    split, rng = host.to("cuda"), torch.Generator("cuda").manual_seed(0)
    index = torch.zeros(2_000, dtype=torch.int64, device="cuda")
    split.batch(index, rng)
    torch.cuda.set_sync_debug_mode("error")
    try:
        x, _ = split.batch(index, rng)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(set(outcomes(x.cpu(), host.images[0], how))) == 50
    assert split.checksum == host.checksum
    with pytest.raises(
        ValueError, match="rng.device = 'cpu' is not allowed: the images' device, cuda:0"
    ):
        split.batch(index, torch.Generator())
