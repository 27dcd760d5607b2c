"""Saved weights into a network, or not at all."""

from torch import Tensor, nn


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy saved weights into a model.

    Raises:
        ValueError: they belong to another architecture; the model is left as it was.
    """
    mine = model.state_dict()
    wrong = [
        name
        for name in sorted(mine.keys() | weights.keys())
        if name not in mine or name not in weights or mine[name].shape != weights[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint is of another architecture: {len(wrong)} of {len(mine)} tensors "
            f"differ, the first is {wrong[0]}"
        )
    model.load_state_dict(weights)
