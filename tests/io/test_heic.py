"""Photos in HEIC, as phones take them."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixaff.errors import ImageError
from pixaff.io.entries import sort_folder
from pixaff.io.exports.photos import write_photo
from pixaff.io.images import image_size, load_image, read_image
from pixaff.io.labels import image_stem

pillow_heif = pytest.importorskip("pillow_heif")


def picture() -> Image.Image:
    """96 x 64: red at the left, blue at the right, white above."""
    array = np.zeros((64, 96, 3), np.uint8)
    array[:, :48, 0] = array[:, 48:, 2] = 220
    array[:16] = 255
    return Image.fromarray(array)


def put(path: Path, made: Image.Image, **options: Any) -> Path:
    pillow_heif.from_pillow(made).save(path, quality=95, **options)
    return path


def near(array: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(array.astype(int) - expected).mean() < 4)


def test_pixels_and_size(tmp_path: Path) -> None:
    path = put(tmp_path / "a.HEIC", picture())
    assert image_size(path) == (64, 96)
    array = read_image(path)
    assert (array.shape, array.dtype, array.flags.writeable) == ((64, 96, 3), np.uint8, True)
    assert near(array, np.asarray(picture()))
    small, size = load_image(path, 48)
    assert (small.shape, size) == ((32, 48, 3), (64, 96))
    assert "HEIF" not in Image.OPEN  # nothing was registered


@pytest.mark.parametrize(("orientation", "turned"), [(3, 2), (6, 3), (8, 1)])
def test_case_photos_come_out_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, turned: int
) -> None:
    for name in ("ID", "OPEN", "SAVE", "SAVE_ALL", "EXTENSION", "MIME"):  # registered for this test alone
        monkeypatch.setattr(Image, name, type(getattr(Image, name))(getattr(Image, name)))
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.heic"
    picture().save(path, quality=95, exif=exif.tobytes())  # turned by a property of the file
    expected = np.rot90(np.asarray(picture()), turned)
    assert image_size(path) == expected.shape[:2]
    assert near(read_image(path), expected)
    write_photo(tmp_path / "out.jpg", path)
    assert near(read_image(tmp_path / "out.jpg"), expected)


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    wide = (np.asarray(picture()).astype(np.uint16) << 8).astype("<u2")
    made = pillow_heif.from_bytes("RGB;16", (96, 64), wide.tobytes())
    made.save(tmp_path / "a.heic", quality=95)
    assert pillow_heif.open_heif(tmp_path / "a.heic", convert_hdr_to_8bit=False).info["bit_depth"] > 8
    assert near(read_image(tmp_path / "a.heic"), np.asarray(picture()))


def test_of_several_pictures_the_primary_one_counts(tmp_path: Path) -> None:
    file = pillow_heif.from_pillow(picture())
    file.add_from_pillow(Image.new("RGB", (32, 32)))
    file.save(tmp_path / "a.heic", quality=95, primary_index=0)
    assert image_size(tmp_path / "a.heic") == (64, 96)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    data = put(tmp_path / "a.heic", picture()).read_bytes()
    for size in (14, 100, len(data) // 2, len(data) - 20):
        (tmp_path / "a.heic").write_bytes(data[:size])
        with pytest.raises(ImageError, match=r"a.heic: "):
            read_image(tmp_path / "a.heic")


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.heic", picture())
    whole = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("pillow_heif"):
            raise ImportError(name)
        return whole(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageError, match=r"a.heic: found a HEIC photo; to read it, pip install 'pixaff\[heic\]'"):
        read_image(path)


def test_names(tmp_path: Path) -> None:
    assert image_stem("photos/IMG_0001.HEIC") == "IMG_0001"
    for name in ("a.HEIC", "a.jpg", "b.heic", "b.txt", "b.heic.xmp"):
        (tmp_path / name).touch()
    kinds = {path.name: (kind.kind, kind.why) for path, kind in sort_folder(tmp_path)}
    assert kinds == {
        "a.HEIC": ("ignored", "beside the photo a.jpg"),
        "a.jpg": ("photo", ""),
        "b.heic": ("photo", ""),
        "b.heic.xmp": ("ignored", "beside the photo b.heic"),
        "b.txt": ("ignored", "beside the photo b.heic"),
    }
