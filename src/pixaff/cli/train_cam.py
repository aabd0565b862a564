"""`pixaff train-cam`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pixaff
from pixaff.cli import options, training
from pixaff.cli.console import Console, end
from pixaff.cli.numbers import whole_range


def train_cam(
    photos: options.Photos,
    labels: training.GivenLabels,
    classes: Annotated[Path, typer.Option("--classes", metavar="FILE", help="Class names, one a line.")],
    out: options.Out,
    listing: options.List = None,
    model: training.Network = "lite_cam",
    init: training.Init = None,
    reset_head: training.ResetHead = False,
    crf_low: Annotated[
        str | None,
        typer.Option("--crf-low", metavar="DIR", help="Train the pixel head, on these posteriors."),
    ] = None,
    crf_high: Annotated[
        str | None, typer.Option("--crf-high", metavar="DIR", help="And on these, with little background.")
    ] = None,
    size: Annotated[str, typer.Option("--size", metavar="MIN:MAX", help="Range of the random long side.")] = "256:512",
    crop: training.Crop = 448,
    epochs: training.Epochs = None,
    batch_size: training.BatchSize = None,
    lr: training.LearningRate = None,
    optimizer: training.Optimizer = None,
    weight_decay: training.WeightDecay = None,
    backbone_lr_scale: training.BackboneLrScale = None,
    head_lr_scale: training.HeadLrScale = None,
    clip_norm: training.ClipNorm = None,
    precision: training.Precision = None,
    seed: training.Seed = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    save_every: training.SaveEvery = 300.0,
    resume: training.Resume = False,
    overwrite: training.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Train the classifier of activation maps on photos with image-level labels. Writes DIR/cam.safetensors."""
    from pixaff.models.registry import cam_recipe, head_recipe

    recipe = training.with_given((None if crf_low is None else head_recipe(model)) or cam_recipe(model), locals())
    with Console(as_json) as console:
        trained = pixaff.train_cam(
            photos,
            labels,
            classes,
            out,
            model=model,
            init=init,
            reset_head=reset_head,
            listing=listing,
            crf_low=crf_low,
            crf_high=crf_high,
            size=whole_range(size, "--size"),
            crop=crop,
            recipe=recipe,
            device=device,
            workers=workers,
            save_every=save_every,
            resume=resume,
            overwrite=overwrite,
            report=console,
        )
    end(console, "train-cam", trained, trained.path)
