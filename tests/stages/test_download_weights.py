from __future__ import annotations

import json
import random
import zipfile

import pytest
from fake_services import File, drive_file, drive_folder, impatient, route_drive, serving, weights_bytes
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.cli.console import Console
from pixaff.errors import DownloadError, UsageError
from pixaff.events import Event
from pixaff.published import posterior_folder
from pixaff.stages.download_weights import check_sources

BODY = weights_bytes()
runner = CliRunner()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Fake services, a cache, and a catalogue with w, m (at a mirror only) and a (archive) besides the package's."""
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    monkeypatch.setenv("PIXAFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIXAFF_CATALOGUE", str(tmp_path / "own.toml"))
    monkeypatch.delenv("PIXAFF_OFFLINE", raising=False)
    monkeypatch.setattr("pixaff.published.Connection", impatient)
    with serving() as server:
        route_drive(server, monkeypatch.setattr)
        (tmp_path / "own.toml").write_text(
            f'[w]\nwhat = "weights"\nsource = "{server.url}/w.pth"\n'
            f'[m]\nsource = "{server.url}/gone.pth"\nmirrors = ["{server.url}/m.pth"]\n'
            f'[a]\nkind = "archive"\nsource = "{server.url}/a.zip"\n'
        )
        server.routes["/w.pth"] = server.routes["/m.pth"] = File(BODY)
        yield server


def call(*arguments, code=0):
    done = runner.invoke(app, ["download-weights", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def objects(*arguments, code=0):
    return [json.loads(line) for line in call(*arguments, "--json", code=code).stdout.splitlines()]


def test_the_list_shows_what_exists_and_what_is_cached(fake, tmp_path):
    lines = {line.split()[0]: line for line in call().stdout.splitlines()}
    assert all(line.split()[1] == "missing" for line in lines.values())
    assert {"vgg16-cam", "resnet38-affinity", "hybrid", "crf-high", "w", "m", "a"} < lines.keys()
    assert "(onedrive:https://1drv.ms/u/s!ArK_bULPXnoqhYEOXFAks9NZsiJPCw?e=FKANlR)" in lines["crf-low"]
    call("w")
    facts = {item["name"]: item for item in objects("--list")}
    assert list(facts) == list(lines)
    assert facts["w"]["status"] == "cached"
    assert facts["w"]["path"] == str(tmp_path / "cache" / "w" / "w.pth")
    assert facts["w"]["files"]["w.pth"]["size"] == facts["w"]["bytes"] == len(BODY)
    assert facts["m"]["status"] == "missing"
    assert [line["name"] for line in objects("--list", "w")] == ["w"]


def test_fetching_says_where_and_how_large(fake, tmp_path):
    done = call("w")
    assert done.stdout.split()[:3] == ["w", "done", f"{tmp_path / 'cache' / 'w' / 'w.pth'},"]
    assert call("w").stdout.split()[1] == "skipped"
    assert call("w", "--force").stdout.split()[1] == "done"
    assert objects("w")[0]["path"] == str(tmp_path / "cache" / "w" / "w.pth")
    assert objects("w", "--cache-dir", tmp_path / "other")[0]["path"] == str(tmp_path / "other" / "w" / "w.pth")


def test_one_that_fails_does_not_stop_the_others(fake):
    fake.routes["/w.pth"] = lambda request: request.answer(404)
    done = call("w", "m", code=1)
    assert "failed: w cannot be fetched" in done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["m", "done"]]
    assert [item["status"] for item in objects("w", "m", code=1)] == ["failed", "skipped"]


def test_a_dry_run_says_what_from_where_and_how_large(fake, tmp_path, monkeypatch):
    fact = objects("w", "--dry-run")[0]
    assert (fact["status"], fact["bytes"], fact["source"]) == ("would", len(BODY), f"{fake.url}/w.pth")
    assert objects("m", "--dry-run")[0]["source"] == f"{fake.url}/m.pth"
    drive_file(fake, File(BODY), confirm=True)
    assert objects("vgg16-cam", "--dry-run")[0]["bytes"] == len(BODY)
    drive_folder(fake, {"cam.pth": BODY, "affinity.pth": BODY})
    assert objects("hybrid", "--dry-run")[0]["bytes"] == 2 * len(BODY)
    assert not (tmp_path / "cache").exists()
    del fake.routes["/w.pth"]
    assert f"no source answers: {fake.url}/w.pth" in objects("w", "--dry-run", code=1)[0]["error"]
    monkeypatch.setenv("PIXAFF_OFFLINE", "1")
    assert objects("w", "--dry-run")[0]["bytes"] is None
    call("w", code=1)


def test_mirror_and_local_sources(fake, tmp_path):
    (tmp_path / "w.pth").write_bytes(BODY)
    assert call("w", "--mirror", f"{fake.url}/m.pth").stdout.split()[1] == "done"
    assert call("m", "--from-file", tmp_path / "w.pth").stdout.split()[1] == "done"
    assert call("w", "--from-dir", tmp_path).stdout.split()[1] == "done"
    for wrong in (
        ["w", "m", "--from-file", "x"],
        ["w", "m", "--mirror", f"{fake.url}/m.pth"],
        ["w", "--mirror", "file:///etc/passwd"],
        ["w", "--mirror", "https://a/b", "--from-dir", "x"],
        ["--force"],
        ["--list", "--verify"],
        ["--verify", "--force"],
        ["nothing"],
        ["w", "--from-file", "nowhere"],
    ):
        call(*wrong, code=2)
    call("w", "--catalogue", "nowhere", code=2)


def test_verify_and_prune(fake, tmp_path):
    call("w", "m")
    assert {line.split()[1] for line in call("--verify").stdout.splitlines()} == {"verified"}
    (tmp_path / "cache" / "w" / "w.pth").write_bytes(weights_bytes(seed=1))
    done = call("--verify", code=1)
    assert "failed: w: " in done.stderr
    assert "found sha256" in done.stderr
    assert call("m", "--prune", "--dry-run").stdout.split()[:2] == ["m", "would"]
    assert objects("m", "--prune")[0] == {
        "name": "m",
        "status": "removed",
        "path": str(tmp_path / "cache" / "m"),
        "bytes": len(BODY),
    }
    assert not (tmp_path / "cache" / "m").exists()
    call("m", "--verify", code=1)


def test_check_tries_every_source_and_keeps_nothing(fake, tmp_path, monkeypatch):
    drive_file(fake, File(BODY), confirm=True)
    done = call("w", "m", "a", "vgg16-cam", "--check", code=1)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["w", "answers"],
        ["m", "failed"],
        ["m", "answers"],
        ["a", "failed"],
        ["vgg16-cam", "answers"],
    ]
    assert "HTTP 404, is not there" in done.stdout
    assert objects("m", "--check", "--mirror", f"{fake.url}/m.pth")[0]["bytes"] == len(BODY)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("PIXAFF_OFFLINE", "1")
    with pytest.raises(DownloadError, match="PIXAFF_OFFLINE"):
        list(check_sources(["w"]))


def test_the_python_function(fake):
    events = []
    items = pixaff.download_weights(["w"], report=events.append)
    assert [(item.name, item.status, item.ok) for item in items] == [("w", "done", True)]
    last = [event for event in events if event.kind == "download"][-1]
    assert (last.text, last.data) == ("w", {"done": len(BODY), "total": len(BODY)})
    with pytest.raises(UsageError, match="no name is given"):
        pixaff.download_weights([])


def test_training_takes_published_posteriors_by_name(fake, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("out/2007_000032.npy", b"\x93NUMPY")
    fake.routes["/a.zip"] = File(archive.read_bytes())
    events = []
    folder = posterior_folder("@a", "train-affinity", events.append)
    assert [path.name for path in folder.iterdir()] == ["2007_000032.npy"]
    assert {event.command for event in events} == {"train-affinity"}
    assert posterior_folder(tmp_path, "train-affinity", events.append) == tmp_path
    done = runner.invoke(
        app,
        [
            "train-affinity",
            str(tmp_path),
            "--crf-low-dir",
            "@crf-lo",
            "--crf-high-dir",
            "@a",
            "--out",
            str(tmp_path / "run"),
        ],
    )
    assert done.exit_code == 2
    assert 'no weights are called "crf-lo" (did you mean crf-low?)' in done.stderr


def test_a_line_now_and_then_tells_of_a_download_without_a_terminal(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pixaff.cli.console.time.monotonic", lambda: now[0])
    with Console() as console:
        for done in range(0, 500_000_000, 100_000_000):
            console(Event("download", "cam", "resnet38-cam", data={"done": done, "total": 420_000_000}))
            now[0] += 8.0
        console(Event("end", "cam"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["resnet38-cam: 200 MB of 420 MB", "resnet38-cam: 400 MB of 420 MB"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Console(as_json=True) as console:
        console(Event("download", "cam", "resnet38-cam", data={"done": 5_000_000, "total": 10_000_000}))
        assert console.bar.drawn
        assert console.bar._bar.tasks[0].percentage == 50
        console(Event("download", "cam", "crf-low", data={"done": 5, "total": None}))
        assert console.bar._bar.tasks[0].description == "crf-low"
        console(Event("end", "cam"))
        assert not console.bar.drawn
    assert capsys.readouterr().out == ""
