"""The recipes of lite's trainings, for the help: the registry, which has them, would import torch. A test compares."""

from __future__ import annotations

_SHARED = {"weight_decay": 1e-4, "backbone_lr_scale": 0, "head_lr_scale": 10, "clip_norm": 0, "crop": 448, "seed": 0}

LITE_RECIPES = {
    "cam": {**_SHARED, "epochs": 8, "batch_size": 16, "lr": 1e-3, "optimizer": "adamw", "precision": "fp32"},
    "head": {**_SHARED, "epochs": 3, "batch_size": 16, "lr": 1e-4, "optimizer": "adamw", "weight_decay": 1e-2},
    "affinity": {
        **_SHARED, "epochs": 8, "batch_size": 8, "lr": 2e-4, "optimizer": "adamw", "weight_decay": 5e-4,
        "backbone_lr_scale": 1, "precision": "auto",
    },
    "irn": {
        **_SHARED, "epochs": 6, "batch_size": 16, "lr": 2e-4, "optimizer": "adamw", "crop": 512, "precision": "auto",
    },
}  # fmt: skip
