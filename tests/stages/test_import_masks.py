"""Masks come back from the labelling tools as they went, and nothing strange in such a file does harm."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.errors import FormatError, UsageError
from pixaff.io.exports import cvat
from pixaff.io.exports.labelstudio import brush_pixels, brush_rle
from pixaff.io.masks import read_mask, voc_palette, write_mask

CLASSES = ["cat", "dog"]


def mask_of(number: int) -> np.ndarray:
    mask = np.zeros((30, 40 + number), np.uint8)
    mask[4:20, 5:25] = 1
    mask[20:28, 8 + number : 30] = 2
    mask[0:2] = 255
    return mask


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abc"):
        write_mask(tmp_path / "masks" / f"{name}.png", mask_of(number))
    record = {"command": "propagate", "settings": {}, "classes": CLASSES}
    (tmp_path / "masks" / "run.json").write_text(json.dumps(record))
    return tmp_path


def exported(folder, to):
    pixaff.export(folder / "masks", folder / to, to=to)
    return folder / to / {"cvat": "masks.zip", "labelstudio": "tasks.json"}[to]


def annotated(source):
    """What Label Studio exports where each prediction was accepted as an annotation."""
    tasks = json.loads(source.read_text())
    for task in tasks:
        result = task.pop("predictions")[0]["result"]
        task["annotations"] = [{"result": result, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"}]
    source.write_text(json.dumps(tasks))
    return tasks


@pytest.mark.parametrize("to", ["cvat", "labelstudio"])
def test_what_went_out_comes_back(folder, to):
    source = exported(folder, to)
    if to == "labelstudio":
        annotated(source)
    found = pixaff.import_masks(source, folder / "back", masks=folder / "masks")
    assert (found.done, found.failed, found.changed) == (["a.png", "b.png", "c.png"], [], {})
    for number, name in enumerate("abc"):  # void as well, which neither tool knows
        np.testing.assert_array_equal(read_mask(folder / "back" / f"{name}.png", 2), mask_of(number))
        assert Image.open(folder / "back" / f"{name}.png").mode == "P"
    record = json.loads((folder / "back" / "run.json").read_text())
    assert (record["classes"], record["changed"]) == (CLASSES, {})


def test_the_folder_of_an_unpacked_archive_and_classes_of_its_label_map(folder):
    zipfile.ZipFile(exported(folder, "cvat")).extractall(folder / "unpacked")
    found = pixaff.import_masks(folder / "unpacked", folder / "back")
    assert len(found.done) == 3
    assert json.loads((folder / "back" / "run.json").read_text())["classes"] == CLASSES
    assert (read_mask(folder / "back" / "a.png") == np.where(mask_of(0) == 255, 0, mask_of(0))).all()


def repacked(source, target, change):
    """An archive with other members: `change` maps their names and contents."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return target


def test_changes_are_told(folder):
    corrected = mask_of(0)
    corrected[10:15, 30:38] = 2
    png = io.BytesIO()
    Image.fromarray(voc_palette()[np.where(corrected == 255, 0, corrected)]).save(png, format="PNG")
    source = repacked(
        exported(folder, "cvat"),
        folder / "new.zip",
        lambda name, data: (name, png.getvalue() if name == "SegmentationClass/a.png" else data),
    )
    done = CliRunner().invoke(
        app,
        [
            "import",
            str(source),
            "--out",
            str(folder / "masks"),
            "--masks",
            str(folder / "masks"),
            "--overwrite",
            "--json",
        ],
    )
    assert done.exit_code == 0
    assert "changed: 1 mask: a.png (3.3 %)" in done.stderr
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [round(each["changed"], 3) for each in facts] == [0.033, 0, 0]
    np.testing.assert_array_equal(read_mask(folder / "masks" / "a.png"), corrected)


def test_labels_in_another_order_and_palettes_of_other_programs(folder):
    """CVAT sorts its labels as it likes; colours alone tell the classes."""
    label_map = b"# label:color_rgb:parts:actions\ndog:1,2,3::\nbackground:0,0,0::\ncat:200,100,0::\n"
    mask = np.where(mask_of(0) == 255, 0, mask_of(0))
    picture = Image.fromarray(np.array([1, 2, 0], np.uint8)[mask])
    picture.putpalette([1, 2, 3, 0, 0, 0, 200, 100, 0])
    picture.save(folder / "a.png")
    with zipfile.ZipFile(folder / "x.zip", "w") as new:
        new.writestr("labelmap.txt", label_map)
        new.write(folder / "a.png", "SegmentationClass/sub/a.png")
    pixaff.import_masks(folder / "x.zip", folder / "back", masks=folder / "masks")
    np.testing.assert_array_equal(read_mask(folder / "back" / "sub" / "a.png"), mask)


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "..\\evil.png"])
def test_no_path_leads_out_of_the_folder(folder, name):
    source = repacked(
        exported(folder, "cvat"),
        folder / "new.zip",
        lambda old, data: (f"SegmentationClass/{name}" if old == "SegmentationClass/a.png" else old, data),
    )
    with pytest.raises(FormatError, match="expected one within the folder"):
        pixaff.import_masks(source, folder / "deep" / "back", masks=folder / "masks")
    assert not list(folder.rglob("evil*"))


def test_an_archive_that_unpacks_without_end(folder, monkeypatch):
    monkeypatch.setattr(cvat, "MOST_MEMBER", 1 << 20)
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("labelmap.txt", "background:0,0,0::\ncat:128,0,0::\n")
        new.writestr("SegmentationClass/a.png", bytes(50 << 20))
    found = pixaff.import_masks(folder / "bomb.zip", folder / "back", classes=None)
    assert "found more than 1 MiB" in found.failed[0][1]
    assert not (folder / "back" / "a.png").exists()


def test_one_damaged_mask_costs_itself_alone(folder):
    source = repacked(
        exported(folder, "cvat"),
        folder / "new.zip",
        lambda name, data: (name, data[:-30] if name == "SegmentationClass/b.png" else data),
    )
    found = pixaff.import_masks(source, folder / "back")
    assert found.done == ["a.png", "c.png"]
    assert "SegmentationClass/b.png" in found.failed[0][1]
    assert "pixaff-" not in found.failed[0][1]


def test_the_newest_annotation_counts_and_none_is_told(folder):
    source = exported(folder, "labelstudio")
    tasks = annotated(source)
    other = np.zeros((30, 40), bool)
    other[5:9, 5:9] = True
    newer = json.loads(json.dumps(tasks[0]["annotations"][0]))
    newer["updated_at"] = "2026-02-01T00:00:00Z"
    newer["result"] = [
        {**newer["result"][0], "value": {"format": "rle", "rle": brush_rle(other), "brushlabels": ["dog"]}}
    ]
    cancelled = {"result": [], "was_cancelled": True, "updated_at": "2026-03-01T00:00:00Z"}
    tasks[0]["annotations"] = [newer, *tasks[0]["annotations"], cancelled]
    tasks[0]["data"]["image"] = "/data/upload/7/0a1b2c3d-a.jpg"
    tasks[1]["annotations"] = [cancelled]
    source.write_text(json.dumps(tasks))
    found = pixaff.import_masks(source, folder / "back", masks=folder / "masks")
    assert (found.done, found.untouched) == (["a.png", "c.png"], ["b"])
    assert list(found.changed) == ["a.png"]
    np.testing.assert_array_equal(read_mask(folder / "back" / "a.png") == 2, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda task: task["annotations"][0]["result"][0]["value"].update(rle=[0, 0, 1]), "no readable brush"),
        (
            lambda task: task["annotations"][0]["result"][0]["value"]["rle"].__delitem__(slice(9, None)),
            "no readable brush",
        ),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(rle=["x"]), "no readable brush"),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(brushlabels=["cow"]), 'the label "cow"'),
        (lambda task: task["annotations"][0]["result"][0].update(type="polygonlabels"), '"polygonlabels"'),
        (lambda task: task["annotations"][0]["result"][0].update(original_width=10**9), "at most 300 megapixels"),
        (lambda task: task["annotations"][0].update(result=[]), "without a brush"),
    ],
)
def test_a_bad_annotation_costs_itself_alone(folder, change, words):
    source = exported(folder, "labelstudio")
    tasks = annotated(source)
    change(tasks[0])
    source.write_text(json.dumps(tasks))
    found = pixaff.import_masks(source, folder / "back", masks=folder / "masks")
    assert found.done == ["b.png", "c.png"]
    assert words in found.failed[0][1]


def test_label_studio_reads_and_writes_these_brushes():
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label_studio_sdk is not installed")
    pixels = np.random.default_rng(0).random((13, 29)) < 0.3
    theirs = brush.encode_rle(np.repeat(pixels.ravel() * np.uint8(255), 4))
    np.testing.assert_array_equal(brush_pixels(theirs, pixels.shape), pixels)
    ours = np.reshape(brush.decode_rle(brush_rle(pixels)), (13, 29, 4))
    np.testing.assert_array_equal(ours[..., 3] > 0, pixels)


@pytest.mark.parametrize("density", [0, 0.02, 0.5, 1])
def test_brushes_come_back(density):
    pixels = np.random.default_rng(1).random((37, 91)) < density
    np.testing.assert_array_equal(brush_pixels(brush_rle(pixels), pixels.shape), pixels)


def test_what_is_no_export(folder):
    (folder / "x.json").write_text('[{"image": "a.jpg", "tag": []}]')
    (folder / "x.txt").write_text("cat")
    (folder / "x.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(FormatError, match="not as JSON-MIN"):
        pixaff.import_masks(folder / "x.json", folder / "back", masks=folder / "masks")
    with pytest.raises(FormatError, match=r"no labelmap\.txt"):
        pixaff.import_masks(folder / "x.zip", folder / "back")
    for path in (folder / "x.txt", folder / "masks", folder / "none"):
        with pytest.raises(UsageError, match="expected a zip archive"):
            pixaff.import_masks(path, folder / "back")
    with pytest.raises(FormatError, match="give --masks or --classes"):
        pixaff.import_masks(exported(folder, "labelstudio"), folder / "back")
    with pytest.raises(UsageError, match="--overwrite"):
        pixaff.import_masks(exported(folder, "cvat"), folder / "masks", masks=folder / "masks")
    (folder / "other.txt").write_text("horse\n")
    with pytest.raises(FormatError, match='the label "cat"'):
        pixaff.import_masks(folder / "cvat" / "masks.zip", folder / "back", classes=folder / "other.txt")


def test_masks_in_nested_folders(folder):
    write_mask(folder / "masks" / "sub" / "a.png", mask_of(2))
    pixaff.export(folder / "masks", folder / "cvat", to="cvat", recursive=True)
    found = pixaff.import_masks(folder / "cvat" / "masks.zip", folder / "back", masks=folder / "masks")
    assert (found.done, found.changed) == (["a.png", "b.png", "c.png", "sub/a.png"], {})
    np.testing.assert_array_equal(read_mask(folder / "back" / "sub" / "a.png"), mask_of(2))
