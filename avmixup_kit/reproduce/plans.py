"""Which networks, attacks and images each table of the paper takes, at each scale; all as data."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from avmixup_kit import methods, paper
from avmixup_kit._base import check
from avmixup_kit.data import DATASETS
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.record import CLEAN
from avmixup_kit.methods import attacks
from avmixup_kit.methods.method import Method
from avmixup_kit.paper import Recipe
from avmixup_kit.reproduce.scales import (  # noqa: F401 (names of plans, too)
    EPSILON,
    FULL,
    LAPTOP,
    SCALES,
    SHORT,
    SMOKE,
    Scale,
    scale_named,
)
from avmixup_kit.training.settings import Precision, Settings
from avmixup_kit.training.updates import ScheduleName

UPDATES = {field.name for field in fields(Settings)}  # a recipe calls them the same
DIGITS_EPSILON = 0.15  # data.digits().epsilon
TRADES_EPSILON, TRADES_STEP = 0.031, 0.003  # of TRADES' own evaluation

# What this kit's full scale takes where PAPER_VS_CODE names a difference.
TAKEN = {
    "perturbation": "both",
    "delta": "the code's",
    "vertex": "the paper's: not clipped",
    "alpha": "both",
    "batch norm while crafting": "the code's: the batch's statistics, running averages untouched",
    "loss": "the code's",
    "input": "the code's: standardised per image",
    "augmentation": "the code's",
    "batch size": "the code's",
    "momentum": "the code's",
    "weight decay": "the code's: kernels only",
    "network": "the paper's: WRN-34-10 with ReLU and 1x1 shortcuts",
}
DEPARTURES = (
    "2 % of the training images are held out for validation; the paper does not say that it holds "
    "out any.",
    "Table 5's PGD rows in the paper are Feature Scatter's figures; here PGD is trained with "
    "Feature Scatter's network and schedule.",
    "Table 3's PGD and AVmixup rows are Table 1's networks; the paper trained AVmixup again, in "
    "TRADES' code.",
    "An image counts as fooled when any iterate of an attack fools the network.",
)


@dataclass(frozen=True)
class Run:
    """One training: what is trained on what, for how long, from which seed.

    ``name`` and seed make the run folder's name, so that tables share what they have in common.
    """

    data: str
    name: str
    network: str
    method: Method
    settings: Settings
    pad: int = 0
    flip: bool = False
    network_options: tuple[tuple[str, Any], ...] = ()
    schedule: ScheduleName = "steps"
    average: float | None = None

    @property
    def folder(self) -> str:
        """Where it lies below the folder of runs."""
        return f"{self.data}/{self.name}-{self.settings.seed}"


@dataclass(frozen=True)
class Column:
    """One column: what is done to a network, and the name its verdicts are kept under.

    ``attack`` is None for clean images; ``checkpoint`` "best" is the one best on validation images.
    ``source`` is the run whose adversarial examples are given to this network (Table 2).
    """

    title: str
    attack: Any = None
    checkpoint: str = "latest"
    source: Run | None = None

    @property
    def key(self) -> str:
        """The name of its verdicts in the run folder: one for whatever tables ask for them."""
        name = CLEAN if self.attack is None else self.attack.name
        if self.attack is not None and getattr(self.attack, "step_size", None) is not None:
            name += f" (steps of {self.attack.step_size:.4g}, epsilon {self.attack.epsilon:.4g})"
        if self.checkpoint != "latest":
            name += f", {self.checkpoint}"
        if self.source is not None:
            name += f" from {self.source.folder}"
        return name


@dataclass(frozen=True)
class Row:
    """One row of a table for one seed: the network it is about, and its columns.

    A cell that the paper leaves out ("-") is no column of its row.
    """

    title: str
    run: Run
    columns: tuple[Column, ...]

    @property
    def slug(self) -> str:
        """The row's part of a file name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class TablePlan:
    """A table (or Figure 2) at a scale: all its rows for one seed, and what the paper printed.

    ``columns`` are the paper's, then this kit's own.
    """

    name: str
    title: str
    heading: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    scale: Scale
    published: paper.Table | None = None

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every network that the table needs, those attacked from among them."""
        found = [row.run for row in self.rows]
        found += [c.source for row in self.rows for c in row.columns if c.source is not None]
        return tuple(dict.fromkeys(found))

    def blocks(self, rows: Iterable[str]) -> dict[str, list[str]]:
        """Return rows by the data set that their names begin with, "" where they name none."""
        found: dict[str, list[str]] = {}
        for row in rows:
            dataset = row.split(" / ")[0] if self.heading.startswith("Dataset") else ""
            found.setdefault(dataset, []).append(row)
        return found

    def only(self, rows: Sequence[str] | None) -> "TablePlan":
        """Return the plan with these of its rows alone, in the order given; None is all of them."""
        if rows is None:
            return self
        there = {row.title: row for row in self.rows}
        return replace(self, rows=tuple(there[row] for row in rows if row in there))

    @property
    def impossible(self) -> tuple[str, ...]:
        """The paper's rows that this scale has no data for."""
        printed = () if self.published is None else self.published.rows
        return tuple(row for row in printed if row not in {row.title for row in self.rows})


NAMES = ("table1", "table2", "table3", "table4", "table5", "table6", "figure2")


def plan(name: str, scale: Scale, seed: int = 0, precision: Precision = "float32") -> TablePlan:
    """Return what the named table takes at this scale for one seed.

    Raises:
        ValueError: there is no such table.
    """
    check.one_of("table", name, NAMES)
    maker = _Maker(scale, seed, precision)
    if name == "figure2":
        rows = maker.figure2()
        title = "Figure 2: robust accuracy while training, best checkpoint against last"
        title += _shortened(rows, scale)
        return TablePlan(name, title, "Model", tuple(c.title for c in rows[0].columns), rows, scale)
    printed = paper.TABLES[int(name[-1]) - 1]
    rows = maker.rows(printed)
    own = [column.title for row in rows for column in row.columns]
    columns = tuple(dict.fromkeys([*printed.columns, *own]))
    title = f"Table {printed.number}: {printed.title}{_shortened(rows, scale)}"
    return TablePlan(name, title, printed.heading, columns, rows, scale, printed)


def _shortened(rows: Sequence[Row], scale: Scale) -> str:
    """Return what a title says of the rows whose crafting is shortened, by name where not all."""
    attacked = [row for row in rows if not isinstance(row.run.method.perturb, attacks.NoAttack)]
    short = [row.title for row in attacked if scale.shortens(row.run.method)]
    names = "" if len(short) == len(attacked) else f"{', '.join(short)} "
    return f" ({names}{scale.said})" if short else ""


def tables_named(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of tables, each once, in the order given; "all" stands for all of them.

    Raises:
        ValueError: one of them is no table, or there is none.
    """
    for name in names or ("",):
        check.one_of("table", name, (*NAMES, "all"))
    each = (NAMES if name == "all" else (name,) for name in names)
    return tuple(dict.fromkeys(name for some in each for name in some))


class _Maker:
    """Makes rows at one scale and seed."""

    def __init__(self, scale: Scale, seed: int, precision: Precision) -> None:
        self.scale, self.seed, self.precision = scale, seed, precision
        self.epsilon = DIGITS_EPSILON if scale.digits else EPSILON

    # ------------------------------------------------------------------------------- columns

    def attack(self, name: str) -> Any:
        """The attack of one of the paper's columns, its steps in proportion to epsilon."""
        if name == CLEAN:
            return None
        setting = paper.ATTACKS[name]
        if setting.kappa is not None:
            return attacks.cw(steps=setting.steps, epsilon=self.epsilon, kappa=setting.kappa)
        if setting.steps == 1:
            return attacks.fgsm(self.epsilon)
        return attacks.pgd(steps=setting.steps, epsilon=self.epsilon)

    def columns(self, table: paper.Table, row: str) -> tuple[Column, ...]:
        """A row's printed cells, then ours: Table 2's networks are attacked themselves, too."""
        if table is paper.TABLE_2:
            pgd20 = self.attack("PGD20")
            return (
                *(
                    Column(source, pgd20, source=self.with_pgd("cifar10", source))
                    for source in table.columns
                    if table.value(row, source) is not None
                ),
                Column("white-box PGD20", pgd20),
                self.autoattack(title=f"white-box {self.scale.autoattack}"),
            )
        columns = [Column(name, self.attack(name)) for name in table.columns]
        if table is paper.TABLE_3:
            radius = self.epsilon if self.scale.digits else TRADES_EPSILON
            step = radius * TRADES_STEP / TRADES_EPSILON
            fine = attacks.pgd(steps=20, epsilon=radius, step_size=step)
            columns.append(Column("PGD20 in TRADES' steps", fine))
        return (*columns, self.autoattack())

    def autoattack(self, checkpoint: str = "latest", title: str = "") -> Column:
        attack = autoattack(self.epsilon, self.scale.version)
        return Column(title or attack.name, attack, checkpoint)

    # ---------------------------------------------------------------------------------- runs

    def run(
        self, dataset: str, name: str, method: Method, recipe: Recipe | None = None, **options: Any
    ) -> Run:
        """A training with this recipe, or, on digits, with the digits study's."""
        own: dict[str, Any] = {"seed": self.seed, "precision": self.precision}
        if self.scale.digits or recipe is None:
            settings = Settings(self.scale.steps or 500, **own)
            return Run("digits", name, self.scale.network or "small_cnn", method, settings)
        scale = self.scale
        if scale.updates:
            return Run(
                dataset,
                name,
                scale.network or recipe.network,
                scale.shortened(method),
                Settings(**dict(scale.updates) | own),
                *(scale.augmentation or (recipe.pad, recipe.flip)),
                scale.network_options,
                scale.schedule,
                scale.average,
            )
        share = dict(self.scale.share).get(dataset, 1.0)
        own["steps"] = self.scale.steps or max(1, round(recipe.steps * share))
        shared = {key: value for key, value in asdict(recipe).items() if key in UPDATES}
        settings = Settings(**shared | own)
        return Run(
            dataset,
            name,
            self.scale.network or recipe.network,
            method,
            settings,
            recipe.pad,
            recipe.flip,
            tuple(options.items()),
        )

    def with_pgd(self, dataset: str, model: str) -> Run:
        """Standard, PGD, LS0.8, LS0.9 or AVmixup, as Sections 5.1 to 5.3 train them."""
        recipe, epsilon = paper.RECIPES[dataset], self.epsilon
        method = {
            "Standard": methods.standard(),
            "PGD": methods.pgd(epsilon=epsilon),
            "LS0.8": methods.label_smoothing(0.8, epsilon=epsilon),
            "LS0.9": methods.label_smoothing(0.9, epsilon=epsilon),
            "AVmixup": methods.avmixup(
                recipe.gamma, recipe.lambda1, recipe.lambda2, epsilon=epsilon
            ),
        }[model]
        return self.run(dataset, model.lower(), method, recipe, normalisation="per_image")

    def with_trades(self, beta: int) -> Run:
        """TRADES as its authors released it: 76 passes, the last one at a tenth of the rate."""
        recipe = replace(
            paper.RECIPES["cifar10"],
            steps=76 * -(-50_000 // 128),
            decay_at=(75 / 76,),
            pad=4,
            decay_all=True,
        )
        settings = methods.trades(float(beta))
        if self.scale.digits:
            in_proportion = self.epsilon * 0.007 / TRADES_EPSILON
            settings = methods.trades(float(beta), epsilon=self.epsilon, step_size=in_proportion)
        return self.run(
            "cifar10", f"trades-{beta}", settings, recipe, normalisation=((0.0,) * 3, (1.0,) * 3)
        )

    def with_feature_scatter(
        self, dataset: str, model: str, lambdas: tuple[float, float] | None = None
    ) -> Run:
        """PGD, Feature Scatter or Feature Scatter + AVmixup, as Section 5.4 trains them."""
        recipe, epsilon = paper.FEATURE_SCATTER_RECIPES[dataset], self.epsilon
        if model == "PGD":
            if self.scale.digits or self.scale.updates:
                return self.with_pgd(dataset, "PGD")
            return self.run(dataset, "pgd-as-feature-scatter", methods.pgd(epsilon=epsilon), recipe)
        if model == "Feature Scatter":
            method = methods.feature_scatter(0.5, epsilon=epsilon)
            return self.run(dataset, "feature-scatter", method, recipe)
        lambda1, lambda2 = lambdas or (recipe.lambda1, recipe.lambda2)
        method = methods.feature_scatter_avmixup(recipe.gamma, lambda1, lambda2, epsilon=epsilon)
        name = f"feature-scatter-avmixup-{recipe.gamma:g}-{lambda1:g}-{lambda2:g}"
        return self.run(dataset, name, method, recipe)

    # -------------------------------------------------------------------------------- tables

    def rows(self, table: paper.Table) -> tuple[Row, ...]:
        """A table's rows; at the digits' scale its blocks of data sets are one."""
        grouped = table.heading.startswith("Dataset")
        if grouped and self.scale.digits:
            models = dict.fromkeys(row.split(" / ")[1] for row in table.rows)
            named = [(f"digits / {model}", "cifar10", model) for model in models]
        elif grouped:
            # The paper's tables print CIFAR10.
            keys = {data.title.replace("-", ""): name for name, data in DATASETS.entries.items()}
            parts = [(row, *row.split(" / ")) for row in table.rows]
            named = [(row, keys[dataset], model) for row, dataset, model in parts]
            only = self.scale.data_sets
            named = [each for each in named if only is None or each[1] in only]
        else:
            named = [(row, "cifar10", row) for row in table.rows]
        return tuple(
            Row(row, self.run_of(table, dataset, model), self.columns(table, row))
            for row, dataset, model in named
        )

    def run_of(self, table: paper.Table, dataset: str, model: str) -> Run:
        """The training of a table's model; Table 6 names its models by their lambdas."""
        if table is paper.TABLE_6:
            lambda1, lambda2 = map(float, model.split(" / "))
            return self.with_feature_scatter(dataset, "AVmixup", (lambda1, lambda2))
        if table is paper.TABLE_5:
            return self.with_feature_scatter(dataset, model)
        if model.startswith("TRADES"):
            return self.with_trades(int(model[-2]))
        return self.with_pgd(dataset, model)

    def figure2(self) -> tuple[Row, ...]:
        columns = []
        for checkpoint, word in (("best", "best"), ("latest", "last")):
            columns += [
                Column(f"Clean, {word}", None, checkpoint),
                Column(f"PGD10, {word}", self.attack("PGD10"), checkpoint),
                self.autoattack(checkpoint, f"{self.scale.autoattack}, {word}"),
            ]
        return tuple(
            Row(model, self.with_pgd("cifar10", model), tuple(columns))
            for model in ("PGD", "AVmixup")
        )
