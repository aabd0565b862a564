"""EfficientNet-Lite2 as levels of features: the backbone of `pixaff.models.lite`.

Tan & Le, *EfficientNet*, ICML 2019, in its "lite" form: no squeeze-and-excitation, ReLU6, stem and head of fixed width.
The parameters have the names of timm's ``tf_efficientnet_lite2``, and both compute the same. It is written down here
because timm imports torchvision, and torchvision the compiler of PyTorch, which takes twice as long as a mask.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280
EPSILON = 1e-3
_STEM = 32
# Of each stage: kernel, stride, expansion, channels, blocks. Output stride 16: the sixth stage is dilated instead.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 3),
    (5, 2, 6, 48, 3),
    (3, 2, 6, 88, 4),
    (5, 1, 6, 120, 4),
    (5, 1, 6, 208, 5),
    (3, 1, 6, 352, 1),
)
_DILATED = 5
# Stages after which the resolution or the kind of features changes: strides 2, 4, 8, 16, 16.
_ENDS = (0, 1, 2, 4, 6)


class EfficientNetLite2(nn.Module):
    """The network without its last layers (see `head`), with random weights.

    Args:
        levels: Which of the five levels of features `forward` returns, ascending: 16, 24, 48, 120 and 352 channels at
            stride 2, 4, 8, 16 and the output stride.
        output_stride: 16, or the 32 of the published network. With 32, the convolutions of stride 2 pad more at the
            right and more at the left by turns, so that at all strides the cells are centred on their own pixels to
            within a quarter of a cell.
    """

    def __init__(self, levels: Sequence[int], output_stride: int = 16) -> None:
        super().__init__()
        self.ends = [_ENDS[level] for level in levels]
        self.conv_stem = _Conv(3, _STEM, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(_STEM, EPSILON)
        self.act = nn.ReLU6(inplace=True)
        stages, width = [], _STEM
        for number, (kernel, stride, expansion, channels, count) in enumerate(_STAGES):
            blocks: list[nn.Module] = []
            for first in [True] + [False] * (count - 1):
                # The stride that the sixth stage lacks has already been its first block's.
                dilated = number > _DILATED or (number == _DILATED and not first)
                dilation = 2 if dilated and output_stride == 16 else 1
                step = stride if first else 1
                if first and number == _DILATED:
                    step = output_stride // 16
                blocks.append(
                    _Separable(width, channels, kernel, step)
                    if expansion == 1
                    else _Inverted(width, channels, expansion, kernel, step, dilation)
                )
                width = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        if output_stride == 32:
            strided = [layer for layer in self.modules() if isinstance(layer, _Conv) and layer.stride[0] == 2]
            for layer in strided[1::2]:
                layer.spare = layer.spare[::-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images (B,3,H,W), H and W multiples of the output stride -> features of the levels."""
        x = self.act(self.bn1(self.conv_stem(x)))
        found = []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in self.ends:
                found.append(x)
        return found


def head() -> nn.Sequential:
    """The last layers before the average: (B,352,h,w) -> (B,1280,h,w)."""
    layers = OrderedDict(
        conv_head=_Conv(_STAGES[-1][3], FEATURES, 1),
        bn2=nn.BatchNorm2d(FEATURES, EPSILON),
        act=nn.ReLU6(inplace=True),
    )
    return nn.Sequential(layers)


class _Conv(nn.Conv2d):
    """A convolution without bias and with TensorFlow's "same" padding: with stride 2, more at the right and bottom."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        padding = 0 if stride > 1 else dilation * (kernel - 1) // 2
        super().__init__(before, after, kernel, stride, padding, dilation, groups, bias=False)
        self.spare = (kernel - 2) // 2, kernel - 2 - (kernel - 2) // 2
        # As in TensorFlow's implementation.
        nn.init.normal_(self.weight, 0, math.sqrt(2 / (kernel * kernel * after // groups)))

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C',H / stride,W / stride); with stride 2, H and W are even."""
        return super().forward(x if self.stride[0] == 1 else F.pad(x, 2 * self.spare))


class _Separable(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _Conv(before, before, kernel, stride, groups=before)
        self.bn1 = nn.BatchNorm2d(before, EPSILON)
        self.act = nn.ReLU6(inplace=True)
        self.conv_pw = _Conv(before, after, 1)
        self.bn2 = nn.BatchNorm2d(after, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))


class _Inverted(nn.Module):
    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        inner = before * expansion
        self.residual = before == after and stride == 1
        self.conv_pw = _Conv(before, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner, EPSILON)
        self.conv_dw = _Conv(inner, inner, kernel, stride, dilation, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner, EPSILON)
        self.conv_pwl = _Conv(inner, after, 1)
        self.bn3 = nn.BatchNorm2d(after, EPSILON)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.act(self.bn2(self.conv_dw(self.act(self.bn1(self.conv_pw(x))))))
        made = self.bn3(self.conv_pwl(inner))
        return made + x if self.residual else made
