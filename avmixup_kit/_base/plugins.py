"""Python files of one's own, run by name because the user said so."""

import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

LOADED: dict[str, Path] = {}  # in this process, in order


def load_plugins(paths: Iterable[Path]) -> None:
    """Load each, as ``load_plugin`` does."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: Path) -> None:
    """Run a Python file of one's own, which registers methods, attacks, networks or data sets.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another module has its name.
        ImportError: it failed; the message says how.
    """
    name = path.stem
    if not path.is_file():
        raise FileNotFoundError(f"--plugin {path}: there is no such file")
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path.resolve():
            return
        raise ValueError(f"--plugin {path}: a module called {name} is loaded; rename the file")
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        said = str(error).splitlines()[0] if str(error) else "no message"
        raise ImportError(f"--plugin {path}: {type(error).__name__}: {said}") from error
    LOADED[name] = path.resolve()


def find(home: str) -> Any:
    """Return what ``module:qualname`` names in a module that is imported; None where it is not."""
    module, _, qualname = home.partition(":")
    value: Any = sys.modules.get(module)
    for part in qualname.split("."):
        value = getattr(value, part, None)
    return value


def remedy(home: str) -> str:
    """Return what to do about a ``module:qualname`` that was not found."""
    module = home.partition(":")[0]
    return (
        f"import {module} first, or pass --plugin {module.rpartition('.')[2]}.py; code that a run "
        "folder names is never run"
    )
