"""Every notebook and the dashboard in a real JupyterLab, in headless Chromium; Voila and
Notebook 7 too.

Screenshots go to test-artifacts/. Nothing but loopback may be asked for anything.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.browser.lab import (
    HOSTILE,
    PARSED,
    PATIENCE,
    Lab,
    jupyterlab,
    notebook_7,
    serious,
    voila,
)
from tests.conftest import skip

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "test-artifacts"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
LIVE = "09_train_it_live.ipynb"

# plotly's buttons that the Tab key stops at
BARS = "() => [...document.querySelectorAll('.modebar-btn')].filter(e => e.tabIndex >= 0).length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the notebooks, so that running them changes nothing here."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "results").symlink_to(ROOT / "results")
    return shutil.copytree(ROOT / "notebooks", folder / "notebooks")


@pytest.fixture(scope="module")
def address(browser, folder):
    with jupyterlab(folder) as address:
        yield address


@pytest.fixture(scope="module")
def lab(browser, address):
    page = Lab(browser, address)
    page.do("application:toggle-left-area")
    yield page
    assert page.outside == []
    page.page.close()


@pytest.fixture(autouse=True)
def shut(request):
    """However a test ends, its notebook does not stay for the next."""
    yield
    if "lab" in request.fixturenames:
        request.getfixturevalue("lab").close_all()


@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_runs_without_an_error_and_draws_its_figures(lab, name):
    lab.open(name)
    lab.run_all()
    assert lab.errors() == []
    code = [cell for cell in lab.cells() if cell["cell_type"] == "code" and cell["source"]]
    assert all(cell["execution_count"] for cell in code)
    for cell in code:
        if any(PLOTLY in output.get("data", {}) for output in cell["outputs"]):
            lab.show("".join(cell["source"]))
            lab.page.wait_for_selector(".jp-OutputArea-output .modebar-btn", state="attached")
            lab.page.wait_for_function(f"() => ({BARS})() === 0")
    source = "\n".join("".join(cell["source"]) for cell in code)
    for cell in code:
        if "live." in cell["source"]:
            lab.show(cell["source"])
            assert lab.page.evaluate(SMALL, ".js-plotly-plot *, .widget-vbox .widget-html *") == []
    if re.search(r"\blive\.(?!predict|check|chart)\w+\(", source):  # those have a live figure
        lab.scroll_to(".widget-hslider, .widget-button")
        # A live figure that came up blank has axes but no traces.
        lab.page.wait_for_function(
            """() => [...document.querySelectorAll('.widget-vbox .js-plotly-plot')].some(
                plot => plot.data?.some(trace => trace.x || trace.z))"""
        )
        lab.picture(ARTIFACTS / f"{name[:2]}.png")
        lab.page.wait_for_function(
            "() => document.querySelectorAll('.noUi-handle:not([aria-label])').length === 0"
        )


def test_an_explorer_is_a_picture_until_its_cell_is_run_and_then_plays(lab, folder):
    lab.open("04_adversarial_feature_overfitting.ipynb")
    lab.show("live.scores()")
    cell = lab.page.locator(".jp-CodeCell:has-text('live.scores()')").first
    cell.locator("img").wait_for()
    assert cell.locator("img").evaluate("e => e.naturalWidth > 600 && e.clientWidth > 600")
    lab.run_all()
    lab.show("live.scores()")
    cell.get_by_role("slider").first.wait_for()
    assert cell.locator(".jp-OutputArea img").count() == 0


def test_the_picture_of_overfitting_is_played_with_by_hand(lab, folder):
    """Guess, film, folded controls, and a click on the map."""
    name = "04_adversarial_feature_overfitting.ipynb"
    lab.open(name)
    lab.run_all()
    assert lab.errors() == []
    lab.show("live.predict(")
    lab.button("Both fall").click()
    lab.output.get_by_text("Not so: In the training set it falls").wait_for()

    lab.show("live.scores()")
    training = lab.output.get_by_role("slider", name="training", exact=True)
    training.focus()
    for _ in range(4):
        lab.page.keyboard.press("ArrowRight")
    lab.output.get_by_text("both pictures get better").wait_for()
    lab.page.keyboard.press("End")
    lab.output.get_by_text("Too far.").wait_for()
    lab.picture(ARTIFACTS / "scores.png")
    assert serious(lab.page, ".jp-OutputArea-output:has(.widget-play)") == []
    noise = lab.output.get_by_role("slider", name="noise σ_B").first
    assert not noise.is_visible()
    lab.button("6 more").first.focus()
    lab.page.keyboard.press("Space")
    noise.wait_for()

    lab.show("live.phase_map()")
    lab.page.wait_for_function(
        """() => [...document.querySelectorAll('.widget-vbox .js-plotly-plot')].some(
            plot => plot.data?.some(trace => trace.name === 'rise'))"""
    )
    place = lab.page.evaluate_handle(
        """() => [...document.querySelectorAll('.widget-vbox .js-plotly-plot')].find(
            plot => plot.data?.some(trace => trace.name === 'rise'))"""
    ).as_element()
    place.scroll_into_view_if_needed()
    x, y = place.evaluate(
        """plot => {
            const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
            return [box.x + xaxis._offset + xaxis.d2p(0.4), box.y + yaxis._offset + yaxis.d2p(0.2)];
        }"""
    )
    lab.page.mouse.move(x - 5, y)
    lab.page.mouse.move(x, y, steps=5)
    lab.page.wait_for_function("() => document.querySelector('.hoverlayer .hovertext')")
    lab.page.mouse.click(x, y)
    lab.until("abs(map_.values['epsilon'] - 0.4) < 0.02")
    assert lab.ask("round(map_.values['eta'], 1)") == 0.2
    assert lab.page.evaluate(SCROLLED) == []


def test_a_figure_hidden_while_the_window_shrank_fits_when_it_is_shown_again(lab, folder):
    name = "hidden.ipynb"
    source = "from avmixup_kit import live\nlive.two_bells()"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, folder / name)
    lab.open(name)
    lab.run_all()
    drawn = "document.querySelector('.widget-vbox .js-plotly-plot .main-svg')"
    lab.page.wait_for_function(f"() => {drawn}?.getBoundingClientRect().right > 1000")
    lab.do("launcher:create")
    lab.page.set_viewport_size({"width": 900, "height": 1000})
    lab.page.evaluate(
        """name => { const shell = window.jupyterapp.shell;
        shell.activateById([...shell.widgets('main')].find(w => w.context?.path === name).id); }""",
        name,
    )
    lab.page.wait_for_function(
        f"() => {{ const end = {drawn}.getBoundingClientRect().right; return end && end < 900; }}"
    )
    lab.page.set_viewport_size({"width": 1400, "height": 1000})


def test_the_dashboard_is_turned_forked_and_replayed_by_hand(lab, folder):
    """What the issue asks of a reader's hands, in one sitting."""
    name = "by_hand.ipynb"
    book = nbformat.read(folder / LIVE, 4)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    shown = next(i for i, cell in enumerate(cells) if "live.show(" in cell.source)
    for cell in cells[:shown]:
        cell.source = cell.source.replace("steps = 90", "steps = 400")
    book.cells = cells[: shown + 1]
    nbformat.write(book, folder / name)
    lab.open(name)
    lab.run_all()
    assert lab.errors() == []
    start = lab.button("Start")
    start.wait_for()
    lab.output.get_by_text("step 0 of 400").wait_for()
    assert lab.output.get_by_label("to try", exact=True).input_value().startswith("AVmixup")
    lab.scroll_to("progress")

    # By keyboard alone: from the first button to the slider of gamma, and one step up.
    start.focus()
    lab.page.keyboard.press("Enter")
    lab.until("training.step >= 3")
    handle = lab.output.locator(".noUi-handle").first
    handle.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.until("len(dial.turns) == 1")
    (turn,) = lab.ask("[[turn.step, turn.change] for turn in dial.turns]")
    assert turn[1] == {"gamma": 2.05}
    lab.until(f"training.step > {turn[0]}")
    assert lab.ask("lab.trainer.run.last.method.mix.gamma") == 2.05
    lab.type("λ₂ (vertex side)", "0.4")
    lab.until("dial.method.mix.lambda2 == 0.4")

    # Refused, told beside the slider, and the run goes on.
    lab.type("γ (vertex)", "0.5")
    lab.output.get_by_role("alert").filter(has_text="gamma = 0.5 is not allowed").wait_for()
    step = lab.ask("training.step")
    lab.until(f"training.step > {step}")
    assert lab.ask("[dial.method.mix.gamma, len(dial.turns)]") == [2.05, 2]
    box = lab.output.get_by_label("γ (vertex)", exact=True).first.element_handle()
    lab.page.wait_for_function("box => box.value === '2.05'", arg=box)

    # The interface answers while training runs.
    lab.page.wait_for_function(
        """() => [...document.querySelectorAll('.widget-vbox .js-plotly-plot')].some(
            plot => plot.data?.some(trace => trace.meta === 'PGD10, validation'
                && trace.x?.length > 1))"""
    )
    lab.picture(ARTIFACTS / "dashboard-light.png")
    lab.button("Pause").click()
    lab.until("lab.trainer.run.status == 'paused'")
    lab.output.get_by_text("run 1 is paused").wait_for()
    stood = lab.ask("training.step")
    lab.until("not lab.trainer._wake.is_set()")  # its thread waits until it is asked
    assert lab.ask("training.step") == stood
    lab.button("Resume").click()
    lab.until(f"training.step > {stood}")

    # Reload in mid-training: the run goes on, the dashboard comes back and still turns the dial.
    lab.do("docmanager:save")
    lab.page.reload()
    lab.ready()
    lab.attach(name)
    lab.until(f"training.step > {stood} and lab.trainer.run.status == 'running'")
    lab.button("Pause").wait_for()
    lab.scroll_to("progress")
    turns = lab.ask("len(dial.turns)")
    handle = lab.output.locator(".noUi-handle").first
    handle.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.until(f"len(dial.turns) == {turns + 1}")

    lab.button("Fork from here").click()
    lab.until("len(lab.trainer.runs) == 2 and lab.trainer.run.status == 'ready'")
    forked = lab.ask("lab.training.step")
    lab.button("Start").click()
    lab.until(f"lab.training.step > {forked + 2}")
    lab.page.wait_for_function(
        """() => [...document.querySelectorAll('.widget-vbox .js-plotly-plot')].some(
            plot => plot.data?.filter(trace => trace.meta === 'loss' && trace.x?.length > 1)
                .length === 2)"""
    )
    lab.theme("JupyterLab Dark")
    lab.painted()
    lab.picture(ARTIFACTS / "dashboard-dark.png")
    lab.theme("JupyterLab Light")

    lab.button("Stop").click()
    lab.until("lab.trainer.run.status == 'stopped'")
    lab.type("folder", str(folder / "run"))
    lab.type("test images", "40")
    lab.button("Evaluate").click()
    lab.output.get_by_role("cell", name="±").first.wait_for()
    lab.button("images").click()
    lab.output.locator("th[aria-sort=ascending]").wait_for()
    lab.button("Save").click()
    lab.button("Export the dial's turns").click()
    lab.until("not lab.trainer.doing and lab.trainer.news.startswith('Wrote')")
    lab.scroll_to(".js-plotly-plot")
    lab.picture(ARTIFACTS / "dashboard-below.png")

    stopped = lab.ask("lab.training.step")
    hashes = lab.ask("[float(t.double().sum()) for t in lab.training.model.state_dict().values()]")
    fitted(lab)

    # A kernel that was started anew is announced, and its runs are taken up.
    lab.restart()
    lab.page.get_by_role("alert").filter(has_text="take them up below").wait_for()
    lab.picture(ARTIFACTS / "dashboard-gone.png")
    assert lab.ask("[t.name for t in __import__('threading').enumerate() if 'lab' in t.name]") == []
    assert replayed(folder / "run", stopped) == hashes
    lab.run_all()
    lab.output.get_by_label("earlier run", exact=True).select_option(index=1)
    lab.button("Take up").click()
    lab.until("len(lab.trainer.runs) == 2 and not lab.trainer.doing")
    again = "[float(t.double().sum()) for t in lab.training.model.state_dict().values()]"
    assert lab.ask(again) == hashes
    assert lab.ask("lab.training.step") == stopped


SCROLLED = """() => [...document.querySelectorAll(".widget-dropdown, .widget-hslider")].filter(
    e => ["auto", "scroll"].includes(getComputedStyle(e).overflowY)
        && e.scrollHeight > e.clientHeight + 1).map(e => e.outerHTML.slice(0, 200))"""
UNNAMED = """() => [...document.querySelectorAll(".jp-OutputArea-output :is(button, input, select, "
        + "[role=slider])")].filter(e => e.offsetParent && e.tabIndex >= 0).filter(
    e => !(e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent))
    .map(e => e.outerHTML.slice(0, 200))"""
SMALL = """(selector) => [...document.querySelectorAll(selector)].filter(e =>
    e.closest(".jp-OutputArea-output") && (e.offsetParent || e.ownerSVGElement)
    && parseFloat(getComputedStyle(e).fontSize) < 12
    && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .map(e => e.outerHTML.slice(0, 200))"""
CUT = """() => { const all = document.querySelector(".jp-OutputArea-output:has(progress)");
    const end = all.getBoundingClientRect().right + 2;
    return [...all.querySelectorAll("img, button, input, select, .js-plotly-plot")].filter(
        e => e.offsetParent && e.getBoundingClientRect().right > end
            && !e.closest("[style*='overflow']")).map(e => e.outerHTML.slice(0, 200)); }"""


def fitted(lab):
    """Every control has a name, text is 12 px or more, and nothing is cut from 900 px on."""
    assert lab.page.evaluate(UNNAMED) == []
    assert lab.page.evaluate(BARS) == 0, "plotly's buttons are no stops of the Tab key"
    assert lab.page.evaluate(SMALL, ".jp-OutputArea-output *") == []
    for width in (900, 1400):
        lab.page.set_viewport_size({"width": width, "height": 1000})
        lab.page.wait_for_timeout(500)
        assert lab.page.evaluate(CUT) == [], width
        lab.picture(ARTIFACTS / f"dashboard-{width}.png")
    for theme in ("Dark", "Light"):
        lab.theme(f"JupyterLab {theme}")
        lab.painted()
        assert serious(lab.page, ".jp-OutputArea-output:has(progress)") == [], theme


def replayed(run: Path, steps: int) -> list[float]:
    """The sums of the weights after the exported turns, without a dashboard."""
    import torch

    import avmixup_kit as av
    from avmixup_kit import methods, runs

    torch.set_num_threads(1)  # as JupyterLab has, whatever the tests have
    data = av.digits()
    about = json.loads((run / "run.json").read_text())
    dial = av.Dial(methods.parse(about["method"]), runs.turns_of(run / "turns.jsonl"))
    training = av.Training(av.small_cnn(data, seed=0), data.train, dial, 400, seed=0)
    for _ in range(steps):
        next(training)
    return [float(t.double().sum()) for t in training.model.state_dict().values()]


def test_a_failing_run_and_missing_data_are_told_in_the_dashboard(lab, folder):
    name = "failing.ipynb"
    source = """import torch
torch.set_num_threads(1)
import avmixup_kit as av
from dataclasses import dataclass
from avmixup_kit import live
@dataclass(frozen=True)
class Broken:
    def __call__(self, model, batch):
        raise ZeroDivisionError("the loss divides by <nothing>")
data = av.digits()
method = av.avmixup(epsilon=data.epsilon, steps=1).replace(loss=Broken())
lab = live.show(av.Training(av.small_cnn(data), data.train, av.Dial(method), 50), data=data)
lab"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, folder / name)
    lab.open(name)
    lab.run_all()
    lab.button("Start").click()
    alert = lab.output.get_by_role("alert").filter(has_text="the loss divides by <nothing>")
    alert.wait_for()
    assert "Traceback" in alert.inner_text()
    alert.scroll_into_view_if_needed()
    lab.picture(ARTIFACTS / "dashboard-failed.png")
    lab.output.get_by_text("A new run").click()
    lab.output.get_by_label("data", exact=True).select_option("CIFAR-10")
    lab.type("its folder", str(folder / "nowhere"))
    lab.button("Make this run").click()
    lab.until("'Could not make the run' in lab.trainer.complaint")
    lab.until("len(lab.trainer.runs) == 1")
    lab.output.get_by_role("alert").filter(has_text="Could not make the run").wait_for()
    lab.picture(ARTIFACTS / "dashboard-new-run.png")


def test_names_that_are_markup_are_text_in_the_dashboard(lab, folder):
    name = "hostile.ipynb"
    source = f"""import dataclasses
import torch
torch.set_num_threads(1)
import avmixup_kit as av
from avmixup_kit import live
hostile = {HOSTILE!r}
@av.methods.METHODS.register(title=hostile, colour="#882255")
def own(epsilon: float = 0.15) -> av.Method:
    return av.pgd_training(epsilon=epsilon, steps=1)
digits = av.digits()
classes = tuple(hostile + name for name in digits.classes)
parts = [
    dataclasses.replace(part.subset(128), name=hostile, classes=classes)
    for part in (digits.train, digits.validation, digits.test)
]
data = av.Data(hostile, *parts, epsilon=0.15)
dial = av.Dial(av.avmixup(epsilon=0.15, steps=1))
training = av.Training(av.small_cnn(data), data.train, dial, 9999)
lab = live.show(training, dial, data, name=hostile, probe_every=5, probe_images=20)
lab"""
    cells = map(nbformat.v4.new_code_cell, (source, "live.vertex(training.model, data)"))
    book = nbformat.v4.new_notebook(cells=list(cells))
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, folder / name)
    lab.open(name)
    lab.run_all()
    assert lab.errors() == []
    lab.button("Start").click()
    lab.until("training.step >= 10")
    lab.ask("bool(dial.turn(method=own()))")
    lab.until("'onerror' in lab.strip.value")
    lab.button("Stop").click()
    lab.type("folder", HOSTILE)
    lab.button("Evaluate").click()
    lab.output.get_by_text("worst case").wait_for()
    lab.button("Load").click()
    lab.output.get_by_role("alert").filter(has_text="onerror=document.title").wait_for()
    lab.scroll_to(".js-plotly-plot")
    lab.page.evaluate(
        """() => document.querySelectorAll(".widget-vbox .js-plotly-plot").forEach((plot) =>
            plot.dispatchEvent(new MouseEvent("mousemove", { bubbles: true })))"""
    )
    lab.page.wait_for_timeout(300)
    shown = " ".join(lab.output.all_text_contents())
    assert shown.count("onerror=document.title") >= 20
    for part in lab.output.all():
        parsed = part.evaluate(PARSED)
        assert parsed == {"handlers": 0, "images": 0, "links": 0, "scripts": 0, "owned": 0}


@pytest.mark.parametrize("program", ["voila", "notebook"])
def test_the_dashboard_works_in_voila_and_in_notebook_7(browser, tmp_path, program):
    if importlib.util.find_spec(program) is None:
        skip(f"{program} is not installed: pip install -e '.[test]'")
    book = nbformat.read(ROOT / "notebooks" / LIVE, 4)
    shown = next(i for i, cell in enumerate(book.cells) if "live.show(" in cell.source)
    book.cells = book.cells[: shown + 1]
    nbformat.write(book, tmp_path / "served.ipynb")
    serve = voila(tmp_path, "served.ipynb") if program == "voila" else notebook_7(tmp_path)
    with serve as address:
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(address if program == "voila" else f"{address}/notebooks/served.ipynb")
        if program == "notebook":
            page.wait_for_function(
                """() => { const panel = window.jupyterapp?.shell?.currentWidget;
                return panel?.context?.isReady && panel.sessionContext.isReady; }"""
            )
            page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_text("run 1 has ended").wait_for()
        page.wait_for_function(
            """() => [...document.querySelectorAll('.js-plotly-plot')].some(
                plot => plot.data?.some(trace => trace.x?.length > 80))"""
        )
        assert "Traceback" not in page.content()
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{program}.png")
        page.close()
