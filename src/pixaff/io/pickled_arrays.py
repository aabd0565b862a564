"""numpy arrays and torch tensors inside pickles, rebuilt from their bytes without numpy's and torch's own unpickling.

Every size that a file claims is held against the bytes that are there before anything is made.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import partial
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pixaff.io.unpickle import Budget, Built, Function, Names, check, encoded, read_pickle

_PLAIN = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
_OBJECT = frozenset({"O", "O4", "O8"})
_STORAGES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}
# The head of what torch.save writes without a zip archive; so it is inside pickles, in all versions.
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PROTOCOL = 1001


class _Type(Built):
    """A numpy dtype: a plain number, or "object"."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"

    def build(self, state: Any) -> None:
        check(type(state) is tuple and len(state) >= 5, "has a data type of an unknown version")
        check(all(part is None for part in state[2:5]), "has a structured data type")
        check(state[1] in ("<", ">", "|", "="), "has a data type of unknown byte order")
        self.order = ">" if state[1] == ">" else "<"

    def plain(self) -> np.dtype[Any]:
        check(self.code in _PLAIN, "holds an array of objects")
        return np.dtype(self.order + self.code)


class Array(Built):
    """An array as numpy pickles it: empty first, then given its state.

    Attributes:
        values: The numbers; None for an array of objects.
        content: The object of an array of exactly one, of shape (): so numpy saves a dict.
    """

    def __init__(self, values: NDArray[Any] | None = None) -> None:
        self.values = values
        self.content: Any = None

    def build(self, state: Any) -> None:
        check(type(state) is tuple and len(state) == 5, "has an array of an unknown version")
        _, shape, dtype, fortran, data = state
        check(type(dtype) is _Type, "has an array without data type")
        if dtype.code in _OBJECT:
            check(shape == () and type(data) is list and len(data) == 1, "holds an array of objects")
            self.content = data[0]
        else:
            self.values = _from_bytes(data, dtype, shape, "F" if fortran is True else "C").values


def read_arrays(stream: BinaryIO, budget: Budget) -> Any:
    """Read a pickle whose only objects are numpy arrays, torch tensors and numbers.

    Args:
        stream: Positioned at the pickle's first byte.
        budget: What it may take, the pickles in the tensors included.

    Returns:
        As `pixaff.io.unpickle.read_pickle`; arrays and tensors (bfloat16 excepted) as `Array`, scalars as numbers.

    Raises:
        UnpicklingError: It asks for something else.
        Exception: It is damaged.
    """
    names = {**_NAMES, ("torch.storage", "_load_from_bytes"): Function(partial(_storage, budget))}
    return read_pickle(stream, names, budget)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    check(kind is np.ndarray, "rebuilds something other than an array")
    return Array()


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _Type:
    check(type(code) is str and code in _PLAIN | _OBJECT, "has a data type other than a number")
    return _Type(code)


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    check(type(data) in (bytes, bytearray) and type(dtype) is _Type, "has an array without bytes")
    found = np.frombuffer(data, dtype.plain())
    if math.prod(_lengths(shape)) != len(found):
        raise UnpicklingError(f"claims an array of {str(shape)[:40]}, and holds {len(found)} numbers")
    return Array(found.reshape(shape, order="F" if order == "F" else "C"))


def _scalar(dtype: Any, data: Any) -> int | float:
    return _from_bytes(data, dtype, (), "C").values.item()  # type: ignore[union-attr]


def _storage(budget: Budget, data: Any) -> NDArray[Any]:
    """The numbers behind a tensor, float or integer (N,)."""
    check(type(data) is bytes and data.startswith(b"\x80"), "has a tensor without the bytes of one")
    stream = io.BytesIO(data)
    head, version, machine = (read_pickle(stream, {}, budget) for _ in range(3))
    check((head, version) == (_TORCH_MAGIC, _TORCH_PROTOCOL), "has a tensor of an unknown version")
    check(type(machine) is dict and machine.get("little_endian") is True, "has a tensor of unknown byte order")
    names = {(module, name): name for module in ("torch", "torch.cuda") for name in _STORAGES}
    # ("storage", type, key, device, length, view of another storage)
    handle = read_pickle(stream, names, budget, persistent=lambda value: value)
    check(type(handle) is tuple and len(handle) == 6 and handle[5] is None, "has a tensor of an unknown kind")
    check(type(handle[1]) is str and handle[1] in _STORAGES, "has a tensor of an unknown kind")
    read_pickle(stream, {}, budget)  # the keys of the storages that follow: this one
    length = int.from_bytes(stream.read(8), "little")
    found = np.frombuffer(stream.read(), _STORAGES[handle[1]])
    if not len(found) == length == handle[4]:
        raise UnpicklingError(f"claims a tensor of {length} numbers, and holds {len(found)}")
    return found


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, metadata: Any = None
) -> Array:
    check(type(storage) is np.ndarray and metadata is None, "has a tensor of an unknown kind")
    lengths, steps = _lengths(shape), _lengths(strides)
    check(type(offset) is int and offset >= 0 and len(lengths) == len(steps), "has a tensor of no valid shape")
    if 0 in lengths:
        return Array(storage[:0].reshape(lengths))
    last = offset + sum((length - 1) * step for length, step in zip(lengths, steps, strict=True))
    # The second check keeps a step of 0 from making much out of little.
    if last >= len(storage) or math.prod(lengths) > len(storage):
        raise UnpicklingError(f"claims a tensor of {str(shape)[:40]}, and holds {len(storage)} numbers")
    width = storage.itemsize
    return Array(np.lib.stride_tricks.as_strided(storage[offset:], lengths, [step * width for step in steps]))


def _empty() -> dict[Any, Any]:
    """A tensor's backward hooks, of which a saved one has none."""
    return {}


def _lengths(value: Any) -> Sequence[int]:
    check(type(value) is tuple and len(value) <= 4, "has an array of no valid shape")
    check(all(type(length) is int and length >= 0 for length in value), "has an array of no valid shape")
    return value


_NAMES: Names = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): Function(_dtype),
    ("_codecs", "encode"): Function(encoded),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor),
    ("collections", "OrderedDict"): Function(_empty),
    **{
        (f"{package}.{module}", name): Function(function)
        for package in ("numpy.core", "numpy._core")  # before numpy 2, and since
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_bytes),
        )
    },
}
