"""`run.json`: what made the outputs beside it, so that a folder explains itself."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pixaff import __version__
from pixaff.io.atomic import write_text

NAME = "run.json"


def versions() -> dict[str, str]:
    """Versions of pixaff, Python and the libraries that shape its results; those not installed are left out."""
    found = {"pixaff": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "numpy", "pillow", "pydensecrf2"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_record(out: Path, command: str, settings: Mapping[str, Any], **facts: Any) -> None:
    """Write ``out/run.json``: the command, its effective settings, the versions and further facts.

    Raises:
        OutputError: The folder cannot be written.
    """
    record = {
        "command": command,
        "settings": dict(settings),
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
    }
    write_text(out / NAME, json.dumps(record, indent=2, default=str) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `write_record` wrote, or None where there is no such file or it is not readable."""
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def changed_settings(out: Path, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ from those of an earlier run into the same folder, as "alpha 3 -> 16"."""
    record = read_record(out)
    before = record.get("settings") if record else None
    if not isinstance(before, dict):
        return []
    now = json.loads(json.dumps(dict(settings), default=str))
    return [
        f"{name} {_words(before[name])} -> {_words(value)}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_words(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
