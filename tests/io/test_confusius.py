"""ConfUSIus Zarr: a folder that ConfUSIus wrote (tests/io/data), and its layouts by hand for what that one lacks."""

import multiprocessing
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import find_recordings, open_recording
from sparse_ulm.validate import main as validate

WRITTEN = Path(__file__).parent / "data" / "confusius_0_8_0.zarr"
N_FRAMES, NX, NY, NZ = 6, 5, 4, 7
ATTRIBUTES = {
    "transmit_frequency": 8e6,
    "compound_sampling_frequency": 500.0,
    "beamforming_sound_velocity": 1540.0,
    "voxel_to_world": np.diag([0.3, 0.1, 0.2, 1.0]).tolist(),
    "voxel_to_world_units": "mm",
}


def samples() -> np.ndarray:
    """What make_confusius_file.py wrote, (x, y, z, t)."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(NX, NY, NZ, N_FRAMES, 2)).astype(np.float32).view(np.complex64)[..., 0]


def test_a_volume_that_confusius_wrote() -> None:
    acquisition = open_recording(WRITTEN)
    assert acquisition.shape == (NX, NY, NZ, N_FRAMES)
    assert acquisition.name == "confusius_0_8_0"
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), samples())
    np.testing.assert_array_equal(acquisition.frames(3, 5), samples()[..., 3:5])  # across two chunks
    geometry = acquisition.geometry
    np.testing.assert_allclose(geometry.voxel_size_m, (0.2e-3, 0.3e-3, 0.1e-3), rtol=1e-9)
    assert (geometry.frame_rate_hz, geometry.transmit_frequency_hz, geometry.sound_speed_m_s) == (500.0, 15.625e6, 1540)


def test_positions_are_those_of_confusius() -> None:
    """World (z, y, x) of labels (k, j, i) as its guide defines it, by hand: origin + direction · spacing · label."""
    i, k, j = 4, 2, 6
    c, s = np.cos(0.3), np.sin(0.3)
    world_z, world_y, world_x = 0.5 + c * 0.3 * k - s * 0.2 * i, 5.0 + 0.1 * j, -1.0 + s * 0.3 * k + c * 0.2 * i
    found_m = open_recording(WRITTEN).geometry.to_scanner_m(np.array([[i, k, j]], float))
    np.testing.assert_allclose(found_m[0], np.array([world_x, world_y, world_z]) * 1e-3, rtol=1e-9)


def write(
    path: Path, *, version: int = 3, data: np.ndarray | None = None, dims: str = "time k j i", **changes: Any
) -> Path:
    """Write a folder as ConfUSIus lays it out; attributes that are None are left out."""
    data = samples().transpose(3, 1, 2, 0) if data is None else data
    coordinates = changes.pop("coordinates", {"time": (np.arange(len(data)) / 500, {"units": "s"})})
    layout = {name: changes.pop(name) for name in ("chunks", "shards", "compressors") if name in changes}
    group = zarr.open_group(path, mode="w", zarr_format=version)
    chunks = {"chunks": (4, *data.shape[1:])} | layout
    array = create(group, "iq", data, dims.split(), version, **chunks)
    array.attrs.update({k: v for k, v in (ATTRIBUTES | changes).items() if v is not None})
    for name, (values, attributes) in coordinates.items():
        create(group, name, np.asarray(values), [name], version).attrs.update(attributes)
    return path


def create(group: zarr.Group, name: str, data: np.ndarray, dims: list[str], version: int, **layout: Any) -> zarr.Array:
    """Name the axes as Zarr v3 does, or as xarray does in v2."""
    named = {"dimension_names": dims} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": dims}}
    return group.create_array(name, data=data, **named, **layout)


def world_coordinates() -> dict[str, Any]:
    """Of the layout before 0.8: one array per axis, in mm."""
    return {
        "time": (np.arange(N_FRAMES) / 500, {"units": "s"}),
        "z": (0.5 + 0.3 * np.arange(NY), {"units": "mm", "voxdim": 0.3}),
        "y": (5.0 + 0.1 * np.arange(NZ), {"units": "mm", "voxdim": 0.1}),
        "x": (-1.0 + 0.2 * np.arange(NX), {"units": "mm", "voxdim": 0.2}),
    }


@pytest.mark.parametrize("version", [2, 3])
def test_the_layout_before_0_8(tmp_path: Path, version: int) -> None:
    path = write(
        tmp_path / "a.zarr",
        version=version,
        dims="time z y x",
        coordinates=world_coordinates(),
        voxel_to_world=None,
        voxel_to_world_units=None,
    )
    acquisition = open_recording(path)
    assert acquisition.details["format"] == f"ConfUSIus Zarr v{version}"
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), samples())
    wanted = np.array([[0.2, 0, 0, -1], [0, 0, 0.1, 5], [0, 0.3, 0, 0.5]]) * 1e-3
    np.testing.assert_allclose(acquisition.geometry.matrix_m[:3], wanted, atol=1e-12)


def test_a_plane_of_known_and_of_unknown_thickness(tmp_path: Path) -> None:
    plane, coordinates = samples()[:, 1:2].transpose(3, 1, 2, 0), world_coordinates()
    for voxdim, thickness in ((0.45, 0.45e-3), (None, 0.2e-3)):
        coordinates["z"] = ([0.5], {"units": "mm", "voxdim": voxdim})
        path = write(
            tmp_path / f"{voxdim}.zarr", data=plane, dims="time z y x", coordinates=coordinates, voxel_to_world=None
        )
        acquisition = open_recording(path)
        np.testing.assert_array_equal(acquisition.frames(0, 2), samples()[:, 1:2, :, :2])
        np.testing.assert_allclose(acquisition.geometry.voxel_size_m, (0.2e-3, thickness, 0.1e-3), rtol=1e-9)


def test_labels_of_a_part_that_was_cut_out(tmp_path: Path) -> None:
    """`iq.isel(i=slice(3, None, 2))` keeps the labels 3, 5, …, which voxel_to_world starts from."""
    coordinates = {"i": (3 + 2 * np.arange(NX), {}), "k": (np.arange(NY), {}), "j": (10 + np.arange(NZ), {})}
    matrix = open_recording(write(tmp_path / "a.zarr", coordinates=coordinates)).geometry.matrix_m
    np.testing.assert_allclose(matrix[:3, 3], (0.6e-3, 1e-3, 0), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 0], (0.4e-3, 0, 0), atol=1e-12)


def test_lengths_in_other_units(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", voxel_to_world=np.diag([300.0, 100, 200, 1]).tolist(), voxel_to_world_units="um")
    np.testing.assert_allclose(open_recording(path).geometry.voxel_size_m, (0.2e-3, 0.3e-3, 0.1e-3), rtol=1e-9)


LAYOUTS = {
    "packed": {},
    "plain": {"compressors": None},
    "shards": {"chunks": (2, NY, NZ, NX), "shards": (4, NY, NZ, NX)},
    "shards along two axes": {"chunks": (2, NY, NZ, 1), "shards": (4, NY, NZ, 4)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_chunk_is_never_read_as_zeros(tmp_path: Path, layout: str) -> None:
    path = write(tmp_path / "a.zarr", **LAYOUTS[layout])
    np.testing.assert_array_equal(open_recording(path).frames(0, N_FRAMES), samples())
    files = sorted(file for file in (path / "iq" / "c").rglob("*") if file.is_file())
    for file in files:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(RecordingError, match=rf"1 of {len(files)} chunks of iq are missing, which Zarr would read"):
            open_recording(path)
        file.write_bytes(content)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_truncated_chunk_is_refused_in_one_line(tmp_path: Path, layout: str, share: float) -> None:
    path = write(tmp_path / "a.zarr", **LAYOUTS[layout])
    file = sorted(file for file in (path / "iq" / "c").rglob("*") if file.is_file())[-1]
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(RecordingError, match=r"a\.zarr: cannot be read as ConfUSIus Zarr") as error:
        open_recording(path).frames(0, N_FRAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["zarr.json", "iq/zarr.json", "time/zarr.json"])
def test_truncated_metadata_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.zarr")
    (path / name).write_text((path / name).read_text()[:40])
    with pytest.raises(RecordingError, match=r"a\.zarr: cannot be read as ConfUSIus Zarr") as error:
        open_recording(path)
    assert "\n" not in str(error.value)


def test_what_the_folder_does_not_say_is_asked_for(tmp_path: Path) -> None:
    """Stamps 0, 1, 2, … are counted frames: ConfUSIus labels them as seconds where nobody gave a rate."""
    absent = dict.fromkeys(ATTRIBUTES)
    path = write(tmp_path / "a.zarr", coordinates={"time": (np.arange(6.0), {"units": "s"})}, **absent)
    with pytest.raises(RecordingError, match="voxel size missing") as error:
        open_recording(path)
    assert str(error.value).count("missing") == 4
    options = {"frame_rate_hz": 500.0, "transmit_frequency_hz": 8e6, "sound_speed_m_s": 1540.0}
    open_recording(path, voxel_size_mm=(0.2, 0.3, 0.1), **options)


def test_time_stamps_state_a_rate_and_may_contradict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", compound_sampling_frequency=None)
    assert open_recording(path).geometry.frame_rate_hz == pytest.approx(500.0, rel=1e-9)
    path = write(tmp_path / "b.zarr", compound_sampling_frequency=400.0)
    with pytest.raises(RecordingError, match=r"contradictory frame rate, 400 Hz in attributes .* but 500 Hz in time"):
        open_recording(path)


def test_gaps_between_blocks_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = np.arange(6) / 500 + np.array([0, 0, 0, 1, 1, 1])
    write(tmp_path / "a.zarr", coordinates={"time": (stamps, {"units": "s"})})
    assert validate([str(tmp_path / "a.zarr")]) == 0
    assert "time stamps are 0.002 to 1 s apart: tracks must not cross the gaps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": "time pose j i"}, r"iq has axes \['time', 'pose', 'j', 'i'\] .* Save one recording of one pose"),
        ({"data": samples().real.transpose(3, 1, 2, 0)}, "no complex array of rank 3 or 4|real-valued"),
        ({"voxel_to_world_units": "inch"}, "voxel_to_world_units is 'inch'; wanted one of mm, m, um"),
        ({"voxel_to_world_units": None}, "voxel_to_world_units is None"),
        ({"voxel_to_world": [[1, 2], [3, 4]]}, "wanted an invertible 4x4 matrix"),
        ({"voxel_to_world": np.zeros((4, 4)).tolist()}, "wanted an invertible 4x4 matrix"),
        ({"coordinates": {"i": ([0, 1, 2, 4, 8], {})}}, "its coordinates i are not even; wanted 5 numbers"),
        ({"coordinates": {"k": ([3, 3, 3, 3], {})}}, "its coordinates k are all equal"),
        ({"transmit_frequency": "8 MHz"}, r"attributes of a\.zarr: transmit_frequency is '8 MHz'; wanted one positive"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordingError, match=message) as error:
        open_recording(write(tmp_path / "a.zarr", **changes))
    assert "\n" not in str(error.value)


def test_another_variable_is_chosen_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr")
    shutil.move(path / "iq", path / "first")
    assert open_recording(path).details["variable"] == "first"
    shutil.copytree(path / "first", path / "second")
    with pytest.raises(RecordingError, match="several recordings, first, second; set variable to one of them"):
        open_recording(path)
    assert open_recording(path, variable="second").details["variable"] == "second"


def test_a_folder_is_one_recording(tmp_path: Path) -> None:
    write(tmp_path / "b.zarr")
    np.save(tmp_path / "a.npy", samples())
    (tmp_path / "notes").mkdir()
    assert [path.name for path in find_recordings(tmp_path)] == ["a.npy", "b.zarr"]
    assert find_recordings(f"{tmp_path}/b.zarr/") == [tmp_path / "b.zarr"]


def test_other_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "a.txt").write_text("x")
    (tmp_path / "file.zarr").write_text("x")
    for name, message in (
        ("empty", "is an empty folder; wanted a recording"),
        ("other", "holds no Zarr group; wanted a folder that ConfUSIus or xarray wrote"),
        ("file", "is no folder; wanted one, as Zarr recordings are"),
    ):
        with pytest.raises(RecordingError, match=f"{name}.zarr: {message}"):
            open_recording(tmp_path / f"{name}.zarr")


def test_zarr_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(RecordingError, match=re.escape('pip install "sparse-ulm[zarr]"')):
        open_recording(WRITTEN)


def _sum_of_frames(start: int) -> complex:
    return complex(open_recording(WRITTEN).frames(start, start + 1).sum())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_forked_workers_read_after_their_parent() -> None:
    """zarr runs a thread of its own, which a forked data-loading worker does not inherit."""
    wanted = [_sum_of_frames(start) for start in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_sum_of_frames, range(4)).get(timeout=30) == wanted
