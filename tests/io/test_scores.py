from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pixaff.errors import FormatError
from pixaff.io.cams import write_cams
from pixaff.io.scores import ScoreFile, read_scores, write_scores


def example() -> ScoreFile:
    rng = np.random.default_rng(0)
    return ScoreFile(
        classes=np.array([3, 8]),
        scores=rng.random((2, 3, 4), np.float32),
        powers=np.array([0.5, 2.0, 9.0]),
        background=rng.random((3, 3, 4), np.float32),
        alpha=4.0,
        walked_size=(20, 32),
        size=(200, 320),
    )


def test_what_is_written_is_read_to_half_precision(tmp_path):
    write_scores(tmp_path / "deep" / "a.npz", example())
    found, expected = read_scores(tmp_path / "deep" / "a.npz"), example()
    assert (found.alpha, found.walked_size, found.size) == (4.0, (20, 32), (200, 320))
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_array_equal(found.powers, expected.powers)
    for name in ("scores", "background"):
        array = getattr(found, name)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, getattr(expected, name), atol=2.5e-4)


def test_what_an_approximate_walk_leads_out_of_range_is_held_to_it(tmp_path):
    file = example()
    file.scores[0, 0, :2] = -1e-5, 1 + 1e-5
    write_scores(tmp_path / "a.npz", file)
    assert read_scores(tmp_path / "a.npz").scores[0, 0, :2].tolist() == [0, 1]
    assert file.scores[0, 0, 0] < 0  # the caller's own array stays as it is


def test_photos_that_show_no_class(tmp_path):
    file = replace(example(), classes=np.zeros(0, np.int64), scores=np.zeros((0, 3, 4), np.float32))
    write_scores(tmp_path / "a.npz", file)
    found = read_scores(tmp_path / "a.npz")
    assert (found.classes.shape, found.scores.shape, found.background.shape) == ((0,), (0, 3, 4), (3, 3, 4))


CHANGES = [
    ({"classes": np.array([3, 3])}, "classes: found [3, 3]"),
    ({"classes": np.array([0, 3])}, "expected mask values 1..254"),
    ({"powers": np.array([2.0, 0.5, 9.0])}, "ascending"),
    ({"powers": np.array([0.5, 2.0, np.nan])}, "ascending"),
    ({"alpha": 10.0}, "alpha: found 10, expected 0.5..9"),
    ({"size": (0, 3)}, "expected positive H, W"),
    ({"walked_size": (20, 33)}, "scores: found the grid (3, 4), expected (3, 5) for (20, 33) pixels"),
    ({"scores": np.full((2, 3, 4), 1.5, np.float32)}, "scores: found values 1.5..1.5, expected 0..1"),
    ({"background": np.full((3, 3, 4), np.nan, np.float32)}, "background: found values nan"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_what_does_not_fit_is_neither_written_nor_read(tmp_path, change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        write_scores(tmp_path / "a.npz", replace(example(), **change))
    assert not (tmp_path / "a.npz").exists()
    write_raw(tmp_path / "a.npz", **change)
    with pytest.raises(FormatError) as unread:
        read_scores(tmp_path / "a.npz")
    assert words in unread.value.message


def write_raw(path, **change):
    arrays = {name: np.array(value) for name, value in vars(replace(example(), **change)).items()}
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": np.array([[3, 8]])}, "classes: found int64 (1, 2), expected integers (C,)"),
        ({"scores": np.zeros((3, 3, 4), np.float32)}, "scores: found float32 (3, 3, 4), expected floats (2, h, w)"),
        ({"background": np.zeros((3, 3, 4), np.int64)}, "background: found int64"),
        ({"powers": np.float64(3)}, "powers: found float64 (), expected floats (K,)"),
        ({"alpha": np.zeros(2)}, "alpha: found float64 (2,), expected a number"),
        ({"size": np.zeros(3, np.int64)}, "size: found int64 (3,), expected two integers H, W"),
    ],
)
def test_arrays_of_other_shapes_are_refused(tmp_path, change, words):
    write_raw(tmp_path / "a.npz", **change)
    with pytest.raises(FormatError) as found:
        read_scores(tmp_path / "a.npz")
    assert words in found.value.message


def test_other_files_are_refused_and_nothing_is_unpickled(tmp_path):
    write_cams(tmp_path / "cams.npz", [1], np.zeros((1, 3, 4)), (3, 4))
    with pytest.raises(FormatError, match=r"found classes, cams, size, scores and .* missing .*--cams"):
        read_scores(tmp_path / "cams.npz")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(FormatError, match=r"no \.npz"):
        read_scores(tmp_path / "text.npz")
    with pytest.raises(FormatError, match="pixaff propagate --save-scores first"):
        read_scores(tmp_path / "absent.npz")

    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    write_raw(tmp_path / "hostile.npz", alpha=Harm())
    with pytest.raises(FormatError, match="damaged"):
        read_scores(tmp_path / "hostile.npz")
    assert not (tmp_path / "ran").exists()
    write_scores(tmp_path / "short.npz", example())
    whole = (tmp_path / "short.npz").read_bytes()
    for length in (0, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "short.npz").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            read_scores(tmp_path / "short.npz")
