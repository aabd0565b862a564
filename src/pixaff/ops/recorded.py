"""Products with one sparse matrix after the other, recorded once for all matrices of a size and replayed (CUDA graphs).

A walk of an ordinary photo is some 130 small kernels; to start them one by one from Python takes longer than to run
them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Polynomial = Callable[[Tensor, Tensor, Sequence[float]], tuple[Tensor, Tensor]]

_KEPT = 8
"""Recordings that are kept, each with buffers of the size of its matrix."""


@dataclass
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]  # row starts, columns, values, scores
    outputs: tuple[Tensor, Tensor]


_recordings: OrderedDict[tuple[object, ...], _Recording] = OrderedDict()


def replay(
    polynomial: Polynomial, matrix: Tensor, scores: Tensor, coefficients: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """``polynomial(matrix, scores, coefficients)`` on CUDA, recorded when a matrix of this size is first seen.

    Args:
        polynomial: Only launches kernels: it neither reads values nor allocates by them.
        matrix: CSR (n, n).
        scores: (n, C).
    """
    given = (matrix.crow_indices(), matrix.col_indices(), matrix.values(), scores)
    key = (polynomial, tuple(coefficients), scores.device, *((tensor.dtype, tensor.shape) for tensor in given))
    # Whoever uses a recording takes it out, because its buffers serve one walk at a time. Buffers that are made in
    # inference mode could not be written outside of it.
    with torch.inference_mode(False), torch.no_grad():
        found = _recordings.pop(key, None) or _record(polynomial, given, coefficients)
        for buffer, tensor in zip(found.inputs, given, strict=True):
            buffer.copy_(tensor)
        found.graph.replay()
        total, last = (output.clone() for output in found.outputs)
    _recordings[key] = found
    if len(_recordings) > _KEPT:
        _recordings.popitem(last=False)
    return total, last


def _record(polynomial: Polynomial, given: Sequence[Tensor], coefficients: Sequence[float]) -> _Recording:
    row_starts, columns, values, scores = inputs = tuple(tensor.clone() for tensor in given)
    nodes = len(scores)
    matrix = torch.sparse_csr_tensor(row_starts, columns, values, (nodes, nodes), check_invariants=False)
    # The first products create handles and work space, which must not happen during the recording.
    side = torch.cuda.Stream(scores.device)
    side.wait_stream(torch.cuda.current_stream(scores.device))
    with torch.cuda.stream(side):
        polynomial(matrix, scores, coefficients[:3])
    torch.cuda.current_stream(scores.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = polynomial(matrix, scores, coefficients)
    return _Recording(graph, inputs, outputs)
