"""Shapes of tensors: told to the reader, checked at run time where jaxtyping's hook is installed.

Letters that recur in one signature are the same number: n examples, c x h x w pixels, k classes.
"""

from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float
else:
    try:
        from jaxtyping import Float
    except ImportError:  # a tool of the tests; the core does without

        class Float:
            """Stands in for jaxtyping's: the tensor type with its shape's words."""

            def __class_getitem__(cls, item: tuple[type, str]) -> Any:
                return Annotated[item]


Images = Float[Tensor, "n c h w"]
"""Images or perturbations in units of [0, 1] pixels."""

Labels = Float[Tensor, "n k"]
"""Probability vectors, one-hot or soft."""

Logits = Float[Tensor, "n k"]

PerExample = Float[Tensor, " n"]
"""One number for each example."""

Scalar = Float[Tensor, ""]
