"""metrics.jsonl: one JSON object per line, appended during training and cut when a run resumes; and its curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixaff.errors import OutputError
from pixaff.io.atomic import write_text
from pixaff.io.records import parse_json
from pixaff.viz.curve import loss_curve

METRICS = "metrics.jsonl"
CURVE = "loss.png"
POSITION = ("kind", "step", "epoch", "lr", "images_per_second")
"""What every record contains besides the terms of the loss; the kind is "steps" or "epoch"."""


@dataclass
class Mean:
    """Running mean of named values, as plain values that a checkpoint can store."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Count the values of one step."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def values(self) -> dict[str, float]:
        """The means by name."""
        return {name: total / self.count for name, total in self.sums.items()}


def append_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Append one record, and pass it to the operating system.

    Raises:
        OutputError: The file cannot be written.
    """
    path = folder / METRICS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "what was saved before is kept") from error


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All complete records; other lines, such as one cut off by a kill, are ignored. Without a file there are none."""
    path = folder / METRICS
    try:
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
    except OSError:
        lines = []  # a training does not end because of its log
    records = []
    for line in lines:
        with suppress(ValueError):
            if _is_record(found := parse_json(line)):
                records.append(found)
    return records


def _is_record(found: Any) -> bool:
    """Whether a line is what a training writes: a kind, a step, and numbers."""
    if not isinstance(found, dict):
        return False
    numbers = [value for name, value in found.items() if name != "kind"]
    return (
        isinstance(found.get("kind"), str)
        and type(found.get("step")) is int
        and all(type(value) is float or (type(value) is int and abs(value) < 1 << 53) for value in numbers)
    )


def keep_records(folder: Path, step: int) -> None:
    """Drop the records after ``step``: a resumed run repeats those steps."""
    kept = [record for record in read_records(folder) if record["step"] <= step]
    write_text(folder / METRICS, "".join(json.dumps(record) + "\n" for record in kept))


def draw_curve(folder: Path) -> None:
    """Draw the terms of the loss over the steps."""
    records = [record for record in read_records(folder) if record["kind"] == "steps"]
    terms = dict.fromkeys(name for record in records for name in record if name not in POSITION)
    if terms:
        loss_curve(folder / CURVE, records, list(terms))
