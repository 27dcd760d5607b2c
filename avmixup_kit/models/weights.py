"""Saved weights into a network, or not at all; networks whose weights are no float32."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from avmixup_kit._base import check


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy saved weights into a model.

    Raises:
        ValueError: as ``check_weights``; the model is left as it was.
    """
    check_weights(model, weights)
    model.load_state_dict(weights)


def check_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Raise ValueError unless saved weights are this architecture's."""
    mine = model.state_dict()
    fine = isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)
    check.that(fine, "weights", weights, "tensors by name")
    wrong = [
        name
        for name in sorted(mine.keys() | weights.keys())
        if name not in mine or name not in weights or not _alike(mine[name], weights[name])
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint is of another architecture: {len(wrong)} of {len(mine)} tensors "
            f"differ, the first is {wrong[0]}"
        )


def _alike(mine: Any, saved: Any) -> bool:
    if not isinstance(mine, Tensor) or not isinstance(saved, Tensor):
        return type(mine) is type(saved)
    return mine.shape == saved.shape and mine.is_floating_point() == saved.is_floating_point()


def check_module(model: object) -> None:
    """Raise TypeError unless the model is a Module, as a plain function or a class is not."""
    if not isinstance(model, nn.Module):
        shown = getattr(model, "__name__", repr(model))
        raise TypeError(
            f"model = {shown} is not allowed: an nn.Module; call a class or function that makes "
            "one, put any other function into a Module's forward"
        )


def as_logits(answer: Any) -> Tensor:
    """Return what a model answered.

    Raises:
        TypeError: it is no float tensor.
    """
    if isinstance(answer, Tensor) and answer.is_floating_point():
        return answer
    shown = str(answer.dtype) if isinstance(answer, Tensor) else type(answer).__name__
    raise TypeError(
        f"what the model returned = {shown} is not allowed: logits (N, K), one tensor of floats; "
        "wrap the model so that its forward returns them alone"
    )


def first_answer(model: nn.Module, x: Tensor) -> Tensor:
    """Return the model's logits of images x (N, C, H, W), float32 in [0, 1].

    Raises:
        TypeError: it returns no float tensor.
        ValueError: its weights are of another precision, and it does not convert images to it.
    """
    try:
        return as_logits(model(x))
    except RuntimeError as error:
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
        if not kinds:
            raise
        raise ValueError(
            f"the model's weights are {', '.join(map(str, kinds))}, images are torch.float32: call "
            "model.float(), or wrap it so that it converts images and returns float32 logits"
        ) from error
