"""A network to hand on: weights as safetensors, a card in RobustBench's fields, a loader.

Nothing of it needs this kit, and nothing in it is code but the loader, which anyone can read.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from avmixup_kit._base import check
from avmixup_kit._base.files import make_folder, write_atomic

CARD = {
    "name": "",
    "authors": "",
    "link": "",
    "venue": "Unpublished",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "",
    "architecture": "",
    "eps": "",
    "clean_acc": "",
    "reported": "",
    "autoattack_acc": "",
    "footnote": "",
}
"""RobustBench's fields, and what stands in them where a card is silent; accuracies in per cent."""

LOADER = '''\
"""Weights of a safetensors file, with torch alone: network.load_state_dict(load(path))."""
import json
import torch

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}

def load(path):
    raw = bytearray(open(path, "rb").read())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = {k: v for k, v in json.loads(raw[8:start]).items() if k != "__metadata__"}
    return {name: torch.frombuffer(raw[start + v["data_offsets"][0]:start + v["data_offsets"][1]],
            dtype=TYPES[v["dtype"]]).reshape(v["shape"]) for name, v in header.items()}
'''


def export(
    model: nn.Module, card: Mapping[str, object], path: str | Path, *, half: bool = False
) -> Path:
    """Write ``path``.safetensors, ``path``.json and a loader beside them; return the first.

    The card holds RobustBench's fields (``CARD``), ``architecture`` filled in for a network that
    knows its own, the weights' SHA-256, and whatever else ``card`` has.

    Args:
        model: any network; its parameters and buffers are written.
        card: what is known of it, such as ``{"name": "PGD", "dataset": "cifar10", "eps": "8/255",
            "clean_acc": "59.5", "autoattack_acc": "31.6"}``; values that JSON can hold.
        path: without an ending, or with ``.safetensors``; its folder is made.
        half: floating-point weights in half precision: half the size, a few verdicts may turn.

    Raises:
        ValueError: a card that JSON cannot hold, an accuracy outside 0 to 100.
        OSError: a file could not be written.
    """
    from safetensors.torch import save

    known = getattr(model, "architecture", None) or type(model).__name__
    about = CARD | dict(card)
    about["architecture"] = about["architecture"] or known
    for field in ("clean_acc", "reported", "autoattack_acc"):
        _check_accuracy(field, about[field])
    weights = {}
    for name, value in model.state_dict().items():
        narrow = torch.float16 if half and value.is_floating_point() else value.dtype
        # a copy of its own: safetensors refuses tensors that share memory
        weights[name] = value.detach().to("cpu", narrow, copy=True).contiguous()
    content = save(weights)
    about["sha256"] = hashlib.sha256(content).hexdigest()
    try:
        text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"card is not allowed: JSON cannot hold it ({error})") from error
    stem = Path(path).with_suffix("") if Path(path).suffix == ".safetensors" else Path(path)
    make_folder(stem.parent)
    target = stem.with_name(f"{stem.name}.safetensors")
    write_atomic(target, content)
    write_atomic(stem.with_name(f"{stem.name}.json"), (text + "\n").encode())
    write_atomic(stem.with_name("load_safetensors.py"), LOADER.encode())
    return target


def _check_accuracy(field: str, value: object) -> None:
    if value == "":
        return
    try:
        fine = 0.0 <= float(str(value)) <= 100.0
    except ValueError:
        fine = False
    check.that(fine, field, value, "per cent, 0 to 100, such as '59.5'")
