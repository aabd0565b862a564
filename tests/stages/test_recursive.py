"""Photos in nested folders: every output, record and score keeps its folder, and equal stems never meet."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_bundle import BLUE, RED, draw, use_toy

from pixaff.errors import LabelsError, UsageError
from pixaff.io.cams import read_cams
from pixaff.io.masks import read_mask
from pixaff.io.scores import read_scores
from pixaff.stages.batch.inputs import find_images
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.naming import Names
from pixaff.stages.cam import cam
from pixaff.stages.crf import crf
from pixaff.stages.evaluate import evaluate
from pixaff.stages.export import export
from pixaff.stages.info import info
from pixaff.stages.propagate import propagate

NAMES = ["top.png", "a/x.png", "a/b/x.png", "c/x.jpg"]


@pytest.fixture(autouse=True)
def bundle(monkeypatch: pytest.MonkeyPatch) -> object:
    return use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Equal stems that show different things."""
    folder = tmp_path / "photos"
    draw(folder / "top.png", (RED, 16, 16))
    draw(folder / "a" / "x.png", (RED, 16, 16))
    draw(folder / "a" / "b" / "x.png", (BLUE, 16, 16))
    draw(folder / "c" / "x.jpg", (RED, 8, 8), (BLUE, 32, 60))
    (folder / ".hidden").mkdir()
    draw(folder / ".hidden" / "x.png", (RED, 16, 16))
    return folder


def classes_in(path: Path) -> set[int]:
    return set(np.unique(read_mask(path)).tolist())


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_outputs_mirror_the_folders(photos: Path) -> None:
    report = propagate(photos, recursive=True, overlay=True, save_scores=True)
    assert (report.done, report.failed) == (NAMES, [])
    out = photos.parent / "photos-masks"
    keys = [name.rpartition(".")[0] for name in NAMES]
    expected = {f"{key}.png" for key in keys}
    expected |= {f"overlays/{key}.jpg" for key in keys} | {f"scores/{key}.npz" for key in keys}
    assert files(out) == expected | {"run.json", "run.jsonl"}
    assert classes_in(out / "a" / "x.png") == {0, 1}
    assert classes_in(out / "a" / "b" / "x.png") == {0, 2}
    assert classes_in(out / "c" / "x.png") == {0, 1, 2}
    assert read_scores(out / "scores" / "a" / "b" / "x.npz").size == read_mask(out / "a" / "b" / "x.png").shape
    assert list(read_ledger(out).images) == NAMES
    assert json.loads((out / "run.json").read_text())["done"] == 4


def test_a_second_run_skips_them_and_tells_which_photo_changed(photos: Path) -> None:
    propagate(photos, recursive=True)
    draw(photos / "a" / "b" / "x.png", (RED, 16, 16))
    (photos.parent / "photos-masks" / "c" / "x.png").unlink()
    events = []
    report = propagate(photos, recursive=True, report=events.append)
    assert (report.done, report.skipped) == (["c/x.jpg"], ["top.png", "a/x.png", "a/b/x.png"])
    (warning,) = [event.text for event in events if event.kind == "warning"]
    assert "1 with another photo of that name (a/b/x.png)" in warning


def test_a_photo_that_fails_is_named_by_its_path(photos: Path) -> None:
    (photos / "c" / "x.jpg").write_bytes(b"no picture")
    report = propagate(photos, recursive=True)
    assert [name for name, _ in report.failed] == ["c/x.jpg"]
    assert len(report.done) == 3
    assert list(json.loads((photos.parent / "photos-masks" / "run.json").read_text())["failed"]) == ["c/x.jpg"]


def test_without_it_subfolders_are_left_alone(photos: Path) -> None:
    assert propagate(photos).done == ["top.png"]
    assert list(read_ledger(photos.parent / "photos-masks").images) == ["top.png"]
    with pytest.raises(UsageError, match="would both write"):
        propagate([photos / "a" / "x.png", photos / "c" / "x.jpg"], photos.parent / "out")
    (photos / "top.png").unlink()
    with pytest.raises(UsageError, match="--recursive looks in subfolders"):
        propagate(photos)


def test_nothing_takes_the_place_of_another_output(photos: Path) -> None:
    draw(photos / "c" / "x.png", (RED, 16, 16))
    with pytest.raises(UsageError, match=r"c/x.jpg and .*c/x.png would both write .*c/x.png"):
        propagate(photos, recursive=True)
    (photos / "c" / "x.png").unlink()
    other = photos.parent / "other"
    draw(other / "a" / "x.jpg", (RED, 16, 16))
    with pytest.raises(UsageError, match=r"would both write .*a/x.png"):
        propagate([photos, other], photos.parent / "out", recursive=True)
    with pytest.raises(UsageError, match="is the input"):
        propagate(photos, photos, recursive=True)


def test_outputs_among_the_photos_are_no_photos(photos: Path) -> None:
    out = photos / "masks"
    assert propagate(photos, out, recursive=True).done == NAMES
    assert propagate(photos, out, recursive=True).skipped == NAMES


def test_labels_match_by_path_and_by_an_unambiguous_stem(photos: Path) -> None:
    labels = photos.parent / "labels.csv"
    labels.write_text("image,labels\nphotos/a/x.png,blue\na/b/x.png,red\ntop,red\nx.jpg,red\n")
    report = propagate(photos, labels=labels, recursive=True)
    assert report.done == ["top.png", "a/x.png", "a/b/x.png"]
    (failed,) = report.failed
    assert failed[0] == "c/x.jpg"
    assert 'line 5: found "x.jpg", which may be' in failed[1]
    lines = read_ledger(photos.parent / "photos-masks").images
    assert [lines[name]["labels"] for name in report.done] == [["red"], ["blue"], ["red"]]
    assert 2 not in classes_in(photos.parent / "photos-masks" / "a" / "b" / "x.png")


def test_lists_name_paths(photos: Path) -> None:
    listing = photos.parent / "list.txt"
    listing.write_text("a/b/x.png\ntop\nc/missing\n")
    report = propagate(photos, listing=listing, recursive=True)
    assert report.done == ["a/b/x.png", "top.png"]
    assert [name for name, _ in report.failed] == ["c/missing"]
    listing.write_text("x\n")
    with pytest.raises(LabelsError, match=r'list.txt: "x" may be "a/x" or "a/b/x" \(write it with its folder\)'):
        propagate(photos, listing=listing, recursive=True)


def test_every_step_keeps_the_folders(photos: Path, tmp_path: Path) -> None:
    cams, posteriors, masks = tmp_path / "cams", tmp_path / "crf", tmp_path / "refined"
    assert cam(photos, cams, recursive=True).done == NAMES
    assert read_cams(cams / "a" / "b" / "x.npz").classes.tolist() == [2]
    assert read_cams(cams / "a" / "x.npz").classes.tolist() == [1]
    assert crf(photos, cams, posteriors, recursive=True, workers=1).done == NAMES
    assert read_cams(posteriors / "high" / "a" / "b" / "x.npz").classes.tolist() == [0, 2]
    assert propagate(photos, masks, cams=cams, recursive=True, save_scores=True).done == NAMES
    assert classes_in(masks / "a" / "b" / "x.png") == {0, 2}

    classes = tmp_path / "classes.txt"
    classes.write_text("red\nblue\n")
    scored = evaluate(masks, masks, recursive=True, classes=classes)
    assert (scored.images, scored.best.miou, scored.failed) == (4, 1.0, ())
    assert evaluate(masks, masks, classes=classes).images == 1
    swept = evaluate(masks, masks, sweep={"alpha": [2, 4]}, recursive=True, classes=classes)
    assert swept.images == 4
    by_cams = evaluate(cams, masks, cams=True, thresholds=[0.2], recursive=True, classes=classes)
    assert (by_cams.images, by_cams.failed) == (4, ())
    listing = tmp_path / "list.txt"
    listing.write_text("a/b/x\n")
    assert evaluate(masks, masks, recursive=True, classes=classes, listing=listing).images == 1

    made = export(masks, tmp_path / "voc", to="voc", photos=photos, recursive=True, classes=classes)
    assert sorted(made.done) == sorted(f"{name.rpartition('.')[0]}.png" for name in NAMES)
    assert (tmp_path / "voc" / "ImageSets" / "Segmentation" / "train.txt").read_text().split() == [
        "a/b/x", "a/x", "c/x", "top",
    ]  # fmt: skip
    assert classes_in(tmp_path / "voc" / "SegmentationClass" / "a" / "b" / "x.png") == {0, 2}
    assert (tmp_path / "voc" / "JPEGImages" / "a" / "x.jpg").is_file()


@pytest.mark.parametrize("to", ["coco", "yolo", "mmseg", "index", "cvat", "hf", "labelstudio"])
def test_case_exports_keep_the_folders(photos: Path, tmp_path: Path, to: str) -> None:
    masks = tmp_path / "masks"
    propagate(photos, masks, recursive=True)
    done = export(masks, tmp_path / "out", to=to, photos=photos, recursive=True, uncertain=0).done  # type: ignore[arg-type]
    assert len(done) == 4
    names = " ".join(files(tmp_path / "out"))
    texts = " ".join(path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "a/b/x" in names + texts


def test_a_folder_per_class_may_hold_equal_names(photos: Path) -> None:
    tree = photos.parent / "tree"
    for name, colour in (("red/1", RED), ("red/2", RED), ("blue/1", BLUE)):
        draw(tree / f"{name}.png", (colour, 16, 16))
    facts = info(tree, tree, recursive=True)
    assert (facts["images"], facts["classes"]) == (3, {"blue": 1, "red": 2})
    assert (facts["images_without_label"]["count"], facts["labels_without_image"]["count"]) == (0, 0)
    report = propagate(tree, labels=tree, recursive=True)
    assert report.done == ["blue/1.png", "red/1.png", "red/2.png"]
    assert classes_in(photos.parent / "tree-masks" / "blue" / "1.png") == {0, 2}


def test_info_counts_what_has_only_one_of_the_two(photos: Path) -> None:
    labels = photos.parent / "labels.csv"
    labels.write_text("image,labels\na/x.png,red\na/b/x.png,blue\nd/y.png,red\n")
    facts = info(labels, photos, recursive=True)
    assert (facts["images"], facts["photos"], facts["classes"]) == (3, 4, {"blue": 1, "red": 2})
    assert facts["labels_without_image"] == {"count": 1, "first": ["d/y"]}
    assert facts["images_without_label"] == {"count": 2, "first": ["c/x", "top"]}
    assert "unusable_entries" not in facts
    labels.write_text("image,labels\nx.png,red\ntop,blue\n")
    facts = info(labels, photos, recursive=True)
    assert (facts["unusable_entries"], facts["images_without_label"]["count"]) == (1, 0)
    assert 'line 2: found "x.png", which may be' in facts["first_problem"]


def test_links_are_followed_once(photos: Path) -> None:
    os.symlink(photos, photos / "a" / "loop")
    elsewhere = photos.parent / "elsewhere"
    draw(elsewhere / "y.png", (RED, 16, 16))
    os.symlink(elsewhere, photos / "linked")
    found = find_images(photos, recursive=True)
    assert [found.names.name(path) for path in found] == [*NAMES, "linked/y.png"]


def test_a_name_never_leads_out_of_the_output_folder() -> None:
    names = Names((Path("photos"), Path("/data/photos")))
    assert names.key(Path("photos/a/x.jpg")) == "a/x"
    assert names.key(Path("photos/../other/x.jpg")) == "x"
    assert names.key(Path("/data/photos/b/x.jpg")) == "b/x"
    assert names.key(Path("/data/photos2/b/x.jpg")) == "x"
    assert (names.key(Path("photos/a.b/x")), names.key(Path("photos/v1.0/x.tar.png"))) == ("a.b/x", "v1.0/x.tar")


def test_the_whole_command_line(photos: Path) -> None:
    from typer.testing import CliRunner

    from pixaff.cli.app import app

    out = photos.parent / "out"
    result = CliRunner().invoke(app, ["propagate", str(photos), "-o", str(out), "--recursive", "--json"])
    assert result.exit_code == 0
    assert (out / "a" / "b" / "x.png").is_file()
    with Image.open(out / "a" / "b" / "x.png") as mask:
        assert mask.mode == "P"
