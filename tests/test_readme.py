"""The README's code runs, and after it that of docs/library.md, in the order in which it stands."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from avmixup_kit import reproduce
from avmixup_kit._base.tables import markdown_table
from avmixup_kit.evaluation.compare import compare
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.models.networks import WIDE
from avmixup_kit.reproduce import claims

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CODE = README + (ROOT / "docs" / "library.md").read_text()


def test_its_blocks_train_judge_and_report(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyautoattack")
    blocks = re.findall(r"```python\n(.*?)```", CODE, re.S)
    elsewhere = "flowers", "runs/mine", "cifar10_sample"  # a folder of one's own; tests/zoo
    ours = [block for block in blocks if not any(word in block for word in elsewhere)]
    assert len(ours) == len(blocks) - 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in ours:
        short = (
            block.replace("1_000", "20")
            .replace("== 500", "== 10")
            .replace("sample(200)", "sample(30)")
        )
        exec(short, names)
    said = capsys.readouterr().out
    assert said.count("worst case") == 1
    assert "AutoAttack (quick)" in Path("report.html").read_text()
    assert Path("runs/first/latest.pt").exists()
    assert Path("runs/own/best.pt").exists()


def test_its_one_reading_path_is_the_start_notebook_s_and_keeps_the_theory_s_order():
    head = r"\| notebook \| question \| minutes \|\n\|---.*\n((?:\|.*\n)+)"
    (table,) = re.findall(head, README)
    rows = re.findall(r"\| \[(\d\d)\]\(notebooks/(\1_.*?)\) \| .* \| (\d+) \|\n", table)
    assert sorted(name for _, name, _ in rows) == sorted(
        path.name for path in (ROOT / "notebooks").glob("*.ipynb")
    )
    numbers = [int(number) for number, _, _ in rows]
    assert numbers == [6, *(number for number in range(1, len(rows) + 1) if number != 6)]
    for _, name, minutes in rows:  # those that the notebook itself promises
        book = (ROOT / "notebooks" / name).read_text()
        assert f"{minutes} minutes to read" in book, name
    start = json.loads((ROOT / "notebooks" / rows[0][1]).read_text())
    (there,) = re.findall(head, "\n".join("".join(cell["source"]) for cell in start["cells"]))
    assert there.splitlines() == table.replace("(notebooks/", "(").splitlines()[1:]


def test_its_code_has_ten_lines_and_its_results_one_table():
    (code,) = re.findall(r"## Ten lines\n\n```python\n(.*?)```", README, re.S)
    assert len(code.splitlines()) == 10
    (results,) = re.findall(r"## What came out\n(.*?)\n## ", README, re.S)
    assert len(re.findall(r"^\|---", results, re.M)) == 1
    assert "](docs/results.md)" in results


def test_it_says_before_anything_is_run_what_an_install_takes_and_where_python_is():
    before, _, _ = README.partition("```python")
    assert "about 6 GB" in before
    assert "in two\nminutes" in before
    assert "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make lab" in before
    assert "`. .venv/bin/activate`" in before
    first = next(line for line in before.splitlines() if "opens JupyterLab" in line)
    assert first.strip().startswith("make lab")
    for name in ("LS0.8", "CW20", "Feature Scatter", "AutoAttack"):
        assert name in (ROOT / "docs" / "glossary.md").read_text()
    assert "](docs/glossary.md)" in before


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_its_line_for_pip_names_extras_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (named,) = re.findall(r"`pip install '\.\[([\w,]+)\]'`; further", README)
    extras = {
        *named.split(","),
        *re.findall(r"further extras are `(\w+)`,\n`(\w+)` and `(\w+)`", README)[0],
    }
    assert extras == project["optional-dependencies"].keys() - {"test"}


def test_its_grid_of_labels_and_points_and_the_answer_are_the_study_s():
    for page in (README, (ROOT / "docs" / "results.md").read_text()):
        words = " ".join(page.split())
        said = (ROOT / "results" / "labels" / "table.md").read_text().split("\n\n")
        grid, answer = said[3:5]
        assert grid.startswith("| label | inside")
        assert '"The label, not the vertex" is' in answer
        assert grid in page
        assert " ".join(answer.split()) in words


def test_every_paired_difference_that_the_results_tell_of_labels_is_the_study_s():
    page = (ROOT / "docs" / "results.md").read_text()
    part = " ".join(
        page.split("**Was it the vertex or the label?**")[1].split("\n**A str")[0].split()
    )
    study = (ROOT / "results" / "labels" / "table.md").read_text()
    number = r"[+-]\d+\.\d"
    told = re.findall(rf"({number}),? \(?({number}) to ({number})", part)
    assert len(told) >= 10
    for difference, low, high in told:
        interval = f"{low} to {high}"
        assert f"{difference} ({interval})" in study or f"| {difference} | {interval} |" in study


def test_what_it_says_of_photographs_is_what_the_tables_hold():
    page = (ROOT / "docs" / "results.md").read_text()
    for name in ("table1", "table3", "table5", "figure2"):
        table = reproduce.load(name, "laptop", ROOT / "results")
        there = [cells for cells in table.cells()[1:] if "missing" not in cells[-1]]
        told = [table.cells()[0], *there]
        if name in ("table5", "figure2"):  # too wide with n and seeds, which the text has
            told = [cells[:-2] for cells in told]
        lines = markdown_table(told, left=2).splitlines()[2:]
        assert len(lines) >= 2
        assert all(line in page for line in lines if " ours " in line)
    table = reproduce.load("table1", "laptop", ROOT / "results")
    results, readme = (" ".join(text.split()) for text in (page, README))
    pgd = [claim for claim in claims.claims(table) if claim.other == "PGD" and claim.ours]
    assert len(pgd) == len(table.plan.columns)
    for claim in pgd:
        assert claim.ours is not None
        low, high = (100 * end for end in claim.ours.interval)
        said = f"{100 * claim.ours.difference:+.1f} ({low:+.1f} to {high:+.1f})"
        assert said in results
        assert said in readme or claim.column not in ("PGD10", "AutoAttack (quick)")
    for claim in claims.claims(table):
        if claim.other == "LS0.8" and claim.column in ("PGD10", "AutoAttack (quick)"):
            assert claim.ours is not None
            low, high = (100 * end for end in claim.ours.interval)
            assert f"{100 * claim.ours.difference:+.1f} ({low:+.1f} to {high:+.1f})" in results
    for row in ("LS0.8", "LS0.9"):
        smoothed, hard = ([one.evaluation() for one in table.of(name)] for name in (row, "PGD"))
        found = compare(smoothed, hard, "AutoAttack (quick)")
        low, high = (100 * end for end in found.interval)
        said = f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f})"
        assert said in results
        assert said in readme or row == "LS0.9"
    kept = table.cell("PGD", "AutoAttack (quick)")
    assert kept is not None
    assert (
        f"keeps {100 * kept.mean:.1f} ± {50 * (kept.interval[1] - kept.interval[0]):.1f} %"
        in readme
    )


def test_every_paired_difference_told_of_trades_and_feature_scatter_is_the_tables():
    page = (ROOT / "docs" / "results.md").read_text()
    part = " ".join(page.split("**TRADES and Feature Scatter**")[1].split("\n**")[0].split())
    pairs = {
        "table3": [("TRADES (1/lambda = 6)", "PGD"), ("AVmixup", "TRADES (1/lambda = 6)")],
        "table5": [
            ("CIFAR10 / Feature Scatter", "CIFAR10 / PGD"),
            ("CIFAR10 / Feature Scatter + AVmixup", "CIFAR10 / Feature Scatter"),
        ],
    }
    there = set()
    for name, rows in pairs.items():
        table = reproduce.load(name, "laptop", ROOT / "results")
        for row, other in rows:
            ours, others = ([one.evaluation() for one in table.of(which)] for which in (row, other))
            assert len(ours) == len(others) == 1
            for column in (column.title for column in table.plan.rows[0].columns):
                found = compare(ours, others, column)
                low, high = (100 * end for end in found.interval)
                said = f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f})"
                there.add(said)
                if column in ("PGD20", "AutoAttack (quick)") and "+ AVmixup" in row:
                    assert said in " ".join(README.split())
                if column == "AutoAttack (quick)":
                    assert said in part, row
    files = "table3/laptop/trades-1-lambda-6-0.json", "table5/laptop/cifar10-feature-scatter-0.json"
    costs = [json.loads((ROOT / "results" / file).read_text()) for file in files]
    trades, scatter = (f"{cost['processor seconds']['training'] / 3600:.2f}" for cost in costs)
    tables = [reproduce.load(name, "laptop", ROOT / "results") for name in pairs]
    ahead = [
        next(
            c.paper for c in claims.claims(table) if c.other.endswith(other) and c.column == "PGD20"
        )
        for table, other in zip(tables, ("= 6)", "Scatter"), strict=True)
    ]
    assert f"where the paper has it {ahead[0]:.1f} points ahead" in part
    assert f"ahead in every column, by {ahead[1]:.1f} points under PGD20" in part
    assert f"where the paper has {ahead[1]:+.1f}." in README.replace("\n", " ")
    assert f"TRADES takes {trades} core-hours to train, Feature Scatter {scatter};" in part
    number = r"[+-]\d+\.\d"
    told = set(re.findall(rf"{number} \({number} to {number}\)", part))
    assert len(told) >= 8
    assert told <= there


def test_what_it_says_of_a_laptop_s_core_hours_is_the_most_that_a_network_took():
    most: dict[bool, list[float]] = {}
    folders = (ROOT / "results" / name / "laptop" for name in ("table1", "figure2"))
    for path in (path for folder in folders for path in folder.glob("*.json")):
        about = json.loads(path.read_text())
        wide = about["provenance"]["training"]["instructions"].startswith("AVX512")
        spent = [seconds / 3600 for seconds in about["processor seconds"].values()]
        most[wide] = [max(pair) for pair in zip(spent, most.get(wide, spent), strict=True)]
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    (wide, narrow) = (most[key] for key in (True, False))
    assert (
        f"at most {wide[0]:.2f} core-hours a network to train and {wide[1]:.2f} to evaluate on "
        f"processors with AVX-512, {narrow[0]:.2f} and {narrow[1]:.2f} on one with AVX2"
    ) in page
    assert f"{wide[0]:.1f} hours of one core with AVX-512 each" in " ".join(README.split())
    costs = [
        json.loads((ROOT / f"results/table1/laptop/ls0.9-{seed}.json").read_text())
        for seed in range(3)
    ]
    fast, *slow = (about["processor seconds"]["training"] / 3600 for about in costs)
    mean = sum(slow) / len(slow)
    assert f"takes {mean / fast:.1f} times as long" in page
    assert f"(LS0.9 above, {mean:.2f} and {fast:.2f} core-hours)" in page


def test_what_it_says_of_core_hours_is_what_the_results_hold():
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    path = ROOT / "results" / "time-to-robustness" / "best-hour-0.json"
    about = json.loads(path.read_text())
    kept = 100 * about["accuracy"]["AutoAttack"]
    low, high = (100 * end for end in about["interval95"]["AutoAttack"])
    cost = f"{about['training']['core_hours']:.2f} core-hours"
    for text in (page, " ".join(README.split())):
        assert f"{kept:.1f} % ({low:.1f} to {high:.1f})" in text
        assert cost in text
    assert f"{100 * about['accuracy']['Clean']:.1f} % of 1 000 clean" in page
    assert f"{100 * about['accuracy']['PGD20']:.1f} % under PGD20" in page
    assert f"evaluating it took {about['evaluation']['core_hours']:.2f} more" in page
    anchor = json.loads(path.with_name("anchor-0.json").read_text())
    quick = 100 * anchor["accuracy"]["AutoAttack (quick)"]
    low, high = (100 * end for end in anchor["interval95"]["AutoAttack (quick)"])
    cost = f"after {anchor['training']['core_hours']:.2f} core-hours"
    for text in (page, " ".join(README.split())):
        assert f"{quick:.1f} % ({low:.1f} to {high:.1f}) under AutoAttack (quick), {cost}" in text
    assert f"keeps {100 * anchor['accuracy']['Clean']:.1f} % clean" in page
    assert f"{100 * anchor['accuracy']['PGD20']:.1f} % under PGD20" in page
    assert 0.49 < anchor["operations"] / about["operations"] < 0.51


def test_what_it_says_of_training_in_bfloat16_is_what_the_results_hold():
    page = " ".join((ROOT / "docs" / "results.md").read_text().split())
    folder = ROOT / "results" / "time-to-robustness"
    paths = [folder / f"{name}-0.json" for name in ("bf16-hour", "best-hour")]
    about, other = (json.loads(path.read_text()) for path in paths)
    title, kept = "AutoAttack (quick)", {k: 100 * v for k, v in about["accuracy"].items()}
    assert "AutoAttack" not in kept
    low, high = (100 * end for end in about["interval95"][title])
    times = f"{about['operations'] / other['operations']:.1f} times the operations"
    for text in (page, " ".join(README.split())):
        assert f"{kept[title]:.1f} % ({low:.1f} to {high:.1f}) under {title}" in text
        assert f"{about['training']['core_hours']:.2f} core-hours of" in text
        assert times in text
    said = "keeps {:.1f} % clean, {:.1f} % under PGD20, {:.1f} % under CW20 and"
    assert said.format(kept["Clean"], kept["PGD20"], kept["CW20"]) in page
    assert f"the {about['evaluation']['core_hours']:.2f} core-hours of its evaluation" in page
    new, old = (Evaluation.load(path.with_suffix(".npz")) for path in paths)
    for column, where in (("Clean", "points clean"), ("PGD20", "under PGD20"), ("CW20", "under")):
        found = compare(new, old, column)
        low, high = (100 * end for end in found.interval)
        assert f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f}) {where}" in page


def test_the_table_of_tiny_maps_is_the_benchmark_s():
    found = json.loads((ROOT / "results" / "benchmarks" / "tiny_maps.json").read_text())
    rows = [
        list(found["rows"][0]),
        *([str(cell) for cell in row.values()] for row in found["rows"]),
    ]
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert markdown_table(rows, left=3) in page
    assert f"of {WIDE} channels or more" in page
