"""Which image a name means, where equal stems lie in different folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.io.labels import Wanted, read_labels

NESTED = ("a/b/x", "a/c/x", "a/y", "z")


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("a/b/x.jpg", ["a/b/x"]),
        ("a\\b\\x.jpg", ["a/b/x"]),
        ("./a//b/x.png", ["a/b/x"]),
        ("/home/me/photos/a/b/x.jpg", ["a/b/x"]),
        ("c/x.jpg", ["a/c/x"]),
        ("x.jpg", ["a/b/x", "a/c/x"]),
        ("elsewhere/x.jpg", ["a/b/x", "a/c/x"]),
        ("y", ["a/y"]),
        ("elsewhere/y", ["a/y"]),
        ("folder/z.jpg", ["z"]),
        ("b", []),
    ],
)
def test_case_names(name: str, images: list[str]) -> None:
    assert list(Wanted(NESTED).find(name).images) == images


def test_without_folders_the_stem_decides() -> None:
    wanted = Wanted(["x", "y"])
    assert wanted.find("a/b/x.jpg") == wanted.find("x")
    assert list(wanted.find("x").images) == ["x"]


def test_a_path_comes_before_a_stem_and_a_stem_of_two_images_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,labels\nx.jpg,dog\na/b/x.jpg,cat\nelse/y.jpg,dog\na/y.jpg,cat\nz.jpg,dog\nother/q.jpg,cat\n")
    labels = read_labels(path, ("cat", "dog"), NESTED)
    assert labels == {"a/b/x": (0,), "a/y": (0,), "z": (1,)}
    assert (
        'line 2: found "x.jpg", which may be "a/b/x" or "a/c/x" (write it with its folder)' in labels.problems["a/c/x"]
    )
    assert labels.others == ("other/q",)


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,labels\na/b/x.jpg,cat\na/y.jpg,cat\nelse/y.jpg,dog\nc/x,cat\nx.jpg,dog\nz,\n")
    assert read_labels(path, ("cat", "dog"), NESTED) == {"a/b/x": (0,), "a/c/x": (0,), "a/y": (0,), "z": ()}
