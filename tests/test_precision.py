"""The precision of `cam` and `propagate`: what is chosen, that it is used, and how far it moves the maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pixaff.stages.maps import Photo, activation_maps
from pixaff.stages.precision import settle_precision
from pixaff.stages.refine import image_affinity
from toy_bundle import BLUE, RED, ToyAffinity, ToyCam, draw, toy_bundle

from pixaff.errors import UsageError
from pixaff.io.cams import read_cams
from pixaff.models import create_model
from pixaff.settings import Settings
from pixaff.stages import cam as cam_stage
from pixaff.stages import precision as stage
from pixaff.stages import propagate as propagate_stage
from pixaff.stages.batch.run import Event, silent
from pixaff.stages.cam import cam
from pixaff.stages.propagate import propagate

CPU = torch.device("cpu")


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


@pytest.fixture
def clock(monkeypatch):
    """Sets the seconds that a trial takes in each precision; time itself stands still."""
    now = [0.0]
    monkeypatch.setattr(stage.time, "perf_counter", lambda: now[0])

    def takes(network: torch.nn.Module, fp32: float, bf16: float, method: str = "cam") -> None:
        plain = getattr(network, method)

        def slow(x: torch.Tensor) -> torch.Tensor:
            now[0] += bf16 if torch.is_autocast_enabled("cpu") else fp32
            return plain(x)

        setattr(network, method, slow)

    return takes


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(3.0, 1.0, "bf16"), (1.1, 1.0, "fp32"), (1.0, 2.0, "fp32")])
def test_auto_takes_what_is_faster_with_both_networks(clock, fp32: float, bf16: float, chosen: str) -> None:
    network, events = ToyCam(), []
    clock(network, fp32, bf16)
    assert settle_precision("auto", network, ToyAffinity(), CPU, "propagate", events.append) == chosen
    assert [event.kind for event in events] == ["note"]
    assert events[0].text.startswith(f"computing in {chosen}: a trial took {fp32:.2g} s in fp32, {bf16:.2g} s in bf16")


def test_auto_counts_the_affinity_net_too(clock) -> None:
    network, affinity = ToyCam(), ToyAffinity()
    clock(network, 1.0, 2.0)
    clock(affinity, 9.0, 1.0, "features")
    assert settle_precision("auto", network, affinity, CPU, "propagate", silent) == "bf16"
    assert settle_precision("auto", network, None, CPU, "cam", silent) == "fp32"


def test_what_is_asked_for_is_taken_without_a_trial() -> None:
    for precision in ("fp32", "bf16"):
        assert settle_precision(precision, None, None, CPU, "cam", lambda event: pytest.fail(event.text)) == precision
    with pytest.raises(UsageError, match="found the precision 'fp16', expected fp32, bf16, auto"):
        settle_precision("fp16", None, None, CPU, "cam", silent)


def test_both_commands_compute_as_asked_and_record_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos" / "both.png", (RED, 8, 8), (BLUE, 32, 60))
    made = toy_bundle()
    for name, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen, affinity = Seen(), SeenAffinity()
        bundle = type(made)(seen, affinity, made.classes, made.settings, made.path)
        for module in (cam_stage, propagate_stage):
            monkeypatch.setattr(module, "load_model", lambda *args, bundle=bundle, **kwargs: bundle)
        assert cam(tmp_path / "photos", tmp_path / name / "cams", precision=name).ok
        assert seen.types == {expected}
        assert propagate(tmp_path / "photos", tmp_path / name / "masks", precision=name).ok
        assert seen.types == affinity.types == {expected}
        for folder in ("cams", "masks"):
            assert json.loads((tmp_path / name / folder / "run.json").read_text())["settings"]["precision"] == name
    assert read_cams(tmp_path / "bf16" / "cams" / "both.npz").classes.tolist() == [1, 2]


def test_other_precision_than_that_of_the_outputs_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "photos" / "red.png", (RED, 8, 8))
    monkeypatch.setattr(cam_stage, "load_model", lambda *args, **kwargs: toy_bundle())
    events: list[Event] = []
    for precision in ("fp32", "bf16"):
        cam(tmp_path / "photos", tmp_path / "cams", precision=precision, report=events.append)
    assert any("precision fp32 -> bf16" in event.text for event in events if event.kind == "warning")


@torch.inference_mode()
def test_bfloat16_moves_maps_and_affinities_a_little() -> None:
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cam_model, affinity = create_model("timm:test_resnet", 3), create_model("timm:test_resnet:affinity")
    photo, settings = Photo(image, (64, 96), (0, 2)), Settings(scales=(1.0, 0.5))
    exact, rounded = (activation_maps(cam_model, photo, settings, name)[1] for name in ("fp32", "bf16"))
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.02
    exact, rounded = (image_affinity(affinity, image, 5, precision=name) for name in ("fp32", "bf16"))
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.02
