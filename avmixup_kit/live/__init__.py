"""Explorers and dashboards for notebooks: sliders, live figures. Import explicitly.

from avmixup_kit import live
"""

from importlib.util import find_spec

import lazy_loader

if missing := [name for name in ("ipywidgets", "anywidget", "plotly") if not find_spec(name)]:
    raise ImportError(
        f"explorers need {', '.join(missing)}: pip install 'avmixup-kit[notebooks]'",
        name=missing[0],
    )

# Each is loaded when it is first used, so that the theory's explorers never load torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
