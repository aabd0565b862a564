from __future__ import annotations

import subprocess
import sys

import pytest

from pixaff.errors import UsageError
from pixaff.published import catalogue_of
from pixaff.weights.catalogue import Expected, find, load_catalogue, parse_source, published
from pixaff.weights.sources import SOURCES, Http, Source

PUBLISHED = {
    "hybrid": (
        "folder",
        "drive-folder:1bPtIrgnwQaOhCjBuQjL4S1lMBQDBmEjE",
        "drive-folder:1lCjPjO3_BUnk-utY9-taCTQKoq2Pm43s",
    ),
    "irn-amn": ("weights", "drive-file:1UqzFPQVugX1SgnO9W5FmdFdlo0XBwPlq"),
    "vgg16-cam": ("weights", "drive-file:1Dh5EniRN7FSVaYxSmcwvPq_6AIg-P8EH"),
    "resnet38-cam": ("weights", "drive-file:1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA"),
    "vgg16-affinity": ("weights", "drive-file:10ue1B20Q51aQ53T93RiaiKETlklzo4jp"),
    "resnet38-affinity": ("weights", "drive-file:1mFvTH3siw0SS0vqPH0o9N3cI_ISQacwt"),
    "crf-low": ("archive", "onedrive:https://1drv.ms/u/s!ArK_bULPXnoqhYEOXFAks9NZsiJPCw?e=FKANlR"),
    "crf-high": ("archive", "onedrive:https://1drv.ms/u/s!ArK_bULPXnoqhYENdfk_sy3FNgfojA?e=aLdV2e"),
}


def test_the_published_names_and_sources(monkeypatch):
    monkeypatch.delenv("PIXAFF_CATALOGUE", raising=False)
    found = catalogue_of()
    stated = {name: (entry.kind, *map(str, entry.sources)) for name, entry in found.items()}
    assert {name: stated.get(name) for name in PUBLISHED} == PUBLISHED
    assert found["resnet38-cam"].file == "resnet38-cam.pth"
    assert found["crf-low"].file == "crf-low.archive"


def test_an_own_file_adds_names_and_replaces_fields(tmp_path, monkeypatch):
    own = tmp_path / "own.toml"
    own.write_text(
        f'[mine]\nsource = "https://example.org/mine.pth"\nfile = "mine.safetensors"\n'
        f'[resnet38-cam]\nmirrors = ["https://example.org/weights/"]\nsha256 = "{"A" * 64}"\nsize = 7\n'
        f'[hybrid.files."cam.pth"]\nsize = 9\n'
    )
    monkeypatch.setenv("PIXAFF_CATALOGUE", str(own))
    found = catalogue_of()
    assert {*found} >= {*PUBLISHED, "mine"}
    assert found["mine"].sources == (Http("https://example.org/mine.pth"),)
    assert found["resnet38-cam"].what == "CAM network, ResNet-38"
    assert [source.kind for source in found["resnet38-cam"].sources] == ["drive-file", "http"]
    assert found["resnet38-cam"].files == {"resnet38-cam.pth": Expected("a" * 64, 7)}
    assert found["hybrid"].files == {"cam.pth": Expected(None, 9)}
    monkeypatch.setenv("PIXAFF_CATALOGUE", "nowhere")
    assert catalogue_of(own) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mine", "not TOML"),
        ('[mine]\nsource = "https://a/b"\nsize = "7"', r"\[mine\] mine.pth: expected size"),
        ('[mine]\nsource = "https://a/b"\nsha256 = "7"', "expected sha256"),
        ('[mine]\nsource = "https://a/b"\nmirror = "x"', "unknown field mirror .did you mean mirrors"),
        ('[mine]\nsource = "file:///etc/passwd"', "expected an http or https address"),
        ("[mine]", "expected source, a string"),
        ('[mine]\nsource = "https://a/b"\nmirrors = "https://a/c"', "mirrors, a list"),
        ('[mine]\nsource = "https://a/b"\nkind = "zip"', "expected one of weights, folder, archive"),
        ('[mine]\nsource = "https://a/b"\nkind = "folder"', "for a folder"),
        ('[mine]\nsource = "https://a/b"\nfile = "../x"', 'found the file name "../x"'),
        ('["../mine"]\nsource = "https://a/b"', "expected a name of small letters"),
        ('[nul]\nsource = "https://a/b"', "expected a name of small letters"),
        ('mine = "https://a/b"', "expected a table"),
    ],
)
def test_a_wrong_own_file_is_named_with_the_field(tmp_path, text, words):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_catalogue(tmp_path / "own.toml")
    assert "own.toml" in str(caught.value)


def test_addresses_of_drive_and_onedrive_are_recognised():
    for text, expected in {
        "https://drive.google.com/file/d/1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA/view?usp=sharing": "drive-file",
        "https://drive.google.com/uc?id=1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA": "drive-file",
        "https://drive.google.com/open?id=1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA": "drive-file",
        "https://drive.google.com/drive/folders/1bPtIrgnwQaOhCjBuQjL4S1lMBQDBmEjE": "drive-folder",
        "https://1drv.ms/u/s!Abc?e=1": "onedrive",
        "https://example.org/a": "http",
    }.items():
        assert parse_source(text).kind == expected
    assert parse_source("drive-file:1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA").browser.endswith("OA/view")
    for wrong in ("drive-file:../x", "https://drive.google.com/", "ftp://a/b", "x", "https://", "drive-file:"):
        with pytest.raises(UsageError):
            parse_source(wrong)


def test_names():
    found = catalogue_of()
    assert find(found, "@crf-low") is found["crf-low"]
    with pytest.raises(UsageError, match="did you mean resnet38-cam"):
        find(found, "resnet38_cam")


def test_the_catalogue_needs_no_torch():
    code = "import sys, pixaff.weights; print('torch' in sys.modules, 'gdown' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


NETWORK = published("net-cam", what="CAM network", source="https://example.org/net.pth", sha256="A" * 64, size=7)


def test_entries_stated_in_code_stand_beside_the_packages(tmp_path):
    found = load_catalogue(entries=[NETWORK])
    assert found["net-cam"] is NETWORK
    assert NETWORK.files == {"net-cam.pth": Expected("a" * 64, 7)}
    assert {*found} == {"crf-low", "crf-high", "net-cam"}
    own = tmp_path / "own.toml"
    own.write_text('[net-cam]\nmirrors = ["https://example.org/mirror/"]\nsize = 9\n')
    extended = load_catalogue(own, [NETWORK])["net-cam"]
    assert [source.spelled for source in extended.sources] == [
        "https://example.org/net.pth",
        "https://example.org/mirror/",
    ]
    assert extended.files == {"net-cam.pth": Expected("a" * 64, 9)}
    assert extended.what == NETWORK.what
    own.write_text('[net-cam]\nkind = "folder"\nsource = "https://example.org/net/"\n')
    assert load_catalogue(own, [NETWORK])["net-cam"].file == ""


def test_a_name_is_stated_once():
    with pytest.raises(ValueError, match="two entries of the catalogue are called crf-low"):
        load_catalogue(entries=[published("crf-low", source="https://example.org/a.pth")])
    with pytest.raises(UsageError, match=r"\[net\]: found the source \"ftp://x/y\", expected an http or https address"):
        published("net", source="ftp://x/y")


def test_every_source_says_how_it_is_spelled():
    for text in ("drive-file:1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA", "onedrive:https://1drv.ms/a?e=b", "https://a/b?c=d"):
        source = parse_source(text)
        assert source.spelled == text
        assert parse_source(source.spelled) == source
        assert type(source) in SOURCES
    assert len({source.kind for source in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize("text", ["https://me:SECRET@a/b?token=SECRET", "onedrive:https://a/b?authkey=SECRET&e=1"])
def test_no_source_shows_its_secrets(text):
    source = parse_source(text)
    assert isinstance(source, Source)
    assert "SECRET" not in f"{source} {source!r} {source.browser}"
