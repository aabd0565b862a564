"""A model: its networks with their weights, the class names, and the settings that suit them.

The embedded model ``lite`` and the runs of `pixaff fit` are folders: see `pixaff.models.model_folder`. The folder of a
finished `pixaff train-cam` can be used as well: its weights name the network and the classes, and the settings are the
preset's; with ``affinity.safetensors`` or ``irn.safetensors`` beside them it is complete. Published networks are single
files instead, which `load_model` loads by a preset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pixaff.errors import CheckpointError, UsageError, first_few
from pixaff.io.checkpoints import read_metadata, read_state_dict
from pixaff.io.labels import VOC_CLASSES, read_classes
from pixaff.io.records import parse_json
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork, Network
from pixaff.models.loading import WithoutInitialValues, load_state, read_weights, ready
from pixaff.models.model_folder import AFFINITY, CAM, FILES, PARTS, RECORD, SEG, check_model, read_header, read_record
from pixaff.models.recognise import (
    IMAGENET_CLASSES,
    count_classes,
    network_of,
    recognised,
    start_error,
    weights_in_folder,
)
from pixaff.models.registry import (
    PRESETS,
    create_affinity_network,
    create_boundary_network,
    create_cam_network,
    is_shipped,
    part_of,
    preset_settings,
    published_weights,
)
from pixaff.settings import Settings

EMBEDDED = "lite"
Parts = Sequence[str] | Callable[[Settings], Sequence[str]]
"""The networks that are needed, or how the settings of a model tell."""

N = TypeVar("N", bound=Network)


@dataclass(frozen=True)
class Weights:
    """Where the weights of a preset's networks are.

    Attributes:
        cam: File of the CAM network.
        affinity: File of the AffinityNet.
        irn: File of the boundary network.
        folder: Folder with the files that are not given individually.
    """

    cam: str | Path | None = None
    affinity: str | Path | None = None
    folder: str | Path | None = None
    irn: str | Path | None = None

    def given(self) -> bool:
        """Whether anything is given."""
        return any(value is not None for value in (self.cam, self.affinity, self.irn, self.folder))


@dataclass(frozen=True)
class Bundle:
    """A loaded model.

    Attributes:
        cam: CAM network, in evaluation mode, or None if it is not needed.
        affinity: AffinityNet, in evaluation mode, or None if it is not needed or not trained yet.
        classes: Names of the mask values 1, 2, ...
        settings: The hyper-parameters that suit the networks.
        path: The folder.
        sources: What a run record says of the model: "model", or "cam_weights" and so on.
        files: The weights that were loaded, by part.
        irn: Boundary network, in evaluation mode, or None if it is not needed or not trained yet.
    """

    cam: CamNetwork | None
    affinity: AffinityNetwork | None
    classes: tuple[str, ...]
    settings: Settings
    path: Path
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    irn: BoundaryNetwork | None = None


@dataclass(frozen=True)
class _Source:
    """What is known of a model before its weights are read.

    Attributes:
        settings: Its networks and hyper-parameters.
        files: Weights by part.
        names: Names of the classes, if a record has them.
        swap: The hint if the two files have been swapped.
        path, sources: As for `Bundle`.
    """

    settings: Settings
    files: Mapping[str, Path]
    names: tuple[str, ...] | None
    swap: str
    path: Path
    sources: Mapping[str, str]


def load_model(
    model: str | Path | None = None,
    preset: str | None = None,
    *,
    weights: Weights | None = None,
    classes: str | Path | None = None,
    parts: Parts | None = None,
    device: torch.device | str = "cpu",
    fetch: Callable[[str], Path] | None = None,
) -> Bundle:
    """Load a model: the embedded one, one in a folder, or the networks of a preset.

    ================== =================================================== =========================================
    given              networks                                            settings
    ================== =================================================== =========================================
    nothing            the embedded model's                                its own
    ``preset``         the preset's, from ``weights`` or ``fetch``         the preset's
    ``model``          the model's                                         the model's
    both               the model's                                         the model's, the preset's hyper-parameters
    ================== =================================================== =========================================

    Args:
        model: "lite" or a folder that `pixaff fit` or `pixaff train-cam` made.
        preset: A name among `pixaff.PRESETS`.
        weights: Files of the preset's networks, or a folder of them.
        classes: Class list. With the CAM network of a folder, it may only confirm the names there. None uses these, or
            those that a training of pixaff wrote into its weights, or for 20 classes without names those of Pascal VOC.
        parts: The networks that are needed, among "cam", "affinity" and "irn", or a function that says so of the
            model's settings; None means all that these name. Those of a folder but for the CAM network may be missing
            nevertheless, if the run has not trained them.
        device: Device of the networks.
        fetch: Returns the path of published weights by their name in the catalogue, for those that ``weights`` lacks.

    Raises:
        UsageError: No preset has that name, nothing says where its weights are, weights are given for a model that has
            its own, or the class names do not match the classes.
        DownloadError: Published weights cannot be downloaded.
        CheckpointError: The folder contains no model, or weights cannot be read or do not fit.
        LabelsError: ``classes`` cannot be read.
    """
    weights = weights or Weights()
    own = _preset_with_networks(model, preset, weights)
    if own is not None:
        source = _of_preset(own, weights, _wanted(parts, own), fetch)
        settings = own
    else:
        lent = None if preset is None else preset_settings(preset)
        source = _in_folder(EMBEDDED if model is None else model, lent, parts)
        settings = source.settings
    names = source.names or VOC_CLASSES
    cam, affinity, irn = None, None, None
    if "cam" in source.files:
        cam, count = _cam_network(source, device)
        names = _confirmed(source.names, classes) if source.names else _names_for(count, source.files["cam"], classes)
    elif classes is not None:
        names = read_classes(classes)
    if "affinity" in source.files:
        affinity = _affinity_network(source, device)
    if "irn" in source.files:
        irn = _boundary_network(source, device)
    return Bundle(cam, affinity, names, settings, source.path, source.sources, source.files, irn)


def parts_of_walk(settings: Settings, cams: bool = True, instances: bool = False) -> tuple[str, ...]:
    """The networks that masks need.

    Args:
        settings: The effective settings.
        cams: Whether the model has to make the CAMs.
        instances: Whether instances are wanted, too.
    """
    affinity = settings.walk != "irn"
    needed = {"cam": cams, "affinity": affinity, "irn": settings.walk != "psa" or instances}
    return tuple(part for part in PARTS if needed[part])


def _wanted(parts: Parts | None, settings: Settings) -> Sequence[str]:
    if parts is None:
        return [part for part in PARTS if network_of(settings, part)]
    return parts(settings) if callable(parts) else parts


def embedded_folder() -> Path:
    """Folder of the model inside the package."""
    return Path(__file__).parent / "embedded"


def shipped_weights(network: str) -> Path | None:
    """File in the package with the weights of a network; None if there is none."""
    if not is_shipped(network):
        return None
    part = part_of(network)
    if part == "seg":
        own = embedded_folder() / SEG
        return own if own.is_file() else embedded_folder() / CAM  # which has the same backbone
    return embedded_folder() / FILES[part]


def _preset_with_networks(model: str | Path | None, preset: str | None, weights: Weights) -> Settings | None:
    """The preset whose networks a run uses, or None if it uses those of a model, given or embedded.

    Raises:
        UsageError: No preset has that name, or weights are given without a preset.
    """
    settings = preset_settings(preset or EMBEDDED)
    foreign = not is_shipped(settings.cam)
    if model is None and foreign:
        return settings
    if weights.given():
        presets = ", ".join(name for name, other in PRESETS.items() if not is_shipped(other.cam))
        reason = "a model, which has its own" if model is not None else f"no preset that needs them ({presets})"
        raise UsageError(
            f"found weights of networks and {reason}", "give weights with --preset, and --model without weights"
        )
    return None


def _in_folder(model: str | Path, lent: Settings | None, parts: Parts | None) -> _Source:
    """The embedded model, or the one in a folder, with its own hyper-parameters or with lent ones."""
    folder = embedded_folder() if str(model) == EMBEDDED else Path(model)
    try:
        recorded, trained = (folder / RECORD).is_file(), (folder / CAM).is_file()
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror}", "check its permissions") from None
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder", f'check the path, or give "{EMBEDDED}"')
    if recorded:
        names, settings = read_record(folder / RECORD)
    elif trained:
        names, settings = read_header(folder / CAM)
    else:
        raise CheckpointError(
            f"{folder} contains neither {RECORD} nor {CAM}",
            f'give "{EMBEDDED}" or the folder of a finished `pixaff fit` or `pixaff train-cam`',
        )
    check_model(folder / (RECORD if recorded else CAM), names, settings)
    settings = settings if lent is None else settings.with_hyper_parameters_of(lent)
    wanted = [part for part in _wanted(parts, settings) if network_of(settings, part)]
    files = {part: folder / FILES[part] for part in wanted if part == "cam" or (folder / FILES[part]).is_file()}
    return _Source(settings, files, names, f"swap {CAM} and {AFFINITY}", folder, {"model": str(model)})


def _of_preset(
    settings: Settings, weights: Weights, parts: Sequence[str], fetch: Callable[[str], Path] | None
) -> _Source:
    """The networks of a preset: from the given files and folder, or else the published ones."""
    named = {"cam": weights.cam, "affinity": weights.affinity, "irn": weights.irn}
    if without := [part for part in parts if not network_of(settings, part)]:
        kinds = {"affinity": "AffinityNet, which the walks psa and both need", "irn": "network of class boundaries"}
        raise UsageError(
            f"preset {settings.preset} has no {kinds[without[0]]}", "choose the walk that it is for: --walk irn or psa"
        )
    files = {part: Path(path) for part in parts if (path := named[part]) is not None}
    absent = [part for part in parts if part not in files]
    if absent and weights.folder is not None:
        files |= weights_in_folder(settings, weights.folder, absent)
    elif absent:
        files |= _published(settings, absent, fetch)
    files = {part: files[part] for part in parts}
    sources = {f"{part}_weights": str(path) for part, path in files.items()}
    swap = f"swap {' and '.join(f'--{part}-weights' for part in parts)}"
    return _Source(settings, files, None, swap, files[parts[0]].parent, sources)


def _published(settings: Settings, parts: Sequence[str], fetch: Callable[[str], Path] | None) -> dict[str, Path]:
    """Weights files for the parts of a preset for which no option gives any: the published ones, from the cache."""
    networks = {part: network_of(settings, part) for part in parts}
    known = {part: name for part, network in networks.items() if (name := published_weights(network)) is not None}
    lacking = [part for part in parts if fetch is None or part not in known]
    if fetch is None or lacking:
        options = " and ".join(f"--{part}-weights FILE" for part in lacking)
        raise UsageError(
            f"preset {settings.preset} needs weights of {' and '.join(networks[part] for part in lacking)}",
            f"give {options}, or --weights-dir DIR; with --model lite the preset lends its hyper-parameters to the "
            "embedded model",
        )
    files: dict[str, Path] = {}
    for part, name in known.items():
        path = fetch(name)
        files[part] = path if path.is_file() else weights_in_folder(settings, path, [part])[part]
    return files


def _cam_network(source: _Source, device: torch.device | str) -> tuple[CamNetwork, int]:
    """The CAM network, and its number of classes: that of the names, or else that of the weights."""
    name, path = source.settings.cam, source.files["cam"]
    state = read_state_dict(path)
    count = len(source.names) if source.names else count_classes(name, state)
    if count == IMAGENET_CLASSES and source.names is None:
        raise start_error(path, name)
    with _named(path):
        network = create_cam_network(name, count)
    return _loaded(network, state, "cam", source, device), count


def _affinity_network(source: _Source, device: torch.device | str) -> AffinityNetwork:
    path = source.files["affinity"]
    with _named(path):
        network = create_affinity_network(source.settings.affinity)
    return _loaded(network, read_state_dict(path), "affinity", source, device)


def _boundary_network(source: _Source, device: torch.device | str) -> BoundaryNetwork:
    path = source.files["irn"]
    with _named(path):
        network = create_boundary_network(source.settings.irn)
    return _loaded(network, read_weights(path), "irn", source, device)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Create a network; name the weights if that cannot be, as with one that this version of timm does not have."""
    try:
        with WithoutInitialValues():
            yield
    except UsageError as error:
        raise CheckpointError(f"{path}: {error.message}", error.hint) from None


def _loaded(network: N, state: Mapping[str, Tensor], part: str, source: _Source, device: torch.device | str) -> N:
    """A network with its weights, ready for use."""
    path = source.files[part]
    try:
        return ready(load_state(network, state, path), device)
    except CheckpointError:
        names = [name for each in PARTS if (name := network_of(source.settings, each))]
        own, found = network_of(source.settings, part), recognised(state, names)
        if found is not None and found != own:
            raise CheckpointError(
                f"{path}: found the weights of {found}, expected those of {own}", source.swap
            ) from None
        raise


def _confirmed(known: tuple[str, ...], classes: str | Path | None) -> tuple[str, ...]:
    """The names of a model's classes, which a file may confirm but not change."""
    names = known if classes is None else read_classes(classes)
    if names != known:
        raise UsageError(
            f"{classes} names {len(names)} classes ({first_few(names)}), "
            f"the model knows {len(known)} ({first_few(known)})",
            "omit --classes, or train a model for these classes: pixaff fit",
        )
    return known


def _names_for(count: int, path: Path, classes: str | Path | None) -> tuple[str, ...]:
    """Names of the mask values 1, 2, ... for weights of so many classes."""
    if classes is not None:
        names = read_classes(classes)
        if len(names) != count:
            raise UsageError(f"{classes} names {len(names)} classes, {path} is for {count}", "give as many names")
        return names
    try:
        recorded = parse_json(read_metadata(path).get("classes", "[]"))
    except ValueError:
        recorded = []
    if isinstance(recorded, list) and len(recorded) == count:
        return tuple(str(name) for name in recorded)
    if count != len(VOC_CLASSES):
        raise UsageError(f"{path} is for {count} classes and does not name them", "give --classes FILE")
    return VOC_CLASSES
