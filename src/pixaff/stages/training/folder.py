"""The folder of a training: its result, whether it is finished, and its last step."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import nn

from pixaff.errors import UsageError
from pixaff.events import Callback, Event
from pixaff.io.checkpoints import write_state_dict
from pixaff.io.locks import folder_lock
from pixaff.run_options import TrainingOptions
from pixaff.stages.batch.plan import check_files
from pixaff.stages.batch.report import Report
from pixaff.stages.training.checkpoint import CHECKPOINT
from pixaff.stages.training.datasets import readable_photos
from pixaff.stages.training.distributed import decided, is_first

FILES = (CHECKPOINT, "metrics.jsonl", "loss.png", "run.json")
"""What a training writes beside the weights."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Trained(Report):
    """The result of a training, besides that for its photos.

    Attributes:
        path: The weights file, or the folder of the run.
        doubtful: Of a run that makes masks: its photos, the most doubtful mask first.
    """

    path: Path = field(default_factory=Path)
    doubtful: list[str] = field(default_factory=list)
    silent: bool = field(default_factory=lambda: not is_first(), repr=False)


def one_at_a_time(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let only one process at a time run a function in its folder ``out``; see `pixaff.io.locks.folder_lock`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            if not is_first():  # rank 0 holds the lock
                return function(*args, **kwargs)
            out = Path(str(inspect.signature(function).bind(*args, **kwargs).arguments["out"]))
            try:
                with folder_lock(out, what):
                    return function(*args, **kwargs)
            finally:
                with suppress(OSError):  # holds something, as it should
                    out.rmdir()

        return run

    return decorate


def is_trained(weights: Path, run: TrainingOptions, command: str, reads: Iterable[Path | str | None] = ()) -> bool:
    """Whether the weights exist already. With ``overwrite``, they and the checkpoint are removed.

    ``reads`` are the files that the training reads, none of which may be one that it writes.

    Raises:
        UsageError: There is an unfinished training, and no option says what to do with it; or an output is an input.
    """
    return decided(lambda: _is_trained(weights, run, command, reads))


def _is_trained(weights: Path, run: TrainingOptions, command: str, reads: Iterable[Path | str | None]) -> bool:
    checkpoint = weights.with_name(CHECKPOINT)
    check_files([weights.with_name(name) for name in (weights.name, *FILES)], reads)
    if run.overwrite and run.resume:
        raise UsageError("resume and overwrite contradict each other", "give one of them")
    if run.overwrite:
        weights.unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)
    if weights.is_file():
        run.report(Event("note", command, f"{weights} exists already; --overwrite trains again"))
        return True
    if checkpoint.is_file() and not run.resume:
        raise UsageError(
            f"{weights.parent} contains an unfinished training", "--resume continues, --overwrite discards it"
        )
    return False


def leave_out(photo: Path, problem: str, result: Report, command: str, report: Callback) -> None:
    """Count a photo as failed and name it."""
    result.failed.append((result.names.name(photo), problem))
    report(Event("failed", command, problem, photo=photo))


def leave_out_unreadable(photos: Sequence[Path], result: Report, command: str, report: Callback) -> list[Path]:
    """The photos whose header can be read; the others are named and left out before the training begins."""
    kept, failures = readable_photos(photos)
    for photo, problem in failures:
        leave_out(photo, problem, result, command, report)
    return kept


def finish(model: nn.Module, result: Trained, metadata: Mapping[str, Any]) -> None:
    """Write the weights, with the network and classes they are for, and remove the checkpoint, which is much larger."""
    decided(lambda: _write_weights(model, result, metadata))


def _write_weights(model: nn.Module, result: Trained, metadata: Mapping[str, Any]) -> None:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    write_state_dict(result.path, model.state_dict(), metadata=texts)
    result.path.with_name(CHECKPOINT).unlink(missing_ok=True)


def digest(parts: Iterable[str | bytes]) -> str:
    """Short digest of the training data, by which a checkpoint recognises them."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:16]
