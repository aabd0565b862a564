"""Bad and odd files among good ones: the good ones get masks of their own size, the bad ones are named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_bundle import RED, draw, use_toy
from typer.testing import CliRunner

from pixaff.cli.app import app
from pixaff.io.masks import read_mask

SIDE = 48
"""Of the odd pictures: the left half red, the right half grey."""


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    use_toy(monkeypatch)


def halves(height: int = SIDE, width: int = 2 * SIDE) -> Image.Image:
    image = np.full((height, width, 3), 120, np.uint8)
    image[:, : width // 2] = RED
    return Image.fromarray(image)


def truncated(path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    data = io.BytesIO()
    noise.save(data, "JPEG")
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])


def animated(path: Path) -> None:
    halves().save(path, save_all=True, append_images=[Image.new("RGB", (2 * SIDE, SIDE))], duration=100)


def sixteen_bits(path: Path) -> None:
    grey = np.full((SIDE, 2 * SIDE), 30000, np.uint16)
    Image.fromarray(grey).save(path)


def rotated(path: Path) -> None:
    """Stored lying on its side; its viewer turns it upright, the red half at the left."""
    exif = Image.Exif()
    exif[0x0112] = 6
    halves().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


BAD = {
    "notes.txt": lambda path: path.write_text("what a day\n"),
    "empty.jpg": lambda path: path.write_bytes(b""),
    "truncated.jpg": truncated,
    "animated.gif": animated,
}
GOOD = {
    "plain.jpg": (lambda path: halves().save(path, quality=95), (SIDE, 2 * SIDE)),
    "cmyk.jpg": (lambda path: halves().convert("CMYK").save(path, quality=95), (SIDE, 2 * SIDE)),
    "sixteen.png": (sixteen_bits, (SIDE, 2 * SIDE)),
    "palette.png": (lambda path: halves().quantize(4).save(path), (SIDE, 2 * SIDE)),
    "rotated.jpg": (rotated, (SIDE, 2 * SIDE)),
    "pixel.png": (lambda path: Image.new("RGB", (1, 1), RED).save(path), (1, 1)),
    "line.png": (lambda path: halves(1, 300).save(path), (1, 300)),
    "huge.jpg": (lambda path: Image.new("RGB", (12000, 9000), RED).save(path), (9000, 12000)),
}


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd") / "photos"
    folder.mkdir()
    for name, write in BAD.items():
        write(folder / name)
    for name, (write, _) in GOOD.items():
        write(folder / name)
    return folder


def test_good_photos_get_masks_and_bad_ones_are_named(odd_photos, monkeypatch):
    done = CliRunner().invoke(app, ["propagate", str(odd_photos), "--json"])
    assert done.exit_code == 1, done.output
    named = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(named) == len(BAD)
    for name in BAD:
        assert sum(f"{name}: " in line for line in named) == 1, name
    assert "Traceback" not in done.output
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "Warning" not in done.stderr
    masks = odd_photos.parent / "photos-masks"
    for name, (_, size) in GOOD.items():
        with Image.open(masks / f"{Path(name).stem}.png") as mask:
            assert (mask.mode, (mask.height, mask.width)) == ("P", size), name
    assert sorted(path.stem for path in masks.glob("*.png")) == sorted(Path(name).stem for name in GOOD)
    facts = {Path(line["photo"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert {name for name, fact in facts.items() if fact["status"] == "failed"} == BAD.keys()
    assert {name for name, fact in facts.items() if fact["status"] == "done"} == GOOD.keys()


@pytest.mark.parametrize("name", ["plain", "cmyk", "palette", "rotated"])
def test_the_red_half_is_where_the_viewer_sees_it(odd_photos, name):
    out = odd_photos.parent / name
    photo = next(path for path in odd_photos.iterdir() if path.stem == name)
    assert CliRunner().invoke(app, ["propagate", str(photo), "--out", str(out)]).exit_code == 0
    mask = read_mask(out / f"{name}.png")
    assert mask[24, 12] == 1
    assert mask[24, 84] == 0


def test_a_missing_photo_and_no_photo_are_told_apart(tmp_path):
    draw(tmp_path / "there.png", (RED, 8, 8))
    call = ["propagate", f"{tmp_path}/gone.jpg", "--out", f"{tmp_path}/out"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 2
    assert "gone.jpg: no such file or folder (check the path)" in done.stderr
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*call, f"{tmp_path}/there.png"])
    assert done.exit_code == 1
    assert "gone.jpg: no such file" in done.stderr
    assert (tmp_path / "out" / "there.png").is_file()
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["propagate", f"{tmp_path}/empty"])
    assert done.exit_code == 2
    assert "no photos in" in done.stderr


def test_labels_are_checked_in_words(odd_photos, tmp_path):
    labels = tmp_path / "labels.csv"

    def call() -> tuple[int, str]:
        photos = [str(odd_photos / name) for name in ("plain.jpg", "palette.png")]
        done = CliRunner().invoke(
            app, ["propagate", *photos, "--labels", str(labels), "--out", str(tmp_path / "out"), "--overwrite"]
        )
        return done.exit_code, done.stderr

    labels.write_text("image,labels\nplain,red\npalette,rad\n")
    code, words = call()
    assert code == 1
    assert 'line 3: found unknown class "rad" (did you mean "red"?)' in words
    labels.write_text("image,labels\nplain,red\n")
    code, words = call()
    assert code == 1
    assert "failed: " in words
    assert 'no entry for "palette"' in words
    labels.write_text("image,labels\nplain,red\npalette,red\nelsewhere,blue\n")
    code, words = call()
    assert code == 0
    assert "no photo for 1 labelled image: elsewhere" in words


def test_an_output_that_cannot_be_written_ends_the_run_in_one_line(odd_photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(app, ["propagate", str(odd_photos / "plain.jpg"), "--out", f"{tmp_path}/file/out"])
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr.splitlines()[-1]
