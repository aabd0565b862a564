"""Weights that are a function of each tensor's name and shape alone, as those of the reference figures are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def filled_state(shapes: Mapping[str, Sequence[int]], known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors by name; those of ``known`` that have the wanted shape are taken instead of being made again."""
    state = {}
    for name, shape in shapes.items():
        before = (known or {}).get(name)
        state[name] = before if before is not None and before.shape == tuple(shape) else filled_tensor(name, shape)
    return state


def filled_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """float32 noise seeded by the name; its scale keeps the values of a deep network in range."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(tuple(shape))
    if name.endswith(("running_mean", "bias")):
        noise *= 0.05
    elif name.endswith("running_var"):
        noise = 1 + 0.1 * np.abs(noise)
    elif len(shape) == 1:
        noise = 1 + 0.1 * noise
    else:
        noise *= np.sqrt(1.6 / np.prod(shape[1:]))
        if name == "f9.weight" or name.startswith("f8_"):
            noise *= 0.35  # keeps affinities away from 0 and 1
        if name == "pos_embed":
            noise *= 0.3
    return torch.from_numpy(noise.astype(np.float32))
