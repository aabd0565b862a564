"""The page of `pixaff report`: what is in it, and what cannot get out of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pytest
import reviewed
from typer.testing import CliRunner

import pixaff
from pixaff.cli.app import app
from pixaff.errors import FormatError, UsageError
from pixaff.io.masks import read_mask, write_mask
from pixaff.ops.metrics import ConfusionMatrix, rank_correlation
from pixaff.stages.batch import mask_page as stage


@pytest.fixture
def folder(tmp_path):
    return reviewed.make(tmp_path)


def blocks(page):
    """The data of a page by id."""
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page.read_text("utf-8"), re.S)
    return {name: json.loads(text) for name, text in found}


def made(folder, **options):
    options = {"ground_truth": folder / "gt", **options}
    result = pixaff.report(folder / "photos-masks", folder / "report.html", workers=2, **options)
    return result, blocks(folder / "report.html")


def test_the_page_tells_of_every_photo(folder):
    result, found = made(folder)
    assert (result.failed, len(result.done)) == ([], 4)
    data = found["data"]
    assert [photo["name"] for photo in data["photos"]] == [f"{name}.jpg" for name in sorted(reviewed.NAMES)]
    assert data["classes"] == list(reviewed.CLASSES)
    assert [photo["classes"] for photo in data["photos"]] == [[1], [1, 2], [1], [1, 2]]
    masks = [read_mask(folder / "photos-masks" / f"{name}.png") for name in sorted(reviewed.NAMES)]
    assert [photo["shown"] for photo in data["photos"]] == pytest.approx(
        [(mask > 0).mean() for mask in masks], abs=1e-4
    )
    assert all(0 < photo["margin"] < 1 for photo in data["photos"])
    assert len(found["part-0"]) == 4
    assert all(one["photo"].startswith("data:image/") and one["scores"] for one in found["part-0"])
    assert data["alpha"]["saved"] == 2
    masks_folder = folder / "photos-masks"
    assert data["alpha"]["command"] == (
        f"pixaff propagate {folder}/photos --config {masks_folder}/run.json --alpha {{alpha}} "
        f"--out {masks_folder}-alpha-{{alpha}}"
    )


def test_figures_are_those_of_evaluate(folder):
    scores = made(folder)[1]["data"]["scores"]
    expected = pixaff.evaluate(folder / "photos-masks", folder / "gt").best
    assert scores["miou"] == pytest.approx(expected.miou, abs=1e-6)
    assert scores["iou"] == pytest.approx(list(expected.iou.values()), abs=1e-6)
    total = ConfusionMatrix(3)
    for name in reviewed.NAMES:
        total.update(*(read_mask(folder / place / f"{name}.png") for place in ("photos-masks", "gt")))
    assert scores["matrix"] == total.matrix.tolist()
    pairs = [(photo["margin"], photo["iou"]) for photo in made(folder)[1]["data"]["photos"]]
    assert scores["rank"] == pytest.approx(rank_correlation(*zip(*pairs, strict=True)), abs=1e-4)
    assert scores["worst"][0] == scores["best"][-1]


def test_foreign_names_stay_text(folder):
    made(folder)
    page = (folder / "report.html").read_text("utf-8")
    assert "onerror" in page  # the class name is there ...
    assert "<img src=x" not in page  # ... and is no element
    assert page.count("</script>") == len(blocks(folder / "report.html")) + 1
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", page)


def test_a_large_page_has_its_parts_beside_it(folder, monkeypatch):
    monkeypatch.setattr(stage, "IN_ONE_FILE", 2)
    monkeypatch.setattr(stage, "EACH_BESIDE", 3)
    _, found = made(folder)
    assert set(found) == {"data"}
    assert sorted(path.name for path in (folder / "report-parts").iterdir()) == ["part-0.js", "part-1.js"]
    texts = [(folder / "report-parts" / f"part-{number}.js").read_text() for number in (0, 1)]
    assert [text[: len("pixaffPart(0,")] for text in texts] == ["pixaffPart(0,", "pixaffPart(1,"]
    assert [len(json.loads(text[len("pixaffPart(0,") : -2])) for text in texts] == [3, 1]


def test_without_photos_scores_and_truth_the_masks_are_shown(folder):
    masks = folder / "plain"
    write_mask(masks / "x.png", np.eye(20, dtype=np.uint8))
    result = pixaff.report(masks, folder / "report.html")
    assert result.ok
    found = blocks(folder / "report.html")
    assert (found["data"]["alpha"], found["data"]["scores"]) == (None, None)
    assert found["data"]["photos"][0] == {
        "name": "x.png", "classes": [1], "shown": 0.05, "margin": None, "iou": None, "size": [20, 20], "trouble": ""
    }  # fmt: skip
    assert found["part-0"][0]["photo"] is None


def test_what_cannot_be_read_costs_itself_alone(folder):
    (folder / "photos" / "b.jpg").write_bytes(b"no photo")
    (folder / "photos-masks" / "scores" / "c ü.npz").write_bytes(b"no scores")
    write_mask(folder / "gt" / "d.png", np.zeros((5, 5), np.uint8))
    (folder / "photos-masks" / "e.png").write_bytes(b"no mask")
    result, found = made(folder)
    assert len(result.done) == 1
    assert {name for name, _ in result.failed} == {"b.png", "c ü.png", "d.png", "e.png"}
    by_name = {photo["name"]: photo for photo in found["data"]["photos"]}
    assert len(by_name) == 4
    assert found["data"]["failed"] == []
    assert (by_name["c ü.jpg"]["margin"], by_name["d.jpg"]["iou"]) == (None, None)
    assert "5 x 5" in by_name["d.jpg"]["trouble"]
    for name in reviewed.NAMES:
        (folder / "photos-masks" / f"{name}.png").unlink()
    with pytest.raises(FormatError, match="none of 1 mask can be read"):
        made(folder, ground_truth=None)


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("report.png", {}, "expected a file that ends in .html"),
        ("report.html", {"side": 20}, "expected 64 to 2000"),
        ("report.html", {"ground_truth": "photos"}, "no ground truth for 4 masks"),
    ],
)
def test_wrong_use_is_refused(folder, out, options, words):
    options = {name: folder / value if name == "ground_truth" else value for name, value in options.items()}
    with pytest.raises(UsageError, match=words):
        pixaff.report(folder / "photos-masks", folder / out, **options)
    assert not (folder / out).exists()


def test_the_command(folder):
    (folder / "some.json").write_text(json.dumps({"images": ["b.jpg", "d.jpg"], "rejected": ["c ü.jpg"]}))
    out = folder / "page.html"
    done = CliRunner().invoke(
        app,
        ["report", f"{folder}/photos-masks", "--gt", f"{folder}/gt", "--list", f"{folder}/some.json", "-o", f"{out}"],
    )
    assert done.exit_code == 0, done.output
    assert "report: 2 done" in done.stderr
    assert [photo["name"] for photo in blocks(out)["data"]["photos"]] == ["b.jpg", "d.jpg"]


def test_photos_may_lie_in_a_folder_per_class(folder):
    photos = folder / "tagged"
    for number, name in enumerate(reviewed.NAMES):
        (photos / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        (folder / "photos" / f"{name}.jpg").rename(photos / f"class{number % 2}" / f"{name}.jpg")
    result, found = made(folder, photos=photos)
    assert result.ok
    assert all(one["photo"] for one in found["part-0"])
    assert pixaff.export(folder / "photos-masks", folder / "set", to="voc", photos=photos).ok
    assert len(list((folder / "set").rglob("*.jpg"))) == 4
