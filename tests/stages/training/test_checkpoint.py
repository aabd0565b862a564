"""The checkpoint of a training: what is damaged is not resumed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from toy_set import TinyCam

from pixaff.errors import CheckpointError, TrainingError
from pixaff.stages.training.checkpoint import CHECKPOINT, Position, load_checkpoint, save_checkpoint

CONFIG = {"network": "tiny", "seed": 3}


def saved(folder: Path) -> tuple[TinyCam, torch.optim.Optimizer]:
    model = TinyCam(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    save_checkpoint(folder, Position(step=7, precision="fp32"), model, optimizer, CONFIG)
    return model, optimizer


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    model, optimizer = saved(tmp_path)
    other = TinyCam(2)
    fresh = torch.optim.SGD(other.parameters(), lr=1.0, momentum=0.9)
    assert load_checkpoint(tmp_path, other, fresh, CONFIG).step == 7
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    buffers = [[state["momentum_buffer"] for state in each.state.values()] for each in (optimizer, fresh)]
    assert buffers[0]
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))


def test_case_weights_with_a_flipped_bit_are_not_resumed(tmp_path: Path) -> None:
    model, optimizer = saved(tmp_path)
    path = tmp_path / CHECKPOINT
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        numbers = max(archive.infolist(), key=lambda member: member.file_size)
    place = good.index(numbers.filename.encode())
    for bits in (1, 40):
        changed = bytearray(good)
        changed[place + 200 : place + 200 + bits] = bytes(
            byte ^ 4 for byte in changed[place + 200 : place + 200 + bits]
        )
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=rf"{CHECKPOINT}: damaged weights file: Bad CRC-32"):
            load_checkpoint(tmp_path, model, optimizer, CONFIG)


def test_another_training_is_told_in_few_words(tmp_path: Path) -> None:
    model, optimizer = saved(tmp_path)
    save_checkpoint(tmp_path, Position(), model, optimizer, {**CONFIG, "network": "x" * 100_000})
    with pytest.raises(TrainingError, match=r"network x+\.\.\.x+ -> tiny") as caught:
        load_checkpoint(tmp_path, model, optimizer, CONFIG)
    assert len(str(caught.value)) < 500
