"""Which images are to do: what fits is skipped, the rest is told of, and no output takes the place of an input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from toy_bundle import BLUE, RED, draw, use_toy

from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.stages.batch import plan as plan_module
from pixaff.stages.batch.ledger import Ledger, read_ledger, same_file, stamp
from pixaff.stages.batch.plan import check_outputs
from pixaff.stages.cam import cam
from pixaff.stages.crf import crf
from pixaff.stages.propagate import propagate


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos" / "a.png", (RED, 8, 8))
    draw(tmp_path / "photos" / "b.png", (BLUE, 32, 60))
    return tmp_path / "photos"


def warnings_of(*arguments: object, **options: object) -> tuple[list[str], object]:
    events: list[Event] = []
    report = propagate(*arguments, report=events.append, **options)  # type: ignore[arg-type]
    return [event.text for event in events if event.kind == "warning"], report


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spelling", ["plain", "dots", "link", "relative"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_case_out_is_the_photo_folder(photos: Path, spelling: str, overwrite: bool, monkeypatch) -> None:
    (photos.parent / "link").symlink_to(photos)
    monkeypatch.chdir(photos)
    out = {
        "plain": photos, "dots": photos / ".." / "photos" / ".", "link": photos.parent / "link", "relative": Path(".")
    }[spelling]  # fmt: skip
    before = snapshot(photos)
    with pytest.raises(UsageError, match=r"the output .*a\.png is the input .*a\.png \(choose another -o DIR\)"):
        propagate(photos, out, overwrite=overwrite)
    assert snapshot(photos) == before


def test_case_out_is_the_photo_for_single_files_and_links(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the input"):
        propagate(photos / "a.png", photos)
    with pytest.raises(UsageError, match="is the input"):
        propagate(photos / "a.png", photos / "a.png", overwrite=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "c.png").symlink_to(photos / "a.png")
    with pytest.raises(UsageError, match=r"output .*photos/a\.png is the input"):
        check_outputs([tmp_path / "links" / "c.png"], lambda path: (photos / "a.png",))


def test_outputs_are_no_labels_lists_or_cams_either(photos: Path, tmp_path: Path) -> None:
    cam(photos, tmp_path / "cams")
    before = snapshot(tmp_path / "cams")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "low").symlink_to(tmp_path / "cams")
    with pytest.raises(UsageError, match=r"the output .*low/a\.npz is the input .*cams/a\.npz"):
        crf(photos, tmp_path / "cams", tmp_path / "out", overwrite=True)
    assert snapshot(tmp_path / "cams") == before


def test_two_images_never_write_one_output(photos: Path, tmp_path: Path, monkeypatch) -> None:
    draw(photos / "a.jpg", (RED, 8, 8))
    with pytest.raises(UsageError, match=r"a\.jpg and .*a\.png would both write .*a\.png"):
        propagate(photos, tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))
    names = [tmp_path / "x" / composed, tmp_path / "y" / decomposed]
    with pytest.raises(UsageError, match="would both write"):
        check_outputs(names, lambda path: (tmp_path / "masks" / path.name,))
    upper, lower = [tmp_path / "x" / "A.jpg", tmp_path / "y" / "a.jpg"], lambda path: (tmp_path / "m" / path.name,)
    check_outputs(upper, lower)
    monkeypatch.setattr(plan_module, "_ignores_case", lambda folder: True)
    with pytest.raises(UsageError, match="would both write"):
        check_outputs(upper, lower)


def test_a_file_as_output_is_that_file(photos: Path, tmp_path: Path) -> None:
    report = propagate(photos / "a.png", tmp_path / "x.png")
    assert (report.done, sorted(path.name for path in tmp_path.iterdir())) == (["a.png"], ["photos", "x.png"])
    assert Image.open(tmp_path / "x.png").mode == "P"
    with pytest.raises(UsageError, match="found 2 photos and one output file"):
        propagate(photos, tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize("name", ["phtos", "https://example.org/photo.jpg", "memory://nowhere/a.jpg"])
def test_a_mistyped_input_makes_nothing(tmp_path: Path, name: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no such file or folder|found the address|no photos in memory"):
        propagate(name, "masks")
    assert list(tmp_path.iterdir()) == []


def test_case_corrected_labels_old_masks(photos: Path, tmp_path: Path) -> None:
    labels, masks = tmp_path / "labels.csv", tmp_path / "masks"
    labels.write_text("image,labels\na,red\nb,blue\n")
    assert propagate(photos, masks, labels=labels).done == ["a.png", "b.png"]
    labels.write_text("image,labels\na,red;blue\nb,blue\n")
    warnings, report = warnings_of(photos, masks, labels=labels)
    assert (report.done, report.skipped) == ([], ["a.png", "b.png"])
    assert len(warnings) == 1
    assert "1 existing output no longer fits: 1 with other labels (a.png)" in warnings[0]
    assert "--overwrite" in warnings[0]
    assert warnings_of(photos, masks, labels=labels, keep=True)[0] == []
    propagate(photos, masks, labels=labels, overwrite=True)
    assert warnings_of(photos, masks, labels=labels)[0] == []
    assert "other labels (a.png, b.png)" in warnings_of(photos, masks)[0][0]  # predicted now


def test_case_outputs_that_no_longer_fit(photos: Path, tmp_path: Path) -> None:
    masks, cams = tmp_path / "masks", tmp_path / "cams"
    cam(photos, cams)
    propagate(photos, masks, cams=cams, save_scores=True)
    assert warnings_of(photos, masks, cams=cams, save_scores=True)[0] == []
    # Touched or copied is not changed.
    os.utime(photos / "a.png", (1, 1))
    assert warnings_of(photos, masks, cams=cams, save_scores=True)[0] == []
    draw(photos / "a.png", (BLUE, 8, 8), size=(96, 64))
    assert "another photo of that name (a.png)" in warnings_of(photos, masks, cams=cams, save_scores=True)[0][0]
    cam(photos, cams, size=64, overwrite=True)
    assert "2 with other CAMs (a.png, b.png)" in warnings_of(photos, masks, cams=cams, save_scores=True)[0][0]
    changed = warnings_of(photos, masks, cams=cams, save_scores=True, alpha=5)[0][0]
    assert "other settings: alpha 3 -> 5" in changed


@pytest.mark.parametrize("damage", [b"", b"cut"])
@pytest.mark.parametrize("name", ["a.png", "scores/a.npz"])
def test_case_empty_or_cut_outputs_are_none(photos: Path, tmp_path: Path, damage: bytes, name: str) -> None:
    masks = tmp_path / "masks"
    propagate(photos, masks, save_scores=True)
    whole = (masks / name).read_bytes()
    (masks / name).write_bytes(damage and whole[: len(whole) // 2])
    report = propagate(photos, masks, save_scores=True)
    assert (report.done, report.skipped) == (["a.png"], ["b.png"])
    assert (masks / name).read_bytes() == whole


def test_a_mask_that_a_person_corrected_stays(photos: Path, tmp_path: Path) -> None:
    propagate(photos, tmp_path / "masks")
    Image.new("P", (96, 64), 1).save(tmp_path / "masks" / "a.png")
    corrected = (tmp_path / "masks" / "a.png").read_bytes()
    assert propagate(photos, tmp_path / "masks").skipped == ["a.png", "b.png"]
    assert (tmp_path / "masks" / "a.png").read_bytes() == corrected


def test_case_backup_copy_beside_photo(photos: Path, tmp_path: Path) -> None:
    draw(tmp_path / "other.png", (BLUE, 8, 8), size=(40, 50))
    (photos / "a.png_original").write_bytes((tmp_path / "other.png").read_bytes())
    (photos / "b.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (photos / "Thumbs.db").write_bytes(b"x")
    for expected in (["a.png", "b.png"], []):
        events: list[Event] = []
        report = propagate(photos, tmp_path / "masks", report=events.append)
        assert (report.done, report.ok) == (expected, True)
        assert any("ignored 3 files that are not photos" in event.text for event in events)
    assert Image.open(tmp_path / "masks" / "a.png").size == (96, 64)


def test_the_record_tells_the_truth_of_each_image(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    (photos / "broken.jpg").write_bytes(b"no picture")
    assert not propagate(photos, masks).ok
    record = json.loads((masks / "run.json").read_text())
    assert (record["images"], record["done"], list(record["failed"])) == (3, 2, ["broken.jpg"])
    # A run on a part of the images says nothing else about the others.
    (tmp_path / "list.txt").write_text("a\n")
    propagate(photos, masks, listing=tmp_path / "list.txt", overwrite=True, alpha=5)
    record = json.loads((masks / "run.json").read_text())
    assert (record["images"], record["done"], list(record["failed"])) == (3, 2, ["broken.jpg"])
    assert record["last_run"]["done"] == 1
    assert (record["settings"]["alpha"], [other["alpha"] for other in record["other_settings"]]) == (5, [3])
    draw(photos / "broken.jpg", (RED, 8, 8))
    assert propagate(photos, masks, keep=True).done == ["broken.jpg"]
    assert json.loads((masks / "run.json").read_text())["failed"] == {}


def test_two_processes_share_a_ledger(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pixaff.stages.batch.ledger import read_ledger\n"
        "ledger = read_ledger(Path(sys.argv[1]))\n"
        "for i in range(300): ledger.append({'image': f'{sys.argv[2]}{i}', 'status': 'done', 'text': 'x' * i})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    assert len(read_ledger(tmp_path).images) == 600


def test_half_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    ledger = read_ledger(tmp_path)
    ledger.append({"image": "a", "status": "done"})
    path = tmp_path / "run.jsonl"
    path.write_bytes(path.read_bytes() + b'{"image": "b", "sta')
    for line in (b"123\n", b"null\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(path.read_bytes() + b"\n" + line)
    read_ledger(tmp_path).append({"image": "c", "status": "failed"})
    assert list(read_ledger(tmp_path).images) == ["a", "c"]


def test_stamps_know_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    before = stamp(path)
    os.utime(path, (1, 1))
    assert same_file(path, before)
    path.write_bytes(b"two")
    assert not same_file(path, before)
    assert not same_file(tmp_path / "missing", before)
    assert not same_file(path, "odd")
    assert stamp(tmp_path / "missing") is None


def test_a_run_with_nothing_to_do_loads_neither_torch_nor_a_model(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.jpg", (RED, 8, 8))
    command = [sys.executable, "-m", "pixaff", "propagate", "photos", "--size", "64", "--scales", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    code = (
        "import sys, pixaff\n"
        "report = pixaff.propagate('photos', 'photos-masks', size=64, scales=(1.0,))\n"
        "assert report.skipped == ['a.jpg'], report\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_outputs_removed_during_a_run_are_failures(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"

    def remove(event: Event) -> None:
        if event.kind == "done" and event.photo is not None and event.photo.name == "a.png":
            (masks / "a.png").unlink()

    report = propagate(photos, masks, report=remove, batch_size=1)
    assert report.done == ["b.png"]
    assert "was removed" in dict(report.failed)["a.png"]


def test_an_older_output_of_a_photo_that_failed_since_is_named(photos: Path, tmp_path: Path) -> None:
    masks, said = tmp_path / "masks", []
    propagate(photos, masks)
    whole = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(b"half a photo")
    assert [name for name, _ in propagate(photos, masks, overwrite=True).failed] == ["a.png"]
    (photos / "a.png").write_bytes(whole)
    report = propagate(photos, masks, report=lambda event: said.append(event.text) if event.kind == "warning" else None)
    assert report.skipped == ["a.png", "b.png"]
    (warning,) = said
    assert "1 existing output no longer fits: 1 with a failure when last computed (a.png)" in warning


def test_a_ledger_in_memory_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(None)
    ledger.append({"image": "a", "status": "done"})
    assert list(ledger.images) == ["a"]
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_a_kill_prevented_is_written_by_the_next_run(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    propagate(photos, masks)
    record = json.loads((masks / "run.json").read_text())
    for damage in ("missing", "of fewer images"):
        if damage == "missing":
            (masks / "run.json").unlink()
        else:
            (masks / "run.json").write_text(json.dumps({**record, "images": 1, "done": 1}))
        assert propagate(photos, masks).skipped == ["a.png", "b.png"]
        again = json.loads((masks / "run.json").read_text())
        same = ("command", "settings", "images", "done", "failed", "classes", "device")
        assert {name: again[name] for name in same} == {name: record[name] for name in same}


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_whose_line_a_kill_prevented_is_made_again(photos: Path, tmp_path: Path, overwrite: bool) -> None:
    masks = tmp_path / "masks"
    propagate(photos, masks)
    expected = (masks / "b.png").read_bytes()
    if overwrite:  # an earlier run's line about b is there, but no longer true
        propagate(photos, masks, overwrite=True, alpha=16)
    lines = (masks / "run.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["image"] == "b.png"
    (masks / "run.jsonl").write_text("".join(lines[:-1]))
    (masks / "run.json").unlink()
    report = propagate(photos, masks)
    assert (report.done, report.skipped) == (["b.png"], ["a.png"])
    assert (masks / "b.png").read_bytes() == expected
    record = json.loads((masks / "run.json").read_text())
    assert (record["images"], record["done"]) == (2, 2)
    assert propagate(photos, masks).skipped == ["a.png", "b.png"]
