"""A training's state in a file, or in pieces of one; whole or not at all."""

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from avmixup_kit._base import check, files


def save_checkpoint(
    path: str | Path, state: dict[str, Any], *, piece_mib: int | None = None
) -> None:
    """Write a training's state, or any tree of tensors and plain values, whole or not at all.

    Args:
        piece_mib: keep every file below so many MiB: the content goes into pieces beside ``path``,
            which becomes their list. None writes one file.

    Raises:
        ValueError: piece_mib < 1.
        OSError: it could not be written; what stood there before is kept.
    """
    path = Path(path)
    check_piece_mib(piece_mib)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content, names = buffer.getvalue(), []
    if piece_mib is not None:
        size = piece_mib * 2**20 - 1
        # Named after their content: the pieces of the checkpoint before are not touched.
        mark = hashlib.sha256(content).hexdigest()[:8]
        pieces = []
        for number, start in enumerate(range(0, len(content), size)):
            piece = content[start : start + size]
            names.append(f"{path.name}.{mark}.{number:03d}")
            files.write_atomic(path.with_name(names[-1]), piece)
            pieces.append({"name": names[-1], "sha256": hashlib.sha256(piece).hexdigest()})
        content = json.dumps({"pieces": pieces}, indent=1).encode()
    files.write_atomic(path, content)
    _drop_pieces(path, names)


def sweep(folder: Path) -> None:
    """Remove what a killed process left: checkpoints half written, pieces that no list names."""
    for part in folder.glob(".*.pt*.part"):
        part.unlink()
    for path in {p.with_name(f"{p.name.split('.pt.')[0]}.pt") for p in folder.glob("*.pt.*.*")}:
        names = []
        if path.exists() and (content := path.read_bytes()).startswith(b"{"):
            try:
                names = [piece["name"] for piece in json.loads(content)["pieces"]]
            except files.DAMAGE:
                continue  # who mends the list will want its pieces
        _drop_pieces(path, names)


def _drop_pieces(path: Path, but: list[str]) -> None:
    for old in path.parent.glob(f"{path.name}.*.*"):
        if old.name not in but and _is_piece(old.name.removeprefix(path.name)):
            old.unlink()


def content(architecture: str | None, state: dict[str, Any]) -> dict[str, Any]:
    """Return what a run folder's checkpoint holds: network, its weights, the training's state.

    The weights are those of the averaged copy where there is one; those trained are in the state.

    Raises:
        FloatingPointError: a weight is not finite.
    """
    for name, tensor in state["model"].items():
        if not bool(torch.isfinite(tensor).all()):
            raise FloatingPointError(f"{name} is no longer finite")
    average, inside = state.get("average") or {}, "module."
    averaged = {k.removeprefix(inside): v for k, v in average.items() if k.startswith(inside)}
    weights = averaged or state["model"]
    return {"architecture": architecture, "model": weights, "training": state}


def check_piece_mib(piece_mib: int | None) -> None:
    """Raise ValueError unless it is None or a size in MiB, 1 or more."""
    check.whole("piece_mib", piece_mib, what="MiB a file, a whole number", none=True)


def _is_piece(ending: str) -> bool:
    return re.fullmatch(r"\.[0-9a-f]{8}\.\d{3,}", ending) is not None


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return what ``save_checkpoint`` wrote, loaded with ``weights_only=True``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, altered or no checkpoint, or a piece of it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with files.blamed(path, "is truncated, altered or no checkpoint", Exception):
        content = path.read_bytes()
        if content.startswith(b"{"):
            content = _joined(path, json.loads(content)["pieces"])
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"checksum of {bad} does not match")
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def training_of(path: Path, saved: Any) -> dict[str, Any]:
    """Return the training's state of a run folder's checkpoint.

    Raises:
        ValueError: it has none.
    """
    state = saved.get("training") if isinstance(saved, dict) else None
    needed = {"step", "model", "optimiser", "generator", "settings", "data", "dial"}
    if not isinstance(state, dict) or not needed <= state.keys() or "architecture" not in saved:
        raise ValueError(f"{path} holds no training of a run folder")
    return state


def _joined(path: Path, pieces: list[dict[str, str]]) -> bytes:
    contents = []
    for about in pieces:
        piece = path.with_name(Path(about["name"]).name)
        if not piece.is_file():
            raise ValueError(f"its piece {piece.name} is missing")
        contents.append(piece.read_bytes())
        if hashlib.sha256(contents[-1]).hexdigest() != about["sha256"]:
            raise ValueError(f"its piece {piece.name} is torn or altered")
    return b"".join(contents)
