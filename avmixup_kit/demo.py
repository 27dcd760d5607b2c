"""The demonstration: four methods on real digits, one table and one page, in minutes on a CPU."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from avmixup_kit import methods, models, zoo
from avmixup_kit._base import files, html, provenance
from avmixup_kit.data import Split, digits
from avmixup_kit.evaluation.compare import comparison_rows, comparison_table
from avmixup_kit.evaluation.curves import (
    CURVE_IMAGES,
    accuracy_bars,
    accuracy_curves,
    method_colours,
    robust_curves,
)
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import WORST, Evaluation
from avmixup_kit.evaluation.report import adversarial_strip
from avmixup_kit.methods import attacks
from avmixup_kit.methods.method import Method
from avmixup_kit.training import runs
from avmixup_kit.training.loop import Training

EPSILON = 8 / 255  # of the zoo's networks of photographs


def demo_methods(epsilon: float) -> dict[str, Method]:
    """Return the demonstration's four methods at this epsilon, by the paper's names."""
    return {
        "Standard": methods.standard(),
        "PGD": methods.pgd(epsilon=epsilon),
        "LS0.8": methods.label_smoothing(0.8, epsilon=epsilon),
        "AVmixup": methods.avmixup(2.0, 1.0, 0.1, epsilon=epsilon),
    }


def demo(
    folder: str | Path = "demo",
    *,
    steps: int = 1000,
    seed: int = 0,
    data_root: str | Path | None = None,
) -> dict[str, Evaluation]:
    """Train Standard, PGD, LS0.8 and AVmixup on digits, evaluate each, write table and page.

    Writes ``folder``/<method>/ (run folders), table.txt, results.json and index.html, all of one
    seed; returns the evaluations on the test images by method. A demonstration that was interrupted
    is taken up where it stood. Where CIFAR-10 is at hand, the page shows a trained network of the
    zoo on photographs, too.

    Args:
        data_root: where CIFAR-10 or its JPEG mirror lies; $AVMIXUP_DATA or data where left out.

    Raises:
        ValueError: the folder holds a demonstration with other settings.
    """
    folder = Path(folder)
    data = digits()
    ladder = [
        attacks.fgsm(data.epsilon),
        attacks.pgd(steps=20, epsilon=data.epsilon),
        attacks.cw(steps=20, epsilon=data.epsilon),
    ]
    evaluations: dict[str, Evaluation] = {}
    networks: dict[str, torch.nn.Module] = {}
    began = time.perf_counter()
    for name, method in demo_methods(data.epsilon).items():
        training = Training(models.small_cnn(data), data.train, method, steps, seed=seed)
        records = runs.log(
            training,
            folder / name,
            curves=robust_curves(data, CURVE_IMAGES),
            resume=(folder / name / "run.json").exists(),
            curves_every=max(1, steps // 20),
        )
        for _ in runs.told(records, steps, f"train {name}", every=max(1, steps // 4)):
            pass
        evaluations[name] = evaluate(training.model, data.test, ladder, progress=True)
        runs.save_evaluation(folder / name, evaluations[name])
        networks[name] = training.model
    table = comparison_table(evaluations)
    files.write_atomic(folder / "table.txt", (table + "\n").encode())
    results = {
        "command": f"python -m avmixup_kit demo --steps {steps} --seed {seed}",
        "seconds": round(time.perf_counter() - began, 1),
        "provenance": provenance.provenance(),
        "evaluations": {name: e.to_json() for name, e in evaluations.items()},
    }
    files.write_atomic(folder / "results.json", json.dumps(results, indent=2).encode())
    try:
        network, images = zoo.photographs(root=data_root)
        photographs = _on_photographs(network, images)
    except (OSError, ValueError) as missing:
        print(missing)
        photographs = None
    colours = method_colours(demo_methods(data.epsilon))
    curves = {name: runs.curves_of(folder / name) for name in evaluations}
    page = html.page(
        "demo.html.j2",
        "AVmixup on digits",
        data=data,
        steps=steps,
        seed=seed,
        least=[(name, e.accuracy(WORST)) for name, e in evaluations.items()],
        accuracies=comparison_rows(evaluations),
        bars=accuracy_bars(evaluations, colours=colours),
        curves=accuracy_curves(curves, ["PGD10, train", "PGD10, validation"], colours=colours),
        pictures=adversarial_strip(networks, data.test, ladder[1]),
        photographs=photographs,
    )
    files.write_atomic(folder / "index.html", page.encode())
    return evaluations


def _on_photographs(network: models.Network, images: Split) -> dict[str, Any]:
    """Return what the page shows of a network of the zoo: its card, and an attack on it now."""
    card, attack = network.card, attacks.pgd(steps=20, epsilon=EPSILON)
    found = evaluate(network, images, [attack], progress=True)
    kept = [
        f"{value:.1f}% [{card['intervals'][name][0]:.1f}%, {card['intervals'][name][1]:.1f}%]"
        for name, value in card["accuracies"].items()
    ]
    now = [found.bracketed(name) if name in found.names else "-" for name in card["accuracies"]]
    return {
        "name": card["name"],
        "data": card["dataset"],
        "images": images.name,
        "rows": [
            ["", *card["accuracies"], "n"],
            ["its card", *kept, str(card["n"])],
            ["here", *now, str(found.n)],
        ],
        "pictures": adversarial_strip({card["name"]: network}, images, attack),
    }
