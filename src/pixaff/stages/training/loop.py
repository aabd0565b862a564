"""The training loop that both trainings share: seeded, logged, and resumed exactly after a kill.

The folder of a training contains ``training.pt`` (the checkpoint, until the training is finished), ``metrics.jsonl``,
``loss.png`` and ``run.json``. Every random number is drawn from a generator seeded by the recipe's seed, and by the
epoch and photo (see `datasets`) or the step (dropout). So a checkpoint needs no generator states: on the CPU, with the
same number of threads, a resumed run ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pixaff.device import autocast, device_words, pick_device
from pixaff.errors import TrainingError
from pixaff.events import Callback, Event
from pixaff.models.base import Network
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.stages.batch.executors import default_workers
from pixaff.stages.batch.record import write_record
from pixaff.stages.training.checkpoint import CHECKPOINT, Position, load_checkpoint, save_checkpoint
from pixaff.stages.training.datasets import Photos, Sample, draw_batches, load_batches
from pixaff.stages.training.distributed import (
    agree,
    any_rank,
    collected,
    decided,
    is_first,
    processes_here,
    rank_words,
    share,
    shared_layers,
    sum_gradients,
    summed,
)
from pixaff.stages.training.folder import Trained, leave_out
from pixaff.stages.training.held_out import PATIENCE, HeldOut, check_every
from pixaff.stages.training.interrupts import deferred_interrupts
from pixaff.stages.training.metrics import Mean, append_record, draw_curve, keep_records
from pixaff.stages.training.optimizer import build_optimizer, parameter_groups, set_lr
from pixaff.stages.training.precision import settle_precision

LOG_EVERY = 10
"""Number of steps that a record of metrics.jsonl summarises."""

VALIDATIONS = 10
"""Largest number of epochs after which a training is measured on the photos that it does not learn from."""

LossFn = Callable[[Network, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""(model, batch) -> scalars by name: ``loss``, which is minimised, and whatever else is to be logged."""


def train(
    model: Network,
    dataset: Photos,
    loss_fn: LossFn,
    result: Trained,
    recipe: Recipe,
    *,
    config: Mapping[str, Any],
    run: TrainingOptions,
    listing: str | Path | None = None,
    command: str = "train",
    validate: Callable[[Network, str], Mapping[str, float]] | None = None,
    held_out: HeldOut | None = None,
) -> None:
    """Train a model in place.

    Args:
        model: The network.
        dataset: Photos, indexed by (epoch, index).
        loss_fn: Called with the model and a batch on the device, with autocast if the precision is bf16.
        result: Its path is the weights file, beside which the training writes its files. Photos that cannot be decoded
            are added to its failures, once each; another photo takes their place.
        recipe: The hyper-parameters.
        config: What else decides the result (the network's name, a digest of the data), in plain values. A checkpoint
            is only resumed with the recipe and configuration that it was written with.
        run: Device, workers, checkpoints, and ``report``: it receives a ``settings`` event, notes, and after every step
            a ``progress`` event. Its ``data`` are ``step``, ``steps``, ``epoch``, ``epochs``, ``lr``,
            ``images_per_second``, ``seconds_left`` and the terms of the loss, averaged since the epoch began; its
            ``text`` says that in words.
        listing: Image list that selected the photos, for the record.
        command: Name of the command, for its events.
        validate: Called with the model, in evaluation mode, and the precision at the end of some epochs; the figures
            that it returns join the record of the epoch.
        held_out: Photos by whose loss the training ends early; the model gets the weights of their lowest loss.

    Raises:
        TrainingError: The loss is not finite, or the checkpoint belongs to another training.
        KeyboardInterrupt: After Ctrl-C, when the checkpoint has been written.
    """
    out, where, report = result.path.parent, pick_device(run.device), run.report
    own = max(1, default_workers() // processes_here()) if where.type == "cuda" else 1
    workers = own if run.workers is None else run.workers
    # Convolutions, depthwise ones above all, are faster with this layout: 1.28 times on the CPU.
    model.to(where).to(memory_format=torch.channels_last).train()
    groups = parameter_groups(model, recipe)
    optimizer = build_optimizer(recipe, groups)
    epochs = recipe.epochs_for(len(dataset))
    batches = draw_batches(len(dataset), recipe.batch_size, epochs, recipe.seed)
    every = check_every(len(batches), len(batches) // epochs)
    config = {**recipe.to_dict(), **config, "photos": len(dataset)}
    at = Position()
    if run.resume and (out / CHECKPOINT).is_file():
        at = load_checkpoint(out, model, optimizer, config)
        report(Event("note", command, f"continuing after step {at.step} of {len(batches)}"))
    began = at.step
    agree(model, len(batches[0]), str(out), config, began, list(map(str, dataset.paths)))
    if is_first():
        keep_records(out, began)
        device = ", ".join(filter(None, (device_words(where), rank_words())))
        write_record(out, command, config, device=device, list=listing, images=len(dataset))
    report(Event("settings", command, data=config))
    report(Event("begin", command, total=len(batches) - began))

    losses = _Losses(recipe.lr, len(batches))
    validations = validated_epochs(epochs)

    def record(facts: Mapping[str, Any]) -> None:
        if is_first():
            append_record(out, facts)

    def save() -> None:
        losses.read(at)
        if is_first():
            save_checkpoint(out, at, model, optimizer, config)

    failed: set[Path] = set()
    seen, paused, started, saved = 0, 0.0, time.monotonic(), time.monotonic()
    cuda = where.type == "cuda"
    with (
        deferred_interrupts() as interrupted,
        _own_random_numbers(where),
        _tried_convolutions(cuda),
        shared_layers(model),
    ):
        loading = load_batches(dataset, [share(batch) for batch in batches[began:]], workers, cuda)
        for batch, failures in _or_save(loading, save):
            for photo, problem in collected(failures):
                if photo not in failed:
                    failed.add(photo)
                    leave_out(photo, f"{problem}; another photo takes its place", result, command, report)
            if not batch:
                raise TrainingError(f"none of the {len(dataset)} photos can be decoded", "copy or download them again")
            batch = {name: _moved(tensor, where) for name, tensor in batch.items()}
            if not at.precision:
                at.precision, why = decided(partial(settle_precision, recipe.precision, model, loss_fn, batch, where))
                report(Event("note", command, f"training in {at.precision}: {why}"))
                started = time.monotonic()  # without the time of the trial
            lr = set_lr(optimizer, recipe.lr, at.step, len(batches))
            seed_step(recipe.seed, at.step)
            with autocast(at.precision, where):
                terms = loss_fn(model, batch)
            losses.add(at.step + 1, terms)
            if where.type == "cpu":
                losses.read(at)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            sum_gradients(p for group in groups for p in group["params"])
            if recipe.clip_norm:
                nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], recipe.clip_norm)
            optimizer.step()

            epoch, seen = batches[at.step][0][0], seen + len(batches[at.step])
            speed = seen / max(time.monotonic() - started - paused, 1e-9)
            at.step += 1
            last = at.step == len(batches)
            if held_out is not None and (last or at.step % every == 0):
                stopped = time.monotonic()
                with _tried_convolutions(False):  # the photos have many sizes
                    record({"kind": "held-out", **_check(model, held_out, at)})
                paused += time.monotonic() - stopped
                last = last or at.checks >= PATIENCE
            ends = last or batches[at.step][0][0] > epoch
            if ends or at.step % LOG_EVERY == 0:
                losses.read(at)
            left = (len(batches) - at.step) * len(batches[0]) / speed
            facts = {"step": at.step, "epoch": epoch + 1, "lr": lr, "images_per_second": round(speed, 2)}
            whole = {"steps": len(batches), "epochs": epochs, "seconds_left": left}
            _report_step(report, command, {**facts, **whole}, at.epoch.values(), len(batches) - began)
            if last or at.step % LOG_EVERY == 0:
                record({"kind": "steps", **facts, **at.window.values()})
                at.window = Mean()
            if ends:
                figures: Mapping[str, float] = {}
                if validate is not None and epoch + 1 in validations:
                    stopped = time.monotonic()
                    with _tried_convolutions(False):  # the photos have many sizes
                        figures = validate(model.eval(), at.precision)
                    model.train()
                    paused += time.monotonic() - stopped
                    words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
                    report(Event("note", command, f"epoch {epoch + 1}/{epochs}, photos held out: {words}"))
                record({"kind": "epoch", **facts, **at.epoch.values(), **figures})
                at.epoch = Mean()
            stop, due = any_rank(interrupted(), is_first() and time.monotonic() - saved >= run.save_every)
            if stop or due:
                save()
                decided(partial(draw_curve, out))
                saved = time.monotonic()
            if stop:
                report(Event("note", command, f"stopped after step {at.step} of {len(batches)}; --resume continues"))
                raise KeyboardInterrupt
            if last:
                break
    if held_out is not None and at.best:
        model.load_state_dict(at.best, strict=False)
        words = f"after step {at.best_step}, of {at.step} done and {len(batches)} planned, their loss was lowest"
        report(Event("note", command, f"{len(held_out.paths)} photos were held out: {words}, {at.best_loss:.4f}"))
    decided(partial(draw_curve, out))
    result.seconds = time.monotonic() - started
    if held_out is not None:
        for photo, problem in held_out.failed:
            failed.add(photo)
            leave_out(photo, problem, result, command, report)
    paths = [*dataset.paths, *(() if held_out is None else held_out.paths)]
    result.done = [result.names.name(path) for path in paths if path not in failed]
    report(Event("end", command, data=result.counts()))


class _Losses:
    """The terms of the loss of the last steps.

    To read one from a GPU is to wait for all that it has to do, so there they are read every few steps together, and
    always before a checkpoint: no checkpoint has weights of a loss that is not finite.
    """

    def __init__(self, lr: float, steps: int) -> None:
        self._lr, self._steps = lr, steps
        self._unread: list[tuple[int, list[str], torch.Tensor]] = []

    def add(self, step: int, terms: Mapping[str, torch.Tensor]) -> None:
        values = torch.stack([term.detach().float() for term in terms.values()])
        self._unread.append((step, list(terms), summed(values)))

    def read(self, at: Position) -> None:
        """Add them to the means.

        Raises:
            TrainingError: A loss is not finite.
        """
        rows = torch.stack([tensor for *_, tensor in self._unread]).tolist() if self._unread else []
        for (step, names, _), row in zip(self._unread, rows, strict=True):
            values = dict(zip(names, row, strict=True))
            if not math.isfinite(values["loss"]):
                raise TrainingError(
                    f"the loss is {values['loss']} at step {step} of {self._steps}",
                    f"use a smaller learning rate than {self._lr:g}, or limit the gradients with --clip-norm",
                )
            at.window.add(values)
            at.epoch.add(values)
        self._unread.clear()


def validated_epochs(epochs: int) -> set[int]:
    """The epochs, from 1, after which a training measures itself: ten at most, the last one among them."""
    return {-(-epochs * part // min(epochs, VALIDATIONS)) for part in range(1, min(epochs, VALIDATIONS) + 1)}


@contextmanager
def _tried_convolutions(wanted: bool) -> Iterator[None]:
    """Let cuDNN try which of its convolutions is fastest for a size of images: all batches of a training have one."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _check(model: Network, held_out: HeldOut, at: Position) -> dict[str, float]:
    """Compare the loss of the held-out photos with the lowest so far, and keep the weights if it is lower."""
    loss = held_out.loss(model, at.precision)
    if loss < at.best_loss:
        at.best_loss, at.best_step, at.checks = loss, at.step, 0
        at.best = {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}
    else:
        at.checks += math.isfinite(loss)
    return {"step": at.step, **({"loss": loss} if math.isfinite(loss) else {})}


def _or_save(batches: Iterator[Sample], save: Callable[[], None]) -> Iterator[Sample]:
    """The batches; if no more can be read, what has been trained so far is saved."""
    try:
        yield from batches
    except TrainingError:
        save()
        raise


def seed_step(seed: int, step: int) -> None:
    """Seed PyTorch's generators for one step, so that dropout does not depend on what came before it."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of a batch on the device; images (B,3,H,W) with their channels last."""
    layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return tensor.to(device, non_blocking=True, memory_format=layout)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Keep the caller's random state."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _report_step(
    report: Callback, command: str, facts: Mapping[str, Any], terms: Mapping[str, float], total: int
) -> None:
    losses = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
    left = timedelta(seconds=round(facts["seconds_left"]))
    words = f"epoch {facts['epoch']}/{facts['epochs']}, {losses}, {facts['images_per_second']} images/s, {left} left"
    report(Event("progress", command, words, total=total, data={**facts, **terms}))
