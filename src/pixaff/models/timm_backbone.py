"""timm's networks, without their downloads, and a CAM network and an AffinityNet on any of them with feature maps.

Both work at stride 8. If the backbone can be dilated (timm's ``output_stride=8``: ResNet, RegNet, EfficientNet,
MobileNet, ConvNeXt, ...), its last levels have that stride. If it cannot (vision transformers, Swin, VGG, DenseNet,
...), its deeper levels stay coarse, and the features made from them are enlarged, bilinearly.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.errors import QUOTED, PixaffError, UsageError, quoted, shortened
from pixaff.models.base import AffinityNetwork, CamNetwork, Family, Network

STRIDE = 8
OPTIONS: tuple[dict[str, Any], ...] = (
    {"features_only": True, "output_stride": STRIDE},
    {"features_only": True, "dynamic_img_size": True},
    {"features_only": True},
)
"""Ways to create a backbone, the best first: dilated; a transformer for images of any size; as it is."""
LEVELS = 3


class TimmBackbone(nn.Module):
    """The feature levels of a timm network; batch norm always uses its stored statistics.

    Args:
        name: timm's name, with or without the tag of pretrained weights, which may decide mean and std.

    Attributes:
        mean, std: Mean and standard deviation of the colours from 0 to 1, as timm has them.
        channels: Channels of each level.

    Raises:
        UsageError: timm has no such network, or it gives no feature maps for images of any size.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = _feature_network(name)
        info: Any = self.net.feature_info
        config: Any = self.net.pretrained_cfg
        self.mean, self.std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
        self.channels = tuple(int(count) for count in info.channels())
        # Padded to it, an image consists of whole cells at every level and at stride 8.
        self.unit = math.lcm(STRIDE, *(int(reduction) for reduction in info.reduction()))
        self.rows_last = self._probe(name)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B,3,H,W), H and W multiples of ``unit`` -> levels (B,C,h,w), fine to coarse."""
        levels = self.net(x)
        return [level.permute(0, 3, 1, 2) for level in levels] if self.rows_last else list(levels)

    def _probe(self, name: str) -> bool:
        """Whether the levels are (B,h,w,C), as an image of unusual size shows."""
        side = self.unit * -(-96 // self.unit)
        try:
            with torch.no_grad():
                levels = self.net.eval()(torch.zeros(1, 3, side, side + self.unit))
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            raise UsageError(
                f"timm:{name} does not accept images of any size: {shortened(error, 200) or type(error).__name__}",
                "use a convolutional network, such as timm:resnet50, or timm:vit_small_patch16_224",
            ) from error
        shapes = [tuple(level.shape) for level in levels]
        for at in (1, 3):
            if all(len(shape) == 4 and shape[at] == count for shape, count in zip(shapes, self.channels, strict=True)):
                return at == 3
        raise UsageError(
            f"timm:{name} gives no feature maps: found shapes {shapes}, expected (1, C, h, w)",
            "use a convolutional network, such as timm:resnet50",
        )


class _OnBackbone(Network):
    """What the two networks share: the backbone and its initial weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = TimmBackbone(name)
        self.mean, self.std = self.backbone.mean, self.backbone.std

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a timm file under this network's names; a file from pixaff stays as it is.

        timm renames the layers of a network that is used for features: "stages.0" becomes "stages_0" or
        "model.stages.0". Its own classifier and the like become "timm.fc" and so on, which matches nothing here.
        """
        prefix = "backbone.net."
        if any(name.startswith(prefix) for name in state):
            return dict(state)
        own = {
            name.removeprefix(prefix).removeprefix("model.").replace(".", "_"): name
            for name in self.state_dict()
            if name.startswith(prefix)
        }
        return {own.get(name.replace(".", "_"), f"timm.{name}"): tensor for name, tensor in state.items()}

    def levels(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B,3,H,W), padded at the right and bottom with zeros -> all levels of the backbone."""
        unit = self.backbone.unit
        levels: list[Tensor] = self.backbone(F.pad(x, (0, -x.shape[3] % unit, 0, -x.shape[2] % unit)))
        return levels

    def at_stride(self, maps: Tensor, x: Tensor) -> Tensor:
        """Maps (B,C,h,w) of a level of ``levels(x)`` -> (B,C,ceil(H / 8),ceil(W / 8))."""
        unit, height, width = self.backbone.unit, *x.shape[2:]
        size = [(side + unit - 1) // unit * unit // STRIDE for side in (height, width)]
        if list(maps.shape[2:]) != size:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return maps[:, :, : (height + STRIDE - 1) // STRIDE, : (width + STRIDE - 1) // STRIDE]


class TimmCam(_OnBackbone, CamNetwork):
    """Classifier whose weights, applied to every cell, give the CAMs (Zhou et al., CVPR 2016; section 3.1).

    Args:
        name: timm's name of the backbone.
        num_classes: Foreground classes K.

    Raises:
        UsageError: See `TimmBackbone`.
    """

    new = ("classifier",)

    def __init__(self, name: str, num_classes: int = 20) -> None:
        super().__init__(name)
        self.classifier = nn.Conv2d(self.backbone.channels[-1], num_classes, 1, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K): the average of the class scores over the image."""
        return self._rows(x).mean((2, 3))

    def cam(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> maps (B,K,h,w) >= 0, h = ceil(H / 8): the relu of the class scores."""
        return F.relu(self._rows(x))

    def _rows(self, x: Tensor) -> Tensor:
        # Enlarged after the 1x1 convolution: the result is the same, with far less work.
        return self.at_stride(self.classifier(self.levels(x)[-1]), x)


class TimmAffinity(_OnBackbone, AffinityNetwork):
    """AffinityNet (section 3.2) on the last three levels of the backbone.

    1x1 convolutions to 64, 128 and 256 channels, group norm, ELU, concatenated at stride 8, 1x1 convolution to 448,
    ELU. The group norm is that of the published VGG-16 network: without it, features of an unknown scale would drive
    every affinity to 0, where the loss has no slope.

    Args:
        name: timm's name of the backbone.

    Raises:
        UsageError: See `TimmBackbone`, or it has fewer than three levels.
    """

    new = ("reduce", "norms", "merge")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        channels = self.backbone.channels[-LEVELS:]
        if len(channels) < LEVELS:
            raise UsageError(
                f"timm:{name} has {len(channels)} levels of features, an AffinityNet needs {LEVELS}",
                "choose another backbone",
            )
        sizes = (64, 128, 256)
        self.reduce = nn.ModuleList(nn.Conv2d(c, size, 1, bias=False) for c, size in zip(channels, sizes, strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(size // 8, size) for size in sizes)
        self.merge = nn.Conv2d(sum(sizes), sum(sizes), 1, bias=False)
        for conv in self.reduce:
            nn.init.kaiming_normal_(conv.get_parameter("weight"))
        nn.init.xavier_uniform_(self.merge.weight, gain=4)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> features (B,448,h,w) with h = ceil(H / 8)."""
        levels = self.levels(x)[-LEVELS:]
        parts = [
            self.at_stride(F.elu(norm(conv(level))), x)
            for conv, norm, level in zip(self.reduce, self.norms, levels, strict=True)
        ]
        return F.elu(self.merge(torch.cat(parts, 1)))


def import_timm() -> ModuleType:
    """The package.

    Raises:
        PixaffError: torchvision, which timm needs, does not fit the installed torch.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise PixaffError(
            f"timm cannot be imported: {str(error).splitlines()[0]}",
            "torch and torchvision must come from one source: pip install --force-reinstall torch torchvision, "
            "both from the same index",
        ) from error
    module: ModuleType = timm
    return module


def timm_model(name: str, **options: Any) -> nn.Module:
    """A network of timm with random weights.

    Raises:
        PixaffError: See `import_timm`.
    """
    model: nn.Module = import_timm().create_model(name, pretrained=False, **options)
    return model


def _feature_network(name: str) -> nn.Module:
    """The network of that name as its feature levels, with random weights."""
    timm = import_timm()
    # Also refuses "hf-hub:..." and the like, which would access the network.
    if not timm.is_model(name):
        near = difflib.get_close_matches(name[:QUOTED], timm.list_models(), 3)
        raise UsageError(
            f"timm {timm.__version__} has no network called {quoted(name)}",
            f"did you mean {' or '.join(f'timm:{match}' for match in near)}?" if near else "see timm.list_models()",
        )
    refused: Exception | None = None
    for options in OPTIONS:
        try:
            return timm_model(name, **options)
        # What timm raises for an option that a network does not know differs from network to network.
        except (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
            refused = error
    raise UsageError(
        f"timm:{name} gives no feature maps: {shortened(refused, 200)}",
        "use a convolutional network, such as timm:resnet50",
    ) from refused


FAMILY = Family("timm", cam=TimmCam, affinity=TimmAffinity)
