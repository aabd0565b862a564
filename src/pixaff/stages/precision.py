"""Whether the networks compute in bfloat16 when photos go in."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from pixaff.errors import UsageError
from pixaff.models.base import AffinityNetwork, CamNetwork, Network
from pixaff.stages.runner import Callback, Event
from pixaff.stages.training.precision import autocast, choose_precision

PRECISIONS = ("fp32", "bf16", "auto")
TRIAL_SIZE = (128, 128)


def settle_precision(
    requested: str,
    cam: CamNetwork | None,
    affinity: AffinityNetwork | None,
    device: torch.device,
    command: str,
    report: Callback,
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

    @torch.inference_mode()
    def seconds(precision: str) -> float:
        tries = []
        with autocast(precision, device):
            for _ in range(3):  # the first one warms up
                began = time.perf_counter()
                if cam is not None:
                    # Relevance maps cost time for each class: all of them would be unlike a photo's few.
                    cam.class_cams(_fed(cam), [0])
                if affinity is not None:
                    affinity.features(_fed(affinity))
                tries.append(time.perf_counter() - began)
        return min(tries[1:])

    chosen, why = choose_precision(requested, device, seconds)
    if requested == "auto":
        report(Event("note", command, f"computing in {chosen}: {why}"))
    return chosen


def _fed(network: Network) -> Tensor:
    """A small grey image as the network takes it."""
    x = network.preprocess(np.full((*TRIAL_SIZE, 3), 128, np.uint8))[None].to(network.device)
    return x.contiguous(memory_format=torch.channels_last)
