"""Is it really robust? Attacks by images, alarms, comparisons, one report."""

from avmixup_kit._base.statistics import mcnemar, wilson
from avmixup_kit._base.tables import markdown_table, text_table
from avmixup_kit.evaluation.compare import Comparison, compare
from avmixup_kit.evaluation.crafting import craft, starts
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.evaluation.draws import MeanOverDraws
from avmixup_kit.evaluation.epsilons import (
    EpsilonCurve,
    accuracy_against_epsilon,
    epsilon_figure,
)
from avmixup_kit.evaluation.images import ImageSet, model_device
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import CLEAN, Evaluation, Judge, Rule, Verdict, card
from avmixup_kit.evaluation.rows import Crafter
from avmixup_kit.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "CLEAN",
    "Comparison",
    "Crafter",
    "EpsilonCurve",
    "Evaluation",
    "ImageSet",
    "Judge",
    "MeanOverDraws",
    "Rule",
    "TransferMatrix",
    "Verdict",
    "accuracy_against_epsilon",
    "card",
    "compare",
    "craft",
    "epsilon_figure",
    "evaluate",
    "markdown_table",
    "mcnemar",
    "model_device",
    "robust_curves",
    "starts",
    "text_table",
    "transfer_matrix",
    "wilson",
]
