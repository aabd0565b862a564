"""Every format is read back, by its consumer's library where that is installed, else as its documentation says."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.errors import FormatError, UsageError
from pixaff.io.exports import FORMATS
from pixaff.io.exports.coco import packed, run_lengths
from pixaff.io.exports.labelstudio import brush_rle
from pixaff.io.exports.polygons import area, edges, outline
from pixaff.io.exports.splits import parse_split
from pixaff.io.masks import voc_palette, write_mask
from pixaff.io.scores import ScoreFile, write_scores
from pixaff.ops.instances import connected_regions

CLASSES = ("cat", 'a "dog"')


def mask_of(number: int) -> np.ndarray:
    """Two regions of class 1, one with a hole, one of class 2, and void."""
    mask = np.zeros((40, 50 + number), np.uint8)
    mask[4:20, 5:25] = 1
    mask[9:13, 10:16] = 0
    mask[25:33, 3 + number : 9] = 1
    mask[22:36, 28:45] = 2
    mask[0:2] = 255
    return mask


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate("abc"):
        mask = mask_of(number)
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(voc_palette()[mask]).save(tmp_path / "photos" / f"{name}.jpg", quality=95)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def export(folder, to, **options):
    options = {"photos": folder / "photos", "classes": folder / "classes.txt", **options}
    report = pixaff.export(folder / "masks", folder / to, to=to, workers=2, **options)
    assert (report.failed, report.done) == ([], ["a.png", "b.png", "c.png"])
    return folder / to


def known(number):
    mask = mask_of(number)
    return np.where(mask == 255, 0, mask)


def unpacked(text):
    """Counts of COCO's compressed form, as `rleFrString` of the COCO API."""
    counts, place = [], 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[place]) - 48
            value |= (code & 31) << 5 * shift
            more = bool(code & 32)
            place, shift = place + 1, shift + 1
            if not more and code & 16:
                value |= -1 << 5 * shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def test_coco_run_lengths_come_back(folder):
    out = export(folder, "coco")
    found = json.loads((out / "annotations.json").read_text())
    assert [each["name"] for each in found["categories"]] == list(CLASSES)
    for number, image in enumerate(found["images"]):
        assert (out / "images" / image["file_name"]).read_bytes() == (
            folder / "photos" / image["file_name"]
        ).read_bytes()
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        mine = [each for each in found["annotations"] if each["image_id"] == image["id"]]
        assert [each["category_id"] for each in mine] == [1, 2, 1]
        for each in mine:
            counts = unpacked(each["segmentation"]["counts"])
            pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape, order="F").astype(bool)
            rows, columns = np.nonzero(pixels)
            assert each["area"] == pixels.sum()
            x, y, width, height = each["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            mask[pixels] = each["category_id"]
        np.testing.assert_array_equal(mask, known(number))


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_is_read_by_pycocotools(folder, polygons):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed").COCO(
        str(export(folder, "coco", polygons=polygons) / "annotations.json")
    )
    for number, image in enumerate(coco.getImgIds()):
        mask = np.zeros_like(known(number))
        for each in coco.loadAnns(coco.getAnnIds(image)):
            mask[coco.annToMask(each) > 0] = each["category_id"]
        np.testing.assert_array_equal(mask, known(number))


@pytest.mark.parametrize("seed", range(5))
def test_packed_counts_and_brushes_of_noise(seed):
    pixels = np.random.default_rng(seed).random((37, 91)) < (0.5, 0.01, 0.99, 0.1, 0)[seed]
    counts = run_lengths(pixels)
    assert unpacked(packed(counts)) == counts
    np.testing.assert_array_equal(brush_pixels(brush_rle(pixels), pixels.shape), pixels)


def test_yolo_polygons_fill_the_mask_again(folder):
    out = export(folder, "yolo")
    text = (out / "data.yaml").read_text()
    assert text.endswith('train: images\nval: images\n\nnames:\n  0: "cat"\n  1: "a \\"dog\\""\n')
    for number, name in enumerate("abc"):
        assert (out / "images" / f"{name}.jpg").is_file()
        height, width = known(number).shape
        lines = [line.split() for line in (out / "labels" / f"{name}.txt").read_text().splitlines()]
        assert sorted(line[0] for line in lines) == ["0", "0", "1"]
        mask = np.zeros((height, width), np.uint8)
        for value, *numbers in lines:
            ring = np.array(numbers, float).reshape(-1, 2)
            assert ring.min() >= 0
            assert ring.max() <= 1
            mask[filled(ring * (width, height), (height, width))] = int(value) + 1
        np.testing.assert_array_equal(mask, known(number))


def filled(ring, size):
    """Pixels whose middle is inside a polygon by the even-odd rule."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


@pytest.mark.parametrize("seed", range(4))
def test_exact_outlines_of_ragged_regions_with_holes(seed):
    noise = np.random.default_rng(seed).random((30, 40)) < 0.62
    regions = connected_regions(torch.from_numpy(noise.astype(np.uint8))).numpy()
    largest = regions == np.bincount(regions[regions > 0]).argmax()
    rings = edges(largest)
    assert sum(area(ring) > 0 for ring in rings) == 1
    assert len(rings) > 3  # holes
    assert sum(map(area, rings)) == largest.sum()
    np.testing.assert_array_equal(filled(outline(largest, 0), largest.shape), largest)


def test_simplified_outline_of_a_disc():
    y, x = np.mgrid[:101, :101] - 50
    disc = np.hypot(x, y) <= 45
    ring = outline(disc)
    assert len(ring) < len(outline(disc, 0)) / 2
    again = filled(ring, disc.shape)
    assert (again & disc).sum() / (again | disc).sum() > 0.98


def test_voc_is_read_by_torchvision(folder):
    from torchvision.datasets import VOCSegmentation

    out = folder / "VOCdevkit" / "VOC2012"
    pixaff.export(
        folder / "masks", out, to="voc", photos=folder / "photos", classes=folder / "classes.txt", overwrite=True
    )
    found = VOCSegmentation(folder, year="2012", image_set="train")
    assert len(found) == 3
    for number, (image, mask) in enumerate(found):
        assert image.size == mask.size
        np.testing.assert_array_equal(np.array(mask), mask_of(number))


def test_mmseg_config_names_what_is_there(folder):
    out = export(folder, "mmseg")
    config = {}
    exec((out / "dataset.py").read_text(), config)
    data = config["train_dataloader"]["dataset"]
    assert data["type"] == "BaseSegDataset"
    assert data["metainfo"]["classes"] == ("background", *CLASSES)
    assert len(data["metainfo"]["palette"]) == 3
    root = type(out)(data["data_root"])
    for number, name in enumerate("abc"):
        assert (root / data["data_prefix"]["img_path"] / f"{name}{data['img_suffix']}").is_file()
        mask = root / data["data_prefix"]["seg_map_path"] / f"{name}{data['seg_map_suffix']}"
        np.testing.assert_array_equal(np.array(Image.open(mask)), mask_of(number))


def test_index_is_grey(folder):
    out = export(folder, "index")
    for number, name in enumerate("abc"):
        picture = Image.open(out / f"{name}.png")
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), mask_of(number))
    assert (out / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert json.loads((out / "run.json").read_text())["classes"] == list(CLASSES)


def test_cvat_zip_has_the_colours_that_it_lists(folder):
    with zipfile.ZipFile(export(folder, "cvat") / "masks.zip") as found:
        assert found.read("ImageSets/Segmentation/default.txt").decode().split() == ["a", "b", "c"]
        lines = [line.split(":") for line in found.read("labelmap.txt").decode().splitlines()[1:]]
        assert [line[0] for line in lines] == ["background", *CLASSES]
        colours = [tuple(map(int, line[1].split(","))) for line in lines]
        assert colours[0] == (0, 0, 0)
        for number, name in enumerate("abc"):
            pictures = [
                np.array(Image.open(io.BytesIO(found.read(f"{folder}/{name}.png"))))
                for folder in ("SegmentationClass", "SegmentationObject")
            ]
            np.testing.assert_array_equal(pictures[0], np.array(colours)[known(number)])
            objects = {tuple(colour) for colour in pictures[1].reshape(-1, 3).tolist()}
            assert len(objects) == 4  # three regions and background
            np.testing.assert_array_equal(pictures[1].any(-1), known(number) > 0)


def test_rows_of_an_image_folder_join_photos_and_masks(folder):
    out = export(folder, "imagefolder")
    assert json.loads((out / "id2label.json").read_text()) == {"0": "background", "1": CLASSES[0], "2": CLASSES[1]}
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for number, row in enumerate(rows):
        assert Image.open(out / row["file_name"]).size == mask_of(number).shape[::-1]
        np.testing.assert_array_equal(np.array(Image.open(out / row["label_file_name"])), mask_of(number))


def test_hugging_face_parquet_holds_photos_and_masks(folder):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    out = export(folder, "hf")
    assert json.loads((out / "id2label.json").read_text()) == {"0": "background", "1": CLASSES[0], "2": CLASSES[1]}
    table = parquet.read_table(out / "data" / "train-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"_type": "Image"}}
    rows = table.to_pylist()
    assert [row["image"]["path"] for row in rows] == ["a.jpg", "b.jpg", "c.jpg"]
    for number, row in enumerate(rows):
        assert row["image"]["bytes"] == (folder / "photos" / row["image"]["path"]).read_bytes()
        picture = Image.open(io.BytesIO(row["label"]["bytes"]))
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), mask_of(number))


def test_hugging_face_parquet_is_read_by_datasets(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    out = export(folder, "hf", split=SPLIT)
    found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in found.items()} == {"train": 2, "val": 1}
    names = iter(PARTS["train"])
    for row in found["train"]:
        np.testing.assert_array_equal(np.array(row["label"]), mask_of("abc".index(next(names))))
        assert row["image"].size == row["label"].size


def test_hugging_face_parquet_without_pyarrow(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pixaff\[parquet\]"):
        export(folder, "hf")


SPLIT = "train=0.6,val=0.4"
PARTS = {part: [name for name in "abc" if parse_split(SPLIT).part_of(name) == part] for part in ("train", "val")}


def test_parts_are_decided_by_the_name_alone():
    split = parse_split("train=0.8,val=0.1,test=0.1")
    names = [f"photo{number}" for number in range(2000)]
    parts = [split.part_of(name) for name in names]
    assert [round(parts.count(name) / 2000, 1) for name in split.names] == [0.8, 0.1, 0.1]
    assert (
        parts[:5]
        == [split.part_of(name) for name in names[:5]]
        == [parse_split("train=0.8,val=0.1,test=0.1").part_of(name) for name in names[:5]]
    )
    assert {part: len(names) for part, names in PARTS.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    "text", ["train=0.9", "train=0.5,train=0.5", "val=1", "0.9,0.1", "train=0.9,../x=0.1", "train=1.1,val=-0.1"]
)
def test_wrong_splits(text):
    with pytest.raises(UsageError, match="--split"):
        parse_split(text)


def test_parts_of_each_trainer(folder):
    for to in ("yolo", "voc", "mmseg", "coco"):
        out = export(folder, to, split=SPLIT)
        for part, names in PARTS.items():
            if to == "yolo":
                assert sorted(path.stem for path in (out / "labels" / part).iterdir()) == names
                assert sorted(path.stem for path in (out / "images" / part).iterdir()) == names
                assert f"{part}: images/{part}\n" in (out / "data.yaml").read_text()
            elif to == "voc":
                assert (out / "ImageSets" / "Segmentation" / f"{part}.txt").read_text().split() == names
            elif to == "mmseg":
                config = {}
                exec((out / "dataset.py").read_text(), config)
                data = config[f"{part}_dataloader"]["dataset"]["data_prefix"]
                for place in data.values():
                    assert sorted(path.stem for path in (out / place).iterdir()) == names
                assert config["val_evaluator"]["type"] == "IoUMetric"
            else:
                found = json.loads((out / f"annotations_{part}.json").read_text())
                assert [image["file_name"] for image in found["images"]] == [f"{name}.jpg" for name in names]
                assert {each["image_id"] for each in found["annotations"]} == {image["id"] for image in found["images"]}
    with pytest.raises(UsageError, match="--to cvat has no parts"):
        export(folder, "cvat", split=SPLIT)


def test_parts_of_yolo_are_read_by_supervision(folder):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    out = export(folder, "yolo", split=SPLIT)
    found = supervision.DetectionDataset.from_yolo(
        str(out / "images" / "train"), str(out / "labels" / "train"), str(out / "data.yaml"), force_masks=True
    )
    assert found.classes == list(CLASSES)
    assert len(found) == 2
    for path, _, detections in found:
        mask = known("abc".index(path[-5]))
        for value in (1, 2):
            pixels = detections.mask[detections.class_id == value - 1].any(0)
            assert (pixels & (mask == value)).sum() / (
                pixels | (mask == value)
            ).sum() > 0.8  # OpenCV fills the rim, too


def test_small_regions_become_void(folder):
    out = export(folder, "index", min_area=60)
    for number, name in enumerate("abc"):
        found, mask = np.array(Image.open(out / f"{name}.png")), mask_of(number)
        small = np.zeros_like(mask, bool)
        small[25:33, 3 + number : 9] = True  # 48, 40 and 32 pixels
        assert (found[small] == 255).all()
        np.testing.assert_array_equal(found[~small], mask[~small])
    coco = json.loads((export(folder, "coco", min_area=60) / "annotations.json").read_text())
    assert len(coco["annotations"]) == 6
    assert min(each["area"] for each in coco["annotations"]) >= 60


def test_scores_of_coco_are_mean_margins(folder):
    scores_for(folder, "a", mask_of(0))
    found = json.loads((export(folder, "coco") / "annotations.json").read_text())
    mine = [each for each in found["annotations"] if each["image_id"] == 1]
    left = next(each for each in mine if each["bbox"][0] == 3)  # 0.11 against 0.1
    right = next(each for each in mine if each["category_id"] == 2)  # 0.9 against 0.1
    assert left["score"] == pytest.approx(0.05, abs=0.01)
    assert 0.6 < right["score"] <= 0.8
    assert all("score" not in each for each in found["annotations"] if each["image_id"] > 1)


def test_label_studio_brushes_come_back(folder):
    out = export(folder, "labelstudio")
    config = ET.parse(out / "label_config.xml").getroot()
    assert [label.get("value") for label in config.iter("Label")] == list(CLASSES)
    tasks = json.loads((out / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={name}.jpg" for name in "abc"]
    for number, task in enumerate(tasks):
        mask = np.zeros_like(known(number))
        for each in task["predictions"][0]["result"]:
            assert each["from_name"] == config.find("BrushLabels").get("name")
            assert each["to_name"] == config.find("Image").get("name")
            assert (each["original_height"], each["original_width"]) == mask.shape
            value = CLASSES.index(each["value"]["brushlabels"][0]) + 1
            mask[brush_pixels(each["value"]["rle"], mask.shape)] = value
        np.testing.assert_array_equal(mask, known(number))


def brush_pixels(rle, size):
    """What `decode_rle` of Label Studio's converter does."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        run = read(1)
        end = at + 1 + read(sizes[read(2)])
        if run:
            values[at:end] = read(word)
        else:
            values[at:end] = [read(word) for _ in range(end - at)]
        at = end
    return values.reshape(*size, 4)[..., 3] > 0


def test_photos_become_upright_jpegs(folder):
    photo = Image.open(folder / "photos" / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(folder / "photos" / "a.jpg", exif=exif)
    Image.open(folder / "photos" / "b.jpg").save(folder / "photos" / "b.png")
    (folder / "photos" / "b.jpg").unlink()
    out = export(folder, "voc")
    for name, number in (("a", 0), ("b", 1)):
        stored = Image.open(out / "JPEGImages" / f"{name}.jpg")
        assert (stored.format, stored.getexif().get(0x0112, 1)) == ("JPEG", 1)
        assert stored.size == mask_of(number).shape[::-1]


def scores_for(folder, name, mask):
    height, width = mask.shape
    grid = (-(-height // 8), -(-width // 8))
    cat = np.full((1, *grid), 0.9, np.float32)
    cat[:, :, : grid[1] // 2] = 0.11
    file = ScoreFile(
        np.array([1]), cat, np.array([1.0, 8.0]), np.full((2, *grid), 0.1, np.float32), 2.0, mask.shape, mask.shape
    )
    write_scores(folder / "masks" / "scores" / f"{name}.npz", file)


def test_uncertain_pixels_become_void(folder):
    for number, name in enumerate("abc"):
        scores_for(folder, name, mask_of(number))
    out = export(folder, "index", uncertain=0.5)
    for number, name in enumerate("abc"):
        found, mask = np.array(Image.open(out / f"{name}.png")), mask_of(number)
        # 0.11 against 0.1 at the left, 0.9 against 0.1 at the right.
        assert (found[:, :20] == 255).all()
        np.testing.assert_array_equal(found[:, -16:], mask[:, -16:])


def test_uncertain_needs_scores(folder):
    with pytest.raises(UsageError, match="--save-scores"):
        export(folder, "index", uncertain=0.1)
    scores_for(folder, "a", mask_of(0))
    report = pixaff.export(folder / "masks", folder / "x", to="index", classes=folder / "classes.txt", uncertain=0.1)
    assert report.done == ["a.png"]
    assert [name for name, _ in report.failed] == ["b.png", "c.png"]


def test_a_mask_without_photo_or_of_another_size_is_named_and_left_out(folder):
    (folder / "photos" / "a.jpg").unlink()
    Image.new("RGB", (9, 9)).save(folder / "photos" / "b.jpg")
    call = ["export", f"{folder}/masks", "--to", "coco", "--out", f"{folder}/x", "--photos", f"{folder}/photos"]
    done = CliRunner().invoke(app, [*call, "--classes", f"{folder}/classes.txt"])
    assert done.exit_code == 1
    assert "found no photo a" in done.stderr
    assert "found 9 x 9 pixels, expected the mask's 51 x 40" in done.stderr
    found = json.loads((folder / "x" / "annotations.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["c.jpg"]


@pytest.mark.parametrize("to", FORMATS)
def test_no_input_is_replaced_and_no_folder_of_others(folder, to):
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        pixaff.export(
            folder / "masks", folder / "full", to=to, photos=folder / "photos", classes=folder / "classes.txt"
        )
    assert [path.name for path in (folder / "full").iterdir()] == ["notes.txt"]


def test_masks_are_not_replaced_by_themselves(folder):
    before = (folder / "masks" / "a.png").read_bytes()
    with pytest.raises(UsageError, match="is the input"):
        pixaff.export(folder / "masks", folder / "masks", to="index", classes=folder / "classes.txt", overwrite=True)
    assert (folder / "masks" / "a.png").read_bytes() == before


def test_a_failed_set_leaves_no_whole_file(folder):
    for name in "abc":
        write_mask(folder / "masks" / f"{name}.png", np.full((4, 4), 9, np.uint8))
    for to in ("cvat", "coco"):
        with pytest.raises(FormatError, match="none of 3 masks"):
            pixaff.export(folder / "masks", folder / "x", to=to, classes=folder / "classes.txt")
        assert not (folder / "x").exists() or list((folder / "x").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "tiff"}, "expected coco, yolo, voc, mmseg, index, cvat, hf, imagefolder, labelstudio"),
        ({"to": "voc", "polygons": True}, "--polygons"),
        ({"to": "voc", "uncertain": 1.5}, "found 1.5"),
        ({"to": "hf"}, "--photos"),
    ],
)
def test_wrong_use(folder, options, message):
    with pytest.raises(UsageError, match=message):
        pixaff.export(folder / "masks", folder / "x", classes=folder / "classes.txt", **options)


def test_names_come_from_the_run_record_and_the_list_chooses(folder):
    record = {"command": "propagate", "settings": {}, "classes": ["one", "two"]}
    (folder / "masks" / "run.json").write_text(json.dumps(record))
    (folder / "list.txt").write_text("c\na\n")
    pixaff.export(folder / "masks", folder / "x", to="voc", listing=folder / "list.txt")
    assert (folder / "x" / "classes.txt").read_text() == "one\ntwo\n"
    assert (folder / "x" / "ImageSets" / "Segmentation" / "train.txt").read_text() == "c\na\n"
