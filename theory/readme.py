"""Check that proofs and programs match step by step, and that the Markdown stays renderable."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROOFS = sorted(HERE.glob("*.md"))
STATEMENTS = [p for p in PROOFS if p.name != "README.md"]
each_proof = pytest.mark.parametrize("path", PROOFS, ids=lambda p: p.name)
each_statement = pytest.mark.parametrize("path", STATEMENTS, ids=lambda p: p.name)


def formulas(text: str) -> list[str]:
    displays = re.findall(r"^\$\$(.+?)\$\$$", text, flags=re.M | re.S)
    rest = re.sub(r"^\$\$.+?\$\$$", "", text, flags=re.M | re.S)
    return displays + re.findall(r"\$([^$]+)\$", rest)


@each_statement
def test_every_step_has_a_test_and_every_test_a_step(path):
    steps = [int(k) for k in re.findall(r"^\*\*Step (\d+) \(", path.read_text(), flags=re.M)]
    tested = re.findall(r"^def test_step_(\d+)_", path.with_suffix(".py").read_text(), flags=re.M)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 4
    assert {int(k) for k in tested} == set(steps)


@each_statement
def test_sections(path):
    titles = re.findall(r"^## (.+)$", path.read_text(), flags=re.M)
    assert titles[0] == "The paper's statement"
    assert titles[-3:] == ["What is exact", "What is a limit", "Erratum"]
    assert "Hypotheses" in titles


@each_statement
def test_program_is_independent_of_the_kit(path):
    imports = re.findall(r"^(?:from|import) (\w+)", path.with_suffix(".py").read_text(), flags=re.M)
    assert set(imports) <= {"itertools", "math", "numpy", "pytest", "scipy", "sympy"}


@each_proof
def test_links_resolve(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith("../notebooks/"):  # those have their own tests
            assert (HERE / target).exists(), target


@each_statement
def test_files_named_in_a_proof_exist(path):
    for name in re.findall(r"`(\w+\.md)`", path.read_text()):
        assert (HERE / name).exists(), name


@each_proof
def test_formulas_render(path):
    text = path.read_text()
    for line in text.splitlines():
        if "$$" in line:  # a display has its lines to itself
            assert re.fullmatch(r"\$\$[^$]+\$\$", line), line
        else:
            assert line.count("$") % 2 == 0, line
        if line.startswith("|"):
            inside = " ".join(formulas(line))
            assert "|" not in inside, line
    # A closing dollar glued to a word is not taken as one by every renderer.
    inline = re.sub(r"^\$\$.+\$\$$", "", text, flags=re.M)
    for opening, body, closing in re.findall(r"(.?)\$([^$]+)\$(.?)", inline):
        assert not re.match(r"\w", opening), body
        assert not re.match(r"[\w-]", closing), body
        assert body == body.strip(), body
    for formula in formulas(text):
        assert not re.search(r"[*<>|%#]", formula), formula
        # Markdown eats a backslash before punctuation on some sites.
        assert not re.search(r"\\[^A-Za-z]", formula), formula
        assert not re.search(r"\\(label|eqref|ref|operatorname|newcommand|def)\b", formula), formula
        assert formula.count("{") == formula.count("}"), formula
    assert not re.search(r"<[A-Za-z/!]", text)  # no HTML


if __name__ == "__main__":
    raise SystemExit(pytest.main(["-v", "-p", "no:cacheprovider", __file__]))
