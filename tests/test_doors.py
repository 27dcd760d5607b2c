"""What a contributor's machine runs: the workflow, the hooks and the make targets they name."""

import re
import shlex
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))


def jobs():
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]


def runs(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def test_every_make_target_of_the_workflow_exists():
    asked = re.findall(
        r"\bmake ([\w-]+)", "\n".join(r for job in jobs().values() for r in runs(job))
    )
    assert sorted(asked) == ["check", "test"]
    assert set(asked) <= TARGETS


def test_the_workflow_runs_both_pythons_and_asks_a_fork_for_nothing():
    every = jobs()
    assert every.pop("audit")["steps"][-1]["run"].startswith("pip-audit ")
    for job in every.values():
        assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.13"]
    text = "\n".join(line.partition("#")[0] for line in WORKFLOW.read_text().splitlines())
    assert "secrets" not in text
    assert "AVMIXUP_" not in text
    assert not re.search(r"https?://", text)


def test_the_hooks_are_local_and_fetch_nothing():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    (hooks,) = [repo["hooks"] for repo in repos]
    assert {hook["language"] for hook in hooks} == {"system"}
    entries = {hook["id"]: shlex.split(hook["entry"]) for hook in hooks}
    assert entries["nbstripout"][1:] == ["--keep-output", "--keep-count", "--keep-id"]


def test_make_check_names_test_files_that_exist():
    done = subprocess.run(
        ["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    named = re.findall(r"tests/\S+", done.stdout)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
