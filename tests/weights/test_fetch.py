from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import tarfile
import zipfile

import pytest
from fake_services import PAGE, QUOTA, File, drive_file, drive_folder, impatient, route_drive, serving, weights_bytes

from pixaff.errors import CheckpointError, DownloadError, OutputError, UsageError
from pixaff.published import catalogue_of
from pixaff.weights import fetch, manage
from pixaff.weights.cache import cache_folder, cached, recorded_files
from pixaff.weights.catalogue import find
from pixaff.weights.disk import writable
from pixaff.weights.local import import_file, import_folder

BODY = weights_bytes()
OTHER = weights_bytes(seed=1)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    with serving() as server:
        route_drive(server, monkeypatch.setattr)
        yield server


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PIXAFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXAFF_OFFLINE", raising=False)
    monkeypatch.delenv("PIXAFF_CATALOGUE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def own(fake, tmp_path, monkeypatch):
    """A catalogue whose sources are on the fake server: files w and m (with a mirror), archive a, folder f."""
    path = tmp_path / "own.toml"
    path.write_text(
        f'[w]\nsource = "{fake.url}/w.pth"\n'
        f'[m]\nsource = "{fake.url}/gone.pth"\nmirrors = ["{fake.url}/mirror/"]\n'
        f'[a]\nkind = "archive"\nsource = "{fake.url}/a.zip"\n'
        f'[f]\nkind = "folder"\nsource = "drive-folder:{"f" * 33}"\n'
    )
    monkeypatch.setenv("PIXAFF_CATALOGUE", str(path))
    return path


def sha(body):
    return hashlib.sha256(body).hexdigest()


def get(name, **options):
    connection = impatient(**{"retries": 1, **options.pop("connection", {})})
    return fetch(entry(name), connection=connection, **options)


def entry(name):
    return find(catalogue_of(), name)


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def hidden(root, name):
    return sorted(path.name for path in (root / name).iterdir() if path.name.startswith("."))


def test_weights_are_fetched_once_and_recorded(fake, root, own):
    fake.routes["/w.pth"] = File(BODY)
    path = get("w")
    assert path == root / "w" / "w.pth"
    assert path.read_bytes() == BODY
    assert hidden(root, "w") == []
    lock = json.loads((root / "lock.json").read_text())
    assert lock["weights"]["w"]["files"] == {"w.pth": {"sha256": sha(BODY), "size": len(BODY)}}
    assert get("@w") == path
    assert len(fake.calls) == 1


def test_the_cache_is_where_it_is_said_to_be(root, tmp_path, monkeypatch):
    assert cache_folder() == root
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    monkeypatch.delenv("PIXAFF_CACHE")
    assert cache_folder().name == "pixaff"


def test_a_cache_that_cannot_be_written_still_gives_what_it_has(fake, root, own, monkeypatch):
    fake.routes["/w.pth"] = File(BODY)
    get("w")
    monkeypatch.setattr("pixaff.weights.obtain.locked", lambda *a: pytest.fail("no lock is needed"))
    assert get("w").is_file()


@pytest.mark.parametrize("again", ["--force", "removed"])
def test_a_later_mismatch_is_an_error_with_both_values(fake, root, own, again):
    fake.routes["/w.pth"] = File(BODY)
    path = get("w")
    if again == "removed":
        path.unlink()
    fake.routes["/w.pth"] = File(OTHER)
    with pytest.raises(DownloadError) as caught:
        get("w", force=again == "--force")
    assert f"found sha256 {sha(OTHER)} ({len(OTHER)} bytes), expected {sha(BODY)} ({len(BODY)} bytes)" in str(
        caught.value
    )
    assert "lock.json has it from the first download" in str(caught.value)
    assert "by hand" not in str(caught.value)
    assert hidden(root, "w") == []
    if again == "--force":
        assert path.read_bytes() == BODY


def test_the_catalogue_pins(fake, root, own):
    fake.routes["/w.pth"] = File(OTHER)
    get("w")
    own.write_text(own.read_text() + f'[p]\nsource = "{fake.url}/w.pth"\nsha256 = "{sha(BODY)}"\nsize = {len(OTHER)}\n')
    with pytest.raises(
        DownloadError, match=f"found sha256 {sha(OTHER)} .*expected {sha(BODY)} .*the catalogue pins it"
    ):
        get("p")
    # What was fetched before the pin does not slip through either.
    own.write_text(own.read_text().replace("[w]", f'[w]\nsha256 = "{sha(BODY)}"'))
    with pytest.raises(DownloadError, match=f"found sha256 {sha(OTHER)} .*expected {sha(BODY)}"):
        get("w")


def test_a_mirror_steps_in_and_is_named(fake, root, own):
    fake.routes["/mirror/m.pth"] = File(BODY)
    words = []
    assert get("m", connection={"say": words.append}).read_bytes() == BODY
    assert any("/gone.pth: m: HTTP 404, is not there" in line for line in words)
    assert json.loads((root / "lock.json").read_text())["weights"]["m"]["source"] == f"{fake.url}/mirror/"


def test_every_source_that_fails_is_named_with_the_way_out(fake, root, own):
    with pytest.raises(DownloadError) as caught:
        get("m")
    text = str(caught.value)
    assert f"{fake.url}/gone.pth: HTTP 404" in text
    assert f"{fake.url}/mirror/: HTTP 404" in text
    assert f"save the file as {root / 'm' / 'm.pth'}" in text


def test_a_mirror_of_the_caller_takes_the_place_of_the_sources(fake, root, own):
    fake.routes["/elsewhere/w.pth"] = fake.routes["/named"] = File(BODY)
    assert get("w", mirror=f"{fake.url}/elsewhere/").read_bytes() == BODY
    assert get("w", mirror=f"{fake.url}/named", force=True).read_bytes() == BODY
    assert not fake.asked("/w.pth")
    with pytest.raises(UsageError, match="for a folder"):
        get("f", mirror=f"{fake.url}/named")


def test_quota_exceeded_names_the_browser_address_and_the_path(fake, root):
    fake.routes["/uc"] = lambda call: call.answer(200, QUOTA, Content_Type="text/html; charset=utf-8")
    with pytest.raises(DownloadError) as caught:
        get("resnet38-cam")
    text = str(caught.value)
    assert "Too many users have viewed or downloaded this file recently" in text
    assert "open https://drive.google.com/file/d/1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA/view in a browser" in text
    assert f"save the file as {root / 'resnet38-cam' / 'resnet38-cam.pth'}" in text


def test_a_file_put_at_that_path_is_checked_and_taken(fake, root):
    place = root / "resnet38-cam" / "resnet38-cam.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(PAGE)
    with pytest.raises(DownloadError, match=r"resnet38-cam\.pth: resnet38-cam: found a web page"):
        get("resnet38-cam")
    assert place.is_file()
    place.write_bytes(BODY)
    assert get("resnet38-cam") == place
    assert recorded_files(root, "resnet38-cam")["resnet38-cam.pth"].sha256 == sha(BODY)
    assert fake.calls == []


def test_a_published_name_comes_from_drive(fake, root):
    drive_file(fake, File(BODY), confirm=True)
    assert get("resnet38-cam").read_bytes() == BODY
    assert fake.calls[0].query == {"id": "1xESB7017zlZHqxEWuh1Rb89UhjTGIKOA"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pickle.dumps({"a": Evil()}), "nothing in it was run"),
        (BODY[: len(BODY) // 2], "damaged weights file: it ends too early"),
        (b"hello, world", "no weights file: no file that torch.save writes"),
        (b"", "found an empty file"),
        (PAGE, "found a web page"),
    ],
)
def test_what_is_no_weights_is_refused_and_not_cached(fake, root, own, body, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake.routes["/w.pth"] = File(body)
    with pytest.raises(DownloadError, match=words) as caught:
        get("w")
    assert "/.w.pth" not in str(caught.value)  # the hidden name says nothing to anybody
    assert list((root / "w").iterdir()) == []
    assert not (tmp_path / "pwned").exists()
    assert not (root / "lock.json").exists()


def test_offline_forbids_to_fetch_but_not_to_use(fake, root, own, monkeypatch):
    fake.routes["/w.pth"] = File(BODY)
    monkeypatch.setenv("PIXAFF_OFFLINE", "1")
    with pytest.raises(DownloadError, match=f"w is not in the cache, {root / 'w'}, and PIXAFF_OFFLINE forbids"):
        get("w")
    assert fake.calls == []
    monkeypatch.setenv("PIXAFF_OFFLINE", "0")
    get("w")
    monkeypatch.setenv("PIXAFF_OFFLINE", "yes")
    assert get("w").is_file()


def test_a_file_that_was_cut_short_in_the_cache_is_not_given(fake, root, own):
    fake.routes["/w.pth"] = File(BODY)
    get("w").write_bytes(BODY[:-1])
    with pytest.raises(DownloadError, match=f"found {len(BODY) - 1} bytes, expected {len(BODY)} .*--force"):
        get("w")
    assert get("w", force=True).read_bytes() == BODY


def test_a_damaged_lock_file_is_an_error(fake, root, own):
    root.mkdir()
    (root / "lock.json").write_text("{}")
    with pytest.raises(DownloadError, match=r"lock\.json: found no lock file of format 1"):
        get("w")


def test_a_cache_in_the_way_of_a_file(fake, root, own):
    root.write_text("")
    with pytest.raises(OutputError):
        get("w")


MAPS = {"out_la/2007_000032.npy": b"\x93NUMPY one", "out_la/2007_000039.npy": b"\x93NUMPY two", "out_la/log.txt": b"x"}


def test_an_archive_becomes_a_folder_of_maps(fake, root, own, tmp_path):
    archive = zipped(tmp_path / "a.zip", MAPS)
    fake.routes["/a.zip"] = File(archive.read_bytes())
    folder = get("a")
    assert folder == root / "a" / "files" / "out_la"
    assert sorted(path.name for path in folder.iterdir()) == ["2007_000032.npy", "2007_000039.npy"]
    assert sorted(path.name for path in (root / "a").iterdir()) == ["files", "record.json"]
    assert get("a") == folder
    assert len(fake.calls) == 1
    assert manage.verify(root, entry("a")) == []


def test_a_hostile_archive_is_refused_and_nothing_kept(fake, root, own, tmp_path):
    archive = zipped(tmp_path / "a.zip", {**MAPS, "../../evil.npy": b"evil"})
    fake.routes["/a.zip"] = File(archive.read_bytes())
    with pytest.raises(DownloadError, match=r"""the member "../../evil\.npy" has ".." in its path"""):
        get("a")
    assert list((root / "a").iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*.npy")] == []
    assert not (root / "lock.json").exists()


def test_an_archive_that_was_fetched_but_not_unpacked_is_not_fetched_again(fake, root, own, tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a.zip", MAPS)
    fake.routes["/a.zip"] = File(archive.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr("pixaff.weights.obtain.unpack", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            get("a")
    assert get("a").name == "out_la"
    assert fake.calls[-1].headers["Range"] == f"bytes={archive.stat().st_size}-"


def test_an_unsupported_archive_is_named(fake, root, own):
    fake.routes["/a.zip"] = File(b"Rar!\x1a\x07\x01\x00" + bytes(600))
    with pytest.raises(DownloadError, match="a rar archive, which is not supported"):
        get("a")


def test_a_folder_of_drive_with_weights_and_other_things(fake, root, own):
    files = {"cam.pth": BODY, "README.txt": b"read", "affinity.pth": OTHER}
    drive_folder(fake, files)
    words = []
    folder = get("f", connection={"say": words.append})
    assert folder == root / "f"
    assert sorted(path.name for path in folder.iterdir()) == ["affinity.pth", "cam.pth"]
    assert "f: README.txt is left out: no name that weights have" in words
    asked = len(fake.calls)
    assert get("f") == folder
    assert len(fake.calls) == asked


def test_a_folder_goes_on_where_it_stopped(fake, root, own):
    ids = drive_folder(fake, {"cam.pth": BODY, "affinity.pth": OTHER})
    good = fake.routes["/uc"]
    fake.routes["/uc"] = lambda call: good(call) if call.query["id"] == ids["cam.pth"] else call.answer(404)
    with pytest.raises(DownloadError):
        get("f")
    assert cached(root, entry("f")) is None
    fake.routes["/uc"] = good
    fake.calls.clear()
    get("f")
    assert [call.query["id"] for call in fake.asked("/uc")] == [ids["affinity.pth"]]


def test_a_folder_leaves_out_a_hostile_file_and_needs_one_good(fake, root, own):
    evil = pickle.dumps(Evil())
    drive_folder(fake, {"cam.pth": BODY, "evil.pth": evil})
    words = []
    get("f", connection={"say": words.append})
    assert sorted(path.name for path in (root / "f").iterdir()) == ["cam.pth"]
    assert any("evil.pth is left out" in line and "nothing in it was run" in line for line in words)
    drive_folder(fake, {"evil.pth": evil})
    with pytest.raises(DownloadError, match=r"without cam\.pth; f/evil\.pth: asks for posix\.system"):
        get("f", force=True)


def test_a_file_is_brought_from_this_machine(fake, root, own, tmp_path, monkeypatch):
    monkeypatch.setenv("PIXAFF_OFFLINE", "1")
    (tmp_path / "browser.pth").write_bytes(BODY)
    assert import_file(entry("w"), tmp_path / "browser.pth").read_bytes() == BODY
    assert get("w") == root / "w" / "w.pth"
    (tmp_path / "browser.pth").write_bytes(OTHER)
    with pytest.raises(DownloadError, match=f"found sha256 {sha(OTHER)} .*expected {sha(BODY)}"):
        import_file(entry("w"), tmp_path / "browser.pth")
    assert hidden(root, "w") == []
    assert get("w").read_bytes() == BODY
    with pytest.raises(UsageError, match="no such file"):
        import_file(entry("w"), tmp_path / "nowhere")
    # Files of a folder may come one by one.
    import_file(entry("f"), zipped(tmp_path / "x", {}).with_name("browser.pth"))
    (tmp_path / "more.pth").write_bytes(BODY)
    assert sorted(path.name for path in import_file(entry("f"), tmp_path / "more.pth").iterdir()) == [
        "browser.pth",
        "more.pth",
    ]


def test_an_archive_is_brought_packed_or_unpacked(root, own, tmp_path):
    archive = zipped(tmp_path / "crf.zip", MAPS)
    first = import_file(entry("a"), archive)
    assert sorted(path.name for path in first.iterdir()) == ["2007_000032.npy", "2007_000039.npy"]
    assert archive.is_file()
    again = import_folder(entry("a"), first)
    assert sorted(path.name for path in again.iterdir()) == ["2007_000032.npy", "2007_000039.npy"]
    known = entry("a")
    assert manage.verify(root, known) == []
    (again / "2007_000032.npy").write_bytes(b"changed")
    assert "2007_000032.npy: found sha256" in manage.verify(root, known)[0]


def test_files_are_brought_from_a_folder(root, own, tmp_path):
    other = tmp_path / "other cache"
    for path, body in {"w/w.pth": BODY, "m.pth": OTHER, "f/sub/cam.pth": BODY, "f/affinity.pth": OTHER}.items():
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).write_bytes(body)
    zipped(other / "a.tgz", MAPS)  # a wrong suffix is no matter
    assert import_folder(entry("w"), other, alone=False).read_bytes() == BODY
    assert import_folder(entry("m"), other, alone=False).read_bytes() == OTHER
    assert (import_folder(entry("f"), other, alone=False) / "sub" / "cam.pth").read_bytes() == BODY
    assert import_folder(entry("a"), other, alone=False).name == "out_la"
    with pytest.raises(UsageError, match="found nothing for resnet38-cam"):
        import_folder(entry("resnet38-cam"), other, alone=False)
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "res38_cls.pth").write_bytes(BODY)
    assert import_folder(entry("resnet38-cam"), tmp_path / "lone").read_bytes() == BODY


def test_verify_finds_what_has_changed(fake, root, own):
    fake.routes["/w.pth"] = File(BODY)
    path, known = get("w"), entry("w")
    assert manage.verify(root, known) == []
    path.write_bytes(OTHER)
    assert manage.verify(root, known) == [
        f"{path}: found sha256 {sha(OTHER)} ({len(OTHER)} bytes), expected {sha(BODY)} ({len(BODY)} bytes)"
    ]
    with pytest.raises(DownloadError, match="m is not in the cache"):
        manage.verify(root, entry("m"))


def test_prune_removes_what_is_unfinished_or_named_and_nothing_else(fake, root, own):
    fake.routes["/w.pth"] = File(BODY)
    fake.routes["/mirror/m.pth"] = File(BODY, cuts=[0.4])
    get("w")
    with pytest.raises(DownloadError):
        get("m", connection={"retries": 0})
    (root / "mine").mkdir()
    (root / "mine" / ".file").write_text("not pixaff's")
    catalogue = catalogue_of()
    parts = [root / "m" / name for name in (".m.pth.part", ".m.pth.part.json")]
    assert sorted(manage.prune(root, catalogue, [], True, print)) == parts
    assert all(path.is_file() for path in parts)
    assert sorted(manage.prune(root, catalogue, [], False, print)) == parts
    assert hidden(root, "m") == []
    assert get("w").is_file()
    assert [*manage.prune(root, catalogue, ["w"], False, print)] == [root / "w"]
    assert not (root / "w").exists()
    assert recorded_files(root, "w")["w.pth"].sha256 == sha(BODY)
    get("w")
    del catalogue["w"]
    assert [*manage.prune(root, catalogue, [], False, print)] == [root / "w"]
    assert (root / "mine" / ".file").is_file()


# Cases that people met.


@pytest.mark.parametrize("kind", ["port", "digits", "huge", "minus"])
def test_case_servers_with_odd_numbers_and_the_next_source(fake, root, own, kind):
    answers = {
        "port": lambda call: call.redirect("http://127.0.0.1:99999/x?tempauth=SECRET"),
        "digits": lambda call: call.handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"
        ),
        "huge": lambda call: call.answer(200, b"x", claim=10**16),
        "minus": lambda call: call.handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n-5\r\nabc\r\n"
        ),
    }
    fake.routes["/gone.pth"], fake.routes["/mirror/m.pth"], fake.routes["/w.pth"] = (
        answers[kind],
        File(BODY),
        File(OTHER),
    )
    words = []
    assert get("m", connection={"say": words.append}).read_bytes() == BODY
    assert any(line.startswith(f"{fake.url}/gone.pth: ") for line in words)
    assert "SECRET" not in "".join(words)
    assert get("w").read_bytes() == OTHER


def test_case_servers_that_never_end_and_the_next_source(fake, root, own):
    fake.routes["/gone.pth"] = lambda call: call.answer(200, BODY[:100], claim=len(BODY))
    fake.routes["/mirror/m.pth"] = File(BODY)
    assert get("m").read_bytes() == BODY
    assert len(fake.asked("/gone.pth")) == 2


@pytest.mark.parametrize("names", [("a.npy", "a.npy/b.npy"), ("猫" * 100 + ".npy",), ("a/" * 2500 + "a.npy",)])
def test_case_archive_with_a_file_as_folder_is_not_kept(fake, root, own, tmp_path, names):
    archive = zipped(tmp_path / "bad.zip", dict.fromkeys(names, b"\x93NUMPY"))
    own.write_text(own.read_text().replace('/a.zip"', f'/bad.zip"\nmirrors = ["{fake.url}/a.zip"]'))
    fake.routes["/bad.zip"] = File(archive.read_bytes())
    with pytest.raises(DownloadError, match=r"the member .* (is a file and a folder|has a name that is too long)"):
        get("a")
    assert list((root / "a").iterdir()) == []
    fake.routes["/a.zip"] = File(zipped(tmp_path / "a.zip", MAPS).read_bytes())
    assert get("a").name == "out_la"  # the next source
    assert len(fake.asked("/bad.zip")) == 2


def test_case_tar_that_ends_early_is_not_kept(fake, root, own, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for index in range(12):
            info = tarfile.TarInfo(f"crf/{index}.npy")
            info.size = 512
            file.addfile(info, io.BytesIO(bytes(512)))
    whole = (tmp_path / "a.tar").read_bytes()
    fake.routes["/a.zip"] = lambda call: call.answer(200, whole[:3072], Content_Type="a/b")
    with pytest.raises(DownloadError, match="damaged tar archive: it ends too early"):
        get("a")
    assert list((root / "a").iterdir()) == []
    assert recorded_files(root, "a") == {}
    fake.routes["/a.zip"] = File(whole)
    assert len(list(get("a").iterdir())) == 12


@pytest.mark.parametrize("place", [1 / 3, 2 / 3])
def test_case_weights_with_a_flipped_bit_are_not_recorded(fake, root, own, tmp_path, place):
    with zipfile.ZipFile(io.BytesIO(BODY)) as archive:
        numbers = next(member for member in archive.infolist() if member.file_size > 1000)
    changed = bytearray(BODY)
    changed[numbers.header_offset + 200 + int(place * (numbers.file_size - 200))] ^= 1
    (tmp_path / "flipped.pth").write_bytes(changed)
    fake.routes["/w.pth"] = File(bytes(changed))
    with pytest.raises(DownloadError, match=r"w.*: damaged weights file: Bad CRC-32"):
        get("w")
    with pytest.raises(CheckpointError, match="w: damaged weights file: Bad CRC-32"):
        import_file(entry("w"), tmp_path / "flipped.pth")
    assert recorded_files(root, "w") == {}
    fake.routes["/w.pth"] = File(BODY)
    assert get("w").read_bytes() == BODY  # the undamaged file is not held to be a wrong one


def test_case_good_weights_called_a_web_page_are_fetched(fake, root, own, tmp_path):
    from safetensors.torch import save
    from torch import ones

    short = save({"w": ones(2)}, {"note": ""})
    length = int.from_bytes(short[:8], "little")
    body = save({"w": ones(2)}, {"note": "x" * (0x3C20 - length)})
    assert body.startswith(b" <")
    fake.routes["/w.pth"] = File(body)
    assert get("w").read_bytes() == body


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        "[]",
        json.dumps({"format": 1, "weights": {"../../mine": {"files": {}}}}),
        json.dumps({"format": 1, "weights": {"w": {"files": {"../../mine": {"sha256": "a", "size": 1}}}}}),
        json.dumps({"format": 1, "weights": {"w": {"files": {"w.pth": {"sha256": [], "size": True}}}}}),
        json.dumps({"format": 1, "weights": 5}),
    ],
)
def test_case_records_that_are_odd_of_the_cache(fake, root, own, content):
    (root.parent / "mine").mkdir()
    root.mkdir()
    (root / "lock.json").write_text(content)
    for action in (
        lambda: get("w"),
        lambda: manage.state(root, entry("w")),
        lambda: manage.prune(root, {}, [], False, print),
    ):
        with pytest.raises(DownloadError, match=r"lock\.json: .*a?( lock file of format 1).*restore it; or remove it"):
            action()
    assert (root.parent / "mine").is_dir()


def test_case_records_that_are_odd_of_an_archive(fake, root, own, tmp_path):
    fake.routes["/a.zip"] = File(zipped(tmp_path / "a.zip", MAPS).read_bytes())
    get("a")
    for content in ("[" * 200_000, '{"../../x": [1, "a"]}', '{"x": 5}', "3"):
        (root / "a" / "record.json").write_text(content)
        assert "cannot be read, expected the list" in manage.verify(root, entry("a"))[0]


def planted(root, tmp_path):
    """A file and a folder outside of the cache, to which somebody else has put links inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (root / "w").mkdir(parents=True)
    return outside


def test_links_in_the_cache_are_not_written_through(fake, root, own, tmp_path):
    outside = planted(root, tmp_path)
    for name in (".w.pth.part", ".w.pth.part.json", ".w.pth.copy"):
        (root / "w" / name).symlink_to(outside / "precious")
    for name in (".unpack", ".old", ".incoming"):
        (root / "w" / name).symlink_to(outside)
    fake.routes["/w.pth"] = File(BODY)
    assert get("w").read_bytes() == BODY
    (root / "w" / ".w.pth.copy").symlink_to(outside / "precious")
    (tmp_path / "own.pth").write_bytes(BODY)
    import_file(entry("w"), tmp_path / "own.pth")
    assert [path.name for path in (root / "w").iterdir()] == ["w.pth"]
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"precious": "mine"}


def test_folders_of_the_cache_are_no_links(fake, root, own, tmp_path):
    outside = planted(root, tmp_path)
    (root / "w").rmdir()
    (root / "w").symlink_to(outside)
    fake.routes["/w.pth"] = File(BODY)
    for force in (False, True):
        with pytest.raises(OutputError, match="w: found a link, expected a folder of the cache"):
            get("w", force=force)
    (tmp_path / "own.pth").write_bytes(BODY)
    with pytest.raises(OutputError, match="found a link"):
        import_file(entry("w"), tmp_path / "own.pth")
    assert [*manage.prune(root, {"w": entry("w")}, ["w"], False, print)] == [root / "w"]
    assert not (root / "w").is_symlink()
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"precious": "mine"}
    shutil.rmtree(root / ".locks")
    (root / ".locks").symlink_to(outside)
    with pytest.raises(OutputError, match="found a link"):
        get("w")
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_the_cache_itself_may_lie_behind_a_link(fake, root, own, tmp_path):
    (tmp_path / "disk").mkdir()
    root.symlink_to(tmp_path / "disk")
    fake.routes["/w.pth"] = File(BODY)
    assert get("w").read_bytes() == BODY


def test_a_link_that_appears_in_the_middle_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    for mode in ("wb", "ab"):
        with pytest.raises(OSError, match="symbolic links"):
            writable(tmp_path / "link", mode)
    assert (tmp_path / "precious").read_text() == "mine"
