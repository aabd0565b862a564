"""Shards in, shards out: a mask is that of the same photo in a folder, and a killed run repeats one shard only."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from packed_photos import parquet_of, tar_of, unpacked
from toy_bundle import BLUE, RED, draw, toy_segmenter, use_toy

from pixaff.errors import ImageError, UsageError
from pixaff.events import Event
from pixaff.io.sources import INSIDE
from pixaff.shard import index_of
from pixaff.stages.batch import packs
from pixaff.stages.cam import cam
from pixaff.stages.crf import crf
from pixaff.stages.info import info
from pixaff.stages.propagate import propagate
from pixaff.stages.segment import segment

CLASSES = {"a": "red", "b": "blue", "c": "red;blue", "d": "", "e": "blue", "f": "red"}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number, name in enumerate(CLASSES):
        suffix = ".jpg" if number % 2 else ".png"
        draw(folder / f"{name}{suffix}", (RED, 8, 8 + number), (BLUE, 32, 60 - number))
    return folder


@pytest.fixture
def shards(photos: Path) -> Path:
    """Three tar files of two photos each, with labels."""
    files = sorted(photos.iterdir())
    for number in range(3):
        members = {}
        for file in files[2 * number : 2 * number + 2]:
            members |= {file.name: file.read_bytes(), f"{file.stem}.txt": CLASSES[file.stem].encode()}
        tar_of(photos.parent / "shards" / f"{number:03}.tar", members)
    return photos.parent / "shards"


@pytest.fixture
def masks(photos: Path, tmp_path: Path) -> dict[str, bytes]:
    """The masks of a run over the folder with the same labels."""
    (tmp_path / "labels.csv").write_text("".join(f"{name},{words}\n" for name, words in CLASSES.items()))
    assert propagate(photos, tmp_path / "plain", labels=tmp_path / "labels.csv").ok
    return {path.name: path.read_bytes() for path in (tmp_path / "plain").glob("*.png")}


def only_masks(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.endswith(".png")}


def test_masks_of_shards_are_those_of_the_folder(shards: Path, masks: dict[str, bytes]) -> None:
    events: list[Event] = []
    report = propagate(f"{shards}/{{000..002}}.tar", labels=INSIDE, report=events.append)
    assert (report.done, report.failed) == (["000", "001", "002"], [])
    out = shards.parent / "shards-masks"
    assert sorted(path.name for path in out.iterdir()) == [
        "000.json", "000.tar", "001.json", "001.tar", "002.json", "002.tar", "run.json",
    ]  # fmt: skip
    files = {name: data for number in range(3) for name, data in unpacked(out / f"00{number}.tar").items()}
    assert only_masks(files) == masks
    assert json.loads(files["c.json"])["classes"] == ["red", "blue"]
    assert 0 < json.loads(files["c.json"])["shares"]["red"] < 1
    assert [event.outputs[0].name for event in events if event.kind == "done" and event.outputs] == [
        "000.tar", "001.tar", "002.tar",
    ]  # fmt: skip
    facts = info(out)["all_shards"]
    assert (facts["shards"], facts["done"], facts["missing_shards"]["count"], facts["failed"]) == (3, 6, 0, {})
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert propagate(shards, labels=INSIDE).skipped == ["000", "001", "002"]
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_parquet_in_and_out(photos: Path, tmp_path: Path, masks: dict[str, bytes]) -> None:
    pytest.importorskip("pyarrow", reason="the extra pixaff[parquet]")
    from pyarrow import parquet

    files = sorted(photos.iterdir())
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [CLASSES[file.stem].split(";") for file in files]
    assert propagate(parquet_of(tmp_path / "set.parquet", images, labels=labels), labels=INSIDE).ok
    out = tmp_path / "set-masks" / "set.parquet"
    assert unpacked(out) == masks
    rows = parquet.read_table(out).to_pylist()
    assert [(row["row"], row["image"]) for row in rows] == list(enumerate(file.name for file in files))
    assert rows[2]["classes"] == ["red", "blue"]
    assert min(rows[2]["shares"]) > 0


def test_cams_and_a_segmentation_network(shards: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cam(shards / "000.tar", shards.parent / "cams").ok
    assert cam(photos, shards.parent / "plain").ok
    assert unpacked(shards.parent / "cams" / "000.tar")["a.npz"] == (shards.parent / "plain" / "a.npz").read_bytes()
    monkeypatch.setattr("pixaff.loaders.segmenter_of", lambda *_, **__: toy_segmenter())
    assert segment(shards / "000.tar", shards.parent / "seg").ok
    assert segment(photos, shards.parent / "seg-plain").ok
    packed = unpacked(shards.parent / "seg" / "000.tar")
    assert packed["b.png"] == (shards.parent / "seg-plain" / "b.png").read_bytes()


def test_a_killed_run_repeats_one_shard(shards: Path, masks: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shards.parent / "out"
    one, calls = packs._Work.__call__, []

    def killed(self: packs._Work, pack: packs.Pack, *arguments: Any) -> Any:
        calls.append(pack.name)
        if calls == ["000", "001"]:  # as if the pack were there, and its record not
            one(self, pack, *arguments)
            (out / "001.json").unlink()
            raise KeyboardInterrupt
        return one(self, pack, *arguments)

    monkeypatch.setattr(packs._Work, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        propagate(shards, out, labels=INSIDE)
    assert info(out)["all_shards"]["missing_shards"] == {"count": 2, "first": ["001", "002"]}
    report = propagate(shards, out, labels=INSIDE)
    assert (report.skipped, report.done, calls) == (["000"], ["001", "002"], ["000", "001", "001", "002"])
    files = {name: data for number in range(3) for name, data in unpacked(out / f"00{number}.tar").items()}
    assert only_masks(files) == masks
    (out / "002.tar").write_bytes(b"cut")
    assert propagate(shards, out, labels=INSIDE).done == ["002"]


def test_shares_of_the_shards(shards: Path) -> None:
    out = shards.parent / "out"
    done = [propagate(shards, out, shard=f"{index}/2").done for index in (1, 2)]
    assert sorted(done[0] + done[1]) == ["000", "001", "002"]
    assert done[0] == [name for name in ("000", "001", "002") if index_of(name, 2) == 1]
    assert info(out)["all_shards"]["done"] == 6


def test_bad_members_and_bad_shards_cost_themselves(shards: Path, photos: Path, capsys: Any) -> None:
    good = (photos / "a.png").read_bytes()
    tar_of(
        shards / "000.tar",
        {"a.png": good, "a.txt": b"red", "../b.png": good, "no.jpg": b"no photo", "no.txt": b"red", "bare.png": good},
    )
    (shards / "001.tar").write_bytes((shards / "001.tar").read_bytes()[:3000])
    out = shards.parent / "out"
    report = propagate(f"{shards}/{{000..003}}.tar", out, labels=INSIDE)
    assert report.done == ["000", "002"]
    failed = dict(report.failed)
    assert set(failed) == {"000/no.jpg", "000/bare.png", "000/../b.png", "001", "003"}
    assert f"{shards}/000.tar/no.jpg: found 8 bytes of no known image format" in failed["000/no.jpg"]
    assert f'{shards}/000.tar: no entry for "bare"' in failed["000/bare.png"]
    assert "truncated" in failed["001"]
    assert failed["003"] == f"{shards}/003.tar: no such file"
    assert sorted(path.name for path in shards.parent.iterdir()) == ["out", "photos", "shards"]
    assert set(unpacked(out / "000.tar")) == {"a.png", "a.json"}
    assert set(info(out)["all_shards"]["failed"]) == set(failed)
    again = propagate(f"{shards}/{{000..003}}.tar", out, labels=INSIDE)
    assert (again.skipped, again.done, dict(again.failed)) == (["000", "002"], [], failed)


def test_listed_photos_of_shards(shards: Path, masks: dict[str, bytes], tmp_path: Path) -> None:
    listing, out = tmp_path / "list.txt", tmp_path / "out"
    listing.write_text("photos/c.jpg\n000/a.png\n001/f\nnowhere/c\nd\n")
    again = {"labels": INSIDE, "listing": listing}
    parts = [propagate(shards, out, shard=f"{index}/3", **again) for index in (1, 2)]
    assert [part.failed for part in parts] == [[], []]  # a share does not know what the others have
    report = propagate(shards, out, **again)
    assert (report.skipped, report.done) == (["000", "001", "002"], [])
    assert dict(report.failed) == {
        name: f"{listing}: found {name}, which is in none of the shards" for name in ("001/f",)
    }
    found = {name: data for path in sorted(out.glob("*.tar")) for name, data in unpacked(path).items()}
    assert only_masks(found) == {name: masks[name] for name in ("a.png", "c.png", "d.png")}
    assert json.loads((out / "002.json").read_text())["images"] == 0
    listing.write_text("a\n")
    events = list[Event]()
    propagate(shards, out, report=events.append, **again)
    assert any("3 shards were made with other options" in event.text for event in events)


def test_instances_of_shards(shards: Path, photos: Path, tmp_path: Path) -> None:
    assert propagate(photos, tmp_path / "plain", instances=True).ok
    assert propagate(shards, tmp_path / "out", instances=True).ok
    files = unpacked(tmp_path / "out" / "000.tar")
    whole = json.loads((tmp_path / "out" / "instances" / "000.json").read_text())
    for name in ("a.png", "b.png"):
        assert files[f"instances/{name}"] == (tmp_path / "plain" / "instances" / name).read_bytes()
    both = json.loads((tmp_path / "plain" / "instances.json").read_text())
    assert [image["file_name"] for image in whole["images"]] == ["a.png", "b.jpg"]
    assert whole["annotations"] == both["annotations"][: len(whole["annotations"])] != []
    assert info(tmp_path / "out")["all_shards"]["done"] == 6


def test_workers_of_a_cluster_take_whole_shards(
    shards: Path, masks: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs pixaff[ray]")

    def on_cluster(photos: Any, begin: Any, known: Any, options: Any, *, largest: int, **rest: Any) -> Any:
        assert (options.device, largest) == ("cpu", 1)
        work = ray.cloudpickle.loads(ray.cloudpickle.dumps(begin))("cpu")
        for photo in reversed(photos):
            told = list(work([photo], known))
            yield from pickle.loads(pickle.dumps(told)) if photo.name != "001" else [(photo, ImageError("it died"))]

    monkeypatch.setattr(packs, "on_cluster", on_cluster)
    monkeypatch.setattr(packs, "EVERY", 0.0)
    draw(tmp_path / "bad" / "x.png", (RED, 8, 8))
    members = {"x.png": (tmp_path / "bad" / "x.png").read_bytes()[:50], "x.txt": b"red", "../y.png": b""}
    tar_of(shards / "003.tar", members)
    plain, events = list[Event](), list[Event]()
    assert len(propagate(shards, tmp_path / "plain", labels=INSIDE, report=plain.append).done) == 4
    how = {"labels": INSIDE, "cluster": "ray", "device": "cpu", "report": events.append}
    report = propagate(shards, tmp_path / "out", **how)
    assert (report.done, dict(report.failed)["001"]) == (["003", "002", "000"], "it died")
    assert set(dict(report.failed)) == {"001", "003/x.png", "003/../y.png"}
    for name in ("000", "002", "003"):
        assert (tmp_path / "out" / f"{name}.tar").read_bytes() == (tmp_path / "plain" / f"{name}.tar").read_bytes()
    words = [event.text for event in events if event.kind == "note"]
    assert words[-1] == "2 of 4 shards, 0 min left"
    assert "the shards hold labels" not in " ".join(words)
    told, expected = (
        {(event.kind, event.photo) for event in some if event.kind in ("done", "failed")} for some in (events, plain)
    )
    assert {one for one in expected - told if "001" not in str(one)} == set()
    assert told - expected == {("failed", shards / "001.tar")}
    assert set(info(tmp_path / "out")["all_shards"]["failed"]) == {"001", "003/x.png", "003/../y.png"}
    monkeypatch.undo()
    use_toy(monkeypatch)
    again = propagate(shards, tmp_path / "out", labels=INSIDE)  # without a cluster
    assert (again.done, sorted(again.skipped)) == (["001"], ["000", "002", "003"])
    found = {name: data for path in (tmp_path / "out").glob("*.tar") for name, data in unpacked(path).items()}
    assert only_masks(found) == masks


def test_other_options_are_told(shards: Path) -> None:
    out, events = shards.parent / "out", list[Event]()
    propagate(shards / "000.tar", out)
    assert propagate(shards / "000.tar", out, alpha=4.0, report=events.append).skipped == ["000"]
    text = next(event.text for event in events if event.kind == "warning")
    assert text == "1 shard was made with other options or of another file: 000 (--overwrite makes them again)"
    assert propagate(shards / "000.tar", out, alpha=4.0, overwrite=True).done == ["000"]


def test_what_is_refused(shards: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shards of one format alone, or photos"):
        propagate([shards / "000.tar", photos], tmp_path / "out")
    with pytest.raises(UsageError, match="no such file"):
        propagate(f"{shards}/x*.tar", tmp_path / "out")
    with pytest.raises(UsageError, match=r"--report shows photos .*found shards.*pixaff report MASKS"):
        propagate(shards, tmp_path / "out", page=tmp_path / "page.html")
    with pytest.raises(UsageError, match=r"found the shard .*000\.tar, expected photos in folders .*unpack"):
        crf(shards, tmp_path / "cams", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_shards(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "more" / "val")
    shutil.copytree(shards, tmp_path / "more" / "train")
    found = packs.find_packs(f"{tmp_path}/more/{{train,val}}/00*.tar")
    assert [pack.name for pack in found] == [f"{part}/00{number}" for part in ("train", "val") for number in range(3)]
    assert packs._braces("x{8..10}{a,b}") == ["x8a", "x8b", "x9a", "x9b", "x10a", "x10b"]
    assert packs._braces("{008..010}")[0] == "008"
    with pytest.raises(UsageError, match="over 100,000"):
        packs._braces("{0..9999999}")
