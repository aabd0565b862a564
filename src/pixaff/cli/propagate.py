"""`pixaff propagate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pixaff
from pixaff.cli import options
from pixaff.cli.console import Console, end
from pixaff.cli.numbers import optional_numbers


def propagate(
    photos: options.Photos,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the masks; default: PHOTOS-masks.")
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write DIR/overlays/NAME.jpg too.")] = False,
    save_scores: Annotated[
        bool,
        typer.Option("--save-scores", help="Write DIR/scores/NAME.npz too, for evaluate --sweep alpha=FROM:TO:STEP."),
    ] = False,
    model: options.Model = None,
    labels: options.Labels = "predict",
    classes: options.Classes = None,
    cams: Annotated[
        Path | None, typer.Option("--cams", metavar="DIR", help="Refine these activation maps, not the model's own.")
    ] = None,
    listing: options.List = None,
    preset: options.Networks = None,
    cam_weights: options.CamWeights = None,
    affinity_weights: options.AffinityWeights = None,
    weights_dir: options.WeightsDir = None,
    alpha: options.Alpha = None,
    beta: options.Beta = None,
    radius: options.Radius = None,
    steps: options.Steps = None,
    borders: options.Borders = None,
    final_crf: options.FinalCrf = None,
    engine: options.Engine = "auto",
    scales: options.Scales = None,
    flip: options.Flip = None,
    size: options.Size = None,
    label_threshold: options.LabelThreshold = None,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Masks for photos: activation maps, random walk, dense CRF. Writes DIR/NAME.png in VOC's colours.

    Numbers that are not given are the model's own, or the preset's.
    """
    from pixaff.stages.inputs import default_out

    out = out or default_out(photos, "masks")
    with Console(as_json) as console:
        report = pixaff.propagate(
            photos,
            out,
            model=model,
            labels=labels,
            classes=classes,
            cams=cams,
            listing=listing,
            preset=preset,
            cam_weights=cam_weights,
            affinity_weights=affinity_weights,
            weights_dir=weights_dir,
            scales=optional_numbers(scales, "--scales"),
            flip=flip,
            size=size,
            label_threshold=label_threshold,
            alpha=alpha,
            beta=beta,
            radius=radius,
            steps=steps,
            borders=borders,
            final_crf=final_crf,
            engine=engine,
            overlay=overlay,
            save_scores=save_scores,
            precision=precision,
            device=device,
            batch_size=batch_size,
            workers=workers,
            overwrite=overwrite,
            report=console,
        )
    end(console, "propagate", report, out)
