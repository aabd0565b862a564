from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixaff.errors import FormatError
from pixaff.io.cams import CamFile, read_cams, write_cams


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'echo ran > "{self.path}"',)


def good() -> dict[str, Any]:
    cams = np.random.default_rng(0).random((2, 6, 8)).astype(np.float32)
    return {"classes": np.array([8, 15]), "cams": cams, "size": np.array([48, 64])}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2**-11), ("float32", 0)])
def test_written_maps_are_read_back(tmp_path: Path, dtype: Any, tolerance: float) -> None:
    arrays = good()
    write_cams(tmp_path / "new" / "a.npz", arrays["classes"], arrays["cams"], (48, 64), dtype)
    file = read_cams(tmp_path / "new" / "a.npz")
    assert file.classes.dtype == np.int64
    assert file.classes.tolist() == [8, 15]
    assert file.cams.dtype == np.float32
    assert np.abs(file.cams - arrays["cams"]).max() <= tolerance
    assert file.size == (48, 64)
    with np.load(tmp_path / "new" / "a.npz") as stored:
        assert sorted(stored.files) == ["cams", "classes", "size"]
        assert stored["cams"].dtype == dtype
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_the_suffix_is_as_given(tmp_path: Path) -> None:
    write_cams(tmp_path / "a.low", [0], np.ones((1, 2, 2)), (2, 2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.low"]


def test_background_and_other_programs_types_are_read(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        classes=np.array([0, 3], np.uint8),
        cams=np.array([[[1.0005]], [[-0.0005]]]),
        size=np.array([5, 7], np.int32),
        note="other keys are left alone",
    )
    file = read_cams(tmp_path / "a.npz")
    assert file.classes.tolist() == [0, 3]
    assert file.cams.tolist() == [[[1.0]], [[0.0]]]
    assert file.size == (5, 7)


NAN = good()["cams"].copy()
NAN[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cams": None}, "found classes, size, cams missing"),
        ({"classes": None, "size": None}, "found cams, classes and size missing"),
        ({"classes": np.array([8.0, 15.0])}, r"classes: found float64 \(2,\), expected integers"),
        ({"classes": np.array([[8, 15]])}, r"classes: found int64 \(1, 2\)"),
        ({"classes": np.array([8])}, r"found classes \(1,\), cams \(2, 6, 8\)"),
        ({"classes": np.array([8, 8])}, r"classes: found \[8, 8\], expected every class once"),
        ({"classes": np.array([-1, 8])}, r"classes: found -1\.\.8, expected mask values 0\.\.254"),
        ({"classes": np.array([8, 255])}, r"classes: found 8\.\.255"),
        ({"cams": np.ones((2, 6, 8), np.uint8)}, "cams: found uint8, expected float16 or float32"),
        ({"cams": np.ones((6, 8), np.float32)}, r"cams \(6, 8\), expected \(C,\) and \(C, h, w\)"),
        ({"cams": np.ones((2, 0, 8), np.float32)}, r"cams \(2, 0, 8\)"),
        ({"cams": NAN}, "cams: found NaN or infinite values"),
        ({"cams": np.full((2, 6, 8), np.inf, np.float32)}, "cams: found NaN or infinite values"),
        ({"cams": np.full((2, 6, 8), 7.0)}, r"cams: found values 7\.\.7, expected 0\.\.1: divide each CAM"),
        ({"cams": np.full((2, 6, 8), -0.5)}, r"cams: found values -0\.5\.\.-0\.5"),
        ({"size": np.array([48, 64, 3])}, r"size: found int64 \(3,\), expected two integers H, W"),
        ({"size": np.array([48.0, 64.0])}, "size: found float64"),
        ({"size": np.array([0, 64])}, "size: found 0 x 64, expected positive"),
    ],
)
def test_wrong_arrays(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    arrays = {key: value for key, value in (good() | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FormatError, match=rf"a\.npz: .*{words}"):
        read_cams(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("classes", "cams", "size"),
    [
        ([1], np.ones((2, 3, 3)), (3, 3)),
        ([1, 1], np.ones((2, 3, 3)), (3, 3)),
        ([1], np.full((1, 3, 3), np.nan), (3, 3)),
        ([1], np.full((1, 3, 3), 2.0), (3, 3)),
        ([1], np.ones((1, 3, 3)), (0, 3)),
        ([], np.ones((0, 3, 3)), (0, 0)),
        ([], np.ones((1, 3, 3)), (3, 3)),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path: Path, classes: Any, cams: Any, size: Any) -> None:
    with pytest.raises(ValueError, match="found"):
        write_cams(tmp_path / "a.npz", classes, cams, size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    np.savez_compressed(tmp_path / "a.npz", **good())
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FormatError, match=r"a\.npz: damaged"):
        read_cams(tmp_path / "a.npz")


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **good())
    data = np.frombuffer((tmp_path / "a.npz").read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    failures = []
    for _ in range(150):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
        (tmp_path / "b.npz").write_bytes(damaged.tobytes())
        try:
            read_cams(tmp_path / "b.npz")
        except FormatError as error:
            failures.append(str(error))
    assert len(failures) > 50
    assert all("b.npz: " in failure for failure in failures)


def test_missing_files_folders_and_text(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"b\.npz: no such file"):
        read_cams(tmp_path / "b.npz")
    with pytest.raises(FormatError, match="found a folder, expected a file"):
        read_cams(tmp_path)
    (tmp_path / "c.npz").write_text("<html>")
    with pytest.raises(FormatError, match=r"c\.npz: damaged, or no \.npz"):
        read_cams(tmp_path / "c.npz")


def test_pickles_inside_are_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    arrays = good() | {"cams": np.array([Touch(mark)], dtype=object)}
    np.savez(tmp_path / "object.npz", **arrays)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Touch(mark)))
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        for name in ("classes", "cams", "size"):
            archive.writestr(f"{name}.npy", pickle.dumps(Touch(mark)))
    for name in ("object", "plain", "member"):
        with pytest.raises(FormatError, match=rf"{name}\.npz: "):
            read_cams(tmp_path / f"{name}.npz")
    assert not mark.exists()
    pickle.loads((tmp_path / "plain.npz").read_bytes())  # the pickle is a live one
    assert mark.exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", **(good() | {"cams": np.zeros((2, 600, 800))}))
    read_array = np.lib.format.read_array
    unpacked: list[tuple[int, ...]] = []

    def watched(*arguments: Any, **options: Any) -> np.ndarray:
        unpacked.append((array := read_array(*arguments, **options)).shape)
        return array

    monkeypatch.setattr(np.lib.format, "read_array", watched)
    read_cams(tmp_path / "a.npz")
    assert (2, 600, 800) in unpacked
    for name, value, words in (
        ("MAX_BYTES", 7_000_000, "found 7.7 MB of numbers, expected at most 7.0 MB"),
        ("FREE_BYTES", 1_000_000, r"found 7\.7 MB of numbers in a file of 0\.0 MB"),
    ):
        unpacked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(f"pixaff.io.npz_arrays.{name}", value)
            with pytest.raises(FormatError, match=words):
                read_cams(tmp_path / "a.npz")
        assert (2, 600, 800) not in unpacked


def test_a_checksum_that_does_not_fit_is_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **good())
    data = (tmp_path / "a.npz").read_bytes()
    place = data.index(good()["cams"].tobytes())
    (tmp_path / "a.npz").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(FormatError, match=r"a\.npz: damaged"):
        read_cams(tmp_path / "a.npz")


def test_an_array_that_claims_more_than_its_member_holds_is_damage(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in good().items():
            np.save(tmp_path / "member.npy", array)
            member = (tmp_path / "member.npy").read_bytes()
            archive.writestr(f"{name}.npy", member.replace(b"(2, 6, 8)", b"(2, 9, 9)"))
    with pytest.raises(FormatError, match=r"a\.npz: damaged: cams: claims float32 \(2, 9, 9\), and holds"):
        read_cams(tmp_path / "a.npz")


def test_case_maps_that_swell(tmp_path: Path) -> None:
    """A map of 17,000 x 17,000 zeros for a photo of 40 x 60 is refused from its header; so is one without a size."""
    huge = {"classes": np.array([1]), "cams": np.zeros((1, 4500, 3000), np.float16), "size": np.array([40, 60])}
    np.savez_compressed(tmp_path / "a.npz", **huge)
    assert (tmp_path / "a.npz").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"a\.npz: found CAMs of 4500 x 3000 for a photo of 40 x 60 pixels"):
        read_cams(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    np.savez_compressed(tmp_path / "a.npz", **huge | {"size": np.array([4500, 3000])})
    with pytest.raises(FormatError, match="found CAMs of 4500 x 3000 for a photo of 40 x 60"):
        read_cams(tmp_path / "a.npz", photo=(40, 60))
    assert read_cams(tmp_path / "a.npz").size == (4500, 3000)
    # Small photos that a program brought to one size, and photos that it enlarged.
    for photo in ((40, 60), (400, 600)):
        write_cams(tmp_path / "b.npz", [1], np.zeros((1, 2 * photo[0], 2 * photo[1])), photo)
        assert read_cams(tmp_path / "b.npz", photo=photo).cams.shape == (1, 2 * photo[0], 2 * photo[1])


def test_maps_of_more_pixels_than_a_photo_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixaff.io.cams.camfile.MAX_PIXELS", 47)
    np.savez(tmp_path / "a.npz", **good())
    with pytest.raises(FormatError, match="found CAMs of 6 x 8, expected at most"):
        read_cams(tmp_path / "a.npz")


def test_too_little_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", **good())

    def full(*arguments: Any, **options: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(FormatError, match=r"a\.npz: not enough memory to read it"):
        read_cams(tmp_path / "a.npz")


def test_case_maps_of_image_without_class(tmp_path: Path) -> None:
    write_cams(tmp_path / "a.npz", [], np.zeros((0, 6, 8)), (48, 64))
    file = read_cams(tmp_path / "a.npz")
    assert (file.classes.tolist(), file.cams.shape, file.size) == ([], (0, 6, 8), (48, 64))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_case_pipes_and_loops(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(FormatError, match=r"a\.npz: found a named pipe \(FIFO\), expected a file"):
        read_cams(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("size", "photo", "expected"),
    [
        ((160, 120), (120, 160), True),
        ((120, 160), (120, 160), False),
        ((125, 94), (375, 500), True),  # a quarter of it, as IRN keeps maps
        ((94, 125), (375, 500), False),
        ((94, 124), (375, 500), False),
        ((448, 448), (375, 500), False),  # squeezed into a square
        ((448, 448), (448, 448), False),
        ((125, 124), (496, 500), False),  # nearly square: too little to tell it by
        ((500, 496), (496, 500), True),  # but for the very size
        ((0, 0), (375, 500), False),  # without a class
        ((5, 3), (300, 500), True),
        ((3, 2), (375, 500), False),  # too small to tell
    ],
)
def test_maps_that_lie_on_their_side(size: tuple[int, int], photo: tuple[int, int], expected: bool) -> None:
    file = CamFile(np.array([1]), np.zeros((1, *size), np.float32), size)
    assert file.lies_on_its_side(photo) is expected


def test_an_archive_of_very_many_members_is_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    monkeypatch.setattr(zipfile, "ZipFile", lambda _: pytest.fail("listed"))
    with pytest.raises(FormatError, match=r"a\.npz: damaged: an archive of too many members"):
        read_cams(tmp_path / "a.npz")


def test_an_archive_with_a_comment_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **good())
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.comment = b"made by a program PK\5 of ours"
    assert read_cams(tmp_path / "a.npz").size == (48, 64)
