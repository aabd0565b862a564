"""The networks by name, and what goes with each: recipes, presets, weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from pixaff.errors import QUOTED, UsageError, quoted
from pixaff.models import hybrid, lite, resnet38, resnet50, smp, timm_backbone, vgg16
from pixaff.models.base import AffinityNetwork, BoundaryNetwork, CamNetwork, Family, Network, SegNetwork
from pixaff.recipe import Recipe
from pixaff.settings import Settings
from pixaff.weights.catalogue import Entry

FAMILIES: tuple[Family, ...] = (
    lite.FAMILY,
    lite.HEAD,
    vgg16.FAMILY,
    resnet38.FAMILY,
    hybrid.FAMILY,
    resnet50.FAMILY,
)
"""Every network with its own name; a new one is one line here."""

TIMM = "timm:"
"""Prefix of the names of networks on a timm backbone, of which there are too many to list."""
SEG = "seg:"
"""Prefix of the names of segmentation networks of segmentation-models-pytorch: seg:ARCHITECTURE:ENCODER."""

OTHERS = ("timm:NAME", "timm:NAME:affinity", "seg:ARCHITECTURE:ENCODER")
"""How these are written."""

_OF_SETTINGS = ("cam", "affinity", "irn")
"""Parts whose network the settings name."""
PRESETS: dict[str, Settings] = {
    name: settings.replace(preset=name, **{part: family.names.get(part, "") for part in _OF_SETTINGS})
    for family in FAMILIES
    for name, settings in family.presets.items()
}
"""Settings by name: the embedded model's and those of the published networks."""


@dataclass(frozen=True)
class _Entry:
    """What a network's name stands for: its family, its part in it, and the arguments with which it is created."""

    family: Family
    part: str
    arguments: tuple[str, ...] = ()


_ENTRIES = {name: _Entry(family, part) for family in FAMILIES for part, name in family.names.items()}


def list_models() -> list[str]:
    """Names that `create_model` knows, except `OTHERS`: CAM networks, AffinityNets, IRNs, segmentation networks."""
    parts = ("cam", "affinity", "irn", "seg")
    return [name for part in parts for name, entry in _ENTRIES.items() if entry.part == part]


def create_model(name: str, num_classes: int = 20, image_size: int | None = None) -> Network:
    """A network with random weights, in evaluation mode.

    Args:
        name: One of `list_models()`; or "timm:NAME", a CAM network on timm's backbone NAME, "timm:NAME:affinity", an
            AffinityNet on it, or "seg:ARCHITECTURE:ENCODER", a segmentation network. A name describes a network
            completely, because weights and model folders contain nothing else.
        num_classes: Foreground classes of a CAM or segmentation network; other networks have none.
        image_size: Side in pixels of the images of "hybrid_cam"; None means 448, or the size of the weights that are
            loaded. The other networks accept images of any size.

    Returns:
        A `CamNetwork`, an `AffinityNetwork`, a `BoundaryNetwork` or a `SegNetwork`; `create_cam_network` and so on say
        which.

    Raises:
        UsageError: No network has that name, there is no class, or the backbone cannot be used (see `TimmBackbone`).
    """
    part = _find(name).part
    if part == "seg" and image_size is None:
        return create_seg_network(name, num_classes)
    if part != "cam" and image_size is None and num_classes >= 1:
        return create_affinity_network(name) if part == "affinity" else create_boundary_network(name)
    return create_cam_network(name, num_classes, image_size)


def create_cam_network(name: str, num_classes: int = 20, image_size: int | None = None) -> CamNetwork:
    """`create_model` for a CAM network.

    Raises:
        UsageError: As `create_model`, or the network makes no CAMs.
    """
    entry = _find(name)
    network = entry.family.cam
    if num_classes < 1:
        raise UsageError(f"found {num_classes} classes, expected at least 1")
    if image_size is not None and (network is None or entry.part != "cam" or not network.sized):
        raise UsageError(f"found the image size {image_size} for {name}, which accepts any", "omit it")
    if network is None or entry.part != "cam":
        raise UsageError(f"{name} makes no CAMs", f"choose a CAM network, such as {_other(name, 'cam')}")
    sizes = {} if image_size is None else {"image_size": image_size}
    return network(*entry.arguments, num_classes, **sizes).eval()


def create_affinity_network(name: str) -> AffinityNetwork:
    """`create_model` for an AffinityNet.

    Raises:
        UsageError: As `create_model`, or the network is not an AffinityNet.
    """
    entry = _find(name)
    network = entry.family.affinity
    if network is None or entry.part != "affinity":
        raise UsageError(f"{name} is not an AffinityNet", f"choose one, such as {_other(name, 'affinity')}")
    return network(*entry.arguments).eval()


def create_boundary_network(name: str) -> BoundaryNetwork:
    """`create_model` for a network of class boundaries and displacements.

    Raises:
        UsageError: As `create_model`, or the network is not one of these.
    """
    entry = _find(name)
    network = entry.family.irn
    if network is None or entry.part != "irn":
        raise UsageError(f"{name} predicts no boundaries", f"choose a network that does, such as {_other(name, 'irn')}")
    return network(*entry.arguments).eval()


def create_seg_network(name: str, num_classes: int = 20) -> SegNetwork:
    """`create_model` for a segmentation network.

    Raises:
        UsageError: As `create_model`, or the network is not one of these.
    """
    entry = _find(name)
    network = entry.family.seg
    if num_classes < 1:
        raise UsageError(f"found {num_classes} classes, expected at least 1")
    if network is None or entry.part != "seg":
        raise UsageError(f"{name} is no segmentation network", f"choose one, such as {_other(name, 'seg')}")
    return network(*entry.arguments, num_classes).eval()


def cam_recipe(network: str) -> Recipe:
    """How a CAM network is trained by default."""
    return _find(network).family.cam_recipe


def affinity_recipe(network: str) -> Recipe:
    """How an AffinityNet is trained by default."""
    return _find(network).family.affinity_recipe


def irn_recipe(network: str) -> Recipe:
    """How a boundary network is trained by default."""
    return _find(network).family.irn_recipe


def seg_recipe(network: str) -> Recipe:
    """How a segmentation network is trained by default."""
    return _find(network).family.seg_recipe


def head_recipe(network: str) -> Recipe | None:
    """How a CAM network's segmentation head is trained by default; None if it has none."""
    return _find(network).family.head_recipe


def has_segmentation_head(network: str) -> bool:
    """Whether a CAM network has a segmentation head; see `pixaff.models.base.CamNetwork`."""
    kind = _find(network).family.cam
    return kind is not None and kind.has_segmentation_head


def preset_settings(name: str) -> Settings:
    """The settings of a preset, its networks among them.

    Raises:
        UsageError: No preset has that name.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset is called {quoted(name)}", f"presets: {', '.join(PRESETS)}")
    return PRESETS[name]


def settings_of_network(cam: str, walk: str = "psa") -> Settings:
    """The settings that suit a CAM network and a walk.

    Those of the first preset with both, or else with the network; for one without presets those of lite.
    """
    suiting = [settings for settings in PRESETS.values() if settings.cam == cam]
    suiting = suiting or [settings.replace(cam=cam) for settings in PRESETS.values() if settings.cam == "lite_cam"]
    return next((settings for settings in suiting if settings.walk == walk), suiting[0])


def published_weights(network: str) -> str | None:
    """Name in the catalogue of the published weights of a network; None if there are none."""
    entry = _ENTRIES.get(network)
    weights = None if entry is None else entry.family.weights.get(entry.part)
    return None if weights is None else weights.name


def published_entries() -> tuple[Entry, ...]:
    """What can be downloaded for the networks, each once."""
    return tuple({entry.name: entry for family in FAMILIES for entry in family.weights.values()}.values())


def part_of(network: str) -> str:
    """Which part of a model a network is: "cam", "affinity", "irn" or "seg".

    Raises:
        UsageError: No network has that name.
    """
    return _find(network).part


def is_shipped(network: str) -> bool:
    """Whether the weights of a network are in the package."""
    return network in _ENTRIES and _ENTRIES[network].family.shipped


def _find(name: str) -> _Entry:
    """What a name stands for.

    Raises:
        UsageError: Nothing.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    if name.startswith(TIMM):
        backbone, _, kind = name.removeprefix(TIMM).partition(":")
        if kind not in ("", "affinity"):
            raise UsageError(f"found {quoted(name)}, expected timm:NAME or timm:NAME:affinity")
        return _Entry(timm_backbone.FAMILY, kind or "cam", (backbone,))
    if name.startswith(SEG):
        architecture, _, encoder = name.removeprefix(SEG).partition(":")
        if not architecture or not encoder:
            raise UsageError(f"found {quoted(name)}, expected seg:ARCHITECTURE:ENCODER, such as seg:fpn:tu-resnet18")
        return _Entry(smp.FAMILY, "seg", (architecture, encoder))
    near = difflib.get_close_matches(name[:QUOTED], list_models(), 1)
    raise UsageError(
        f"no network is called {quoted(name)}",
        f"did you mean {near[0]}?" if near else f"networks: {', '.join([*list_models(), *OTHERS])}",
    )


def _other(name: str, part: str) -> str:
    """A network of another kind: that of the same family, or else the first one."""
    if name.startswith(TIMM) and part in ("cam", "affinity"):
        return name.removesuffix(":affinity") if part == "cam" else f"{name}:affinity"
    own = {} if name.startswith((TIMM, SEG)) else _find(name).family.names
    return own.get(part) or next(found for found, entry in _ENTRIES.items() if entry.part == part)
