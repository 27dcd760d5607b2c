"""Methods of one's own: stages on a batch, registered, saved, resumed, from the shell."""

import dataclasses
import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import cli, methods, runs
from avmixup_kit._base.registry import Registry
from avmixup_kit.methods import asked, losses, sources, weights
from avmixup_kit.methods import method as method_module
from avmixup_kit.methods.batch import PLACES, Networks, averaged, teacher

EPSILON = 0.15

PLUGIN = '''
"""MART's loss over AVmixup's examples: it sees y and the clean images."""
from dataclasses import dataclass
import avmixup_kit as av
from avmixup_kit.methods.losses import kl_divergence, soft_cross_entropy

@dataclass(frozen=True)
class Weighted:
    """Cross-entropy on x_hat plus strength * KL weighted by what the clean image lacks."""
    strength: float = 0.5
    def __call__(self, model, batch):
        clean, hat = model(batch.x), model(batch.x_hat)
        lacking = 1 - (clean.softmax(1) * batch.y).sum(1)
        extra = (kl_divergence(clean, hat) * lacking).mean()
        return soft_cross_entropy(hat, batch.y_hat).mean() + self.strength * extra

@av.methods.METHODS.register(title="My method", colour="#123456")
def my_method(epsilon: float = 8 / 255, steps: int = 2, strength: float = 0.5) -> av.Method:
    """Return AVmixup with a weighted loss."""
    return av.avmixup(epsilon=epsilon, steps=steps).replace(loss=Weighted(strength))
'''


@pytest.fixture
def plugin(tmp_path: Path):
    """A plugin's file; what it registers is forgotten afterwards."""
    path = tmp_path / "my_plugin.py"
    path.write_text(PLUGIN)
    before = dict(methods.METHODS.entries)
    yield path
    methods.METHODS.entries.clear()
    methods.METHODS.entries.update(before)
    sys.modules.pop("my_plugin", None)


def call(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["avmixup_kit", *map(str, words)])
    cli.main()


SHORT = ["--steps", "6", "--batch-size", "16", "--base-channels", "4", "--curve-images", "10"]


@dataclass(frozen=True)
class Scaled:
    """A mix that asks the averaged copy for labels, and looks at which images these are."""

    share: float = 0.5

    def __call__(self, model, batch):
        assert len(batch.index) == len(batch.x)
        asked = averaged(model)(batch.x).softmax(1)
        return batch.x + batch.delta, self.share * batch.y + (1 - self.share) * asked


@dataclass(frozen=True)
class Around:
    """A perturbation source that wraps another."""

    source: av.Attack
    factor: float = 1.0

    def __call__(self, model, batch):
        return self.factor * self.source(model, batch)


def test_stages_take_a_batch_made_by_hand_and_a_plain_module():
    x, y = torch.rand(4, 1, 8, 8), torch.eye(3)[[0, 1, 2, 0]]
    model, rng = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.Generator().manual_seed(0)
    batch = av.Batch(x, y, rng=rng)
    batch.delta = av.pgd(steps=2, epsilon=0.1)(model, batch)
    same = av.pgd(steps=2, epsilon=0.1)(model, x, y, torch.Generator().manual_seed(0))
    assert torch.equal(batch.delta, same)
    batch.x_hat, batch.y_hat = av.AVmixup(2.0, 1.0, 0.1, alpha=0.0)(model, batch)
    assert torch.allclose(batch.x_hat, x + 2 * batch.delta)  # the vertex, Equation (12)
    expected = -(batch.y_hat * model(batch.x_hat).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(methods.losses.CrossEntropy()(model, batch), expected)


def test_what_a_stage_lacks_is_named():
    x, y = torch.rand(2, 1, 8, 8), torch.eye(2)
    model = nn.Flatten()
    with pytest.raises(ValueError, match="batch.delta is missing"):
        av.AVmixup()(model, av.Batch(x, y))
    with pytest.raises(ValueError, match="batch.rng is missing"):
        av.AVmixup()(model, av.Batch(x, y, delta=x))
    with pytest.raises(ValueError, match=r"shape of y = \(2,\) is not allowed: probabilities"):
        av.Batch(x, y.argmax(1))
    for ask, name in ((averaged, "averaged"), (teacher, "teacher")):
        with pytest.raises(ValueError, match=rf"asks for model.{name}, which is not there: train"):
            ask(model)


def test_averaged_copy_and_teacher_are_there_and_take_no_gradient(digits):
    one, other = av.small_cnn(digits, seed=0, base_channels=4), nn.Flatten()
    both = Networks(one, averaged=other, teacher=other)
    assert averaged(both) is teacher(both) is other
    assert {id(p) for p in both.parameters()} == {id(p) for p in one.parameters()}
    method = av.Method(av.fgsm(EPSILON), Scaled())
    training = av.Training(one, digits.train, method, 3, batch_size=16, average=0.5)
    weights = [one.head.weight.detach().clone()]
    for _ in training:
        weights.append(one.head.weight.detach().clone())
    expected = weights[1]
    for new in weights[2:]:
        expected = 0.5 * expected + 0.5 * new
    assert training.averaged is not None
    weight = training.averaged.get_parameter("head.weight")
    torch.testing.assert_close(weight, expected)
    assert not weight.requires_grad


def test_an_averaged_copy_is_taken_up_again(digits):
    def new():
        model = av.small_cnn(digits, seed=0, base_channels=4)
        method = av.Method(av.fgsm(EPSILON), Scaled())
        return av.Training(model, digits.train, av.Dial(method), 6, batch_size=16, average=0.9)

    whole, half, rest = new(), new(), new()
    list(whole)
    for _ in range(3):
        next(half)
    rest.load_state_dict(half.state_dict())
    list(rest)
    assert whole.averaged is not None
    assert rest.averaged is not None
    for mine, theirs in zip(whole.averaged.parameters(), rest.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_run_with_an_averaged_copy_is_not_resumed_without_one(digits, tmp_path):
    def new(**options):
        model = av.small_cnn(digits, seed=0, base_channels=4)
        return av.Training(model, digits.train, av.standard(), 4, batch_size=16, **options)

    next(runs.log(new(average=0.9), tmp_path / "run", checkpoint_every=1))
    with pytest.raises(ValueError, match="holds another run: average was 0.9, is None"):
        next(runs.log(new(), tmp_path / "run", resume=True))
    with pytest.raises(ValueError, match="holds another run: average was 0.9, is 0.5"):
        next(runs.log(new(average=0.5), tmp_path / "run", resume=True))


def test_settings_of_a_wrapped_stage_can_be_turned():
    method = av.Method(Around(av.pgd(steps=2, epsilon=0.1)))
    assert method.parameters["steps"] == 2
    turned = method.replace(steps=5, factor=0.5)
    assert turned.perturb == Around(av.pgd(steps=5, epsilon=0.1), 0.5)
    mixed = methods.mixture(epsilon=0.1, steps=3).replace(epsilon=0.2).perturb
    assert isinstance(mixed, methods.sources.Mixture)
    assert [getattr(source, "epsilon", None) for source in mixed.sources] == [0.2] * 5


def test_a_stage_is_found_again_by_its_module_and_name_and_no_code_is_run():
    method = av.Method(Around(av.pgd(steps=2)), Scaled(0.25))
    stages = method_module.own_stages(method)
    assert stages == {"Around": f"{__name__}:Around", "Scaled": f"{__name__}:Scaled"}
    assert methods.parse(repr(method), stages) == method
    with pytest.raises(ValueError, match="does not describe a method"):
        methods.parse(repr(method))
    with pytest.raises(ValueError, match=r"X is nowhere_at_all:X.*pass --plugin nowhere_at_all.py"):
        methods.parse("X()", {"X": "nowhere_at_all:X"})
    for home in ("os:system", "builtins:eval", f"{__name__}:EPSILON"):
        with pytest.raises(ValueError, match="which is not there"):
            methods.parse("X()", {"X": home})


@dataclass(frozen=True)
class Shared:
    """A mix that checks nothing."""

    share: Any = 0.5
    inner: Any = None

    def __call__(self, model, batch):
        return batch.x + self.share * batch.delta, batch.y


def test_numbers_of_numpy_and_torch_in_stages_of_ones_own_become_pythons():
    dial = av.Dial(av.avmixup().replace(mix=Shared(np.float64(0.5), Shared(torch.tensor(2)))))
    assert "mix=Shared(share=0.5, inner=Shared(share=2, inner=None))" in repr(dial.method)
    dial.turn(share=np.float32(0.25), steps=np.linspace(2, 3, 2, dtype=int)[1])
    dial.turn(mix=Shared(torch.tensor(0.75)))
    lines = [json.loads(json.dumps(turn.to_json())) for turn in dial.turns]
    assert lines[0]["change"] == {"share": 0.25, "steps": 3}
    assert [av.Turn.from_json(line) for line in lines] == list(dial.turns)
    for given in (np.zeros(2), torch.zeros(2), float("nan"), 10**5000):
        with pytest.raises(
            ValueError, match="^share = .* is not allowed: it cannot be saved"
        ) as no:
            dial.turn(share=given)
        assert "\n" not in str(no.value)
    for given in (None, 5, "x", Shared):
        with pytest.raises(ValueError, match="^mix = .* is not allowed: a stage, which"):
            dial.turn(mix=given)
        with pytest.raises(TypeError, match="^method = .* is not allowed: a Method"):
            dial.turn(method=given)


def test_what_cannot_be_saved_is_refused_when_it_starts_and_when_it_is_turned():
    @dataclass(frozen=True)
    class Hidden:
        def __call__(self, model, batch):
            return batch.x

    for stage in (lambda model, batch: batch.x, Hidden()):
        with pytest.raises(ValueError, match="it cannot be saved and found again; a stage is a"):
            av.Dial(av.Method(stage))
        dial = av.Dial(av.avmixup())
        with pytest.raises(ValueError, match="it cannot be saved and found again"):
            dial.turn(perturb=stage)
        assert dial.turns == ()


def test_a_resume_that_fails_leaves_the_training_as_it_was(digits, tmp_path):
    def new(seed):
        model = av.small_cnn(digits, seed=seed, base_channels=4)
        dial = av.Dial(av.avmixup(epsilon=EPSILON, steps=1).replace(mix=av.Mixup()))
        return av.Training(model, digits.train, dial, 6, batch_size=16)

    records = runs.log(new(0), tmp_path / "run", checkpoint_every=1)
    for _ in range(2):
        next(records)
    records.close()
    log = tmp_path / "run" / "log.jsonl"
    turn = {"step": 1, "change": {"mix": "Gone()"}, "stages": {"Gone": "gone:Gone"}}
    log.write_text(log.read_text() + json.dumps(turn) + "\n")
    training = new(0)
    for tensor in training.model.parameters():
        tensor.data.add_(1.0)
    before = {name: t.clone() for name, t in training.model.state_dict().items()}
    with pytest.raises(ValueError, match="Gone is gone:Gone, which is not there: import gone"):
        next(runs.log(training, tmp_path / "run", resume=True))
    assert all(torch.equal(t, before[name]) for name, t in training.model.state_dict().items())
    assert training.step == 0


def test_a_plugin_trains_resumes_and_is_shown_from_the_shell(monkeypatch, plugin, tmp_path, capsys):
    words = ["--plugin", plugin, "--method", "my_method", "--attack-steps", "1", *SHORT]
    call(monkeypatch, "train", tmp_path / "whole", *words, "--strength", "0.3")
    about = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert about["stages"] == {"Weighted": "my_plugin:Weighted"}
    assert "Weighted(strength=0.3)" in about["method"]
    call(monkeypatch, "train", tmp_path / "part", *words, "--strength", "0.3", "--minutes", "1e-9")
    call(monkeypatch, "train", tmp_path / "part", *words, "--strength", "0.3", "--resume")
    states = [av.runs.load_model(tmp_path / name).state_dict() for name in ("whole", "part")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call(monkeypatch, "train", "--plugin", plugin, "--method", "my_method", "--help")
    said = capsys.readouterr().out
    assert "--strength FLOAT" in said
    assert "--gamma" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plugin", "{plugin}", "--method", "another"], "another' is not allowed: .*my_method;"),
        (["--plugin", "{folder}/none.py"], "none.py: there is no such file"),
        (["--plugin", "{folder}/broken.py"], "broken.py: ZeroDivisionError: division by zero"),
        (["--plugin", "{folder}/json.py"], "a module called json is loaded; rename the file"),
        (["--plugin", "{plugin}", "{folder}/twin.py"], "'my_method' is not allowed: my_plugin has"),
    ],
)
def test_a_bad_plugin_is_told_in_one_line(monkeypatch, plugin, tmp_path, capsys, words, message):
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "json.py").write_text("")
    (tmp_path / "twin.py").write_text(PLUGIN)
    words = [word.format(plugin=plugin, folder=tmp_path) for word in words]
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", tmp_path / "run", *words, *SHORT)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.strip().count("\n") == 0
    import re

    assert re.search(message, error), error


def test_a_method_of_ones_own_is_searched_by_settings_of_its_own(
    monkeypatch, plugin, tmp_path, capsys
):
    pytest.importorskip("optuna")
    words = ["--plugin", plugin, "--method", "my_method", "--attack-steps", "1", *SHORT[:-2]]
    call(
        monkeypatch, "search", tmp_path / "found", *words, "--ranges", "strength", "0", "2",
        "--trials", "3", "--images", "20", "--jobs", "2", "--seeds", "0",
    )  # fmt: skip
    assert "best of 3 trials" in capsys.readouterr().out
    found = av.search.Found.load(tmp_path / "found")
    assert found.trials[0].params == found.published == {"strength": 0.5}
    assert all(0 <= trial.params["strength"] <= 2 for trial in found.trials)
    assert "<h2>Slices" in (page := (tmp_path / "found" / "report.html").read_text())
    assert "Which strength?" in page
    with pytest.raises(ValueError, match=r"axes = \['strength'\] is not allowed: a map has two"):
        found.heat_map()
    data = av.digits(validation=0.25)
    plan = av.search.Plan(
        "my_method", ranges={"strength": (0, 2)}, attack_steps=1, base_channels=4, images=20,
        settings=av.Settings(6, batch_size=16),
    )  # fmt: skip
    few = dataclasses.replace(data, test=data.test.subset(20))
    rows = [av.pgd(steps=1, epsilon=EPSILON)]
    options = {"plan": plan, "seeds": (0, 1), "rows": rows, "page": False}
    again = av.search.remeasure(found, few, tmp_path / "found", **options)
    assert list(again.again) == ["best", "default", "no mixing"]
    assert str(av.search.Found.load(tmp_path / "found")) == str(again)
    with pytest.raises(ValueError, match="'my_method' is not allowed: it has none of gamma"):
        av.search.Plan("my_method")


def test_a_process_that_helps_has_the_plugins_of_the_first(monkeypatch, plugin, tmp_path):
    from avmixup_kit._base.plugins import load_plugin
    from avmixup_kit.search.study import helper_processes

    load_plugin(plugin)
    method = methods.build("my_method")
    with helper_processes(torch.save, (method, tmp_path / "method.pt"), 1):
        pass
    assert torch.load(tmp_path / "method.pt", weights_only=False) == method


@pytest.fixture
def run_folder(monkeypatch, plugin, tmp_path, capsys) -> Path:
    """A run of the plugin's method, trained from the shell."""
    words = ["--plugin", plugin, "--method", "my_method", "--attack-steps", "1", *SHORT]
    call(monkeypatch, "train", tmp_path / "run", *words, "--checkpoint-every", "3")
    capsys.readouterr()
    return tmp_path / "run"


def test_a_run_of_ones_own_is_evaluated_reported_shown_and_forked(
    monkeypatch, digits, plugin, run_folder, capsys
):
    pytest.importorskip("ipywidgets")
    from avmixup_kit import live

    words = ["--plugin", plugin, "--images", "20", "--steps", "1"]
    call(monkeypatch, "evaluate", run_folder, *words)
    assert "PGD1" in capsys.readouterr().out
    result = av.Evaluation.load(run_folder / "correct.npz")
    model, images = runs.load_model(run_folder), digits.test.subset(20)
    av.report(result, model, images, run_folder / "page.html", count=10)
    assert "<h2>Accuracy</h2>" in (run_folder / "page.html").read_text()
    about = runs.about(run_folder)
    assert methods.name_of(about["method"]) == "my_method"
    training = av.Training(
        av.small_cnn(digits, seed=0, base_channels=4), digits.train, av.Dial(about["method"]), 9,
        batch_size=16, average=0.5,
    )  # fmt: skip
    lab = live.show(training, data=digits, probe_images=10, folder=None)
    assert lab.method.value == "my_method"
    assert "My method" in lab.method.menu.options
    loaded = lab.load(run_folder)
    assert (loaded.training.step, loaded.method) == (6, about["method"])
    lab.trainer.switch("run 1").result()
    fork = lab.fork(0)
    fork.dial.turn(strength=0.25)
    next(fork.training)
    assert fork.method.parameters["strength"] == 0.25
    assert fork.training.averaged is not None
    lab.save(run_folder.with_name("fork"))
    assert lab.load(run_folder.with_name("fork")).method == fork.dial.method
    live.close_all()


def test_code_in_a_run_folder_is_never_run(digits, run_folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "my_plugin")
    monkeypatch.syspath_prepend(run_folder)
    monkeypatch.chdir(run_folder)
    (run_folder / "my_plugin.py").write_text("raise SystemExit('code of a run folder was run')")
    with pytest.raises(ValueError, match=r"Weighted is my_plugin:Weighted.* --plugin my_plugin.py"):
        runs.about(run_folder)
    training = av.Training(av.small_cnn(digits), digits.train, av.Dial(av.standard()), 6)
    with pytest.raises(ValueError, match="holds another run: stages was .*my_plugin:Weighted"):
        next(runs.log(training, run_folder, resume=True))
    (run_folder / "run.json").write_text('{"method": ')
    with pytest.raises(ValueError, match="run.json is damaged or no run's: take another folder"):
        runs.about(run_folder)


# As version 0.1 wrote them: no stages, no averaged copy, a dial without either.
RUN_JSON_0_1 = {
    "settings": "Settings(steps=6, batch_size=16, lr=0.1, momentum=0.9, nesterov=False, "
    "weight_decay=0.0002, decay_all=False, decay_at=(0.5, 0.75), decay_factor=0.1, seed=0, "
    "precision='float32')",
    "method": "Method(perturb=Attack(objective=LabelCrossEntropy(), epsilon=0.15, step_size=None, "
    "steps=1, start='uniform', clip_start=True, restarts=1, batch_norm='batch'), mix=AVmixup("
    "gamma=2.0, lambda1=1.0, lambda2=0.1, clip_vertex=False, per_example=True, alpha=None), "
    "loss=CrossEntropy())",
    "architecture": "small_cnn(num_classes=10, in_channels=1, image_size=(8, 8), base_channels=4, "
    "normalisation=(0.5, 0.5))",
    "data": "digits/train",
    "python": "3.11.7",
}


def test_a_run_folder_of_version_0_1_is_loaded_and_taken_up(digits, tmp_path):
    def new():
        method = av.avmixup(epsilon=EPSILON, steps=1)
        model = av.small_cnn(digits, seed=0, base_channels=4)
        return av.Training(model, digits.train, av.Dial(method), 6, batch_size=16)

    whole, part = new(), new()
    list(whole)
    for _ in range(3):
        next(part)
    state = part.state_dict()
    del state["average"], state["dial"]["stages"]
    content = {"architecture": RUN_JSON_0_1["architecture"], "model": state["model"]}
    torch.save(content | {"training": state}, tmp_path / "latest.pt")
    about = RUN_JSON_0_1 | {"checksum": digits.train.checksum}
    (tmp_path / "run.json").write_text(json.dumps(about))
    losses = [{"step": step, "loss": 2.0, "lr": 0.1} for step in range(5)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
    assert runs.about(tmp_path)["method"] == av.avmixup(epsilon=EPSILON, steps=1)
    resumed = new()
    assert [record.step for record in runs.log(resumed, tmp_path, resume=True)] == [3, 4, 5]
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_registry_says_what_it_has():
    registry = Registry("dish")

    @registry.register(title="Soup", colour="#010203")
    def soup(salt: float = 0.5) -> str:
        """Return soup."""
        return f"soup with {salt}"

    assert registry.build("soup", salt=1.0) == "soup with 1.0"
    assert registry.entries["soup"].settings["salt"].default == 0.5
    assert (registry.entries["soup"].title, registry.entries["soup"].summary) == (
        "Soup",
        "Return soup.",
    )
    with pytest.raises(ValueError, match="dish = 'cake' is not allowed: one of soup"):
        registry.build("cake")
    with pytest.raises(ValueError, match="dish soup: .*pepper.*; it has salt"):
        registry.build("soup", pepper=1)
    with pytest.raises(ValueError, match="dish = 'soup' is not allowed: .* has that name already"):
        registry.register("soup")(lambda: "another")


def test_every_registered_method_is_named_by_itself_and_has_a_colour_of_its_own():
    entries = methods.METHODS.entries
    assert {name: methods.name_of(entry.make()) for name, entry in entries.items()} == {
        name: name for name in entries
    }
    assert len({entry.colour for entry in entries.values()}) == len(entries)
    assert methods.name_of(av.Method(loss=methods.losses.Trades(), mix=Scaled())) is None


def test_nothing_of_torch_is_needed_to_import_the_kit():
    code = "import sys, avmixup_kit; print(sorted({'torch', 'scipy', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PLACED = {
    "perturb": av.pgd(steps=1),
    "mix": av.AVmixup(),
    "loss": losses.Trades(6.0),
    "around": weights.AWP(),
    "an attack's objective": losses.Margin(),
}


@pytest.mark.parametrize("place", PLACED)
@pytest.mark.parametrize("slot", ["perturb", "mix", "loss", "around"])
def test_a_stage_in_anothers_place_is_refused_before_a_step(place, slot):
    stage = PLACED[place]
    if place == slot:
        assert getattr(av.Method(**{slot: stage}), slot) == stage
        return
    said = rf"^{slot} = {type(stage).__name__}\(.*is not allowed: by what it returns it is {place}$"
    with pytest.raises(ValueError, match=said):
        av.Method(**{slot: stage})
    with pytest.raises(ValueError, match=said):
        av.Dial(av.avmixup()).turn(**{slot: stage})


def test_so_is_one_that_another_holds():
    with pytest.raises(ValueError, match=r"loss = AVmixup\(.* by what it returns it is mix$"):
        asked.Helped(loss=av.AVmixup())  # pyright: ignore
    with pytest.raises(ValueError, match=r"sources = AVmixup\(.* by what it returns it is mix$"):
        sources.Mixture((av.pgd(steps=1), av.AVmixup()))  # pyright: ignore


def test_every_stage_of_the_kit_tells_its_place():
    every = method_module._vocabulary()  # pyright: ignore[reportPrivateUsage]
    for name, kind in every.items():
        call = vars(kind).get("__call__")
        if call is None or kind in (av.Method, method_module.Method):
            continue
        returned = inspect.signature(call).return_annotation
        places = [place for what, place in PLACES if returned == what]
        assert len(places) == 1, name


def test_a_stage_of_ones_own_that_tells_nothing_may_stand_anywhere():
    def own(model, batch):
        return batch.x * 0

    assert av.Method(perturb=own).perturb is own
