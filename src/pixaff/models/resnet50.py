"""ResNet-50 of IRN (Ahn, Cho & Kwak, CVPR 2019, arXiv 1904.05044), as a CAM network and as the network of its name.

Backbone: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, in torchvision's layout, with strides 2,
2, 2, 1 and no dilation: features at stride 16. State dict names are those of the published weights, without the second
and third names of the same tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pixaff.errors import CheckpointError
from pixaff.models.base import IRN_RECIPE, BoundaryNetwork, CamNetwork, Family, MeanShift, Network
from pixaff.models.timm_backbone import timm_model
from pixaff.ops.cam import SCALES, Picture, divided_by_maximum, scale_maps
from pixaff.settings import Settings
from pixaff.weights.catalogue import published

CHANNELS = (64, 256, 512, 1024, 2048)
"""Channels of the levels: after the first pool, and after each of the four stages."""
STRIDE = 16
CAM_STRIDE = 4
"""Stride of the CAMs from which the walk starts, and of boundaries and displacements."""
SMALLEST = 512
"""Side in pixels to which smaller images are padded for boundaries: the crop of the training."""

_IMAGENET = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
_LEFTOVER = ("path_indices", "disp_target")
"""Prefixes of the names of buffers that a training with the published code leaves in its weights."""


def _stages(layers: Mapping[str, str]) -> dict[str, str]:
    """Prefixes of the names that the published stages give to layers of the backbone: ``{"1.4": "layer1"}``.

    The fifth layer of the first stage is called stage1.4 and backbone.0.4 there.
    """
    names = {}
    for place, layer in layers.items():
        stage, at = place.split(".")
        for name in (f"stage{stage}", f"backbone.{int(stage) - 1}"):
            names[f"{name}.{at}."] = f"resnet50.{layer}."
    return names


class _ResNet50(Network):
    """What the two networks share: the backbone, and the names of its tensors in published files.

    Attributes:
        aliases: Prefixes of further names of tensors in published files, and of their names here. The first prefix of a
            name counts.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.resnet50 = timm_model("resnet50", num_classes=0, global_pool="")
        for name in ("conv2", "downsample.0"):
            conv = self.resnet50.get_submodule(f"layer4.0.{name}")
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (1, 1)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B,3,H,W) -> levels of `CHANNELS`, at strides 4, 4, 8, 16 and 16, sizes rounded up."""
        for name in ("conv1", "bn1", "act1", "maxpool"):
            x = self.resnet50.get_submodule(name)(x)
        levels = [x]
        for stage in range(1, len(CHANNELS)):
            levels.append(self.resnet50.get_submodule(f"layer{stage}")(levels[-1]))
        return levels

    def freeze(self) -> None:
        """Freeze the frozen layers; other batch norms learn their scale and shift, as published."""
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)

    def own_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of torchvision's or timm's ImageNet weights, under this network's names."""
        return {f"resnet50.{name}" if name.startswith(_IMAGENET) else name: tensor for name, tensor in state.items()}

    def adapted_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a published file, each under one name, without what a training leaves there.

        Raises:
            CheckpointError: Two names of one tensor have different content.
        """
        found: dict[str, tuple[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith(_LEFTOVER):
                continue
            alias = next((alias for alias in self.aliases if name.startswith(alias)), None)
            own = name if alias is None else self.aliases[alias] + name.removeprefix(alias)
            first, other = found.setdefault(own, (name, tensor))
            if not _same(other, tensor):
                raise CheckpointError(
                    f"found different tensors in {first} and {name}, expected one, that of {own}",
                    "the file mixes two trainings; save the state dict of one network",
                )
        return {own: tensor for own, (_, tensor) in found.items()}


class IrnCams(NamedTuple):
    """CAMs of one image at the two sizes that IRN uses, each divided by its maximum + 1e-5."""

    cam: Tensor
    """float32 (C, ceil(H / 4), ceil(W / 4)): what is walked."""
    high_res: Tensor
    """float32 (C, H, W): what labels are made of."""


class ResNet50Cam(_ResNet50, CamNetwork):
    """Classifier whose weights, applied to every cell, give the CAMs.

    Args:
        num_classes: Foreground classes K.
    """

    new = ("classifier",)
    frozen = ("resnet50.conv1", "resnet50.bn1", "resnet50.layer1", "resnet50.layer2")
    bytes_per_pixel = 290
    aliases: ClassVar[Mapping[str, str]] = {
        **_stages({"1.0": "conv1", "1.1": "bn1", "1.4": "layer1", "2.0": "layer2", "3.0": "layer3", "4.0": "layer4"}),
        "newly_added.0.": "classifier.",
    }

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(CHANNELS[-1], num_classes, 1, bias=False)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K)."""
        return self.classifier(self.levels(x)[-1].mean((2, 3), keepdim=True)).flatten(1)

    def cam(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> maps (B,K,h,w) >= 0, h = ceil(H / 16): the relu of the class scores."""
        return F.relu(self.classifier(self.levels(x)[-1]))

    def normalized_cams(
        self, image: Picture, classes: Sequence[int], scales: Sequence[float] = SCALES, flip: bool = True
    ) -> Tensor:
        """CAMs of one image, float32 (C,H,W) in 0..1: ``high_res`` of `irn_cams`."""
        return self.irn_cams(image, classes, scales, flip).high_res

    def two_cams(
        self, image: Picture, classes: Sequence[int], scales: Sequence[float] = SCALES, flip: bool = True
    ) -> tuple[Tensor, Tensor]:
        """``high_res`` and ``cam`` of `irn_cams`."""
        cams = self.irn_cams(image, classes, scales, flip)
        return cams.high_res, cams.cam

    @torch.inference_mode()
    def irn_cams(
        self, image: Picture, classes: Sequence[int], scales: Sequence[float] = SCALES, flip: bool = True
    ) -> IrnCams:
        """CAMs of one image, summed over scales and mirror images, at stride 4 and at the image's size.

        For the first, the maps of each scale are resized to the stride-4 size; for the second, to the next multiples of
        16 of the image's sides, and cropped to the image (bilinear, align_corners false).

        Args:
            image: uint8 (H,W,3) RGB or a PIL image.
            classes: 0-based classes that are present.
            scales: Factors on the image's sides.
            flip: Whether to sum the maps of mirror images as well.

        Raises:
            ValueError: No class, a class that the network lacks, or no scale.
        """
        height, width = image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2]
        small = (-(-height // CAM_STRIDE), -(-width // CAM_STRIDE))
        large = (-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE)
        totals: list[Tensor] = []
        for maps in scale_maps(self, image, classes, scales, flip):
            both = [F.interpolate(maps, size, mode="bilinear", align_corners=False)[0] for size in (small, large)]
            totals = [total + one for total, one in zip(totals, both, strict=True)] if totals else both
        return IrnCams(divided_by_maximum(totals[0]), divided_by_maximum(totals[1][:, :height, :width]))


class ResNet50Irn(_ResNet50, BoundaryNetwork):
    """Inter-pixel relation network (IRN, section 3): a branch of class boundaries and one of displacements.

    Boundaries: all five levels, 1x1 convolutions to 32 channels each, group norm, ReLU, at stride 4, 1x1 convolution to
    one. Displacements: the three coarse levels, to 256 channels each at stride 8, merged to 256, with the two fine ones
    at stride 4 merged to 256, 1x1 convolution to dy and dx. The displacement branch learns at ten times the rate of the
    boundary branch.
    """

    new = ("fc_dp1", "fc_dp2", "fc_dp3", "fc_dp4", "fc_dp5", "fc_dp6", "fc_dp7")
    frozen = ("resnet50",)
    bytes_per_pixel = 830
    size_divisor = 32
    mean_of_padding = True
    aliases: ClassVar[Mapping[str, str]] = {
        **_stages({"1.0": "conv1", "1.1": "bn1", "2.0": "layer1", "3.0": "layer2", "4.0": "layer3", "5.0": "layer4"}),
        **{f"edge_layers.{number - 1}.": f"fc_edge{number}." for number in range(1, 7)},
        "fc_dp7.4.": "mean_shift.",
        "dp_layers.6.4.": "mean_shift.",
        **{f"dp_layers.{number - 1}.": f"fc_dp{number}." for number in range(1, 8)},
    }

    def __init__(self) -> None:
        super().__init__()
        self.mean_shift = MeanShift()
        for number, channels in enumerate(CHANNELS, 1):
            self.add_module(f"fc_edge{number}", _reduction(channels, 32, 4))
        self.fc_edge6 = nn.Conv2d(5 * 32, 1, 1)
        for number, (channels, width) in enumerate(zip(CHANNELS, (64, 128, 256, 256, 256), strict=True), 1):
            self.add_module(f"fc_dp{number}", _reduction(channels, width, 8 if width == 64 else 16))
        self.fc_dp6 = _reduction(3 * 256, 256, 16)
        self.fc_dp7 = nn.Sequential(*_reduction(64 + 128 + 256, 256, 16), nn.ReLU(), nn.Conv2d(256, 2, 1, bias=False))
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B,3,H,W) -> boundary logits (B,h,w) and displacements (B,2,h,w), h = ceil(H / 4).

        In training mode the stored mean displacement is not subtracted.
        """
        levels = self.levels(x)
        edges = [self._reduced("fc_edge", number, level) for number, level in enumerate(levels, 1)]
        fine = edges[0].shape[2:]
        logits = self.fc_edge6(torch.cat([F.relu(_enlarged(one, fine)) for one in edges], 1))
        parts = [self._reduced("fc_dp", number, level) for number, level in enumerate(levels, 1)]
        coarse = torch.cat([F.relu(_enlarged(one, parts[2].shape[2:])) for one in parts[2:]], 1)
        merged = F.relu(_enlarged(self.fc_dp6(coarse), fine))
        displacement = self.fc_dp7(torch.cat([F.relu(parts[0]), F.relu(parts[1]), merged], 1))
        return logits[:, 0], self.mean_shift(displacement)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """At least 512 x 512, and otherwise the next multiples of 32.

        Group norm sees the padding, so it matters: the network was trained with crops of 512. The published code crops
        larger images.
        """
        height, width = super().padded_size(size)
        return max(height, SMALLEST), max(width, SMALLEST)

    def _reduced(self, branch: str, number: int, level: Tensor) -> Tensor:
        reduced: Tensor = self.get_submodule(f"{branch}{number}")(level)
        return reduced


class _GroupNorm(nn.GroupNorm):
    """Group norm with the same accuracy for channels-last tensors, where torch's own has a hundred times the error."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


def _reduction(channels: int, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), _GroupNorm(groups, width))


def _enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B,C,h,w), enlarged by a power of two (bilinear) to at least ``size``, and cropped to it."""
    factor = 1
    while maps.shape[2] * factor < size[0] or maps.shape[3] * factor < size[1]:
        factor *= 2
    if factor > 1:
        maps = F.interpolate(maps, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return maps[:, :, : size[0], : size[1]]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN being equal to NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True  # as files have them that hold every tensor once
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


_SETTINGS = Settings(
    scales=SCALES,
    size=0,
    conf_fg=0.30,
    conf_bg=0.05,
    walk="irn",
    background=0.25,
    boundary_beta=10.0,
    radius=5,
    steps=256,
    borders="full",
    label_threshold=0.5,
    final_crf=False,
)
# Methods that make other CAMs and train this network on them, with the values in their releases for Pascal VOC:
# AdvCAM (Lee, Kim & Yoon, CVPR 2021), ReCAM (Chen et al., CVPR 2022), CLIMS (Xie et al., CVPR 2022), AMN (Lee et al.,
# CVPR 2022), LPCAM (Chen & Sun, CVPR 2023).
PRESETS = {
    "irn": _SETTINGS,
    "irn-advcam": _SETTINGS.replace(conf_fg=0.35, conf_bg=0.15, background=0.25),
    "irn-recam": _SETTINGS.replace(conf_fg=0.35, conf_bg=0.10, background=0.25),
    "irn-clims": _SETTINGS.replace(conf_fg=0.30, conf_bg=0.10, background=0.20),
    "irn-amn": _SETTINGS.replace(conf_fg=0.45, conf_bg=0.15, background=0.25),
    "irn-lpcam": _SETTINGS.replace(conf_fg=0.45, conf_bg=0.25, background=0.35),
}

# Section 4 of the paper and its release, in float32; for the momentum see `IRN_RECIPE`.
FAMILY = Family(
    "resnet50",
    cam=ResNet50Cam,
    irn=ResNet50Irn,
    cam_recipe=IRN_RECIPE.replace(epochs=5, batch_size=16, resize=(320, 640)),
    irn_recipe=IRN_RECIPE,
    presets=PRESETS,
    weights={
        "irn": published(
            "irn-amn", what="IRN, ResNet-50, trained by AMN", source="drive-file:1UqzFPQVugX1SgnO9W5FmdFdlo0XBwPlq"
        )
    },
)
