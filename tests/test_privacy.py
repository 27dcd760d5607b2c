"""Nothing the kit writes says who ran it or where: no user, home, host or environment variable."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avmixup_kit._base.provenance import provenance, without_home

USER, HOST, SECRET = "telltale-user", "telltale-host", "telltale-secret"

# One process does what a user does, in a home of its own, on a machine of its own name.
WORK = """
import os, platform, socket, sys
HOST = "telltale-host"
uname = os.uname()
os.uname = lambda: os.uname_result((uname[0], HOST, *uname[2:]))
socket.gethostname = platform.node = lambda: HOST
import torch
torch.set_num_threads(1)
import avmixup_kit as av
from avmixup_kit import cli

def call(*words):
    sys.argv = ["avmixup_kit", *map(str, words)]
    cli.main()

home = os.path.expanduser("~")
short = ["--steps", "4", "--batch-size", "16", "--base-channels", "4", "--attack-steps", "1"]
watched = ["--curve-images", "10"]
pictures = ["--data", "image_folder", "--root", f"{home}/pictures"]
call("train", f"{home}/runs/a", *pictures, *short, *watched)
call("train", f"{home}/runs/b", *short, *watched)
call("evaluate", f"{home}/runs/a", "--html", f"{home}/page.html", "--transfer-from",
     f"{home}/runs/a", "--attacks", "fgsm", "--steps", "1", "--epsilon", "0.1")
call("search", f"{home}/search", *short, "--trials", "2", "--images", "20", "--seeds", "0")
call("search", f"{home}/other", *short, "--trials", "1", "--images", "20", "--seeds", "0",
     "--storage", f"{home}/other.journal")
run = av.runs.open(f"{home}/runs/a")
assert len(run.data.test) == 8
av.export(run.model, {"name": "a"}, f"{home}/handed-on")
"""


def contents(path: Path) -> list[bytes]:
    """What a file holds, and each member of an archive unpacked."""
    found = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [
                part for name in archive.namelist() for part in (name.encode(), archive.read(name))
            ]
    return found


def test_no_file_says_who_ran_the_kit_or_where(tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("plotly")
    home = tmp_path / USER
    draw = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for name in ("a", "b"):
            folder = home / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    given = {"HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST, "API_KEY": SECRET}
    keep = {"PATH", "PYTHONPATH", "OMP_NUM_THREADS", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    known = {key: value for key, value in os.environ.items() if key in keep}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{WORK}"],
        cwd=home,
        env=known | given,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = [path for path in home.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"run.json", "log.jsonl", "latest.pt", "evaluation.json", "correct.npz", "page.html",
            "summary.json", "report.html", "study.db", "other.journal", "handed-on.safetensors",
            "pictures.avmixup-cache.pt"} <= names  # fmt: skip
    told = [
        f"{path.relative_to(home)}: {word}"
        for path in files
        for content in contents(path)
        for word in (USER, HOST, SECRET, str(tmp_path))
        if word.encode() in content
    ]
    assert told == []
    images = json.loads((home / "runs" / "a" / "run.json").read_text())["images"]
    assert images["arguments"]["path"] == "~/pictures"


def test_a_path_in_the_home_folder_is_told_without_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    assert without_home("/home/alice/data/x") == "~/data/x"
    assert without_home(Path("/home/alice/data")) == "~/data"
    for other in ("/home/alices/data", "/home/alice", "data", "/mnt/alice/data"):
        assert without_home(other) == other
    monkeypatch.setenv("HOME", "/")
    assert without_home("/data") == "/data"


def test_where_a_result_was_made_is_commit_versions_and_processor_alone():
    assert set(provenance()) == {
        "commit", "dirty", "python", "torch", "torchvision", "numpy", "machine", "instructions",
        "threads",
    }  # fmt: skip
