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
from pixaff.settings import value_words
from pixaff.stages.runner import Callback, Event

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


def announce(
    out: Path, command: str, settings: Mapping[str, Any], *, device: str, overwrite: bool, report: Callback
) -> None:
    """Report the effective settings, and warn when outputs that will be skipped were made with others."""
    report(Event("settings", command, data={**settings, "device": device}))
    record = None if overwrite else read_record(out)
    before = record.get("settings") if record else None
    if not isinstance(before, dict):
        return
    now = json.loads(json.dumps(dict(settings), default=str))
    changed = [
        f"{name} {value_words(before[name])} -> {value_words(value)}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    if changed:
        text = f"{out} holds outputs made with other settings ({', '.join(changed)}); they stay without --overwrite"
        report(Event("warning", command, text))
