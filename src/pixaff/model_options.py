"""Which model a run uses, and how its networks compute."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pixaff.errors import UsageError
from pixaff.options import check_options, option

NETWORKS = ("cam", "propagate")
ALL = (*NETWORKS, "segment")


@dataclass(frozen=True)
class ModelOptions:
    """What `pixaff.load` takes besides `pixaff.settings.Settings`; see there.

    Raises:
        UsageError: A value is not one of the choices, or an engine is not installed.
    """

    model: str | Path | None = option(
        None,
        "Model to run: lite, the embedded one (default), or the folder of a `pixaff fit` run.",
        "lite|RUN",
        commands=ALL,
        flags=("--model", "-m"),
    )
    preset: str | None = option(
        None,
        "Use the networks and settings of this preset; with --model, its hyper-parameters alone. Default: none.",
        "NAME",
        commands=NETWORKS,
    )
    cam_weights: str | Path | None = option(
        None, "Weights of the preset's CAM network; default: the published ones.", "FILE", commands=NETWORKS
    )
    affinity_weights: str | Path | None = option(
        None, "Weights of the preset's AffinityNet; default: the published ones.", "FILE", commands=("propagate",)
    )
    irn_weights: str | Path | None = option(
        None,
        "Weights of the preset's network of class boundaries; default: the published ones.",
        "FILE",
        commands=("propagate",),
    )
    weights_dir: str | Path | None = option(
        None,
        "Folder with the preset's weights, which are recognised by their content. Default: none.",
        "DIR",
        commands=NETWORKS,
    )
    classes: str | Path | None = option(
        None,
        "Class names, one per line, in the order of the mask values; default: the model's own.",
        "FILE",
        commands=NETWORKS,
    )
    precision: Literal["fp32", "bf16", "auto"] = option(
        "fp32", "Precision of the networks; auto picks the faster one on this machine.", commands=ALL
    )
    inference: Literal["auto", "torch", "onnx", "int8"] = option(
        "auto",
        "What computes the networks; auto uses ONNX Runtime on the CPU where it can. int8 is faster and changes masks "
        "a little.",
        commands=ALL,
    )
    engine: Literal["auto", "torch", "pydensecrf"] = option(
        "auto", "Implementation of the dense CRF.", commands=("crf", "propagate", "segment")
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.engine == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
            raise UsageError("pydensecrf is not installed", "pip install 'pixaff[pydensecrf]', or --engine torch")
        if self.inference in ("onnx", "int8") and importlib.util.find_spec("onnxruntime") is None:
            raise UsageError("onnxruntime is not installed", "pip install 'pixaff[onnx]', or --inference torch")
