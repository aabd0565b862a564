"""The time left of a run: expected, measured, mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.events import Event
from pixaff.recipe import Recipe
from pixaff.run_options import TrainingOptions
from pixaff.settings import Settings
from pixaff.stages.batch.report import Report
from pixaff.stages.training import forecast
from pixaff.stages.training.folder import Trained
from pixaff.stages.training.forecast import Forecast, Pace
from pixaff.stages.training.stage import Stage, Work
from pixaff.stages.training.trials import step_seconds


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(forecast, "time", made)
    return made


def a_work(folder: Path, events: list[Event], photos: int = 10) -> Work:
    return Work(
        out=folder,
        labels=folder / "labels.csv",
        names=("cat",),
        settings=Settings(),
        recipes={"cam": Recipe(batch_size=2)},
        init={},
        reset_head=False,
        engine="auto",
        run=TrainingOptions(report=events.append, device="cpu"),
        photos=[folder / f"{number}.jpg" for number in range(photos)],
        result=Trained(path=folder),
    )


def a_stage(name: str, trial: float | None = None, steps: int = 0) -> Stage:
    return Stage(
        name,
        f"make {name}",
        lambda work: Report(),
        recipe="cam" if steps else "",
        weights="cam.safetensors" if steps else "",
        units=(lambda work: steps) if steps else (lambda work: len(work.photos)),
        trial=None if trial is None else (lambda work: trial),
    )


def photo(number: int) -> Event:
    return Event("done", "cam", photo=Path(f"{number}.jpg"))


def step(number: int, total: int) -> Event:
    return Event("progress", "train-cam", total=total, data={"step": number, "loss": 0.5, "f1": 0.25})


def test_expected_then_measured_then_mended(tmp_path: Path, clock: Clock) -> None:
    events: list[Event] = []
    work = a_work(tmp_path, events)
    seen = Forecast([a_stage("train", 1.0, steps=20), a_stage("cams", 2.0), a_stage("masks", 3.0)], work, {}, "fit")
    assert [event.data["state"] for event in events] == ["waiting"] * 3
    seen.begin(0)
    assert seen.seconds_left() is None  # no trial yet: there may be nothing to do
    seen.listen(Event("begin", "train-cam", total=20))
    assert seen.seconds_left() == 20 * 1 + 10 * 2 + 10 * 3
    for number in range(1, 11):
        clock.now += 2.0
        seen.listen(step(number, 20))
    assert seen.seconds_left() == 10 * 2 + 10 * 2 + 10 * 3  # its own pace
    assert events[-1].data["figure"] == "loss 0.500, F1 0.250"
    assert (events[-1].data["done"], events[-1].data["total"], events[-1].data["unit"]) == (10, 20, "steps")
    for number in range(11, 21):
        clock.now += 2.0
        seen.listen(step(number, 20))
    seen.end(Report(seconds=40.0))
    assert events[-1].data["state"] == "done"
    assert seen.seconds_left() == 2 * (10 * 2 + 10 * 3)  # all take twice as long as expected
    assert seen.pace == Pace(40.0, 20)


def test_the_first_photo_waits_for_the_model(tmp_path: Path, clock: Clock) -> None:
    seen = Forecast([a_stage("cams", 1.0)], a_work(tmp_path, []), {}, "fit")
    seen.begin(0)
    seen.listen(Event("begin", "cam", total=10))
    clock.now += 30.0
    seen.listen(photo(0))
    assert seen.seconds_left() == 9.0
    for number in (1, 2):
        clock.now += 3.0
        seen.listen(photo(number))
    assert seen.seconds_left() == 7 * 12.0


def test_an_earlier_pace_needs_no_trial(tmp_path: Path, clock: Clock) -> None:
    def fail(work: Work) -> float:
        raise AssertionError("tried")

    stage = Stage("cams", "CAMs", lambda work: Report(), trial=fail)
    seen = Forecast([stage], a_work(tmp_path, []), {"cams": Pace(5.0, 10)}, "fit")
    seen.begin(0)
    seen.listen(Event("begin", "cam", total=10))
    assert seen.seconds_left() == 5.0


def test_finished_stages_are_kept_and_a_failing_trial_costs_nothing(tmp_path: Path, clock: Clock) -> None:
    def fail(work: Work) -> float:
        raise ValueError("no image")

    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cam.safetensors").write_bytes(b"")
    events: list[Event] = []
    stages = [a_stage("train", 1.0, steps=20), Stage("cams", "CAMs", lambda work: Report(), trial=fail)]
    seen = Forecast(stages, a_work(tmp_path, events), {}, "fit")
    seen.begin(0)
    seen.end(Report())
    assert (events[-1].data["state"], events[-1].data["done"]) == ("kept", 20)
    seen.begin(1)
    seen.listen(Event("begin", "cam", total=10))
    clock.now += 4.0
    seen.listen(photo(0))
    assert seen.seconds_left() == 9 * 4.0  # nothing but its own pace


def test_a_step_is_measured() -> None:
    import torch
    from toy_set import TinyCam

    from pixaff.stages.train_cam import cam_loss

    network = TinyCam(1)
    before = torch.random.get_rng_state()
    work = a_work(Path(), [], 64)
    small, large = (step_seconds(work, network, cam_loss, Recipe(batch_size=size, crop=96)) for size in (1, 64))
    assert 0 < small < large
    assert torch.equal(before, torch.random.get_rng_state())
