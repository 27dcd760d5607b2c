"""Loaders of published data sets, on small files of the exact original format."""

import gzip
import io
import pickle
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv

from avmixup_kit.data import (
    Augmentation,
    Data,
    cifar10,
    cifar100,
    fashion_mnist,
    originals,
    svhn,
    tiny_imagenet,
)
from tests.conftest import skip

CROP_AND_FLIP = Augmentation(pad=2, flip=True)


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVMIXUP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def pixels(count: int, size: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 (N, H, W, C)."""
    shape = (count, size, size, channels)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def same(split: Any, images: np.ndarray, labels: np.ndarray) -> None:
    assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(split.labels.numpy(), labels)


def as_tar(files: dict[str, bytes], path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


# CIFAR


# The one in C has no table of types to write in another way.
PythonsPickler: Any = pickle._Pickler  # pyright: ignore[reportPrivateUsage]


class Python2Pickler(PythonsPickler):
    """Writes byte strings as Python 2 wrote its strings, as in the original files."""

    dispatch: ClassVar = dict(PythonsPickler.dispatch)

    def save_bytes(self, content: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch[bytes] = save_bytes


def python2_pickle(content: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def cifar_files(kind: type[tv.CIFAR10], images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """The pickles of the original, ten images a file."""
    key = b"labels" if kind is tv.CIFAR10 else b"fine_labels"
    files, rows = {}, images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    for i, (name, _) in enumerate(kind.train_list + kind.test_list):
        part = slice(10 * i, 10 * i + 10)
        entry = {b"data": rows[part], key: labels[part].tolist(), b"batch_label": name.encode()}
        files[f"{kind.base_folder}/{name}"] = python2_pickle(entry)
    names = [f"name {i}".encode() for i in range(10 if kind is tv.CIFAR10 else 100)]
    meta = {kind.meta["key"].encode(): names}
    files[f"{kind.base_folder}/{kind.meta['filename']}"] = python2_pickle(meta)
    return files


Cifar = tuple[type[tv.CIFAR10], Callable[..., Data], Path, np.ndarray, np.ndarray]


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Cifar:
    """Small files of one kind in a folder, whose checksums torchvision is told."""
    kind = getattr(tv, request.param)
    count = 10 * len(kind.train_list + kind.test_list)
    images, labels = pixels(count), np.arange(count) * 7 % (10 if kind is tv.CIFAR10 else 100)
    files = cifar_files(kind, images, labels)
    as_tar(files, tmp_path / kind.filename)

    def sums(table: list[list[str]]) -> list[list[str]]:
        return [[n, md5(files[f"{kind.base_folder}/{n}"]).hexdigest()] for n, _ in table]

    monkeypatch.setattr(kind, "train_list", sums(kind.train_list))
    monkeypatch.setattr(kind, "test_list", sums(kind.test_list))
    meta = files[f"{kind.base_folder}/{kind.meta['filename']}"]
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(meta).hexdigest()})
    digest = md5((tmp_path / kind.filename).read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "tgz_md5", digest)
    return kind, cifar10 if kind is tv.CIFAR10 else cifar100, tmp_path, images, labels


@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar_is_its_pixels_and_labels(cifar: Cifar, unpacked: bool) -> None:
    kind, load, root, images, labels = cifar
    if unpacked:
        put(root, cifar_files(kind, images, labels))
        (root / kind.filename).unlink()
    for _ in range(2):  # the second from the cache
        data = load(root, validation=0)
        same(data.train, images[:-10], labels[:-10])
        same(data.test, images[-10:], labels[-10:])
        assert data.classes == tuple(f"name {i}" for i in range(data.num_classes))
        assert data.train.augmentation == CROP_AND_FLIP
        assert data.epsilon == 8 / 255
        assert (root / f"{data.name}.avmixup-cache.pt").exists()
    assert (root / kind.base_folder).exists() == unpacked


def test_a_second_start_reads_no_original(cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> None:
    _, load, root, _, _ = cifar
    first = load(root, validation=0)

    def decode(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(originals, "cifar", decode)
    assert load(root, validation=0).train.checksum == first.train.checksum


def test_cifar_without_its_files_says_what_to_fetch(cifar: Cifar) -> None:
    kind, load, root, _, _ = cifar
    (root / kind.filename).unlink()
    advice = f"fetch {kind.url} and put it at {root / kind.filename}"
    with pytest.raises(ConnectionError) as caught:
        load(root)
    assert str(caught.value).startswith(f"cannot download {kind.filename} (")
    assert "Name or service not known" in str(caught.value)
    assert str(caught.value).endswith(advice)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"is not there and download=False: fetch https"):
        load(root, download=False)


def test_an_altered_cifar_archive_is_refused_and_kept(cifar: Cifar) -> None:
    kind, load, root, _, _ = cifar
    content = bytearray((root / kind.filename).read_bytes())
    content[len(content) // 2] ^= 1
    (root / kind.filename).write_bytes(content)
    message = f"{kind.filename}: truncated or altered, its MD5 is .*: allowed is {kind.tgz_md5}"
    with pytest.raises(ValueError, match=message):
        load(root)
    assert (root / kind.filename).read_bytes() == content


@pytest.mark.parametrize("change", ["altered", "absent"])
def test_an_altered_cifar_folder_is_refused(cifar: Cifar, change: str) -> None:
    kind, load, root, images, labels = cifar
    put(root, cifar_files(kind, images, labels))
    for name in [kind.test_list[0][0], kind.meta["filename"]]:
        path = root / kind.base_folder / name
        content = path.read_bytes()
        path.unlink() if change == "absent" else path.write_bytes(content[:-1])
        found = "that of no file" if change == "absent" else md5(content[:-1]).hexdigest()
        with pytest.raises(ValueError, match=f"{name}: truncated or altered, its MD5 is {found}"):
            load(root)
        path.write_bytes(content)
    load(root)


def test_the_real_checksums_refuse_files_that_are_not_the_originals(tmp_path: Path) -> None:
    as_tar({"cifar-10-batches-py/test_batch": b""}, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(ValueError, match="allowed is c58f30108f718f92721af3b95e74349a"):
        cifar10(tmp_path)
    as_tar({"cifar-100-python/test": b""}, tmp_path / "cifar-100-python.tar.gz")
    with pytest.raises(ValueError, match="allowed is eb9058c3a382ffc7106e4002c42a8d85"):
        cifar100(tmp_path)
    savemat(tmp_path / "train_32x32.mat", {"X": pixels(4).transpose(1, 2, 3, 0), "y": [[1]] * 4})
    with pytest.raises(ValueError, match="allowed is e26dedcc434d2e4c54c9b2d4a06d8373"):
        svhn(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="allowed is 8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        fashion_mnist(tmp_path)
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="allowed is 90528d7ca1a48142e341f4ef8d21d0de"):
        tiny_imagenet(tmp_path)


def test_an_original_that_changed_during_its_download_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(_: str, folder: Path, name: str, __: str) -> None:
        (folder / name).write_bytes(b"half of it")
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(originals, "download_url", deliver)
    with pytest.raises(ConnectionError, match=r"cannot download train_32x32.mat \(File not found"):
        svhn(tmp_path)
    with pytest.raises(ValueError, match=r"train_32x32.mat: truncated or altered"):
        svhn(tmp_path)


# SVHN


@pytest.fixture
def svhn_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    table = dict(tv.SVHN.split_list)
    for seed, name in enumerate(("train", "test")):
        url, file, _ = table[name]
        labels = np.arange(1, 31)[:, None] % 10
        labels[labels == 0] = 10  # the original's label of the digit 0
        content = {"X": pixels(30, seed=seed).transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)}
        savemat(tmp_path / file, content)
        table[name] = [url, file, md5((tmp_path / file).read_bytes()).hexdigest()]
    monkeypatch.setattr(tv.SVHN, "split_list", table)
    return tmp_path


def test_svhn_is_its_pixels_and_digits(svhn_root: Path) -> None:
    for _ in range(2):
        data = svhn(svhn_root, validation=0)
        same(data.train, pixels(30, seed=0), np.arange(1, 31) % 10)
        same(data.test, pixels(30, seed=1), np.arange(1, 31) % 10)
        assert data.classes == tuple("0123456789")
        assert data.train.augmentation == Augmentation(pad=2, flip=False)


def test_svhn_without_its_files_says_what_to_fetch(svhn_root: Path) -> None:
    (svhn_root / "test_32x32.mat").unlink()
    url = "http://ufldl.stanford.edu/housenumbers/test_32x32.mat"
    with pytest.raises(ConnectionError, match=f"fetch {url} and put it at .*/test_32x32.mat"):
        svhn(svhn_root)


# Fashion-MNIST


def idx(content: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{content.ndim}I", 0, 0, 8, content.ndim, *content.shape) + bytes(
        content.tobytes()
    )


@pytest.fixture
def fashion_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Fashion-MNIST's four files with 20 and 10 images."""
    files: dict[str, bytes] = {}
    for name, _ in tv.FashionMNIST.resources:
        count = 20 if "train" in name else 10
        images, labels = pixels(count, 28, 1, seed=count)[..., 0], np.arange(count) % 10
        content = idx(images if "images" in name else labels.astype(np.uint8))
        stream = io.BytesIO()
        time = originals.GZIP_TIMES[name.split("-")[0]]
        with gzip.GzipFile(name, "wb", 6, stream, time) as out:
            out.write(content)
        # Python writes another byte for the system than the gzip program.
        files[name] = stream.getvalue()[:9] + b"\x03" + stream.getvalue()[10:]
    sums = [(name, md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(tv.FashionMNIST, "resources", sums)
    return files


@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("stripped", [False, True])
def test_fashion_mnist_is_its_pixels_and_labels(
    tmp_path: Path, fashion_files: dict[str, bytes], folder: str, stripped: bool
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, content in fashion_files.items():
        if stripped:  # as Linux distributions package it: no name, another time
            end = content.index(b"\0", 10) + 1
            content = content[:3] + b"\0" + struct.pack("<I", 123) + content[8:10] + content[end:]
            assert gzip.decompress(content) == gzip.decompress(fashion_files[name])
        (tmp_path / folder / name).write_bytes(content)
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("*.gz")}
    for _ in range(2):
        data = fashion_mnist(tmp_path, validation=0)
        same(data.train, pixels(20, 28, 1, seed=20), np.arange(20) % 10)
        same(data.test, pixels(10, 28, 1, seed=10), np.arange(10))
        assert data.classes[9] == "Ankle boot"
        assert data.train.augmentation == Augmentation(pad=2, flip=False)
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*.gz")} == before


@pytest.mark.parametrize("stripped", [False, True])
def test_altered_fashion_mnist_is_refused(
    tmp_path: Path, fashion_files: dict[str, bytes], stripped: bool
) -> None:
    for name, content in fashion_files.items():
        data = gzip.decompress(content)
        altered = data[:-1] + bytes([data[-1] ^ 1])
        (tmp_path / name).write_bytes(gzip.compress(altered, mtime=0) if stripped else content[:-9])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: truncated or altered, its"):
        fashion_mnist(tmp_path)


def test_fashion_mnist_without_its_files_says_what_to_fetch(tmp_path: Path) -> None:
    url = tv.FashionMNIST.mirrors[0] + "train-images-idx3-ubyte.gz"
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    with pytest.raises(ConnectionError, match=f"fetch {url} and put it at {path}"):
        fashion_mnist(tmp_path)


def test_all_of_fashion_mnist_passes_torchvisions_own_checksum(tmp_path: Path) -> None:
    source = Path("/usr/share/datasets/fashion-mnist")
    if not source.is_dir():
        skip("Debian's package dataset-fashion-mnist is not installed")
    data = fashion_mnist(source, cache=tmp_path)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [58_800, 1_200, 10_000]
    assert torch.bincount(data.test.labels).tolist() == [1_000] * 10
    assert torch.bincount(data.validation.labels).tolist() == [120] * 10
    # The figures that the literature normalises with.
    everything = torch.cat([data.train.images, data.validation.images]).double() / 255
    assert float(everything.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(everything.std()) == pytest.approx(0.3530, abs=5e-5)


# Tiny ImageNet

WNIDS = ["n03", "n01", "n02"]


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(1, 64, seed=seed)[0]).save(stream, "jpeg")
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def tiny_files() -> dict[str, bytes]:
    """Three classes of two images, four validation images, and unlabelled test images."""
    files = {
        f"train/{wnid}/images/{wnid}_{i}.JPEG": jpeg(10 * k + i)
        for k, wnid in enumerate(WNIDS)
        for i in range(2)
    }
    files |= {f"train/{wnid}/{wnid}_boxes.txt": b"0\t0\t1\t1" for wnid in WNIDS}
    files |= {f"val/images/val_{i}.JPEG": jpeg(100 + i) for i in range(4)}
    rows = [
        f"val_{i}.JPEG\t{wnid}\t0\t0\t9\t9" for i, wnid in enumerate(["n02", "n01", "n03", "n02"])
    ]
    files["val/val_annotations.txt"] = "\n".join(rows).encode()
    files["test/images/test_0.JPEG"] = b"unlabelled"
    files["wnids.txt"] = "\n".join(WNIDS).encode()
    words = ["n00\tentity", "n01\tcrane, bird", "n02\tcrane", "n03\tgoldfish, Carassius auratus"]
    files["words.txt"] = "\n".join(words).encode()
    return {f"tiny-imagenet-200/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("layout", ["folder", "above", "tar", "zip", "original"])
def test_tiny_imagenet_is_its_pixels_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    files = tiny_files()
    if layout in ("folder", "above"):
        root = put(tmp_path, files) / ("tiny-imagenet-200" if layout == "folder" else "")
    elif layout == "tar":
        root = tmp_path / "subset.tar.gz"
        as_tar(files, root)
    else:
        archive = tmp_path / ("tiny-imagenet-200.zip" if layout == "original" else "subset.zip")
        with zipfile.ZipFile(archive, "w") as out:
            for name, content in files.items():
                out.writestr(name, content)
        digest = md5(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(originals, "TINY_IMAGENET_MD5", digest)
        root = tmp_path if layout == "original" else archive
    for _ in range(2):
        data = tiny_imagenet(root, validation=0)
        # Classes in the order of their ids; two that share their first name keep the id.
        assert data.classes == ("n01", "n02", "goldfish")
        train = [decoded(jpeg(seed)) for seed in (10, 11, 20, 21, 0, 1)]
        same(data.train, np.stack(train), np.array([0, 0, 1, 1, 2, 2]))
        test = [decoded(jpeg(100 + i)) for i in range(4)]
        same(data.test, np.stack(test), np.array([1, 0, 2, 1]))
        assert data.train.augmentation == Augmentation(pad=4, flip=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wnids.txt", b"n01\nn02", "3 names in train and 2 in wnids.txt.*'n03' is in one alone"),
        ("wnids.txt", b"", "3 names in train and 0 in wnids.txt"),
        (
            "val/val_annotations.txt",
            b"val_0.JPEG\tn02\t0",
            "4 names in val/images and 1 in val_annotations.txt.*'val_1.JPEG' is in one alone",
        ),
        ("wnids.txt", b"n01\n\xff", r"wnids.txt is no text in UTF-8 \('utf-8' codec can't decode"),
        ("val/images/val_9.JPEG", jpeg(0), "5 names in val/images and 4 in val_annotations.txt"),
        ("val/images/val_1.JPEG", b"", "val_1.JPEG: not an image that can be decoded"),
    ],
)
def test_tiny_imagenet_whose_files_disagree_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    put(tmp_path, tiny_files() | {f"tiny-imagenet-200/{name}": content})
    with pytest.raises(ValueError, match=message):
        tiny_imagenet(tmp_path)


def test_tiny_imagenet_without_its_files_says_what_to_fetch(tmp_path: Path) -> None:
    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    with pytest.raises(ConnectionError, match=f"fetch {url} and put it at {tmp_path}/tiny-image"):
        tiny_imagenet(tmp_path)
    with pytest.raises(FileNotFoundError, match="download=False"):
        tiny_imagenet(tmp_path, download=False)
