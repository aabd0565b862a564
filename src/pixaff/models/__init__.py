"""Networks by name: `create_model`, `load_checkpoint`, `list_models`."""

from pixaff.models.loading import load_checkpoint
from pixaff.models.registry import (
    create_affinity_network,
    create_boundary_network,
    create_cam_network,
    create_model,
    create_seg_network,
    list_models,
)

__all__ = [
    "create_affinity_network",
    "create_boundary_network",
    "create_cam_network",
    "create_model",
    "create_seg_network",
    "list_models",
    "load_checkpoint",
]
