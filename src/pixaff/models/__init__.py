"""Networks by name: `create_model`, `load_checkpoint`, `list_models`."""

from pixaff.models.registry import create_model, list_models, load_checkpoint

__all__ = ["create_model", "list_models", "load_checkpoint"]
