"""Let the API reference show the docstrings' `Example:` as code; Griffe knows `Examples:` alone."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
