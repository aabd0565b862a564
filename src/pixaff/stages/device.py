"""Which processor a stage computes on."""

from __future__ import annotations

import torch

from pixaff.errors import DeviceError


def pick_device(name: str = "auto") -> torch.device:
    """The device called "auto" (the first CUDA device, else the CPU), "cpu", "cuda" or "cuda:n".

    Raises:
        DeviceError: No such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise DeviceError(f"found the device {name!r}, expected auto, cpu, cuda or cuda:n")
    if kind == "cpu":
        return torch.device("cpu")
    if int(index or 0) >= count:
        found = f"{count} CUDA devices" if count else "no CUDA device"
        raise DeviceError(f"{name}: this machine has {found}", "use --device cpu, or install torch with CUDA")
    return torch.device("cuda", int(index or 0))


def device_words(device: torch.device) -> str:
    """The device as a person reads it: "cpu (2 threads)", "cuda:0 (NVIDIA H100)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    count = torch.get_num_threads()
    return f"{device} ({count} threads)" if count > 1 else f"{device} (1 thread)"
