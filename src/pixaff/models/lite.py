"""The networks of the embedded model: EfficientNet-Lite2 as a CAM network, as an AffinityNet and as a boundary network.

Backbone: Tan & Le, *EfficientNet*, ICML 2019, in its "lite" form (no squeeze-and-excitation, ReLU6), at output
stride 16. Its 3x3 and 5x5 convolutions of stride 2 pad at the right and bottom only ("same" padding), so cell i of the
last features is centred on pixel 16 i + 15 instead of the middle of its own square, 16 i + 7.5. The images are
therefore
padded by half a cell at the left and top: then the CAMs of a photo and of its mirror image agree.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.models.base import (
    AffinityNetwork,
    BoundaryNetwork,
    CamNetwork,
    Family,
    JointNetwork,
    MeanShift,
    Network,
    SegNetwork,
)
from pixaff.models.efficientnet_lite import FEATURES, EfficientNetLite2, head
from pixaff.ops.cam import whole_cells
from pixaff.recipe import Recipe
from pixaff.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Self

N = TypeVar("N", bound=Network)

STRIDE = 16
FINE_LEVELS = (16, 24)
"""Channels at stride 2 and 4."""
LEVELS = (48, 120, 352)
"""Channels at stride 8, 16 and 16."""
COARSE = (2, 3, 4)
"""Which of the five levels these are."""
HIDDEN = 256
PRIOR = 0.5
"""Of the image-level labels on the segmentation, read off 83 training images (docs/lite.md)."""
EDGE, EDGE_MERGED = (8, 8, 16, 16, 16), 16
"""Channels of the levels from which class boundaries are found, and of these merged."""
DECODER, REDUCED = (128, 96, 64), (64, 32, 16)
"""Channels of the segmentation network's decoder at stride 16, 8 and 4, and of the backbone's levels that join it."""


class LiteBackbone(nn.Module):
    """EfficientNet-Lite2; batch norm always uses its stored statistics.

    Args:
        levels: Those of `EfficientNetLite2` that are used.
        output_stride: 16 for `forward` and `all_levels`, 32 for `own_levels`.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, levels: Sequence[int] = COARSE, output_stride: int = 16) -> None:
        super().__init__()
        self.net = EfficientNetLite2(levels, output_stride)
        # The stem and the stages up to stride 8 keep their ImageNet weights: they take half of the time of a training
        # step, and a new task needs little change there (the published networks freeze their first stage too).
        for name, parameter in self.net.named_parameters():
            if name.startswith(("conv_stem.", "bn1.", "blocks.0.", "blocks.1.", "blocks.2.")):
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B,3,H,W) -> levels (B,48,h8,w8), (B,120,h,w), (B,352,h,w), with h = ceil(H / 16).

        h8 = 2 h: the stride-8 level is averaged over 2x2 cells, which centres it on the same pixels.
        """
        return self._centred(self.net(self._padded(x)), *self._cells(x))

    def all_levels(self, x: Tensor) -> list[Tensor]:
        """All five levels: 16 and 24 channels at 4 times the size of the last ones, then those of `forward`.

        The level at stride 2 is averaged over the cells of stride 4, and that at stride 4 over 2x2 cells, which centres
        both on the same pixels.
        """
        rows, columns = self._cells(x)
        finest, fine, *others = self.net(self._padded(x))
        both = F.avg_pool2d(finest[:, :, 4:, 4:], 2), F.avg_pool2d(fine[:, :, 1:, 1:], 2, stride=1)
        return [*(level[:, :, : 4 * rows, : 4 * columns] for level in both), *self._centred(others, rows, columns)]

    def own_levels(self, x: Tensor) -> list[Tensor]:
        """The levels of a backbone of output stride 32, each at its own stride, of images padded to whole cells."""
        rows, columns = (x.shape[2] + 31) // 32, (x.shape[3] + 31) // 32
        return self.net(F.pad(x, (0, 32 * columns - x.shape[3], 0, 32 * rows - x.shape[2])))

    def _cells(self, x: Tensor) -> tuple[int, int]:
        return (x.shape[2] + STRIDE - 1) // STRIDE, (x.shape[3] + STRIDE - 1) // STRIDE

    def _padded(self, x: Tensor) -> Tensor:
        rows, columns = self._cells(x)
        half = STRIDE // 2
        return F.pad(x, (half, columns * STRIDE - x.shape[3] + half, half, rows * STRIDE - x.shape[2] + half))

    def _centred(self, levels: Sequence[Tensor], rows: int, columns: int) -> list[Tensor]:
        fine, middle, coarse = levels
        fine = F.avg_pool2d(fine, 2, stride=1)[:, :, : 2 * rows, : 2 * columns]
        return [fine, middle[:, :, :rows, :columns], coarse[:, :, :rows, :columns]]


class _Lite(Network):
    """What the lite networks share."""

    mean = LiteBackbone.mean
    std = LiteBackbone.std
    size_divisor = STRIDE
    bytes_per_pixel = 360

    def __init__(self, levels: Sequence[int] = COARSE, output_stride: int = 16) -> None:
        super().__init__()
        self.backbone = LiteBackbone(levels, output_stride)


class _LiteInCells(_Lite):
    """Those that see an image at a size whose sides are multiples of a cell, and so the same image."""

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return whole_cells(size, 1.0, STRIDE)


class LiteCam(_LiteInCells, CamNetwork):
    """Classifier with two ways to make CAMs.

    After the training from image-level labels, CAMs are the classifier's weights applied to every cell (Zhou et al.,
    CVPR 2016). Once the segmentation head, ``pixel``, is trained on the cells that both CRF posteriors of those CAMs
    agree on (the seeding loss of Kolesnikov & Lampert, ECCV 2016), ``seeded`` is set, and that head makes the CAMs.

    Args:
        num_classes: Foreground classes K.
    """

    new = ("classifier", "pixel")
    has_segmentation_head = True
    seeded: Tensor

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        self.top = head()  # the ImageNet network's own last layers
        self.classifier = _classifier(num_classes)
        self.pixel = nn.Sequential(
            OrderedDict(
                norm=nn.BatchNorm2d(FEATURES + LEVELS[1], affine=False),
                hidden=nn.Conv2d(FEATURES + LEVELS[1], HIDDEN, 1),
                relu=nn.ReLU(),
                dropout=nn.Dropout(0.3),
                rows=nn.Conv2d(HIDDEN, num_classes + 1, 1),
            )
        )
        self.register_buffer("seeded", torch.tensor(False))

    @property
    def graph(self) -> str | None:
        return "lite_cam_seeded" if self.seeded else "lite_cam"

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K): the classifier of the average feature."""
        return self.logits_of_top(self.top(self.backbone(x)[2]))

    def logits_of_top(self, top: Tensor) -> Tensor:
        """`forward` of the last features (B,1280,h,w)."""
        return self.classifier(top.mean((2, 3), keepdim=True)).flatten(1)

    def cam(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> maps (B,K,h,w) >= 0, h = ceil(H / 16).

        relu of the class scores or, if seeded, the probability of each class against the background alone.
        """
        _, middle, coarse = self.backbone(x)
        return self.cam_of_top(middle, self.top(coarse))

    def cam_of_top(self, middle: Tensor, top: Tensor) -> Tensor:
        """`cam` of the last levels of the backbone, (B,120,h,w) and (B,1280,h,w)."""
        if not self.seeded:
            return F.relu(self.classifier(top))
        rows = self.pixel(torch.cat([top, middle], 1))
        return torch.sigmoid(rows[:, 1:] - rows[:, :1])

    def segmentation_logits(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K + 1,h,w) of background and classes at stride 16."""
        _, middle, coarse = self.backbone(x)
        return self.pixel(torch.cat([self.top(coarse), middle], 1))

    def use_segmentation_head(self, used: bool) -> None:
        self.seeded.fill_(used)

    def train(self, mode: bool = True) -> Self:
        """Training mode, also for the normalisation of the segmentation head, which has no ImageNet statistics."""
        super().train(mode)
        self.pixel.get_submodule("norm").train(mode)
        return self

    def joined(self, other: BoundaryNetwork, displacement: bool = False) -> LiteJoint | None:
        if not isinstance(other, LiteIrn) or not self.seeded:
            return None
        own, others = self.backbone.state_dict(), other.backbone.state_dict()
        same = all(torch.equal(tensor, others[name]) for name, tensor in own.items())
        return LiteJoint(self, other, displacement) if same else None


class LiteHead(_Lite, SegNetwork):
    """The networks of `LiteCam` as one that segments: the segmentation head, and the classifier as its prior.

    A class that the classifier does not see in the image gets ``PRIOR`` times its log probability added to its logits.
    Its weights are those of `LiteCam`, under the same names.

    Args:
        num_classes: Foreground classes K.
    """

    graph = "lite_head"
    exported = ("cell_logits",)
    cell = STRIDE

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__()
        self.num_classes = num_classes
        own = LiteCam(num_classes)
        self.backbone, self.top, self.classifier, self.pixel = own.backbone, own.top, own.classifier, own.pixel
        self.register_buffer("seeded", torch.tensor(True))

    def cell_logits(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K + 1,h,w), background first, h = ceil(H / 16)."""
        _, middle, coarse = self.backbone(x)
        top = self.top(coarse)
        rows = self.pixel(torch.cat([top, middle], 1))
        return _with_prior(rows, self.classifier(top.mean((2, 3), keepdim=True)))


class LiteAffinity(_Lite, AffinityNetwork):
    """AffinityNet (section 3.2 of the paper) on three levels of the backbone.

    1x1 convolutions to 64, 128 and 256 channels, ELU, concatenated at stride 8, 1x1 convolution to 448, ELU.
    """

    new = ("level1", "level2", "level3", "merge")
    graph = "lite_affinity"

    def __init__(self) -> None:
        super().__init__()
        self.level1 = nn.Conv2d(LEVELS[0], 64, 1, bias=False)
        self.level2 = nn.Conv2d(LEVELS[1], 128, 1, bias=False)
        self.level3 = nn.Conv2d(LEVELS[2], 256, 1, bias=False)
        self.merge = nn.Conv2d(448, 448, 1, bias=False)
        for conv in (self.level1, self.level2, self.level3):
            nn.init.kaiming_normal_(conv.weight)
        nn.init.xavier_uniform_(self.merge.weight, gain=4)

    def features(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> features (B,448,h,w) with h = ceil(H / 8)."""
        levels = self.backbone(x)
        convs = (self.level1, self.level2, self.level3)
        parts = [F.elu(conv(level)) for conv, level in zip(convs, levels, strict=True)]
        size = parts[0].shape[2:]
        parts[1:] = [F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts[1:]]
        merged = F.elu(self.merge(torch.cat(parts, 1)))
        return merged[:, :, : (x.shape[2] + 7) // 8, : (x.shape[3] + 7) // 8]


class LiteIrn(_LiteInCells, BoundaryNetwork):
    """Inter-pixel relation network (IRN) on five levels of the backbone; see `pixaff.models.resnet50.ResNet50Irn`.

    It has no group norm, so that padding does not matter and photos are not brought to 512 x 512, and in its place 3x3
    convolutions where levels are merged. Boundaries: 1x1 convolutions of all levels to 64 channels together, ReLU,
    concatenated at stride 4, 3x3 convolution to 16 channels, ReLU, 1x1 convolution to one. Displacements: the same
    with four times as many channels, and with the three coarse levels, merged at stride 8, in place of these.
    """

    new = ("edge_levels", "edge_merge", "edge", "offset_levels", "offset_coarse", "offset_merge", "offset")
    graph = "lite_irn"

    def __init__(self) -> None:
        super().__init__((0, 1, 2, 3, 4))
        levels = (*FINE_LEVELS, *LEVELS)
        self.edge_levels = _reductions(levels, EDGE)
        self.edge_merge = nn.Conv2d(sum(EDGE), EDGE_MERGED, 3, padding=1)
        self.edge = nn.Conv2d(EDGE_MERGED, 1, 1)
        self.offset_levels = _reductions(levels, (32, 32, 64, 64, 64))
        self.offset_coarse = nn.Conv2d(192, 128, 3, padding=1)
        self.offset_merge = nn.Conv2d(192, 64, 3, padding=1)
        self.offset = nn.Conv2d(64, 2, 1, bias=False)
        self.mean_shift = MeanShift()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B,3,H,W) -> boundary logits (B,h,w) and displacements (B,2,h,w), h = ceil(H / 4).

        In training mode the stored mean displacement is not subtracted.
        """
        levels = self.backbone.all_levels(x)
        logits, displacement = self.edge_of_levels(levels), self.displacement_of_levels(levels)
        h, w = ((side + self.boundary_stride - 1) // self.boundary_stride for side in x.shape[2:])
        return logits[:, :h, :w], displacement[:, :, :h, :w]

    def edge_of_levels(self, levels: Sequence[Tensor]) -> Tensor:
        """Boundary logits (B,h,w) of all levels of the backbone, h as that of the finest."""
        parts = [F.relu(conv(level)) for conv, level in zip(self.edge_levels, levels, strict=True)]
        return self.edge(F.relu(self.edge_merge(_at_finest(parts))))[:, 0]

    def displacement_of_levels(self, levels: Sequence[Tensor]) -> Tensor:
        """Displacements (B,2,h,w) of all levels of the backbone, h as that of the finest."""
        parts = [F.relu(conv(level)) for conv, level in zip(self.offset_levels, levels, strict=True)]
        coarse = F.relu(self.offset_coarse(_at_finest(parts[2:])))
        return self.mean_shift(self.offset(F.relu(self.offset_merge(_at_finest([*parts[:2], coarse])))))


class LiteJoint(_LiteInCells, JointNetwork):
    """`LiteCam` and `LiteIrn` on the same backbone.

    Args:
        cam, irn: The networks, whose layers it takes.
        displacement: Whether it makes displacements, too.
    """

    def __init__(self, cam: LiteCam, irn: LiteIrn, displacement: bool) -> None:
        nn.Module.__init__(self)
        self.backbone, self.cam, self.irn, self.displacement = irn.backbone, _heads(cam), _heads(irn), displacement
        self.training = cam.training

    @property
    def graph(self) -> str:
        return "lite_joint_displacement" if self.displacement else "lite_joint"

    def everything(self, x: Tensor) -> tuple[Tensor, ...]:
        levels = self.backbone.all_levels(x)
        top = self.cam.top(levels[4])
        maps, logits = self.cam.cam_of_top(levels[3], top), self.cam.logits_of_top(top)
        edge = self.irn.edge_of_levels(levels)
        return (maps, logits, edge, *([self.irn.displacement_of_levels(levels)] if self.displacement else ()))


def _heads(network: N) -> N:
    """A network without its backbone; its other layers are the same objects."""
    made = copy.copy(network)
    made.__dict__["_modules"] = {name: layer for name, layer in network.named_children() if name != "backbone"}
    return made


def _reductions(channels: Sequence[int], widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(one, width, 1) for one, width in zip(channels, widths, strict=True))


def _at_finest(parts: Sequence[Tensor]) -> Tensor:
    """Maps (B,C,h,w), those that are smaller than the first enlarged to its size (bilinear), as channels of one."""
    size = parts[0].shape[2:]
    # Which of them are smaller does not depend on the image.
    same = [
        one if one.shape[2:] == size else F.interpolate(one, size, mode="bilinear", align_corners=False)
        for one in parts
    ]
    return torch.cat(same, 1)


class LiteSeg(_Lite, SegNetwork):
    """Segmentation network light enough for a CPU: the backbone at its own output stride 32, and a narrow decoder.

    The classifier tells what the whole image shows, from the average of the last features, as in `LiteCam`. The deepest
    level becomes 128 channels, each weighted by these averages ("lite R-ASPP" of Howard et al., *Searching for
    MobileNetV3*, ICCV 2019). Going up as in U-Net (Ronneberger et al., MICCAI 2015), the levels at stride 16, 8 and 4,
    reduced to 64, 32 and 16 channels, join it one by one, each followed by a separable 3x3 convolution to 128, 96 and
    64 channels. A 1x1 convolution gives the logits at stride 4, to which the classifier is the prior, as in `LiteHead`.

    Args:
        num_classes: Foreground classes K.
    """

    size_divisor = 32
    encoder = ("backbone", "top")
    graph = "lite_seg"
    exported = ("cell_logits",)
    cell = 4

    def __init__(self, num_classes: int = 20) -> None:
        super().__init__((1, 2, 3, 4), 32)
        self.num_classes = num_classes
        self.top, self.classifier = head(), _classifier(num_classes)
        self.gate = nn.Conv2d(FEATURES, DECODER[0], 1)
        self.wide = _convolution(LEVELS[2], DECODER[0], 1)
        levels, before = (LEVELS[1], LEVELS[0], FINE_LEVELS[1]), (DECODER[0], *DECODER[:-1])
        self.reductions = nn.ModuleList(_convolution(*widths, 1) for widths in zip(levels, REDUCED, strict=True))
        self.merges = nn.ModuleList(
            _separable(coarse + fine, width) for coarse, fine, width in zip(before, REDUCED, DECODER, strict=True)
        )
        self.rows = nn.Conv2d(DECODER[-1], num_classes + 1, 1)

    def cell_logits(self, x: Tensor) -> Tensor:
        """Normalised images (B,3,H,W) -> logits (B,K + 1,h,w), background first, h = 8 ceil(H / 32)."""
        *levels, coarse = self.backbone.own_levels(x)
        average = self.top(coarse).mean((2, 3), keepdim=True)
        made = self.wide(coarse) * torch.sigmoid(self.gate(average))
        for level, reduction, merge in zip(reversed(levels), self.reductions, self.merges, strict=True):
            made = F.interpolate(made, level.shape[2:], mode="bilinear", align_corners=False)
            made = merge(torch.cat([made, reduction(level)], 1))
        return _with_prior(self.rows(made), self.classifier(average))


def _classifier(num_classes: int) -> nn.Conv2d:
    """Classifier weights, random, on features (B,1280,h,w)."""
    made = nn.Conv2d(FEATURES, num_classes, 1, bias=False)
    nn.init.normal_(made.weight, std=0.01)
    return made


def _with_prior(rows: Tensor, logits: Tensor) -> Tensor:
    """Logits (B,K + 1,h,w) of background and classes, with the image-level logits (B,K,1,1) as the classes' prior."""
    return torch.cat([rows[:, :1], rows[:, 1:] + PRIOR * F.logsigmoid(logits)], 1)


def _convolution(channels: int, width: int, side: int, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, side, padding=side // 2, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def _separable(channels: int, width: int) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution."""
    return nn.Sequential(_convolution(channels, channels, 3, channels), _convolution(channels, width, 1))


FAMILY = Family(
    "lite",
    cam=LiteCam,
    affinity=LiteAffinity,
    irn=LiteIrn,
    irn_recipe=Recipe(
        epochs=6,
        min_steps=100,
        batch_size=16,
        lr=2e-4,
        optimizer="adamw",
        weight_decay=1e-4,
        backbone_lr_scale=0.0,
        crop=512,
        resize=(256, 768),
    ),
    seg=LiteSeg,
    head_recipe=Recipe(
        epochs=3,
        min_steps=120,
        batch_size=16,
        lr=1e-4,
        optimizer="adamw",
        weight_decay=1e-2,
        backbone_lr_scale=0.0,
        precision="fp32",
    ),
    presets={"lite": Settings(), "lite-psa": Settings(walk="psa", final_crf=True)},
    shipped=True,
)

HEAD = Family("lite_head", seg=LiteHead, shipped=True)
