"""Network weights and training state: read without ever running code from the file, written atomically."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from pixaff.errors import CheckpointError
from pixaff.io.atomic import atomic_path

_AGAIN = "copy or download it again"
_HALF_MAX = torch.finfo(torch.float16).max


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a network's tensors by name from a `.safetensors` or `.pth` file, told apart by content.

    A `.pth` may hold them inside `{"state_dict": ...}` and with names prefixed by `module.` (`DataParallel`). It is
    read as weights only: a pickle that asks for anything but tensors and plain values is refused and runs nothing.

    Returns:
        Tensors on the CPU.

    Raises:
        CheckpointError: Missing, empty, truncated, a web page, or anything but tensors by name.
    """
    path = Path(path)
    if _is_safetensors(path):
        return _read_safetensors(path)
    content = _load_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: found {_described(content)}, expected tensors by name (a state dict)")
    wrong = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong:
        raise CheckpointError(
            f"{path}: found entries that are no tensors: {', '.join(wrong[:5])}; expected a state dict",
            'save model.state_dict(), or put it under "state_dict"',
        )
    prefixed = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if prefixed else name: value for name, value in content.items()}


def write_state_dict(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network's tensors as safetensors, atomically.

    Args:
        path: The file; parent folders are made.
        state: Tensors by name.
        half: Store weights in float16. Vectors (biases, batch norm statistics: small, and sensitive) and tensors
            beyond float16's range keep their type.
        metadata: Strings to put into the header, see `read_metadata`.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {}
    for name, value in state.items():
        value = value.detach().to("cpu")
        if half and value.is_floating_point() and value.ndim > 1 and value.numel() and value.abs().max() <= _HALF_MAX:
            value = value.half()
        tensors[name] = value.clone(memory_format=torch.contiguous_format)  # safetensors refuses shared memory
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors_bytes(tensors, metadata=dict(metadata or {})))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings in a safetensors header; empty for a `.pth`, which has none.

    Raises:
        CheckpointError: Missing, empty or truncated.
    """
    path = Path(path)
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}", _AGAIN) from None


def save_training(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write the state of a training run, atomically; `load_training` gives it back.

    Args:
        path: The file; parent folders are made.
        state: Tensors, numbers, strings, None, and lists, tuples and dicts of them. Random generators: torch's
            `get_rng_state()`, numpy's `bit_generator.state` and Python's `getstate()` all qualify.

    Raises:
        ValueError: Names an entry of another type, which could not be read back.
        OutputError: The file cannot be written.
    """
    _check_plain(state, "state")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(dict(state), file)


def load_training(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_training` wrote; tensors on the CPU. Runs no code from the file.

    Raises:
        CheckpointError: Missing, empty, truncated, or not such a file.
    """
    path = Path(path)
    content = _load_pickle(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {_described(content)}, expected the state of a training run")
    return content


def _head(path: Path) -> bytes:
    """The first 512 bytes, having refused what can be told from them."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: empty file, expected network weights", _AGAIN)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise CheckpointError(
            f"{path}: found a web page (HTML or XML), expected network weights",
            "the download was refused or needs a confirmation: open the link in a browser",
        )
    return head


def _is_safetensors(path: Path) -> bool:
    head = _head(path)
    # Eight bytes with the header's length, then the header, a JSON object.
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}", _AGAIN) from None
    if not tensors:
        raise CheckpointError(f"{path}: found no tensor, expected network weights")
    return dict(tensors)


def _load_pickle(path: Path) -> Any:
    _head(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks about old pickles
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        found = f"asks for {asked[1].rstrip('.,')}" if asked else "no valid weights file"
        raise CheckpointError(
            f"{path}: {found}, expected tensors and plain values only; nothing in it was run",
            "distrust it, or save its state_dict() anew where it comes from",
        ) from None
    except MemoryError:
        raise CheckpointError(f"{path}: not enough memory to read it") from None
    # The readers of torch's formats raise RuntimeError, EOFError, KeyError, struct.error, ... on damaged files.
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        words = f": {reason}" if " " in reason else ""  # a bare key or number says nothing
        raise CheckpointError(f"{path}: damaged or no weights file{words}", _AGAIN) from None


def _check_plain(value: Any, where: str) -> None:
    kind = type(value)  # exact: a numpy float is a float too, but pickles as an object
    if kind in (int, float, bool, str, bytes, type(None)) or isinstance(value, Tensor):
        return
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    else:
        raise ValueError(f"{where}: found {kind.__name__}, expected tensors, numbers, strings, lists and dicts")


def _described(content: Any) -> str:
    return "nothing" if isinstance(content, Mapping) and not content else f"a {type(content).__name__}"
