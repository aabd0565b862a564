"""Photos and outputs behind addresses: fsspec's memory, its local files, and an S3 server on this machine."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packed_photos import tar_of, unpacked
from s3_server import s3_bucket
from toy_bundle import BLUE, RED, draw, use_toy

from pixaff.errors import OutputError, PixaffError, UsageError
from pixaff.events import Event
from pixaff.io import addresses
from pixaff.io.addresses import address_of, is_address, listed, local_path, put, read_address
from pixaff.stages.batch.destination import Destination
from pixaff.stages.batch.inputs import default_out, find_images
from pixaff.stages.cam import cam
from pixaff.stages.info import info
from pixaff.stages.propagate import propagate
from pixaff.stages.train_cam import train_cam

fsspec = pytest.importorskip("fsspec", reason="fsspec comes with torch")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos" / "a.png", (RED, 8, 8))
    draw(tmp_path / "photos" / "sub" / "b.jpg", (BLUE, 32, 60))
    draw(tmp_path / "photos" / "c.png", (RED, 8, 8), (BLUE, 32, 60))
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_bucket() as address:
        yield address


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest, photos: Path) -> str:
    """An address with the photos in its folder ``photos``."""
    if request.param == "memory":
        root = "memory://pixaff"
        files, path = fsspec.core.url_to_fs(root)
        if files.exists(path):
            files.rm(path, recursive=True)
    else:
        root = f"{request.getfixturevalue('s3')}/{photos.parent.name}"
    for file in photos.rglob("*.*"):
        put(f"{root}/photos/{file.relative_to(photos).as_posix()}", file)
    return root


def test_masks_of_addresses_are_those_of_the_folder(store: str, photos: Path, tmp_path: Path) -> None:
    assert propagate(photos, tmp_path / "plain", recursive=True).ok
    events: list[Event] = []
    report = propagate(f"{store}/photos/", f"{store}/masks", recursive=True, report=events.append)
    assert (sorted(report.done), report.failed) == (["a.png", "c.png", "sub/b.jpg"], [])
    found = listed(f"{store}/masks", recursive=True)
    assert list(found) == ["a.png", "c.png", "run.json", "run.jsonl", "sub/b.png"]
    for name in ("a.png", "c.png", "sub/b.png"):
        assert read_address(f"{store}/masks/{name}") == (tmp_path / "plain" / name).read_bytes()
    outputs = [address_of(event.outputs[0]) for event in events if event.kind == "done"]
    assert sorted(outputs)[0] == f"{store}/masks/a.png"
    assert info(f"{store}/masks")["run.json"]["done"] == 3

    # What is there is skipped, without its line in the ledger, too; what changed is told of.
    assert len(propagate(f"{store}/photos", f"{store}/masks", recursive=True).skipped) == 3
    files, path = fsspec.core.url_to_fs(f"{store}/masks")
    files.rm_file(f"{path}/run.jsonl")
    files.rm_file(f"{path}/sub/b.png")
    again = propagate(f"{store}/photos", f"{store}/masks", recursive=True)
    assert (again.done, sorted(again.skipped)) == (["sub/b.jpg"], ["a.png", "c.png"])
    draw(photos / "sub" / "b.jpg", (RED, 8, 8))
    put(f"{store}/photos/sub/b.jpg", photos / "sub" / "b.jpg")
    propagate(f"{store}/photos", f"{store}/masks", recursive=True, report=events.append)
    assert any("another photo of that name" in event.text for event in events if event.kind == "warning")


def test_shards_behind_addresses(store: str, photos: Path, tmp_path: Path) -> None:
    assert propagate(photos, tmp_path / "plain").ok
    put(f"{store}/x/0.tar", tar_of(tmp_path / "0.tar", {"a.png": (photos / "a.png").read_bytes()}))
    put(f"{store}/x/1.tar", tar_of(tmp_path / "1.tar", {"c.png": (photos / "c.png").read_bytes()}))
    report = propagate(f"{store}/x/*.tar", f"{store}/out", overlay=True)
    assert (report.done, report.failed) == (["0", "1"], [])
    assert list(listed(f"{store}/out")) == ["0.json", "0.tar", "1.json", "1.tar", "run.json"]
    (tmp_path / "back.tar").write_bytes(read_address(f"{store}/out/1.tar"))
    files = unpacked(tmp_path / "back.tar")
    assert list(files) == ["c.png", "overlays/c.jpg", "c.json"]
    assert files["c.png"] == (tmp_path / "plain" / "c.png").read_bytes()
    assert propagate(f"{store}/x/{{0,1,2}}.tar", f"{store}/out", overlay=True).failed == [
        ("2", f"{store}/x/2.tar: no such file")
    ]
    facts = info(f"{store}/out")["all_shards"]
    assert (facts["shards"], facts["done"], facts["failed"]) == (3, 2, {"2": f"{store}/x/2.tar: no such file"})


def test_one_photo_one_bad_photo_and_cams(store: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no photo")
    put(f"{store}/photos/bad.png", tmp_path / "bad.png")
    (tmp_path / "notes.md").write_bytes(b"notes")
    put(f"{store}/photos/notes.md", tmp_path / "notes.md")
    report = cam(f"{store}/photos", tmp_path / "cams")
    assert sorted(report.done) == ["a.png", "c.png"]
    assert report.failed[0][1].startswith(f"{store}/photos/bad.png: found 8 bytes of no known image format")
    assert propagate([f"{store}/photos/a.png", photos / "c.png"], tmp_path / "masks").done == ["a.png", "c.png"]
    with pytest.raises(UsageError, match=r"no photos in .*nowhere"):
        propagate(f"{store}/nowhere", tmp_path / "masks")
    with pytest.raises(UsageError, match="download it first"):
        train_cam(f"{store}/photos", tmp_path / "labels.csv", ["red"], tmp_path / "run")
    with pytest.raises(UsageError, match="is the input"):
        propagate(f"{store}/photos", f"{store}/photos")


def test_addresses_and_paths() -> None:
    for text in ("s3://bucket/a b/c.jpg", "gs://b", "hf://datasets/me/x", "memory://x"):
        assert is_address(text)
        assert is_address(Path(text))
        assert address_of(Path(text)) == text
    for text in ("photos", "C:/photos", "/a/b", "a:b", "file:///a/b", "-"):
        assert not is_address(text)
    assert local_path("file:///a/b") == "/a/b"
    assert default_out(["s3://bucket/photos/"], "masks") == Path("photos-masks")
    assert default_out(["s3://bucket/shards/{00..09}.tar"], "masks") == Path("shards-masks")
    assert default_out(["gs://bucket/x/photos.parquet"], "masks") == Path("photos-masks")


def test_what_a_worker_elsewhere_gets(photos: Path, tmp_path: Path) -> None:
    """It makes outputs in a scratch folder of its own, and does not get the list of a million photos."""
    place = Destination("memory://elsewhere")
    theirs = pickle.loads(pickle.dumps(place))
    assert theirs.folder != place.folder
    (theirs.folder / "sub").mkdir()
    (theirs.folder / "sub" / "a.png").write_bytes(b"mask")
    theirs.send(theirs.folder / "sub" / "a.png")
    assert read_address("memory://elsewhere/sub/a.png") == b"mask"
    assert list(theirs.folder.rglob("*.png")) == []
    there = theirs.folder
    del theirs
    assert not there.exists()
    assert place.folder.exists()
    assert pickle.loads(pickle.dumps(Destination(tmp_path))).folder == tmp_path

    put("memory://elsewhere/photos/a.png", photos / "a.png")
    found = find_images("memory://elsewhere/photos", addresses=True)
    source = pickle.loads(pickle.dumps(found.source))
    assert source.stamps == {}
    assert source.open(found[0]).data == (photos / "a.png").read_bytes()
    assert source.open(photos / "a.png") == photos / "a.png"


def test_an_output_of_which_no_size_is_known_is_looked_for(photos: Path) -> None:
    """A worker of a cluster has sent it, of which the ledger tells no size."""
    propagate(photos, "memory://unknown")
    files, path = fsspec.core.url_to_fs("memory://unknown")
    lines = [json.loads(line) for line in files.cat_file(f"{path}/run.jsonl").splitlines()]
    words = "".join(json.dumps({**line, **({"outputs": [None]} if "outputs" in line else {})}) + "\n" for line in lines)
    files.pipe_file(f"{path}/run.jsonl", words.encode())
    assert len(propagate(photos, "memory://unknown").skipped) == 2
    files.rm_file(f"{path}/a.png")
    assert propagate(photos, "memory://unknown").done == ["a.png"]


def test_local_files_by_address(photos: Path, tmp_path: Path) -> None:
    assert propagate(f"file://{photos}", f"file://{tmp_path}/masks").done == ["a.png", "c.png"]
    assert (tmp_path / "masks" / "a.png").is_file()


class Refusing:
    """A store that answers with an error."""

    protocol = "s3"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object, **__: object) -> Any:
            raise self.error

        return refuse


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Access Denied"), "no permission, or no credentials.*AWS_ACCESS_KEY_ID"),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), "AWS_PROFILE"),
        (OSError("Could not connect to the endpoint"), "cannot be .* OSError: Could not connect.*check the network"),
        (ImportError("Install s3fs to access S3"), "needs a package.*pixaff.s3."),
    ],
)
def test_what_a_store_refuses_is_told_in_a_line(
    error: Exception, words: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_opened", lambda address: (Refusing(error), "bucket/x"))
    with pytest.raises(PixaffError, match=f"s3://bucket/x.*{words}") as caught:
        propagate("s3://bucket/x", photos.parent / "out")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=words):
        put("s3://me:secret@bucket/x", photos / "a.png")
    assert "secret" not in str(caught.value)


def test_unknown_kinds_and_absent_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown kind of address"):
        propagate("nothing://x/y", tmp_path)
    for package, address, words in (
        ("gcsfs", "gs://bucket/x", r"'pixaff\[gs\]'"),
        ("huggingface_hub", "hf://datasets/me/x", "huggingface_hub"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        needs = rf"{address}: .*:// needs a package that is not installed \(pip install {words}\)"
        with pytest.raises(PixaffError, match=needs):
            listed(address)
        with pytest.raises(PixaffError, match=needs):
            propagate(address, tmp_path)


def test_a_store_that_fails_between_outputs_ends_the_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = fsspec.core.url_to_fs("memory://ends")
    if files.exists(path):
        files.rm(path, recursive=True)
    real, sent = addresses._send, list[str]()

    def send(store: Any, file: Path, place: str) -> None:
        if len(sent) == 1:
            raise OSError("connection reset")
        sent.append(place)
        real(store, file, place)

    monkeypatch.setattr(addresses, "_send", send)
    with pytest.raises(OutputError, match=r"memory://ends.*connection reset"):
        propagate(photos, "memory://ends", workers=1)
    monkeypatch.setattr(addresses, "_send", real)
    report = propagate(photos, "memory://ends")
    assert (len(report.skipped), len(report.done)) == (1, 1)
    assert json.loads(read_address("memory://ends/run.json"))["done"] >= 1
