from __future__ import annotations

import io
from pathlib import Path

import pytest

from pixaff.errors import LabelsError, UsageError
from pixaff.stages.batch.inputs import default_out, find_images


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


def test_two_photos_of_one_stem_are_refused_but_not_a_photo_and_its_caption(tmp_path):
    touch(tmp_path, "a.jpg", "a.txt")
    assert names(find_images(tmp_path)) == ["a.jpg", "a.txt"]
    touch(tmp_path, "a.png")
    with pytest.raises(UsageError, match=r"a\.jpg.*a\.png"):
        find_images(tmp_path)


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
