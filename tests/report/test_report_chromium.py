"""The page in a real browser: pictures and viewer load, and nothing is asked for outside of the page."""

import io
import re

import numpy as np
import pytest
from headless_chromium import CHROMIUM, Page
from PIL import Image
from report_cases import EVIL

from sparse_ulm.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

STATE = "['ready', 'failed'].includes(document.getElementById('viewer')?.dataset.state)"
CANVAS = "document.getElementById('viewer-canvas')"
LOCAL = ("data:", "blob:")


@pytest.fixture(scope="module")
def report(run_folder):
    return write_report(run_folder)


def open_page(folder, path):
    page = Page(folder / "profile")
    page.__enter__()
    page.open(path)
    return page


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    with Page(tmp_path_factory.mktemp("chromium") / "profile") as page:
        page.open(report)
        page.wait_for(STATE)
        yield page


def choose(page, element, value):
    page.ask(f"(() => {{ const e = document.getElementById('{element}'); e.value = {value!r};"
             "e.dispatchEvent(new Event('change')); })()")  # fmt: skip
    page.wait_for(STATE)


def lit_share(page):
    """Share of the canvas, as it is seen, that is not black."""
    page.ask("document.getElementById('viewer').scrollIntoView()")
    x, y, width, height = page.ask(f"(() => {{const r = {CANVAS}.getBoundingClientRect();"
                                   "return [r.x, r.y, r.width, r.height];})()")  # fmt: skip
    # Two frames on, what was drawn is on the screen.
    page.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = np.asarray(Image.open(io.BytesIO(page.picture())).convert("RGB"), dtype=int)
    seen = picture[int(y) + 1 : int(y + height) - 1, int(x) + 1 : int(x + width) - 1]
    assert seen.shape[0] > 400
    return float((seen.max(axis=2) > 60).mean())


def test_all_pictures_load(page):
    found = page.ask("[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight])")
    assert len(found) == 14
    assert all(complete and width > 300 and height > 200 for complete, width, height in found)


def test_the_viewer_holds_the_map_and_draws_it(page):
    assert page.ask("document.getElementById('viewer').dataset.state") == "ready"
    volumes = page.ask("document.getElementById('viewer').viewer.volumes.map(v => [...v.hdr.dims.slice(1, 4)])")
    assert volumes == [[40, 48, 56]]
    assert "Shown: 40 × 48 × 56 voxels." in page.ask("document.getElementById('viewer-message').textContent")
    lit = lit_share(page)
    assert 1e-4 < lit < 0.5
    page.ask("(() => { const v = document.getElementById('viewer').viewer; v.setOpacity(0, 0); })()")
    assert lit_share(page) < lit / 10  # what was bright was the map
    page.ask("document.getElementById('viewer').viewer.setOpacity(0, 1)")


def test_the_place_under_the_crosshair_is_told_in_the_map_s_own_millimetres(page):
    told = page.ask("document.getElementById('viewer-place').textContent")
    x, y, z, density = map(
        float, re.fullmatch(r"x (\S+), y (\S+), z (\S+) mm: (\d+) tracks in the voxel", told).groups()
    )
    # Where both bubbles pass: voxel (2, 3, 3) of a grid of 0.1, 0.11 and 0.09 mm from (-0.2, 0.3, 5).
    np.testing.assert_allclose([x, y, z], [0.0, 0.63, 5.27], atol=0.015)
    assert density == 2


def test_views_and_recordings_can_be_chosen(page):
    choose(page, "viewer-view", "both")
    assert page.ask("document.getElementById('viewer').viewer.opts.sliceType") == 3
    assert lit_share(page) > 1e-3  # the crosshair's lines
    choose(page, "viewer-recording", "1")
    assert page.ask("document.getElementById('viewer').viewer.volumes.length") == 1
    assert page.ask("document.getElementById('viewer-recording').selectedOptions[0].text") == EVIL
    choose(page, "viewer-view", "solid")


def test_no_request_leaves_the_page_and_nobody_complains(page, report):
    outside = [address for address in page.requests if not address.startswith(LOCAL)]
    assert outside == [report.resolve().as_uri()]
    assert page.complaints == []
    assert page.ask("document.title") == f"ULM report: {report.parent.name}"  # no name of a recording has run


def test_whatever_came_onto_the_page_the_policy_would_stop_it(report, tmp_path):
    """The log of requests does see one, and the page's policy stops it: image, script and connection."""
    attack = (
        "<img src='http://127.0.0.1:9/a.png'><script src='http://127.0.0.1:9/b.js'></script>"
        "<script>document.title = 'stolen'; fetch('http://127.0.0.1:9/c');</script>"
    )
    bad = tmp_path / "bad.html"
    bad.write_text(report.read_text(encoding="utf-8").replace("<main>", f"<main>{attack}", 1), encoding="utf-8")
    with Page(tmp_path / "profile") as page:
        page.open(bad)
        page.wait_for("document.readyState === 'complete'")
        assert "http://127.0.0.1:9/a.png" in page.requests
        assert page.ask("document.title") != "stolen"
    assert "http://127.0.0.1:9/c" not in page.requests
    stopped = {line for line in page.complaints if "Content Security Policy" in line}
    assert len(stopped) == 3, stopped
    assert page.complaints.count("failed: csp") == 2
