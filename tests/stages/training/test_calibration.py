"""fit chooses the alphas that nobody gave: the same ones in every run, and only these."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import CLASSES, TinySeeded, quick_trainings, use_tiny, write_set

import pixaff
from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.io.cams import read_cams
from pixaff.ops.mask_measures import ALPHAS
from pixaff.recipe import Recipe
from pixaff.settings import Settings
from pixaff.stages.fit import fit
from pixaff.stages.training import calibration

CAM = Recipe(epochs=12, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 110), crop=96)
SETTINGS = Settings(scales=(1.0,), size=96, seed_low=2.0, seed_high=6.0, beta=8.0, steps=16, final_crf=False)
FAST = {
    "settings": SETTINGS, "cam_recipe": CAM, "head_recipe": CAM, "affinity_recipe": CAM.replace(epochs=3),
    "method": "psa", "device": "cpu", "workers": 1, "classes": CLASSES,
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    use_tiny(monkeypatch, TinySeeded)
    quick_trainings(monkeypatch)


def settings_of(run: Path) -> dict:
    return json.loads((run / "model.json").read_text())["settings"]


def slow_alpha(run: Path, photos: Path) -> float:
    """The rule again, through the public functions, one photo and one alpha at a time."""
    model, both, either, cuts = pixaff.load(run), np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    for path in sorted((run / "cams").glob("*.npz")):
        file, photo = read_cams(path), photos / f"{path.stem}.png"
        image = np.asarray(Image.open(photo))
        sample = model.sample(photo)
        affinity = model.affinity(photo)
        cells = tuple(-(-side // 8) for side in sample.image.shape[:2])
        maps = torch.nn.functional.interpolate(
            torch.from_numpy(file.cams).float()[None], sample.image.shape[:2], mode="bilinear", align_corners=False
        )[0]
        assert file.size == image.shape[:2]
        with torch.no_grad():
            logits = model.cam_network.segmentation_logits(model.cam_network.preprocess(sample.image)[None])
        rows = torch.nn.functional.interpolate(
            logits[:, [0, *file.classes.tolist()]], cells, mode="bilinear", align_corners=False
        )
        head = (rows[0].argmax(0) > 0).numpy()
        for k, alpha in enumerate(ALPHAS):
            walked = model.replace(alpha=alpha).walk(maps, affinity)
            shown = (walked.argmax(0) > 0).numpy()
            both[k] += (shown & head).sum()
            either[k] += (shown | head).sum()
            cuts[k] += float(
                calibration.normalized_cuts(torch.from_numpy(shown)[None], affinity ** (2 * model.settings.beta))
            )
    agreement = both / np.maximum(either, 1)
    smallest = min(k for k in range(len(ALPHAS)) if agreement[k] >= 0.95 * agreement.max())
    return ALPHAS[min(smallest, int(cuts.argmin()))]


def test_alphas_are_chosen_once_and_stored_in_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, labels, _ = write_set(tmp_path, 9)
    events: list[Event] = []
    assert fit(photos, labels, tmp_path / "run", **FAST, calibrate=calibration.CALIBRATED, report=events.append).ok
    found = settings_of(tmp_path / "run")
    assert found["crf_high"] == pytest.approx(6 * found["crf_low"], rel=0.06)  # two digits
    assert found["alpha"] == pytest.approx(slow_alpha(tmp_path / "run", photos), rel=0.05)
    assert all(found[name] != getattr(SETTINGS, name) for name in calibration.CALIBRATED)
    assert json.loads((tmp_path / "run" / "crf" / "run.json").read_text())["settings"]["crf_low"] == found["crf_low"]
    masks = json.loads((tmp_path / "run" / "masks" / "run.json").read_text())["settings"]
    assert masks["alpha"] == found["alpha"]
    printed = next(event.data for event in events if event.kind == "settings" and event.command == "fit")
    assert (printed["alpha"], printed["beta"]) == ("calibrated", 8.0)
    words = [event.text for event in events if "without ground truth" in event.text]
    assert len(words) == 2
    assert f"alpha {found['alpha']:g}: chosen to suit the CAMs of 9 photos" in words[1]

    # The same run again takes them from its record; a run elsewhere finds the same ones.
    with monkeypatch.context() as patched:
        patched.setattr(calibration, "load_predictor", None)
        fit(photos, labels, tmp_path / "run", **FAST, calibrate=calibration.CALIBRATED)
    assert settings_of(tmp_path / "run") == found
    fit(photos, labels, tmp_path / "again", **FAST, calibrate=calibration.CALIBRATED)
    assert settings_of(tmp_path / "again") == found


def test_given_alphas_stay(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)
    fit(photos, labels, tmp_path / "run", **FAST)  # whole settings: nothing is chosen
    assert {name: settings_of(tmp_path / "run")[name] for name in ("alpha", "crf_low", "crf_high")} == {
        "alpha": 1.5, "crf_low": 0.5, "crf_high": 3.0
    }  # fmt: skip
    assert not (tmp_path / "run" / "calibration.json").exists()
    fit(photos, labels, tmp_path / "one", **FAST, calibrate=["crf_high"])
    assert (settings_of(tmp_path / "one")["alpha"], settings_of(tmp_path / "one")["crf_low"]) == (1.5, 0.5)
    assert settings_of(tmp_path / "one")["crf_high"] > 0.5  # never below the one that was given
    with pytest.raises(UsageError, match="no calibrated setting is called 'beta'"):
        fit(photos, labels, tmp_path / "other", **FAST, calibrate=["beta"])


def test_a_network_without_a_segmentation_head_goes_by_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    photos, labels, _ = write_set(tmp_path, 6)
    fit(photos, labels, tmp_path / "run", **FAST, calibrate=calibration.CALIBRATED)
    found = settings_of(tmp_path / "run")
    assert (found["crf_low"], found["crf_high"]) == (0.5, 3.0)
    assert min(abs(np.log(found["alpha"] / one)) for one in ALPHAS) < 0.05


def test_photos_are_the_same_in_every_run(tmp_path: Path) -> None:
    photos, labels, _ = write_set(tmp_path, 6)
    fit(photos, labels, tmp_path / "run", **FAST)
    paths = sorted(photos.iterdir())
    first, second = (calibration._some_photos(tmp_path / "run", paths) for _ in range(2))
    assert first == second
    assert {photo for photo, _ in first} == set(paths)
