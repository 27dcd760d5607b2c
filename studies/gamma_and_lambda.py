"""The search for gamma, lambda1 and lambda2 on digits: what it finds, and what pruning saves.

    python studies/gamma_and_lambda.py

searches 100 settings of AVmixup twice from the same seed, with and without pruning; trains the best
settings of both, the paper's and plain PGD again with five seeds and evaluates them on the 449 test
images; does the same, pruned, for Feature Scatter with AVmixup; asks, for 12 networks, which cheap
attack ranks them as AutoAttack does. Writes

    results/search/digits/pruned/summary.json      every trial; best; importance; comparisons
    results/search/digits/pruned/again/            verdicts on test images, of five seeds
    results/search/digits/unpruned/summary.json    the same search without pruning
    results/search/digits/feature_scatter/         the pruned search for Feature Scatter + AVmixup
    results/search/digits/objectives.json          attacks on the 12 networks
    results/search/digits/table.md                 the tables, made from those files alone

Killed at any moment it goes on where it stood. The studies stay in ``--runs``, which the repository
ignores. ``--table`` makes the tables again without training.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

import avmixup_kit as av
from avmixup_kit import attacks, search
from avmixup_kit._base import files, provenance
from avmixup_kit.evaluation.autoattack import AutoAttack, autoattack
from avmixup_kit.evaluation.ladder import evaluate

PLAN = search.Plan()
UNPRUNED = search.Plan(prune=False)
SCATTER = search.Plan(method="feature_scatter_avmixup")
HELD_OUT = 0.25
OTHER_BEST = "best without pruning"
NETWORKS = 12


def objectives(data: av.Data, path: Path) -> None:
    """Measure networks of random settings under each attack that could be the objective."""
    epsilon = data.epsilon
    rows = [
        attacks.pgd(steps=20, epsilon=epsilon),
        attacks.cw(steps=20, epsilon=epsilon),
        attacks.cw(steps=20, epsilon=epsilon, restarts=3),
        AutoAttack(epsilon, ("apgd-t",), 3, title="APGD-T"),
        autoattack(epsilon, "quick"),
    ]
    done = json.loads(path.read_text())["networks"] if path.exists() else []
    for number in range(len(done), NETWORKS):
        draw = np.random.default_rng(number)
        ranges = (PLAN.gamma, PLAN.lambda1, PLAN.lambda2)
        values = [round(float(draw.uniform(*span)), 3) for span in ranges]
        setting = dict(zip(search.SEARCHED, values, strict=True))
        training = PLAN.training(data.train, PLAN.build(setting, epsilon), seed=number)
        for _ in training:
            pass
        accuracy, seconds = {}, {}
        for row in rows:
            began = time.process_time()
            accuracy[row.name] = evaluate(training.model, data.validation, [row]).accuracy(row.name)
            seconds[row.name] = round(time.process_time() - began, 3)
        done.append({"setting": setting, "accuracy": accuracy, "processor seconds": seconds})
        about = {
            "command": "python studies/gamma_and_lambda.py",
            "images": f"{len(data.validation)} validation digits",
            "networks": done,
            "provenance": provenance.provenance(),
        }
        files.write_atomic(path, json.dumps(about, indent=1).encode())
        print(f"network {number}: {accuracy}", flush=True)


def study(results: Path, folder: Path) -> None:
    """Do what is still missing, the most telling first."""
    data = av.digits(validation=HELD_OUT)
    pruned = None
    for name, plan in (("pruned", PLAN), ("feature_scatter", SCATTER)):
        found = search.search(data, folder / name, plan=plan, say=True)
        search.remeasure(found, data, results / name, plan=plan, say=True, page=False)
        pruned = found if pruned is None else pruned
    assert pruned is not None
    unpruned = search.search(data, folder / "unpruned", plan=UNPRUNED, say=True)
    unpruned.save(results / "unpruned", page=False)
    others = {OTHER_BEST: unpruned.best.params}
    folder = results / "pruned"
    search.remeasure(pruned, data, folder, plan=PLAN, others=others, say=True, page=False)
    objectives(data, results / "objectives.json")


def table(results: Path) -> str:
    """Return the study's tables as Markdown, made from the saved files alone."""
    names = ("pruned", "unpruned", "feature_scatter")
    searches = {name: search.Found.load(results / name) for name in names}
    pruned, unpruned, scatter = searches.values()
    lines = [
        "| search | trials | trained to the end | training steps | processor minutes | "
        "best on validation | gamma | lambda1 | lambda2 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in searches.items():
        best = found.best
        numbers = " | ".join(f"{best.params[name]:.2f}" for name in search.SEARCHED)
        lines.append(
            f"| {name} | {len(found.trials)} | {len(found.finished)} | {found.training_steps} | "
            f"{found.seconds / 60:.1f} | {best.value:.1%} | {numbers} |"
        )
    saved = 1 - pruned.training_steps / unpruned.training_steps
    lines += ["", f"Pruning saves {saved:.0%} of AVmixup's training steps.", "", "Importance:", ""]
    for name, found in searches.items():
        shares = ", ".join(f"{key} {value:.0%}" for key, value in found.importance.items())
        lines.append(f"- {name}: {shares}")
    lines += ["", "AVmixup:", "", pruned.table(), "", "Feature Scatter + AVmixup:", ""]
    lines += [scatter.table(), "", *rankings(results / "objectives.json")]
    return "\n".join(lines) + "\n"


def rankings(path: Path) -> list[str]:
    """Return how well each attack ranks the networks as AutoAttack quick does, as lines."""
    networks = json.loads(path.read_text())["networks"]
    *cheap, judge = networks[0]["accuracy"]
    truth = np.array([network["accuracy"][judge] for network in networks])
    lines = [
        f"Which attack ranks {len(networks)} networks of random settings as {judge} does, on "
        "validation images?",
        "",
        "| attack | Kendall's tau | too optimistic by, points (mean, worst) | processor seconds |",
        "|---|---|---|---|",
    ]
    for name in (*cheap, judge):
        seen = np.array([network["accuracy"][name] for network in networks])
        seconds = np.mean([network["processor seconds"][name] for network in networks])
        tau = stats.kendalltau(seen, truth).statistic
        over = 100 * (seen - truth)
        lines.append(
            f"| {name} | {tau:.2f} | {over.mean():.1f}, {over.max():.1f} | {seconds:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results/search/digits"))
    parser.add_argument("--runs", type=Path, default=Path("runs/search-digits"))
    parser.add_argument("--table", action="store_true", help="only make the tables again")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.results.mkdir(parents=True, exist_ok=True)
    if not chosen.table:
        os.nice(19)
        study(chosen.results, chosen.runs)
    text = table(chosen.results)
    files.write_atomic(chosen.results / "table.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
