"""The device and the precision of the networks, and whether an image fits into memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from pixaff.errors import DeviceError, ImageError

LARGE = 10_000_000
"""Parameters from which on a network has the machine to itself."""
GAIN = 1.2
"""bfloat16 is chosen on the CPU if it is at least this many times faster."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files in which Linux says how much memory a container may use."""

one_at_a_time = threading.Lock()
"""Held while the layers of a network are traced, which the threads of a run would otherwise do all at once."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called "auto" (the first CUDA device, else the CPU), "cpu", "cuda" or "cuda:n".

    Raises:
        DeviceError: This machine has no such device.
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
    """The device in words: "cpu (2 threads)", "cuda:0 (NVIDIA H100)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    count = torch.get_num_threads()
    return f"{device} ({count} threads)" if count > 1 else f"{device} (1 thread)"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 for "bf16", nothing for "fp32"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def choose_precision(requested: str, device: torch.device, seconds: Callable[[str], float]) -> tuple[str, str]:
    """Decide what "auto" means: bf16 on CUDA from compute capability 8 (Ampere) on, and on the CPU whichever is faster.

    CPUs differ too much for a rule: with AMX, bfloat16 is several times faster than float32; without it, and for
    depthwise convolutions, it is often slower. So ``seconds(precision)`` returns the time of a trial of each.

    Returns:
        "fp32" or "bf16", and why.
    """
    if requested != "auto":
        return requested, "as requested"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return ("bf16" if major >= 8 else "fp32"), f"compute capability {major}.{minor}"
    fp32, bf16 = seconds("fp32"), seconds("bf16")
    chosen = "bf16" if bf16 * GAIN < fp32 else "fp32"
    return chosen, f"a trial took {fp32:.2g} s in fp32, {bf16:.2g} s in bf16"


def has_vnni() -> bool:
    """Whether this processor adds products of 8-bit integers in 32 bits at once."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)  # not in every version of PyTorch
    return bool(supported and supported())


def is_large(*networks: nn.Module | None) -> bool:
    """Whether one of the networks has the machine to itself, image after image.

    Such a network takes some gigabytes an image, and its large convolutions keep all threads busy. `lite` has five
    million parameters and gains little from more than one thread an image.
    """
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in networks if network]
    return max(sizes, default=0) >= LARGE


@contextmanager
def steady_threads(device: torch.device, *networks: nn.Module | None) -> Iterator[None]:
    """Inside the block, compute small networks on one thread of the CPU.

    The last bits of a convolution depend on the number of threads that share it. With one thread per image, a mask is
    the same whatever else is computed at the same time, and on any number of processors.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or is_large(*networks):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_memory(name: str, bytes_per_pixel: int | None, pixels: tuple[int, int], images: int = 1) -> None:
    """Make sure that a network's activations fit into the memory of this machine, as far as its needs are known.

    Args:
        name: Name of the network.
        bytes_per_pixel: Memory that its forward pass takes; None means unknown, and is accepted.
        pixels: (h, w) of the images.
        images: Number of images computed together.

    Raises:
        ImageError: They need more memory than the machine has.
    """
    there, needed = total_memory(), (bytes_per_pixel or 0) * pixels[0] * pixels[1] * images
    if there is not None and needed > there:
        raise ImageError(
            f"too large for {name}: found {pixels[0]} x {pixels[1]} pixels at the largest scale, which take some "
            f"{needed / 1e9:,.1f} GB; expected at most the {there / 1e9:,.1f} GB of this machine",
            "use a smaller working size, such as --size 512",
        )


@lru_cache(maxsize=1)
def total_memory() -> int | None:
    """Bytes of memory that this process may use at most; None if the system does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return None
    for limit in LIMITS:
        try:
            found.append(int(limit.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(found)
