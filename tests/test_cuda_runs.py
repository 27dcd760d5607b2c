"""A GPU's first twenty minutes, rehearsed on a CPU, from the pack, on as bare a machine."""

import importlib
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
cuda_pack = importlib.import_module("cuda_pack")

GIVEN = "torch", "torchvision", "numpy", "scipy", "scikit-learn", "tqdm"
# Runs a program where only some packages can be imported, the others from one folder alone.
BARE = """
import runpy, sys
from importlib.machinery import PathFinder
hidden, site, program = set(sys.argv[1].split()), sys.argv[2], sys.argv[3]
class Bare:
    find_distributions = PathFinder.find_distributions
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [site] if name in hidden else path, target)
sys.meta_path[sys.meta_path.index(PathFinder):] = [Bare]
sys.argv = sys.argv[3:]
runpy.run_path(program, run_name="__main__")
"""


def hidden():
    """Names of installed packages that neither the six nor what they need brings."""
    known, queue = set(), list(GIVEN)
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name not in known:
            try:
                needs = metadata.distribution(name).requires or []
            except metadata.PackageNotFoundError:
                continue
            known.add(name)
            queue += [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    return {
        package
        for package, homes in metadata.packages_distributions().items()
        if not known & {re.sub(r"[-_.]+", "-", home).lower() for home in homes}
        and package not in ("avmixup_kit", "setuptools", "_distutils_hack")
    }


@pytest.fixture(scope="module")
def pack(tmp_path_factory, real_images):
    folder = tmp_path_factory.mktemp("pack") / "cuda-pack"
    cuda_pack.pack(real_images, folder)
    return folder


def bare(pack, *words):
    done = subprocess.run(
        [sys.executable, "-c", BARE, " ".join(hidden()), str(pack / "site"),
         str(ROOT / "benchmarks" / "cuda_runs.py"), *map(str, words)],
        capture_output=True, text=True, timeout=3000, cwd=ROOT,
        env=os.environ | {"AVMIXUP_CUDA_PACK": str(pack), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    return done


def test_the_pack_is_below_40_mib_and_holds_no_example_weights(pack):
    files = [path for path in pack.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40 * 2**20
    names = {str(path.relative_to(pack)) for path in files}
    assert {"data/cifar10-jpeg.tar.xz", "site/pyautoattack/autoattack.py"} <= names
    assert not [name for name in names if "example" in name]
    ignored = subprocess.run(["git", "check-ignore", "cuda-pack/x"], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 0


def test_what_a_bare_machine_has_is_six_packages_and_what_they_need():
    lacking = hidden()
    assert {"tyro", "plotly", "pyautoattack", "lazy_loader", "safetensors", "pytest"} <= lacking
    assert not {"torch", "torchvision", "numpy", "scipy", "sklearn", "tqdm", "PIL"} & lacking


def test_the_first_ten_minutes_are_rehearsed(pack, tmp_path):
    done = bare(pack, "first", "--rehearse", "--seconds", 12, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "first.json").read_text())
    assert found["failed"] == []
    assert found["versions"]["torch"]
    assert found["versions"].keys() >= {"sklearn", "pyautoattack"}
    assert found["eager"]["ms of a gradient to 8 channels"] > 0
    rows = found["networks"]["small_cnn"]["rows"]
    assert rows["kit"]["images_per_s"]["median"] > 0
    assert found["scatter"].keys() == {"feature_scatter", "pgd, one step"}
    assert "aten::" in (tmp_path / found["profile"]).read_text()
    order = ["versions", "eager", "matrix_tflops", "rows of small_cnn", "profile", "scatter"]
    assert list(found["seconds"]) == order


def test_table_1s_first_rows_are_rehearsed(pack, tmp_path):
    done = bare(pack, "tables", "--rehearse", "--seconds", 600, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "tables.json").read_text())
    assert (found["failed"], found["left"]) == ([], [])
    assert found["checks"] == "1 of 1 hold"
    for row in ("Standard", "PGD", "AVmixup"):
        about = found[f"row {row}"]
        assert about["trained"]
        assert about["judged"]
        weights = tmp_path / "networks" / about["weights"]
        assert weights.stat().st_size < 200_000, "half precision, no momentum"
    results = list((tmp_path / "results").rglob("*.json"))
    assert len(results) == 3
    accuracy = [json.loads(path.read_text())["accuracy"] for path in results]
    assert all("AutoAttack (quick)" in each for each in accuracy)


def test_what_fails_is_named_and_what_time_ends_is_left_and_the_rest_goes_on(pack, tmp_path):
    broken = tmp_path / "pack"
    (broken / "data").mkdir(parents=True)
    (broken / "data" / "cifar10-jpeg.tar.xz").touch()
    (broken / "site").mkdir()
    for package in ("lazy_loader", "packaging", "safetensors"):
        (broken / "site" / package).symlink_to(pack / "site" / package)
    done = bare(broken, "tables", "--rehearse", "--seconds", 1e-3, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "FAILED versions: ModuleNotFoundError: No module named 'pyautoattack'" in done.stderr
    found = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert [found[f"row {row}"]["trained"] for row in ("Standard", "PGD", "AVmixup")] == [False] * 3
    assert all("the minutes are over" in line for line in found["left"])


def test_a_part_that_does_not_end_is_named_and_ended(tmp_path):
    program = """
import sys, threading
sys.path.insert(0, "benchmarks")
import cuda_runs
report = cuda_runs.Report(cuda_runs.Path(sys.argv[1]), "first", cuda_runs.torch.device("cpu"))
report.part("versions", lambda: "known")
report.end_after(0.1)
report.part("a compiler", threading.Event().wait)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 124
    assert "FAILED a compiler: still running after 0.1 s" in done.stderr
    found = json.loads((tmp_path / "first.json").read_text())
    assert found["versions"] == "known"
    assert found["failed"] == ["a compiler: still running after 0.1 s"]


def test_without_a_gpu_or_a_pack_both_are_said(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks" / "cuda_runs.py"), "first"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "AVMIXUP_CUDA_PACK": str(tmp_path)}
    for more, message in (
        ([], "there is no CUDA device; --rehearse tries it on a CPU"),
        (["--rehearse"], f"{tmp_path} holds no CIFAR-10: make cuda-pack"),
    ):
        done = subprocess.run([*words, *more], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr.strip()) == (2, f"error: {message}")


def test_images_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="cifar10-jpeg.tar.xz is not there"):
        cuda_pack.pack(tmp_path, tmp_path / "pack")


def test_a_pack_that_could_not_travel_is_refused(tmp_path, monkeypatch):
    (tmp_path / "cifar10-jpeg.tar.xz").write_bytes(b"images")
    monkeypatch.setattr(cuda_pack, "MOST", 1000)
    with pytest.raises(ValueError, match="40 is the most that travels"):
        cuda_pack.pack(tmp_path, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


@pytest.mark.parametrize("target", ["cuda-first", "cuda-tables"])
def test_the_commands_install_nothing(target):
    dry = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert dry.returncode == 0, dry.stderr
    assert f"benchmarks/cuda_runs.py {target.removeprefix('cuda-')}" in dry.stdout
    assert "pip" not in dry.stdout
