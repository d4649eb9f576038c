"""Ultrasound in DICOM: which pixels are image, where and when they lie, how grey becomes amplitude, what is refused."""

import json

import numpy as np
import pydicom
import pytest
from dicom_files import OPTIONS, SECRETS, random_pixels, region, write_cine, write_volume

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.clutter import ClutterFilter
from sparse_ulm.errors import RecordingError
from sparse_ulm.filtered import filtered
from sparse_ulm.io import open_recording, save_recording
from sparse_ulm.io.log_compression import amplitudes
from sparse_ulm.validate import main as validate

PIXELS = random_pixels(6, 10, 13)  # frames, rows, columns
B = "TISSUE_INTENSITY"


def decoded(grey, decibels=60.0, white=255):
    """Grey to amplitude, by the definition of a decibel."""
    return np.where(grey == 0, 0.0, 10 ** ((grey / white - 1) * decibels / 20))


def test_grey_is_linear_in_decibels():
    table = amplitudes(60.0, n_bits=8)
    assert table[255] == 1.0
    assert 20 * np.log10(table[51]) == pytest.approx(-48.0, abs=1e-4)  # a fifth of the way from black to white
    assert table[0] == 0.0
    assert amplitudes(60.0, n_bits=12)[4095] == 1.0


def test_a_cine_is_its_region_in_millimetres(tmp_path):
    found = open_recording(write_cine(tmp_path / "c.dcm", PIXELS), **OPTIONS)
    assert (found.shape, found.content, found.name) == ((7, 1, 5, 6), "envelope", "c")
    grey = PIXELS[1:5, 2:7, 3:10].transpose(2, 1, 0)[:, None]  # columns along x, rows along depth
    frames = found.frames(1, 5)
    assert frames.dtype == np.complex64
    np.testing.assert_allclose(frames, decoded(grey), rtol=1e-6)
    assert found.geometry.voxel_size_m == pytest.approx((0.12e-3, 0.12e-3, 0.08e-3))  # y is shown as thick as x
    # Pixel 2 of the region lies at 0 cm, and its first row at 0.1 cm.
    assert found.geometry.matrix_m[:3, 3] == pytest.approx([-0.24e-3, 0.0, 1.0e-3])
    assert found.geometry.frame_rate_hz == pytest.approx(40.0)
    assert found.details["dynamic_range_db"] == 60.0


def test_text_outside_of_the_region_is_not_read(tmp_path):
    written = PIXELS.copy()
    written[:, :2] = written[:, 7:] = 255
    written[..., :3] = written[..., 10:] = 255
    one, two = (
        open_recording(write_cine(tmp_path / n, p), **OPTIONS) for n, p in (("a.dcm", PIXELS), ("b.dcm", written))
    )
    np.testing.assert_array_equal(one.frames(0, 6), two.frames(0, 6))


def test_colour_images_of_grey_are_read_and_flow_is_not(tmp_path):
    grey = np.repeat(PIXELS[..., None], 3, axis=-1)
    grey[:, 0, 0] = [255, 0, 0]  # outside of the region: a colour bar
    found = open_recording(write_cine(tmp_path / "rgb.dcm", grey), **OPTIONS)
    plain = open_recording(write_cine(tmp_path / "c.dcm", PIXELS), **OPTIONS)
    np.testing.assert_array_equal(found.frames(2, 6), plain.frames(2, 6))
    grey[4, 3, 5] = [200, 20, 20]
    flow = open_recording(write_cine(tmp_path / "flow.dcm", grey), **OPTIONS)
    assert flow.frames(0, 4).any()
    with pytest.raises(RecordingError, match=r"flow\.dcm: there is colour in frame 4 \(red, .* differ by 180"):
        flow.frames(3, 6)


def test_compressed_cines_are_read(tmp_path):
    path = write_cine(tmp_path / "c.dcm", PIXELS)
    plain = open_recording(path, **OPTIONS).frames(0, 6)
    packed = pydicom.dcmread(path)
    packed.compress(pydicom.uid.RLELossless)
    packed.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(open_recording(tmp_path / "rle.dcm", **OPTIONS).frames(0, 6), plain)


@pytest.mark.parametrize(
    ("changes", "rate_hz"),
    [
        ({"FrameTime": 20.0, "CineRate": 30}, 50.0),
        ({"FrameTime": None, "FrameTimeVector": [0, 4, 4, 4, 4, 4]}, 250.0),
        ({"FrameTime": None, "CineRate": 30}, 30.0),
        ({"FrameTime": None, "FrameTimeVector": [0, 4, 9, 4, 4, 4]}, None),
        ({"FrameTime": None, "RecommendedDisplayFrameRate": 30}, None),
    ],
)
def test_the_frame_rate_is_read_or_asked_for(tmp_path, changes, rate_hz):
    path = write_cine(tmp_path / "c.dcm", PIXELS, **changes)
    if rate_hz is None:
        with pytest.raises(RecordingError, match=r"^c\.dcm: frame rate missing, give CompoundSamplingFrequency"):
            open_recording(path, **OPTIONS)
    else:
        assert open_recording(path, **OPTIONS).geometry.frame_rate_hz == pytest.approx(rate_hz)


def test_one_of_several_regions_is_chosen(tmp_path):
    regions = [region(RegionSpatialFormat=3), region(0, 0, 4, 5), region(5, 1, 12, 8, PhysicalDeltaX=0.02)]
    path = write_cine(tmp_path / "dual.dcm", PIXELS, regions=regions)
    with pytest.raises(RecordingError, match=r"2 regions are 2D images of tissue; wanted one.*region_2, region_3"):
        open_recording(path, **OPTIONS)
    found = open_recording(path, variable="region_3", **OPTIONS)
    assert found.shape == (8, 1, 8, 6)
    assert found.geometry.voxel_size_m[0] == pytest.approx(0.2e-3)
    with pytest.raises(RecordingError, match="region_1 is a 2D image of tissue; wanted one of region_2, region_3"):
        open_recording(path, variable="region_1", **OPTIONS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": []}, "no ultrasound region is stated"),
        ({"regions": [region(RegionDataType=2)]}, "none of its ultrasound regions is a 2D image of tissue"),
        ({"regions": [region(PhysicalUnitsYDirection=4)]}, "in units 3 and 4; wanted positive steps in centimetres"),
        ({"regions": [region(PhysicalDeltaX=None)]}, "steps of 0 and 0.008"),
        ({"regions": [region(right=13)]}, "spans columns 3 to 13 and rows 2 to 6 of an image of 13 x 10"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "its pixels are MONOCHROME1, 8 bits"),
        ({"PixelRepresentation": 1}, "signed, 8 bits"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "of another class (Ultrasound Image Storage)"),
        ({"Rows": None}, "cannot be read as DICOM"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, changes, words):
    path = write_cine(tmp_path / "c.dcm", PIXELS, **changes)
    with pytest.raises(RecordingError) as caught:
        open_recording(path, **OPTIONS)
    assert words in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS.values())


def test_physics_is_never_guessed(tmp_path):
    path = write_cine(tmp_path / "c.dcm", PIXELS)
    without = {key: value for key, value in OPTIONS.items() if key != "dynamic_range_db"}
    with pytest.raises(RecordingError, match=r"c\.dcm: log-compressed, .*Give dynamic_range_db"):
        open_recording(path, **without)
    for wrong in (0.0, 6.0, 1000.0, True):
        with pytest.raises(RecordingError, match="wanted 10 to 200 dB"):
            open_recording(path, **without, dynamic_range_db=wrong)
    with pytest.raises(RecordingError, match=r"transmit frequency missing.*sound speed missing"):
        open_recording(path, dynamic_range_db=60.0)
    with pytest.raises(RecordingError, match="contradictory frame rate"):
        open_recording(path, **OPTIONS, frame_rate_hz=41.0)
    path.with_suffix(".json").write_text(
        json.dumps({"UltrasoundTransmitFrequency": 5e6, "BeamformingSoundVelocity": 1500})
    )
    assert open_recording(path, dynamic_range_db=60.0).geometry.wavelength_m == pytest.approx(0.3e-3)


def test_damage_is_one_line(tmp_path):
    whole = write_cine(tmp_path / "c.dcm", PIXELS).read_bytes()
    for name, content in (("short", whole[:-300]), ("text", b"not DICOM at all" * 20)):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        with pytest.raises(RecordingError) as caught:
            open_recording(path, **OPTIONS).frames(0, 6)
        assert str(caught.value).startswith(f"{name}.dcm: cannot be read as DICOM")
        assert "\n" not in str(caught.value)


def volume_places(*, step_mm=0.2, n_planes=4, n_times=3, period_s=0.05):
    """Planes against the volume's third axis, time by time."""
    return [((1.0, 2.0, 5.0 - step_mm * y), period_s * t, B) for t in range(n_times) for y in range(n_planes)]


def test_a_volume_lies_where_its_functional_groups_say(tmp_path):
    pixels = random_pixels(12, 5, 7, dtype=np.uint16)
    order = np.random.default_rng(4).permutation(12)  # frames may be stored in any order
    places = [volume_places()[i] for i in order]
    found = open_recording(write_volume(tmp_path / "v.dcm", pixels[order], places), **OPTIONS)
    assert (found.shape, found.content) == ((7, 4, 5, 3), "envelope")
    grey = pixels.reshape(3, 4, 5, 7).transpose(3, 1, 2, 0)
    np.testing.assert_allclose(found.frames(1, 3), decoded(grey[..., 1:], white=65535), rtol=1e-5)
    assert found.geometry.frame_rate_hz == pytest.approx(20.0)
    # Voxel (6, 3, 4): 6 columns of 0.12 mm, 3 planes of 0.2 mm, 4 rows of 0.08 mm.
    there = found.geometry.to_scanner_m(np.array([[6.0, 3.0, 4.0]]))[0]
    assert there == pytest.approx([1.0e-3 + 6 * 0.12e-3, 2.0e-3 + 4 * 0.08e-3, 5.0e-3 - 3 * 0.2e-3])
    assert np.linalg.det(found.geometry.matrix_m[:3, :3]) > 0


def test_planes_stored_the_other_way_round_give_the_same_volume(tmp_path):
    pixels = random_pixels(4, 5, 7)
    places = volume_places(n_times=1)
    one = open_recording(write_volume(tmp_path / "a.dcm", pixels, places), **OPTIONS, frame_rate_hz=20.0)
    two = open_recording(write_volume(tmp_path / "b.dcm", pixels[::-1], places[::-1]), **OPTIONS, frame_rate_hz=20.0)
    np.testing.assert_array_equal(one.frames(0, 1), two.frames(0, 1))
    np.testing.assert_allclose(one.geometry.matrix_m, two.geometry.matrix_m)


def test_other_kinds_of_frames_are_left_out(tmp_path):
    pixels = random_pixels(24, 5, 7)
    places = [(c, t, kind) for c, t, _ in volume_places() for kind in (B, "TISSUE_VELOCITY")]
    found = open_recording(write_volume(tmp_path / "v.dcm", pixels, places), **OPTIONS)
    np.testing.assert_allclose(found.frames(0, 1)[..., 0].real, decoded(pixels[0:8:2].transpose(2, 0, 1)), rtol=1e-6)
    assert "TISSUE_VELOCITY are left out" in " ".join(found.details["notes"])


@pytest.mark.parametrize(
    ("places", "changes", "words"),
    [
        (volume_places()[:-1], {}, "do not make volumes of the same planes"),
        (volume_places(period_s=0.0), {}, "12 frames at 1 times do not make volumes"),
        ([(c, t, "FLOW_POWER") for c, t, _ in volume_places()], {}, "holds FLOW_POWER; wanted TISSUE_INTENSITY"),
        (volume_places(), {"BurnedInAnnotation": "YES"}, "text is burned in, and nothing says where"),
        (volume_places(), {"orientation": (1, 0, 0, 0, 0, 1)}, "rows run along [0.0, 0.0, 1.0] of the volume"),
        ([((0, 0, z), 0.0, B) for z in (0.0, 0.2, 0.5)], {}, "planes are not equally spaced"),
    ],
)
def test_volumes_that_make_no_grid_are_refused(tmp_path, places, changes, words):
    path = write_volume(tmp_path / "v.dcm", random_pixels(len(places), 5, 7), places, **changes)
    with pytest.raises(RecordingError) as caught:
        open_recording(path, **OPTIONS)
    assert words in str(caught.value)


def test_no_secret_is_in_memory(tmp_path):
    for path in (
        write_cine(tmp_path / "c.dcm", PIXELS),
        write_volume(tmp_path / "v.dcm", random_pixels(12, 5, 7), volume_places()),
    ):
        raw = path.read_bytes()
        assert all(secret.encode() in raw for secret in SECRETS.values())
        shown = repr(open_recording(path, **OPTIONS).__dict__)
        assert not any(secret in shown for secret in SECRETS.values())


def test_a_filtered_envelope_has_no_bright_shadows(tmp_path):
    found = open_recording(write_cine(tmp_path / "c.dcm", PIXELS), **OPTIONS)
    kept = filtered(found, ClutterFilter(n_tissue_components=1)).frames(0, 6)
    iq = Acquisition(**{**found.__dict__, "content": "iq"})
    signed = filtered(iq, ClutterFilter(n_tissue_components=1)).frames(0, 6).real
    assert (signed < -0.01).any()
    np.testing.assert_array_equal(kept, np.maximum(signed, 0.0))


def test_validate_reports_an_envelope(tmp_path, capsys):
    path = write_cine(tmp_path / "c.dcm", PIXELS)
    given = ["--transmit_frequency_hz", "7e6", "--sound_speed_m_s", "1540", "--dynamic_range_db", "60", "--json"]
    assert validate([str(path), *given]) == 0
    [report] = json.loads(capsys.readouterr().out)
    assert report["content"] == "envelope"
    assert any("linear in decibels" in warning for warning in report["warnings"])
    assert any("burned in" in warning for warning in report["warnings"])
    assert validate([str(path), *given[:4]]) == 1
    assert "Give dynamic_range_db" in capsys.readouterr().err


def test_nothing_is_saved_as_dicom(tmp_path):
    found = open_recording(write_cine(tmp_path / "c.dcm", PIXELS), **OPTIONS)
    with pytest.raises(RecordingError, match="this format is only read"):
        save_recording(tmp_path / "other.dcm", found.frames(0, 2), found.geometry)
