from __future__ import annotations

import pickle

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
