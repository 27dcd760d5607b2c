"""A power loss at any moment: nothing that was promised is lost, and what goes on ends the same."""

import random

import pytest
import torch

from avmixup_kit._base import files
from tests.torture import works
from tests.torture.disk import Recorder, losses
from tests.torture.power_loss import recorded, survive


@pytest.mark.parametrize(
    ("work", "most"),
    [(works.Train(), 50), (works.PIECES, 20), (works.Judge(), 25), (works.Lab(), 25)],
    ids=lambda value: getattr(value, "name", None),
)
def test_work_goes_on_from_every_disk_that_a_power_loss_leaves(work, most, tmp_path):
    found = recorded(work, tmp_path / "whole")
    assert len(found) > 60
    reference = work.made(tmp_path / "whole")
    for loss in random.Random(0).sample(found, most):
        survive(work, loss, tmp_path / "lost", reference)


def test_a_search_goes_on_from_disks_that_power_losses_leave(tmp_path):
    pytest.importorskip("optuna")
    work = works.Search(trials=3)
    found = recorded(work, tmp_path / "whole")
    reference = work.made(tmp_path / "whole")
    for loss in random.Random(0).sample(found, 3):
        survive(work, loss, tmp_path / "lost", reference)


def disks(folder, *steps):
    """Return the disks that power losses leave of some steps, each a function of the folder."""
    folder.mkdir()
    with Recorder(folder) as recorder:
        for number, step in enumerate(steps):
            step(folder)
            recorder.promise(number)
    return list(losses(recorder.operations))


def test_a_file_is_there_for_good_once_it_is_written_and_before_that_the_old_one(tmp_path):
    found = disks(
        tmp_path / "a",
        lambda folder: files.write_atomic(folder / "notes", b"old"),
        lambda folder: files.write_atomic(folder / "notes", b"new"),
    )
    there = {(len(loss.promised), loss.contents.get("notes")) for loss in found}
    assert there == {(0, None), (0, b"old"), (1, b"old"), (1, b"new"), (2, b"new")}


def test_a_file_that_is_written_plainly_can_be_lost_torn_or_full_of_zeros(tmp_path):
    """The recorder sees what it is there to see."""
    found = disks(tmp_path / "a", lambda folder: (folder / "notes").write_bytes(b"news"))
    assert {loss.contents.get("notes") for loss in found if loss.promised} == {
        None, b"", b"ne", b"\0\0\0\0", b"news",
    }  # fmt: skip


def test_a_folder_and_those_above_it_are_there_for_good_once_made(tmp_path):
    found = disks(tmp_path / "a", lambda folder: files.make_folder(folder / "b" / "c"))
    assert [loss.contents for loss in found if loss.promised] == [{"b": None, "b/c": None}]
    files.make_folder(tmp_path / "a" / "b")


def test_what_is_removed_is_gone_before_what_comes_after(tmp_path):
    found = disks(
        tmp_path / "a",
        lambda folder: files.write_atomic(folder / "old", b"1"),
        lambda folder: files.remove(folder / "old"),
        lambda folder: files.remove(folder / "old"),
        lambda folder: files.write_atomic(folder / "new", b"2"),
    )
    assert not any({"old", "new"} <= loss.contents.keys() for loss in found)


def test_a_disk_that_cannot_settle_names_is_no_failure_and_a_broken_one_is(tmp_path, monkeypatch):
    import errno
    import os

    def failing(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    files.settle(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        files.settle(tmp_path)


def test_a_log_ends_where_a_power_loss_left_zeros(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n' + bytes(11) + b'{"step": 3}\n{"ste')
    assert files.json_lines(path) == [{"step": 0}, {"step": 1}]
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*log.jsonl is not JSON"):
        files.json_lines(path)


def test_a_digest_tells_tensors_orders_and_types_apart():
    one = torch.arange(4.0)
    assert works.digest({"a": one}) == works.digest({"a": one.clone()})
    others = ({"a": one.double()}, {"a": one.flip(0)}, {"b": one}, {"a": [one]}, {"a": one[:3]})
    assert len({works.digest(tree) for tree in ({"a": one}, *others)}) == 6
