"""The optimizer of the paper: parameter groups with their own learning rates, and the polynomial schedule."""

from __future__ import annotations

from typing import Any

import torch

from pixaff.models.base import Network
from pixaff.recipe import Recipe

POWER = 0.9
BIAS_LR_SCALE = 2.0


def parameter_groups(model: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimizer groups of a model: backbone and head, weights and biases.

    Weights of the backbone learn at ``backbone_lr_scale`` times the learning rate and those of the head at
    ``head_lr_scale`` times; biases at twice that of their weights, and without weight decay. Every group carries its
    ``lr_scale``. With ``backbone_lr_scale=0`` the backbone is frozen: its parameters need no gradient, so the backward
    pass stops at the head.

    Raises:
        ValueError: Nothing is left to train.
    """
    biases = {id(p) for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    scales = {"backbone": recipe.backbone_lr_scale, "head": recipe.head_lr_scale}
    groups: list[dict[str, Any]] = []
    for part, parameters in model.parameter_groups().items():
        if scales[part] == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
            continue
        weights = [p for p in parameters if id(p) not in biases]
        rest = [p for p in parameters if id(p) in biases]
        if weights:
            groups.append({"params": weights, "lr_scale": scales[part], "weight_decay": recipe.weight_decay})
        if rest:
            groups.append({"params": rest, "lr_scale": scales[part] * BIAS_LR_SCALE, "weight_decay": 0.0})
    if not groups:
        raise ValueError("the model has no parameter to train")
    return groups


def build_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The recipe's optimizer for groups with ``lr_scale``; see `set_lr`."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def set_lr(optimizer: torch.optim.Optimizer, lr: float, step: int, steps: int) -> float:
    """Set every group to ``lr * lr_scale * (1 - step / steps)^0.9``, and return the rate for scale 1."""
    now = lr * (1 - step / steps) ** POWER
    for group in optimizer.param_groups:
        group["lr"] = now * group["lr_scale"]
    return now
