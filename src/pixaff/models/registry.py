"""The networks by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from pixaff.errors import UsageError
from pixaff.models.hybrid import HybridAffinity, HybridCam
from pixaff.models.lite import LiteAffinity, LiteCam
from pixaff.models.resnet38 import ResNet38Affinity, ResNet38Cam
from pixaff.models.vgg16 import Vgg16Affinity, Vgg16Cam

_CAM: dict[str, Callable[[int], nn.Module]] = {
    "lite_cam": LiteCam,
    "vgg16_cam": Vgg16Cam,
    "resnet38_cam": ResNet38Cam,
    "hybrid_cam": HybridCam,
}
_AFFINITY: dict[str, Callable[[], nn.Module]] = {
    "lite_affinity": LiteAffinity,
    "vgg16_affinity": Vgg16Affinity,
    "resnet38_affinity": ResNet38Affinity,
    "hybrid_affinity": HybridAffinity,
}


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return [*_CAM, *_AFFINITY]


def create_model(name: str, num_classes: int = 20, image_size: int | None = None) -> nn.Module:
    """A network with random weights, in evaluation mode.

    Args:
        name: One of `list_models()`.
        num_classes: Foreground classes of a CAM network; an AffinityNet knows none.
        image_size: Side in pixels of the images of "hybrid_cam"; None means 448, or what weights that are loaded are
            made for. The other networks take images of any size.

    Raises:
        UsageError: No network has that name, or there is no class.
    """
    if num_classes < 1:
        raise UsageError(f"found {num_classes} classes, expected at least 1")
    if name == "hybrid_cam":
        return HybridCam(num_classes, image_size).eval()
    if image_size is not None:
        raise UsageError(f"found the image size {image_size} for {name}, which takes any", "leave it out")
    if name in _CAM:
        return _CAM[name](num_classes).eval()
    if name in _AFFINITY:
        return _AFFINITY[name]().eval()
    near = difflib.get_close_matches(name, list_models(), 1)
    raise UsageError(
        f"no network is called {name!r}",
        f"did you mean {near[0]}?" if near else f"networks: {', '.join(list_models())}",
    )
