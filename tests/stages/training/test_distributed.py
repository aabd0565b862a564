"""Trainings on two processes: the weights of one, whatever each of them sees; and what ends them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy_set import CLASSES, TinySeeded, use_tiny, write_set

import pixaff
from pixaff.cli.app import main
from pixaff.errors import TrainingError, UsageError
from pixaff.events import Callback, Event
from pixaff.io.cams import write_cams
from pixaff.io.checkpoints import read_state_dict
from pixaff.io.masks import write_mask
from pixaff.recipe import Recipe
from pixaff.stages import train_affinity, train_cam, train_irn, train_seg
from pixaff.stages.training import distributed
from pixaff.stages.training.metrics import read_records

COUNT, STEPS = 15, 20
# Batches of 5: one rank has 3 images, the other 2.
RECIPE = Recipe(
    epochs=10,
    batch_size=5,
    lr=0.01,
    momentum=0.5,
    head_lr_scale=2.0,
    precision="fp32",
    crop=64,
    resize=(50, 80),
    hold_out=0.2,
)
TRAININGS = {"cam": "cam", "head": "cam", "affinity": "affinity", "irn": "irn", "seg": "seg"}
"""Folder of each training, and the name of its weights."""


@contextmanager
def toy_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch, cam=TinySeeded)
        yield


def prepare(folder: Path) -> None:
    """Photos, labels, posteriors and masks. In half of the photos nearly all is void: ranks have unequal counts."""
    _, _, masks = write_set(folder, COUNT)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    for number, (stem, mask) in enumerate(masks.items()):
        seen = np.zeros(mask.shape, bool)
        seen[: 24 if number % 2 else None] = True
        write_mask(folder / "masks" / f"{stem}.png", np.where(seen, mask, 255))
        classes = np.unique(np.append(mask, 0))
        scores = (mask == classes[:, None, None]) * 0.9 + 0.05
        low = np.concatenate([scores[:1] + ~seen, scores[1:]])  # background here, another label there: ignored
        high = np.concatenate([scores[:1], scores[1:] + ~seen])
        for side, one in (("low", low), ("high", high)):
            write_cams(folder / side / f"{stem}.npz", classes, (one / one.sum(0)).astype(np.float32), mask.shape)


def train_all(data: Path, out: Path, recipe: Recipe = RECIPE, only: str = "", **options: Any) -> None:
    torch.set_num_threads(1)
    photos, labels = data / "photos", data / "labels.csv"
    sides = {"crf_low_dir": data / "low", "crf_high_dir": data / "high"}
    how: dict[str, Any] = {"recipe": recipe, "device": "cpu", "workers": 1, **options}
    of_cam = {"classes": CLASSES, "out": out / "cam", **how}
    calls = {
        "cam": lambda: pixaff.train_cam(photos, labels, **of_cam),
        "head": lambda: pixaff.train_cam(photos, labels, **{**of_cam, "out": out / "head"}, **sides),
        "affinity": lambda: pixaff.train_affinity(photos, out=out / "affinity", radius=3, **sides, **how),
        "irn": lambda: pixaff.train_irn(photos, data / "masks", out / "irn", radius=4, **how),
        "seg": lambda: pixaff.train_seg(photos, data / "masks", out / "seg", classes=CLASSES, hold_out=0.2, **how),
    }
    for name, call in calls.items():
        if name == only or not only:
            call()


def mean_of_means(counts: torch.Tensor) -> torch.Tensor:
    """The mistake: each rank divides by its own count, and the ranks are averaged."""
    return 2 * counts


def of_rank(data: Path, out: Path) -> None:
    """What each of two processes does, one thing after the other, for `two`."""
    with toy_networks():
        train_all(data, out / "right")
        with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
            train_all(data, out / "resumed", only="cam", resume=True, report=stop_at(9))
        status = getattr(stopped.value, "code", 0)
        (out / f"stopped{os.environ['RANK']}").write_text(f"{stopped.typename} {status}")
        dist.destroy_process_group()
        with pytest.MonkeyPatch.context() as patch:
            for module in (train_cam, train_affinity, train_irn, train_seg):
                patch.setattr(module, "summed", mean_of_means)
            patch.setattr(train_cam, "share_of_mean", lambda mean, images: mean / 2)
            train_all(data, out / "naive", RECIPE.replace(epochs=2))
        with pytest.raises(SystemExit) as failed:
            fail_on_rank_1(data, out / "failed", kill=False)
        assert failed.value.code == 1
        dist.destroy_process_group()
        fail_on_rank_1(data, out / "killed", kill=True)


def stop_at(step: int) -> Callback:
    """Ctrl-C, for this process alone, after a step."""

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.data["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return stop


def fail_on_rank_1(data: Path, out: Path, *, kill: bool) -> None:
    """The command line; rank 1 fails, or is killed, at its third step."""
    calls, loss = 0, train_cam.cam_loss

    def unlucky(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3 and os.environ["RANK"] == "1":
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("found a bug, expected none")
        return loss(model, batch)

    words = f"train-cam {data}/photos --labels {data}/labels.csv --classes {data}/classes.txt --out {out} -q"
    words += " --init random --backbone-lr-scale 1 --hold-out 0 --crop 64 --resize 50:80 --batch-size 5"
    words += " --precision fp32 --device cpu"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_cam, "cam_loss", unlucky)
        patch.setattr(sys, "argv", ["pixaff", *words.split()])
        main()


def start_two(data: Path, out: Path) -> list[subprocess.Popen[str]]:
    """Two processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    shared = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = f"from pathlib import Path; import test_distributed as t; t.of_rank(Path({str(data)!r}), Path({str(out)!r}))"
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the trainings on one process, "one", and of what two have done, with what they said, "said0"."""
    out = tmp_path_factory.mktemp("two")
    with toy_networks(), pytest.raises(KeyboardInterrupt):
        train_all(data, out / "resumed", only="cam", report=stop_at(4))
    ranks = start_two(data, out)
    try:
        with toy_networks():
            train_all(data, out / "one")
        for number, rank in enumerate(ranks):
            (out / f"said{number}").write_text(f"{rank.communicate(timeout=200)[0]}{rank.returncode}\n")
    finally:
        for rank in ranks:
            rank.kill()
    return out


def difference(one: Path, other: Path) -> float:
    first, second = read_state_dict(one), read_state_dict(other)
    assert list(first) == list(second)
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_give_the_weights_of_one(two: Path, name: str) -> None:
    one, right = (two / kind / name for kind in ("one", "right"))
    weights = f"{TRAININGS[name]}.safetensors"
    assert 0 < difference(one / weights, right / weights) < 1e-6
    steps, same = read_records(one), read_records(right)
    assert max(record["step"] for record in steps) >= STEPS
    assert [record["step"] for record in steps] == [record["step"] for record in same]
    for record, of_two in zip(steps, same, strict=True):
        assert set(record) == set(of_two)
        figures = {key: value for key, value in record.items() if key not in ("kind", "images_per_second")}
        assert figures == pytest.approx({key: of_two[key] for key in figures}, abs=2e-6)
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in right.iterdir())


@pytest.mark.parametrize("name", TRAININGS)
def test_the_mean_of_the_ranks_means_would_be_seen(two: Path, name: str) -> None:
    first, naive = (read_records(two / kind / name)[0] for kind in ("one", "naive"))
    assert first["step"] == naive["step"]
    assert first["loss"] == pytest.approx(naive["loss"], rel=0.5)
    assert abs(first["loss"] - naive["loss"]) > 1e-4


def test_a_checkpoint_continues_on_any_number_of_processes(two: Path, data: Path) -> None:
    """One process until step 4, then two until Ctrl-C reaches one of them, then one again."""
    assert (two / "stopped0").read_text() == "KeyboardInterrupt 0"
    assert (two / "stopped1").read_text() == "SystemExit 130"
    resumed, one = two / "resumed" / "cam", two / "one" / "cam"
    assert torch.load(resumed / "training.pt", weights_only=True)["position"]["step"] == 9
    with toy_networks():
        train_all(data, two / "resumed", only="cam", resume=True)
    assert difference(resumed / "cam.safetensors", one / "cam.safetensors") < 1e-6
    assert [each["step"] for each in read_records(resumed)] == [each["step"] for each in read_records(one)]


def test_failure_of_one_ends_all_with_one_line(two: Path) -> None:
    *said, status = (two / "said0").read_text().splitlines()
    assert said == [
        "Error: another of the 2 processes has ended: it was killed, or ran out of memory (--resume continues from the "
        "last checkpoint, with any number of processes)",
    ]
    assert status == "1"
    *said, status = (two / "said1").read_text().splitlines()
    assert said == ["Error: ValueError: found a bug, expected none (PIXAFF_DEBUG=1 shows where)"]
    assert int(status) == -signal.SIGKILL


def test_ranks_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_ranks", distributed._Ranks(rank=0, count=3, here=3))
    with pytest.raises(UsageError, match="found 3 processes, expected at most one for each of the 2 images of a batch"):
        distributed.agree(nn.Linear(1, 1), 2)
    monkeypatch.setattr(distributed, "gathered", lambda value: [value, value, "other"])
    with pytest.raises(TrainingError, match="found different photos, labels, options or checkpoints"):
        distributed.agree(nn.Linear(1, 1), 4)
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(1)})
    with pytest.raises(UsageError, match="norm, a BatchNorm1d, learns statistics"), distributed.shared_layers(model):
        pass


def test_fit_is_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"found 2 processes, expected one: pixaff fit"):
        pixaff.fit(tmp_path, "labels.csv", tmp_path / "out")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        pixaff.fit(tmp_path, "labels.csv", tmp_path / "out")
    monkeypatch.delenv("MASTER_PORT")  # other programs set RANK and WORLD_SIZE, too
    assert distributed.process_count() == 1


def test_alone_nothing_is_replaced() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.Dropout())
    counts = torch.tensor([1, 2])
    with distributed.shared_layers(model):
        assert all("forward" not in module.__dict__ for module in model)
    assert distributed.summed(counts) is distributed.share_of_mean(counts, 1) is counts
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.gathered(3) == [3]
    assert distributed.is_first()
