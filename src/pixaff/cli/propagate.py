"""`pixaff propagate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, ConsoleOptions, end
from pixaff.errors import UsageError
from pixaff.model_options import ModelOptions
from pixaff.run_options import BatchOptions
from pixaff.settings import Settings


@options.options_from(ConsoleOptions, into="say")
@options.options_from(BatchOptions, command="propagate", into="given")
@options.options_from(Settings, command="propagate", into="given")
@options.options_from(ModelOptions, command="propagate", into="given")
def propagate(
    photos: options.AllPhotos,
    given: dict[str, Any],
    say: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the masks; default: PHOTOS-masks.")
    ] = None,
    labels: options.Labels = "predict",
    cams: Annotated[
        Path | None,
        typer.Option("--cams", metavar="DIR", help="Refine the CAMs in this folder; default: the model's own."),
    ] = None,
    listing: options.List = None,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Also write DIR/overlays/NAME.jpg: the photo with its mask and class names."),
    ] = False,
    save_scores: Annotated[
        bool,
        typer.Option(
            "--save-scores",
            help="Also write DIR/scores/NAME.npz, for other alphas: evaluate --sweep, and the slider of report.",
        ),
    ] = False,
    instances: Annotated[
        bool,
        typer.Option("--instances", help="Also write DIR/instances/NAME.png and DIR/instances.json (COCO)."),
    ] = False,
    boundaries: Annotated[
        bool, typer.Option("--boundaries", help="Walk within class boundaries: short for --walk irn.")
    ] = False,
    null: options.Null = False,
) -> None:
    """Make masks of photos by CAMs and a random walk. Writes DIR/NAME.png in the Pascal VOC colours.

    Settings that are not given are the model's own, or the preset's; the defaults below are those of lite.
    """
    from pixaff.stages.batch.inputs import default_out

    out = out or default_out(photos, "masks")
    if boundaries and given.get("walk") not in (None, "irn"):
        raise UsageError(f"found --boundaries and --walk {given['walk']}", "give one of them")
    if boundaries:
        given["walk"] = "irn"
    with Console(**say, photos_of=("propagate",)) as console:
        report = pixaff.propagate(
            options.given_photos(photos, null),
            out,
            labels=labels,
            cams=cams,
            listing=listing,
            overlay=overlay,
            save_scores=save_scores,
            instances=instances,
            report=console,
            **given,
        )
    end(console, "propagate", report, out)
