"""What a run reports while it works: events, and the callback that receives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Event:
    """Something that a caller may want to show.

    Attributes:
        kind: "settings" (effective settings, in ``data``), "begin" (``total`` images follow), "done", "skipped" or
            "failed" (one image), "progress" (a step of a training, in ``data``), "download" (of weights called
            ``text``; in ``data`` the bytes "done" and "total", which may be None), "stage" (how far a stage of a larger
            run is, in ``data``: see `pixaff.fit`), "note" or "warning" (words), "end".
        command: The command that reports, such as "propagate".
        text: Words: why an image failed, a note, a warning.
        photo: The image that the event is about.
        outputs: Its output files.
        total: Number of images or steps, with "begin"; of stages, with "stage".
        data: Further facts.
    """

    kind: Literal[
        "settings", "begin", "done", "skipped", "failed", "progress", "download", "stage", "note", "warning", "end"
    ]
    command: str
    text: str = ""
    photo: Path | None = None
    outputs: tuple[Path, ...] = ()
    total: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


Callback = Callable[[Event], None]


def silent(event: Event) -> None:
    """A callback that ignores every event."""


def both(first: Callback, second: Callback) -> Callback:
    """A callback that passes every event to two."""

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell
