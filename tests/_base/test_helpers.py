"""The helpers under every room: what differs is said, a lock is one process's, a table aligned."""

import inspect
import io
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
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


HOLDS = """
import subprocess
import sys
import threading
from pathlib import Path
from avmixup_kit._base import files
with files.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_a_dying_process_leaves_behind_for_a_moment_is_waited_for(tmp_path: Path):
    path = tmp_path / "lock"
    words = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            files.held(path, 0.0)
        threading.Timer(0.1, other.stdin.close).start()
        files.held(path, 60).lock.release()
        other.wait()
    patience = inspect.signature(files.held).parameters["patience"].default
    assert patience == 1.0


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "JSONDecodeError: Expecting value"),
        (b'{"a": 1', "JSONDecodeError: Expecting ',' delimiter"),
        (b'{"a": "\xff"}', "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
        ('{"a": 1}'.encode("utf-16"), "UnicodeDecodeError: 'utf-8' codec"),
        (b"[" * 100_000, "RecursionError: maximum recursion depth exceeded"),
        (b"9" * 5000, "ValueError: Exceeds the limit"),
        (b"[1]", "TypeError: it holds a list, not a dict"),
        (b"null", "TypeError: it holds a NoneType, not a dict"),
    ],
)
def test_json_that_is_damaged_is_named_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "notes.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"notes.json is damaged or of another version \("
    ) as caught:
        files.read_json(path)
    assert reason in str(caught.value)
    assert len(str(caught.value).removeprefix(str(path))) < 300
    assert "\n" not in str(caught.value)


def test_json_is_read_and_what_is_not_there_is_said(tmp_path):
    (tmp_path / "notes.json").write_text('{"a": "\u03b3"}')
    assert files.read_json(tmp_path / "notes.json") == {"a": "γ"}
    (tmp_path / "seconds.json").write_text("1.5")
    assert files.read_json(tmp_path / "seconds.json", float) == 1.5
    with pytest.raises(FileNotFoundError, match="none.json"):
        files.read_json(tmp_path / "none.json")


def npz(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)
    return content.getvalue()


def array(shape: str, kind: str = "|b1", size: int = 8) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(size)


def altered(at: int, to: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("a.npy", array("(8,)"))
    whole = bytearray(content.getvalue())
    whole[at : at + len(to)] = to
    return bytes(whole)


DIRECTORY = altered(0, b"").rindex(b"PK\x01\x02")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "BadZipFile: File is not a zip file"),
        (npz(a=array("(8,)"))[:-30], "BadZipFile: File is not a zip file"),
        (altered(35, b"\xff" * 8), "error: Error -3 while decompressing data"),
        (altered(DIRECTORY + 10, b"\x63"), "NotImplementedError: That compression method"),
        (altered(DIRECTORY + 6, b"\xff"), "NotImplementedError: zip file version"),
        (altered(DIRECTORY + 8, b"\x01"), "RuntimeError: File 'a.npy' is encrypted"),
        (npz(a=b"notes"), "ValueError: a = 'bytes' is not allowed: an array"),
        (npz(a=array("(9,)")), "ValueError: EOF: reading array data, expected 9 bytes got 8"),
        (npz(a=array(f"({10**15},)")), "MemoryError: "),
        (npz(a=array("(1,)", "|O")), "ValueError: Object arrays cannot be loaded"),
        (npz(a=array("(8,")), "TokenError: "),
    ],
)
def test_an_npz_that_is_damaged_is_named_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "correct.npz"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"correct.npz is damaged or of another version \("
    ) as caught:
        files.read_npz(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_npz_is_read_and_one_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "correct.npz"
    path.write_bytes(npz(a=array("(8,)"), b=array("()", "<i8")))
    read = files.read_npz(path)
    assert read.keys() == {"a", "b"}
    assert not read["a"].any()
    monkeypatch.setattr(files, "LARGEST", 270)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    allowed = r"its size, unpacked = 2\d\d is not allowed: at most 270 bytes"
    with pytest.raises(ValueError, match=allowed):
        files.read_npz(path)


def test_a_file_that_cannot_be_written_is_told_even_where_its_part_cannot_be_removed(
    tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match=r"could not write .*a.json \(Read-only file system\); the"):
        files.write_atomic(tmp_path / "a.json", b"{}")
