"""Two processes on the CPU, or four, do what one does: rows, weights, verdicts and errors."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp

import avmixup_kit as av
from avmixup_kit import methods, runs
from avmixup_kit._base import distributed
from avmixup_kit.data import Augmentation
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.training import checkpoints
from avmixup_kit.training.dial import Dial
from avmixup_kit.training.loop import Training

EPSILON = 0.15
METHODS = {
    "AVmixup": methods.avmixup(epsilon=EPSILON, steps=2),
    "AVmixup, batch norm train": methods.avmixup(epsilon=EPSILON, steps=2, batch_norm="train"),
    # Beside the image, where TRADES starts, KL's gradient is nearly zero and its signs rounding.
    "TRADES": methods.trades(6.0, epsilon=EPSILON, step_size=None, steps=2).replace(
        start="uniform"
    ),
    "Feature Scatter": methods.feature_scatter(epsilon=EPSILON),
    "Feature Scatter, batch norm batch": methods.feature_scatter_avmixup(
        epsilon=EPSILON, batch_norm="batch"
    ),
    "Mixup": methods.mixup(0.4),
    "Mixup of PGD": methods.pgd(epsilon=EPSILON, steps=2).replace(mix=av.Mixup(per_example=False)),
    "five sources": methods.mixture(epsilon=EPSILON, steps=2),
    "ADR": methods.adr(epsilon=EPSILON, steps=2),
    "IAT": methods.iat(epsilon=EPSILON, steps=2),
    "PGD + AWP": methods.pgd_awp(epsilon=EPSILON, steps=2),
    "Temporal ensembling": methods.temporal_ensembling(ramp=(0.0, 0.0), epsilon=EPSILON, steps=2),
}


@pytest.fixture(autouse=True)
def one_thread(threads):
    """What trains here goes on there, where each process has one thread."""
    torch.set_num_threads(1)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def environment(rank, world, port):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}


def serve(rank, world, port, connection):
    torch.set_num_threads(1)
    os.environ |= environment(rank, world, port)
    with distributed.joined("cpu"):
        while (task := connection.recv()) is not None:
            function, words = task
            try:
                connection.send((function(*words), None))
            except Exception as error:
                connection.send((None, error))


@contextmanager
def together(world):
    """Call a function in processes that train together; returns what each returned."""
    context, port = mp.get_context("spawn"), free_port()
    ends = [context.Pipe() for _ in range(world)]
    processes = [
        context.Process(target=serve, args=(rank, world, port, ends[rank][1]), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()

    def call(function, *words):
        for here, _ in ends:
            here.send((function, words))
        answers = [here.recv() for here, _ in ends]
        for _, error in answers:
            if error is not None:
                raise error
        return [answer for answer, _ in answers]

    yield call
    for here, _ in ends:
        here.send(None)
    for process in processes:
        process.join(60)


@pytest.fixture(scope="module")
def pair():
    with together(2) as call:
        yield call


def new(method, steps=4, *, batch_size=32, sync=True):
    """A run at a small learning rate: signs of gradients near zero turn rounding into chaos."""
    digits = av.digits()
    # Flips and shifts are drawn for the whole batch too.
    train = replace(digits.train, augmentation=Augmentation(1, True))
    network = av.small_cnn(digits, seed=2, base_channels=4)
    return Training(
        network, train, Dial(method), steps, batch_size=batch_size, seed=4, lr=0.02,
        sync_batch_norm=sync,
    )  # fmt: skip


def numbers(run):
    return (
        [record.loss for record in run],
        {name: value.clone() for name, value in run.model.state_dict().items()},
        run.rng.get_state(),
    )


def trained_by(name, steps, sync=True, batch_size=32):
    return numbers(new(METHODS[name], steps, sync=sync, batch_size=batch_size))


def gradients_of(name):
    run = new(METHODS[name])
    next(run)
    return [p.grad for p in run.model.parameters()]


def close(a, b, tolerance=2e-6):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_one_step_are_those_of_one_process(pair, name):
    one = gradients_of(name)
    for gradients in pair(gradients_of, name):
        close(gradients, one)


@pytest.mark.parametrize(
    "name",
    ["AVmixup", "TRADES", "Feature Scatter", "Mixup of PGD", "PGD + AWP", "Temporal ensembling"],
)
def test_losses_and_weights_after_steps_are_those_of_one_process(pair, name):
    losses, weights, generator = trained_by(name, 5)
    for other_losses, other_weights, other_generator in pair(trained_by, name, 5):
        close(torch.tensor(other_losses), torch.tensor(losses), 1e-5)
        close(other_weights, weights, 1e-5)
        assert torch.equal(other_generator, generator)


def test_four_processes_train_and_evaluate_as_one_and_two_do(pair, trained, tmp_path):
    """Five images each of a batch of 20, and 30 test images, which four cannot share evenly."""
    state = {"architecture": trained.architecture, "model": trained.state_dict()}
    checkpoints.save_checkpoint(tmp_path / "latest.pt", state)
    words = "Feature Scatter", 2, True, 20
    losses, weights, generator = trained_by(*words)
    with together(4) as four:
        for others in [*pair(trained_by, *words), *four(trained_by, *words)]:
            close(torch.tensor(others[0]), torch.tensor(losses), 1e-5)
            close(others[1], weights, 1e-5)
            assert torch.equal(others[2], generator)
        correct, gradients, ladder, _ = judged(tmp_path, 30)
        for answer in four(judged, tmp_path, 30):
            assert torch.equal(answer[0], correct)
            assert torch.equal(answer[2], ladder)
            assert answer[1] == gradients


def remembered(name):
    run = new(METHODS[name], 3)
    list(run)
    return run.memory.kept["ensemble"]


def test_what_is_remembered_of_images_is_that_of_one_process_on_both(pair):
    one = remembered("Temporal ensembling")
    first, second = pair(remembered, "Temporal ensembling")
    assert torch.equal(first, second)
    assert torch.equal(first.sum(1) > 0, one.sum(1) > 0)
    close(first, one, 1e-5)


def test_without_synchronised_batch_norm_both_hold_one_network_of_their_own(pair):
    (_, first, _), (_, second, _) = pair(trained_by, "AVmixup", 3, False)
    assert all(torch.equal(first[name], second[name]) for name in first)
    _, alone, _ = trained_by("AVmixup", 3)
    assert not torch.allclose(first["head.weight"], alone["head.weight"], atol=1e-5)


def logged(folder, resume, stop, sync=True):
    run = new(METHODS["AVmixup"], 8, sync=sync)
    records = runs.log(run, folder, resume=resume, checkpoint_every=2)
    for record in records:
        if record.step + 1 == stop:
            break
    records.close()
    return run.step


@pytest.mark.parametrize("first", ["two", "one"])
def test_a_checkpoint_goes_on_at_another_world_size(pair, tmp_path, first):
    logged(tmp_path / "whole", False, 8)
    ways = {"two": lambda *words: pair(logged, *words), "one": logged}
    second = ({"one", "two"} - {first}).pop()
    ways[first](tmp_path / "part", False, 5)
    ways[second](tmp_path / "part", True, 8)
    whole, part = (
        checkpoints.load_checkpoint(tmp_path / n / "latest.pt") for n in ("whole", "part")
    )
    assert part["training"]["step"] == 8
    close(part["model"], whole["model"], 1e-5)
    for name in ("whole", "part"):
        lines = [json.loads(x) for x in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(8)), "one process writes, and once"
    about = json.loads((tmp_path / "part" / "run.json").read_text())
    assert about["processes"] == {"two": 2, "one": 1}[first]


def measured(folder):
    run = new(METHODS["AVmixup"], 4, sync=False)
    data = av.digits()
    attack = av.pgd(steps=2, epsilon=EPSILON)

    def curves(network):
        result = evaluate(network, data.validation.subset(41), [attack])
        return {"clean": result.accuracy(), "PGD2": result.accuracy("PGD2")}

    for _ in runs.log(run, folder, curves=curves, curves_every=2, best="clean"):
        pass
    return curves(run.model)


def test_curves_are_measured_together_and_written_once(pair, tmp_path):
    first, second = pair(measured, tmp_path)
    assert first == second
    curves = runs.curves_of(tmp_path)
    assert [curves[name][0] for name in curves] == [[2, 4], [2, 4]]
    assert {name: values[-1] for name, (_, values) in curves.items()} == first
    network = runs.load_model(tmp_path)
    assert evaluate(network, av.digits().validation.subset(41)).accuracy() == first["clean"]


def judged(path, count):
    attacks = [
        av.fgsm(EPSILON),
        av.pgd(steps=5, epsilon=EPSILON),
        av.cw(steps=5, epsilon=EPSILON, restarts=2),
    ]
    network, split = runs.load_model(path), av.digits().test.subset(count)
    result = evaluate(network, split, [*attacks, RandomSearch(EPSILON, 20)], batch_size=16)
    ladder = evaluate(network, split, attacks, ladder=True)
    return result.correct, result.gradients, ladder.correct, result.notes


@pytest.mark.parametrize("count", [75, 1])
def test_a_shared_evaluation_is_that_of_one_process(pair, trained, tmp_path, count):
    state = {"architecture": trained.architecture, "model": trained.state_dict()}
    checkpoints.save_checkpoint(tmp_path / "latest.pt", state)
    correct, gradients, ladder, notes = judged(tmp_path, count)
    if count > 1:
        assert 0 < correct[2].float().mean() < correct[0].float().mean()
    for answer in pair(judged, tmp_path, count):
        assert torch.equal(answer[0], correct)
        assert torch.equal(answer[2], ladder)
        assert answer[1] == gradients
        assert answer[3] == notes


def shares():
    return distributed.rank(), distributed.share(7), distributed.everyones("x")


def test_shares_are_contiguous_and_as_even_as_can_be(pair):
    assert pair(shares) == [(0, slice(0, 3), ["x", "x"]), (1, slice(3, 7), ["x", "x"])]
    assert (distributed.world(), distributed.rank(), distributed.share(7)) == (1, 0, slice(0, 7))


# -------------------------------------------------------------------------------------- bad input


def refused(batch_size):
    with pytest.raises(ValueError, match="batch_size") as caught:
        new(METHODS["AVmixup"], batch_size=batch_size)
    return str(caught.value)


def test_a_batch_that_cannot_be_shared_out_is_named(pair):
    for size in (15, 1):
        uneven = f"batch_size = {size} is not allowed: a multiple of 2, so that each of 2 processes"
        assert all(message.startswith(uneven) for message in pair(refused, size))


def held(folder):
    run = new(METHODS["AVmixup"], 4)
    with pytest.raises(OSError, match="run") as caught:
        list(runs.log(run, folder, resume=not (folder / "run.json").exists()))
    return type(caught.value), str(caught.value)


def test_what_process_0_finds_wrong_with_the_folder_all_raise(pair, tmp_path):
    (kind, text), other = pair(held, tmp_path)
    assert (kind, text) == other == (FileNotFoundError, f"{tmp_path} holds no run to resume")
    logged(tmp_path, False, 8)
    (kind, text), other = pair(held, tmp_path)
    assert (kind, text) == other
    assert kind is FileExistsError
    assert "already holds a run" in text


def full_disk(folder):
    run, before = new(METHODS["AVmixup"], 6), os.fsync

    def full(descriptor):
        raise OSError(28, "No space left on device")

    try:
        for record in runs.log(run, folder, checkpoint_every=2):
            if record.step == 2:
                os.fsync = full
    except OSError as error:
        return str(error)
    finally:
        os.fsync = before


def test_a_full_disk_of_process_0_ends_both_and_keeps_the_checkpoint(pair, tmp_path):
    first, second = pair(full_disk, tmp_path)
    assert first == second
    assert "could not write" in first
    assert checkpoints.load_checkpoint(tmp_path / "latest.pt")["training"]["step"] == 2


FAILS = """
import os, signal, sys, torch
torch.set_num_threads(1)
import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit._base import distributed
def curves(network):
    if run.step == 4 and distributed.rank() == 1:
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("rank 1 has had enough")
    return {"one": 1.0}
with distributed.joined("cpu"):
    data = av.digits()
    method = av.avmixup(epsilon=0.15, steps=1)
    run = av.Training(av.small_cnn(data, base_channels=4), data.train, method, 9, batch_size=16)
    list(runs.log(run, sys.argv[1], checkpoint_every=3, curves=curves, curves_every=2))
"""


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_a_process_that_fails_ends_all_with_its_error(tmp_path, how):
    """About 8 s each: two interpreters load torch."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FAILS, str(tmp_path), how],
            env=os.environ | environment(rank, 2, port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=600)[1] for process in processes]
    last = said[0].splitlines()[-1].removeprefix("[rank0]: ")
    assert last.startswith("avmixup_kit._base.distributed.RankFailed: "), said[0]
    if how == "raises":
        assert [process.returncode for process in processes] == [1, 1]
        assert said[1].splitlines()[-1].endswith("ValueError: rank 1 has had enough")
        end = "process 1 of this training ended with ValueError: rank 1 has had enough"
        assert last.endswith(end)
    else:
        assert [process.returncode for process in processes] == [1, -signal.SIGKILL]
        assert "another process of this training went away" in last
    assert checkpoints.load_checkpoint(tmp_path / "latest.pt")["training"]["step"] == 3


def test_torchrun_trains_from_the_command_line(tmp_path):
    """About 10 s: three interpreters load torch."""
    words = "--steps 4 --batch-size 16 --base-channels 4 --curve-images 20 --attack-steps 1"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--master-port", str(free_port()), "-m", "avmixup_kit", "train", str(tmp_path / "run"),
            "--device", "cpu", *words.split(),
        ],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("PGD10, validation: ") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert checkpoints.load_checkpoint(tmp_path / "run" / "latest.pt")["training"]["step"] == 4
