"""The methods are the paper's, and the identities between them hold bit for bit."""

import copy

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit import methods
from avmixup_kit.methods import attacks, losses, mixing
from avmixup_kit.methods.attacks import NoAttack
from avmixup_kit.methods.labels import one_hot, smooth
from avmixup_kit.methods.losses import CrossEntropy, Trades
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.mixing import Adversarial, AVmixup, Mixup

ALL = {
    "standard": methods.standard(),
    "mixup": methods.mixup(0.4),
    "pgd": methods.pgd(epsilon=0.15, steps=3),
    "label_smoothing": methods.label_smoothing(0.9, epsilon=0.15, steps=3),
    "avmixup": methods.avmixup(3.0, 0.9, 0.2, epsilon=0.15, steps=3, clip_vertex=True),
    "trades": methods.trades(1.0, epsilon=0.15, step_size=None, steps=3),
    "feature_scatter": methods.feature_scatter(epsilon=0.15),
    "feature_scatter_avmixup": methods.feature_scatter_avmixup(1.5, 0.3, 0.42, epsilon=0.15),
    "cw source": methods.avmixup(perturb=av.cw(steps=3, epsilon=0.1)),
}


def weights_after(network, batch, method, steps=3):
    """Weights after a few plain SGD steps of a method, from a fresh generator."""
    model = copy.deepcopy(network)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    rng = torch.Generator().manual_seed(5)
    x, y = batch
    for _ in range(steps):
        step = av.Batch(x, y, rng=rng)
        step.delta = method.perturb(model, step)
        step.x_hat, step.y_hat = method.mix(model, step)
        model.train()
        optimiser.zero_grad()
        method.loss(model, step).backward()
        optimiser.step()
    return [p.detach().clone() for p in model.parameters()]


def identical(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("lam", [1.0, 0.9, 0.8, 0.1])
def test_avmixup_at_alpha_0_gamma_1_is_label_smoothing(network, batch, lam):
    smoothing = methods.label_smoothing(lam, epsilon=0.15, steps=3)
    vertex = methods.avmixup(1.0, 0.7, lam, epsilon=0.15, steps=3).replace(alpha=0.0)
    assert identical(
        weights_after(network, batch, vertex), weights_after(network, batch, smoothing)
    )


def test_label_smoothing_at_1_is_pgd_training(network, batch):
    assert methods.label_smoothing(1.0) == methods.pgd()
    one = weights_after(network, batch, methods.label_smoothing(1.0, epsilon=0.15, steps=2))
    assert identical(one, weights_after(network, batch, methods.pgd(epsilon=0.15, steps=2)))


def test_trades_at_beta_0_has_the_gradients_of_standard(network, batch):
    trades = weights_after(
        network, batch, methods.trades(0.0, epsilon=0.15, step_size=None, steps=2), steps=1
    )
    standard = weights_after(network, batch, methods.standard(), steps=1)
    assert identical(trades, standard)


def test_mixup_at_alpha_1_is_standard(network, batch):
    fixed = methods.mixup().replace(alpha=1.0)
    assert identical(
        weights_after(network, batch, fixed), weights_after(network, batch, methods.standard())
    )


def test_avmixup_at_alpha_1_is_standard(network, batch):
    fixed = methods.avmixup(epsilon=0.15, steps=2).replace(alpha=1.0)
    assert identical(
        weights_after(network, batch, fixed), weights_after(network, batch, methods.standard())
    )


def test_the_identities_can_fail(network, batch):
    smoothing = weights_after(network, batch, methods.label_smoothing(0.8, epsilon=0.15, steps=3))
    for other in (
        methods.avmixup(1.0, 0.7, 0.8, epsilon=0.15, steps=3).replace(alpha=0.01),
        methods.avmixup(1.1, 0.7, 0.8, epsilon=0.15, steps=3).replace(alpha=0.0),
        methods.avmixup(1.0, 0.7, 0.79, epsilon=0.15, steps=3).replace(alpha=0.0),
        methods.label_smoothing(0.8, epsilon=0.15, steps=3, batch_norm="eval"),
    ):
        assert not identical(weights_after(network, batch, other), smoothing)


def test_phi_is_the_papers_definition():
    y = one_hot(torch.tensor([2, 0]), 4)
    expected = torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.7, 0.1, 0.1, 0.1]])
    torch.testing.assert_close(smooth(y, 0.7), expected)
    torch.testing.assert_close(
        smooth(one_hot(torch.arange(10), 10), 0.1), torch.full((10, 10), 0.1)
    )
    assert torch.equal(smooth(y, 1.0), y)


@pytest.mark.parametrize("a", [0.0, 0.1, 0.5])
def test_phi_is_pytorchs_label_smoothing_under_lambda_1_minus_a_plus_a_over_k(a):
    logits = torch.randn(16, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16) % 10
    theirs = nn.functional.cross_entropy(logits, labels, label_smoothing=a)
    ours = losses.soft_cross_entropy(logits, smooth(one_hot(labels, 10), 1 - a + a / 10)).mean()
    torch.testing.assert_close(ours, theirs, check_dtype=False)


def test_avmixup_mixes_as_equations_12_and_13_say(batch, rng):
    x, y = batch
    delta = torch.randn(x.shape, generator=rng) * 0.1
    state = rng.get_state()
    x_hat, y_hat = AVmixup(2.5, 0.9, 0.2)(nn.Identity(), av.Batch(x, y, rng=rng, delta=delta))
    alpha = torch.rand(len(x), generator=torch.Generator().set_state(state))
    assert len(alpha.unique()) == len(x)
    for i, a in enumerate(alpha):
        torch.testing.assert_close(x_hat[i], a * x[i] + (1 - a) * (x[i] + 2.5 * delta[i]))
        wanted = a * smooth(y[i : i + 1], 0.9) + (1 - a) * smooth(y[i : i + 1], 0.2)
        torch.testing.assert_close(y_hat[i : i + 1], wanted)


def test_the_vertex_is_clipped_only_when_asked(batch, rng):
    x, y = batch
    delta = torch.full_like(x, 0.2)
    assert AVmixup(2.0).vertex(x, delta).max() > 1.3
    assert AVmixup(2.0, clip_vertex=True).vertex(x, delta).max() == 1
    clipped, _ = AVmixup(2.0, clip_vertex=True)(nn.Identity(), av.Batch(x, y, rng=rng, delta=delta))
    assert clipped.max() <= 1
    assert methods.avmixup(clip_vertex=True).mix == AVmixup(clip_vertex=True)


def test_alpha_is_one_per_example_or_one_per_batch(batch, rng):
    x, y = batch
    delta = torch.full_like(x, 0.1)
    for per_example, distinct in ((True, len(x)), (False, 1)):
        x_hat, _ = AVmixup(1.0, 1.0, 0.1, per_example=per_example)(
            nn.Identity(), av.Batch(x, y, rng=rng, delta=delta)
        )
        moved = ((x_hat - x) / delta).flatten(1).mean(1)
        assert len((moved * 1e4).round().unique()) == distinct


def test_alpha_is_uniform():
    x, y = torch.zeros(20_000, 1, 1, 1), torch.eye(2).repeat(10_000, 1)
    x_hat, _ = AVmixup(1.0)(
        nn.Identity(),
        av.Batch(x, y, rng=torch.Generator().manual_seed(0), delta=torch.ones_like(x)),
    )
    from scipy.stats import kstest

    assert kstest(x_hat.flatten().numpy(), "uniform").pvalue > 1e-3
    assert kstest(x_hat.flatten().numpy() * 0.97, "uniform").pvalue < 1e-3


@pytest.mark.parametrize(
    ("a", "per_example"), [(0.2, True), (1.0, True), (1.0, False), (5.0, True)]
)
def test_mixup_interpolates_pairs_with_beta_weights(a, per_example):
    n = 4000
    x, y = torch.arange(n).float().reshape(n, 1, 1, 1), torch.eye(2).repeat(n // 2, 1)
    rng = torch.Generator().manual_seed(2)
    x_hat, y_hat = Mixup(a, per_example)(
        nn.Identity(), av.Batch(x, y, rng=rng, delta=torch.zeros_like(x))
    )
    assert torch.allclose(y_hat.sum(1), torch.ones(n))
    assert abs(float(x_hat.mean()) - (n - 1) / 2) < n / 20
    weight = y_hat.max(1).values
    mixed = weight[(weight < 1) & (weight > 0.5)]
    if not per_example:
        assert len((mixed * 1e5).round().unique()) == 1
        return
    from scipy.stats import beta, kstest

    folded = kstest(mixed.numpy(), lambda w: beta.cdf(w, a, a) - beta.cdf(1 - w, a, a))
    assert folded.pvalue > 1e-3


def test_a_mix_of_ones_own_draws_beta_from_the_batchs_generator():
    from scipy import stats

    def drawn():
        rng = torch.Generator().manual_seed(5)
        batch = av.Batch(torch.zeros(2, 1, 1, 1), torch.eye(2), rng=rng)
        return mixing.beta(batch, 2.0, 2000)

    assert stats.kstest(drawn().numpy(), stats.beta(2, 2).cdf).pvalue > 1e-3
    assert torch.equal(drawn(), drawn())


def test_the_label_line_is_the_papers():
    paper = AVmixup(2.0, 1.0, 0.1)
    for t in (0.0, 0.5, 1.0, 2.0):
        assert paper.label_at(t) == pytest.approx(1 - 0.45 * t)
    assert AVmixup(1.0, 0.5, 0.7).label_at(1.0) == pytest.approx(0.7)


@pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())
def test_repr_is_the_code_that_rebuilds_a_method(method):
    assert methods.parse(repr(method)) == method
    namespace = {**vars(av.attacks), **vars(losses), **vars(av.mixing), "Method": Method}
    assert eval(repr(method), namespace) == method


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "Method(perturb=open)", "1 +", "Nothing()", "[x]"]
)
def test_parse_builds_methods_and_nothing_else(text):
    with pytest.raises(ValueError, match="does not describe a method"):
        methods.parse(text)


@pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())
def test_every_method_trains_and_leaves_the_global_generator_alone(network, batch, method):
    before = torch.random.get_rng_state()
    x, y = batch
    rng = torch.Generator().manual_seed(0)
    step = av.Batch(x, y, rng=rng)
    step.delta = method.perturb(network, step)
    step.x_hat, step.y_hat = method.mix(network, step)
    assert step.x_hat is not None
    assert step.y_hat is not None
    assert step.x_hat.shape == x.shape
    torch.testing.assert_close(step.y_hat.sum(1), torch.ones(len(y)))
    loss = method.loss(network, step)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_defaults_are_the_papers():
    method = methods.avmixup()
    assert method.mix == AVmixup(gamma=2.0, lambda1=1.0, lambda2=0.1, clip_vertex=False)
    assert isinstance(method.perturb, av.Attack)
    assert method.perturb.epsilon == 8 / 255
    assert method.perturb.step == 2 / 255
    assert method.perturb.steps == 10
    assert method.perturb.batch_norm == "batch"
    assert methods.trades() == Method(
        av.Attack(losses.KLToClean(), 0.031, 0.007, 10, "normal", False), Adversarial(), Trades(6.0)
    )
    scatter = methods.feature_scatter()
    assert scatter.mix == Adversarial(0.5)
    assert isinstance(scatter.perturb, av.Attack)
    assert scatter.perturb.step == scatter.perturb.epsilon
    assert scatter.perturb.steps == 1
    assert not scatter.perturb.clip_start
    assert methods.feature_scatter_avmixup().mix == AVmixup(1.0, 0.5, 0.7)
    assert methods.standard() == Method(NoAttack(), Adversarial(1.0), CrossEntropy())


def test_trades_loss_is_cross_entropy_plus_beta_kl(network, batch):
    x, y = batch
    network.eval()
    x_hat = (x + 0.1).clamp(0, 1)
    p, q = network(x).softmax(1), network(x_hat).softmax(1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    expected = -(y * p.log()).sum(1).mean() + 6 * kl
    torch.testing.assert_close(Trades(6.0)(network, av.Batch(x, y, x_hat=x_hat, y_hat=y)), expected)


def test_replace_reaches_every_stage():
    method = methods.avmixup().replace(gamma=3.0, epsilon=0.1, steps=7)
    assert method == methods.avmixup(3.0, epsilon=0.1, steps=7)
    assert methods.trades().replace(beta=1.0).loss == Trades(1.0)
    assert methods.avmixup().replace(loss=Trades(2.0), beta=3.0).loss == Trades(3.0)


def avmixup_with(**settings):
    return lambda: methods.avmixup(**settings)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (avmixup_with(gamma=0.99), r"gamma = 0.99 is not allowed.*>= 1"),
        (avmixup_with(gamma=float("nan")), r"gamma = nan is not allowed"),
        (avmixup_with(gamma=float("inf")), r"gamma = inf is not allowed"),
        (avmixup_with(lambda1=1.01), r"lambda1 = 1.01 is not allowed.*from 0 to 1"),
        (avmixup_with(lambda2=-0.1), r"lambda2 = -0.1 is not allowed.*from 0 to 1"),
        (avmixup_with(epsilon=8), r"epsilon = 8 is not allowed.*write 8 / 255"),
        (avmixup_with(epsilon=0.0), r"epsilon = 0.0 is not allowed.*0 < epsilon <= 1"),
        (avmixup_with(epsilon=-0.1), r"epsilon = -0.1 is not allowed"),
        (avmixup_with(epsilon=float("nan")), r"epsilon = nan is not allowed"),
        (avmixup_with(step_size=0.0), r"step_size = 0.0 is not allowed.*positive"),
        (avmixup_with(steps=0), r"steps = 0 is not allowed.*1 or more"),
        (avmixup_with(steps=2.5), r"steps = 2.5 is not allowed"),
        (avmixup_with(batch_norm="on"), r"batch_norm = 'on' is not allowed: one of eval, batch"),
        (avmixup_with(start="random"), r"start = 'random' is not allowed: one of uniform"),
        (lambda: methods.label_smoothing(2), r"lam = 2 is not allowed.*from 0 to 1"),
        (lambda: methods.mixup(0), r"a = 0 is not allowed.*a > 0"),
        (lambda: methods.trades(-1), r"beta = -1 is not allowed.*0 or more"),
        (lambda: av.cw(kappa=-1), r"kappa = -1 is not allowed.*0 or more"),
        (lambda: AVmixup(alpha=1.5), r"alpha = 1.5 is not allowed.*from 0 to 1"),
        (lambda: methods.build("avmix"), r"method = 'avmix' is not allowed: one of standard, mix"),
        (lambda: methods.build("pgd", gamma=2), r"method pgd: .*gamma"),
        (
            lambda: methods.pgd().replace(gamma=2),
            r"gamma = 2 is not allowed: this method has perturb",
        ),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("registry", [methods.METHODS, av.attacks.ATTACKS], ids=lambda r: r.kind)
def test_every_setting_is_shown_by_name_with_the_default_that_acts(registry):
    for entry in registry.entries.values():
        for name, setting in entry.settings.items():
            assert setting.kind in (setting.POSITIONAL_OR_KEYWORD, setting.KEYWORD_ONLY), name
            assert entry.make(**{name: setting.default}) == entry.make()
    settings = registry.entries["pgd"].settings
    assert settings["steps"].default == {"method": 10, "attack": 20}[registry.kind]
    assert settings["batch_norm"].annotation is attacks.BatchNorm
    with pytest.raises(TypeError, match="gamma"):
        registry["pgd"](gamma=2)
