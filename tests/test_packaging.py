"""What a user installs: environments agree, imports stay light, files travel."""

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
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120
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
        "result = av.evaluate(training.model, data.test.subset(20), [av.pgd(2, 0.15)])\n"
        "print(len(records), result.n)"
    )
    assert done.stdout.split() == ["2", "20"], done.stderr


@pytest.mark.parametrize(
    ("module", "action", "message"),
    [
        ("plotly", "from avmixup_kit._base import html; html.page('t', [])", "avmixup-kit[plots]'"),
        ("tyro", "import avmixup_kit.cli", "avmixup-kit[cli]'"),
    ],
)  # fmt: skip
def test_a_missing_extra_says_how_to_get_it(module, action, message):
    done = run(f"import sys; sys.modules[{module!r}] = None\n{action}")
    assert done.returncode != 0
    assert message in done.stderr


def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_environment_yml_is_pyprojects_environment():
    environment = conda()
    assert environment["channels"] == ["conda-forge"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    names = [re.match(r"[\w.-]+", entry).group() for entry in plain]
    assert names == ["python", "pip"], "every other version lives in pyproject.toml"
    lowest = re.search(r">=\s*([\d.]+)", PROJECT["requires-python"]).group(1)
    assert f">={lowest}" in plain[0].replace(" ", "")
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,-]+)\]", line).group(1).split(",")
    assert set(extras) <= EXTRAS.keys()
    assert {"notebooks", "test"} <= set(extras)


def test_environment_ymls_pip_line_resolves():
    (pip,) = [entry["pip"] for entry in conda()["dependencies"] if isinstance(entry, dict)]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", *pip[0].split()],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_requirement_is_pinned_for_make():
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line
    }
    wanted = PROJECT["dependencies"] + [r for extra in EXTRAS.values() for r in extra]
    names = {re.match(r"[\w.-]+", r).group().lower().replace("_", "-") for r in wanted}
    assert names - {"avmixup-kit"} <= pinned


def test_the_core_asks_for_nothing_else_and_keeps_torch_open():
    names = {re.match(r"[\w-]+", r).group() for r in PROJECT["dependencies"]}
    assert names == {
        "torch", "torchvision", "numpy", "scipy", "scikit-learn", "tqdm", "filelock", "lazy-loader",
    }  # fmt: skip
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


def test_make_installs_once_and_ci_calls_make_test():
    dry = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert dry.returncode == 0, dry.stderr
    assert "pytest" in dry.stdout
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo:", "test:", "lab:"):
        assert re.search(rf"^{target}.*\.installed-", makefile, re.M), target
