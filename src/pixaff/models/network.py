"""What all networks share: how they are fed, and what of them is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


class Network(nn.Module):
    """Base of all networks.

    Attributes:
        mean, std: Of the colours red, green, blue from 0 to 1.
        bgr: Whether the network wants the normalised colours in the order blue, green, red.
        bytes_per_pixel: Memory that a forward pass in float32 takes at its peak, measured; None means unknown.
        frozen: Layers that training leaves alone: the stem and the first stage.
        new: Layers that the start weights lack and that learn faster.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr = False
    bytes_per_pixel: int | None = None
    image_size: int | None = None
    single_scale = False
    frozen: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def preprocess(self, image: object) -> Tensor:
        """PIL image or uint8 (H,W,3) RGB -> normalised float32 (3,H,W)."""
        pixels = _normalized(image, self.mean, self.std)
        return pixels.flip(0) if self.bgr else pixels

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but batch norm, which keeps the statistics of its start weights."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: those of the start weights and the new ones."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["head" if name.partition(".")[0] in self.new else "backbone"].append(parameter)
        return groups

    def freeze(self) -> None:
        """Ask for no gradient of the frozen layers, nor of any batch norm's scale and shift."""
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)


def _normalized(image: object, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """PIL image or uint8 (H,W,3) RGB -> float32 (3,H,W), (value / 255 - mean) / std.

    Raises:
        ValueError: Another shape or dtype.
    """
    pixels: NDArray[np.uint8] = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"found an image of shape {pixels.shape} and {pixels.dtype}, expected uint8 (H,W,3)")
    scale = np.float32(1 / 255) / np.array(std, np.float32)
    shift = np.array(mean, np.float32) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray((pixels * scale - shift).transpose(2, 0, 1)))
