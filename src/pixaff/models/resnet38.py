"""ResNet-38 of Ahn & Kwak, CVPR 2018, as a CAM network and as an AffinityNet.

Backbone: model A1 of Wu, Shen & van den Hengel, *Wider or Deeper*, Pattern Recognition 2019: wide, pre-activated
residual blocks. Stride 2 at b2, b3 and b4, so features have stride 8; b5 is dilated by 2, b6 and b7 by 4.
State dict names are those of the published weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.models import psa
from pixaff.models.base import AffinityNetwork, CamNetwork, Family, Network
from pixaff.weights.catalogue import published

FEATURES = 4096
# fmt: off
BLOCKS = (
    "b2", "b2_1", "b2_2", "b3", "b3_1", "b3_2", "b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5", "b5", "b5_1", "b5_2",
    "b6", "b7",
)
# fmt: on
LEVELS = ("b5", "b6")
"""Blocks whose first ReLU is a level of the AffinityNet."""


class _Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, beside the input or a 1x1 convolution of it."""

    def __init__(
        self,
        channels: int,
        middle: int,
        out: int,
        stride: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
    ) -> None:
        super().__init__()
        first = first_dilation or dilation
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = nn.Conv2d(channels, middle, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, out, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv_branch1: nn.Conv2d | None = None
        if channels != out or stride != 1:
            self.conv_branch1 = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor, levels: list[Tensor] | None = None) -> Tensor:
        """(B,C,h,w) -> the block's output; its first ReLU is appended to ``levels`` if there is such a list."""
        first = F.relu(self.bn_branch2a(x), inplace=True)
        if levels is not None:
            levels.append(first)
        beside = x if self.conv_branch1 is None else self.conv_branch1(first)
        y = F.relu(self.bn_branch2b1(self.conv_branch2a(first)), inplace=True)
        return self.conv_branch2b1(y).add_(beside)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after batch norm and ReLU, beside a 1x1 convolution of the input."""

    def __init__(self, channels: int, out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = nn.Conv2d(channels, out // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(out // 4)
        self.conv_branch2b1 = nn.Conv2d(out // 4, out // 2, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(out // 2)
        self.conv_branch2b2 = nn.Conv2d(out // 2, out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(channels, out, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, levels: list[Tensor] | None = None) -> Tensor:
        """(B,C,h,w) -> the block's output; its first ReLU is appended to ``levels`` if there is such a list."""
        first = F.relu(self.bn_branch2a(x), inplace=True)
        if levels is not None:
            levels.append(first)
        y = F.relu(self.bn_branch2b1(self.conv_branch2a(first)), inplace=True)
        y = F.relu(self.bn_branch2b2(self.conv_branch2b1(self.dropout(y))), inplace=True)
        return self.conv_branch2b2(self.dropout(y)).add_(self.conv_branch1(first))


class _ResNet38(Network):
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    bytes_per_pixel = 1600
    frozen = ("conv1a", "b2", "b2_1", "b2_2")

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        channels = 64
        for stage, (width, blocks) in enumerate(((128, 3), (256, 3), (512, 6)), 2):
            self.add_module(f"b{stage}", _Block(channels, width, width, stride=2))
            for number in range(1, blocks):
                self.add_module(f"b{stage}_{number}", _Block(width, width, width))
            channels = width
        self.b5 = _Block(512, 512, 1024, dilation=2, first_dilation=1)
        self.b5_1 = _Block(1024, 512, 1024, dilation=2)
        self.b5_2 = _Block(1024, 512, 1024, dilation=2)
        self.b6 = _Bottleneck(1024, 2048, dilation=4, dropout=0.3)
        self.b7 = _Bottleneck(2048, FEATURES, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(FEATURES)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images (B,3,H,W) -> (B,512,h,w), (B,1024,h,w), (B,4096,h,w) with h = ceil(H / 8).

        The first ReLU inside b5, that inside b6, and the one after the last batch norm.
        """
        levels: list[Tensor] = []
        x = self.conv1a(x)
        for name in BLOCKS:
            x = self.get_submodule(name)(x, levels if name in LEVELS else None)
        return levels[0], levels[1], F.relu(self.bn7(x), inplace=True)


class ResNet38Cam(_ResNet38, CamNetwork):
    """Classifier whose weights, applied to every cell, give the CAMs (section 3.1).

    Args:
        num_classes: Foreground classes K.
    """

    new = ("fc8",)

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        self.dropout7 = nn.Dropout2d(0.5)
        self.fc8 = nn.Conv2d(FEATURES, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K)."""
        return self.fc8(self.dropout7(self.levels(x)[2]).mean((2, 3), keepdim=True)).flatten(1)

    def cam(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> maps (B,K,h,w) >= 0: the relu of the class scores."""
        return F.relu(self.fc8(self.levels(x)[2]))


class ResNet38Affinity(_ResNet38, AffinityNetwork):
    """AffinityNet (section 3.2): three levels to 64, 128 and 256 channels, ELU, merged to 448, ELU."""

    new = ("f8_3", "f8_4", "f8_5", "f9")

    def __init__(self) -> None:
        super().__init__()
        self.f8_3 = nn.Conv2d(512, 64, 1, bias=False)
        self.f8_4 = nn.Conv2d(1024, 128, 1, bias=False)
        self.f8_5 = nn.Conv2d(FEATURES, 256, 1, bias=False)
        self.f9 = nn.Conv2d(448, 448, 1, bias=False)
        for conv in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(conv.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        self.freeze()

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> features (B,448,h,w) with h = ceil(H / 8)."""
        convs = (self.f8_3, self.f8_4, self.f8_5)
        parts = [F.elu(conv(level)) for conv, level in zip(convs, self.levels(x), strict=True)]
        return F.elu(self.f9(torch.cat(parts, 1)))


FAMILY = Family(
    "resnet38",
    cam=ResNet38Cam,
    affinity=ResNet38Affinity,
    cam_recipe=psa.CAM_RECIPE,
    affinity_recipe=psa.AFFINITY_RECIPE,
    # The second one is the paper's submission.
    presets={"psa-resnet38": psa.SETTINGS, "psa-resnet38-cvpr": psa.SETTINGS.replace(crf_high=24.0)},
    weights={
        "cam": published(
            "resnet38-cam", what="CAM network, ResNet-38", source="drive-file:1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA"
        ),
        "affinity": published(
            "resnet38-affinity", what="AffinityNet, ResNet-38", source="drive-file:1mFvTH3siw0SS0vqPH0o9N3cI_ISQacwt"
        ),
    },
)
