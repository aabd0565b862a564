from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import image_stem, nfc, read_list


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_paths_suffixes_and_voc_pairs(tmp_path: Path) -> None:
    text = "\ufeffb\r\n/JPEGImages/a.jpg /SegmentationClassAug/a.png\r\n\r\nmy photo 1.jpg\nx.y.JPG\nscan.v2\n"
    assert read_list(put(tmp_path, text)) == ["b", "a", "my photo 1", "x.y", "scan.v2"]


def test_utf_16_with_its_byte_order_mark(tmp_path: Path) -> None:
    assert read_list(put(tmp_path, "é\r\nb\r\n".encode("utf-16"))) == ["é", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "found no image name"),
        ("a\nb\na.jpg\n", 'line 3: found "a" again, first in line 1'),
        ("é\ne\u0301\n", "line 2: found .* again, first in line 1"),
        ("a\nb\0c\n", "line 2: found a NUL byte"),
        ("a\nb".encode("utf-16-le"), "NUL byte"),
        (b"a\n\xff\xd8\xff", "line 2: not UTF-8 text"),
    ],
)
def test_wrong_lists(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(LabelsError, match=rf"list\.txt.*{words}"):
        read_list(put(tmp_path, text))


def test_case_decomposed_names_in_lists(tmp_path: Path) -> None:
    written = unicodedata.normalize("NFD", "forêt-été")
    names = read_list(put(tmp_path, written))
    assert names == [written], "programs open files by the name as it is written"
    assert nfc(names[0]) == "forêt-été"


def test_case_list_with_a_name_too_long(tmp_path: Path) -> None:
    names = read_list(put(tmp_path, f"{'x' * 5000}\nb\n{'x' * 6000}\n"))
    assert names[1] == "b"
    assert [len(name) < 100 for name in names] == [True] * 3
    assert len(set(names)) == 3
    assert names[0].startswith("xxxx")
    assert names[0].endswith("(cut: line 1, 5,000 characters)")
    assert not (tmp_path / f"{names[0]}.npz").exists()


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a", "a"), (" x/a.b.jpg ", "a.b"), ("a.2", "a.2"), (".jpg", ".jpg"), ("x\\a.TIFF", "a"), ("a.txt", "a.txt")],
)
def test_image_stem(name: str, stem: str) -> None:
    assert image_stem(name) == stem


@pytest.mark.parametrize(
    "text", ['{"images": ["b.jpg", "a b a.png", "c/d.jpg"], "rejected": ["x"]}', '["b", "a b a", "d"]']
)
def test_names_in_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accepted.JSON"
    path.write_text(text)
    assert read_list(path) == ["b", "a b a", "d"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("b.jpg\n", "found no JSON"),
        ("[" * 100_000, "found no JSON"),
        ('{"photos": []}', "found no list of image names"),
        ('{"images": [1]}', "found no list of image names"),
        ('{"images": ["\\ud800"]}', "found no list of image names"),
        ('{"images": []}', "found no image name"),
        ('["a.jpg", "a.png"]', 'entry 2: found "a" again, first in entry 1'),
    ],
)
def test_wrong_json(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(LabelsError, match=words):
        read_list(path)
