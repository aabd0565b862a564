from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from pixaff import device
from pixaff.device import (
    check_memory,
    choose_precision,
    device_words,
    is_large,
    pick_device,
    steady_threads,
    total_memory,
)
from pixaff.errors import DeviceError, ImageError

CPU = torch.device("cpu")


def test_without_cuda_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(DeviceError, match="no CUDA device"):
        pick_device("cuda")


def test_with_two_cuda_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="cuda:2: this machine has 2 CUDA devices"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu:1", ""])
def test_other_names_are_refused(name):
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:n"):
        pick_device(name)


def test_words(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_words(CPU) == "cpu (1 thread)"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert device_words(CPU) == "cpu (3 threads)"


def test_auto_takes_bfloat16_on_the_cpu_only_where_it_is_clearly_faster():
    for fp32, bf16, chosen in ((3.0, 1.0, "bf16"), (1.1, 1.0, "fp32"), (1.0, 2.0, "fp32")):
        found, why = choose_precision("auto", CPU, {"fp32": fp32, "bf16": bf16}.__getitem__)
        assert found == chosen
        assert why == f"a trial took {fp32:.2g} s in fp32, {bf16:.2g} s in bf16"


def test_auto_follows_the_compute_capability_on_cuda_without_a_trial(monkeypatch):
    for capability, chosen in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where, capability=capability: capability)
        assert choose_precision("auto", torch.device("cuda", 0), {}.__getitem__)[0] == chosen


def test_a_precision_that_is_asked_for_is_taken_without_a_trial():
    for precision in ("fp32", "bf16"):
        assert choose_precision(precision, CPU, {}.__getitem__) == (precision, "as requested")


def test_what_takes_more_memory_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(device, "total_memory", lambda: 1_000_000_000)
    check_memory("LiteCam", 1000, (500, 1000), images=2)
    with pytest.raises(ImageError) as caught:
        check_memory("LiteCam", 1000, (500, 1001), images=2)
    assert str(caught.value) == (
        "too large for LiteCam: found 500 x 1001 pixels at the largest scale, which take some 1.0 GB; expected at most "
        "the 1.0 GB of this machine (use a smaller working size, such as --size 512)"
    )
    # What is not known passes.
    check_memory("LiteCam", None, (10**6, 10**6))
    monkeypatch.setattr(device, "total_memory", lambda: None)
    check_memory("LiteCam", 1000, (10**6, 10**6))


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(device, "LIMITS", (limit, Path("/nowhere")))
    for words, expected in ((None, machine), ("max\n", machine), ("123456789\n", 123456789)):
        if words:
            limit.write_text(words)
        assert total_memory.__wrapped__() == expected


def test_small_networks_compute_on_one_thread_and_large_ones_on_all():
    small = torch.nn.Linear(10, 10)
    large = torch.nn.Linear(4000, 2500, device="meta")
    assert not is_large(small, None)
    assert is_large(small, large)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with steady_threads(CPU, small, None):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        for networks in ((large,), (small, large)):
            with steady_threads(CPU, *networks):
                assert torch.get_num_threads() == 3
        with steady_threads(torch.device("cuda", 0), small):
            assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), steady_threads(CPU, small):
            _ = 1 // 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_that_compute_at_once_leave_the_number_as_it_was():
    """One that ends while the others still compute neither takes their setting away nor leaves its own behind."""
    before, small, found = torch.get_num_threads(), torch.nn.Linear(10, 10), []
    torch.set_num_threads(3)
    inside = [threading.Event() for _ in range(2)]
    ended = [threading.Event() for _ in range(2)]

    def compute(number: int) -> None:
        with steady_threads(CPU, small):
            inside[number].set()
            ended[number].wait(60)
            found.append(torch.get_num_threads())

    try:
        threads = [threading.Thread(target=compute, args=(number,)) for number in range(2)]
        for thread, event in zip(threads, inside, strict=True):
            thread.start()
            assert event.wait(60)
        for thread, event in zip(threads, ended, strict=True):
            event.set()
            thread.join(60)
        assert found == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
