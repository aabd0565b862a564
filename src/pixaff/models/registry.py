"""The networks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from pixaff.errors import UsageError
from pixaff.models.anybackbone import AnyAffinity, AnyCam
from pixaff.models.lite import LiteAffinity, LiteCam
from pixaff.models.resnet38 import ResNet38Affinity, ResNet38Cam
from pixaff.models.vgg16 import Vgg16Affinity, Vgg16Cam

_CAM: dict[str, Callable[[int], nn.Module]] = {
    "lite_cam": LiteCam,
    "vgg16_cam": Vgg16Cam,
    "resnet38_cam": ResNet38Cam,
}
_AFFINITY: dict[str, Callable[[], nn.Module]] = {
    "lite_affinity": LiteAffinity,
    "vgg16_affinity": Vgg16Affinity,
    "resnet38_affinity": ResNet38Affinity,
}

TIMM = "timm:"
"""Begins the names of networks on a backbone of timm, of which there are too many to list."""


def list_models() -> list[str]:
    """Names that `create_model` knows, besides those on a backbone of timm."""
    return [*_CAM, *_AFFINITY]


def create_model(name: str, num_classes: int = 20) -> nn.Module:
    """A network with random weights, in evaluation mode.

    Args:
        name: One of `list_models()`; or "timm:NAME", a CAM network on timm's backbone NAME, or
            "timm:NAME:affinity", an AffinityNet on it. A name says all about a network, as it is also what weights
            and model folders carry.
        num_classes: Foreground classes of a CAM network; an AffinityNet knows none.

    Raises:
        UsageError: No network has that name, there is no class, or the backbone cannot serve (see `AnyBackbone`).
    """
    if num_classes < 1:
        raise UsageError(f"found {num_classes} classes, expected at least 1")
    if name in _CAM:
        return _CAM[name](num_classes).eval()
    if name in _AFFINITY:
        return _AFFINITY[name]().eval()
    if name.startswith(TIMM):
        backbone, _, kind = name.removeprefix(TIMM).partition(":")
        if kind not in ("", "affinity"):
            raise UsageError(f"found {name!r}, expected timm:NAME or timm:NAME:affinity")
        return (AnyAffinity(backbone) if kind else AnyCam(backbone, num_classes)).eval()
    near = difflib.get_close_matches(name, list_models(), 1)
    raise UsageError(
        f"no network is called {name!r}",
        f"did you mean {near[0]}?" if near else f"networks: {', '.join(list_models())}, timm:NAME, timm:NAME:affinity",
    )
