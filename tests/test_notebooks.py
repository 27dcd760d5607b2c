"""What every notebook keeps to, and that nbval's tolerance is neither lax nor strict."""

import base64
import importlib.util
import itertools
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbval")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"

notebooks = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def bundles(cell: Any) -> list[dict[str, Any]]:
    return [output["data"] for output in cell.outputs if "data" in output]


@notebooks
def test_opens_with_a_question_and_says_what_is_seen_and_how_long_it_takes(path: Path) -> None:
    first, *_ = nbformat.read(path, 4).cells
    assert first.cell_type == "markdown"
    title, *rest = first.source.splitlines()
    assert re.fullmatch(r"# .+\?", title)
    assert "will see" in first.source
    assert re.search(r"\d+ (seconds|minutes?)", first.source)


@notebooks
def test_ends_with_what_to_try_next(path: Path) -> None:
    last = nbformat.read(path, 4).cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## What to try next")


@notebooks
def test_has_one_parameter_cell(path: Path) -> None:
    tagged = [c for c in cells(path, "code") if "parameters" in c.metadata.get("tags", ())]
    assert len(tagged) == 1
    assert all(re.match(r"[\w, ]+ = |#|$", line) for line in tagged[0].source.splitlines())


@notebooks
def test_explains_more_than_it_computes(path: Path) -> None:
    code = [cell.source for cell in cells(path, "code")]
    assert len(cells(path, "markdown")) >= len(code)
    assert statistics.median(len(source.splitlines()) for source in code) <= 10
    assert any("assert " in source for source in code)


@notebooks
def test_was_run_from_top_to_bottom_and_stored(path: Path) -> None:
    code = cells(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr"]


@notebooks
def test_is_small_and_holds_no_state_and_no_trace_of_a_machine(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    book = nbformat.read(path, 4)
    assert "widgets" not in book.metadata
    outputs = json.dumps([cell.outputs for cell in book.cells if cell.cell_type == "code"])
    found = re.search(r"/(?:home|root|tmp|work|Users|usr|opt|var)/", without_base64(outputs))
    assert found is None, found


def without_base64(text: str) -> str:
    return re.sub(r'"[A-Za-z0-9+/=\\n]{200,}"', '""', text)


@notebooks
def test_figures_show_without_running_and_widgets_have_one_beside(path: Path) -> None:
    code = cells(path, "code")
    for here, cell in enumerate(code):
        for bundle in bundles(cell):
            if PLOTLY in bundle:
                assert base64.b64decode(bundle["image/png"])[:4] == b"\x89PNG"
                assert "$" not in json.dumps(bundle[PLOTLY]["layout"])
            if WIDGET in bundle and "image/png" not in bundle:
                after = [kind for c in code[here + 1 : here + 4] for b in bundles(c) for kind in b]
                assert "image/png" in after, f"no static figure beside widget {cell.source!r}"


@notebooks
def test_links_lead_somewhere(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            assert target.startswith("https://") or (FOLDER / target).exists(), target


def test_theory_notebooks_lead_from_the_first_to_the_fifth() -> None:
    books = [path for path in PATHS if "01" <= path.name[:2] <= "05"]
    assert len(books) == 5
    for here, after in itertools.pairwise(books):
        assert f"]({after.name})" in cells(here, "markdown")[-1].source
        assert f"]({here.name})" in cells(after, "markdown")[0].source


# ----------------------------------------------------------------------------- the tolerance


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PLOTLY_RENDERER", "")  # put back afterwards, for the module sets it
    spec = importlib.util.spec_from_file_location("notebooks_conftest", FOLDER / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    from nbval.plugin import IPyNbCell

    monkeypatch.setattr(IPyNbCell, "compare_outputs", IPyNbCell.compare_outputs)
    spec.loader.exec_module(module)
    return module.close


def typed(values: list[float], dtype: str = "f8") -> dict[str, str]:
    return {"dtype": dtype, "bdata": base64.b64encode(np.array(values, dtype)).decode()}


@pytest.mark.parametrize(
    ("stored", "fresh", "agree"),
    [
        ("error 0.1000", "error 0.1001", True),
        ("error 0.1000", "error 0.1010", False),
        ("1.00e-07 and 2.5", "1.001e-07 and 2.5", True),
        ("1.00e-07 and 2.5", "1.01e-07 and 2.5", False),
        ("100 sets", "101 sets", False),
        ("1000 sets", "1001 sets", False),
        ("-0.5", "0.5", False),
        ("x1 = 0.5", "x2 = 0.5", False),
        ("a 0.5", "b 0.5", False),
        ("0.5 0.5", "0.5", False),
        ("0.5", "1", False),
        (1.0, 1.0019, True),
        (1.0, 1.01, False),
        (0.0, 1e-13, True),
        (0.0, 1e-9, False),
        (1000, 1001, False),
        (True, False, False),
        (True, 1, False),
        ([1.0, 2.0], [1.0, 2.001], True),
        ([1.0, 2.0], [1.0], False),
        ({"a": 1.0}, {"b": 1.0}, False),
        ({"a": [1.0, "b"]}, {"a": [1.001, "b"]}, True),
        (typed([1.0, 2.0]), typed([1.0, 2.003]), True),
        (typed([1.0, 2.0]), typed([1.0, 2.02]), False),
        (typed([1.0, 2.0]), typed([1.0]), False),
        (typed([1.0]), typed([1.0], "f4"), False),
        (typed([1000], "i4"), typed([1001], "i4"), False),
        (None, None, True),
        (None, 0.0, False),
    ],
)
def test_numbers_agree_to_two_thousandths_and_the_rest_exactly(
    close: Any, stored: Any, fresh: Any, agree: bool
) -> None:
    assert close(stored, fresh) is agree
    assert close(fresh, stored) is agree


PICTURE = base64.b64encode(b"\x89PNG").decode()
STORED = {
    "a printed float one thousandth off passes": ("print(1.001)", "1.000\n"),
    "a printed float one hundredth off fails": ("print(1.01)", "1.00\n"),
    "an integer one off fails": ("print(1001)", "1000\n"),
    "another word fails": ("print('yes 1.0')", "no 1.0\n"),
    "a figure one thousandth off, its picture missing, passes": (1.001, 1.0),
    "a figure one hundredth off fails": (1.01, 1.0),
}


def test_nbval_itself_compares_with_this_tolerance(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_bytes((FOLDER / "conftest.py").read_bytes())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    book = nbformat.v4.new_notebook()
    for count, (now, then) in enumerate(STORED.values(), start=1):
        if isinstance(now, str):
            output = nbformat.v4.new_output("stream", name="stdout", text=then)
        else:
            data = {PLOTLY: {"data": [{"y": typed([then])}]}, "text/plain": "figure"}
            now = f"display({ {**data, PLOTLY: {'data': [{'y': typed([now])}]}} }, raw=True)"
            output = nbformat.v4.new_output("display_data", data | {"image/png": PICTURE})
        cell = nbformat.v4.new_code_cell(now, execution_count=count, outputs=[output])
        book.cells.append(cell)
    nbformat.write(book, tmp_path / "book.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-rA", "-q"]
    run = subprocess.run(
        [*command, "book.ipynb"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    pairs = re.findall(r"^(PASSED|FAILED) \S+::Cell (\d)", run.stdout, re.MULTILINE)
    verdicts = {int(cell): verdict for verdict, cell in pairs}
    expected = ["PASSED" if name.endswith("passes") else "FAILED" for name in STORED]
    assert [verdicts.get(cell) for cell in range(len(STORED))] == expected, run.stdout
