"""The site has every page, and the API reference every public name; `mkdocs build --strict` (.ci/run) does the rest."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import pixaff

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def pages(entries: object) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    parts = entries.values() if isinstance(entries, dict) else entries
    return [page for part in parts for page in pages(part)]  # type: ignore[attr-defined]


def test_every_page_is_in_the_navigation_once() -> None:
    named = pages(yaml.safe_load(NAVIGATION))
    beside = {"CHANGELOG.md", "CONTRIBUTING.md"}
    assert sorted(named) == sorted({path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | beside)
    assert all((ROOT / page).is_file() for page in beside)


def test_the_reference_has_every_public_name() -> None:
    shown = set(re.findall(r"^::: pixaff\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == set(pixaff.__all__) - {"__version__"}


def test_the_readme_is_short_and_has_one_picture() -> None:
    assert len(README.splitlines()) < 100
    assert len(re.findall(r"!\[[^\]]{20,}\]\(docs/images/", README)) == 1
    assert "pip install . && pixaff propagate examples/photos\n" in README


def test_pictures_are_used_described_and_small() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *DOCS.rglob("*.md")))
    shown = {Path(path).name for path in re.findall(r"!\[[^\]]{20,}\]\(([^)]+)\)", text)}
    pictures = [path for path in (DOCS / "images").iterdir() if path.suffix != ".css"]
    assert {path.name for path in pictures} == shown
    assert all(path.stat().st_size < 160_000 for path in pictures)


def test_the_citation_names_this_version_and_the_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pixaff.__version__
    arxiv = [identifier["value"] for paper in citation["references"] for identifier in paper["identifiers"]]
    assert arxiv == ["arXiv:1803.10464", "arXiv:1904.05044"]
