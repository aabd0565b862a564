"""What the networks with published weights share: how they are fed, and what of them is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pixaff.models.lite import normalized

if TYPE_CHECKING:
    from typing_extensions import Self


class Published(nn.Module):
    """Base of the VGG-16, ResNet-38 and hybrid networks, whose layers keep the names of the published weights.

    Attributes:
        mean, std: Of the colours red, green, blue from 0 to 1.
        bgr: Whether the network wants the normalised colours in the order blue, green, red.
        bytes_per_pixel: Memory that a forward pass in float32 takes at its peak, measured; None means unknown.
        frozen: Layers that training leaves alone: the stem and the first stage.
        new: Layers that the start weights lack and that learn faster.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr = False
    bytes_per_pixel: int | None = None
    frozen: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def preprocess(self, image: object) -> Tensor:
        """PIL image or uint8 (H,W,3) RGB -> normalised float32 (3,H,W)."""
        pixels = normalized(image, self.mean, self.std)
        return pixels.flip(0) if self.bgr else pixels

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but batch norm, which keeps the statistics of its start weights."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
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
