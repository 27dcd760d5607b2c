"""Python files of one's own, run by name because the user said so."""

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType
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


def remedy(home: str) -> str:
    """Return what to do about a ``module:qualname`` that was not found."""
    module = home.partition(":")[0]
    return (
        f"import {module} first, or pass --plugin {module.rpartition('.')[2]}.py; code that a run "
        "folder names is never run"
    )


def home_of(value: Any) -> str | None:
    """Return the module:qualname under which a function or class is found again, or None.

    A script's own module is called by its file's name, under which others import it.
    """
    main = getattr(sys.modules["__main__"], "__file__", None)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "<")
    module = Path(main).stem if module == "__main__" and main else module
    return None if "<" in name or not module else f"{module}:{name}"


@cache
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def found(home: str, mine: Any = None) -> Any:
    """Return the function or class at ``module:qualname`` where that is imported already, or None.

    What a run folder names is looked up and never imported. Python's own library is not looked in,
    and of installed packages classes alone are found: their functions are not a file's to call.
    What the caller holds himself, ``mine``, is found wherever it has this name.
    """
    module, _, name = home.partition(":")
    top = module.split(".")[0]
    kinds = (type,) if top in _installed() else (type, FunctionType)
    for holder in (sys.modules.get(module), sys.modules["__main__"]):
        value: Any = holder
        for part in name.split("."):
            value = getattr(value, part, None)
        fine = isinstance(value, kinds) and top not in sys.stdlib_module_names
        fine = fine and home in (home_of(value), f"{value.__module__}:{value.__qualname__}")
        if fine or (mine is not None and value is mine):
            return value
    return None
