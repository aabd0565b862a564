from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from pixaff.errors import ImageError, OutputError
from pixaff.events import Event
from pixaff.run_options import RunOptions
from pixaff.stages.batch.executors import in_batches, in_processes, in_threads
from pixaff.stages.batch.plan import Plan
from pixaff.stages.batch.run import run_plan

PHOTOS = [Path(f"{i}.jpg") for i in range(10)]


def batches(photos, load=lambda path: int(path.stem), compute=None, save=None, batch_size=3, workers=2):
    return in_batches(
        photos,
        load=load,
        compute=compute or (lambda batch: [value * value for value in batch]),
        save=save or (lambda path, value: {"value": value}),
        batch_size=batch_size,
        workers=workers,
    )


def test_every_photo_is_loaded_computed_and_saved():
    outcomes = dict(batches(PHOTOS))
    assert {path: outcome["value"] for path, outcome in outcomes.items()} == {p: int(p.stem) ** 2 for p in PHOTOS}


def test_batches_are_full_although_a_photo_cannot_be_read():
    sizes = []

    def load(path):
        if path.stem == "1":
            raise ImageError("1.jpg: broken")
        return int(path.stem)

    def compute(batch):
        sizes.append(len(batch))
        return batch

    outcomes = dict(batches(PHOTOS, load=load, compute=compute))
    assert sizes == [3, 3, 3]
    assert isinstance(outcomes.pop(Path("1.jpg")), ImageError)
    assert len(outcomes) == 9


def test_one_photo_that_cannot_be_computed_takes_no_other_with_it():
    def compute(batch):
        if 4 in batch:
            raise RuntimeError("four")
        return batch

    outcomes = dict(batches(PHOTOS, compute=compute))
    failed = {path for path, outcome in outcomes.items() if isinstance(outcome, Exception)}
    assert failed == {Path("4.jpg")}


def test_few_photos_are_in_memory_at_a_time():
    alive, most, lock = 0, 0, threading.Lock()

    def load(path):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return path

    def save(path, value):
        nonlocal alive
        with lock:
            alive -= 1
        return {}

    list(batches([Path(f"{i}.jpg") for i in range(100)], load=load, compute=list, save=save, batch_size=2))
    assert most <= 2 * 2 + 2 + 3


def collect(out, photos=PHOTOS, names=("{}",), report=None, overwrite=False, **options):
    """Run `batches` over photos into a folder; what ``save`` returns or, without it, a square is written."""
    events: list[Event] = []

    def outputs(photo):
        return tuple(out / name.format(photo.stem) for name in names)

    def save(path, value):
        for file in outputs(path):
            file.write_text(str(value))
        return {}

    run = RunOptions(report=report or events.append, overwrite=overwrite)
    plan = Plan(out, "test", photos, outputs, run)
    work = partial(batches, **{"save": save, **options})
    return run_plan(plan, work, settings={"alpha": 3}, device="cpu"), events


def test_what_exists_is_skipped_unless_it_is_to_be_overwritten(tmp_path):
    (tmp_path / "3").write_text("old")
    report, _ = collect(tmp_path, PHOTOS[:5])
    assert report.skipped == ["3.jpg"]
    assert report.done == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
    assert (tmp_path / "3").read_text() == "old"
    report, _ = collect(tmp_path, PHOTOS[:5], overwrite=True)
    assert len(report.done) == 5
    assert (tmp_path / "3").read_text() == "9"


def test_a_photo_with_only_some_of_its_outputs_or_empty_ones_is_done_again(tmp_path):
    (tmp_path / "0-low").write_text("old")
    (tmp_path / "1-low").write_text("old")
    (tmp_path / "1-high").touch()
    report, _ = collect(tmp_path, PHOTOS[:2], names=("{}-low", "{}-high"))
    assert report.done == ["0.jpg", "1.jpg"]


def test_an_output_that_vanishes_during_the_run_is_named(tmp_path):
    def save(path, value):
        if path.stem != "2":
            (tmp_path / path.stem).write_text("x")
        return {}

    report, _ = collect(tmp_path, PHOTOS[:4], save=save)
    assert report.done == ["0.jpg", "1.jpg", "3.jpg"]
    assert report.failed == [("2.jpg", f"2.jpg: its output was removed from {tmp_path} during the run")]


def test_failures_are_named_and_the_rest_is_done(tmp_path):
    def load(path):
        if path.stem == "2":
            raise ImageError("2.jpg: truncated", "copy it again")
        if path.stem == "5":
            raise KeyError(13)
        return int(path.stem)

    report, events = collect(tmp_path, load=load)
    assert dict(report.failed) == {"2.jpg": "2.jpg: truncated (copy it again)", "5.jpg": "KeyError: 13"}
    assert len(report.done) == 8
    assert not report.ok
    assert [event.text for event in events if event.kind == "failed"] == [reason for _, reason in report.failed]
    assert [event.kind for event in events[:2]] == ["settings", "begin"]
    assert events[1].total == 10
    assert events[-1].kind == "end"


def test_debugging_lets_unforeseen_errors_through(tmp_path, monkeypatch):
    monkeypatch.setenv("PIXAFF_DEBUG", "1")

    def load(path):
        raise KeyError(13)

    with pytest.raises(KeyError):
        collect(tmp_path, load=load)


def test_a_full_disk_ends_the_run(tmp_path):
    computed = []

    def compute(batch):
        computed.extend(batch)
        return batch

    def save(path, value):
        raise OutputError("disk full")

    photos = [Path(f"{i}.jpg") for i in range(50)]
    with pytest.raises(OutputError, match="disk full"):
        collect(tmp_path, photos, compute=compute, save=save, batch_size=1)
    assert len(computed) < 10


def test_ctrl_c_stops_the_workers_before_it_is_passed_on(tmp_path):
    saved, words = [], []

    def interrupt(event):
        words.append(event.text)
        if event.kind == "done":
            raise KeyboardInterrupt

    def save(path, value):
        saved.append(path)
        return {}

    photos = [Path(f"{i}.jpg") for i in range(100)]
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path, photos, save=save, batch_size=1, report=interrupt)
    assert len(saved) < 10
    assert words[-1] == "stopped after 1 of 100; the same command continues with the rest"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pixaff")]


def double(path: Path) -> dict[str, int]:
    if path.stem == "3":
        raise ImageError("3.jpg: broken", "hint")
    return {"value": 2 * int(path.stem)}


@pytest.mark.parametrize("spread", [in_threads, in_processes])
def test_pools_keep_the_order_and_carry_errors_over(spread):
    outcomes = list(spread(PHOTOS[:5], double, workers=2))
    assert [path for path, _ in outcomes] == PHOTOS[:5]
    assert [outcome["value"] for path, outcome in outcomes if path.stem != "3"] == [0, 2, 4, 8]
    assert str(outcomes[3][1]) == "3.jpg: broken (hint)"
