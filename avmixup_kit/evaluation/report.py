"""One self-contained page about one evaluated model, for a reader who was not there."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from avmixup_kit._base import files, html
from avmixup_kit.data.splits import Source
from avmixup_kit.evaluation.alarms import alarms
from avmixup_kit.evaluation.crafting import craft
from avmixup_kit.evaluation.draws import averaged
from avmixup_kit.evaluation.evidence import Alarm
from avmixup_kit.evaluation.images import ImageSet, as_images, batch_on
from avmixup_kit.evaluation.record import CLEAN, WORST, Evaluation
from avmixup_kit.evaluation.transfer import TransferMatrix, transfer_heatmap, transfer_matrix
from avmixup_kit.methods.attacks import Attack, Norm, frozen, pgd
from avmixup_kit.methods.losses import margin

EXAMPLES = 8
SHOWN = {
    "radii": "Robust accuracy against epsilon",
    "label-line": "The learned label along the attack direction",
}
Strip = dict[str, tuple[Tensor, list[str]]]
"""Rows of pictures (N, C, H, W) with words below them, by heading."""


def report(
    result: Evaluation,
    model: nn.Module,
    images: Source,
    path: str | Path,
    *,
    sources: Mapping[str, nn.Module] | None = None,
    count: int = 200,
    title: str = "Is it really robust?",
) -> None:
    """Write one self-contained page: accuracies, alarms, radii, worst examples, transfer.

    Args:
        path: the file; it is written whole or not at all.
        result, model, images, count: as in ``alarms``.
        sources: as in ``alarms``; they also make the transfer table.

    Raises:
        ValueError: no attack was evaluated, or model or images are not those that were.
        ImportError: plotly is not installed.
    """
    found = alarms(result, model, images, sources=sources, count=count, silent=True)
    epsilon = result.epsilon
    assert epsilon is not None  # or alarms would have refused
    images, model = as_images(model, images), averaged(model, result.draws, result.seed)
    matrix = None
    if sources:
        networks, attack = (
            {"this model": model, **sources},
            pgd(steps=20, epsilon=epsilon, norm=result.norm),
        )
        matrix = transfer_matrix(networks, _few(images, count), attack, seed=result.seed)
    low, high = result.interval(WORST)
    page = html.page(
        "evaluation/report.html.j2",
        title,
        result=result,
        low=low,
        high=high,
        ringing=[alarm for alarm in found if alarm.rings],
        strongest=any(row.startswith("AutoAttack") for row in result.stages),
        accuracies=_accuracies(result),
        signs=_signs(found),
        rung=[a.figure() for a in found if a.rings and a.key not in SHOWN],
        always={SHOWN[a.key]: a.figure() for a in found if a.drawing and a.key in SHOWN},
        worst=worst_examples(model, images, epsilon, result.seed, norm=result.norm),
        transfer=matrix and _transfer(matrix),
        heat_map=matrix and transfer_heatmap(matrix),
    )
    files.write_atomic(path, page.encode())


def worst_examples(
    model: nn.Module,
    images: ImageSet,
    epsilon: float,
    seed: int = 0,
    count: int = EXAMPLES,
    norm: Norm = "linf",
) -> Strip:
    """Return the images that PGD20 turns furthest into another class, empty where none is right.

    Looks at the first 256 images that are right without an attack.
    """
    part = torch.arange(min(len(images), 256))
    x, y = batch_on(model, images, part)
    attack = pgd(steps=20, epsilon=epsilon, norm=norm)
    x_hat, logits = _attacked(model, images, part, attack, seed)
    with frozen(model), torch.no_grad():
        right = model(x).argmax(1) == y.argmax(1)
    depth = torch.where(right, margin(logits, y), float("inf"))
    order = [i for i in depth.argsort()[:count].tolist() if bool(right[i])]
    if not order:
        return {}
    said = _said(images, logits)
    read = [f"{'still' if depth[i] > 0 else 'read as'} {said[i]}" for i in order]
    return {
        "image": (x[order], [images.classes[int(y[i].argmax())] for i in order]),
        "adversarial": (x_hat[order], read),
    }


def adversarial_strip(
    networks: Mapping[str, nn.Module], images: ImageSet, attack: Attack, count: int = EXAMPLES
) -> Strip:
    """Return clean images and each network's adversarial ones, with verdicts.

    They are taken at equal distances: folders of images are sorted by class.
    """
    count = min(count, len(images))
    part = torch.linspace(0, len(images) - 1, count).round().long()
    x, y = images.batch(part)
    labels = [images.classes[int(label)] for label in y.argmax(1)]
    rows: Strip = {CLEAN: (x, [f"is {label}" for label in labels])}
    for name, network in networks.items():
        x_hat, logits = _attacked(network, images, part, attack)
        right = (logits.argmax(1) == y.to(logits).argmax(1)).tolist()
        captions = zip(right, _said(images, logits), strict=True)
        rows[name] = (x_hat, [f"{'✓' if fine else '✗'} {said}" for fine, said in captions])
    return rows


def _attacked(
    model: nn.Module, images: ImageSet, part: Tensor, attack: Attack, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return adversarial images and their logits."""
    x, _ = batch_on(model, images, part)
    x_hat = x + craft(attack, model, images, part, seed)
    with frozen(model), torch.no_grad():
        return x_hat, model(x_hat)


def _said(images: ImageSet, logits: Tensor) -> list[str]:
    """Return the likeliest class of each image, with its probability in brackets."""
    sure, said = logits.softmax(1).max(1)
    both = zip(said.tolist(), sure.tolist(), strict=True)
    return [f"{images.classes[number]} ({share:.0%})" for number, share in both]


def _few(images: ImageSet, count: int) -> ImageSet:
    if len(images) <= count:
        return images
    return images.subset(torch.linspace(0, len(images) - 1, count).long())


def _accuracies(evaluation: Evaluation) -> list[tuple[str, ...]]:
    heading = "standing after" if evaluation.ladder else "attack"
    rows = [(heading, "accuracy", "95 % interval", "n", "gradients")]
    for name, gradients in zip(evaluation.names, evaluation.gradients, strict=True):
        rows.append((*evaluation.row(name, 1), f"{gradients:,}".replace(",", " ")))
    return [*rows, (*evaluation.row(WORST, 1), "")]


def _signs(found: list[Alarm]) -> list[tuple[str, str, str]]:
    states = {True: "RINGS", False: "silent", None: "not tried"}
    # The loudest first; sorting is stable, so the order of alarms is kept within each.
    ordered = sorted(found, key=lambda alarm: list(states).index(alarm.rings))
    rows = [(states[alarm.rings], alarm.name, alarm.sentence) for alarm in ordered]
    return [("state", "sign", "what was found"), *rows]


def _transfer(matrix: TransferMatrix) -> list[list[str]]:
    rows = [[f"defender \\ {matrix.attack} made on", *matrix.names, "n"]]
    for i, name in enumerate(matrix.names):
        cells = []
        for j in range(len(matrix.names)):
            low, high = matrix.interval(i, j)
            cells.append(f"{float(matrix.accuracy[i, j]):.1%} [{low:.1%}, {high:.1%}]")
        rows.append([name, *cells, str(matrix.n)])
    return rows
