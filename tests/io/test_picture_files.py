"""What is looked at before a picture is decoded."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixaff.errors import ImageError
from pixaff.io.images import image_size, read_image
from pixaff.io.masks import read_mask
from pixaff.io.picture_files import MAX_SCANS, RAW_SUFFIXES, _counted_scans


def noise(height: int = 48, width: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    noise().save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    before = data.rindex(b"\xff\xc4", 0, last)  # with its Huffman table
    if data[before + 2 : before + 4] != (last - before - 2).to_bytes(2, "big"):
        before = last
    return data[:-2] + data[before:-2] * count + data[-2:]


def test_case_pictures_that_take_minutes(tmp_path: Path) -> None:
    """A JPEG of thousands of scans, told by its markers, and a TIFF of thousands of pages, which are not counted."""
    (tmp_path / "scans.jpg").write_bytes(with_scans(3000))
    for read in (read_image, image_size, read_mask):
        start = time.perf_counter()
        with pytest.raises(Exception, match=rf"scans\.jpg: found a JPEG of over {MAX_SCANS} scans"):
            read(tmp_path / "scans.jpg")
        assert time.perf_counter() - start < 1
    write_pages(tmp_path / "pages.tif", 20_000)
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"pages\.tif: found an animated or multi-page TIFF"):
        read_image(tmp_path / "pages.tif")
    assert time.perf_counter() - start < 1


def write_pages(path: Path, count: int) -> None:
    """A TIFF of so many grey pages of one pixel, which all lie in its header."""
    entries = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 0), (278, 1), (279, 1)]
    length = 2 + 12 * len(entries) + 4
    data = b"II*\0" + struct.pack("<I", 8)
    for page in range(count):
        last = page == count - 1
        tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        data += struct.pack("<H", len(entries)) + tags + struct.pack("<I", 0 if last else 8 + (page + 1) * length)
    path.write_bytes(data)


def test_a_tiff_of_one_page_is_a_photo(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.tif", 1)
    assert read_image(tmp_path / "a.tif").shape == (1, 1, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_honest_jpegs_have_few_scans(tmp_path: Path, options: dict) -> None:
    data = jpeg(**options)
    expected = data.count(b"\xff\xda")
    assert _counted_scans(data) == (expected, True)
    assert expected == (10 if options.get("progressive") else 1)
    # What cameras put before and behind the photo does not count: a preview in the EXIF data, another picture.
    preview = b"\xff\xe1" + (2 + 5 * len(data[:9000])).to_bytes(2, "big") + 5 * data[:9000]
    assert _counted_scans(data[:2] + preview + data[2:] + 50 * with_scans(9)) == (expected, True)
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg").shape == (48, 64, 3)


def test_scans_behind_a_long_head_are_counted(tmp_path: Path) -> None:
    data = with_scans(200)
    notes = b"\xff\xfe\xff\xff" + bytes(65533)
    (tmp_path / "a.jpg").write_bytes(data[:2] + 9 * notes + data[2:])
    with pytest.raises(ImageError, match="scans"):
        read_image(tmp_path / "a.jpg")


def write_raw(path: Path, thumbnail: Image.Image, tags: list[tuple[int, int, int]]) -> None:
    """A TIFF as cameras write them: a thumbnail first; the photo is somewhere that these tags tell."""
    pixels = thumbnail.tobytes()
    entries = sorted(
        [
            *[(tag, kind, 1, value) for tag, kind, value in tags],
            (256, 4, 1, thumbnail.width),
            (257, 4, 1, thumbnail.height),
            (258, 3, 3, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
            (273, 4, 1, 400),
            (277, 3, 1, 3),
            (278, 4, 1, thumbnail.height),
            (279, 4, 1, len(pixels)),
        ]
    )
    entries = [(tag, kind, 3, 380) if tag == 258 else (tag, kind, count, value) for tag, kind, count, value in entries]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    head = (b"II*\0" + struct.pack("<I", 8) + ifd).ljust(380, b"\0") + struct.pack("<HHH", 8, 8, 8)
    path.write_bytes(head.ljust(400, b"\0") + pixels)


REDUCED, SUB_IFDS, DNG = (254, 4, 1), (330, 4, 230), (50706, 4, 0x401)


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("DSC_0002.NEF", [REDUCED, SUB_IFDS]),
        ("a.arw", []),
        ("b.tif", [REDUCED, SUB_IFDS]),  # renamed
        ("c.tif", [DNG]),
    ],
)
def test_case_camera_raw_thumbnail(tmp_path: Path, name: str, tags: list[tuple[int, int, int]]) -> None:
    write_raw(tmp_path / name, noise(), tags)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=rf"{name}: found a camera's raw file, of which only a thumbnail can be"):
            read(tmp_path / name)


@pytest.mark.parametrize("tags", [[], [REDUCED], [SUB_IFDS], [(254, 4, 0), SUB_IFDS]])
def test_other_tiffs_are_photos(tmp_path: Path, tags: list[tuple[int, int, int]]) -> None:
    """Editors keep a smaller copy in a SubIFD: the first picture is the photo."""
    write_raw(tmp_path / "a.tif", noise(), tags)
    assert (read_image(tmp_path / "a.tif") == np.asarray(noise())).all()


@pytest.mark.parametrize("suffix", [".CR3", ".raf"])
def test_a_raw_file_that_is_no_tiff_is_named_as_one(tmp_path: Path, suffix: str) -> None:
    assert suffix.lower() in RAW_SUFFIXES
    (tmp_path / f"a{suffix}").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(100))
    with pytest.raises(ImageError, match="found a camera's raw file"):
        read_image(tmp_path / f"a{suffix}")


def test_a_jpeg_of_a_raw_name_is_a_photo(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(jpeg())
    assert read_image(tmp_path / "a.dng").shape == (48, 64, 3)


def test_case_broken_links(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").symlink_to("store/b.jpg")
    for read in (read_image, image_size, read_mask):
        with pytest.raises(Exception, match=r"b\.jpg: found a link to a file that is not there \(store/b\.jpg\)"):
            read(tmp_path / "b.jpg")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "b.jpg").write_bytes(jpeg())
    assert read_image(tmp_path / "b.jpg").shape == (48, 64, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_case_pipes_and_loops(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to("fifo.jpg")
    for name, words in (
        ("loop.jpg", "a link that leads back to itself"),
        ("fifo.jpg", r"a named pipe \(FIFO\)"),
        ("link.jpg", r"a named pipe \(FIFO\)"),
    ):
        for read in (read_image, image_size, read_mask):
            with pytest.raises(Exception, match=f"{name}: found {words}, expected a file"):
                read(tmp_path / name)
    with pytest.raises(ImageError, match="null: found a device, expected a file"):
        read_image("/dev/null")
