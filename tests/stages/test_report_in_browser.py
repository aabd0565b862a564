"""The page of `pixaff report` in Chromium: it loads, filters, draws masks at any alpha, and obeys keys."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import reviewed

import pixaff
from pixaff.io.labels import read_list
from pixaff.io.masks import voc_palette
from pixaff.ops.powers import HIGHEST, LOWEST
from pixaff.prediction import masks_at
from pixaff.stages.batch import mask_page as stage

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,1000",
)  # fmt: skip
SHIFTS = """
globalThis.shifts = 0;
new PerformanceObserver((list) => { for (const entry of list.getEntries()) globalThis.shifts += entry.value; })
  .observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = reviewed.make(tmp_path_factory.mktemp("review"))
    pixaff.report(folder / "photos-masks", folder / "report.html", ground_truth=folder / "gt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "IN_ONE_FILE", 2)
        patch.setattr(stage, "EACH_BESIDE", 3)
        pixaff.report(folder / "photos-masks", folder / "large #1.html", ground_truth=folder / "gt")
    (folder / "downloads").mkdir()
    return folder


@pytest.fixture(scope="module")
def browser(folder, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SHIFTS})
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, folder):
    browser.get((folder / "report.html").as_uri())
    browser.execute_script("localStorage.clear()")
    browser.get((folder / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    yield browser
    # "rendering": advice about the canvases that these tests read.
    assert [entry for entry in browser.get_log("browser") if entry["source"] != "rendering"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    # Chromium's own pages apart.
    asked = [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome")]
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def wait(driver, script, *arguments):
    """What a script returns, as soon as it returns something true."""
    until = time.monotonic() + 20
    while not (found := driver.execute_script(script, *arguments)):
        assert time.monotonic() < until, script
        time.sleep(0.02)
    return found


def shown(driver):
    return driver.execute_script("return [...document.querySelectorAll('#grid .name')].map((one) => one.textContent)")


def put(driver, name, value):
    driver.execute_script(
        "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
        "one.dispatchEvent(new Event('input', { bubbles: true }));",
        name, value,
    )  # fmt: skip


def press(driver, *keys):
    for key in keys:
        webdriver.ActionChains(driver).send_keys(key).perform()


def drawn(driver, how, count=4):
    """Labels and pixels by name of the photos in the grid, once all are drawn in this way."""
    wait(
        driver,
        "return document.querySelectorAll(`#grid canvas[data-drawn='${arguments[0]}']`).length === arguments[1]",
        how, count,
    )  # fmt: skip
    found = driver.execute_script("""
        return [...document.querySelectorAll('#grid .card')].map((card) => {
          const canvas = card.querySelector('canvas');
          const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          return [card.querySelector('.name').textContent, canvas.height, [...canvas.labels], [...pixels]];
        });""")
    return {
        name.removesuffix(".jpg"): (np.array(labels).reshape(height, -1), np.array(pixels).reshape(height, -1, 4))
        for name, height, labels, pixels in found
    }


def inner(mask):
    """Pixels without another value beside them, where no outline is drawn."""
    same = np.ones(mask.shape, bool)
    for axis in (0, 1):
        change = np.diff(mask, axis=axis) != 0
        same &= ~np.concatenate([change, np.zeros_like(change.take([0], axis))], axis)
        same &= ~np.concatenate([np.zeros_like(change.take([0], axis)), change], axis)
    return same


def test_masks_are_drawn_as_saved_and_at_the_alpha_of_the_slider(page):
    saved = drawn(page, "mask saved")
    assert set(saved) == set(reviewed.NAMES)
    for number, name in enumerate(reviewed.NAMES):
        labels, pixels = saved[name]
        assert np.array_equal(labels, masks_at(reviewed.scores_of(number), [reviewed.ALPHA])[0])
        plain = inner(labels)
        assert (pixels[plain & (labels == 0), 3] == 0).all()
        assert (pixels[plain & (labels == 1)] == (*voc_palette()[1], 255)).all()
    put(page, "alpha", 120)
    alpha = page.execute_script("return document.getElementById('alpha-value').textContent")
    assert float(alpha) == pytest.approx(LOWEST * (HIGHEST / LOWEST) ** (120 / 160), rel=0.01)
    assert f"--alpha {alpha} --out" in page.execute_script("return document.getElementById('command').textContent")
    walked = drawn(page, f"mask {alpha}")
    for number, name in enumerate(reviewed.NAMES):
        expected = masks_at(reviewed.scores_of(number), [float(alpha)])[0]
        assert (walked[name][0] == expected).mean() > 0.995
        assert (walked[name][0] != saved[name][0]).mean() > 0.05
    page.execute_script("document.getElementById('saved').click()")
    drawn(page, "mask saved")


def test_difference_shows_what_ground_truth_has_besides(page):
    put(page, "mode", "difference")
    found = drawn(page, "difference saved")
    for number, name in enumerate(reviewed.NAMES):
        mask, truth = masks_at(reviewed.scores_of(number), [reviewed.ALPHA, 3.0])
        pixels = found[name][1]
        assert np.array_equal(pixels[..., 3] > 0, mask != truth)
        assert (pixels[(mask == 0) & (truth > 0), :3] == (47, 123, 255)).all()
    put(page, "mode", "truth")
    drawn(page, "truth saved")


def test_filters_and_sorting(page):
    assert len(shown(page)) == 4
    margins = page.execute_script("return JSON.parse(document.getElementById('data').textContent).photos")
    by_margin = sorted(margins, key=lambda photo: photo["margin"])
    assert shown(page) == [photo["name"] for photo in by_margin]
    put(page, "class", "2")
    assert set(shown(page)) == {"b.jpg", "d.jpg"}
    put(page, "class", "")
    put(page, "name", "<B>")
    assert shown(page) == ["a & <b>'\".jpg"]
    put(page, "name", "")
    most = int(100 * by_margin[1]["margin"]) + 1
    put(page, "margin", most)
    assert shown(page) == [photo["name"] for photo in by_margin if photo["margin"] <= most / 100]
    put(page, "margin", 100)
    put(page, "area-from", round(100 * max(photo["shown"] for photo in margins), 1) - 0.1)
    assert 1 <= len(shown(page)) < 4
    put(page, "area-from", 0)
    put(page, "sort", "name")
    assert shown(page) == [f"{name}.jpg" for name in reviewed.NAMES]
    assert page.execute_script("return document.getElementById('count').textContent") == "4 of 4 photos"


def test_opacity_is_a_style_alone(page):
    drawn(page, "mask saved")
    put(page, "opacity", 30)
    style = "return getComputedStyle(document.querySelector('#grid canvas')).opacity"
    assert float(page.execute_script(style)) == pytest.approx(0.3)
    press(page, "+")
    assert float(page.execute_script(style)) == pytest.approx(0.4)


def test_keys_review_and_the_list_is_one_that_pixaff_reads(page, folder):
    put(page, "sort", "name")
    press(
        page,
        "a",
        webdriver.Keys.ARROW_RIGHT,
        "r",
        webdriver.Keys.ARROW_RIGHT,
        "a",
        webdriver.Keys.ARROW_RIGHT,
        "a",
        "u",
    )
    text = page.execute_script("return document.getElementById('review').textContent")
    assert text == "2 accepted, 1 rejected, 1 open"
    press(page, webdriver.Keys.ENTER)
    wait(page, "return document.querySelector('#viewer[open] canvas[data-drawn]')")
    assert page.execute_script("return document.getElementById('viewer-name').textContent") == "d.jpg"
    press(page, webdriver.Keys.ARROW_LEFT, "r")
    assert page.execute_script("return document.getElementById('viewer-name').textContent") == "c ü.jpg"
    press(page, webdriver.Keys.ESCAPE)
    wait(page, "return !document.getElementById('viewer').open")
    put(page, "decision", "rejected")
    assert shown(page) == ["b.jpg", "c ü.jpg"]
    page.execute_script("document.getElementById('get-rejected').click()")
    path = folder / "downloads" / "rejected.json"
    until = time.monotonic() + 20
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert read_list(path) == ["b", "c ü"]
    page.refresh()
    text = page.execute_script("return document.getElementById('review').textContent")
    assert text == "1 accepted, 2 rejected, 1 open"
    page.execute_script("localStorage.clear()")
    page.refresh()
    page.find_element("id", "load").send_keys(str(path))
    wait(page, "return document.getElementById('review').textContent.startsWith('1 accepted, 2 rejected')")


def test_figures_against_ground_truth(page, folder):
    page.execute_script("document.getElementById('scores').open = true")
    wait(page, "return document.querySelectorAll('#worst canvas[data-drawn]').length > 0")
    words = page.execute_script("return document.getElementById('miou').textContent")
    miou = pixaff.evaluate(folder / "photos-masks", folder / "gt").best.miou
    assert words == f"mIoU {100 * miou:.2f} % on 4 photos"
    assert page.execute_script("return document.querySelectorAll('#bars .row').length") == 3
    cells = page.execute_script("return [...document.querySelectorAll('#matrix td')].length")
    assert cells == 1 + 3 * 3


def test_nothing_moves_and_everything_fits_a_phone(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        page.refresh()
        wait(page, "return document.querySelectorAll('#grid canvas[data-drawn]').length > 0")
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
        assert page.execute_script("return globalThis.shifts") == pytest.approx(0, abs=0.01)
        assert page.execute_script("return document.getElementById('tools').open") is False
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_parts_beside_the_page_are_loaded(page, folder):
    page.get((folder / "large #1.html").as_uri())
    assert set(drawn(page, "mask saved")) == set(reviewed.NAMES)


def test_everything_has_a_name(page):
    drawn(page, "mask saved")
    nameless = page.execute_script("""
        return [...document.querySelectorAll('button, input, select, img')].filter((one) => !(
          one.getAttribute('aria-label') || one.alt || one.labels?.length || one.textContent.trim())).length;""")
    assert nameless == 0
