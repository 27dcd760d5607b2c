"""Static figures. Colours are Okabe and Ito's, safe for colour-blind readers; every curve also has
a dash of its own; transparent grounds and grey text read in light and dark themes."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from avmixup_kit.evaluation import Evaluation

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY = "#808080"
GRID = "rgba(128,128,128,0.3)"


def graph_objects():
    """Return plotly's module of figures.

    Raises:
        ImportError: plotly is not installed; the message says how to get it.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError(
            "figures need plotly, which is not installed: pip install 'avmixup-kit[plots]'"
        ) from error
    return go


def styled(figure: "go.Figure", title: str, x: str, y: str) -> "go.Figure":
    """Return the figure with the kit's look: transparent ground, grey text, fine grid."""
    figure.update_layout(
        title=title,
        font={"color": GREY},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        xaxis_title=x,
        yaxis_title=y,
        template="none",
    )
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
    return figure


def accuracy_curves(
    runs: Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]], names: Sequence[str]
) -> "go.Figure":
    """Return accuracy against training steps, as in Figure 2: a colour per run, a dash per curve.

    Args:
        runs: of each run's name, its curves by name as (steps, fractions), as ``runs.curves_of``.
        names: which curves to draw.
    """
    go = graph_objects()
    figure = go.Figure()
    for colour, (run, curves) in zip(_cycle(COLOURS), runs.items(), strict=False):
        for dash, name in zip(_cycle(DASHES), names, strict=False):
            steps, values = curves[name]
            figure.add_scatter(
                x=np.asarray(steps),
                y=100 * np.asarray(values),
                name=f"{run}, {name}",
                mode="lines",
                line={"color": colour, "dash": dash},
            )
    figure.update_layout(hovermode="x unified")
    return styled(figure, "Accuracy while training", "optimiser step", "accuracy (%)")


def accuracy_bars(evaluations: Mapping[str, Evaluation]) -> "go.Figure":
    """Return the accuracy of each model under each attack, with 95 % intervals."""
    go = graph_objects()
    figure = go.Figure()
    for colour, (model, evaluation) in zip(_cycle(COLOURS), evaluations.items(), strict=False):
        values = np.array([evaluation.accuracy(name) for name in evaluation.names])
        bounds = np.array([evaluation.interval(name) for name in evaluation.names])
        figure.add_bar(
            x=list(evaluation.names),
            y=100 * values,
            name=model,
            marker_color=colour,
            error_y={
                "type": "data",
                "array": 100 * (bounds[:, 1] - values),
                "arrayminus": 100 * (values - bounds[:, 0]),
                "color": GREY,
            },
        )
    return styled(figure, "Accuracy on test images, 95 % intervals", "attack", "accuracy (%)")


def _cycle(values: Sequence[str]) -> list[str]:
    return list(values) * 20


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
        f'<img src="data:image/png;base64,{data}" alt="{alt}" width="{size}" height="{size}" '
        'style="image-rendering:pixelated">'
    )


def page(title: str, sections: Sequence[tuple[str, "str | go.Figure"]]) -> str:
    """Return one self-contained HTML page: headings with HTML or plotly figures under them.

    Nothing is fetched; plotly's script is inside. Light and dark follow the reader's setting.
    """
    from html import escape

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
  td:first-child, th:first-child {{ text-align: left; }}
  small {{ color: #808080; }}
  .strip td {{ text-align: center; font-size: 14px; border: 0; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""
