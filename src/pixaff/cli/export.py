"""`pixaff export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end


@options.options_from(ConsoleOptions, into="say")
def export(
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks.")],
    say: dict[str, Any],
    to: Annotated[
        Literal["coco", "yolo", "voc", "mmseg", "index", "cvat", "hf", "imagefolder", "labelstudio"],
        typer.Option("--to", help="Format: of a trainer, of a labelling tool, or plain grey PNGs (index)."),
    ],
    out: options.Out,
    photos: Annotated[
        list[str] | None,
        typer.Option(
            "--photos", metavar="DIR", help="Folder of the photos, to be stored beside the masks. Default: masks alone."
        ),
    ] = None,
    listing: options.List = None,
    recursive: options.Recursive = False,
    classes: options.Classes = None,
    uncertain: Annotated[
        float,
        typer.Option(
            "--uncertain", metavar="M", help="Void (255) where the best two scores differ by less; 0..1, 0: nowhere."
        ),
    ] = 0.0,
    polygons: Annotated[bool, typer.Option("--polygons", help="COCO: polygons in place of run lengths.")] = False,
    min_area: Annotated[
        int,
        typer.Option("--min-area", metavar="PIXELS", min=0, help="Void (255) in regions of fewer pixels."),
    ] = 0,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="PART=SHARE,...",
            help="Parts such as train=0.9,val=0.1, by a hash of the name; default: all train.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier export in DIR.")
    ] = False,
    workers: options.Workers = None,
) -> None:
    """Write masks as a training set, or for a labelling tool."""
    with Console(**say) as console:
        report = pixaff.export(
            masks,
            out,
            to=to,
            photos=photos or None,
            listing=listing,
            recursive=recursive,
            classes=classes,
            uncertain=uncertain,
            polygons=polygons,
            min_area=min_area,
            split=split,
            overwrite=overwrite,
            workers=workers,
            report=console,
        )
    end(console, "export", report, out)
