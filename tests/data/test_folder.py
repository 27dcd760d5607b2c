"""image_folder: layouts, archives, bad input, and the cache of what was decoded."""

import bz2
import gzip
import io
import lzma
import os
import socket
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from avmixup_kit.data import Augmentation, Data, archives, image_folder
from avmixup_kit.data import datasets as module


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVMIXUP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


def pixels(seed: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def png(content: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(content).save(stream, "png")
    return stream.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def layout(train: int = 4, test: int = 2, last: str = "test") -> dict[str, bytes]:
    """PNG files of two classes, train and test, each image of its own seed."""
    names = [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(train)]
    names += [f"{last}/{c}/{i}.png" for c in ("cat", "dog") for i in range(test)]
    return {name: png(pixels(seed)) for seed, name in enumerate(names)}


def archive(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as out:
            for name, content in files.items():
                out.writestr(name, content)
        return path
    mode: Any = f"w:{path.suffix[1:].replace('tar', '').replace('tgz', 'gz')}"
    with tarfile.open(path, mode) as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def checksums(data: Data) -> list[str]:
    return [split.checksum for split in (data.train, data.validation, data.test)]


def test_a_folder_becomes_its_pixels_in_the_order_of_names(tmp_path: Path) -> None:
    data = image_folder(write(tmp_path / "mine", layout()), validation=0)
    assert data.name == "mine"
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 4, 5)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    expected = np.stack([pixels(seed) for seed in range(12)]).transpose(0, 3, 1, 2)
    assert np.array_equal(data.train.images.numpy(), expected[:8])
    assert np.array_equal(data.test.images.numpy(), expected[8:])
    assert data.train.augmentation == Augmentation()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("above", ["", "one/"])
def test_an_archive_in_any_order_is_the_same_data(tmp_path: Path, name: str, above: str) -> None:
    folder = image_folder(write(tmp_path / "mine", layout()))
    backwards = {above + key: value for key, value in reversed(layout().items())}
    assert checksums(image_folder(archive(tmp_path / name, backwards))) == checksums(folder)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["mine"]  # nothing unpacked


def test_val_is_the_test_split_alone_and_validation_beside_test(tmp_path: Path) -> None:
    alone = image_folder(write(tmp_path / "alone", layout(last="val")), validation=2)
    assert (len(alone.train), len(alone.validation), len(alone.test)) == (6, 2, 4)
    both = write(tmp_path / "both", layout() | layout(last="val", test=1))
    data = image_folder(both)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 4)
    assert data.validation.name == "both/validation"
    with pytest.raises(ValueError, match="validation = 0.5 is not allowed: None, both has a val f"):
        image_folder(both, validation=0.5)


def test_hidden_and_other_files_are_left_alone(tmp_path: Path) -> None:
    extra = {"train/cat/.0.png": b"", "train/notes.txt": b"x", "__MACOSX/train/cat/._0.png": b"x"}
    path = archive(tmp_path / "a.zip", layout() | extra)
    assert len(image_folder(path, validation=0).train) == 8
    folder = write(tmp_path / "b", layout() | {"train/.thumbs/0.png": b"", "logo.png": b"no image"})
    assert len(image_folder(folder, validation=0).train) == 8


def test_grey_palette_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    files = layout()
    for i, mode in enumerate(("L", "RGBA", "P")):
        stream = io.BytesIO()
        Image.fromarray(pixels(50 + i)).convert(mode).save(stream, "png")
        files[f"train/cat/{i}.png"] = stream.getvalue()
    data = image_folder(write(tmp_path / "mine", files), validation=0)
    assert data.train.shape == (3, 4, 5)
    assert (data.train.images[0] == data.train.images[0][:1]).all()
    assert np.array_equal(data.train.images[1].permute(1, 2, 0), pixels(51))


def test_size_resizes_every_image(tmp_path: Path) -> None:
    files = layout() | {"test/dog/9.png": png(pixels(9, 30, 40))}
    path = write(tmp_path / "mine", files)
    data = image_folder(path, size=(8, 6), validation=0)
    assert data.shape == (3, 8, 6)
    assert image_folder(path, size=7).shape == (3, 7, 7)
    flat = write(tmp_path / "flat", {name: png(np.full((9, 9, 3), 77, np.uint8)) for name in files})
    assert (image_folder(flat, size=4).train.images == 77).all()


@pytest.mark.parametrize("size", [0, -3, 2.5, (4,), (4, 0), (1, 2, 3), True])
def test_a_bad_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(
        ValueError, match=r"size = .* is not allowed: an integer > 0, or \(height, width"
    ):
        image_folder(tmp_path, size=size)


def refused(path: Path, message: str, kind: type[Exception] = ValueError) -> None:
    """`path` is refused in one line, again the second time, and no cache is left."""
    for _ in range(2):
        with pytest.raises(kind, match=message) as caught:
            image_folder(path)
        assert "\n" not in str(caught.value)
    assert not list(path.parent.rglob("*avmixup-cache*"))


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "no", r"path='.*/no': there is no such folder or archive", FileNotFoundError)


def test_neither_folder_nor_archive(tmp_path: Path) -> None:
    write(tmp_path, {"a.rar": b"Rar!"})
    refused(tmp_path / "a.rar", r"path='.*a.rar': allowed is a folder or .tar, .tar.gz")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    refused(tmp_path / "mine", r"found images in no split: allowed is train/<class>/<image> and te")


def test_train_without_test(tmp_path: Path) -> None:
    files = {name: content for name, content in layout().items() if "train" in name}
    refused(write(tmp_path / "mine", files), r"found images in train: allowed is train/<class>/")


def test_an_image_outside_a_class_folder(tmp_path: Path) -> None:
    files = layout() | {"train/7.png": png(pixels(7))}
    refused(
        write(tmp_path / "mine", files), r"train/7.png stands in no class folder: allowed is tr"
    )


def test_images_of_two_sizes(tmp_path: Path) -> None:
    files = layout() | {"train/dog/7.png": png(pixels(7, 9, 5))}
    message = (
        r"test/cat/0.png is 4x5 and train/dog/7.png is 9x5 \(height x width\): allowed is one size"
    )
    refused(write(tmp_path / "mine", files), message)


@pytest.mark.parametrize("name", ["train/emu/0.png", "test/emu/0.png"])
def test_class_folders_that_disagree(tmp_path: Path, name: str) -> None:
    counts = (3, 2) if "train" in name else (2, 3)
    message = "{} class folders in train and {} in test: allowed are the same ones".format(*counts)
    message += ", at least one, 'emu' is in one alone"
    refused(write(tmp_path / "mine", layout() | {name: png(pixels(7))}), message)


@pytest.mark.parametrize("content", [b"", b"no image", png(pixels(3))[:-30]])
def test_an_image_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    files = layout() | {"train/dog/2.png": content}
    refused(
        write(tmp_path / "mine", files), r"train/dog/2.png: not an image that can be decoded \("
    )


def test_a_truncated_jpeg(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels(0)).save(stream, "jpeg")
    files = layout() | {"train/dog/2.jpg": stream.getvalue()[:-30]}
    refused(write(tmp_path / "mine", files), r"train/dog/2.jpg: not an image .* truncated")


def test_sixteen_bit_pixels(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(stream, "png")
    files = layout() | {"train/dog/2.png": stream.getvalue()}
    message = r"train/dog/2.png: pixels of mode I;16: allowed are 8 bits a channel"
    refused(write(tmp_path / "mine", files), message)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.9])
def test_a_truncated_archive(tmp_path: Path, name: str, kept: float) -> None:
    path = archive(tmp_path / name, layout(train=40))
    content = path.read_bytes()
    # A tar ends in up to 10 KB of zeros, of which only the first must be there.
    path.write_bytes(content[: int(kept * len(content.rstrip(b"\0")))])
    refused(path, rf"{name}: truncated or altered archive \(")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_an_archive_cut_in_its_last_checksum(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, layout())
    path.write_bytes(path.read_bytes()[:-3])
    refused(path, rf"{name}: truncated or altered archive \(")


def test_a_tar_cut_between_two_members(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", layout())
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:last])
    refused(path, rf"a.tar: truncated or altered archive \(no end mark at byte {last}\)")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_an_altered_archive(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, layout(train=40))
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 8):
        content[at] ^= 0x55
    path.write_bytes(content)
    refused(path, "truncated or altered archive|not an image that can be decoded")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("outside", ["../train/cat/x.png", "/tmp/x.png", "train/../../x.png"])
def test_a_member_that_leads_outside(tmp_path: Path, name: str, outside: str) -> None:
    path = archive(tmp_path / name, layout() | {outside: png(pixels(1))})
    refused(path, rf"its member '{outside}' leads outside: not allowed")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_member_that_is_a_link(tmp_path: Path, kind: bytes) -> None:
    path = archive(tmp_path / "a.tar", layout())
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("train/cat/link.png")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    refused(path, "its member 'train/cat/link.png' is a link: not allowed")


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", layout())
    link = zipfile.ZipInfo("notes/link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as out:
        out.writestr(link, "/etc/passwd")
    refused(path, "its member 'notes/link.txt' is a link: not allowed")


# ------------------------------------------------------------------------------ hostile files


def test_what_is_no_image_format_by_name_is_not_opened(tmp_path: Path, monkeypatch: Any) -> None:
    """Pillow would hand the EPS file to whatever is called gs."""
    ran = tmp_path / "ran"
    gs = tmp_path / "bin" / "gs"
    write(tmp_path, {"bin/gs": f"#!/bin/sh\ntouch {ran}\n".encode()})
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent), prepend=os.pathsep)
    eps = io.BytesIO()
    Image.fromarray(pixels(1)).save(eps, "eps")
    ico = io.BytesIO()
    Image.fromarray(pixels(1)).resize((16, 16)).save(ico, "ico")
    for content in (eps.getvalue(), ico.getvalue()):
        mine = write(tmp_path / "mine", layout() | {"train/cat/9.png": content})
        refused(mine, r"train/cat/9.png: not an image that can be decoded \(cannot identify")
    assert not ran.exists()
    for kind, ending in (("gif", "gif"), ("webp", "webp"), ("tiff", "tif"), ("ppm", "ppm")):
        stream = io.BytesIO()
        Image.fromarray(pixels(1)).save(stream, kind)
        image_folder(
            write(tmp_path / kind, layout() | {f"train/cat/9.{ending}": stream.getvalue()})
        )


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def local_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(path.parent)  # names of sockets are short
        listening.bind(path.name)


@pytest.mark.parametrize("make", [pipe, device, local_socket])
def test_what_is_no_regular_file_is_not_opened(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = write(tmp_path / "mine", layout())
    make(mine / "train" / "cat" / "x.png")
    refused(mine, r"cat/x.png: a pipe, device or socket is not allowed: a regular file is$")
    make(tmp_path / "a.zip")
    refused(tmp_path / "a.zip", r"a.zip: a pipe, device or socket is not allowed")


def test_a_link_to_a_regular_file_is_that_file(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", layout())
    was = image_folder(mine).train.checksum
    there = mine / "train" / "cat" / "0.png"
    there.rename(tmp_path / "elsewhere.png")
    there.symlink_to(tmp_path / "elsewhere.png")
    assert image_folder(mine).train.checksum == was


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", layout())
    for name in ("a", "b"):
        (mine / "train" / name).symlink_to(mine / "train")
    refused(mine, r"Too many levels of symbolic links: '.*/mine/train/a/a/a", OSError)


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: Any) -> None:
    head = bytearray(png(pixels(1)))
    head[16:24] = (1 << 13).to_bytes(4, "big") + ((1 << 13) + 1).to_bytes(4, "big")
    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    mine = write(tmp_path / "mine", {"train/cat/0.png": bytes(head)})
    refused(mine, r"train/cat/0.png: 67117056 pixels: allowed are at most 67108864$")


def test_an_image_of_another_size_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: Any
) -> None:
    files = layout() | {"train/cat/0.png": png(pixels(1, 40, 40))}
    mine, seen = write(tmp_path / "mine", files), []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda image: (seen.append(image.size), load(image))[1]
    )
    refused(mine, "test/cat/0.png is 4x5 and train/cat/0.png is 40x40")
    assert set(seen) == {(5, 4)}


def test_all_images_together_have_a_limit_too(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archives, "room", lambda: 600)
    refused(
        write(tmp_path / "mine", layout()),
        r"all images up to train/dog/2.png: 660 bytes: allowed are at most 600; fewer, or size=",
    )
    assert archives.DECODED >= 2**35


def test_the_room_for_images_is_half_of_what_the_machine_has(monkeypatch: Any) -> None:
    archives.room.cache_clear()
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert archives.room() == 2_048_000
    archives.room.cache_clear()
    monkeypatch.setattr(os, "sysconf", lambda _: -1 << 20)
    assert archives.room() == archives.DECODED
    archives.room.cache_clear()


class Opened:
    """How many bytes a decompressor was asked for, at once and together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total = self.most = 0
        for kind in (gzip.GzipFile, lzma.LZMAFile, bz2.BZ2File, zipfile.ZipExtFile):
            monkeypatch.setattr(kind, "read", self._counting(kind.read))

    def _counting(self, read: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(stream: Any, size: int = -1) -> bytes:
            content = read(stream, size)
            self.total += len(content)
            self.most = max(self.most, len(content))
            return content

        return counted


def bomb(path: Path, head: bytes, size: int) -> Path:
    """A compressed tar of one header and many zeros, written without ever holding them."""
    opener: Any = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}[path.suffix[1:]]
    with opener(path, "wb") as out:
        out.write(head)
        for _ in range(size // (1 << 20)):
            out.write(bytes(1 << 20))
    return path


def header(kind: bytes, size: int, name: str = "train/cat/0.png") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])
@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (tarfile.REGTYPE, 1 << 40, r"'train/cat/0.png': 1099511627776 bytes: allowed are at most"),
        (tarfile.XHDTYPE, 1 << 23, r"truncated or altered archive \(headers of more than 1048576"),
        (tarfile.GNUTYPE_LONGNAME, 1 << 23, r"altered archive \(headers of more than 1048576 b"),
        (tarfile.XGLTYPE, 1 << 23, r"truncated or altered archive \(headers of more than 104857"),
    ],
)
def test_a_tar_reads_no_more_than_its_headers_may_claim(
    tmp_path: Path, monkeypatch: Any, ending: str, kind: bytes, size: int, message: str
) -> None:
    path = bomb(tmp_path / f"a.tar.{ending}", header(kind, size), 1 << 23)
    assert path.stat().st_size < 20_000
    opened = Opened(monkeypatch)
    refused(path, message)
    assert opened.total <= 2 * (3 << 20)


def sparse_map() -> bytes:
    """A member in GNU's sparse format 1.0, whose map claims to have no end."""
    info = tarfile.TarInfo("train/cat/0.png")
    info.size = 1 << 22
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "train/cat/0.png",
        "GNU.sparse.realsize": "9",
    }
    return info.tobuf(tarfile.PAX_FORMAT) + b"999999999\n"


def test_a_sparse_map_without_end_is_not_followed(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as out:
        out.write(sparse_map())
        for _ in range(1 << 12):
            out.write(b"0\n" * 512)
    opened = Opened(monkeypatch)
    refused(path, r"headers of more than 1048576 bytes")
    assert opened.total <= 2 * (2 << 20)


def test_an_archive_has_so_many_members_and_bytes_and_no_more(tmp_path: Path, monkeypatch: Any):
    for name in ("a.zip", "a.tar", "a.tar.xz"):
        path = archive(tmp_path / name, layout())
        with monkeypatch.context() as patch:
            patch.setattr(archives, "MEMBERS", 11)
            refused(path, rf"{name}: 12 members: allowed are at most 11$")
        with monkeypatch.context() as patch:
            patch.setattr(archives, "BYTES", 50)
            refused(path, r"its member 'train/cat/0.png': \d+ bytes: allowed are at most 50$")
        with monkeypatch.context() as patch:
            patch.setattr(archives, "UNPACKED", 1000)
            refused(path, rf"{name}: \d+ bytes, unpacked: allowed are at most 1000$")
    with monkeypatch.context() as patch:
        patch.setattr(archives, "BYTES", 50)
        refused(write(tmp_path / "mine", layout()), r"0.png: \d+ bytes: allowed are at most 50$")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_that_is_larger_than_it_says_is_read_no_further(
    tmp_path: Path, monkeypatch: Any, method: int
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as out:
        out.writestr("train/cat/0.png", bytes(1 << 24))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    for at in (22, entry + 24):
        content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    assert len(content) < 20_000
    opened = Opened(monkeypatch)
    refused(path, r"truncated or altered archive \(Bad CRC-32 for file")
    assert opened.total <= 200


def test_a_class_whose_name_is_not_utf_8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", layout())
    for part in ("train", "test"):
        os.rename(mine / part / "cat", os.fsencode(mine / part) + b"/c\xe9t")
    data = image_folder(mine)
    assert data.classes == ("c\\xe9t", "dog")
    assert len(data.train) + len(data.validation) == 8
    archived = tmp_path / "a.tar"
    with tarfile.open(archived, "w") as out:
        out.add(mine, "")
    assert image_folder(archived).train.checksum == data.train.checksum


Count = Callable[[], int]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How often a source was decoded since the test began."""
    calls = []
    original = module.decode_folder

    def counting(path: Path, size: tuple[int, int] | None):
        calls.append(path)
        return original(path, size)

    monkeypatch.setattr(module, "decode_folder", counting)
    return lambda: len(calls)


def test_a_second_start_does_not_decode(tmp_path: Path, decoded: Count) -> None:
    path = archive(tmp_path / "a.zip", layout())
    first = image_folder(path)
    assert (tmp_path / "a.zip.avmixup-cache.pt").exists()
    assert checksums(image_folder(path)) == checksums(first)
    assert decoded() == 1
    # Splits are chosen after the cache.
    assert len(image_folder(path, validation=4, seed=3).validation) == 4
    assert decoded() == 1


def test_a_moved_folder_keeps_its_cache(tmp_path: Path, decoded: Count) -> None:
    write(tmp_path / "old" / "mine", layout())
    first = image_folder(tmp_path / "old" / "mine")
    (tmp_path / "old").rename(tmp_path / "new")
    assert checksums(image_folder(tmp_path / "new" / "mine")) == checksums(first)
    assert decoded() == 1


def test_another_size_has_a_cache_of_its_own(tmp_path: Path, decoded: Count) -> None:
    path = write(tmp_path / "mine", layout())
    for _ in range(2):
        assert image_folder(path).shape == (3, 4, 5)
        assert image_folder(path, size=(6, 3)).shape == (3, 6, 3)
    assert decoded() == 2
    assert (tmp_path / "mine-6x3.avmixup-cache.pt").exists()


def test_a_changed_source_is_decoded_again(tmp_path: Path, decoded: Count) -> None:
    path = write(tmp_path / "mine", layout())
    first = image_folder(path)
    write(path, {"train/cat/0.png": png(pixels(99))})
    os.utime(path / "train/cat/0.png", ns=(1, 1))  # even where the clock is coarse
    assert checksums(image_folder(path)) != checksums(first)
    write(path, {"test/cat/7.png": png(pixels(7))})
    assert len(image_folder(path).test) == 5
    (path / "test/cat/7.png").unlink()
    assert len(image_folder(path).test) == 4
    assert decoded() == 4


def test_a_source_that_changes_while_it_is_decoded_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "mine", layout())
    original = module.decode_folder

    def slow(path: Path, size: tuple[int, int] | None):
        result = original(path, size)
        write(path, {"test/cat/7.png": png(pixels(7))})
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode_folder", slow)
        assert len(image_folder(path).test) == 4
    assert len(image_folder(path).test) == 5


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "bit", "order", "other"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, decoded: Count, damage: str) -> None:
    path = write(tmp_path / "mine", layout())
    first = image_folder(path)
    cache = tmp_path / "mine.avmixup-cache.pt"
    content = cache.read_bytes()
    pixel = content.index(pixels(0).tobytes())
    if damage == "other":
        torch.save({"fingerprint": 3}, cache)
    else:
        altered = bytes([content[pixel] ^ 1])
        cache.write_bytes(
            {
                "empty": b"",
                "cut": content[: len(content) // 2],
                "text": b"no cache\n" * 1000,
                "bit": content[:pixel] + altered + content[pixel + 1 :],
                "order": content.replace(b"little", b"litt  "),
            }[damage]
        )
    # A cache of other data is no damage, and says nothing.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert checksums(image_folder(path)) == checksums(first)
    assert [str(w.message).split(": ")[1][:13] for w in said] == ["damaged cache"] * (
        damage != "other"
    )
    assert checksums(image_folder(path)) == checksums(first)
    assert decoded() == 2


def test_a_cache_never_runs_code(tmp_path: Path) -> None:
    path = write(tmp_path / "mine", layout())

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"fingerprint": Bomb()}, tmp_path / "mine.avmixup-cache.pt")
    with pytest.warns(UserWarning, match="damaged cache, decoding again"):
        image_folder(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_the_cache_goes_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: Count, how: str
) -> None:
    place = tmp_path / "elsewhere"
    if how == "environment":
        monkeypatch.setenv("AVMIXUP_CACHE", str(place))
    cache = place if how == "argument" else None
    for parent in ("a", "b"):  # two sources of one name
        write(tmp_path / parent / "mine", layout(train=3 if parent == "a" else 5))
    for _ in range(2):
        assert len(image_folder(tmp_path / "a/mine", cache=cache, validation=0).train) == 6
        assert len(image_folder(tmp_path / "b/mine", cache=cache, validation=0).train) == 10
    assert decoded() == 2
    assert len(list(place.iterdir())) == 2
    assert not list(tmp_path.glob("?/*cache*"))


def test_a_read_only_folder_is_cached_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: Count
) -> None:
    path = write(tmp_path / "read-only" / "mine", layout())
    read_only(path.parent, monkeypatch)
    first = image_folder(path)
    assert checksums(image_folder(path)) == checksums(first)
    assert decoded() == 1
    assert len(list((tmp_path / "user-cache" / "avmixup_kit").iterdir())) == 1


def test_where_no_cache_can_be_written_the_data_are_there_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "mine", layout())
    read_only(tmp_path, monkeypatch)
    with pytest.warns(UserWarning, match="no cache written, the next start decodes again") as said:
        assert len(image_folder(path, validation=0).train) == 8
    assert len(said) == 1
    assert "\n" not in str(said[0].message)


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing open a new file below `folder`, root included, whom modes do not stop."""
    original = Path.open

    def refuse(self: Path, mode: str = "r"):
        if mode != "rb" and folder in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, mode)

    monkeypatch.setattr(Path, "open", refuse)


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no file size limit to stand for a disk")
    path = write(tmp_path / "mine", layout(train=60))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        with pytest.warns(UserWarning, match="no cache written, the next start decodes") as said:
            data = image_folder(path, validation=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(data.train) == 120
    assert "\n" not in str(said[0].message)
    assert [p for p in tmp_path.rglob("*cache*") if p.is_file()] == []
    assert checksums(image_folder(path, validation=0)) == checksums(data)
