"""Recognise the network of a weights file by the names and shapes of its tensors.

Published weights are single files, often with a name that somebody gave them after the download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pixaff.errors import CheckpointError, first_few
from pixaff.models.base import Network
from pixaff.models.loading import adapted, other_classes, problems, read_weights
from pixaff.models.registry import create_model
from pixaff.settings import Settings

IMAGENET_CLASSES = 1000
"""Number of classes of the classifiers from which trainings start; masks have room for 254."""


def network_of(settings: Settings, part: str) -> str:
    """Registry name of the CAM network, "cam", the AffinityNet, "affinity", or the boundary network, "irn"; or ""."""
    return {"cam": settings.cam, "affinity": settings.affinity, "irn": settings.irn}[part]


def recognised(state: Mapping[str, Tensor], networks: Sequence[str]) -> str | None:
    """The network to which the tensors belong, by names and shapes, with any number of classes; or None."""
    for name in networks:
        model = _shape_of(name)
        try:
            fitted = adapted(model, state, name)
        except CheckpointError:
            continue
        if not any(problems(model, fitted, other_classes(model, fitted)).values()):
            return name
    return None


def weights_in_folder(settings: Settings, folder: str | Path, parts: Sequence[str]) -> dict[str, Path]:
    """The files of a folder that contain the networks of the given parts, whatever their names.

    Raises:
        CheckpointError: The folder lacks a network, or has two files of one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "check --weights-dir")
    networks = {network_of(settings, part): part for part in parts}
    found: dict[str, Path] = {}
    others: list[str] = []
    starts: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        try:
            state = read_weights(path)
        except CheckpointError:
            others.append(str(name))
            continue
        network = recognised(state, list(networks))
        if settings.cam in networks and count_classes(settings.cam, state) == IMAGENET_CLASSES:
            starts.append(str(name))
        elif network is None:
            others.append(str(name))
        elif networks[network] in found:
            both = f"{found[networks[network]].relative_to(folder)} and {name}"
            raise CheckpointError(
                f"{folder}: found two files of {network}, {both}",
                f"choose one with --{networks[network]}-weights",
            )
        else:
            found[networks[network]] = path
    lacking = [network for network, part in networks.items() if part not in found]
    if settings.cam in lacking and starts:
        raise start_error(folder / starts[0], settings.cam)
    if lacking:
        options = " or ".join(f"--{networks[network]}-weights" for network in lacking)
        rest = f"; other files: {first_few(others, 5)}" if others else ""
        raise CheckpointError(
            f"{folder}: no file contains the weights of {' or '.join(lacking)}{rest}",
            f"complete .pth or .safetensors files are recognised by their tensors; {options} FILE loads one by name "
            "and says what does not fit",
        )
    return found


def count_classes(network: str, state: Mapping[str, Tensor]) -> int:
    """Number of classes of the CAM network in a file."""
    model = _shape_of(network)
    try:
        state = adapted(model, state, network)
    except CheckpointError:
        return 1
    return min((len(state[name]) for name in other_classes(model, state)), default=1)


def start_error(path: Path, network: str) -> CheckpointError:
    """The error about initial weights in place of trained ones."""
    return CheckpointError(
        f"{path}: found a classifier of ImageNet's {IMAGENET_CLASSES} classes, from which trainings of {network} start",
        f"give trained weights, or train some: pixaff train-cam --network {network} --init {path} --reset-head",
    )


def _shape_of(network: str, num_classes: int = 1) -> Network:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return create_model(network, num_classes)
