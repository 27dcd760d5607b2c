"""Is it really robust? Attacks by images, alarms, comparisons, one report."""

from avmixup_kit._base.statistics import mcnemar, wilson
from avmixup_kit._base.tables import text_table
from avmixup_kit.evaluation.compare import Comparison, compare
from avmixup_kit.evaluation.crafting import craft, starts
from avmixup_kit.evaluation.images import ImageSet, model_device
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import CLEAN, Evaluation, Judge, Rule, Verdict
from avmixup_kit.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "CLEAN",
    "Comparison",
    "Evaluation",
    "ImageSet",
    "Judge",
    "Rule",
    "TransferMatrix",
    "Verdict",
    "compare",
    "craft",
    "evaluate",
    "mcnemar",
    "model_device",
    "starts",
    "text_table",
    "transfer_matrix",
    "wilson",
]
