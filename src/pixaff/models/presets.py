"""The networks that a preset names, loaded from weights that the user has.

Published weights come as single files, often named by whoever downloaded them: a file is named for each network, or a
folder in which they are recognised by the names and shapes of their tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pixaff.errors import CheckpointError, UsageError
from pixaff.io.checkpoints import read_metadata, read_state_dict
from pixaff.io.labels import VOC_CLASSES, read_classes
from pixaff.models.bundle import Bundle
from pixaff.models.loading import adapted, load_state, other_classes, problems, ready
from pixaff.models.registry import create_model
from pixaff.settings import PRESETS, Settings, preset_settings

PARTS = ("cam", "affinity")
LITE = PRESETS["lite"]
IMAGENET_CLASSES = 1000
"""Of the classifiers from which trainings start; masks have room for 254."""
PUBLISHED = {
    "vgg16_cam": "vgg16-cam",
    "vgg16_affinity": "vgg16-affinity",
    "resnet38_cam": "resnet38-cam",
    "resnet38_affinity": "resnet38-affinity",
    "hybrid_cam": "hybrid",
    "hybrid_affinity": "hybrid",
}
"""Names in the catalogue of published weights, by network."""


@dataclass(frozen=True)
class Weights:
    """Where the user says that the weights are.

    Attributes:
        cam: File of the CAM network.
        affinity: File of the AffinityNet.
        folder: Folder with a file for each network that is not named by itself.
    """

    cam: str | Path | None = None
    affinity: str | Path | None = None
    folder: str | Path | None = None

    def given(self) -> bool:
        """Whether anything is said."""
        return any(value is not None for value in (self.cam, self.affinity, self.folder))


def own_networks(model: str | Path | None, preset: str | None, weights: Weights) -> Settings | None:
    """The preset whose networks a run takes, or None where they are a model's: those given, or the embedded ones.

    Raises:
        UsageError: No preset has that name, or the weights belong to nothing.
    """
    settings = LITE if preset is None else preset_settings(preset)
    foreign = (settings.cam, settings.affinity) != (LITE.cam, LITE.affinity)
    if model is None and foreign:
        return settings
    if weights.given():
        presets = ", ".join(name for name, other in PRESETS.items() if other.cam != LITE.cam)
        reason = "a model, which has its own" if model is not None else f"no preset that needs them ({presets})"
        raise UsageError(f"found weights of networks and {reason}", "give --preset with weights, or --model with none")
    return None


def load_preset(
    settings: Settings,
    weights: Weights,
    device: torch.device | str,
    *,
    classes: str | Path | None = None,
    parts: Sequence[str] = PARTS,
    fetch: Callable[[str], Path] | None = None,
) -> Bundle:
    """Load the networks of a preset.

    Args:
        settings: The preset.
        weights: Files or a folder.
        device: Where the networks go.
        classes: File of the class names. None takes those that a training of pixaff wrote into its weights, and for
            20 classes without names Pascal VOC's.
        parts: The networks that the run needs: "cam", "affinity" or both.
        fetch: Gives the path of published weights by their name in the catalogue, for those that no option names.

    Raises:
        DownloadError: They cannot be fetched.
        UsageError: Nothing says where weights are, or the class names are not as many as the classes.
        CheckpointError: Weights cannot be read or do not fit, or the folder lacks a network or has two of one.
        LabelsError: ``classes`` cannot be read.
    """
    named = {"cam": weights.cam, "affinity": weights.affinity}
    files = {part: Path(path) for part in parts if (path := named[part]) is not None}
    absent = [part for part in parts if part not in files]
    if absent:
        files |= (
            _published(settings, absent, fetch)
            if weights.folder is None
            else _in_folder(settings, weights.folder, absent)
        )
    names = VOC_CLASSES if classes is None else read_classes(classes)
    loaded: dict[str, nn.Module] = {}
    for part in parts:
        state = read_state_dict(files[part])
        _check_kind(settings, part, state, files[part])
        count = _count_classes(settings.cam, state) if part == "cam" else 0
        if count == IMAGENET_CLASSES:
            raise _start_error(files[part], settings.cam)
        network = create_model(settings.cam, count) if count else create_model(settings.affinity)
        loaded[part] = ready(load_state(network, state, files[part]), device)
        if count:
            names = _class_names(count, files[part], classes)
    sources = {f"{part}_weights": str(files[part]) for part in parts}
    place = files[parts[0]].parent
    return Bundle(loaded.get("cam"), loaded.get("affinity"), names, settings, place, sources)


def _published(settings: Settings, parts: Sequence[str], fetch: Callable[[str], Path] | None) -> dict[str, Path]:
    """Files of weights for the parts of a preset for which no option names any: the published ones, from the cache."""
    networks = [str(getattr(settings, part)) for part in parts]
    if fetch is None or not all(network in PUBLISHED for network in networks):
        options = " and ".join(f"--{part}-weights FILE" for part in parts)
        raise UsageError(
            f"preset {settings.preset} needs weights of {' and '.join(networks)}",
            f"give {options}, or --weights-dir DIR; with --model lite the preset lends its numbers to the embedded "
            "model",
        )
    files: dict[str, Path] = {}
    for part, network in zip(parts, networks, strict=True):
        path = fetch(PUBLISHED[network])
        files[part] = path if path.is_file() else _in_folder(settings, path, [part])[part]
    return files


def recognised(state: Mapping[str, Tensor], networks: Sequence[str]) -> str | None:
    """The network whose tensors these are, by names and shapes, with any number of classes; None for none of them."""
    for name in networks:
        model = _shape_of(name)
        try:
            fitted = adapted(model, state, name)
        except CheckpointError:
            continue
        if not any(problems(model, fitted, other_classes(model, fitted)).values()):
            return name
    return None


def _in_folder(settings: Settings, folder: str | Path, parts: Sequence[str]) -> dict[str, Path]:
    """The files of a folder that hold the networks of some parts."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", "check --weights-dir")
    networks = {str(getattr(settings, part)): part for part in parts}
    found: dict[str, Path] = {}
    others: list[str] = []
    starts: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        try:
            state = read_state_dict(path)
        except CheckpointError:
            others.append(str(name))
            continue
        network = recognised(state, list(networks))
        if settings.cam in networks and _count_classes(settings.cam, state) == IMAGENET_CLASSES:
            starts.append(str(name))
        elif network is None:
            others.append(str(name))
        elif networks[network] in found:
            both = f"{found[networks[network]].relative_to(folder)} and {name}"
            raise CheckpointError(
                f"{folder}: found two files of {network}, {both}",
                f"name one of them with --{networks[network]}-weights",
            )
        else:
            found[networks[network]] = path
    lacking = [network for network, part in networks.items() if part not in found]
    if settings.cam in lacking and starts:
        raise _start_error(folder / starts[0], settings.cam)
    if lacking:
        options = " or ".join(f"--{networks[network]}-weights" for network in lacking)
        rest = f"; other files: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''}" if others else ""
        raise CheckpointError(
            f"{folder}: no file holds the weights of {' or '.join(lacking)}{rest}",
            f"whole .pth or .safetensors files are recognised by their tensors; {options} FILE takes one by name, and "
            "says what of it does not fit",
        )
    return found


def _shape_of(network: str, num_classes: int = 1) -> nn.Module:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return create_model(network, num_classes)


def _count_classes(network: str, state: Mapping[str, Tensor]) -> int:
    """Classes of the CAM network's head in a file: rows beyond those of a network for one class."""
    rows = other_classes(_shape_of(network), state)
    return min((len(state[name]) for name in rows), default=1)


def _start_error(path: Path, network: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: found a classifier of ImageNet's {IMAGENET_CLASSES} classes, a start for trainings of {network}",
        f"give trained weights, or train some: pixaff train-cam --model {network} --init {path} --reset-head",
    )


def _check_kind(settings: Settings, part: str, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise `CheckpointError` for weights of the preset's other network, which is what a swapped pair looks like."""
    own, other = (settings.cam, settings.affinity) if part == "cam" else (settings.affinity, settings.cam)
    if recognised(state, [own, other]) == other:
        raise CheckpointError(
            f"{path}: found the weights of {other}, expected those of {own}",
            "swap --cam-weights and --affinity-weights",
        )


def _class_names(count: int, path: Path, classes: str | Path | None) -> tuple[str, ...]:
    """Names of the mask values 1, 2, ... for weights of so many classes."""
    if classes is not None:
        names = read_classes(classes)
        if len(names) != count:
            raise UsageError(f"{classes} names {len(names)} classes, {path} is for {count}", "give the names of these")
        return names
    try:
        recorded = json.loads(read_metadata(path).get("classes", "[]"))
    except ValueError:
        recorded = []
    if isinstance(recorded, list) and len(recorded) == count:
        return tuple(str(name) for name in recorded)
    if count != len(VOC_CLASSES):
        raise UsageError(f"{path} is for {count} classes and does not name them", "give --classes FILE")
    return VOC_CLASSES
