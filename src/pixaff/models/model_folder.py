"""The folder of a model: the names of its files, and its record, ``model.json``, written and read.

It contains ``model.json``, ``cam.safetensors`` and ``affinity.safetensors`` or ``irn.safetensors``, or both. The record
has the classes, the networks' names and the hyper-parameters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from pixaff.errors import CheckpointError, UsageError, quoted
from pixaff.io.atomic import write_text
from pixaff.io.checkpoints import read_metadata, write_state_dict
from pixaff.io.labels.classes import MAX_CLASSES
from pixaff.io.records import entry, parse_json, read_json
from pixaff.models.base import Network
from pixaff.models.loading import SHARED, SHARES
from pixaff.models.recognise import network_of
from pixaff.models.registry import part_of, settings_of_network
from pixaff.settings import Settings

FORMAT = 1
RECORD, CAM, AFFINITY, IRN = "model.json", "cam.safetensors", "affinity.safetensors", "irn.safetensors"
SEG = "seg.safetensors"
FILES = {"cam": CAM, "affinity": AFFINITY, "irn": IRN}
"""Weights files in the folder of a model, by part."""
PARTS = tuple(FILES)
_COPY = "copy the whole folder again"


def write_bundle(
    folder: str | Path,
    cam: str,
    affinity: str | None,
    cam_model: Network,
    affinity_model: Network | None,
    classes: Sequence[str],
    settings: Settings,
    half: bool = False,
    *,
    irn: str | None = None,
    irn_model: Network | None = None,
) -> None:
    """Write the folder of a model; ``model.json`` comes last, so a folder that contains it is complete.

    Args:
        folder: The folder, which is created if necessary.
        cam, affinity: Registry names of the networks; without a name, no AffinityNet is written.
        cam_model, affinity_model: The networks.
        classes: Names of the mask values 1, 2, ...
        settings: The hyper-parameters that suit them.
        half: Store matrices in float16.
        irn, irn_model: Registry name of the boundary network, and the network; without one, the walk is psa. A backbone
            that equals that of another network is not stored twice.

    Raises:
        OutputError: A file cannot be written.
    """
    folder = Path(folder)
    write_state_dict(folder / CAM, cam_model.state_dict(), half, {"network": cam})
    if affinity is not None and affinity_model is not None:
        write_state_dict(folder / AFFINITY, affinity_model.state_dict(), half, {"network": affinity})
    if irn is not None and irn_model is not None:
        state, metadata = irn_model.state_dict(), {"network": irn}
        own = {name: tensor for name, tensor in state.items() if not name.startswith(SHARED)}
        for file, other in ((CAM, cam_model), (AFFINITY, affinity_model)):
            known = {} if other is None else other.state_dict()
            same = (name in known and torch.equal(known[name], state[name]) for name in state.keys() - own.keys())
            if len(own) < len(state) and all(same):
                state, metadata = own, {**metadata, SHARES: file}
                break
        write_state_dict(folder / IRN, state, half, metadata)
    settings = settings.replace(cam=cam, affinity=affinity, irn=irn or "", walk=None if irn else "psa")
    record = {"format": FORMAT, "classes": list(classes), "settings": settings.to_dict()}
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def check_record(record: Path) -> None:
    """Make sure that a ``model.json`` can be understood.

    Raises:
        CheckpointError: It cannot; names the file and what is wrong.
    """
    check_model(record, *read_record(record))


def read_record(record: Path) -> tuple[tuple[str, ...], Settings]:
    """Classes and settings of a model's folder."""
    found = read_json(record, "the record of a model", CheckpointError, _COPY)
    if (version := entry(found, "format", int, record, CheckpointError)) != FORMAT:
        raise CheckpointError(f"{record}: found format {version}, expected {FORMAT}", "update pixaff")
    classes = entry(found, "classes", list, record, CheckpointError)
    if not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{record}: found classes that are not names", _COPY)
    values = entry(found, "settings", dict, record, CheckpointError)
    for name in ("preset", "cam", "affinity", "irn"):
        if name in values:
            entry(values, name, str, record, CheckpointError)
    earlier = {"walk": "psa", "irn": ""}  # of records that are older than the choice
    try:
        return tuple(classes), Settings.from_dict({**earlier, **values})
    except (UsageError, TypeError, ValueError) as error:
        raise CheckpointError(f"{record}: {error.message if isinstance(error, UsageError) else error}", _COPY) from None


def read_header(weights: Path) -> tuple[tuple[str, ...], Settings]:
    """Classes and network that a training wrote into its weights, with the preset's hyper-parameters."""
    metadata = read_metadata(weights)
    try:
        classes = tuple(str(name) for name in parse_json(metadata["classes"]))
        network = metadata["network"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{weights} does not say which network and classes it is for", "train it with pixaff train-cam"
        ) from error
    others = {part: weights.with_name(FILES[part]) for part in ("affinity", "irn")}
    found = {part: read_metadata(path).get("network") for part, path in others.items() if path.is_file()}
    return classes, settings_of_network(network, "irn" if "irn" in found else "psa").replace(**found)


def check_model(record: Path, names: Sequence[str], settings: Settings) -> None:
    """Make sure that a model can have such classes and networks.

    Raises:
        CheckpointError: It cannot; names the file that says so.
    """
    wrong = next((name for index, name in enumerate(names) if not name.strip() or name in names[:index]), None)
    if wrong is not None:
        raise CheckpointError(f"{record}: found the class {quoted(wrong)}, expected names, each once", _COPY)
    if not 0 < len(names) <= MAX_CLASSES:
        raise CheckpointError(f"{record}: found {len(names)} classes, expected 1 to {MAX_CLASSES}", _COPY)
    for part in PARTS:
        network = network_of(settings, part)
        if not network and part != "cam":
            continue
        try:
            found = part_of(network)
        except UsageError as error:
            raise CheckpointError(f"{record}: {error.message}", f"{error.hint}; or update pixaff") from None
        if found != part:
            raise CheckpointError(f"{record}: found {network} as the network {quoted(part)}, which it is not", _COPY)
