"""Seconds until a page of the site can be read, and until what plays on it can be moved.

    make site && python benchmarks/pages.py [--site build/site] [--rounds 5] [--output FILE]

Each page is opened in Chromium with an empty cache, served from this machine, in its own order
each round. It is read from its first contentful paint on, and usable once each explorer and figure
within a screen of what is seen has been drawn. Both count from the click.
"""

import argparse
import functools
import http.server
import json
import random
import shutil
import statistics
import threading
from pathlib import Path
from typing import Any

from avmixup_kit._base.provenance import provenance
from avmixup_kit._base.tables import text_table

PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
USABLE = """() => document.readyState !== "loading"
  && [...document.querySelectorAll(".explorer:not(.drawn), .plot:not(.drawn)")]
    .every((one) => one.getBoundingClientRect().top > innerHeight + 600)
  && performance.now()"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def opened(browser: Any, address: str) -> tuple[float, float]:
    """Seconds from the click to the first words, and until the page is usable."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(address, wait_until="commit")
    usable = page.wait_for_function(USABLE, polling=20).json_value()
    painted = page.wait_for_function(PAINTED, polling=20).json_value()
    context.close()
    return painted / 1000, usable / 1000


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, default=Path("build/site"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    site, chance = options.site.resolve(), random.Random(0)
    pages = sorted(
        str(path.relative_to(site))
        for part in ("docs", "notebooks", "theory")
        for path in (site / part).rglob("*.html")
    )
    found: dict[str, list[tuple[float, float]]] = {page: [] for page in pages}
    handler = functools.partial(Quiet, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        address = f"http://127.0.0.1:{server.server_port}/"
        opened(browser, address + pages[0])
        for _ in range(options.rounds):
            chance.shuffle(pages)
            for page in pages:
                found[page].append(opened(browser, address + page))
        browser.close()
        server.shutdown()
    seconds = {
        page: [statistics.median(one) for one in zip(*times, strict=True)]
        for page, times in found.items()
    }
    table = [("page", "read", "usable")]
    for page, (read, usable) in sorted(seconds.items(), key=lambda one: -one[1][1]):
        table.append((page, f"{read:.2f} s", f"{usable:.2f} s"))
    print(text_table(table))
    if options.output:
        content = {"rounds": options.rounds, "provenance": provenance(), "seconds": seconds}
        options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
