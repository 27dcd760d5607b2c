"""Pages and pictures as HTML that needs nothing but itself."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    import plotly.graph_objects as go

from avmixup_kit._base.plots import graph_objects


def png(image: Tensor) -> bytes:
    """Return an image (C, H, W) in [0, 1], C 1 or 3, as PNG."""
    from PIL import Image

    array = image.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = array.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image_tag(image: Tensor, alt: str, size: int = 72) -> str:
    """Return an <img> with the image (C, H, W) inside it, ``size`` CSS pixels wide, unsmoothed."""
    data = base64.b64encode(png(image)).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" '
        f'width="{size}" height="{size}" style="image-rendering:pixelated">'
    )


def strip(rows: Mapping[str, tuple[Iterable[Tensor], Sequence[str]]], size: int = 72) -> str:
    """Return a table of pictures with words below them, a heading and a row for each entry.

    Images are (C, H, W) in [0, 1]; headings and captions are text, not HTML. It brings its look
    along, for a widget has no style sheet.
    """
    lines, look = [], "text-align:center;padding:.25rem .5rem;line-height:1.2"
    for heading, (images, captions) in rows.items():
        cells = "".join(
            f'<td style="{look}">{image_tag(image, f"{heading}: {caption}", size)}'
            f"<br>{escape(caption)}</td>"
            for image, caption in zip(images, captions, strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(heading)}</th>{cells}</tr>')
    return f'<div style="overflow-x:auto"><table class="strip">{"".join(lines)}</table></div>'


def table(rows: Sequence[Sequence[str]], kind: Literal["numbers", "words"] = "numbers") -> str:
    """Return rows of text as a table, the first of them its head; words stand on the left."""
    head, *body = (tuple(escape(cell) for cell in row) for row in rows)
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    inside = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div style="overflow-x:auto"><table class="{kind}">{inside}</table></div>'


def page(title: str, sections: Sequence[tuple[str, "str | go.Figure"]]) -> str:
    """Return one self-contained HTML page: headings with HTML or plotly figures under them.

    Nothing is fetched; plotly's script is inside. Light and dark follow the reader's setting.
    """
    graph_objects()
    body, script = [], True
    for heading, content in sections:
        body.append(f"<h2>{escape(heading)}</h2>")
        if isinstance(content, str):
            body.append(content)
        else:
            body.append(
                content.to_html(
                    full_html=False,
                    include_plotlyjs=script,
                    config={"displaylogo": False, "responsive": True},
                )
            )
            script = False
    return _PAGE.format(title=escape(title), body="\n".join(body))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
         padding: 0 1rem; }}
  table {{ border-collapse: collapse; }}
  td, th {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884;
           white-space: nowrap; font-size: 15px; }}
  td:first-child, th:first-child, .words td, .words th {{ text-align: left; }}
  small {{ color: #808080; }}
  .strip td {{ font-size: 14px; border: 0; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""
