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
from sparse_ulm.simulation.kernels import KernelTables, make_psf

STEP = np.array([0.25, 0.2, 0.1])
SHAPE = (9, 11, 13)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two Gaussians of 1 and 2 half widths, shifted along x by one step, without carrier."""
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(SHAPE, STEP, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    envelope = np.stack([np.exp(-(((x - 0.25) / w) ** 2 + (y / w) ** 2 + (z / w) ** 2)) for w in (1.0, 2.0)])
    path = tmp_path / "kernels.npz"
    np.savez(
        path,
        envelope=envelope.astype(np.complex64),
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
    assert np.unravel_index(first.envelope.argmax(), SHAPE)[0] == SHAPE[0] // 2 + 1
    assert np.unravel_index(turned.envelope.argmax(), SHAPE)[0] == SHAPE[0] // 2 - 1
    np.testing.assert_allclose(turned.carrier_rad_m, first.carrier_rad_m * [-1, 1, 1])
    np.testing.assert_array_equal(turned.envelope, first.envelope[::-1])


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
