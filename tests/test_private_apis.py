"""Private parts of other libraries that the kit leans on: each must be what it was."""

import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from avmixup_kit._base import private

PACKAGE = Path(__file__).parents[1] / "avmixup_kit"

# Each part, and the one module it stands in.
HOMES = {
    r"\b_BatchNorm\b": "_base/private.py",
    r"aten\._standard_gamma": "_base/private.py",
    r"_is_avx512_bf16_supported|_is_amx_tile_supported": "_base/private.py",
    r"torch\._dynamo": "training/compiled.py",
    r"\._trial_id": "search/storage.py",
    r"\bp\._version\b": "live/lab/trainer.py",
    r"_handle_comm_msg": "live/figures.py",
    r"widgetbundle": "live/figures.py",
}


@pytest.mark.parametrize(("part", "home"), HOMES.items())
def test_each_private_part_stands_in_one_module(part, home):
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(part, re.sub(r'""".*?"""', "", path.read_text(), count=1, flags=re.DOTALL))
    }
    assert found == {home}


def test_every_batch_norm_has_the_private_base():
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        assert issubclass(kind, private.AnyBatchNorm)
    assert not isinstance(nn.GroupNorm(1, 1), private.AnyBatchNorm)


def test_gamma_draws_follow_the_generator_and_have_the_mean_of_gamma():
    shape = torch.full((20000,), 3.0, dtype=torch.float64)
    first, again = (
        private.standard_gamma(shape, torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert abs(first.mean() - 3) < 5 * 3**0.5 / 20000**0.5
    assert abs(first.var() - 3) < 0.3


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo to compare with")
def test_the_cpu_tells_whether_it_multiplies_bfloat16():
    flags = set(re.findall(r"\b(?:avx512_bf16|amx_tile)\b", Path("/proc/cpuinfo").read_text()))
    asked = {
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),  # pyright: ignore[reportPrivateUsage]
        "amx_tile": torch.cpu._is_amx_tile_supported(),  # pyright: ignore[reportPrivateUsage]
    }
    assert {name for name, there in asked.items() if there} == flags
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert private.cpu_multiplies_bf16() == (wide and bool(flags))


def test_dynamo_still_has_its_errors_and_its_limit():
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    assert issubclass(FailOnRecompileLimitHit, Exception)
    assert issubclass(TorchDynamoException, RuntimeError)
    assert isinstance(torch._dynamo.config.recompile_limit, int)  # pyright: ignore[reportPrivateUsage]


def test_a_threads_store_of_cuda_graphs_is_still_where_it_was():
    from torch._inductor import cudagraph_trees as trees

    names = "tree_manager_containers", "tree_manager_locks"
    assert all(hasattr(trees.local, name) for name in names), "of the thread that imports it"
    assert not torch._C._is_key_in_tls("no such key")  # pyright: ignore
    torch._C._stash_obj_in_tls("a key", names)  # pyright: ignore
    assert torch._C._get_obj_in_tls("a key") is names  # pyright: ignore


def test_a_tensors_version_counts_changes_in_place():
    tensor = torch.zeros(2)
    before = tensor._version
    tensor.add_(1)
    assert tensor._version == before + 1


def test_a_frozen_trial_carries_the_number_that_optuna_makes_a_trial_of():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.ask()
    frozen = study.get_trials()[0]
    trial = optuna.Trial(study, frozen._trial_id)
    assert trial.number == frozen.number == 0
    assert list(inspect.signature(optuna.Trial).parameters) == ["study", "trial_id"]


def test_plotlys_widget_still_has_its_bundle_and_ids():
    plotly = pytest.importorskip("plotly")
    bundle = Path(plotly.__file__).parent / "package_data" / "widgetbundle.js"
    assert "initialize" in bundle.read_text()


def test_widgets_in_the_browser_still_have_the_handler_that_figures_take_up():
    pytest.importorskip("ipywidgets")
    manager = Path("share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager/static")
    scripts = list((Path(sys.prefix) / manager).glob("*.js"))
    if not scripts:
        pytest.skip("ipywidgets' browser code is not installed in this environment")
    assert any("_handle_comm_msg(" in script.read_text() for script in scripts)
