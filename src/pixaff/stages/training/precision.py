"""Whether a training computes in bfloat16."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

GAIN = 1.2
"""bfloat16 must be this many times faster on the CPU to be chosen."""
TRIAL_PHOTOS = 2
"""Photos of a step that is timed in each precision."""

N = TypeVar("N", bound=nn.Module)
Terms = Callable[[N, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 for ``bf16``, nothing for ``fp32``."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def choose_precision(requested: str, device: torch.device, seconds: Callable[[str], float]) -> tuple[str, str]:
    """Settle ``auto``: bf16 on CUDA from compute capability 8 (Ampere) on, on the CPU whichever is faster.

    CPUs differ too much for a rule: with AMX bfloat16 is several times faster than float32, while elsewhere, and for
    depthwise convolutions, it is often slower. So ``seconds(precision)`` is asked for the time of a trial of each.

    Returns:
        "fp32" or "bf16", and why.
    """
    if requested != "auto":
        return requested, "as asked"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return ("bf16" if major >= 8 else "fp32"), f"compute capability {major}.{minor}"
    fp32, bf16 = seconds("fp32"), seconds("bf16")
    chosen = "bf16" if bf16 * GAIN < fp32 else "fp32"
    return chosen, f"a trial took {fp32:.2g} s in fp32, {bf16:.2g} s in bf16"


def settle_precision(
    requested: str, model: N, loss_fn: Terms[N], batch: Mapping[str, torch.Tensor], device: torch.device
) -> tuple[str, str]:
    """`choose_precision` by steps of a few photos of ``batch``, which leave the model as it was."""
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
