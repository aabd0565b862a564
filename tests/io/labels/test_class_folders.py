from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import format_of, read_labels
from pixaff.io.labels.class_folders import NAME, photos_in
from pixaff.stages.batch.inputs import find_images


def put(folder: Path, **photos: str) -> Path:
    for name, content in photos.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jpg").write_bytes(content.encode())
    return folder


def test_labels_and_photos(tmp_path: Path) -> None:
    put(tmp_path, cat__a="1", cat__more__b="2", dog__c="3", background__d="4")
    (tmp_path / "cat" / "notes.txt").write_text("x")
    assert format_of(tmp_path).NAME == NAME
    labels = read_labels(tmp_path, ("cat", "dog"))
    assert labels == {"a": (0,), "b": (0,), "c": (1,), "d": ()}
    photos = find_images(tmp_path, labels=tmp_path)
    assert [photo.relative_to(tmp_path).as_posix() for photo in photos] == [
        "background/d.jpg", "cat/a.jpg", "cat/more/b.jpg", "dog/c.jpg"
    ]  # fmt: skip


def test_folders_of_train_and_val_lie_between(tmp_path: Path) -> None:
    put(tmp_path, train__cat__a="1", val__cat__b="2", val__dog__c="3")
    assert read_labels(tmp_path, ("cat", "dog")) == {"a": (0,), "b": (0,), "c": (1,)}


def test_the_same_photo_in_two_folders_shows_both(tmp_path: Path) -> None:
    put(tmp_path, cat__a="same", dog__a="same", dog__b="x")
    assert read_labels(tmp_path, ("cat", "dog")) == {"a": (0, 1), "b": (1,)}
    assert [photo.name for photo in photos_in(tmp_path)] == ["a.jpg", "b.jpg"]


def test_different_photos_of_one_name_cost_themselves(tmp_path: Path) -> None:
    put(tmp_path, cat__a="one", dog__a="two", dog__b="x")
    labels = read_labels(tmp_path, ("cat", "dog"))
    assert labels == {"b": (1,)}
    with pytest.raises(LabelsError, match=r"dog/a\.jpg: another photo than .*cat/a\.jpg, of the same name"):
        labels.of("a")


def test_other_folders_are_none(tmp_path: Path) -> None:
    put(tmp_path, cat__a="1", b="2")
    assert format_of(tmp_path).NAME != NAME, "photos beside the folders"
    assert find_images(tmp_path, labels=tmp_path) == [tmp_path / "b.jpg"]
    put(tmp_path / "voc", JPEGImages__a="1")
    assert format_of(tmp_path / "voc").NAME != NAME
    assert format_of(tmp_path / "gone").NAME != NAME
