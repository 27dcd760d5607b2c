"""Starts and perturbations that follow from (seed, image) alone."""

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from avmixup_kit.evaluation.images import ImageSet, batch_on
from avmixup_kit.methods.attacks import Attack, Ball, ascend, frozen, in_l2_ball

ROUNDING = 2.5e-4  # of pixels that were held in half precision: a sixteenth of their step


def starts(split: ImageSet, part: Tensor, attack: Attack, seed: int, restart: int = 0) -> Tensor:
    """Return the attack's first perturbations for images ``part``, (len(part), C, H, W), on CPU.

    Each depends on the seed, the restart and the image's own pixels and label, on nothing else.
    """
    shape = (len(part), *split.shape)
    if attack.start == "zero":
        return torch.zeros(shape)
    images = _keys(split.images[part.to(split.device)].permute(0, 2, 3, 1).contiguous().cpu())
    labels = split.labels[part.to(split.device)].tolist()
    noise, shares = np.empty(shape, np.float32), []
    in_box = attack.start == "uniform" and attack.norm == "linf"
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"avmixup")
        digest.update(f"{label} {seed} {restart}".encode())
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest())))
        if in_box:
            stream.random(out=noise[i], dtype=np.float32)
        else:
            stream.standard_normal(out=noise[i], dtype=np.float32)
            shares.append(stream.random())
    drawn = torch.from_numpy(noise)
    if in_box:
        return drawn.mul_(2).sub_(1).mul_(attack.epsilon)
    if attack.start == "uniform":
        return in_l2_ball(drawn, torch.tensor(shares, dtype=torch.float64), attack.epsilon)
    return drawn.mul_(0.001)


def _keys(images: Tensor) -> np.ndarray:
    """Return pixels to tell images apart by: bytes, also of floats that are bytes but for rounding.

    Images divided by 255 in another precision, or multiplied by its inverse, then start alike.
    """
    if images.is_floating_point():
        whole = images.mul(255).round()
        if float((whole / 255 - images).abs().max()) < ROUNDING:
            images = whole.to(torch.uint8)
    return images.numpy()


def first_state(
    attack: Attack, model: nn.Module, split: ImageSet, part: Tensor, seed: int, restart: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return x, y, the attack's first delta and what its objective looks up once of images."""
    x, y = batch_on(model, split, part)
    delta = starts(split, part, attack, seed, restart).to(x)
    if attack.clip_start:
        delta = Ball(x, attack.epsilon, attack.norm).project(delta)
    with torch.no_grad():
        return x, y, delta, attack.objective.reference(model, x)


def craft(
    attack: Attack, model: nn.Module, split: ImageSet, part: Tensor, seed: int = 0, restart: int = 0
) -> Tensor:
    """Return the attack's perturbations of images ``part``, (len(part), C, H, W), as evaluated.

    The starts are those of ``evaluate`` under the same seed, whatever the batch.
    """
    with frozen(model):
        x, y, delta, reference = first_state(attack, model, split, part, seed, restart)
        delta = ascend(
            lambda x_hat: attack.objective(model(x_hat), y, reference).sum(),
            x,
            delta,
            attack.epsilon,
            attack.step,
            attack.steps,
            attack.norm,
        )
        return attack.spared(delta, y)
