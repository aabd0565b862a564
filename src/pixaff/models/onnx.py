"""Networks as ONNX files: for `pixaff.models.inference`, and for programs that have no PyTorch.

The exporter is the one of PyTorch that follows one call of the network (``dynamo=False``). It keeps sizes as formulas
of the image's sides, but ONNX rounds a quotient of integers towards zero: ``(side + 7) // 8`` is right,
``-(-side // 8)`` is not. So every graph is compared with the network on images of other sizes before it is used.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor, nn

from pixaff.errors import PixaffError, shortened
from pixaff.io.atomic import write_bytes
from pixaff.models.base import Network
from pixaff.models.folding import folded

OPSET = 17
INPUT, OUTPUT = "image", "output"
EXAMPLE = (2, 3, 64, 96)
TRIALS = ((1, 3, 80, 64), (3, 3, 67, 103))
"""Sizes of images of which a file must make what the network makes."""
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest value; a wrong graph is off by far more."""
HINT = "pip install 'pixaff[onnx]'"


class ExportError(PixaffError):
    """A network cannot be written as ONNX, or the result differs from the network."""


def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    methods: Sequence[str] = ("forward",),
    outputs: Sequence[str] = (OUTPUT,),
    metadata: Mapping[str, str] | None = None,
    opset: int = OPSET,
    trials: Sequence[tuple[int, int, int, int]] = TRIALS,
) -> None:
    """Write methods of a network as an ONNX file, for any number of images of any size.

    The input is called "image": float32 (B,3,H,W), normalised. Batch norm is folded into the convolutions. The file is
    compared with the network in ONNX Runtime before it is written.

    Args:
        network: A network of pixaff, or any other module in evaluation mode that takes images (B,3,H,W).
        path: File to write, atomically.
        methods: Which of its methods, "forward", "cam", ...; what they share is computed once.
        outputs: A name for each of their results.
        metadata: What the file says about itself, such as the names of the classes.
        opset: Version of the operators.
        trials: Shapes of the images on which file and network are compared.

    Raises:
        ExportError: The network cannot be exported, or the file makes something else of an image.
        PixaffError: ``onnx`` or ``onnxruntime`` is not installed.
        OutputError: The file cannot be written.
    """
    if missing := missing_packages():
        raise PixaffError(f"{missing} not installed", HINT)
    graph = onnx_graph(network, methods, outputs, opset=opset)
    check_graph(graph, network, methods, trials)
    if metadata:
        import onnx

        model = onnx.load_model_from_string(graph)
        onnx.helper.set_model_props(model, dict(metadata))
        graph = model.SerializeToString()
    write_bytes(path, graph)


def missing_packages(*names: str) -> str:
    """Which of the packages, "onnx" and "onnxruntime" if none are named, are not installed: "" or "... is"."""
    missing = [name for name in names or ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'}" if missing else ""


def onnx_graph(
    network: nn.Module,
    methods: Sequence[str] = ("forward",),
    outputs: Sequence[str] = (OUTPUT,),
    *,
    opset: int = OPSET,
) -> bytes:
    """The content of the ONNX file of methods of a network.

    Raises:
        ExportError: The network cannot be exported.
    """
    plain = folded(network) if isinstance(network, Network) else network
    axes = {INPUT: {0: "images", 2: "height", 3: "width"}}
    like = next(network.parameters())
    buffer: Any = io.BytesIO()
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what might be taken for constant: `compare` tells
            torch.onnx.export(
                _Methods(plain, methods).eval(),
                (torch.zeros(EXAMPLE, dtype=like.dtype, device=like.device),),
                buffer,
                dynamo=False,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=opset,
                # An operator that ONNX lacks is for ONNX Runtime to refuse: the exporter would print the whole graph.
                operator_export_type=torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH,
            )
    except Exception as error:  # whatever the exporter or a network that is followed raises
        raise ExportError(f"{type(network).__name__} cannot be exported: {shortened(error, 200)}") from error
    import onnx

    model = onnx.load_model_from_string(buffer.getvalue())
    if len(methods) > 1:
        _merge(model)
    _pad_in_convolutions(model)
    _spell_out_elu(model)
    graph: bytes = model.SerializeToString()
    return graph


def _merge(model: Any) -> None:
    """Remove the nodes that compute what another one computes: the exporter follows one method at a time."""
    results = {one.name for one in model.graph.output}
    known: dict[tuple[object, ...], Sequence[str]] = {}
    same: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        inputs = [same.get(name, name) for name in node.input]
        node.input[:] = inputs
        key = (node.op_type, node.domain, *inputs, *(each.SerializeToString() for each in node.attribute))
        if key in known and not results.intersection(node.output):
            same.update(zip(node.output, known[key], strict=True))
        else:
            known.setdefault(key, tuple(node.output))
            kept.append(node)
    _replace_nodes(model, kept)


def _pad_in_convolutions(model: Any) -> None:
    """Have convolutions pad their maps themselves, zeros at any side: a node of its own has them copied three times."""
    import onnx

    makers = {name: node for node in model.graph.node for name in node.output}
    users = Counter(name for node in model.graph.node for name in node.input)
    users.update(one.name for one in model.graph.output)
    for conv in model.graph.node:
        pad = makers.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or pad.attribute[0].s != b"constant" or users[pad.output[0]] > 1:
            continue
        sides = _constant(pad.input[1], makers)
        value = _constant(pad.input[2], makers) if len(pad.input) > 2 and pad.input[2] else 0
        if sides is None or value is None or value != 0 or min(sides) < 0 or any(sides[[0, 1, 4, 5]]):
            continue
        own = next((one.ints for one in conv.attribute if one.name == "pads"), [0, 0, 0, 0])
        pads = [int(side) + before for side, before in zip(sides[[2, 3, 6, 7]], own, strict=True)]
        kept = [one for one in conv.attribute if one.name not in ("pads", "auto_pad")]
        del conv.attribute[:]
        conv.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
        conv.input[0] = pad.input[0]
    _drop_unused(model)


def _constant(name: str, makers: Mapping[str, Any]) -> Any:
    """The value of a node that depends on constants alone; otherwise None."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    needed: list[Any] = []
    open_names = [name]
    while open_names:
        node = makers.get(open_names.pop())
        if node is None:  # the image or a weight
            return None
        if not any(node is one for one in needed):
            needed.append(node)
            open_names.extend(one for one in node.input if one)
    place = {id(node): number for number, node in enumerate(makers.values())}
    result = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph(sorted(needed, key=lambda node: place[id(node)]), "constant", [], [result])
    opset = onnx.helper.make_opsetid("", OPSET)
    model: Any = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
    return model.run(None, {})[0]


def _spell_out_elu(model: Any) -> None:
    """Write elu(x) as relu(x) + (exp(min(x, 0)) - 1), of which ONNX Runtime computes each part several times faster."""
    import onnx

    kept = []
    for node in model.graph.node:
        if node.op_type != "Elu" or any(one.name == "alpha" and one.f != 1 for one in node.attribute):
            kept.append(node)
            continue
        (x,), (result,) = node.input, node.output
        names = [f"{result}/{part}" for part in ("above", "below", "power", "less")]
        make = onnx.helper.make_node
        kept += [
            make("Relu", [x], [names[0]]),
            make("Min", [x, "elu/zero"], [names[1]]),
            make("Exp", [names[1]], [names[2]]),
            make("Sub", [names[2], "elu/one"], [names[3]]),
            make("Add", [names[0], names[3]], [result]),
        ]
    if len(kept) > len(model.graph.node):
        numbers = {"elu/zero": 0.0, "elu/one": 1.0}
        model.graph.initializer.extend(
            onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value]) for name, value in numbers.items()
        )
        _replace_nodes(model, kept)


def _drop_unused(model: Any) -> None:
    """Remove nodes of whose results nothing is made."""
    needed = {one.name for one in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):  # in the order in which they are computed
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    _replace_nodes(model, kept[::-1])


def _replace_nodes(model: Any, nodes: Sequence[Any]) -> None:
    copies = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def check_graph(
    graph: bytes,
    network: nn.Module,
    methods: Sequence[str] = ("forward",),
    trials: Sequence[tuple[int, int, int, int]] = TRIALS,
) -> None:
    """Make sure that ONNX Runtime makes of images what the network makes of them.

    Raises:
        ExportError: It does not.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it would print is raised
    try:
        session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own have no common base
        raise ExportError(f"ONNX Runtime refuses {type(network).__name__}: {shortened(error, 200)}") from error
    compare(
        network, methods, lambda x: [torch.from_numpy(one) for one in session.run(None, {INPUT: x.numpy()})], trials
    )


@torch.inference_mode()
def compare(
    network: nn.Module,
    methods: Sequence[str],
    call: Callable[[Tensor], Sequence[Tensor]],
    trials: Sequence[tuple[int, int, int, int]] = TRIALS,
) -> None:
    """Compare what ``call`` makes of images with the results of a network's methods.

    Raises:
        ExportError: They differ in shape, or by more than `TOLERANCE`.
    """
    name, device = type(network).__name__, next(network.parameters()).device
    noise = torch.Generator().manual_seed(0)
    for shape in trials:
        x = torch.randn(shape, generator=noise)
        try:
            found = call(x)
        except Exception as error:
            raise ExportError(f"ONNX Runtime fails at {name} for {shape}: {shortened(error, 200)}") from error
        for one, other in zip(_Methods(network, methods)(x.to(device)), found, strict=True):
            expected = one.float().cpu()
            if other.shape != expected.shape:
                raise ExportError(f"{name}: ONNX Runtime makes {tuple(other.shape)} of {shape}, not {tuple(one.shape)}")
            off = float((other - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
            if not off <= TOLERANCE:
                raise ExportError(f"{name}: ONNX Runtime is off by {off:.1e}, expected at most {TOLERANCE:g}")


class _Methods(nn.Module):
    """Methods of a network as a module, which is what the exporter takes."""

    def __init__(self, network: nn.Module, methods: Sequence[str]) -> None:
        super().__init__()
        self.network, self._methods = network, tuple(methods)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made = [methodcaller(name, x)(self.network) for name in self._methods]
        return tuple(one for each in made for one in ((each,) if isinstance(each, Tensor) else each))
