from __future__ import annotations

from pathlib import Path

import pytest

from pixaff.io.labels import Labels, doubts, names_in, read_labels


def asked(folder: Path, text: str, images: str = "", listed: bool = False) -> list[str]:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    wanted = images.split() or None
    names = names_in(path, wanted)
    return doubts(read_labels(path, names, wanted), names, listed=listed)


def test_case_fit_header_and_spelling(tmp_path: Path) -> None:
    text = "filename,tags\np0.jpg,horse\np1.jpg,Horse\np2.jpg,sheep|grass\np3.jpg,train\n"
    questions = asked(tmp_path, text, "p0 p1 p2 p3")
    assert questions == [
        f'"Horse" ({tmp_path}/labels.csv, line 3) and "horse" ({tmp_path}/labels.csv, line 2): '
        "one class, spelled differently?",
        f'"sheep|grass" ({tmp_path}/labels.csv, line 4): one class, or several? Several are joined by ;',
    ]


def test_case_fit_header_and_spelling_the_header_is_no_label(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    for header in ("filename,tags", "Foto,Tier"):
        path.write_text(f"{header}\np0.jpg,horse\np1.jpg,train\n")
        assert names_in(path, ["p0", "p1"]) == ("horse", "train")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,traffic light\nb,Traffic  Light\n", "one class, spelled differently?"),
        ("a,traffic_light\nb,traffic-light\n", "one class, spelled differently?"),
        ("a,cat\nb,cats\n", "one class, spelled differently?"),
        ('a,"drone, person"\nb,drone\n', "one class, or several?"),
        ("a,drone/person\nb,drone\n", "one class, or several?"),
        ("a,none\nb,drone\n", '"none" (LINE): a class, or a photo that shows none? Its labels are left empty'),
        ("a,OK\nb,defect\n", "a class, or a photo that shows none?"),
        ("a,1\nb,2\n", "a class of that name, or a number?"),
        ("a,c.jpg\nb,2\n", "a class, or a photo?"),
        ("a,label\nb,cat\n", "a class, or the header of a table?"),
    ],
)
def test_names_that_are_most_likely_misread(tmp_path: Path, rows: str, words: str) -> None:
    questions = asked(tmp_path, rows)
    assert any(words.replace("LINE", f"{tmp_path}/labels.csv, line 1") in question for question in questions)


def test_names_that_somebody_listed_are_questioned_for_their_spelling_only(tmp_path: Path) -> None:
    rows = "a,sky/cloud\nb,Horse\nc,horse\n"
    assert len(asked(tmp_path, rows)) == 2
    assert len(asked(tmp_path, rows, listed=True)) == 1


def test_nothing_is_asked_about_plain_labels(tmp_path: Path) -> None:
    assert asked(tmp_path, "image,labels\na,cat;dining table\nb,car\nc,grass;glass\n") == []


def test_case_photos_without_class_fit(tmp_path: Path) -> None:
    assert asked(tmp_path, "image,labels\npart0.jpg,defect\npart1.jpg,defect\npart2.jpg,\npart3.jpg,\n") == []
    (question,) = asked(tmp_path, "image,labels\npart0.jpg,defect\npart1.jpg,defect\n")
    assert question.startswith('all of 2 photos show "defect"')
    assert question.endswith("their labels left empty?")


def test_many_entries_of_no_use_are_questioned_and_a_few_are_not(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = [f"{number},{'cat' if number % 2 else 'dog'}\n" for number in range(18)]
    path.write_text("".join(rows) + "x,cow\ny,cow\n")
    assert doubts(read_labels(path, ("cat", "dog")), ("cat", "dog")) == []
    path.write_text("".join(rows) + "x,cow\ny,cow\nz,cow\n")
    (question,) = doubts(read_labels(path, ("cat", "dog")), ("cat", "dog"))
    assert question.startswith("3 of 21 entries cannot be used: is it the right class list? The first: ")
    assert 'line 19: found unknown class "cow"' in question


def test_labels_without_images() -> None:
    assert doubts(Labels("memory", {}), ("cat",)) == []
