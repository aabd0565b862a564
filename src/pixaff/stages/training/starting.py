"""The initial weights of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pixaff.errors import CheckpointError, first_few
from pixaff.events import Callback, Event
from pixaff.models.base import Network
from pixaff.models.bundle import shipped_weights
from pixaff.models.loading import adapted, head_error, misfits, other_classes, read_weights, wrong_shapes

RANDOM = "random"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's random numbers on the CPU inside the block, and restore the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_fitting(model: Network, path: Path, reset_head: bool) -> tuple[list[str], list[str]]:
    """Copy the tensors of a weights file that the model has; other layers are re-initialised, other tensors ignored.

    Returns:
        Names of the parameters that the file does not set, and of the tensors that the model does not use.

    Raises:
        CheckpointError: The file cannot be read, nothing in it fits, a tensor has another shape, or its classifier is
            for another number of classes and ``reset_head`` is not set.
    """
    state, own = adapted(model, model.own_names(read_weights(path)), path), model.state_dict()
    rows = other_classes(model, state)
    if rows and not reset_head:
        raise head_error(model, state, path)
    wrong = [name for name in wrong_shapes(own, state) if name not in rows]
    if wrong:
        found = misfits(own, state, {"of another shape": wrong})
        raise CheckpointError(
            f"{path}: the tensors do not fit {type(model).__name__}: {found}",
            "give weights of the same network",
        )
    fitting = {name: tensor for name, tensor in state.items() if name in own and name not in rows}
    if not fitting:
        raise CheckpointError(
            f"{path}: none of its {len(state)} tensors fits, the first is {next(iter(state), 'missing')}",
            f"give weights of the same network; its first tensor is {next(iter(own), 'missing')}",
        )
    model.load_state_dict(fitting, strict=False)
    return [name for name, _ in model.named_parameters() if name not in fitting], [n for n in state if n not in own]


def start_weights(
    model: Network, name: str, init: str | Path | None, command: str, report: Callback, reset_head: bool = False
) -> str:
    """Give a new network its initial weights, and report which these are.

    Args:
        model: The network, randomly initialised.
        name: Its registry name.
        init: A weights file, "random", or None for the weights in the package, if there are any.
        command, report: Where notes go.
        reset_head: Whether the classifier may be re-initialised if ``init`` is for another number of classes. With the
            weights in the package it always may be.

    Returns:
        The name of the file, or "random", for the checkpoint.

    Raises:
        CheckpointError: See `load_fitting`.
    """
    if init is None:
        shipped = shipped_weights(name)
        if shipped is None:
            report(Event("warning", command, f"{name} starts from random weights; --init takes a file of better ones"))
            return RANDOM
        init, reset_head = shipped, True
    elif str(init) == RANDOM:
        report(Event("note", command, f"{name} starts from random weights"))
        return RANDOM
    path = Path(init)
    new, unused = load_fitting(model, path, reset_head)
    words = "".join(
        f", {kind}: {first_few(names, 4)}" for kind, names in (("re-initialised", new), ("unused", unused)) if names
    )
    report(Event("note", command, f"{name} starts from {path}{words}"))
    return path.name
