"""VGG-16 of Ahn & Kwak, CVPR 2018, as a CAM network and as an AffinityNet.

Backbone: Simonyan & Zisserman, *Very Deep Convolutional Networks*, ICLR 2015, with the fully connected layers as
convolutions of 1024 channels and stride 8 (DeepLab's LargeFOV): pools of 3x3 and strides 2, 2, 2, 1, conv5 dilated by
2. State dict names are those of the published weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.models import psa
from pixaff.models.base import AffinityNetwork, CamNetwork, Family, Network
from pixaff.weights.catalogue import published

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions of conv1 to conv5."""
POOL_STRIDES = (2, 2, 2, 1)
"""Strides of the pools after conv1 to conv4."""
FEATURES = 1024


class _Vgg16(Network):
    # Caffe's means of the 8-bit colours; no scaling.
    mean = (122.675 / 255, 116.669 / 255, 104.008 / 255)
    std = (1 / 255, 1 / 255, 1 / 255)
    bgr = True
    bytes_per_pixel = 800
    frozen = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")

    def __init__(self, fc6_dilation: int) -> None:
        super().__init__()
        channels = 3
        for stage, widths in enumerate(STAGES, 1):
            dilation = 2 if stage == len(STAGES) else 1
            for layer, width in enumerate(widths, 1):
                conv = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
                self.add_module(f"conv{stage}_{layer}", conv)
                channels = width
        self.fc6 = nn.Conv2d(channels, FEATURES, 3, padding=fc6_dilation, dilation=fc6_dilation)
        self.fc7 = nn.Conv2d(FEATURES, FEATURES, 1)
        self.drop6 = nn.Dropout2d(0.5)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images (B,3,H,W) -> conv4_3 and conv5_3 (B,512,h,w), fc7 (B,1024,h,w); h = ceil(H / 8)."""
        stages = []
        for stage, widths in enumerate(STAGES, 1):
            for layer in range(1, len(widths) + 1):
                x = F.relu(self.get_submodule(f"conv{stage}_{layer}")(x), inplace=True)
            stages.append(x)
            if stage <= len(POOL_STRIDES):
                x = F.max_pool2d(x, 3, stride=POOL_STRIDES[stage - 1], padding=1)
        x = self.drop6(F.relu(self.fc6(x), inplace=True))
        return stages[3], stages[4], F.relu(self.fc7(x), inplace=True)


class Vgg16Cam(_Vgg16, CamNetwork):
    """Classifier whose weights, applied to every cell, give the CAMs (section 3.1).

    Args:
        num_classes: Foreground classes K.
    """

    new = ("fc8",)

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__(fc6_dilation=1)
        self.drop7 = nn.Dropout2d(0.5)
        self.fc8 = nn.Conv2d(FEATURES, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K)."""
        return self.fc8(self.drop7(self.levels(x)[2]).mean((2, 3), keepdim=True)).flatten(1)

    def cam(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> maps (B,K,h,w) >= 0: the square root of the relu of the class scores."""
        return F.relu(self.fc8(self.levels(x)[2])).sqrt()


class Vgg16Affinity(_Vgg16, AffinityNetwork):
    """AffinityNet (section 3.2): three levels to 64, 128 and 256 channels, group norm, ELU, merged to 448, ELU."""

    new = ("f8_3", "f8_4", "f8_5", "f9")

    def __init__(self) -> None:
        super().__init__(fc6_dilation=4)
        self.f8_3 = nn.Conv2d(512, 64, 1, bias=False)
        self.f8_4 = nn.Conv2d(512, 128, 1, bias=False)
        self.f8_5 = nn.Conv2d(FEATURES, 256, 1, bias=False)
        # The published training treats these as part of the backbone: they learn at its rate.
        self.gn8_3 = nn.GroupNorm(8, 64)
        self.gn8_4 = nn.GroupNorm(16, 128)
        self.gn8_5 = nn.GroupNorm(32, 256)
        self.f9 = nn.Conv2d(448, 448, 1, bias=False)
        for conv in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(conv.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)
        self.freeze()

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> features (B,448,h,w) with h = ceil(H / 8)."""
        conv4, conv5, fc7 = self.levels(x)
        parts = [
            F.elu(self.gn8_3(self.f8_3(conv4))),
            F.elu(self.gn8_4(self.f8_4(conv5))),
            F.elu(self.gn8_5(self.f8_5(fc7))),
        ]
        return F.elu(self.f9(torch.cat(parts, 1)))


FAMILY = Family(
    "vgg16",
    cam=Vgg16Cam,
    affinity=Vgg16Affinity,
    cam_recipe=psa.CAM_RECIPE,
    affinity_recipe=psa.AFFINITY_RECIPE,
    presets={"psa-vgg16": psa.SETTINGS},
    weights={
        "cam": published(
            "vgg16-cam", what="CAM network, VGG-16", source="drive-file:1Dh5EniRN7FSVaYxSmcwvPq_6AIg-P8EH"
        ),
        "affinity": published(
            "vgg16-affinity", what="AffinityNet, VGG-16", source="drive-file:10ue1B20Q51aQ53T93RiaiKETlklzo4jp"
        ),
    },
)
