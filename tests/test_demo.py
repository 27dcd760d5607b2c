"""The demonstration's photographs: shown where they are, and what to fetch where they are not."""

import re
import shutil

import pytest

import avmixup_kit as av
from avmixup_kit import demo

pytest.importorskip("plotly")
HEADING = "A trained network on photographs"


@pytest.fixture
def page(tmp_path, monkeypatch, digits):
    """Makes the demonstration of one method on a few digits, and returns its page's text."""
    few = [part.subset(128) for part in (digits.train, digits.validation, digits.test)]
    monkeypatch.setattr(demo, "digits", lambda: av.Data("digits", *few, epsilon=digits.epsilon))
    monkeypatch.setattr(demo, "demo_methods", lambda epsilon: {"Standard": av.standard()})
    monkeypatch.delenv("AVMIXUP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def made(**options):
        demo.demo("demo", steps=1, **options)
        return (tmp_path / "demo" / "index.html").read_text()

    return made


def test_a_network_of_the_zoo_is_attacked_on_photographs_of_all_classes(
    page, zoo_of_photographs, mirror
):
    text = page(data_root=mirror)
    assert HEADING in text
    accuracy = av.zoo.card("cifar10-jpeg/avmixup")["accuracies"]
    kept, now = (
        re.findall(r"([\d.]+)% \[", re.sub(r"<.*?>", "", text.split(word)[1])[:200])
        for word in (">its card<", ">here<")
    )
    assert list(map(float, kept[:2])) == [round(value, 1) for value in accuracy.values()]
    network, images = av.zoo.photographs(root=mirror)
    assert len(images) == 30
    assert float(now[0]) == round(100 * av.evaluate(network, images, []).accuracy(), 1)
    shown = re.findall(r'alt="Clean: is (class\d)', text)
    assert len(set(shown)) == len(shown) == 8


def test_what_to_fetch_is_one_line_and_the_page_is_of_digits_alone(
    page, zoo_of_photographs, capsys
):
    assert HEADING not in page()
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "photographs" in line)
    assert re.fullmatch(
        r"no photographs are there: put https://\S+/cifar-10-python.tar.gz, or its JPEG mirror "
        r"cifar10-jpeg.tar.xz, into data",
        said,
    )


def test_without_a_network_of_photographs_that_is_said(page, zoo_of_photographs, mirror, capsys):
    shutil.rmtree(zoo_of_photographs / "cifar10-jpeg")
    assert HEADING not in page(data_root=mirror)
    assert "no network of CIFAR-10 comes with this version of the kit\n" in capsys.readouterr().out
