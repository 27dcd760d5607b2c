"""One headless Chromium for each module of tests."""

import importlib.util

import pytest

from tests.browser.lab import FLAGS, chromium
from tests.conftest import skip


@pytest.fixture(scope="module")
def browser():
    for module in ("playwright", "jupyterlab", "ipywidgets", "anywidget"):
        if importlib.util.find_spec(module) is None:
            skip(f"{module} is not installed: pip install -e '.[test]'")
    path = chromium()
    if path is None:
        skip("no chromium on the path: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
