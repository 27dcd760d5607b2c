"""The paper's settings and published numbers, as data; nothing here was measured with this kit.

Lee, Lee and Yoon, "Adversarial Vertex Mixup: Toward Better Adversarially Robust Generalization",
CVPR 2020. Accuracies are percent. Where the paper and the authors' released code differ,
``PAPER_VS_CODE`` says how; ``INCONSISTENCIES`` lists where the paper disagrees with itself;
``THIRD_PARTY`` holds what others measured with stronger attacks.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from avmixup_kit._base import check
from avmixup_kit._base.tables import aligned


@dataclass(frozen=True)
class Table:
    """One of the paper's tables: accuracies in percent, None where the paper prints "-".

    ``heading`` names the first column; rows that the paper groups by data set are called
    "CIFAR10 / PGD". Iterating gives (row, column, value); ``str()`` is the table in Markdown.
    """

    number: int
    title: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        if len(self.cells) != shape[0] or any(len(row) != shape[1] for row in self.cells):
            raise ValueError(f"cells are not {shape[0]} rows of {shape[1]} columns")
        for name, labels in (("rows", self.rows), ("columns", self.columns)):
            check.that(len(set(labels)) == len(labels), name, labels, "a name occurs twice")

    def value(self, row: str, column: str) -> float | None:
        """Return the accuracy in percent in this cell, None where the paper prints "-".

        Raises:
            KeyError: the table has no such row or column.
        """
        for name, label, labels in (("row", row, self.rows), ("column", column, self.columns)):
            if label not in labels:
                raise KeyError(f"{name} = {label!r} is not in Table {self.number}: {labels}")
        return self.cells[self.rows.index(row)][self.columns.index(column)]

    def __iter__(self) -> Iterator[tuple[str, str, float | None]]:
        for row, cells in zip(self.rows, self.cells, strict=True):
            for column, value in zip(self.columns, cells, strict=True):
                yield row, column, value

    def __str__(self) -> str:
        lines = [[self.heading, *self.columns]]
        for row, cells in zip(self.rows, self.cells, strict=True):
            lines.append([row, *("-" if value is None else f"{value:.2f}" for value in cells)])
        head, *body = aligned(lines)
        rule = ["-" * len(head[0]), *("-" * (len(cell) - 1) + ":" for cell in head[1:])]
        text = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))
        parts = [f"Table {self.number}: {self.title}", text]
        return "\n\n".join([*parts, self.note] if self.note else parts)

    def _repr_markdown_(self) -> str:
        return str(self)


def _table(number: int, title: str, text: str, note: str = "") -> Table:
    """Return a table from its text: two spaces or more between cells, the heading first."""
    head, *lines = (re.split(r" {2,}", line.strip()) for line in text.strip().splitlines())
    cells = tuple(
        tuple(None if cell == "-" else float(cell) for cell in values) for _, *values in lines
    )
    heading, *columns = head
    return Table(
        number, title, heading, tuple(columns), tuple(row for row, *_ in lines), cells, note
    )


TABLE_1 = _table(
    1,
    "Accuracy against white-box attacks on CIFAR10",
    """
    Model     Clean  FGSM   PGD10  PGD20  CW20
    Standard  95.48   7.25   0.0    0.0    0.0
    PGD       86.88  62.68  47.69  46.34  47.35
    LS0.8     87.28  66.09  53.49  50.87  50.60
    LS0.9     87.64  65.96  52.82  50.29  50.30
    AVmixup   93.24  78.25  62.67  58.23  53.63
    """,
)

TABLE_2 = _table(
    2,
    "Accuracy against transfer-based black-box attacks (PGD20) on CIFAR10",
    """
    Defense model  Standard  PGD    LS0.8  LS0.9
    PGD            85.6      -      65.70  64.91
    LS0.8          86.03     63.60  -      64.83
    LS0.9          86.40     63.74  65.78  -
    AVmixup        89.53     68.51  71.48  70.50
    """,
    "Columns are the models that the adversarial examples were made on.",
)

TABLE_3 = _table(
    3,
    "Comparison with TRADES on CIFAR10",
    """
    Models                 Clean  PGD20
    PGD                    87.3   47.04
    TRADES (1/lambda = 1)  88.64  49.14
    TRADES (1/lambda = 6)  84.92  56.61
    AVmixup                90.36  58.27
    """,
    "All but AVmixup's row are TRADES' own figures (its PGD20 takes steps of 0.003).",
)

TABLE_4 = _table(
    4,
    "AVmixup on CIFAR100, SVHN and Tiny ImageNet",
    """
    Dataset / Model          Clean  FGSM   PGD20
    CIFAR100 / PGD           61.29  46.01  25.17
    CIFAR100 / LS0.8         62.1   52.33  28.81
    CIFAR100 / LS0.9         61.77  53.17  27.13
    CIFAR100 / AVmixup       74.81  62.76  38.49
    SVHN / PGD               92.4   75.31  58.22
    SVHN / LS0.8             92.15  75.84  59.75
    SVHN / LS0.9             92.34  76.14  59.28
    SVHN / AVmixup           95.59  81.83  61.90
    Tiny ImageNet / PGD      41.67  20.30  13.14
    Tiny ImageNet / LS0.8    42.89  22.75  15.43
    Tiny ImageNet / LS0.9    41.71  20.96  14.03
    Tiny ImageNet / AVmixup  54.27  35.46  20.31
    """,
)

TABLE_5 = _table(
    5,
    "AVmixup with Feature Scatter",
    """
    Dataset / Model                       Clean  FGSM   PGD20  PGD100  CW20   CW100
    CIFAR10 / PGD                         85.7   54.9   44.9   44.8    45.7   45.4
    CIFAR10 / Feature Scatter             90.22  78.19  69.74  67.35   60.77  58.29
    CIFAR10 / Feature Scatter + AVmixup   92.37  83.49  82.31  81.88   71.88  69.50
    CIFAR100 / PGD                        59.9   28.5   22.6   22.3    23.2   23.0
    CIFAR100 / Feature Scatter            74.9   72.99  45.29  42.77   27.35  24.89
    CIFAR100 / Feature Scatter + AVmixup  78.62  78.92  47.28  46.29   33.20  31.22
    SVHN / PGD                            93.9   68.4   47.9   46.0    48.7   47.3
    SVHN / Feature Scatter                96.42  95.92  58.67  46.98   51.23  38.89
    SVHN / Feature Scatter + AVmixup      96.07  95.26  73.65  70.24   67.06  62.01
    """,
    "PGD's rows are Feature Scatter's figures; the others are the paper's, at the end of training.",
)

TABLE_6 = _table(
    6,
    "Sensitivity of Feature Scatter + AVmixup (gamma = 1) to label smoothing on CIFAR10",
    """
    lambda1 / lambda2  Clean  FGSM   PGD20  CW20
    0.1 / 0.5          91.94  80.09  74.43  62.87
    0.5 / 0.3          92.82  77.81  57.67  55.18
    0.5 / 0.7          92.37  83.49  82.31  71.88
    1.0 / 0.5          93.07  79.55  53.42  56.72
    """,
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6)


@dataclass(frozen=True)
class Recipe:
    """How the paper trains one network on one data set (Sections 5.1, 5.2 and 5.4).

    Names are this kit's: ``dataset`` of ``data``, ``network`` of ``models.build``, ``perturbation``
    of ``methods``. What the paper leaves unsaid is the released code's: momentum, batch size,
    augmentation and, for Feature Scatter, everything but gamma and the lambdas. Epsilon and
    step_size are for images in [0, 1]; ``decay_at`` are fractions of ``steps``, where the learning
    rate is multiplied by ``decay_factor``; ``pad`` zero pixels a side precede the random crop.
    ``decay_all``: weight decay also on biases and batch norm. Defaults are Section 5.1's, AVmixup
    with PGD on CIFAR.
    """

    dataset: str
    network: str
    perturbation: Literal["pgd", "feature_scatter"] = "pgd"
    gamma: float = 2.0
    lambda1: float = 1.0
    lambda2: float = 0.1
    steps: int = 80_000
    lr: float = 0.1
    decay_at: tuple[float, ...] = (0.5, 0.75)
    pad: int = 2
    flip: bool = True
    attack_steps: int = 10
    step_size: float = 2 / 255
    batch_size: int = 128
    decay_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    decay_all: bool = False
    epsilon: float = 8 / 255


# AVmixup with PGD. The released code trains on CIFAR only: for SVHN and Tiny ImageNet the
# augmentation is its CIFAR one, without the flip where that would turn a digit into no digit.
RECIPES = {
    recipe.dataset: recipe
    for recipe in (
        Recipe("cifar10", "wrn-34-10"),
        Recipe("cifar100", "wrn-34-10"),
        Recipe("svhn", "wrn-16-8", lr=0.01, flip=False),
        Recipe("tiny_imagenet", "preact_resnet18", steps=50_000),
    )
}

# AVmixup with Feature Scatter, "the same model architecture and configuration as in [40]": 200
# passes in batches of 60, the last one smaller, decays after passes 60 and 90. Its released script
# is CIFAR-10's; that SVHN keeps its learning rate is an assumption.
_SCATTER = Recipe(
    "cifar10",
    "wrn-28-10",
    "feature_scatter",
    gamma=1.0,
    lambda1=0.5,
    lambda2=0.7,
    steps=200 * -(-50_000 // 60),
    decay_at=(60 / 200, 90 / 200),
    pad=4,
    attack_steps=1,
    step_size=8 / 255,
    batch_size=60,
    decay_all=True,
)
FEATURE_SCATTER_RECIPES = {
    "cifar10": _SCATTER,
    "cifar100": replace(_SCATTER, dataset="cifar100", gamma=1.5, lambda1=0.3, lambda2=0.42),
    "svhn": replace(_SCATTER, dataset="svhn", steps=200 * -(-73_257 // 60), pad=0, flip=False),
}


@dataclass(frozen=True)
class AttackSetting:
    """One attack column of the paper's tables: uniform start or none, one restart, eval batch norm.

    ``start`` is None where the paper does not say.
    """

    name: str
    steps: int
    step_size: float
    start: Literal["uniform"] | None = "uniform"
    kappa: float | None = None
    epsilon: float = 8 / 255


ATTACKS = {
    setting.name: setting
    for setting in (
        AttackSetting("FGSM", 1, 8 / 255, start=None),
        AttackSetting("PGD10", 10, 2 / 255),
        AttackSetting("PGD20", 20, 2 / 255),
        AttackSetting("PGD100", 100, 2 / 255),
        AttackSetting("CW20", 20, 2 / 255, kappa=50.0),
        AttackSetting("CW100", 100, 2 / 255, kappa=50.0),
    )
}


@dataclass(frozen=True)
class Difference:
    """One point on which the paper and the authors' released TensorFlow code are not the same."""

    point: str
    paper: str
    code: str


PAPER_VS_CODE = (
    Difference(
        "perturbation",
        "PGD, 10 steps of 2, epsilon 8 (pixels 0 to 255)",
        "the same from a uniform start clipped to valid pixels; every step is projected to the "
        "ball and to valid pixels; cross-entropy on the hard label",
    ),
    Difference(
        "delta", "the adversarial perturbation", "already clipped to valid pixels when scaled"
    ),
    Difference("vertex", "x + gamma delta, Equation (12), not clipped", "clipped to valid pixels"),
    Difference(
        "alpha", "U(0, 1), Algorithm 1 line 5", "Beta(1, 1), the same, one for each example"
    ),
    Difference(
        "batch norm while crafting",
        "silent",
        "the batch's statistics; running averages not updated (updated in the first release)",
    ),
    Difference("loss", "L(x_hat, y_hat), unnamed", "soft-label cross-entropy, mean over the batch"),
    Difference(
        "input", "silent", "standardised per image inside the network, gradients flow through"
    ),
    Difference("augmentation", "silent", "2 zero pixels a side, random crop of 32, random flip"),
    Difference("batch size", "silent", "128"),
    Difference("momentum", "silent", "0.9"),
    Difference("weight decay", "2e-4", "2e-4, on convolution and dense kernels only"),
    Difference(
        "network",
        "WRN-34-10",
        "the same depth and widths with leaky ReLU 0.1 and shortcuts without weights "
        "(average pool, zero channels): wide_resnet(34, 10, variant='authors')",
    ),
)

INCONSISTENCIES = (
    "Definition 6 takes lambda1 and lambda2 from the reals and phi's lambda from the open interval "
    "(0, 1); every experiment with PGD uses lambda1 = 1.0.",
    "With k = 10 lambda2 = 0.1 makes the vertex label exactly uniform; the same 0.1 with the 100 "
    "and 200 classes of CIFAR100 and Tiny ImageNet does not.",
    "AVmixup on CIFAR10 has two results, 93.24 / 58.23 (Table 1) and 90.36 / 58.27 (Table 3, from "
    "TRADES' code); Section 5.2 says the latter follows the configurations of Madry et al.",
    "The PGD baseline on CIFAR10 has three results for Clean / PGD20: 86.88 / 46.34 (Table 1), "
    "87.3 / 47.04 (Table 3, TRADES' figures) and 85.7 / 44.9 (Table 5, Feature Scatter's figures).",
    "Section 5.4 says that Feature Scatter + AVmixup is significantly more accurate than Feature "
    "Scatter alone; on SVHN it is lower on Clean (96.07 against 96.42) and FGSM (95.26, 95.92).",
    "Soft labels are said to raise all accuracies, clean data included (Section 5.2, on Table 1); "
    "on SVHN (Table 4) both LS0.8 and LS0.9 are below PGD on Clean.",
    "Table 2 has no column for AVmixup as the attack model, so its adversarial examples are never "
    "given to the other models.",
    "Algorithm 1 counts training in epochs, Section 5.1 in steps, and the batch size that would "
    "connect the two is not stated.",
    "Section 5.1 defines PGD and CW with T steps, but for FGSM no start or step is stated.",
)


@dataclass(frozen=True)
class ThirdParty:
    """Accuracies in percent that others measured: CIFAR-10, l_inf, epsilon 8/255.

    ``weak`` is the accuracy under the attack ``weak_attack``, ``strong`` under ``strong_attack``;
    None where the source gives none.
    """

    model: str
    clean: float | None
    weak_attack: str
    weak: float
    strong_attack: str | None
    strong: float | None
    source: str


_Figures = tuple[str, float | None, str, float, str | None, float | None]
_MEASURED: dict[str, tuple[_Figures, ...]] = {
    "RobustBench / AutoAttack table": (
        ("Feature Scatter, WRN-28-10", 89.98, "the authors' own", 60.6, "AutoAttack", 36.64),
    ),
    "README of a public re-implementation": (
        ("AVmixup, ResNet-18", 89.07, "PGD10", 61.30, "AutoAttack", 20.57),
    ),
    "README of another public re-implementation (the paper's CW20: 53.63)": (
        ("AVmixup, WRN-34-10", 94.97, "PGD20", 57.54, "CW20", 40.5),
    ),
    "RobustBench": (
        ("TRADES (1/lambda = 6), WRN-34-10", 84.92, "PGD20", 56.4, "AutoAttack", 53.08),
        ("PGD (Madry et al.), WRN-34-10", 87.14, "PGD20", 47.04, "AutoAttack", 44.04),
    ),
    "Rice et al.'s logs; AutoAttack: a re-implementation's ResNet-18": (
        ("PGD, PreActResNet18, best checkpoint", 82.9, "PGD10", 53.5, "AutoAttack", 47.6),
        ("PGD, PreActResNet18, last checkpoint", 84.9, "PGD10", 45.6, "AutoAttack", 41.2),
    ),
    "Rice et al.'s logs": (
        ("PGD, WRN-34-10, best checkpoint", None, "PGD10", 56.8, None, None),
        ("PGD, WRN-34-10, last checkpoint", None, "PGD10", 48.6, None, None),
    ),
}
THIRD_PARTY = tuple(ThirdParty(*row, source) for source, rows in _MEASURED.items() for row in rows)
