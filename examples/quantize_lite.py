"""Read the ranges of lite's activations off training photos, and write its networks for int8 inference.

    python examples/quantize_lite.py OUT VOC/JPEGImages --list VOC/lists/train.txt

Writes NAME.onnx and NAME.safetensors for each network; see `pixaff.models.int8`. Those of pixaff are in
``src/pixaff/models/int8``. Needs the package onnx. A range leaves out 0.01 % of the values at either end, which gave
smaller errors on other training photos than all values, or than the range of least squared error.

Which layers stay in float32 was found the same way. The stem and the first two stages have few channels and large maps:
they take a tenth of the time, and rounding them moves the CAMs as much as rounding all other layers. The masks follow
small differences of affinities, so there more layers stay as they are.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from safetensors.numpy import save

import pixaff
from pixaff.io.atomic import write_bytes
from pixaff.io.images import load_image
from pixaff.io.labels import read_list
from pixaff.models.base import Network
from pixaff.models.inference import GRAPHS, PREFIX
from pixaff.models.int8 import WEIGHTS, digest
from pixaff.models.onnx import INPUT, onnx_graph
from pixaff.models.segmentation import load_segmentation

FIRST = ("backbone.net.conv_stem", "backbone.net.blocks.0.", "backbone.net.blocks.1.")
CAM = (*FIRST, "classifier", "pixel")
IRN = (*FIRST, "edge", "offset")
JOINT = (*FIRST, "cam.classifier", "cam.pixel", "irn")
SEG = (*FIRST, "classifier", "gate", "rows")
AFFINITY = (*FIRST, *(f"backbone.net.blocks.{stage}." for stage in (2, 3, 4)), "level", "merge")
"""First words of the names of layers that stay in float32."""
PERCENTILE = 99.99
VALUES = 6000
"""Of a tensor, kept from each view."""
KINDS = {
    "int8": TensorProto.INT8,
    "int8_scale": TensorProto.FLOAT,
    "int8_zero": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int32_scale": TensorProto.FLOAT,
    "int32_zero": TensorProto.INT32,
}


Range = tuple[float, float]


class Convolution(NamedTuple):
    """A convolution to quantise: its node, its name, and the tensors before it and after its activation."""

    node: Any
    name: str
    before: str
    after: str


def convolutions(model: Any, kept: Sequence[str]) -> list[Convolution]:
    """Those of a graph, but for the ones that stay in float32."""
    found = []
    for node in model.graph.node:
        name = node.input[1].removeprefix(PREFIX).removesuffix(".weight") if node.op_type == "Conv" else ""
        if not name or name.startswith(tuple(kept)):
            continue
        users = [one for one in model.graph.node if node.output[0] in one.input]
        activated = len(users) == 1 and users[0].op_type in ("Clip", "Relu")
        found.append(Convolution(node, name, node.input[0], users[0].output[0] if activated else node.output[0]))
    return found


def views(
    network: Network, photos: Sequence[Path], scales: Sequence[float], size: int = 512
) -> Iterator[NDArray[np.float32]]:
    """The photos as the network sees them, every other one mirrored: (1,3,H,W)."""
    for number, photo in enumerate(photos):
        picture = Image.fromarray(load_image(photo, size)[0])
        for scale in scales:
            columns, rows = (max(1, round(side * scale / 16)) * 16 for side in picture.size)
            x = network.preprocess(picture.resize((columns, rows), Image.Resampling.BICUBIC))[None].numpy()
            yield np.ascontiguousarray(x[..., ::-1]) if number % 2 else x


def statistics(
    graph: bytes, kept: Sequence[str], images: Iterator[NDArray[np.float32]]
) -> tuple[dict[str, tuple[Range, Range]], dict[str, NDArray[np.float32]]]:
    """Ranges before and after each convolution, and the mean of each channel before it."""
    model = onnx.load_model_from_string(graph)
    chosen = convolutions(model, kept)
    tensors = list(dict.fromkeys(name for one in chosen for name in (one.before, one.after)))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0)
    values: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
    means: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
    for x in images:
        for name, found in zip(tensors, session.run(tensors, {INPUT: x}), strict=True):
            flat = found.ravel()
            values[name].append(flat[noise.integers(0, len(flat), VALUES)])
            means[name].append(found.mean((0, 2, 3)))
    ranges = {}
    for name in tensors:
        low, high = np.percentile(np.concatenate(values[name]), (100 - PERCENTILE, PERCENTILE))
        ranges[name] = min(0.0, float(low)), max(0.0, float(high))
    both = {one.name: (ranges[one.before], ranges[one.after]) for one in chosen}
    return both, {one.name: np.mean(means[one.before], 0).astype(np.float32) for one in chosen}


def quantized_graph(graph: bytes, kept: Sequence[str], ranges: dict[str, tuple[Range, Range]]) -> bytes:
    """A graph without weights, with its convolutions between nodes that quantise and those that undo it."""
    model = onnx.load_model_from_string(graph)
    chosen = convolutions(model, kept)
    results = {one.name for one in model.graph.output}
    bounds = {tensor: found for c in chosen for tensor, found in zip((c.before, c.after), ranges[c.name], strict=True)}
    weights: dict[int, list[Any]] = {}
    dropped = set()
    for node, name, *_ in chosen:
        dropped.update(node.input[1:])
        own = [f"{PREFIX}{name}.{kind}" for kind in KINDS]
        for full, kind in zip(own, KINDS.values(), strict=True):
            tensor = model.graph.initializer.add(name=full, data_type=kind, data_location=TensorProto.EXTERNAL)
            tensor.external_data.add(key="location", value="weights")
            channels, depth, *kernel = next(one.dims for one in model.graph.initializer if one.name == node.input[1])
            tensor.dims.extend([channels, depth, *kernel] if full.endswith(".int8") else [channels])
        weights[id(node)] = [
            helper.make_node("DequantizeLinear", own[:3], [f"{own[0]}/float"], axis=0),
            helper.make_node("DequantizeLinear", own[3:], [f"{own[3]}/float"], axis=0),
        ]
        del node.input[1:]
        node.input.extend([f"{own[0]}/float", f"{own[3]}/float"])
    rounding: dict[str, list[Any]] = {}
    for name in sorted(set(bounds) - results):
        scale = step(bounds[name])
        zero = round(-bounds[name][0] / scale)
        given = [f"{name}/scale", f"{name}/zero"]
        model.graph.initializer.append(helper.make_tensor(given[0], TensorProto.FLOAT, [], [scale]))
        model.graph.initializer.append(helper.make_tensor(given[1], TensorProto.UINT8, [], [min(255, max(0, zero))]))
        rounding[name] = [
            helper.make_node("QuantizeLinear", [name, *given], [f"{name}/integers"]),
            helper.make_node("DequantizeLinear", [f"{name}/integers", *given], [f"{name}/rounded"]),
        ]
    nodes = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in rounding:
                node.input[place] = f"{name}/rounded"
        nodes += [*weights.get(id(node), []), node]
        for name in node.output:
            nodes += rounding.get(name, [])
    nodes, left = copy.deepcopy(nodes), [copy.deepcopy(t) for t in model.graph.initializer if t.name not in dropped]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(left)
    made: bytes = model.SerializeToString()
    return made


def step(bounds: Range) -> float:
    """Of the integers 0..255 over a range."""
    return float(np.float32((bounds[1] - bounds[0]) / 255))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("photos", type=Path, help="folder of the photos")
    parser.add_argument("--list", type=Path, required=True, help="names of training photos")
    parser.add_argument("--count", type=int, default=32, help="of photos, spread over the list (default: %(default)s)")
    options = parser.parse_args()
    names = read_list(options.list)
    photos = [options.photos / f"{name}.jpg" for name in names[:: max(1, len(names) // options.count)]][: options.count]
    model = pixaff.load("lite", inference="torch")
    cam, affinity, irn = model.cam_network, model.affinity_network, model.boundary_network
    assert cam is not None
    assert affinity is not None
    assert irn is not None
    joint = cam.joined(irn, displacement=True)
    assert joint is not None
    seg = load_segmentation("lite")
    options.out.mkdir(parents=True, exist_ok=True)
    for network, kept, seen, graphs in (
        (cam, CAM, views(cam, photos, (1.0, 0.5)), ("lite_cam", "lite_cam_seeded", "lite_head")),
        (affinity, AFFINITY, views(affinity, photos, (1.0,)), ("lite_affinity",)),
        (irn, IRN, views(irn, photos, (1.0,)), ("lite_irn",)),
        (joint, JOINT, views(joint, photos, (1.0,)), ("lite_joint", "lite_joint_displacement")),
        (seg.network, SEG, views(seg.network, photos, (1.0,), seg.settings.size), ("lite_seg",)),
    ):
        outputs = [f"{name}_of_image" for name in network.exported]
        ranges, means = statistics(onnx_graph(network, network.exported, outputs), kept, seen)
        for name in graphs:
            graph = (GRAPHS / f"{name}.onnx").read_bytes()
            write_bytes(options.out / f"{name}.onnx", quantized_graph(graph, kept, ranges))
            tensors = {}
            for one in convolutions(onnx.load_model_from_string(graph), kept):
                tensors[f"{one.name}/scale"] = np.array(step(ranges[one.name][0]), np.float32)
                tensors[f"{one.name}/mean"] = means[one.name]
            known = digest(network, sorted({one.rpartition("/")[0] for one in tensors}))
            write_bytes(options.out / f"{name}.safetensors", save(tensors, {WEIGHTS: known}))


if __name__ == "__main__":
    main()
