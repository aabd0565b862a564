from __future__ import annotations

import copy
import errno
import io
import os
import pickle
import random
import re
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pixaff.errors import CheckpointError, OutputError
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
        with pytest.raises(CheckpointError, match="found a folder, expected a file"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "found nothing, expected tensors by name"),
        ([torch.zeros(1)], "found a list, expected tensors by name"),
        (torch.zeros(1), "found a Tensor, expected tensors by name"),
        ({"weight": torch.zeros(1), "epoch": 3}, "found entries that are not tensors: epoch"),
        ({7: torch.zeros(1)}, "found entries that are not tensors: 7"),
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


# Cases of hostile and damaged files that people met.


def pth(path: Path, pickled: Any, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    """A file as torch.save writes it, around any pickle."""
    data = pickled if isinstance(pickled, bytes) else pickle.dumps(pickled, protocol=2)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **members}.items():
            archive.writestr(f"archive/{name.replace('_', '/')}", content)
    return path


def pairs(depth: int) -> Any:
    """A pair of pairs of pairs ...: small in a file, and without end for whoever looks at each."""
    value: Any = (1,)
    for _ in range(depth):
        value = (value, value)
    return value


def as_key(value: Any) -> bytes:
    """The pickle of {value: None}, which pickle.dumps cannot write for a value whose hash takes for ever."""
    return b"\x80\x02}" + pickle.dumps(value, protocol=2)[2:-1] + b"Ns."


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (as_key(pairs(58)), "has a tuple as a key"),
        ({index * (2**61 - 1): 0 for index in range(9)}, "has a key of more than 32 bits"),
        ({-(2**61 - 1): 0}, "has a key of more than 32 bits"),
        ({1.5: 0}, "has a float as a key"),
        ({"a": list(range(600_000))}, "a pickle of too many instructions"),
    ],
)
@pytest.mark.parametrize("read", [read_state_dict, load_training])
def test_case_weights_that_never_load(tmp_path: Path, pickled: Any, words: str, read: Any) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"a\.pth: .*{words}") as caught:
        read(pth(tmp_path / "a.pth", pickled))
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("value", [pairs(58), pickle.loads(b"\x80\x02]q\x00h\x00a.")])
def test_case_weights_that_never_load_parts_within_parts(tmp_path: Path, value: Any) -> None:
    path = pth(tmp_path / "training.pt", {"config": value})
    with pytest.raises(CheckpointError, match=r"training\.pt: found parts inside parts without end"):
        load_training(path)
    with pytest.raises(CheckpointError, match="found entries that are not tensors: config"):
        read_state_dict(path)


def swelling(path: Path, compression: int) -> Path:
    torch.save({"w": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_case_weights_that_swell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_state_dict(swelling(tmp_path / "good.pth", zipfile.ZIP_STORED))["w"].shape == (1 << 20,)
    path = swelling(tmp_path / "swells.pth", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(torch, "empty", lambda *a, **o: pytest.fail("takes memory before it looks"))
    with pytest.raises(CheckpointError, match=r"swells\.pth: has compressed members"):
        read_state_dict(path)


def test_case_weights_that_swell_by_members_on_top_of_each_other(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        same = archive.getinfo("archive/data/0" if "archive/data/0" in members else "a/data/0")
        for index in range(50):  # further names for the same bytes
            other = copy.copy(same)
            other.filename = other.orig_filename = f"{same.filename}{index}"
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
    with pytest.raises(CheckpointError, match=r"claims \d+ bytes of members in a file of \d+"):
        read_state_dict(tmp_path / "a.pth")


def storage(count: int, key: str = "0") -> Any:
    return ("storage", torch.FloatStorage, key, "cpu", count)


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count"),
    [
        ((1000, 1000), (0, 0), 0, 4),
        ((5,), (1,), 0, 4),
        ((2,), (1,), 3, 4),
        ((2,), (-1,), 1, 4),
        ((4,), (1,), 0, 1 << 40),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_case_weights_that_swell_by_what_a_tensor_claims(
    tmp_path: Path, size: Any, stride: Any, offset: int, count: int, zipped: bool
) -> None:
    file = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if value == "the storage":
                return storage(count) if zipped else (*storage(count), None)
            return None

    class Claimed:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, ("the storage", offset, size, stride, False, OrderedDict())

    if zipped:
        Pickler(file, protocol=2).dump({"w": Claimed()})
        path = pth(tmp_path / "a.pth", file.getvalue(), data_0=bytes(16))
    else:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        Pickler(file, protocol=2).dump({"w": Claimed()})
        pickle.dump(["0"], file, protocol=2)
        path = tmp_path / "a.pth"
        path.write_bytes(file.getvalue() + (4).to_bytes(8, "little") + bytes(16))
    with pytest.raises(CheckpointError, match=r"a\.pth: (claims a tensor|has a tensor of no valid shape)"):
        read_state_dict(path)


@pytest.mark.parametrize("read", [read_state_dict, load_training])
def test_case_weights_with_a_flipped_bit(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "a.pth"
    torch.save({name: torch.randn(100) for name in "abcd"}, path)
    good = path.read_bytes()
    read(path)
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.file_size]
    for member in members:
        place = good.index(member.filename.encode()) + len(member.filename)
        place += int.from_bytes(good[place - len(member.filename) - 2 : place - len(member.filename)], "little")
        for offset in {0, member.file_size // 2, member.file_size - 1}:
            changed = bytearray(good)
            changed[place + offset] ^= 1 << random.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(CheckpointError, match=r"a\.pth: damaged weights file: Bad CRC-32"):
                read(path)


def test_case_good_weights_called_a_web_page(tmp_path: Path) -> None:
    path = tmp_path / "valid.safetensors"
    write_state_dict(path, {"w": torch.ones(2)}, metadata={"note": ""})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    write_state_dict(path, {"w": torch.ones(2)}, metadata={"note": "x" * (0x3C20 - length)})
    assert path.read_bytes()[:9] == b" <" + bytes(6) + b"{"
    assert list(read_state_dict(path)) == ["w"]
    assert read_metadata(path)["note"].strip("x") == ""


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict"])
def test_weights_inside_a_checkpoint_of_others(tmp_path: Path, name: str) -> None:
    state = network().state_dict()
    torch.save({name: state, "optimizer": {"state": {}}, "epoch": 3, "size": torch.Size([1])}, tmp_path / "a.pth")
    assert equal(read_state_dict(tmp_path / "a.pth"), state)
    torch.save({"model": torch.ones(2), "head": torch.ones(3)}, tmp_path / "b.pth")  # tensors that have such a name
    assert list(read_state_dict(tmp_path / "b.pth")) == ["model", "head"]


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """Safetensors puts its notes in an order that differs from call to call."""
    state, notes = network().state_dict(), {name: name * 3 for name in "abcdefghij"}
    for index in range(6):
        order = sorted(notes, reverse=index % 2 == 0)
        write_state_dict(tmp_path / f"{index}.safetensors", state, metadata={name: notes[name] for name in order})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_metadata(tmp_path / "0.safetensors") == notes
    assert {*load_file(tmp_path / "0.safetensors")} == {*state}


def test_a_full_disk_while_the_state_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_training(tmp_path / "last.pt", {"step": 1})

    class Full(io.FileIO):
        written = 0

        def write(self, data: Any) -> int:
            Full.written += len(data)
            if Full.written > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(io, "FileIO", Full)
    with pytest.raises(OutputError, match=r"last\.pt: cannot be written: No space left on device .free some space"):
        save_training(tmp_path / "last.pt", {"weights": torch.ones(10_000)})
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]
    assert load_training(tmp_path / "last.pt") == {"step": 1}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    for read in (read_state_dict, read_metadata, load_training):
        with pytest.raises(CheckpointError, match="found a named pipe"):
            read(tmp_path / "a.pth")


def test_a_key_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    for key in ((1, 2), 2**40, 1.5):
        with pytest.raises(ValueError, match="a key of state: found"):
            save_training(tmp_path / "last.pt", {"a": 1, key: 2})  # type: ignore[dict-item]
