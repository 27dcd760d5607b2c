"""The digits study: is AVmixup's robustness real, and does diversity close the gap?

    python studies/digits.py

trains each method of VARIANTS on scikit-learn's digits with five seeds, evaluates each network on
all 449 test images under FGSM, PGD20, CW20, AutoAttack quick and standard, and writes

    results/digits/evaluation/<method>-<seed>.json   accuracies, intervals, stages, settings
    results/digits/evaluation/<method>-<seed>.npz    every verdict, for paired tests
    results/digits/evaluation/table.md               the tables, made from those files alone
    results/digits/evaluation/curves.json            accuracy and scatter along each training
    results/digits/evaluation/networks/<method>.pt   the networks of the first seed, weights alone

Killed at any moment it goes on where it stood. ``--table`` makes the tables again without training.
The networks stay in ``--runs``, which the repository ignores.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

import avmixup_kit as av
from avmixup_kit import methods, models, runs
from avmixup_kit._base import files, provenance
from avmixup_kit._base.statistics import spread
from avmixup_kit.evaluation import scatter as features
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.compare import compare
from avmixup_kit.evaluation.curves import robust_curves
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.training import checkpoints

EPSILON = 0.15
STEPS = 500
SEEDS = (0, 1, 2, 3, 4)
VARIANTS = {
    "PGD": methods.pgd(epsilon=EPSILON),
    "LS0.8": methods.label_smoothing(0.8, epsilon=EPSILON),
    "AVmixup": methods.avmixup(2.0, 1.0, 0.1, epsilon=EPSILON),
    "AVmixup-mild": methods.avmixup(1.5, 1.0, 0.7, epsilon=EPSILON),
    "AVmixup-diverse": methods.mixture(2.0, 1.0, 0.1, epsilon=EPSILON),
}
ATTACKS = (
    av.fgsm(EPSILON),
    av.pgd(steps=20, epsilon=EPSILON),
    av.cw(steps=20, epsilon=EPSILON),
    autoattack(EPSILON, "quick"),
    autoattack(EPSILON),
)


def train(data: av.Data, name: str, seed: int, folder: Path) -> torch.nn.Module:
    """Return the trained network of one method and seed; an interrupted run is taken up."""
    training = av.Training(
        models.small_cnn(data, seed=seed), data.train, VARIANTS[name], STEPS, seed=seed
    )
    scatter, accuracy = features.curves(data), robust_curves(data, 250)
    records = runs.log(
        training,
        folder,
        resume=(folder / "run.json").exists(),
        curves=lambda network: scatter(network) | accuracy(network),
        curves_every=STEPS // 20,
        best="PGD10, validation",
    )
    for _ in records:
        pass
    return training.model.eval()


def study(results: Path, folder: Path, names: list[str], seeds: list[int]) -> None:
    """Train and evaluate what is still missing; the standard AutoAttack, half the work, comes last.

    A network's verdicts do not depend on what else is evaluated, so rows can be added later.
    """
    data = av.digits()
    for attacks in (ATTACKS[:-1], ATTACKS):
        for seed in seeds:
            for name in names:
                path = results / f"{name}-{seed}.npz"
                done = Evaluation.load(path) if path.exists() else None
                missing = [a for a in attacks if done is None or a.name not in done.names]
                if not missing:
                    continue
                began = time.process_time()
                model = train(data, name, seed, folder / f"{name}-{seed}")
                trained = time.process_time()
                found = evaluate(model, data.test, missing, batch_size=512, seed=seed)
                seconds = {
                    "training": round(trained - began, 1),
                    "evaluation": round(time.process_time() - trained, 1),
                }
                evaluation = found if done is None else joined(done, found)
                save(
                    path, evaluation, command="python studies/digits.py",
                    method=repr(VARIANTS[name]), steps=STEPS, processor_seconds=seconds,
                )  # fmt: skip
                print(f"{name} seed {seed}\n{evaluation}\n", flush=True)


def publish(results: Path, folder: Path) -> None:
    """Write what a reader needs of the runs: curves of every seed, networks of the first."""
    curves = {}
    (results / "networks").mkdir(exist_ok=True)
    for name in VARIANTS:
        for seed in SEEDS:
            run = folder / f"{name}-{seed}"
            curves[run.name] = {
                curve: {"steps": steps, "values": [round(value, 5) for value in values]}
                for curve, (steps, values) in runs.curves_of(run).items()
            }
        state = checkpoints.load_checkpoint(folder / f"{name}-{SEEDS[0]}" / "latest.pt")
        weights = {key: state[key] for key in ("architecture", "model")}
        checkpoints.save_checkpoint(results / "networks" / f"{name}.pt", weights)
    files.write_atomic(results / "curves.json", json.dumps(curves).encode())


def joined(first: Evaluation, second: Evaluation) -> Evaluation:
    """Return two evaluations of the same model and images as one."""
    if not torch.equal(first.of("Clean"), second.of("Clean")):
        raise ValueError("two evaluations of different models or images cannot be joined")
    return dataclasses.replace(
        first,
        names=(*first.names, *second.names[1:]),
        correct=torch.cat([first.correct, second.correct[1:]]),
        gradients=(*first.gradients, *second.gradients[1:]),
        stages={**first.stages, **second.stages},
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )


def save(path: Path, evaluation: Evaluation, **about: object) -> None:
    """Write the verdicts, and before them what they are and how they came about."""
    about |= {
        "network": models.small_cnn(av.digits()).architecture,
        "provenance": provenance.provenance(),
    }
    text = json.dumps(evaluation.to_json() | about, indent=2)
    files.write_atomic(path.with_suffix(".json"), text.encode())
    evaluation.save(path)


def load(results: Path) -> dict[str, list[Evaluation]]:
    """Return the evaluations that are there, by method, in the order of the seeds."""
    found = {name: [results / f"{name}-{seed}.npz" for seed in SEEDS] for name in VARIANTS}
    return {
        name: [Evaluation.load(path) for path in paths]
        for name, paths in found.items()
        if all(path.exists() for path in paths)
    }


def table(results: Path) -> str:
    """Return the study's tables as Markdown, made from the saved verdicts alone."""
    by_method = load(results)
    if not by_method:
        raise SystemExit(f"{results} holds no method with all of the seeds {SEEDS}")
    shared = set.intersection(*(set(e.names) for es in by_method.values() for e in es))
    rows = ["Clean", *(attack.name for attack in ATTACKS if attack.name in shared)]
    # While the standard AutoAttack is still being added, a worst case must not use it for some.
    by_method = {name: [only(e, rows) for e in es] for name, es in by_method.items()}
    n, seeds = next(iter(by_method.values()))[0].n, len(SEEDS)
    lines = [
        f"Accuracy in percent on {n} test digits, epsilon {EPSILON}, {STEPS} steps: mean over "
        f"{seeds} seeds, ± half the 95 % interval over seeds (t, {seeds - 1} degrees of freedom).",
        "",
        "| method | " + " | ".join(rows) + " | PGD20 minus worst case |",
        "|---|" + "---|" * (len(rows) + 1),
    ]
    gaps = {}
    for name, evaluations in by_method.items():
        gaps[name] = [e.accuracy("PGD20") - float(e.worst().double().mean()) for e in evaluations]
        cells = [spread([e.accuracy(row) for e in evaluations]) for row in rows]
        lines.append(f"| {name} | " + " | ".join([*cells, spread(gaps[name])]) + " |")
    lines += [
        "",
        "Paired comparisons, seed by seed on the same images (differences in points):",
        "",
    ]
    pairs = [
        ("LS0.8", "PGD"),
        ("AVmixup", "PGD"),
        ("AVmixup-mild", "PGD"),
        ("AVmixup-diverse", "AVmixup"),
    ]
    for first, second in pairs:
        if first in by_method and second in by_method:
            lines.append(f"- {first} against {second}:")
            for row in ("Clean", "PGD20", "worst case"):
                lines.append(f"  - {compare(by_method[first], by_method[second], row)}")
    lines += ["", "Does diversity close the gap between PGD20 and the worst case?", ""]
    for first, second in (pair for pair in pairs if "diverse" in pair[0]):
        if first in gaps and second in gaps:
            change = np.array(gaps[first]) - np.array(gaps[second])
            p = stats.ttest_1samp(change, 0).pvalue
            lines.append(
                f"- {first} against {second}: the gap changes by {spread(list(change), sign=True)} "
                f"points, paired t-test over {seeds} seeds p = {p:.2g}."
            )
    return "\n".join(lines) + "\n"


def only(evaluation: Evaluation, rows: list[str]) -> Evaluation:
    """Return the evaluation with these rows alone."""
    gradients = dict(zip(evaluation.names, evaluation.gradients, strict=True))
    return dataclasses.replace(
        evaluation,
        names=tuple(rows),
        correct=torch.stack([evaluation.of(row) for row in rows]),
        gradients=tuple(gradients[row] for row in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/digits/evaluation"))
    parser.add_argument("--runs", type=Path, default=Path("runs/digits-study"))
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="only make the tables again")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.results.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        os.nice(19)
        study(chosen.results, chosen.runs, chosen.only, chosen.seeds)
        if (chosen.only, chosen.seeds) == (list(VARIANTS), list(SEEDS)):
            publish(chosen.results, chosen.runs)
    text = table(chosen.results)
    files.write_atomic(chosen.results / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
