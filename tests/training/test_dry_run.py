"""What CUDA would refuse or wait for, found without CUDA: every method and attack, rehearsed.

Both registries are gone through, so whoever adds a method has it rehearsed, on two networks in
three precisions; with AVMIXUP_DRY_RUN=long for more steps.
"""

import copy
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch

import avmixup_kit as av
from avmixup_kit._base import distributed
from avmixup_kit.data import Augmentation
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.methods import balls, losses, transport
from avmixup_kit.methods.mixing import AVmixup
from avmixup_kit.methods.sources import Mixture
from avmixup_kit.training import loop, runs
from tests import pretended

LONG = os.environ.get("AVMIXUP_DRY_RUN") == "long"
STEPS = 12 if LONG else 4  # three batches are an epoch
PRECISIONS = "float32", "tf32", "bf16"
METHODS, ATTACKS = av.methods.METHODS, av.attacks.ATTACKS


def images(network):
    """24 images that suit the network, three epochs of which are nine steps."""
    rng = torch.Generator().manual_seed(0)
    shape = (1, 8, 8) if network == "small_cnn" else (3, 16, 16)
    pixels = torch.randint(0, 256, (24, *shape), generator=rng, dtype=torch.uint8)
    names = tuple("0123456789")
    return av.data.Split(pixels, torch.arange(24) % 10, names, Augmentation(1, True), "noise")


def build(network, split):
    return av.models.build(network, split, seed=2, base_channels=4)


def method_named(name):
    takes = METHODS.entries[name].settings
    return METHODS.build(name, **({"steps": 2} if "steps" in takes else {}))


def training(network, method, device, precision="float32", steps=STEPS):
    split = images(network)
    return av.Training(
        build(network, split), split, av.Dial(method), steps, device=device, batch_size=8, seed=4,
        precision=precision, average=0.995, teacher=build(network, split),
    )  # fmt: skip


def turn(dial):
    """Turn each number of the method that may be a little smaller."""
    for name, value in dial.method.parameters.items():
        if isinstance(value, float) and name != "alpha":
            try:
                dial.turn(**{name: 0.9 * value})
            except ValueError:
                continue


def rehearsed(network, method, precision="float32"):
    """Return the losses of a training that must wait for nothing."""
    with pretended.device() as host:
        run = training(network, method, "cuda", precision)
        host.waits.clear()
        records = []
        for record in run:
            records.append(record)
            if record.step == 1:
                turn(run.dial)
        assert host.waits == [], "a step of CUDA would wait here"
        assert all(p.is_cuda for p in run.model.parameters())
        return [record.loss for record in records]


def on_the_cpu(network, method):
    run, found = training(network, method, "cpu"), []
    for record in run:
        found.append(record.loss)
        if record.step == 1:
            turn(run.dial)
    return found


CASES = [
    (network, precision, name)
    for network in ("small_cnn", "preact_resnet18")
    for precision in PRECISIONS
    for name in METHODS
]


@pytest.mark.parametrize(("network", "precision", "name"), CASES)
def test_no_step_of_a_method_waits_or_leaves_the_device(network, precision, name):
    method = method_named(name)
    losses = rehearsed(network, method, precision)
    assert len(losses) == STEPS
    # Which source comes next is drawn elsewhere on CUDA.
    if precision != "bf16" and not isinstance(method.perturb, Mixture):
        assert losses == on_the_cpu(network, method), "the branches for CUDA compute the same"


def launched(network, method, precision):
    """Return how many operations the last step takes, forward and backward."""
    with pretended.device() as host:
        run = training(network, method, "cuda", precision)
        for record in run:
            if record.step < STEPS - 1:
                host.operations.clear()
        return host.launched()


@pytest.mark.parametrize(
    ("network", "precision", "most"),
    [("small_cnn", "float32", 36), ("preact_resnet18", "bf16", 174)],  # 4 for so few channels
)
def test_a_gradient_takes_no_more_operations_than_it_did(network, precision, most):
    two, three = (launched(network, av.avmixup(steps=n), precision) for n in (2, 3))
    assert 0 < three - two <= most


def test_feature_scatters_gradient_takes_no_more_operations_than_it_did():
    """Its clean pass and 20 rounds; with 100 rounds it took four times as many."""
    scatter, step = (
        launched("small_cnn", method, "float32")
        for method in (av.feature_scatter(), av.pgd_training(steps=1))
    )
    assert 0 < scatter - step <= 628


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_attack_waits_or_leaves_the_device(name, norm):
    takes = ATTACKS.entries[name].settings
    given = {"norm": norm, "steps": 2, "restarts": 2, "start": "uniform"}
    attack = ATTACKS.build(name, **{key: given[key] for key in given.keys() & takes.keys()})
    method = av.Method(attack, AVmixup())
    assert rehearsed("small_cnn", method) == on_the_cpu("small_cnn", method)


# ------------------------------------------------------------------------------- planted faults


@dataclass(frozen=True)
class Asks:
    """A loss that looks at itself."""

    how: str

    def __call__(self, model, batch):
        loss = losses.CrossEntropy()(model, batch)
        if self.how == "float":
            return loss * (1 if float(loss.detach()) > 0 else 2)
        if self.how == "mask":
            hard = batch.y_hat.amax(1) > 0.5
            return loss + 0 * batch.x_hat[hard].sum()
        if self.how == "array":
            return loss * float(loss.detach().numpy() > 0)
        if self.how == "weights from the CPU":
            return loss * torch.tensor([1.0], device=batch.x.device).sum()
        return loss * torch.ones(len(batch.x)).mul(batch.x.mean((1, 2, 3))).mean()


def alphas_of_the_cpu(count, draw):
    return torch.rand(count)


def partners_of_the_cpu(rng, *rows):
    partner = torch.randperm(len(rows[0]), generator=rng)
    return [each[partner] for each in rows]


def doubtful(gradient, norm):
    return gradient.sign() if float(gradient.abs().sum()) > 0 else gradient


def looking(cost, regularisation, iterations, tolerance):
    return unlooking(cost, regularisation, iterations, tolerance) * bool(cost.isfinite().all())


unlooking = transport.sinkhorn
WAITS, LEAVES = AssertionError, pretended.Refused
PLANTED = {
    "mixing weights drawn on the CPU": (distributed, "per_example", alphas_of_the_cpu, LEAVES),
    "partners drawn on the CPU": (distributed, "partners", partners_of_the_cpu, LEAVES),
    "a number in the attack's loop": (balls, "direction", doubtful, WAITS),
    "a tolerance that is looked at": (transport, "sinkhorn", looking, WAITS),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_planted_in_the_kit_is_found(fault, monkeypatch):
    where, name, planted, error = PLANTED[fault]
    monkeypatch.setattr(where, name, planted)
    names = ["mixup"] if "partners" in fault else ["avmixup", "feature_scatter"]
    with pytest.raises(error, match="would wait here|of the CPU|generator of cuda:0"):
        for each in names:
            rehearsed("small_cnn", method_named(each))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("float", WAITS, "would wait here"),
        ("mask", WAITS, "would wait here"),
        ("weights from the CPU", WAITS, "would wait here"),
        ("array", LEAVES, "can't convert cuda:0 device type tensor to numpy"),
        ("near", LEAVES, "given tensors of cuda:0 and of the CPU"),
    ],
)
def test_a_fault_planted_in_a_loss_is_found(how, error, words):
    with pytest.raises(error, match=words):
        rehearsed("small_cnn", av.standard().replace(loss=Asks(how)))


def test_a_blocking_copy_is_found_and_the_line_that_makes_it(monkeypatch):
    batch = av.data.Split.batch

    def there_and_back(split, indices, rng=None):
        x, y = batch(split, indices, rng)
        return x.cpu().to(x.device), y

    with pytest.raises(AssertionError, match=r"a copy between devices that waits, .*test_dry_run"):
        monkeypatch.setattr(av.data.Split, "batch", there_and_back)
        rehearsed("small_cnn", av.standard())


def test_nothing_is_pretended_any_more_afterwards():
    names = "is_available", "device_count", "Event", "get_device_name"
    before = [torch.Generator, torch.load, torch.autocast, *(getattr(torch.cuda, n) for n in names)]
    with pretended.device():
        assert torch.cuda.is_available()
        assert loop.Generator("cuda").device.type == "cuda"
        assert type(loop.Generator()) is before[0]
    after = [torch.Generator, torch.load, torch.autocast, *(getattr(torch.cuda, n) for n in names)]
    assert after == before
    assert loop.Generator is torch.Generator
    assert not torch.zeros(2).is_cuda


def test_a_generator_of_the_cpu_is_found():
    with pretended.device():
        run = training("small_cnn", av.avmixup(steps=1), "cuda")
        run.rng = torch.Generator()
        with pytest.raises(ValueError, match="rng.device"):
            next(run)
        x = torch.zeros(3, device="cuda")
        with pytest.raises(pretended.Refused, match="uniform_ on cuda:0 .* generator of cpu"):
            x.uniform_(generator=torch.Generator())
        with pytest.raises(pretended.Refused, match="rand on the CPU .* generator of cuda:0"):
            torch.rand(3, generator=torch.Generator("cuda"))


# ------------------------------------------------------------------ what else goes to a device


@pytest.fixture(scope="module")
def network(digits):
    made = av.small_cnn(digits, seed=2, base_channels=4)
    list(av.Training(made, digits.train, av.standard(), 40, batch_size=32, lr=0.05))
    return made


def rows():
    ours = [ATTACKS.build(name) for name in ATTACKS]
    return [
        *(replace(row, epsilon=0.1, steps=min(row.steps, 3)) for row in ours),
        av.pgd(steps=2, epsilon=0.6, norm="l2", restarts=2), RandomSearch(0.1, 12),
    ]  # fmt: skip


def test_verdicts_on_the_device_are_the_cpus(digits, network):
    split = digits.test.subset(torch.arange(60))
    judges = [av.autoattack(0.1, attacks=["square"], queries=5)]
    options = {"batch_size": 16, "progress": False}
    cpu = av.evaluate(network, split, [*rows(), *judges], **options)
    with pretended.device():
        far = copy.deepcopy(network).to("cuda")
        for where in (split, split.to("cuda")):
            found = av.evaluate(far, where, [*rows(), *judges], **options)
            assert torch.equal(found.correct, cpu.correct)
            assert found.gradients == cpu.gradients
    assert 0.2 < cpu.accuracy() < 1


def test_an_evaluation_on_the_device_asks_for_few_sizes_of_batches(digits, network):
    """Images leave one by one; each size that is new to cuDNN would be searched a kernel for."""
    split, sizes = digits.test.subset(torch.arange(75)), {"cpu": set(), "cuda": set()}
    found = {}
    for device, seen in sizes.items():
        with pretended.device():
            model = copy.deepcopy(network).to(device)
            model.register_forward_pre_hook(lambda _, given, seen=seen: seen.add(len(given[0])))
            found[device] = av.evaluate(model, split, rows(), batch_size=16, check=False)
    assert torch.equal(found["cpu"].correct, found["cuda"].correct)
    assert found["cpu"].gradients == found["cuda"].gradients
    assert sizes["cuda"] <= {4, 8, 12, 16}
    assert len(sizes["cpu"]) > 6


def test_a_run_folder_waits_for_checkpoints_and_blocks_of_losses_alone(tmp_path):
    with pretended.device() as host:
        run = training("small_cnn", av.avmixup(steps=1), "cuda")
        waits = []
        for _ in runs.log(run, tmp_path):
            waits.append(len(host.waits))
            host.waits.clear()
        assert waits[1:-1] == [0] * (STEPS - 2)
        more = training("small_cnn", av.avmixup(steps=1), "cuda")
        more.load_state_dict(torch.load(tmp_path / "latest.pt")["training"])
        assert more.step == STEPS
        judged = runs.load_model(tmp_path / "latest.pt", "cuda")
        assert next(judged.parameters()).is_cuda
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == STEPS


def test_the_dashboards_run_measures_forks_saves_and_loads_on_the_device(digits, tmp_path):
    data = replace(digits, train=digits.train.subset(torch.arange(64)))
    found = {}
    for device in ("cpu", "cuda"):
        with pretended.device():
            run = av.Training(
                av.small_cnn(data, seed=1, base_channels=4), data.train,
                av.Dial(av.avmixup(epsilon=0.1, steps=1)), 6, device=device, batch_size=16,
            )  # fmt: skip
            live = LiveRun("run 1", run, data, 16)
            live.keep()
            for _ in range(3):
                live.note(next(run))
            live.flush()
            live.measure()
            live.look()
            twin = live.fork(0, "twin")
            again = live.fork(3, "again")
            live.save(tmp_path / device)
            loaded = live.load(tmp_path / device, "loaded")
            for each in (twin, again, loaded):
                assert each.training.device.type == device
                each.note(next(each.training))
                each.flush()
                each.measure()
            assert loaded.loss_now == again.loss_now
            found[device] = [loaded.loss_now, twin.loss_now, live.evaluate(20).accuracy("PGD20")]
    assert found["cpu"] == found["cuda"]


def test_the_dashboards_new_run_from_the_zoo_is_made_and_goes_on_on_the_device(monkeypatch):
    pytest.importorskip("ipywidgets")
    from avmixup_kit.live.lab import new_run

    form = {name: widget.value for name, widget in new_run.fields().items()}
    form |= {"data": "digits", "network": new_run.ZOO + "digits/pgd", "steps": 4, "batch_size": 16}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    losses = {}
    for device, machine in (("cpu", nullcontext()), ("cuda", pretended.device())):
        with machine:
            run, data = new_run.make(**form)
            where = {run.device.type, data.train.device.type, data.test.device.type}
            where |= {tensor.device.type for tensor in run.model.state_dict().values()}
            assert where == {device}
            losses[device] = [float(record.loss) for record in run]
    assert losses["cpu"] == losses["cuda"]
