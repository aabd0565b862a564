"""Network weights and training state: read without ever running code from the file, written atomically."""

from __future__ import annotations

import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from pixaff.errors import CheckpointError, shortened
from pixaff.io.atomic import atomic_path, atomic_stream
from pixaff.io.heads import is_page, is_safetensors
from pixaff.io.pth import Other, read_pth
from pixaff.io.regular import check_regular
from pixaff.io.unpickle import LARGEST_KEY

WRAPPINGS = ("state_dict", "model", "model_state_dict")
"""Names under which a checkpoint keeps the state dict, beside its optimizer and the like."""

_AGAIN = "copy or download it again"
_HALF_MAX = torch.finfo(torch.float16).max
_MOST_PARTS, _DEEPEST = 500_000, 50  # of a training's state, which has some thousands in seven levels


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a network's tensors by name from a `.safetensors` or `.pth` file, told apart by content.

    A `.pth` may hold them inside ``{"state_dict": ...}`` or ``{"model": ...}`` and with names prefixed by `module.`
    (`DataParallel`). Nothing in it is run: a pickle that asks for anything but tensors and plain values is refused.

    Returns:
        Tensors on the CPU.

    Raises:
        CheckpointError: Missing, empty, damaged, a web page, or anything but tensors by name.
    """
    path = Path(path)
    if _is_safetensors(path):
        return _read_safetensors(path)
    content = _read_pth(path)
    for name in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: found {_described(content)}, expected tensors by name (a state dict)")
    wrong = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong:
        raise CheckpointError(
            f"{path}: found entries that are not tensors: {shortened(', '.join(wrong[:5]))}; expected a state dict",
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
    """Write a network's tensors as safetensors, atomically. Equal tensors and metadata give equal files.

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
    content = memoryview(safetensors_bytes(tensors, metadata=dict(metadata or {})))
    # safetensors puts the metadata in an order that chance decides.
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:begin]))
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text, content[begin:]):
            file.write(piece)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings in a safetensors header; empty for a `.pth`, which has none.

    Raises:
        CheckpointError: Missing, empty or damaged.
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
        state: Tensors, numbers, strings, None, and lists, tuples and dicts of them; keys are strings or numbers below
            2**32. Random generators: torch's `get_rng_state()`, numpy's `bit_generator.state` and Python's
            `getstate()` all qualify.

    Raises:
        ValueError: Names an entry of another type, which could not be read back.
        OutputError: The file cannot be written.
    """
    _check_plain(state, "state")
    with atomic_stream(path) as file:
        torch.save(dict(state), file)


def load_training(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_training` wrote; tensors on the CPU. Runs no code from the file.

    The checksums in the file are compared: a changed bit is an error, not another training.

    Raises:
        CheckpointError: Missing, empty, damaged, or not such a file.
    """
    path = Path(path)
    content = _read_pth(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found {_described(content)}, expected the state of a training run")
    try:
        return dict(_Plain().copy(content))
    except UnpicklingError as error:
        raise CheckpointError(f"{path}: {error}, expected the state of a training run") from None


def _head(path: Path) -> bytes:
    """The first 512 bytes, having refused what can be told from them."""
    try:
        check_regular(path, CheckpointError)
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file", "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: cannot be read: {reason}") from None
    if not head:
        raise CheckpointError(f"{path}: empty file, expected network weights", _AGAIN)
    if is_page(head):
        raise CheckpointError(
            f"{path}: found a web page (HTML or XML), expected network weights",
            "the download was refused or needs a confirmation: open the link in a browser",
        )
    return head


def _is_safetensors(path: Path) -> bool:
    head = _head(path)
    return is_safetensors(head) or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except MemoryError:
        raise CheckpointError(f"{path}: not enough memory to read it") from None
    # Also what torch raises for a type of numbers that it lacks.
    except Exception as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {shortened(error)}", _AGAIN) from None
    if not tensors:
        raise CheckpointError(f"{path}: found no tensor, expected network weights")
    return dict(tensors)


def _read_pth(path: Path) -> Any:
    _head(path)
    try:
        return read_pth(path)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path}: {shortened(error)}; expected tensors and plain values only, and nothing in it was run",
            "do not trust it, or save its state_dict() again with the program that made it",
        ) from None
    except MemoryError:
        raise CheckpointError(f"{path}: not enough memory to read it") from None
    except zipfile.BadZipFile as error:
        cut = "File is not a zip file" in str(error)  # it begins as one, and lacks the directory at its end
        words = "it ends too early" if cut else shortened(error)
        raise CheckpointError(f"{path}: damaged weights file: {words}", _AGAIN) from None
    # What a damaged stream leads to: EOFError, ValueError, KeyError, IndexError, RuntimeError of torch, ...
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        words = f": {shortened(reason)}" if " " in reason else ""  # a bare key or number says nothing
        raise CheckpointError(f"{path}: damaged or no weights file{words}", _AGAIN) from None


class _Plain:
    """Copies the state of a training, part by part: shared parts could make much out of little, or never end."""

    def __init__(self) -> None:
        self.parts = 0

    def copy(self, value: Any, depth: int = 0) -> Any:
        self.parts += 1
        if self.parts > _MOST_PARTS or depth > _DEEPEST:
            raise UnpicklingError("found parts inside parts without end")
        if isinstance(value, Other):
            raise UnpicklingError(f"found a {value.name}")
        if isinstance(value, dict):
            return {key: self.copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.copy(item, depth + 1) for item in value)
        return value


def _check_plain(value: Any, where: str) -> None:
    kind = type(value)  # exact: a numpy float is a float too, but pickles as an object
    if kind in (int, float, bool, str, bytes, type(None)) or isinstance(value, Tensor):
        return
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) is not str and not (type(key) is int and abs(key) < LARGEST_KEY):
                raise ValueError(f"a key of {where}: found {key!r}, expected a string or a small number")
            _check_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    else:
        raise ValueError(f"{where}: found {kind.__name__}, expected tensors, numbers, strings, lists and dicts")


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return "nothing" if not content else "a dict"
    return f"a {content.name if isinstance(content, Other) else type(content).__name__}"
