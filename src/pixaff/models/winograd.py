"""Large 3x3 convolutions with a quarter of the multiplications, for inference on the CPU in float32.

Winograd's algorithm F(4x4, 3x3) (Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016): tiles
of 6 x 6 pixels that overlap by 2 and the weights are transformed to 36 numbers each, multiplied there as 36 products of
matrices, and transformed back to 4 x 4 pixels. The transforms take time of their own, so that it suits many channels.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixaff.models.base import Network

N = TypeVar("N", bound=Network)

INPUTS, OUTPUTS = 128, 256
"""Channels from which on a convolution is clearly faster this way: 1.4 times here, 2.3 times with 512 of each."""
SHARE = 0.5
"""Share of a network's parameters that such convolutions have to hold."""
MEMORY = 2**29
"""Largest size of a network's transformed weights, in bytes; they are four times as large as the weights."""
BAND = 24_000_000
"""Size in bytes of the tiles that are transformed at once: few enough to stay in the processor's cache."""


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Matrices that act on the rows of all 6 x 6 numbers at once: of tiles (36,36), weights (36,9), results (16,36).

    They follow from polynomials that are known by their values at five points and infinity. With these points results
    are off by 4e-6 of the largest, a third of what the usual 2 in the place of 1/2 leads to (Barabasz et al., *Error
    Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks*, 2020).
    """
    points = np.array([0, 1, -1, 0.5, -2])
    tile, weight, result = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for row, point in enumerate(points):
        others = np.delete(points, row)
        tile[row, :5] = np.poly(others)[::-1]
        weight[row] = point ** np.arange(3) / np.prod(point - others)
        result[:, row] = point ** np.arange(4)
    tile[5] = np.poly(points)[::-1]
    weight[5, 2] = result[3, 5] = 1
    of_tile, of_weight, of_result = (torch.from_numpy(np.kron(one, one)).float() for one in (tile, weight, result))
    return of_tile, of_weight, of_result


OF_TILE, OF_WEIGHT, OF_RESULT = _transforms()


def winograd_layers(network: Network) -> list[str]:
    """Names of the convolutions that `with_winograd` replaces; none if they are not most of the network."""
    layers = {name: module for name, module in network.named_modules() if _suits(module)}
    weights = sum(conv.weight.numel() for conv in layers.values())
    everything = sum(parameter.numel() for parameter in network.parameters())
    transformed = weights * 4 * len(OF_WEIGHT) // 9
    return list(layers) if weights > SHARE * everything and transformed <= MEMORY else []


def with_winograd(network: N) -> N:
    """The network for inference on the CPU in float32, with Winograd's algorithm where it saves time.

    The network itself stays as it is. The copy shares all tensors with it, and is not to be trained.
    """
    names = winograd_layers(network)
    if network.training or not names:
        return network
    tensors = (*network.parameters(), *network.buffers())
    made = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for name in names:
        conv = made.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        parent, _, last = name.rpartition(".")
        made.get_submodule(parent).add_module(last, WinogradConv2d(conv))
    return made


def _suits(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d  # others may compute their weights or their padding
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.dilation == module.padding in ((1, 1), (2, 2), (4, 4))
        and module.groups == 1
        and module.padding_mode == "zeros"
        and module.in_channels >= INPUTS
        and module.out_channels >= OUTPUTS
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    )


class WinogradConv2d(nn.Conv2d):
    """A convolution of 3x3 and stride 1 whose padding is its dilation.

    Args:
        conv: The convolution, with which it shares its weights.
    """

    transformed: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        sizes, step = (conv.in_channels, conv.out_channels, 3), conv.dilation[0]
        super().__init__(*sizes, padding=step, dilation=step, bias=False, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        weight = conv.weight.detach()
        rows = weight.permute(2, 3, 0, 1).reshape(9, -1)
        made = (OF_WEIGHT @ rows).view(36, *weight.shape[:2]).transpose(1, 2)
        self.register_buffer("transformed", made, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float32 (B,C,h,w) -> (B,D,h,w), in the memory format channels_last; plain where gradients are wanted."""
        images, inputs, height, width = x.shape
        outputs, step = self.out_channels, self.dilation[0]
        # Pixels at a distance of the dilation are an image of their own; a block holds a tile of each such image.
        block = 4 * step
        rows, columns = -(-height // block), -(-width // block)
        tiles_of_row = images * columns * step**2
        if 6 * rows * tiles_of_row > images * height * width or torch.is_grad_enabled():
            return super().forward(x)  # hardly fewer multiplications, as most of the tiles is beyond the edges
        right, bottom = columns * block - width + step, rows * block - height + step
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, step, right, step, bottom)).contiguous()
        image, row, column, _ = x.stride()
        strides = (row * step, column * step, image, row * block, row, column * block, column, 1)
        band = min(rows, max(1, BAND // (4 * 36 * max(inputs, outputs) * tiles_of_row)))
        # All bands use the same memory, which is slow when it is new.
        tiles, points = (x.new_empty(36, band * tiles_of_row, inputs) for _ in range(2))
        products, results = (x.new_empty(size, band * tiles_of_row, outputs) for size in (36, 16))
        out = x.new_empty(images, rows, 4, step, columns, 4, step, outputs)
        bias = x.new_zeros(outputs) if self.bias is None else self.bias
        for top in range(0, rows, band):
            cells = (images, min(band, rows - top), step, columns, step)
            if top + band > rows:
                tiles, points, products, results = (
                    one[:, : cells[1] * tiles_of_row] for one in (tiles, points, products, results)
                )
            there = x.as_strided((6, 6, *cells, inputs), strides, x.storage_offset() + top * block * row)
            tiles.view(6, 6, *cells, inputs).copy_(there)
            torch.mm(OF_TILE, tiles.view(36, -1), out=points.view(36, -1))
            torch.bmm(points, self.transformed, out=products)
            torch.mm(OF_RESULT, products.view(36, -1), out=results.view(16, -1))
            # From (row, column in the tile; image, row, phase, column, phase) to the order of the pixels.
            pixels = results.view(4, 4, *cells, outputs).permute(2, 3, 0, 4, 5, 1, 6, 7)
            torch.add(pixels, bias, out=out[:, top : top + cells[1]])
        whole = out.view(images, rows * block, columns * block, outputs)
        return whole[:, :height, :width].permute(0, 3, 1, 2)
