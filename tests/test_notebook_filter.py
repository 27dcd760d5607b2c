"""That git takes a notebook that was only run for unchanged, and nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parents[1]
NAME = "12_the_papers_tables.ipynb"
FIGURE = "application/vnd.plotly.v1+json"

if shutil.which("git") is None or shutil.which("make") is None:
    pytest.skip("git and make are needed", allow_module_level=True)


def git(clone: Path, *command: str) -> str:
    run = subprocess.run(["git", *command], cwd=clone, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of what the filter touches, after `make lab`."""
    (tmp_path / "notebooks").mkdir()
    names = [path.name for path in (ROOT / "notebooks").glob("*.py")]
    for name in (".gitattributes", *(f"notebooks/{name}" for name in [NAME, *names])):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    git(tmp_path, "init", "-q")
    (tmp_path / ".git/info/exclude").write_text(".venv\n__pycache__\n")
    git(tmp_path, "config", "user.name", "nobody")
    git(tmp_path, "config", "user.email", "nobody@example.org")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "as stored")
    subprocess.run(set_up(), shell=True, cwd=tmp_path, check=True)
    return tmp_path


def set_up() -> str:
    """The line of `make lab` that sets the filter."""
    command = ["make", "-n", "lab", "VENV=.venv"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in lines.splitlines() if "filter.avmixup-notebook" in line)
    return line


def as_jupyterlab_writes(part: Any) -> Any:
    """Whole numbers without a point, as JavaScript has them."""
    if isinstance(part, dict):
        return {key: as_jupyterlab_writes(value) for key, value in part.items()}
    if isinstance(part, list):
        return [as_jupyterlab_writes(value) for value in part]
    return int(part) if isinstance(part, float) and part.is_integer() else part


def save(clone: Path, book: Any) -> None:
    """Write the notebook as JupyterLab does, hook included."""
    path = clone / "notebooks" / NAME
    path.write_text(json.dumps(book, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    hook = "import notebooks.clean as c, sys; c.saved({'type': 'notebook'}, sys.argv[1])"
    subprocess.run([sys.executable, "-c", hook, str(path)], cwd=ROOT, check=True)


def stored(clone: Path) -> dict[str, Any]:
    return json.loads(git(clone, "cat-file", "blob", f":notebooks/{NAME}"))


def changed(clone: Path) -> list[str]:
    """What `git diff` and `git status` show; the second cannot be shorter."""
    lines = git(clone, "diff", "-U0", "--no-ext-diff").splitlines()
    shown = [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert bool(shown) <= bool(git(clone, "status", "--porcelain"))
    return shown


def test_running_and_saving_a_notebook_leaves_git_status_clean(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(clone / "notebooks" / NAME, 4)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(book, timeout=None, resources=where, store_widget_state=True).execute()
    save(clone, as_jupyterlab_writes(json.loads(nbformat.writes(book))))
    before = git(clone, "cat-file", "blob", f"HEAD:notebooks/{NAME}")
    assert (clone / "notebooks" / NAME).read_text() != before
    assert git(clone, "status", "--porcelain") == ""


def test_what_is_volatile_is_not_shown(clone: Path) -> None:
    book = as_jupyterlab_writes(stored(clone))
    book["metadata"] |= {"widgets": {"state": {}}}
    book["metadata"]["language_info"]["version"] = "3.99.0"
    for count, cell in enumerate(book["cells"]):
        cell["metadata"] |= {"execution": {"iopub.status.busy": "now"}, "scrolled": True}
        if cell["cell_type"] == "code":
            cell["execution_count"] = 100 + count
            for output in cell["outputs"]:
                output.get("data", {}).pop("image/png", None)
    save(clone, book)
    assert git(clone, "status", "--porcelain") == ""


def figure(book: dict[str, Any]) -> dict[str, Any]:
    outputs = (output for cell in book["cells"] for output in cell.get("outputs", []))
    return next(o["data"][FIGURE] for o in outputs if FIGURE in o.get("data", {}))


def shift_a_title(book: dict[str, Any]) -> None:
    figure(book)["layout"]["title"]["text"] += " anew"


def change_code(book: dict[str, Any]) -> None:
    next(cell for cell in book["cells"] if cell["cell_type"] == "code")["source"].append("\n1 + 1")


def change_text(book: dict[str, Any]) -> None:
    book["cells"][0]["source"].append("\nOne more sentence.")


def tag(book: dict[str, Any]) -> None:
    book["cells"][0]["metadata"]["tags"] = ["one"]


def clear(book: dict[str, Any]) -> None:
    next(cell for cell in book["cells"] if cell.get("outputs"))["outputs"].clear()


def leave_out(book: dict[str, Any]) -> None:
    del book["cells"][3]


def turn_round(book: dict[str, Any]) -> None:
    book["cells"].reverse()


@pytest.mark.parametrize(
    "change", [shift_a_title, change_code, change_text, tag, clear, leave_out, turn_round]
)
def test_what_has_really_changed_is_shown(clone: Path, change: Any) -> None:
    book = stored(clone)
    change(book)
    save(clone, book)
    assert changed(clone)
    git(clone, "add", ".")
    assert stored(clone) == book


def test_a_claim_counts_as_changed_beyond_its_tolerance_only(clone: Path) -> None:
    path = clone / "notebooks" / NAME
    book = stored(clone)
    output = nbformat.v4.new_output("stream", name="stdout", text="robust: 0.5000\n")
    told = nbformat.v4.new_code_cell("print(robust)", id="told", outputs=[output])
    lines = nbformat.writes(nbformat.v4.new_notebook(cells=[told]))
    book["cells"] += json.loads(lines)["cells"]
    path.write_text(json.dumps(book, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    git(clone, "commit", "-qam", "a claim")
    for text, lines in (("0.5005", 0), ("0.5100", 2)):
        book["cells"][-1]["outputs"][0]["text"] = [f"robust: {text}\n"]
        save(clone, book)
        assert len(changed(clone)) == lines


@pytest.mark.parametrize("broken", ['{"cells": [', "", '{"cells": 3}', "[]"])
def test_what_is_no_notebook_goes_through_as_it_is(clone: Path, broken: str) -> None:
    (clone / "notebooks" / NAME).write_text(broken)
    (clone / "notebooks" / "new.ipynb").write_text(broken)
    git(clone, "add", ".")
    for name in (NAME, "new.ipynb"):
        assert git(clone, "cat-file", "blob", f":notebooks/{name}") == broken


def test_outputs_can_be_stored_anew_despite_the_filter(clone: Path) -> None:
    """The command stands in CONTRIBUTING.md."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    (command,) = (line.strip() for line in lines if "filter.avmixup-notebook.clean=cat" in line)
    book = stored(clone)
    next(cell for cell in book["cells"] if "execution_count" in cell)["execution_count"] = 99
    save(clone, book)
    assert git(clone, "status", "--porcelain") == ""
    subprocess.run(command.replace("NOTEBOOK", NAME), shell=True, cwd=clone, check=True)
    assert stored(clone) == book
    assert git(clone, "status", "--porcelain") == f"M  notebooks/{NAME}\n"


def test_without_a_repository_and_without_the_filter_nothing_fails(
    clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = tmp_path_factory.mktemp("archive")
    run = subprocess.run(set_up(), shell=True, cwd=archive, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    git(clone, "config", "--local", "--unset", "filter.avmixup-notebook.clean")
    book = stored(clone)
    clear(book)
    save(clone, book)
    assert changed(clone)
