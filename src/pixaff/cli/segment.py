"""`pixaff segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.model_options import ModelOptions
from pixaff.run_options import BatchOptions
from pixaff.settings import SegSettings


@options.options_from(ConsoleOptions, into="say")
@options.options_from(BatchOptions, command="segment", into="given")
@options.options_from(SegSettings, into="given")
@options.options_from(ModelOptions, command="segment", into="given")
def segment(
    photos: options.AllPhotos,
    given: dict[str, Any],
    say: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the masks; default: PHOTOS-masks.")
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            "-l",
            metavar="predict|inside|FILE|DIR",
            help="Allow all classes, or those that the labels give a photo: a table, a folder per class, or what a "
            "labelling tool exports; or those inside tar or Parquet shards.",
        ),
    ] = "predict",
    listing: options.List = None,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Also write DIR/overlays/NAME.jpg: the photo with its mask and class names."),
    ] = False,
    null: options.Null = False,
) -> None:
    """Make masks of photos with a segmentation network.

    It needs no labels and one forward pass a photo. Writes DIR/NAME.png in the Pascal VOC colours.

    Settings that are not given are the model's own. See pixaff train-seg.
    """
    from pixaff.stages.batch.inputs import default_out

    out = out or default_out(photos, "masks")
    with Console(**say, photos_of=("segment",)) as console:
        report = pixaff.segment(
            options.given_photos(photos, null),
            out,
            labels=labels,
            listing=listing,
            overlay=overlay,
            report=console,
            **given,
        )
    end(console, "segment", report, out)
