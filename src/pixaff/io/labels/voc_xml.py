"""A folder of PASCAL VOC XML files, one per image: the labels are the names of its objects.

No library reads these in such a way that a damaged or hostile file costs only itself: ElementTree does not support
multi-byte encodings, and expands entities.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection
from pathlib import Path
from xml.parsers import expat

from pixaff.errors import LabelsError, quoted
from pixaff.io.labels.entry import Entries
from pixaff.io.labels.text import files_in, read_bytes
from pixaff.io.regular import check_regular

NAME = "Pascal VOC XML, a file an image"
_EXPECTED = "expected a PASCAL VOC annotation: <annotation><object><name>cat</name></object></annotation>"
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]{0,39})["']""")
_NATIVE = {"utf-8", "us-ascii", "ascii", "iso-8859-1", "iso8859-1", "latin-1"}  # the parser's own, with utf-16
# Windows says these names and writes the larger set.
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}
# Text encodings of Python that no XML file is in, some of which take quadratic time.
_NO_XML = {"punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "undefined"}


def detect(path: Path) -> bool:
    """Any folder; `read` says what is missing in it."""
    return path.is_dir()


def read(path: Path, wanted: Collection[str] | None = None) -> Entries:
    """The entries of a folder, each named by its file; files of images that are not wanted are not opened.

    Raises:
        LabelsError: The folder cannot be read or holds no XML.
    """
    files = files_in(path, ".xml")
    if not files:
        inner = path / "Annotations"
        hint = f"did you mean {inner}?" if inner.is_dir() else "expected PASCAL VOC annotations"
        raise LabelsError(f"{path}: found no .xml file", hint)
    entries = Entries(wanted)
    for file in filter(lambda file: entries.wants(file.stem), files):
        try:
            check_regular(file, LabelsError)
            entries.add(file.stem, object_names(read_bytes(file)), str(file))
        except LabelsError as error:  # it cannot be opened, or would be waited for
            entries.add(file.stem, (), str(file), str(error))
        except (ValueError, LookupError) as error:
            entries.add(file.stem, (), str(file), f"{file}: {error} ({_EXPECTED})")
    return entries


def object_names(data: bytes) -> list[str]:
    """The names of the objects of an annotation, in any encoding that Python knows; without those of their parts.

    Raises:
        ValueError: It is damaged, no annotation, has an object without a name, or declares entities: annotations need
            none, and a few nested ones can fill the memory.
        LookupError: Its encoding is unknown.
    """
    if not data.strip():
        raise ValueError("found an empty file")
    text, encoding = _decoded(data)
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    path: list[str] = []
    names: list[str] = []
    root: list[str] = []

    def start(tag: str, _: dict[str, str]) -> None:
        if not path:
            root.append(tag)
        path.append(tag)
        if path[1:] == ["object"]:
            names.append("")

    def characters(words: str) -> None:
        if path[1:] == ["object", "name"]:
            names[-1] += words

    def entity(*_: object) -> None:
        raise ValueError("entity declarations are not allowed")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: path.pop()
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"damaged XML: {error}{_encoding_words(text)}") from None
    names = [name.strip() for name in names]
    if not names and root != ["annotation"]:
        raise ValueError(f"found <{root[0][:40]}>")
    if not all(names):
        raise ValueError("found an object without a name")
    return names


def _decoded(data: bytes) -> tuple[bytes, str | None]:
    """The document in an encoding that the parser knows, and that encoding where it is another than declared."""
    declared = _DECLARED.match(data.removeprefix(codecs.BOM_UTF8)[:1000])
    if declared is None:  # no declaration, or one in UTF-16
        return data, None
    name = declared[1].decode().lower()
    if name in _NATIVE:
        return data, None
    if name.replace("_", "-").startswith(("utf-16", "utf-32", "ucs-")):  # whoever can read that is not in it
        return data, "utf-8"
    try:
        known = codecs.lookup(name).name.replace("-", "_")
    except LookupError:
        raise LookupError(f"found the unknown encoding {quoted(name)}") from None
    if known.replace("_", "-") in {codec.replace("_", "-") for codec in _NO_XML}:
        raise LookupError(f"found the encoding {quoted(name)}")
    try:
        return data.decode(_LARGER.get(known, known)).encode(), "utf-8"
    except (UnicodeError, LookupError):
        raise ValueError(f"damaged XML: it is not in {name}, the encoding that it declares") from None


def _encoding_words(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"; byte {error.start} is not in UTF-8, and no other encoding is declared"
    return ""
