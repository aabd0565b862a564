"""Published weights: a catalogue of what there is, sources to fetch it from, and a cache in which it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixaff.weights.obtain import fetch as fetch

__all__ = ["fetch"]


def __getattr__(name: str) -> Any:
    """`fetch`, imported when it is first used: a network's file, which states where its weights are, needs none of it.

    Raises:
        AttributeError: There is no such name.
    """
    if name != "fetch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pixaff.weights.obtain import fetch

    return fetch
