"""timm's networks, without their downloads."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from pixaff.errors import PixaffError


def import_timm() -> ModuleType:
    """The package.

    Raises:
        PixaffError: torchvision, which timm needs, does not fit the installed torch.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise PixaffError(
            f"timm cannot be imported: {str(error).splitlines()[0]}",
            "torch and torchvision must come from one source: pip install --force-reinstall torch torchvision, "
            "both from the same index",
        ) from error
    module: ModuleType = timm
    return module


def timm_model(name: str, **options: Any) -> nn.Module:
    """A network of timm with random weights.

    Raises:
        PixaffError: See `import_timm`.
    """
    model: nn.Module = import_timm().create_model(name, pretrained=False, **options)
    return model
