"""Load weights into a network: every tensor must be present and fit, or the error says which does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from pixaff.errors import CheckpointError, first_few, shortened
from pixaff.io.checkpoints import read_metadata, read_state_dict
from pixaff.models.base import CamNetwork, Network, SegNetwork

N = TypeVar("N", bound=Network)

SHARED = "backbone."
"""Prefix of the names of tensors that one weights file may take from another."""
SHARES = "shares"
"""Entry of a weights file's header: the neighbouring file from which it takes them."""
_RANDOM = {Tensor.uniform_, Tensor.normal_, init.uniform_, init.normal_, init.kaiming_uniform_}


class WithoutInitialValues(TorchFunctionMode):
    """Networks that are created inside get no random numbers: all their weights are loaded. They take half the time."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func in _RANDOM:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def load_checkpoint(model: N, path: str | os.PathLike[str], *, reset_head: bool = False) -> N:
    """Load a weights file into a network; every tensor must be present and fit. No code in the file is run.

    Batch norm's ``num_batches_tracked`` may be absent: files of older PyTorch versions lack these counters, which
    nothing in evaluation uses.

    Args:
        model: The network.
        path: A `.pth` (bare, inside ``{"state_dict": ...}``, with names prefixed by ``module.``) or `.safetensors`.
        reset_head: Leave the classifier as it is if the file has one for another number of classes.

    Returns:
        The model.

    Raises:
        CheckpointError: The file cannot be read; tensors are missing, unknown or of another shape; or they contain what
            no network computes with: NaN, infinite or complex numbers, or integers in place of weights.
    """
    return load_state(model, read_weights(path), path, reset_head=reset_head)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """`read_state_dict`, with the backbone of another file in the same folder if the file says that it shares it.

    Raises:
        CheckpointError: One of the files cannot be read.
    """
    path = Path(path)
    state, name = read_state_dict(path), read_metadata(path).get(SHARES)
    if name is None:
        return state
    if Path(name).name != name:
        raise CheckpointError(f"{path}: shares its backbone with {shortened(name)!r}, expected a file beside it")
    other = read_state_dict(path.with_name(name))
    return {**{key: tensor for key, tensor in other.items() if key.startswith(SHARED)}, **state}


def load_state(model: N, state: Mapping[str, Tensor], path: str | os.PathLike[str], *, reset_head: bool = False) -> N:
    """`load_checkpoint` for tensors that have been read already, from ``path``."""
    state = adapted(model, state, path)
    own = model.state_dict()
    rows = other_classes(model, state)
    if rows and not reset_head:
        raise head_error(model, state, path)
    kinds = problems(model, state, rows)
    if any(kinds.values()):
        raise CheckpointError(
            f"{path}: the tensors do not fit {type(model).__name__}: {misfits(own, state, kinds)}",
            "give the weights of this network",
        )
    if useless := [name for name in state if name not in rows and not _usable(own[name], state[name])]:
        raise CheckpointError(
            f"{path}: found NaN, infinite, complex or whole numbers in {first_few(useless)}, expected finite floats",
            "was the training stable, or are the weights quantised? give weights in float16 or wider",
        )
    model.load_state_dict({name: tensor for name, tensor in state.items() if name not in rows}, strict=False)
    return model


def adapted(model: Network, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """The tensors of a file, adapted to the network: a hybrid classifier accepts weights for any image size.

    Raises:
        CheckpointError: See `Network.adapted_state`.
    """
    try:
        return model.adapted_state(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from None


def ready(model: N, device: torch.device | str) -> N:
    """The network on its device, ready for use, with channels last, as its images have them."""
    return model.to(device).to(memory_format=torch.channels_last).eval()


def problems(model: Network, state: Mapping[str, Tensor], rows: Sequence[str]) -> dict[str, list[str]]:
    """Tensors that do not fit the network, by kind; those of ``rows`` may be for other classes."""
    own = model.state_dict()
    return {
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "unknown": [name for name in state if name not in own],
        "of another shape": [name for name in wrong_shapes(own, state) if name not in rows],
    }


def other_classes(model: Network, state: Mapping[str, Tensor]) -> list[str]:
    """Tensors of a network's classifier that are for another number of classes in ``state``."""
    if not isinstance(model, (CamNetwork, SegNetwork)):
        return []  # an AffinityNet knows no classes
    own = model.state_dict()
    head = {id(parameter) for parameter in model.parameter_groups()["head"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    wrong = [name for name in wrong_shapes(own, state) if name in names]
    return [name for name in wrong if own[name].ndim and own[name].shape[1:] == state[name].shape[1:]]


def head_error(model: Network, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> CheckpointError:
    """The error about weights for another number of classes."""
    rows, own = other_classes(model, state), model.state_dict()
    # A layer may have a row for the background, too: the one with the fewest rows is without it, if any is.
    name = min(rows, key=lambda one: len(own[one]))
    expected = model.num_classes if isinstance(model, SegNetwork) else len(own[name])
    found = expected + len(state[name]) - len(own[name])
    return CheckpointError(
        f"{path}: found a classifier for {found} classes ({', '.join(rows)}), expected {expected}",
        f"give weights for {expected} classes, or re-initialise the classifier with --reset-head (reset_head=True)",
    )


def wrong_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Tensors of a network that have another shape in ``state``."""
    return [name for name, tensor in own.items() if name in state and state[name].shape != tensor.shape]


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], kinds: Mapping[str, Sequence[str]]) -> str:
    """Tensors by kind in words, such as "1 missing (fc8.weight); 2 of another shape (...)"."""

    def described(name: str) -> str:
        both = name in own and name in state and own[name].shape != state[name].shape
        shapes = f" {tuple(state[name].shape)} instead of {tuple(own[name].shape)}" if both else ""
        return f"{shortened(name)}{shapes}"

    return "; ".join(
        f"{len(names)} {kind} ({first_few(map(described, names))})" for kind, names in kinds.items() if names
    )


def _usable(own: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor has numbers that the network can compute with."""
    if not own.is_floating_point():
        return True  # a counter
    # A sum shows any NaN or infinity, and needs no memory, unlike a check of each number.
    return tensor.is_floating_point() and bool(tensor.sum(dtype=torch.float64).isfinite())
