"""The command line does what the notebooks do, headless, and parses nothing that it ignores."""

import io
import json
import re
import sys
import tempfile
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

import avmixup_kit as av
from avmixup_kit import cli, methods, runs
from avmixup_kit._base.plugins import load_plugins
from avmixup_kit.training import checkpoints

SHORT = ["--steps", "4", "--batch-size", "16", "--base-channels", "4", "--curve-images", "10"]


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["avmixup_kit", *map(str, words)])
    cli.main()


def test_train_evaluate_and_transfer(monkeypatch, tmp_path, capsys, digits):
    call(monkeypatch, "train", tmp_path / "a", "--gamma", "3.0", "--attack-steps", "1", *SHORT)
    assert "PGD10, validation: " in capsys.readouterr().out
    about = json.loads((tmp_path / "a" / "run.json").read_text())
    assert methods.parse(about["method"]) == methods.avmixup(3.0, epsilon=0.15, steps=1)
    call(monkeypatch, "train", tmp_path / "b", "--method", "standard", *SHORT)
    capsys.readouterr()
    call(
        monkeypatch, "evaluate", tmp_path / "a", "--images", "30", "--steps", "2", "4",
        "--transfer-from", tmp_path / "b",
    )  # fmt: skip
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert list(result["accuracy"]) == ["Clean", "FGSM", "PGD2", "PGD4", "CW20"]
    assert result["n"] == 30
    assert f"PGD20 from {tmp_path / 'b'}: " in out
    network = runs.load_model(tmp_path / "a")
    attacks = [
        av.fgsm(0.15),
        av.pgd(steps=2, epsilon=0.15),
        av.pgd(steps=4, epsilon=0.15),
        av.cw(steps=20, epsilon=0.15),
    ]
    direct = av.evaluate(network, digits.test.subset(30), attacks)
    assert torch.equal(av.Evaluation.load(tmp_path / "a/correct.npz").correct, direct.correct)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run folder of four steps."""
    call(monkeypatch, "train", tmp_path / "run", "--method", "standard", *SHORT)
    return tmp_path / "run"


DLR = """
from dataclasses import dataclass
from typing import ClassVar
import avmixup_kit as av

@dataclass(frozen=True)
class Ratio:
    name: ClassVar[str] = "DLR"
    def reference(self, model, x):
        return None
    def __call__(self, logits, y, reference):
        best = logits.sort(1, descending=True).values
        return -av.methods.losses.margin(logits, y) / (best[:, 0] - best[:, 2] + 1e-12)

@av.attacks.ATTACKS.register(title="DLR")
def dlr(*, steps: int = 3, epsilon: float = 8 / 255) -> av.Attack:
    return av.Attack(Ratio(), epsilon=epsilon, steps=steps)
"""


def test_evaluate_takes_attacks_by_name_those_of_a_plugin_too(monkeypatch, run, tmp_path, capsys):
    (tmp_path / "dlr_attack.py").write_text(DLR)
    before = dict(av.attacks.ATTACKS.entries)
    try:
        call(
            monkeypatch, "evaluate", run, "--images", "30", "--plugin", tmp_path / "dlr_attack.py",
            "--attacks", "dlr", "pgd", "--steps", "4", "--restarts", "2", "--epsilon", "0.2",
        )  # fmt: skip
    finally:
        av.attacks.ATTACKS.entries.clear()
        av.attacks.ATTACKS.entries.update(before)
        sys.modules.pop("dlr_attack", None)
    result = json.loads((run / "evaluation.json").read_text())
    assert list(result["accuracy"]) == ["Clean", "DLR3", "PGD4x2"]
    assert result["epsilon"] == 0.2
    with pytest.raises(SystemExit):
        call(monkeypatch, "evaluate", run, "--attacks", "dlr")
    assert "dlr" in capsys.readouterr().err


def test_evaluate_says_before_it_begins_that_it_cannot_save(monkeypatch, run, tmp_path, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "evaluate", lambda *_, **__: pytest.fail("it was evaluated"))
    before = sorted(run.iterdir())
    (tmp_path / "pages").mkdir()
    for folder, more in ((run, ()), (tmp_path / "pages", ("--html", tmp_path / "pages/a.html"))):
        with monkeypatch.context() as patch:
            patch.setattr(
                tempfile,
                "TemporaryFile",
                lambda dir, its=folder: full() if dir == its else io.BytesIO(),
            )
            with pytest.raises(SystemExit) as stop:
                call(monkeypatch, "evaluate", run, "--images", "10", *more)
        assert stop.value.code == 2
        said = f"nothing can be written into {folder} (No space left on device): make room"
        assert said in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_evaluate_prints_what_it_then_cannot_save(monkeypatch, run, capsys):
    def full(*_, **__):
        raise OSError(28, "could not write (No space left on device)")

    monkeypatch.setattr(runs, "save_evaluation", full)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "evaluate", run, "--images", "10", "--attacks", "fgsm")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert re.search(r"^FGSM +\d", said.out, re.MULTILINE)
    assert "No space left" in said.err


def test_evaluate_runs_autoattack_and_writes_the_page(monkeypatch, run, tmp_path, capsys):
    page = tmp_path / "report.html"
    call(
        monkeypatch, "evaluate", run, "--images", "20", "--attacks", "fgsm", "--epsilon", "0.03",
        "--autoattack", "quick", "--html", page, "--transfer-from", run,
    )  # fmt: skip
    captured = capsys.readouterr()
    assert f"page: {page}" in captured.out
    assert "%|" not in captured.err, "a progress bar though nobody watches"
    result = json.loads((run / "evaluation.json").read_text())
    assert list(result["accuracy"]) == ["Clean", "FGSM", "AutoAttack (quick)"]
    text = page.read_text()
    assert "AutoAttack (quick)" in text
    assert str(run) in text.replace("<wbr>", "")  # the transfer table


def test_evaluate_shows_a_bar_on_a_terminal(monkeypatch, run, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    call(monkeypatch, "evaluate", run, "--images", "10", "--attacks", "fgsm")
    assert "image" in capsys.readouterr().err


def test_evaluate_averages_over_draws(monkeypatch, run, capsys):
    call(monkeypatch, "evaluate", run, "--images", "10", "--attacks", "fgsm", "--draws", "2")
    assert "Note: draws = 2 for a model that answers the same each time" in capsys.readouterr().out


def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(
    monkeypatch, run, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        call(monkeypatch, "evaluate", run, "--html", tmp_path / "no" / "report.html")
    error = capsys.readouterr().err
    assert re.search(r"error: html = '.*report.html' is not allowed: .*no is no folder", error)
    assert not (run / "evaluation.json").exists()


def test_train_is_the_library_and_resume_goes_on(monkeypatch, tmp_path, digits):
    words = ["--method", "pgd", "--attack-steps", "1", "--seed", "3", *SHORT]
    call(monkeypatch, "train", tmp_path / "whole", *words)
    network = av.small_cnn(digits, seed=3, base_channels=4)
    training = av.Training(
        network, digits.train, av.Dial(methods.pgd(epsilon=0.15, steps=1)), 4, batch_size=16, seed=3
    )
    records = runs.log(training, tmp_path / "part", checkpoint_every=1)
    next(records)
    next(records)
    records.close()
    call(monkeypatch, "train", tmp_path / "part", *words, "--resume")
    states = [
        checkpoints.load_checkpoint(tmp_path / run / "latest.pt") for run in ("whole", "part")
    ]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name])


def test_train_takes_optimizer_schedule_and_average_and_goes_on(
    monkeypatch, tmp_path, capsys, digits
):
    run = tmp_path / "run"
    words = ["--method", "standard", "--optimizer", "adamw", "--lr", "0.002", "--average", "0.5"]
    call(monkeypatch, "train", run, *words, "--decay-at", "3", "9", *SHORT)
    network = av.small_cnn(digits, seed=0, base_channels=4)
    training = av.Training(
        network, digits.train, av.standard(), 4, batch_size=16, optimizer="adamw", lr=0.002,
        average=0.5, decay_at=(3, 9),
    )  # fmt: skip
    list(training)
    assert training.averaged is not None
    networks: dict[Literal["averaged", "trained"], torch.nn.Module]
    networks = {"averaged": training.averaged, "trained": training.model}
    for weights, expected in networks.items():
        found = runs.load_model(run, weights=weights).state_dict()
        assert all(torch.equal(found[name], t) for name, t in expected.state_dict().items())
        evaluate = ["evaluate", run, "--images", "30", "--steps", "1", "--weights", weights]
        call(monkeypatch, *evaluate)
        right = av.evaluate(expected.eval(), digits.test.subset(30)).accuracy()
        assert json.loads((run / "evaluation.json").read_text())["accuracy"]["Clean"] == right
    longer = ["--steps", "6", *SHORT[2:]]
    call(monkeypatch, "train", run, *words, "--decay-at", "3", "9", *longer, "--resume")
    capsys.readouterr()
    assert checkpoints.load_checkpoint(run / "latest.pt")["training"]["step"] == 6
    with pytest.raises(SystemExit):
        call(monkeypatch, "train", run, *words, "--schedule", "cosine", *longer, "--resume")
    assert "holds another run: schedule was 'steps', is 'cosine'" in capsys.readouterr().err


def test_redirected_output_holds_no_bar_and_says_when_a_training_collapses(
    monkeypatch, tmp_path, capsys
):
    words = ["--steps", "210", "--batch-size", "32", "--base-channels", "4", "--lr", "3"]
    few = ["--attack-steps", "1", "--curve-images", "10"]
    call(monkeypatch, "train", tmp_path / "run", *words, *few)
    said = capsys.readouterr()
    assert said.err == ""
    assert re.search(r"^step 199: warning: collapse: over 200 steps the mean loss", said.out, re.M)
    assert len(re.findall(r"^step \d+: loss", said.out, re.M)) == 3
    assert "FGSM, train: " in said.out


def test_exported_turns_are_replayed(monkeypatch, tmp_path):
    dial = av.Dial(av.avmixup(epsilon=0.15))
    dial(0)
    dial.turn(gamma=4.0)
    runs.export_turns(dial, tmp_path / "turns.jsonl")
    call(
        monkeypatch, "train", tmp_path / "run", "--turns", tmp_path / "turns.jsonl",
        "--attack-steps", "1", *SHORT,
    )  # fmt: skip
    assert runs.turns_of(tmp_path / "run") == list(dial.turns)


def test_a_training_of_limited_time_says_how_far_it_came(monkeypatch, tmp_path, capsys):
    words = ["--method", "standard", "--checkpoint-piece-mib", "1", *SHORT]
    call(monkeypatch, "train", tmp_path / "run", *words, "--minutes", "1e-6")
    said = capsys.readouterr().out
    assert "stopped and saved after 1 of 4 steps: the time was up; --resume goes on" in said
    assert list((tmp_path / "run").glob("latest.pt.*.000"))
    call(monkeypatch, "train", tmp_path / "run", *words, "--resume")
    assert "PGD10, validation: " in capsys.readouterr().out


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of 8x8 images of two classes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 6)):
        for name in ("ant", "bee"):
            (tmp_path / "mine" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / part / name / f"{i}.png")
    return tmp_path / "mine"


def refused(monkeypatch, capsys, *words):
    """Return the one line in which the words are refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_evaluate_takes_the_runs_own_images_and_refuses_others(
    monkeypatch, tmp_path, capsys, pictures
):
    words = ["--data", "image_folder", "--root", "mine", "--validation", "0.2", "--method"]
    call(monkeypatch, "train", "run", *words, "standard", *SHORT)
    short = ["--images", "6", "--steps", "1"]
    call(monkeypatch, "evaluate", "run", *short)
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["data"], result["n"]) == ("mine/test", 6)
    images = av.image_folder("mine").test.sample(6)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()
    call(monkeypatch, "evaluate", "run", "--split", "train", *short)

    said = refused(monkeypatch, capsys, "evaluate", "run", "--data", "digits", *short)
    assert said == (
        "error: run was trained on other data (--anyway to insist): "
        "number of classes was 2, is 10; class 0 was 'ant', is '0'; class 1 was 'bee', is '1'"
    )
    for part in ("train", "test"):
        (pictures / part / "ant").rename(pictures / part / "wasp")
    said = refused(monkeypatch, capsys, "evaluate", "run", *short)
    assert "class 0 was 'ant', is 'bee'; class 1 was 'bee', is 'wasp'" in said
    call(monkeypatch, "evaluate", "run", "--anyway", *short)
    pictures.rename(tmp_path / "moved")
    assert "mine" in refused(monkeypatch, capsys, "evaluate", "run", *short)
    call(monkeypatch, "evaluate", "run", "--root", "moved", "--anyway", *short)


NET = """
import avmixup_kit as av
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1))

def stacked():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize("how", ["Net", "stacked"])
def test_evaluate_makes_a_network_of_ones_own_from_a_plugin(
    monkeypatch, tmp_path, capsys, digits, how
):
    file = tmp_path / f"own_{how}.py"
    file.write_text(NET)
    load_plugins([file])
    make = getattr(sys.modules[file.stem], how)
    training = av.Training(make(), digits.train, methods.standard(), 2, batch_size=16)
    list(runs.log(training, tmp_path / "run", network=None if how == "Net" else make))
    words = ["evaluate", tmp_path / "run", "--images", "20", "--steps", "1"]
    del sys.modules[file.stem]
    said = refused(monkeypatch, capsys, *words)
    assert f"import own_{how} first, or pass --plugin own_{how}.py" in said
    call(monkeypatch, *words, "--plugin", file)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["n"] == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "tf32"], "precision = 'tf32' is not allowed: only CUDA"),
        (["--minutes", "0"], "minutes = 0.0 is not allowed"),
        (["--checkpoint-piece-mib", "0"], "piece_mib = 0 is not allowed"),
        (["--gamma", "0.5"], "gamma = 0.5 is not allowed"),
        (["--method", "pgd", "--gamma", "2"], "method pgd: .*gamma"),
        (["--method", "standard", "--epsilon", "0.1"], "method standard: .*epsilon"),
        (["--epsilon", "8"], r"epsilon = 8.0 is not allowed.*write 8 / 255"),
        (["--lr", "0"], "lr = 0.0 is not allowed"),
        (["--network", "wrn-16-8", "--base-channels", "3"], "base_channels"),
        (["--data", "image_folder"], "--root is missing"),
        (["--root", "x"], "data set digits: .*'root'; it has validation"),
        (["--data", "image_folder", "--root", "nowhere-at-all"], "nowhere-at-all"),
        (["--device", "cuda"], "device = 'cuda' is not allowed: this machine has no CUDA"),
        (["--batch-size", "2000"], "batch_size = 2000 is not allowed"),
        (["--resume"], "holds no run to resume"),
        (["--optimizer", "adam"], "lr = 0.1 is not allowed: it is SGD's; adam needs its own, such"),
        (["--schedule", "cosine", "--decay-factor", "0.5"], "decay_factor = 0.5 is not allowed"),
        (["--average", "1"], "average = 1.0 is not allowed: from 0 up to 1"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", tmp_path / "run", "--steps", "4", *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    "words", [["train", "x"], ["train", "x", "--steps", "4", "--nonsense"], ["fly"],
              ["train", "x", "--steps", "4", "--network", "resnet"]],
)  # fmt: skip
def test_an_unknown_word_is_refused(monkeypatch, capsys, words):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 2


def test_a_diverging_training_exits_with_3(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "train", tmp_path / "run", "--lr", "1e30", "--method", "standard", *SHORT)
    assert stop.value.code == 3
    assert re.search("no longer finite|the loss is", capsys.readouterr().err)


def test_every_name_on_the_command_line_is_one_of_the_library(monkeypatch, capsys):
    from avmixup_kit import data, models

    with pytest.raises(SystemExit):
        call(monkeypatch, "train", "--help")
    said = re.sub(r"[\s│]", "", capsys.readouterr().out)
    for names in (methods.METHODS, models.NETWORKS, data.DATASETS):
        assert f"{{{','.join(names)}}}" in said


def test_the_demonstration_writes_table_page_and_run_folders(monkeypatch, tmp_path, capsys):
    call(monkeypatch, "demo", "--folder", tmp_path, "--steps", "4")
    table = capsys.readouterr().out
    for name in ("Standard", "PGD", "LS0.8", "AVmixup"):
        assert name in table
        assert (tmp_path / name / "correct.npz").exists()
    for column in ("Clean", "FGSM", "PGD20", "CW20"):
        assert column in table
    assert "[" in table
    assert (tmp_path / "table.txt").read_text().strip() in table
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == "python -m avmixup_kit demo --steps 4 --seed 0"
    page = (tmp_path / "index.html").read_text()
    assert page.count("<img ") == 8 * 5
    assert "PGD10, validation" in page
    assert "upper bounds until a stronger" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", markup), "the page fetches something"
    assert "<script src" not in page
    call(monkeypatch, "demo", "--folder", tmp_path, "--steps", "4")  # taken up: nothing to do
    assert table.endswith(capsys.readouterr().out)


def test_evaluate_and_train_in_l2_balls_of_a_radius_of_their_own(
    monkeypatch, run, tmp_path, capsys
):
    words = ["--images", "20", "--attacks", "fgsm", "pgd", "--steps", "5", "--norm", "l2"]
    call(monkeypatch, "evaluate", run, *words, "--epsilon", "0.5")
    assert "PGD5 l2" in capsys.readouterr().out
    train = ["train", tmp_path / "new", "--method", "pgd", "--norm", "l2", *SHORT]
    for refused in (["evaluate", run, *words], train):
        with pytest.raises(SystemExit):
            call(monkeypatch, *refused)
        said = capsys.readouterr().err
        assert said.startswith(
            "error: epsilon = None is not allowed: an l2 ball needs a radius of its"
        )
        assert said.strip().count("\n") == 0
    call(monkeypatch, *train, "--epsilon", "0.5")
    assert "norm='l2'" in json.loads((tmp_path / "new" / "run.json").read_text())["method"]
