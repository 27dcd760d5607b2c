"""Fixed networks, an attack's source and a teacher, are part of what a run is: by their weights."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit._base.texts import checksum
from avmixup_kit.live.lab.run import LiveRun
from avmixup_kit.methods.batch import teacher as teacher_of
from avmixup_kit.methods.losses import soft_cross_entropy
from avmixup_kit.methods.method import Method, networks_of, parse

EPSILON = 0.15


@dataclass(frozen=True)
class Taught:
    """The teacher's answer as label."""

    def __call__(self, model, batch):
        said = teacher_of(model)(batch.x).softmax(1)
        return soft_cross_entropy(model(batch.x_hat), said).mean()


def net(digits, seed):
    return av.small_cnn(digits, seed=seed, base_channels=4)


def led(source, **changes):
    return Method(av.pgd(steps=2, epsilon=EPSILON, batch_norm="batch", source=source, **changes))


def new(digits, method, **options):
    return av.Training(net(digits, 2), digits.train, method, 8, batch_size=16, **options)


def ended(training, folder, resume=False, until=8):
    records = runs.log(training, folder, resume=resume, checkpoint_every=2)
    for record in records:
        if record.step + 1 == until:
            break
    records.close()
    return training.model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checksum_is_of_the_weights_and_of_nothing_else(digits):
    one = net(digits, 1)
    was = checksum(one)
    assert len(was) == 16
    assert checksum(net(digits, 1).to(memory_format=torch.channels_last)) == was
    assert checksum(torch.compile(net(digits, 1))) == was  # pyright: ignore[reportArgumentType]
    assert checksum(net(digits, 3)) != was
    assert checksum(net(digits, 1).double()) != was
    with torch.no_grad():
        one.head.bias[0] += 1
    assert checksum(one) != was
    with torch.inference_mode():
        assert checksum(net(digits, 1)) == was
    for name, buffer in one.named_buffers():
        before = checksum(one)
        buffer.add_(1)
        assert checksum(one) != before, name


@pytest.mark.parametrize("live", [True, False], ids=["dial", "method"])
def test_a_run_with_a_source_goes_on_with_a_network_of_the_same_weights(digits, tmp_path, live):
    def method(seed):
        return av.Dial(led(net(digits, seed))) if live else led(net(digits, seed))

    whole = ended(new(digits, method(7)), tmp_path / "whole")
    ended(new(digits, method(7)), tmp_path / "cut", until=5)
    again = ended(new(digits, method(7)), tmp_path / "cut", resume=True)
    assert same(again, whole)
    assert not same(ended(new(digits, method(8)), tmp_path / "other"), whole)


@pytest.mark.parametrize("live", [True, False], ids=["dial", "method"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"another run: method.perturb.source was Network\('\w{16}'\), is left out"),
        (9, r"another run: method.perturb.source was Network\('\w+'\), is Network\('\w+'\)"),
    ],
)
def test_a_resume_without_the_source_or_with_another_is_refused(
    digits, tmp_path, live, source, message
):
    def method(seed):
        found = led(None if seed is None else net(digits, seed))
        return av.Dial(found) if live else found

    ended(new(digits, method(7)), tmp_path / "run", until=5)
    with pytest.raises(ValueError, match=message) as error:
        ended(new(digits, method(source)), tmp_path / "run", resume=True)
    assert "\n" not in str(error.value)
    state = runs.load_checkpoint(tmp_path / "run" / "latest.pt")["training"]
    with pytest.raises(ValueError, match=r"perturb.source was|Network\('\w+'\) is not there: pass"):
        new(digits, method(source)).load_state_dict(state)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [(None, "teacher was '.{16}', is None"), (9, "teacher was '.{16}', is '.{16}'")],
)
def test_a_resume_without_the_teacher_or_with_another_is_refused(
    digits, tmp_path, teacher, message
):
    def training(seed):
        given = None if seed is None else net(digits, seed)
        return new(digits, Method(loss=Taught()), teacher=given)

    whole = ended(training(7), tmp_path / "whole")
    ended(training(7), tmp_path / "cut", until=5)
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["networks"].keys() == {"teacher"}
    with pytest.raises(ValueError, match=f"saved training asked other networks: {message}"):
        ended(training(teacher), tmp_path / "cut", resume=True)
    assert same(ended(training(7), tmp_path / "cut", resume=True), whole)


def test_a_state_of_before_networks_were_noted_is_taken_up(digits):
    training = new(digits, Method(loss=Taught()), teacher=net(digits, 7))
    state = training.state_dict()
    del state["networks"]
    training.load_state_dict(state)


def test_evaluation_needs_no_source_and_a_fork_keeps_it(digits, tmp_path):
    training = new(digits, av.Dial(led(net(digits, 7))))
    ended(training, tmp_path / "run", until=4)
    assert same(runs.load_model(tmp_path / "run").state_dict(), training.model.state_dict())
    run = LiveRun("one", training, digits, 20)
    twin = run.fork(4, "two").training
    taken_up = run.load(tmp_path / "run", "three").training
    for record in zip(training, twin, taken_up, strict=True):
        assert len({each.loss for each in record}) == 1
    other = LiveRun("other", new(digits, av.Dial(led(net(digits, 8)))), digits, 20)
    with pytest.raises(ValueError, match=r"^Network\('\w+'\) is not there: pass the network whose"):
        other.load(tmp_path / "run", "none")
    with pytest.raises(ValueError, match=r"^Network\('\w+'\) is not there: pass the network whose"):
        runs.about(tmp_path / "run")
    source = networks_of(run.dial.method)["perturb.source"]
    assert runs.about(tmp_path / "run", [copy.deepcopy(source)])["method"].perturb.source


def test_a_turn_brings_in_a_network_that_the_dial_was_given(digits, tmp_path):
    late = net(digits, 9)
    with pytest.raises(ValueError, match="cannot be saved and found again.* network that the Dial"):
        av.Dial(led(None)).turn(source=late)

    def training(*networks):
        return new(digits, av.Dial(led(None), networks=networks))

    def turned(records, dial):
        for record in records:
            if record.step == 3:
                dial.turn(source=late)

    whole = training(late)
    turned(runs.log(whole, tmp_path / "run", checkpoint_every=3), whole.dial)
    turns = runs.turns_of(tmp_path / "run", [late])
    headless = new(digits, av.Dial(led(None), turns))
    list(headless)
    assert same(headless.model.state_dict(), whole.model.state_dict())
    with pytest.raises(ValueError, match=r"Network\('\w+'\) is not there.*networks=\[...\]"):
        ended(training(), tmp_path / "run", resume=True)
    kept = runs.load_checkpoint(tmp_path / "run" / "latest.pt")["training"]
    training(net(digits, 9)).load_state_dict(kept)


def test_the_text_of_a_method_gives_its_source_back(digits):
    source = net(digits, 7)
    method = led(source)
    assert f"source=Network('{checksum(source)}'))" in repr(method)
    assert parse(repr(method), networks=[net(digits, 8), source]) == method
    assert networks_of(method) == {"perturb.source": source}
    mixed = Method(av.methods.sources.Mixture((av.pgd(), av.pgd(source=source))))
    assert networks_of(mixed) == {"perturb.sources[1].source": source}


def test_a_source_is_a_network_that_crafting_leaves_as_it_is(digits):
    with pytest.raises(ValueError, match="source = 'net' is not allowed: a network, or None"):
        av.pgd(source="net")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="batch_norm = 'train' is not allowed: it would change"):
        led(net(digits, 7)).replace(batch_norm="train")
