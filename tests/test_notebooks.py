"""What every notebook keeps to, and that nbval's tolerance is neither lax nor strict."""

import base64
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

from avmixup_kit._base.plots import GRID
from notebooks.agreement import agree, close, declared

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
    assert re.search(r"\d+ minutes to read", first.source)


MEASURED = json.loads((FOLDER.parent / "results/benchmarks/notebooks.json").read_text())["seconds"]


@notebooks
def test_the_running_time_it_names_was_measured(path: Path) -> None:
    """By benchmarks/running_times.py: (processor, wall) seconds of each round."""
    line = re.search(r"(\d+) seconds of one core to run", cells(path, "markdown")[0].source)
    assert line is not None
    used = statistics.median(processor for processor, _ in MEASURED[path.name])
    assert used / 1.5 <= int(line[1]) <= 1.5 * used


@notebooks
def test_asks_for_a_guess_before_its_first_figure_and_has_an_exercise(path: Path) -> None:
    code = [cell.source for cell in cells(path, "code")]
    guesses = [here for here, source in enumerate(code) if "live.predict(" in source]
    figures = [
        here
        for here, cell in enumerate(cells(path, "code"))
        if any("image/png" in bundle for bundle in bundles(cell))
    ]
    assert guesses
    assert guesses[0] < min(figures, default=len(code))
    exercises = [source for source in code if "live.check(" in source]
    assert exercises
    assert all(re.match(r"\w+ = \.\.\.\n", source) for source in exercises)


@notebooks
def test_ends_with_what_to_try_next(path: Path) -> None:
    last = nbformat.read(path, 4).cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## What to try next")
    assert prose(path).count("## What to try next") == 1


def prose(path: Path) -> str:
    return "\n".join(cell.source for cell in cells(path, "markdown"))


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
def test_figures_and_explorers_show_without_running_and_no_picture_comes_twice(path: Path) -> None:
    pictures: list[str] = []
    for cell in cells(path, "code"):
        for bundle in bundles(cell):
            no_figure = re.search(r"live\.(predict|check|show)\(", cell.source)
            if PLOTLY in bundle or (WIDGET in bundle and not no_figure):
                pictures.append(bundle["image/png"])
                assert base64.b64decode(pictures[-1])[:4] == b"\x89PNG"
            assert "$" not in json.dumps(bundle.get(PLOTLY, {}).get("layout"))
    assert len(set(pictures)) == len(pictures)


@notebooks
def test_every_axis_has_the_grid_of_the_kit_or_none(path: Path) -> None:
    for cell in cells(path, "code"):
        for layout in (bundle[PLOTLY]["layout"] for bundle in bundles(cell) if PLOTLY in bundle):
            for name, axis in layout.items():
                if re.fullmatch(r"[xy]axis\d*", name):
                    assert axis.get("gridcolor") == GRID or axis.get("showgrid") is False, name


@notebooks
def test_links_lead_somewhere(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            assert target.startswith("https://") or (FOLDER / target).exists(), target


@notebooks
def test_code_that_is_not_the_point_is_folded(path: Path) -> None:
    """A question's code has its answer in it; the code of a figure is long and says little."""
    for cell in cells(path, "code"):
        drawing = any(PLOTLY in bundle for bundle in bundles(cell))
        beside = "live.predict(" in cell.source or (drawing and cell.source.count("\n") >= 6)
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == beside, cell.source


SYMBOLS = {
    "push-radius-ε": r"ε|\\varepsilon",
    "perturbation-δ": r"δ|\\delta",
    "γ-gamma": r"γ|\\gamma",
    "λ₁-λ₂-lambda1-lambda2": r"λ[₁₂]|\\lambda_[12]",
    "α-alpha": r"α|\\alpha",
    "weak-features": r"η|\\eta\b",
    "variance-σₛ-and-σᵣ": r"[σν]|\\sigma|\\nu\b",
    "ρ-rho": r"ρ|\\rho",
    "φ-phi": r"Φ|\\Phi",
    "ψ-psi": r"Ψ|\\Psi",
    "effective-radius-κ-kappa": r"κ|\\kappa",
    "sufficient-features-b": r"\$B\b",
}


@notebooks
def test_a_symbol_leads_to_the_glossary_where_it_first_appears(path: Path) -> None:
    before = ""
    for cell in cells(path, "markdown"):
        before += cell.source
        for place, symbol in SYMBOLS.items():
            if re.search(symbol, cell.source):
                assert f"](../docs/glossary.md#{place})" in before, symbol
    assert "[glossary](../docs/glossary.md)" in cells(path, "markdown")[0].source


@notebooks
def test_no_line_of_text_is_broken_on_a_narrow_page(path: Path) -> None:
    """JupyterLab breaks text that is too long anywhere, inside numbers, too."""
    for cell in cells(path, "code"):
        for output in cell.outputs:
            told = output.get("text", "")
            if set(output.get("data", ())) == {"text/plain"}:
                told = output.data["text/plain"]
            assert max(map(len, told.splitlines()), default=0) <= 100, told


@notebooks
def test_a_table_for_people_is_no_ruled_text(path: Path) -> None:
    for cell in cells(path, "code"):
        for output in cell.outputs:
            rich = {"text/html", "text/markdown"} & set(output.get("data", ()))
            text = output.get("text", output.get("data", {}).get("text/plain", ""))
            assert rich or not re.search("^-{3,}", text, re.M), text
            assert "95 % interval" not in output.get("text", ""), text


FAMILIES = {"pgd": r"PGD|adversarial training", "label_smoothing": r"LS ?0\.[89]|label smoothing"}
FAMILIES |= {"avmixup": r"AVmixup", "standard": r"Standard"}


@notebooks
def test_a_method_has_its_colour_in_every_figure(path: Path) -> None:
    from avmixup_kit.methods import METHODS

    for cell in cells(path, "code"):
        for figure in (bundle[PLOTLY] for bundle in bundles(cell) if PLOTLY in bundle):
            for trace in figure["data"]:
                name = trace.get("name", "").removeprefix("said by ")
                name = re.sub(", (PGD10|train|held-out|said|asked|exact).*", "", name)
                found = [key for key, known in FAMILIES.items() if re.fullmatch(known, name)]
                for key in found:
                    looks = (trace.get("line", {}), trace.get("marker", {}))
                    colours = {look["color"] for look in looks if "color" in look}
                    assert colours == {METHODS.entries[key].colour}, name


@notebooks
def test_what_a_figure_says_is_large_enough_and_fits(path: Path) -> None:
    def sizes(part: Any, key: str = "") -> list[float]:
        if isinstance(part, list):
            return [size for one in part for size in sizes(one, key)]
        if not isinstance(part, dict):
            return []
        own = [part["size"]] if key.endswith("font") and "size" in part else []
        return own + [size for name, one in part.items() for size in sizes(one, name)]

    for cell in cells(path, "code"):
        for figure in (bundle[PLOTLY] for bundle in bundles(cell) if PLOTLY in bundle):
            layout = figure["layout"]
            assert min(sizes([figure["data"], layout | {"template": {}}]), default=12) >= 12
            for line in layout.get("title", {}).get("text", "").split("<br>"):
                assert 8.6 * len(line) <= layout.get("width", 700), line


def test_the_first_notebook_leads_to_every_other() -> None:
    start = prose(FOLDER / "06_start_here.ipynb")
    for path in PATHS:
        assert path.name[:2] == "06" or f"]({path.name})" in start
    assert "*adversarial feature overfitting*" in start


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05", "07"])
def test_a_picture_comes_before_the_first_displayed_formula(number: str) -> None:
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    book = nbformat.read(path, 4).cells
    shown = [
        cell.cell_type == "code" and any("image/png" in bundle for bundle in bundles(cell))
        for cell in book
    ]
    formulas = [cell.cell_type == "markdown" and "$$" in cell.source for cell in book]
    assert shown.index(True) < (formulas.index(True) if True in formulas else len(book))


def test_one_thing_has_one_name_and_one_measure_from_notebook_4_on() -> None:
    for number in ("04", "05"):
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        text = prose(path).replace("the paper: non-robust", "")
        assert re.findall(r"useful features|non-robust|sufficient features", text) == []
    for number in ("04", "09", "11"):
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        assert "*scatter ratio*" in prose(path)
        figures = (b[PLOTLY] for c in cells(path, "code") for b in bundles(c) if PLOTLY in b)
        assert any("scatter ratio" in json.dumps(figure).lower() for figure in figures)


def test_theory_notebooks_lead_from_the_first_to_the_fifth() -> None:
    books = [path for path in PATHS if "01" <= path.name[:2] <= "05"]
    assert len(books) == 5
    for here, after in itertools.pairwise(books):
        assert f"]({after.name})" in cells(here, "markdown")[-1].source
        assert f"]({here.name})" in cells(after, "markdown")[0].source


BROKEN = {
    "attack = ...": ("av.cw(steps=20, epsilon=epsilon)", "av.pgd(steps=20, epsilon=epsilon)"),
    "queries = ...": ("1000", "100"),
    "mine = ...": ("[pgd20, av.cw(steps=20, epsilon=epsilon, restarts=10)]", "[pgd20]"),
}


def test_exercises_of_breaking_a_defence_take_what_breaks_it_and_nothing_else() -> None:
    import avmixup_kit as av

    every = [cell.source for cell in cells(FOLDER / "15_break_this_defence.ipynb", "code")]
    room: dict[str, Any] = {"verdict": {"this network": 0.65}}
    for source in every[:3]:
        exec(source.replace("print(", "str("), room)
    assert isinstance(room["claim"], av.Evaluation)
    for place, (right, wrong) in BROKEN.items():
        (source,) = (source for source in every if source.startswith(place))
        for answer, word in ((right, "Right."), (wrong, "Not yet."), ("...", "Yours to do.")):
            given, _, check = source.replace("...", answer, 1).partition("\n")
            exec(given, room)
            asked = eval(check.split("  # fmt")[0], room)
            assert word in asked.said.value, (place, answer)


# ----------------------------------------------------------------------------- the tolerance


def typed(values: Any, dtype: str = "f8") -> dict[str, str]:
    array = np.array(values, dtype)
    shape = {} if array.ndim == 1 else {"shape": ", ".join(map(str, array.shape))}
    return {"dtype": dtype, "bdata": base64.b64encode(array.tobytes()).decode(), **shape}


@pytest.mark.parametrize(
    ("stored", "fresh", "agreed"),
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
    stored: Any, fresh: Any, agreed: bool
) -> None:
    assert close(stored, fresh) is agreed
    assert close(fresh, stored) is agreed


# ------------------------------------------------------------ what a training cell declares

TABLE = """attack      accuracy     95 % interval    n
----------  --------  ----------------  ---
PGD20          {0}   5.28% to {1}  449
"""
NARROW = """attack      accuracy    95 % interval    n
----------  --------  ---------------  ---
PGD20          {0}   5.28% to {1}  449
"""
BOTH = {"accuracy": 0.05, "curve": 0.1}
WHITE = np.full((4, 5, 3), 200)
CLASSES = np.zeros((4, 5))


def figure(trace: dict[str, Any], **layout: Any) -> dict[str, Any]:
    return {"data": [{"type": "scatter", **trace}], "layout": layout}


def off(array: np.ndarray, entries: int, by: float) -> np.ndarray:
    changed = array.astype(float).copy()
    changed.reshape(-1)[:entries] += by
    return changed


@pytest.mark.parametrize(
    ("stored", "fresh", "agreed"),
    [
        # accuracies
        ("67.04%", "72.04%", True),
        ("67.04%", "72.05%", False),
        ("67.04%", "62.04%", True),
        ("67.04%", "62.03%", False),
        ("67%", "72%", True),
        ("67%", "73%", False),
        # losses and shares: of themselves above 1, of 1 below
        ("loss 2.00", "loss 2.22", True),
        ("loss 2.00", "loss 2.23", False),
        ("share 0.80", "share 0.70", True),
        ("share 0.80", "share 0.69", False),
        # what else stands in a text
        ("449", "450", False),
        ("67.04% of 449", "68.00% of 450", False),
        ("called a 4, 0.10", "called a 6, 0.10", False),
        ("PGD20 67.04%", "PGD10 67.04%", False),
        ("Clean 67.04%", "clean 67.04%", False),
        ("67.04%", "67.04", False),
        ("67.04% 0.5", "67.04%", False),
        (TABLE.format(" 7.35%", "10.02%"), NARROW.format(" 7.35%", "9.98%"), True),
        (TABLE.format(" 7.35%", "10.02%"), NARROW.format("12.36%", "9.98%"), False),
        ("a\nb", "a b", False),
        ("a - b", "a -- b", False),
        # curves, everywhere
        (figure({"y": typed([0.0, 2.0])}), figure({"y": typed([0.2, 1.8])}), True),
        (figure({"y": typed([0.0, 2.0])}), figure({"y": typed([0.23, 2.0])}), False),
        (figure({"y": typed([0.0, 2.0])}), figure({"y": typed([0.0])}), False),
        (figure({"y": typed([0.0, 2.0])}), figure({"y": typed([0.0, np.nan])}), False),
        (figure({"y": typed([3, 4], "i4")}), figure({"y": typed([3, 5], "i4")}), False),
        (figure({"x": typed([0.0, 2.0])}), figure({"x": typed([0.0, 2.1])}), False),
        (
            figure({"mode": "text", "text": ["2"], "x": typed([2.0])}),
            figure({"mode": "text", "text": ["2"], "x": typed([2.1])}),
            True,
        ),
        (
            figure({"mode": "text", "text": ["2"], "x": typed([2.0])}),
            figure({"mode": "text", "text": ["7"], "x": typed([2.0])}),
            False,
        ),
        # pictures: the mean over 60 entries may be 25.5 of 255
        (figure({"z": typed(off(WHITE, 60, 25), "u1")}), figure({"z": typed(WHITE, "u1")}), True),
        (figure({"z": typed(off(WHITE, 60, 26), "u1")}), figure({"z": typed(WHITE, "u1")}), False),
        (figure({"z": typed(off(WHITE, 7, -200), "u1")}), figure({"z": typed(WHITE, "u1")}), True),
        (figure({"z": typed(off(WHITE, 8, -200), "u1")}), figure({"z": typed(WHITE, "u1")}), False),
        # maps of classes, as numbers and as words
        (figure({"z": typed(off(CLASSES, 2, 9), "i1")}), figure({"z": typed(CLASSES, "i1")}), True),
        (
            figure({"z": typed(off(CLASSES, 3, 1), "i1")}),
            figure({"z": typed(CLASSES, "i1")}),
            False,
        ),
        (figure({"text": [["a"] * 20]}), figure({"text": [["b"] * 2 + ["a"] * 18]}), True),
        (figure({"text": [["a"] * 20]}), figure({"text": [["b"] * 3 + ["a"] * 17]}), False),
        (figure({"text": [["a"] * 20]}), figure({"text": [["a"] * 19]}), False),
        (figure({"text": ["a", "b"]}), figure({"text": ["a", "c"]}), False),
        # the rest of a figure
        (figure({"name": "PGD10"}), figure({"name": "PGD20"}), False),
        (figure({"opacity": 0.5}), figure({"opacity": 0.51}), False),
        (figure({}, title="loss 1.0"), figure({}, title="loss 1.05"), False),
        (figure({}, range=[0.0, 1.0]), figure({}, range=[0.0, 1.05]), False),
        (figure({}, range=typed([0.0, 1.0])), figure({}, range=typed([0.0, 1.05])), False),
        (figure({"y": typed([1.0])}), figure({"x": typed([1.0])}), False),
    ],
)
def test_a_declared_tolerance_holds_up_to_its_limit_and_for_nothing_else(
    stored: Any, fresh: Any, agreed: bool
) -> None:
    def output(value: Any) -> Any:
        if isinstance(value, str):
            return nbformat.v4.new_output("stream", name="stdout", text=value)
        return nbformat.v4.new_output("display_data", {PLOTLY: value, "text/plain": "Figure"})

    tolerance = declared({"tolerance": BOTH})
    assert (agree(output(fresh), output(stored), tolerance) == output(stored)) is agreed
    undeclared = agree(output(fresh), output(stored), declared({}))
    assert undeclared != output(stored), "without the declaration it is compared strictly"


def test_a_tolerance_for_curves_is_none_for_accuracies_and_the_reverse() -> None:
    for name, stored, fresh in (
        ("accuracy", "loss 2.00", "loss 2.02"),
        ("curve", "67.04%", "68.04%"),
    ):
        tolerance = declared({"tolerance": {name: 0.2}})
        assert agree({"text": fresh}, {"text": stored}, tolerance)["text"] == fresh


@pytest.mark.parametrize(
    "given",
    [
        {"accuracies": 0.05},
        {"accuracy": 0.05, "loss": 0.1},
        {"accuracy": 0.25},
        {"curve": 0.002},
        {"curve": 0.0},
        {"curve": -0.1},
        {"curve": float("nan")},
        {"curve": float("inf")},
        {"accuracy": True},
        {"accuracy": 1},
        {"accuracy": "0.05"},
        {"accuracy": None},
        {},
        0.05,
        ["accuracy"],
        None,
    ],
)
def test_a_silly_declaration_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"tolerance.* is not allowed: "):
        declared({"tolerance": given})


# Every other cell is compared strictly: these alone show what training in float32 has given, or an
# attack on a network of photographs.
TRAINED = {
    ("06", 3): {"accuracy"},
    ("06", 4): {"accuracy"},
    ("06", 5): {"curve"},
    ("06", 6): {"accuracy", "curve"},
    ("07", 3): {"curve"},
    ("07", 5): {"curve"},
    ("07", 9): {"curve"},
    ("09", 7): {"curve"},
    ("09", 8): {"curve"},
    ("09", 10): {"accuracy"},
    ("10", 4): {"curve"},
    ("11", 19): {"accuracy", "curve"},
    ("15", 2): {"accuracy"},
    ("15", 4): {"accuracy"},
    ("15", 6): {"curve"},
    ("15", 8): {"accuracy"},
    ("15", 12): {"accuracy"},
    ("15", 13): {"curve"},
}
IGNORED = {("11", 4), ("11", 9), ("15", 5), ("15", 10), ("15", 11)}


def test_only_cells_that_show_a_training_declare_a_tolerance_and_a_small_one() -> None:
    found, ignored = {}, set()
    for path in PATHS:
        for number, cell in enumerate(cells(path, "code")):
            tolerance = declared(cell.metadata)
            if tolerance is not None:
                found[path.name[:2], number] = set(cell.metadata["tolerance"])
                assert tolerance.accuracy <= 0.05
                assert tolerance.curve <= 0.1
            if re.search("nbval[-_](ignore|skip)", json.dumps([cell.source, cell.metadata]), re.I):
                ignored.add((path.name[:2], number))
    assert found == TRAINED
    assert ignored == IGNORED


PICTURE = base64.b64encode(b"\x89PNG").decode()
LOOSE = {"tolerance": BOTH}
STORED = {
    "a printed float one thousandth off passes": ("print(1.001)", "1.000\n", {}),
    "a printed float one hundredth off fails": ("print(1.01)", "1.00\n", {}),
    "an integer one off fails": ("print(1001)", "1000\n", {}),
    "another word fails": ("print('yes 1.0')", "no 1.0\n", {}),
    "a figure one thousandth off, its picture missing, passes": (1.001, 1.0, {}),
    "a figure one hundredth off fails": (1.01, 1.0, {}),
    "declared, a float one hundredth off passes": ("print(1.01)", "1.00\n", LOOSE),
    "declared, a float two tenths off fails": ("print(1.2)", "1.0\n", LOOSE),
    "declared, an accuracy 4 points off passes": ("print('54.0%')", "50.0%\n", LOOSE),
    "declared, an accuracy 6 points off fails": ("print('56.0%')", "50.0%\n", LOOSE),
    "declared, an integer one off fails": ("print(1001)", "1000\n", LOOSE),
    "declared, a figure one hundredth off passes": (1.01, 1.0, LOOSE),
    "declared, a figure two tenths off fails": (1.2, 1.0, LOOSE),
    "images that are not here are skipped": ("print('none')", "of mirror\n", {"images": "mirror"}),
    "images that are here passes": ("print('of mirror')", "of mirror\n", {"images": "mirror"}),
    "images that are here and another word fails": (
        "print('bad mirror')",
        "of mirror\n",
        {"images": "mirror"},
    ),
    "a declaration of one half fails": ("print(1.0)", "1.0\n", {"tolerance": {"curve": 0.5}}),
}


@pytest.mark.parametrize("strict", ["", "1"])
def test_nbval_itself_compares_with_this_tolerance(
    strict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVMIXUP_REQUIRE_ALL", strict)
    (tmp_path / "conftest.py").write_bytes((FOLDER / "conftest.py").read_bytes())
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {FOLDER.parent}\n")
    book = nbformat.v4.new_notebook()
    for count, (now, then, metadata) in enumerate(STORED.values(), start=1):
        if isinstance(now, str):
            output = nbformat.v4.new_output("stream", name="stdout", text=then)
        else:
            data = {PLOTLY: {"data": [{"y": typed([then])}]}, "text/plain": "figure"}
            now = f"display({ {**data, PLOTLY: {'data': [{'y': typed([now])}]}} }, raw=True)"
            output = nbformat.v4.new_output("display_data", data | {"image/png": PICTURE})
        cell = nbformat.v4.new_code_cell(now, execution_count=count, outputs=[output])
        cell.metadata.update(metadata)
        book.cells.append(cell)
    nbformat.write(book, tmp_path / "book.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-rA", "-q"]
    run = subprocess.run(
        [*command, "book.ipynb"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    pairs = re.findall(r"^(PASSED|FAILED) \S+::Cell (\d+)", run.stdout, re.MULTILINE)
    verdicts = {int(cell): verdict for verdict, cell in pairs}
    skipped = "FAILED" if strict else None
    ends = {"passes": "PASSED", "fails": "FAILED", "skipped": skipped}
    expected = [ends[name.split()[-1]] for name in STORED]
    assert [verdicts.get(cell) for cell in range(len(STORED))] == expected, run.stdout
    assert ("1 skipped" in run.stdout) == (not strict)
