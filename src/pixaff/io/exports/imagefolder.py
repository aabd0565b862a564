"""Hugging Face `datasets`: an image folder whose `metadata.jsonl` joins photos and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pixaff.io.atomic import write_text
from pixaff.io.exports.base import Item, Writer
from pixaff.io.exports.index import Index
from pixaff.io.exports.photos import write_photo


class ImageFolder(Writer):
    """``images/NAME.jpg``, ``masks/NAME.png`` (grey), ``metadata.jsonl`` and ``id2label.json``."""

    name = "imagefolder"
    needs_photos = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.names: list[str] = []
        self._masks = Index(self.out / "masks", self.classes)

    def files(self, name: str) -> tuple[Path, ...]:
        return (self.out / "images" / f"{name}.jpg", *self._masks.files(name))

    def shared(self) -> tuple[Path, ...]:
        return self.out / "metadata.jsonl", self.out / "id2label.json"

    def convert(self, item: Item) -> Any:
        assert item.photo is not None
        write_photo(self.files(item.name)[0], item.photo)
        self._masks.convert(item)

    def add(self, name: str, made: Any) -> None:
        self.names.append(name)

    def finish(self) -> None:
        rows = [{"file_name": f"images/{name}.jpg", "label_file_name": f"masks/{name}.png"} for name in self.names]
        metadata, id2label = self.shared()
        write_text(metadata, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        names = {str(value): name for value, name in enumerate(("background", *self.classes))}
        write_text(id2label, json.dumps(names, indent=2, ensure_ascii=False) + "\n")
