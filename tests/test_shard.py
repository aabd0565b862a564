"""Shards: every image belongs to one, and to the same one whatever images come and go."""

from __future__ import annotations

import pytest

from pixaff.errors import UsageError
from pixaff.run_options import BatchOptions
from pixaff.shard import Shard

NAMES = [f"folder/photo {number}.jpg" for number in range(2000)]


def test_shards_divide_the_images_evenly() -> None:
    counts = [0] * 8
    for name in NAMES:
        found = [index for index in range(1, 9) if Shard(index, 8).has(name)]
        assert len(found) == 1
        counts[found[0] - 1] += 1
    assert 200 < min(counts) <= max(counts) < 300


def test_the_division_never_changes() -> None:
    """Runs of other versions and on other machines continue it, so these are fixed."""
    found = {name: next(i for i in range(1, 9) if Shard(i, 8).has(name)) for name in ("a.jpg", "b/ü.png", "\udcff.png")}
    assert found == {"a.jpg": 2, "b/ü.png": 6, "\udcff.png": 5}


def test_equal_names_in_unicode_are_one() -> None:
    assert [Shard(i, 8).has("u\u0308.jpg") for i in range(1, 9)] == [Shard(i, 8).has("\u00fc.jpg") for i in range(1, 9)]


@pytest.mark.parametrize("words", ["0/4", "5/4", "4", "1/0", "1/4/2", "-1/4", "a/b", "1 /4", "", "1/99999999", 3])
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match="expected I/N with I from 1 to N"):
        BatchOptions(shard=words)


def test_words_and_names() -> None:
    assert str(Shard.of("2/8")) == "2/8"
    assert Shard.of("2/8").stem == "run-2-of-8"
