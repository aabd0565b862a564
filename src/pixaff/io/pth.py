"""Files that `torch.save` wrote, read without torch's own reader.

The pickle inside is carried out by `pixaff.io.unpickle`, in which there is nothing to call but the functions below, and
each size that the file claims is held against its bytes before memory is taken. What is looked through is also what is
used: no second reader sees the file. Checksums that the file carries are compared as it is read.

Both formats are read: the zip archive, since PyTorch 1.6, and the sequence of pickles of before, in which the authors'
weights are.
"""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
from pickle import UnpicklingError
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pixaff.io.unpickle import Budget, Built, Function, Names, check, encoded, read_pickle
from pixaff.io.zips import open_zip

MOST_PICKLE = 32 << 20
MOST_INSTRUCTIONS, MOST_KEYS = 500_000, 100_000
"""Of the pickle in a file: a tensor takes some 25 instructions, the checkpoint of a ResNet-38 some 50,000."""
PIECE = 1 << 20

# What the old format begins with.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class Other:
    """Something in a file that is neither a tensor nor plain; a state dict may lie beside it."""

    def __init__(self, name: str) -> None:
        self.name = name


def read_pth(path: str | os.PathLike[str]) -> Any:
    """Read a file of `torch.save`.

    Returns:
        Tensors on the CPU, and dicts, lists, tuples, strings, bytes, numbers and None of them; `Other` for what else
        torch takes for harmless. Parts may be shared, or contain themselves.

    Raises:
        UnpicklingError: It asks for more than that, or claims more than it holds.
        zipfile.BadZipFile: A checksum does not fit, or the archive is damaged.
        OSError: It cannot be read.
        Exception: It is no such file (`ValueError`), or damaged: `EOFError`, `KeyError`, ...
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return _read_old(file)
    with open_zip(path) as archive:
        return _read_zip(archive, os.path.getsize(path))


def _read_zip(archive: zipfile.ZipFile, size: int) -> Any:
    members = {member.filename: member for member in archive.infolist()}
    check(len(members) == len(archive.infolist()), "has two members of one name")
    for member in members.values():
        check(not member.flag_bits & 1, "has encrypted members")
        check(member.compress_type == zipfile.ZIP_STORED, "has compressed members, which torch.save never writes")
    claimed = sum(member.file_size for member in members.values())
    check(claimed <= size, f"claims {claimed} bytes of members in a file of {size}")
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    _known(len(roots) == 1, "a zip archive of something else than torch.save writes")
    root, unread, storages = roots[0], set(members), dict[str, Tensor]()

    def read(name: str) -> bytes:
        unread.discard(name)
        return archive.read(name)  # compares the checksum

    def persistent(handle: Any) -> Tensor:
        dtype, key, count = _handle(handle, 5)
        if key not in storages:
            name = f"{root}data/{key}"
            check(name in members, "lacks the numbers of a tensor")
            storages[key] = torch.empty(members[name].file_size, dtype=torch.uint8)
            unread.discard(name)
            with archive.open(name) as content:
                _fill(storages[key], content)
                check(not content.read(1), "has more numbers than it says")  # the read that compares the checksum
        return _typed(storages[key], dtype, count)

    check(members[f"{root}data.pkl"].file_size <= MOST_PICKLE, "has a pickle beyond all bounds")
    if f"{root}byteorder" in members:
        _known(read(f"{root}byteorder") == sys.byteorder.encode(), "from a machine of another byte order")
    content = read_pickle(io.BytesIO(read(f"{root}data.pkl")), _NAMES, _budget(size), persistent)
    for name in sorted(unread):
        with archive.open(name) as rest:
            while rest.read(PIECE):
                pass
    return content


def _read_old(file: BinaryIO) -> Any:
    """Read the format of before the zip archives: five pickles, then the numbers of one storage after another."""
    file.seek(0)
    left = os.fstat(file.fileno()).st_size
    head = io.BytesIO(file.read(MOST_PICKLE))
    _known(head.getvalue()[:1] == b"\x80", "no file that torch.save writes")
    budget = _budget(left)
    magic, protocol, machine = (read_pickle(head, {}, budget) for _ in range(3))
    _known((magic, protocol) == (_MAGIC, _PROTOCOL), "a pickle of something else than torch.save writes")
    order = machine.get("little_endian") if type(machine) is dict else None
    _known(order is (sys.byteorder == "little"), "from a machine of another byte order")
    storages: dict[str, Tensor] = {}
    widths: dict[str, int] = {}

    def persistent(handle: Any) -> Tensor:
        nonlocal left
        dtype, key, count = _handle(handle, 6)
        if key not in storages:
            widths[key] = dtype.itemsize
            left -= count * dtype.itemsize
            check(left >= 0, f"claims a tensor of {count} numbers, and has fewer")
            storages[key] = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        found = _typed(storages[key], dtype, count)
        if handle[5] is None:
            return found
        check(type(handle[5]) is tuple and len(handle[5]) == 3, "has a tensor of an unknown kind")
        _, start, length = handle[5]
        check(type(start) is type(length) is int and 0 <= start <= start + length <= count, "has a part of no storage")
        return found[start : start + length]

    content = read_pickle(head, _NAMES, budget, persistent)
    keys = read_pickle(head, {}, budget)
    check(type(keys) is list and all(type(key) is str for key in keys), "lacks the numbers of a tensor")
    check(sorted(keys) == sorted(storages), "lacks the numbers of a tensor")
    file.seek(head.tell())
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        check(count * widths[key] == len(storages[key]), "has a tensor of another length than it says")
        _fill(storages[key], file)
    return content


def _budget(size: int) -> Budget:
    return Budget(size, MOST_INSTRUCTIONS, MOST_KEYS)


def _known(condition: bool, words: str) -> None:
    if not condition:
        raise ValueError(words)


def _fill(target: Tensor, content: IO[bytes]) -> None:
    """Read a storage's bytes."""
    view, done = target.numpy(), 0
    while done < len(view):
        piece = content.read(min(PIECE, len(view) - done))
        if not piece:
            raise EOFError("it ends inside a tensor")
        view[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)


def _handle(value: Any, length: int) -> tuple[torch.dtype, str, int]:
    """What stands for a storage in a pickle: type of its numbers, key, and how many they are."""
    check(type(value) is tuple and len(value) == length and value[0] == "storage", "has a tensor of an unknown kind")
    _, dtype, key, _, count = value[:5]
    check(type(dtype) is torch.dtype and type(key) is str, "has a tensor of an unknown kind")
    check(type(count) is int and count >= 0, "has a tensor of no valid size")
    return dtype, key, count


def _typed(storage: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """The numbers of a storage (N,), from its bytes."""
    check(len(storage) == count * dtype.itemsize, f"claims a tensor of {count} numbers, and has {len(storage)} bytes")
    return storage.view(dtype)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> Tensor:
    """A tensor in a storage; the others are whether it takes gradients, its hooks, and notes of extensions."""
    check(isinstance(storage, Tensor) and storage.ndim == 1, "has a tensor of an unknown kind")
    for sizes in (shape, strides):
        plain = type(sizes) is tuple and len(sizes) <= 64 and all(type(size) is int and size >= 0 for size in sizes)
        check(plain, "has a tensor of no valid shape")
    check(type(offset) is int and offset >= 0 and len(shape) == len(strides), "has a tensor of no valid shape")
    if 0 in shape:
        return storage.new_empty(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # The second check keeps a step of 0 from making much out of little.
    if last >= len(storage) or math.prod(shape) > len(storage):
        raise UnpicklingError(f"claims a tensor of {math.prod(shape)} numbers, and has {len(storage)}")
    return storage.as_strided(shape, strides, storage.storage_offset() + offset)


def _tensor_of_bytes(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any) -> Tensor:
    """The same for types of numbers without a kind of storage: they are written as bytes."""
    check(isinstance(storage, Tensor) and storage.dtype == torch.uint8, "has a tensor of an unknown kind")
    check(type(dtype) is torch.dtype and len(storage) % dtype.itemsize == 0, "has a tensor of an unknown kind")
    return _tensor(storage.view(dtype), offset, shape, strides)


def _parameter(data: Any, *others: Any) -> Tensor:
    check(isinstance(data, Tensor), "has a parameter without a tensor")
    found: Tensor = data
    return found


def _with_attributes(function: Any, kind: Any, arguments: Any, attributes: Any) -> Any:
    """A tensor with attributes, which are ignored."""
    check(type(function) is Function and kind == _TENSOR and type(arguments) is tuple, "has a tensor of unknown kind")
    return function.run(*arguments)


class _Ordered(dict[Any, Any], Built):
    """An OrderedDict; attributes such as the notes of a state dict are ignored."""

    def build(self, state: Any) -> None:
        pass


def _ordered(pairs: Any = ()) -> _Ordered:
    check(type(pairs) in (tuple, list) and all(type(pair) in (tuple, list) for pair in pairs), "has an odd dict")
    found = _Ordered()
    for key, value in pairs:
        check(type(key) is str, f"has a {type(key).__name__} as a key")
        found[key] = value
    return found


def _no_bytes() -> bytes:
    return b""


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    check(type(lengths) in (tuple, list), "has a shape of no numbers")
    return tuple(lengths)


def _other(name: str) -> Function:
    return Function(lambda *arguments: Other(name))


_TENSOR = "torch.Tensor"

_NAMES: Names = {
    ("collections", "OrderedDict"): Function(_ordered),
    ("collections", "Counter"): _other("Counter"),
    ("torch", "Size"): Function(_size),
    ("torch", "device"): _other("device"),
    ("torch", "Tensor"): _TENSOR,
    ("torch.nn.parameter", "Parameter"): _TENSOR,
    ("torch._utils", "_rebuild_tensor"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_tensor_of_bytes),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_with_attributes),
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("_codecs", "encode"): Function(encoded),
    **{(module, name): dtype for module in ("torch", "torch.cuda") for name, dtype in _STORAGES.items()},
    **{("torch", name): value for name, value in vars(torch).items() if type(value) is torch.dtype},
    **{
        (module, name): Function(_no_bytes) if name == "bytes" else _other(name)
        for module in ("builtins", "__builtin__")
        for name in ("bytes", "bytearray", "set", "complex")
    },
}
