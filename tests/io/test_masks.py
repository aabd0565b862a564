from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixaff.errors import FormatError
from pixaff.io.masks import read_mask, resize_mask, voc_colours, voc_palette, write_mask


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


VALUES = np.array([[0, 0, 13], [255, 15, 13]], np.uint8)
CREAM, BLACK, HORSE, PERSON = (224, 224, 192), (0, 0, 0), (192, 0, 128), (192, 128, 128)
VOC = voc_colours(20)


def resaved(path: Path, values: np.ndarray, order: list[int], palette: list[tuple[int, int, int]]) -> None:
    """The mask after an editor stored it again: `order[i]` is the class at number i, `palette[i]` its colour."""
    numbers = np.zeros(256, np.uint8)
    numbers[order] = range(len(order))
    picture = Image.fromarray(numbers[values])
    picture.putpalette([channel for colour in palette for channel in colour])
    picture.save(path)


def test_case_palette_in_another_order(tmp_path: Path) -> None:
    """The same colours at every pixel, but the palette has only those that occur, in another order."""
    resaved(tmp_path / "a.png", VALUES, [255, 15, 13, 0], [CREAM, PERSON, HORSE, BLACK])
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).max() == 3
        write_mask(tmp_path / "b.png", VALUES)
        with Image.open(tmp_path / "b.png") as before:
            assert (np.asarray(picture.convert("RGB")) == np.asarray(before.convert("RGB"))).all()
    assert (read_mask(tmp_path / "a.png", 20, VOC) == VALUES).all()
    assert (read_mask(tmp_path / "a.png", 20) == VALUES).all()  # void's cream is VOC's alone
    # Nothing but classes and background: with the colours known by colour, without them refused.
    inside = np.where(VALUES == 255, 0, VALUES).astype(np.uint8)
    resaved(tmp_path / "a.png", inside, [0, 13, 15], [BLACK, HORSE, PERSON])
    assert (read_mask(tmp_path / "a.png", 20, VOC) == inside).all()
    with pytest.raises(FormatError, match=r"a\.png: number 1 of its palette has the colour of class 13 in"):
        read_mask(tmp_path / "a.png", 20)


def test_a_reordered_palette_with_other_colours_is_refused(tmp_path: Path) -> None:
    """Void was painted white, so the colours do not say the classes of all numbers."""
    resaved(tmp_path / "a.png", VALUES, [255, 15, 13, 0], [(255, 255, 255), PERSON, HORSE, BLACK])
    with pytest.raises(FormatError, match=r"number 1 of its palette has the colour of class 15 .*--classes"):
        read_mask(tmp_path / "a.png", 20, VOC)


@pytest.mark.parametrize(
    ("palette", "void"),
    [
        ([BLACK, (255, 0, 0), (0, 255, 0)], (0, 0, 0)),  # somebody's own, with void unpainted
        ([BLACK, (255, 0, 0)], (255, 255, 255)),  # two of them unpainted
        ([BLACK, (128, 0, 0), (0, 128, 0)], (224, 224, 192)),
        ([(i, i, i) for i in range(256)], (255, 255, 255)),  # grey, numbers as they are
        ([(255, 255, 255), (230, 25, 75), (60, 180, 75)], (7, 7, 7)),
        ([BLACK, (230, 25, 75), (128, 0, 0)], (7, 7, 7)),  # shares a colour with VOC's by chance
        ([BLACK, (128, 128, 128), (255, 255, 255)], (1, 2, 3)),  # VOC's class 7, which is not among the two
    ],
)
def test_palettes_of_other_programs_keep_their_numbers(
    tmp_path: Path, palette: list[tuple[int, int, int]], void: tuple[int, int, int]
) -> None:
    values = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    full = [*[*palette, *([BLACK] * 256)][:255], void]
    resaved(tmp_path / "a.png", values, list(range(256)), full)
    assert (read_mask(tmp_path / "a.png", 2) == values).all()


def test_a_palette_of_ones_own_that_reads_like_another_order_is_asked_about(tmp_path: Path) -> None:
    """Green and maroon are VOC's classes 2 and 1: the colours of a class list settle it."""
    values = np.array([[0, 1, 2]], np.uint8)
    palette = [BLACK, (0, 128, 0), (128, 0, 0)]
    resaved(tmp_path / "a.png", values, [0, 1, 2], palette)
    with pytest.raises(FormatError, match="number 1 of its palette has the colour of class 2"):
        read_mask(tmp_path / "a.png", 2)
    assert (read_mask(tmp_path / "a.png", 2, {BLACK: 0, palette[1]: 1, palette[2]: 2}) == values).all()


def test_a_class_list_with_colours_is_followed(tmp_path: Path) -> None:
    colours = {BLACK: 0, (255, 0, 0): 1, (0, 0, 255): 2, CREAM: 255}
    values = np.array([[0, 1, 2, 255]], np.uint8)
    resaved(tmp_path / "a.png", values, [2, 0, 255, 1], [(0, 0, 255), BLACK, CREAM, (255, 0, 0)])
    assert (read_mask(tmp_path / "a.png", 2, colours) == values).all()
    with Image.open(tmp_path / "a.png") as picture:
        picture.convert("RGB").save(tmp_path / "b.png")
    assert (read_mask(tmp_path / "b.png", 2, colours) == values).all()
    with pytest.raises(FormatError, match="a colour image"):
        read_mask(tmp_path / "b.png", 2)
    with pytest.raises(FormatError, match=r"b\.png: found a colour image with the colour \(0, 0, 255\), which is no"):
        read_mask(tmp_path / "b.png", 20, VOC)


@pytest.mark.parametrize("size", [(9, 4), (3, 8), (6, 7)])
def test_a_mask_at_another_size_has_the_values_at_the_middle_of_each_pixel(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 300, (6, 7))
    found = resize_mask(mask, size)
    rows, columns = (np.arange(side) + 0.5 for side in size)
    expected = [[mask[int(row * 6 / size[0]), int(column * 7 / size[1])] for column in columns] for row in rows]
    assert found.dtype == mask.dtype
    assert found.tolist() == np.array(expected).tolist()
