"""What computes the networks: PyTorch, or ONNX Runtime on the CPU.

A graph is kept without the weights of its network, which are handed to ONNX Runtime beside it. The graphs of `lite`
are part of pixaff (``models/graphs``); ``python -m pixaff.models.inference`` writes them. Another network is exported
when it is first used, which takes some seconds, and its graph is kept in the user's cache.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixaff._version import __version__
from pixaff.device import is_large
from pixaff.errors import OutputError, UsageError, shortened
from pixaff.io.atomic import write_bytes
from pixaff.models.base import Network
from pixaff.models.folding import folded
from pixaff.models.int8 import NEEDLESS, int8_graph, int8_weights
from pixaff.models.onnx import HINT, INPUT, OPSET, ExportError, compare, missing_packages, onnx_graph
from pixaff.models.winograd import winograd_layers, with_winograd
from pixaff.weights.cache import cache_folder

GRAPHS = Path(__file__).with_name("graphs")
FORMAT = 2
"""Goes up when the same network leads to another graph."""
FOLDER, SUFFIX, KEPT = "onnx", ".graph", 32
"""In the cache: where the graphs are, and how many stay, those written last."""
PREFIX = "network."
"""Of the names of weights in a graph."""
DIGEST = hashlib.sha256().digest_size

TRIAL_SIZE = (128, 128)
"""Size of the image on which a precision is timed."""
N = TypeVar("N", bound=Network)


def torch_network(network: N, precision: str) -> N:
    """The network for PyTorch: with batch norm folded and, on the CPU in float32, large convolutions after Winograd.

    The network itself stays as it is, and what is made of it is not to be trained.
    """
    plain = folded(network)
    return with_winograd(plain) if precision == "fp32" else plain


def onnx_network(network: N, int8: bool = False) -> N:
    """The network, computed by ONNX Runtime on the CPU. It may be called from several threads.

    A small network takes one thread per call, for the reason given at `pixaff.device.steady_threads`; a large one as
    many as PyTorch would. The network itself stays as it is, and what is made of it is not to be trained.

    Args:
        network: The network.
        int8: Compute most of it in 8-bit integers; see `pixaff.models.int8`.

    Raises:
        ExportError: ONNX Runtime or what writes its graphs is not installed, or cannot compute this network; or its
            ranges for int8 are not known.
    """
    if not network.exported:
        raise ExportError(f"{type(network).__name__} is not for ONNX Runtime", "use --inference torch")
    if missing := missing_packages("onnxruntime"):
        raise ExportError(f"{missing} not installed", HINT)
    plain = folded(network)
    threads = torch.get_num_threads() if is_large(network) else 1
    if int8:
        graph = int8_graph(network)
        if graph is None:
            raise ExportError(
                "int8 needs the ranges of the activations, which are known of the model lite alone",
                "use --inference auto",
            )
        session = _Session(graph, plain, threads, int8_weights(plain))
    else:
        session = _Session(_graph(network, plain), plain, threads)
    made = copy.copy(plain)  # another object with the same layers
    made.__dict__ = dict(plain.__dict__)
    several = len(network.exported) > 1
    for position, method in enumerate(network.exported):
        made.__dict__[method] = _Call(session, position) if several else session.results
    return made


def onnx_networks(
    requested: str, networks: Mapping[str, N], device: torch.device, precision: str
) -> tuple[dict[str, N], str, str]:
    """The networks that ONNX Runtime is to compute, on the CPU; PyTorch computes the others.

    Args:
        requested: "auto", "torch", "onnx" or "int8". "auto" is "onnx" where that is possible, but "torch" for a network
            that is mostly large 3x3 convolutions (see `pixaff.models.winograd`); never "int8", which changes masks.
        networks: The networks by part.
        device: Where they are.
        precision: "fp32" or "bf16".

    Returns:
        The networks by part; what was chosen, "torch", "onnx" or "int8"; and why "auto" means PyTorch although ONNX
        Runtime might compute them, otherwise "".

    Raises:
        UsageError: "onnx" or "int8" cannot be followed.
    """
    suits = device.type == "cpu" and precision == "fp32"
    if requested in ("onnx", "int8") and not suits:
        how = "in fp32" if requested == "onnx" else "int8 in place of fp32"
        raise UsageError(
            f"found {precision} on {device}, but ONNX Runtime computes {how} on the CPU", "use --inference torch"
        )
    if requested == "torch" or not suits:
        return {}, "torch", ""
    if requested == "auto":
        networks = {part: network for part, network in networks.items() if not winograd_layers(network)}
        if not networks:
            return {}, "torch", ""
    int8 = requested == "int8"
    try:
        made = {part: onnx_network(network, int8) for part, network in networks.items()}
        return made, "int8" if int8 else "onnx", ""
    except ExportError as error:
        if requested != "auto":
            raise UsageError(error.message, error.hint or "use --inference torch") from None
        return {}, "torch", error.message + (f" ({error.hint})" if error.hint else "")


class _Session:
    """A graph with its weights in ONNX Runtime.

    Args:
        graph: As `without_weights` leaves it.
        network: Has the weights.
        threads: Number of threads of a call.
        int8: Weights that are in the graph in place of those of the network; see `pixaff.models.int8.int8_weights`.
    """

    def __init__(
        self, graph: bytes, network: Network, threads: int, int8: Mapping[str, NDArray[np.generic]] | None = None
    ) -> None:
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_mem_pattern = False  # it is for images of one size
        options.log_severity_level = 4  # what it would print is raised
        # Threads that wait by spinning take the cores from other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        state = {PREFIX + name: tensor.detach() for name, tensor in network.state_dict().items()}
        weights: dict[str, NDArray[Any]] = {
            name: tensor.float().contiguous().numpy() for name, tensor in state.items() if tensor.ndim
        }
        weights.update({PREFIX + name: value for name, value in (int8 or {}).items()})
        names = [name for name in weights if _has_weight(graph, name)]
        values = [runtime.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
        options.add_external_initializers(names, values)
        self._kept = weights, values  # ONNX Runtime reads them where they are
        self._session = runtime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=NEEDLESS if int8 else None
        )
        self._outputs = [one.name for one in self._session.get_outputs()]
        # Those of the classes, of whose number a graph knows nothing.
        self._given = {one.name: weights[one.name] for one in self._session.get_inputs() if one.name != INPUT}

    def __call__(self, x: Tensor, only: int | None = None) -> list[Tensor]:
        """All results, or a single one of them."""
        wanted = self._outputs if only is None else self._outputs[only : only + 1]
        made = self._session.run(wanted, {INPUT: x.detach().float().contiguous().numpy(), **self._given})
        return [torch.from_numpy(one) for one in made]

    def results(self, x: Tensor) -> Any:
        """The only method of a network: its result, or a tuple if it has several."""
        made = self(x)
        return made[0] if len(self._outputs) == 1 else tuple(made)


class _Call:
    """One of several methods of a network in ONNX Runtime, each with one result."""

    def __init__(self, session: _Session, position: int) -> None:
        self._session, self._position = session, position

    def __call__(self, x: Tensor) -> Tensor:
        return self._session(x, self._position)[0]


def _graph(network: Network, plain: Network) -> bytes:
    """The graph of a network: from pixaff, from the cache, or made now.

    Raises:
        ExportError: It cannot be made.
    """
    if network.graph is not None and (GRAPHS / f"{network.graph}.onnx").is_file():
        return (GRAPHS / f"{network.graph}.onnx").read_bytes()
    key = _key(network)
    path = cache_folder() / FOLDER / f"{key.hex()[:32]}{SUFFIX}"
    if (known := _read(path, key)) is not None:
        return known
    if missing := missing_packages("onnx"):
        raise ExportError(f"{missing} not installed", HINT)
    graph = without_weights(onnx_graph(plain, network.exported, _outputs(network)), plain)
    try:
        session = _Session(graph, plain, 1)
    except Exception as error:  # ONNX Runtime's own have no common base
        raise ExportError(f"ONNX Runtime refuses {type(network).__name__}: {shortened(error, 200)}") from error
    compare(network, network.exported, session)
    with suppress(OutputError):
        write_bytes(path, hashlib.sha256(key + graph).digest() + graph)
        _drop_oldest(path.parent)
    return graph


def without_weights(graph: bytes, network: Network, classes: Mapping[str, Tensor] | None = None) -> bytes:
    """A graph that takes the weights of its network from outside.

    Args:
        graph: Result of `pixaff.models.onnx.onnx_graph`.
        network: What was exported.
        classes: State dict of the same network for another number of classes. The weights in which the two differ
            become inputs of the graph, which then fits any number.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    state = network.state_dict()
    sizes = {name: tuple(tensor.shape) for name, tensor in (classes or state).items()}
    inputs = []
    for weight in model.graph.initializer:
        name = weight.name.removeprefix(PREFIX)
        if name not in state or name == weight.name or not state[name].ndim:
            continue
        if tuple(state[name].shape) != sizes[name]:
            inputs.append(weight)
            continue
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="weights")
    for weight in inputs:
        shape = [None] * len(weight.dims)
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, shape))
        model.graph.initializer.remove(weight)
    del model.graph.value_info[:]
    if inputs:
        for result in model.graph.output:
            for dimension in result.type.tensor_type.shape.dim:
                dimension.Clear()
    made: bytes = model.SerializeToString()
    return made


def _has_weight(graph: bytes, name: str) -> bool:
    """Whether a graph takes this weight from outside; asked of the bytes, as only the package onnx can read them."""
    encoded = name.encode()
    length = bytes([len(encoded)]) if len(encoded) < 128 else bytes([len(encoded) % 128 + 128, len(encoded) // 128])
    return b"\x42" + length + encoded in graph  # the field "name" of a tensor: number 8, of variable length


def write_graphs(folder: Path = GRAPHS) -> None:
    """Write the graphs that are part of pixaff."""
    from pixaff.models.registry import (
        create_affinity_network,
        create_boundary_network,
        create_cam_network,
        create_seg_network,
    )

    for seeded in (False, True):
        network, other = create_cam_network("lite_cam", 20), create_cam_network("lite_cam", 21)
        network.use_segmentation_head(seeded)
        _write_graph(folder, network, folded(other).state_dict())
    irn = create_boundary_network("lite_irn")
    irn.load_state_dict(network.state_dict(), strict=False)
    other.load_state_dict(irn.state_dict(), strict=False)
    other.use_segmentation_head(True)
    pairs = [(network.joined(irn, both), other.joined(irn, both)) for both in (False, True)]
    for joint, more in pairs:
        assert joint is not None
        assert more is not None
        _write_graph(folder, joint, folded(more).state_dict())
    _write_graph(folder, irn, None)
    _write_graph(folder, create_affinity_network("lite_affinity"), None)
    for name in ("lite_head_seg", "lite_seg"):
        _write_graph(folder, create_seg_network(name, 20), folded(create_seg_network(name, 21)).state_dict())


def _write_graph(folder: Path, network: Network, classes: Mapping[str, Tensor] | None) -> None:
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)  # the exporter makes one of two weights that are equal
    plain = folded(network)
    graph = without_weights(onnx_graph(plain, network.exported, _outputs(network)), plain, classes)
    write_bytes(folder / f"{network.graph}.onnx", graph)


def _outputs(network: Network) -> tuple[str, ...]:
    """Names of the results in a graph, of which those of a method that has several need none."""
    return tuple(f"{name}_of_image" for name in network.exported)


def _key(network: Network) -> bytes:
    """Hash of all that decides a graph."""
    versions = (FORMAT, OPSET, __version__, torch.__version__, importlib.metadata.version("timm"))
    found = hashlib.sha256(repr((*versions, type(network).__name__, network.exported)).encode())
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def _read(path: Path, key: bytes) -> bytes | None:
    """A graph from the cache, unless it is not what was written there for this key."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    graph = content[DIGEST:]
    return graph if content[:DIGEST] == hashlib.sha256(key + graph).digest() else None


def _drop_oldest(folder: Path) -> None:
    """Keep the graphs that were written last."""
    with suppress(OSError):
        newest = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in newest[KEPT:]:
            path.unlink()


if __name__ == "__main__":
    write_graphs()
