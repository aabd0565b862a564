from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from pixaff.errors import ImageError
from pixaff.io import images
from pixaff.io.images import IMAGE_SUFFIXES, _eight_bits, image_size, load_image, read_image

RED, GREEN, BLUE, YELLOW = (230, 30, 20), (20, 200, 40), (30, 40, 220), (240, 230, 30)


@pytest.fixture
def picture() -> Image.Image:
    """64 wide, 48 high: red, green over blue, yellow."""
    array = np.zeros((48, 64, 3), np.uint8)
    array[:24, :32], array[:24, 32:], array[24:, :32], array[24:, 32:] = RED, GREEN, BLUE, YELLOW
    return Image.fromarray(array)


def corners(image: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, rounded to tens: top left, top right, bottom left, right."""
    height, width = image.shape[:2]
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(round(int(value) / 10) * 10 for value in image[point]) for point in points]


def near(image: np.ndarray, expected: list[tuple[int, int, int]], tolerance: int = 12) -> bool:
    return bool(np.abs(np.array(corners(image)) - np.array(expected)).max() <= tolerance)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm"])
def test_common_formats_are_read_as_rgb(tmp_path: Path, picture: Image.Image, suffix: str) -> None:
    assert suffix in IMAGE_SUFFIXES
    path = tmp_path / f"a{suffix}"
    (picture.quantize(8) if suffix == ".gif" else picture).save(path)
    image = read_image(path)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert near(image, [RED, GREEN, BLUE, YELLOW])
    assert image_size(path) == (48, 64)


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", ".jpg"), ("CMYK", ".tif"), ("P", ".png"), ("RGBA", ".png")])
def test_modes_keep_their_colours(tmp_path: Path, picture: Image.Image, mode: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    (picture.quantize(8) if mode == "P" else picture.convert(mode)).save(path)
    with Image.open(path) as check:
        assert check.mode == mode
    assert near(read_image(path), [RED, GREEN, BLUE, YELLOW])
    assert near(load_image(path, max_side=24)[0], [RED, GREEN, BLUE, YELLOW], 20)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, picture: Image.Image, mode: str) -> None:
    grey = picture.convert(mode)
    grey.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    expected = np.asarray(grey.convert("L"))
    assert (image == expected[..., None]).all()


def test_transparency_is_laid_on_white(tmp_path: Path, picture: Image.Image) -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[24:] = 255
    alpha[:24, :32] = 128
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "a.png")
    half_red = tuple(round(127 / 255 * 255 + 128 / 255 * value) for value in RED)
    for image in (read_image(tmp_path / "a.png"), load_image(tmp_path / "a.png", 30)[0]):
        assert near(image, [half_red, (255, 255, 255), BLUE, YELLOW])  # type: ignore[list-item]


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path: Path, picture: Image.Image) -> None:
    palette = picture.quantize(4)
    palette.save(tmp_path / "a.png", transparency=palette.getpixel((0, 0)))
    assert near(read_image(tmp_path / "a.png"), [(255, 255, 255), GREEN, BLUE, YELLOW])


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 40 * 30).round().astype(np.uint16).reshape(30, 40)
    expected = np.round(values / 257).astype(np.uint8)[..., None]
    for array, name in ((values, "a.png"), (values.astype(np.int32), "b.tif")):
        Image.fromarray(array).save(tmp_path / name)
        assert (read_image(tmp_path / name) == expected).all()


def test_integer_scaling_equals_rounded_division_for_every_value() -> None:
    for bits in (8, 10, 12, 14, 16):
        values = np.arange(2**bits, dtype=np.uint16)
        assert (_eight_bits(values, 2**bits - 1) == np.round(values / (2**bits - 1) * 255)).all()


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.full((4, 4), 100_000, np.int32), r"pixel values 100000\.\.100000, expected 0\.\.65535"),
        (np.full((4, 4), -1, np.int32), r"pixel values -1\.\.-1"),
        (np.full((4, 4), 0.5, np.float32), "floating-point pixels"),
    ],
)
def test_pixels_without_a_known_range_are_an_error(tmp_path: Path, array: np.ndarray, found: str) -> None:
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=rf"a\.tif: found {found}.*\(save it as 8-bit PNG\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [  # EXIF 2.3, tag 0x0112: where the stored first row and first column belong
        (1, [RED, GREEN, BLUE, YELLOW]),
        (2, [GREEN, RED, YELLOW, BLUE]),
        (3, [YELLOW, BLUE, GREEN, RED]),
        (4, [BLUE, YELLOW, RED, GREEN]),
        (5, [RED, BLUE, GREEN, YELLOW]),
        (6, [BLUE, RED, YELLOW, GREEN]),
        (7, [YELLOW, GREEN, BLUE, RED]),
        (8, [GREEN, YELLOW, RED, BLUE]),
    ],
)
def test_exif_orientation_is_applied(
    tmp_path: Path, picture: Image.Image, suffix: str, orientation: int, expected: list[tuple[int, int, int]]
) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    size = (64, 48) if orientation >= 5 else (48, 64)
    image = read_image(path)
    assert image.shape[:2] == size
    assert image_size(path) == size
    assert near(image, expected)
    small, original = load_image(path, max_side=32)
    assert original == size
    assert small.shape[:2] == (size[0] // 2, size[1] // 2)
    assert near(small, expected, 20)


def test_exif_data_behind_the_pixels_of_a_png_counts(tmp_path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    data = (tmp_path / "a.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    assert image_size(tmp_path / "a.png") == (64, 48)
    assert near(read_image(tmp_path / "a.png"), [BLUE, RED, YELLOW, GREEN])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_the_size_is_read_without_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    options = {} if suffix == ".bmp" else {"exif": exif}
    Image.new("RGB", (40, 30)).save(tmp_path / f"a{suffix}", **options)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert image_size(tmp_path / f"a{suffix}") == ((40, 30) if options else (30, 40))


def test_invalid_orientation_is_ignored(tmp_path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert near(read_image(tmp_path / "a.jpg"), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_files_are_an_error_that_names_them(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format={".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:]))
    path = tmp_path / f"holiday{suffix}"
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    for max_side in (0, 16):
        with pytest.raises(ImageError, match=rf"holiday\{suffix}: .* \(.+\)$"):
            load_image(path, max_side)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_jpeg_short_of_a_few_bytes_is_an_error(tmp_path: Path, picture: Image.Image, cut: int) -> None:
    picture.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:-cut])
    with pytest.raises(ImageError, match=r"a\.jpg: damaged image: .*truncated"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_several_frames_are_an_error(tmp_path: Path, picture: Image.Image, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    picture.save(path, save_all=True, append_images=[picture.rotate(90)])
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"an animated or multi-page [A-Z]+, .*\(extract one frame\)"):
            read(path)


def test_a_camera_jpeg_with_a_preview_is_a_photo(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.mpo", save_all=True, append_images=[picture.resize((16, 12))])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert near(read_image(tmp_path / "a.jpg"), [RED, GREEN, BLUE, YELLOW])
    assert load_image(tmp_path / "a.jpg", 16)[0].shape == (12, 16, 3)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    image, size = load_image(tmp_path / "a.png", max_side=512)
    assert size == (1, 1)
    assert image.tolist() == [[list(RED)]]


def test_a_thin_picture_keeps_a_pixel_of_width(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1), RED).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", 10)[0].shape == (1, 10, 3)


def test_max_side_never_enlarges(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", 64)[0].shape == (48, 64, 3)
    assert load_image(tmp_path / "a.png", 1000)[0].shape == (48, 64, 3)
    with pytest.raises(ValueError, match="found -1"):
        load_image(tmp_path / "a.png", -1)


def test_shrinking_a_jpeg_equals_shrinking_its_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
    coarse.resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    small, size = load_image(tmp_path / "a.jpg", 160)
    assert size == (1200, 1600)
    whole = Image.fromarray(read_image(tmp_path / "a.jpg")).resize((160, 120), Image.Resampling.LANCZOS)
    assert np.abs(small.astype(int) - np.asarray(whole)).mean() < 1.5


def test_a_108_megapixel_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (12000, 9000), 200).save(tmp_path / "big.jpg")
    decoded: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(self: Image.Image, *arguments: object, **options: object) -> Image.Image:
        decoded.append(self.size)
        return resize(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", spy)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's about decompression bombs, above all
        image, size = load_image(tmp_path / "big.jpg", max_side=512)
        assert image_size(tmp_path / "big.jpg") == (9000, 12000)
    assert size == (9000, 12000)
    assert image.shape == (384, 512, 3)
    assert (image == 200).all()
    assert decoded == [(1500, 1125)]
    assert limit == Image.MAX_IMAGE_PIXELS


def test_more_than_300_megapixels_are_refused_from_the_header(tmp_path: Path) -> None:
    Image.new("1", (20000, 15001)).save(tmp_path / "huge.png")
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match="found 20000 x 15001 pixels, expected at most 300 megapixels"):
            read(tmp_path / "huge.png")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("notes.txt", b"shopping list", "found 13 bytes of no known image format .*expected JPEG, PNG"),
        ("a.jpg", b"", "empty file"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "no known image format"),
        (
            "a.eps",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            "no known image format",
        ),
    ],
)
def test_other_files_are_an_error(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=rf"{name}: .*{words}"):
        read_image(tmp_path / name)


def test_missing_files_and_folders_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"b\.jpg: no such file"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="found a folder, expected a file"):
        read_image(tmp_path)


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, picture: Image.Image) -> None:
    rng = np.random.default_rng(0)
    failures = []
    for suffix in (".jpg", ".png", ".webp", ".gif", ".tif", ".bmp"):
        picture.save(tmp_path / f"a{suffix}")
        data = np.frombuffer((tmp_path / f"a{suffix}").read_bytes(), np.uint8)
        for _ in range(40):
            damaged = data.copy()
            where = rng.integers(0, len(data), 5)
            damaged[where] = rng.integers(0, 256, 5)
            (tmp_path / f"b{suffix}").write_bytes(damaged.tobytes())
            try:
                read_image(tmp_path / f"b{suffix}")
            except ImageError as error:
                failures.append(str(error))
    assert len(failures) > 20
    assert all(str(tmp_path / "b.") in failure and "\n" not in failure for failure in failures)


@pytest.mark.parametrize(("bits", "suffix"), [(12, ".png"), (12, ".tif"), (10, ".png"), (14, ".png"), (8, ".png")])
def test_case_twelve_bit_photo(tmp_path: Path, bits: int, suffix: str) -> None:
    """A camera's 12 bits in a file of 16: the picture of 8 bits, not a nearly black one."""
    grey = np.random.default_rng(0).integers(0, 250, (30, 40)).astype(np.uint8)
    grey[0, 0] = 250
    values = np.round(grey / 255 * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    for image in (read_image(tmp_path / f"a{suffix}"), load_image(tmp_path / f"a{suffix}", 40)[0]):
        assert np.abs(image.astype(int) - grey[..., None]).max() <= 1
    # An all black picture stays black, and the brightest pixel alone decides.
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / f"a{suffix}")
    assert (read_image(tmp_path / f"a{suffix}") == 0).all()
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    assert (read_image(tmp_path / f"a{suffix}")[1:] == np.round(values / 257).astype(np.uint8)[1:, :, None]).all()


def png_of_sixteen_bits(path: Path, values: np.ndarray) -> None:
    """Colours of 16 bits (H, W, 3), which Pillow does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows))
    path.write_bytes(png(*chunks, (b"IEND", b"")))


def png(*chunks: tuple[bytes, bytes], damaged: tuple[bytes, ...] = ()) -> bytes:
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        checksum = zlib.crc32(kind + content) ^ (kind in damaged)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return data


def test_case_twelve_bit_photo_in_colour(tmp_path: Path) -> None:
    """Pillow keeps the upper byte of a colour, in which nothing is left of 12 bits: refused by name."""
    values = np.random.default_rng(0).integers(0, 4096, (6, 5, 3))
    png_of_sixteen_bits(tmp_path / "a.png", values)
    with pytest.raises(ImageError, match=r"a\.png: found 16-bit colours of at most \d+, expected 0\.\.65535"):
        read_image(tmp_path / "a.png")
    png_of_sixteen_bits(tmp_path / "a.png", 16 * values)
    assert (read_image(tmp_path / "a.png") == 16 * values // 256).all()
    png_of_sixteen_bits(tmp_path / "a.png", 0 * values)
    assert (read_image(tmp_path / "a.png") == 0).all()
    # Dark colours of 8 bits are dark colours.
    Image.fromarray((values // 256).astype(np.uint8)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == values // 256).all()


@pytest.mark.parametrize(
    ("notes", "damaged"),
    [
        ([(b"eXIf", b"garbage!!")], ()),
        ([(b"eXIf", b"MM\0*")], ()),
        ([(b"eXIf", b"MM\0*\0\0\0\x08\0\0")], (b"eXIf",)),
        ([(b"tEXt", b"Raw profile type exif\0\nexif\n   10\nzz")], ()),
        ([(b"tEXt", b"Comment\0a")], (b"tEXt",)),
        ([(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 10_000_000))], ()),
    ],
)
def test_case_damaged_exif(
    tmp_path: Path, picture: Image.Image, notes: list[tuple[bytes, bytes]], damaged: tuple
) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    whole = buffer.getvalue()
    (tmp_path / "a.png").write_bytes(whole[:33] + png(*notes, damaged=damaged)[8:] + whole[33:])
    assert near(read_image(tmp_path / "a.png"), [RED, GREEN, BLUE, YELLOW])
    assert image_size(tmp_path / "a.png") == (48, 64)
    # Damaged pixels are still a damaged picture.
    place = whole.index(b"IDAT") + 8
    (tmp_path / "a.png").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_case_damaged_exif_of_a_jpeg(tmp_path: Path, picture: Image.Image, exif: bytes) -> None:
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert near(read_image(tmp_path / "a.jpg"), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_pictures_are_converted_in_bands(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch, mode: str, orientation: int
) -> None:
    large = picture.resize((203, 151), Image.Resampling.BICUBIC)
    if mode == "I;16":
        large = Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 200)
    elif mode in ("RGBA", "LA"):
        large.putalpha(picture.convert("L").resize(large.size))
        large = large.convert(mode)
    else:
        large = large.quantize(16) if mode == "P" else large.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    large.save(path, exif=exif)
    whole, small = read_image(path), load_image(path, 40)[0]
    monkeypatch.setattr("pixaff.io.images._BAND", 203 * 16)
    seen: list[int] = []
    monkeypatch.setattr("pixaff.io.images._rgb", lambda part, rgb=images._rgb: (seen.append(part.height), rgb(part))[1])
    assert (read_image(path) == whole).all()
    if mode != "CMYK":  # which Pillow has turned by then
        assert max(seen) == 16
    difference = np.abs(load_image(path, 40)[0].astype(int) - small)
    assert difference.max() <= (6 if mode in ("RGBA", "LA") else 0)


def test_what_is_short_of_memory_says_how_large_the_picture_is(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture.resize((2000, 1000)).save(tmp_path / "a.png")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(ImageError, match=r"a\.png: not enough memory to decode an image of 2 megapixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 60), (128, 77)),
        ((60, 100), (77, 128)),
        ((111, 50), (128, 58)),
        ((112, 50), (112, 50)),
        ((300, 200), (128, 85)),
    ],
)
def test_small_photos_are_enlarged_to_the_working_size_and_others_keep_theirs(tmp_path, size, expected):
    Image.new("RGB", size[::-1], "red").save(tmp_path / "a.png")
    image, own = load_image(tmp_path / "a.png", 128, 112)
    assert (image.shape[:2], own) == (expected, size)
    assert load_image(tmp_path / "a.png", 0, 0)[0].shape[:2] == size
