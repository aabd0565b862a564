from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from pixaff.errors import ImageError, OutputError
from pixaff.stages.batch.executors import in_batches, in_processes, in_threads
from pixaff.stages.batch.run import Event, run

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


def collect(photos, work, **options):
    events: list[Event] = []
    report = run(photos, work, command="test", report=events.append, **options)
    return report, events


def test_what_exists_is_skipped_unless_it_is_to_be_overwritten(tmp_path):
    def outputs(photo):
        return (tmp_path / photo.stem,)

    def save(path, value):
        outputs(path)[0].write_text(str(value))
        return {}

    (tmp_path / "3").write_text("old")
    report, _ = collect(PHOTOS[:5], partial(batches, save=save), outputs=outputs)
    assert report.skipped == ["3.jpg"]
    assert report.done == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
    assert (tmp_path / "3").read_text() == "old"
    report, _ = collect(PHOTOS[:5], partial(batches, save=save), outputs=outputs, overwrite=True)
    assert len(report.done) == 5
    assert (tmp_path / "3").read_text() == "9"


def test_a_photo_with_only_some_of_its_outputs_is_done_again(tmp_path):
    (tmp_path / "0-low").touch()
    report, _ = collect(
        PHOTOS[:1], batches, outputs=lambda p: (tmp_path / f"{p.stem}-low", tmp_path / f"{p.stem}-high")
    )
    assert report.done == ["0.jpg"]


def test_failures_are_named_and_the_rest_is_done(tmp_path):
    def load(path):
        if path.stem == "2":
            raise ImageError("2.jpg: truncated", "copy it again")
        if path.stem == "5":
            raise KeyError(13)
        return int(path.stem)

    report, events = collect(PHOTOS, partial(batches, load=load), outputs=lambda p: (tmp_path / p.stem,))
    assert dict(report.failed) == {"2.jpg": "2.jpg: truncated (copy it again)", "5.jpg": "KeyError: 13"}
    assert len(report.done) == 8
    assert not report.ok
    assert [event.text for event in events if event.kind == "failed"] == [reason for _, reason in report.failed]
    assert events[0].kind == "begin"
    assert events[0].total == 10
    assert events[-1].kind == "end"


def test_debugging_lets_unforeseen_errors_through(tmp_path, monkeypatch):
    monkeypatch.setenv("PIXAFF_DEBUG", "1")

    def load(path):
        raise KeyError(13)

    with pytest.raises(KeyError):
        collect(PHOTOS, partial(batches, load=load), outputs=lambda p: (tmp_path / p.stem,))


def test_a_full_disk_ends_the_run(tmp_path):
    computed = []

    def compute(batch):
        computed.extend(batch)
        return batch

    def save(path, value):
        raise OutputError("disk full")

    work = partial(batches, compute=compute, save=save, batch_size=1)
    with pytest.raises(OutputError, match="disk full"):
        collect([Path(f"{i}.jpg") for i in range(50)], work, outputs=lambda p: (tmp_path / p.stem,))
    assert len(computed) < 10


def test_ctrl_c_stops_the_workers_before_it_is_passed_on(tmp_path):
    saved = []

    def interrupt(event):
        if event.kind == "done":
            raise KeyboardInterrupt

    def save(path, value):
        saved.append(path)
        return {}

    work = partial(batches, save=save, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        run(
            [Path(f"{i}.jpg") for i in range(100)],
            work,
            command="test",
            outputs=lambda p: (tmp_path / p.stem,),
            report=interrupt,
        )
    assert len(saved) < 10
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
