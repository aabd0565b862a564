from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packed_photos import parquet_of

from pixaff.errors import ImageError, PixaffError
from pixaff.io.labels import Wanted
from pixaff.io.sources import parquet
from pixaff.io.sources.packed import Packed

pa = pytest.importorskip("pyarrow", reason="the extra pixaff[parquet]")


def read(path: Path) -> Packed:
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return parquet.read(path, str(path), scratch)


def test_rows_are_called_by_their_paths(tmp_path: Path) -> None:
    images = [
        {"bytes": b"\xff\xd8\xff1", "path": "a/cat.jpg"},
        {"bytes": b"\x89PNG22", "path": None},
        {"bytes": b"333", "path": "/home/me/../cat.v2"},
        {"bytes": b"4444", "path": "a/cat.jpg"},
        {"bytes": None, "path": "elsewhere.jpg"},
    ]
    packed = read(parquet_of(tmp_path / "x.parquet", images, labels=[["cat"], [], ["dog", "cat"], None, ["cat"]]))
    names = ["a/cat.jpg", "row-000001.png", "cat.v2.image", "a/cat-row-000003.jpg"]
    assert list(packed.members) == names
    assert [packed.open(photo).data for photo in packed.photos()] == [row["bytes"] for row in images[:4]]  # type: ignore[attr-defined]
    assert "found no bytes in row 4" in packed.problems["elsewhere.jpg"]
    entries = packed.labels(Wanted(name.rpartition(".")[0] for name in names)).by_image
    assert {key: entry.labels for key, entry in entries.items()} == {
        "a/cat": ("cat",), "row-000001": (), "cat.v2": ("dog", "cat"), "a/cat-row-000003": ()
    }  # fmt: skip


def test_plain_bytes_names_in_a_column_and_numbered_classes(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "x.parquet", [b"1", b"2"], file_name=["a.jpg", "b.jpg"], label=[1, -1])
    from pyarrow import parquet as library

    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = library.read_table(path).replace_schema_metadata({"huggingface": json.dumps(features)})
    library.write_table(table, path)
    packed = read(path)
    assert list(packed.members) == ["a.jpg", "b.jpg"]
    entries = packed.labels(Wanted(["a", "b"])).by_image
    assert {key: entry.labels for key, entry in entries.items()} == {"a": ("dog",)}  # -1: not known


def test_files_without_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"x\.parquet: found no photos among image \(string\), n \(int64\)"):
        read(parquet_of(tmp_path / "x.parquet", ["a.jpg"], n=[1]))
    whole = parquet_of(tmp_path / "x.parquet", [b"123"]).read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[:-20])
    with pytest.raises(ImageError, match="damaged Parquet"):
        read(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PixaffError, match=r"pixaff\[parquet\]"):
        read(tmp_path / "x.parquet")
