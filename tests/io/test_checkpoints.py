from __future__ import annotations

import os
import pickle
import random
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pixaff.errors import CheckpointError
from pixaff.io.checkpoints import load_training, read_metadata, read_state_dict, save_training, write_state_dict


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'echo ran > "{self.path}"',)


class Evaluate(Touch):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "both"])
def test_pth_in_every_wrapping(tmp_path: Path, zipped: bool, wrap: str) -> None:
    state = network().state_dict()
    content: Any = state
    if wrap in ("module", "both"):
        content = OrderedDict((f"module.{name}", value) for name, value in state.items())
    if wrap in ("state_dict", "both"):
        content = {"epoch": 3, "state_dict": content, "note": "best"}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert equal(read_state_dict(tmp_path / "a.pth"), state)
    assert read_metadata(tmp_path / "a.pth") == {}


def test_module_is_stripped_only_as_a_wrapping(tmp_path: Path) -> None:
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(2)}
    torch.save(state, tmp_path / "a.pth")
    assert list(read_state_dict(tmp_path / "a.pth")) == list(state)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a"])
def test_safetensors_are_known_by_content(tmp_path: Path, name: str) -> None:
    state = network().state_dict()
    write_state_dict(tmp_path / "new" / name, state, metadata={"model": "lite_cam", "classes": "cat\nköter"})
    read = read_state_dict(tmp_path / "new" / name)
    assert {key: value.dtype for key, value in read.items()} == {key: value.dtype for key, value in state.items()}
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert read_metadata(tmp_path / "new" / name) == {"model": "lite_cam", "classes": "cat\nköter"}
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == [name]


def test_half_precision_spares_vectors_counters_and_what_would_overflow(tmp_path: Path) -> None:
    state = network().state_dict() | {"large.weight": torch.full((2, 2), 1e6), "ids": torch.arange(4).reshape(2, 2)}
    write_state_dict(tmp_path / "a.safetensors", state, half=True)
    read = read_state_dict(tmp_path / "a.safetensors")
    assert {name for name, value in read.items() if value.dtype == torch.float16} == {"0.weight", "2.weight"}
    for name, value in state.items():
        torch.testing.assert_close(read[name].to(value.dtype), value, rtol=2**-11, atol=1e-7)
    assert torch.equal(read["1.running_var"], state["1.running_var"])
    network().load_state_dict({name: value for name, value in read.items() if name[0].isdigit()})


def test_shared_and_strided_tensors_are_written(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    write_state_dict(tmp_path / "a.safetensors", {"a": weight, "b": weight, "c": weight.T, "d": weight[:, ::2]})
    read = read_state_dict(tmp_path / "a.safetensors")
    assert torch.equal(read["b"], weight)
    assert torch.equal(read["c"], weight.T)
    assert torch.equal(read["d"], weight[:, ::2])


@pytest.mark.parametrize("read", [read_state_dict, load_training])
@pytest.mark.parametrize("zipped", [True, False, None])
@pytest.mark.parametrize("kind", [Touch, Evaluate])
def test_hostile_pickles_are_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any, zipped: bool | None, kind: type[Touch]
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # must not weaken an explicit choice
    mark, path = tmp_path / "ran", tmp_path / "weights.pth"
    content = {"0.weight": torch.zeros(2, 2), "state_dict": {"x": kind(mark)}}
    if zipped is None:
        path.write_bytes(pickle.dumps(content["state_dict"]["x"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"weights\.pth: .*nothing in it was run") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the protection off
    assert not mark.exists()
    if zipped is None:
        pickle.loads(path.read_bytes())  # the pickle is a live one
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_whole_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules\.container\.Sequential"):
        read_state_dict(tmp_path / "model.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_truncated_and_empty_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {"weight": torch.randn(100, 100)}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=rf"weights\{suffix}: ") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))
    if share == 0:
        assert "empty file" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "page", ["<!DOCTYPE html><html>quota exceeded</html>", "\ufeff\n <HTML>", "<?xml version='1.0'?>"]
)
def test_a_web_page_is_called_one(tmp_path: Path, suffix: str, page: str) -> None:
    (tmp_path / f"weights{suffix}").write_text(page, encoding="utf-8")
    for read in (read_state_dict, read_metadata):
        with pytest.raises(CheckpointError, match=r"found a web page .*\(the download was refused"):
            read(tmp_path / f"weights{suffix}")


@pytest.mark.parametrize("data", [b"hello", b"\0" * 100, b"\x80\x02", b"PK\x03\x04", b"\xff" * 8 + b"{}", b"{}" * 50])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"a\{suffix}: ") as caught:
        read_state_dict(tmp_path / f"a{suffix}")
    assert "\n" not in str(caught.value)
    assert not re.search(r": \d+$", caught.value.message)  # the bare key of a KeyError


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for read in (read_state_dict, read_metadata, load_training):
        with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
            read(tmp_path / "absent.pth")
        with pytest.raises(CheckpointError, match="cannot be read"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "found nothing, expected tensors by name"),
        ([torch.zeros(1)], "found a list, expected tensors by name"),
        (torch.zeros(1), "found a Tensor, expected tensors by name"),
        ({"weight": torch.zeros(1), "epoch": 3}, "found entries that are no tensors: epoch"),
        ({7: torch.zeros(1)}, "found entries that are no tensors: 7"),
    ],
)
def test_anything_but_tensors_by_name(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: {words}"):
        read_state_dict(tmp_path / "a.pth")


def test_training_state_comes_back_whole(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    generator = np.random.default_rng(5)
    state = {
        "step": 12,
        "seconds": 1.5,
        "name": "köter",
        "done": False,
        "best": None,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "numpy": generator.bit_generator.state,
        "python": random.getstate(),
        "order": [3, 1, (2, b"x")],
    }
    save_training(tmp_path / "new" / "last.pt", state)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["last.pt"]
    expected = generator.random(), random.random(), torch.rand(3)

    read = load_training(tmp_path / "new" / "last.pt")
    assert list(read) == list(state)
    for key in ("step", "seconds", "name", "done", "best", "python", "order"):
        assert read[key] == state[key]
        assert type(read[key]) is type(state[key])
    assert equal(read["model"], model.state_dict())
    other = torch.optim.AdamW(network().parameters(), lr=1.0)
    other.load_state_dict(read["optimizer"])
    assert other.param_groups[0]["lr"] == 1e-3
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    generator.bit_generator.state = read["numpy"]
    random.setstate(read["python"])
    torch.set_rng_state(read["torch"])
    assert (generator.random(), random.random()) == expected[:2]
    assert torch.equal(torch.rand(3), expected[2])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": {"b": [1, np.float64(1)]}}, r"state\['a'\]\['b'\]\[1\]: found float64"),
        ({"a": np.zeros(3)}, r"state\['a'\]: found ndarray"),
        ({"model": network()}, r"state\['model'\]: found Sequential"),
        ({"path": Path("x")}, r"state\['path'\]: found \w*Path"),
    ],
)
def test_state_that_could_not_be_read_is_not_written(tmp_path: Path, state: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        save_training(tmp_path / "last.pt", state)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_training(tmp_path / "last.pt", {"step": 1})

    def interrupted(content: object, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_training(tmp_path / "last.pt", {"step": 2})
    assert load_training(tmp_path / "last.pt") == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_training_state_of_another_kind(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="found a list, expected the state of a training run"):
        load_training(tmp_path / "last.pt")
