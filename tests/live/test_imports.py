"""What the explorers load: the theory's work where there is no torch, and none at import."""

import json
import subprocess
import sys

import pytest
import torch

from avmixup_kit._base import html

WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, NoTorch())
"""


def said(code, *flags):
    """Return what the program prints, as JSON."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def loaded(imported):
    return set(said(f"import sys, json\n{imported}\nprint(json.dumps(list(sys.modules)))"))


def test_a_command_starts_without_the_libraries_that_few_commands_need():
    few = {"IPython", "ipywidgets", "optuna", "plotly"}
    few |= {"scipy.stats", "sklearn", "torch._dynamo", "torchvision"}
    assert few & loaded("import avmixup_kit.cli") == set()


def test_every_explorer_of_the_theory_draws_and_moves_without_torch():
    pytest.importorskip("ipywidgets")
    pytest.importorskip("anywidget")
    moved = said(
        WITHOUT_TORCH
        + """
import json
import avmixup_kit
from avmixup_kit import gaussian, live
from avmixup_kit.live.controls import Number
sliders = {"overfitting": "frame", "phase_map": "epsilon", "drawn_data": "frame",
           "lottery": "sigma", "soft_labels": "gamma", "theorem_1": "nu",
           "theorems_2_and_3": "rho"}
moved = {}
for name, slider in sliders.items():
    explorer = getattr(live, name)()
    before, note = explorer.figure.to_json(), explorer.note.value
    control = explorer.controls[slider]
    ends = control.slider.min, control.slider.max
    ends = [10**end for end in ends] if control.decades else ends
    control.slider.value = ends[0] if control.value > sum(ends) / 2 else ends[1]
    assert control.error.value == "", control.error.value
    moved[name] = before != explorer.figure.to_json() and note != explorer.note.value
    explorer.static()
live.chart("title", "x", "y")
assert float(avmixup_kit.gaussian.critical_epsilon(1, 2.0, 1.0)) > 0
assert not {"torch", "torchvision"} & set(sys.modules)
try:
    live.show
except ImportError as error:
    assert "is not here" in str(error)
else:
    raise AssertionError("torch could be imported")
print(json.dumps(moved))
"""
    )
    assert len(moved) == 7
    assert all(moved.values()), moved


def test_live_names_everything_it_has():
    pytest.importorskip("ipywidgets")
    pytest.importorskip("anywidget")
    from avmixup_kit import live

    assert {"show", "Dashboard", "close_all", "vertex", "chart", "lottery"} <= set(live.__all__)
    for name in live.__all__:
        assert callable(getattr(live, name)), name
    # functions, though modules have the same names
    import avmixup_kit.live.lab.vertex
    import avmixup_kit.live.theory.lottery

    assert live.lottery is avmixup_kit.live.theory.lottery.lottery
    assert live.vertex is avmixup_kit.live.lab.vertex.vertex


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget", "plotly"])
def test_a_missing_widget_library_says_how_to_get_it(missing):
    text = said(
        f"import sys, json\nsys.modules[{missing!r}] = None\n"
        "try:\n    from avmixup_kit import live\n"
        "except ImportError as error:\n    print(json.dumps(str(error)))"
    )
    assert text == f"explorers need {missing}: pip install 'avmixup-kit[notebooks]'"


def test_importing_the_kit_loads_next_to_nothing():
    """Counted in modules, for a clock would measure the machine."""
    kit = loaded("import avmixup_kit")
    heavy = {"torch", "torchvision", "scipy.stats", "plotly", "ipywidgets", "anywidget"}
    assert not heavy & kit
    assert len(kit) <= 1.5 * len(loaded("import numpy, scipy"))


def test_the_theory_alone_loads_no_torch():
    kit = loaded("import avmixup_kit.gaussian, avmixup_kit._base.plots")
    assert "scipy" in kit
    assert not {"torch", "torchvision", "plotly", "ipywidgets"} & kit


def test_a_picture_keeps_to_its_place_whatever_its_words():
    tag = html.part("strip", {"it": ([torch.zeros(1, 2, 2)], ['a "cat" <b> & dog'])})
    assert 'alt="it: a &#34;cat&#34; &lt;b&gt; &amp; dog"' in tag
