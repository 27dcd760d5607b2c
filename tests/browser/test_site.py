"""The site as `make site` builds it: pages, links, explorers in Chromium, accessibility."""

import functools
import gzip
import http.server
import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import avmixup_kit as av
from tests.browser.lab import PATIENCE, serious
from tests.conftest import skip

pytest.importorskip("ipywidgets")
from avmixup_kit import live

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))
explorers = importlib.import_module("explorers")
PLAYED = sorted(path.stem for path in (ROOT / "docs" / "play").glob("*.md"))
MEGABYTE = 2**20
PAGES = {
    "start": "docs/index.html",
    "notebook": "notebooks/04_adversarial_feature_overfitting.html",
    "explorer": "docs/play/label_line.html",
    "proof": "theory/theorem_1.html",
    "api": "docs/api/gaussian.html",
}
# What of a figure's lines and bars is drawn, and where.
DRAWN = """(name) => [...document.querySelectorAll(`[data-explorer=${name}] .plot-container path`)]
  .map((path) => path.getAttribute("d") + path.getAttribute("transform")).join()"""
STATE = """(name) => [...document.querySelectorAll(`[data-explorer=${name}] :is(input, select)`)]
  .map((control) => control.value)"""
TRACES = """(name) => document.querySelector(`[data-explorer=${name}] .picture`).data
  .map(({ name, x, y }) => ({ name, x, y }))"""
# Words of a figure that its edge cuts, or that stand on one another.
CUT = """(picture) => {
  const edge = picture.getBoundingClientRect();
  const words = [...picture.querySelectorAll(".main-svg text")].filter((one) => one.textContent)
    .map((one) => ({ said: one.textContent, ...one.getBoundingClientRect().toJSON() }))
    .filter((one) => one.width);
  const cut = words.filter((one) => one.left < edge.left - 1 || one.right > edge.right + 1
    || one.top < edge.top - 1 || one.bottom > edge.bottom + 1).map((one) => one.said);
  const on = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
  return [...cut, ...words.flatMap((a, place) => words.slice(place + 1)
    .filter((b) => on(a, b) && a.said !== b.said).map((b) => `${a.said} on ${b.said}`))];
}"""
FITTED = """() => [...document.querySelectorAll(".plot, .picture")].every((figure) =>
  [...figure.querySelectorAll(".main-svg")].every((one) =>
    one.getBoundingClientRect().width === figure.getBoundingClientRect().width))"""
# What the first view shows is drawn.
NEAR = """() => [...document.querySelectorAll(".explorer:not(.drawn), .plot:not(.drawn)")]
  .every((one) => one.getBoundingClientRect().top > innerHeight + 600)"""
BLOCKING = """() => performance.getEntriesByType("resource")
  .filter((one) => one.renderBlockingStatus === "blocking").map((one) => one.name)"""
SMALL = """() => [...document.querySelectorAll(".main-svg :is(text, tspan), .note *")]
  .filter((one) => one.textContent && parseFloat(getComputedStyle(one).fontSize) < 12)
  .map((one) => one.textContent)"""
BOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def _status() -> str:
    command = ["git", "status", "--porcelain", "--", "docs", "notebooks", "theory", "results"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built once; $AVMIXUP_TEST_SITE names one that is built already."""
    if built := os.environ.get("AVMIXUP_TEST_SITE"):
        return Path(built).resolve()
    for module in ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline"):
        if find_spec(module) is None:
            skip(f"{module} is not installed: pip install -e '.[docs]'")
    folder, before = tmp_path_factory.mktemp("site"), _status()
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/site"]
    command += ["-d", str(folder / "doctrees"), ".", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert _status() == before, "the build wrote beside the sources"
    return folder / "site"


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """Where the site is served, on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def tabs(browser, address):
    """Tabs in which tests open page after page, as a reader does, and what went wrong in any."""
    context = browser.new_context(reduced_motion="reduce")
    tabs, wrong = [], []

    def tab(number: int) -> Any:
        while len(tabs) <= number:
            page = context.new_page()
            page.set_default_timeout(1000 * PATIENCE)
            listen(page, wrong, address)
            tabs.append(page)
        return tabs[number]

    yield tab, wrong
    context.close()


@pytest.fixture
def opened(tabs, address):
    """Open a page; whatever leaves the machine, is missing, refused or complains is an error."""
    tab, wrong = tabs
    pages = []

    def open_page(path: str, width: int = 1400, scheme: str = "light", drawn: bool = True) -> Any:
        page = tab(len(pages))
        pages.append(page)
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.bring_to_front()  # the other tabs are drawn once a second
        page.goto(path if path.startswith("file:") else address + path)
        if drawn:
            page.locator(".explorer.drawn, .plot.drawn").first.wait_for()
        return page

    yield open_page
    for page in pages:
        page.goto("about:blank")  # the same page with other words behind its # is not loaded anew
    said, wrong[:] = wrong[:], []
    assert said == []


def listen(page: Any, wrong: list[str], address: str) -> None:
    def asked(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:", "file:")):
            wrong.append(f"asked for {request.url}")

    page.on("request", asked)
    page.on("response", lambda got: got.status >= 400 and wrong.append(f"missing: {got.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: said.type == "error" and wrong.append(f"{said.text} {said.location}"),
    )


class Parsed(HTMLParser):
    """A page's links, what it loads, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if "href" in given and tag in ("a", "link"):
            (self.links if tag == "a" else self.loads).append(given["href"])
        if "src" in given:
            self.loads.append(given["src"])


@functools.cache
def parsed(page: Path) -> Parsed:
    return Parsed(page.read_text(encoding="utf-8"))


def html_pages(site: Path) -> list[Path]:
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


def test_every_link_within_the_site_leads_somewhere(site):
    pages, broken = html_pages(site), []
    assert len(pages) > 50
    for page in pages:
        for link in parsed(page).links + parsed(page).loads:
            if urlsplit(link).scheme or link.startswith("#explorer="):
                continue
            path, place = urlsplit(link).path, unquote(urlsplit(link).fragment)
            target = (page.parent / unquote(path)).resolve() if path else page
            found = target.is_file() and target.is_relative_to(site)
            if found and place and target.suffix == ".html":
                found = place in parsed(target).places
            if not found:
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_no_page_loads_anything_from_elsewhere_and_each_says_so(site):
    for page in html_pages(site):
        assert [one for one in parsed(page).loads if urlsplit(one).scheme not in ("", "data")] == []
        if page != site / "index.html":
            policy = re.search(r"Content-Security-Policy\" content=\"(.*?)\"", page.read_text())
            assert policy, page
            scripts = policy[1].partition("script-src")[2].partition(";")[0]
            assert "unsafe" not in scripts


def test_the_site_is_small_enough_to_send(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 40 * MEGABYTE
    assert max(size for path, size in sizes.items() if path.suffix == ".html") < 3 * MEGABYTE
    played = [size for path, size in sizes.items() if path.parent.name == "explorers"]
    assert len(played) == len(PLAYED)
    assert max(played) < 2 * MEGABYTE


def test_every_public_name_has_its_place_in_the_reference(site):
    places = parsed(site / "docs" / "api" / "index.html").places
    modules = {name for name in av.__all__ if type(getattr(av, name)).__name__ == "module"}
    assert {f"avmixup_kit.{name}" for name in set(av.__all__) - modules} <= places
    places = parsed(site / "docs" / "api" / "gaussian.html").places
    assert {"avmixup_kit.gaussian.flow", "avmixup_kit.gaussian.FeatureModel.robust_error"} <= places


def test_a_notebook_s_question_hides_its_answer(site):
    text = (site / PAGES["notebook"]).read_text()
    assert "What happens to its errors under attack?</b>" in text
    assert "<details><summary>Guess, then open</summary>" in text
    assert "live.predict" not in re.sub(r"<[^>]+>", "", text)


def test_a_table_that_a_notebook_shows_is_a_table(site):
    pages = sorted((site / "notebooks").glob("*.html"))
    assert sum(page.read_text().count("<table") for page in pages) > len(pages)
    for page in pages:
        assert re.search(r"<p>\|", page.read_text()) is None, page.name


def test_a_proof_ends_with_its_verdicts_programs_and_notebooks(site):
    text = (site / "theory" / "overshoot.html").read_text()
    end = text[text.index('id="verdict-program-notebook"') :]
    assert "true, a theorem" in end
    assert "../notebooks/04_adversarial_feature_overfitting.html" in end
    assert "../docs/api/gaussian.html" in end
    assert "overshoot.py" in end


def cut(page: Any) -> list[str]:
    """The words of all figures of a page that an edge cuts or other words cover."""
    figures = page.locator(".plot, .picture").all()
    return [word for one in figures for word in one.evaluate(CUT)]


@functools.cache
def sent(path: Path) -> int:
    """The bytes of a file as a server sends it that compresses texts, as GitHub's pages are."""
    text = path.suffix in (".html", ".css", ".js", ".svg")
    return len(gzip.compress(path.read_bytes(), 6)) if text else path.stat().st_size


def test_every_page_is_light_waits_for_no_script_and_asks_nothing_of_other_machines(
    site, address, browser
):
    wrong, asked, heavy, waited = [], set(), {}, {}
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    listen(page, wrong, address)
    page.on("request", lambda one: asked.add(urlsplit(one.url).path))
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})  # each is a first visit
    for path in html_pages(site):
        # a browser asks a page that names no icon for /favicon.ico, when it gets to it
        assert re.search('<link rel="icon" href="[^"]*icon.svg"', path.read_text()), path
        asked.clear()
        page.goto(address + path.relative_to(site).as_posix(), wait_until="load")
        page.locator("main").wait_for()  # the root's index.html leads to the start page
        page.wait_for_function(NEAR)
        blocking = [urlsplit(url).path for url in page.evaluate(BLOCKING)]
        sizes = {one: sent(site / one.lstrip("/")) for one in asked if one != "/favicon.ico"}
        heavy[path.name] = sum(sizes.values()) / MEGABYTE
        waited[path.name] = sum(sizes[one] for one in blocking)
        assert [one for one in blocking if not one.endswith(".css")] == [], path
    page.close()
    assert wrong == []
    assert max(heavy.values()) < 3, heavy
    assert max(waited.values()) < 0.1 * MEGABYTE, waited


def test_no_script_but_the_site_s_own_may_run(browser, address):
    page = browser.new_page()
    page.goto(address + PAGES["proof"])
    refused = page.evaluate(
        "() => new Promise(answer => { document.addEventListener('securitypolicyviolation',"
        " event => answer(event.effectiveDirective)); setTimeout(answer, 9000, 'nothing');"
        " const one = document.createElement('script');"
        " one.src = 'https://example.org/x.js'; document.body.append(one); })"
    )
    page.close()
    assert refused == "script-src-elem"


def test_every_explorer_of_the_theory_plays():
    assert set(PLAYED) == set(explorers.EXPLORERS)
    given = {name: getattr(getattr(live, name), "__annotations__", {}) for name in live.__all__}
    found = {name for name in given if given[name].get("return") is live.Explorer}
    assert set(PLAYED) == found - {"vertex"}  # a picture of a network


def explored(name: str, state: list[str]) -> dict[str, Any]:
    """The traces that the live explorer draws where a page's controls stand."""
    axes, explorer = explorers.EXPLORERS[name].axes, getattr(live, name)()
    stops = [
        axis.stops[said] if axis.kind == "menu" else list(axis.stops.values())[int(said)]
        for axis, said in zip(axes, state, strict=True)
    ]
    return explorer.draw(**explorers.settled(explorer, axes, stops)).traces


@pytest.mark.parametrize("name", PLAYED)
def test_a_slider_moves_picture_and_link_and_the_link_opens_there(opened, address, name):
    page = opened(f"docs/play/{name}.html")
    assert page.locator(".explorer .control").count() == 3
    before = page.evaluate(DRAWN, name)
    slider = page.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"(before) => ({DRAWN})('{name}') !== before", arg=before)
    link, state = page.url, page.evaluate(STATE, name)
    assert f"explorer={name}" in link
    assert page.get_by_role("link", name="Link to this setting").get_attribute("href") in link
    again = opened(link.removeprefix(address))
    assert again.evaluate(STATE, name) == state
    assert again.evaluate(TRACES, name) == page.evaluate(TRACES, name)
    assert again.locator(".note").inner_text() == page.locator(".note").inner_text()
    shown = {trace["name"]: trace for trace in again.evaluate(TRACES, name)}
    for trace, drawn in explored(name, state).items():
        for letter in {"x", "y"} & set(drawn):
            ours, theirs = (list(one[letter]) for one in (shown[trace], drawn))
            if not theirs or isinstance(theirs[0], str):
                assert ours == theirs, trace
                continue
            close = {"rtol": 0.01, "atol": 0.005 * np.ptp(theirs)}
            for ends in (lambda one: [one[0], one[-1]], lambda one: [min(one), max(one)]):
                assert np.allclose(ends(ours), ends(theirs), **close), trace


@pytest.mark.parametrize("name", PLAYED)
def test_no_word_of_an_explorer_is_cut_covered_or_small(opened, name):
    page = opened(f"docs/play/{name}.html", 900)
    assert cut(page) + page.evaluate(SMALL) == []
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_function(FITTED)
    assert cut(page) == []


@pytest.mark.parametrize("name", BOOKS)
def test_no_word_of_a_notebook_s_figures_is_cut_covered_or_small(opened, name):
    page = opened(f"notebooks/{name}.html", 900, drawn=False)
    for width in (900, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        for place in page.locator(".plot, .explorer").all():
            place.scroll_into_view_if_needed()
            place.and_(page.locator(".drawn")).wait_for()
        page.wait_for_function(FITTED)
        assert cut(page) + page.evaluate(SMALL) == [], width


def test_a_film_starts_at_its_beginning_plays_and_stops(opened):
    page = opened("docs/play/scores.html")
    film, said = page.get_by_label("training", exact=True), page.locator(".explorer output").last
    assert film.get_attribute("aria-valuetext") == "0"
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelectorAll('.explorer output')[1].textContent > 3")
    page.get_by_role("button", name="Pause").click()
    frame = said.inner_text()
    page.wait_for_timeout(400)
    assert said.inner_text() == frame


def test_a_click_on_the_map_moves_your_point(opened):
    page = opened("docs/play/phase_map.html")
    box = page.locator(".explorer .picture .hm, .explorer .picture image").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.2)
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.2)
    page.wait_for_function("() => location.hash.includes('phase_map')")
    assert [float(one) for one in page.locator("output").all_inner_texts()] == [0.48, 0.48]


def test_a_menu_moves_sliders_to_what_it_presets_and_a_try_is_a_link(opened):
    page = opened("docs/play/overfitting.html")
    page.get_by_label("preset").select_option("S5: ε = η, no overshoot")
    assert page.locator("output").first.inner_text() == "0.28"
    page.get_by_role("link", name="Trained with a weaker push than tested").click()
    page.wait_for_function("() => document.querySelector('output').textContent === '0.1'")
    assert page.get_by_label("preset").input_value() == "S1: falls, then rises"


@pytest.mark.parametrize(
    ("page", "name", "state"),
    [
        ("01_training_set_lottery", "lottery", ["100", "2", "0.2"]),
        ("02_theorem_1", "two_bells", ["0.5996", "0.5", "25"]),
        ("02_theorem_1", "theorem_1", ["0.5", "1", "1"]),
        ("03_theorems_2_and_3", "scores", ["0", "80"]),
        ("03_theorems_2_and_3", "theorems_2_and_3", ["0.01", "10", "100"]),
        ("05_soft_labels", "soft_labels", ["2", "0.5"]),
    ],
)
def test_a_notebook_s_explorer_opens_as_its_cell_does(opened, page, name, state):
    place = opened(f"notebooks/{page}.html", drawn=False).locator(f"[data-explorer={name}]")
    place.scroll_into_view_if_needed()
    place.and_(place.page.locator(".drawn")).wait_for()
    assert place.locator("output").all_inner_texts() == state


def test_a_notebook_s_explorer_plays_in_its_place(opened):
    page = opened(PAGES["notebook"])
    page.locator("[data-explorer=scores]").scroll_into_view_if_needed()
    page.locator("[data-explorer=scores].drawn").wait_for()
    slider = page.locator("[data-explorer=scores]").get_by_label("push ε")
    slider.focus()
    page.keyboard.press("End")
    assert page.evaluate(STATE, "scores")[1] == "10"


def test_an_explorer_plays_from_a_folder_without_a_server(site, opened):
    page = opened(
        (site / "docs" / "play" / "two_bells.html").as_uri() + "#explorer=two_bells&n=400"
    )
    assert page.locator("output").all_inner_texts()[-1] == "400"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 1400])
def test_nothing_reaches_beyond_the_window_or_is_too_small(opened, width, scheme):
    for name, path in PAGES.items():
        page = opened(path, width, scheme, drawn=name in ("start", "notebook", "explorer"))
        across = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        whole, seen = page.evaluate(across)
        assert whole <= seen, name
        assert page.evaluate(SMALL) == [], name


def test_the_dark_theme_reaches_the_figures(opened):
    page = opened(PAGES["explorer"], scheme="dark")
    ink = "getComputedStyle(document.querySelector('.xtick text')).fill"
    dark = page.evaluate(ink)
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_function(f"(dark) => {ink} !== dark", arg=dark)


@pytest.mark.parametrize("name", ["start", "notebook", "proof", "api", "search", *PLAYED])
def test_axe_finds_nothing_serious(opened, name):
    path = "search.html?q=vertex" if name == "search" else f"docs/play/{name}.html"
    page = opened(PAGES.get(name, path), drawn=name in ("start", "notebook", *PLAYED))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(f"() => document.documentElement.dataset.theme === '{scheme}'")
        assert serious(page) == [], scheme
