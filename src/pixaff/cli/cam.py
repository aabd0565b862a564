"""`pixaff cam`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.model_options import ModelOptions
from pixaff.run_options import BatchOptions
from pixaff.settings import Settings


@options.options_from(ConsoleOptions, into="say")
@options.options_from(BatchOptions, command="cam", into="given")
@options.options_from(Settings, command="cam", into="given")
@options.options_from(ModelOptions, command="cam", into="given")
def cam(
    photos: options.AllPhotos,
    given: dict[str, Any],
    say: dict[str, Any],
    out: options.Out,
    labels: options.Labels = "predict",
    listing: options.List = None,
    format: options.Format = "npz",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write DIR/overlays/NAME.jpg: a heat map for each class.")
    ] = False,
    null: options.Null = False,
) -> None:
    """Make the class activation maps (CAMs) of photos.

    They tell where in each photo a classifier sees its classes. Writes DIR/NAME.npz.

    Settings that are not given are the model's own, or the preset's; the defaults below are those of lite.
    """
    with Console(**say) as console:
        report = pixaff.cam(
            options.given_photos(photos, null),
            out,
            labels=labels,
            listing=listing,
            format=format,
            overlay=overlay,
            report=console,
            **given,
        )
    end(console, "cam", report, out)
