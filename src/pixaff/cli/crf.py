"""`pixaff crf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.model_options import ModelOptions
from pixaff.run_options import RunOptions
from pixaff.settings import Settings


@options.options_from(ConsoleOptions, into="say")
@options.options_from(RunOptions, command="crf", into="given")
@options.options_from(ModelOptions, command="crf", into="given")
@options.options_from(Settings, command="crf", into="given")
def crf(
    photos: options.Photos,
    given: dict[str, Any],
    say: dict[str, Any],
    cams: Annotated[
        Path, typer.Option("--cams", metavar="DIR", help="Folder of CAMs, made by pixaff or by another program.")
    ],
    out: options.Out,
    preset: options.Preset = None,
    format: options.Format = "npz",
    hard: Annotated[
        bool, typer.Option("--hard", help="Write DIR/NAME.png instead: confident labels for train-irn, 255 elsewhere.")
    ] = False,
    listing: options.List = None,
    null: options.Null = False,
) -> None:
    """Refine CAMs with a dense CRF, for two alphas. Writes DIR/low/NAME.npz and DIR/high/NAME.npz.

    Settings that are not given are the preset's; the defaults below are those of lite.
    """
    with Console(**say) as console:
        report = pixaff.crf(
            options.given_photos(photos, null),
            cams,
            out,
            preset=preset or "lite",
            listing=listing,
            format=format,
            hard=hard,
            report=console,
            **given,
        )
    end(console, "crf", report, out)
