"""Each model on the adversarial examples of each other one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avmixup_kit._base import plots
from avmixup_kit._base.statistics import wilson
from avmixup_kit._base.tables import text_table
from avmixup_kit.evaluation.images import ImageSet
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.methods.attacks import Attack

if TYPE_CHECKING:
    import plotly.graph_objects as go


def transfer_matrix(
    models: Mapping[str, nn.Module],
    split: ImageSet,
    attack: Attack,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> "TransferMatrix":
    """Return how each model fares on the adversarial examples of each other one (Table 2).

    The diagonal is the attack on the model itself, with the last-iterate rule as everywhere else.
    """

    def right(defender: nn.Module, source: nn.Module) -> Tensor:
        given = [replace(attack, source=source)]
        return evaluate(defender, split, given, batch_size=batch_size, seed=seed).correct[1]

    rows = [
        torch.stack([right(one, other) for other in models.values()]) for one in models.values()
    ]
    return TransferMatrix(tuple(models), torch.stack(rows), attack.name)


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """``correct`` is bool (defenders, sources, examples); ``names`` are both."""

    names: tuple[str, ...]
    correct: Tensor
    attack: str

    @property
    def accuracy(self) -> Tensor:
        """Accuracy of row = defender on the examples of column = source, as fractions."""
        return self.correct.double().mean(2)

    @property
    def n(self) -> int:
        """How many examples each cell is about."""
        return self.correct.shape[2]

    def interval(self, defender: int, source: int) -> tuple[float, float]:
        """Return Wilson's 95 % interval of one cell, as fractions."""
        return wilson(int(self.correct[defender, source].sum()), self.n)

    def __str__(self) -> str:
        head = (f"defender \\ {self.attack} from", *self.names)
        body = [
            (name, *(f"{value:.2%}" for value in row.tolist()))
            for name, row in zip(self.names, self.accuracy, strict=True)
        ]
        return f"{text_table([head, *body])}\nn = {self.n} in each cell"


def transfer_heatmap(matrix: TransferMatrix) -> "go.Figure":
    """Return accuracies in percent: row = defender, column = whose adversarial examples."""
    values = (100 * matrix.accuracy).tolist()
    figure, names = plots.graph_objects().Figure(), list(map(plots.label, matrix.names))
    figure.add_heatmap(
        z=values,
        x=names,
        y=names,
        zmin=0,
        zmax=100,
        colorscale="Cividis",
        text=[[f"{value:.1f}" for value in row] for row in values],
        texttemplate="%{text}",
        colorbar={"title": "%"},
    )
    figure.update_yaxes(autorange="reversed")
    title = f"Accuracy under transferred {plots.label(matrix.attack)} (%)"
    return plots.styled(figure, title, "made on", "defender")
