"""Signed velocity as a picture: the fastest voxel behind a pixel, whatever its sign; black where nothing is known."""

import numpy as np
from matplotlib.image import imread

from sparse_ulm.acquisition import Geometry
from sparse_ulm.mapping import velocity_figure
from sparse_ulm.mapping.sparse_map import SparseMap
from sparse_ulm.mapping.velocity_figure import fastest, save_velocity_projections, velocity_colours

GRID = Geometry.from_voxel_size(
    (0.05e-3, 0.08e-3, 0.1e-3), (-1.0e-3, -2.0e-3, 3.0e-3), frame_rate_hz=1000.0, transmit_frequency_hz=15e6,
    sound_speed_m_s=1540.0,
)  # fmt: skip
WIDE_INCH = (100.0, 100.0)


def velocity_map(values, shape=(30, 20, 25)):
    """NaN but for some voxels."""
    key = [int(np.ravel_multi_index(voxel, shape)) for voxel in values]
    return SparseMap(shape, np.array(key, dtype=np.int64), np.array([*values.values()], dtype=np.float32), np.nan)


def test_the_fastest_of_a_line_of_sight_is_shown_with_its_sign():
    volume = velocity_map({(3, 7, 11): 2.0, (3, 9, 11): -5.0, (4, 9, 2): 0.0})
    x_z = fastest(volume, (0, 2), WIDE_INCH)
    assert x_z.shape == (25, 30)
    assert (x_z[11, 3], x_z[2, 4]) == (-5.0, 0.0)
    assert x_z.count() == 2
    y_z = fastest(volume, (1, 2), WIDE_INCH)
    assert (y_z[11, 7], y_z[11, 9], y_z[2, 9]) == (2.0, -5.0, 0.0)


def test_pixels_that_are_joined_keep_the_fastest():
    volume = velocity_map({(0, 0, 0): 1.0, (1, 0, 0): -3.0, (2, 0, 0): 4.0, (5, 0, 0): -1.0}, shape=(8, 1, 1))
    picture = fastest(volume, (0, 2), (4 / velocity_figure.DOTS_PER_INCH, 1.0))  # 8 voxels on 4 pixels
    assert picture.tolist() == [[-3.0, 4.0, -1.0, None]]


def test_flow_towards_the_probe_is_blue_away_is_red_and_nothing_black(tmp_path):
    for name, value, largest_channel in (("away", 3.0, 0), ("towards", -3.0, 2)):
        save_velocity_projections(
            tmp_path / f"{name}.png", SparseMap.of(np.full((9, 7, 8), value)), GRID, title="Phantom"
        )
        picture = imread(tmp_path / f"{name}.png")[..., :3]
        middle = picture[picture.shape[0] // 3, picture.shape[1] // 6]
        assert middle.argmax() == largest_channel
        assert middle.max() - middle.min() > 0.5
    for name, shape in (("nothing", (9, 7, 8)), ("flat", (9, 1, 8))):
        save_velocity_projections(tmp_path / f"{name}.png", velocity_map({}, shape), GRID, title="Phantom")
        picture = imread(tmp_path / f"{name}.png")[..., :3]
        assert picture[picture.shape[0] // 3, picture.shape[1] // 6].max() == 0.0
    assert velocity_colours()(0.5)[:3] > (0.8, 0.8, 0.8)
