"""Where the weights of a training start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from pixaff.errors import CheckpointError
from pixaff.io.checkpoints import read_state_dict
from pixaff.models.bundle import AFFINITY, CAM, embedded_folder
from pixaff.stages.runner import Callback, Event

RANDOM = "random"
SHIPPED = {"lite_cam": CAM, "lite_affinity": AFFINITY}
"""Networks whose weights are in the package, and their files."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's random numbers in the block, on the CPU, and leave the caller's as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def load_fitting(model: nn.Module, path: Path) -> list[str]:
    """Copy those tensors of a weights file that have their name and shape in the model.

    Returns:
        Names of the model's parameters that the file does not set.

    Raises:
        CheckpointError: The file cannot be read, or nothing in it fits.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    if not fitting:
        raise CheckpointError(
            f"{path}: none of its {len(state)} tensors fits, the first is {next(iter(state), 'missing')}",
            f"give weights of the same network; its first tensor is {next(iter(own), 'missing')}",
        )
    model.load_state_dict(fitting, strict=False)
    return [name for name, _ in model.named_parameters() if name not in fitting]


def start_weights(model: nn.Module, name: str, init: str | Path | None, command: str, report: Callback) -> str:
    """Bring a new network to the weights it starts from, and say which these are.

    Args:
        model: The network, randomly initialised.
        name: Its registry name.
        init: A weights file, "random", or None for the weights that pixaff ships for the network, if any.
        command, report: Whom to tell.

    Returns:
        The name of the file, or "random": what a checkpoint remembers.

    Raises:
        CheckpointError: See `load_fitting`.
    """
    if init is None:
        shipped = embedded_folder() / SHIPPED.get(name, "")
        init = shipped if shipped.is_file() else RANDOM
    if str(init) == RANDOM:
        report(Event("note", command, f"{name} starts from random weights"))
        return RANDOM
    path = Path(init)
    new = load_fitting(model, path)
    anew = f", anew: {', '.join(new[:4])}{', ...' if len(new) > 4 else ''}" if new else ""
    report(Event("note", command, f"{name} starts from {path}{anew}"))
    return path.name
