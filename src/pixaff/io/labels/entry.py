"""What a label file says of one image, before the classes are known."""

from __future__ import annotations

from dataclasses import dataclass

from pixaff.errors import LabelsError


@dataclass(frozen=True)
class Entry:
    """The labels of one image as a file has them.

    Attributes:
        names: Class names, as written.
        where: The file, and the line where it has many images.
        problem: Why the entry cannot be used; None if it can.
    """

    names: tuple[str, ...]
    where: str
    problem: LabelsError | None = None
