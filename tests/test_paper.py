import dataclasses
import re

import pytest
from IPython.core.formatters import DisplayFormatter

from avmixup_kit import models, paper
from avmixup_kit.paper import Table


def gain(table: Table, row: str, over: str, column: str) -> float:
    """Percentage points by which one row of a table is above another."""
    high, low = table.value(row, column), table.value(over, column)
    assert high is not None
    assert low is not None
    return round(high - low, 2)


# (table, row, other row, column, difference): every difference that the paper's text states.
STATED = [
    (paper.TABLE_1, "AVmixup", "PGD", "PGD20", 11.89),
    (paper.TABLE_1, "AVmixup", "Standard", "Clean", -2.24),
    (paper.TABLE_4, "CIFAR100 / AVmixup", "CIFAR100 / PGD", "Clean", 13.52),
    (paper.TABLE_4, "CIFAR100 / AVmixup", "CIFAR100 / PGD", "PGD20", 13.32),
    (paper.TABLE_4, "SVHN / AVmixup", "SVHN / PGD", "Clean", 3.19),
    (paper.TABLE_4, "SVHN / AVmixup", "SVHN / PGD", "PGD20", 3.68),
    (paper.TABLE_4, "Tiny ImageNet / AVmixup", "Tiny ImageNet / PGD", "Clean", 12.6),
    (paper.TABLE_4, "Tiny ImageNet / AVmixup", "Tiny ImageNet / PGD", "PGD20", 7.17),
]


@pytest.mark.parametrize(("table", "row", "over", "column", "points"), STATED)
def test_the_tables_give_the_differences_that_the_text_states(
    table: Table, row: str, over: str, column: str, points: float
) -> None:
    assert gain(table, row, over, column) == points


def test_the_tables_give_the_accuracies_that_the_text_states() -> None:
    combined = "CIFAR10 / Feature Scatter + AVmixup"
    assert paper.TABLE_5.value(combined, "PGD20") == 82.31
    assert paper.TABLE_5.value(combined, "PGD100") == 81.88


# Row and column sums of the tables, added up from the paper's own text by a separate script: a
# wrong digit in any cell changes one of each, and so do two swapped cells.
@pytest.mark.parametrize(
    ("table", "row_sums"),
    [
        (paper.TABLE_1, (102.73, 290.94, 308.33, 307.01, 346.02)),
        (paper.TABLE_2, (216.21, 214.46, 215.92, 300.02)),
        (paper.TABLE_3, (134.34, 137.78, 141.53, 148.63)),
        (
            paper.TABLE_4,
            (
                *(132.47, 143.24, 142.07, 176.06, 225.93, 227.74, 227.76, 239.32),
                *(75.11, 81.07, 76.70, 110.04),
            ),
        ),
        (
            paper.TABLE_5,
            (321.40, 424.56, 481.43, 179.50, 288.19, 315.53, 352.20, 388.11, 464.29),
        ),
        (paper.TABLE_6, (309.33, 283.48, 330.05, 282.76)),
    ],
)
def test_rows_add_up(table: Table, row_sums: tuple[float, ...]) -> None:
    sums = [sum(value for value in row if value is not None) for row in table.cells]
    assert sums == pytest.approx(row_sums, abs=1e-9)


def test_columns_add_up() -> None:
    def sums(table: Table) -> list[float]:
        return [
            round(sum(value or 0 for value in column), 2)
            for column in zip(*table.cells, strict=True)
        ]

    assert sums(paper.TABLE_1) == [450.52, 280.23, 216.67, 205.73, 201.88]
    assert sums(paper.TABLE_2) == [347.56, 195.85, 202.96, 200.24]
    assert sums(paper.TABLE_3) == [351.22, 211.06]
    assert sums(paper.TABLE_4) == [812.99, 622.86, 421.66]
    assert sums(paper.TABLE_5) == [768.10, 656.57, 492.34, 468.61, 429.09, 400.50]
    assert sums(paper.TABLE_6) == [370.20, 320.94, 267.83, 246.65]


def test_the_winners_of_each_column_are_those_in_bold() -> None:
    def winners(table: Table, rows: list[str]) -> list[str]:
        best = []
        for column in table.columns:
            values = {row: table.value(row, column) or 0 for row in rows}
            best.append(max(values, key=lambda row: values[row]))
        return best

    adversarial = list(paper.TABLE_1.rows[1:])
    assert winners(paper.TABLE_1, adversarial) == ["AVmixup"] * 5
    assert winners(paper.TABLE_2, list(paper.TABLE_2.rows)) == ["AVmixup"] * 4
    assert winners(paper.TABLE_3, list(paper.TABLE_3.rows)) == ["AVmixup"] * 2
    assert winners(paper.TABLE_6, list(paper.TABLE_6.rows)) == ["1.0 / 0.5"] + ["0.5 / 0.7"] * 3
    for table, combined in (
        (paper.TABLE_4, "AVmixup"),
        (paper.TABLE_5, "Feature Scatter + AVmixup"),
    ):
        for dataset in dict.fromkeys(row.split(" / ")[0] for row in table.rows):
            rows = [row for row in table.rows if row.startswith(f"{dataset} / ")]
            expected = [f"{dataset} / {combined}"] * len(table.columns)
            if table is paper.TABLE_5 and dataset == "SVHN":
                expected[:2] = ["SVHN / Feature Scatter"] * 2
            assert winners(table, rows) == expected


def test_tables_that_share_a_result_agree() -> None:
    for column in paper.TABLE_6.columns:
        shared = paper.TABLE_5.value("CIFAR10 / Feature Scatter + AVmixup", column)
        assert paper.TABLE_6.value("0.5 / 0.7", column) == shared


def test_shapes_and_missing_cells() -> None:
    shapes = [(len(table.rows), len(table.columns)) for table in paper.TABLES]
    assert shapes == [(5, 5), (4, 4), (4, 2), (12, 3), (9, 6), (4, 4)]
    assert [table.number for table in paper.TABLES] == [1, 2, 3, 4, 5, 6]
    missing = [(t.number, row, column) for t in paper.TABLES for row, column, v in t if v is None]
    assert missing == [(2, name, name) for name in ("PGD", "LS0.8", "LS0.9")]
    assert all(0 <= v <= 100 for t in paper.TABLES for _, _, v in t if v is not None)


def test_iterating_visits_every_cell_once_with_its_names() -> None:
    cells = list(paper.TABLE_2)
    assert len(cells) == len({cell[:2] for cell in cells}) == 16
    assert all(paper.TABLE_2.value(row, column) == value for row, column, value in cells)
    assert cells[4] == ("LS0.8", "Standard", 86.03)


def test_a_table_prints_as_markdown() -> None:
    text = str(paper.TABLE_2)
    shown, _ = DisplayFormatter().format(paper.TABLE_2)
    assert text == shown["text/markdown"]
    title, grid, note = text.split("\n\n")
    assert title.startswith("Table 2: Accuracy against transfer")
    assert note == paper.TABLE_2.note
    lines = grid.splitlines()
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "LS0.8",
        "86.03",
        "63.60",
        "-",
        "64.83",
    ]
    assert len({len(line) for line in lines}) == 1
    assert re.fullmatch(r"\| -+ (\| -+: )+\|", lines[1])


def test_a_cell_that_is_not_there_is_an_error_that_names_what_is() -> None:
    with pytest.raises(KeyError, match=r"row = 'TRADES' is not in Table 1: .*'AVmixup'"):
        paper.TABLE_1.value("TRADES", "Clean")
    with pytest.raises(KeyError, match=r"column = 'CW100' is not in Table 1: .*'CW20'"):
        paper.TABLE_1.value("PGD", "CW100")


def test_a_table_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="cells are not 1 rows of 2 columns"):
        Table(9, "t", "m", ("a", "b"), ("r",), ((1.0,),))
    with pytest.raises(ValueError, match=r"columns = .* a name occurs twice"):
        Table(9, "t", "m", ("a", "a"), ("r",), ((1.0, 2.0),))


def test_tables_and_recipes_are_frozen_and_rebuild_from_their_repr() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        paper.TABLE_1.title = ""  # pyright: ignore
    names = {name: getattr(paper, name) for name in ("Table", "Recipe", "AttackSetting")}
    for thing in (*paper.TABLES, *paper.RECIPES.values(), *paper.ATTACKS.values()):
        assert eval(repr(thing), names) == thing


def test_the_recipes_are_section_5s() -> None:
    assert list(paper.RECIPES) == ["cifar10", "cifar100", "svhn", "tiny_imagenet"]
    for dataset, recipe in paper.RECIPES.items():
        assert recipe.dataset == dataset
        assert (recipe.gamma, recipe.lambda1, recipe.lambda2) == (2.0, 1.0, 0.1)
        assert (recipe.attack_steps, recipe.decay_at) == (10, (0.5, 0.75))
        assert recipe.step_size * 4 == pytest.approx(recipe.epsilon)
        assert recipe.weight_decay == 2e-4
    assert [r.network for r in paper.RECIPES.values()] == [
        "wrn-34-10",
        "wrn-34-10",
        "wrn-16-8",
        "preact_resnet18",
    ]
    assert [r.steps for r in paper.RECIPES.values()] == [80_000, 80_000, 80_000, 50_000]
    assert [r.lr for r in paper.RECIPES.values()] == [0.1, 0.1, 0.01, 0.1]
    assert {
        name: (r.gamma, r.lambda1, r.lambda2) for name, r in paper.FEATURE_SCATTER_RECIPES.items()
    } == {"cifar10": (1.0, 0.5, 0.7), "cifar100": (1.5, 0.3, 0.42), "svhn": (1.0, 0.5, 0.7)}


def test_feature_scatter_decays_after_60_and_90_of_200_passes() -> None:
    for dataset, batches in (("cifar10", 834), ("cifar100", 834), ("svhn", 1221)):
        recipe = paper.FEATURE_SCATTER_RECIPES[dataset]
        assert recipe.steps == 200 * batches
        assert [at * recipe.steps for at in recipe.decay_at] == pytest.approx(
            [60 * batches, 90 * batches]
        )


def test_every_recipe_names_a_network_of_the_kit() -> None:
    recipes = [*paper.RECIPES.values(), *paper.FEATURE_SCATTER_RECIPES.values()]
    assert {recipe.network for recipe in recipes} <= set(models.NETWORKS)


def test_every_attack_column_of_the_tables_has_its_setting() -> None:
    columns = {column for t in paper.TABLES if t.number != 2 for column in t.columns} - {"Clean"}
    assert columns == set(paper.ATTACKS)
    for name, setting in paper.ATTACKS.items():
        assert setting.name == name
        digits = re.findall(r"\d+", name)
        assert setting.steps == (int(digits[0]) if digits else 1)
        assert (setting.kappa is None) == (not name.startswith("CW"))


def test_feature_scatter_under_autoattack_is_far_below_the_papers_figures() -> None:
    strong = {entry.model: entry.strong for entry in paper.THIRD_PARTY}
    assert strong["Feature Scatter, WRN-28-10"] == 36.64
    assert strong["AVmixup, ResNet-18"] == 20.57
    assert strong["AVmixup, WRN-34-10"] == 40.5
    for entry in paper.THIRD_PARTY:
        assert entry.strong is None or entry.strong < entry.weak
        assert (entry.strong is None) == (entry.strong_attack is None)


def test_the_points_on_which_paper_and_code_differ_are_named_once() -> None:
    points = [difference.point for difference in paper.PAPER_VS_CODE]
    assert len(points) == len(set(points))
    assert {"vertex", "alpha", "batch norm while crafting", "augmentation", "network"} <= set(
        points
    )
    assert all(d.paper and d.code and d.paper != d.code for d in paper.PAPER_VS_CODE)
