"""The keyword arguments of the public functions, for editors and type checkers.

Names and types are those of the fields of `Settings`, `ModelOptions` and `BatchOptions`, which hold their help, range
and default; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from pixaff.events import Callback


class CamSettings(TypedDict, total=False):
    """Settings that decide CAMs."""

    scales: Sequence[float] | None
    flip: bool | None
    size: int | None
    label_threshold: float | None


class WalkSettings(CamSettings, total=False):
    """Settings that decide masks."""

    walk: Literal["psa", "irn", "both"] | None
    alpha: float | None
    background: float | None
    beta: float | None
    boundary_beta: float | None
    radius: int | None
    steps: int | None
    borders: Literal["full", "published"] | None
    final_crf: bool | None


class CamModel(TypedDict, total=False):
    """Which CAM network to use, and how it computes."""

    preset: str | None
    cam_weights: str | Path | None
    weights_dir: str | Path | None
    classes: str | Path | None
    precision: Literal["fp32", "bf16", "auto"]
    inference: Literal["auto", "torch", "onnx", "int8"]


class WholeModel(CamModel, total=False):
    """Which networks to use, and how they compute."""

    affinity_weights: str | Path | None
    irn_weights: str | Path | None
    engine: Literal["auto", "torch", "pydensecrf"]


class Run(TypedDict, total=False):
    """How a run computes, and to whom it reports."""

    device: str
    workers: int | None
    overwrite: bool
    recursive: bool
    report: Callback
    progress: bool


class RunOverImages(Run, total=False):
    """`Run` that skips what is there."""

    keep: bool
    shard: str | None
    cluster: str | None
    num_cpus: int | None
    num_gpus: float | None


class Batches(RunOverImages, total=False):
    """`RunOverImages`, computing several images together."""

    batch_size: int | None


class LoadKeywords(WalkSettings, WholeModel, total=False):
    """Of `pixaff.load`."""


class CamKeywords(CamSettings, CamModel, Batches, total=False):
    """Of `pixaff.cam`."""

    model: str | Path | None


class CrfKeywords(RunOverImages, total=False):
    """Of `pixaff.crf`."""

    crf_low: float | None
    crf_high: float | None
    conf_fg: float | None
    conf_bg: float | None
    size: int | None
    engine: Literal["auto", "torch", "pydensecrf"]


class PropagateKeywords(WalkSettings, WholeModel, Batches, total=False):
    """Of `pixaff.propagate`."""

    model: str | Path | None
    page: str | Path | None


class SegSettingsKeywords(TypedDict, total=False):
    """Settings that decide the masks of a segmentation network."""

    scales: Sequence[float] | None
    flip: bool | None
    size: int | None
    crf: bool | None


class SegModel(TypedDict, total=False):
    """How a segmentation network computes."""

    precision: Literal["fp32", "bf16", "auto"]
    inference: Literal["auto", "torch", "onnx", "int8"]
    engine: Literal["auto", "torch", "pydensecrf"]


class SegLoadKeywords(SegSettingsKeywords, SegModel, total=False):
    """Of `pixaff.load_segmenter`."""


class SegmentKeywords(SegSettingsKeywords, SegModel, Batches, total=False):
    """Of `pixaff.segment`."""

    model: str | Path | None
    page: str | Path | None


class TrainingKeywords(Run, total=False):
    """Of `pixaff.fit` (no ``resume``), `pixaff.train_cam` (no ``page``), the other trainings (nor ``yes``)."""

    save_every: float
    resume: bool
    yes: bool
    page: str | Path | None


class SegTrainingKeywords(Run, total=False):
    """Of `pixaff.train_seg`."""

    save_every: float
    resume: bool
    class_weights: Literal["none", "sqrt", "median"]
    confidence: float
    hold_out: float
