"""CIFAR-10 from wherever it lies, named, and a sample of it that is always the same."""

import pytest
import torch

import avmixup_kit as av
from avmixup_kit.data import originals, samples


@pytest.fixture
def root(mirror):
    return mirror


@pytest.fixture
def no_network(monkeypatch):
    def refused(*given):
        raise OSError("no route to the server")

    monkeypatch.setattr(originals, "download_url", refused)


def test_a_sample_has_each_class_in_proportion_and_says_where_it_comes_from(root):
    sample = av.cifar10_sample(20, root=root)
    assert sample.name == "cifar10-jpeg/test"
    assert torch.bincount(sample.labels).tolist() == [2] * 10


def test_a_sample_is_the_same_for_a_seed_and_another_for_another(root):
    checksums = [av.cifar10_sample(10, root=root, seed=seed).checksum for seed in (0, 0, 1)]
    assert checksums[0] == checksums[1] != checksums[2]


@pytest.mark.parametrize("place", ["folder", "archive", "environment"])
def test_the_mirror_is_found_in_a_folder_by_itself_or_where_the_environment_says(
    root, place, monkeypatch
):
    given = {"folder": root, "archive": root / samples.MIRROR, "environment": None}[place]
    monkeypatch.setenv("AVMIXUP_DATA", str(root))
    assert len(av.cifar10_sample(30, root=given)) == 30


def test_the_original_goes_before_the_mirror(tmp_path, monkeypatch):
    (tmp_path / samples.MIRROR).touch()
    (tmp_path / samples.ORIGINALS[0]).touch()
    asked = []
    monkeypatch.setattr(samples, "load", lambda name, **given: asked.append((name, given["root"])))
    samples.cifar10_or_mirror(tmp_path)
    assert asked == [("cifar10", tmp_path)]


def test_where_nothing_lies_it_is_said_what_to_fetch_and_where_to_put_it(tmp_path, no_network):
    wanted = (
        r"cannot download cifar-10-python.tar.gz \(no route to the server\): fetch "
        rf"https://\S+ and put it at {tmp_path}/cifar-10-python.tar.gz; or put the JPEG mirror "
        r"cifar10-jpeg.tar.xz there"
    )
    with pytest.raises(ConnectionError, match=wanted):
        av.cifar10_sample(root=tmp_path)


def test_another_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "pictures.zip").touch()
    with pytest.raises(ValueError, match="pictures.zip' is not allowed: it holds no CIFAR-10"):
        av.cifar10_sample(root=tmp_path / "pictures.zip")


def test_more_images_than_there_are_are_refused(root):
    with pytest.raises(ValueError, match="n = 31 is not allowed: 0 to 30"):
        av.cifar10_sample(31, root=root)


def test_where_it_lies_is_found_and_nothing_is_downloaded(root, tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVMIXUP_DATA", raising=False)
    assert samples.cifar10_at_hand() is None
    assert samples.cifar10_at_hand(root / samples.MIRROR) == root / samples.MIRROR
    assert samples.cifar10_at_hand(root) == root
    monkeypatch.setenv("AVMIXUP_DATA", str(root))
    assert samples.cifar10_at_hand("nowhere") == root
    monkeypatch.delenv("AVMIXUP_DATA")
    (tmp_path / "data" / samples.ORIGINALS[1]).mkdir(parents=True)
    assert str(samples.cifar10_at_hand(None)) == "data"
