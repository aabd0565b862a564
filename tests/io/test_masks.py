from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixaff.errors import FormatError
from pixaff.io.masks import read_mask, voc_palette, write_mask


def test_palette_is_that_of_pascal_voc() -> None:
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    # aeroplane, bicycle, cat, person, tvmonitor and void, as the VOC development kit prints them
    assert palette[[0, 1, 2, 8, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(palette, axis=0)) == 256


def test_palette_follows_the_bit_rule() -> None:
    for index, colour in enumerate(voc_palette().tolist()):
        expected = [0, 0, 0]
        for bit in range(8):
            expected[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        assert colour == expected


def test_callers_cannot_change_the_palette() -> None:
    voc_palette()[:] = 7
    assert voc_palette()[0].tolist() == [0, 0, 0]


def test_every_value_survives_and_shows_in_colour(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "new" / "a.png", mask)
    assert (read_mask(tmp_path / "new" / "a.png") == mask).all()
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture.convert("RGB")) == voc_palette()[mask]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (375, 500)])
def test_sizes_survive(tmp_path: Path, shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 21, shape).astype(np.uint8)
    write_mask(tmp_path / "a.png", mask)
    read = read_mask(tmp_path / "a.png", num_classes=20)
    assert (read == mask).all()
    assert read.flags.writeable


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 3), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_only_uint8_planes_are_written(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W\)"):
        write_mask(tmp_path / "a.png", mask)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_masks_of_few_bits_keep_their_numbers(tmp_path: Path, bits: int) -> None:
    """PNG optimisers pack grey masks into fewer bits."""
    import struct
    import zlib

    values = np.arange(2**bits, dtype=np.uint8)[None].repeat(2, axis=0)
    packed = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in values
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], 2, bits, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    assert (read_mask(tmp_path / "a.png") == values).all()


def test_palette_of_few_bits_keeps_its_numbers(tmp_path: Path) -> None:
    values = np.arange(4, dtype=np.uint8)[None].repeat(3, axis=0)
    picture = Image.fromarray(values)
    picture.putpalette(voc_palette()[:4].tobytes())
    picture.save(tmp_path / "a.png", bits=2)
    assert (tmp_path / "a.png").read_bytes()[24] == 2
    assert (read_mask(tmp_path / "a.png") == values).all()


@pytest.mark.parametrize(
    ("mode", "found"),
    [
        ("RGB", r"a colour image \(mode RGB\)"),
        ("RGBA", r"a colour image \(mode RGBA\)"),
        ("LA", "an alpha channel"),
        ("I;16", "pixels of more than 8 bits"),
    ],
)
def test_other_modes_are_refused_with_a_hint(tmp_path: Path, mode: str, found: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    words = rf"a\.png: found {found}.*\(pixel values must be class numbers: 0 background, 1\.\.K"
    with pytest.raises(FormatError, match=words):
        read_mask(tmp_path / "a.png")


def test_jpeg_is_refused_as_it_blurs_the_numbers(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(FormatError, match="found a JPEG file, expected a PNG mask"):
        read_mask(tmp_path / "a.jpg")


def test_values_out_of_range_are_named_and_void_is_not_one(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.array([[0, 3, 255]], np.uint8))
    assert read_mask(tmp_path / "a.png", num_classes=3).tolist() == [[0, 3, 255]]
    with pytest.raises(FormatError, match=r"a\.png: found class numbers 3; expected 0\.\.2 and 255"):
        read_mask(tmp_path / "a.png", num_classes=2)


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_damaged_files_are_a_format_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.png: "):
        read_mask(tmp_path / "a.png")


def test_truncated_and_missing_masks_are_a_format_error(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.random.default_rng(0).integers(0, 21, (64, 64)).astype(np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-400])
    with pytest.raises(FormatError, match=r"a\.png: damaged image"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(FormatError, match=r"b\.png: no such file"):
        read_mask(tmp_path / "b.png")
