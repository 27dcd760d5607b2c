from . import evaluation, gaussian, methods, models, paper, plots, search, tuning
from .data import (
    Data,
    Split,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    image_folder,
    svhn,
    tiny_imagenet,
)
from .evaluation import (
    Evaluation,
    accuracy_against_epsilon,
    evaluate,
    mcnemar,
    transfer_matrix,
    wilson,
)
from .evaluation.alarms import alarms
from .evaluation.autoattack import autoattack
from .evaluation.report import report
from .evaluation.transfer import transfer_heatmap
from .methods import (
    Batch,
    Method,
    Networks,
    attacks,
    avmixup,
    feature_scatter,
    feature_scatter_avmixup,
    label_smoothing,
    mixing,
    mixup,
    pgd_training,
    standard,
    trades,
)
from .methods.attacks import Attack, ascend, cw, fgsm, pgd
from .methods.mixing import Adversarial, AVmixup, Mixup
from .models import preact_resnet18, small_cnn, wide_resnet
from .models.export import export
from .training import Dial, Record, Settings, Training, TrainingDiverged, Turn, runs

__version__: str

__all__ = [
    "AVmixup",
    "Adversarial",
    "Attack",
    "Batch",
    "Data",
    "Dial",
    "Evaluation",
    "Method",
    "Mixup",
    "Networks",
    "Record",
    "Settings",
    "Split",
    "Training",
    "TrainingDiverged",
    "Turn",
    "accuracy_against_epsilon",
    "alarms",
    "ascend",
    "attacks",
    "autoattack",
    "avmixup",
    "cifar10",
    "cifar100",
    "cw",
    "digits",
    "evaluate",
    "evaluation",
    "export",
    "fashion_mnist",
    "feature_scatter",
    "feature_scatter_avmixup",
    "fgsm",
    "gaussian",
    "image_folder",
    "label_smoothing",
    "mcnemar",
    "methods",
    "mixing",
    "mixup",
    "models",
    "paper",
    "pgd",
    "pgd_training",
    "plots",
    "preact_resnet18",
    "report",
    "runs",
    "search",
    "small_cnn",
    "standard",
    "svhn",
    "tiny_imagenet",
    "trades",
    "transfer_heatmap",
    "transfer_matrix",
    "tuning",
    "wide_resnet",
    "wilson",
]
