"""What the ledger makes a plan skip, do again or warn of, told from small files that stand for photos and CAMs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pixaff.events import Event
from pixaff.models.bundle import embedded_folder
from pixaff.run_options import RunOptions
from pixaff.stages.batch.plan import Plan, weights_of
from pixaff.stages.batch.run import run_plan, skip_all


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos and their CAMs; files that the plan knows by their content alone."""
    for name in ("a", "b", "c"):
        for kind in ("photos", "cams"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / f"{name}.{kind}").write_text(f"{kind} of {name}")
    return tmp_path


def plan(folder: Path, events: list[Event] | None = None, cams: bool = False, keep=False, overwrite=False, **options):
    photos = sorted((folder / "photos").iterdir())
    run = RunOptions(report=(events if events is not None else []).append, keep=keep, overwrite=overwrite)
    options["cams"] = (lambda photo: folder / "cams" / f"{photo.stem}.cams") if cams else None
    return Plan(folder / "out", "test", photos, lambda photo: (folder / "out" / f"{photo.stem}.txt",), run, **options)


def carry_out(made: Plan, alpha: float = 3.0, weights: Path | None = None) -> list[str]:
    def work(todo):
        for photo in todo:
            made.outputs(photo)[0].write_text("mask")
            yield photo, {}

    files = {} if weights is None else {"cam": weights}
    return run_plan(made, work, settings={"alpha": alpha}, device="cpu", weights=files).done


def warnings(events: list[Event]) -> list[str]:
    return [event.text for event in events if event.kind == "warning"]


def test_the_same_run_again_has_nothing_to_do(folder: Path) -> None:
    labels = {"a": ("cat",), "b": (), "c": ("cat", "dog")}
    first = plan(folder, labels=labels, cams=True)
    assert not first.nothing_to_do
    assert len(carry_out(first)) == 3
    events: list[Event] = []
    again = plan(folder, events, labels=labels, cams=True)
    assert again.nothing_to_do
    assert skip_all(again).skipped == ["a.photos", "b.photos", "c.photos"]
    assert warnings(events) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("photo", "{}: 1 existing output no longer fits: 1 with another photo of that name (b.photos)"),
        ("labels", "{}: 1 existing output no longer fits: 1 with other labels (b.photos)"),
        ("cams", "{}: 1 existing output no longer fits: 1 with other CAMs (b.photos)"),
        ("alpha", "{}: 3 existing outputs no longer fit: 3 with other settings: alpha 3 -> 9 (a.photos, b.photos, "),
        ("weights", "{}: 3 existing outputs no longer fit: 3 with other settings: other weights (a.photos"),
    ],
)
def test_what_no_longer_fits_is_said_with_its_reason_and_stays(folder: Path, change: str, words: str) -> None:
    labels, weights = {"a": ("cat",), "b": ("cat",)}, folder / "weights"
    weights.write_text("first")
    carry_out(plan(folder, labels=labels, cams=True), weights=weights)
    if change in ("photo", "cams"):
        kind = f"{change.removesuffix('s')}s"
        (folder / kind / f"b.{kind}").write_text("another one")
    elif change == "labels":
        labels = {**labels, "b": ("dog",)}
    elif change == "weights":
        weights.write_text("second")
    alpha = 9.0 if change == "alpha" else 3.0
    for _ in range(2):  # a warning does not settle it
        events: list[Event] = []
        assert carry_out(plan(folder, events, labels=labels, cams=True), alpha, weights) == []
        (found,) = warnings(events)
        assert found.startswith(words.format(folder / "out"))
        assert found.endswith("(kept: --overwrite recomputes them, --keep accepts them)")
    events = []
    carry_out(plan(folder, events, labels=labels, cams=True, keep=True), alpha, weights)
    assert warnings(events) == []
    assert len(carry_out(plan(folder, labels=labels, cams=True, overwrite=True), alpha, weights)) == 3
    events = []
    assert carry_out(plan(folder, events, labels=labels, cams=True), alpha, weights) == []
    assert warnings(events) == []


def test_files_that_were_only_copied_or_touched_still_fit(folder: Path) -> None:
    carry_out(plan(folder, cams=True))
    for path in [*(folder / "photos").iterdir(), *(folder / "cams").iterdir()]:
        shutil.copyfile(path, folder / "copy")
        os.replace(folder / "copy", path)
        os.utime(path, (1, 1))
    events: list[Event] = []
    again = plan(folder, events, cams=True)
    assert again.nothing_to_do
    skip_all(again)
    assert warnings(events) == []


def test_empty_and_missing_outputs_are_done_again(folder: Path) -> None:
    carry_out(plan(folder))
    (folder / "out" / "a.txt").unlink()
    (folder / "out" / "b.txt").write_text("")
    assert carry_out(plan(folder)) == ["a.photos", "b.photos"]


def test_the_record_holds_for_the_whole_folder_and_not_for_the_last_run_alone(folder: Path) -> None:
    carry_out(plan(folder))
    made = plan(folder, overwrite=True)
    made.todo = made.todo[:1]
    carry_out(made, alpha=9.0)
    record = json.loads((folder / "out" / "run.json").read_text())
    assert record["settings"] == {"alpha": 9.0}
    assert record["other_settings"] == [{"alpha": 3.0}]
    assert (record["images"], record["done"], record["failed"]) == (3, 3, {})


def test_a_ledger_line_that_a_kill_cut_short_costs_itself_alone(folder: Path) -> None:
    carry_out(plan(folder))
    ledger = folder / "out" / "run.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines)[:-20])
    (folder / "photos" / "a.photos").write_text("another one")
    events: list[Event] = []
    carry_out(plan(folder, events))
    assert "1 with another photo of that name (a.photos)" in warnings(events)[0]
    (folder / "out" / "b.txt").unlink()
    assert carry_out(plan(folder)) == ["b.photos"]
    assert all(isinstance(json.loads(line), dict) for line in ledger.read_bytes().splitlines() if b"}" in line[-1:])


def test_the_files_of_weights_are_known_without_loading_them(tmp_path: Path) -> None:
    embedded = [*embedded_folder().glob("*.safetensors"), embedded_folder() / "model.json"]
    assert sorted(weights_of({})) == sorted(weights_of({"model": "lite"})) == sorted(embedded)
    for name in ("cam.safetensors", "model.json", "notes.txt"):
        (tmp_path / name).touch()
    own = [tmp_path / "cam.safetensors", tmp_path / "model.json"]
    assert sorted(weights_of({"model": tmp_path})) == own
    assert weights_of({"preset": "psa-vgg16", "cam_weights": tmp_path / "a.pth"}) == [tmp_path / "a.pth"]
    assert sorted(weights_of({"preset": "psa-vgg16", "weights_dir": tmp_path})) == own
