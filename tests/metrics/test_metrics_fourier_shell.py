import numpy as np
import pytest

from sparse_ulm.metrics.fourier_shell import (
    THRESHOLDS,
    ShellCorrelation,
    correlate_shells,
    half_maps,
    split_resolution,
)

STEP = (1e-5, 1.3e-5, 0.8e-5)
SHAPE = (40, 33, 48)


def noise(seed, shape=SHAPE):
    """White noise."""
    return np.random.default_rng(seed).normal(size=shape)


def frequency_grid(shape, step):
    """Spatial frequency of every voxel of the full spectrum, by definition."""
    axes = [np.fft.fftfreq(n, d) for n, d in zip(shape, step, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


def band_limited(seed, limit_per_m):
    """White noise below a frequency, with unit power there, and nothing above."""
    spectrum = np.fft.fftn(noise(seed))
    return np.fft.ifftn(np.where(frequency_grid(SHAPE, STEP) < limit_per_m, spectrum, 0)).real


def by_hand(correlation, n_voxels):
    """Shells at 1e4, 2e4 ... cycles per metre."""
    n = len(correlation)
    return ShellCorrelation(np.arange(1, n + 1) * 1e4, np.array(correlation), np.full(n, n_voxels), 1.0)


def test_identical_halves_correlate_fully():
    for volume in (noise(0), noise(0).astype(np.float32), np.random.default_rng(1).poisson(0.05, SHAPE) * 1.0):
        shells = correlate_shells(volume, volume, voxel_size_m=STEP)
        np.testing.assert_allclose(shells.correlation, 1.0, rtol=1e-6)
        assert [shells.resolution_m(name) for name in THRESHOLDS] == [shells.finest_m] * 3


def test_independent_noise_stays_under_two_sigma():
    excess = []
    for seed in range(6):
        shells = correlate_shells(noise(2 * seed), noise(2 * seed + 1), voxel_size_m=STEP)
        excess.append(shells.correlation - shells.threshold("two_sigma"))
        assert shells.resolution_m("two_sigma") == np.inf
        # The threshold is twice the deviation of a sum over n / 2 pairs: 2 sqrt 2 of this real part's own.
        scaled = shells.correlation * np.sqrt(shells.n_voxels * shells.independent_share)
        assert scaled.std() == pytest.approx(1.0, abs=0.45)
    assert (np.concatenate(excess) < 0).all()


def test_counts_and_correlation_agree_with_the_full_transform():
    first, second = noise(1), noise(1) + 0.5 * noise(2)
    shells = correlate_shells(first, second, voxel_size_m=STEP)
    windows = [1 - np.clip(1 - np.arange(1, n + 1) / (0.125 * (n + 1)), 0, 1) for n in SHAPE]
    windows = [np.sin(np.pi / 2 * np.minimum(w, w[::-1])) ** 2 for w in windows]
    window = np.einsum("i,j,k->ijk", *windows)
    a, b = (np.fft.fftn((v - v.mean()) * window) for v in (first, second))
    width = max(1 / (n * d) for n, d in zip(SHAPE, STEP, strict=True))
    shell = np.rint(frequency_grid(SHAPE, STEP) / width).astype(int)
    for number in range(1, len(shells.correlation) + 1):
        inside = shell == number
        assert shells.n_voxels[number - 1] == inside.sum()
        power = np.sqrt((np.abs(a[inside]) ** 2).sum() * (np.abs(b[inside]) ** 2).sum())
        expected = (a[inside] * b[inside].conj()).real.sum() / power
        assert shells.correlation[number - 1] == pytest.approx(expected, abs=1e-9)
        assert shells.frequency_per_m[number - 1] == pytest.approx(number * width)
    # Shells end at the lowest Nyquist frequency, that of y.
    assert shells.frequency_per_m[-1] <= 0.5 / 1.3e-5 < shells.frequency_per_m[-1] + width


def test_a_known_signal_to_noise_ratio_gives_its_correlation_and_cut_off():
    limit = 2.5e4
    signal = 2 * band_limited(0, limit)
    shells = correlate_shells(signal + noise(1), signal + noise(2), voxel_size_m=STEP)
    below, above = shells.frequency_per_m < 0.9 * limit, shells.frequency_per_m > 1.3 * limit
    np.testing.assert_allclose(shells.correlation[below & (shells.n_voxels > 500)], 4 / 5, atol=0.05)
    np.testing.assert_allclose(shells.correlation[above], 0.0, atol=0.1)
    for name in THRESHOLDS:
        # The window smears the edge over some shells.
        assert 1 / shells.resolution_m(name) == pytest.approx(limit, abs=3 * shells.frequency_per_m[0])


def test_resolution_is_interpolated_at_the_first_crossing():
    shells = by_hand([1.0, 0.8, 1 / 7 + 0.3, 1 / 7 - 0.1, 0.9], 10**6)
    assert shells.resolution_m("one_seventh") == pytest.approx(1 / 3.75e4)
    assert shells.finest_m == pytest.approx(1 / 5e4)
    assert by_hand([0.1, 0.9, 0.9], 10**6).resolution_m("one_seventh") == np.inf
    assert by_hand([0.9, 0.9, 0.9], 10**6).resolution_m("one_seventh") == pytest.approx(1 / 3e4)


def test_thresholds_by_hand():
    shells = by_hand([0.0, 0.0], 200)
    assert shells.threshold("two_sigma") == pytest.approx(0.2)
    root = 200**0.5
    assert shells.threshold("half_bit") == pytest.approx((0.2071 * root + 1.9102) / (1.2071 * root + 0.9102))
    assert shells.threshold("one_seventh") == pytest.approx(1 / 7)
    # Half a bit per voxel needs an FSC of 0.1716 in large shells.
    assert by_hand([0.0], 10**12).threshold("half_bit") == pytest.approx(0.1716, abs=1e-4)


def test_shells_too_small_for_a_threshold_do_not_count():
    shells = ShellCorrelation(np.array([1e4, 2e4, 3e4]), np.array([0.99, 0.9, 0.0]), np.array([6, 100, 100]), 1.0)
    assert 2e-5 < 1 / shells.resolution_m("two_sigma") < 3e4


def test_two_dimensional_maps_have_rings():
    first, second = noise(3, (40, 1, 48)), noise(3, (40, 1, 48)) + noise(4, (40, 1, 48))
    flat = correlate_shells(first, second, voxel_size_m=STEP)
    turned = correlate_shells(np.moveaxis(first, 1, 2), np.moveaxis(second, 1, 2), voxel_size_m=(STEP[0], STEP[2], 1.0))
    np.testing.assert_allclose(flat.correlation, turned.correlation)
    assert (flat.n_voxels == turned.n_voxels).all()
    assert flat.correlation.mean() == pytest.approx(0.5**0.5, abs=0.1)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        correlate_shells(np.zeros((9, 9, 9)), np.zeros((9, 9, 8)), voxel_size_m=STEP)
    with pytest.raises(ValueError, match="at least 8"):
        correlate_shells(np.zeros((5, 6, 7)), np.zeros((5, 6, 7)), voxel_size_m=STEP)


# --- halves --------------------------------------------------------------------------------------------------------


def tracks(seed, n_tracks=41, length=30, shape=(32, 36, 40)):
    """Straight tracks of independent places and directions: voxels visited and their track."""
    rng = np.random.default_rng(seed)
    start, way = rng.uniform(0, shape, (n_tracks, 1, 3)), rng.normal(0, 0.5, (n_tracks, 1, 3))
    voxel = np.floor(start + way * np.arange(length)[:, None]).astype(np.int64).reshape(-1, 3)
    part = np.repeat(np.arange(n_tracks) * 7 - 3, length)
    inside = ((voxel >= 0) & (voxel < shape)).all(axis=1)
    return voxel[inside], part[inside]


def test_halves_hold_whole_tracks_once_per_voxel():
    voxel, part = tracks(0)
    shape = (32, 36, 40)
    density = np.zeros(shape)
    for name in np.unique(part):
        density[tuple(np.unique(voxel[part == name], axis=0).T)] += 1
    pairs = list(half_maps(voxel, part, shape=shape, n_splits=3, seed=0))
    for first, second in pairs:
        assert np.array_equal(first + second, density)
        for name in np.unique(part):
            own = tuple(np.unique(voxel[part == name], axis=0).T)
            assert (first[own] > 0).all() or (second[own] > 0).all()
    assert not np.array_equal(pairs[0][0], pairs[1][0])
    again = list(half_maps(voxel[::-1], part[::-1], shape=shape, n_splits=3, seed=0))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(pairs, again, strict=True))


def test_halves_are_equal_but_for_one_part():
    voxel = np.array([[i, 0, 0] for i in range(9)])
    for first, second in half_maps(voxel, np.arange(9), shape=(9, 1, 1), n_splits=5, seed=1):
        assert sorted([first.sum(), second.sum()]) == [4, 5]


def test_independent_tracks_share_nothing_though_their_samples_would():
    voxel, part = tracks(1, n_tracks=200)
    grid = {"shape": (32, 36, 40), "voxel_size_m": STEP, "n_splits": 4, "seed": 0}
    by_track = split_resolution(voxel, part, **grid)
    # Splitting samples instead puts each track in both halves: it then "resolves" tracks that are drawn but once.
    by_sample = split_resolution(voxel, np.arange(len(voxel)), **grid)
    assert by_track["half_bit"].mean_m == np.inf
    assert np.isnan(by_track["half_bit"].standard_deviation_m)
    assert by_sample["half_bit"].mean_m < 2e-4


def test_repeated_tracks_are_resolved_as_finely_as_they_were_located():
    voxel, part = tracks(2, n_tracks=30)
    repeats, shape = 16, (32, 36, 40)
    part = np.concatenate([part + 1000 * i for i in range(repeats)])
    found = []
    for reach in (2, 3, 5):
        error = np.random.default_rng(0).integers(-reach, reach + 1, (repeats * len(voxel), 3))
        blurred = np.clip(np.tile(voxel, (repeats, 1)) + error, 0, np.array(shape) - 1)
        found.append(split_resolution(blurred, part, shape=shape, voxel_size_m=STEP, n_splits=3, seed=0))
    for name in THRESHOLDS:
        mean = [by_threshold[name].mean_m for by_threshold in found]
        assert mean == sorted(mean)
        assert 2.7e-5 < mean[1] < 8e-5
        assert 0 < found[1][name].standard_deviation_m < mean[1]
        assert found[1][name].n_splits == 3


def test_too_few_tracks_have_no_resolution():
    grid = {"shape": (12, 13, 14), "voxel_size_m": STEP, "n_splits": 2, "seed": 0}
    none = np.empty((0, 3), dtype=np.int64)
    assert split_resolution(none, np.empty(0, dtype=np.int64), **grid)["one_seventh"].mean_m == np.inf
    one = np.array([[5, 5, 5], [6, 6, 6]])
    assert split_resolution(one, np.zeros(2, dtype=np.int64), **grid)["two_sigma"].mean_m == np.inf
