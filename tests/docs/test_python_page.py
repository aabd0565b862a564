"""The code blocks of docs/python.md run, one after the other in one session, and say what their comments say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the page has defined at its end."""
    folder = tmp_path_factory.mktemp("python")
    for name in ("chelsea.jpg", "grace_hopper.jpg"):
        shutil.copy(ROOT / "examples" / "photos" / name, folder)
    names: dict[str, Any] = {"__name__": "page"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, block in enumerate(BLOCKS, 1):
            exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    return {**names, "folder": folder}


def test_every_block_runs(session: dict[str, Any]) -> None:
    assert len(BLOCKS) >= 11
    assert (session["folder"] / "cat.png").is_file()
    assert (session["folder"] / "cat-overlay.jpg").is_file()


def test_comments_are_true(session: dict[str, Any]) -> None:
    result, person, file = session["result"], session["person"], session["file"]
    assert result.mask.shape == (300, 451)
    assert set(result.mask.flat) == {0, 8}
    assert (session["other"].settings.alpha, session["other"].classes[7]) == (4.0, "cat")
    assert person.classes == ("person",)
    assert 0.9 <= person.probabilities["person"] <= 1
    assert session["nothing"].mask.max() == 0
    assert session["refined"].classes == ("cat",)
    assert session["seen"] == ["settings", "begin", "done", "end"]
    assert (file.classes.tolist(), file.cams.shape, session["walked"].shape) == ([8], (1, 170, 256), (2, 44, 64))
    assert session["boundaries"].edge.shape == (44, 64)
    assert session["posterior"].shape == (2, 170, 256)


def test_the_table_names_every_attribute() -> None:
    from pixaff.prediction import Prediction

    table = PAGE.split("## What it returns")[1].split("##")[0]
    named = set(
        re.findall(r"`(\w+)", "\n".join(line.split("|")[1] for line in table.splitlines() if line[:3] == "| `"))
    )
    public = {name for name in (*dir(Prediction), *Prediction.__dataclass_fields__) if not name.startswith("_")}
    assert public == named
