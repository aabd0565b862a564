"""Image lists over shards: which photos an entry means."""

from __future__ import annotations

from pathlib import Path

from pixaff.stages.batch.listed import Listed


def test_what_an_entry_means(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("lawn.jpg\nb/hill\nphotos/pond.png\n000/sea\ntrain/001/a/sky.jpg\ncafe\u0301\n")
    listed = Listed(tmp_path / "list.txt", ["000", "train/001"])
    cases: dict[str, str | None] = {
        "lawn.png": "lawn", "x/lawn.png": "lawn", "blawn.png": None,
        "b/hill.jpg": "b/hill", "a/b/hill.jpg": "b/hill", "hill.jpg": "b/hill", "c/hill.jpg": None,
        "pond.png": "photos/pond", "sea.jpg": "000/sea", "x/sea.jpg": None, "a/sky.jpg": None,
        "caf\u00e9.jpg": "caf\u00e9",
    }  # fmt: skip
    for photo, entry in cases.items():
        assert listed.of("000", [photo]) == (({photo}, {entry}) if entry is not None else (set(), set())), photo
    assert listed.of("train/001", ["sea.jpg"]) == (set(), set())
    assert listed.of("train/001", ["a/sky.png"]) == ({"a/sky.png"}, {"train/001/a/sky"})
