"""The variance within classes is the textbook's, and shows overfitting where there is some."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import calinski_harabasz_score

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit.data import Split
from avmixup_kit.evaluation import scatter as features
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.scatter import rivals, scatter
from avmixup_kit.methods.attacks import NoAttack

EPSILON = 0.15


@pytest.fixture(scope="module")
def sets(digits):
    return digits.train.subset(150), digits.validation


def test_clean_features_agree_with_scikit_learn(trained, sets):
    """Calinski and Harabasz's index is between over within, classes weighted by their size."""
    train, held_out = sets
    equal = torch.cat([(train.labels == k).nonzero()[:9, 0] for k in range(10)])
    train = train.subset(equal)
    found = scatter(trained, train, held_out, av.pgd(steps=2, epsilon=EPSILON))
    x, _ = train.batch(torch.arange(len(train)))
    with torch.no_grad():
        phi = trained.features(x).double().numpy()
    index = calinski_harabasz_score(phi, train.labels.numpy())
    # With 9 images in each class: index = 9 * spread of means / variance within.
    assert found.values["features", "train", "clean"] == pytest.approx(9 / index, rel=1e-6)


def test_margins_by_hand(trained, sets):
    train, held_out = sets
    attack = av.pgd(steps=3, epsilon=EPSILON)
    found = scatter(trained, train, held_out, attack, seed=4, batch_size=37)

    def margins(split, attacked):
        x, y = split.batch(torch.arange(len(split)))
        if attacked:
            x = x + craft(attack, trained, split, torch.arange(len(split)), seed=4)
        with torch.no_grad():
            z = trained(x).double().numpy()
        labels = split.labels.numpy()
        true = z[np.arange(len(z)), labels]
        z[np.arange(len(z)), labels] = -np.inf
        return true - z.max(1), labels

    unit = margins(train, False)[0].mean() ** 2
    for name, split in (("train", train), ("held-out", held_out)):
        for sight in ("clean", "attacked"):
            values, labels = margins(split, sight == "attacked")
            residual = sum(
                ((values[labels == k] - values[labels == k].mean()) ** 2).sum() for k in range(10)
            )
            expected = residual / (len(values) - 10) / unit
            assert found.values["margin", name, sight] == pytest.approx(expected, rel=1e-4)
    assert found.counts == {"train": 150, "held-out": len(held_out)}


def test_scale_does_not_matter(trained, sets: tuple[Split, Split]):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = trained.features, torch.nn.Linear(trained.head.in_features, 10)
            self.head.load_state_dict(trained.head.state_dict())

        def forward(self, x):
            return 7 * self.head(self.body(x))

    attack = av.cw(steps=2, epsilon=EPSILON, start="zero")
    ours, theirs = (scatter(m, *sets, attack) for m in (trained, Scaled().eval()))
    for key, value in ours.values.items():
        assert theirs.values[key] == pytest.approx(value, rel=1e-4)


def test_the_attack_spreads_features_and_memorising_opens_the_gap(digits):
    """A network that has learned 64 images by heart, against one that has seen a thousand."""
    gaps = {}
    for count in (64, 1000):
        train = digits.train.subset(count)
        model = av.small_cnn(digits, seed=0)
        method = av.methods.pgd(epsilon=EPSILON, steps=3)
        for _ in av.Training(model, train, method, 150, batch_size=64):
            pass
        seen = train.subset(min(count, 200))
        found = scatter(model.eval(), seen, digits.validation, av.pgd(steps=5, epsilon=EPSILON))
        # The margins of a network that has memorised are wide already where it has seen nothing.
        for quantity in features.QUANTITIES if count == 1000 else ("features",):
            clean, attacked = (
                found.values[quantity, "held-out", sight] for sight in features.SIGHTS
            )
            assert attacked > 1.05 * clean
        gaps[count] = found.gap("margin")
        assert f"{gaps[count]:.2f}" in str(found)
    assert gaps[64] > 1.5 * gaps[1000]


def test_features_that_do_not_scatter_have_no_ratio():
    cells = {
        (q, n, s): 0.0 for q in features.QUANTITIES for n in features.SETS for s in features.SIGHTS
    }
    assert np.isnan(features.Scatter(cells, {"train": 2, "held-out": 2}).gap())


def test_no_attack_no_difference(trained, sets: tuple[Split, Split]):
    still = av.pgd(steps=1, epsilon=1e-12, start="zero")
    found = scatter(trained, *sets, still)
    for quantity in features.QUANTITIES:
        for name in features.SETS:
            clean = found.values[quantity, name, "clean"]
            assert found.values[quantity, name, "attacked"] == pytest.approx(clean, rel=1e-6)
    assert NoAttack() == NoAttack()


def test_curves_go_into_the_run_folder_and_out_as_a_figure(digits, tmp_path):
    model = av.small_cnn(digits, seed=0)
    training = av.Training(model, digits.train, av.standard(), 6, batch_size=64)
    measure = features.curves(digits, av.pgd(steps=1, epsilon=EPSILON), count=60)
    everyone = torch.random.get_rng_state()
    for _ in runs.log(training, tmp_path / "run", curves=measure, curves_every=2):
        pass
    assert torch.equal(everyone, torch.random.get_rng_state())
    curves = runs.curves_of(tmp_path / "run")
    assert len(curves) == 8
    assert curves["margin, held-out, attacked"][0] == [2, 4, 6]
    figure = features.figure(curves, "margin", best=4)
    traces: Any = figure.data
    assert [trace.name for trace in traces] == [
        "train, clean",
        "train, attacked",
        "held-out, clean",
        "held-out, attacked",
    ]
    assert list(traces[3].y) == curves["margin, held-out, attacked"][1]
    assert figure.layout.shapes[0].x0 == 4
    with pytest.raises(ValueError, match="quantity = 'logits' is not allowed: one of features"):
        features.figure(curves, "logits")


def test_the_model_is_left_as_it_was(network, sets: tuple[Split, Split]):
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    scatter(network, *sets, av.pgd(steps=1, epsilon=EPSILON))
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(not m._forward_pre_hooks for m in network.modules())


def test_bad_sets_and_models_are_named(trained, sets):
    train, held_out = sets
    with pytest.raises(ValueError, match="held-out images are too few: .*split.sample"):
        scatter(trained, train, held_out.subset(torch.arange(3)))
    with pytest.raises(ValueError, match="the model has no linear layer"):
        scatter(torch.nn.Sequential(torch.nn.Conv2d(1, 10, 8), torch.nn.Flatten()), train, held_out)
    assert isinstance(train, Split)


def test_rivals_are_those_whose_probabilities_share_the_gradient(trained, sets):
    split, attack = sets[1].subset(20), av.pgd(steps=3, epsilon=EPSILON)
    x, y = split.batch(torch.arange(20))
    x_hat = x + craft(attack, trained, split, torch.arange(20), seed=4)
    with torch.no_grad():
        p = trained(x_hat).double().softmax(1).numpy()
    q = np.array(
        [np.delete(p[i], split.labels[i]) / (1 - p[i, split.labels[i]]) for i in range(20)]
    )
    found = rivals(trained, split, attack, seed=4, batch_size=7)
    assert found.tolist() == pytest.approx((1 / (q**2).sum(1)).tolist(), rel=1e-4)


@pytest.mark.parametrize(("spread_over", "shared"), [([0.0] * 10, 9.0), ([0.0] * 9 + [99.0], 1.0)])
def test_even_rivals_are_nine_and_one_that_has_it_all_is_one(digits, spread_over, shared):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor(spread_over))

        def forward(self, x):
            # Sure of the true class: what is left of it underflows, its parts do not.
            return x.flatten(1)[:, :10] * 0 + self.bias

    images = digits.test.subset((digits.test.labels != 9).nonzero()[:12, 0])
    assert rivals(Fixed(), images).tolist() == pytest.approx([shared] * 12)
