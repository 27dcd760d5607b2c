"""From a method to weights: the dial, the loop, run folders. It knows nothing of evaluation."""

from avmixup_kit._base.precision import float32_products, native_bf16, native_tf32
from avmixup_kit.training import runs
from avmixup_kit.training.dial import Dial, Turn
from avmixup_kit.training.loop import Methods, Record, Training, TrainingDiverged
from avmixup_kit.training.settings import Precision, Settings
from avmixup_kit.training.updates import Optimizer, Schedule

__all__ = [
    "Dial",
    "Methods",
    "Optimizer",
    "Precision",
    "Record",
    "Schedule",
    "Settings",
    "Training",
    "TrainingDiverged",
    "Turn",
    "float32_products",
    "native_bf16",
    "native_tf32",
    "runs",
]
