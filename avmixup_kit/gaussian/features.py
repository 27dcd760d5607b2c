"""Examples 2-3, Definition 4, Theorems 2-3: robust, sufficient and insufficient features.

On Definition 4's class with one weight a on x_1..x_{c+1} and one weight b on the rest, everything
depends on B = (d - c) b in [0, 1], the share of weight on the sufficient non-robust features.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import broadcast, count, generator, number, real, reals
from avmixup_kit.gaussian.model import directions, error_at, z_score

UNDER = ("true", "observed")
TIES = ("none", "observed", "true")


class Groups(NamedTuple):
    """The two tied groups of features, each sharing its weight equally: A = x_1..x_{c+1}, and B.

    mean_a, mean_b: mean of y times a group's average; variance_a, variance_b: its variance given y.
    """

    mean_a: float
    mean_b: float
    variance_a: float
    variance_b: float


@dataclass(frozen=True)
class FeatureModel:
    r"""Example 2's Ψ_true and Example 3's Ψ_sample,c over d + 1 features.

    x_1 ~ N(y, σ_A²) always. Under Ψ_true the d others are N(ηy, σ_B²); under Ψ_sample,c the first
    c of them, the insufficient ones, look like x_1. Weights have shape (..., d + 1).

    Args:
        d: number of non-robust features, >= 1.
        c: number of insufficient ones, 0 < c < d.
        eta: mean of a non-robust feature, in [0, 1).
        sigma_a: standard deviation of the robust feature, >= 0.
        sigma_b: standard deviation of a non-robust feature, >= 0.
        control: the experiment's control: allows c = 0 only, where Ψ_sample,c is Ψ_true and
            nothing is insufficient.
    """

    d: int
    c: int
    eta: float
    sigma_a: float
    sigma_b: float
    control: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "d", count("d", self.d))
        c = number("c", self.c)
        if self.control:
            check.that(c == 0, "c", self.c, "0 with control=True")
        else:
            allowed = "(c = 0 is the control: FeatureModel(..., control=True))"
            allowed = f"a whole number with 0 < c < d = {self.d} {allowed}"
            check.that(c.is_integer() and 0 < c < self.d, "c", self.c, allowed)
        object.__setattr__(self, "c", int(c))
        object.__setattr__(self, "eta", number("eta", self.eta, 0, 1, open_high=True))
        for name in ("sigma_a", "sigma_b"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0))

    @property
    def rho(self) -> float:
        """Return ρ = σ_A²/σ_B², which the paper takes to be near 0; inf at σ_B = 0."""
        return float(z_score(self.sigma_a, self.sigma_b)) ** 2

    @property
    def uniform_share(self) -> float:
        """Return B = (d - c)/(d + 1) of equal weights, where training starts."""
        return (self.d - self.c) / (self.d + 1)

    def means(self, under: str = "true") -> np.ndarray:
        """Return the mean of y x, shape (d + 1,), under "true" or "observed" (Ψ_sample,c)."""
        return self._profile(1.0, self.eta, under)

    def deviations(self, under: str = "true") -> np.ndarray:
        """Return the standard deviation of x given y, shape (d + 1,)."""
        return self._profile(self.sigma_a, self.sigma_b, under)

    def _profile(self, robust: float, other: float, under: str) -> np.ndarray:
        check.one_of("under", under, UNDER)
        sharp = 1 if under == "true" else 1 + self.c
        return np.concatenate([np.full(sharp, robust), np.full(self.d + 1 - sharp, other)])

    def sample_true(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return n draws x (n, d + 1), y (n,) in {-1, +1} from Ψ_true, Example 2."""
        return self._sample(n, rng, "true")

    def sample_observed(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return n draws x (n, d + 1), y (n,) in {-1, +1} from Ψ_sample,c, Example 3."""
        return self._sample(n, rng, "observed")

    def _sample(
        self, n: int, rng: np.random.Generator, under: str
    ) -> tuple[np.ndarray, np.ndarray]:
        n, rng = count("n", n), generator(rng)
        y = rng.choice([-1.0, 1.0], size=n)
        noise = self.deviations(under) * rng.standard_normal((n, self.d + 1))
        return y[:, None] * self.means(under) + noise, y

    def groups(self, under: str = "true") -> Groups:
        """Return the moments of the two tied groups under "true" or "observed"."""
        check.one_of("under", under, UNDER)
        c, a, b = self.c, self.sigma_a**2, self.sigma_b**2
        if under == "observed":
            return Groups(1.0, self.eta, a / (1 + c), b / (self.d - c))
        mean_a = (1 + c * self.eta) / (1 + c)
        return Groups(mean_a, self.eta, (a + c * b) / (1 + c) ** 2, b / (self.d - c))

    def weights(self, B: ArrayLike) -> np.ndarray:
        """Return the tied weights (..., d + 1) of Definition 4 with share B (...) in [0, 1]."""
        share = real("B", B, 0, 1)[..., None]
        sharp = np.arange(self.d + 1) <= self.c
        return np.where(sharp, (1 - share) / (1 + self.c), share / (self.d - self.c))

    def mean(self, B: ArrayLike, under: str = "true") -> np.ndarray:
        """Return the mean of y wᵀx for tied weights with share B in [0, 1], any shape."""
        B, g = real("B", B, 0, 1), self.groups(under)
        return (g.mean_a * (1 - B) + g.mean_b * B)[()]

    def variance(self, B: ArrayLike, under: str = "true", conditional: bool = True) -> np.ndarray:
        """Return the variance of wᵀx for tied weights with share B in [0, 1], any shape.

        Args:
            B: share of weight on the sufficient non-robust features.
            under: "true" or "observed" (Ψ_sample,c).
            conditional: given y; False adds the squared mean, for y is symmetric.
        """
        B, g = real("B", B, 0, 1), self.groups(under)
        given_y = g.variance_a * (1 - B) ** 2 + g.variance_b * B**2
        return (given_y if conditional else given_y + self.mean(B, under) ** 2)[()]

    def variance_optimum(self, under: str = "true", conditional: bool = True) -> float:
        r"""Return the B in [0, 1] of least variance among tied weights, in closed form.

        Conditional: (d - c) times `theorem_2_weight` (observed) or `theorem_3_weight` (true).
        Unconditional: (v_A + m_A(m_A - m_B)) / (v_A + v_B + (m_A - m_B)²), at most 1. Where every B
        has the same variance, 0.
        """
        g = self.groups(under)
        gap = 0.0 if conditional else g.mean_a - g.mean_b
        top = g.variance_a + g.mean_a * gap
        bottom = g.variance_a + g.variance_b + gap * gap
        return min(1.0, top / bottom) if bottom > 0 else 0.0

    def minimise_variance(
        self, under: str = "true", conditional: bool = True, tie: str = "none"
    ) -> np.ndarray:
        r"""Return the weights (d + 1,) of least variance on Definition 4's simplex, by search.

        Projected gradient with momentum, which knows none of the closed forms.

        Args:
            under: the distribution whose variance is minimised, "true" or "observed".
            conditional: variance given y, or with the class means in it.
            tie: which features share one weight: "none", or those with the same distribution
                under "observed" (what Theorem 3 needs) or under "true".
        """
        check.one_of("tie", tie, TIES)
        label = np.arange(self.d + 1)
        if tie != "none":
            label = (label > (self.c if tie == "observed" else 0)).astype(int)
        sizes = np.bincount(label)
        means = np.bincount(label, self.means(under)) / sizes
        variances = np.bincount(label, self.deviations(under) ** 2) / sizes**2
        shares = _minimise_on_simplex(variances, np.zeros_like(means) if conditional else means)
        return (shares / sizes)[label]

    def robust_error(
        self, B: ArrayLike, epsilon: ArrayLike, under: str = "true", log10: bool = False
    ) -> np.ndarray:
        r"""Return the exact l_inf^ε-robust error Φ((ε - m)/√v) of tied weights with share B.

        On Definition 4's class ‖w‖₁ = 1, so the attack takes ε off every margin.

        Args:
            B: share of weight on the sufficient non-robust features, in [0, 1].
            epsilon: radius of the attack, >= 0, broadcast to B.
            under: "true" (test error) or "observed" (training error in the limit of Ψ_sample,c).
            log10: return log10 of the error, finite where it underflows.
        """
        B, epsilon = reals(B=B, epsilon=epsilon)
        margin = self.mean(B, under) - epsilon
        return error_at(z_score(margin, np.sqrt(self.variance(B, under))), log10)

    def robust_error_of(
        self, w: ArrayLike, epsilon: ArrayLike, under: str = "true", log10: bool = False
    ) -> np.ndarray:
        r"""Return the exact robust error Φ((ε‖w‖₁ - wᵀμ)/√(Σσ_i²w_i²)) of any weights w.

        w has shape (..., d + 1), any sign and scale, and is not 0; epsilon is broadcast to (...).
        The other arguments are as in `robust_error`.
        """
        w, epsilon = real("w", w), real("epsilon", epsilon, 0)
        check.that(
            w.shape[-1:] == (self.d + 1,), "w.shape", w.shape, f"(..., d + 1 = {self.d + 1})"
        )
        unit = directions(w)
        broadcast(w=unit[..., 0], epsilon=epsilon)
        margin = unit @ self.means(under) - epsilon * np.abs(unit).sum(axis=-1)
        deviation = np.linalg.norm(unit * self.deviations(under), axis=-1)
        return error_at(z_score(margin, deviation), log10)

    def robust_optimum(self, epsilon: float, under: str = "true") -> float:
        r"""Return the B in [0, 1] of least robust error among tied weights, exactly.

        Inside, B/(1 - B) = (m_B - ε) v_A / ((m_A - ε) v_B) with the groups' moments, which is
        there iff ε < η. For ε >= η it is 0, unless no B has error below 1/2, where it is whichever
        end is better; ties go to the smaller B.

        Args:
            epsilon: radius of the attack, >= 0.
            under: "true" or "observed".
        """
        epsilon = number("epsilon", epsilon, 0)
        g = self.groups(under)
        margin_a, margin_b = g.mean_a - epsilon, g.mean_b - epsilon
        if margin_b > 0:
            top = margin_b * g.variance_a
            bottom = margin_a * g.variance_b
            return top / (top + bottom) if top + bottom > 0 else 0.0
        ends = z_score([margin_a, margin_b], np.sqrt([g.variance_a, g.variance_b]))
        return float(ends[1] > ends[0])

    def planting_divergence(self) -> float:
        r"""Return KL(N(1, σ_A²) ‖ N(η, σ_B²)) in nats, from an insufficient feature to a true one.

        Drawn from Ψ_true, a feature imitates the robust one over n examples with probability of
        order exp(-n KL). inf where either deviation is 0.
        """
        if self.sigma_a == 0 or self.sigma_b == 0:
            return np.inf
        spread = (self.sigma_a**2 + (1 - self.eta) ** 2) / (2 * self.sigma_b**2)
        return float(np.log(self.sigma_b / self.sigma_a) + spread - 0.5)

    def chance_features(self, n: ArrayLike, epsilon: ArrayLike) -> np.ndarray:
        r"""Return how many of the d non-robust features have a mean of y x above ε in n examples.

        d Φ(-(ε - η)√n / σ_B), the expected number; these are the ones that adversarial training on
        drawn data keeps at first (`sample_means`).

        Args:
            n: size of the training set, >= 1.
            epsilon: radius of the attack, >= 0.
        """
        n, epsilon = reals(n=n, epsilon=epsilon)
        return self.d * ndtr(z_score((self.eta - epsilon) * np.sqrt(n), self.sigma_b))


def _minimise_on_simplex(variances: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the w >= 0, Σw = 1 that minimises Σ v_i w_i² + (Σ m_i w_i)²."""
    step = 0.5 / (variances.max() + means @ means)
    w = previous = np.full(means.size, 1 / means.size)
    momentum = 1.0
    for _ in range(200_000):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = w + (momentum - 1) / following * (w - previous)
        gradient = 2 * (variances * ahead + means * (means @ ahead))
        new = _onto_simplex(ahead - step * gradient)
        # restarting when the momentum points uphill keeps the convergence linear
        momentum = 1.0 if (ahead - new) @ (new - w) > 0 else following
        previous, w = w, new
        if np.abs(w - ahead).max() < 1e-15:
            return w
    raise RuntimeError("the search for the least variance did not settle; is sigma_b >> sigma_a?")


def _onto_simplex(w: np.ndarray) -> np.ndarray:
    falling = np.sort(w)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, w.size + 1)
    return np.maximum(w - excess[falling > excess][-1], 0.0)


def _theorem(d: ArrayLike, c: ArrayLike, rho: ArrayLike) -> list[np.ndarray]:
    d, c, rho = reals(d=d, c=c, rho=rho)
    fine = bool(((c > 0) & (c < d)).all())
    check.that(fine, "c", c.tolist(), f"0 < c < d everywhere, where d = {d.tolist()}")
    return [d, c, rho]


def theorem_2_weight(d: ArrayLike, c: ArrayLike, rho: ArrayLike = 0.0) -> np.ndarray:
    r"""Return ρ/((1 + c) + (d - c)ρ), each weight w_B of least Ψ_sample,c variance.

    The variance is class-conditional. Unlike the paper, whose Equation (10) says 0, this is exact
    for every ρ; ρ = 0 is the paper's limit. It needs no tying.

    Args:
        d: number of non-robust features, >= 1.
        c: number of insufficient ones, 0 < c < d.
        rho: σ_A²/σ_B², >= 0.
    """
    d, c, rho = _theorem(d, c, rho)
    return (rho / ((1 + c) + (d - c) * rho))[()]


def theorem_3_weight(d: ArrayLike, c: ArrayLike, rho: ArrayLike = 0.0) -> np.ndarray:
    r"""Return (c + ρ)/((1 + c)² + (d - c)(c + ρ)), each w_B of least Ψ_true variance.

    The variance is class-conditional, and x_1..x_{c+1} are tied. ρ = 0 is the paper's Equation
    (11), c/(cd + 2c + 1). Arguments as in `theorem_2_weight`.
    """
    d, c, rho = _theorem(d, c, rho)
    return ((c + rho) / ((1 + c) ** 2 + (d - c) * (c + rho)))[()]


def untied_weight(d: ArrayLike, rho: ArrayLike = 0.0) -> np.ndarray:
    r"""Return ρ/(1 + dρ), each non-robust weight of least Ψ_true variance without ties.

    The variance is class-conditional. The robust weight is 1/(1 + dρ). Unlike the paper's
    Theorem 3, it vanishes with ρ. Arguments as in `theorem_2_weight`.
    """
    d, rho = reals(d=d, rho=rho)
    return (rho / (1 + d * rho))[()]


def rise_factor(
    d: ArrayLike,
    c: ArrayLike,
    eta: ArrayLike,
    sigma_a: ArrayLike,
    sigma_b: ArrayLike,
    epsilon: ArrayLike,
) -> np.ndarray:
    r"""Return the overshoot: robust test error at w_B = 0 over the least on the way from uniform.

    1 where the way down to w_B = 0 only lowers the error, as for every ε >= η whose optimum is 0.
    Vectorised over its arguments, for phase maps; those of FeatureModel and `robust_error`, with
    0 <= c < d, σ_A > 0 or c > 0, and σ_B > 0. inf where the ratio exceeds the largest float.
    """
    d, c, eta, sigma_a, sigma_b, epsilon = reals(
        d=d, c=c, eta=eta, sigma_a=sigma_a, sigma_b=sigma_b, epsilon=epsilon
    )
    if not ((c < d) & ((c > 0) | (sigma_a > 0))).all():
        raise ValueError("c must satisfy 0 <= c < d, and c > 0 where sigma_a is 0")
    variance_a = (sigma_a**2 + c * sigma_b**2) / (1 + c) ** 2
    variance_b = sigma_b**2 / (d - c)
    margin_a, margin_b = (1 + c * eta) / (1 + c) - epsilon, eta - epsilon
    top = np.maximum(margin_b, 0) * variance_a
    with np.errstate(invalid="ignore"):
        optimum = np.where(margin_b > 0, top / (top + margin_a * variance_b), 0.0)
    start = (d - c) / (d + 1)

    def log_error(B: np.ndarray) -> np.ndarray:
        margin = margin_a * (1 - B) + margin_b * B
        return error_at(margin / np.sqrt(variance_a * (1 - B) ** 2 + variance_b * B**2), log10=True)

    end = log_error(np.zeros_like(start))
    # without a minimum inside, the least error on the way is at one of its two ends
    least = np.minimum(np.minimum(log_error(start), end), log_error(np.minimum(optimum, start)))
    with np.errstate(over="ignore"):
        return 10.0 ** (end - least)


class Preset(NamedTuple):
    """A model and the radius at which it shows something."""

    model: FeatureModel
    epsilon: float


PRESETS: dict[str, Preset] = {
    "S1": Preset(FeatureModel(100, 1, 0.28, 0.05, 0.7), 0.2),
    "S2": Preset(FeatureModel(1000, 1, 0.28, 0.05, 1.0), 0.2),
    "S3": Preset(FeatureModel(500, 5, 0.216, 0.05, 0.3), 0.2),
    "S4": Preset(FeatureModel(200, 10, 0.25, 0.05, 0.4), 0.2),
    "S5": Preset(FeatureModel(100, 10, 0.3, 0.1, 0.5), 0.3),
    "S6": Preset(FeatureModel(100, 10, 0.1, 0.1, 1.0), 0.2),
}
"""Settings by name. S1: falls and rises by as much. S2: catastrophic rise. S3, S4: more
insufficient features. S5: ε = η, no overshoot. S6: ε = 2η, where every B errs on more than half."""
