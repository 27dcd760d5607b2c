"""What Sphinx is told beyond its settings: how notebooks, proofs and public names become pages."""

import ast
import base64
import hashlib
import html
import importlib
import importlib.util
import inspect
import json
import multiprocessing
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import explorers
import plotly
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

_PLOTLY = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_FOLDED = 6  # lines of code beside a figure that a reader need not see first
_MATHJAX = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions")
_POLICY = (
    "default-src 'none'; script-src 'self' {}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'"
)


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("explorer", _Explorer)
    app.add_directive("public", _Public)
    app.connect("builder-inited", _compute)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _readable)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Explorers


def placed(name: str, start: str = "") -> str:
    """Return the place in a page where an explorer appears; `start` as in a link's hash."""
    title = explorers.EXPLORERS[name].title
    return (
        f'<div class="explorer" data-explorer="{name}" data-start="{html.escape(start)}" '
        f'role="group" aria-label="{title}"><p class="waiting">{title} needs JavaScript.</p></div>'
    )


class _Explorer(SphinxDirective):
    """An explorer, and under it settings to try: a line each, words | controls as in a link."""

    required_arguments = 1
    option_spec: ClassVar = {"start": directives.unchanged}
    has_content = True

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        body = placed(name, self.options.get("start", ""))
        tries = []
        for line in self.content:
            words, _, state = line.partition(" | ")
            href = html.escape(f"#explorer={name}&{state.strip()}")
            tries.append(f'<li><a href="{href}">{html.escape(words)}</a></li>')
        if tries:
            body += f'<ul class="tries" aria-label="settings to try">{"".join(tries)}</ul>'
        return [nodes.raw("", body, format="html")]


def _compute(app: Any) -> None:
    """Begin to compute the explorers, beside Sphinx's work; once for each state of the theory."""
    if app.builder.format != "html":
        return
    sources = [Path(explorers.__file__)]
    for room in ("gaussian", "live", "_base"):
        sources += sorted((Path(app.srcdir) / "avmixup_kit" / room).rglob("*.py"))
    state = hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()[:16]
    app.computed = Path(app.doctreedir) / f"explorers-{state}"
    app.computed.mkdir(parents=True, exist_ok=True)
    app.pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    app.awaited = [
        app.pool.submit(explorers.write, name, app.computed)
        for name in explorers.EXPLORERS
        if not (app.computed / f"{name}.js").exists()
    ]


# Notebooks and proofs


def _read(app: Any, name: str, source: list[str]) -> None:
    if name.startswith("notebooks/"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                _show(cell, "".join(cell["source"]))
        source[0] = json.dumps(notebook)
        return
    # a folder has no page
    here = Path(app.srcdir) / Path(name).parent
    source[0] = re.sub(
        r"\[([^][]+)\]\(([^()#\s:]+)\)",
        lambda link: f"{link[1]} (`{link[2]}`)" if (here / link[2]).is_dir() else link[0],
        source[0],
    )
    if name.startswith("results/") and not source[0].startswith("# "):
        source[0] = f"# {Path(name).parent}\n\n{source[0]}"
    if name.startswith("theory/") and name != "theory/README":
        readme = (Path(app.srcdir) / "theory" / "README.md").read_text(encoding="utf-8")
        source[0] += leads_to(readme, Path(name).name + ".md")


def _show(cell: dict[str, Any], source: str) -> None:
    """Put what a browser shows without a kernel in place of a code cell's live outputs."""
    folded = "remove-input" if "live.predict(" in source else ""  # it has the answer in it
    for output in cell["outputs"]:
        data = output.get("data", {})
        if _PLOTLY in data:
            figure = {key: data[_PLOTLY][key] for key in ("data", "layout")}
            text = json.dumps(figure, separators=(",", ":")).replace("<", "\\u003c")
            height = figure["layout"].get("height", 420)
            title = figure["layout"].get("title", {}).get("text") or "figure"
            output["data"] = {
                "text/html": f'<div class="plot" style="height:{height:g}px" role="img" '
                f'aria-label="{html.escape(re.sub("<[^>]*>", "", title))}">'
                f'<script type="application/json">{text}</script></div>'
            }
            folded = folded or "hide-input"
        elif _WIDGET in data:
            output["data"] = {"text/html": _instead(data, source)}
    if folded == "remove-input" or (folded and source.count("\n") >= _FOLDED):
        cell["metadata"].setdefault("tags", []).append(folded)


def _instead(data: dict[str, Any], source: str) -> str:
    """Return what stands for a widget: a question to open, a playable picture, or a fixed one."""
    text = "".join(data["text/plain"]).removeprefix("avmixup_kit.live.").partition(":")[0]
    name, _, given = text.rstrip(")").partition("(")
    if name == "predict":
        (call,) = (
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == name
        )
        asked, offered, right, told = call.args
        question, options, why = map(ast.literal_eval, (asked, offered, told))
        answer = "The notebook computes it"
        with suppress(ValueError):
            answer = ast.literal_eval(right)
        listed = "".join(f"<li>{html.escape(one)}</li>" for one in options)
        return (
            f'<div class="question"><p><b>{html.escape(question)}</b></p><ul>{listed}</ul><details>'
            f"<summary>Guess, then open</summary>{html.escape(answer)}. {html.escape(why)}"
            "</details></div>"
        )
    picture, what = "", f"has the sliders of live.{name}"
    if name == "check":
        what = "checks your answer"
    if name in explorers.EXPLORERS:
        call: Any = ast.parse(f"dict({given})", mode="eval").body
        values = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
        start = explorers.opened(name, values)
        assert start is not None, f"live.{text} opens where the site's explorer has no stop"
        picture, what = placed(name, start), "has more sliders"
    elif "image/png" in data:
        shown = "data:image/png;base64," + "".join(data["image/png"].split())
        picture = f'<img class="dark-light" alt="live.{name} as it opens" src="{shown}">'
    words = f"In JupyterLab (<code>make lab</code>) this cell {what}."
    return f'{picture}<p class="elsewhere">{words}</p>'


def leads_to(readme: str, proof: str) -> str:
    """Return the verdicts of theory/README.md that cite a proof, and the API, as a last section."""
    head, _, body = readme.partition("|---")
    header = head[head.rindex("\n| ") + 1 :]
    rows = [line for line in body.splitlines() if f"]({proof})" in line]
    assert rows, f"theory/README.md has no verdict for {proof}"
    links = "[the kit's formulas](../docs/api/gaussian.md) and [all verdicts](README.md#verdicts)"
    table = "\n".join([header.strip(), "|---" * header.count(" | ") + "|---|", *rows])
    return f"\n\n## Verdict, program, notebook\n\n{table}\n\nSee also {links}.\n"


# The API


class _Public(SphinxDirective):
    """Everything public in a module, documented from its docstrings."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (where,) = self.arguments
        module = importlib.import_module(where)
        lines: list[str] = []
        for name in public(module):
            thing = getattr(module, name)
            if (
                where.count(".")
                and getattr(importlib.import_module("avmixup_kit"), name, 0) is thing
            ):
                lines += [f".. py:data:: {where}.{name}", "   :no-index:", ""]
                lines += [f"   The same as :py:obj:`avmixup_kit.{name}`.", ""]
                continue
            kind = "function"
            if inspect.isclass(thing):
                kind = "exception" if issubclass(thing, BaseException) else "class"
            elif not callable(thing):
                kind = "data"
            lines.append(f".. auto{kind}:: {where}.{name}")
            lines += ["   :members:"] * (kind == "class") + ["   :no-value:"] * (kind == "data")
            lines.append("")
        node = nodes.container()
        self.state.nested_parse(StringList(lines, where), self.content_offset, node)
        return node.children


def _readable(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Have |δ| and θ* read as they stand, not as markup; say of data what is in it."""
    if what == "data" and lines[:1] == (type(thing).__doc__ or "").splitlines()[:1]:
        listed = ", ".join(f"``{key}``" for key in thing) if isinstance(thing, Iterable) else ""
        lines[:] = [f"A {type(thing).__name__}" + (f" of {listed}." if listed else ".")]
    for number, line in enumerate(lines):
        parts = re.split("(``.*?``|`.*?`)", line)
        parts[::2] = [re.sub(r"(?<!\\)\||(?<=\w)\*(?=_)", r"\\\g<0>", one) for one in parts[::2]]
        lines[number] = "".join(parts)


def public(module: ModuleType) -> list[str]:
    """Return the public names of a module that are no modules, in alphabetical order."""
    listed = getattr(module, "__all__", None) or [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and callable(thing)
        and getattr(thing, "__module__", None) == module.__name__
    ]
    return sorted(
        (name for name in listed if not inspect.ismodule(getattr(module, name))), key=str.lower
    )


# What is beside the pages, and who may run there


def _finish(app: Any, failed: Exception | None) -> None:
    if app.builder.format != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    with app.pool:
        if failed:
            return
        for one in app.awaited:
            one.result()
    shutil.copytree(app.computed, static / "explorers", dirs_exist_ok=True)
    package = Path(plotly.__file__).parent / "package_data"
    shutil.copy(package / "plotly.min.js", static / "plotly.min.js")
    found = importlib.util.find_spec("sphinx-mathjax-offline")
    assert found is not None
    assert found.origin is not None
    for part in _MATHJAX:
        source, target = Path(found.origin).parent / "static" / "mathjax" / part, static / "mathjax"
        if source.is_dir():
            shutil.copytree(source, target / part, dirs_exist_ok=True)
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(source, target / part)
    (out / "index.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>avmixup_kit</title>'
        '<link rel="icon" href="_static/icon.svg">'
        '<meta http-equiv="refresh" content="0; url=docs/index.html"></head>'
        '<body><a href="docs/index.html">avmixup_kit</a></body></html>\n',
        encoding="utf-8",
    )
    # drawings for icons that the theme has as letters of a font, too
    for one in (static / "scripts").glob("fontawesome.js*"):
        one.unlink()
    options = (static / "documentation_options.js").read_text(encoding="utf-8")
    for page in out.rglob("*.html"):
        text = unblocked(page.read_text(encoding="utf-8"), options)
        # Sphinx writes a long signature as a list of definitions without what they define
        text = text.replace("<dl>\n<dd>", '<dl role="presentation">\n<dd>')
        page.write_text(guarded(text), encoding="utf-8")


def unblocked(page: str, options: str) -> str:
    """Return a page that waits for no script to be shown; `options` are Sphinx's, put into it."""
    page = re.sub(r"<script [^>]*/fontawesome\.js[^>]*></script>", "", page)
    page = re.sub(
        r'<script src="[^"]*documentation_options\.js[^>]*>', lambda _: f"<script>{options}", page
    )
    return page.replace("<script src=", "<script defer src=")


class _Scripts(HTMLParser):
    """Collects a page's inline scripts, which alone may run beside the site's own files."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        code = given.get("type", "text/javascript") in ("text/javascript", "module", "")
        self.inside = tag == "script" and "src" not in given and code
        if self.inside:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def guarded(page: str) -> str:
    """Return a page with a Content-Security-Policy: no script but the site's files and its own."""
    page = re.sub(r'\s*<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    # the theme's arrow has no name
    arrow = '<summary{}><span class="toctree'
    page = page.replace(arrow.format(""), arrow.format(' aria-label="pages below"'))
    scripts = _Scripts()
    scripts.feed(page)
    hashes = {
        "'sha256-" + base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() + "'"
        for one in scripts.found
    }
    policy = _POLICY.format(" ".join(sorted(hashes)))
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return re.sub(r"(<head[^>]*>)", lambda head: head[1] + meta, page, count=1)
