from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.errors import LabelsError
from pixaff.io.labels import read_labels
from pixaff.io.labels.voc_xml import object_names

CLASSES = ("cat", "dog", "motorbike")


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def annotation(*names: str) -> str:
    objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names)
    return f"<annotation><filename>x.jpg</filename><source><name>flickr</name></source>{objects}</annotation>"


def test_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "2007_2.xml", annotation("motorbike", "cat", "cat"))
    put(tmp_path / "2007_1.XML", annotation(" dog "))
    put(tmp_path / "2007_3.jpg.xml", annotation("dog"))
    put(tmp_path / "._2007_1.xml", b"\0\1")
    put(tmp_path / "readme.txt", "not read")
    assert read_labels(tmp_path, CLASSES) == {"2007_1": (1,), "2007_2": (0, 2), "2007_3": (1,)}


def test_case_xml_without_object(tmp_path: Path) -> None:
    put(tmp_path / "horse.xml", annotation("cat"))
    put(tmp_path / "meadow.xml", annotation())
    assert read_labels(tmp_path, CLASSES) == {"horse": (0,), "meadow": ()}
    put(tmp_path / "meadow.xml", "")
    labels = read_labels(tmp_path, CLASSES)
    assert labels == {"horse": (0,)}
    with pytest.raises(LabelsError, match=r"meadow\.xml: found an empty file \(expected a Pascal VOC annotation"):
        labels.of("meadow")
    assert not read_labels(tmp_path, CLASSES, ["horse"]).problems, "that of an image that was not asked for"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "damaged XML: no element found"),
        (annotation("cat") + "x", "damaged XML"),
        ("\0\1", "damaged XML"),
        ("<html><p>404</p></html>", "found <html>"),
        ("<annotations><image name='a'/></annotations>", "found <annotations>"),
        (annotation("cat", ""), "found an object without a name"),
        ("<annotation><object><pose/></object></annotation>", "found an object without a name"),
        (annotation("horse"), 'unknown class "horse"'),
        (annotation("k\xf6ter").encode("latin-1"), "byte .* is not in UTF-8, and no other encoding is declared"),
        ('<?xml version="1.0" encoding="klingon"?>' + annotation("cat"), 'found the unknown encoding "klingon"'),
        ('<?xml version="1.0" encoding="punycode"?>' + annotation("cat"), 'found the encoding "punycode"'),
        ('<?xml version="1.0" encoding="rot13"?>' + annotation("cat"), "it is not in rot13"),
        ('<?xml version="1.0" encoding="unicode_escape"?>' + annotation("cat"), "unicode_escape"),
        (b'<?xml version="1.0" encoding="gbk"?><annotation>\xff\xff</annotation>', "it is not in gbk"),
    ],
)
def test_a_file_that_cannot_be_used_costs_its_own_image_alone(tmp_path: Path, text: str | bytes, words: str) -> None:
    put(tmp_path / "a.xml", annotation("dog"))
    put(tmp_path / "b.xml", text)
    labels = read_labels(tmp_path, CLASSES)
    assert labels == {"a": (1,)}
    with pytest.raises(LabelsError, match=rf"b\.xml: .*{words}"):
        labels.of("b")


ENTITY = '<!DOCTYPE a [<!ENTITY x "cat">]>' + annotation("&x;")
BOMB = "<!DOCTYPE a [<!ENTITY % p \"<!ENTITY x 'cat'>\"> %p;]>" + annotation("&x;")


@pytest.mark.parametrize(
    "data",
    [
        ENTITY.encode(),
        ENTITY.encode("utf-16"),
        ENTITY.encode("utf-16-be"),
        b"\xef\xbb\xbf" + ENTITY.encode(),
        b'<?xml version="1.0" encoding="gb2312"?>' + ENTITY.encode(),
        BOMB.encode(),
    ],
    ids=["utf-8", "utf-16", "utf-16-be without mark", "utf-8 with mark", "gb2312", "parameter entity"],
)
def test_case_xml_in_another_encoding(data: bytes) -> None:
    with pytest.raises(ValueError, match="entity declarations are not allowed"):
        object_names(data)


@pytest.mark.parametrize("encoding", ["GB2312", "gbk", "GB18030", "big5", "Shift_JIS", "euc-jp", "windows-1252"])
def test_case_xml_in_gbk(encoding: str) -> None:
    words = "caf\xe9" if encoding == "windows-1252" else "\u6578\u64da" if encoding == "big5" else "\u65e5\u672c"
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + annotation("horse", words)
    assert object_names(text.encode(encoding)) == ["horse", words]


def test_case_xml_in_gbk_that_says_gb2312(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="GB2312"?>' + annotation("\u5586\u560e")  # signs that GBK alone has
    with pytest.raises(UnicodeEncodeError):
        text.encode("gb2312")
    assert object_names(text.encode("gbk")) == ["\u5586\u560e"]


def test_the_encodings_of_the_parser_itself() -> None:
    text = annotation("k\xf6ter")
    assert object_names(text.encode("utf-16")) == ["k\xf6ter"]
    assert object_names(b'<?xml version="1.0" encoding="ISO-8859-1"?>' + text.encode("latin-1")) == ["k\xf6ter"]
    declared = '<?xml version="1.0" encoding="utf-16"?>' + text
    assert object_names(declared.encode("utf-16")) == ["k\xf6ter"]
    assert object_names(declared.encode()) == ["k\xf6ter"], "as .NET writes it, which is not UTF-16"


def test_names_between_entities_and_sections() -> None:
    assert object_names(annotation("a &amp; b", "<![CDATA[c]]>d", "&#233;").encode()) == ["a & b", "cd", "\xe9"]


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path: Path) -> None:
    import os

    put(tmp_path / "a.xml", annotation("dog"))
    os.mkfifo(tmp_path / "b.xml")
    (tmp_path / "c.xml").symlink_to(tmp_path / "absent.xml")
    labels = read_labels(tmp_path, CLASSES)
    assert labels == {"a": (1,)}
    assert "b.xml: found a named pipe (FIFO), expected a file" in labels.problems["b"]
    assert "c.xml: found a link to a file that is not there" in labels.problems["c"]


def test_files_of_other_images_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        put(tmp_path / f"{name}.xml", annotation("dog"))
    opened: list[str] = []
    monkeypatch.setattr(
        "pixaff.io.labels.voc_xml.read_bytes", lambda path: opened.append(path.name) or path.read_bytes()
    )
    labels = read_labels(tmp_path, CLASSES, ["b"])
    assert (labels, opened, labels.others) == ({"b": (1,)}, ["b.xml"], ("a", "c"))


def test_the_folder_above_the_annotations_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(LabelsError, match=r"found no \.xml file \(did you mean .*Annotations\?\)"):
        read_labels(tmp_path, CLASSES)
