from __future__ import annotations

import base64
import io
import logging
import traceback

import pytest
from fake_services import PAGE, File, impatient, route_onedrive, serving, weights_bytes

from pixaff.errors import DownloadError
from pixaff.weights import sources
from pixaff.weights.sources import onedrive, web

BODY = weights_bytes(size=60_000)
TOKEN = "SECRET-TOKEN"
REDEEM = base64.urlsafe_b64encode(b"https://1drv.ms/u/c/abc/redeemed").decode().rstrip("=")


class OneDrive:
    """The services of OneDrive: every part can be made to fail."""

    def __init__(self, fake):
        self.fake, self.tokens, self.item_fails = fake, 0, []
        self.link = f"{fake.url}/u/s!Abc?e=FKANlR"
        self.file = File(BODY)
        self.redirect = f"/redir?resid=ABC%21638&authkey=SECRET-KEY&cid=abc&redeem={REDEEM}"
        self.item = {
            "name": "crf.zip",
            "size": len(BODY),
            "@content.downloadUrl": f"{fake.url}/content?tempauth=SECRET",
        }
        fake.routes["/u/s!Abc"] = lambda call: call.redirect(self.redirect)
        fake.routes["/redir"] = lambda call: call.answer(200, b"<html>a page</html>")
        fake.routes["/token"] = self.token
        fake.routes["/content"] = lambda call: self.file(call)
        for identity in (onedrive.share_id(self.link), REDEEM):
            fake.routes[f"/shares/u!{identity}/driveitem"] = self.driveitem

    def token(self, call):
        assert call.method == "POST"
        assert call.body == b'{"appId": "5cbed6ac-a083-4e14-b191-b4ba07653de2"}'
        assert call.headers["AppId"] == "1141147648"
        self.tokens += 1
        call.json({"token": f"{TOKEN}-{self.tokens}"})

    def driveitem(self, call):
        assert call.headers["Authorization"] == f"Badger {TOKEN}-{self.tokens}"
        assert call.headers["Prefer"] == "autoredeem"
        if self.item_fails:
            status, headers = self.item_fails.pop(0)
            call.answer(status, b'{"error": {"token": "SECRET"}}', **headers)
        else:
            call.json(self.item)

    def paths(self):
        return [call.path for call in self.fake.calls]


@pytest.fixture
def service(monkeypatch):
    with serving() as fake:
        route_onedrive(fake, monkeypatch.setattr)
        yield OneDrive(fake)


def fetch(service, folder, **options):
    source = sources.OneDrive(service.link)
    return source.download(folder, "crf.archive", impatient(**options), label="crf-low").read_bytes()


def test_the_share_address_is_asked_for_with_a_token(service, tmp_path):
    assert fetch(service, tmp_path) == BODY
    identity = service.paths()[1].removeprefix("/shares/u!").removesuffix("/driveitem")
    assert "=" not in identity
    assert base64.urlsafe_b64decode(identity + "=" * (-len(identity) % 4)).decode() == service.link
    assert service.paths() == ["/token", f"/shares/u!{identity}/driveitem", "/content"]
    assert service.fake.calls[-1].headers["Authorization"] is None


def test_an_expired_token_is_renewed_once(service, tmp_path):
    service.item_fails = [(401, {})]
    assert fetch(service, tmp_path) == BODY
    assert service.tokens == 2


def test_the_redeem_value_is_the_second_way(service, tmp_path):
    service.item_fails = [(403, {})]
    words = []
    assert fetch(service, tmp_path, say=words.append) == BODY
    assert f"/shares/u!{REDEEM}/driveitem" in service.paths()
    assert "by the share address: the shared item: HTTP 403, is not public" in words[0]


def test_resid_and_authkey_are_the_third_way(service, tmp_path):
    service.item_fails = [(404, {}), (404, {})]
    seen = []

    def item(call):
        seen.append((call.query, call.headers["Authorization"]))
        call.json(service.item)

    service.fake.routes["/drives/abc/items/ABC!638"] = item
    assert fetch(service, tmp_path) == BODY
    assert seen == [({"authkey": "SECRET-KEY"}, None)]


def test_each_way_that_fails_is_named(service, tmp_path):
    service.item_fails = [(401, {}), (401, {}), (403, {})]
    with pytest.raises(DownloadError) as caught:
        fetch(service, tmp_path)
    assert caught.value.message == (
        "OneDrive: by the share address: the shared item: HTTP 401, asks for a login; "
        "by the redirect's redeem value: the shared item: HTTP 403, is not public; "
        "by the redirect's resid and authkey: the item: HTTP 404, is not there"
    )


def test_a_link_without_a_redirect(service, tmp_path):
    service.item_fails = [(404, {})]
    service.fake.routes["/u/s!Abc"] = lambda call: call.answer(404)
    with pytest.raises(DownloadError, match="by the link's redirect: the short link: HTTP 404, is not there"):
        fetch(service, tmp_path)
    service.item_fails = [(404, {})]
    service.fake.routes["/u/s!Abc"] = lambda call: call.redirect("/redir?x=1")
    with pytest.raises(DownloadError, match="neither a redeem value nor resid"):
        fetch(service, tmp_path)
    service.item_fails = [(404, {})]
    service.fake.routes["/u/s!Abc"] = lambda call: call.redirect("file:///etc/passwd")
    with pytest.raises(DownloadError, match="redirected to file: address"):
        fetch(service, tmp_path)


def test_429_waits(service, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(web.time, "sleep", waits.append)
    service.item_fails = [(429, {"Retry-After": "1"})]
    assert fetch(service, tmp_path) == BODY
    assert waits == [1.0]


def test_the_token_service_fails(service, tmp_path):
    service.redirect = "/redir"
    for answer, words in {
        (200, b'{"other": 1}'): "the token: found none in the answer",
        (200, b"not json"): "the token: found none, expected a JSON object",
        (200, PAGE): "the token: found a web page",
        (200, b'{"token": "a\\r\\nX: b"}'): "the token: found none in the answer",
        (403, b""): "the token: HTTP 403",
    }.items():
        service.fake.routes["/token"] = lambda call, answer=answer: call.answer(*answer)
        with pytest.raises(DownloadError, match=words):
            fetch(service, tmp_path)


def test_an_expired_download_address_is_asked_for_again_and_the_rest_fetched(service, tmp_path):
    service.file.cuts = [0.4]
    answers = [service.file, lambda call: call.answer(401), service.file]
    service.fake.routes["/content"] = lambda call: answers.pop(0)(call)
    assert fetch(service, tmp_path) == BODY
    assert service.tokens == 2
    assert service.fake.calls[-1].headers["Range"] == f"bytes={int(len(BODY) * 0.4)}-"


def test_a_cut_download_is_gone_on_with_from_another_address(service, tmp_path):
    service.file.cuts = [0.4] * 6
    service.redirect = "/redir"
    with pytest.raises(DownloadError, match="cut at"):
        fetch(service, tmp_path, retries=0)
    service.file.cuts = []
    service.item["@content.downloadUrl"] = f"{service.fake.url}/content?tempauth=SECRET2"
    service.fake.calls.clear()
    assert fetch(service, tmp_path) == BODY
    assert service.fake.calls[-1].headers["Range"].startswith("bytes=")


@pytest.mark.parametrize("item", [{"folder": {}}, {"@content.downloadUrl": "file:///etc/passwd"}])
def test_an_item_that_cannot_be_fetched(service, tmp_path, item):
    service.item, service.redirect = item, "/redir"
    with pytest.raises(DownloadError, match="without a download address"):
        fetch(service, tmp_path)


def test_no_token_is_ever_shown(service, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    words = []
    service.file = File(BODY, fails=[(401, {})] * 9)
    service.item_fails = [(401, {}), (500, {})]
    with pytest.raises(DownloadError) as caught:
        fetch(service, tmp_path, say=words.append)
    trace = io.StringIO()
    traceback.print_exception(caught.value, file=trace)
    kept = "".join(path.read_text("latin1") for path in tmp_path.iterdir())
    everything = "\n".join([trace.getvalue(), caplog.text, *words, kept])
    assert "GET /content" in everything
    assert "SECRET" not in everything


def test_probe_tries_every_way(service):
    service.item_fails = [(403, {})]
    found = list(sources.OneDrive(service.link).probe("", impatient()))
    assert [name for name, _ in found] == [
        "by the share address",
        "by the redirect's redeem value",
        "by the redirect's resid and authkey",
    ]
    assert "HTTP 403" in str(found[0][1])
    assert found[1][1].size == len(BODY)
    assert "HTTP 404" in str(found[2][1])
