"""A second run in the folder of a first one: what it makes again, what it continues, and what it leaves."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_set import TinySeeded, draw, quick_trainings, use_tiny, write_set

from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.io.checkpoints import read_state_dict
from pixaff.io.masks import read_mask
from pixaff.recipe import Recipe
from pixaff.settings import Settings
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.fit import fit
from pixaff.stages.propagate import propagate
from pixaff.stages.training import earlier
from pixaff.stages.training.metrics import read_records

RECIPE = Recipe(epochs=24, batch_size=4, lr=5e-3, optimizer="adamw", precision="fp32", resize=(60, 96), crop=96)
SETTINGS = Settings(
    scales=(1.0,),
    size=96,
    walk="psa",
    seed_low=2,
    seed_high=6,
    crf_low=2,
    crf_high=6,
    alpha=3,
    beta=8,
    steps=1,
    final_crf=False,
)
FAST: dict[str, Any] = {
    "settings": SETTINGS,
    "cam_recipe": RECIPE,
    "head_recipe": RECIPE,
    "affinity_recipe": RECIPE.replace(epochs=4),
    "device": "cpu",
    "workers": 1,
    "yes": True,
}
STAGES = ("train-cam", "seed-cams", "seed-crf", "train-head", "cams", "crf", "train-affinity", "masks")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    use_tiny(monkeypatch, TinySeeded)
    quick_trainings(monkeypatch)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, labels.csv and the finished run/."""
    folder = tmp_path_factory.mktemp("first")
    photos, labels, _ = write_set(folder, 6)
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        use_tiny(patch, TinySeeded)
        quick_trainings(patch)
        fit(photos, labels, folder / "run", **FAST)
    return folder


@pytest.fixture
def own(first: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(first, tmp_path / "own")
    return tmp_path / "own"


def again(folder: Path, **options: Any) -> tuple[Any, dict[str, list[Event]]]:
    """Run again; the result, and by stage what was done: steps and photos."""
    worked: dict[str, list[Event]] = {}
    now = ""

    def listen(event: Event) -> None:
        nonlocal now
        if event.kind == "stage" and event.data["state"] == "begun":
            now = event.data["name"]
        elif event.kind in ("progress", "done"):
            worked.setdefault(now, []).append(event)
        elif event.kind in ("note", "warning"):
            worked.setdefault(event.kind, []).append(event)

    result = fit(folder / "photos", folder / "labels.csv", folder / "run", **{**FAST, **options}, report=listen)
    return result, worked


def with_settings(**settings: Any) -> dict[str, Any]:
    return {"settings": SETTINGS.replace(**settings)}


def done_in(worked: dict[str, list[Event]]) -> list[str]:
    return [name for name in STAGES if name in worked]


def notes(worked: dict[str, list[Event]]) -> str:
    return "\n".join(event.text for event in worked.get("note", []))


def masks_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "run" / "masks").glob("*.png"))}


def everything(folder: Path) -> dict[str, bytes]:
    """Weights and outputs of each photo, by path."""
    kinds = (".npz", ".png", ".safetensors", ".jpg", ".csv")
    files = sorted(path for path in (folder / "run").rglob("*") if path.suffix in kinds and path.name != "loss.png")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def add_photo(folder: Path) -> None:
    image, _ = draw(np.random.default_rng(7), 80, 90, (0, 1))
    Image.fromarray(image).save(folder / "photos" / "more.png")
    with (folder / "labels.csv").open("a") as file:
        file.write("more,disc;square\n")


def relabel(folder: Path) -> None:
    text = (folder / "labels.csv").read_text()
    assert "toy02,square;disc" in text
    (folder / "labels.csv").write_text(text.replace("toy02,square;disc", "toy02,disc"))


def test_another_alpha_makes_masks_again_and_trains_nothing(own: Path) -> None:
    before = masks_of(own)
    result, worked = again(own, **with_settings(alpha=0.5))
    assert result.ok
    assert done_in(worked) == ["masks"]
    assert "alpha 3 -> 0.5: masks" in notes(worked)
    # They are those of the model at that alpha, and the model now has it.
    propagate(own / "photos", own / "plain", model=own / "run", labels=own / "labels.csv", cams=own / "run" / "cams")
    assert masks_of(own) == {path.name: path.read_bytes() for path in sorted((own / "plain").glob("*.png"))}
    assert masks_of(own) != before
    assert json.loads((own / "run" / "model.json").read_text())["settings"]["alpha"] == 0.5
    assert not again(own, **with_settings(alpha=0.5))[1].get("masks")
    # Back to the first one: the same masks as ever.
    again(own)
    assert masks_of(own) == before


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (with_settings(steps=4), ["masks"]),
        (with_settings(final_crf=True), ["masks"]),
        ({"affinity_recipe": RECIPE.replace(epochs=2)}, ["train-affinity", "masks"]),
        (with_settings(crf_low=1.0), ["crf", "train-affinity", "masks"]),
        (with_settings(label_threshold=0.7), []),
    ],
    ids=["steps", "final-crf", "affinity-epochs", "crf-low", "label-threshold"],
)
def test_only_what_depends_on_an_option_is_made_again(own: Path, options: dict[str, Any], stages: list[str]) -> None:
    _, worked = again(own, **options)
    assert done_in(worked) == stages
    assert (" -> " in notes(worked)) == bool(stages)
    assert done_in(again(own, **options)[1]) == []


def test_the_estimate_counts_only_what_is_to_do(own: Path) -> None:
    add_photo(own)
    told: list[dict[str, Any]] = []
    fit(
        own / "photos", own / "labels.csv", own / "run", **FAST,
        report=lambda event: told.append(dict(event.data)) if event.kind == "stage" else None,
    )  # fmt: skip
    assert [facts["name"] for facts in told[:8]] == list(STAGES)
    assert {facts["state"] for facts in told[:8]} == {"waiting"}
    assert [facts["state"] for facts in told if facts["state"] in ("done", "kept")] == ["done"] * 8
    assert told[-1]["seconds_left"] == 0
    assert all(facts["seconds_left"] < 60 for facts in told if facts.get("seconds_left") is not None)


def test_what_is_made_again_is_what_a_new_run_makes(own: Path) -> None:
    options = with_settings(crf_low=1.0)
    again(own, **options)
    kept = everything(own)
    shutil.rmtree(own / "run")
    again(own, **options)
    assert everything(own) == kept


def test_one_photo_more_continues_the_trainings_and_makes_one_mask(own: Path) -> None:
    before, weights = masks_of(own), read_state_dict(own / "run" / "cam.safetensors")
    trained = [record for record in read_records(own / "run" / "train-cam") if record["kind"] == "epoch"]
    add_photo(own)
    result, worked = again(own)
    assert result.ok
    assert "6 -> 7 photos: train the classifier for 6 more epochs" in notes(worked)
    assert "masks of 1 photo" in notes(worked)
    for stage in ("seed-cams", "seed-crf", "cams", "crf", "masks"):
        assert [event.photo.name for event in worked[stage] if event.photo] == ["more.png"]
    epochs = [record for record in read_records(own / "run" / "train-cam") if record["kind"] == "epoch"]
    assert len(epochs) == 6
    # They begin where the weights and the rate of the earlier training end.
    assert abs(epochs[0]["loss"] - trained[-1]["loss"]) < abs(epochs[0]["loss"] - trained[0]["loss"])
    assert epochs[0]["lr"] < RECIPE.lr / 2
    assert not torch.equal(weights["head.weight"], read_state_dict(own / "run" / "cam.safetensors")["head.weight"])
    after = masks_of(own)
    assert after.pop("more.png")
    assert after == before
    assert not [event for event in worked.get("warning", []) if "no longer fit" in event.text]
    # Each mask says which weights it is of.
    ledger = read_ledger(own / "run" / "masks")
    assert ledger.images["more.png"]["made"] != ledger.images["toy00.png"]["made"]
    assert done_in(again(own)[1]) == []


def test_a_corrected_label_makes_that_mask_again(own: Path) -> None:
    relabel(own)
    _, worked = again(own)
    assert "other labels of 1 photo: " in notes(worked)
    assert [event.photo.name for event in worked["masks"]] == ["toy02.png"]
    assert set(np.unique(read_mask(own / "run" / "masks" / "toy02.png"))) <= {0, 1}


def test_a_removed_photo_leaves_nothing_behind(own: Path) -> None:
    (own / "photos" / "toy05.png").unlink()
    _, worked = again(own)
    assert "6 -> 5 photos" in notes(worked)
    assert not list((own / "run").rglob("toy05.*"))
    assert len(masks_of(own)) == 5
    assert "toy05" not in (own / "run" / "doubtful.csv").read_text()


def test_a_replaced_photo_gets_another_mask(own: Path) -> None:
    image, _ = draw(np.random.default_rng(8), 90, 60, (0,))
    Image.fromarray(image).save(own / "photos" / "toy00.png")
    _, worked = again(own)
    assert done_in(worked) == ["seed-cams", "seed-crf", "cams", "crf", "masks"]
    assert read_mask(own / "run" / "masks" / "toy00.png").shape == (90, 60)


def test_an_option_and_a_photo_at_once(own: Path) -> None:
    add_photo(own)
    _, worked = again(own, **with_settings(crf_low=1.0))
    assert len([event for event in worked["train-cam"] if event.kind == "progress"]) == 6  # continues
    assert len([event for event in worked["train-affinity"] if event.kind == "progress"]) == 4  # anew
    assert len(worked["masks"]) == 7


def test_many_other_photos_and_the_classifiers_options_ask_for_overwrite(own: Path) -> None:
    kept = everything(own)
    with pytest.raises(UsageError, match=r"cam epochs 24 -> 9 .*--overwrite"):
        again(own, cam_recipe=RECIPE.replace(epochs=9))
    for stem in ("toy03", "toy04", "toy05"):
        (own / "photos" / f"{stem}.png").unlink()
    with pytest.raises(UsageError, match=r"3 photos added, removed or with other labels, of 3.*--overwrite"):
        again(own)
    assert everything(own) == kept
    _, worked = again(own, overwrite=True)
    assert done_in(worked) == list(STAGES)
    assert len(masks_of(own)) == 3


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def warm(first: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run with one photo more gives that nobody stops."""
    folder = tmp_path_factory.mktemp("warm") / "own"
    shutil.copytree(first, folder)
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        use_tiny(patch, TinySeeded)
        quick_trainings(patch)
        add_photo(folder)
        again(folder)
    return everything(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_while_it_continues_with_one_photo_more(own: Path, warm: dict[str, bytes], stage: str) -> None:
    add_photo(own)
    now = ""

    def stop(event: Event) -> None:
        nonlocal now
        now = event.data["name"] if event.kind == "stage" and event.data["state"] == "begun" else now
        if now == stage and event.kind in ("progress", "done"):
            raise Stop

    with pytest.raises(Stop):
        fit(own / "photos", own / "labels.csv", own / "run", **FAST, save_every=0.0, report=stop)
    assert again(own)[0].ok
    assert everything(own) == warm


@pytest.mark.parametrize("call", range(3))
def test_stopped_while_it_clears(own: Path, warm: dict[str, bytes], call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    add_photo(own)
    calls = 0
    clear = earlier.clear_folder

    def stop(folder: Path, written: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise Stop
        clear(folder, written)

    with monkeypatch.context() as patch:
        patch.setattr(earlier, "clear_folder", stop)
        with pytest.raises(Stop):
            again(own)
    assert again(own)[0].ok
    assert everything(own) == warm


def test_stopped_with_another_alpha_half_done(own: Path) -> None:
    def stop(event: Event) -> None:
        if event.kind == "done":
            raise Stop

    changed = {**FAST, **with_settings(alpha=0.5)}
    with pytest.raises(Stop):
        fit(own / "photos", own / "labels.csv", own / "run", **changed, report=stop)
    half = everything(own)
    again(own)  # the first alpha again: none of the other's masks may stay
    expected = masks_of(own)
    again(own, **with_settings(alpha=0.5))
    assert half != everything(own)
    again(own)
    assert masks_of(own) == expected
    made = {line["made"] for line in read_ledger(own / "run" / "masks").images.values()}
    assert len(made) == 1


def test_the_doubtful_come_first(first: Path) -> None:
    with (first / "run" / "doubtful.csv").open() as file:
        rows = list(csv.DictReader(file))
    margins = [float(row["margin"]) for row in rows]
    assert len(rows) == 6
    assert margins == sorted(margins)
    assert 0 <= margins[0] < margins[-1] <= 1
    for row in rows:
        mask = read_mask(first / "run" / "masks" / f"{Path(row['photo']).stem}.png")
        assert float(row["shown"]) == pytest.approx((mask > 0).mean(), abs=1e-3)
    with Image.open(first / "run" / "sheet.jpg") as sheet:
        assert sheet.width > 640
    assert len(list((first / "run" / "masks" / "overlays").glob("*.jpg"))) == 6


def test_the_record_says_how_far_each_stage_is(first: Path) -> None:
    record = json.loads((first / "run" / "run.json").read_text())
    assert [(name, part["state"], part["warm"]) for name, part in record["stages"].items()] == [
        (name, "done", False) for name in STAGES
    ]
    assert record["stages"]["train-cam"]["units"] == 24
    assert record["photos"]["toy02.png"] == [0, 1]
