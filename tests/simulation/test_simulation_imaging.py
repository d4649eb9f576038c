"""Imaging: a bubble's place, width and carrier by hand on unequal voxels; superposition and translation."""

import numpy as np
import pytest
from simulation_cases import make_geometry, one_bubble

from sparse_ulm.simulation.imaging import (
    FWHM_PER_SIGMA,
    GaussianPsf,
    Psf,
    TabulatedPsf,
    carrier_phasor,
    nominal_carrier_rad_m,
    psf_volume_m3,
    remove_carrier,
    render,
)
from sparse_ulm.simulation.tracks import Tracks, join_tracks

FWHM_M = np.array([200e-6, 230e-6, 110e-6])
CARRIER_RAD_M = np.array([3e3, -4e3, 20e3])
SHAPE = (25, 27, 31)
BUBBLE_VOXEL = [11.3, 13.8, 15.45]


def gaussian(tilt: tuple[float, float] = (0.0, 0.0)) -> GaussianPsf:
    return GaussianPsf(FWHM_M, np.array(tilt), CARRIER_RAD_M)


def tabulated() -> TabulatedPsf:
    """The same Gaussian as a table, fine enough for linear interpolation."""
    step = np.array([12e-6, 14e-6, 6e-6])
    axes = [np.arange(-n, n + 1) * d for n, d in zip((26, 26, 26), step, strict=True)]
    lines = [np.exp(-0.5 * (a / f * FWHM_PER_SIGMA) ** 2) for a, f in zip(axes, FWHM_M, strict=True)]
    return TabulatedPsf(FWHM_M, CARRIER_RAD_M, np.einsum("x,y,z->xyz", *lines).astype(np.complex64), step)


KERNELS = pytest.mark.parametrize("psf", [gaussian(), tabulated()], ids=["gaussian", "table"])


@KERNELS
def test_centroid_is_the_bubble_on_each_axis(psf: Psf) -> None:
    image = np.abs(render(one_bubble(make_geometry(), BUBBLE_VOXEL), psf, SHAPE, 1, make_geometry())[..., 0])
    for axis, n in enumerate(SHAPE):
        profile = image.sum(axis=tuple(a for a in range(3) if a != axis))
        assert (profile * np.arange(n)).sum() / profile.sum() == pytest.approx(BUBBLE_VOXEL[axis], abs=0.01)


@KERNELS
def test_width_at_half_maximum_is_as_asked(psf: Psf) -> None:
    geometry = make_geometry((10e-6, 12e-6, 8e-6))
    image = np.abs(render(one_bubble(geometry, [30, 30, 30]), psf, (61, 61, 61), 1, geometry)[..., 0])
    assert image.max() == pytest.approx(1.0, abs=1e-3)
    for axis in range(3):
        line = image[tuple(slice(None) if a == axis else 30 for a in range(3))]
        above = np.interp(0.5, line[30::-1][::-1], np.arange(31))  # rising half
        assert 2 * (30 - above) * geometry.voxel_size_m[axis] == pytest.approx(FWHM_M[axis], rel=0.02)


@KERNELS
def test_carrier_slope_is_as_asked(psf: Psf) -> None:
    geometry = make_geometry()
    image = render(one_bubble(geometry, BUBBLE_VOXEL, phase_rad=0.4), psf, SHAPE, 1, geometry)[..., 0]
    for axis in range(3):
        ahead = np.take(image, range(1, SHAPE[axis]), axis)
        step = np.angle((ahead * np.take(image, range(SHAPE[axis] - 1), axis).conj()).sum())
        assert step == pytest.approx(CARRIER_RAD_M[axis] * geometry.voxel_size_m[axis], abs=1e-3)


def test_phase_at_the_bubble_is_its_own() -> None:
    geometry = make_geometry()
    image = render(one_bubble(geometry, [12, 13, 15], 2.5, phase_rad=0.4), gaussian(), SHAPE, 1, geometry)
    assert image[12, 13, 15, 0] == pytest.approx(2.5 * np.exp(0.4j), abs=1e-6)


@KERNELS
def test_echoes_add(psf: Psf) -> None:
    """Superposition: any two sets of bubbles image as the sum of their images, weighted by amplitude."""
    geometry, rng = make_geometry(), np.random.default_rng(4)
    both = _random_tracks(geometry, rng, 12)
    parts = [_rows(both, slice(0, 5)), _rows(both, slice(5, 12))]
    together = render(both, psf, SHAPE, 3, geometry)
    np.testing.assert_allclose(together, sum(render(p, psf, SHAPE, 3, geometry) for p in parts), atol=3e-6)
    louder = Tracks(both.track_id, both.frame, both.position_m, 3 * both.amplitude, both.phase_rad)
    np.testing.assert_allclose(render(louder, psf, SHAPE, 3, geometry), 3 * together, atol=1e-5)


def _random_tracks(geometry, rng: np.random.Generator, n: int) -> Tracks:
    position = geometry.to_scanner_m(rng.uniform(-2, 1, size=(n, 3)) + rng.uniform(0, 1, size=(n, 3)) * SHAPE)
    return Tracks(np.arange(n), rng.integers(3, size=n), position, rng.uniform(0.5, 2, n), rng.uniform(-3, 3, n))


def _rows(tracks: Tracks, rows: slice) -> Tracks:
    return Tracks(
        tracks.track_id[rows],
        tracks.frame[rows],
        tracks.position_m[rows],
        tracks.amplitude[rows],
        tracks.phase_rad[rows],
    )


@pytest.mark.parametrize("psf", [gaussian((0.15, -0.1)), tabulated()], ids=["tilted", "table"])
def test_moving_a_bubble_by_whole_voxels_moves_its_image(psf: Psf) -> None:
    geometry = make_geometry()
    image = render(one_bubble(geometry, BUBBLE_VOXEL), psf, SHAPE, 1, geometry)
    moved = render(one_bubble(geometry, [12.3, 11.8, 18.45]), psf, SHAPE, 1, geometry)
    np.testing.assert_allclose(moved[2:, :24, 4:], image[1:-1, 2:26, 1:-3], atol=2e-5)


def test_tilt_moves_the_ridge_axially() -> None:
    geometry = make_geometry()
    image = np.abs(render(one_bubble(geometry, [12, 13, 15]), gaussian((0.15, -0.1)), SHAPE, 1, geometry)[..., 0])
    z = np.arange(SHAPE[2]) * 35e-6
    ridge = [(image[12 + dx, 13 + dy] * z).sum() / image[12 + dx, 13 + dy].sum() for dx, dy in [(0, 0), (2, 0), (0, 2)]]
    assert ridge[1] - ridge[0] == pytest.approx(0.15 * 2 * 50e-6, rel=0.01)
    assert ridge[2] - ridge[0] == pytest.approx(-0.1 * 2 * 60e-6, rel=0.01)


def test_bubbles_outside_of_the_grid_show_at_its_edge_only() -> None:
    geometry = make_geometry()
    image = np.abs(render(one_bubble(geometry, [-1.5, 13, 15]), gaussian(), SHAPE, 1, geometry)[..., 0])
    assert image[0, 13, 15] == pytest.approx(np.exp(-0.5 * (75e-6 / 200e-6 * FWHM_PER_SIGMA) ** 2), rel=1e-4)
    assert not render(one_bubble(geometry, [-40, 13, 15]), gaussian(), SHAPE, 1, geometry).any()
    assert not render(join_tracks([], []), gaussian(), (5, 6, 7), 8, geometry).any()


def test_a_2d_grid_is_one_voxel_thick() -> None:
    geometry = make_geometry()
    image = render(one_bubble(geometry, [6, 0, 7]), gaussian(), (13, 1, 15), 1, geometry)
    assert image.shape == (13, 1, 15, 1)
    assert image[6, 0, 7, 0] == pytest.approx(1.0)


def test_removing_the_nominal_carrier_stops_the_phase() -> None:
    geometry = make_geometry()
    psf = GaussianPsf(FWHM_M, np.zeros(2), nominal_carrier_rad_m(geometry))
    image = render(one_bubble(geometry, BUBBLE_VOXEL), psf, SHAPE, 1, geometry)
    still = remove_carrier(image, geometry)
    np.testing.assert_allclose(np.abs(still), np.abs(image), atol=1e-6)
    phase = np.angle(still[np.abs(still) > 0.05])
    assert np.ptp(phase) < 1e-3
    assert nominal_carrier_rad_m(geometry)[2] == pytest.approx(0.8 * 4 * np.pi / 100e-6)


def test_carrier_phasor_by_hand() -> None:
    phasor = carrier_phasor(np.array([1.0, 2.0, 3.0]), (2, 3, 4), (0.1, 0.2, 0.3))
    assert phasor[1, 2, 3] == pytest.approx(np.exp(1j * (0.1 + 0.8 + 2.7)), abs=1e-6)


def test_psf_volume_by_hand() -> None:
    assert psf_volume_m3(gaussian(), 3) * 1e18 == pytest.approx(np.pi / 6 * 200 * 230 * 110)
    assert psf_volume_m3(gaussian(), 2) * 1e12 == pytest.approx(np.pi / 4 * 200 * 110)
