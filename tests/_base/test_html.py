"""Whatever is put into HTML is escaped for where it stands, and no markup is made by hand."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from avmixup_kit._base import html, plots

PACKAGE = Path(html.__file__).parents[1]
HOSTILE = "\"'></script><img src=x onerror=alert(1)><a href=//evil.example>here</a>&lt;b&gt;"


class Parsed(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_value_is_text_in_text_and_one_attribute_in_an_attribute():
    made = html.markup("<b title=\"{}\" class='{}'>{name}</b>", HOSTILE, HOSTILE, name=HOSTILE)
    parsed = Parsed(str(made))
    assert parsed.tags == [("b", {"title": HOSTILE, "class": HOSTILE})]
    assert parsed.text == HOSTILE
    assert html.markup("<i>{}</i> {:.2f}", made, 0.5) == f"<i>{made}</i> 0.50"


def test_captions_and_headings_of_pictures_are_text_in_alt_and_below():
    rows = {HOSTILE: (torch.zeros(1, 1, 2, 2), [HOSTILE])}
    parsed = Parsed(html.part("strip", rows))
    (alt,) = (attributes["alt"] for tag, attributes in parsed.tags if tag == "img")
    assert alt == f"{HOSTILE}: {HOSTILE}"
    assert {tag for tag, _ in parsed.tags} == {"div", "img", "small", "br", "span"}
    assert parsed.text.count(HOSTILE) == 2


def test_a_name_that_utf_8_cannot_hold_is_shown_by_its_bytes():
    made = html.part("strip", {"caf\udce9": (torch.zeros(1, 1, 2, 2), ["\udcff"])})
    assert "caf\\udce9" in made.encode().decode()
    graph_objects = pytest.importorskip("plotly.graph_objects")
    page = html.page(
        "search/result.html.j2",
        "caf\udce9",
        verdict="best",
        axes=["\udcff"],
        head="",
        rows=[],
        comparisons=[],
        heat_map=None,
        slices=[graph_objects.Figure().add_bar(x=["\udcff"], y=[1])],
        importance=None,
        progress=graph_objects.Figure(),
    )
    assert "caf\\udce9" in page.encode().decode()


def test_plotly_reads_a_name_as_text():
    """It makes links of <a href> and letters of entities in every text that it draws."""
    said = plots.label("<a href='https://evil.example'>PGD</a> &amp; 'x'")
    assert said == "&lt;a href='https://evil.example'&gt;PGD&lt;/a&gt; &amp;amp; 'x'"


TAG = re.compile(r"</?(a|b|br|code|div|h\d|i|img|p|pre|progress|span|sub|sup|svg|t[dhr])[ />]")
# Markup with numbers alone in it, or with parts that are markup already: what is put in there.
BY_HAND = {
    "live/drawing.py": {"log10", "exponent", "mantissa"},
    "live/theory/lottery.py": {"typical", "epsilon", "critical", "SETS", "unlucky"},
    "live/theory/theorem_1.py": {
        "empty", "bound", "nu", "paper", "rate", "typical", "n", "sigma_s", "here", "colour", "text"
    },
}  # fmt: skip


def test_no_markup_is_put_together_by_hand():
    """An f-string that holds a tag and a value is html.markup's or a template's to make."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            words = "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
            names = {
                name.id
                for value in node.values
                if isinstance(value, ast.FormattedValue)
                for name in ast.walk(value.value)
                if isinstance(name, ast.Name)
            } - {"float", "error_text", "gaussian", "digits", "_badge"}
            name = str(path.relative_to(PACKAGE))
            if TAG.search(words) and not names <= BY_HAND.get(name, set()):
                found.append(f"{name}:{node.lineno}: {words[:60]}")
    assert found == []


def test_no_template_lets_anything_through_unescaped_but_the_page_s_own_scripts():
    said = [
        line.strip()
        for path in sorted(PACKAGE.rglob("*.j2"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\|\s*safe|autoescape|Markup", line)
    ]
    assert said == [
        "<script>{{ script | safe }}</script>",
        "<tr>{% for cell in row %}<td{{ ' class=\"rings\"' | safe if cell == loud }}>",
    ]
