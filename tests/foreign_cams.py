"""CAM files as other programs write them, made by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def box(content: Any) -> np.ndarray:
    """An array of shape () around an object, as `np.save` makes one around a dict."""
    boxed = np.empty((), dtype=object)
    boxed[()] = content
    return boxed


def write_npy(path: Path, pickled: bytes) -> Path:
    """An .npy file of one object with the given pickle in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
        stream.write(pickled)
    return path


def save(path: Path, content: Any, protocol: int = 3) -> Path:
    """As `np.save` with a dict. numpy 1 uses protocol 3, numpy 2 protocol 4."""
    return write_npy(path, pickle.dumps(box(content), protocol=protocol))


def maps(count: int = 2, size: tuple[int, int] = (30, 41), seed: int = 0) -> np.ndarray:
    """Float32 (count, H, W), each divided by its maximum + 1e-5."""
    rows = np.random.default_rng(seed).random((count, *size), dtype=np.float32)
    return rows / (rows.max((1, 2), keepdims=True) + 1e-5)


def posteriors(count: int = 3, size: tuple[int, int] = (30, 41), seed: int = 1) -> np.ndarray:
    """Float32 (count, H, W) that sum to 1 at every pixel."""
    rows = np.exp(4 * np.random.default_rng(seed).random((count, *size)))
    return (rows / rows.sum(0)).astype(np.float32)
