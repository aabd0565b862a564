"""The files of other programs: read by content, and written so that those programs read them."""

from __future__ import annotations

import pickle
import pickletools
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_cams import box, maps, posteriors, save, write_npy

from pixaff.errors import FormatError, UsageError
from pixaff.io.cams import FORMATS as MODULES
from pixaff.io.cams import POSTERIOR_FORMATS, SUFFIXES, find_cams, read_cams, write_cams, write_maps

PROTOCOLS = (2, 3, 4, 5)
ROWS = maps()  # of cat and person: classes 7 and 14 of twenty, mask values 8 and 15
STRIDED = ROWS[:, ::4, ::4]
HALF = ROWS.astype(np.float16)


def irn(**changes: Any) -> dict[str, Any]:
    return {
        "keys": torch.tensor([[7], [14]])[:, 0],
        "cam": torch.from_numpy(STRIDED.copy()),
        "high_res": ROWS,
        **changes,
    }


FORMATS: dict[str, tuple[dict[Any, Any], list[int], np.ndarray]] = {
    "PSA, SEAM, MCTformer, WeakTr": ({7: ROWS[0], 14: ROWS[1]}, [8, 15], ROWS),
    "the same, in another order": ({14: ROWS[1], 7: ROWS[0]}, [8, 15], ROWS),
    "the same in double precision": ({7: ROWS[0].astype(float), 14: ROWS[1].astype(float)}, [8, 15], ROWS),
    "the same, keys of numpy": ({np.int64(7): ROWS[0], np.int32(14): ROWS[1]}, [8, 15], ROWS),
    "posteriors": (dict(zip((0, 8, 15), posteriors(), strict=True)), [0, 8, 15], posteriors()),
    "IRN, AdvCAM, ReCAM": (irn(), [8, 15], ROWS),
    "AMN, with a background row": (irn(high_res=np.concatenate([maps(1, seed=9), ROWS])), [8, 15], ROWS),
    "IRN, keys of numpy": (irn(keys=np.array([7, 14])), [8, 15], ROWS),
    "IRN, small maps alone": (
        {"keys": torch.tensor([7, 14]), "cam": torch.from_numpy(STRIDED.copy())},
        [8, 15],
        STRIDED,
    ),
    "IRN, everything a tensor": (irn(high_res=torch.from_numpy(ROWS).half()), [8, 15], HALF),
    "IRN with aeroplanes": (irn(keys=torch.tensor([0, 14])), [1, 15], ROWS),
    "Puzzle-CAM": (
        {"keys": np.array([0, 8, 15]), "cam": torch.from_numpy(STRIDED.copy()), "hr_cam": ROWS},
        [8, 15],
        ROWS,
    ),
    "Puzzle-CAM's walk": ({"keys": np.array([0, 8, 15]), "rw": ROWS}, [8, 15], ROWS),
    "PNOC, keys as a list": ({"keys": [0, 1], "hr_cam": ROWS[:1]}, [1], ROWS[:1]),
    "CLIP-ES, keys in the order of the objects": (
        {"keys": np.array([14, 7]), "attn_highres": HALF[::-1]},
        [8, 15],
        HALF,
    ),
    "a view of a larger tensor": (
        {"keys": (7, 14), "cam": torch.from_numpy(np.pad(ROWS, ((1, 1), (2, 3), (4, 5))))[1:-1, 2:-3, 4:-5]},
        [8, 15],
        ROWS,
    ),
    "another order in memory": (
        {7: np.asfortranarray(ROWS[0]), 14: np.asfortranarray(ROWS[1].astype(">f4"))},
        [8, 15],
        ROWS,
    ),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(tmp_path: Path, name: str, protocol: int) -> None:
    content, classes, expected = FORMATS[name]
    file = read_cams(save(tmp_path / "a.npy", content, protocol))
    assert file.classes.tolist() == classes
    assert file.classes.dtype == np.int64
    assert file.cams.dtype == np.float32
    assert file.cams.tolist() == expected.astype(np.float32).tolist()
    assert file.size == expected.shape[1:]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_pickles_use_every_rebuilding_function(protocol: int) -> None:
    """That the tests above go through them at all; numpy 2's protocol 5 is the one that has `_frombuffer`."""
    asked = set()
    for content, _, _ in FORMATS.values():
        texts: list[str] = []
        for opcode, argument, _ in pickletools.genops(pickle.dumps(box(content), protocol=protocol)):
            if opcode.name == "GLOBAL":
                asked.add(tuple(argument.split()))
            elif opcode.name == "STACK_GLOBAL":
                asked.add(tuple(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    names = {name for _, name in asked}
    assert {"_reconstruct", "ndarray", "dtype", "_rebuild_tensor_v2", "_load_from_bytes", "OrderedDict"} <= names
    assert ("encode" in names) == (protocol == 2)


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_names_of_numpy_1_and_2(tmp_path: Path, package: str) -> None:
    pickled = pickle.dumps(box({np.int64(7): ROWS[0]}), protocol=3)
    for old in (b"cnumpy._core.", b"cnumpy.core."):
        pickled = pickled.replace(old, b"c" + package.encode() + b".")
    assert package.encode() + b".multiarray\nscalar" in pickled
    assert read_cams(write_npy(tmp_path / "a.npy", pickled)).cams.tolist() == ROWS[:1].tolist()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32]
)
def test_tensors_of_all_types(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([[[0, 1], [1, 0]]], dtype=dtype)
    if dtype.is_floating_point:
        assert read_cams(save(tmp_path / "a.npy", {"keys": [3], "cam": values})).cams.tolist() == [[[0, 1], [1, 0]]]
    else:
        path = save(tmp_path / "a.npy", {"keys": values[0, 0], "cam": torch.from_numpy(ROWS)})
        assert read_cams(path).classes.tolist() == [1, 2]


def test_tensors_of_a_gpu_are_read_without_one(tmp_path: Path) -> None:
    pickled = pickle.dumps(box({"keys": [3], "cam": torch.from_numpy(ROWS[:1])}), protocol=3)
    assert b"X\x03\x00\x00\x00cpuq" in pickled
    for kind in (b"torch\nFloatStorage", b"torch.cuda\nFloatStorage"):  # as torch has written it, and long ago
        # The device stands inside the bytes of a storage, whose length must stay.
        there = pickled.replace(b"X\x03\x00\x00\x00cpuq", b"X\x03\x00\x00\x00gpuq")
        before = len(there)
        there = there.replace(b"torch\nFloatStorage", kind)
        size = there.index(b"B", there.index(b"_load_from_bytes")) + 1
        count = int.from_bytes(there[size : size + 4], "little") + len(there) - before
        there = there[:size] + count.to_bytes(4, "little") + there[size + 4 :]
        assert read_cams(write_npy(tmp_path / "a.npy", there)).cams.tolist() == ROWS[:1].tolist()


def test_reading_tensors_does_not_import_torch(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", irn())
    code = (
        "import sys; from pixaff.io.cams import read_cams; "
        f"print(read_cams({str(tmp_path / 'a.npy')!r}).classes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[ 8 15] False\n"


def test_content_decides_whatever_the_suffix(tmp_path: Path) -> None:
    write_cams(tmp_path / "ours.npz", [8, 15], ROWS, (30, 41), "float32")
    (tmp_path / "ours.npz").rename(tmp_path / "a.npy")
    save(tmp_path / "b.npz", {7: ROWS[0], 14: ROWS[1]})
    for name in ("a.npy", "b.npz"):
        assert read_cams(tmp_path / name).classes.tolist() == [8, 15]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_posteriors_are_told_from_maps_by_their_sum(tmp_path: Path, dtype: Any) -> None:
    rows = posteriors(21, (9, 11)).astype(dtype)
    assert read_cams(save(tmp_path / "a.npy", dict(enumerate(rows)))).classes.tolist() == list(range(21))
    # One pixel where they do not add up, and the first key is the aeroplane.
    rows[0, 4, 5] = 1 - rows[0, 4, 5]
    assert read_cams(save(tmp_path / "a.npy", dict(enumerate(rows)))).classes.tolist() == list(range(1, 22))
    # Nor do maps that come near to it.
    near = np.stack([np.linspace(0, 1, 99), np.linspace(1, 0.1, 99)]).reshape(2, 9, 11).astype(dtype)
    assert read_cams(save(tmp_path / "a.npy", dict(enumerate(near)))).classes.tolist() == [1, 2]
    # A single map is no posterior, even where it is 1 everywhere.
    path = save(tmp_path / "a.npy", {0: np.ones((3, 4), dtype)})
    assert read_cams(path).classes.tolist() == [1]
    # Maps without the key 0 are maps, whatever their sum.
    path = save(tmp_path / "a.npy", dict(zip((3, 5), posteriors(2, (9, 11)).astype(dtype), strict=True)))
    assert read_cams(path).classes.tolist() == [4, 6]


def test_negative_numbers_become_zero(tmp_path: Path) -> None:
    """SEAM subtracts 1e-5 from the numerator: a map that is 0 everywhere becomes -1."""
    cam = np.zeros((4, 5), np.float32)
    seam = (cam - cam.min() - 1e-5) / (cam.max() - cam.min() + 1e-5)
    assert seam.max() < -0.99
    file = read_cams(save(tmp_path / "a.npy", {3: seam, 7: maps(1, (4, 5))[0] - 0.25}))
    assert file.cams[0].tolist() == cam.tolist()
    assert file.cams[1].min() == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({7: 3 * ROWS[0]}, r"found values .*\.\.3, expected 0\.\.1: divide each CAM by its maximum"),
        ({7: np.full((3, 4), np.nan, np.float32)}, "NaN"),
        ([ROWS[0]], "found a list, expected a dict"),
        (
            {"cat": ROWS[0]},
            "found 'cat', expected classes, cams and size, or maps by class number, or keys with",
        ),
        ({7: ROWS[0], "x": ROWS[1]}, "found 7, 'x', expected"),
        ({7: ROWS[0].tolist()}, "class 7: found a list, expected an array of float16, 32 or 64"),
        ({7: (255 * ROWS[0]).astype(np.uint8)}, r"class 7: found uint8 \(30, 41\)"),
        ({7: ROWS[0], 8: ROWS[1, 1:]}, r"found CAMs of shape \(29, 41\), \(30, 41\), expected one shape"),
        ({7: ROWS}, r"found CAMs of shape \(2, 30, 41\), expected one shape \(H, W\)"),
        ({7: np.zeros((0, 4), np.float32)}, r"class 7: found float32 \(0, 4\)"),
        ({-1: ROWS[0], -2: ROWS[1]}, "expected mask values 0..254"),
        ({254: ROWS[0]}, "expected mask values 0..254"),
        ({1: ROWS[0], "keys": [3]}, "found 1, 'keys', expected"),
        ({"keys": [7, 14], "saliency": ROWS}, "found 'keys', 'saliency', expected"),
        ({"keys": [7], "hr_cam": maps(3)}, "found 1 keys and 3 CAMs in hr_cam, expected one key per CAM"),
        ({"keys": [], "hr_cam": ROWS[:1]}, "found 0 keys and 1 CAMs"),
        ({"keys": [1, 8, 15], "hr_cam": ROWS}, "found 3 keys and 2 CAMs"),
        ({"keys": [7, 7], "hr_cam": ROWS}, "expected every class once"),
        ({"keys": "ab", "hr_cam": ROWS}, "keys: found no list of class numbers"),
        ({"keys": np.array([7.0, 14.0]), "hr_cam": ROWS}, "keys: found no list of class numbers"),
        ({"keys": [7], "rw": ROWS[0]}, r"rw: found shape \(30, 41\), expected \(C, H, W\)"),
        ({"keys": [], "saliency": ROWS}, "found 'keys', 'saliency', expected"),
        ({"keys": [7]}, "cam: found a nonetype, expected an array"),
        ({"keys": [7], "cam": torch.zeros(0, 3, 4)}, r"cam: found float32 \(0, 3, 4\)"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(FormatError, match=rf"a\.npy: .*{words}") as caught:
        read_cams(save(tmp_path / "a.npy", content))
    assert caught.value.hint


def test_arrays_that_are_no_dict(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    with pytest.raises(FormatError, match=r"a\.npy: found an array of float32 \(2, 30, 41\), expected a dict"):
        read_cams(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{7: ROWS[0]}], dtype=object))
    with pytest.raises(FormatError, match=r"b\.npy: found an array of object \(1,\)"):
        read_cams(tmp_path / "b.npy")
    (tmp_path / "c.npy").write_bytes(pickle.dumps({7: ROWS[0]}))
    with pytest.raises(FormatError, match=r"c\.npy: .*no \.npz or \.npy"):
        read_cams(tmp_path / "c.npy")


@pytest.mark.parametrize("classes", [[8, 15], [0, 8, 15], [15, 8]])
def test_psa_reads_what_is_written_for_it(tmp_path: Path, classes: list[int]) -> None:
    rows = maps(len(classes))
    write_maps(tmp_path / "new" / "a.npy", "psa", classes, rows, (30, 41))
    theirs = np.load(tmp_path / "new" / "a.npy", allow_pickle=True).item()
    first = 0 if 0 in classes else 1
    # Their trainer takes the rows by position, background first.
    assert list(theirs) == [value - first for value in sorted(classes)]
    for value, row in zip(classes, rows, strict=True):
        assert theirs[value - first].dtype == np.float32
        assert np.array_equal(theirs[value - first], row)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["a.npy"]


def test_irn_reads_what_is_written_for_it(tmp_path: Path) -> None:
    write_maps(tmp_path / "a.npy", "irn", [8, 15], ROWS, (30, 41))
    theirs = np.load(tmp_path / "a.npy", allow_pickle=True).item()
    # What step/eval_cam.py and step/make_sem_seg_labels.py do with it.
    assert np.pad(theirs["keys"] + 1, (1, 0), mode="constant").tolist() == [0, 8, 15]
    assert np.pad(theirs["high_res"], ((1, 0), (0, 0), (0, 0)), constant_values=0.15).shape == (3, 30, 41)
    assert isinstance(theirs["cam"], torch.Tensor)
    assert theirs["cam"].to("cpu").shape == (2, 8, 11)
    assert theirs["cam"].amax((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-4)
    assert theirs["high_res"].dtype == np.float32


def test_what_is_written_is_read_back_and_names_no_module_of_numpy_2(tmp_path: Path) -> None:
    write_maps(tmp_path / "maps.npy", "psa", [8, 15], ROWS, (30, 41))
    write_maps(tmp_path / "low.npy", "psa", [0, 8, 15], posteriors(), (30, 41))
    write_maps(tmp_path / "irn.npy", "irn", [8, 15], ROWS, (30, 41))
    for name, classes, rows in (
        ("maps", [8, 15], ROWS),
        ("low", [0, 8, 15], posteriors()),
        ("irn", [8, 15], ROWS),
    ):
        file = read_cams(tmp_path / f"{name}.npy")
        assert (file.classes.tolist(), file.size) == (classes, (30, 41))
        assert file.cams.tolist() == rows.tolist()
        data = (tmp_path / f"{name}.npy").read_bytes()
        assert data.count(b"numpy.core.multiarray\n") == 1
        assert b"numpy._core" not in data


def test_a_format_has_all_that_the_table_of_formats_asks_for() -> None:
    assert len({form.NAME for form in MODULES}) == len(MODULES) == 5
    for form in MODULES:
        assert form.HOLDS
        assert callable(form.detect)
        assert callable(form.read)
        assert (form.NAME in SUFFIXES) == hasattr(form, "write") == hasattr(form, "POSTERIORS")
    assert SUFFIXES == {"npz": ".npz", "psa": ".npy", "irn": ".npy"}
    assert POSTERIOR_FORMATS == ("npz", "psa")


def test_unknown_formats_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format is png, expected npz, psa, irn"):
        write_maps(tmp_path / "a.png", "png", [8, 15], ROWS, (30, 41))
    assert list(tmp_path.iterdir()) == []


def test_files_are_found_by_stem_ours_first(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npz", "b.npy"):
        (tmp_path / name).touch()
    assert find_cams(tmp_path, "a").name == "a.npy"
    assert find_cams(tmp_path, "b").name == "b.npz"
    with pytest.raises(FormatError, match=r"no CAM file of c, neither c\.npz nor c\.npy"):
        find_cams(tmp_path, "c")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"keys": np.zeros(0, np.int64)},
        {"keys": np.zeros(0)},
        {"keys": []},
        {"keys": torch.zeros(0, dtype=torch.int64), "cam": torch.zeros(0, 8, 11)},
        {
            "keys": torch.zeros(0, dtype=torch.int64),
            "cam": torch.zeros(0),
            "high_res": np.zeros((0, 30, 41), np.float32),
        },
        {"keys": np.array([0]), "hr_cam": np.zeros((0, 30, 41), np.float32)},
        {"keys": np.zeros(0, np.int64), "attn_highres": np.zeros((0, 30, 41), np.float16)},
    ],
)
def test_case_maps_of_image_without_class(tmp_path: Path, content: dict[Any, Any]) -> None:
    """What the programs of this field write for an image of COCO that shows none of the classes."""
    file = read_cams(save(tmp_path / "a.npy", content))
    assert (file.classes.tolist(), file.cams.shape, file.size) == ([], (0, 0, 0), (0, 0))


@pytest.mark.parametrize("form", ["psa", "irn"])
def test_a_photo_without_a_class_is_written_and_read_back(tmp_path: Path, form: str) -> None:
    write_maps(tmp_path / "a.npy", form, [], np.zeros((0, 8, 11), np.float32), (30, 41))
    assert len(read_cams(tmp_path / "a.npy").classes) == 0


def test_case_maps_that_swell(tmp_path: Path) -> None:
    """One map under many names: refused before the maps are added up, in which they took two thousand times as much."""
    row = np.full((400, 400), 0.001, np.float32)
    for content in (
        dict.fromkeys(range(900), row),
        {"keys": list(range(90)), "cam": torch.from_numpy(row)[None].expand(90, 400, 400)},
    ):
        file = save(tmp_path / "b.npy", content)
        tracemalloc.start()
        with pytest.raises(FormatError, match=r"CAMs that share their values|claims a tensor of"):
            read_cams(file)
        assert tracemalloc.get_traced_memory()[1] < 8e6
        tracemalloc.stop()


def test_maps_far_larger_than_the_photo_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", {7: np.zeros((4097, 9), np.float32)})
    assert read_cams(tmp_path / "a.npy").size == (4097, 9)
    with pytest.raises(FormatError, match="found CAMs of 4097 x 9 for a photo of 30 x 41 pixels"):
        read_cams(tmp_path / "a.npy", photo=(30, 41))
