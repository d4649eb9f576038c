"""Kernels of other simulators, and receive rows that are missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparse_ulm.simulation import (
    ParameterRanges,
    SimulationError,
    draw_parameters,
    draw_synthetic_tree,
    simulate_recording,
)
from sparse_ulm.simulation.imaging import TabulatedPsf
from sparse_ulm.simulation.kernels import KernelTables, centre_on_main_lobe, make_psf

STEP = np.array([0.25, 0.2, 0.1])
SHAPE = (9, 11, 13)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two Gaussians of 1 and 2 half widths, shifted along x by less than a step, with some phase along x."""
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(SHAPE, STEP, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    envelope = np.stack([np.exp(-(((x - 0.15) / w) ** 2 + (y / w) ** 2 + (z / w) ** 2)) for w in (1.0, 2.0)])
    path = tmp_path / "kernels.npz"
    np.savez(
        path,
        envelope=(envelope * np.exp(0.8j * x)).astype(np.complex64),
        step_wavelengths=STEP,
        fwhm_wavelengths=np.array([[1.6, 1.7, 1.8], [3.2, 3.4, 3.6]]),
        carrier_over_2k0=np.array([[0.1, 0.0, 0.8], [0.0, 0.05, 0.7]]),
    )
    return path


def drawn(path: Path, seed: int = 0, **changes: object) -> object:
    ranges = ParameterRanges(
        grid_size=(7, 8, 9), n_frames=5, side_lobe_share=0.0, psf_table_share=1.0, psf_tables=str(path)
    )
    return replace(draw_parameters(np.random.default_rng(seed), ranges), **changes)


def test_a_table_is_scaled_by_the_wavelength(tables: Path) -> None:
    psf = KernelTables(tables).psf(1, wavelength_m=2e-4, spatial_dims=3)
    np.testing.assert_allclose(psf.step_m, STEP * 2e-4)
    np.testing.assert_allclose(psf.fwhm_m, [6.4e-4, 6.8e-4, 7.2e-4])
    np.testing.assert_allclose(psf.carrier_rad_m, np.array([0.0, 0.05, 0.7]) * 4 * np.pi / 2e-4)
    assert psf.envelope.shape == SHAPE
    assert KernelTables(tables).psf(0, wavelength_m=1e-4, spatial_dims=2).envelope.shape == (9, 3, 13)


def test_the_draw_chooses_the_table_and_mirrors_it(tables: Path) -> None:
    first = make_psf(drawn(tables, psf_table=0.49, psf_mirrored=(False, False)))
    second = make_psf(drawn(tables, psf_table=0.5, psf_mirrored=(False, False)))
    turned = make_psf(drawn(tables, psf_table=0.49, psf_mirrored=(True, False)))
    assert second.fwhm_m[0] == pytest.approx(2 * first.fwhm_m[0])
    np.testing.assert_allclose(turned.carrier_rad_m, first.carrier_rad_m * [-1, 1, 1])
    np.testing.assert_allclose(turned.envelope, first.envelope[::-1], atol=1e-6)
    ahead = tuple(n // 2 + (axis == 0) for axis, n in enumerate(SHAPE))
    assert np.angle(first.envelope[ahead]) == pytest.approx(0.8 * STEP[0], abs=0.01)
    assert np.angle(turned.envelope[ahead]) == pytest.approx(-0.8 * STEP[0], abs=0.01)


def test_the_main_lobe_lies_at_the_bubble() -> None:
    shape, step, centre = (21, 19, 33), np.array([0.2, 0.25, 0.1]), np.array([0.23, -0.17, 0.14])
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(shape, step, strict=True)]
    x, y, z = np.meshgrid(*(a - c for a, c in zip(axes, centre, strict=True)), indexing="ij")
    lobe = np.exp(-(x**2 + y**2 / 0.8 + (z - 0.2 * x) ** 2 / 0.25)) * np.exp(1j * (0.4 + 0.3 * x))
    side = 0.4 * np.exp(-((x + 1.6) ** 2 + y**2 + z**2) / 0.1)  # lower than the main lobe, and away from it
    psf = TabulatedPsf(np.ones(3), np.zeros(3), (lobe + side).astype(np.complex64), step)
    moved = centre_on_main_lobe(psf)
    middle = tuple(n // 2 for n in shape)
    assert moved.envelope[middle] == pytest.approx(1.0)
    magnitude = np.abs(moved.envelope)
    for axis in range(3):
        line = np.log(
            np.take(magnitude, range(middle[axis] - 1, middle[axis] + 2), axis)[
                tuple(middle[a] if a != axis else slice(None) for a in range(3))
            ]
        )
        offset = 0.5 * (line[0] - line[2]) / (line[0] - 2 * line[1] + line[2])
        assert abs(offset * step[axis]) < 0.01
    # What lay at the summit is in the middle, and its surroundings came along: the side lobe too.
    beside = (middle[0] + 5, middle[1], middle[2])
    assert magnitude[beside] == pytest.approx(np.exp(-1.0 - 0.04 / 0.25), rel=0.03)
    again = centre_on_main_lobe(moved)
    np.testing.assert_allclose(again.envelope[5:-5, 5:-5, 5:-5], moved.envelope[5:-5, 5:-5, 5:-5], atol=0.02)


def test_every_kernel_that_is_drawn_is_centred() -> None:
    ranges = ParameterRanges(side_lobe_share=1.0)
    for seed in range(4):
        parameters = draw_parameters(np.random.default_rng(seed), ranges)
        magnitude = np.abs(make_psf(parameters).envelope)
        middle = tuple(n // 2 for n in magnitude.shape)
        near = magnitude[tuple(slice(m - 2, m + 3) for m in middle)]
        assert near.max() <= magnitude[middle] * (1 + 1e-3)


def test_shares_of_the_kinds(tables: Path) -> None:
    ranges = ParameterRanges(side_lobe_share=0.3, psf_table_share=0.5, psf_tables=str(tables))
    kinds = [draw_parameters(np.random.default_rng(seed), ranges).kernel for seed in range(400)]
    counts = [kinds.count(kind) / 400 for kind in ("side_lobes", "table", "gaussian")]
    assert counts == pytest.approx([0.3, 0.5, 0.2], abs=0.08)


def test_a_recording_of_a_table_is_that_table(tables: Path) -> None:
    parameters = drawn(tables, psf_table=0.9, snr_db=300.0)
    rng = np.random.default_rng(5)
    recording = simulate_recording(parameters, draw_synthetic_tree(rng), rng)
    assert recording.parameters["psf_tables"] == str(tables)
    assert recording.psf.envelope.shape == SHAPE
    assert np.abs(recording.frames).max() > 0


def test_tissue_can_be_filtered_in_the_simulation(tables: Path) -> None:
    common = {"psf_table": 0.9, "has_tissue": True, "tissue_db": 40.0}
    power = []
    for removed in (0, 3):
        rng = np.random.default_rng(6)
        parameters = drawn(tables, seed=1, removed_components=removed, n_frames=12, **common)
        power.append(np.mean(np.abs(simulate_recording(parameters, draw_synthetic_tree(rng), rng).frames) ** 2))
    assert power[1] < 1e-2 * power[0]


def test_missing_rows_widen_the_kernel_along_y_alone() -> None:
    ranges = ParameterRanges(side_lobe_share=1.0)
    whole = replace(draw_parameters(np.random.default_rng(3), ranges), aberration_rad=(0.0,) * 6, n_plane_waves=1)
    half = replace(whole, missing_row_share=0.5, row_draws=(0.0,) * 4 + (1.0,) * 8 + (0.0,) * 4)
    before, after = make_psf(whole).fwhm_m, make_psf(half).fwhm_m
    assert after[1] > 1.25 * before[1]
    assert after[0] == pytest.approx(before[0], rel=0.1)
    none_left = replace(whole, missing_row_share=1.0, row_draws=(0.5,) * 16)
    np.testing.assert_allclose(make_psf(none_left).fwhm_m, before)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="add up to more than 1"):
        ParameterRanges(side_lobe_share=0.6, psf_table_share=0.5, psf_tables="x")
    with pytest.raises(SimulationError, match="psf_tables is null"):
        ParameterRanges(psf_table_share=0.5)
    with pytest.raises(SimulationError, match="cannot be read"):
        KernelTables(tmp_path / "no.npz")
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(SimulationError, match="cannot be read"):
        KernelTables(tmp_path / "other.npz")
