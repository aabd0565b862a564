"""The whole chain on a toy set: one run, stopped anywhere, goes on; its folder is a model."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_set import CLASSES, TinySeeded, quick_trainings, use_tiny, write_set

from pixaff.errors import LabelsError, UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import read_state_dict
from pixaff.io.masks import read_mask
from pixaff.models.model_folder import AFFINITY as AFFINITY_FILE
from pixaff.models.model_folder import SEG
from pixaff.recipe import Recipe
from pixaff.settings import Settings
from pixaff.stages import train_cam
from pixaff.stages.fit import fit
from pixaff.stages.propagate import propagate
from pixaff.stages.segment import segment
from pixaff.stages.training.forecast import Forecast
from pixaff.stages.training.metrics import read_records

CAM = Recipe(epochs=20, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 110), crop=96)
AFFINITY = CAM.replace(epochs=6)
SETTINGS = Settings(
    scales=(1.0,),
    size=96,
    walk="psa",
    seed_low=2.0,
    seed_high=6.0,
    crf_low=2.0,
    crf_high=6.0,
    alpha=3.0,
    beta=8.0,
    steps=16,
    final_crf=False,
)
ORDER = ("train-cam", "cam", "crf", "train-affinity", "propagate")
FAST = {
    "settings": SETTINGS,
    "cam_recipe": CAM,
    "affinity_recipe": AFFINITY,
    "device": "cpu",
    "workers": 1,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    use_tiny(monkeypatch)
    quick_trainings(monkeypatch)
    monkeypatch.setattr(Forecast, "_try", lambda self: None)  # its trials take longer than toys


def agreement(folder: Path, masks: dict[str, np.ndarray]) -> float:
    """Mean over photos of the share of pixels labelled rightly."""
    return float(np.mean([(read_mask(folder / f"{stem}.png") == mask).mean() for stem, mask in masks.items()]))


def test_photos_and_labels_become_a_model_and_masks(tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 12)
    (photos / "broken.png").write_bytes(b"no image")
    events: list[Event] = []
    page = tmp_path / "page.html"
    result = fit(photos, labels, tmp_path / "run", **FAST, report=events.append, page=page)
    assert '"failed":[["broken.png",' in page.read_text()
    assert result.path == tmp_path / "run"
    assert [name for name, _ in result.failed] == ["broken.png"]
    assert sum(event.kind == "failed" for event in events) == 1  # named once, not by every stage
    assert sorted(result.done) == [f"{stem}.png" for stem in masks]
    # Classes that nobody gave are those of the labels, in alphabetical order: disc is 1 here, square 2.
    assert (tmp_path / "run" / "classes.txt").read_text() == "disc\nsquare\n"
    swapped = {stem: np.array([0, 2, 1], np.uint8)[mask] for stem, mask in masks.items()}
    assert agreement(tmp_path / "run" / "masks", swapped) > 0.9  # background is 0.82 of it
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["images"], record["list"], record["settings"]["cam seed"]) == (12, None, 0)
    assert record["device"].startswith("cpu")
    assert record["versions"]["torch"]
    printed = next(event.data for event in events if event.kind == "settings" and event.command == "fit")
    assert (printed["alpha"], printed["cam epochs"]) == (3.0, 20)
    # The folder is a model: photos it has not seen, labels predicted.
    unseen, _, truth = write_set(tmp_path / "unseen", 3, seed=9)
    report = propagate(unseen, tmp_path / "predicted", model=tmp_path / "run", device="cpu")
    assert report.ok
    assert {path.stem for path in (tmp_path / "predicted").glob("*.png")} == set(truth)


def test_a_segmentation_head_learns_from_its_own_cams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch, TinySeeded)
    photos, labels, masks = write_set(tmp_path, 9)
    result = fit(photos, labels, tmp_path / "run", classes=CLASSES, **FAST, head_recipe=CAM)
    assert result.ok
    parts = [tmp_path / "run" / part / "cam.safetensors" for part in ("train-cam", "train-head")]
    first, second = map(read_state_dict, parts)
    assert not first["seeded"]
    assert second["seeded"]
    assert torch.equal(first["head.weight"], second["head.weight"])  # the classifier has no part in the seeding loss
    assert not torch.equal(first["rows.weight"], second["rows.weight"])
    # Weights that were seeded already, such as those in the package, start again from the class rows.
    again = train_cam.train_cam(photos, labels, CLASSES, tmp_path / "again", init=parts[1], recipe=CAM, workers=1)
    assert not read_state_dict(again.path)["seeded"]
    kept = read_state_dict(tmp_path / "run" / "cam.safetensors")
    assert torch.equal(kept["rows.weight"], second["rows.weight"])
    epochs = [record for record in read_records(tmp_path / "run" / "train-head") if record["kind"] == "epoch"]
    assert epochs[-1]["loss"] < 0.7 * epochs[0]["loss"]
    assert {path.stem for path in (tmp_path / "run" / "masks").glob("*.png")} == set(masks)


@pytest.mark.parametrize("command", ORDER)
def test_run_stopped_in_any_stage_goes_on_to_the_same_masks(
    tmp_path: Path, command: str, whole: tuple[Path, Path, Path]
) -> None:
    photos, labels, expected = whole

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.command == command and event.kind in ("progress", "done"):
            raise Stop

    with pytest.raises(Stop):
        fit(photos, labels, tmp_path / "run", **FAST, save_every=0.0, report=stop)
    events: list[Event] = []
    result = fit(photos, labels, tmp_path / "run", **FAST, report=events.append)
    assert result.ok
    for name in ("cam.safetensors", "affinity.safetensors"):
        one, other = (read_state_dict(folder / name) for folder in (tmp_path / "run", expected))
        assert all(torch.equal(one[key], other[key]) for key in one)
    for path in (expected / "masks").glob("*.png"):
        assert np.array_equal(read_mask(path), read_mask(tmp_path / "run" / "masks" / path.name))
    # What was finished before is not done again; of the stopped stage, threads may have written the last outputs.
    worked = {event.command for event in events if event.kind in ("progress", "done")}
    assert worked | {command} == set(ORDER[ORDER.index(command) :])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A run that nobody stopped: photos, labels, its folder."""
    folder = tmp_path_factory.mktemp("whole")
    photos, labels, _ = write_set(folder, 6)
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        use_tiny(patch)
        quick_trainings(patch)
        fit(photos, labels, folder / "run", **FAST)
    return photos, labels, folder / "run"


def test_finished_run_does_nothing_again(whole: tuple[Path, Path, Path]) -> None:
    photos, labels, folder = whole
    events: list[Event] = []
    result = fit(photos, labels, folder, **FAST, report=events.append)
    assert (result.done, len(result.skipped)) == ([], 6)
    assert not [event for event in events if event.kind in ("progress", "done")]


def test_other_runs_in_one_folder_are_refused(whole: tuple[Path, Path, Path]) -> None:
    photos, labels, folder = whole
    with pytest.raises(UsageError, match="cam epochs 20 -> 22"):
        fit(photos, labels, folder, **{**FAST, "cam_recipe": CAM.replace(epochs=22)})
    with pytest.raises(UsageError, match=r"contains outputs of pixaff propagate"):
        fit(photos, labels, folder / "masks", **FAST)


def test_overwrite_starts_anew_and_spares_what_is_not_the_runs(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 4)
    short = {"cam_recipe": CAM.replace(epochs=1)}
    short["affinity_recipe"] = short["cam_recipe"]
    fit(photos, labels, tmp_path / "run", **{**FAST, **short})
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "masks" / "mine.png").write_bytes(b"mine")
    before = (tmp_path / "run" / "masks" / "toy00.png").stat().st_mtime_ns
    other = {"cam_recipe": CAM.replace(epochs=2)}
    result = fit(photos, labels, tmp_path / "run", **{**FAST, **short, **other}, overwrite=True)
    assert len(result.done) == 4
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "run" / "masks" / "mine.png").read_bytes() == b"mine"
    assert (tmp_path / "run" / "masks" / "toy00.png").stat().st_mtime_ns > before


def test_ctrl_c_while_training_leaves_a_checkpoint(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 4)

    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(photos, labels, tmp_path / "run", **FAST, report=interrupt)
    assert (tmp_path / "run" / "train-cam" / "training.pt").is_file()


def test_wrong_labels_are_said_before_anything_is_written(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 3)
    with pytest.raises(UsageError, match=r"2 of 3 entries cannot be used.* line 2: found unknown class \"square\""):
        fit(photos, labels, tmp_path / "run", classes=(CLASSES[1],), **FAST)
    with pytest.raises(LabelsError, match=r"none\.csv: no such file"):
        fit(photos, tmp_path / "none.csv", tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_takes_a_segmentation_network(tmp_path: Path) -> None:
    photos, labels, masks = write_set(tmp_path, 9)
    out, short = (
        tmp_path / "run",
        {**FAST, "cam_recipe": CAM.replace(epochs=2), "affinity_recipe": CAM.replace(epochs=1)},
    )
    fit(photos, labels, out, classes=CLASSES, **short)
    assert not (out / SEG).exists()
    before = (out / AFFINITY_FILE).read_bytes()
    learn = {"epochs": 3, "batch_size": 4, "crop": 64, "resize": (60, 90), "precision": "fp32"}
    result = fit(photos, labels, out, classes=CLASSES, **short, seg=True, seg_recipe=learn)
    assert sorted(result.done) == sorted(f"{stem}.png" for stem in masks)
    assert (out / AFFINITY_FILE).read_bytes() == before
    assert (out / SEG).is_file()
    assert json.loads((out / "model.json").read_text())["seg"]["size"] == 75
    assert segment(photos, tmp_path / "masks", model=out, device="cpu").ok
    again = fit(photos, labels, out, classes=CLASSES, **short, seg=True, seg_recipe=learn)
    assert (again.done, len(again.skipped)) == ([], 9)
    fit(photos, labels, out, classes=CLASSES, **short, seg=True, seg_recipe={**learn, "epochs": 4})
    assert read_records(out / "train-seg")[-1]["epoch"] == 4
    assert (out / AFFINITY_FILE).read_bytes() == before  # other stages do not depend on it
    fit(photos, labels, out, classes=CLASSES, **short, overwrite=True)
    assert not (out / SEG).exists()
