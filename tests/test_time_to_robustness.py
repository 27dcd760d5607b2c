"""The benchmark of core-hours against AutoAttack: recipes as data, costs that add up, a table."""

import importlib
import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch

import avmixup_kit as av
from avmixup_kit import runs
from avmixup_kit._base import processes
from avmixup_kit.methods.batch import Batch
from avmixup_kit.methods.method import own_stages
from avmixup_kit.reproduce import plans
from avmixup_kit.training.signs import Signs

pytest.importorskip("pyautoattack")

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
bench = importlib.import_module("time_to_robustness")
TINY = "preact_resnet18(num_classes=10, in_channels=3, base_channels=2, stem_stride=2)"
EASY = (bench.COLUMNS[0], plans.Column("PGD20", av.pgd(steps=2, epsilon=bench.EPSILON)))


def toy(count: int, name: str) -> av.Split:
    """Ten classes of coloured bars in noise, 32x32."""
    draw, labels = torch.Generator().manual_seed(count), torch.arange(count) % 10
    images = torch.randint(0, 60, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    for number, label in enumerate(labels.tolist()):
        images[number, label % 3, :, 3 * label : 3 * label + 3] += 190
    return av.Split(images, labels, tuple("abcdefghij"), name=f"cifar10-jpeg/{name}")


@pytest.fixture
def at_hand(monkeypatch):
    """Toy images, one cheap attack and one recipe of six steps in place of an hour's work."""
    parts = toy(140, "train"), toy(20, "validation"), toy(30, "test")
    data = av.Data("cifar10-jpeg", *parts)
    recipe = bench.Recipe(TINY, steps=6, sides=(16, 32, 32), average=0.5)
    monkeypatch.setattr(bench, "load_data", lambda name, root: data)
    monkeypatch.setattr(bench, "COLUMNS", EASY)
    columns = {
        "quick": plans.Column("AutoAttack (quick)", av.fgsm(0.05)),
        "standard": plans.Column("AutoAttack", av.fgsm(0.1)),
    }
    monkeypatch.setattr(bench, "AUTOATTACK", columns)
    monkeypatch.setattr(go.Figure, "write_image", lambda figure, path: path.write_bytes(b"drawn"))
    monkeypatch.setattr(bench, "RECIPES", {"tiny": recipe, "other": replace(recipe, lam=0.9)})
    monkeypatch.setattr(bench, "WATCHED", 20)
    return recipe


def main(monkeypatch, folder, *words):
    said = [*words, "--runs", folder / "runs", "--results", folder / "results", "--eager"]
    monkeypatch.setattr(sys, "argv", ["time_to_robustness.py", *map(str, said)])
    bench.main()


@pytest.mark.parametrize(
    ("steps", "nearest"), [(10, "its 3 parts divide 9 or 12"), (2, "its 3 parts divide 3$")]
)
def test_steps_that_the_parts_do_not_divide_are_refused_with_the_nearest_that_they_do(
    steps, nearest
):
    with pytest.raises(ValueError, match=f"steps = {steps} is not allowed: {nearest}"):
        bench.Recipe(steps=steps, sides=(16, 24, 32))


def test_images_are_of_each_parts_size_for_all_stages_of_a_step(rng):
    recipe = bench.Recipe(steps=9, sides=(16, 24, 32), perturb=av.pgd(steps=1), lam=0.9)
    dial, sides = recipe.dial(), []
    x, y = toy(4, "train").batch([0, 1, 2, 3])
    model = av.models.from_architecture(TINY).eval()
    batch = Batch(x, y, rng=rng)
    for step in range(9):
        batch = Batch(x, y, rng=rng)
        batch.delta = dial(step).perturb(model, batch)
        x_hat, y_hat = dial(step).mix(model, batch)
        sides.append(x_hat.shape[-1])
        assert float((x_hat - batch.x).abs().max()) <= 8 / 255 + 1e-6
        assert float(y_hat.max()) == pytest.approx(0.9)
    assert sides == [16] * 3 + [24] * 3 + [32] * 3
    assert torch.equal(batch.x, x)


def test_a_recipe_of_one_size_has_no_stage_of_its_own_in_its_run_folder():
    assert own_stages(bench.ANCHOR.dial().method) == {}


def test_the_laptops_recipe_is_what_reproduce_trains():
    (run,) = (row.run for row in plans.plan("table1", plans.LAPTOP).rows if row.title == "PGD")
    recipe = bench.RECIPES["laptop"]
    assert recipe.dial().method == run.method
    mine = av.Settings(
        recipe.steps, lr=recipe.lr, weight_decay=recipe.weight_decay, seed=run.settings.seed
    )
    assert (mine, recipe.schedule, recipe.average) == (run.settings, run.schedule, run.average)
    built = av.models.build(
        run.network, av.models.Shape((3, 32, 32), 10), **dict(run.network_options)
    )
    other = av.models.from_architecture(recipe.network)
    assert repr(built) == repr(other)


def test_every_recipes_network_can_be_built():
    for recipe in bench.RECIPES.values():
        assert av.models.from_architecture(recipe.network).architecture


def test_a_run_is_trained_judged_and_written_and_its_sessions_cost_adds_up(
    tmp_path, monkeypatch, at_hand, capsys
):
    name = "tiny-3-images-20-eager-True"
    real, folder = bench.judge, tmp_path / "runs" / name

    def killed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "judge", killed)
    with pytest.raises(KeyboardInterrupt):
        main(monkeypatch, tmp_path, "tiny", "--seed", "3", "--images", "20")
    before = bench.cost_of(folder, "training")["core_hours"]
    monkeypatch.setattr(bench, "judge", real)
    main(monkeypatch, tmp_path, "tiny", "--seed", "3", "--images", "20")
    about = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert about["training"]["core_hours"] >= before > 0
    assert about["evaluation"]["core_hours"] >= 0
    assert about["n"] == 20
    assert about["sides"] == [16, 32, 32]
    assert about["curves"]["PGD10, train"][0] == [2, 4, 6]
    assert about["overrides"] == {"images": 20, "eager": True}
    assert about["compiled"] is False
    command = "tiny --seed 3 --images 20 --eager --autoattack standard"
    assert about["command"] == f"python benchmarks/time_to_robustness.py {command}"
    saved = av.Evaluation.load(tmp_path / "results" / f"{name}.npz")
    network = runs.load_model(folder / "latest.pt")
    test = bench.load_data("cifar10", "").test.sample(20)
    attack = EASY[1].attack
    assert torch.equal(
        av.evaluate(network, test, [attack], seed=3).of(attack.name), saved.of("PGD20")
    )
    text = (tmp_path / "results" / "table.md").read_text()
    assert "CIFAR-10 (JPEG mirror)" in text
    assert "| tiny (images 20, eager True) | 3 |" in text
    assert (tmp_path / "results" / "curve.png").read_bytes() == b"drawn"
    capsys.readouterr()
    main(monkeypatch, tmp_path, "tiny", "--seed", "3", "--images", "20")
    assert "is there already" in capsys.readouterr().out


def test_both_cores_of_a_laptop_are_told(tmp_path, monkeypatch, at_hand):
    before = torch.get_num_threads()
    try:
        main(monkeypatch, tmp_path, "tiny", "--threads", "2")
    finally:
        torch.set_num_threads(before)
    about = json.loads((tmp_path / "results" / "tiny-0-eager-True.json").read_text())
    assert about["provenance"]["threads"] == 2
    assert about["command"].endswith(" --threads 2")


def test_what_a_killed_session_has_cost_is_counted(tmp_path, monkeypatch):
    for session, (began, now) in enumerate([(0.0, 1800.0), (100.0, 1000.0)]):
        told = {"wall": 0.0, "processor": now}
        monkeypatch.setattr(processes, "spent", lambda told=told: told)
        bench.Meter(tmp_path, "training", {"wall": 0.0, "processor": began}).tick()
        assert bench.cost_of(tmp_path, "evaluation")["core_hours"] == 0, session
    assert bench.cost_of(tmp_path, "training")["core_hours"] == 0.75


def test_an_attack_that_was_killed_half_done_is_counted(tmp_path, monkeypatch, at_hand):
    real, seconds = bench.Meter.tick, itertools.count(step=360.0)

    def killed(meter, *given):
        real(meter, *given)
        if meter.kind == "evaluation":
            raise KeyboardInterrupt

    def told():
        return {"wall": 0.0, "processor": next(seconds)}

    monkeypatch.setattr(bench, "spent", told)
    monkeypatch.setattr(processes, "spent", told)
    monkeypatch.setattr(bench.Meter, "tick", killed)
    with pytest.raises(KeyboardInterrupt):
        main(monkeypatch, tmp_path, "tiny")
    folder = tmp_path / "runs" / "tiny-0-eager-True"
    assert bench.cost_of(folder, "evaluation")["core_hours"] == 0.1
    assert bench.cost_of(folder, "training")["core_hours"] > 0


def test_quick_has_a_column_of_its_own_and_standard_joins_it_without_training_again(
    tmp_path, monkeypatch, at_hand
):
    path = tmp_path / "results" / "tiny-0-eager-True.json"
    main(monkeypatch, tmp_path, "tiny", "--autoattack", "quick")
    quick = json.loads(path.read_text())
    assert quick["accuracy"].keys() == {"Clean", "PGD20", "AutoAttack (quick)"}
    assert "--autoattack quick" in quick["command"]
    main(monkeypatch, tmp_path, "tiny")
    both = json.loads(path.read_text())
    assert both["accuracy"].keys() == {*quick["accuracy"], "AutoAttack"}
    assert both["training"] == quick["training"]
    path.write_text(json.dumps(quick))
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(SystemExit, match="has no AutoAttack, and .* no longer its network"):
        main(monkeypatch, tmp_path, "tiny")


def test_what_is_not_as_the_recipe_has_it_is_kept_from_the_recipes_results(
    tmp_path, monkeypatch, at_hand
):
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    with pytest.raises(SystemExit, match=r"steps, eager and --results = .* is not allowed"):
        main(monkeypatch, tmp_path, "tiny", "--steps", "9")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_overfits_catastrophically_is_stopped_and_the_table_says_so(
    tmp_path, monkeypatch, at_hand
):
    def curves(network):
        return {"Clean, train": 0.9, "FGSM, train": 0.8, "PGD10, train": 0.01}

    monkeypatch.setattr(bench, "watch", lambda *given: curves)
    main(monkeypatch, tmp_path, "other")
    about = json.loads((tmp_path / "results" / "other-0-eager-True.json").read_text())
    assert about["stopped"].startswith("after 2 steps: catastrophic overfitting")
    assert "accuracy" not in about
    text = (tmp_path / "results" / "table.md").read_text()
    assert "other (eager True), seed 0, stopped after 2 steps: catastrophic overfitting" in text
    assert "M | - | " in text  # how far it came is not what its recipe takes


def test_a_loss_of_guessing_is_told_but_stops_no_run(tmp_path, monkeypatch, at_hand, capsys):
    """A rate that rises slowly begins like that."""

    def see_loss(self, loss):
        yield from self.tell("collapse", "that of guessing")

    monkeypatch.setattr(Signs, "see_loss", see_loss)
    main(monkeypatch, tmp_path, "other")
    about = json.loads((tmp_path / "results" / "other-0-eager-True.json").read_text())
    assert about["stopped"] == ""
    assert about["accuracy"]
    assert "after 1 steps: collapse: that of guessing" in capsys.readouterr().out


@pytest.fixture
def found(tmp_path):
    """Results made up: three under AutoAttack, the cheapest under its quick version alone."""
    recipe = bench.Recipe(sides=(16, 16, 32), steps=9, lam=0.9).told()
    for name, hours, accuracy in (
        ("big", 2.0, 0.41),
        ("fast", 0.5, 0.335),
        ("weak", 0.1, 0.2),
        ("quick", 0.2, 0.45),
    ):
        version = "quick" if name == "quick" else "standard"
        titles = [column.title for column in (*bench.COLUMNS, bench.AUTOATTACK[version])]
        about = {
            "recipe": name,
            "seed": 0,
            "overrides": {},
            "stopped": "",
            "parameters": 1e6,
            "training": {"core_hours": hours},
            "evaluation": {"core_hours": 0.3},
            "data": {"name": "cifar10-jpeg"},
            "provenance": {
                "machine": "a CPU",
                "instructions": "AVX2",
                "threads": 1 + (name == "big"),
            },
            "n": 1000,
            **recipe,
            "operations": 1.5e14,
            "accuracy": dict.fromkeys(titles, accuracy),
            "interval95": {titles[-1]: [accuracy - 0.03, accuracy + 0.03]},
        }
        (tmp_path / f"{name}-0.json").write_text(json.dumps(about))
    return tmp_path


def test_the_readme_says_how_many_of_the_recipes_have_been_run():
    run = {about["recipe"] for about in bench.results_in(ROOT / bench.RESULTS)}
    said = f"{len(run)} recipes of {len(bench.RECIPES)} have been run"
    assert said in " ".join((ROOT / "README.md").read_text().split())


def test_operations_are_those_of_every_crafted_and_learned_image():
    recipe = bench.Recipe(sides=(32, 32), steps=6)
    count = bench.macs(bench.models.from_architecture(recipe.network), (3, 32, 32))
    images = 6 * 128
    assert recipe.operations() == 2 * images * (count.to_input + count.full)
    twice = av.pgd(steps=2, epsilon=8 / 255)
    assert replace(recipe, perturb=twice).operations() == 2 * images * (
        2 * count.to_input + count.full
    )
    small = replace(recipe, sides=(16, 16)).operations()
    assert 0.2 < small / recipe.operations() < 0.3
    assert replace(recipe, sides=(16, 32)).operations() == (small + recipe.operations()) / 2


def test_a_level_is_reached_by_the_cheapest_run_that_does_under_standard(found):
    text = bench.table(found)
    assert "- AutoAttack 30 %: 0.50 core-hours (fast, seed 0)" in text
    assert "- AutoAttack 33 %: 0.50 core-hours (fast, seed 0)" in text
    assert "- AutoAttack 36 %: 2.00 core-hours (big, seed 0)" in text
    assert "| 33.5 | - | 33.5 [30.5, 36.5] |" in text
    assert text.count("| 1.00M | 0.15 |") == 4
    assert "| 45.0 | 45.0 [42.0, 48.0] | - |" in text
    assert text.count("| a CPU AVX2 |") == text.count("0.30 | a CPU AVX2") - 1 == 3
    assert "| a CPU AVX2, 2 threads |" in text


def test_the_table_says_what_each_recipe_is(found):
    (line,) = (line for line in bench.table(found).splitlines() if line.startswith("| big | `"))
    for words in (
        "`preact_resnet18(base_channels=16)`",
        "N-FGSM, batch norm eval",
        "2 x 16, 1 x 32",
        "cyclic, 0.2",
        "| 0.9 | no | yes | float32 |",
    ):
        assert words in line


def test_the_curve_draws_standard_filled_and_quick_hollow(found):
    drawn = {trace.name: trace for trace in bench.curve(found).data}
    assert drawn.keys() == {"big", "fast", "weak", "quick"}
    assert [name for name, its in drawn.items() if its.marker.symbol[0].endswith("open")] == [
        "quick"
    ]
    assert (drawn["fast"].x, drawn["fast"].y) == ((0.5,), (33.5,))
    assert drawn["fast"].error_y.array == pytest.approx([3])
    assert drawn["fast"].text == ("fast<br>(AVX2)",)
    layout = bench.curve(found).layout
    assert layout.width <= 760  # a page's column: wider ones are scaled, words and all
    assert layout.font.size >= 12


def test_the_curve_s_axis_ends_at_doublings_of_an_hour(found):
    """However near each other the points are, two ticks say how far apart."""
    low, high = bench.curve(found).layout.xaxis.range
    assert (10**low, 10**high) == pytest.approx((0.0625, 4))
    for name in ("big", "weak", "quick"):
        (found / f"{name}-0.json").unlink()
    low, high = bench.curve(found).layout.xaxis.range
    assert (10**low, 10**high) == pytest.approx((0.25, 1))


def test_a_curve_that_cannot_be_drawn_does_not_take_the_table_with_it(found, monkeypatch, capsys):
    def failing(figure, path):
        raise RuntimeError("Kaleido requires Chrome\nto be installed")

    monkeypatch.setattr(go.Figure, "write_image", failing)
    words = ["time_to_robustness.py", "--table", "--results", str(found)]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()
    assert capsys.readouterr().out.endswith("no curve.png: Kaleido requires Chrome\n")
    assert (found / "table.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "recipe = 'nothing' is not allowed: one of tiny, other"),
        (["tiny", "--steps", "7"], "steps = 7 is not allowed: its 3 parts divide 6 or 9"),
        (["tiny", "--threads", "0"], "threads = 0 is not allowed: a whole number"),
        (["--table"], "holds no results"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(tmp_path, monkeypatch, at_hand, words, message):
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, tmp_path, *words)
