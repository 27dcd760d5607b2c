"""The pages that reports and searches write, in headless Chromium, on wide and narrow screens."""

import dataclasses
from typing import Any

import pytest

import avmixup_kit as av
from avmixup_kit import demo, tuning
from avmixup_kit.evaluation import report
from tests.browser.lab import HOSTILE, PARSED, serious
from tests.search.test_study import synthetic

pytest.importorskip("plotly")
pytest.importorskip("optuna")

EPSILON = 0.15
WIDTHS = (390, 700, 900, 1400)

# What reaches beyond the window or its figure, or is written in letters of less than 12 pixels.
FAULTS = """() => {
  const found = [];
  const inner = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > inner) found.push("the page scrolls sideways");
  for (const part of document.querySelectorAll("p, li, td, th, h1, h2, img, figcaption, .plot")) {
    const box = part.getBoundingClientRect();
    const scrolled = part.closest(".scroll");
    if (!(scrolled && inner < 700) && (box.right > inner || box.left < 0)) {
      found.push(`cut: ${part.textContent || part.alt}`);
    }
  }
  for (const title of document.querySelectorAll(".plot .gtitle")) {
    if (title.textContent) found.push(`under the bar: ${title.textContent}`);
  }
  for (const words of document.querySelectorAll(".plot text")) {
    const box = words.getBoundingClientRect();
    const place = words.closest(".plot").getBoundingClientRect();
    if (!box.width) continue;
    if (box.left < place.left - 1 || box.right > place.right + 1 || box.bottom > place.bottom + 1) {
      found.push(`cut in a figure: ${words.textContent}`);
    }
  }
  for (const part of document.querySelectorAll("body, body *")) {
    const said = [...part.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    const size = parseFloat(getComputedStyle(part).fontSize);
    if (said && !part.closest("script, style") && size < 12) {
      found.push(`small: ${part.textContent}`);
    }
  }
  return found;
}"""

# Every figure shows the label of its first point, in which names stand once more.
HOVERED = """() => {
  for (const plot of document.querySelectorAll(".plot")) {
    plot.data.forEach((_, curveNumber) => {
      Plotly.Fx.hover(plot, [{ curveNumber, pointNumber: plot.data[curveNumber].z ? [0, 0] : 0 }]);
    });
  }
}"""
SVG_TEXTS = "[...document.querySelectorAll('svg text')].map((e) => e.textContent).join(' ')"


@pytest.fixture(scope="module")
def pages(trained, digits, tmp_path_factory) -> dict[str, str]:
    """The addresses of a report and a search, every name in them hostile or long."""
    folder = tmp_path_factory.mktemp("pages")
    classes = tuple(f"{HOSTILE} {number}" for number in range(10))
    split = dataclasses.replace(digits.test.subset(40), name=HOSTILE, classes=classes)
    attacks = [av.fgsm(EPSILON), av.pgd(steps=100, epsilon=EPSILON)]
    result = av.evaluate(trained, split, attacks)
    sources = {HOSTILE: trained, "another network with a long name": trained}
    av.report(
        result, trained, split, folder / "plain.html", sources=sources, title=HOSTILE, count=20
    )
    result = dataclasses.replace(result, names=("Clean", HOSTILE, "PGD100"), notes=(HOSTILE,))
    with pytest.MonkeyPatch.context() as patch:
        loud = [report.Alarm("cw", True, 1.0, HOSTILE, drawing(HOSTILE))]
        patch.setattr(report, "alarms", lambda *_, **__: loud)
        av.report(result, trained, split, folder / "hostile.html")
    found = synthetic()
    rows = ("Clean", HOSTILE, "AutoAttack (quick)")
    again = dataclasses.replace(result, names=rows, notes=())
    dataclasses.replace(found, again={name: (again, again) for name in ("best", HOSTILE)}).save(
        folder
    )
    renamed(found).save(folder / "settings")
    classes = tuple(name.replace("/", "|") for name in classes)  # a run folder is called like it
    with pytest.MonkeyPatch.context() as patch:
        held = [
            dataclasses.replace(part.subset(128), classes=classes, name=HOSTILE)
            for part in (digits.train, digits.validation, digits.test)
        ]
        patch.setattr(demo, "digits", lambda: av.Data(HOSTILE, *held, epsilon=EPSILON))
        named = {HOSTILE.replace("/", "|"): av.avmixup(epsilon=EPSILON, steps=1)}
        patch.setattr(demo, "demo_methods", lambda epsilon: named)
        demo.demo(folder, steps=2)
    names = {"report": "plain.html", "hostile": "hostile.html", "search": "report.html"}
    names |= {"settings": "settings/report.html", "demo": "index.html"}
    return {name: (folder / file).as_uri() for name, file in names.items()}


def renamed(found: tuning.Found) -> tuning.Found:
    """A search whose settings have hostile names, as a summary.json of another's may say."""
    names = {"gamma": HOSTILE, "lambda1": "lambda1", "lambda2": f"lambda{HOSTILE}"}

    def of(given: dict[str, Any]) -> dict[str, Any]:
        return {names[name]: value for name, value in given.items()}

    trials = tuple(dataclasses.replace(trial, params=of(trial.params)) for trial in found.trials)
    searched = found.searched | {
        "search space": of(found.searched["search space"]),
        "objective": f"Judge(title='{HOSTILE.replace(chr(39), '')}')",
    }
    return dataclasses.replace(
        found, searched=searched, published=of(found.published), trials=trials,
        importance=of(found.importance), reference=HOSTILE,
    )  # fmt: skip


def drawing(name: str) -> Any:
    from avmixup_kit.evaluation.evidence import bars

    return bars({name: 3, "then an attack with a name that is long": 2}, 4)


@pytest.fixture
def opened(browser, pages):
    """Open a page; whatever it asks for, complains of or is refused is an error."""
    contexts, wrong = [], []

    def open_page(name: str, width: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url[:99]))
        page.goto(pages[name])
        page.locator(".plot .main-svg").last.wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    asked = [w for w in wrong if not w.startswith(("data:", "blob:", *pages.values()))]
    assert asked == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "hostile", "search"])
def test_nothing_is_cut_or_too_small_at_any_width(opened, name, width, scheme):
    page = opened(name, width, scheme)
    assert page.evaluate(FAULTS) == []


def test_names_that_are_markup_are_text(opened, pages):
    for name in pages:
        page = opened(name)
        page.evaluate(HOVERED)
        page.wait_for_timeout(200)
        nothing = {"handlers": 0, "images": 0, "links": 0, "scripts": 2, "owned": 0}
        assert page.evaluate(f"({PARSED})(document)") == nothing, name
        shown = page.evaluate("document.body.innerText") + page.evaluate(SVG_TEXTS)
        assert shown.replace("|", "/").count("onerror=document.title") >= 4, name
    assert opened("report").locator("h1").inner_text() == HOSTILE


def test_no_script_but_the_page_s_own_may_run(browser, pages):
    page = browser.new_page()
    page.goto(pages["report"])
    refused = page.evaluate(
        "() => new Promise(answer => { document.addEventListener('securitypolicyviolation',"
        " event => answer(event.effectiveDirective)); document.body.insertAdjacentHTML("
        "'beforeend', '<b onclick=1></b>'); document.querySelector('b:last-child').click(); })"
    )
    page.close()
    assert refused == "script-src-attr"


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"main table >> nth=0 >> tbody tr td:nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("press", ["click", "keyboard"])
def test_a_table_is_sorted_by_hand_and_by_keyboard_and_goes_back(opened, press):
    page = opened("report")
    before = column(page, 1), column(page, 5)
    zero, tens, thousands = before[1]
    assert (zero, thousands[1]) == ("0", " ")
    assert int(tens) < int(thousands.replace(" ", ""))
    head = page.locator("main th", has_text="gradients")
    button = head.locator("button")

    def turn() -> str | None:
        if press == "click":
            button.click()
        else:
            button.focus()
            page.keyboard.press("Enter")
        return head.get_attribute("aria-sort")

    assert head.get_attribute("aria-sort") is None
    assert (turn(), column(page, 5)) == ("ascending", before[1])
    assert (turn(), column(page, 5)) == ("descending", before[1][::-1])
    assert page.locator("main table >> nth=0 >> tfoot td >> nth=0").inner_text() == "worst case"
    assert (turn(), column(page, 1)) == (None, before[0])
    page.locator("main th", has_text="attack").locator("button").click()
    assert column(page, 1) == sorted(before[0])


def test_contents_lead_to_their_parts_and_the_verdict_stands_first(opened):
    page = opened("report", 390)
    first = page.evaluate("document.querySelector('.verdict').getBoundingClientRect().top")
    assert first < page.evaluate("document.querySelector('nav').getBoundingClientRect().top")
    link = page.locator("nav a", has_text="Worst examples")
    link.click()
    top = page.evaluate("document.querySelector(location.hash).getBoundingClientRect().top")
    assert -1 <= top < 100
    assert "Worst examples" in page.locator(link.get_attribute("href")).inner_text()


def test_a_phone_has_one_column_and_the_dark_theme_reaches_the_figures(opened):
    page = opened("search", 390, "dark")
    lefts = page.evaluate("[...document.querySelectorAll('.many .plot')].map(p => p.offsetLeft)")
    assert len(lefts) == 3
    assert len(set(lefts)) == 1
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(f"[{ink}, {ground}]") == ["rgb(230, 232, 234)", "rgb(20, 23, 26)"]
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(500)
    assert page.evaluate(f"[{ink}, {ground}]") == ["rgb(29, 33, 37)", "rgb(255, 255, 255)"]


@pytest.mark.parametrize("name", ["report", "hostile", "search", "demo"])
def test_axe_finds_nothing_serious(opened, name):
    page = opened(name)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(500)  # figures follow
        assert serious(page) == [], scheme
