"""The best setting once more: over seeds, on test images, beside the paper's."""

import dataclasses
import hashlib
import io
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avmixup_kit import methods
from avmixup_kit._base import check, files, provenance
from avmixup_kit.data import Data
from avmixup_kit.evaluation.autoattack import autoattack
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation, Judge
from avmixup_kit.methods import attacks
from avmixup_kit.methods.attacks import Attack
from avmixup_kit.search.plan import BEST, UNMIXED, Plan
from avmixup_kit.search.result import Found
from avmixup_kit.search.study import helper_processes


def remeasure(
    found: Found,
    data: Data,
    folder: str | Path,
    *,
    plan: Plan | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    others: Mapping[str, Mapping[str, Any]] | None = None,
    rows: Sequence[Attack | Judge] | None = None,
    jobs: int = 1,
    say: bool = False,
    page: bool = True,
) -> Found:
    """Return the findings with test accuracies: the best setting, the paper's, and no mixing.

    Each trains a network for each seed, as a trial does, and meets the test images under ``rows``
    (by default PGD20, CW20 and AutoAttack quick). "No mixing" is PGD training, or Feature Scatter
    as released; ``others`` are further settings by name. The verdicts are kept in ``folder``/again,
    so that an interrupted measurement goes on; summary.json and report.html are written anew.

    Raises:
        ValueError: the findings are of another plan or of other images; no seeds.
    """
    check.that(bool(seeds), "seeds", seeds, "one or more whole numbers")
    plan = Plan() if plan is None else plan
    folder = Path(folder)
    check.same(
        found.searched, plan.identity(data), f"{folder / 'summary.json'} holds another search"
    )
    epsilon = plan.epsilon_on(data)
    settings = {
        BEST: plan.build(found.best.params, epsilon),
        found.reference: plan.build(found.published, epsilon),
        UNMIXED: plan.unmixed(epsilon),
    } | {name: plan.build(params, epsilon) for name, params in (others or {}).items()}
    if settings[UNMIXED] == settings[found.reference]:
        del settings[UNMIXED]  # the method mixes nothing
    (folder / "again").mkdir(parents=True, exist_ok=True)
    names = {
        name: tuple(
            f"{name.replace(' ', '-')}-{_digest(plan, method, data, rows)}-{s}.npz" for s in seeds
        )
        for name, method in settings.items()
    }
    todo = [
        (folder / "again" / names[name][k], settings[name], seed)
        for k, seed in enumerate(seeds)
        for name in settings
    ]
    device = str(data.train.device)
    work = _Work(plan, data, todo, rows, say)
    away = dataclasses.replace(work, data=data.to("cpu")) if jobs > 1 else work
    with helper_processes(away, (device,), jobs - 1):  # CUDA tensors cannot be sent
        work(device)
    again = {
        name: tuple(Evaluation.load(folder / "again" / file) for file in of_name)
        for name, of_name in names.items()
    }
    found = dataclasses.replace(found, again=again, files=names)
    with files.held(folder / "again" / "summary.lock", -1):
        found.save(folder, page=page)
        (folder / "again" / "summary.lock").unlink(missing_ok=True)
    return found


def _digest(
    plan: Plan, method: methods.Method, data: Data, rows: Sequence[Attack | Judge] | None
) -> str:
    """Return what tells a file of verdicts from those of another method, training or data."""
    images = (data.train.checksum, data.test.checksum)
    text = f"{method!r} {plan.settings!r} {plan.network} {plan.base_channels} {images}"
    text += "" if rows is None else f" {rows!r}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class _Work:
    """Networks to train and evaluate: where their verdicts are missing, their methods and seeds."""

    plan: Plan
    data: Data
    todo: Sequence[tuple[Path, methods.Method, int]]
    rows: Sequence[Attack | Judge] | None
    say: bool

    def __call__(self, device: str) -> None:
        data = self.data.to(device)
        # First what nobody else is at; then wait for the others, and do what they have left undone.
        for patience, (path, method, seed) in itertools.product((0, -1), self.todo):
            lock = path.with_suffix(".lock")
            try:
                held = files.held(lock, patience)
            except BlockingIOError:
                continue
            with held:
                if not path.exists():
                    self._measure(data, path, method, seed)
                # Nobody needs it once the file is there, and who waits for it looks for the file.
                lock.unlink(missing_ok=True)

    def _measure(self, data: Data, path: Path, method: methods.Method, seed: int) -> None:
        epsilon = self.plan.epsilon_on(data)
        rows = self.rows or [
            attacks.pgd(steps=20, epsilon=epsilon),
            attacks.cw(steps=20, epsilon=epsilon),
            autoattack(epsilon, "quick"),
        ]
        began = time.process_time()
        training = self.plan.training(data.train, method, seed)
        for _ in training:
            pass
        evaluation = evaluate(training.judged, data.test, rows, seed=seed)
        about = evaluation.to_json() | {
            "method": repr(method),
            "settings": repr(training.settings),
            "network": getattr(training.model, "architecture", self.plan.network),
            "training images": data.train.checksum,
            "processor seconds": round(time.process_time() - began, 1),
            "provenance": provenance.provenance(),
        }
        buffer = io.BytesIO()
        evaluation.save(buffer)
        files.write_atomic(path.with_suffix(".json"), json.dumps(about, indent=1).encode())
        files.write_atomic(path, buffer.getvalue())
        if self.say:
            accuracy = f"{evaluation.accuracy(rows[-1].name):.1%} under {rows[-1].name}"
            print(f"{path.stem}: {accuracy}", flush=True)
