from __future__ import annotations

import pytest
import torch

from pixaff.device import device_words, pick_device
from pixaff.errors import DeviceError
from pixaff.stages import device as stage


def test_without_cuda_auto_is_the_cpu_and_cuda_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
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
    monkeypatch.setattr(stage.torch, "get_num_threads", lambda: 1)
    assert device_words(torch.device("cpu")) == "cpu (1 thread)"
