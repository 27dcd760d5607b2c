"""Training: deterministic, replayable, resumable, and the paper's schedule."""

import copy
import json
import math
import threading
from typing import Any, cast

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import methods, training
from avmixup_kit._base import distributed
from avmixup_kit.training import loop
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.loop import Training, TrainingDiverged
from avmixup_kit.training.settings import Settings

EPSILON = 0.15


def quick(digits, method=None, steps=8, **settings):
    """A short AVmixup run with 2-step attacks."""
    method = methods.avmixup(epsilon=EPSILON, steps=2) if method is None else method
    options: dict[str, Any] = {"batch_size": 32, "seed": 4} | settings
    return Training(
        av.small_cnn(digits, seed=2, base_channels=4), digits.train, method, steps, **options
    )


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def identical(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def finish(run):
    return [record.loss for record in run]


def test_one_step_per_next_and_then_the_end(digits):
    run = quick(digits, steps=3)
    before = weights(run)
    record = next(run)
    assert (record.step, run.step) == (0, 1)
    assert math.isfinite(record.loss)
    assert record.method == methods.avmixup(epsilon=EPSILON, steps=2)
    assert not identical(before, weights(run))
    assert len(finish(run)) == 2
    with pytest.raises(StopIteration):
        next(run)


def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(digits):
    torch.manual_seed(1)
    a = quick(digits)
    losses = finish(a)
    torch.manual_seed(2)
    b = quick(digits)
    assert finish(b) == losses
    assert identical(weights(a), weights(b))
    assert finish(quick(digits, seed=5)) != losses


def test_training_uses_no_global_randomness(digits):
    before = torch.random.get_rng_state()
    finish(quick(digits, steps=2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_schedule_is_the_papers():
    settings = Settings(80_000)
    assert settings.lr_at(0) == settings.lr_at(39_999) == 0.1
    assert settings.lr_at(40_000) == settings.lr_at(59_999) == pytest.approx(0.01)
    assert settings.lr_at(60_000) == settings.lr_at(79_999) == pytest.approx(0.001)
    assert (settings.momentum, settings.weight_decay, settings.batch_size) == (0.9, 2e-4, 128)


def test_the_learning_rate_of_the_schedule_is_the_optimisers(digits):
    run = quick(digits, steps=8)
    rates = []
    for record in run:
        assert {group["lr"] for group in run.optimiser.param_groups} == {record.lr}
        rates.append(record.lr)
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_weight_decay_is_on_kernels_only_unless_asked(digits):
    run = quick(digits)
    kernels, others = run.optimiser.param_groups
    assert kernels["weight_decay"] == 2e-4
    assert others["weight_decay"] == 0
    assert all(p.ndim > 1 for p in kernels["params"])
    assert all(p.ndim == 1 for p in others["params"])
    every = quick(digits, decay_all=True).optimiser.param_groups
    assert [group["weight_decay"] for group in every] == [2e-4, 2e-4]
    total = sum(len(group["params"]) for group in run.optimiser.param_groups)
    assert total == len(list(run.model.parameters()))


def test_one_step_is_sgd_with_momentum_and_decay(digits):
    run = quick(digits, methods.standard(), steps=2, decay_at=())
    reference = copy.deepcopy(run.model)
    buffers = [torch.zeros_like(p) for p in reference.parameters()]
    for step in range(2):
        x, y = digits.train.batch(run.indices(step))
        reference.train()
        reference.zero_grad()
        loss = torch.nn.functional.cross_entropy(reference(x + 0), y)
        loss.backward()
        with torch.no_grad():
            for buffer, p in zip(buffers, reference.parameters(), strict=True):
                assert p.grad is not None
                grad = p.grad + (2e-4 * p if p.ndim > 1 else 0)
                buffer.mul_(0.9).add_(grad)
                p -= 0.1 * buffer
        next(run)
    for mine, theirs in zip(run.model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_each_epoch_visits_every_image_once_in_an_order_of_its_own(digits):
    run = quick(digits, batch_size=64)
    epochs = [
        torch.cat([run.indices(e * run.steps_per_epoch + i) for i in range(run.steps_per_epoch)])
        for e in range(2)
    ]
    for epoch in epochs:
        assert len(epoch.unique()) == len(epoch) == run.steps_per_epoch * 64
    assert len(digits.train) - len(epochs[0]) < 64
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(run.indices(0), epochs[0][:64])


# ------------------------------------------------------------------------------------ the dial


def test_a_turn_acts_at_the_next_step_and_is_recorded(digits):
    dial = Dial(methods.avmixup(epsilon=EPSILON, steps=2))
    run = quick(digits, dial, steps=5)
    gammas = []
    for record in run:
        gammas.append(record.method.parameters["gamma"])
        if record.step == 1:
            dial.turn(gamma=3.0)
        if record.step == 3:
            dial.turn(method=methods.pgd(epsilon=EPSILON, steps=1))
            dial.turn(epsilon=0.1)
            break
    assert gammas == [2.0, 2.0, 3.0, 3.0]
    record = next(run)
    assert record.method == methods.pgd(epsilon=0.1, steps=1)
    assert dial.turns == (
        Turn(2, {"gamma": 3.0}),
        Turn(4, {"method": methods.pgd(epsilon=EPSILON, steps=1)}),
        Turn(4, {"epsilon": 0.1}),
    )


def test_replaying_a_logs_turns_gives_the_same_weights(digits):
    dial = Dial(methods.avmixup(epsilon=EPSILON, steps=2))
    live = quick(digits, dial)
    for record in live:
        if record.step in (1, 4):
            dial.turn(gamma=2.5 + record.step, lambda2=0.3)
        if record.step == 5:
            dial.turn(method=methods.trades(1.0, epsilon=EPSILON, step_size=None, steps=1))
    exported = [Turn.from_json(turn.to_json()) for turn in dial.turns]
    assert tuple(exported) == dial.turns
    headless = quick(digits, Dial(methods.avmixup(epsilon=EPSILON, steps=2), exported))
    finish(headless)
    assert headless.dial is not None
    assert headless.dial.turns == dial.turns
    assert identical(weights(live), weights(headless))
    untouched = quick(digits)
    finish(untouched)
    assert not identical(weights(live), weights(untouched))


def test_numbers_of_a_turn_are_numbers_in_its_record():
    change = {"gamma": 3.0, "per_example": False, "steps": 2, "start": "zero", "step_size": None}
    turn = Turn(4, change | {"mix": av.AVmixup(2.0, 1.0, 0.1)})
    record = json.loads(json.dumps(turn.to_json()))
    numbers = {"gamma": 3.0, "per_example": False, "steps": 2}
    mix = repr(av.AVmixup(2.0, 1.0, 0.1))
    texts = {"start": "'zero'", "step_size": "None", "mix": mix}
    assert record == {"before_step": 4, "change": numbers | texts}
    assert Turn.from_json(record) == turn
    assert Turn.from_json({"step": 4, "change": {"gamma": "3.0"}}) == Turn(4, {"gamma": 3.0}), (
        "as version 0.1 wrote it"
    )


def test_a_refused_turn_changes_nothing(digits):
    dial = Dial(methods.avmixup())
    for change, message in (
        ({"gamma": 0.5}, "gamma = 0.5 is not allowed"),
        ({"beta": 1.0}, "beta = 1.0 is not allowed: this method has"),
        ({}, "needs a change"),
        ({"gamma": 3.0, "lambda1": 2.0}, "lambda1 = 2.0 is not allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            dial.turn(**change)
        assert dial.method == methods.avmixup()
        assert dial.turns == ()
    with pytest.raises(TypeError, match="method = 'avmixup' is not allowed: a Method"):
        Dial(cast(Any, "avmixup"))
    with pytest.raises(ValueError, match="gamma = 0.1"):
        Dial(methods.avmixup(), [Turn(3, {"gamma": 0.1})])


def test_a_turn_by_hand_wins_over_turns_to_come():
    gamma, both, swap = (
        Turn(5, {"gamma": 3.0}),
        Turn(7, {"gamma": 2.5, "lambda1": 0.9}),
        methods.pgd(),
    )
    dial = Dial(methods.avmixup(), [both, gamma])
    assert dial.ahead == (gamma, both)
    dial.turn(lambda2=0.3)
    assert dial.ahead == (gamma, both)
    dial.turn(gamma=1.5)
    assert dial.ahead == (Turn(7, {"lambda1": 0.9}),)
    for change, planned in (({"method": swap}, both), ({"gamma": 1.5}, Turn(9, {"method": swap}))):
        dial = Dial(methods.avmixup(), [planned])
        dial.turn(**change)
        assert dial.ahead == ()


def test_a_replay_keeps_what_a_turn_by_hand_won():
    first, planned = methods.avmixup(), [Turn(5, {"gamma": 3.0, "lambda1": 0.9})]
    whole = Dial(first, planned)
    saved = whole.state_dict()
    for step in range(10):
        whole(step)
        if step == 2:
            whole.turn(gamma=1.5)
    assert whole.turns == (Turn(3, {"gamma": 1.5}), Turn(5, {"lambda1": 0.9}))
    again = Dial(first)
    again.load_state_dict(saved)
    again.expect(list(whole.turns))
    assert again.ahead == whole.turns


def test_turning_from_other_threads_is_never_seen_half_done(digits):
    dial = Dial(methods.avmixup(1.0, 0.1, 0.1))
    stop = threading.Event()

    def turn():
        value = 0
        while not stop.is_set():
            value = (value + 1) % 10
            dial.turn(lambda1=value / 10, lambda2=value / 10)

    threads = [threading.Thread(target=turn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for step in range(2000):
            now = dial(step).parameters
            assert now["lambda1"] == now["lambda2"]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    steps = [turn.step for turn in dial.turns]
    assert steps == sorted(steps)
    assert len(steps) > 10


def test_a_schedule_is_any_function_from_step_to_method(digits):
    seen = [
        record.method.parameters["gamma"]
        for record in quick(
            digits, lambda step: methods.avmixup(1.0 + step, epsilon=EPSILON, steps=1), steps=3
        )
    ]
    assert seen == [1.0, 2.0, 3.0]


# -------------------------------------------------------------------------------- save and resume


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_saved_run_taken_up_again_is_bit_identical(digits, tmp_path, stop):
    whole_dial = Dial(methods.avmixup(epsilon=EPSILON, steps=2), [Turn(5, {"gamma": 3.0})])
    whole = quick(digits, whole_dial, batch_size=200)
    losses = finish(whole)
    part = quick(
        digits,
        Dial(methods.avmixup(epsilon=EPSILON, steps=2), [Turn(5, {"gamma": 3.0})]),
        batch_size=200,
    )
    first = [next(part).loss for _ in range(stop)]
    torch.save(part.state_dict(), tmp_path / "state.pt")
    finish(part)
    taken_up = quick(digits, Dial(methods.avmixup(epsilon=EPSILON, steps=2)), batch_size=200)
    taken_up.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert taken_up.step == stop
    assert first + finish(taken_up) == losses
    assert identical(weights(whole), weights(taken_up))
    assert taken_up.dial is not None
    assert taken_up.dial.turns == whole_dial.turns


def test_a_state_in_memory_is_a_copy_and_so_is_what_is_loaded(digits):
    run = quick(digits)
    next(run)
    next(run)
    state = run.state_dict()
    kept = copy.deepcopy(state)
    forks = []
    for _ in range(2):
        fork = quick(digits)
        fork.load_state_dict(state)
        finish(fork)
        forks.append(weights(fork))
    finish(run)
    assert identical(*forks)
    assert identical(forks[0], weights(run))
    assert identical(state["model"], kept["model"])
    momentum = state["optimiser"]["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, kept["optimiser"]["state"][0]["momentum_buffer"])


def test_a_fork_may_change_settings_when_it_says_so(digits):
    run = quick(digits)
    next(run)
    fork = quick(digits, steps=20, lr=0.01)
    with pytest.raises(
        ValueError, match=r"other settings: steps was 8, is 20; lr was 0.1, is 0.01"
    ):
        fork.load_state_dict(run.state_dict())
    fork.load_state_dict(run.state_dict(), new_settings=True)
    assert next(fork).lr == 0.01


def test_a_state_of_other_images_or_another_network_is_refused(digits):
    run = quick(digits)
    next(run)
    state = run.state_dict()
    other = Training(
        av.small_cnn(digits, base_channels=4), digits.train.subset(64), methods.standard(), 8,
        batch_size=32, seed=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="used other images than digits"):
        other.load_state_dict(state)
    wide = Training(
        av.small_cnn(digits, base_channels=8), digits.train, methods.standard(), 8, batch_size=32,
        seed=4,
    )  # fmt: skip
    before = weights(wide)
    with pytest.raises(ValueError, match="of another architecture: .* the first is "):
        wide.load_state_dict(state)
    assert identical(before, weights(wide))


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps = 0 is not allowed"),
        ({"steps": 1.5}, "steps = 1.5 is not allowed"),
        ({"batch_size": 0}, "batch_size = 0 is not allowed"),
        ({"seed": -1}, "seed = -1 is not allowed"),
        ({"lr": 0.0}, "lr = 0.0 is not allowed"),
        ({"lr": float("nan")}, "lr = nan is not allowed"),
        ({"momentum": 1.0}, "momentum = 1.0 is not allowed"),
        ({"weight_decay": -1e-4}, "weight_decay = -0.0001 is not allowed"),
        ({"decay_at": (0.5, 1.5)}, r"decay_at = \(0.5, 1.5\) is not allowed"),
        ({"decay_factor": 0.0}, "decay_factor = 0.0 is not allowed"),
        ({"precision": "half"}, "precision = 'half' is not allowed: one of float32, tf32, bf16"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        Settings(**{"steps": 10} | settings)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_together_is_refused_at_construction(digits):
    with pytest.raises(ValueError, match=r"batch_size = 5000 is not allowed: .* has only 1213"):
        quick(digits, batch_size=5000)
    with pytest.raises(ValueError, match="the model has 7 classes, digits.* has 10"):
        Training(av.small_cnn(7), digits.train, methods.standard(), 3)
    with pytest.raises(ValueError, match="steps is missing"):
        Training(av.small_cnn(digits), digits.train, methods.standard())
    with pytest.raises(ValueError, match="either settings or steps"):
        Training(av.small_cnn(digits), digits.train, methods.standard(), 3, settings=Settings(3))


def test_a_loss_that_is_no_number_stops_with_step_and_settings(digits):
    run = quick(digits, steps=5)
    next(run)
    good = weights(run)
    with torch.no_grad():
        run.model.get_parameter("head.weight").fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match=r"the loss is nan at step 1 with lr = 0.1 and Method"
    ):
        next(run)
    assert run.step == 1
    assert not good["head.weight"].isnan().any()


def test_bf16_is_never_emulated(digits, monkeypatch):
    monkeypatch.setattr(loop, "native_bf16", lambda device: False)
    with pytest.raises(
        ValueError, match="precision = 'bf16' is not allowed: this cpu would emulate"
    ):
        quick(digits, precision="bf16")


def test_native_bf16_follows_the_processor(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not training.native_bf16(cpu)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert training.native_bf16(cpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not training.native_bf16(cpu)


def test_bf16_runs_where_it_is_allowed(digits, monkeypatch):
    monkeypatch.setattr(loop, "native_bf16", lambda device: True)
    run = quick(digits, steps=2, precision="bf16")
    assert all(math.isfinite(loss) for loss in finish(run))
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_tf32_is_refused_where_there_is_none(digits, monkeypatch):
    with pytest.raises(ValueError, match="precision = 'tf32' is not allowed: only CUDA"):
        quick(digits, precision="tf32")
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    assert not training.native_tf32(torch.device("cuda"))


@pytest.mark.parametrize("tf32", [True, False])
def test_float32_products_are_set_for_a_step_and_put_back(tf32):
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [switch.allow_tf32 for switch in switches]
    assert before == [True, False], "torch's own setting"
    with (
        pytest.raises(KeyError),
        training.float32_products(torch.device("cuda"), tf32=tf32),
    ):
        assert [switch.allow_tf32 for switch in switches] == [tf32, tf32]
        raise KeyError
    assert [switch.allow_tf32 for switch in switches] == before
    with training.float32_products(torch.device("cpu"), tf32=tf32):
        assert [switch.allow_tf32 for switch in switches] == before


def test_threads_that_want_other_float32_products_wait_for_each_other_in_turn():
    """The switches are the process's: none changes under a step that another thread is taking."""
    switch, order = torch.backends.cudnn, []
    before, leave = switch.allow_tf32, threading.Event()
    inside = [threading.Event() for _ in range(3)]

    def step(number, tf32):
        with training.float32_products(torch.device("cuda"), tf32):
            order.append(number)
            inside[number].set()
            assert leave.wait(60)
            order.append(switch.allow_tf32)

    threads = [threading.Thread(target=step, args=at) for at in enumerate((False, True, False))]
    early = []
    for thread, its in zip(threads, inside, strict=True):
        thread.start()
        early.append(its.wait(60 if its is inside[0] else 0.1))
    with training.float32_products(torch.device("cpu"), True):
        held = switch.allow_tf32
    leave.set()
    for thread in threads:
        thread.join(60)
    assert early == [True, False, False], "who comes later does not overtake who waits"
    assert held is False, "a CPU asks for nothing"
    assert order == [0, False, 1, True, 2, False]
    assert switch.allow_tf32 == before


def test_a_device_is_chosen_by_name(digits, monkeypatch):
    assert quick(digits, device="auto").device.type in ("cpu", "cuda")
    assert quick(digits, device=torch.device("cpu")).device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, message in (
        ("cuda", "device = 'cuda' is not allowed: this machine has no CUDA device"),
        ("tpu", "device = 'tpu' is not allowed: one of auto, cpu, cuda"),
    ):
        with pytest.raises(ValueError, match=message):
            quick(digits, device=name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK = 2 is not allowed: this machine has 2 CUDA"):
        distributed.choose_device("cuda")


def test_running_out_of_memory_is_one_line_that_says_what_to_change(digits):
    def greedy(model, batch):
        if run.step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")
        return torch.zeros_like(batch.x)

    run = quick(digits, methods.avmixup(perturb=greedy))
    next(run)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        next(run)
    assert str(caught.value) == (
        "out of memory at step 1 with batch_size = 32 and precision = 'float32': a smaller batch "
        "or 'bf16' needs less; the last checkpoint is kept (CUDA out of memory. Tried to allocate "
        "9 GiB.)"
    )
    assert run.step == 1


class Arrival:
    """Stands in for torch.cuda.Event: what was sent arrives when a test says so."""

    there = False

    def record(self):
        pass

    def query(self):
        return Arrival.there

    def synchronize(self):
        Arrival.there = True


def test_a_loss_on_a_device_is_looked_at_when_it_has_arrived(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Arrival)
    monkeypatch.setattr(Arrival, "there", False)
    method = methods.standard()
    watch = loop.Watch(torch.device("cpu"))
    watch.see(torch.tensor(1.0), 0, 0.1, method)
    Arrival.there = True
    watch.see(torch.tensor(float("nan")), 1, 0.1, method)
    Arrival.there = False
    watch.see(torch.tensor(2.0), 2, 0.1, method)
    Arrival.there = True
    with pytest.raises(TrainingDiverged, match="the loss is nan at step 1 with lr = 0.1"):
        watch.see(torch.tensor(2.0), 3, 0.1, method)
    watch.see(torch.tensor(float("inf")), 4, 0.1, method)
    Arrival.there = False
    with pytest.raises(TrainingDiverged, match="the loss is inf at step 4"):
        watch.check()
    watch.check()


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        (av.pgd(steps=3), {}, "method = PGD3 is not allowed: an attack is a stage of a method, su"),
        (av.avmixup, {}, r"method = avmixup is not allowed: call it: avmixup\(\)"),
        (av.Method, {}, r"method = Method is not allowed: call it: Method\(\)"),
        ("avmixup", {}, r"method = 'avmixup' is not allowed: a method, such as av.avmixup\(\)"),
        (av.standard(), {"epochs": 3}, "epochs = 3 is not allowed: training counts steps; an epo"
                                       "ch of digits/train in batches of 128 is 9 of them"),
        (av.standard(), {"epochs": 3, "batch_size": 64}, "in batches of 64 is 18 of them"),
        (av.standard(), {"rate": 0.1}, "rate = 0.1 is not allowed: Training has no such setting; "
                                       "there are steps, batch_size, lr"),
    ],
)  # fmt: skip
def test_what_training_cannot_train_with_is_one_line_at_once(digits, method, more, message):
    steps = None if "epochs" in more else 4
    with pytest.raises(TypeError, match=message) as caught:
        av.Training(av.small_cnn(digits, base_channels=4), digits.train, method, steps, **more)
    assert "\n" not in str(caught.value)
