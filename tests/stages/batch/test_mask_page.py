"""`--report`: the page of a run's masks, made when the run ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import reviewed
from toy_bundle import BLUE, RED, draw, use_toy
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.errors import UsageError
from pixaff.events import Event


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_toy(monkeypatch)
    draw(tmp_path / "photos" / "red.png", (RED, 16, 16))
    draw(tmp_path / "photos" / "both.jpg", (RED, 8, 8), (BLUE, 32, 60))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


def data_of(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.S)[1])  # type: ignore[index]
    return found


def test_propagate_makes_it_even_if_nothing_is_new(photos: Path, tmp_path: Path) -> None:
    page, events = tmp_path / "page.html", list[Event]()
    draw(tmp_path / "photos-masks" / "older.png")  # a mask that is not of this run
    done = CliRunner().invoke(app, ["propagate", f"{photos}", "--save-scores", "--report", f"{page}", "--json"])
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(line["status"] for line in lines) == ["done", "done", "failed"]  # each once: the page is no more data
    data = data_of(page)
    assert [photo["name"] for photo in data["photos"]] == ["both.jpg", "red.png"]
    assert [name for name, why in data["failed"] if "no known image format" in why] == ["broken.jpg"]
    assert f"pixaff propagate {photos} --config" in data["alpha"]["command"]
    page.unlink()
    (photos / "broken.jpg").unlink()
    result = pixaff.propagate(photos, save_scores=True, page=page, report=events.append)
    assert sorted(result.skipped) == ["both.jpg", "red.png"]
    assert [photo["name"] for photo in data_of(page)["photos"]] == ["both.jpg", "red.png"]
    assert data_of(page)["failed"] == []
    assert [event.text for event in events if event.command == "report" and event.text] == [f"page: {page}"]


def test_what_cannot_be_shown_does_not_fail_the_run(photos: Path, tmp_path: Path) -> None:
    page, events = tmp_path / "page.html", list[Event]()
    pixaff.propagate(photos)
    draw(photos / "red.png", size=(9, 9))  # of another size than its mask
    assert [name for name, _ in pixaff.propagate(photos, page=page, report=events.append).failed] == ["broken.jpg"]
    assert any("9 x 9" in event.text for event in events if (event.kind, event.command) == ("warning", "report"))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.jpg").write_bytes(b"no photo")
    page.unlink()
    pixaff.propagate(tmp_path / "none", page=page, report=events.append)
    assert "no mask to show" in events[-1].text
    assert not page.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"page": "page.png"}, "--report: found page.png, expected a file that ends in .html"),
        ({"page": "page.html", "shard": "1/2"}, "--report shows the masks of all shards"),
    ],
)
def test_pages_that_could_not_be_made_are_refused_first(photos: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pixaff.propagate(photos, **options)
    with pytest.raises(UsageError, match="one output file"):
        pixaff.propagate(photos / "red.png", photos / "mask.png", page="page.html")
    assert not (photos.parent / "photos-masks").exists()


def test_evaluate_makes_it_with_its_figures(tmp_path: Path) -> None:
    reviewed.make(tmp_path)
    masks, truth, page = tmp_path / "photos-masks", tmp_path / "gt", tmp_path / "page.html"
    (masks / "d.png").unlink()
    done = CliRunner().invoke(app, ["evaluate", f"{masks}", f"{truth}", "--report", f"{page}"])
    assert done.exit_code == 1, done.output
    data = data_of(page)
    assert data["scores"]["miou"] == pytest.approx(pixaff.evaluate(masks, truth).best.miou, abs=1e-6)
    assert len(data["photos"]) == data["scores"]["images"] == 3
    assert data["failed"] == [["d", f"no prediction in {masks}"]]
    for arguments in (["--cams", f"{masks}", f"{truth}", "--alpha", "2"], [f"{masks}/scores", f"{truth}"]):
        refused = CliRunner().invoke(app, ["evaluate", *arguments, "--report", f"{page}"])
        assert "--report shows masks, found" in refused.stderr
