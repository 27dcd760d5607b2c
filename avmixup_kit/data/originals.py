"""Data sets as their authors publish them: fetched, checked and decoded, unpacked nowhere."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import struct
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets as tv
from torchvision.datasets.utils import calculate_md5, download_url

from avmixup_kit.data.archives import Decoder, agree, members, read_file
from avmixup_kit.data.cache import Decoded

# In the headers of Fashion-MNIST's original .gz files: 31 August 2017, 10:50.
GZIP_TIMES = {"train": 1504176606, "t10k": 1504176627}
TINY_IMAGENET = "tiny-imagenet-200"
TINY_IMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def fetch(url: str, path: Path, md5: str, download: bool) -> None:
    """Make sure that `path` holds the file of that MD5 checksum, downloading it if need be.

    Raises:
        FileNotFoundError: it is not there and download is False.
        ConnectionError: it is not there and the download failed.
        ValueError: it is there and its checksum differs.
    """
    if path.exists():
        check(path, md5)
        return
    advice = f"fetch {url} and put it at {path}"
    if not download:
        raise FileNotFoundError(f"{path} is not there and download=False: {advice}")
    try:
        download_url(url, path.parent, path.name, md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ConnectionError(f"cannot download {path.name} ({error}): {advice}") from error


def check(path: Path, md5: str, content: bytes | None = None) -> None:
    """Raise ValueError where the MD5 checksum of a file, or of its content, is not `md5`."""
    if content is not None:
        found = hashlib.md5(content).hexdigest()
    else:
        found = calculate_md5(path) if path.is_file() else "that of no file"
    if found != md5:
        raise ValueError(
            f"{path}: truncated or altered, its MD5 is {found}: allowed is {md5}; delete it to "
            "fetch it again"
        )


def fashion_mnist_files(root: Path) -> list[Path]:
    """The four .gz files, in `root` itself or where torchvision puts them."""
    names = [name for name, _ in tv.FashionMNIST.resources]
    folder = root if (root / names[0]).exists() else root / "FashionMNIST" / "raw"
    return [folder / name for name in names]


def fashion_mnist(root: Path, download: bool) -> Decoded:
    """Fashion-MNIST from its four .gz files, whose checksums torchvision keeps."""
    arrays = []
    for path, (name, md5) in zip(fashion_mnist_files(root), tv.FashionMNIST.resources, strict=True):
        if not path.exists():
            fetch(tv.FashionMNIST.mirrors[0] + name, path, md5, download)
        content = read_file(path)
        check(path, md5, _with_header(content, name))
        header = 16 if "images" in name else 8
        content = bytearray(gzip.decompress(content))
        arrays.append(torch.frombuffer(content, dtype=torch.uint8, offset=header))
    train, train_labels, test, test_labels = arrays
    return Decoded(
        tuple(tv.FashionMNIST.classes),
        {
            "train": (train.view(-1, 28, 28, 1), train_labels.long()),
            "test": (test.view(-1, 28, 28, 1), test_labels.long()),
        },
    )


def _with_header(content: bytes, name: str) -> bytes:
    """A .gz file with the original's file name and time in its header.

    Linux distributions strip both from the files that they package (Debian does from
    dataset-fashion-mnist), and then the original's checksum fails on the original's data.
    """
    if content[:4] != b"\x1f\x8b\x08\x00":
        return content
    time = GZIP_TIMES[name.split("-")[0]]
    header = struct.pack("<4BI2B", 0x1F, 0x8B, 8, 8, time, 0, 3)
    return header + name.removesuffix(".gz").encode() + b"\0" + content[10:]


def cifar_files(kind: type[tv.CIFAR10], root: Path) -> list[Path]:
    """The unpacked files of CIFAR-10 or CIFAR-100 if their folder exists, else the archive."""
    folder = root / kind.base_folder
    if not folder.is_dir():
        return [root / kind.filename]
    names = [name for name, _ in kind.train_list + kind.test_list]
    return [folder / name for name in [*names, kind.meta["filename"]]]


def cifar(kind: type[tv.CIFAR10], root: Path, download: bool) -> Decoded:
    """CIFAR-10 or CIFAR-100, read by torchvision, which checks each file before reading it."""
    with tempfile.TemporaryDirectory() as scratch:
        if (root / kind.base_folder).is_dir():
            unpacked = root
            meta = [[kind.meta["filename"], kind.meta["md5"]]]
            for name, md5 in kind.train_list + kind.test_list + meta:
                check(root / kind.base_folder / name, md5)
        else:
            unpacked = Path(scratch)
            archive = root / kind.filename
            fetch(kind.url, archive, kind.tgz_md5, download)
            (unpacked / kind.base_folder).mkdir()
            for name, content in members(
                archive, lambda name: name.parent.name == kind.base_folder
            ):
                (unpacked / kind.base_folder / name.name).write_bytes(content)
        parts = [kind(unpacked, train=train) for train in (True, False)]
    return Decoded(
        tuple(parts[0].classes),
        {
            name: (torch.from_numpy(np.ascontiguousarray(part.data)), torch.tensor(part.targets))
            for name, part in zip(("train", "test"), parts, strict=True)
        },
    )


def svhn_files(root: Path) -> list[Path]:
    """SVHN's two files of cropped digits."""
    return [root / tv.SVHN.split_list[split][1] for split in ("train", "test")]


def svhn(root: Path, download: bool) -> Decoded:
    """SVHN's cropped digits, read by torchvision, which turns the label 10 into the digit 0."""
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("train", "test"):
        url, file, md5 = tv.SVHN.split_list[name]
        fetch(url, root / file, md5, download)
        part = tv.SVHN(root, split=name)
        images = np.ascontiguousarray(part.data.transpose(0, 2, 3, 1))
        splits[name] = (torch.from_numpy(images), torch.from_numpy(part.labels))
    return Decoded(tuple(str(digit) for digit in range(10)), splits)


def tiny_imagenet_source(root: Path) -> Path:
    """The folder or archive to read: `root`, what stands in it, or the archive to fetch to it."""
    if root.is_file() or (root / "wnids.txt").exists():
        return root
    unpacked = root / TINY_IMAGENET
    return unpacked if (unpacked / "wnids.txt").exists() else root / f"{TINY_IMAGENET}.zip"


def tiny_imagenet(root: Path, download: bool) -> Decoded:
    """Tiny ImageNet from its original layout; its labelled validation images are the test split.

    Raises:
        ValueError: wnids.txt, the folders of train and val_annotations.txt disagree.
    """
    source = tiny_imagenet_source(root)
    if source == root / f"{TINY_IMAGENET}.zip":
        fetch(TINY_IMAGENET_URL, source, TINY_IMAGENET_MD5, download)
    decoder = Decoder()
    texts = {"wnids.txt": "", "words.txt": "", "val_annotations.txt": ""}

    def wanted(name: PurePosixPath) -> bool:
        return name.name in texts or (name.suffix == ".JPEG" and "test" not in name.parts)

    for name, content in members(source, wanted):
        if name.name in texts:
            try:
                texts[name.name] = content.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{source}: {name} is no text in UTF-8 ({error})") from error
        elif name.parts[-4:-3] == ("train",):
            decoder.add("train", name.parts[-3], str(name), content)
        elif name.parts[-3:-1] == ("val", "images"):
            # The label stands in val_annotations.txt, which may come later.
            decoder.add("test", name.name, str(name), content)
    wnids = sorted(texts["wnids.txt"].split())
    index = {wnid: i for i, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in texts["val_annotations.txt"].splitlines()]
    test_index = {row[0]: index[row[1]] for row in rows if len(row) > 1 and row[1] in index}
    train, test = set(decoder.labels("train")), set(decoder.labels("test"))
    agree(source, "names", {"train": train, "wnids.txt": set(wnids)})
    agree(source, "names", {"val/images": test, "val_annotations.txt": set(test_index)})
    return Decoded(
        _words(wnids, texts["words.txt"]),
        {"train": decoder.tensors("train", index), "test": decoder.tensors("test", test_index)},
    )


def _words(wnids: list[str], text: str) -> tuple[str, ...]:
    """The first English name of each id, or the id where it has none or shares it."""
    rows = (line.split("\t") for line in text.splitlines())
    words = {row[0]: row[1].split(",")[0] for row in rows if len(row) > 1}
    names = [words.get(wnid, wnid) for wnid in wnids]
    return tuple(
        name if names.count(name) == 1 else wnid for wnid, name in zip(wnids, names, strict=True)
    )
