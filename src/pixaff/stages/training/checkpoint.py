"""The checkpoint of a training: everything on which its next step depends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixaff.errors import CheckpointError, TrainingError, shortened
from pixaff.io.checkpoints import load_training, save_training
from pixaff.stages.training.metrics import Mean

CHECKPOINT = "training.pt"


@dataclass
class Position:
    """How far a training has got.

    Attributes:
        step: Steps done.
        precision: "fp32" or "bf16", decided at the first step.
        window: The loss and its terms since the last record of metrics.jsonl.
        epoch: The same since the beginning of the epoch.
        best_loss, best_step, best: The lowest loss of the held-out photos, after which step, and the trained tensors
            of that step.
        checks: Number of checks of the held-out photos since then.
    """

    step: int = 0
    precision: str = ""
    window: Mean = field(default_factory=Mean)
    epoch: Mean = field(default_factory=Mean)
    best_loss: float = math.inf
    best_step: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    checks: int = 0


def save_checkpoint(
    folder: Path,
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
) -> None:
    """Write the checkpoint, atomically: a kill while it is written leaves the previous one.

    Raises:
        OutputError: It cannot be written.
    """
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "config": dict(config)}
    save_training(folder / CHECKPOINT, {**state, "position": asdict(position)})


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]
) -> Position:
    """Restore model and optimizer from the checkpoint.

    Raises:
        CheckpointError: It is damaged.
        TrainingError: It belongs to a training with other hyper-parameters or photos.
    """
    path = folder / CHECKPOINT
    state = load_training(path)
    try:
        saved, position = state["config"], state["position"]
        changed = [
            f"{name} {shortened(saved.get(name))} -> {now}" for name, now in config.items() if saved.get(name) != now
        ]
        if changed:
            raise TrainingError(
                f"{path} belongs to another training: {', '.join(changed)}",
                "use the options and photos of that one, or --overwrite",
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        window, epoch = Mean(**position.pop("window")), Mean(**position.pop("epoch"))
        return Position(**position, window=window, epoch=epoch)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of this training: {shortened(error)}", "overwrite it"
        ) from error
