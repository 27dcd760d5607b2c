"""What the pages beside the notebooks say of the kit is so: messages, words, explorers."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
MESSAGES = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "errors.md").read_text(), re.M)
MISSED = (
    "Psi, Phi, margin, insufficient, planted, simplex, exponentiated gradient, logit scale, rise "
    "factor, nats, stationary point, low-noise rule, effective radius, robust error, critical "
    "radius, worst case, dial, rivals, vacuous, scatter, probe_every"
)


def said() -> str:
    """Every text of the package, what f-strings fill in left out as …, as Python joins them."""
    texts = []
    for path in sorted((ROOT / "avmixup_kit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (one.value if isinstance(one, ast.Constant) else "…" for one in node.values)
                texts.append("".join(map(str, parts)))
    return "\n".join(texts)


KIT = said()


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_faq_is_one_of_the_kit_s(message):
    for part in re.split("…", message):
        words = part.strip(" .:;'()")
        assert words in KIT, words


def test_the_faq_has_the_commonest_messages():
    assert len(MESSAGES) >= 25
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("word", MISSED.split(", "))
def test_a_word_that_a_student_missed_is_in_the_glossary(word):
    titles = re.findall(r"^### (.*)$", GLOSSARY, re.M)
    assert any(word.lower() in title.lower() for title in titles)


def test_every_term_that_a_notebook_sets_in_italics_is_in_the_glossary_or_said_there():
    terms = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        terms |= set(re.findall(r"(?:called|the|an?) (?<!\*)\*([a-z][a-z -]+)\*(?!\*)", prose))
    terms -= {"length", "order"}  # stressed, not named
    missing = {term for term in terms if term not in GLOSSARY.lower()}
    assert len(terms) > 5
    assert missing == set()


def test_a_notebook_s_explorer_opens_on_the_site_where_its_cell_opens_it(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    pages, explorers = (importlib.import_module(name) for name in ("pages", "explorers"))
    assert explorers.opened("lottery", {"d": 1000, "sigma": 5.0}) == "d=1000&sigma=5&epsilon=0.2"
    assert explorers.opened("lottery", {"d": 1000, "density": 0.5}) is None

    def shown(text):
        bundle = {"text/plain": f"avmixup_kit.live.{text}: run this cell", "image/png": "QUJD\n"}
        cell = {"outputs": [{"data": {pages._WIDGET: {}, **bundle}}], "metadata": {}}
        pages._show(cell, "...")
        return cell["outputs"][0]["data"]["text/html"]

    assert 'data-start="nu=0.5&amp;sigma_s=1&amp;n=4"' in shown("theorem_1(n=4)")
    assert "has more sliders" in shown("theorem_1(n=4)")
    assert 'src="data:image/png;base64,QUJD"' in shown("vertex(index=42)")
    with pytest.raises(AssertionError, match="no stop"):
        shown("theorem_1(n=3)")


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("What pushes the weight", r"\*\*What pushes B to 0\.\*\*"),
        ("why does truth punish it", r"\*\*Why truth punishes it\.\*\*"),
        ("What does a soft label change", r"\*\*What it changes\.\*\*"),
        ("when does it harm", r"\*\*When it harms\.\*\*"),
    ],
)
def test_the_site_answers_by_a_picture(asked, answered):
    start = (ROOT / "docs" / "index.md").read_text()
    (row,) = (line for line in start.splitlines() if line[:1] == "|" and asked in line)
    page = re.findall(r"\]\((play/\w+\.md)\)", row)[0]
    picture, _, words = (ROOT / "docs" / page).read_text().partition("\n```\n")
    assert "```{explorer}" in picture
    assert re.search(answered, words)


def test_the_site_is_built_by_one_command_here_and_on_pages():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(
        r"^site: .*\n\t\$\(BIN\)/sphinx-build .*-W .*-c docs/site .* build/site$", makefile, re.M
    )
    workflow = (ROOT / ".github" / "workflows" / "site.yml").read_text()
    assert "- run: make site\n" in workflow
    assert "path: build/site\n" in workflow


PLAYED = sorted((ROOT / "docs" / "play").glob("*.md"))


@pytest.mark.parametrize("page", PLAYED, ids=lambda path: path.stem)
def test_a_page_to_play_with_asks_names_its_symbols_says_what_to_try_and_is_found(page):
    text, index = page.read_text(), (ROOT / "docs" / "index.md").read_text()
    assert re.match(r"# .*\?\n\n", text)
    (block,) = re.findall(rf"^```{{explorer}} {page.stem}\n(.*?)^```$", text, re.M | re.S)
    tries = [line.partition(" | ") for line in block.splitlines()]
    assert len(tries) >= 3
    explorers = (ROOT / "docs" / "site" / "explorers.py").read_text()
    mine = re.search(rf'^    "{page.stem}": Played\((.*?)^    \),$', explorers, re.M | re.S)
    assert mine
    symbols = re.findall(r'_slide\("\w+", "(?:[^"=]* )?(\S{1,2})(?: [=i].*)?",', mine[1])
    named = " ".join(re.findall(r"\[([^]]*)\]\(\.\./glossary\.md#", text))
    assert symbols or page.stem == "scores"
    assert [one for one in symbols if one not in re.findall(r"\w+", named)] == []
    assert f"](play/{page.name})" in index
    assert f"\nplay/{page.stem}\n" in index


def test_no_error_that_rises_smoothly_is_said_to_jump():
    pages = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "avmixup_kit" / "live").rglob("*.py")]
    pages += (ROOT / "docs").rglob("*.md")
    assert [page.name for page in pages if re.search(r"errors? jumps?\b", page.read_text())] == []


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_a_command_stands_in_a_block_of_code(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    assert not re.findall(r"^(?:python|pip|make|git|torchrun) .*", prose, re.M), path
