"""Static figures. Colours are Okabe and Ito's, safe for colour-blind readers; every curve also has
a dash of its own; transparent grounds and grey text read in light and dark themes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
# One colour for each training method, wherever it is drawn; their names are methods.METHODS'.
METHOD_COLOURS = {
    "standard": "#999999",
    "mixup": "#56B4E9",
    "pgd": "#0072B2",
    "fgsm_rs": "#88CCEE",
    "n_fgsm": "#332288",
    "label_smoothing": "#CC79A7",
    "avmixup": "#D55E00",
    "trades": "#009E73",
    "feature_scatter": "#E69F00",
    "feature_scatter_avmixup": "#999933",
    "mixture": "#882255",
    "adversarial_mixup": "#44AA99",
    "mart": "#117733",
    "hat": "#CC6677",
    "adr": "#DDCC77",
    "alp": "#661100",
    "lse": "#6699CC",
    "trades_lse": "#AA4499",
    "iat": "#888888",
    "temporal_ensembling": "#AA4466",
    "pgd_awp": "#4477AA",
    "trades_awp": "#228833",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY = "#808080"
SHARING = "sendcharttocloud"  # plotly's button that sends a figure away
GRID = "rgba(128,128,128,0.3)"


def label(name: str) -> str:
    """Return a name as plotly's texts show it as it is: in them, tags make links and entities."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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


def error_bars(values: Sequence[float], bounds: Sequence[tuple[float, float]]) -> dict[str, object]:
    """Return plotly's error bars from each value to its (low, high)."""
    return {
        "type": "data",
        "array": [high - value for value, (_, high) in zip(values, bounds, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, bounds, strict=True)],
        "color": GREY,
    }


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
        modebar_remove=[SHARING],
    )
    figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
    return figure
