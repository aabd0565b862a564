"""`fit` with the method irn: the chain, a run that is stopped, other options, and the change to the other method."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import draw, quick_trainings, use_tiny, write_set

from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import read_state_dict
from pixaff.io.masks import read_mask
from pixaff.models.model_folder import AFFINITY, IRN
from pixaff.models.registry import preset_settings
from pixaff.recipe import Recipe
from pixaff.settings import Settings
from pixaff.stages.fit import fit
from pixaff.stages.propagate import propagate
from pixaff.stages.training.forecast import Forecast
from pixaff.stages.training.metrics import read_records

RECIPE = Recipe(epochs=20, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 110), crop=96)
SETTINGS = Settings(
    scales=(1.0,), size=96, alpha=3.0, conf_fg=0.5, conf_bg=0.2, steps=16, final_crf=False, crf_low=2, crf_high=6
)
FAST: dict[str, Any] = {
    "method": "irn",
    "settings": SETTINGS,
    "cam_recipe": RECIPE,
    "irn_recipe": RECIPE.replace(epochs=6),
    "affinity_recipe": RECIPE.replace(epochs=2),
    "device": "cpu",
    "workers": 1,
    "yes": True,
}
STAGES = ("train-cam", "cams", "confident-labels", "train-irn", "masks")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, labels.csv and the finished run/."""
    folder = tmp_path_factory.mktemp("first")
    photos, labels, _ = write_set(folder, 6)
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        use_tiny(patch)
        quick_trainings(patch)
        patch.setattr(Forecast, "_try", lambda self: None)
        fit(photos, labels, folder / "run", **FAST)
    return folder


@pytest.fixture
def own(first: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(first, tmp_path / "own")
    return tmp_path / "own"


def again(folder: Path, **options: Any) -> tuple[list[str], str]:
    """Run again; the stages that worked, and the notes."""
    worked, notes, now = dict[str, None](), [], ""

    def listen(event: Event) -> None:
        nonlocal now
        if event.kind == "stage" and event.data["state"] == "begun":
            now = event.data["name"]
        elif event.kind in ("progress", "done"):
            worked[now] = None
        elif event.kind == "note":
            notes.append(event.text)

    fit(folder / "photos", folder / "labels.csv", folder / "run", **{**FAST, **options}, report=listen)
    return list(worked), "\n".join(notes)


def test_photos_and_labels_become_a_model_with_instances(tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 12)
    out, events = tmp_path / "run", list[Event]()
    result = fit(photos, labels, out, **FAST, report=events.append)
    assert result.ok
    assert sorted(result.done) == [f"{stem}.png" for stem in masks]
    # Classes in alphabetical order: disc is 1 here, square 2.
    truth = {stem: np.array([0, 2, 1], np.uint8)[mask] for stem, mask in masks.items()}
    agreement = [(read_mask(out / "masks" / f"{stem}.png") == mask).mean() for stem, mask in truth.items()]
    assert np.mean(agreement) > 0.9  # background is 0.82 of it
    shown = next(event.data for event in events if event.kind == "settings" and event.command == "fit")
    assert shown["irn epochs"] == 6
    assert not [name for name in shown if name.startswith("affinity")]
    stages = {event.data["name"]: event.data for event in events if event.kind == "stage"}
    assert tuple(stages) == STAGES
    # Every stage was tried, so that the time left is known from the first one on.
    running = [event.data for event in events if event.kind == "stage" and event.data["state"] == "done"]
    assert all(isinstance(data["seconds_left"], float) for data in running)
    record = json.loads((out / "model.json").read_text())["settings"]
    assert (record["walk"], record["affinity"], record["irn"]) == ("irn", "", "lite_irn")
    assert (out / IRN).is_file()
    assert not (out / AFFINITY).exists()
    assert sorted(result.doubtful) == sorted(result.done)
    assert (out / "sheet.jpg").is_file()
    unseen, _, _ = write_set(tmp_path / "unseen", 3, seed=9)
    assert propagate(unseen, tmp_path / "predicted", model=out, instances=True, device="cpu").ok
    found = json.loads((tmp_path / "predicted" / "instances.json").read_text())
    assert {each["name"] for each in found["categories"]} == {"disc", "square"}
    assert found["annotations"]


@pytest.mark.parametrize("stage", STAGES)
def test_run_stopped_in_any_stage_goes_on_to_the_same_masks(
    tmp_path: Path, stage: str, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forecast, "_try", lambda self: None)
    now = ""

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        nonlocal now
        if event.kind == "stage" and event.data["state"] == "begun":
            now = event.data["name"]
        if now == stage and event.kind in ("progress", "done"):
            raise Stop

    with pytest.raises(Stop):
        fit(first / "photos", first / "labels.csv", tmp_path / "run", **FAST, save_every=0.0, report=stop)
    assert fit(first / "photos", first / "labels.csv", tmp_path / "run", **FAST).ok
    for name in ("cam.safetensors", IRN):
        one, other = (read_state_dict(folder / name) for folder in (tmp_path / "run", first / "run"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    masks = sorted((first / "run" / "masks").glob("*.png"))
    assert len(masks) == 6
    for path in masks:
        assert np.array_equal(read_mask(path), read_mask(tmp_path / "run" / "masks" / path.name))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"boundary_beta": 4.0}, ["masks"]),
        ({"background": 0.25}, ["masks"]),
        ({"steps": 8}, ["masks"]),
        ({"beta": 4.0, "crf_low": 3.0}, []),  # the other method's
        ({"conf_fg": 0.45}, ["confident-labels", "train-irn", "masks"]),
    ],
)
def test_other_settings_make_again_what_depends_on_them(
    own: Path, changed: dict[str, Any], expected: list[str]
) -> None:
    worked, notes = again(own, settings=SETTINGS.replace(**changed))
    assert worked == expected
    assert all(name.replace("_", " ") in notes.replace("_", " ") for name in changed if expected)


def test_longer_training_is_done_again(own: Path) -> None:
    worked, notes = again(own, irn_recipe=RECIPE.replace(epochs=7))
    assert worked == ["train-irn", "masks"]
    assert "irn epochs 6 -> 7: train the network of class boundaries" in notes


def test_trainings_continue_with_one_more_photo(own: Path) -> None:
    image, _ = draw(np.random.default_rng(7), 80, 90, (0, 1))
    Image.fromarray(image).save(own / "photos" / "more.png")
    with (own / "labels.csv").open("a") as file:
        file.write("more,disc;square\n")
    worked, notes = again(own)
    assert worked == list(STAGES)
    assert "train the network of class boundaries for 2 more epochs" in notes
    assert read_records(own / "run" / "train-irn")[-1]["epoch"] == 2
    assert len(list((own / "run" / "confident-labels").glob("*.png"))) == 7


def test_the_other_method_keeps_classifier_and_cams(own: Path) -> None:
    worked, notes = again(own, method="psa")
    assert worked == ["crf", "train-affinity", "masks"]
    assert "walk irn -> psa: masks" in notes
    assert (own / "run" / AFFINITY).is_file()
    for gone in (IRN, "confident-labels", "train-irn"):
        assert not (own / "run" / gone).exists()
    worked, _ = again(own)
    assert worked == ["confident-labels", "train-irn", "masks"]
    assert not (own / "run" / AFFINITY).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sam"}, "method is sam, expected psa or irn"),
        ({"method": None, "settings": SETTINGS.replace(walk="both")}, "the walk both, of which fit trains one network"),
        ({"method": "psa", "settings": preset_settings("irn")}, "preset irn has no AffinityNet"),
        ({"settings": SETTINGS.replace(conf_bg=0.6)}, "conf_bg is 0.6, expected at most conf_fg"),
        ({"irn_recipe": RECIPE.replace(crop=64)}, "crop is 64, expected at least"),
        ({"settings": SETTINGS.replace(irn="lite_cam")}, "lite_cam predicts no boundaries"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    photos, labels, _ = write_set(tmp_path, 3)
    with pytest.raises(UsageError, match=message):
        fit(photos, labels, tmp_path / "run", **{**FAST, **options})
    assert not (tmp_path / "run").exists()


def test_presets_of_irn_choose_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forecast, "_try", lambda self: None)
    photos, labels, masks = write_set(tmp_path, 3)
    settings = preset_settings("irn").replace(scales=(1.0,), size=96, steps=4)
    short = RECIPE.replace(epochs=1)
    options = {**FAST, "method": None, "settings": settings, "cam_recipe": short, "irn_recipe": short}
    result = fit(photos, labels, tmp_path / "run", **options)
    assert result.ok
    record = json.loads((tmp_path / "run" / "model.json").read_text())["settings"]
    assert (record["cam"], record["irn"], record["background"]) == ("resnet50_cam", "resnet50_irn", 0.25)
    # Without saved scores there is no margin, but there is a sheet.
    assert result.doubtful == []
    rows = (tmp_path / "run" / "doubtful.csv").read_text().splitlines()
    assert len(rows) == 1 + len(masks)
    assert (tmp_path / "run" / "sheet.jpg").is_file()
