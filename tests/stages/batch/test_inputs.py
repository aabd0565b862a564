from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from pixaff.errors import LabelsError, UsageError
from pixaff.stages.batch.inputs import default_out, find_images, single_file


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_gives_its_files_in_order_without_ours_and_hidden_ones(tmp_path):
    touch(
        tmp_path,
        "b.JPG",
        "a.png",
        "notes.txt",
        "labels.csv",
        "classes.txt",
        "run.json",
        "a.npz",
        "a.xml",
        ".hidden.jpg",
    )
    (tmp_path / "sub").mkdir()
    touch(tmp_path / "sub", "c.jpg")
    # notes.txt stays in, to be named when it cannot be read.
    assert names(find_images(tmp_path)) == ["a.png", "b.JPG", "notes.txt"]


def test_files_folders_and_standard_input_add_up_without_repeats(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    touch(tmp_path / "one", "a.jpg")
    touch(tmp_path, "b.jpg", "c.jpg")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{tmp_path / 'c.jpg'}\n\n{tmp_path / 'b.jpg'}\n"))
    found = find_images([tmp_path / "one", tmp_path / "b.jpg", "-"])
    assert names(found) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_list_orders_and_a_listed_photo_that_is_absent_stays_to_fail_by_name(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    listing = tmp_path / "list.txt"
    listing.write_text("c\ngone\na.jpg\n")
    found = find_images(tmp_path, listing)
    assert [path.stem for path in found] == ["c", "gone", "a"]
    assert not found[1].exists()


def test_the_list_of_another_data_set_is_refused(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.txt").write_text("x\ny\n")
    with pytest.raises(LabelsError, match="none of them"):
        find_images(tmp_path, tmp_path / "list.txt")


def test_what_plainly_is_no_photo_is_passed_over_and_counted(tmp_path):
    touch(tmp_path, "a.jpg", "a.txt", "Thumbs.db")
    events = []
    assert names(find_images(tmp_path, command="cam", report=events.append)) == ["a.jpg"]
    assert [(event.kind, event.command) for event in events] == [("note", "cam")]
    assert events[0].text == "ignored 2 files that are not photos: Thumbs.db, a.txt"


def test_inputs_of_which_none_exists_are_refused_and_an_absent_one_among_others_is_kept(tmp_path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match=r"phtos: no such file or folder \(and 1 more\) \(check the path\)"):
        find_images([tmp_path / "phtos", tmp_path / "b.jpg"])
    with pytest.raises(UsageError, match=r"found the address https://example\.com/a\.jpg, .*download it first"):
        find_images("https://example.com/a.jpg")
    assert names(find_images([tmp_path / "a.jpg", tmp_path / "gone.jpg"])) == ["a.jpg", "gone.jpg"]


def test_standard_input_may_be_empty_or_hold_names_separated_by_nul(tmp_path, monkeypatch):
    for data, expected in (
        (b"", []),
        (b"a b.jpg\0c\nd.jpg\0", ["a b.jpg", "c\nd.jpg"]),
        (b"caf\xe9.jpg\n", [os.fsdecode(b"caf\xe9.jpg")]),
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert names(find_images("-")) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff\xe0")))
    with pytest.raises(UsageError, match="found an image on standard input, expected paths"):
        find_images("-")


def test_one_photo_may_be_written_to_a_file_of_its_own(tmp_path):
    assert single_file(tmp_path / "x.png", [Path("a.jpg")])
    assert not single_file(tmp_path / "x", [Path("a.jpg")])
    (tmp_path / "folder.png").mkdir()
    assert not single_file(tmp_path / "folder.png", [Path("a.jpg")])
    with pytest.raises(UsageError, match=r"found 2 photos and one output file, .*x\.png"):
        single_file(tmp_path / "x.png", [Path("a.jpg"), Path("b.jpg")])


def test_no_photos_is_a_usage_error(tmp_path):
    touch(tmp_path, "labels.csv")
    with pytest.raises(UsageError, match="no photos in"):
        find_images(tmp_path)


def test_default_output_lies_beside_the_input(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    touch(tmp_path, "cat.v2.jpg")
    assert default_out([f"{tmp_path}/photos/"], "masks") == tmp_path / "photos-masks"
    assert default_out([tmp_path / "cat.v2.jpg"], "masks") == tmp_path / "cat.v2-masks"
    monkeypatch.chdir(tmp_path / "photos")
    assert default_out(["."], "masks") == tmp_path / "photos-masks"
    assert default_out([".."], "masks") == tmp_path.parent / f"{tmp_path.name}-masks"
    for unclear in (["-"], ["a", "b"]):
        with pytest.raises(UsageError, match="--out"):
            default_out(unclear, "masks")
