"""Maps as lists of voxels: volume, slabs, projections and files agree with the dense ones."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io import save_map
from sparse_ulm.io.nifti import save_sparse_map
from sparse_ulm.mapping import sparse_map
from sparse_ulm.mapping.sparse_map import SparseMap

SHAPE = (7, 5, 11)
GRID = Geometry.from_voxel_size(
    (0.05e-3, 0.08e-3, 0.1e-3), (-1.0e-3, -2.0e-3, 3.0e-3), frame_rate_hz=1000.0, transmit_frequency_hz=15e6,
    sound_speed_m_s=1540.0,
)  # fmt: skip


def some(*, n: int = 40, n_components: int | None = None, elsewhere: float = 0.0, seed: int = 0) -> SparseMap:
    rng = np.random.default_rng(seed)
    key = np.sort(rng.choice(int(np.prod(SHAPE)), size=n, replace=False)).astype(np.int64)
    size = n if n_components is None else (n, n_components)
    return SparseMap(SHAPE, key, rng.normal(size=size).astype(np.float32), elsewhere)


def by_loop(found: SparseMap) -> np.ndarray:
    volume = np.full((*SHAPE, *found.values.shape[1:]), found.elsewhere, dtype=np.float32)
    for key, value in zip(found.key, found.values, strict=True):
        volume[key // 55, key // 11 % 5, key % 11] = value
    return volume


@pytest.mark.parametrize("elsewhere", [0.0, np.nan])
@pytest.mark.parametrize("n_components", [None, 3])
def test_the_volume(n_components: int | None, elsewhere: float) -> None:
    found = some(n_components=n_components, elsewhere=elsewhere)
    np.testing.assert_array_equal(found.dense(), by_loop(found))
    if n_components is None and elsewhere == 0.0:
        np.testing.assert_array_equal(SparseMap.of(found.dense()).key, found.key)


@pytest.mark.parametrize("n_bytes", [1, 3 * 4 * 35, 1 << 25])
@pytest.mark.parametrize("component", [None, 2])
def test_slabs_of_any_depth_are_the_volume(
    monkeypatch: pytest.MonkeyPatch, n_bytes: int, component: int | None
) -> None:
    monkeypatch.setattr(sparse_map, "SLAB_BYTES", n_bytes)
    found = some(n_components=None if component is None else 3, elsewhere=np.nan)
    slabs = list(found.slabs(component))
    assert len(slabs) == {1: 11, 420: 4, 1 << 25: 1}[n_bytes]
    wanted = by_loop(found) if component is None else by_loop(found)[..., component]
    np.testing.assert_array_equal(np.concatenate(slabs, axis=2), wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_projections_are_the_largest_values(axis: int) -> None:
    found = some()
    np.testing.assert_array_equal(found.project(axis), by_loop(found).max(axis=axis, initial=0.0))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_are_those_of_dense_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(sparse_map, "SLAB_BYTES", 3 * 4 * 35)
    found = some(elsewhere=np.nan)
    save_sparse_map(tmp_path / f"a{suffix}", found, GRID, description="what it is")
    save_map(tmp_path / f"b{suffix}", by_loop(found), GRID, description="what it is")
    one, two = (nibabel.load(tmp_path / f"{stem}{suffix}") for stem in "ab")
    assert one.header.binaryblock == two.header.binaryblock
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    if suffix == ".nii":
        assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


def test_vectors_are_an_axis_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_map, "SLAB_BYTES", 3 * 4 * 35)
    found = some(n_components=3, elsewhere=np.nan)
    save_sparse_map(tmp_path / "a.nii", found, GRID, vector_name="velocity mm/s")
    image = nibabel.load(tmp_path / "a.nii")
    assert image.header.get_intent() == ("vector", (), "velocity mm/s")
    np.testing.assert_array_equal(np.asarray(image.dataobj), by_loop(found)[:, :, :, None])
    np.testing.assert_allclose(image.affine, GRID.affine_mm, rtol=1e-6)


def test_equal_maps_are_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sparse_map(tmp_path / "a.nii.gz", some(), GRID)
    monkeypatch.setattr("time.time", lambda: 2.0e9)
    save_sparse_map(tmp_path / "b.nii.gz", some(), GRID)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_map_of_nothing_and_one_of_a_plane(tmp_path: Path) -> None:
    none = SparseMap((3, 1, 4), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    save_sparse_map(tmp_path / "a.nii", none, GRID)
    assert not np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).any()
    assert not none.project(1).any()
