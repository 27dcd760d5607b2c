"""What can be evaluated: a split, or whatever ``Split.of`` makes one of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avmixup_kit.data.splits import Source, Split, split_for
from avmixup_kit.methods.attacks import frozen
from avmixup_kit.models.weights import check_module, first_answer

ImageSet = Split


def as_images(model: nn.Module, given: Source) -> Split:
    """Return images as ``evaluate`` reads them; classes without names are the model's.

    Raises:
        ValueError, TypeError: as ``Split.of``; labels out of the model's range; no Module.
    """
    check_module(model)

    def outputs(x: Tensor) -> int:
        with torch.no_grad(), frozen(model):
            return first_answer(model, x.to(model_device(model))).shape[-1]

    return split_for(given, outputs)


def model_device(model: nn.Module) -> torch.device:
    """Return where the model is; a model without parameters is on the CPU."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def batch_on(model: nn.Module, images: ImageSet, part: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (B, C, H, W) and one-hot y (B, K) of the images numbered ``part``, on its device."""
    x, y = images.batch(part.to(images.device))
    device = model_device(model)
    return x.to(device), y.to(device)


def answered(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Return the model's logits (B, K) of images x (B, C, H, W), of which ``batch_size`` at most.

    On CUDA, images of zeros fill the batch up to the next quarter: images leave an evaluation one
    by one, and a batch of a size that convolutions have not seen costs a search for their kernel.
    """
    quarter = -(-batch_size // 4)
    missing = -len(x) % quarter if x.is_cuda else 0
    filled = F.pad(x, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else x
    return model(filled)[: len(x)] if missing else model(x)
