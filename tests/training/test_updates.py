"""Optimizers and schedules of one's own: as given, saved by name, taken up bit for bit."""

import copy
import json
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit.training import updates
from avmixup_kit.training.updates import found, rate

EPSILON = 0.15
ADAMW = partial(torch.optim.AdamW, lr=2e-3, weight_decay=1e-2)


def halving(step, start=0.05):
    return start * 0.5 ** (step // 4)


def in_two_groups(parameters):
    return torch.optim.SGD(
        [{"params": parameters[:1], "lr": 0.01}, {"params": parameters[1:]}], lr=0.1, momentum=0.5
    )


class Counted(torch.optim.Adagrad):
    """An optimizer with a state of its own."""


def new(digits, steps=12, method=None, **options):
    model = av.small_cnn(digits, seed=2, base_channels=4)
    method = av.Dial(av.avmixup(epsilon=EPSILON, steps=1)) if method is None else method
    chosen: dict[str, Any] = {"batch_size": 16, "seed": 4} | options
    return av.Training(model, digits.train, method, steps, **chosen)


def rates(training):
    return [record.lr for record in training]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ----------------------------------------------------------------------------------- schedules


def test_a_cosine_falls_from_the_peak_to_0_after_the_last_step_as_torchs_own(digits):
    found = rates(new(digits, schedule="cosine", lr=0.2))
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=12)
    expected = []
    for _ in range(12):
        expected.append(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()
    assert found == pytest.approx(expected)
    assert theirs.get_last_lr()[0] == pytest.approx(0)


def test_a_cycle_is_one_triangle_with_its_peak_at_40_percent():
    settings = av.Settings(100, lr=0.3)
    rates = [rate("cyclic", settings, step) for step in range(100)]
    assert max(rates) == rates[40] == 0.3
    rise = [b - a for a, b in zip([0.0, *rates[:40]], rates[:41], strict=True)]
    fall = [a - b for a, b in zip(rates[40:], [*rates[41:], 0.0], strict=True)]
    assert rise == pytest.approx([0.3 / 41] * 41)
    assert fall == pytest.approx([0.3 / 60] * 60)
    assert rate("cyclic", av.Settings(1), 0) == 0.1


def test_a_schedule_of_ones_own_gives_the_learning_rate_itself(digits):
    training = new(digits, schedule=halving)
    assert rates(training) == [0.05] * 4 + [0.025] * 4 + [0.0125] * 4
    groups = new(digits, schedule=halving, optimizer=in_two_groups)
    next(groups)
    assert [group["lr"] for group in groups.optimiser.param_groups] == [0.05, 0.05]


def test_milestones_may_be_whole_steps():
    settings = av.Settings(1000, decay_at=(0.5, 600, 800.0))
    assert [settings.lr_at(s) for s in (499, 500, 600, 800)] == pytest.approx(
        [0.1, 0.01, 0.001, 0.0001]
    )


def test_a_schedule_scales_each_group_of_an_optimizer_from_its_own_lr(digits):
    training = new(digits, optimizer=in_two_groups, schedule="cosine")
    for step, record in enumerate(training):
        first, second = training.optimiser.param_groups
        assert record.lr == first["lr"] == rate("cosine", training.settings, step)
        assert second["lr"] == pytest.approx(10 * first["lr"])
    assert training.settings.lr == 0.01


# ----------------------------------------------------------------------------------- optimizers


def test_an_own_optimizer_takes_the_steps_that_torch_would(digits):
    training = new(digits, 3, av.standard(), optimizer=ADAMW, decay_at=())
    twin = copy.deepcopy(training.model)
    optimiser = ADAMW(twin.parameters())
    for step in range(3):
        x, y = digits.train.batch(training.indices(step))
        twin.train()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(twin(x + 0), y).backward()
        optimiser.step()
        assert next(training).lr == 2e-3
    for mine, theirs in zip(training.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", ADAMW.func)])
def test_a_named_optimizer_has_the_settings_lr_and_decay_on_kernels(digits, name, kind):
    training = new(digits, optimizer=name, lr=0.002, weight_decay=0.1)
    assert type(training.optimiser) is kind
    kernels, others = training.optimiser.param_groups
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert next(training).lr == kernels["lr"] == others["lr"] == 0.002


def test_parameters_that_are_frozen_are_left_to_no_optimizer(digits):
    seen = []

    def own(parameters):
        seen.extend(parameters)
        return ADAMW(parameters)

    model = av.small_cnn(digits, base_channels=4)
    model.head.requires_grad_(False)
    av.Training(model, digits.train, av.standard(), 2, optimizer=own)
    assert {id(p) for p in seen} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lamb"}, "optimizer = 'lamb' is not allowed: one of sgd, adam, adamw, or a"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])},
         "optimizer = 'SGD' is not allowed: .*, or a function of the parameters, such as partial"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=-0.0), "schedule": "cosine"}, "lr = -0.0"),
        ({"optimizer": ADAMW, "momentum": 0.9}, "momentum = 0.9 is not allowed: leave it out, t"),
        ({"optimizer": ADAMW, "lr": 0.1}, "lr = 0.1 is not allowed: leave it out, the opt"),
        ({"optimizer": ADAMW, "weight_decay": 0.1}, "weight_decay = 0.1 is not allowed: leave"),
        ({"optimizer": ADAMW, "decay_all": True}, "decay_all = True is not allowed: leave it out"),
        ({"optimizer": "adam", "lr": 0.01, "nesterov": True}, "nesterov = True .* adam has none"),
        ({"optimizer": "adamw"}, "lr = 0.1 is not allowed: it is SGD's; adamw needs its own, such"),
        ({"schedule": "linear"}, "schedule = 'linear' is not allowed: one of steps, cyclic, co"),
        ({"optimizer": nn.Linear(2, 2)}, "optimizer = 'Linear' is not allowed: one of sgd, adam"),
        ({"schedule": nn.Linear(2, 2)}, "schedule = 'Linear' is not allowed: one of steps, cyc"),
        ({"schedule": np.array([0.4, 0.5])}, "schedule = 'ndarray' is not allowed: one of steps"),
        ({"schedule": 3}, "schedule = 'int' is not allowed: .* or a function from step to"),
        ({"schedule": "cosine", "decay_at": (0.5,)}, r"decay_at = \(0.5,\) is not allowed"),
        ({"schedule": "cyclic", "decay_factor": 0.1}, "decay_factor = 0.1 is not allowed"),
        ({"schedule": halving, "lr": 0.01}, "lr = 0.01 is not allowed: leave it out, the sched"),
        ({"schedule": lambda step: -1.0}, r"schedule\(0\) = -1.0 is not allowed: a learning rate"),
        ({"schedule": lambda step: 0.1 / (7 - step) if step < 7 else float("nan")},
         r"schedule\(11\) = nan is not allowed"),
    ],
)  # fmt: skip
def test_what_would_be_overruled_in_silence_is_refused_in_one_line(digits, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        new(digits, **options)
    assert "\n" not in str(caught.value)


def test_settings_that_say_the_same_as_the_optimizer_are_fine(digits):
    settings = av.Settings(4, lr=2e-3, batch_size=16)
    model = av.small_cnn(digits, base_channels=4)
    options: dict[str, Any] = {"optimizer": ADAMW, "schedule": halving}
    av.Training(model, digits.train, av.standard(), settings=settings, **options)
    with pytest.raises(ValueError, match="lr = 0.003 is not allowed: leave it out, the optimizer"):
        settings = av.Settings(4, lr=3e-3, batch_size=16)
        av.Training(model, digits.train, av.standard(), settings=settings, **options)


def test_a_function_that_fails_is_named(digits):
    for name in ("optimizer", "schedule"):
        with pytest.raises(ValueError, match=rf"^{name} = .*AVmixup.* failed \(ValueError: gamma"):
            new(digits, 12, None, **{name: av.AVmixup})


def test_what_returns_no_optimizer_is_refused(digits):
    with pytest.raises(TypeError, match="it returned NoneType, it must return a torch.optim.Opt"):
        new(digits, optimizer=lambda parameters: None)
    with pytest.raises(ValueError, match="lr of the optimizer = None is not allowed: a number"):
        new(digits, optimizer=lambda parameters: torch.optim.Optimizer(parameters, {"lr": None}))


@pytest.mark.parametrize("name", ["optimiser", "optimizer"])
def test_an_optimizer_is_not_swapped_under_a_training(digits, name):
    training = new(digits)
    with pytest.raises(AttributeError, match=r"optimiser = AdamW is not allowed: .*optimizer="):
        setattr(training, name, ADAMW(training.model.parameters()))
    assert training.optimizer is training.optimiser


# --------------------------------------------------------------------------------- run folders


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": ADAMW, "schedule": "cosine", "average": 0.9},
        {"optimizer": Counted, "schedule": partial(halving, start=0.02)},
        {"optimizer": "adam", "lr": 0.003, "schedule": "cyclic"},
        {"optimizer": in_two_groups},
    ],
)
def test_an_interrupted_run_with_its_own_updates_ends_bit_identical(digits, tmp_path, options):
    whole = new(digits, **options)
    list(whole)
    records = runs.log(new(digits, **options), tmp_path, checkpoint_every=5)
    for _ in zip(range(8), records, strict=False):
        pass
    records.close()
    rest = new(digits, **options)
    assert [r.step for r in runs.log(rest, tmp_path, resume=True)] == [5, 6, 7, 8, 9, 10, 11]
    assert same(whole.model, rest.model)
    assert whole.averaged is None or same(whole.judged, rest.judged)
    mine, theirs = (t.optimiser.state_dict() for t in (whole, rest))
    assert str(mine) == str(theirs)


def test_run_json_says_what_updated_the_weights(digits, tmp_path):
    def about(folder, **options):
        next(runs.log(new(digits, **options), tmp_path / folder))
        return json.loads((tmp_path / folder / "run.json").read_text())

    usual = about("usual")
    assert not usual.keys() & {"optimizer", "schedule"}
    own = about("own", optimizer=ADAMW, schedule=halving)
    assert own["optimizer"] == "torch.optim.adamw:AdamW(lr=0.002, weight_decay=0.01)"
    assert own["schedule"] == f"{__name__}:halving"
    assert "lr=0.002" in own["settings"]
    again = found("optimizer", own["optimizer"])
    assert (again.func, again.keywords) == (ADAMW.func, ADAMW.keywords)
    assert found("schedule", own["schedule"]) is halving
    assert found("schedule", "cosine") == "cosine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gone:Lamb(lr=0.1)",
            "optimizer is gone:Lamb, which is not there: import gone first, or p",
        ),
        ("torch.optim.adamw:AdamW(lr=open('x'))", "is no text of a run folder's"),
        ("torch.optim.adamw:AdamW(lr=", "is no text of a run folder's"),
    ],
)
def test_a_run_folders_text_is_parsed_and_never_run(text, message):
    with pytest.raises(ValueError, match=message):
        found("optimizer", text)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": lambda parameters: torch.optim.Adam(parameters)},
        {
            "optimizer": partial(
                torch.optim.Adam, lr=0.1, betas=cast(Any, torch.tensor([0.9, 0.99]))
            )
        },
        {"schedule": lambda step: 0.1},
    ],
)
def test_what_cannot_be_found_again_is_refused_before_a_run_folder_is_begun(
    digits, tmp_path, options
):
    training = new(digits, **options)
    with pytest.raises(ValueError, match="is not allowed: a run folder must find it again: a func"):
        runs.log(training, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert len(list(training)) == 12, "without a run folder it trains"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"run: optimizer was 'torch.optim.adamw:AdamW\(lr=0.002, .*, is 'sgd'; sch"),
        ({"optimizer": ADAMW, "schedule": "cyclic"}, "run: schedule was 'cosine', is 'cyclic'$"),
        ({"optimizer": partial(ADAMW, lr=0.1), "schedule": "cosine"}, "run: optimizer was .*02"),
    ],
)  # fmt: skip
def test_another_optimizer_or_schedule_is_refused_with_the_difference(
    digits, tmp_path, options, message
):
    first = new(digits, optimizer=ADAMW, schedule="cosine")
    next(runs.log(first, tmp_path))
    other = new(digits, **options)
    before = copy.deepcopy(other.model)
    with pytest.raises(ValueError, match=message):
        next(runs.log(other, tmp_path, resume=True))
    with pytest.raises(ValueError, match=r"other settings: .*(optimizer|schedule) was"):
        other.load_state_dict(first.state_dict())
    assert same(before, other.model)


def test_a_fork_may_have_another_schedule_but_no_other_optimizer(digits):
    run = new(digits)
    next(run)
    fork = new(digits, schedule="cosine")
    fork.load_state_dict(run.state_dict(), new_settings=True)
    assert next(fork).lr == rate("cosine", fork.settings, 1)
    with pytest.raises(ValueError, match="optimizer was 'sgd', is 'torch.optim.adamw:AdamW"):
        new(digits, optimizer=ADAMW).load_state_dict(run.state_dict(), new_settings=True)


# ---------------------------------------------------------------------------------- more steps


@pytest.mark.parametrize(
    "options",
    [
        {"decay_at": (6, 14)},
        {"decay_at": ()},
        {"optimizer": ADAMW, "schedule": halving, "average": 0.9},
    ],
)
def test_a_finished_run_goes_on_as_if_it_had_been_longer_from_the_start(digits, tmp_path, options):
    whole = new(digits, 20, **options)
    list(whole)
    list(runs.log(new(digits, 12, **options), tmp_path))
    longer = new(digits, 20, **options)
    assert [r.step for r in runs.log(longer, tmp_path, resume=True)] == list(range(12, 20))
    assert same(whole.judged, longer.judged)
    assert not list(runs.log(new(digits, 20, **options), tmp_path, resume=True)), "told run.json"
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == repr(longer.settings)


def test_a_run_goes_on_as_long_as_no_learning_rate_it_had_would_change(digits, tmp_path):
    records = runs.log(new(digits, 12), tmp_path, checkpoint_every=4)
    for _ in zip(range(4), records, strict=False):
        pass
    records.close()
    longer = new(digits, 20)  # decayed at step 6 of 12, at step 10 of 20: both lie ahead
    assert len(list(runs.log(longer, tmp_path, resume=True))) == 16


@pytest.mark.parametrize(
    ("options", "step"), [({}, 6), ({"schedule": "cosine"}, 1), ({"schedule": "cyclic"}, 0)]
)
def test_a_schedule_that_depends_on_the_number_of_steps_does_not_go_on(
    digits, tmp_path, options, step
):
    list(runs.log(new(digits, **options), tmp_path))
    before = (tmp_path / "latest.pt").read_bytes(), (tmp_path / "run.json").read_bytes()
    with pytest.raises(
        ValueError, match=rf"steps = 20 .* rate of step {step} was .*keep steps = 12"
    ):
        next(runs.log(new(digits, 20, **options), tmp_path, resume=True))
    with pytest.raises(ValueError, match="other settings: steps was 12, is 8$"):
        next(runs.log(new(digits, 8, **options), tmp_path, resume=True))
    assert before == ((tmp_path / "latest.pt").read_bytes(), (tmp_path / "run.json").read_bytes())


# -------------------------------------------------------------------------- the averaged copy


def total(network):
    return float(network.get_parameter("head.weight").detach().sum())


def test_an_average_that_keeps_nothing_is_the_network_itself(digits):
    training, plain = new(digits, average=0.0), new(digits)
    for _ in zip(training, plain, strict=True):
        assert same(training.judged, training.model)
        assert same(training.model, plain.model)
    assert training.judged is training.averaged is not training.model
    other = new(digits, average=0.5)
    next(other)
    next(other)
    assert not same(other.judged, other.model)


def test_curves_best_and_evaluation_are_about_the_averaged_copy(digits, tmp_path):
    seen = []

    def measure(network):
        seen.append(network)
        return {"weight": total(network)}

    training = new(digits, average=0.9)
    options: dict[str, Any] = {"curves_every": 4, "best": "weight"}
    records = list(runs.log(training, tmp_path, curves=measure, **options))
    assert training.judged is training.averaged
    assert all(network is training.averaged for network in seen)
    assert [r.step for r in records if r.curves] == [3, 7, 11]
    assert records[-1].curves == {"weight": total(training.judged)}
    for name, weights, expected in (
        ("latest.pt", "averaged", training.averaged),
        ("latest.pt", "trained", training.model),
    ):
        network = runs.load_model(tmp_path / name, weights=cast(Any, weights))
        assert same(network, expected)
    best = runs.load_model(tmp_path / "best.pt")
    assert total(best) == max(r.curves["weight"] for r in records if r.curves)
    with pytest.raises(
        ValueError, match="weights = 'mean' is not allowed: one of averaged, traine"
    ):
        runs.load_model(tmp_path, weights=cast(Any, "mean"))


def test_without_an_averaged_copy_both_weights_are_those_trained(digits, tmp_path):
    training = new(digits, 3)
    list(runs.log(training, tmp_path))
    assert training.judged is training.model
    for weights in ("averaged", "trained"):
        assert same(runs.load_model(tmp_path, weights=weights), training.model)


def test_the_lab_saves_loads_and_forks_an_own_optimizer_and_the_averaged_copy(digits, tmp_path):
    from avmixup_kit.live.lab.run import LiveRun

    training = new(digits, optimizer=ADAMW, schedule="cosine", average=0.9)
    run = LiveRun("run 1", training, digits, 10)
    run.keep()
    for _ in range(3):
        next(training)
    run.save(tmp_path / "saved")
    assert same(runs.load_model(tmp_path / "saved"), training.averaged)
    for other in (run.load(tmp_path / "saved", "two"), run.fork(3, "fork")):
        assert other.training.updates.texts == training.updates.texts
        assert [next(other.training).lr for _ in range(2)] == [
            rate("cosine", training.settings, step) for step in (3, 4)
        ]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("optimizer", "cProfile:run('{}')"),
        ("schedule", "builtins:eval"),
        ("optimizer", "os:system"),
    ],
)
def test_what_a_foreign_run_folder_names_is_never_called(digits, tmp_path, key, text):
    import cProfile  # noqa: F401 (loaded, so that it could be found)

    from avmixup_kit.live.lab.run import LiveRun

    mark = tmp_path / "ran"
    run = LiveRun("run 1", new(digits), digits, 10)
    run.keep()
    run.save(tmp_path / "saved")
    path = tmp_path / "saved" / "run.json"
    code = f'open("{mark}", "w")'
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: text.format(code)}))
    with pytest.raises(
        ValueError, match=rf"{key} = .* is not allowed: a file's word is not called"
    ):
        run.load(tmp_path / "saved", "two")
    assert not mark.exists()


# ------------------------------------------------------------------------------ in eval mode


def test_after_the_last_step_a_model_is_evaluated_without_a_warning(digits, recwarn):
    training = new(digits, 2)
    next(training)
    assert training.model.training
    next(training)
    assert not training.model.training
    av.evaluate(training.model, digits.test.subset(20), [av.fgsm(EPSILON)])
    assert not [w for w in recwarn if "training mode" in str(w.message)]
    finished = new(digits, 2)
    finished.load_state_dict(training.state_dict())
    assert not list(finished)
    assert not finished.model.training


def test_the_peak_is_where_the_docstring_says():
    assert f"peak at {updates.PEAK:.0%} of".replace("%", " %") in str(av.Training.__doc__)
