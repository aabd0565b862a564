"""What a run needs besides its inputs, its model and its settings, as one object that is passed as a whole."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixaff.errors import UsageError, shortened
from pixaff.events import Callback, both, silent
from pixaff.options import check_options, keyword, option
from pixaff.progress import ProgressBar
from pixaff.shard import Shard

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class RunOptions:
    """How a run computes, and to whom it reports.

    Attributes:
        report: Receives an `Event` for each image, step and note.
        progress: Also show a progress bar.
        renew: Recompute outputs whose photo, labels or CAMs have changed, and only those.
    """

    device: str = option(
        "auto", "Device to compute on; auto picks the first GPU, if there is one.", "auto|cpu|cuda[:N]"
    )
    workers: int | None = option(
        None,
        "Number of worker threads or processes; default: depends on the number of cores.",
        "N",
        at_least=1,
        flags=("--workers", "-j"),
    )
    overwrite: bool = option(False, "Recompute existing outputs instead of skipping them.", flags=("--overwrite",))
    recursive: bool = option(
        False,
        "Also use the photos in subfolders: outputs mirror the folders, and labels and lists may have their paths.",
        flags=("--recursive",),
        commands=("cam", "crf", "propagate", "segment", "train-cam", "train-affinity", "train-irn", "train-seg", "fit"),
    )
    keep: bool = option(
        False,
        "Do not warn about outputs that no longer fit their photo, labels, CAMs or settings.",
        flags=("--keep",),
        commands=("cam", "crf", "propagate", "segment"),
    )
    shard: str | None = option(
        None,
        "Only do the I-th of N shares of the photos: N such runs, on any machines, divide them. Default: all.",
        "I/N",
        commands=("cam", "crf", "propagate", "segment"),
    )
    cluster: str | None = option(
        None,
        "Compute on a Ray cluster: that of this machine, started if there is none, or at an address. Default: none.",
        "ray|ray://HOST:PORT",
        commands=("cam", "crf", "propagate", "segment"),
    )
    num_cpus: int | None = option(
        None,
        "Processors of each worker of a cluster; default: up to 4.",
        "N",
        at_least=1,
        commands=("cam", "crf", "propagate", "segment"),
    )
    num_gpus: float | None = option(
        None,
        "GPUs of each worker of a cluster, such as 0.25 to share one; default: 1 if the cluster has any.",
        "N",
        at_least=0,
        commands=("cam", "crf", "propagate", "segment"),
    )
    page: str | Path | None = option(
        None,
        "Also make the page of pixaff report, to look at the masks; a file that ends in .html. Default: none.",
        "FILE",
        flags=("--report",),
        commands=("evaluate", "propagate", "segment", "fit"),
    )
    report: Callback = keyword(silent)
    progress: bool = keyword(False)
    renew: bool = keyword(False)

    @classmethod
    def of(cls, whole: RunOptions | None, given: Mapping[str, Any]) -> Self:
        """The options of ``whole``, or the defaults, with the given ones in their place."""
        there = set() if whole is None else {each.name for each in fields(whole)}
        shared = {each.name: getattr(whole, each.name) for each in fields(cls) if each.name in there}
        return cls(**{**shared, **given})

    def __post_init__(self) -> None:
        check_options(self)
        if self.shard is not None:
            Shard.of(self.shard)
        if self.cluster is not None:
            _check_cluster(self.cluster)
        if self.progress:
            object.__setattr__(self, "report", both(self.report, ProgressBar()))
            object.__setattr__(self, "progress", False)


@dataclass(frozen=True)
class BatchOptions(RunOptions):
    """`RunOptions` of a run that computes several images together."""

    batch_size: int | None = option(
        None,
        "Number of images computed together; default: depends on the device.",
        "N",
        at_least=1,
        flags=("--batch-size", "-b"),
        commands=("cam", "propagate", "segment"),
    )


@dataclass(frozen=True)
class TrainingOptions(RunOptions):
    """`RunOptions` of a training."""

    save_every: float = option(300.0, "Seconds between two checkpoints.", "SECONDS", at_least=0)
    resume: bool = option(
        False,
        "Continue from the checkpoint in DIR, to the same weights as an uninterrupted training.",
        flags=("--resume",),
        commands=("train-cam", "train-affinity", "train-irn", "train-seg"),
    )
    yes: bool = option(
        False,
        "Train without asking, even on labels that look misread, such as two spellings of a class.",
        flags=("--yes",),
        commands=("train-cam", "fit"),
    )


def _check_cluster(address: str) -> None:
    if address != "ray" and not address.startswith("ray://"):
        raise UsageError(f"cluster is {shortened(address)!r}, expected ray or ray://HOST:PORT")
    if importlib.util.find_spec("ray") is None:
        raise UsageError("ray is not installed", "pip install 'pixaff[ray]'")
