"""`pixaff fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import pixaff
from pixaff.cli import options, training
from pixaff.cli.console import Console, end
from pixaff.cli.numbers import optional_numbers, whole_range


def fit(
    photos: options.Photos,
    labels: training.GivenLabels,
    out: options.Out,
    classes: Annotated[
        Path | None, typer.Option("--classes", metavar="FILE", help="Class names; default: all that the labels use.")
    ] = None,
    listing: options.List = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Networks and numbers of this preset; default: lite.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Network of the activation maps.")
    ] = None,
    affinity_model: Annotated[
        str | None, typer.Option("--affinity-model", metavar="NAME", help="Network of the affinities.")
    ] = None,
    cam_epochs: Annotated[int | None, typer.Option("--cam-epochs", metavar="N", help="Of the classifier.")] = None,
    pixel_epochs: Annotated[
        int | None, typer.Option("--pixel-epochs", metavar="N", help="Of the classifier's pixel head.")
    ] = None,
    affinity_epochs: Annotated[
        int | None, typer.Option("--affinity-epochs", metavar="N", help="Of the AffinityNet.")
    ] = None,
    cam_lr: Annotated[
        float | None, typer.Option("--cam-lr", metavar="LR", help="Learning rate of the classifier.")
    ] = None,
    pixel_lr: Annotated[
        float | None, typer.Option("--pixel-lr", metavar="LR", help="Learning rate of the pixel head.")
    ] = None,
    affinity_lr: Annotated[
        float | None, typer.Option("--affinity-lr", metavar="LR", help="Learning rate of the AffinityNet.")
    ] = None,
    cam_init: Annotated[
        str | None, typer.Option("--cam-init", metavar="FILE|random", help="Start weights; default: the package's.")
    ] = None,
    affinity_init: Annotated[
        str | None,
        typer.Option("--affinity-init", metavar="FILE|random", help="Start weights; default: the package's."),
    ] = None,
    reset_head: training.ResetHead = False,
    batch_size: training.BatchSize = None,
    optimizer: training.Optimizer = None,
    precision: training.Precision = None,
    seed: training.Seed = None,
    long_side: Annotated[
        str, typer.Option("--long-side", metavar="MIN:MAX", help="Range of the classifier's random long side.")
    ] = "256:512",
    crop: training.Crop = 448,
    scales: options.Scales = None,
    flip: options.Flip = None,
    size: options.Size = None,
    seed_low: Annotated[
        float | None, typer.Option("--seed-low", metavar="A", help="As --crf-low, for the pixel head's training.")
    ] = None,
    seed_high: Annotated[
        float | None, typer.Option("--seed-high", metavar="A", help="As --crf-high, for the pixel head's training.")
    ] = None,
    crf_low: options.CrfLow = None,
    crf_high: options.CrfHigh = None,
    alpha: options.Alpha = None,
    beta: options.Beta = None,
    radius: options.Radius = None,
    steps: options.Steps = None,
    borders: options.Borders = None,
    final_crf: options.FinalCrf = None,
    label_threshold: options.LabelThreshold = None,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    workers: options.Workers = None,
    save_every: training.SaveEvery = 300.0,
    overwrite: training.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """A model for your own classes from tagged photos: train-cam, cam, crf, train-affinity, masks in one run.

    Stopped at any point, the same call goes on where it was. DIR is then a model: pixaff propagate --model DIR.
    """
    from pixaff.models.registry import affinity_recipe, cam_recipe, head_recipe, preset_settings, settings_of_network

    shared = {"batch_size": batch_size, "optimizer": optimizer, "precision": precision, "seed": seed}
    base = preset_settings(preset) if preset else settings_of_network(model) if model else preset_settings("lite")
    settings = base.replace(
        preset="own",
        cam=model,
        affinity=affinity_model,
        scales=optional_numbers(scales, "--scales"),
        flip=flip,
        size=size,
        seed_low=seed_low,
        seed_high=seed_high,
        crf_low=crf_low,
        crf_high=crf_high,
        alpha=alpha,
        beta=beta,
        radius=radius,
        steps=steps,
        borders=borders,
        final_crf=final_crf,
        label_threshold=label_threshold,
    )
    head = head_recipe(settings.cam)
    with Console(as_json, photos_of=("propagate",)) as console:
        trained = pixaff.fit(
            photos,
            labels,
            out,
            classes=classes,
            listing=listing,
            settings=settings,
            cam_recipe=training.with_given(cam_recipe(settings.cam), {**shared, "epochs": cam_epochs, "lr": cam_lr}),
            seed_recipe=None
            if head is None
            else training.with_given(head, {**shared, "epochs": pixel_epochs, "lr": pixel_lr}),
            affinity_recipe=training.with_given(
                affinity_recipe(settings.affinity), {**shared, "epochs": affinity_epochs, "lr": affinity_lr}
            ),
            cam_init=cam_init,
            affinity_init=affinity_init,
            reset_head=reset_head,
            long_side=whole_range(long_side, "--long-side"),
            crop=crop,
            engine=engine,
            device=device,
            workers=workers,
            save_every=save_every,
            overwrite=overwrite,
            report=console,
        )
    end(console, "fit", trained, trained.path)
