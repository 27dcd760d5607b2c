"""A plotly FigureWidget that does not come up blank."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go


class LiveFigure(go.FigureWidget):
    """A FigureWidget whose whole state is in the message that announces it to the page.

    plotly announces an empty figure and sends its traces right after. While a page still loads
    plotly's script, seconds on a busy machine, JupyterLab drops such messages, and the figure stays
    blank for good.

    Args:
        figure: what to show.
        drawn: called, on another thread perhaps, each time a page has drawn the figure: only what
            is sent from then on is sure to arrive.
    """

    def __init__(self, figure: go.Figure, drawn: Callable[[], object] = lambda: None) -> None:
        self._whole, self._views, self._drawn = False, 0, drawn
        super().__init__(figure)
        self.observe(self._answered, "_js2py_traceDeltas")
        self._whole = True
        super().open()

    def open(self) -> None:
        """Announce the figure, once it is whole."""
        if self._whole:
            super().open()

    def close(self) -> None:
        """Take the figure off its page."""
        # anywidget never lets go of a widget it made, so the widget must let go of others.
        self._drawn = lambda: None
        super().close()

    def _answered(self, change: Any) -> None:
        # The page's first word after drawing; later ones answer changes made from here.
        views = self._view_count or 0
        if change.new and views > self._views:
            self._drawn()
        self._views = views
