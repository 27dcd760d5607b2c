"""What the tests of explorers and dashboard read off widgets whose types say less."""

from typing import Any

import plotly.graph_objects as go

from avmixup_kit.live.controls import Explorer, Number


def number(explorer: Explorer, name: str) -> Number:
    control = explorer.controls[name]
    assert isinstance(control, Number)
    return control


def traces(figure: go.Figure | go.FigureWidget) -> list[Any]:
    return list(figure.data)


def synced(figure: go.FigureWidget, name: str) -> Any:
    """What a view of the figure that is opened now finds under this name."""
    return figure.trait_values(sync=True)[name]
