"""The segmentation network of a model: ``seg.safetensors`` in the folder of a run.

A model without it segments with the segmentation head of its CAM network, if that has one.

The header of the weights names the network, the classes and the size of images that suits it, so the folder of a
finished `pixaff train-seg` is a model for `pixaff segment`. So is that of a `pixaff fit --seg`, and the model in the
package: beside ``seg.safetensors``, their ``model.json`` may have settings for it under "seg".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pixaff.errors import CheckpointError, UsageError
from pixaff.io.atomic import write_text
from pixaff.io.checkpoints import read_metadata, read_state_dict, write_state_dict
from pixaff.io.records import entry, parse_json, read_json
from pixaff.models.base import SegNetwork
from pixaff.models.bundle import EMBEDDED, embedded_folder
from pixaff.models.loading import WithoutInitialValues, load_state, ready
from pixaff.models.model_folder import CAM, RECORD, SEG
from pixaff.models.registry import create_seg_network
from pixaff.settings import SegSettings

PART = "seg"
"""What of ``model.json`` belongs to the segmentation network."""
HEADS = {"lite_cam": "lite_head_seg"}
"""CAM networks whose segmentation head segments where a model has nothing better, and what it is called."""
_COPY = "copy the whole folder again"


@dataclass(frozen=True)
class SegBundle:
    """A loaded segmentation network.

    Attributes:
        network: The network, in evaluation mode.
        name: Its registry name.
        classes: Names of the mask values 1, 2, ...
        settings: The settings that suit it.
        source: The model as it was given.
        file: Its weights.
    """

    network: SegNetwork
    name: str
    classes: tuple[str, ...]
    settings: SegSettings
    source: str
    file: Path


def load_segmentation(model: str | Path | None = None, device: torch.device | str = "cpu") -> SegBundle:
    """Load the segmentation network of a model.

    Args:
        model: "lite", or a folder that `pixaff train-seg` or `pixaff fit --seg` made; None means "lite".
        device: Device of the network.

    Raises:
        CheckpointError: The model has none, or its files cannot be read or do not fit.
    """
    model = EMBEDDED if model is None else model
    weights = segmentation_file(model)
    record = weights.with_name(RECORD)
    name, classes, settings = _described_head(record) if weights.name == CAM else _described(weights)
    if record.is_file():
        found = read_json(record, "the record of a model", CheckpointError, _COPY)
        of_model = tuple(str(each) for each in entry(found, "classes", list, record, CheckpointError))
        if of_model != classes:
            one, other = (f"{len(names)} classes ({', '.join(names[:3])}, ...)" for names in (classes, of_model))
            raise CheckpointError(
                f"{weights} is for {one}, {record} names {other}", "give the weights that were trained for this model"
            )
        settings = _replaced(settings, found.get(PART, {}), record)
    try:
        with WithoutInitialValues():
            network = create_seg_network(name, len(classes))
    except UsageError as error:
        raise CheckpointError(f"{weights}: {error.message}", error.hint) from None
    load_state(network, read_state_dict(weights), weights)
    return SegBundle(ready(network, device), name, classes, settings, str(model), weights)


def segmentation_file(model: str | Path) -> Path:
    """The weights of a model's segmentation network.

    Raises:
        CheckpointError: It has none, nor a CAM network with a segmentation head.
    """
    folder = embedded_folder() if str(model) == EMBEDDED else Path(model)
    try:
        there, others = (folder / SEG).is_file(), any((folder / name).is_file() for name in (RECORD, CAM))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror}", "check its permissions") from None
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder", "check the path, or give the folder of a pixaff train-seg run"
        )
    if there:
        return folder / SEG
    if _cam_network(folder / RECORD) in HEADS and (folder / CAM).is_file():
        return folder / CAM
    raise CheckpointError(
        f"{folder} contains no {SEG}",
        "train it: pixaff train-seg, or pixaff fit --seg" if others else "give the folder of a pixaff train-seg run",
    )


def add_segmentation(
    folder: str | Path, weights: str | Path, settings: Mapping[str, object] | None = None, half: bool = False
) -> None:
    """Give a model a segmentation network.

    Args:
        folder: Folder of the model, with a ``model.json``.
        weights: What `pixaff train-seg` wrote.
        settings: Values of `SegSettings` that replace those in the weights.
        half: Store matrices in float16.

    Raises:
        CheckpointError: The weights do not say for which network and classes they are, or these are not the model's.
        OutputError: A file cannot be written.
    """
    record, source = Path(folder) / RECORD, Path(weights)
    found = read_json(record, "the record of a model", CheckpointError, _COPY)
    _, classes, own = _described(source)
    if tuple(entry(found, "classes", list, record, CheckpointError)) != classes:
        raise CheckpointError(f"{source} and {record} are for different classes", "train it for those of the model")
    kept = _replaced(own, dict(settings or {}), source)
    write_state_dict(Path(folder) / SEG, read_state_dict(source), half, read_metadata(source))
    write_text(record, json.dumps({**found, PART: kept.to_dict()}, indent=2) + "\n")


def _cam_network(record: Path) -> str | None:
    """The CAM network of a model; None if the folder has no model."""
    try:
        settings = read_json(record, "the record of a model", CheckpointError, _COPY).get("settings")
    except FileNotFoundError:
        return None
    return str(settings.get("cam")) if isinstance(settings, dict) else None


def _described_head(record: Path) -> tuple[str, tuple[str, ...], SegSettings]:
    """The segmentation head of a model's CAM network, with the model's classes.

    Its masks are so coarse that a photo larger than the default size makes them slower and no better (docs/lite.md).
    """
    found = read_json(record, "the record of a model", CheckpointError, _COPY)
    classes = tuple(str(name) for name in entry(found, "classes", list, record, CheckpointError))
    settings = entry(found, "settings", dict, record, CheckpointError)
    size = entry(settings, "size", int, record, CheckpointError)
    plain = SegSettings()
    return HEADS[str(settings.get("cam"))], classes, _replaced(plain, {"size": min(size, plain.size)}, record)


def _described(weights: Path) -> tuple[str, tuple[str, ...], SegSettings]:
    """Network, classes and settings that a training wrote into its weights."""
    metadata = read_metadata(weights)
    try:
        classes = tuple(str(name) for name in parse_json(metadata["classes"]))
        return metadata["network"], classes, SegSettings(size=int(metadata["size"]))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"{weights} does not say which network and classes it is for", "train it with pixaff train-seg"
        ) from error


def _replaced(settings: SegSettings, values: object, path: Path) -> SegSettings:
    try:
        return settings.replace(**dict(values))  # type: ignore[call-overload]
    except (UsageError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error.message if isinstance(error, UsageError) else error}", _COPY) from None
