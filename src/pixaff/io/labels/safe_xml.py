"""XML that cannot do harm, in any encoding that Python knows.

No library reads it in such a way that a damaged or hostile file costs only itself: ElementTree does not support
multi-byte encodings, and expands entities.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping
from xml.parsers import expat

from pixaff.errors import quoted

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]{0,39})["']""")
_NATIVE = {"utf-8", "us-ascii", "ascii", "iso-8859-1", "iso8859-1", "latin-1"}  # the parser's own, with utf-16
# Windows says these names and writes the larger set.
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950"}
# Text encodings of Python that no XML file is in, some of which take quadratic time.
_NO_XML = {"punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "undefined"}


def parse_xml(
    data: bytes,
    *,
    start: Callable[[str, Mapping[str, str]], object],
    end: Callable[[str], object],
    characters: Callable[[str], object] | None = None,
) -> None:
    """Tell of the elements of a document, one after the other.

    Args:
        data: The document.
        start: Receives the name and the attributes of every element.
        end: Receives its name again where it ends.
        characters: Receives text.

    Raises:
        ValueError: It is empty, damaged, or declares entities: labels need none, and a few nested ones can fill the
            memory.
        LookupError: Its encoding is unknown.
    """
    if not data.strip():
        raise ValueError("found an empty file")
    text, encoding = _decoded(data)
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True

    def entity(*_: object) -> None:
        raise ValueError("entity declarations are not allowed")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"damaged XML: {error}{_encoding_words(text)}") from None


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
