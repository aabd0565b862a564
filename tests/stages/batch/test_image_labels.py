from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from pixaff.errors import LabelsError, UsageError
from pixaff.events import Event
from pixaff.io.labels import Labels
from pixaff.stages.batch.image_labels import ask_about, labels_of, read_given_labels
from pixaff.stages.batch.inputs import find_images

CLASSES = ("cat", "dog")
PHOTOS = [Path("photos/a.jpg"), Path("photos/b.jpg"), Path("photos/c.jpg")]


def given(folder: Path, text: str, said: list[str], listed: bool = False) -> Labels:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")

    def report(event: Event) -> None:
        said.append(f"{event.kind} {event.text}")

    labels = read_given_labels(path, CLASSES, PHOTOS, command="cam", listed=listed, report=report)
    assert labels is not None
    return labels


def test_labels_of_photos(tmp_path: Path) -> None:
    said: list[str] = []
    labels = given(tmp_path, "a,cat\nb,\nc,cow\n", said)
    assert labels_of(PHOTOS[0], labels, "") == (0,)
    assert labels_of(PHOTOS[1], labels, "") == (), "it shows no class, which is not the same as None"
    with pytest.raises(LabelsError, match=r'line 3: found unknown class "cow"'):
        labels_of(PHOTOS[2], labels, "")
    with pytest.raises(LabelsError, match=r'no entry for "d"'):
        labels_of(Path("d.jpg"), labels, "")
    assert labels_of(PHOTOS[0], None, "predict") is None
    assert said == []


def test_predicted_labels_are_not_read() -> None:
    assert read_given_labels("predict", CLASSES, PHOTOS, command="cam", listed=False, report=print) is None


def test_what_belongs_to_no_photo_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    given(tmp_path, f"a,cat\nx,cow\ny\x1b[2J,cat\n{'z' * 500},cat\nw,cat\n,dog\n,cat\n", said)
    assert said[0].startswith("warning ")
    assert "no photo for 4 labelled images: x, y\\x1b[2J, zzz" in said[0]
    assert said[0].endswith(", ...")
    assert len(said[0]) < 300
    assert said[1].endswith("labels.csv, line 6: found no image name; and 1 more such line")
    said.clear()
    given(tmp_path, "a,cat\nx,cow\n", said, listed=True)
    assert said == []


def test_questions_end_a_training_or_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    labels = given(tmp_path, "a,cat\nb,cat\n", said)

    def report(event: Event) -> None:
        said.append(event.text)

    with pytest.raises(UsageError, match=r'all of 2 photos show "cat".*\(--yes trains on the labels as they are\)'):
        ask_about(labels, CLASSES, listed=True, yes=False, command="fit", report=report)
    assert said == []
    ask_about(labels, CLASSES, listed=True, yes=True, command="fit", report=report)
    assert [text.split(",")[0] for text in said] == ['all of 2 photos show "cat"']
    ask_about(None, CLASSES, listed=True, yes=False, command="fit", report=report)


def test_case_decomposed_names_in_folders_and_lists(tmp_path: Path) -> None:
    photo = tmp_path / f"{unicodedata.normalize('NFD', 'forêt-été')}.jpg"
    photo.write_bytes(b"x")
    (tmp_path / "other.jpg").write_bytes(b"x")
    listing = tmp_path / "list.txt"
    listing.write_text("forêt-été\n", encoding="utf-8")
    (found,) = find_images(tmp_path, listing)
    assert found == photo, "the photo's own form"
    labels = Labels("memory", {"forêt-été": (1,)})
    assert labels_of(found, labels, "memory") == (1,)


def test_case_list_with_a_name_too_long_becomes_a_photo_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"x")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{'y' * 5000}\nb\n")
    absent, there = find_images(tmp_path, listing)
    assert there.name == "b.jpg"
    assert not absent.exists()
    assert len(absent.name) < 100
