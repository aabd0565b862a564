"""The page of `pixaff report`: a template of HTML, style and script, filled with data that nobody need trust.

Names of files and classes come from elsewhere. They reach the page as JSON in which no "<" can end the element around
it, the script puts them there as text alone, and the content security policy lets nothing run but that script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any


def html_page(data: Mapping[str, Any], parts: Mapping[str, str], *, beside: bool = False) -> str:
    """The page.

    Args:
        data: What `report.js` reads at once: photos with their figures, classes, settings.
        parts: Contents of the parts, by id, in JSON as `json_text` gives it; none of them if they are files.
        beside: Whether the parts are script files beside the page.

    Returns:
        HTML that needs nothing from elsewhere, besides those files.
    """
    html, style, script = (_template(f"report.{kind}") for kind in ("html", "css", "js"))
    policy = {
        "default-src": "'none'",
        "script-src": f"'{_digest(script)}'" + (" 'self' file:" if beside else ""),
        "style-src": f"'{_digest(style)}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    blocks = {"data": json_text(data), **parts}
    filled = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "style": style,
        "blocks": "\n".join(
            f'<script type="application/json" id="{name}">{text}</script>' for name, text in blocks.items()
        ),
        "script": script,
    }
    before, *rest = html.split("{{")
    return before + "".join(filled[name] + after for name, _, after in (part.partition("}}") for part in rest))


def json_text(value: Any) -> str:
    """JSON that may stand in an HTML page or in a script."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _template(name: str) -> str:
    return (resources.files("pixaff.viz") / "report" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
