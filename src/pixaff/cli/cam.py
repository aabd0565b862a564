"""`pixaff cam`."""

from __future__ import annotations

from typing import Annotated

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, end
from pixaff.cli.numbers import optional_numbers


def cam(
    photos: options.Photos,
    out: options.Out,
    model: options.Model = None,
    labels: options.Labels = "predict",
    classes: options.Classes = None,
    listing: options.List = None,
    preset: options.Networks = None,
    cam_weights: options.CamWeights = None,
    weights_dir: options.WeightsDir = None,
    scales: options.Scales = None,
    flip: options.Flip = None,
    size: options.Size = None,
    label_threshold: options.LabelThreshold = None,
    format: Annotated[
        str, typer.Option("--format", metavar="npz|psa|irn", help="Ours, or what the programs PSA or IRN read (.npy).")
    ] = "npz",
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Class activation maps: where in each photo the classifier sees its classes. Writes DIR/NAME.npz."""
    with Console(as_json) as console:
        report = pixaff.cam(
            photos,
            out,
            model=model,
            labels=labels,
            classes=classes,
            listing=listing,
            preset=preset,
            cam_weights=cam_weights,
            weights_dir=weights_dir,
            scales=optional_numbers(scales, "--scales"),
            flip=flip,
            size=size,
            label_threshold=label_threshold,
            format=format,
            precision=precision,
            device=device,
            batch_size=batch_size,
            workers=workers,
            overwrite=overwrite,
            report=console,
        )
    end(console, "cam", report, out)
