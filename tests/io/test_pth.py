from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pixaff.io.pth import Other, read_pth


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        alike = found.dtype == expected.dtype and found.shape == expected.shape
        plain = [each.contiguous().reshape(-1).view(torch.uint8) for each in (found, expected)]
        return alike and torch.equal(*plain)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[name], expected[name]) for name in expected)
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and found == expected


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(12, 10)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    kinds = ("float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool", "complex64")
    return {
        "weight": weight,
        "part": weight[3:, ::2],
        "turned": weight.T,
        "parameter": nn.Parameter(torch.ones(3)),
        "one": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "kinds": {name: torch.ones(3, dtype=getattr(torch, name)) for name in kinds},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plain": [None, True, 1, -5, 2**100, 2.5, "köter", b"abc\xff", b"", (1, (2,)), {3: "x"}],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_is_read_as_torch_reads_it(tmp_path: Path, zipped: bool, protocol: int) -> None:
    torch.save(content(), tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_pth(tmp_path / "a.pth")
    assert same(found, torch.load(tmp_path / "a.pth", weights_only=False))
    # Tensors that shared their numbers share them still.
    assert found["turned"].untyped_storage().data_ptr() == found["weight"].untyped_storage().data_ptr()


def test_kinds_of_numbers_that_have_no_storage_of_their_own(tmp_path: Path) -> None:
    state = {"a": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.tensor([1, 2, 3], dtype=torch.uint16)[1:]}
    torch.save(state, tmp_path / "a.pth")
    assert same(read_pth(tmp_path / "a.pth"), state)


def test_a_part_of_a_storage_in_the_old_format(tmp_path: Path) -> None:
    """Files of PyTorch 0.4 name a part of a storage by its place in the whole one."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "7", "cuda:0", 6, ("8", 2, 3)) if value == "part" else None

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor, ("part", 1, (2,), (1,))

    with open(tmp_path / "a.pth", "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        Pickler(file, protocol=2).dump(OrderedDict(w=Tensor()))
        pickle.dump(["7"], file, protocol=2)
        file.write((6).to_bytes(8, "little") + torch.arange(6.0).numpy().tobytes())
    assert read_pth(tmp_path / "a.pth")["w"].tolist() == [3.0, 4.0]


def test_what_is_harmless_may_lie_beside(tmp_path: Path) -> None:
    beside = {"device": torch.device("cpu"), "set": {1}, "count": Counter("a"), "type": torch.float16, "x": 1j}
    torch.save({**beside, "size": torch.Size([2])}, tmp_path / "a.pth")
    found = read_pth(tmp_path / "a.pth")
    assert found["size"] == (2,)
    assert found["type"] is torch.float16
    assert [found[name].name for name in ("device", "set", "count", "x")] == ["device", "set", "Counter", "complex"]
    assert isinstance(found["set"], Other)


def test_attributes_of_tensors_are_passed_over(tmp_path: Path) -> None:
    weight = torch.ones(3)
    weight.note = "mine"  # type: ignore[attr-defined]
    torch.save({"w": weight}, tmp_path / "a.pth")
    assert read_pth(tmp_path / "a.pth")["w"].tolist() == [1.0, 1.0, 1.0]
