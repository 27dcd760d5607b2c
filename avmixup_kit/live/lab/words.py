"""What the dashboard says: sentences, and the HTML they and its pictures are shown in."""

import time
from pathlib import Path
from typing import Any

from avmixup_kit._base import html
from avmixup_kit._base.plots import label
from avmixup_kit.live.drawing import ALARM
from avmixup_kit.live.lab.menu import GREEK, title
from avmixup_kit.live.lab.run import LiveRun, Strip
from avmixup_kit.live.lab.trainer import Trainer
from avmixup_kit.methods.method import Method
from avmixup_kit.methods.mixing import AVmixup
from avmixup_kit.training.dial import Turn

STATES = {
    "ready": "is ready",
    "running": "is running",
    "paused": "is paused",
    "stopped": "was stopped",
    "ended": "has ended",
    "failed": "has failed",
}


def progress(run: LiveRun) -> str:
    """Return how far a run is, how fast, and how long it still takes."""
    training, pace = run.training, run.images_per_second()
    left = (training.steps - training.step) * training.settings.batch_size
    words = [f"step {training.step} of {training.steps}"]
    if run.loss_now is not None:
        words.append(f"loss {run.loss_now:.3f}")
    if pace:
        words += [f"{pace:,.0f} images/s".replace(",", " "), f"{_duration(left / pace)} left"]
    shown = (
        '<progress value="{}" max="{}" style="width:16em" aria-label="training progress">'
        "</progress> {}"
    )
    return str(html.markup(shown, training.step, training.steps, " · ".join(words)))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def state(trainer: Trainer, run: LiveRun) -> str:
    """Return what the run and the trainer are doing."""
    words = f"{run.name} {STATES[run.status]}"
    if run.status in ("ended", "stopped"):
        words += ": fork it from an earlier step to go on"
    if trainer.doing:
        words += f"; {trainer.doing}: after this step"
    if trainer.news:
        words += f". {trainer.news}"
    return str(html.markup('<span role="status" aria-live="polite">{}</span>', words))


def alert(words: str, details: str = "") -> str:
    """Return what went wrong, with its details under it."""
    shown = (
        '<pre role="alert" style="border-left:4px solid {};padding:0.5em;'
        'white-space:pre-wrap;max-height:24em;overflow:auto">{}</pre>'
    )
    return str(html.markup(shown, ALARM, "\n\n".join(filter(None, (words, details)))))


def label_note(method: Method) -> str:
    """Return what the method asks of the labels; nothing unless it mixes towards the vertex."""
    mix = method.mix
    if not isinstance(mix, AVmixup):
        return ""
    words = (
        f"The true class's share of the label: {mix.lambda1:.3g} at the image, "
        f"{mix.label_at(1):.3g} at the adversarial example, {mix.lambda2:.3g} at the vertex, "
        f"{mix.gamma:.3g} times as far. "
    )
    if mix.label != "fixed":
        who = "averaged copy" if mix.label == "averaged" else "teacher"
        words += f"The rest of the vertex's label is what the {who} says. "
    if mix.lambda1 < mix.lambda2:
        words += (
            "λ₁ < λ₂ is legal: the target rises along the attack's direction, as in the paper's "
            "setting with Feature Scatter (1, 0.5, 0.7)."
        )
    elif mix.lambda1 == mix.lambda2:
        words += "λ₁ = λ₂: the label does not depend on where the image lies on the line."
    return str(html.markup('<div style="max-width:36em">{}</div>', words))


def strip(strip: Strip) -> str:
    """Return the pictures as a table: clean, adversarial, as trained on."""
    labels = strip.labels
    said = [
        f"{'✓' if label == said else '✗'} {said} ({share:.0%})"
        for (said, share), label in zip(strip.said, labels, strict=True)
    ]
    asked = [f"{share:.0%} {label}" for share, label in zip(strip.targets, labels, strict=True)]
    rows = {
        "clean": (strip.clean, [f"is {label}" for label in labels]),
        f"PGD10, ε = {strip.epsilon:.3g}": (strip.adversarial, said),
        "trained on": (strip.mixed, asked),
    }
    return html.part("strip", rows, size=52)


def ahead(turns: tuple[Turn, ...]) -> str:
    """Return what a dial will do by itself."""
    said = "; ".join(f"{words} at step {step}" for step, words in turned(turns).items())
    words = f"To come: {said}. What is turned by hand wins." if said else ""
    return str(html.markup('<div style="max-width:36em">{}</div>', words))


def program(text: str, to: str) -> str:
    """Return a program as text, with a button that the figure ``to`` hears and copies it."""
    shown = (
        '<button type="button" data-to="{}" class="jupyter-button widget-button">Copy</button>'
        '<pre tabindex="0" aria-label="the script" style="font-size:13px;line-height:1.35;'
        'max-height:28em;overflow:auto">{}</pre>'
    )
    return str(html.markup(shown, to, text))


def earlier(folder: Path) -> str:
    """Return a run folder's name, and when it was written."""
    written = time.localtime((folder / "run.json").stat().st_mtime)
    return f"{folder.name}, {time.strftime('%d %b %H:%M', written)}"


def turned(turns: tuple[Turn, ...]) -> dict[int, str]:
    """Return what the turns did, in words by step; a later turn of a step hides an earlier one."""
    changes: dict[int, dict[str, Any]] = {}
    for turn in turns:
        changes.setdefault(turn.step, {}).update(turn.change)
    return {
        step: ", ".join(_setting(name, value) for name, value in change.items())
        for step, change in changes.items()
    }


def _setting(name: str, value: Any) -> str:
    if isinstance(value, Method):
        return label(title(value, "your own method"))
    shown = f"{value:.3g}" if isinstance(value, int | float) else type(value).__name__
    return f"{GREEK.get(name, label(name))} = {shown}"
