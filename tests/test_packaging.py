"""What a user installs: environments agree, imports stay light, files travel."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def run(code, *flags):
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=600
    )


def test_importing_the_kit_loads_no_plotly_no_widgets_and_no_command_line():
    done = run(
        "import sys, avmixup_kit\n"
        "heavy = {'plotly', 'ipywidgets', 'tyro', 'optuna', 'pyautoattack', 'IPython'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_core_works_without_the_extras():
    """As on a machine with torch, torchvision, numpy, scipy and scikit-learn alone."""
    done = run(
        "import sys\n"
        "for name in ('plotly', 'ipywidgets', 'tyro', 'tqdm', 'IPython', 'jaxtyping'):\n"
        "    sys.modules[name] = None\n"
        "import avmixup_kit as av\n"
        "data = av.digits()\n"
        "training = av.Training(av.small_cnn(data), data.train, av.avmixup(epsilon=0.15), 2)\n"
        "records = list(training)\n"
        "result = av.evaluate(training.model, data.test.subset(20), [av.pgd(steps=2)])\n"
        "print(len(records), result.n)"
    )
    assert done.stdout.split() == ["2", "20"], done.stderr


@pytest.mark.parametrize(
    ("module", "action", "message"),
    [
        ("plotly", "from avmixup_kit._base import html; html.page('', '')", "avmixup-kit[plots]'"),
        ("tyro", "import avmixup_kit.cli", "avmixup-kit[cli]'"),
    ],
)  # fmt: skip
def test_a_missing_extra_says_how_to_get_it(module, action, message):
    done = run(f"import sys; sys.modules[{module!r}] = None\n{action}")
    assert done.returncode != 0
    assert message in done.stderr


def matched(pattern: str, text: str, group: int = 0) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[group]


def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_environment_yml_is_pyprojects_environment():
    environment = conda()
    assert environment["channels"] == ["conda-forge"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    names = [matched(r"^[\w.-]+", entry) for entry in plain]
    assert names == ["python", "pip"], "every other version lives in pyproject.toml"
    lowest = matched(r">=\s*([\d.]+)", PROJECT["requires-python"], 1)
    assert f">={lowest}" in plain[0].replace(" ", "")
    (line,) = pip
    extras = matched(r"^-e \.\[([\w,-]+)\]$", line, 1).split(",")
    assert set(extras) <= EXTRAS.keys()
    assert {"notebooks", "test"} <= set(extras)


def test_environment_ymls_pip_line_resolves():
    (pip,) = [entry["pip"] for entry in conda()["dependencies"] if isinstance(entry, dict)]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", *pip[0].split()],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_requirement_is_pinned_for_make():
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line
    }
    wanted = PROJECT["dependencies"] + [r for extra in EXTRAS.values() for r in extra]
    names = {matched(r"^[\w.-]+", r).lower().replace("_", "-") for r in wanted}
    assert names - {"avmixup-kit"} <= pinned


def test_the_core_asks_for_nothing_else_and_keeps_torch_open():
    names = {matched(r"^[\w-]+", r) for r in PROJECT["dependencies"]}
    assert names == {
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "scikit-learn",
        "tqdm",
        "filelock",
        "lazy-loader",
        "safetensors",
        "jinja2",
    }
    (torch,) = [r for r in PROJECT["dependencies"] if r.startswith("torch>")]
    assert torch == "torch>=2.11"


def test_version_licence_citation_and_types_are_there():
    import avmixup_kit

    # Not importlib.metadata's: an editable install tells the version it was installed at.
    assert avmixup_kit.__version__ == PROJECT["version"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert "Adversarial Vertex Mixup" in citation["preferred-citation"]["title"]
    assert [a["family-names"] for a in citation["preferred-citation"]["authors"]] == [
        "Lee", "Lee", "Yoon",
    ]  # fmt: skip
    assert (ROOT / "avmixup_kit" / "py.typed").exists()


def test_whatever_stands_beside_the_modules_travels_with_them():
    package = ROOT / "avmixup_kit"
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setup["package-data"]["avmixup_kit"]
    sent = {path for pattern in patterns for path in package.glob(pattern)}
    sent = {path for path in sent if path.suffix != ".pyc"}
    beside = {path for path in package.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert {"page.css", "page.js", "page.html.j2", "report.html.j2"} <= {
        path.name for path in beside
    }
    assert beside == sent


def test_make_installs_once_and_ci_calls_make_test():
    dry = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert dry.returncode == 0, dry.stderr
    assert "pytest" in dry.stdout
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo:", "test:", "portable:", "lab:"):
        assert re.search(rf"^{target}.*\.installed-", makefile, re.M), target


def stubs(folder, failing):
    """A folder of programs that note how they were called, and fail on some of their words."""
    for name in ("ruff", "pyright", "pytest", "python"):
        program = folder / name
        program.write_text(
            "#!/bin/sh\n"
            f'echo "{name} $* [$ONEDNN_MAX_CPU_ISA $ATEN_CPU_CAPABILITY $OMP_NUM_THREADS'
            f' $AVMIXUP_TEST_THREADS]" >>{folder}/calls\n'
            f'case "{name} $* $ONEDNN_MAX_CPU_ISA$OMP_NUM_THREADS" in\n'
            + "".join(f"    {pattern}) exit 3 ;;\n" for pattern in failing)
            + "esac\n"
        )
        program.chmod(0o755)
    return folder


def make(target, folder, **env):
    ready = "--old-file=.venv/.installed-test"  # nothing is installed here
    done = subprocess.run(
        ["make", "--no-print-directory", target, ready, f"BIN={folder}", "PYTEST_ARGS="],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ | env,
    )  # fmt: skip
    return done, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    "failing",
    [
        ["ruff?format*", "pytest*--nbval*"],
        ["ruff?check*", "pyright*"],
        ["pytest?-n*"],
        [],
    ],
)
def test_make_test_runs_every_part_and_names_those_that_failed_at_the_end(tmp_path, failing):
    done, calls = make("test", stubs(tmp_path, failing))
    parts = ("ruff check", "ruff format", "pyright", "pytest -n", "pytest --nbval")
    assert len(calls) == len(parts)
    assert all(call.startswith(part) for call, part in zip(calls, parts, strict=True))
    threads = os.environ.get("AVMIXUP_TEST_THREADS", "1")
    assert all(f" {threads} " in call.split("[")[1] for call in calls), "one thread"
    assert (done.returncode == 0) == (not failing), done.stdout + done.stderr
    _, found, named = done.stdout.partition("FAILED:\n")
    assert bool(found) == bool(failing)
    assert len(named.splitlines()) == len(failing)
    for pattern, line in zip(failing, named.splitlines(), strict=True):
        assert fnmatch.fnmatch(line.strip(), f"{tmp_path}/{pattern}")


def test_make_portable_runs_six_settings_and_names_those_that_failed_at_the_end(tmp_path):
    failing = ["pytest?--nbval*?SSE412", "pytest?tests*?AVX21"]
    done, calls = make("portable", stubs(tmp_path, failing), ATEN_CPU_CAPABILITY="avx512")
    runs = [call for call in calls if call.startswith("pytest")]
    settings = [matched(r"\[(.*)\]", call, 1) for call in runs]
    assert settings == [
        f"{chosen} {threads} {threads}"
        for chosen in (" ", "AVX2 avx2", "SSE41 default")
        for threads in (1, 2)
        for _ in ("notebooks", "tests")
    ]
    assert ["--nbval notebooks" in call for call in runs] == [True, False] * 6
    assert all("tests/training" in call for call in runs[1::2])
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if line.startswith("FAILED: ")]
    assert len(said) == 2
    assert "AVX2" in said[0]
    assert "tests/training" in said[0]
    assert "SSE41" in said[1]
    assert "OMP_NUM_THREADS=2" in said[1]
    assert "--nbval" in said[1]
    assert done.stdout.splitlines()[-2:] == said
    (tmp_path / "calls").unlink()
    done, calls = make("portable", stubs(tmp_path, []))
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout


def test_every_test_file_that_portable_names_is_there_and_trains():
    script = (ROOT / ".ci" / "portable").read_text()
    (words,) = re.findall(r"^training=\(.*?\)$", script, re.M | re.S)
    done = subprocess.run(
        ["bash", "-c", words + '; printf "%s\\n" "${training[@]}"'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    named = [ROOT / name for name in done.stdout.split()]
    assert all(path.exists() for path in named)
    training = {
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"\bTraining\(|\btrained\b.*digits", path.read_text())
    }
    # packaging trains two steps, browser and cuda need what few machines have
    spared = ("test_packaging.py", "browser", "test_cuda.py", "test_examples.py")
    apart = [ROOT / "tests" / name for name in (*spared, "gaussian/test_finite.py")]
    left = {path for path in training if not any(map(path.is_relative_to, apart))}
    assert left
    assert not [path for path in left if not any(map(path.is_relative_to, named))]


def test_ci_trains_the_notebooks_that_train_under_a_foreign_setting_too():
    script = (ROOT / ".ci" / "run").read_text()
    assert ".ci/portable SSE41/default/1 --nbval" in script
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        trains = '"tolerance"' in path.read_text()
        assert not trains or path.stem in script, path
