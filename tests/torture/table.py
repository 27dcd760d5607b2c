"""The result of a torture: counts as JSON, a table for people, a row of results, all computed."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avmixup_kit._base.tables import markdown_table

OUTCOMES = ("survived", "refused", "failed")
ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULT = ROOT / "results" / "torture" / "result.json"


def counted(tries: Iterable[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Return the result: what was tried, how often, what came of it; and every failure's words."""
    rows: dict[str, dict[str, int]] = {}
    failures, skipped, told, seconds = [], {}, {}, 0.0
    for one in tries:
        seconds += one["seconds"]
        if one["outcome"] == "skipped":
            skipped[one["what"]] = one["words"]
            continue
        row = rows.setdefault(one["what"], {"tries": 0, **dict.fromkeys(OUTCOMES, 0)})
        for outcome, many in one.get("many", {one["outcome"]: 1}).items():
            row["tries"] += many
            row[outcome] += many
        if one["outcome"] == "failed":
            failures.append({key: one[key] for key in ("what", "number", "words")})
        if "told" in one:
            told[one["what"]] = one["told"]
    return about | {
        "minutes": round(seconds / 60, 1),
        "rows": dict(sorted(rows.items())),
        "told": told,
        "skipped": skipped,
        "failures": failures,
    }


def total(result: dict[str, Any]) -> dict[str, int]:
    """Return the sums of the columns."""
    rows = result["rows"].values()
    return {name: sum(row[name] for row in rows) for name in ("tries", *OUTCOMES)}


def markdown(result: dict[str, Any]) -> str:
    """Return the page about a result."""
    head = ["what was done to it", "tries", "survived", "refused in one line", "failed"]
    columns = ("tries", *OUTCOMES)
    rows = [[what, *(str(row[c]) for c in columns)] for what, row in result["rows"].items()]
    rows.append(["all of it", *(str(many) for many in total(result).values())])
    lines = [
        "# Torture",
        "",
        f"`python -m tests.torture --minutes {result['asked']:g} --seed {result['seed']}` "
        f"(`make torture`), {result['minutes']:g} minutes on {result['machine']}, commit "
        f"{str(result['commit'])[:12]}. Survived: it went on and ended bit for bit as one that was "
        "left alone, or was read as it had been written. Refused: one line said why, what stood "
        "there before was kept. Failed: anything else. Numbers in JSON, logs and SQLite carry no "
        "checksum: one that a flipped bit made another number is not seen.",
        "",
        markdown_table([head, *rows]),
    ]
    for title, found in (("Measured", result["told"]), ("Not tried", result["skipped"])):
        if found:
            lines += ["", f"{title}:", "", *(f"- {what}: {words}" for what, words in found.items())]
    if result["failures"]:
        lines += ["", "What failed:", ""]
        lines += [
            f"- {one['what']}, try {one['number']}: {one['words']}" for one in result["failures"]
        ]
    return "\n".join(lines) + "\n"


def row(result: dict[str, Any]) -> str:
    """Return the row about reliability among the results."""
    sums = total(result)
    return (
        f"| `make torture` | {sums['tries']} | {sums['survived']} | {sums['refused']} | "
        f"{sums['failed']} |"
    )


def save(result: dict[str, Any], folder: Path) -> None:
    """Write result.json and README.md; the project's own also into the page that has its row."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "README.md").write_text(markdown(result))
    if folder.resolve() == RESULT.parent:
        for page in PAGES:
            lines = page.read_text().splitlines(keepends=True)
            ours = row(result).split("|")[1]
            now = [row(result) + "\n" if line.startswith(f"|{ours}|") else line for line in lines]
            if now != lines:
                page.write_text("".join(now))
