"""`pixaff report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end


@options.options_from(ConsoleOptions, into="say")
def report(
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks.")],
    say: dict[str, Any],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page, a file that ends in .html.")],
    photos: options.MaskedPhotos = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option("--gt", metavar="DIR", help="Folder of ground truth to compare with. Default: none."),
    ] = None,
    listing: options.List = None,
    recursive: options.Recursive = False,
    classes: options.Classes = None,
    void: options.Void = None,
    side: Annotated[
        int,
        typer.Option("--side", metavar="PIXELS", min=64, max=2000, help="Long side of the photos on the page."),
    ] = 320,
    workers: options.Workers = None,
) -> None:
    """Make a page to look at masks and judge them.

    Choose alpha by eye, and accept or reject.
    """
    with Console(**say) as console:
        made = pixaff.report(
            masks,
            out,
            photos=photos or None,
            ground_truth=ground_truth,
            listing=listing,
            recursive=recursive,
            classes=classes,
            void=void,
            side=side,
            workers=workers,
            report=console,
        )
    end(console, "report", made, out)
