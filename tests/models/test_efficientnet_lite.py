"""The backbone of `lite` against timm's, and that loading `lite` does without timm."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pixaff.models.efficientnet_lite import EfficientNetLite2, head
from pixaff.models.timm_backbone import timm_model

NAME = "tf_efficientnet_lite2"


def with_statistics(network: torch.nn.Module) -> torch.nn.Module:
    """The network with batch norms that do something."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@torch.inference_mode()
@pytest.mark.parametrize("levels", [(2, 3, 4), (0, 1, 2, 3, 4)])
def test_levels_are_those_of_timm(levels: tuple[int, ...]) -> None:
    theirs = with_statistics(timm_model(NAME, features_only=True, output_stride=16, out_indices=levels))
    ours = EfficientNetLite2(levels).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 112, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(ours(x), theirs(x), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(found, expected)


def test_cells_of_the_published_stride_are_centred_on_their_pixels() -> None:
    network = EfficientNetLite2((0, 1, 2, 3, 4), output_stride=32).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("weight"):
            tensor.fill_(1 / tensor[0].numel())  # every pixel of the receptive field counts
    x = torch.full((1, 3, 512, 512), 1e-6, requires_grad=True)  # no activation is cut at 6
    for stride, level in zip((2, 4, 8, 16, 32), network(x), strict=True):
        assert level.shape[2:] == (512 // stride, 512 // stride)
        cell = 256 // stride
        weight = torch.autograd.grad(level[0, 0, cell, cell], x, retain_graph=True)[0].sum((0, 1, 2))
        centre = float((weight * torch.arange(512)).sum() / weight.sum())
        assert abs(centre - (256 + stride / 2 - 0.5)) <= stride / 4


@torch.inference_mode()
def test_head_is_that_of_timm() -> None:
    whole = with_statistics(timm_model(NAME))
    ours = head().eval()
    ours.load_state_dict({name: whole.state_dict()[name] for name in ours.state_dict()})
    x = torch.randn(1, 352, 3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x), whole.get_submodule("bn2")(whole.get_submodule("conv_head")(x)))


def test_lite_loads_without_slow_packages() -> None:
    """timm imports torchvision, torchvision the compiler of PyTorch: twice the time of a mask."""
    slow = "timm", "torchvision", "torch._dynamo", "sympy", "matplotlib", "filelock", "platformdirs", "requests"
    code = f"import sys, pixaff; pixaff.load('lite'); print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
