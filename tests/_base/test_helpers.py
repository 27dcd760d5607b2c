"""The helpers under every room: what differs is said, a lock is one process's, a table aligned."""

import re
import sys
from pathlib import Path

import pytest

from avmixup_kit._base import check, files, plugins
from avmixup_kit._base.tables import markdown_table


def test_only_what_differs_is_said_and_what_was_not_there_counts():
    now = {"steps": 5, "seed": 0, "device": "cpu"}
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check.same({"steps": 4, "seed": 0}, now, "runs/a is another run")
    said = "runs/a is another run: steps was 4, is 5; device was None, is 'cpu'"
    assert str(caught.value) == said
    check.same(now | {"of no interest": 1}, now, "runs/a")


def test_of_two_reprs_only_the_settings_that_differ_are_said():
    was = {"method": "Method(mix=AVmixup(gamma=2.0, lambda1=1.0), loss=A())", "n": "a, b"}
    for now, message in (
        ("Method(mix=AVmixup(gamma=3.0, lambda1=1.0), loss=A())",
         "method.mix.gamma was 2.0, is 3.0"),
        ("Method(mix=AVmixup(gamma=2.0, lambda1=0.5), loss=B(x=1))",
         "method.mix.lambda1 was 1.0, is 0.5; method.loss was A(), is B(x=1)"),
        ("Other(mix=1)", f"method was {was['method']!r}, is 'Other(mix=1)'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^runs/a: {re.escape(message)}$"):
            check.same(was, {"method": now}, "runs/a")
    with pytest.raises(ValueError, match="^runs/a: n was 'a, b', is 'a, c'$"):
        check.same(was, {"n": "a, c"}, "runs/a")


def test_a_name_is_found_in_modules_that_are_imported_and_nowhere_else(monkeypatch):
    assert plugins.found(f"{__name__}:markdown_table.nothing.at_all") is None
    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert plugins.found("this:s") is None
    assert "this" not in sys.modules
    assert "import a.b first, or pass --plugin b.py" in plugins.remedy("a.b:C")


def test_a_lock_is_held_by_one_until_its_block_ends(tmp_path: Path):
    path = tmp_path / "lock"
    for _ in range(2):
        with files.held(path):
            with pytest.raises(BlockingIOError, match="the folder is in use by another process"):
                files.held(path, what="the folder")
            with pytest.raises(BlockingIOError, match=f"{path} is in use"):
                files.held(path, 0.01)
    files.held(path).lock.release()
    files.held(path).lock.release()


def test_markdown_aligns_numbers_to_the_right():
    rows = [["model", "", "n"], ["PGD", "ours", "449"]]
    assert markdown_table(rows, left=2) == "| model |  | n |\n|---|---|--:|\n| PGD | ours | 449 |"


def test_a_damaged_file_is_blamed_in_one_line(tmp_path):
    path = tmp_path / "notes.json"
    for error, reason in ((KeyError("a"), "KeyError: 'a'"), (EOFError(), "it ends too early")):
        said = rf"notes.json is damaged \(.*{reason}\)$"
        with pytest.raises(ValueError, match=said), files.blamed(path, "is damaged"):
            raise error
    with pytest.raises(ZeroDivisionError), files.blamed(path, "is damaged"):
        raise ZeroDivisionError
