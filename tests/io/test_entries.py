"""Which entries of a folder are photos."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixaff.io.entries import Kind, kind_of, photo_names, sort_folder


def sorted_kinds(folder: Path, *names: str) -> dict[str, tuple[str, str]]:
    for name in names:
        (folder / name).touch()
    found = sort_folder(folder)
    assert [path.name for path, _ in found] == sorted(path.name for path, _ in found)
    return {path.name: (kind.kind, kind.why) for path, kind in found}


def test_a_folder_is_sorted_by_name_alone(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    ours = (".hidden.jpg", "labels.csv", "classes.txt", "run.json", "a.npz", "a.xml")
    found = sorted_kinds(tmp_path, "b.JPG", "a.png", "notes.txt", "scan0001", *ours)
    assert found == {
        **dict.fromkeys((*ours, "sub"), ("ours", "")),
        # What is not named like a photo is tried, to be named if it is none.
        **dict.fromkeys(("b.JPG", "a.png", "notes.txt", "scan0001"), ("photo", "")),
    }


def test_case_backup_copy_beside_photo(tmp_path: Path) -> None:
    beside = ("sheep.jpg_original", "sheep.jpg~", "sheep.jpg.bak", "sheep.jpg.xmp", "sheep.txt", "SHEEP.mov", "sheep")
    found = sorted_kinds(tmp_path, "sheep.jpg", "train.txt", "cat.v2.jpg", "cat.v2.txt", "sheep.2.heic", *beside)
    assert found == {
        **dict.fromkeys(("sheep.jpg", "cat.v2.jpg"), ("photo", "")),
        **dict.fromkeys(beside, ("ignored", "beside the photo sheep.jpg")),
        "cat.v2.txt": ("ignored", "beside the photo cat.v2.jpg"),
        # There is no photo of these stems: they are tried.
        "train.txt": ("photo", ""),
        "sheep.2.heic": ("photo", ""),
    }


def test_files_of_file_managers_are_passed_over(tmp_path: Path) -> None:
    names = ("Thumbs.db", ".DS_Store", "desktop.ini")
    found = sorted_kinds(tmp_path, "a.jpg", *names)
    assert found == {"a.jpg": ("photo", ""), **dict.fromkeys(names, ("ignored", "of a file manager"))}


def test_case_camera_raw_thumbnail(tmp_path: Path) -> None:
    raw = "found a camera's raw file, of which only a thumbnail can be read"
    assert sorted_kinds(tmp_path, "DSC_0001.JPG", "DSC_0001.NEF", "DSC_0002.NEF") == {
        "DSC_0001.JPG": ("photo", ""),
        "DSC_0001.NEF": ("ignored", "beside the photo DSC_0001.JPG"),
        "DSC_0002.NEF": ("failed", raw),
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_case_pipes_and_loops(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("absent/gone.jpg")
    (tmp_path / "there.jpg").symlink_to("good.png")
    (tmp_path / "store").symlink_to(".")  # a folder
    os.mkfifo(tmp_path / "good.txt")  # beside a photo, so nothing of ours
    assert sorted_kinds(tmp_path, "good.png") == {
        "fifo.jpg": ("failed", "found a named pipe (FIFO), expected a file"),
        "loop.jpg": ("failed", "found a link that leads back to itself, expected a file"),
        "gone.jpg": ("failed", "found a link to a file that is not there (absent/gone.jpg), expected a file"),
        "there.jpg": ("photo", ""),
        "store": ("ours", ""),
        "good.png": ("photo", ""),
        "good.txt": ("ignored", "beside the photo good.png"),
    }


def test_a_file_that_somebody_named_is_taken_at_its_word(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "sheep.jpg_original") == Kind("photo")
    assert kind_of(tmp_path / "Thumbs.db") == Kind("photo")
    assert kind_of(tmp_path).why == "found a folder, expected a file"
    assert kind_of(tmp_path / "a.nef").kind == "failed"


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).touch()
    assert [(path.name, kind.kind) for path, kind in sort_folder(tmp_path)] == [(name, "photo")]
    assert photo_names([name]) == {os.fsdecode(b"caf\xe9"): name}
