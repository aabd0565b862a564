"""`run.json`: how the outputs beside it were made, so that a folder explains itself."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff._version import __version__
from pixaff.errors import FormatError
from pixaff.io.atomic import write_text
from pixaff.io.records import read_json
from pixaff.stages.batch.ledger import read_ledger

if TYPE_CHECKING:
    from pixaff.stages.batch.plan import Plan
    from pixaff.stages.batch.report import Report

NAME = "run.json"
OTHERS = "other_settings"


def versions() -> dict[str, str]:
    """Versions of pixaff, Python and the libraries that influence its results, as far as they are installed."""
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
        "settings": _plain(settings),
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **facts,
    }
    write_text(out / NAME, json.dumps(record, indent=2, default=str) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `write_record` wrote, or None if there is no such file or it cannot be read."""
    try:
        record = read_json(folder / NAME, "the record of a run")
    except (FileNotFoundError, FormatError):
        return None
    return record if isinstance(record.get("settings"), dict) else None


def write_run_record(
    plan: Plan,
    made: str,
    settings: Mapping[str, Any],
    result: Report,
    *,
    device: str,
    classes: Sequence[str] | None,
    listing: str | Path | None,
) -> None:
    """Write ``run.json`` of a run over images: what is true of all outputs in the folder, whichever run made them.

    The settings are those of this run if it made something, otherwise those of the run that did; "other_settings" are
    those of the remaining outputs. "failed" names every image whose last attempt failed.

    Raises:
        OutputError: The folder cannot be written.
    """
    ledger = read_ledger(plan.out)  # other processes may have written to it
    done = [line.get("made") for line in ledger.images.values() if line.get("status") == "done"]
    failed = {name: line.get("error") for name, line in ledger.images.items() if line.get("status") == "failed"}
    runs = {each: ledger.runs[each] for each in dict.fromkeys(done) if each in ledger.runs}
    main = made if result.done or made in runs or not runs else max(runs, key=done.count)
    now = settings if main == made else runs[main].get("settings", {})
    others = [run.get("settings") for each, run in runs.items() if each != main]
    facts = {
        "device": device,
        **({} if classes is None else {"classes": list(classes)}),
        **({OTHERS: others} if others else {}),
        "images": len(ledger.images),
        "done": len(done),
        "failed": failed,
        "last_run": {"list": listing, "images": len(plan.photos), **result.counts()},
    }
    write_record(plan.out, plan.command, now, **facts)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain
