"""What the site needs beyond Material for MkDocs: files beside docs/, equations, and a look at what the pages load.

Nothing here or in a finished page needs the network: equations become MathML when the site is built.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
"""Pages that lie beside docs/."""
LINK = re.compile(r"\]\((?P<path>(?!https?:|mailto:)[^)#\s]+)")
NAMED = re.compile(r"\[(?P<page>[\w/-]+\.md)\]\(")
EQUATION = re.compile(r"^```math\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
INLINE_EQUATION = re.compile(r"\$`([^`\n]+)`\$")
LOADED = re.compile(
    r"""<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//|@import|url\(["']?http"""
)


def on_files(files: Files, *, config: Any) -> Files:
    """Take the pages and the linked files that lie beside docs/ into the site; scripts as text, to be read there."""
    for page in PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    pages = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    linked = {_target(source, found["path"]) for source, text in pages for found in LINK.finditer(text)}
    for path in sorted(path for path in linked if _is_beside(path)):
        if not (ROOT / path).is_file():
            raise PluginError(f"a page links to {path}, which does not exist")
        files.append(File.generated(config, f"files/{path}.txt", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite links to and from what lies beside docs/, name pages by their titles, and make equations MathML."""
    source = page.file.src_uri

    def rewritten(found: re.Match[str]) -> str:
        path = _target(source, found["path"])
        place = f"files/{path}.txt" if _is_beside(path) else path.removeprefix("docs/")
        return f"]({'../' * source.count('/')}{place}"

    def titled(found: re.Match[str]) -> str:
        path = DOCS / found["page"]
        return f"[{path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}](" if path.is_file() else found[0]

    markdown = NAMED.sub(titled, LINK.sub(rewritten, markdown))
    markdown = EQUATION.sub(lambda found: f'<div class="equation">{convert(found[1], display="block")}</div>', markdown)
    return INLINE_EQUATION.sub(lambda found: convert(found[1]), markdown)


def _target(page: str, link: str) -> str:
    """The path from the root of what a page links to."""
    folder = ROOT if page in PAGES else (DOCS / page).parent
    return os.path.relpath(folder / link, ROOT)


def _is_beside(path: str) -> bool:
    return not path.startswith("docs/") and path not in PAGES


def on_post_build(*, config: Any) -> None:
    """The site works without network, and tells nobody who reads it."""
    for path in Path(config.site_dir).rglob("*.html"):
        if found := LOADED.search(path.read_text(encoding="utf-8")):
            raise PluginError(f"{path.name} loads something from elsewhere: {found[0]}")
