"""A model as it is kept in a folder: both networks' weights, the class names and the settings that fit them.

The folder holds ``model.json``, ``cam.safetensors`` and ``affinity.safetensors``. The embedded model ``lite`` and the
runs of `pixaff fit` are such folders. The folder of a finished `pixaff train-cam` serves as well: its weights name the
network and classes, the settings are the preset's; with ``affinity.safetensors`` put beside them it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

import pixaff.weights
from pixaff.errors import CheckpointError, PixaffError
from pixaff.io.atomic import write_text
from pixaff.io.checkpoints import read_metadata, write_state_dict
from pixaff.models.loading import load_checkpoint, ready
from pixaff.models.registry import create_model
from pixaff.settings import Settings, settings_of_network

FORMAT = 1
EMBEDDED = "lite"
RECORD, CAM, AFFINITY = "model.json", "cam.safetensors", "affinity.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A loaded model.

    Attributes:
        cam: CAM network, in evaluation mode, or None when the run refines given maps.
        affinity: AffinityNet, in evaluation mode, or None when the run has not trained it yet.
        classes: Names of the mask values 1, 2, ...
        settings: The numbers that fit the two networks.
        path: The folder.
        sources: Weights files by part, where they are no folder of pixaff's.
    """

    cam: nn.Module | None
    affinity: nn.Module | None
    classes: tuple[str, ...]
    settings: Settings
    path: Path
    sources: Mapping[str, str] = field(default_factory=dict)


def embedded_folder() -> Path:
    """Folder of the model inside the package."""
    return Path(pixaff.weights.__file__).parent / EMBEDDED


def load_bundle(model: str | Path, device: torch.device | str = "cpu") -> Bundle:
    """Load the embedded model, "lite", or the one in a folder.

    Raises:
        CheckpointError: The folder holds no model, or a damaged one.
    """
    folder = embedded_folder() if str(model) == EMBEDDED else Path(model)
    if (folder / RECORD).is_file():
        classes, settings = _recorded(folder / RECORD)
    elif (folder / CAM).is_file():
        classes, settings = _trained(folder / CAM)
    else:
        raise CheckpointError(
            f"{folder} holds neither {RECORD} nor {CAM}",
            f'give "{EMBEDDED}" or the folder of a finished `pixaff fit` or `pixaff train-cam`',
        )
    cam = load_checkpoint(create_model(settings.cam, len(classes)), folder / CAM)
    affinity = None
    if (folder / AFFINITY).is_file():
        affinity = ready(load_checkpoint(create_model(settings.affinity), folder / AFFINITY), device)
    return Bundle(ready(cam, device), affinity, classes, settings, folder)


def _recorded(record: Path) -> tuple[tuple[str, ...], Settings]:
    """Classes and settings of a model's folder."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        version, classes = found["format"], tuple(str(name) for name in found["classes"])
        settings = Settings.from_dict(found["settings"])
    except (OSError, ValueError, KeyError, TypeError, PixaffError) as error:
        raise CheckpointError(f"{record}: cannot be understood: {error}", "copy the whole folder again") from error
    if version != FORMAT:
        raise CheckpointError(f"{record}: found format {version}, expected {FORMAT}", "update pixaff")
    return classes, settings


def _trained(weights: Path) -> tuple[tuple[str, ...], Settings]:
    """Classes and network that a training wrote into its weights, with the preset's numbers."""
    metadata = read_metadata(weights)
    try:
        classes = tuple(str(name) for name in json.loads(metadata["classes"]))
        settings = settings_of_network(metadata["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{weights} does not say which network and classes it is for", "train it with pixaff train-cam"
        ) from error
    affinity = weights.with_name(AFFINITY)
    return classes, settings.replace(affinity=read_metadata(affinity).get("network") if affinity.is_file() else None)


def write_bundle(
    folder: str | Path,
    cam: str,
    affinity: str | None,
    cam_model: nn.Module,
    affinity_model: nn.Module | None,
    classes: Sequence[str],
    settings: Settings,
    half: bool = False,
) -> None:
    """Write a model's folder; ``model.json`` last, so that a folder which holds one is whole.

    Args:
        folder: Made when missing.
        cam, affinity: Registry names of the networks; no AffinityNet is written without its name.
        cam_model, affinity_model: The networks.
        classes: Names of the mask values 1, 2, ...
        settings: The numbers that fit them.
        half: Store matrices in float16.

    Raises:
        OutputError: A file cannot be written.
    """
    folder = Path(folder)
    write_state_dict(folder / CAM, cam_model.state_dict(), half, {"network": cam})
    if affinity is not None and affinity_model is not None:
        write_state_dict(folder / AFFINITY, affinity_model.state_dict(), half, {"network": affinity})
    settings = settings.replace(cam=cam, affinity=affinity)
    record = {"format": FORMAT, "classes": list(classes), "settings": settings.to_dict()}
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
