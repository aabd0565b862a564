"""Links between pages lead somewhere, and the files that the map of the code names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = ROOT / "src" / "pixaff"
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if link.startswith("https://"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_files_of_the_map_exist() -> None:
    text = re.sub(r"```.*?```", "", MAP, flags=re.DOTALL)
    named = {name for name in re.findall(r"`([\w/]+(?:/|\.py))`", text) if "NAME" not in name}
    assert len(named) > 30
    homes = (CODE, CODE / "stages" / "training", CODE / "stages" / "batch", CODE / "io", CODE / "weights", ROOT)
    assert sorted(name for name in named if not any((home / name).exists() for home in homes)) == []


def test_the_shown_change_still_fits() -> None:
    """The lines around the new option are those of the code."""
    (diff,) = re.findall(r"```diff\n(.*?)```", MAP, re.DOTALL)
    code = ""
    shown = 0
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            code = (ROOT / line.removeprefix("+++ b/")).read_text(encoding="utf-8")
        elif line.startswith("@@ "):
            assert line.removeprefix("@@ ") in code
        elif line.startswith(" "):
            shown += 1
            assert line[1:] in code
    assert shown >= 5
