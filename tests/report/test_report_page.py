"""The page as text: everything is on it, nothing on it can act, and a broken file or report breaks nothing else."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_cases import EVIL, make_run

from sparse_ulm import report
from sparse_ulm.errors import UserError
from sparse_ulm.manifest import FAILED, Entry
from sparse_ulm.report import try_report, write_report
from sparse_ulm.report import write as report_writing
from sparse_ulm.report.sections import describe
from sparse_ulm.run_facts import RecordingFacts

NIIVUE = Path(report.__file__).parent / "niivue"


class Reader(HTMLParser):
    """Takes a page apart as a browser does: tags with their attributes, code that would run, and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.code, self.text, self._inside = [], [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "
        if tag in ("script", "style") and "type" not in dict(attrs):
            self.code.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside in ("script", "style"):
            if "type" not in self.tags[-1][1]:
                self.code[-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def page(run_folder):
    return Reader(write_report(run_folder).read_text(encoding="utf-8"))


@pytest.fixture
def short_page(monkeypatch):
    """Without pictures, which take the time."""
    monkeypatch.setattr(report_writing, "MAX_EMBEDDED_BYTES", 0)


def words(text):
    return " ".join(text.split())


def test_the_page_tells_of_inputs_settings_counts_versions_and_failures(page):
    text = words(page.text)
    for told in (
        "Research use only; not for diagnosis.",
        "3 recordings: 2 done, 1 failed.",
        "bad is failed: bad.npz: 3 <NaN> samples; wanted finite IQ.",
        "rec done classical 10 12 2 17 1.2",
        "Recording 5 × 6 × 7 voxels of 0.1 × 0.11 × 0.09 mm",
        "Duration 0.02 s (10 frames at 500 Hz)",
        "Map 40 × 48 × 56 voxels of 12.5 × 13.75 × 11.25 µm",
        "Transmit frequency 8 MHz",
        "clutter.n_tissue_components 4",
        "packages.numpy",
    ):
        assert told in text
    titles = ("Bubbles per frame", "Track lengths", "Mean speeds of tracks", "Visited voxels of the map", "Density",
              "Stated uncertainty of bubbles", "Speed")  # fmt: skip
    assert all(text.count(f" {title} ") >= 2 for title in titles)
    assert sum(tag == "img" for tag, _ in page.tags) == 14


def test_hashes_of_inputs_and_outputs_are_those_of_the_files(page, run_folder):
    for file in (run_folder / "rec/rec_density.nii.gz", run_folder.parent / "in/rec.npz"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in page.text


def test_names_and_messages_are_text_and_never_markup(page):
    assert EVIL in page.text
    assert "<i>settings</i>" in page.text
    assert {"i", "b", "nan"}.isdisjoint(tag for tag, _ in page.tags)
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == [
        *2 * ["application/octet-stream"], None, None,
    ]  # fmt: skip


def test_the_policy_names_the_scripts_of_the_page_and_nothing_else(page):
    [policy] = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    named = re.findall(r"'sha256-([^']+)'", policy)
    made = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in page.code]
    assert sorted(named) == sorted(made)
    rest = re.sub(r" ?'sha256-[^']+'", "", policy)
    assert rest == "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; script-src; style-src"


def test_nothing_on_the_page_points_off_the_page(page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
        assert not [name for name in attributes if name.startswith("on")]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    assert links <= set(ids)


def test_every_picture_says_what_it_shows(page):
    assert all(a["alt"].strip() for tag, a in page.tags if tag == "img")


def test_niivue_is_the_file_that_its_note_names():
    data, note = (NIIVUE / "niivue.umd.js").read_bytes(), (NIIVUE / "README.md").read_text()
    assert hashlib.sha256(data).hexdigest() in note
    assert f"{len(data):,} bytes" in note
    assert b"\r" not in data  # a browser hashes a page with other line endings than the file's
    assert b"</script" not in data.lower()
    assert b"<!--" not in data
    assert "BSD 2-Clause" in (NIIVUE / "LICENSE").read_text()


def copied(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "out")
    return tmp_path / "out"


def test_damaged_lost_and_changed_files_are_told_and_hide_nothing_else(run_folder, tmp_path):
    out = copied(run_folder, tmp_path)
    (out / "rec/rec_density.nii.gz").write_bytes(b"\x1f\x8b no map")
    (out / "rec/rec_speed.nii.gz").unlink()
    (out / "rec/rec_tracks.csv").write_text("track_id,frame\nno,number\n")
    (out / "metrics.json").write_text("[1, 2]")
    page = Reader(write_report(out).read_text(encoding="utf-8"))
    text = words(page.text)
    assert "rec: rec_speed.nii.gz of the run is missing." in text
    assert "rec: rec_density.nii.gz, rec_tracks.csv are not as the run wrote it." in text
    assert "rec_tracks.csv: not a table of numbers" in text
    assert "metrics.json of out is none of ours and is left out." in text
    assert [a["data-shape"] for _, a in page.tags if "data-shape" in a] == ["40 × 48 × 56"]  # the other recording's


@pytest.mark.usefixtures("short_page")
def test_scores_of_an_evaluation_are_shown(run_folder, tmp_path):
    out = copied(run_folder, tmp_path)
    row = {"scope": "recording", "name": "rec", "dice_lambda_10": 0.8059}
    (out / "metrics.json").write_text(json.dumps({"recordings": [row], "total": {"n_predicted_voxels": 2213}}))
    text = words(Reader(write_report(out).read_text(encoding="utf-8")).text)
    assert "recording Dice λ/10 rec 0.8059" in text
    assert "n_predicted_voxels 2213" in text


def test_a_full_page_lists_the_rest_in_short(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report_writing, "MAX_EMBEDDED_BYTES", 1)
    page = Reader(write_report(copied(run_folder, tmp_path)).read_text(encoding="utf-8"))
    assert "left out. They lie in the recordings' folders" in words(page.text)
    assert sum(tag == "img" for tag, _ in page.tags) == 7
    assert f"{EVIL} done classical 10 12 2 17" in words(page.text)


@pytest.mark.usefixtures("short_page")
def test_a_folder_without_a_manifest_is_read_by_its_provenance(run_folder, tmp_path):
    out = copied(run_folder, tmp_path)
    (out / "manifest.json").unlink()
    text = words(Reader(write_report(out).read_text(encoding="utf-8")).text)
    assert "2 recordings: 2 done." in text
    assert "rec done classical 10 12 2 17" in text  # its frames are those of the recording, which is still there


@pytest.mark.usefixtures("short_page")
def test_a_recording_that_has_moved_is_told(tmp_path):
    out = make_run(tmp_path, "rec")
    shutil.rmtree(tmp_path / "in")
    text = words(Reader(write_report(out).read_text(encoding="utf-8")).text)
    assert "not where the run found it; its grid and rates are not shown" in text
    assert "Duration 0.02 s (10 frames at 500 Hz)" in text  # from the times in the table


def test_no_results_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"holds no manifest\.json and no NAME/provenance\.json; wanted"):
        write_report(tmp_path)


@pytest.mark.usefixtures("short_page")
@pytest.mark.parametrize("error", [UserError("no space"), ZeroDivisionError("a bug")])
def test_a_report_that_fails_is_a_warning_and_leaves_the_old_one(run_folder, tmp_path, monkeypatch, caplog, error):
    out = copied(run_folder, tmp_path)
    (out / "report.html").write_text("old")

    def fail(*_):
        raise error

    monkeypatch.setattr(report_writing, "render", fail)
    assert try_report(out) is None
    [record] = caplog.records
    assert (record.levelname, str(error) in record.getMessage()) == ("WARNING", True)
    assert "\n" not in record.getMessage()
    assert (out / "report.html").read_text() == "old"


@pytest.mark.usefixtures("short_page")
def test_a_report_that_is_half_written_does_not_appear(run_folder, tmp_path, monkeypatch):
    out = copied(run_folder, tmp_path)
    (out / "report.html").write_text("old")
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(out)
    monkeypatch.undo()
    assert (out / "report.html").read_text() == "old"
    assert not list(out.glob(".*"))


def test_a_failed_recording_has_a_section_without_pictures():
    section = describe(
        RecordingFacts("a", Path("out/a"), Entry("in/a", FAILED, error="why"), {}, ("a: why",)), is_short=False
    )
    assert (section.pictures, section.plots, section.volume, section.notes) == ([], [], None, ["a: why"])
