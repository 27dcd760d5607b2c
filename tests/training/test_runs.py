"""Run folders: whole files only, refusals that lose nothing, and resume after kill -9."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import methods, runs
from avmixup_kit._base import files, provenance
from avmixup_kit.training import checkpoints, folders
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.loop import Training, TrainingDiverged

EPSILON = 0.15
STEPS = 30
LATEST: list[Training] = []  # what ``new`` made, for ``measure``


def new(digits, method=None, steps=STEPS, **settings):
    method = Dial(methods.avmixup(epsilon=EPSILON, steps=1)) if method is None else method
    network = av.small_cnn(digits, seed=2, base_channels=4)
    options: dict[str, Any] = {"batch_size": 16, "seed": 4} | settings
    LATEST[:] = [Training(network, digits.train, method, steps, **options)]
    return LATEST[0]


def dial_of(training: Training) -> Dial:
    assert training.dial is not None
    return training.dial


def finish(records):
    return [record.loss for record in records]


def weights(path):
    return checkpoints.load_checkpoint(path)["model"]


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_folder_holds_settings_log_and_checkpoints(digits, tmp_path):
    run = new(digits)
    losses = finish(runs.log(run, tmp_path / "run", checkpoint_every=10, keep_every=20))
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["method"] == repr(methods.avmixup(epsilon=EPSILON, steps=1))
    assert methods.parse(about["method"]) == dial_of(run).method
    assert about["checksum"] == digits.train.checksum
    assert {"settings", "architecture", "torch", "machine", "commit", "dirty"} <= about.keys()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == losses
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert (tmp_path / "run" / "step_000020.pt").exists()
    loaded = runs.load_model(tmp_path / "run")
    assert identical(loaded.state_dict(), run.model.state_dict())
    assert not loaded.training
    assert not list((tmp_path / "run").glob(".*part"))


def measure(network):
    assert network is LATEST[0].judged
    assert not network.training
    return {"accuracy": float(LATEST[0].step % 7), "other": 1.0}


def test_curves_are_logged_and_the_best_is_kept_by_validation(digits, tmp_path):
    finish(runs.log(new(digits), tmp_path, curves=measure, curves_every=5, best="accuracy"))
    steps, values = runs.curves_of(tmp_path)["accuracy"]
    assert steps == [5, 10, 15, 20, 25, 30]
    assert values == [5.0, 3.0, 1.0, 6.0, 4.0, 2.0]
    assert checkpoints.load_checkpoint(tmp_path / "best.pt")["training"]["step"] == 20


def test_measuring_curves_does_not_change_the_run(digits, tmp_path):
    from avmixup_kit.evaluation.curves import robust_curves

    finish(runs.log(new(digits, steps=6), tmp_path / "a"))
    curves = robust_curves(digits, 20)
    finish(runs.log(new(digits, steps=6), tmp_path / "b", curves=curves, curves_every=2))
    assert identical(weights(tmp_path / "a/latest.pt"), weights(tmp_path / "b/latest.pt"))
    assert len(runs.curves_of(tmp_path / "b")["PGD10, validation"][0]) == 3


def interrupted(digits, folder, stop, dial=None, **options):
    """Run until ``stop`` steps are done, then walk away without saving."""
    records = runs.log(new(digits, dial), folder, checkpoint_every=7, **options)
    for record in records:
        if record.step + 1 == stop:
            break
    records.close()


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 20, 29])
def test_an_interrupted_run_ends_bit_identical(digits, tmp_path, stop):
    whole = finish(runs.log(new(digits), tmp_path / "whole"))
    interrupted(digits, tmp_path / "part", stop, curves=measure, curves_every=5)
    finish(runs.log(new(digits), tmp_path / "part", resume=True, curves=measure, curves_every=5))
    assert identical(weights(tmp_path / "whole/latest.pt"), weights(tmp_path / "part/latest.pt"))
    lines = [json.loads(x) for x in (tmp_path / "part/log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == whole
    assert runs.curves_of(tmp_path / "part")["accuracy"][0] == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize("replayed", [False, True])
def test_turns_made_after_the_last_checkpoint_are_not_lost(digits, tmp_path, replayed):
    turns = [Turn(3, {"gamma": 3.0}), Turn(10, {"lambda2": 0.4}), Turn(25, {"gamma": 1.5})]
    first = methods.avmixup(epsilon=EPSILON, steps=1)
    whole = new(digits, Dial(first, turns))
    finish(runs.log(whole, tmp_path / "whole"))
    part = new(digits, Dial(first, turns if replayed else turns[:1]))
    records = runs.log(part, tmp_path / "part", checkpoint_every=7)
    for record in records:
        if not replayed and record.step == 9:
            dial_of(part).turn(lambda2=0.4)
        if record.step == 12:
            break
    records.close()
    again = new(digits, Dial(first))
    for record in runs.log(again, tmp_path / "part", resume=True):
        if not replayed and record.step == 24:
            dial_of(again).turn(gamma=1.5)
    assert list(dial_of(again).turns) == turns
    assert runs.turns_of(tmp_path / "part") == turns
    assert identical(weights(tmp_path / "whole/latest.pt"), weights(tmp_path / "part/latest.pt"))


def test_a_turn_between_checkpoint_and_kill_counts_once(digits, tmp_path):
    part = new(digits)
    records = runs.log(part, tmp_path, checkpoint_every=1)
    for record in records:
        if record.step == 4:
            dial_of(part).turn(gamma=3.0)
            dial_of(part).turn(gamma=3.0)
        if record.step == 5:
            break
    records.close()
    again = new(digits)
    finish(runs.log(again, tmp_path, resume=True))
    assert dial_of(again).turns == (Turn(5, {"gamma": 3.0}), Turn(5, {"gamma": 3.0}))
    assert len(runs.turns_of(tmp_path)) == 2


def test_exported_turns_repeat_a_live_run(digits, tmp_path):
    live = new(digits)
    for record in runs.log(live, tmp_path / "live"):
        if record.step in (2, 11):
            dial_of(live).turn(gamma=1.0 + record.step)
    runs.export_turns(dial_of(live), tmp_path / "turns.jsonl")
    assert runs.turns_of(tmp_path / "turns.jsonl") == runs.turns_of(tmp_path / "live")
    dial = Dial(methods.avmixup(epsilon=EPSILON, steps=1), runs.turns_of(tmp_path / "turns.jsonl"))
    finish(runs.log(new(digits, dial), tmp_path / "headless"))
    live_weights = weights(tmp_path / "live/latest.pt")
    assert identical(live_weights, weights(tmp_path / "headless/latest.pt"))


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
import avmixup_kit as av
from avmixup_kit import methods, runs
data = av.digits()
dial = av.Dial(methods.avmixup(epsilon=0.15, steps=1), [av.Turn(40, {"gamma": 3.0})])
network = av.small_cnn(data, seed=2, base_channels=4)
training = av.Training(network, data.train, dial, 150, batch_size=16, seed=4)
for record in runs.log(training, sys.argv[1], resume=sys.argv[2] == "resume", checkpoint_every=9):
    print(record.step, flush=True)
"""


def start(folder, how):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), how], stdout=subprocess.PIPE, text=True
    )


def test_kill_9_at_random_moments_then_resume_is_bit_identical(digits, tmp_path):
    chance = random.Random(int(os.environ.get("AVMIXUP_TEST_SEED", "0")))
    whole = start(tmp_path / "whole", "new")
    assert whole.communicate()[0].split()[-1] == "149"
    how, kills = "new", 0
    for _ in range(4):
        process = start(tmp_path / "part", how)
        out = process.stdout
        assert out is not None
        for _ in range(chance.randrange(15, 45)):
            assert out.readline()
        time.sleep(chance.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        out.close()
        kills += process.returncode == -signal.SIGKILL
        how = "resume"
    last = start(tmp_path / "part", how)
    last.communicate()
    assert last.returncode == 0
    assert kills == 4
    assert identical(weights(tmp_path / "whole/latest.pt"), weights(tmp_path / "part/latest.pt"))
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "part")
    ]
    assert logs[0] == logs[1]


def test_losses_logged_in_blocks_make_the_same_log(digits, tmp_path, monkeypatch):
    """As on CUDA, where reading each loss would be waiting for each step."""

    def session(folder, stop, resume=False):
        run = new(digits)
        records = runs.log(
            run, folder, resume=resume, checkpoint_every=7, curves=measure, curves_every=5
        )
        for record in records:
            if record.step == 10:
                dial_of(run).turn(gamma=3.0)
            if record.step == 20:  # killed here, its checkpoint must not be ahead of its log
                assert [r["step"] for r in lines(folder) if "loss" in r] == list(range(21))
            if record.step + 1 == stop:
                break
        records.close()

    def lines(folder):
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in record.items() if k != "seconds"} for record in records]

    session(tmp_path / "one", STEPS)
    monkeypatch.setitem(runs.LOGGED_AT_ONCE, "cpu", 50)
    session(tmp_path / "blocks", STEPS)
    assert lines(tmp_path / "blocks") == lines(tmp_path / "one")
    session(tmp_path / "part", 13)
    assert [r["step"] for r in lines(tmp_path / "part") if "loss" in r] == list(range(13))
    session(tmp_path / "part", STEPS, resume=True)
    assert [r["step"] for r in lines(tmp_path / "part") if "loss" in r] == list(range(STEPS))


# --------------------------------------------------------------------------- limited time, pieces


def test_a_run_of_limited_time_saves_ends_and_is_taken_up(digits, tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(runs.time, "monotonic", lambda: 60.0 * next(clock))
    part = finish(runs.log(new(digits), tmp_path / "part", minutes=5))
    monkeypatch.undo()
    assert 1 <= len(part) < STEPS
    assert checkpoints.load_checkpoint(tmp_path / "part/latest.pt")["training"]["step"] == len(part)
    rest = finish(runs.log(new(digits), tmp_path / "part", resume=True, minutes=60))
    whole = finish(runs.log(new(digits), tmp_path / "whole"))
    assert part + rest == whole
    assert identical(weights(tmp_path / "whole/latest.pt"), weights(tmp_path / "part/latest.pt"))
    assert not finish(runs.log(new(digits), tmp_path / "part", resume=True, minutes=1e-9))


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, STEPS), (60, 1)])
def test_checkpoints_are_written_by_minutes_instead_of_steps(digits, tmp_path, minutes, saved):
    """Beside the one at the start; the last step's is always written."""
    folder, found = tmp_path / "run", set()
    for _ in runs.log(new(digits), folder, checkpoint_every=1, checkpoint_minutes=minutes):
        found.add(checkpoints.load_checkpoint(folder / "latest.pt")["training"]["step"])
    assert len(found - {0}) == saved
    assert STEPS in found


def wide(digits, folder, resume=False, steps=4, **options):
    """A run whose checkpoint takes some 4 MiB, until ``steps`` steps are done."""
    network = av.small_cnn(digits, seed=2, base_channels=80)
    method = Dial(methods.standard())
    run = Training(network, digits.train, method, 4, batch_size=16, seed=4)
    records = runs.log(run, folder, resume=resume, checkpoint_every=1, **options)
    for record in records:
        if record.step + 1 == steps:
            break
    records.close()


def test_checkpoints_in_pieces_go_on_whole_and_back(digits, tmp_path):
    wide(digits, tmp_path / "whole")
    whole = (tmp_path / "whole/latest.pt").stat().st_size
    assert whole > 2 * 2**20
    wide(digits, tmp_path / "part", steps=1, piece_mib=1)
    pieces = sorted((tmp_path / "part").glob("latest.pt.*"))
    assert len(pieces) == whole // (2**20 - 1) + 1
    assert all(file.stat().st_size < 2**20 for file in (tmp_path / "part").iterdir())
    wide(digits, tmp_path / "part", resume=True, steps=2, piece_mib=1)
    assert len(list((tmp_path / "part").glob("latest.pt.*"))) == len(pieces)
    assert not set(pieces) & set((tmp_path / "part").iterdir()), "old pieces are gone"
    wide(digits, tmp_path / "part", resume=True, steps=3)
    assert not list((tmp_path / "part").glob("latest.pt.*"))
    wide(digits, tmp_path / "part", resume=True, steps=4, piece_mib=2)
    assert list((tmp_path / "part").glob("latest.pt.*"))
    assert identical(weights(tmp_path / "whole/latest.pt"), weights(tmp_path / "part/latest.pt"))
    assert identical(
        runs.load_model(tmp_path / "part").state_dict(), weights(tmp_path / "whole/latest.pt")
    )


def test_what_a_kill_left_of_checkpoints_is_swept_when_the_run_is_taken_up(digits, tmp_path):
    wide(digits, tmp_path, steps=2, piece_mib=1)
    kept = {file.name for file in tmp_path.iterdir()}
    left = (
        ".latest.pt.0a1b2c3d.000.part", ".best.pt.part", "latest.pt.0a1b2c3d.000",
        "best.pt.0a1b2c3d.001",
    )  # fmt: skip
    others = (".evaluation.json.part", "latest.pt.notes.txt", "my.pt.0a1b2c3d.x")
    for name in (*left, *others):
        (tmp_path / name).write_bytes(b"half")
    wide(digits, tmp_path, resume=True, steps=3, piece_mib=1)
    now = {file.name for file in tmp_path.iterdir()}
    assert not now & set(left)
    assert set(others) <= now
    assert len(now) == len(kept) + len(others)
    (tmp_path / "latest.pt").write_text('{"pieces": [')
    with pytest.raises(ValueError, match="latest.pt is truncated, altered"):
        wide(digits, tmp_path, resume=True, steps=4, piece_mib=1)
    assert {file.name for file in tmp_path.iterdir()} == now, "a damaged list keeps its pieces"


@pytest.mark.parametrize("damage", ["missing", "torn", "altered", "list"])
def test_a_damaged_piece_is_named(tmp_path, damage):
    path = tmp_path / "latest.pt"
    checkpoints.save_checkpoint(path, {"noise": torch.rand(2**19)}, piece_mib=1)
    (tmp_path / "latest.pt.notes.txt").write_text("not ours")
    second = sorted(tmp_path.glob("latest.pt.*.001"))[0]
    content = second.read_bytes()
    if damage == "missing":
        second.unlink()
    elif damage == "torn":
        second.write_bytes(content[:-1])
    elif damage == "altered":
        second.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.write_bytes(path.read_bytes()[:-20])
    said = {"missing": "is missing", "list": "truncated, altered"}.get(damage, "torn or altered")
    name = "latest.pt is" if damage == "list" else f"its piece {second.name}"
    with pytest.raises(ValueError, match=f"{name} .*{said}|{name} {said}"):
        checkpoints.load_checkpoint(path)
    checkpoints.save_checkpoint(path, {"noise": torch.rand(3)})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest.pt", "latest.pt.notes.txt"]


def test_a_disk_that_fills_up_between_pieces_keeps_the_checkpoint(tmp_path, monkeypatch):
    path, noise = tmp_path / "latest.pt", torch.rand(2**19)
    checkpoints.save_checkpoint(path, {"noise": noise}, piece_mib=1)
    write, written = files.write_atomic, []

    def full(path, content):
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_checkpoint(path, {"noise": noise + 1}, piece_mib=1)
    monkeypatch.undo()
    assert torch.equal(checkpoints.load_checkpoint(path)["noise"], noise)
    checkpoints.save_checkpoint(path, {"noise": noise + 2}, piece_mib=1)
    assert len(list(tmp_path.iterdir())) == 4, "what the failed attempt had written is gone too"


def test_out_of_memory_keeps_the_last_checkpoint(digits, tmp_path):
    def greedy(model, batch):
        if run.step == 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.zeros_like(batch.x)

    run = new(digits, methods.avmixup(perturb=greedy))
    with pytest.raises(torch.OutOfMemoryError, match="batch_size = 16 and precision = 'float32'"):
        finish(runs.log(run, tmp_path, checkpoint_every=5))
    assert checkpoints.load_checkpoint(tmp_path / "latest.pt")["training"]["step"] == 5


# -------------------------------------------------------------------------------------- bad input


def test_a_folder_that_holds_a_run_is_not_overwritten(digits, tmp_path):
    finish(runs.log(new(digits, steps=2), tmp_path))
    before = (tmp_path / "latest.pt").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run: resume it or choose another"):
        finish(runs.log(new(digits, steps=2), tmp_path))
    assert (tmp_path / "latest.pt").read_bytes() == before
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        finish(runs.log(new(digits, steps=2), tmp_path / "empty", resume=True))


def test_a_run_folder_in_use_is_refused(digits, tmp_path):
    process = start(tmp_path, "new")
    out = process.stdout
    assert out is not None
    assert out.readline()
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(BlockingIOError, match="is in use by another process"):
            finish(runs.log(new(digits), tmp_path, resume=True))
    finally:
        process.kill()
        process.wait()
        out.close()
    assert (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda d: new(d, steps=31),
            r"steps = 31 is not allowed: the learning rate of step 15 was",
        ),
        (lambda d: new(d, steps=29), "other settings: steps was 30, is 29$"),
        (lambda d: new(d, lr=0.2, seed=1), "other settings: lr was 0.1, is 0.2; seed was 4, is 1$"),
        (
            lambda d: new(d, methods.pgd(epsilon=EPSILON)),
            r"another run: method.perturb.steps was 1, is 10; method.mix was AVmixup\(.*, is Adv",
        ),
    ],
)
def test_another_runs_settings_are_refused(digits, tmp_path, other, message):
    finish(runs.log(new(digits), tmp_path))
    before = (tmp_path / "latest.pt").read_bytes()
    with pytest.raises(ValueError, match=message):
        finish(runs.log(other(digits), tmp_path, resume=True))
    assert (tmp_path / "latest.pt").read_bytes() == before


def test_another_networks_and_other_images_are_refused(digits, tmp_path):
    finish(runs.log(new(digits), tmp_path))
    wide = Training(
        av.small_cnn(digits), digits.train, Dial(methods.avmixup(epsilon=EPSILON, steps=1)), STEPS,
        batch_size=16, seed=4,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match="holds another run: architecture.base_channels was 4, is 16"
    ):
        finish(runs.log(wide, tmp_path, resume=True))
    fewer = Training(
        av.small_cnn(digits, seed=2, base_channels=4), digits.train.subset(100),
        Dial(methods.avmixup(epsilon=EPSILON, steps=1)), STEPS, batch_size=16, seed=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="holds another run: checksum was"):
        finish(runs.log(fewer, tmp_path, resume=True))


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "text"])
def test_a_damaged_checkpoint_is_named(digits, tmp_path, damage):
    finish(runs.log(new(digits, steps=2), tmp_path))
    path = tmp_path / "latest.pt"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "byte":
        # In the middle of the largest tensor's bytes, where only a checksum can tell.
        content[len(content) // 2] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"not a checkpoint")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"latest.pt is truncated, altered or no checkpoint"):
        runs.load_model(tmp_path)


def test_a_missing_checkpoint_and_one_without_a_network_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        runs.load_model(tmp_path)
    checkpoints.save_checkpoint(tmp_path / "latest.pt", {"weights": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds no network of avmixup_kit"):
        runs.load_model(tmp_path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'evil'}",)

    torch.save({"architecture": "x", "model": Evil()}, tmp_path / "latest.pt")
    with pytest.raises(ValueError, match="no checkpoint"):
        runs.load_model(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_full_disk_keeps_the_last_checkpoint(digits, tmp_path, monkeypatch):
    records = runs.log(new(digits), tmp_path, checkpoint_every=5)
    for record in records:
        if record.step == 6:
            break

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = (tmp_path / "latest.pt").read_bytes()
    said = r"could not write .*log.jsonl \(No space left on device\); the last checkpoint is kept"
    with pytest.raises(OSError, match=said):
        finish(records)
    monkeypatch.undo()
    assert (tmp_path / "latest.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*part"))
    finish(runs.log(new(digits), tmp_path, resume=True))
    finish(runs.log(new(digits), tmp_path / "whole"))
    assert identical(weights(tmp_path / "latest.pt"), weights(tmp_path / "whole/latest.pt"))


class _HalfATurn:
    """A file whose disk is full in the middle of a turn's line, and has room again after it."""

    def __init__(self, file: Any) -> None:
        self.file, self.torn = file, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_HalfATurn":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, text: str) -> None:
        tears = "change" in text and not self.torn
        self.file.write(text[: len(text) // 2] if tears else text)
        self.file.flush()
        if tears:
            self.torn = True
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_torn_by_a_full_disk_ends_there_and_the_run_goes_on(digits, tmp_path, monkeypatch):
    real = Path.open

    def opened(path: Path, *given: Any, **more: Any) -> Any:
        file = real(path, *given, **more)
        return _HalfATurn(file) if path.name == "log.jsonl" and given[:1] == ("a",) else file

    def turned(folder: Path, **options: Any) -> None:
        dial = Dial(methods.avmixup(epsilon=EPSILON, steps=1))
        for record in runs.log(new(digits, dial), folder, checkpoint_every=5, **options):
            if record.step == 7:
                dial.turn(gamma=3.0)
                dial.turn(lambda2=0.5)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(OSError, match=r"could not write .*log.jsonl"):
            turned(tmp_path)
    *lines, torn = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines]
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    turned(tmp_path, resume=True)
    turned(tmp_path / "whole")
    assert identical(weights(tmp_path / "latest.pt"), weights(tmp_path / "whole/latest.pt"))
    both = [folders.log_of(folder / "log.jsonl") for folder in (tmp_path, tmp_path / "whole")]
    losses = [{r["step"]: r["loss"] for r in log if "loss" in r} for log in both]
    assert losses[0] == losses[1]


def test_no_step_waits_for_the_disk_but_those_that_are_saved_or_turned(
    digits, tmp_path, monkeypatch
):
    real, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle)))
    counts = []
    for steps in (10, 20):
        del synced[:]
        finish(runs.log(new(digits, steps=steps), tmp_path / str(steps)))
        counts.append(len(synced))
    assert counts[0] == counts[1] > 0


def test_a_diverging_run_keeps_its_last_good_checkpoint(digits, tmp_path):
    run = new(digits)
    with pytest.raises(TrainingDiverged, match="the loss is nan at step 12"):
        for record in runs.log(run, tmp_path, checkpoint_every=5):
            if record.step == 11:
                with torch.no_grad():
                    run.model.get_parameter("head.weight").fill_(float("nan"))
    saved = checkpoints.load_checkpoint(tmp_path / "latest.pt")
    assert saved["training"]["step"] == 10
    assert all(t.isfinite().all() for t in saved["model"].values())


def test_weights_that_are_not_finite_are_never_saved(digits, tmp_path):
    run = new(digits, steps=10)
    with pytest.raises(TrainingDiverged, match=r"head.weight is no longer finite after step 9"):
        for record in runs.log(run, tmp_path, checkpoint_every=1):
            if record.step == 8:
                run.optimiser.param_groups[0]["params"][-1].register_hook(lambda g: g * torch.inf)
    assert checkpoints.load_checkpoint(tmp_path / "latest.pt")["training"]["step"] == 9


def test_bad_arguments_are_named(digits, tmp_path):
    run = new(digits, steps=2)
    with pytest.raises(ValueError, match="checkpoint_every = 0 is not allowed"):
        runs.log(run, tmp_path, checkpoint_every=0)
    with pytest.raises(ValueError, match="^minutes = 0 is not allowed: a positive number"):
        runs.log(run, tmp_path, minutes=0)
    with pytest.raises(ValueError, match="checkpoint_minutes = 0 is not allowed: a positive"):
        runs.log(run, tmp_path, checkpoint_minutes=0)
    with pytest.raises(ValueError, match="piece_mib = 0 is not allowed: MiB a file"):
        runs.log(run, tmp_path, piece_mib=0)
    with pytest.raises(ValueError, match="best = 'x' is not allowed: curves are missing"):
        runs.log(run, tmp_path, best="x")
    with pytest.raises(ValueError, match="best = 'x' is not allowed: one of accuracy, other"):
        finish(runs.log(run, tmp_path, curves=measure, best="x"))


def test_provenance_names_commit_versions_and_machine():
    about = provenance.provenance()
    assert about["torch"] == torch.__version__
    assert about["machine"]
    assert about["instructions"].split()[0] == torch.backends.cpu.get_cpu_capability()
    if (Path(__file__).parents[2] / ".git").exists():
        assert len(about["commit"]) == 40
