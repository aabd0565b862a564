"""From the name of a model, or of published weights, to a `Predictor` or a `Segmenter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.device import choose_precision, pick_device
from pixaff.events import Callback, Event, both, silent
from pixaff.model_options import ModelOptions
from pixaff.models.bundle import Parts, Weights, load_model
from pixaff.models.segmentation import load_segmentation
from pixaff.options import divide
from pixaff.predictor import Predictor
from pixaff.progress import ProgressBar
from pixaff.published import fetcher
from pixaff.segmenter import Segmenter
from pixaff.settings import SegSettings, Settings

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from pixaff.keywords import LoadKeywords, SegLoadKeywords


def load(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    progress: bool = False,
    parts: Sequence[str] | None = None,
    report: Callback = silent,
    **options: Unpack[LoadKeywords],
) -> Predictor:
    """Load a model.

    Args:
        model: "lite", the embedded model, or the folder of a `pixaff.fit` run. None means the networks of ``preset``,
            or "lite" without a preset.
        device: "auto", "cpu", "cuda" or "cuda:n".
        progress: Show a bar while published weights are downloaded.
        parts: The networks to load, among "cam", "affinity" (for the walks psa and both) and "irn" (for the walks irn
            and both, and for instances). None means all that the model has.
        report: Receives an `Event` for each note, and for the progress of downloads.
        **options: ``preset``, ``cam_weights``, ``affinity_weights``, ``irn_weights``, ``weights_dir``, ``classes``,
            ``precision``, ``inference`` and ``engine``, see `pixaff.model_options.ModelOptions`; and any field of
            `pixaff.Settings`, such as ``alpha=4``, to replace the model's own.

    Raises:
        UsageError: An option is unknown or out of range, or ``classes`` are not the model's.
        CheckpointError: The model cannot be loaded.
        DownloadError: Published weights are not cached and cannot be downloaded.
        DeviceError: The device does not exist.

    Example:
        >>> import pixaff
        >>> model = pixaff.load("lite", alpha=2)  # doctest: +SKIP
        >>> model("photo.jpg", labels=["cat"]).save("cat.png")  # doctest: +SKIP
    """
    named, given = divide(options, "load", ModelOptions, Settings, every=True)
    chosen = ModelOptions(model=model, **named)
    bar = ProgressBar() if progress else None
    tell = report if bar is None else both(report, bar)
    try:
        return load_predictor(chosen, given, device=device, parts=parts, command="load", report=tell)
    finally:
        if bar is not None:
            bar.close()


def load_predictor(
    options: ModelOptions,
    settings: Mapping[str, Any],
    *,
    device: str,
    parts: Parts | None = None,
    command: str,
    report: Callback,
) -> Predictor:
    """`load` for a command, whose name appears in the events."""
    where = pick_device(device)
    bundle = load_model(
        options.model,
        options.preset,
        weights=Weights(options.cam_weights, options.affinity_weights, options.weights_dir, options.irn_weights),
        classes=options.classes,
        parts=parts,
        device=where,
        fetch=fetcher(command, report),
    )
    predictor = Predictor(
        bundle.cam,
        bundle.affinity,
        bundle.classes,
        bundle.settings.replace(**settings),
        engine=options.engine,
        sources=bundle.sources,
        files=bundle.files,
        boundary_network=bundle.irn,
    )
    _settle(predictor, options, where, command, report)
    return predictor


def load_segmenter(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    report: Callback = silent,
    **options: Unpack[SegLoadKeywords],
) -> Segmenter:
    """Load the segmentation network of a model.

    Args:
        model: "lite", the embedded model, or the folder of a `pixaff.train_seg` or ``pixaff.fit(..., seg=True)`` run.
            None means "lite".
        device: "auto", "cpu", "cuda" or "cuda:n".
        report: Receives an `Event` for each note.
        **options: ``precision`` and ``engine``, see `pixaff.model_options.ModelOptions`; and any field of
            `pixaff.settings.SegSettings`, such as ``size=512``, to replace the model's own.

    Raises:
        UsageError: An option is unknown or out of range.
        CheckpointError: The model has no segmentation network, or it cannot be loaded.
        DeviceError: The device does not exist.

    Example:
        >>> import pixaff
        >>> segmenter = pixaff.load_segmenter("run")  # doctest: +SKIP
        >>> segmenter("photo.jpg").save("photo.png")  # doctest: +SKIP
    """
    named, given = divide(options, "segment", ModelOptions, SegSettings)
    return segmenter_of(ModelOptions(model=model, **named), given, device=device, command="load", report=report)


def segmenter_of(
    options: ModelOptions, settings: Mapping[str, Any], *, device: str, command: str, report: Callback
) -> Segmenter:
    """`load_segmenter` for a command, whose name appears in the events."""
    where = pick_device(device)
    bundle = load_segmentation(options.model, where)
    segmenter = Segmenter(
        bundle.network,
        bundle.classes,
        bundle.settings.replace(**settings),
        engine=options.engine,
        sources={"model": bundle.source, "network": bundle.name},
        files={"seg": bundle.file},
    )
    _settle(segmenter, options, where, command, report)
    return segmenter


def _settle(
    made: Predictor | Segmenter, options: ModelOptions, device: torch.device, command: str, report: Callback
) -> None:
    """Choose the precision and what computes the networks, which depend on each other: bfloat16 is for PyTorch alone.

    So "auto" compares bfloat16 in PyTorch with float32 in what would compute that.
    """
    runtime = options.inference in ("onnx", "int8")
    if options.precision == "auto" and device.type == "cpu" and runtime:
        made.precision, why = "fp32", f"as --inference {options.inference} does"
    else:
        if options.precision == "auto" and device.type == "cpu":
            made.settle_inference(options.inference)
        made.precision, why = choose_precision(options.precision, device, made.seconds)
    if options.precision == "auto":
        report(Event("note", command, f"computing in {made.precision}: {why}"))
    if refused := made.settle_inference(options.inference):
        report(Event("note", command, f"computing the networks in PyTorch: {refused}"))
