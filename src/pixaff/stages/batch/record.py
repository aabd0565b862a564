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
from pixaff.events import Callback, Event
from pixaff.io.atomic import write_text
from pixaff.settings import value_words

NAME = "run.json"
OTHERS = "other_settings"
MADE = ("settings", "versions", "written", "device")
"""What a record says of how the outputs were made."""


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

    With ``counts`` among the facts, the record keeps to the outputs that are there: a run that made none of them leaves
    the settings, versions and device that did; one that made some keeps those of the skipped under "other_settings".

    Raises:
        OutputError: The folder cannot be written.
    """
    record = {
        "command": command,
        "settings": _plain(settings),
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
    }
    before, counts = _record_of(out, command), facts.get("counts")
    if before is not None and counts is not None:
        if not counts["done"]:
            record |= {name: before[name] for name in (*MADE, OTHERS) if name in before}
        elif counts["skipped"]:
            others = [made for made in _all_settings(before) if made != record["settings"]]
            record |= {OTHERS: others} if others else {}
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
    record = None if overwrite else _record_of(out, command)
    now = _plain(settings)
    if record is None:
        if not (out / NAME).exists():  # a run that is killed shall be known by its settings too
            write_record(out, command, settings, device=device)
        return
    for before in _all_settings(record):
        changed = [
            f"{name} {_words(before, name)} -> {_words(now, name)}"
            for name in dict.fromkeys((*now, *before))
            if before.get(name) != now.get(name)
        ]
        if changed:
            text = f"{out} holds outputs made with other settings ({', '.join(changed)}); they stay without --overwrite"
            report(Event("warning", command, text))


def _record_of(out: Path, command: str) -> dict[str, Any] | None:
    """The record of an earlier run of the same command."""
    record = read_record(out)
    return record if record is not None and record.get("command") == command else None


def _all_settings(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of a record, first, and of the outputs that its run skipped."""
    others = record.get(OTHERS)
    found = [record.get("settings"), *(others if isinstance(others, list) else [])]
    return [settings for settings in found if isinstance(settings, dict)]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain


def _words(settings: Mapping[str, Any], name: str) -> str:
    return value_words(settings[name]) if name in settings else "none"
