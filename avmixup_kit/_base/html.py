"""Pages and parts of pages, from templates that escape whatever is put into them.

A template (``*.html.j2``) stands beside the module that fills it; ``_base`` has what all share.
"""

import base64
import hashlib
import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from avmixup_kit._base.plots import graph_objects

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(__file__).parents[1]


def png(image: "Tensor") -> bytes:
    """Return an image (C, H, W) in [0, 1], C 1 or 3, as PNG."""
    from PIL import Image

    array = image.detach().cpu().clamp(0, 1).mul(255).round().byte()
    pixels = array.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def part(name: str, *given: Any, template: str = "_base/parts.html.j2", **named: Any) -> str:
    """Return what the macro ``name`` of a template makes of its arguments."""
    made = getattr(_templates().get_template(template).module, name)(*given, **named)
    return _readable(str(made).strip())


def markup(template: str, *given: object, **named: object) -> Markup:
    """Return a format string's markup filled with values that are escaped, quotes included.

    What is already ``Markup`` goes in as it is.
    """
    return Markup(template).format(*given, **named)


def page(template: str, title: str, **fields: Any) -> str:
    """Return one self-contained HTML page from a template that extends ``_base/page.html.j2``.

    Nothing is fetched, plotly's script is inside, and a Content-Security-Policy lets no script run
    but the page's two, known by their hashes. Light and dark follow the reader's setting.

    Args:
        template: its path below the package.
        title: the page's heading.
        fields: what the template needs; figures are plotly's.

    Raises:
        ImportError: plotly is not installed.
    """
    graph_objects()
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), (PACKAGE / "_base" / "page.js").read_text(encoding="utf-8")]
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    about = {"title": title, "scripts": scripts, "hashes": hashes, "contents": []}
    return _readable(_templates().get_template(template).render(about | fields))


def _readable(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of file names that are not UTF-8 as \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "base64_png": lambda image: base64.b64encode(png(image)).decode(),
        "figure_json": lambda figure: htmlsafe_json_dumps(figure, lambda given: given.to_json()),
        "pieces": lambda text: re.findall(r"\S{12}(?=\S)|.+?(?=\S{13})|.+", text, re.DOTALL),
        "plain": lambda text: Markup(text).unescape(),
        "percent": "{:.1%}".format,
        "short": "{:.4g}".format,
    }
    return templates
