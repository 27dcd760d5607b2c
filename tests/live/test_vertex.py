"""The vertex explorer draws what the paper's equations say, and moves only what a slider moves."""

from pathlib import Path

import numpy as np
import pytest
import torch

import avmixup_kit as av

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from avmixup_kit import live
from avmixup_kit.evaluation import craft
from avmixup_kit.live.lab.vertex import FAR, Scene, worth_a_bar
from avmixup_kit.methods.labels import smooth
from tests.live.widgets import number, traces


@pytest.fixture(scope="module")
def trained(digits):
    model = av.small_cnn(digits, seed=1, base_channels=8)
    for _ in av.Training(model, digits.train, av.avmixup(epsilon=digits.epsilon, steps=3), 60):
        pass
    return model.eval()


@pytest.fixture(scope="module")
def scene(trained, digits):
    return Scene(trained, digits.test, 16)


def drawn(explorer):
    return {trace.name: trace for trace in traces(explorer.figure)}


def test_images_are_those_of_equations_12_and_13(trained, digits):
    explorer = live.vertex(trained, digits, index=5, gamma=3.0, alpha=0.25, epsilon=0.1)
    x, y = digits.test.batch([5])
    delta = Scene(trained, digits.test).delta(5, 0.1)
    assert 0 < delta.abs().max() <= 0.1
    vertex = x + 3.0 * delta
    images = {
        "clean x": x,
        "adversarial x + δ": x + delta,
        "vertex x + γδ": vertex,
        "mixed x̂": 0.25 * x + 0.75 * vertex,
    }
    for name, image in images.items():
        shown = np.asarray(drawn(explorer)[name].z)
        assert shown.shape == (8, 8, 3)
        expected = image[0, 0].clamp(0, 1).mul(255)
        assert np.abs(shown[..., 1] - expected.numpy()).max() <= 0.51
    label = 0.25 * smooth(y, 1.0) + 0.75 * smooth(y, 0.1)
    assert np.allclose(drawn(explorer)["asked of the network"].y, label[0], atol=1e-6)
    said = trained(images["mixed x̂"]).softmax(1)[0].detach()
    assert np.allclose(drawn(explorer)["said by the network"].y, said, atol=1e-5)
    assert "t = 2.25, outside the ε ball" in explorer.note.value


def test_the_line_is_what_is_asked_and_what_is_said(trained, digits, scene):
    explorer = live.vertex(trained, digits, index=2, gamma=2.0, alpha=0.5)
    line = drawn(explorer)
    assert list(line["asked by your γ, λ"].x) == [0, 2]
    assert list(line["asked by your γ, λ"].y) == [1, 0.1]
    assert list(line["x̂"].x) == [1.0]
    assert line["x̂"].y[0] == pytest.approx(0.55)
    x, y = digits.test.batch([2])
    delta = scene.delta(2, digits.epsilon)
    said = line["said, this image"]
    for at in (0, 10, 40):
        share = (trained(x + said.x[at] * delta).softmax(1) * y).sum().item()
        assert said.y[at] == pytest.approx(share, abs=1e-5)
    mean = scene.mean_line(digits.epsilon)
    assert mean.shape == said.y.shape
    assert mean[0] > mean[10] > 0


def test_the_plane_shows_the_networks_decisions(trained, digits, scene):
    explorer = live.vertex(trained, digits, index=7)
    region = np.asarray(drawn(explorer)["predicted class"].z)
    x, _ = digits.test.batch([7])
    delta, side = scene.delta(7, digits.epsilon), scene.sideways(7, digits.epsilon)
    assert abs(float((delta * side).sum())) < 1e-4 * float((delta * delta).sum())
    assert float(side.norm()) == pytest.approx(float(delta.norm()), rel=1e-5)
    plane = drawn(explorer)["predicted class"]
    for row, column in ((0, 0), (20, 5), (20, 45), (40, 30)):
        at = x + plane.x[column] * delta + plane.y[row] * side
        assert region[row, column] == int(trained(at).argmax())
    assert set(drawn(explorer)["class names"].text) <= set(digits.classes)


def test_sliders_move_the_picture_and_presets_are_the_papers(trained, digits):
    explorer = live.vertex(trained, digits)
    before = np.array(drawn(explorer)["vertex x + γδ"].z)
    plane = np.array(drawn(explorer)["predicted class"].z)
    number(explorer, "gamma").box.value = 3.5
    assert not np.array_equal(before, drawn(explorer)["vertex x + γδ"].z)
    assert np.array_equal(plane, drawn(explorer)["predicted class"].z)
    assert drawn(explorer)["the vertex line"].x[2] == 3.5
    explorer.presets.value = "with Feature Scatter, CIFAR-10"
    assert list(drawn(explorer)["asked by your γ, λ"].y) == [0.5, 0.7]
    assert "λ₁ &lt; λ₂ is legal" in explorer.note.value
    explorer.presets.value = "the paper's with PGD"
    assert list(drawn(explorer)["asked by your γ, λ"].y) == [1.0, 0.1]


def test_no_title_lies_over_a_neighbour_and_no_line_hides_another(trained, digits):
    figure = live.vertex(trained, digits).static().to_dict()
    for name, axis in figure["layout"].items():
        if name.startswith("yaxis") and axis.get("title", {}).get("text"):
            start = figure["layout"]["x" + name[1:]]["domain"][0]
            assert start == 0, axis["title"]
    width = {one["name"]: one.get("line", {}).get("width") for one in figure["data"]}
    asked = [width[name] for name in width if name.startswith("asked: ")]
    assert len(asked) == 3
    assert width["asked by your γ, λ"] >= 2 * max(asked)


def test_values_out_of_range_are_refused_beside_the_control(trained, digits):
    explorer = live.vertex(trained, digits)
    shown = list(drawn(explorer)["asked by your γ, λ"].x)
    number(explorer, "gamma").box.value = 0.5
    assert "gamma must be between 1 and 4, got 0.5" in explorer.controls["gamma"].error.value
    assert list(drawn(explorer)["asked by your γ, λ"].x) == shown
    with pytest.raises(ValueError, match="vertex has no control 'delta'"):
        live.vertex(trained, digits, delta=1)


def test_looking_leaves_the_network_as_it_was(digits):
    model = av.small_cnn(digits, base_channels=4).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    number(live.vertex(model, digits), "gamma").box.value = FAR
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_many_classes_show_the_likeliest_few():
    share = torch.linspace(0, 1, 100)
    assert worth_a_bar(share, 3) == [3, 99, 98, 97, 96, 95, 94, 93, 92, 91]
    assert worth_a_bar(share[:4], 1) == [0, 1, 2, 3]


def test_the_adversarial_example_is_that_which_notebook_7_speaks_of(trained, digits, scene):
    pgd10 = av.pgd(steps=10, epsilon=digits.epsilon)
    crafted = craft(pgd10, trained, digits.test, torch.tensor([42]))
    assert torch.equal(scene.delta(42, digits.epsilon), crafted)
    book = (Path(__file__).parents[2] / "notebooks" / "07_the_adversarial_vertex.ipynb").read_text()
    assert "craft(pgd10, network, data.test, torch.tensor([index]))" in book
