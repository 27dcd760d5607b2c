"""Files and names made to do harm: nothing runs, nothing is written elsewhere, a line says no."""

import io
import json
import os
import pickle
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

import avmixup_kit as av
from avmixup_kit import runs
from tests.torture.damage import tried, write_images
from tests.torture.works import EPSILON, Broken, Train, digits, go_on

SCRIPTS = (
    '"><img src=x onerror=alert(1)>',
    "<script>alert(1)</script>",
    "' onmouseover='alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    "</title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% for x in y %}",
    "a\nb\tc",
    "\u202eright to left",
    "\x1b[31mred",
)


class Evil:
    """What runs a command if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def _archive(change: Callable[[tarfile.TarFile, Path], None]) -> Callable[[Path, Path], str]:
    def case(folder: Path, mark: Path) -> str:
        write_images(folder / "images")
        with tarfile.open(folder / "images.tar", "w") as archive:
            archive.add(folder / "images", ".")
            change(archive, mark)
        return _loaded(folder / "images.tar")

    return case


def _zip(change: Callable[[zipfile.ZipFile, Path], None]) -> Callable[[Path, Path], str]:
    def case(folder: Path, mark: Path) -> str:
        write_images(folder / "images")
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for path in sorted((folder / "images").rglob("*.png")):
                archive.write(path, path.relative_to(folder / "images"))
            change(archive, mark)
        return _loaded(folder / "images.zip")

    return case


def _loaded(path: Path) -> str:
    """Load images; return the refusal."""
    return tried(lambda: av.data.load("image_folder", path=path, validation=0.0).train.checksum)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Any:
    def change(archive: tarfile.TarFile, mark: Path) -> None:
        info = tarfile.TarInfo(name.replace("MARK", str(mark)))
        info.type, info.linkname = kind, link
        info.size = 4 if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(b"evil") if kind == tarfile.REGTYPE else None)

    return change


def _entry(name: str, mode: int = stat.S_IFREG | 0o644, content: bytes = b"evil") -> Any:
    def change(archive: zipfile.ZipFile, mark: Path) -> None:
        info = zipfile.ZipInfo(name.replace("MARK", str(mark)))
        info.external_attr = mode << 16
        archive.writestr(info, content)

    return change


def _picture(content: bytes) -> Callable[[Path, Path], str]:
    def case(folder: Path, mark: Path) -> str:
        write_images(folder / "images")
        tool = folder / "bin" / "gs"  # what Pillow starts to draw PostScript
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\ntouch {mark}\n")
        tool.chmod(0o755)
        os.environ["PATH"] = f"{tool.parent}:{os.environ['PATH']}"
        (folder / "images" / "train" / "a" / "evil.png").write_bytes(content)
        return _loaded(folder / "images")

    return case


def _claims(width: int, height: int) -> bytes:
    """Return a PNG that claims to be so large and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)


def _pickled(name: str) -> Callable[[Path, Path], str]:
    def case(folder: Path, mark: Path) -> str:
        run = folder / "run"
        run.mkdir()
        path = run / name
        if name.endswith(".npz"):
            np.savez(path, names=np.array([Evil(mark)]), correct=np.array([Evil(mark)]))
            return tried(lambda: av.Evaluation.load(path))
        whole: dict[str, Any] = {"architecture": None, "model": Evil(mark), "training": {}}
        torch.save(whole, path)
        said = tried(lambda: runs.load_model(path))
        path.write_bytes(pickle.dumps(Evil(mark)))
        return tried(lambda: runs.load_model(path)) and said

    return case


def _run(file: str, change: Callable[[Any, str], Any]) -> Callable[[Path, Path], str]:
    """Change a half-done run's file, and take it up and open it."""

    def case(folder: Path, mark: Path) -> str:
        Train(until=9).run(folder)
        path, command = folder / "run" / file, f"touch {mark}"
        if file == "latest.pt":
            content = torch.load(path, weights_only=True)
            torch.save(change(content, command), path)
        elif file == "run.json":
            path.write_text(json.dumps(change(json.loads(path.read_text()), command)))
        else:
            path.write_text(path.read_text() + json.dumps(change({}, command)) + "\n")
        opened = tried(
            lambda: runs.open(folder / "run"),
            lambda: runs.about(folder / "run"),
            lambda: runs.turns_of(folder / "run"),
        )
        return go_on(Train(), folder) or opened

    return case


def _call(command: str) -> str:
    return f"__import__('os').system({command!r})"


class _Handlers(HTMLParser):
    """Counts what could run in a browser: scripts, handlers, javascript: links."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += tag in ("script", "iframe", "object", "embed")
        for name, value in attrs:
            runs_there = (value or "").strip().lower().startswith("javascript:")
            self.count += name.startswith("on") or runs_there


def _named(name: str) -> Callable[[Path, Path], str]:
    """Give every class a name, and count what could run in the page about it."""

    def case(folder: Path, mark: Path) -> str:
        counts, test = [], digits().test.subset(12)
        model = av.small_cnn(digits(), base_channels=4).eval()
        said = ""
        for title in ("c", name):
            labels = tuple(f"{title}{number}" for number in range(10))

            def write(labels: tuple[str, ...] = labels, title: str = title) -> None:
                images = (test.images, test.labels)
                split = av.Split.of(images, labels, layout="NCHW")
                result = av.evaluate(model, split, [av.fgsm(EPSILON)])
                av.report(result, model, split, folder / "page.html", title=title)

            said = tried(write) or said
            if not said:
                parser = _Handlers()
                parser.feed((folder / "page.html").read_text())
                counts.append(parser.count)
        if len(set(counts)) > 1:
            raise Broken(f"the name {name!r} brings {counts[1] - counts[0]} handlers into a page")
        return said

    return case


def _is_a_folder_name(name: str) -> Callable[[Path, Path], str]:
    def case(folder: Path, mark: Path) -> str:
        write_images(folder / "images", (name.replace("/", "_"), "b"))
        return _loaded(folder / "images")

    return case


CASES: dict[str, Callable[[Path, Path], str]] = {
    "tar: ..": _archive(_member("train/../../MARK")),
    "tar: absolute": _archive(_member("MARK")),
    "tar: symbolic link": _archive(_member("train/a/l.png", tarfile.SYMTYPE, "/etc/passwd")),
    "tar: hard link": _archive(_member("train/a/l.png", tarfile.LNKTYPE, "/etc/passwd")),
    "tar: device": _archive(_member("train/a/d.png", tarfile.CHRTYPE)),
    "tar: pipe": _archive(_member("train/a/p.png", tarfile.FIFOTYPE)),
    "tar: no image": _archive(_member("train/a/x.png")),
    "tar: newline": _archive(_member("train/a/x\ny.png")),
    "tar: long name": _archive(_member(f"train/a/{'x' * 5000}.png")),
    "tar: no UTF-8": _archive(_member("train/a/\udcff.png")),
    "zip: ..": _zip(_entry("train/../../MARK")),
    "zip: absolute": _zip(_entry("MARK")),
    "zip: backslash": _zip(_entry("..\\..\\evil.png")),
    "zip: symbolic link": _zip(_entry("train/a/l.png", stat.S_IFLNK | 0o777, b"/etc/passwd")),
    "zip: no image": _zip(_entry("train/a/x.png")),
    "picture: PostScript": _picture(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    ),
    "picture: claims 4 Gpx": _picture(_claims(65_000, 65_000)),
    "picture: claims no pixels": _picture(_claims(0, 0)),
    "picture: empty": _picture(b""),
    "pickle: latest.pt": _pickled("latest.pt"),
    "pickle: correct.npz": _pickled("correct.npz"),
    "run.json: method": _run("run.json", lambda a, c: a | {"method": _call(c)}),
    "run.json: settings": _run("run.json", lambda a, c: a | {"settings": _call(c)}),
    "run.json: architecture": _run("run.json", lambda a, c: a | {"architecture": _call(c)}),
    "run.json: network": _run("run.json", lambda a, c: a | {"network": "os:system"}),
    "run.json: optimizer": _run("run.json", lambda a, c: a | {"optimizer": _call(c)}),
    "run.json: stages": _run("run.json", lambda a, c: a | {"stages": {"PGD": "os:system"}}),
    "run.json: deep": _run("run.json", lambda a, c: a | {"method": "-" * 200_000}),
    "run.json: no object": _run("run.json", lambda a, c: [a]),
    "latest.pt: architecture": _run("latest.pt", lambda a, c: a | {"architecture": _call(c)}),
    "latest.pt: step": _run(
        "latest.pt", lambda a, c: a | {"training": a["training"] | {"step": 10**9}}
    ),
    "latest.pt: no training": _run("latest.pt", lambda a, c: a | {"training": [1]}),
    "log.jsonl: a turn that calls": _run(
        "log.jsonl", lambda a, c: {"before_step": 9, "change": {"loss": _call(c)}}
    ),
    "log.jsonl: a turn of nothing": _run("log.jsonl", lambda a, c: {"change": 3}),
    **{f"class name {name!r}": _named(name) for name in SCRIPTS},
    **{f"folder name {name!r}": _is_a_folder_name(name) for name in SCRIPTS},
}


def attempted(chance: random.Random, number: int, folder: Path) -> str:
    """Try one case after the other; return the refusal, "" where no harm was done all the same.

    Raises:
        Broken: something ran, was written elsewhere, or went wrong in another way than a refusal.
    """
    name = list(CASES)[number % len(CASES)]
    inside, mark = folder / "inside", folder / "mark"
    inside.mkdir()
    try:
        said = CASES[name](inside, mark)
    except Exception as error:
        raise Broken(f"{name}: {type(error).__name__}: {error}") from error
    if outside := {path.name for path in folder.iterdir()} - {"inside"}:
        raise Broken(f"{name}: it ran, or wrote {outside}")
    return said
