"""What soft labels do in the toy model: the vertex's prescription, and the labels that undo AFO."""

import numpy as np
from scipy.optimize import root
from scipy.special import expit

from avmixup_kit._base import check
from avmixup_kit.gaussian.arguments import number
from avmixup_kit.gaussian.features import FeatureModel
from avmixup_kit.gaussian.objectives import AVmixup, forces, segment


def zero_crossing(lambda1: float, lambda2: float) -> float:
    r"""Return u₀, where the logit line fitted to AVmixup's labels crosses zero.

    Without noise a linear model's logit along the segment is a line z₀ - k u. The one of least
    soft-label loss to λ₁ - u(λ₁ - λ₂) over u in [0, 1] crosses zero at u₀ = z₀/k, so learned scale
    drives the mean margin per unit of ‖w‖₁ to γ ε u₀.

    Args:
        lambda1: mass on the true class at the clean point, in [0, 1].
        lambda2: mass on the true class at the vertex, in [0, 1] and < lambda1.
    """
    method = AVmixup(1.0, lambda1, lambda2)
    weight, u, label = segment(method)
    allowed = f"< lambda1 = {lambda1!r}: labels that do not fall have no crossing"
    check.that(method.lambda2 < method.lambda1, "lambda2", lambda2, allowed)

    def miss(line: np.ndarray) -> list[float]:
        gap = weight * (label - expit(line[0] - line[1] * u))
        return [gap.sum(), (gap * u).sum()]

    def jacobian(line: np.ndarray) -> list[list[float]]:
        p = expit(line[0] - line[1] * u)
        h = weight * p * (1 - p)
        cross = (h * u).sum()
        return [[-h.sum(), cross], [-cross, (h * u * u).sum()]]

    ends = np.clip([method.lambda1, method.lambda2], 0.05, 0.95)
    begin = np.log(ends / (1 - ends))
    fit = root(miss, [begin[0], begin[0] - begin[1]], jac=jacobian, method="hybr", tol=1e-13)
    if not np.abs(miss(fit.x)).max() < 1e-10:
        raise RuntimeError(f"no logit line fits lambda1={lambda1!r}, lambda2={lambda2!r}")
    return float(fit.x[0] / fit.x[1])


def low_noise_share(model: FeatureModel, method: AVmixup, epsilon: float) -> float:
    """Return the share B that AVmixup prescribes at learned scale as noise vanishes.

    (1 - γ ε u₀)/(1 - η), cut to [0, 1], with u₀ = `zero_crossing`.

    Args:
        model: the features.
        method: an AVmixup with lambda2 < lambda1.
        epsilon: radius of the attack, >= 0.
    """
    epsilon = number("epsilon", epsilon, 0)
    crossing = zero_crossing(method.lambda1, method.lambda2)
    share = (1 - method.gamma * epsilon * crossing) / (1 - model.eta)
    return min(1.0, max(0.0, share))


def matching_gamma(
    model: FeatureModel, epsilon: float, lambda1: float = 1.0, lambda2: float = 0.5
) -> float:
    """Return the gamma whose `low_noise_share` is the robust optimum: (1 - (1 - η)B*)/(ε u₀).

    Labels as in `zero_crossing`; epsilon, the radius of the attack, must be > 0.
    """
    epsilon = number("epsilon", epsilon, 0, open_low=True)
    best = model.robust_optimum(epsilon)
    return (1 - (1 - model.eta) * best) / (epsilon * zero_crossing(lambda1, lambda2))


def matching_smoothing(model: FeatureModel, epsilon: float, scale: float) -> float:
    r"""Return the λ whose LS optimum on the simplex is the robust optimum B* at this scale.

    F'(B*) is linear in λ, so λ = 1 - E σ(-z) - s v'(B*) E σ'(z) / (2(1 - η)). A value above 1 or
    below 0 means that no label does it.

    Args:
        model: the features.
        epsilon: radius of the attack, >= 0.
        scale: logit scale on the simplex, > 0.
    """
    epsilon, scale = number("epsilon", epsilon, 0), number("scale", scale, 0, open_low=True)
    B, g = model.robust_optimum(epsilon), model.groups("observed")
    deviation = np.sqrt(model.variance(B, "observed"))
    f = forces("logistic", model.mean(B, "observed"), deviation, scale, epsilon)
    curve = scale * (g.variance_b * B - g.variance_a * (1 - B)) * f.h / (1 - model.eta)
    return float(1 - (f.g0 + curve) * np.exp(f.log_scale))
