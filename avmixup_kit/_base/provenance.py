"""Where a result was made, without saying by whom."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch

from avmixup_kit._base.private import cpu_multiplies_bf16


def provenance() -> dict[str, Any]:
    """Return where a result was made: commit, whether the tree was dirty, versions, machine.

    Of the machine only what computes: no names of users, hosts or folders.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Results that are being written do not change what computes them.
    status = git(
        "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"
    )
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": numpy.__version__,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability()
        + " with bf16" * cpu_multiplies_bf16(),
        "threads": torch.get_num_threads(),
    }


def without_home(path: str | os.PathLike[str]) -> str:
    """Return a path as it is written into files: one in the home folder, user's name and all, as ~.

    ``os.path.expanduser`` leads there again, for whoever has the files in a home of their own.
    """
    text, home = os.fspath(path), os.path.expanduser("~").rstrip(os.sep)
    return f"~{text[len(home) :]}" if home and text.startswith(home + os.sep) else text


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
