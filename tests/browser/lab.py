"""A real JupyterLab in headless Chromium, driven through its own application object."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 600  # seconds: only a test that will fail waits so long
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

# A name that ends a text, an attribute or a script, and brings a handler, a script and a link.
HOSTILE = "\"'></script><img src=x onerror=document.title='owned'><a href=//evil.example>here</a>"
# What of it was parsed below an element: handlers, images from elsewhere, links, scripts.
PARSED = """(root) => {
  const all = [...root.querySelectorAll("*")];
  const link = (e) => e.getAttribute("href") ?? e.getAttribute("xlink:href") ?? "";
  return {
    handlers: all.filter((e) => [...e.attributes].some((a) => /^on/i.test(a.name))).length,
    images: all.filter((e) => e.matches("img") && !/^(data|blob):/.test(e.src)).length,
    links: all.filter((e) => e.matches("a") && link(e).includes("evil")).length,
    scripts: all.filter((e) => e.matches("script")).length,
    owned: Number(document.title === "owned"),
  };
}"""


def serious(page: Any, part: str | None = None) -> list[tuple[str, str, int]]:
    """Return what axe finds that is serious or critical, in a part of the page or all of it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=part, options={"preload": False}).response["violations"]
    return [
        (one["id"], one["nodes"][0]["html"][:200], len(one["nodes"]))
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


CONTROLS = ("button", "checkbox", "combobox", "link", "slider", "spinbutton", "textbox")


def named(page: Any, part: str) -> list[tuple[str, str]]:
    """Return role and name of the controls in each such part, as the accessibility tree has them.

    That tree is the browser's own: what a screen reader is told.
    """
    session = page.context.new_cdp_session(page)
    found = []
    for number in range(page.locator(part).count()):
        place = f"document.querySelectorAll({json.dumps(part)})[{number}]"
        root = session.send("Runtime.evaluate", {"expression": place})["result"]["objectId"]
        for role in CONTROLS:
            asked = {"objectId": root, "role": role}
            nodes = session.send("Accessibility.queryAXTree", asked)["nodes"]
            found += [(role, n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    session.detach()
    return found


def chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@contextlib.contextmanager
def server(command: list[str], folder: Path, ready: str) -> Iterator[str]:
    """Run a Jupyter server on loopback with folders of its own; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    private = {
        f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    } | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "OMP_NUM_THREADS": "1",
    }
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    log = (folder / f"{command[0]}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--no-browser", f"--port={port}"],
        cwd=folder,
        env=os.environ | private,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(address + ready, timeout=60).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(Path(log.name).read_text()[-4000:]) from None
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def jupyterlab(folder: Path, *options: str) -> contextlib.AbstractContextManager[str]:
    """Serve ``folder`` with JupyterLab."""
    command = [
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        "--IdentityProvider.token=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--allow-root",
        *options,
    ]
    return server(command, folder, "/api/status")


def notebook_7(folder: Path) -> contextlib.AbstractContextManager[str]:
    """Serve ``folder`` with Notebook 7."""
    command = [
        "notebook",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--IdentityProvider.token=",
        "--allow-root",
    ]
    return server(command, folder, "/api/status")


def voila(folder: Path, notebook: str) -> contextlib.AbstractContextManager[str]:
    """Serve one notebook of ``folder`` with Voila; the page runs it when it is asked for."""
    return server(["voila", notebook, "--Voila.ip=127.0.0.1"], folder, "/voila/static/voila.js")


class Lab:
    """One page of JupyterLab; ``outside`` lists what it asked of other machines."""

    def __init__(self, browser: Any, address: str) -> None:
        self.address = address
        self.outside: list[str] = []
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.route("**/*", self._route)
        self.page.goto(f"{address}/lab?reset")
        self.ready()

    def _route(self, route: Any) -> None:
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def ready(self) -> None:
        """Wait until JupyterLab has started."""
        self.page.wait_for_function("() => window.jupyterapp !== undefined")
        self.page.evaluate("async () => { await window.jupyterapp.restored; }")

    def do(self, command: str, **arguments: Any) -> None:
        """Execute one of JupyterLab's commands."""
        self.page.evaluate(
            "async ([name, given]) => { await window.jupyterapp.commands.execute(name, given); }",
            [command, arguments],
        )

    def theme(self, name: str) -> None:
        """Change to "JupyterLab Light" or "JupyterLab Dark"."""
        self.do("apputils:change-theme", theme=name)
        light = "true" if name.endswith("Light") else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light={light}]", state="attached")

    def open(self, name: str) -> None:
        """Open a notebook and wait for its kernel."""
        self.do("docmanager:open", path=name, factory="Notebook")
        self.attach(name)

    def attach(self, name: str) -> None:
        """Wait until the notebook is in front and its kernel is connected."""
        self.page.wait_for_function(
            """name => { const panel = window.jupyterapp.shell.currentWidget;
            const kernel = panel?.sessionContext?.session?.kernel;
            return panel?.context?.path === name && panel.context.isReady
                && panel.sessionContext.isReady && kernel?.connectionStatus === 'connected'
                && ['idle', 'busy'].includes(kernel.status); }""",
            arg=name,
        )

    def restart(self) -> None:
        """Restart the kernel, as its menu does."""
        self.page.evaluate(
            """async () => { const session = window.jupyterapp.shell.currentWidget.sessionContext;
            await session.session.kernel.restart(); await session.session.kernel.info; }"""
        )
        self.idle()

    def close_all(self) -> None:
        """Shut every notebook's kernel down and close it unsaved."""
        self.page.evaluate(
            """async () => { const shell = window.jupyterapp.shell;
            for (const panel of [...shell.widgets('main')].filter(one => one.sessionContext)) {
                panel.context.model.dirty = false;
                await Promise.race([panel.sessionContext.shutdown(),
                    new Promise(resolve => setTimeout(resolve, 10000))]);
                panel.dispose();
            } }"""
        )

    def run_all(self) -> None:
        """Run every cell and wait until all are done."""
        self.page.evaluate(
            "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
        )
        self.idle()

    def idle(self) -> None:
        """Wait until kernel and cells rest, seen twice."""
        end, seen = time.monotonic() + PATIENCE, 0
        while seen < 2:
            if time.monotonic() > end:
                raise TimeoutError(f"still busy after {PATIENCE} s")
            self.page.wait_for_timeout(150)
            rests = self.page.evaluate(
                """() => { const panel = window.jupyterapp.shell.currentWidget;
                const kernel = panel.sessionContext.session?.kernel;
                return !!kernel && kernel.status === 'idle' && panel.content.widgets.every(
                    cell => cell.model.type !== 'code' || cell.model.executionState !== 'running');
                }"""
            )
            seen = seen + 1 if rests else 0

    def cells(self) -> list[dict[str, Any]]:
        """Return the notebook's cells, as stored in its file."""
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
        )

    def errors(self) -> list[str]:
        """Return what went wrong: tracebacks, and whatever was written to stderr."""
        return [
            "\n".join(output.get("traceback", [])) or "".join(output.get("text", ""))
            for cell in self.cells()
            for output in cell.get("outputs", [])
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]

    @property
    def output(self) -> Any:
        """The outputs of the notebook in front."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")

    def button(self, name: str) -> Any:
        """Return the output's button of this name."""
        return self.output.get_by_role("button", name=name, exact=True).first

    def type(self, label: str, text: str) -> None:
        """Type into the output's box of this label, as a reader does."""
        box = self.output.get_by_label(label, exact=True).first
        box.fill(text)
        box.press("Enter")

    def scroll_to(self, selector: str) -> None:
        """Bring the first such element of the outputs into view."""
        there = self.output.locator(selector).first
        there.evaluate("e => e.scrollIntoView({block: 'start'})")
        self.painted()

    def show(self, source: str) -> None:
        """Scroll to the first cell that contains this; far ones are no part of the page."""
        self.page.evaluate(
            """async source => { const book = window.jupyterapp.shell.currentWidget.content;
            const at = book.widgets.findIndex(one => one.model.sharedModel.source.includes(source));
            book.activeCellIndex = at;
            await book.scrollToItem(at, 'start'); }""",
            source,
        )
        self.painted()

    def painted(self) -> None:
        """Wait until the page has been drawn as it is now."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def ask(self, expression: str, before: str = "") -> Any:
        """Return the JSON value of a Python expression in the kernel, without a trace there."""
        reply = self.page.evaluate(
            """async ([before, expression]) => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const future = kernel.requestExecute({code: before, silent: true,
                store_history: false, user_expressions: {value: expression}});
            return (await future.done).content; }""",
            [before, f"__import__('json').dumps({expression})"],
        )
        if reply["status"] != "ok" or reply["user_expressions"]["value"]["status"] != "ok":
            raise RuntimeError(f"{expression}: {reply}")
        text = reply["user_expressions"]["value"]["data"]["text/plain"]
        return json.loads(eval(text, {}))

    def until(self, expression: str) -> None:
        """Wait until a Python expression is true in the kernel."""
        end = time.monotonic() + PATIENCE
        while not self.ask(f"bool({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} did not become true in {PATIENCE} s")
            self.page.wait_for_timeout(100)

    def picture(self, path: Path) -> None:
        """Save what the page shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
