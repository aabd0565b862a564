"""The precision of `cam` and `propagate`: that it is used, said and recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_bundle import BLUE, RED, ToyAffinity, ToyCam, draw, toy_bundle, use_toy

from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.io.cams import read_cams
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate


class Seen(ToyCam):
    """Notes the precision that a convolution has where the network is called."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def cam(self, x: torch.Tensor) -> torch.Tensor:
        self.types.add(torch.nn.functional.conv2d(x, x.new_ones(1, 3, 1, 1)).dtype)
        return super().cam(x)


class SeenAffinity(ToyAffinity):
    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        self.types.add(torch.nn.functional.conv2d(x, x.new_ones(1, 3, 1, 1)).dtype)
        return super().features(x)


def test_both_commands_compute_as_asked_and_record_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos" / "both.png", (RED, 8, 8), (BLUE, 32, 60))
    made = toy_bundle()
    for name, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen, affinity = Seen(), SeenAffinity()
        use_toy(monkeypatch, replace(made, cam=seen, affinity=affinity))
        assert cam(tmp_path / "photos", tmp_path / name / "cams", precision=name).ok
        assert seen.types == {expected}
        assert propagate(tmp_path / "photos", tmp_path / name / "masks", precision=name).ok
        assert seen.types == affinity.types == {expected}
        for folder in ("cams", "masks"):
            assert json.loads((tmp_path / name / folder / "run.json").read_text())["settings"]["precision"] == name
    assert read_cams(tmp_path / "bf16" / "cams" / "both.npz").classes.tolist() == [1, 2]


def test_other_precision_than_that_of_the_outputs_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos" / "red.png", (RED, 8, 8))
    use_toy(monkeypatch)
    events: list[Event] = []
    for precision in ("fp32", "bf16"):
        cam(tmp_path / "photos", tmp_path / "cams", precision=precision, report=events.append)
    assert any("precision fp32 -> bf16" in event.text for event in events if event.kind == "warning")


def test_auto_says_what_it_chose_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos" / "red.png", (RED, 8, 8))
    use_toy(monkeypatch)
    events: list[Event] = []
    assert propagate(tmp_path / "photos", tmp_path / "masks", precision="auto", report=events.append).ok
    (words,) = [event.text for event in events if event.text.startswith("computing in ")]
    chosen = json.loads((tmp_path / "masks" / "run.json").read_text())["settings"]["precision"]
    assert words.startswith(f"computing in {chosen}: a trial took ")
    with pytest.raises(UsageError, match="precision is 'fp16', expected fp32 or bf16 or auto"):
        propagate(tmp_path / "photos", tmp_path / "masks", precision="fp16")
