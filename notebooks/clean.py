"""What git takes of a notebook that was only run: each cell as it is stored where both agree.

Running a notebook gives widgets new names, figures no PNG, numbers other last digits; JupyterLab
writes 1.0 as 1. A filter of git, set by `make lab`, sends notebooks through here: notebook on
stdin, its path the argument. A cell with the source that git's index has, and with outputs that
agree with those there (`agreement`), comes out as it is there; every other comes out as it is.
Whatever goes wrong, the notebook comes out as it came in.

git asks no filter about a file of another size, so that `git status` names the notebook until
`git add` has looked at it. JupyterLab has that done after each save, where nothing has changed.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from typing import Any

VOLATILE = {"collapsed", "execution", "scrolled"}
KERNEL = {"kernelspec", "language_info", "widgets"}
DIFFERS = {"metadata", "traceback", "execution_count", "transient"}
PICTURES = {"image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json"}
IGNORED = re.compile("nbval[-_](ignore[-_]output|skip)", re.IGNORECASE)

Json = dict[str, Any]


def cleaned(fresh: bytes, stored: bytes) -> bytes:
    """Return the notebook ``fresh`` with every cell that agrees as ``stored`` has it."""
    new, old = json.loads(fresh), json.loads(stored)
    before = {cell["id"]: cell for cell in old["cells"]}
    new["cells"] = [_cell(cell, before.get(cell["id"])) for cell in new["cells"]]
    own = {key: value for key, value in new["metadata"].items() if key not in KERNEL}
    theirs = {key: value for key, value in old["metadata"].items() if key in KERNEL}
    new["metadata"], new["nbformat_minor"] = theirs | own, old["nbformat_minor"]
    if new == old:
        return stored
    return (json.dumps(new, ensure_ascii=False, indent=1) + "\n").encode()


def _cell(new: Json, old: Json | None) -> Json:
    metadata = {key: value for key, value in new["metadata"].items() if key not in VOLATILE}
    new = new | {"metadata": metadata}
    if old is None or _text(new["source"]) != _text(old["source"]):
        return new
    new["source"] = old["source"]
    if new["cell_type"] == old["cell_type"] == "code" and _agree(new, old):
        new |= {key: old[key] for key in ("outputs", "execution_count")}
    return old if new == old else new


def _agree(new: Json, old: Json) -> bool:
    if IGNORED.search(json.dumps([old["source"], old["metadata"]])):
        return True
    fresh, stored = (list(map(_shown, _joined(cell["outputs"]))) for cell in (new, old))
    fresh = _as_stored(fresh, stored)
    if fresh == stored:
        return True
    if len(fresh) != len(stored):
        return False
    from agreement import agree, declared  # numpy, which takes longer than all the rest

    tolerance = declared(old["metadata"])
    return all(agree(a, b, tolerance) == b for a, b in zip(fresh, stored, strict=True))


def _shown(output: Json) -> Json:
    """Return what the comparison looks at."""
    kept = {key: _text(value) for key, value in output.items() if key not in DIFFERS}
    if "data" in kept:
        data = kept["data"].items()
        kept["data"] = {kind: _text(value) for kind, value in data if kind not in PICTURES}
    return kept


def _text(value: Any) -> Any:
    """Return text that files of notebooks hold as a list of lines as one."""
    lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "".join(value) if lines else value


def _joined(outputs: list[Json]) -> list[Json]:
    """Return outputs with what was printed piece by piece in one."""
    result: list[Json] = []
    for output in outputs:
        if result and "name" in output and output["name"] == result[-1].get("name"):
            result[-1] = result[-1] | {"text": _text(result[-1]["text"]) + _text(output["text"])}
        else:
            result.append(output)
    return result


def _as_stored(new: Any, old: Any) -> Any:
    """Return ``new`` with its whole numbers as ``old`` writes them, 1 or 1.0."""
    if isinstance(new, dict) and isinstance(old, dict):
        return {key: _as_stored(value, old.get(key)) for key, value in new.items()}
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [_as_stored(a, b) for a, b in zip(new, old, strict=True)]
    if type(new) is int and type(old) is float:
        return float(new)
    return int(new) if type(new) is float and type(old) is int and new.is_integer() else new


def saved(model: Json, os_path: str, **_: Any) -> None:
    """Have git look at a notebook just saved, for JupyterLab's `post_save_hook`.

    Nothing is staged: what the filter leaves of the file is what the index has.
    """
    if model["type"] == "notebook":
        here, name = os.path.split(os_path)
        git = ["git", "-C", here]
        with contextlib.suppress(OSError):
            same = subprocess.run([*git, "diff", "--quiet", "--", name], capture_output=True)
            if same.returncode == 0:
                subprocess.run([*git, "add", "--update", "--", name], capture_output=True)


def main() -> None:
    fresh = sys.stdin.buffer.read()
    try:
        index = ["git", "cat-file", "blob", f":{sys.argv[1]}"]
        result = cleaned(fresh, subprocess.run(index, capture_output=True, check=True).stdout)
    except Exception:  # new to git, not a notebook, whatever: nothing may be lost
        result = fresh
    sys.stdout.buffer.write(result)


if __name__ == "__main__":
    main()
