"""One self-contained page that someone who was not there can read."""

import ast
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import avmixup_kit as av
from avmixup_kit._base import html
from avmixup_kit.evaluation import report
from avmixup_kit.evaluation.ladder import evaluate
from avmixup_kit.evaluation.record import Evaluation
from avmixup_kit.evaluation.transfer import transfer_matrix

pytest.importorskip("plotly")

EPSILON = 0.15
TAGS = "code div h1 h2 img li ol p pre progress script small span strong style table td th tr ul"


@pytest.fixture(scope="module")
def split(digits):
    return digits.test.subset(80)


class Text(HTMLParser):
    """The page's words, headings, and every address it mentions in a tag."""

    def __init__(self):
        super().__init__()
        self.words, self.headings, self.addresses, self.tag = [], [], [], ""
        self.alts = []

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.alts += [v for k, v in attrs if k == "alt"]
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag == "h2":
            self.headings.append(data)
        if self.tag not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(trained, split, digits, tmp_path_factory):
    class Scaled(nn.Module):
        def forward(self, x):
            return 1000 * trained(x)

    path = tmp_path_factory.mktemp("report") / "page.html"
    model = Scaled().eval()
    result = evaluate(model, split, [av.fgsm(EPSILON), av.pgd(steps=20, epsilon=EPSILON)])
    sources = {"plain <PGD>": trained}
    av.report(result, model, split, path, sources=sources, title="Scaled & checked")
    parser = Text()
    parser.feed(path.read_text())
    return path.read_text(), parser, result, av.alarms(result, model, split, sources=sources)


def test_it_has_every_part_and_needs_nothing_else(page):
    text, parser, *_ = page
    for heading in (
        "In short",
        "Contents",
        "Accuracy",
        "Signs of hidden gradients",
        "Alarms that ring",
        "Robust accuracy against epsilon",
        "The learned label along the attack direction",
        "Worst examples",
        "Transfer between models",
        "How to read this page",
    ):
        assert heading in parser.headings
    links = [address for address in parser.addresses if address.startswith("#")]
    pictures = [a for a in parser.addresses if a.startswith("data:image/png;base64,")]
    assert len(links) == len(parser.headings) - len(["In short", "Contents"])
    assert all(f'id="{link[1:]}"' in text for link in links)
    assert len(pictures) == 2 * report.EXAMPLES == len(parser.addresses) - len(links)
    assert "<figcaption>random search beats PGD</figcaption>" in text
    assert "<title>Scaled &amp; checked</title>" in text
    assert "plain &lt;PGD&gt;" in text


def test_its_numbers_are_the_evaluation_s(page):
    _, parser, result, found = page
    words = " ".join(" ".join(parser.words).split())
    low, high = result.interval("worst case")
    verdict = words[: words.index("Contents")]
    assert f"{result.accuracy('worst case'):.1%} of {result.n} images" in verdict
    assert f"(95 % interval {low:.1%} to {high:.1%})" in verdict
    for name in result.names:
        low, high = result.interval(name)
        assert f"{result.accuracy(name):.1%}" in words
        assert f"{low:.1%} to {high:.1%}" in words
    ringing = [alarm.name for alarm in found if alarm.rings]
    assert f"{len(ringing)} alarms ring : {', '.join(ringing)}." in verdict
    assert "AutoAttack was not run" in words
    assert f"n = {result.n}" in words
    assert "digits/test" in words
    assert all(alarm.name in words for alarm in found)


def test_a_silent_model_is_said_to_be_silent_and_transfer_not_measured(
    trained, split, monkeypatch, tmp_path
):
    """What is said of it; that one is silent stands in test_alarms.py, on more than 40 images."""
    alarms = report.alarms

    def silenced(*given, **named):
        return [replace(a, rings=a.rings and False) for a in alarms(*given, **named)]

    monkeypatch.setattr(report, "alarms", silenced)
    result = evaluate(trained, split, [av.pgd(steps=20, epsilon=EPSILON)])
    av.report(result, trained, split, tmp_path / "page.html", count=40)
    text = (tmp_path / "page.html").read_text()
    assert "no alarm rings" in text
    assert "No sign of hidden gradients was found" in text
    assert "Not measured: no other model was given" in text
    assert "Alarms that ring" not in text


def test_worst_examples_are_the_deepest(trained, split):
    from avmixup_kit.evaluation.crafting import craft
    from avmixup_kit.methods.losses import margin

    part = torch.arange(len(split))
    x, y = split.batch(part)
    x_hat = x + craft(av.pgd(steps=20, epsilon=EPSILON), trained, split, part)
    with torch.no_grad():
        right = trained(x).argmax(1) == y.argmax(1)
        logits = trained(x_hat)
    depth = margin(logits, y).where(right, torch.tensor(9e9))
    first = int(depth.argmin())
    shown = report.worst_examples(trained, split, EPSILON, count=1)
    assert shown["adversarial"][1][0].startswith(
        f"read as {split.classes[int(logits[first].argmax())]} ("
    )
    assert shown["image"][1] == [split.classes[int(split.labels[first])]]
    assert torch.equal(shown["image"][0], x[[first]])
    wrong = split.subset(~right) if (~right).any() else split.subset([])
    if len(wrong):
        assert report.worst_examples(trained, wrong, EPSILON) == {}


def test_the_strip_of_images_sorted_by_class_shows_them_all(trained, digits):
    order = digits.test.labels.argsort()
    images = digits.test.subset(order)
    pictures = report.adversarial_strip({"net": trained}, images, av.fgsm(EPSILON), 10)
    assert pictures["Clean"][1] == [f"is {label}" for label in range(10)]
    two = report.adversarial_strip({}, images.subset(torch.arange(2)), av.fgsm(EPSILON))
    assert len(two["Clean"][1]) == 2


def test_the_heat_map_shows_the_matrix(trained, network, split):
    matrix = transfer_matrix({"a": trained, "b": network}, split, av.pgd(steps=2, epsilon=EPSILON))
    (trace,) = cast(Any, av.transfer_heatmap(matrix)).data
    assert trace.z[1][0] == pytest.approx(100 * float(matrix.accuracy[1, 0]))
    assert list(trace.x) == list(trace.y) == ["a", "b"]
    low, high = matrix.interval(1, 0)
    assert low <= float(matrix.accuracy[1, 0]) <= high
    assert f"n = {len(split)} in each cell" in str(matrix)


def test_a_loaded_evaluation_and_its_model_and_images_make_a_page(trained, split, tmp_path):
    evaluate(trained, split, [av.pgd(steps=20, epsilon=EPSILON)]).save(tmp_path / "correct.npz")
    loaded = Evaluation.load(tmp_path / "correct.npz")
    with pytest.raises(ValueError, match="79 images were given, 80 were evaluated"):
        av.report(loaded, trained, split.subset(79), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    av.report(loaded, trained, split, tmp_path / "page.html", count=30)
    assert re.search(r"<h1>Is it really robust\?</h1>", (tmp_path / "page.html").read_text())


def test_words_beside_pictures_are_text_and_never_markup():
    said = "a \"b\" onload=<x> & 'c'"
    text = html.part("strip", {said: ([torch.zeros(1, 2, 2)], [said])})
    parser = Text()
    parser.feed(text + html.part("table", [[said], [said]]))
    assert "".join(parser.words).count(said) == 4
    assert parser.alts == [f"{said}: {said}"]
    assert '"b"' not in text


def test_no_page_puts_strings_into_html_by_hand():
    """Pages only; widgets' few words are not. plotly's own tags (<br>, <sub>) are no HTML."""
    package = Path(report.__file__).parents[1]
    for path in sorted(set(package.rglob("*.py")) - set((package / "live").rglob("*.py"))):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in set(nodes) - docstrings:
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("html", "xml.sax.saxutils"), path
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                tags = set(re.findall(r"<([a-z][a-z0-9]*)[ >/]", node.value))
                assert not tags & set(TAGS.split()), (path, node.value)


def test_a_page_says_what_may_run_and_nothing_else_may(page):
    text, parser, *_ = page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    for rule in ("default-src 'none'", "img-src data: blob:", "base-uri 'none'"):
        assert rule in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy[1]) == hashes
    assert "unsafe-inline" not in policy[1].split("script-src")[1]
