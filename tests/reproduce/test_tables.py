"""The paper's tables beside ours: one command, resumable, and nothing in them but what was run."""

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from scipy import stats

import avmixup_kit as av
from avmixup_kit import cli, methods, models, paper, runs
from avmixup_kit._base import processes
from avmixup_kit.data import DATASETS
from avmixup_kit.evaluation.compare import Comparison, compare
from avmixup_kit.methods.attacks import Attack
from avmixup_kit.reproduce import (
    claims,
    estimate,
    figures,
    load,
    plan,
    plans,
    provenance,
    reproduce,
    results,
    runner,
)
from avmixup_kit.reproduce.verdicts import Verdicts
from avmixup_kit.training.loop import TrainingDiverged
from tests.conftest import made_mirror

pytest.importorskip("pyautoattack")

TINY = replace(plans.SMOKE, steps=4, images=20, measurements=2, curve_images=10, seeds=(0, 1))
SOURCES = ("Standard", "PGD", "LS0.8", "LS0.9")


def make(tables, folder, **options):
    said = []
    options = {
        "results": folder / "results",
        "folder": folder / "runs",
        "say": said.append,
    } | options
    found = reproduce(tables, options.pop("scale", TINY), **options)
    return found, "\n".join(said)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All tables of seed 0 and Table 1 of seed 1 as well: some 15 seconds, used by all below."""
    folder = tmp_path_factory.mktemp("made")
    make(["all"], folder, seeds=[0])
    make(["table1"], folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """The results alone, without the networks, to be damaged."""
    shutil.copytree(made / "results", tmp_path / "results")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------- the plans


def test_every_printed_cell_of_the_paper_is_a_column_of_a_row_at_full_scale():
    for number, table in enumerate(paper.TABLES, start=1):
        made = plan(f"table{number}", plans.FULL)
        assert tuple(row.title for row in made.rows) == table.rows
        assert made.columns[: len(table.columns)] == table.columns
        assert made.impossible == ()
        for row in made.rows:
            printed = [c for c in table.columns if table.value(row.title, c) is not None]
            assert [c.title for c in row.columns if c.title in table.columns] == printed
            assert any("AutoAttack" in column.title for column in row.columns)


def test_full_scale_trains_as_the_recipes_say():
    names = reversed(plans.NAMES)  # of rows of one name, the first table's stays
    rows = {row.title: row.run for name in names for row in plan(name, plans.FULL, seed=3).rows}
    run = rows["CIFAR100 / AVmixup"]
    assert (run.data, run.network, run.pad, run.flip) == ("cifar100", "wrn-34-10", 2, True)
    assert run.method == av.avmixup(2.0, 1.0, 0.1)
    assert run.settings == av.Settings(80_000, seed=3)  # the defaults are the paper's
    assert rows["SVHN / PGD"].settings.lr == 0.01
    assert not rows["SVHN / PGD"].flip
    run = rows["CIFAR100 / Feature Scatter + AVmixup"]
    assert run.method == av.feature_scatter_avmixup(1.5, 0.3, 0.42)
    assert (run.network, run.settings.batch_size) == ("wrn-28-10", 60)
    assert run.settings.steps == 200 * 834
    assert run.settings.decay_all
    assert [run.settings.lr_at(834 * epoch) for epoch in (59, 60, 90)] == pytest.approx(
        [0.1, 0.01, 0.001]
    )
    assert rows["0.1 / 0.5"].method == av.feature_scatter_avmixup(1.0, 0.1, 0.5)
    run = rows["TRADES (1/lambda = 6)"]
    assert run.method == av.trades(6.0)
    assert run.settings.steps == 76 * 391
    assert run.settings.lr_at(75 * 391 - 1) == 0.1
    assert run.settings.lr_at(75 * 391) == pytest.approx(0.01)


def test_every_network_of_every_scale_can_be_built_and_every_attack_is_the_papers():
    for scale in plans.SCALES.values():
        for name in plans.NAMES:
            for row in plan(name, scale).rows:
                run, epsilon = row.run, 0.15 if scale.digits else 8 / 255
                size = DATASETS.entries[run.data].size
                options = dict(run.network_options)
                if scale is plans.SHORT:
                    models.build(run.network, size, base_channels=2, **options)
                for column in row.columns:
                    attack = column.attack
                    setting = paper.ATTACKS.get(column.title.split(",")[0])
                    if setting is not None:
                        assert isinstance(attack, Attack)
                        assert attack.name == setting.name
                        assert attack.epsilon == pytest.approx(epsilon)
                        ratio = setting.step_size / setting.epsilon
                        assert attack.step == pytest.approx(ratio * epsilon)
                        assert attack.steps == setting.steps


def test_digits_are_trained_as_in_the_digits_study_and_shared_by_the_tables():
    runs_of = {name: plan(name, plans.SMOKE).runs for name in plans.NAMES}
    every = {run for found in runs_of.values() for run in found}
    assert len(every) == 12
    assert len({run.folder for run in every}) == 12
    assert set(runs_of["figure2"]) < set(runs_of["table1"]) & set(runs_of["table4"])
    pgd = next(run for run in every if run.name == "pgd")
    assert pgd.method == av.methods.pgd(epsilon=0.15)
    assert pgd.settings == av.Settings(500)
    scatter = next(run for run in every if run.name == "feature-scatter")
    assert isinstance(scatter.method.perturb, Attack)
    assert (scatter.method.perturb.step, scatter.method.perturb.steps) == (0.15, 1)


def test_at_full_scale_no_two_trainings_share_a_folder():
    every = {run for name in plans.NAMES for run in plan(name, plans.FULL).runs}
    assert len({run.folder for run in every}) == len(every)


# ------------------------------------------------------------------------------- what is made


def test_table_1_shows_the_papers_numbers_and_those_of_the_networks_in_the_run_folders(
    made, digits
):
    table = load("table1", TINY, made / "results")
    assert table.missing == ()
    networks = made / "runs" / "smoke" / "digits"
    attacks: list[Any] = [
        av.fgsm(0.15),
        av.pgd(steps=10, epsilon=0.15),
        av.pgd(steps=20, epsilon=0.15),
        av.cw(steps=20, epsilon=0.15),
    ]
    attacks.append(av.autoattack(0.15, "quick"))
    for row in paper.TABLE_1.rows:
        for result in table.of(row):
            network = runs.load_model(networks / f"{row.lower()}-{result.seed}")
            direct = av.evaluate(network, digits.test.subset(20), attacks, seed=result.seed)
            assert result.accuracy == {name: direct.accuracy(name) for name in direct.names}
            assert torch.equal(result.evaluation().correct, direct.correct)
    values = [result.accuracy["Clean"] for result in table.of("PGD")]
    half = stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / 2**0.5
    cell = f"{100 * np.mean(values):.2f} ± {100 * half:.2f}"
    text = (made / "results/table1/smoke/table.md").read_text()
    assert re.search(r"\| PGD \| paper \| 86.88 \| 62.68 \| 47.69 \| 46.34 \| 47.35 \| - \|", text)
    assert f"|  | ours | {cell} |" in text
    assert re.search(r"\| 20 \| 0 1 \|", text)
    for word in ("test of the plumbing", "no comparison", "AutoAttack (quick)", "scikit-learn"):
        assert word in text
    assert "missing" not in text
    assert text == table.markdown()


def test_a_result_says_where_it_comes_from(made, digits):
    about = json.loads((made / "results/table1/smoke/avmixup-1.json").read_text())
    assert about["command"] == "python -m avmixup_kit reproduce table1 --scale smoke --seeds 1"
    assert av.methods.parse(about["method"]) == av.avmixup(epsilon=0.15)
    assert about["settings"]["seed"] == about["seed"] == 1
    assert about["data"]["train_checksum"] == digits.train.checksum
    assert about["data"]["test_checksum"] == digits.test.subset(20).checksum
    assert about["seconds"]["training"] > 0
    for part in ("training", "evaluation"):
        assert {"commit", "dirty", "torch", "machine"} <= about["provenance"][part].keys()
    low, high = about["interval95"]["Clean"]
    assert low < about["accuracy"]["Clean"] < high
    assert len(json.dumps(about)) < 5000


def test_table_2_is_the_transfer_matrix(made, digits):
    table = load("table2", TINY, made / "results")
    names = (*SOURCES, "AVmixup")
    folder = made / "runs" / "smoke" / "digits"
    networks = {name: runs.load_model(folder / f"{name.lower()}-0") for name in names}
    matrix = av.transfer_matrix(networks, digits.test.subset(20), av.pgd(steps=20, epsilon=0.15))
    for i, row in enumerate(names[1:], start=1):
        for j, column in enumerate(SOURCES):
            cell = table.cell(row, column)
            if i == j:
                assert cell is None
                assert not table.expected(row, column)
            else:
                assert cell is not None
                assert cell.mean == pytest.approx(float(matrix.accuracy[i, j]))


def test_figure_2_has_the_curves_of_the_logs_and_both_checkpoints(made):
    table = load("figure2", TINY, made / "results")
    (result,) = table.of("AVmixup")
    folder = made / "runs/smoke/digits/avmixup-0"
    for name, curve in result.curves.items():
        assert curve == runs.curves_of(folder)[name]
    assert list(result.curves) == ["PGD10, train", "PGD10, validation"]
    best = runs.load_model(folder / "best.pt")
    direct = av.evaluate(best, av.digits().test.subset(20), [av.pgd(steps=10, epsilon=0.15)])
    assert result.accuracy["PGD10, best"] == direct.accuracy("PGD10")


def test_tables_of_several_data_sets_say_which_blocks_digits_cannot_stand_for(made):
    for name, block in (("table4", "digits / LS0.8"), ("table5", "digits / Feature Scatter")):
        table = load(name, TINY, made / "results")
        assert table.cell(block, "PGD20") is not None
        assert table.paper(block, "PGD20") is None
        assert all(row in table.plan.impossible for row, _ in table.missing)
        assert table.plan.published is not None
        assert f"Not run at this scale: {table.plan.published.rows[0]}" in table.markdown()
        lines = table.cells()
        # no wall of "missing", no lines of "-": a row is there where somebody has a number
        assert [line[1] for line in lines if line[0] in table.plan.impossible] == ["paper"] * len(
            table.plan.impossible
        )
        assert not any("missing" in line for line in lines)
        assert [line[1] for line in lines if line[0] == block] == ["ours"]


def test_each_network_is_trained_and_judged_once_for_all_tables(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    _, said = make(["all"], tmp_path, seeds=[0])
    assert "trained" not in said
    assert "evaluated" not in said
    before, after = (contents(folder / "results") for folder in (made, tmp_path))
    names = [path.relative_to(tmp_path) for path in after if path.suffix == ".npz"]
    assert len(names) == 5 + 4 + 4 + 4 + 3 + 4 + 2
    for name in names:
        with np.load(made / name) as one, np.load(tmp_path / name) as other:
            assert all(np.array_equal(one[key], other[key]) for key in one)


def test_only_the_rows_asked_for_are_estimated_and_trained_in_their_order(tmp_path):
    (table,), said = make(["table1"], tmp_path, rows=["AVmixup", "PGD"], seeds=[0])
    assert re.findall(r"trained digits/(\S+):", said) == ["avmixup-0", "pgd-0"]
    assert {row for row, _ in table.missing} == {"Standard", "LS0.8", "LS0.9"}
    estimated = re.findall(r"^digits/(\S+)", said, re.MULTILINE)
    assert estimated == ["avmixup", "pgd"]


def test_tables_are_made_in_the_order_asked_for():
    assert plans.tables_named(["table3", "table1", "table3"]) == ("table3", "table1")
    assert plans.tables_named(["figure2", "all"]) == ("figure2", *plans.NAMES[:-1])


def test_results_that_are_there_need_no_networks(copy):
    before = contents(copy / "results")
    found, said = make(["all"], copy, seeds=[0])
    assert not (copy / "runs").exists()
    assert contents(copy / "results") == before
    assert "Left to do" not in said
    assert len(found) == 7


def test_one_seed_has_wilsons_interval_and_several_students():
    one = results.Cell((0.45,), (0,), 20)
    assert one.interval == av.wilson(9, 20)
    assert str(one) == "45.00 [25.8, 65.8]"
    two = results.Cell((0.4, 0.5), (0, 1), 20)
    assert two.interval == pytest.approx(
        stats.t.interval(0.95, 1, loc=0.45, scale=stats.sem([0.4, 0.5]))
    )
    assert str(two) == "45.00 ± 63.53"


# ------------------------------------------------------------------------- stopping and going on


def test_killed_it_goes_on_and_ends_with_the_same_results(made, tmp_path):
    script = (
        "from dataclasses import replace\n"
        "from avmixup_kit.reproduce import plans, reproduce\n"
        "import torch; torch.set_num_threads(1)\n"
        f"scale = replace(plans.SMOKE, steps=4, images=20, measurements=2, curve_images=10)\n"
        f"reproduce(['table1'], scale, seeds=[0], results={str(tmp_path / 'results')!r},\n"
        f"    folder={str(tmp_path / 'runs')!r}, say=lambda line: print(line, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("evaluated digits/pgd-0"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert (tmp_path / "results/table1/smoke/standard-0.json").exists()
    assert not (tmp_path / "results/table1/smoke/pgd-0.json").exists()
    _, said = make(["table1"], tmp_path, seeds=[0])
    assert "trained digits/standard-0" not in said
    assert "trained digits/pgd-0" not in said
    assert "evaluated digits/pgd-0, 20 images: AutoAttack (quick)" in said
    for row in ("standard", "pgd", "ls0.8", "ls0.9", "avmixup"):
        file = f"results/table1/smoke/{row}-0.npz"
        with np.load(made / file) as one, np.load(tmp_path / file) as other:
            assert np.array_equal(one["correct"], other["correct"]), row


@pytest.mark.parametrize("old", [False, True])
def test_core_hours_are_added_over_sessions_and_told_below_the_table(tmp_path, monkeypatch, old):
    real, file = runs.log, tmp_path / "runs/smoke/digits/pgd-0/seconds.json"

    noted = {}

    def killed(*given, **options):
        for record in real(*given, **options):
            if record.step == 1:  # a kill leaves what was noted after the step before
                noted.update(json.loads(file.read_text()))
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(runner, "COUNTED", 1)
    monkeypatch.setattr(runs, "log", killed)
    options = {"rows": ["PGD"], "seeds": [0]}
    with pytest.raises(KeyboardInterrupt):
        make(["figure2"], tmp_path, **options)
    assert noted.keys() == {"wall", "processor"}
    assert min(noted.values()) > 0
    file.write_text(json.dumps(7200.0 if old else {"wall": 7200.0, "processor": 3600.0}))
    monkeypatch.setattr(runs, "log", real)
    (table,), _ = make(["figure2"], tmp_path, **options)
    (result,) = table.of("PGD")
    assert result.about["seconds"]["training"] > 7200
    assert (result.core_hours is None) == old
    if result.core_hours is None:
        assert "Core-hours" not in table.markdown()
    else:
        training, evaluation = result.core_hours
        assert training > 1
        assert f"over seeds: PGD {training:.2f} + {evaluation:.2f}." in table.markdown()


def test_minutes_end_it_cleanly_and_the_same_command_goes_on(made, tmp_path):
    (table,), said = make(["table6"], tmp_path, seeds=[0], minutes=1e-9)
    assert not table.results
    assert "Left to do (the same command goes on):" in said
    assert said.count("the minutes are over") == 4
    assert len(table.missing) == 4 * 5
    whole, said = make(["table6"], tmp_path, seeds=[0])
    assert "Left to do" not in said
    assert whole[0].cells() == load("table6", TINY, made / "results").cells()


def test_minutes_end_a_training_at_a_checkpoint(tmp_path, monkeypatch):
    scale = replace(TINY, steps=12)
    now = itertools.count()
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(now))
    _, said = make(["table6"], tmp_path, scale=scale, seeds=[0], minutes=0.08)
    monkeypatch.undo()
    found = re.search(r"steps 0 to (\d+) of 12", said)
    assert found is not None
    assert 0 < int(found[1]) < 12
    (table,), said = make(["table6"], tmp_path, scale=scale, seeds=[0])
    assert f"steps {found[1]} to 12 of 12" in said
    assert table.missing == ()


def test_minutes_between_attacks_leave_cells_that_are_missing(tmp_path, monkeypatch):
    # The clock strikes before AutoAttack: what is known is written, the cell says "missing".
    asked = []
    monkeypatch.setattr(runner.Clock, "over", property(lambda self: len(asked) > 0))
    evaluate = runner.evaluate

    def counted(*words, **options):
        asked.append(evaluate(*words, **options))
        return asked[-1]

    monkeypatch.setattr(runner, "evaluate", counted)
    (table,), said = make(["table6"], tmp_path, seeds=[0])
    assert table.cell("0.1 / 0.5", "PGD20") is not None
    assert table.cell("0.1 / 0.5", "AutoAttack (quick)") is None
    assert ("0.1 / 0.5", "AutoAttack (quick)") in table.missing
    line = next(line for line in table.cells() if line[1] == "ours")
    assert line[6] == "missing"
    assert "Still missing: 16 cells, in 0.1 / 0.5, 0.5 / 0.3, 0.5 / 0.7, 1.0 / 0.5." in said
    monkeypatch.undo()
    (table,), said = make(["table6"], tmp_path, seeds=[0])
    assert "trained digits/feature-scatter-avmixup-1-0.1-0.5-0" not in said
    assert table.missing == ()


def test_verdicts_taken_in_pieces_and_interrupted_between_them_are_the_same(
    made, tmp_path, monkeypatch
):
    row = next(row for row in plan("table1", TINY).rows if row.title == "PGD")
    whole = runner.Runner(TINY, made / "runs").verdicts(row.run)
    shutil.copytree(made / "runs/smoke/digits/pgd-0", tmp_path / "runs/smoke/digits/pgd-0")
    (tmp_path / "runs/smoke/digits/pgd-0/verdicts.npz").unlink()
    columns = [column for column in row.columns if "AutoAttack" not in column.title]
    said = []
    pieces = runner.Runner(replace(TINY, chunk=7), tmp_path / "runs", say=said.append)
    with monkeypatch.context() as patch:
        patch.setattr(runner.Clock, "over", property(lambda self: len(said) > 1))
        assert not pieces.judge(row.run, columns)
    assert pieces.judge(row.run, columns)
    assert [re.findall(r"(\d+) images", line)[0] for line in said] == ["7", "7", "6"]
    found = pieces.verdicts(row.run)
    for column in columns:
        assert np.array_equal(found.correct[column.key], whole.correct[column.key])
        assert found.gradients[column.key] == whole.gradients[column.key]


def test_a_network_is_loaded_once_for_all_pieces_and_attacks(tmp_path, monkeypatch):
    loaded, load_model = [], runs.load_model

    def noted(path, *arguments):
        loaded.append(Path(path).relative_to(tmp_path / "runs"))
        return load_model(path, *arguments)

    monkeypatch.setattr(runs, "load_model", noted)
    make(["table2"], tmp_path, scale=replace(TINY, chunk=5), seeds=[0])
    assert len(loaded) == len(set(loaded)) > 4, "no checkpoint twice"


def test_a_cell_of_fewer_seeds_than_its_row_says_so(copy):
    path = copy / "results/table1/smoke/pgd-1.json"
    about = json.loads(path.read_text())
    del about["accuracy"]["CW20"]
    path.write_text(json.dumps(about))
    line = load("table1", TINY, copy / "results").cells()[4]
    assert line[1] == "ours"
    assert line[6].endswith("(seeds 0)")
    assert "seeds" not in line[5]


def test_networks_are_compiled_on_cuda_and_where_the_scale_says_so(tmp_path):
    def compiled(scale, device, asked=None):
        return runner.Runner(scale, tmp_path, device=device, compiled=asked).compiled

    assert compiled(plans.SHORT, "cuda")
    assert compiled(plans.FULL, "cuda:1")
    assert compiled(plans.LAPTOP, "cpu")
    assert compiled(plans.SMOKE, "cpu", True)
    assert not compiled(plans.SMOKE, "cpu")
    assert not compiled(plans.SHORT, "cpu")
    assert not compiled(plans.FULL, "cuda", False)


def test_a_missing_package_is_told_before_a_network_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match="AutoAttack needs its authors' package pyautoattack"):
        make(["table1"], tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_network_that_another_process_trains_is_left_to_it(tmp_path):
    folder = tmp_path / "runs/smoke/digits/feature-scatter-avmixup-1-0.5-0.7-0"
    folder.mkdir(parents=True)
    with filelock.FileLock(folder / "lock"):
        (table,), said = make(["table6"], tmp_path, seeds=[0])
    assert "is in use by another process" in said
    assert re.search(r"Left to do.*\n  digits/\S+-0.5-0.7-0: another process is at it", said)
    assert {row for row, _ in table.missing} == {"0.5 / 0.7"}
    (table,), said = make(["table6"], tmp_path, seeds=[0])
    assert table.missing == ()


def test_a_training_that_diverges_is_given_up_and_the_others_go_on(tmp_path, monkeypatch):
    train = runner.Runner.train

    def diverging(self, run):
        if run.name.endswith("0.1-0.5"):
            raise TrainingDiverged("the loss is nan at step 3")
        return train(self, run)

    monkeypatch.setattr(runner.Runner, "train", diverging)
    (table,), said = make(["table6"], tmp_path, seeds=[0])
    assert "gave up digits/feature-scatter-avmixup-1-0.1-0.5-0: the loss is nan at step 3" in said
    assert {row for row, _ in table.missing} == {"0.1 / 0.5"}


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table7"], "table = 'table7' is not allowed: one of table1, .*figure2, all"),
        (["all", "nonsense"], "table = 'nonsense' is not allowed: one of table1"),
        ([], "table = '' is not allowed"),
        (["table1", "--scale", "huge"], "scale = 'huge' is not allowed: one of smoke, laptop, sh"),
        (["table1", "--compile", "--eager"], "eager = True is not allowed: --compile or --eager"),
        (["table1", "--minutes", "0"], "minutes = 0.0 is not allowed: a positive number"),
        (["table1", "--rows", "PGD", "pgd"], "row = 'pgd' is not allowed: one of Standard, PGD"),
        (["table1", "--rows"], "row = '' is not allowed: one of Standard, PGD"),
        (["table1", "--seeds", "-1"], "seed = -1 is not allowed"),
        (["table1", "--scale", "short", "--device", "cpu", "--data-root", "{tmp}/file"],
         "data_root = .* holds none of the images"),
    ],
)  # fmt: skip
def test_what_a_user_can_put_right_is_one_line(monkeypatch, tmp_path, capsys, words, message):
    (tmp_path / "file").write_text("")
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    words += ["--results", str(tmp_path / "r"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", "reproduce", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: .*{message}.*\n", error), error
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "runs").exists()


def edit(**changes):
    def change(path):
        about = json.loads(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            inside = about
            for parent in parents:
                inside = inside[parent]
            inside[last] = value
        path.write_text(json.dumps(about))

    return change


DAMAGE = {
    "torn": (
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        r"pgd-0.json is corrupted: restore or remove it; nothing was overwritten \(JSONDecode.*\)$",
    ),
    "no accuracy": (
        edit(accuracy={"Clean": 86.88}),
        r"is corrupted: .*accuracies are not fractions",
    ),
    "no number": (edit(accuracy=None), r"pgd-0.json is corrupted: restore or remove it"),
    "another column": (
        edit(accuracy={"PGD7": 0.5}),
        "is corrupted: .* .no column of table1 is 'PGD7'",
    ),
    "no object": (lambda path: path.write_text("[]"), "it holds a list, not a dict"),
    "nested": (lambda path: path.write_text("[" * 10**5), r"\(RecursionError: maximum recursion"),
    "not UTF-8": (lambda path: path.write_bytes(b'{"\xff": 1}'), r"\(UnicodeDecodeError: 'utf-8'"),
    "better than it was": (edit(accuracy__Clean=0.99), "pgd-0.npz and pgd-0.json do not belong"),
    "more images than there were": (edit(data__n=450), "pgd-0.npz and pgd-0.json do not belong"),
    "another format": (
        edit(format=0),
        r"pgd-0.json is of format 0, written by another version of this kit, which writes format 1",
    ),
    "another version": (
        edit(kit="0.0.1"),
        r"one table does not mix them: .*--results\): version of the kit was '0.2.0', is '0.0.1'$",
    ),
    "other images": (
        edit(data__test_checksum="f" * 64),
        r"one table does not mix .*\): test images of digits was '\w{12}', is 'ffffffffffff'$",
    ),
    "other settings": (
        edit(settings__steps=5),
        r"pgd-0.json was not made as table1 at scale smoke is: settings.steps was 5, is 4",
    ),
    "another method": (
        edit(method=repr(av.methods.pgd(epsilon=0.1))),
        r"pgd-0.json was not made as table1 at scale smoke is: method.perturb.epsilon was 0.1",
    ),
    "another table": (
        edit(table="table4"),
        r"pgd-0.json is of table4 at scale smoke, not of table1 at scale smoke: move it away",
    ),
    "another row": (edit(row="Nobody"), "is of row 'Nobody', which table1 does not have"),
    "renamed": (edit(seed=3, settings__seed=3), "is of row 'PGD', seed 3: it was renamed"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_results_that_do_not_belong_are_refused_and_nothing_is_overwritten(copy, kind):
    damage, message = DAMAGE[kind]
    damage(copy / "results/table1/smoke/pgd-0.json")
    before = contents(copy / "results")
    for only_table in (True, False):
        with pytest.raises(ValueError, match=message) as caught:
            make(["table1"], copy, seeds=[0, 1, 2], only_table=only_table)
        assert "\n" not in str(caught.value)
        assert contents(copy / "results") == before
        assert not (copy / "runs").exists()


def test_results_about_other_images_than_are_here_are_refused(copy):
    for path in (copy / "results/table1/smoke").glob("*.json"):
        edit(data__train_checksum="f" * 64)(path)
    before = contents(copy / "results")
    with pytest.raises(ValueError, match=r"training images of digits was 'ffffffffffff', is"):
        make(["table1"], copy, seeds=[2])
    assert contents(copy / "results") == before
    assert not (copy / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kit": "0.0.1"},
            r"could not stand beside .*: version of the kit was '0.0.1', is '0.2.0'$",
        ),
        (
            {"precision": "bf16", "settings__precision": "bf16"},
            r"could not stand .*: precision was 'bf16', is 'float32'$",
        ),
    ],
)
def test_nothing_is_added_to_results_that_it_could_not_stand_beside(copy, change, message):
    for path in (copy / "results/table1/smoke").glob("*.json"):
        edit(**change)(path)
    before = contents(copy / "results")
    with pytest.raises(ValueError, match=message):
        make(["table1"], copy, seeds=[2])
    assert contents(copy / "results") == before
    assert not (copy / "runs").exists()
    (table,), _ = make(["table1"], copy, seeds=[0, 1])  # to read them is no harm
    assert table.missing == ()


def test_a_run_folder_of_other_settings_is_refused(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    with pytest.raises(
        ValueError, match=r"standard-0 holds another run \(.*\): settings.steps was 4, is 5$"
    ):
        make(["table1"], tmp_path, scale=replace(TINY, steps=5), seeds=[0])
    assert not (tmp_path / "results").exists()


def test_verdicts_that_were_damaged_are_named(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    path = tmp_path / "runs/smoke/digits/standard-0/verdicts.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"verdicts.npz is corrupted: remove it.*\(BadZipFile"):
        make(["table1"], tmp_path, seeds=[0])
    path.unlink()
    _, said = make(["table1"], tmp_path, seeds=[0])
    assert "evaluated digits/standard-0" in said
    assert "trained" not in said


def test_verdicts_with_any_bit_flipped_are_named_or_the_same(tmp_path):
    whole = Verdicts(tmp_path / "verdicts.npz", "checksum", 40)
    whole.add("pgd", 0, torch.arange(40) % 3 == 0, 99)
    whole.save()
    content, said = whole.path.read_bytes(), []
    for at in np.random.default_rng(0).integers(0, 8 * len(content), 300):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        whole.path.write_bytes(flipped)
        try:
            read = Verdicts.load(whole.path, "checksum", 40)
        except ValueError as error:
            said.append(str(error))
        else:
            assert (read.gradients, read.correct["pgd"].tolist()) == (
                whole.gradients,
                whole.correct["pgd"].tolist(),
            )
    assert len(said) > 100
    form = re.compile(r".*verdicts.npz is corrupted: remove it, and this .* again \(.*\)")
    assert [words for words in said if not form.fullmatch(words)] == []


def test_verdicts_and_file_that_do_not_belong_together_are_refused(copy):
    folder = copy / "results/table1/smoke"
    (folder / "pgd-0.npz").write_bytes((folder / "pgd-1.npz").read_bytes())
    with pytest.raises(ValueError, match=r"pgd-0.npz and pgd-0.json do not belong together"):
        load("table1", TINY, copy / "results")
    (folder / "pgd-0.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"pgd-0.npz is damaged or of another version \(BadZip"):
        load("table1", TINY, copy / "results")


def test_a_table_is_held_against_its_verdicts_and_says_which_are_missing(copy):
    assert "Not checked" not in load("table1", TINY, copy / "results").markdown()
    for path in (copy / "results/table1/smoke").glob("pgd-*.npz"):
        path.unlink()
    (table,), _ = make(["table1"], copy, only_table=True)
    for text in (table.markdown(), table.text()):
        assert "Not checked, for their verdicts are missing: pgd-0.npz, pgd-1.npz." in text


def test_a_log_that_lacks_a_figures_curves_is_named(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    (log,) = (tmp_path / "runs").rglob("pgd-0/log.jsonl")
    log.write_text("")
    with pytest.raises(ValueError, match=r"pgd-0/log.jsonl is damaged: remove the run folder, and"):
        make(["figure2"], tmp_path, seeds=[0])


def test_verdicts_that_were_lost_are_written_again_from_the_run_folder(made, tmp_path):
    shutil.copytree(made / "runs", tmp_path / "runs")
    shutil.copytree(made / "results", tmp_path / "results")
    path = tmp_path / "results/table1/smoke/pgd-0.npz"
    was = path.read_bytes()
    path.unlink()
    make(["table1"], tmp_path, seeds=[0, 1])
    assert path.read_bytes() == was


# ----------------------------------------------------------------------- what the tables say


def comparison(difference, p):
    return Comparison("PGD20", 449, (difference,), (p,), p, (difference - 0.01, difference + 0.01))


@pytest.mark.parametrize(
    ("of_paper", "ours", "verdict"),
    [
        (11.9, comparison(0.05, 0.01), "agrees"),
        (-11.9, comparison(-0.05, 0.01), "agrees"),
        (11.9, comparison(-0.05, 0.01), "differs"),
        (11.9, comparison(0.05, 0.2), "not decided"),
        (11.9, None, "missing"),
        (None, comparison(0.05, 0.01), "-"),
    ],
)
def test_a_claim_is_decided_by_sign_and_p_value(of_paper, ours, verdict):
    assert claims.Claim("AVmixup", "PGD", "PGD20", of_paper, ours).verdict == verdict


@pytest.mark.parametrize(
    ("weak", "strong", "verdict"),
    [
        (comparison(0.05, 0.01), comparison(-0.05, 0.01), "turns it round"),
        (comparison(0.05, 0.01), comparison(0.02, 0.3), "no longer decides it"),
        (comparison(0.05, 0.01), comparison(0.02, 0.01), "confirms it"),
        (comparison(0.05, 0.2), comparison(-0.05, 0.01), "decides it"),
        (comparison(0.05, 0.2), comparison(-0.05, 0.2), "leaves it undecided"),
        (comparison(0.05, 0.2), None, "missing"),
    ],
)
def test_what_a_stronger_attack_does_to_a_claim(weak, strong, verdict):
    both = (claims.Claim("AVmixup", "PGD", "x", 1.0, ours) for ours in (weak, strong))
    assert claims.Turn(*both).verdict == verdict


def test_claims_set_the_papers_difference_beside_the_paired_one_of_ours(made):
    table = load("table1", TINY, made / "results")
    found = {(claim.other, claim.column): claim for claim in claims.claims(table)}
    assert len(found) == 4 * 6
    assert {claim.subject for claim in found.values()} == {"AVmixup"}
    claim = found["PGD", "PGD20"]
    assert claim.paper == pytest.approx(58.23 - 46.34)
    one, other = ([r.evaluation() for r in table.of(row)] for row in ("AVmixup", "PGD"))
    assert claim.ours == compare(one, other, "PGD20")
    assert found["PGD", "AutoAttack (quick)"].paper is None
    turns = claims.turns(table)
    assert [(turn.weak.column, turn.strong.column) for turn in turns] == [
        ("PGD20", "AutoAttack (quick)")
    ] * 4
    assert "AVmixup" in claims.text(list(found.values()))
    for row, weak, strong in claims.lost(table):
        assert weak == table.cell(row, "PGD20")
        assert strong == table.cell(row, "AutoAttack (quick)")
        points = f"{100 * (weak.mean - strong.mean):.2f}"
        assert re.search(rf"^\| {row} .* {points} ", claims.lost_text(table), re.MULTILINE)


def test_digits_stand_beside_every_data_set_of_the_papers(made):
    table = load("table5", TINY, made / "results")
    found = claims.claims(table)
    assert {claim.block for claim in found} == {"CIFAR10", "CIFAR100", "SVHN"}
    mine = [c.ours for c in found if (c.other, c.column) == ("Feature Scatter", "CW100")]
    assert len(mine) == 3
    assert mine[0] == mine[1] == mine[2]
    (last,) = (
        c for c in found if (c.block, c.other, c.column) == ("SVHN", "Feature Scatter", "Clean")
    )
    assert last.paper == pytest.approx(96.07 - 96.42)
    assert [turn.weak.column for turn in claims.turns(table)] == ["PGD100"] * 2
    assert claims.summary(found).count("SVHN") == 2


def test_where_nothing_was_run_claims_are_missing(tmp_path):
    table = load("table6", TINY, tmp_path)
    found = claims.claims(table)
    assert {claim.verdict for claim in found} == {"missing"}
    assert {claim.subject for claim in found} == {"0.5 / 0.7"}
    assert claims.turns(table) == claims.lost(table) == []
    assert claims.text(found).count("missing") == 3 * len(found)


def test_figures_draw_the_papers_numbers_and_ours(made):
    pytest.importorskip("plotly")
    for name, panels in (("table1", 2), ("table2", 2), ("table4", 4), ("table5", 4), ("table6", 2)):
        table = load(name, TINY, made / "results")
        figure = figures.side_by_side(table)
        titles = [note.text for note in figure.layout.annotations]
        assert len(titles) == panels
        assert titles[-1] == "ours, scikit-learn's digits, 8x8"
        row = table.plan.rows[-1].title
        traces: Any = figure.data
        bars = [bar for bar in traces if bar.name == row.split(" / ")[-1] or bar.name == row]
        ours = bars[-1]
        columns = [c.title for c in table.plan.rows[-1].columns]
        ordered = [c for c in table.plan.columns if c in columns]
        cells = [table.cell(row, column) for column in ordered]
        assert list(ours.y) == [cell and 100 * cell.mean for cell in cells]
        assert len(bars) == panels
    table = load("figure2", TINY, made / "results")
    drawn: Any = figures.curves(table).data
    (line,) = (line for line in drawn if line.name == "PGD, PGD10, train")
    assert list(line.y) == [100 * value for value in table.of("PGD")[0].curves["PGD10, train"][1]]
    nothing = figures.side_by_side(load("table3", TINY, made / "nowhere"))
    assert [note.text for note in nothing.layout.annotations] == ["paper, CIFAR10"]


def test_models_have_their_methods_colours_and_those_of_one_method_a_pattern_each(tmp_path):
    pytest.importorskip("plotly")
    bars: dict[str, Any] = {}
    for name in plans.NAMES[:-1]:
        table = load(name, TINY, tmp_path)
        drawn: list[Any] = list(figures.side_by_side(table).data)
        bars = {bar.name: bar.marker for bar in drawn}
        looks = {(marker.color, marker.pattern.shape) for marker in bars.values()}
        assert len(looks) == len(bars)
        for row in table.plan.rows:
            model = row.title.removeprefix("digits / ")
            known = methods.name_of(row.run.method)
            assert known is not None
            colour = methods.METHODS.entries[known].colour
            assert model not in bars or bars[model].color == colour
    assert bars["0.5 / 0.7"].color == bars["0.1 / 0.5"].color


# ------------------------------------------------------------------------------------------ cost


def test_the_estimate_of_the_papers_avmixup_is_3_14e18_operations_and_does_nothing(
    monkeypatch, tmp_path, capsys
):
    words = ["table1", "--scale", "full", "--estimate", "--seeds", "0", "1", "--device", "cpu"]
    words += ["--results", str(tmp_path / "r"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", "reproduce", *words])
    cli.main()
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("cifar10/avmixup"))
    assert line.split()[1:6] == ["wrn-34-10", "80000", "x", "128", "3.14e+18"]
    (last,) = (line for line in out.splitlines() if line.startswith("all, 2 seeds"))
    hours = [float(word) for word in last.split()[-3:]]
    flop = sum(float(word) for word in last.split()[3:5])
    assert hours == pytest.approx([flop / (rate * 3.6e15) for rate in (100, 250, 400)], rel=0.01)
    assert "not measured" in out
    for difference in paper.PAPER_VS_CODE:
        assert f"- {difference.point}: taken is " in out
    assert not list(tmp_path.iterdir())


def test_measured_rates_take_the_place_of_assumed_ones(tmp_path):
    path = tmp_path / "cuda" / "some-gpu" / "benchmark.json"
    path.parent.mkdir(parents=True)
    rows = {"kit": {"tflops": 200.0}, "kit, compiled": {"tflops": 300.0}}
    networks = {"wrn-34-10": {"rows": rows}, "preact_resnet18": {"failed": "out of memory"}}
    path.write_text(json.dumps({"device": "Some GPU", "networks": networks}))
    assert estimate.measured(tmp_path) == {"Some GPU (some-gpu)": {"wrn-34-10": 200.0}}
    rates = estimate.measured(tmp_path, compiled=True)
    assert rates == {"Some GPU (some-gpu)": {"wrn-34-10": 300.0}}
    (one,) = (e for e in estimate.estimates([plan("table1", plans.FULL)]) if e.run.name == "pgd")
    text = estimate.table([plan("table1", plans.FULL)], rates=rates)
    (line,) = (line for line in text.splitlines() if line.startswith("cifar10/pgd"))
    assert float(line.split()[-1]) == pytest.approx(one.total / (300e12 * 3600), rel=0.01)
    assert "h on Some GPU (some-gpu)" in text
    assert "not measured" not in text
    text = estimate.table([plan("table5", plans.FULL)], rates=rates)
    assert "h at 100" in text  # no network of Table 5 was measured
    text = estimate.table([plan("table1", plans.FULL), plan("table4", plans.FULL)], rates=rates)
    assert "and 8 networks not measured" in text
    path.write_text("{")
    with pytest.raises(ValueError, match=r"benchmark.json is corrupted \(JSONDecodeError"):
        estimate.measured(tmp_path)


def test_provenance_answers_every_difference_between_paper_and_code():
    assert set(plans.TAKEN) == {difference.point for difference in paper.PAPER_VS_CODE}
    assert "Unlike the paper:" in provenance(plans.FULL)
    assert "test of the plumbing" in provenance(plans.SMOKE)


@pytest.mark.parametrize("name", plans.NAMES)
def test_a_table_at_short_scale_is_about_an_hour(name):
    found = estimate.estimates([plan(name, plans.SHORT)])
    assert plans.SHORT.tflops is not None
    hours = sum(one.total for one in found) / (plans.SHORT.tflops * 3.6e15)
    assert hours < (1.8 if name == "table4" else 1.1)  # three data sets there


# ------------------------------------------------------------------------------------------ data


@pytest.mark.parametrize("named", ["folder", "archive"])
def test_the_jpeg_mirror_stands_in_for_cifar10_and_is_named(tmp_path, named):
    archive = made_mirror(tmp_path, 15, 2)
    scale = replace(plans.SHORT, network="small_cnn", steps=2, measurements=1, curve_images=3)
    root = tmp_path if named == "folder" else archive
    (table,), said = make(["table6"], tmp_path, scale=scale, data_root=root)
    assert table.missing == ()
    assert "Images of ours: CIFAR-10 (JPEG mirror); epsilon 8/255." in said
    (result,) = table.of("0.5 / 0.7")
    assert result.about["augmentation"] == "Augmentation(pad=4, flip=True)"
    assert result.n == 20


def test_a_data_set_that_is_not_to_be_had_is_left_out_and_its_rows_missing(tmp_path, monkeypatch):
    made_mirror(tmp_path, 15, 2)
    scale = replace(plans.SHORT, network="small_cnn", steps=1, measurements=1, curve_images=3)
    scale = replace(scale, images=4)
    real = runner.load

    def no_network(name, **options):
        if name in ("cifar100", "svhn"):
            raise RuntimeError("no route to the server\nat all")
        return real(name, **options)

    monkeypatch.setattr(runner, "load", no_network)
    (table,), said = make(["table5"], tmp_path, scale=scale, data_root=tmp_path)
    wanted = "SVHN is left out, its images are not to be had: no route to the server"
    assert said.splitlines().count(wanted) == 1
    assert table.cell("CIFAR10 / PGD", "CW100") is not None
    assert {row.split(" / ")[0] for row, _ in table.missing} == {"CIFAR100", "SVHN"}


def test_the_command_lines_options_reach_the_training(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def caught(model, split, method, *, settings, compile, schedule, average):
        raise Stop(compile, settings.precision, settings.seed, next(model.parameters()).device.type)

    monkeypatch.setattr(runner, "Training", caught)
    words = ["table1", "--compile", "--precision", "tf32", "--seeds", "7", "--device", "cpu"]
    words += ["--results", str(tmp_path / "r"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", "reproduce", *words])
    with pytest.raises(Stop) as stop:
        cli.main()
    assert stop.value.args == (True, "tf32", 7, "cpu")
