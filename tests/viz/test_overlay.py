from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixaff.io.masks import voc_palette
from pixaff.viz.curve import loss_curve
from pixaff.viz.legend import find_font, legible
from pixaff.viz.overlay import heatmap, overlay
from pixaff.viz.sheet import contact_sheet


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


def test_overlay_tints_classes_and_outlines_them(photo: np.ndarray) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 8
    before = photo.copy()
    result = overlay(photo, mask, opacity=0.25)
    assert result.dtype == np.uint8
    assert (photo == before).all()
    assert (result[:9] == photo[:9]).all()
    inside = np.s_[12:28, 22:48]
    expected = 0.75 * photo[inside] + 0.25 * voc_palette()[8]
    assert np.abs(result[inside] - expected).max() <= 0.5
    for y, x in ((10, 35), (30, 35), (20, 20), (20, 50)):  # top, bottom, left, right
        assert result[y, x].tolist() == [255, 255, 255]
    assert overlay(photo, mask, 1.0)[20, 35].tolist() == voc_palette()[8].tolist()


def test_overlay_separates_touching_classes(photo: np.ndarray) -> None:
    mask = np.full((40, 60), 3, np.uint8)
    mask[:, 30:] = 4
    assert (overlay(photo, mask)[:, 30] == 255).all()


def test_overlay_of_nothing_is_the_photo(photo: np.ndarray) -> None:
    assert (overlay(photo, np.zeros((40, 60), np.uint8)) == photo).all()


def test_overlay_tints_void_without_outline(photo: np.ndarray) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 255
    assert (overlay(photo, mask, 1.0)[mask == 255] == voc_palette()[255]).all()
    assert (overlay(photo, mask)[mask == 0] == photo[mask == 0]).all()


def test_outlines_widen_with_the_photo() -> None:
    photo, mask = np.zeros((1500, 1500, 3), np.uint8), np.zeros((1500, 1500), np.uint8)
    mask[:, 700:] = 1
    assert overlay(photo, mask)[5, :, 2].nonzero()[0].tolist() == [698, 699, 700, 701, 702]


@pytest.mark.parametrize("grey", [0, 30, 128, 225, 255])
def test_outlines_stand_out_from_any_ground(grey: int) -> None:
    """White beside black: one of them differs from snow, the other from asphalt."""
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 30:60] = 15
    result = overlay(np.full((60, 80, 3), grey, np.uint8), mask).astype(int)
    row = result[30, :, 1]
    assert row[28:33].tolist() == [grey, 0, 255, 0, row[32]]
    assert abs(row[27:33] - grey).max() >= 127


def test_names_and_a_legend_are_written() -> None:
    photo, mask = np.full((300, 400, 3), 90, np.uint8), np.zeros((300, 400), np.uint8)
    mask[50:250, 20:200] = 8
    mask[100:300, 220:400] = 15
    names = {8: "кошка", 15: "person", 3: "bird"}
    plain, named = overlay(photo, mask), overlay(photo, mask, names=names)
    assert named.shape == photo.shape
    changed = (plain != named).any(-1)
    assert changed[130:170, 80:140].any()  # in the middle of each region
    assert changed[180:220, 270:350].any()
    assert not changed[60:100, 30:80].any()
    corners = [changed[:40, :60], changed[:40, -60:], changed[-40:, :60], changed[-40:, -60:]]
    assert [corner.mean() > 0.9 for corner in corners] == [False, False, True, False]  # the least covered corner
    legend = named[-80:, :120].reshape(-1, 3).tolist()
    for value in names:
        assert voc_palette()[value].tolist() in legend


def test_a_name_leaves_a_small_region_visible() -> None:
    photo, mask = np.full((300, 400, 3), 90, np.uint8), np.zeros((300, 400), np.uint8)
    mask[200:206, 100:110] = 1
    plain, named = overlay(photo, mask), overlay(photo, mask, names={1: "cat"})
    assert (plain[198:208, 98:112] == named[198:208, 98:112]).all()
    assert (plain[170:198, 80:130] != named[170:198, 80:130]).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 2000), (40, 60)])
def test_names_find_no_room_in_the_smallest_photos(shape: tuple[int, int]) -> None:
    photo, mask = np.zeros((*shape, 3), np.uint8), np.ones(shape, np.uint8)
    named = overlay(photo, mask, names={1: "a name with many letters", 2: "b"})
    assert (named == overlay(photo, mask)).all()


def test_more_names_than_there_is_room_for() -> None:
    photo, mask = np.zeros((200, 300, 3), np.uint8), np.ones((200, 300), np.uint8)
    few, many = (dict.fromkeys(range(1, count + 1), "x" * 200) for count in (3, 200))
    assert overlay(photo, mask, names=few).shape == overlay(photo, mask, names=many).shape == photo.shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_overlay_of_the_smallest_photos(shape: tuple[int, int]) -> None:
    assert overlay(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.uint8), 1.0)[0, 0].tolist() == [128, 0, 0]


@pytest.mark.parametrize(
    ("image", "mask", "opacity"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), 0.5),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), 0.5),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), 0.5),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int64), 0.5),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), 1.5),
    ],
)
def test_overlay_says_what_does_not_fit(image: np.ndarray, mask: np.ndarray, opacity: float) -> None:
    with pytest.raises(ValueError, match=r"found .* expected"):
        overlay(image, mask, opacity)


def test_heatmap_runs_from_blue_over_yellow_to_red() -> None:
    photo = np.full((1, 5, 3), (200, 100, 50), np.uint8)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    result = heatmap(photo, np.array([[-3.0, 0.0, 0.625, 1.0, 9.0]], np.float32))
    colours = np.array([[0, 0, 128], [0, 0, 128], [255, 255, 0], [128, 0, 0], [128, 0, 0]])
    assert result.dtype == np.uint8
    assert np.abs(result[0] - (0.5 * colours + 0.5 * grey)).max() <= 2


@pytest.mark.parametrize("cam", [np.zeros((3, 4), np.float32), np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4))])
def test_heatmap_says_what_does_not_fit(cam: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"cam: found .* expected floats"):
        heatmap(np.zeros((4, 4, 3), np.uint8), cam)


def test_contact_sheet_places_every_picture() -> None:
    def plain(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
        return np.full((height, width, 3), colour, np.uint8)

    rows = [
        [plain(40, 80, (255, 0, 0)), plain(80, 40, (0, 255, 0))],
        [plain(500, 500, (0, 0, 255)), plain(1, 1, (255, 255, 0))],
    ]
    sheet = contact_sheet(rows, ["photo", "mask"], ["first", "a name much too long for a cell"], cell=100)
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)

    def box(colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
        y, x = np.nonzero((pixels == colour).all(axis=2))
        return int(y.min()), int(x.min()), int(np.ptp(y)) + 1, int(np.ptp(x)) + 1

    red, green, blue, yellow = (box(colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)))
    assert [red[2:], green[2:], blue[2:], yellow[2:]] == [(50, 100), (100, 50), (100, 100), (100, 100)]
    assert red[0] == green[0] + 25  # centred in the row
    assert red[1] == blue[1]
    assert green[1] == yellow[1] + 25
    assert blue[0] == yellow[0] > green[0] + 100
    assert (pixels[:30, blue[1] :] < 128).any()  # the headers
    names = pixels[30:, : blue[1]]
    assert (names < 128).any()
    assert (names[:, -5:] == 255).all()  # the long name ends before the pictures


@pytest.mark.parametrize(
    ("rows", "headers", "names"),
    [([], ["a"], []), ([[np.zeros((2, 2, 3), np.uint8)]], ["a", "b"], ["x"]), ([[]], [], ["x", "y"])],
)
def test_contact_sheet_says_what_does_not_fit(
    rows: list[list[np.ndarray]], headers: list[str], names: list[str]
) -> None:
    with pytest.raises(ValueError, match="found"):
        contact_sheet(rows, headers, names)


def lines_drawn(path: Path, colour: tuple[int, int, int]) -> int:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) < 8).sum())


def test_loss_curve_draws_each_key(tmp_path: Path) -> None:
    records = [
        {"step": step, "loss": 1 / step, "miou": step / 500 if step % 100 == 0 else None} for step in range(1, 400)
    ]
    loss_curve(tmp_path / "new" / "loss.png", records, ["loss", "miou", "absent"])
    blue, orange, green = (31, 119, 180), (255, 127, 14), (44, 160, 44)
    assert lines_drawn(tmp_path / "new" / "loss.png", blue) > 300
    assert lines_drawn(tmp_path / "new" / "loss.png", orange) > 300
    assert lines_drawn(tmp_path / "new" / "loss.png", green) == 0
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["loss.png"]


@pytest.mark.parametrize("records", [[{"loss": 0.5}], [{"loss": float("nan")}, {"loss": 1.0}, {"lr": 0.1}]])
def test_loss_curve_of_little(tmp_path: Path, records: list[dict[str, float]]) -> None:
    loss_curve(tmp_path / "loss.png", records, ["loss"])
    assert lines_drawn(tmp_path / "loss.png", (31, 119, 180)) > 5


@pytest.mark.parametrize("records", [[], [{"step": 1}]])
def test_loss_curve_of_nothing(tmp_path: Path, records: list[dict[str, int]]) -> None:
    with pytest.raises(ValueError, match="without loss"):
        loss_curve(tmp_path / "loss.png", records, ["loss"])
    assert list(tmp_path.iterdir()) == []


def test_reading_and_drawing_need_neither_torch_nor_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; import pixaff.io.images, pixaff.io.masks, pixaff.io.labels, pixaff.io.cams, pixaff.viz.overlay, "
        "pixaff.viz.sheet, pixaff.viz.curve as curve; assert 'matplotlib' not in sys.modules; "
        "curve.loss_curve(sys.argv[1], [{'loss': 1.0}], ['loss']); "
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "loss.png")], check=True)


def test_names_do_not_cover_each_other_and_unknown_letters_become_the_number() -> None:
    font = find_font(14)
    assert legible("Schäfchen кошка", font, "class 3") == "Schäfchen кошка"
    assert legible("\U0001f9ff", font, "class 3") == "class 3"
    drawn = []
    mask = np.zeros((300, 400), np.uint8)
    mask[140:160, 100:200], mask[140:160, 200:300] = 1, 2
    with pytest.MonkeyPatch.context() as patch:
        text = ImageDraw.ImageDraw.text

        def noted(self: ImageDraw.ImageDraw, place: tuple[float, float], words: str, *rest: Any, **more: Any) -> None:
            if "stroke_fill" in more:
                drawn.append(self.textbbox(place, words, rest[1]))
            text(self, place, words, *rest, **more)

        patch.setattr(ImageDraw.ImageDraw, "text", noted)
        overlay(np.zeros((300, 400, 3), np.uint8), mask, names={1: "a rather long class name", 2: "another long one"})
    (_, top, _, bottom), (_, other, _, end) = drawn
    assert bottom <= other or end <= top
