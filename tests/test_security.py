"""SECURITY.md points to a test for each statement, and the tests are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_that_it_points_to_is_there():
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", TEXT)
    assert len(named) >= 15
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []


def test_every_row_of_what_is_not_trusted_has_its_test():
    part = TEXT.split("## What is not trusted")[1].split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 12
    assert [row for row in rows if not re.search(r"`tests/\S+::test_\w+` \|$", row)] == []


def test_the_packages_are_audited_as_it_says():
    workflow = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    assert "pip-audit --disable-pip --no-deps --requirement constraints.txt" in workflow
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert [pin for pin in pins if not re.fullmatch(r"[\w.\[\]-]+==[\w.+!-]+", pin)] == []
