"""The tables of CIFAR-10 on a laptop: shortened as their headings say, by several processes."""

import json
import shutil
from dataclasses import replace

import pytest

import avmixup_kit as av
from avmixup_kit.methods.attacks import Attack, NoAttack
from avmixup_kit.reproduce import estimate, load, plan, plans, reproduce, runner

pytest.importorskip("pyautoattack")

TINY = replace(
    plans.LAPTOP,
    seeds=(0,),
    network="small_cnn",
    images=10,
    measurements=2,
    curve_images=10,
    network_options=(("base_channels", 2),),
    updates=(("steps", 4), ("batch_size", 16), ("lr", 0.2)),
    augmentation=(0, False),
    average=0.5,
    compiled=False,
)
SMOKE = replace(plans.SMOKE, steps=4, images=10, measurements=2, curve_images=10, seeds=(0,))


def make(tables, folder, scale=TINY, **options):
    said = []
    found = reproduce(
        tables,
        scale,
        results=folder / "results",
        folder=folder / "runs",
        say=said.append,
        **options,
    )
    return found, "\n".join(said)


@pytest.fixture
def standing_in(monkeypatch, digits):
    """Digits in place of CIFAR-10's images."""
    monkeypatch.setattr(runner, "load_data", lambda *given: digits)


def test_attacks_in_training_have_two_steps_and_the_heading_says_whose():
    words = "trained on attacks of 2 steps of 5/255)"
    for name in plans.NAMES:
        made = plan(name, plans.LAPTOP)
        if name in ("table4", "table6"):  # no rows, or Feature Scatter's single step alone
            assert "trained on" not in made.title
        else:
            whose = "CIFAR10 / PGD " if name == "table5" else ""
            assert made.title.endswith(f" ({whose}{words}")
        for run in made.runs:
            perturb = run.method.perturb
            if isinstance(perturb, NoAttack):
                continue
            assert isinstance(perturb, Attack)
            if "feature-scatter" in run.name:
                assert perturb == av.feature_scatter().perturb
            else:
                assert (perturb.steps, perturb.batch_norm) == (2, "eval")
                assert perturb.step_size == 5 / 8 * perturb.epsilon


def test_methods_keep_the_papers_settings():
    runs = {row.title: row.run for row in plan("table1", plans.LAPTOP).rows}
    assert runs["AVmixup"].method.mix == av.AVmixup(2.0, 1.0, 0.1)
    assert runs["LS0.8"].method.mix == av.Adversarial(0.8)
    trades = {row.title: row.run for row in plan("table3", plans.LAPTOP).rows}
    assert trades["TRADES (1/lambda = 6)"].method.loss == av.trades(6.0).loss


def test_there_are_rows_of_cifar10_alone_and_the_others_are_told():
    made = plan("table5", plans.LAPTOP)
    assert [row.title.split(" / ")[0] for row in made.rows] == ["CIFAR10"] * 3
    assert {row.split(" / ")[0] for row in made.impossible} == {"CIFAR100", "SVHN"}
    assert plan("table4", plans.LAPTOP).rows == ()


def test_tables_share_the_networks_of_one_method():
    runs = [run for name in plans.NAMES for run in plan(name, plans.LAPTOP, seed=1).runs]
    by_folder = {run.folder: run for run in runs}
    assert all(by_folder[run.folder] == run for run in runs)
    pgd = next(row.run for row in plan("table5", plans.LAPTOP).rows if "PGD" in row.title)
    assert pgd == plan("table1", plans.LAPTOP).rows[1].run


def test_no_network_costs_more_than_six_tenths_of_a_core_hour_to_train():
    assert plans.LAPTOP.gflops is not None
    for one in estimate.estimates([plan(name, plans.LAPTOP) for name in plans.NAMES]):
        assert one.training / (plans.LAPTOP.gflops * 3.6e12) <= 0.6


def test_an_estimate_is_in_core_hours():
    said = []
    reproduce(["table1"], "laptop", only_estimate=True, say=said.append)
    assert "h on a core at 70 x 10^9 a second" in said[0]
    assert "Hours are core-hours" in said[0]
    pgd = next(line for line in said[0].splitlines() if line.startswith("cifar10/pgd"))
    assert float(pgd.split()[-1]) == pytest.approx(0.59, rel=0.05)


def test_schedule_and_averaged_weights_reach_the_training_and_the_result(tmp_path, standing_in):
    (table,), _ = make(["figure2"], tmp_path)
    assert "(trained on attacks of 2 steps of 5/255)" in table.markdown()
    assert table.missing == ()
    about = json.loads(
        (tmp_path / "runs" / "laptop" / "cifar10" / "pgd-0" / "run.json").read_text()
    )
    assert (about["schedule"], about["average"]) == ("cyclic", 0.5)
    (result,) = table.of("PGD")
    assert (result.about["schedule"], result.about["average"]) == ("cyclic", 0.5)
    assert result.curves.keys() == {"PGD10, train", "PGD10, validation"}
    assert {"PGD10, best", "PGD10, last"} <= result.accuracy.keys()
    assert load("figure2", TINY, tmp_path / "results").results[0] == result
    judge = runner.Runner(replace(TINY, compiled=True), tmp_path / "runs")
    assert not judge.network(table.plan.rows[0].run).training  # compiled where it is judged
    with pytest.raises(ValueError, match=r"was not made as figure2 .*schedule"):
        load("figure2", replace(TINY, schedule="cosine"), tmp_path / "results")
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(ValueError, match="holds another run .*schedule"):
        make(["figure2"], tmp_path, replace(TINY, schedule="cosine"))


def test_catastrophic_overfitting_is_told_in_the_result_and_under_the_table(
    tmp_path, monkeypatch, standing_in
):
    row = {"Clean": 0.9, "FGSM": 0.8, "PGD10": 0.01}
    curves = {f"{name}, {part}": v for part in ("train", "validation") for name, v in row.items()}
    monkeypatch.setattr(runner, "robust_curves", lambda *given: lambda network: curves)
    (table,), said = make(["table1"], tmp_path, rows=["PGD"])
    (result,) = table.of("PGD")
    (sign,) = result.about["signs"]
    assert (sign["step"], sign["sign"]) == (2, "catastrophic overfitting")
    assert f"cifar10/pgd-0, after 2 steps: {sign['words']}" in said.splitlines()
    assert f"PGD, seed 0, after 2 steps: {sign['words']}." in table.markdown().splitlines()
    about = json.loads(result.path.read_text())
    del about["signs"]  # an older file
    result.path.write_text(json.dumps(about))
    assert load("table1", TINY, tmp_path / "results").results[0].signs == []


def test_two_processes_give_the_same_table_as_one(tmp_path):
    one, _ = make(["figure2"], tmp_path / "one", SMOKE)
    two, said = make(["figure2"], tmp_path / "two", SMOKE, jobs=2)
    assert "trained" not in said  # nothing was left for the process that was called
    assert one[0].cells() == two[0].cells()
    assert two[0].missing == ()


@pytest.mark.parametrize("error", [RuntimeError("mkldnn failed\nsomewhere"), RuntimeError()])
def test_a_run_that_fails_does_not_take_the_others_with_it(
    tmp_path, monkeypatch, standing_in, error
):
    real = runner.Training

    def failing(model, split, method, **given):
        if method.mix == av.AVmixup(2.0, 1.0, 0.1):
            raise error
        return real(model, split, method, **given)

    monkeypatch.setattr(runner, "Training", failing)
    (table,), said = make(["figure2"], tmp_path)
    why = "mkldnn failed" if error.args else "RuntimeError"
    assert f"gave up cifar10/avmixup-0: {why}" in said.splitlines()
    assert {row for row, _ in table.missing} == {"AVmixup"}


def test_no_process_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs = 0 is not allowed: a whole number, 1 or more"):
        make(["table1"], tmp_path, jobs=0)
