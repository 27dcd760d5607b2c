"""avmixup_kit: understand, train and honestly evaluate Adversarial Vertex mixup (CVPR 2020).

import avmixup_kit as av
"""

from avmixup_kit import (
    attacks,
    evaluation,
    gaussian,
    methods,
    mixing,
    models,
    paper,
    runs,
    tuning,
)
from avmixup_kit.attacks import Attack, ascend, cw, fgsm, pgd
from avmixup_kit.autoattack import autoattack
from avmixup_kit.data import (
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
from avmixup_kit.evaluation import Evaluation, evaluate, mcnemar, transfer_matrix, wilson
from avmixup_kit.methods import (
    Method,
    avmixup,
    feature_scatter,
    feature_scatter_avmixup,
    label_smoothing,
    mixup,
    standard,
    trades,
)
from avmixup_kit.mixing import Adversarial, AVmixup, Mixup
from avmixup_kit.models import preact_resnet18, small_cnn, wide_resnet
from avmixup_kit.training import Dial, Record, Settings, Training, TrainingDiverged, Turn

__version__ = "0.1.0"

__all__ = [
    "AVmixup",
    "Adversarial",
    "Attack",
    "Data",
    "Dial",
    "Evaluation",
    "Method",
    "Mixup",
    "Record",
    "Settings",
    "Split",
    "Training",
    "TrainingDiverged",
    "Turn",
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
    "preact_resnet18",
    "runs",
    "small_cnn",
    "standard",
    "svhn",
    "tiny_imagenet",
    "trades",
    "transfer_matrix",
    "tuning",
    "wide_resnet",
    "wilson",
]
