"""Run folders that are damaged, crafted or not there: one line names the file, nothing is lost."""

import copy
import json
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit.training import checkpoints

EPSILON = 0.15


def new(digits, **options):
    dial = av.Dial(av.avmixup(epsilon=EPSILON, steps=1))
    network = av.small_cnn(digits, seed=2, base_channels=4)
    return av.Training(network, digits.train, dial, 8, batch_size=16, **options)


def dial_of(training):
    assert training.dial is not None
    return training.dial


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    training = new(digits)
    records = runs.log(training, folder, checkpoint_every=4)
    for record in records:
        if record.step == 1:
            dial_of(training).turn(gamma=3.0)
        if record.step == 4:
            break
    records.close()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


# ---------------------------------------------------------------------------- what is not lost


def test_a_turn_made_after_the_last_step_that_was_seen_is_logged_and_acts(digits, tmp_path):
    whole = new(digits)
    for record in runs.log(whole, tmp_path / "whole"):
        if record.step == 3:
            dial_of(whole).turn(gamma=3.0)
    part = new(digits)
    records = runs.log(part, tmp_path / "part", checkpoint_every=2)
    for record in records:
        if record.step == 3:
            dial_of(part).turn(gamma=3.0)
            break
    records.close()
    assert logged(tmp_path / "part")[-1] == {"before_step": 4, "change": {"gamma": 3.0}}
    again = new(digits)
    list(runs.log(again, tmp_path / "part", resume=True))
    assert dial_of(again).turns == dial_of(whole).turns
    assert logged(tmp_path / "part") == logged(tmp_path / "whole")


def test_a_turn_to_come_outlives_a_second_interruption(digits, tmp_path):
    first = new(digits)
    records = runs.log(first, tmp_path, checkpoint_every=4)
    for record in records:
        if record.step == 5:
            dial_of(first).turn(gamma=3.0)
        if record.step == 6:
            break
    records.close()
    for _ in range(2):
        taken_up = runs.log(new(digits), tmp_path, resume=True)
        next(taken_up)
        taken_up.close()
    last = new(digits)
    list(runs.log(last, tmp_path, resume=True))
    assert dial_of(last).turns == (av.Turn(6, {"gamma": 3.0}),)
    assert [line for line in logged(tmp_path) if "change" in line] == [
        dial_of(last).turns[0].to_json()
    ]


def test_another_number_of_threads_is_told(digits, folder):
    about = json.loads((folder / "run.json").read_text())
    threads = torch.get_num_threads()
    (folder / "run.json").write_text(json.dumps(about | {"threads": threads + 1}))
    taken_up = runs.log(new(digits), folder, resume=True)
    with pytest.warns(
        UserWarning, match=rf"its run began with {threads + 1} threads, now there ar"
    ):
        next(taken_up)
    taken_up.close()


def test_a_resume_where_there_is_no_run_leaves_nothing_behind(digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere holds no run to resume"):
        list(runs.log(new(digits), tmp_path / "nowhere", resume=True))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no run to resume"):
        list(runs.log(new(digits), tmp_path / "empty", resume=True))
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path):
    pytest.importorskip("tyro")
    options = ["--steps", "100000", "--base-channels", "2", "--method", "standard"]
    command = [sys.executable, "-m", "avmixup_kit", "train", str(tmp_path / "run"), *options]
    # What runs in a shell's background (nohup make test &) ignores Ctrl-C, and so would its child.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    try:
        log = tmp_path / "run" / "log.jsonl"
        while process.poll() is None and not (log.exists() and log.stat().st_size > 200):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "interrupted: the same command with --resume goes on"
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "x", "--steps", "5", "--resume"], "interrupted: the same command goes on"),
        (["search", "x"], "interrupted: the same command goes on"),
        (["evaluate", "x"], "interrupted"),
    ],
)
def test_ctrl_c_in_each_command(monkeypatch, capsys, words, said):
    cli = pytest.importorskip("avmixup_kit.cli")

    def interrupted(_):
        raise KeyboardInterrupt

    for command in (cli.Train, cli.Search, cli.Evaluate):
        monkeypatch.setattr(command, "__call__", interrupted)
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.strip() == said


# ------------------------------------------------------------------------- what is told in one line


def told(action):
    """Return what an action is refused with: one line of bounded length."""
    with pytest.raises((ValueError, OSError)) as caught:
        action()
    words = str(caught.value)
    assert "\n" not in words
    assert len(words) < 1500
    return words


@pytest.mark.parametrize(
    "content",
    [
        b"[]", b"5", b'"run"', b"null", b"\xff\xfe{", b"{", b"[" * 100_000, b'{"method": 5}',
        b'{"method": ["Method()"]}', b'{"settings": {}}', b'{"images": []}', b'{"stages": "x"}',
        b'{"images": {"classes": 3}}', b'{"network": 7}', b'{"threads": "two"}',
        b'{"optimizer": {}}', b"{}",
    ],
    ids=lambda content: repr(content[:28]),
)  # fmt: skip
def test_a_run_json_that_is_none_is_named(digits, folder, content):
    (folder / "run.json").write_bytes(content)
    assert str(folder) in told(lambda: next(runs.log(new(digits), folder, resume=True)))
    assert str(folder / "run.json") in told(lambda: runs.about(folder))
    assert str(folder / "run.json") in told(lambda: runs.images_of(folder))


def test_a_run_json_of_a_megabyte_is_not_echoed(digits, folder):
    about = json.loads((folder / "run.json").read_text())
    for key in ("method", "data", "optimizer", "augmentation"):
        for value in ("-" * 10**6, "Method(" + "x" * 10**6):
            (folder / "run.json").write_text(json.dumps(about | {key: value}))
            told(lambda: next(runs.log(new(digits), folder, resume=True)))
            if key == "method":
                told(lambda: runs.about(folder))


@pytest.mark.parametrize(
    "line",
    [
        b"5", b"[]", b'"step"', b"null", b"{}", b"\xff\xfe", b"{", b"[" * 100_000, b"1" * 10_000,
        b'{"step": "one"}', b'{"step": null}', b'{"step": 1.5}', b'{"step": true}', b'{"step": []}',
        b'{"step": 1, "loss": "x"}', b'{"step": 1, "curves": []}',
        b'{"step": 1, "curves": {"a": "b"}}', b'{"before_step": 1, "change": []}',
        b'{"before_step": 1, "change": {"gamma": "open(1)"}}',
        b'{"before_step": 1, "change": {"gamma": "np.float64(2.0)"}}',
        b'{"before_step": 1, "change": {"gamma": "3.0"}, "stages": {"X": 5}}',
        b'{"before_step": 1, "change": {"gamma": "3.0"}, "stages": "X"}',
        b'{"step": 1, "sign": 5}',
    ],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
def test_a_line_of_the_log_that_is_none_is_named(digits, folder, line):
    log = folder / "log.jsonl"
    log.write_bytes(line + b"\n" + log.read_bytes())
    before = log.read_bytes()
    for action in (
        lambda: next(runs.log(new(digits), folder, resume=True)),
        lambda: runs.turns_of(folder),
    ):
        assert str(log) in told(action)
    assert log.read_bytes() == before


def crafted(state, path, value):
    """Return a copy of nested dicts with one value replaced, or left out where it is ``...``."""
    copied = copy.deepcopy(state)
    *where, last = path
    inner = copied
    for key in where:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copied


BIAS = "head.bias"
CRAFTED = [
    (("step",), 10**9), (("step",), 9.7), (("step",), 9), (("step",), -1), (("step",), True),
    (("step",), "2"), (("step",), torch.tensor([1, 2])), (("step",), ...),
    (("optimiser", "param_groups", 0, "momentum"), 5),
    (("optimiser", "param_groups", 0, "nesterov"), True),
    (("optimiser", "param_groups", 0), []), (("optimiser", "param_groups"), []),
    (("optimiser", "param_groups", 0, "params"), [0, 0]), (("optimiser",), None),
    (("optimiser", "state", 0, "momentum_buffer"), torch.zeros(3)),
    (("optimiser", "state", 0, "momentum_buffer"), "x"), (("optimiser", "state"), []),
    (("model",), []), (("model",), None), (("model", BIAS), torch.zeros(3)), (("model", BIAS), 5),
    (("model", BIAS), ...), (("model", BIAS), torch.zeros(10, dtype=torch.long)),
    (("model", 5), torch.zeros(1)), (("generator",), torch.zeros(3)), (("generator",), None),
    (("generator",), torch.zeros(3, dtype=torch.uint8)), (("settings",), []),
    (("settings", "steps"), "x"), (("settings", "steps"), ...), (("settings", "steps"), 10**12),
    (("data",), 5), (("dial",), 5), (("dial", "initial"), 5), (("dial", "turns"), 5),
    (("dial", "turns"), [5]), (("dial", "turns"), [{"before_step": 1}]),
    (("dial", "next_step"), []),
    (("dial", "initial"), "-" * 200_000), (("networks",), 5), (("networks",), {"teacher": "abc"}),
    (("average",), 5), (("average",), {"n_averaged": torch.tensor(1)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"), CRAFTED, ids=lambda value: str(value).replace("\n", " ")[:40]
)
def test_a_crafted_checkpoint_is_refused_in_one_line_and_changes_nothing(
    digits, folder, path, value
):
    content = checkpoints.load_checkpoint(folder / "latest.pt")
    training = new(digits, average=0.9)
    next(training)
    state = crafted(
        content["training"] | {"average": training.state_dict()["average"]}, path, value
    )
    before = training.state_dict()
    told(lambda: training.load_state_dict(state))
    after = training.state_dict()
    for name in ("model", "average"):
        assert all(torch.equal(before[name][key], after[name][key]) for key in before[name])
    assert torch.equal(before["generator"], after["generator"])
    assert repr(before["optimiser"]) == repr(after["optimiser"])
    assert before["dial"] == after["dial"]
    assert before["step"] == after["step"]
    next(training)


@pytest.mark.parametrize(
    "content", [[], 5, None, {}, {"training": 5}, {"model": 5, "architecture": 5, "training": {}}]
)
def test_a_checkpoint_that_holds_no_training_is_named(digits, folder, content):
    path = folder / "latest.pt"
    checkpoints.save_checkpoint(path, content)
    for action in (
        lambda: next(runs.log(new(digits), folder, resume=True)),
        lambda: runs.open(folder),
        lambda: runs.load_model(folder),
    ):
        words = told(action)
        assert str(path) in words or "architecture = 5" in words


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (
            torch.nn.Flatten(),
            ValueError,
            "model = .* is not allowed: it has no weights that can be",
        ),
        (lambda x: x, TypeError, "model = .* is not allowed: a network, an nn.Module"),
        (None, TypeError, "model = None is not allowed: a network"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(digits, model, kind, message):
    with pytest.raises(kind, match=message):
        av.Training(model, digits.train, av.standard(), 5)
