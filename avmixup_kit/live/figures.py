"""A plotly figure that is live in a notebook, and stays so on a busy machine."""

from copy import deepcopy
from pathlib import Path
from uuid import uuid4

import anywidget
import plotly
import plotly.graph_objects as go
import traitlets

_NAMES = """
// ipywidgets names no slider's handle and no film's button, and plotly's buttons would be ten
// stops of the Tab key at each figure; any may come later, or in a part of the page not shown yet
function accessible() {
  for (const button of document.querySelectorAll(".modebar-btn:not([tabindex='-1'])")) {
    button.tabIndex = -1;
  }
  for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
    const label = handle.closest(".widget-hbox")?.querySelector("label");
    if (label?.textContent) handle.setAttribute("aria-label", label.textContent);
  }
  for (const button of document.querySelectorAll(".widget-play button:not([aria-label])")) {
    const stop = button.querySelector(".fa-stop");
    button.setAttribute("aria-label", stop ? "Back to the start" : "Play or pause");
  }
}

function watchNames() {
  globalThis.avmixupNames ??= new MutationObserver(accessible);
  globalThis.avmixupNames.observe(document.body, { childList: true, subtree: true });
  accessible();
}
"""

# plotly gives every figure 5 MB of code of its own, and anywidget stops listening for good to a
# figure whose code has not run within two seconds of its arrival: it shows, but never moves again.
# So this code is small, fetches plotly's from one widget that all figures of a page share, and
# listens to the kernel by itself, past anywidget's handler, with the one that ipywidgets has.
_MODULE = (
    _NAMES
    + """
async function listen(model) {
  const self = await model.widget_manager.get_model(model.get("_own_id"));
  let handler;
  for (let type = self; type; type = Object.getPrototypeOf(type)) {
    if (Object.hasOwn(type, "_handle_comm_msg")) handler = type._handle_comm_msg;
  }
  self.comm.on_msg(handler.bind(self));
  self.comm.send({ method: "request_state" }, {});
}

async function load(model) {
  await listen(model);
  globalThis.avmixupPlotly ??= (async () => {
    const library = await model.widget_manager.get_model(model.get("_library_id"));
    const code = new Blob([library.get("code")], { type: "text/javascript" });
    return import(URL.createObjectURL(code));
  })();
  const figure = (await globalThis.avmixupPlotly).default();
  await figure.initialize({ model });
  return figure;
}

// a button in the page's text is heard by the figure that it names, or copies the text after it
function hear(model) {
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.(`[data-to="${model.get("_own_id")}"]`);
    if (button?.dataset.say) model.send({ say: button.dataset.say });
    else if (button) navigator.clipboard.writeText(button.nextElementSibling.textContent);
  });
}

// whoever moves a slider whose kernel has gone is told what to do
async function watch(model, el) {
  const said = document.createElement("div");
  said.setAttribute("role", "alert");
  said.style.cssText =
    "position:sticky;top:0;z-index:9;display:none;padding:.5em;background:#b3261e;color:#fff";
  (el.closest(".jp-OutputArea-output") ?? el.parentElement).prepend(said);
  const self = await model.widget_manager.get_model(model.get("_own_id"));
  const tell = (_, status) => {
    if (!["restarting", "autorestarting", "terminating", "dead"].includes(status)) return;
    said.textContent = model.get("_gone");
    said.style.display = "block";
  };
  const kernel = self.widget_manager.kernel;
  kernel?.statusChanged.connect(tell);
  return () => { kernel?.statusChanged.disconnect(tell); said.remove(); };
}

export default () => {
  let loading;
  return {
    initialize({ model }) {
      hear(model);
      loading = load(model);
      loading.catch(() => { globalThis.avmixupPlotly = undefined; });
    },
    async render({ model, el }) {
      try {
        const remove = (await loading).render({ model, el });
        watchNames();
        // drawn before it had a place in the page, or hidden while the window changed, it has
        // another width than its place: fit it whenever that has one
        let unwatch, width;
        const placed = new ResizeObserver(() => {
          if (!el.clientWidth || el.clientWidth === width) return;
          width = el.clientWidth;
          window.dispatchEvent(new Event("resize"));
          unwatch ??= watch(model, el);
        });
        placed.observe(el);
        return async () => { placed.disconnect(); remove?.(); (await unwatch)?.(); };
      } catch (error) {
        el.textContent = `This figure could not be shown: ${error}`;
      }
    },
  };
};
"""
)


GONE = "The kernel has ended or was started anew: run this cell again, or nothing here moves."


class _Library(anywidget.AnyWidget):
    """plotly's code for figures, once per kernel."""

    _esm = "export default {}"
    code = traitlets.Unicode().tag(sync=True)


class Names(anywidget.AnyWidget):
    """Nothing to see: it keeps a page's controls named, and plotly's buttons out of Tab's way."""

    _esm = _NAMES + "export default { initialize: watchNames };"


_libraries: list[_Library] = []


def library() -> _Library:
    """Return the one library, a new one if the widgets were all closed."""
    if not _libraries or _libraries[-1].comm is None:
        bundle = Path(plotly.__file__).parent / "package_data" / "widgetbundle.js"
        _libraries.append(_Library(code=bundle.read_text(encoding="utf-8")))
    return _libraries[-1]


class LiveFigure(go.FigureWidget):
    """A FigureWidget that shows itself whole whenever a browser gets to it.

    plotly tells the browser that the widget exists before it has put the data in, and a browser
    that takes its time then shows empty axes for ever; so here the browser is told last. And
    plotly never tells a view opened later of what changed since: `remember` does.

    Args:
        figure: what it shows.
        gone: what the page says once the kernel has ended.
    """

    _esm = _MODULE
    _library_id = traitlets.Unicode().tag(sync=True)
    _own_id = traitlets.Unicode().tag(sync=True)
    _gone = traitlets.Unicode().tag(sync=True)
    _whole = False

    def __init__(self, figure: go.Figure, gone: str = GONE):
        super().__init__(figure)
        self._gone = gone
        self._library_id = library().model_id
        # plotly's buttons would lie over the titles; drawing a box zooms, a double click goes back
        self._config = {"responsive": True, "displayModeBar": False, "showSendToCloud": False}
        self._model_id = self._own_id = uuid4().hex
        self._whole = True
        self.open()

    def open(self) -> None:
        """Tell the browser of the widget, once it is whole."""
        if self._whole:
            super().open()

    def remember(self) -> None:
        """Have views opened from now on, in this page or after a reload, begin as it stands."""
        self._widget_layout = deepcopy(self._layout_obj._props)
        self._widget_data = deepcopy(self._data)
