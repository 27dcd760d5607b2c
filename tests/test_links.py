"""Every link inside the repository leads somewhere: README, docs, proofs, notebooks."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "docs", "docs/api", "docs/play", "theory", "benchmarks", "notebooks")
PAGES = sorted(
    path
    for folder in FOLDERS
    for ending in ("*.md", "*.ipynb")
    for path in (ROOT / folder).glob(ending)
)


def prose(page: Path) -> str:
    """What a page says, its code left out."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    else:
        text = page.read_text()
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as sites that show Markdown make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^()\s]+)\)", prose(page))
    return [link for link in found if not link.startswith(("http", "mailto:"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_resolve(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_there_are_links_to_follow() -> None:
    assert len(PAGES) > 20
    assert sum(len(links(page)) for page in PAGES) > 80


def test_jupyterlab_is_started_where_these_links_resolve() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "--ServerApp.root_dir=. " in makefile
    (start,) = re.findall(r"--LabApp.default_url=/lab/tree/(\S+)", makefile)
    assert (ROOT / start).exists()
