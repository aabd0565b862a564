from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pixaff import errors

CHILDREN = [
    errors.UsageError,
    errors.ImageError,
    errors.LabelsError,
    errors.FormatError,
    errors.CheckpointError,
    errors.OutputError,
    errors.DownloadError,
    errors.DeviceError,
]


def test_str_is_one_line_with_the_hint_in_brackets() -> None:
    error = errors.ImageError("a.jpg:\n  truncated\tfile", "copy it\nagain")
    assert str(error) == "a.jpg: truncated file (copy it again)"
    assert (error.message, error.hint) == ("a.jpg: truncated file", "copy it again")


def test_no_brackets_without_a_hint() -> None:
    assert str(errors.PixaffError("disk on fire")) == "disk on fire"


@pytest.mark.parametrize("kind", CHILDREN)
def test_every_kind_is_a_pixaff_error_and_survives_pickling(kind: type[errors.PixaffError]) -> None:
    error = pickle.loads(pickle.dumps(kind("found 3, expected 4", "add one")))
    assert type(error) is kind
    assert isinstance(error, errors.PixaffError)
    assert str(error) == "found 3, expected 4 (add one)"


def test_only_usage_errors_exit_with_2() -> None:
    assert [kind for kind in CHILDREN if kind.exit_code != 1] == [errors.UsageError]
    assert errors.UsageError.exit_code == 2


def test_foreign_text_is_cut_and_its_control_characters_are_escaped() -> None:
    assert errors.quoted("été 1.jpg") == '"été 1.jpg"'
    assert errors.quoted("a\x1b[2J\nb\udce9") == '"a\\x1b[2J\\nb\\udce9"'
    assert errors.shortened("x" * 80) == "x" * 80
    assert errors.shortened("x" * 100 + "end.jpg") == "x" * 57 + "..." + "x" * 13 + "end.jpg"
    assert len(errors.quoted("x" * 10_000_000)) == 82
    assert errors.shortened(Path("a/b")) == str(Path("a/b"))


def test_first_few() -> None:
    assert errors.first_few([]) == ""
    assert errors.first_few(["a", 2, "c"]) == "a, 2, c"
    assert errors.first_few(iter("abcd")) == "a, b, c, ..."
    assert errors.first_few(["x\ny", "b"], 1) == "x\\ny, ..."


def test_numbers_and_what_they_count() -> None:
    assert errors.counted(1, "image") == "1 image"
    assert errors.counted(0, "image") == "0 images"
    assert errors.counted(2000, "class", "classes") == "2,000 classes"


def test_control_characters_in_messages_are_escaped() -> None:
    error = errors.ImageError("a\x1b[2J.jpg: caf\udce9", "re\x00name it")
    assert str(error) == "a\\x1b[2J.jpg: caf\\udce9 (re\\x00name it)"
    str(error).encode()
