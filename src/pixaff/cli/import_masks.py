"""`pixaff import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.errors import counted, shortened

NAMED = 10


@options.options_from(ConsoleOptions, into="say")
def import_masks(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="EXPORT", help="CVAT's \"Segmentation mask 1.1\" (zip or folder), or Label Studio's JSON."
        ),
    ],
    say: dict[str, Any],
    out: options.Out,
    masks: Annotated[
        Path | None,
        typer.Option("--masks", metavar="DIR", help="Folder of the masks before, to tell what changed; default: none."),
    ] = None,
    classes: options.Classes = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the masks in DIR.")] = False,
    workers: options.Workers = None,
) -> None:
    """Take corrected masks back from CVAT or Label Studio. Writes DIR/NAME.png in the Pascal VOC colours."""
    with Console(**say) as console:
        report = pixaff.import_masks(
            source, out, masks=masks, classes=classes, overwrite=overwrite, workers=workers, report=console
        )
    if masks is not None:
        most = sorted(report.changed.items(), key=lambda each: -each[1])
        words = ", ".join(f"{shortened(name)} ({100 * share:.1f} %)" for name, share in most[:NAMED])
        more = f" and {len(most) - NAMED} more" if len(most) > NAMED else ""
        console.say(f"changed: {counted(len(most), 'mask')}{': ' if most else ''}{words}{more}")
    if report.untouched:
        names = ", ".join(map(shortened, report.untouched[:NAMED]))
        console.say(f"not annotated: {counted(len(report.untouched), 'image')}: {names}")
    end(console, "import", report, out)
