"""Whether a training computes in bfloat16."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from pixaff.device import autocast, choose_precision
from pixaff.models.base import Network

TRIAL_PHOTOS = 2
"""Number of photos in a step that is timed in each precision."""

Terms = Callable[[Network, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


def settle_precision(
    requested: str, model: Network, loss_fn: Terms, batch: Mapping[str, torch.Tensor], device: torch.device
) -> tuple[str, str]:
    """`choose_precision` by timing steps with a few photos of ``batch``; the model stays unchanged."""
    small = {name: tensor[:TRIAL_PHOTOS] for name, tensor in batch.items()}

    def seconds(precision: str) -> float:
        tries = []
        for _ in range(3):  # the first one warms up
            began = time.perf_counter()
            with autocast(precision, device):
                loss = loss_fn(model, small)["loss"]
            loss.backward()
            tries.append(time.perf_counter() - began)
        return min(tries[1:])

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chosen = choose_precision(requested, device, seconds)
    model.load_state_dict(before)
    model.zero_grad(set_to_none=True)
    return chosen
