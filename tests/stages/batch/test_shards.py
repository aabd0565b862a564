"""Shards of one run in one folder: in this process one after the other, and in several at once, some of them killed."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from toy_bundle import BLUE, RED, draw, use_toy
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.errors import UsageError
from pixaff.events import Event
from pixaff.run_options import BatchOptions
from pixaff.shard import Shard
from pixaff.stages.batch import ledger
from pixaff.stages.batch.ledger import read_ledger
from pixaff.stages.batch.plan import Plan
from pixaff.stages.batch.record import read_record
from pixaff.stages.batch.run import run_plan, skip_all
from pixaff.stages.batch.shards import add_up

COUNT = 3
SLEEPER = """
import sys, time
from pathlib import Path
from pixaff.run_options import BatchOptions
from pixaff.stages.batch.plan import Plan
from pixaff.stages.batch.run import run_plan

folder, shard = Path(sys.argv[1]), sys.argv[2]
photos = sorted((folder / "photos").iterdir())
run = BatchOptions(shard=shard)
plan = Plan(folder / "out", "test", photos, lambda photo: (folder / "out" / f"{photo.stem}.txt",), run)

def work(todo):
    for photo in todo:
        plan.outputs(photo)[0].write_text(photo.name)
        print(photo.name, flush=True)
        yield photo, {}
        time.sleep(0.01)

run_plan(plan, work, settings={"alpha": 3.0}, device="cpu")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(60):
        (tmp_path / "photos" / f"{number:02}.jpg").write_text(f"photo {number}")
    return tmp_path


def plan(folder: Path, shard: str | None = None, **options) -> Plan:
    photos = sorted((folder / "photos").iterdir())
    run = BatchOptions(shard=shard, **options)
    return Plan(folder / "out", "test", photos, lambda photo: (folder / "out" / f"{photo.stem}.txt",), run)


def carry_out(made: Plan, fail: tuple[str, ...] = (), stop: int | None = None, alpha: float = 3.0) -> list[str]:
    def work(todo):
        for number, photo in enumerate(todo):
            if number == stop:
                raise KeyboardInterrupt
            made.outputs(photo)[0].write_text(photo.name)
            yield photo, ValueError("damaged") if photo.name in fail else {}

    return run_plan(made, work, settings={"alpha": alpha}, device="cpu").done


def test_shards_do_everything_once(folder: Path) -> None:
    done = [carry_out(plan(folder, f"{index}/{COUNT}")) for index in range(1, COUNT + 1)]
    assert all(done)
    assert sorted(chain(*done)) == [f"{number:02}.jpg" for number in range(60)]
    assert plan(folder).nothing_to_do
    assert plan(folder, "4/7").nothing_to_do
    assert not (folder / "out" / "run.json").exists()  # until a run without --shard
    assert skip_all(plan(folder)).ok
    record = json.loads((folder / "out" / "run.json").read_text())
    assert (record["images"], record["done"], record["failed"], record["settings"]) == (60, 60, {}, {"alpha": 3.0})


def test_the_sum_names_what_failed_and_what_is_missing(folder: Path) -> None:
    shards = [Shard(index, COUNT) for index in (1, 2, 3)]
    of = {shard.index: [f"{n:02}.jpg" for n in range(60) if shard.has(f"{n:02}.jpg")] for shard in shards}
    carry_out(plan(folder, "1/3"), fail=(of[1][0],))
    with pytest.raises(KeyboardInterrupt):
        carry_out(plan(folder, "2/3"), stop=4)
    found = add_up(folder / "out")
    assert found is not None
    assert found["shards"] == {
        "1/3": f"{len(of[1]) - 1} of {len(of[1])} done, 1 failed",
        "2/3": f"4 of {len(of[2])} done, stopped",
        "3/3": "no record: not begun",
    }
    assert list(found["failed"]) == [of[1][0]]
    assert (found["photos"], found["done"]) == (60, len(of[1]) + 3)
    assert found["missing"] == 60 - found["done"] - 1
    assert found["begun_without_output"] == of[2][4:]
    info = pixaff.info(folder / "out", folder / "photos")
    assert info["all_shards"] == found
    assert info["photos_without_output"] == {
        "count": 60 - found["done"],
        "first": sorted([of[1][0], *of[2][4:], *of[3]]),
    }
    # A run without --shard finishes the rest.
    assert sorted(carry_out(plan(folder))) == sorted([*of[2][4:], *of[3]])  # what failed has an output here
    found = add_up(folder / "out")
    assert found is not None
    assert found["missing"] == 0
    assert read_record(folder / "out")["done"] == 59


def test_photos_begun_again_are_missing(folder: Path) -> None:
    carry_out(plan(folder, "1/1"))
    with pytest.raises(KeyboardInterrupt):
        carry_out(plan(folder, "1/1", overwrite=True), stop=10)
    found = add_up(folder / "out")
    assert found is not None
    assert (found["shards"], found["done"], found["missing"]) == ({"1/1": "10 of 60 done, stopped"}, 10, 50)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"settings": {}, "shard": 3}', '{"settings": {}, "shard": {"shard": "1/9"}}']
)
def test_a_damaged_or_renamed_record_counts_as_none(folder: Path, text: str) -> None:
    for index in (1, 2):
        carry_out(plan(folder, f"{index}/2"))
    (folder / "out" / "run-1-of-2.json").write_text(text)
    (folder / "out" / "run-7-of-9.json").write_bytes((folder / "out" / "run-2-of-2.json").read_bytes())
    found = add_up(folder / "out")
    assert found is not None
    assert list(found["shards"]) == ["1/2", "2/2"]
    assert found["shards"]["1/2"] == "no record: not begun"
    assert found["missing"] == 0


def test_a_shard_without_photos_has_a_record(folder: Path) -> None:
    for photo in sorted((folder / "photos").iterdir())[1:]:
        photo.unlink()
    with_photo = next(index for index in range(1, 4) if Shard(index, 3).has("00.jpg"))
    for index in range(1, 4):
        made = plan(folder, f"{index}/3")
        assert made.nothing_to_do == (index != with_photo)
        skip_all(made) if made.nothing_to_do else carry_out(made)
    found = add_up(folder / "out")
    assert found is not None
    assert sorted(found["shards"].values()) == ["0 of 0 done", "0 of 0 done", "1 of 1 done"]
    assert read_record(folder / "out")["settings"] == {"alpha": 3.0}  # of the shard that made something


def test_new_photos_and_another_number_of_shards_redo_nothing(folder: Path) -> None:
    for index in (1, 2, 3):
        carry_out(plan(folder, f"{index}/3"))
    (folder / "photos" / "new.jpg").write_text("new")
    done = [carry_out(plan(folder, f"{index}/5")) for index in range(1, 6)]
    assert list(chain(*done)) == ["new.jpg"]
    assert list(add_up(folder / "out")["shards"]) == ["1/5", "2/5", "3/5", "4/5", "5/5"]


def test_the_newest_line_counts_whichever_file_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1, 10_000))
    monkeypatch.setattr(ledger.time, "time", lambda: next(clock))
    carry_out(plan(folder, "1/1"), alpha=1.0)
    carry_out(plan(folder, overwrite=True), alpha=2.0)
    (folder / "photos" / "new.jpg").write_text("new")
    carry_out(plan(folder, "1/1"), alpha=2.0)  # the shard's file is the newer one now
    lines = read_ledger(folder / "out")
    settings = [lines.runs[line["made"]]["settings"]["alpha"] for line in lines.images.values()]
    assert settings == [2.0] * 61
    for damage in ("x", None, [], float("nan"), 10**400, -1, True):
        lines.append({"image": "odd.jpg", "status": "done"})
        path = folder / "out" / "run.jsonl"
        path.write_text(path.read_text() + json.dumps({"image": "odd.jpg", "status": "failed", "at": damage}) + "\n")
        assert "odd.jpg" in read_ledger(folder / "out").images


def test_two_photos_with_one_output_are_refused_though_in_different_shards(tmp_path: Path) -> None:
    names = ["a.jpg", next(name for name in ("a.png", "a.bmp", "a.webp", "a.tif") if not Shard(2, 8).has(name))]
    assert Shard(2, 8).has("a.jpg")
    photos = [tmp_path / name for name in names]
    with pytest.raises(UsageError, match="would both write"):
        Plan(tmp_path, "test", photos, lambda photo: (tmp_path / f"{photo.stem}.txt",), BatchOptions(shard="2/8"))


def test_shards_at_once_and_a_killed_one(folder: Path) -> None:
    """Real processes: three shards, of which one is killed twice; the same commands end with everything done once."""

    def start(shard: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SLEEPER, str(folder), shard]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    for kills in (2, 5, None):
        processes = [start(f"{index}/{COUNT}") for index in range(1, COUNT + 1)]
        if kills is not None:
            victim = processes[1]
            assert [victim.stdout.readline() for _ in range(kills)][-1]
            victim.kill()
        ended = [process.wait(60) for process in processes]
        printed = [process.stdout.read() for process in processes]
        assert ended == [0, 0 if kills is None else -9, 0]
        for process in processes:
            process.stdout.close()
        found = add_up(folder / "out")
        assert found is not None
        if kills is None:
            assert (found["done"], found["missing"], found["failed"]) == (60, 0, {})
        else:
            assert found["shards"]["2/3"].endswith("still running or killed")
            assert found["missing"] == len(found["begun_without_output"]) > 0
    assert not printed[0]  # finished in the first round
    assert not printed[2]
    assert sorted(path.read_text() for path in (folder / "out").glob("*.txt")) == [f"{n:02}.jpg" for n in range(60)]
    assert plan(folder).nothing_to_do


def test_masks_and_records_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        draw(Path(f"photos/{number}/lawn.png"), (RED, 8 + number, 16), (BLUE, 30, 60))
    common = {"device": "cpu", "recursive": True, "instances": True}
    assert pixaff.propagate("photos", "whole", **common).ok
    reports = [pixaff.propagate("photos", "both", shard=f"{index}/2", **common) for index in (1, 2)]
    assert sorted(chain(*(report.done for report in reports))) == [f"{number}/lawn.png" for number in range(5)]
    masks = sorted(path.relative_to("whole") for path in Path("whole").rglob("*.png"))
    assert len(masks) == 10  # with instances
    assert all((Path("both") / mask).read_bytes() == (Path("whole") / mask).read_bytes() for mask in masks)
    assert not Path("both/instances.json").exists()
    assert pixaff.propagate("photos", "both", **common).done == []
    assert json.loads(Path("both/instances.json").read_text()) == json.loads(Path("whole/instances.json").read_text())
    assert read_record(Path("both"))["done"] == 5


@pytest.mark.parametrize("command", ["propagate", "cam", "crf", "segment"])
def test_the_commands_take_it(command: str) -> None:
    wrong = CliRunner().invoke(
        app, [command, "nowhere", "-o", "out", *["--cams", "."] * (command == "crf"), "--shard", "0/2"]
    )
    assert wrong.exit_code != 0
    assert "I from 1 to N" in str(wrong.exception) + wrong.output


def test_a_shard_says_how_much_it_has(folder: Path) -> None:
    events: list[Event] = []
    carry_out(plan(folder, "1/3", report=events.append))
    (note,) = [event.text for event in events if event.kind == "note"]
    assert note.startswith("shard 1/3: ")
    assert note.endswith(" of 60 photos")
