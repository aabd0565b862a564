"""Corrected masks from a labelling tool, as palette PNGs again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pixaff.errors import FormatError, OutputError, UsageError
from pixaff.events import Callback, Event, silent
from pixaff.io.exports import cvat, labelstudio
from pixaff.io.labels import nfc, read_classes
from pixaff.io.masks import VOID, read_mask, write_mask
from pixaff.stages.batch.executors import default_workers, in_threads
from pixaff.stages.batch.inputs import existing_folder
from pixaff.stages.batch.mask_folders import files_by_stem
from pixaff.stages.batch.plan import check_files
from pixaff.stages.batch.record import NAME as RECORD
from pixaff.stages.batch.record import read_record, write_record
from pixaff.stages.batch.report import Report
from pixaff.stages.batch.run import describe

COMMAND = "import"
TOOLS: dict[str, ModuleType] = {"cvat": cvat, "labelstudio": labelstudio}


@dataclass
class Imported(Report):
    """The masks that came back.

    Attributes:
        changed: Share of the pixels that differ from the mask before, by name; only of masks that do.
        untouched: Images in the file that nobody has annotated.
    """

    changed: dict[str, float] = field(default_factory=dict)
    untouched: list[str] = field(default_factory=list)


def import_masks(
    source: str | Path,
    out: str | Path,
    *,
    masks: str | Path | None = None,
    classes: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    report: Callback = silent,
) -> Imported:
    """Write ``out/NAME.png`` for each mask that a labelling tool gives back.

    Args:
        source: CVAT's "Segmentation mask 1.1", a zip archive or the folder from it; or Label Studio's JSON export.
        out: Folder for the masks; it may be that of the masks before, with ``overwrite``.
        masks: Folder of the masks before: their class list counts, the report tells which of them changed, and where
            background came back for void, which labelling tools do not know, it is void again.
        classes: Class list. Without it, the classes recorded beside ``masks``; else those of CVAT's label map.
        overwrite: Replace masks in ``out``.
        workers: Number of threads; default all processors.
        report: Receives an `Event` for each mask, whose data have "changed": the share of changed pixels.

    Raises:
        UsageError: The source is of no known kind, or masks would be replaced.
        FormatError: The source is damaged, or has labels that are no classes.
        LabelsError: The class list cannot be read.
        OutputError: The output cannot be written.
    """
    started, source, out = time.monotonic(), Path(source), Path(out)
    tool = next((name for name, module in TOOLS.items() if module.detect(source)), None)
    if tool is None:
        what = "found nothing there" if not source.exists() else "found no export of a labelling tool"
        hint = 'CVAT: "Segmentation mask 1.1"; Label Studio: JSON'
        raise UsageError(f"{source}: {what}, expected a zip archive, its folder or a JSON file", hint)
    before = {} if masks is None else files_by_stem(existing_folder(masks), (".png",), recursive=True)
    recorded = (read_record(Path(masks)) or {}).get("classes") if masks is not None else None
    names = read_classes(classes) if classes is not None else recorded if isinstance(recorded, list) else None
    result = Imported()
    with TOOLS[tool].corrected(source, names) as found:
        check_files([*(out / f"{name}.png" for name in found.names), out / RECORD], [source, classes])
        there = [name for name in found.names if (out / f"{name}.png").exists()]
        if there and not overwrite:
            raise UsageError(f"{out}: found {there[0]}.png in it, expected a new folder", "--overwrite replaces masks")
        settings = {"from": tool, "source": str(source), "masks": None if masks is None else str(masks)}
        report(Event("settings", COMMAND, data=settings))
        report(Event("begin", COMMAND, total=len(found.names)))

        def convert(path: Path) -> Mapping[str, Any]:
            name = path.relative_to(out).with_suffix("").as_posix()
            mask, old = found.read(name), before.get(nfc(name))
            share: float | None = None
            if old is not None:
                last = read_mask(old, len(found.classes))
                if last.shape != mask.shape:
                    raise FormatError(
                        f"{name}: found {mask.shape[1]} x {mask.shape[0]} pixels, "
                        f"expected {last.shape[1]} x {last.shape[0]} as in {old}",
                        "is it the mask of another photo?",
                    )
                mask[(mask == 0) & (last == VOID)] = VOID
                share = float((mask != last).mean())
            write_mask(path, mask)
            return {} if share is None else {"changed": share}

        paths = [out / f"{name}.png" for name in found.names]
        # An archive is read by one thread at a time.
        count = 1 if source.is_file() and tool == "cvat" else workers or default_workers()
        with closing(in_threads(paths, convert, workers=count)) as outcomes:
            for path, outcome in outcomes:
                name = path.relative_to(out).as_posix()
                if isinstance(outcome, OutputError):
                    raise outcome
                if isinstance(outcome, BaseException):
                    result.failed.append((name, describe(outcome)))
                    report(Event("failed", COMMAND, result.failed[-1][1], photo=path))
                    continue
                if outcome.get("changed"):
                    result.changed[name] = outcome["changed"]
                result.done.append(name)
                report(Event("done", COMMAND, photo=path, outputs=(path,), data=outcome))
        result.untouched.extend(found.untouched)
        facts = {"images": len(found.names), "done": len(result.done), "failed": dict(result.failed)}
        changed = {name: round(share, 6) for name, share in result.changed.items()}
        write_record(out, COMMAND, settings, classes=list(found.classes), changed=changed, **facts)
    result.seconds = time.monotonic() - started
    report(Event("end", COMMAND, data=result.counts()))
    return result
