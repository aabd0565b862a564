"""Any segmentation network of segmentation-models-pytorch, with any of its encoders.

A name is ``seg:ARCHITECTURE:ENCODER``: an architecture of the library in small letters (unet, unetplusplus, manet,
linknet, fpn, pspnet, pan, deeplabv3, deeplabv3plus, upernet, segformer, dpt) and one of its encoders, such as resnet34
or, for those of timm, tu-convnext_tiny.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.errors import QUOTED, PixaffError, UsageError, quoted, shortened
from pixaff.models.base import Family, SegNetwork
from pixaff.models.timm_backbone import import_timm

TIMM = "tu-"
"""Prefix of the library's names for encoders of timm."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours of most encoders."""
UNIT = 32
"""Images are padded to a multiple of it: the coarsest level of every encoder but a few transformers'."""


class SmpNetwork(SegNetwork):
    """A segmentation network of segmentation-models-pytorch.

    Args:
        architecture: The library's name in small letters.
        encoder: The library's name, "tu-" in front of timm's.
        num_classes: Foreground classes K.

    Raises:
        UsageError: There is no such architecture or encoder, or they do not go together.
        PixaffError: The library is not installed.
    """

    encoder = ("net.encoder",)

    def __init__(self, architecture: str, encoder: str, num_classes: int = 20) -> None:
        super().__init__()
        self.num_classes = num_classes
        library = import_smp()
        known = library.MODEL_ARCHITECTURES_MAPPING
        if architecture not in known:
            raise _unknown("architecture", architecture, list(known))
        encoders = [*library.encoders.encoders, *(f"{TIMM}{name}" for name in import_timm().list_models())]
        plain = encoder.partition(".")[0] if encoder.startswith(TIMM) else encoder
        if plain not in encoders:
            raise _unknown("encoder", encoder, encoders)
        try:
            self.net: nn.Module = library.create_model(
                architecture, encoder, encoder_weights=None, classes=num_classes + 1
            )
            # Some encoders accept images of one size only, as one of unusual shape shows.
            with torch.no_grad():
                self.net.eval()(torch.zeros(1, 3, 4 * UNIT, 5 * UNIT))
        # What the library and timm raise for an encoder that does not suit differs from one to the other.
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError, NotImplementedError) as error:
            raise UsageError(
                f"seg:{architecture}:{encoder} cannot be used: {shortened(error, 200)}",
                "choose another encoder, such as resnet34 or tu-convnext_tiny",
            ) from error
        self.mean, self.std = _colours(library, encoder)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W), padded at the right and bottom with zeros -> logits (B,K + 1,H,W)."""
        height, width = x.shape[2:]
        # Not -(-side // UNIT): an exporter that follows this call must see a formula of the side.
        rows, columns = (height + UNIT - 1) // UNIT * UNIT, (width + UNIT - 1) // UNIT * UNIT
        logits: Tensor = self.net(F.pad(x, (0, columns - width, 0, rows - height)))
        return logits[:, :, :height, :width]

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file for the encoder alone under this network's names; a file of a whole one stays as it is.

        Files of timm and torchvision have the plain names of the layers, CAM networks of pixaff on a timm backbone
        "backbone.net." in front. timm renames the layers of a network that is used for features: "stages.0" becomes
        "stages_0" or "model.stages.0".
        """
        prefix = f"{self.encoder[0]}."
        if any(name.startswith(prefix) for name in state):
            return dict(state)
        own = {
            name.removeprefix(prefix).removeprefix("model.").removeprefix("model.").replace(".", "_"): name
            for name in self.state_dict()
            if name.startswith(prefix)
        }
        return {
            own.get(name.removeprefix("backbone.net.").replace(".", "_"), f"encoder.{name}"): tensor
            for name, tensor in state.items()
        }


def import_smp() -> ModuleType:
    """The package.

    Raises:
        PixaffError: It is not installed, or does not fit the installed torch.
    """
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise PixaffError(
            f"segmentation-models-pytorch cannot be imported: {str(error).splitlines()[0]}",
            "pip install 'pixaff[seg]', or use lite_seg, which does not need it",
        ) from error


def _colours(library: Any, encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the colours that an encoder expects."""
    if encoder.startswith(TIMM):
        config: Any = import_timm().get_pretrained_cfg(encoder.removeprefix(TIMM))
        mean, std = IMAGENET if config is None else (config.mean, config.std)
    else:
        settings: dict[str, Any] = library.encoders.encoders[encoder].get("pretrained_settings") or {}
        found: dict[str, Any] = settings.get("imagenet") or next(iter(settings.values()), {})
        mean, std = found.get("mean", IMAGENET[0]), found.get("std", IMAGENET[1])
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)


def _unknown(kind: str, name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name[:QUOTED], known, 3)
    some = ", ".join(known[:12])
    return UsageError(
        f"segmentation-models-pytorch has no {kind} called {quoted(name)}",
        f"did you mean {' or '.join(near)}?" if near else f"{kind}s: {some}{', ...' if len(known) > 12 else ''}",
    )


FAMILY = Family("seg", seg=SmpNetwork)
