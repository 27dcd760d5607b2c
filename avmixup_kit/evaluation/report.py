"""One self-contained page about one evaluated model, for a reader who was not there."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import plotly.graph_objects as go


SHOWN = 8
SHOWN_ANYWAY = {
    "radii": "Robust accuracy against epsilon",
    "label-line": "The learned label along the attack direction",
}
NO_TRANSFER = (
    "<p>Not measured: no other model was given "
    "(<code>av.report(..., sources={'name': model})</code>).</p>"
)


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
    sections: list[tuple[str, str | go.Figure]] = [
        ("In short", _summary(result, found)),
        ("Accuracy", _accuracies(result)),
        ("Signs of hidden gradients", _alarm_table(found)),
        *(
            (f"Ringing: {alarm.name}", alarm.figure())
            for alarm in found
            if alarm.rings and alarm.key not in SHOWN_ANYWAY
        ),
        *(
            (SHOWN_ANYWAY[alarm.key], alarm.figure())
            for alarm in found
            if alarm.drawing is not None and alarm.key in SHOWN_ANYWAY
        ),
        ("Worst examples", worst_examples(model, images, epsilon, result.seed, norm=result.norm)),
    ]
    if sources:
        networks, attack = (
            {"this model": model, **sources},
            pgd(steps=20, epsilon=epsilon, norm=result.norm),
        )
        matrix = transfer_matrix(networks, _few(images, count), attack, seed=result.seed)
        sections.append(("Transfer between models", _transfer_table(matrix)))
        sections.append(("The same as a heat map", transfer_heatmap(matrix)))
    else:
        sections.append(("Transfer between models", NO_TRANSFER))
    sections.append(("How to read this page", _reading(result)))
    files.write_atomic(path, html.page(title, sections).encode())


def worst_examples(
    model: nn.Module,
    images: ImageSet,
    epsilon: float,
    seed: int = 0,
    count: int = SHOWN,
    norm: Norm = "linf",
) -> str:
    """Return an HTML table of the images that PGD20 turns furthest into another class.

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
        return "<p>No image is classified correctly without an attack.</p>"
    said = _said(images, logits)
    read = [f"{'still' if depth[i] > 0 else 'read as'} {said[i]}" for i in order]
    rows = {
        "image": (x[order], [images.classes[int(y[i].argmax())] for i in order]),
        "adversarial": (x_hat[order], read),
    }
    return f"<p>Under {attack.name} at epsilon = {epsilon:.4g}, worst first.</p>{html.strip(rows)}"


def adversarial_strip(
    networks: Mapping[str, nn.Module], images: ImageSet, attack: Attack, count: int = SHOWN
) -> str:
    """Return an HTML table of clean images and each network's adversarial ones, with verdicts."""
    part = torch.arange(min(count, len(images)))
    x, y = images.batch(part)
    labels = [images.classes[int(label)] for label in y.argmax(1)]
    rows = {CLEAN: (x, [f"is {label}" for label in labels])}
    for name, network in networks.items():
        x_hat, logits = _attacked(network, images, part, attack)
        right = (logits.argmax(1) == y.to(logits).argmax(1)).tolist()
        captions = zip(right, _said(images, logits), strict=True)
        rows[name] = (x_hat, [f"{'✓' if fine else '✗'} {said}" for fine, said in captions])
    return html.strip(rows)


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


def _summary(evaluation: Evaluation, found: list[Alarm]) -> str:
    low, high = evaluation.interval(WORST)
    ringing = [alarm.name for alarm in found if alarm.rings]
    where = "at " if evaluation.norm == "linf" else "in the "
    strongest = any(row.startswith("AutoAttack") for row in evaluation.stages)
    words = [
        f"<p>Of {evaluation.n} images, {evaluation.accuracy():.1%} are classified correctly as "
        f"they are and <b>{evaluation.accuracy(WORST):.1%}</b> (95 % interval {low:.1%} to "
        f"{high:.1%}) under every attack tried here {where}{evaluation.ball}.</p>"
    ]
    if ringing:
        words.append(
            f"<p><b>{len(ringing)} {'alarm rings' if len(ringing) == 1 else 'alarms ring'}</b>: "
            f"{escape(', '.join(ringing))}. Part of the robustness under gradient attacks is "
            "hidden gradients, not robustness; trust the lowest row.</p>"
        )
    else:
        words.append("<p>No alarm rings: no sign of hidden gradients was found.</p>")
    if not strongest:
        words.append(
            "<p>AutoAttack was not run: the figure is an upper bound that stronger attacks have "
            "not tested.</p>"
        )
    return "".join(words)


def _accuracies(evaluation: Evaluation) -> str:
    heading = "standing after" if evaluation.ladder else "attack"
    rows = [(heading, "accuracy", "95 % interval", "n", "gradients")]
    for name, gradients in zip(evaluation.names, evaluation.gradients, strict=True):
        rows.append((*evaluation.row(name, 1), f"{gradients:,}".replace(",", " ")))
    rows.append((*evaluation.row(WORST, 1), ""))
    parts = [html.table(rows)]
    for name, stages in evaluation.stages.items():
        left = ", ".join(f"{title} {count}" for title, count in stages)
        parts.append(f"<p>{escape(name)}, images left standing after each stage: {left}.</p>")
    parts += [f"<p>Note: {escape(note)}.</p>" for note in evaluation.notes]
    return "".join(parts)


def _alarm_table(found: list[Alarm]) -> str:
    states = {True: "RINGS", False: "silent", None: "not tried"}
    # The loudest first; sorting is stable, so the order of alarms is kept within each.
    ordered = sorted(found, key=lambda alarm: list(states).index(alarm.rings))
    rows = [(states[alarm.rings], alarm.name, alarm.sentence) for alarm in ordered]
    return html.table([("", "sign", "what was found"), *rows], "words")


def _transfer_table(matrix: TransferMatrix) -> str:
    rows = [[f"defender \\ {matrix.attack} made on", *matrix.names, "n"]]
    for i, name in enumerate(matrix.names):
        cells = []
        for j in range(len(matrix.names)):
            low, high = matrix.interval(i, j)
            cells.append(f"{float(matrix.accuracy[i, j]):.1%} [{low:.1%}, {high:.1%}]")
        rows.append([name, *cells, str(matrix.n)])
    return (
        html.table(rows)
        + "<p>95 % intervals in brackets; the diagonal is each model's own PGD.</p>"
    )


def _reading(evaluation: Evaluation) -> str:
    rule = (
        "any iterate of an attack fools the model"
        if evaluation.rule == "any"
        else "an attack's last iterate fools the model"
    )
    every, length = "change every pixel by at most", "change an image by an l2 length of at most"
    bound = every if evaluation.norm == "linf" else length
    return (
        f"<p>Data: {escape(evaluation.data)}, n = {evaluation.n}, seed {evaluation.seed}. Attacks "
        f"{bound} epsilon, in units where pixels run from 0 to 1, and stay "
        f"valid images. An image counts as fooled when {rule}; images that are wrong without an "
        f"attack ({1 - evaluation.accuracy(CLEAN):.1%}) count as fooled by all. Intervals are "
        "Wilson's: they speak of images drawn like these, for this one network, not of networks "
        "trained again.</p>"
        "<p>A robust accuracy is an upper bound: each attack only shows what it found. Alarms "
        "look for robustness that is none, where gradients are hidden by soft labels, large logits "
        "or noise: then attacks that ought to be weaker win. An alarm rings where chance is ruled "
        "out at 1 %; silence proves nothing.</p>"
    )
