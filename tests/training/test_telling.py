"""Records reach people as plain lines and loggers as numbers, curves included."""

import io
import re
import sys
import types
from typing import ClassVar

import pytest

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit.training.signs import Sign


def new(digits, steps=6):
    model = av.small_cnn(digits, seed=0, base_channels=4)
    return av.Training(model, digits.train, av.standard(), steps, batch_size=16)


def logged(digits, folder, **options):
    return runs.log(
        new(digits), folder, curves=lambda network: {"Clean": 0.5}, curves_every=4, **options
    )


def test_redirected_output_holds_plain_lines_and_no_bar(digits, capsys):
    for record in runs.told(new(digits), 6, "a run", every=2):
        assert record.numbers == {"loss": record.loss, "lr": record.lr}
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == ["step 0", "step 2", "step 4"]
    assert said.err == ""
    assert len(list(runs.told(new(digits), 6, "a run", quiet=True))) == 6
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(digits, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(runs.told(new(digits), 6, "a run"))
    assert "a run" in terminal.getvalue()
    assert "6/6" in terminal.getvalue()
    rest = new(digits)
    for _ in range(4):
        next(rest)
    list(runs.told(rest, 6, "the rest"))
    assert terminal.getvalue().rstrip().rpartition("the rest")[2].count("6/6") == 1


def test_an_evaluations_bar_is_for_terminals_too_and_files_get_ten_lines_at_most(
    digits, trained, capsys
):
    def said(images):
        split = digits.test.subset(images)
        av.evaluate(trained, split, [av.fgsm(0.1)], batch_size=4, progress=True)
        return capsys.readouterr().err.splitlines()

    few, many = said(8), said(200)
    assert few[-1].startswith("attack: ")
    assert len(many) <= 10
    assert all(re.fullmatch(r"attack: \d+ of \d+ images", line) for line in few + many)


def test_signs_are_told_in_one_line(digits, capsys):
    (record,) = new(digits, 1)
    record = av.Record(7, record.loss_tensor, 0.1, record.method, {}, (Sign("a", "a: is bad"),))
    list(runs.told([record], 8, "a run"))
    assert capsys.readouterr().out == "step 7: warning: a: is bad\n"


class Writer:
    """Stands in for TensorBoard's, which need not be installed."""

    made: ClassVar[list["Writer"]] = []

    def __init__(self, folder, purge_step):
        Writer.made.append(self)
        self.folder, self.purge_step, self.scalars, self.texts = folder, purge_step, {}, []
        self.closed = False

    def add_scalar(self, name, value, step):
        self.scalars.setdefault(name, []).append((step, value))

    def add_text(self, name, text, step):
        self.texts.append((name, text, step))

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    Writer.made = []
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.made


def test_tensorboard_gets_losses_and_curves_and_passes_records_on(digits, tmp_path, writers):
    records = list(runs.tensorboard(logged(digits, tmp_path / "run"), tmp_path / "board"))
    assert [record.step for record in records] == list(range(6))
    (writer,) = writers
    assert (writer.folder, writer.closed) == (str(tmp_path / "board"), True)
    assert writer.scalars["loss"] == [(r.step + 1, r.loss) for r in records]
    assert writer.scalars["lr"] == [(r.step + 1, r.lr) for r in records]
    assert writer.scalars["Clean"] == [(4, 0.5), (6, 0.5)]


def test_tensorboard_reads_fewer_losses_but_every_curve(digits, tmp_path, writers):
    list(runs.tensorboard(logged(digits, tmp_path), tmp_path / "board", every=3))
    assert [step for step, _ in writers[0].scalars["loss"]] == [1, 4]
    assert [step for step, _ in writers[0].scalars["Clean"]] == [4, 6]


def test_tensorboard_hides_what_a_killed_run_wrote_after_its_checkpoint(digits, tmp_path, writers):
    records = runs.tensorboard(logged(digits, tmp_path, checkpoint_every=2), tmp_path / "board")
    for _ in zip(range(3), records, strict=False):
        pass
    records.close()
    list(runs.tensorboard(logged(digits, tmp_path, resume=True), tmp_path / "board"))
    assert [writer.purge_step for writer in writers] == [1, 3]
    assert all(writer.closed for writer in writers)


def test_signs_are_texts_of_tensorboard(digits, tmp_path, writers):
    (record,) = new(digits, 1)
    record = av.Record(7, record.loss_tensor, 0.1, record.method, {}, (Sign("a", "a: is bad"),))
    list(runs.tensorboard([record], tmp_path))
    assert writers[0].texts == [("signs", "a: is bad", 8)]


def test_a_missing_tensorboard_is_said_in_one_line(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="TensorBoard is not installed: pip install tensorboard"):
        next(runs.tensorboard(new(digits), tmp_path))
