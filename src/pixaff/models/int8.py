"""Convolutions in 8-bit integers, for networks whose activation ranges are known: those on the backbone of `lite`.

Weights have a scale for each output channel, activations a scale and a zero point for each tensor (Jacob et al., CVPR
2018). The ranges are part of pixaff (``models/int8``), read off training photos by ``examples/quantize_lite.py``; the
weights are quantised here when a network is loaded. What rounding them adds to the mean of a convolution's output is
subtracted from its bias, as the mean of each input channel is known (Nagel et al., ICCV 2019, section 4.2). The first
stages, which rounding hurts most, and the last layers stay in float32.

Processors without instructions for sums of such products (VNNI, and those of Arm) add two of them in 16 bits, which
may overflow: there weights have 7 bits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from pixaff.device import has_vnni
from pixaff.models.base import Network

FILES = Path(__file__).with_name("int8")
"""NAME.onnx, a graph without weights, and NAME.safetensors, the ranges, of the network whose graph is NAME."""
WEIGHTS = "weights"
"""In the metadata of the ranges: `digest` of the convolutions that they were read off."""
NEEDLESS = ("WeightBiasQuantization",)
"""ONNX Runtime's optimizers that would quantise the convolutions that are to stay in float32."""
BITS = {True: 127, False: 63}
"""Largest quantised weight with and without VNNI."""


def int8_graph(network: Network) -> bytes | None:
    """The graph of a network in int8; None if there are no ranges for its weights."""
    ranges = _ranges_file(network)
    if ranges is None:
        return None
    with safe_open(ranges, "numpy") as file:
        known = (file.metadata() or {}).get(WEIGHTS)
        names = sorted({name.rpartition("/")[0] for name in file.keys()})  # noqa: SIM118
    return ranges.with_suffix(".onnx").read_bytes() if known == digest(network, names) else None


def _ranges_file(network: Network) -> Path | None:
    path = FILES / f"{network.graph}.safetensors"
    return path if network.graph is not None and path.is_file() else None


def digest(network: Network, names: list[str]) -> str:
    """Hash of the weights of convolutions, by which a network is known that was trained further."""
    found = hashlib.sha256()
    for name in names:
        weight = network.get_parameter(f"{name}.weight")
        found.update(f"{name} {tuple(weight.shape)}".encode())
        found.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def int8_weights(network: Network, largest: int | None = None) -> dict[str, NDArray[np.generic]]:
    """The quantised weights of a network for its graph, by the names of the graph without their prefix.

    Args:
        network: With batch norm folded into the convolutions.
        largest: Largest quantised weight; None means what suits this processor.
    """
    path = _ranges_file(network)
    assert path is not None
    with safe_open(path, "numpy") as file:
        ranges = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = {name: tensor.detach().float().cpu().numpy() for name, tensor in network.state_dict().items()}
    made: dict[str, NDArray[np.generic]] = {}
    for name in sorted({name.rpartition("/")[0] for name in ranges}):
        weight = state[f"{name}.weight"]
        bias = state.get(f"{name}.bias", np.zeros(len(weight), np.float32))
        found = quantized(weight, bias, ranges[f"{name}/scale"], ranges[f"{name}/mean"], largest or BITS[has_vnni()])
        made.update({f"{name}.{kind}": value for kind, value in found.items()})
    return made


def quantized(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    scale: NDArray[np.float32],
    mean: NDArray[np.float32],
    largest: int,
) -> dict[str, NDArray[np.generic]]:
    """A convolution in integers.

    Args:
        weight: float32 (C,D,k,k), with D of all C' input channels, or 1 of each by itself.
        bias: float32 (C,).
        scale: float32 (): of the input's integers.
        mean: float32 (C',): of each input channel.
        largest: Largest quantised weight.

    Returns:
        "int8" (C,D,k,k) and "int32", the bias (C,); the scales of both, "int8_scale" and "int32_scale", float32 (C,);
        and "int8_zero" and "int32_zero", zeros (C,).
    """
    scales = np.abs(weight).max((1, 2, 3)) / largest
    # Large enough for the bias of a channel whose weights are almost 0.
    scales = np.maximum(scales, np.abs(bias) / (scale * 2**30)).clip(1e-12).astype(np.float32)
    integers = np.clip(np.round(weight / scales[:, None, None, None]), -largest, largest)
    off = (integers * scales[:, None, None, None] - weight).sum((2, 3))
    bias = bias - (off[:, 0] * mean if off.shape[1] == 1 else off @ mean)
    bias_scales = (scales * scale).astype(np.float32)
    return {
        "int8": integers.astype(np.int8),
        "int8_scale": scales,
        "int8_zero": np.zeros(len(weight), np.int8),
        "int32": np.round(bias / bias_scales).clip(-(2**30), 2**30).astype(np.int32),
        "int32_scale": bias_scales,
        "int32_zero": np.zeros(len(weight), np.int32),
    }
