"""The paper's Gaussian toy models, Section 3.1: exact errors, bounds, flows. numpy and scipy only.

model       Example 1, Definitions 1-3: errors, sampling, fitting
laws        the law of those errors over training sets
bounds      Theorem 1, Corollary 1
features    Examples 2-3, Definition 4, Theorems 2-3, presets S1-S6
objectives  losses: hard labels, label smoothing, AVmixup
stationary  the population loss and where training on it ends
flows       adversarial feature overfitting: the paths there
soft        what soft labels prescribe
labels      labels that a model sets, at points inside the ball, at the vertex and beyond
finite      training on drawn data
"""

from avmixup_kit.gaussian import labels
from avmixup_kit.gaussian.bounds import (
    alignment_bound,
    epsilon_exact,
    epsilon_for_error,
    epsilon_paper,
    epsilon_tight,
    probability,
    robust_error_bound,
    slope,
    slope_tight,
    standard_error_bound,
    theorem_1_probability,
    vacuous,
)
from avmixup_kit.gaussian.features import (
    PRESETS,
    FeatureModel,
    Groups,
    Preset,
    rise_factor,
    theorem_2_weight,
    theorem_3_weight,
    untied_weight,
)
from avmixup_kit.gaussian.finite import SampleTraining, sample_means, train_on_sample
from avmixup_kit.gaussian.flows import Flow, flow, time_to_share
from avmixup_kit.gaussian.laws import (
    ErrorLaw,
    critical_epsilon,
    error_law,
    mean_abs,
    robust_errors_exact,
    robust_errors_fast,
    typical_z,
)
from avmixup_kit.gaussian.model import error_at, fit, robust_error, sample, standard_error
from avmixup_kit.gaussian.objectives import AVmixup, LabelSmoothing
from avmixup_kit.gaussian.soft import (
    low_noise_share,
    matching_gamma,
    matching_smoothing,
    zero_crossing,
)
from avmixup_kit.gaussian.stationary import (
    Stationary,
    effective_epsilon,
    expected_loss,
    loss_slope,
    stationary_point,
)

__all__ = [
    "PRESETS",
    "AVmixup",
    "ErrorLaw",
    "FeatureModel",
    "Flow",
    "Groups",
    "LabelSmoothing",
    "Preset",
    "SampleTraining",
    "Stationary",
    "alignment_bound",
    "critical_epsilon",
    "effective_epsilon",
    "epsilon_exact",
    "epsilon_for_error",
    "epsilon_paper",
    "epsilon_tight",
    "error_at",
    "error_law",
    "expected_loss",
    "fit",
    "flow",
    "labels",
    "loss_slope",
    "low_noise_share",
    "matching_gamma",
    "matching_smoothing",
    "mean_abs",
    "probability",
    "rise_factor",
    "robust_error",
    "robust_error_bound",
    "robust_errors_exact",
    "robust_errors_fast",
    "sample",
    "sample_means",
    "slope",
    "slope_tight",
    "standard_error",
    "standard_error_bound",
    "stationary_point",
    "theorem_1_probability",
    "theorem_2_weight",
    "theorem_3_weight",
    "time_to_share",
    "train_on_sample",
    "typical_z",
    "untied_weight",
    "vacuous",
    "zero_crossing",
]
