"""The examples of docs/formats.md print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (.+)\n((?:(?!###? ).*\n)*)", PAGE, re.MULTILINE))
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("title", SECTIONS)
def test_example(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((code, printed),) = EXAMPLE.findall(SECTIONS[title])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, title, "exec"), {"__name__": "example"})
    assert out.getvalue() == printed


def test_every_format_of_the_table_has_an_example() -> None:
    linked = re.findall(r"^\| \[.+?\]\(#(.+?)\)", PAGE, re.MULTILINE)
    assert len(linked) == 8
    assert linked == [title.lower().replace(" ", "-") for title in SECTIONS][:8]
