"""A short form of ``make torture``: the same command, a few tries, and what it makes of them."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture import damage, hostile, table, works
from tests.torture.layer import Counter, Hindered, Layer, full, read_only


def torture(folder, *words):
    words = ["--out", str(folder / "out"), "--work", str(folder / "work"), *words]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done, done.stdout + done.stderr


def test_one_try_of_each_kind_on_a_run_loses_nothing_and_a_second_call_goes_on(tmp_path):
    done, said = torture(tmp_path, "--tries", "1", "--only", "train: ")
    assert done.returncode == 0, said
    first = json.loads((tmp_path / "out" / "result.json").read_text())
    assert table.total(first)["tries"] + len(first["skipped"]) == 7
    assert table.total(first)["failed"] == 0
    done, said = torture(tmp_path, "--tries", "2", "--only", "train: killed at each")
    assert "train: killed at each operation on files | 2 | 2 | 0 | 0 |" in said
    assert "train: killed at any moment | 1 | 1 | 0 | 0 |" in said
    _, said = torture(tmp_path, "--tries", "2", "--seed", "1")
    assert "holds another torture" in said
    assert "seed was 0, is 1" in said


def test_the_row_that_readers_see_is_that_of_the_stored_result():
    result = json.loads(table.RESULT.read_text())
    assert [table.row(result) in page.read_text() for page in table.PAGES].count(True) == 1
    assert table.markdown(result) == (table.RESULT.parent / "README.md").read_text()
    assert result["dirty"] is False


def test_failures_are_counted_and_told_and_never_rounded_away():
    about = {"seed": 3, "commit": "c" * 40, "dirty": False, "machine": "a machine", "asked": 30}
    tries = [
        {"what": "b", "number": 0, "outcome": "survived", "words": "", "seconds": 30.0},
        {"what": "b", "number": 1, "outcome": "failed", "words": "lost", "seconds": 30.0},
        {"what": "a", "number": 0, "outcome": "refused", "words": "no", "seconds": 0.0},
        {"what": "c", "number": 0, "outcome": "skipped", "words": "no root", "seconds": 0.0},
        {"what": "d", "number": 0, "outcome": "survived", "many": {"survived": 500},
         "told": "flat", "seconds": 0.0},
    ]  # fmt: skip
    result = table.counted(tries, about)
    assert table.total(result) == {"tries": 503, "survived": 501, "refused": 1, "failed": 1}
    page = table.markdown(result)
    for line in ("| b | 2 | 1 | 0 | 1 |", "- b, try 1: lost", "- c: no root", "- d: flat",
                 "1 minutes on a machine, commit cccccccccccc", "--seed 3"):  # fmt: skip
        assert line in page
    assert table.row(result) == "| `make torture` | 503 | 501 | 1 | 1 |"


@pytest.mark.parametrize("name", ["tar: ..", "zip: absolute", "tar: symbolic link", "tar: newline"])
def test_a_hostile_archive_is_refused_in_one_line_and_writes_nothing_elsewhere(name, tmp_path):
    number = list(hostile.CASES).index(name)
    assert hostile.attempted(random.Random(0), number, tmp_path)


def test_what_runs_or_is_written_elsewhere_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "CASES", {"it runs": lambda folder, mark: mark.touch() or ""})
    with pytest.raises(works.Broken, match="it runs: it ran, or wrote {'mark'}"):
        hostile.attempted(random.Random(0), 0, tmp_path)


def test_handlers_in_a_page_are_counted():
    parser = hostile._Handlers()  # pyright: ignore[reportPrivateUsage]
    parser.feed('<p title="x onload=1">a</p><img src=x onerror=f()><a href=" JavaScript:f()">b</a>')
    parser.feed("<script>f()</script>&lt;script&gt;")
    assert parser.count == 3


def test_only_one_line_of_the_kits_own_errors_is_a_refusal():
    assert works.refusal(ValueError("x = 1 is not allowed: 2")) == "x = 1 is not allowed: 2"
    for error in (KeyError("a"), ValueError(""), ValueError("two\nlines"), ZeroDivisionError("a")):
        with pytest.raises(works.Broken):
            works.refusal(error)


def test_a_damaged_checkpoint_is_refused_and_a_changed_one_would_be_found(tmp_path, monkeypatch):
    kind = damage.Judged()
    (tmp_path / "whole").mkdir()
    kind.make(tmp_path / "whole")
    chance = random.Random(1)
    for _ in range(5):
        (tmp_path / "copy").mkdir(exist_ok=True)
        monkeypatch.setattr(damage.Folder, "files", lambda self, folder: [folder / "correct.npz"])
        monkeypatch.setattr(damage, "damage", lambda path, chance: path.write_bytes(b"") or "gone")
        assert damage.damaged(kind, tmp_path / "whole", chance, tmp_path / "copy")
    monkeypatch.setattr(damage, "damage", lambda path, chance: "not at all")
    assert damage.damaged(kind, tmp_path / "whole", chance, tmp_path / "copy") == ""
    found = {"correct": "other", "names": [], "n": 0}
    monkeypatch.setattr(kind, "read", lambda folder, path: ("", found))
    with pytest.raises(works.Broken, match="read as something else, without a word"):
        damage.damaged(kind, tmp_path / "whole", chance, tmp_path / "copy")


# --------------------------------------------------------------------------------- the layer itself


def test_the_layer_sees_every_operation_below_its_folder_and_nothing_else(tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    with Counter(place) as counter:
        (place / "b").mkdir()
        (place / "b").mkdir(exist_ok=True)
        (place / "c.txt").write_text("words")
        with (place / "c.txt").open("a", buffering=1) as file:
            file.write("more\n")
            os.fsync(file.fileno())
        (place / "c.txt").replace(place / "d.txt")
        (place / "d.txt").read_text()
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        (place / "d.txt").unlink()
        (place / "nothing").unlink(missing_ok=True)
        (tmp_path / "elsewhere").write_text("not seen")
    said = ["mkdir", "create", "write", "write", "fsync", "rename", "settle", "unlink"]
    assert counter.kinds == said
    before = open
    with pytest.raises(ZeroDivisionError), Layer(place):
        assert open is not before
        raise ZeroDivisionError
    assert open is before


def test_a_full_disk_takes_half_and_a_read_only_one_nothing(tmp_path):
    with (
        pytest.raises(OSError, match="No space left"),
        Hindered(tmp_path, 1, full),
        (tmp_path / "a").open("wb", buffering=0) as file,
    ):
        file.write(b"1234")
    assert (tmp_path / "a").read_bytes() == b"12"
    with pytest.raises(OSError, match="Read-only"), Hindered(tmp_path, 0, read_only):
        (tmp_path / "a").unlink()
    assert (tmp_path / "a").exists()
