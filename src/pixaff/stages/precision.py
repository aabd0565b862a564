"""Whether the networks compute in bfloat16 when photos go in."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from pixaff.errors import UsageError
from pixaff.stages.runner import Callback, Event
from pixaff.stages.training.precision import autocast, choose_precision

PRECISIONS = ("fp32", "bf16", "auto")
TRIAL_SIZE = (128, 128)


def settle_precision(
    requested: str, cam: Any, affinity: Any, device: torch.device, command: str, report: Callback
) -> str:
    """The precision of a run, "fp32" or "bf16"; for "auto" a note says which it is and why.

    Args:
        requested: "fp32", "bf16" or "auto": see `choose_precision`. On the CPU both networks are timed on a small
            image in either precision: no rule says what a processor gains from which network.
        cam, affinity: The networks that will be used, or None.
        device: Where they are.
        command, report: Whom to tell.

    Raises:
        UsageError: Another word.
    """
    if requested not in PRECISIONS:
        raise UsageError(f"found the precision {requested!r}, expected {', '.join(PRECISIONS)}")
    grey = np.full((*TRIAL_SIZE, 3), 128, np.uint8)
    # Relevance maps cost time for each class: all of them would be a long trial, and unlike a photo's few.
    few: dict[str, Any] = {"classes": [0]} if hasattr(cam, "normalized_cams") else {}

    @torch.inference_mode()
    def seconds(precision: str) -> float:
        tries = []
        with autocast(precision, device):
            for _ in range(3):  # the first one warms up
                began = time.perf_counter()
                for network, method, options in ((cam, "cam", few), (affinity, "features", {})):
                    if network is not None:
                        x = network.preprocess(grey)[None].to(device)
                        getattr(network, method)(x.contiguous(memory_format=torch.channels_last), **options)
                tries.append(time.perf_counter() - began)
        return min(tries[1:])

    chosen, why = choose_precision(requested, device, seconds)
    if requested == "auto":
        report(Event("note", command, f"computing in {chosen}: {why}"))
    return chosen
