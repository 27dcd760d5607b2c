"""The study of labels in miniature: what it trains, that it goes on, what it says of verdicts."""

import importlib
import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import avmixup_kit as av
from avmixup_kit._base import files
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.methods.mixing import AVmixup

pytest.importorskip("pyautoattack")
pytest.importorskip("optuna")

STUDIES = Path(__file__).parents[1] / "studies"
SHORT = {"steps": 3, "trials": 2, "trial_steps": 1, "images": 12}


@pytest.fixture(scope="module")
def labels() -> Any:
    sys.path.insert(0, str(STUDIES))
    try:
        return importlib.import_module("labels")
    finally:
        sys.path.remove(str(STUDIES))


@pytest.fixture
def study(labels: Any, tmp_path: Path) -> Any:
    return labels.Study(tmp_path / "results", tmp_path / "runs", labels.Protocol(**SHORT))


# ------------------------------------------------------------------------------- the experiment


def test_every_row_takes_a_step_and_asks_only_whom_it_has(labels, study, monkeypatch):
    asked = []

    def teacher(_: Any, kind: str, seed: int) -> torch.nn.Module:
        asked.append(kind)
        return av.small_cnn(study.data, seed=99)

    monkeypatch.setattr(labels.Study, "teacher", teacher)
    for name, row in labels.ROWS.items():
        asked.clear()
        first = {key: value for key, (_, value, _) in row.searched.items()}
        training = study.training(row, first, 1, 0)
        assert training.settings.lr == 0.1
        next(training)
        assert asked == ([row.teacher] if row.teacher else []), name
        asks = training.method.asks
        assert ("teacher" in asks, "averaged" in asks) <= (bool(row.teacher), True), name
        assert ("teacher" in asks) is (row.teacher is not None), name
        for key, (low, value, high) in row.searched.items():
            assert low <= value <= high, (name, key)


def test_cells_of_the_grid_differ_in_label_and_point_and_in_nothing_else(labels):
    built = {
        (label, point): labels.ROWS[labels.cell(label, point)].build({"lr": 0.1})
        for label in labels.LABELS
        for point in labels.POINTS
    }
    assert len(built) == len({repr(method) for method in built.values()}) == 12
    paper = av.avmixup(epsilon=labels.EPSILON, step_size=None)
    assert built["fixed", "vertex"].mix == paper.mix
    for (label, point), method in built.items():
        mix = method.mix
        assert isinstance(mix, AVmixup)
        assert (method.perturb, method.loss) == (paper.perturb, paper.loss)
        assert mix.gamma == labels.POINTS[point]
        assert (mix.lambda1, mix.lambda2) == (1.0, 1.0 if label == "hard" else 0.1)
        assert mix.label == (label if label in ("averaged", "teacher") else "fixed")
        assert labels.ROWS[labels.cell(label, point)].judged == "trained"


def test_a_vertex_beside_trades_is_its_formula(labels, network, batch):
    x, y = batch
    rng = torch.Generator().manual_seed(0)
    delta = labels.EPSILON * (2 * torch.rand(x.shape, generator=rng) - 1)
    method = labels.trades_with_vertex(3.0, 0.5, gamma=2.0, lambda2=0.2)
    step = av.Batch(x, y, rng=rng, delta=delta)
    step.x_hat, step.y_hat = method.mix(network, step)
    network.eval()
    clean, near, far = (network(each).log_softmax(1) for each in (x, x + delta, step.x_hat))
    apart = (clean.exp() * (clean - near)).sum(1).mean()
    mixed = -(step.y_hat * far).sum(1).mean()
    expected = -(y * clean).sum(1).mean() + 3 * apart + 0.5 * mixed
    torch.testing.assert_close(method.loss(network, step), expected)


def test_a_study_that_is_killed_goes_on_and_ends_as_one_left_alone(labels, study, monkeypatch):
    names, trial = ["AVmixup"], labels.Study.trial
    done: list[Any] = []

    def killed(self: Any, row: Any, settings: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(trial(self, row, settings))
        return done[0]

    monkeypatch.setattr(labels.Study, "trial", killed)
    with pytest.raises(KeyboardInterrupt):
        study(names, [0])
    monkeypatch.setattr(labels.Study, "trial", trial)
    kept = files.read_json(study.results / "search" / "AVmixup.json")["trials"]
    assert kept == done
    study(names, [0])
    found = files.read_json(study.results / "search" / "AVmixup.json")["trials"]
    assert found[:1] == kept
    assert found[0]["settings"] == {"lr": 0.1}
    assert len(found) == SHORT["trials"]

    alone = labels.Study(study.results.parent / "alone", study.folder / "alone", study.protocol)
    alone(names, [0])
    again = files.read_json(alone.results / "search" / "AVmixup.json")["trials"]
    assert [{**each, "processor_seconds": 0} for each in again] == [
        {**each, "processor_seconds": 0} for each in found
    ]
    one, other = (Evaluation.load(s.path("AVmixup", 0)) for s in (study, alone))
    assert torch.equal(one.correct, other.correct)
    assert one.names == labels.COLUMNS
    told = files.read_json(study.path("AVmixup", 0).with_suffix(".json"))
    assert 1 <= told["rivals"] <= 9
    best = max(found, key=lambda each: each["value"])["settings"]
    assert told["settings"] == best
    stamp = study.path("AVmixup", 0).stat().st_mtime_ns
    study(names, [0])  # nothing is left to do
    assert study.path("AVmixup", 0).stat().st_mtime_ns == stamp


def test_a_process_takes_what_no_other_is_at_and_then_waits_for_the_others(
    labels, study, monkeypatch
):
    judged: list[str] = []
    both, every = threading.Event(), threading.Event()

    def judge(self: Any, name: str, seed: int) -> None:
        judged.append(name)
        self.path(name, seed).write_bytes(b"")
        if len(judged) > 1:
            (both if len(judged) == 2 else every).set()

    monkeypatch.setattr(labels.Study, "judge", judge)
    with files.held(study.folder / "PGD-0.lock"):
        given = (["PGD", "TRADES", "AVmixup"], [0])
        threading.Thread(target=study, args=given, daemon=True).start()
        both.wait(60)
        assert judged == ["TRADES", "AVmixup"]
    every.wait(60)
    assert judged == ["TRADES", "AVmixup", "PGD"]


def test_a_folder_of_another_protocol_is_refused(labels, study):
    with pytest.raises(ValueError, match=r"protocol.json has another protocol: steps.*3.*500"):
        labels.Study(study.results, study.folder, labels.Protocol())


def test_settings_of_another_search_are_refused(labels, study):
    path = study.results / "search" / "PGD.json"
    path.write_text(json.dumps({"trials": [{"settings": {"lr": 0.3}, "value": 0.5}]}))
    with pytest.raises(ValueError, match=r"PGD.json, trial 0: lr was 0.3, is 0.1"):
        study.choose("PGD")


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2, 3, 4)])
def test_the_estimate_counts_trials_networks_and_verdicts(labels, seeds):
    said = labels.estimate(labels.Protocol(), ["PGD"], seeds)
    (step,) = re.findall(r"\| PGD \| +(\d+) \|", said)
    (hours,) = re.findall(r"In all ([\d.]+) core-hours", said)
    steps, n = 500 * len(seeds) + 200 * 8, len(seeds)
    expected = steps * int(step) / 1000 + labels.JUDGING * n + labels.MEASURING * 8
    assert float(hours) == pytest.approx(expected / 3600, abs=0.006)


def run(labels: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run the script as from the shell, with this process's own threads and patience."""
    monkeypatch.setattr(labels.os, "nice", lambda more: 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(sys, "argv", ["labels.py", *map(str, words)])
    labels.main()


def test_the_script_trains_evaluates_and_says_what_is_there(labels, tmp_path, monkeypatch, capsys):
    words = ["--results", tmp_path / "results", "--runs", tmp_path / "runs", "--names", "AVmixup"]
    words += [word for k, v in SHORT.items() for word in (f"--{k.replace('_', '-')}", v)]
    run(labels, monkeypatch, *words, "--seeds", 0)
    said = capsys.readouterr().out
    assert "AVmixup trial 1:" in said
    assert "| AVmixup | 1 |" in said
    assert said.endswith((tmp_path / "results" / "table.md").read_text() + "\n")


# -------------------------------------------------------------------------------- what it found


SHOWN = ("PGD", "TRADES", "AVmixup", "averaged-vertex", "teacher-vertex", "fixed-inside", "HAT")


def verdicts(labels: Any, results: Path, right: dict[str, float], seeds: int) -> dict[str, Any]:
    """Return the summary of made-up verdicts on 100 images: ``right`` is AutoAttack's accuracy."""
    folder = results / "evaluation"
    folder.mkdir(parents=True)
    (results / "protocol.json").write_text(json.dumps(labels.asdict(labels.Protocol())))
    told = {"settings": {"lr": 0.1}, "n": 100, "rivals": 2.0, "alarms": ["cw"]}
    told["processor_seconds"] = {"training": 1.0}
    for name in SHOWN:
        for seed in range(seeds):
            stands = round(100 * right.get(name, 0.5)) + (seed + len(name)) % 2
            correct = torch.ones(len(labels.COLUMNS), 100, dtype=torch.bool)
            correct[-1] = torch.arange(100) < stands
            found = Evaluation(labels.COLUMNS, correct, (0,) * 4, "any", seed, "digits/test")
            found.save(folder / f"{name}-{seed}.npz")
            about = told | {"rivals": 1.0 if name == "PGD" else told["rivals"]}
            (folder / f"{name}-{seed}.json").write_text(json.dumps(about))
    return labels.summary(results)


NETWORKS = {"averaged-vertex": 0.8, "teacher-vertex": 0.8}


@pytest.mark.parametrize(
    ("right", "verdict", "best"),
    [
        (NETWORKS | {"AVmixup": 0.6, "fixed-inside": 0.65}, "confirmed", "beats PGD and TRADES"),
        (NETWORKS | {"AVmixup": 0.6, "fixed-inside": 0.95}, "refuted", "beats PGD and TRADES"),
        (NETWORKS | {"AVmixup": 0.9, "fixed-inside": 0.6}, "refuted", "beats PGD and TRADES"),
        (NETWORKS | {"AVmixup": 0.8, "fixed-inside": 0.4}, "open", "beats PGD and TRADES"),
        ({"AVmixup": 0.5, "PGD": 0.8}, "open", "no evidence says it beats PGD or TRADES"),
    ],
)
def test_the_answer_follows_from_the_verdicts(labels, tmp_path, right, verdict, best):
    told = verdicts(labels, tmp_path, right, 5)
    said = told["answer"]
    assert f'"The label, not the vertex" is {verdict} on digits' in said
    assert said.endswith(f"{best}.")
    assert len(re.findall(r"\.(?: |$)", said)) == 2
    if verdict == "confirmed":
        assert re.search(r"label changes its accuracy by \+(19|20).\d \(", said)


def test_contrasts_and_comparisons_are_those_of_the_verdicts(labels, tmp_path):
    told = verdicts(labels, tmp_path, NETWORKS | {"AVmixup": 0.6, "fixed-inside": 0.65}, 3)
    accuracy = {name: row["AutoAttack"] for name, row in told["rows"].items()}
    for s in range(3):
        both = (accuracy["averaged-vertex"][s] + accuracy["teacher-vertex"][s]) / 2
        label = both - accuracy["AVmixup"][s]
        point = accuracy["fixed-inside"][s] - accuracy["AVmixup"][s]
        contrasts = told["contrasts"]
        assert contrasts["label"]["values"][s] == pytest.approx(label)
        assert contrasts["point"]["values"][s] == pytest.approx(point)
        assert contrasts["label - point"]["values"][s] == pytest.approx(label - point)
    for against in labels.REFERENCES:
        family = [each for each in told["comparisons"] if each["against"] == against]
        assert {each["row"] for each in family} == set(SHOWN) - {against}
        p = [each["p_holm"] for each in family]
        assert p == labels.holm([each["p"] for each in family])
    gap = {n: np.mean(row["PGD20"]) - np.mean(row["AutoAttack"]) for n, row in told["rows"].items()}
    ranks = rankdata(list(gap.values())), [name != "PGD" for name in gap]
    assert told["masking"]["rho"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    text = labels.table(told)
    assert f"Spearman's rho {told['masking']['rho']:.2f}" in text
    assert f"{len(SHOWN)} of {len(labels.ROWS)} methods; settings from 0 trials" in text
    assert "| fixed | 65.3 ± 1.4 (2.0) | 60.7 ± 1.4 (2.0) |" in text
    assert "3 seeds" in text
    assert "cw 3" in text


def test_tables_are_made_again_without_training(labels, tmp_path, monkeypatch, capsys):
    told = verdicts(labels, tmp_path, {}, 2)
    words = ("--table", "--results", tmp_path, "--runs", tmp_path / "runs")
    run(labels, monkeypatch, *words)
    assert (tmp_path / "table.md").read_text() == labels.table(told)
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(told))
    assert labels.table(told) in capsys.readouterr().out


def test_tables_are_made_while_seeds_are_missing(labels, tmp_path):
    with pytest.raises(SystemExit, match="holds no verdicts yet"):
        labels.summary(tmp_path)
    told = verdicts(labels, tmp_path, {}, 1)
    assert "open: two seeds of the grid are needed" in told["answer"]
    (tmp_path / "evaluation" / "teacher-vertex-0.npz").unlink()
    (tmp_path / "evaluation" / "PGD-0.npz").unlink()
    told = labels.summary(tmp_path)
    assert told["contrasts"] == {}
    assert "| teacher |" in labels.table(told)
    assert "Nothing is there yet to hold against PGD training." in told["answer"]


def test_a_row_of_fewer_seeds_is_still_awaited(labels, tmp_path):
    verdicts(labels, tmp_path, {}, 2)
    (tmp_path / "evaluation" / "HAT-1.npz").unlink()
    told = labels.summary(tmp_path)
    assert told["rows"].keys() == set(SHOWN) - {"HAT"}
    assert "HAT" not in {each["row"] for each in told["comparisons"]}
    assert f"{len(SHOWN) - 1} of {len(labels.ROWS)} methods" in labels.table(told)
