"""`pixaff train-affinity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pixaff
from pixaff.cli import options, training
from pixaff.cli.console import Console, end


def train_affinity(
    photos: options.Photos,
    crf_low: Annotated[Path, typer.Option("--crf-low", metavar="DIR", help="Posteriors with much background.")],
    crf_high: Annotated[Path, typer.Option("--crf-high", metavar="DIR", help="Posteriors with little background.")],
    out: options.Out,
    listing: options.List = None,
    model: training.Network = "lite_affinity",
    init: training.Init = None,
    size: Annotated[
        int, typer.Option("--size", metavar="PIXELS", help="Long side to which larger photos are shrunk; 0: never.")
    ] = 512,
    crop: training.Crop = 448,
    radius: Annotated[int, typer.Option("--radius", metavar="R", help="Reach of a pair, in cells of 8 pixels.")] = 5,
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
    """Train the AffinityNet on what the two posteriors of `pixaff crf` agree on. Writes DIR/affinity.safetensors."""
    from pixaff.models.registry import affinity_recipe

    recipe = training.with_given(affinity_recipe(model), locals())
    with Console(as_json) as console:
        trained = pixaff.train_affinity(
            photos,
            crf_low,
            crf_high,
            out,
            model=model,
            init=init,
            listing=listing,
            size=size,
            crop=crop,
            radius=radius,
            recipe=recipe,
            device=device,
            workers=workers,
            save_every=save_every,
            resume=resume,
            overwrite=overwrite,
            report=console,
        )
    end(console, "train-affinity", trained, trained.path)
