"""`pixaff crf`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, end


def crf(
    photos: options.Photos,
    cams: Annotated[Path, typer.Option("--cams", metavar="DIR", help="Activation maps, ours or another program's.")],
    out: options.Out,
    crf_low: options.CrfLow = None,
    crf_high: options.CrfHigh = None,
    preset: options.Preset = None,
    size: options.Size = None,
    engine: options.Engine = "auto",
    format: Annotated[
        str, typer.Option("--format", metavar="npz|psa", help="Ours, or what the program PSA reads (.npy).")
    ] = "npz",
    listing: options.List = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Dense CRF over activation maps, with two backgrounds. Writes DIR/low/NAME.npz and DIR/high/NAME.npz."""
    with Console(as_json) as console:
        report = pixaff.crf(
            photos,
            cams,
            out,
            preset=preset or "lite",
            crf_low=crf_low,
            crf_high=crf_high,
            size=size,
            engine=engine,
            format=format,
            listing=listing,
            device=device,
            workers=workers,
            overwrite=overwrite,
            report=console,
        )
    end(console, "crf", report, out)
