import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.mapping import figure as figure_module
from sparse_ulm.mapping.figure import FALSE, FOUND, MISSED, display_norm, save_projections
from sparse_ulm.mapping.figure_layout import lay_out, scale_bar_mm
from sparse_ulm.mapping.sparse_map import SparseMap

WORDS = {"title": "Phantom", "label": "Microbubble density (blocks per voxel)"}


def grid(voxel_size_mm=(0.05, 0.08, 0.1), origin_mm=(-1.0, -2.0, 3.0)):
    """Geometry of a small map."""
    return Geometry.from_voxel_size(
        tuple(v * 1e-3 for v in voxel_size_mm),
        tuple(v * 1e-3 for v in origin_mm),
        frame_rate_hz=1000.0,
        transmit_frequency_hz=15e6,
        sound_speed_m_s=1540.0,
    )


@pytest.fixture
def drawn(monkeypatch):
    """Let the figure be looked at after it was saved."""
    figures = []

    class Kept(figure_module.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(figure_module, "Figure", Kept)
    return figures


def colour_fraction(picture, colour):
    """Share of pixels of one colour, of those in the figure."""
    wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return float(np.mean(np.all(np.abs(picture[..., :3] - wanted) < 0.02, axis=-1)))


def test_three_projections_by_hand(tmp_path, drawn):
    density = np.zeros((30, 20, 25), np.float32)
    density[3, 7, 11] = 4
    density[3, 9, 11] = 9  # hides the one above in x–z
    save_projections(tmp_path / "map.png", SparseMap.of(density), grid(), **WORDS)
    x_z, y_z, x_y = (axes.images[0].get_array() for axes in drawn[0].axes[:3])
    assert (x_z.shape, y_z.shape, x_y.shape) == ((25, 30), (25, 20), (20, 30))
    assert x_z[11, 3] == 9
    assert (y_z[11, 7], y_z[11, 9]) == (4, 9)
    assert (x_y[7, 3], x_y[9, 3]) == (4, 9)
    assert x_z.sum() == 9
    assert y_z.sum() == x_y.sum() == 13


def test_edges_are_scanner_millimetres_and_depth_grows_downwards(tmp_path, drawn):
    save_projections(tmp_path / "map.png", SparseMap.of(np.ones((30, 20, 25), np.float32)), grid(), **WORDS)
    x_z = drawn[0].axes[0]
    np.testing.assert_allclose(x_z.get_xlim(), [-1.025, 0.475])  # -1 - 0.05 / 2 and -1 + 29.5 * 0.05
    np.testing.assert_allclose(x_z.get_ylim(), [5.45, 2.95])
    np.testing.assert_allclose(drawn[0].axes[2].get_ylim(), [-2.04, -0.44])  # y grows upwards in x–y
    assert [axes.get_xlabel() for axes in drawn[0].axes[:3]] == ["x (mm)", "y (mm)", "x (mm)"]
    assert "Microbubble density (blocks per voxel)" in [axes.get_ylabel() for axes in drawn[0].axes]


@pytest.mark.parametrize("voxel_size_mm", [(0.05, 0.05, 0.05), (0.05, 0.08, 0.1), (0.3, 0.02, 0.07)])
def test_all_pictures_share_one_physical_scale(voxel_size_mm):
    layout = lay_out((30, 20, 25), grid(voxel_size_mm), n_rows=2)
    width, height = layout.figure_inch
    for column, (across, along) in enumerate(layout.planes):
        left, bottom, w, h = layout.picture_box(0, column)
        size_mm = np.array([30, 20, 25]) * voxel_size_mm
        np.testing.assert_allclose([w * width / size_mm[across], h * height / size_mm[along]], layout.inch_per_mm)
        assert 0 < left < left + w < 1
        assert 0 < bottom < bottom + h < 1


@pytest.mark.parametrize("flip_x", [False, True])
def test_a_voxel_is_drawn_where_its_axes_say(tmp_path, drawn, flip_x):
    # A bright block around voxel (6, 4, 20) of 30 x 20 x 25: its pixels in the saved file must lie at its millimetres.
    density = np.zeros((30, 20, 25), np.float32)
    density[5:8, 3:6, 19:22] = 5
    geometry = grid()
    if flip_x:
        matrix = geometry.matrix_m
        matrix[0, 0] *= -1
        geometry = Geometry(as_rows(matrix), 1000.0, 15e6, 1540.0)
    save_projections(tmp_path / "map.png", SparseMap.of(density), geometry, **WORDS)
    saved = imread(tmp_path / "map.png")
    centre_mm = geometry.to_scanner_m(np.array([[6.0, 4.0, 20.0]]))[0] * 1e3
    for axes, plane in zip(drawn[0].axes[:3], ((0, 2), (1, 2), (0, 1)), strict=True):
        x, y = axes.transData.transform(centre_mm[list(plane)])
        assert saved[len(saved) - 1 - round(y), round(x), :3].tolist() == [1, 1, 1]  # the brightest of "hot"
        box = axes.get_window_extent()
        inside = saved[::-1][int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        assert np.mean(inside[..., 2] > 0.9) < 0.1


def test_a_2d_recording_gets_one_picture(tmp_path, drawn):
    save_projections(tmp_path / "map.png", SparseMap.of(np.ones((30, 1, 25), np.float32)), grid(), **WORDS)
    assert [axes.get_title() for axes in drawn[0].axes] == ["x–z", ""]  # and the colour bar


def test_oblique_grids_count_from_the_first_voxel():
    angle = np.pi / 6
    affine = np.diag([1e-4, 2e-4, 3e-4, 1.0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Geometry(as_rows(turn @ affine), 1000.0, 15e6, 1540.0)
    layout = lay_out((30, 20, 25), oblique, n_rows=1)
    np.testing.assert_allclose(layout.edges_mm, [(-0.05, 2.95), (-0.1, 3.9), (-0.15, 7.35)])


def test_a_mirrored_axis_still_grows_to_the_right(tmp_path, drawn):
    affine = np.diag([-1e-4, 1e-4, 1e-4, 1.0])
    save_projections(
        tmp_path / "m.png",
        SparseMap.of(np.ones((30, 20, 25), np.float32)),
        Geometry(as_rows(affine), 1000.0, 15e6, 1540.0),
        **WORDS,
    )
    np.testing.assert_allclose(drawn[0].axes[0].get_xlim(), [-2.95, 0.05])
    assert drawn[0].axes[0].images[0].get_extent()[:2] == pytest.approx([0.05, -2.95])


def test_truth_row_shows_what_was_found_missed_and_false(tmp_path, drawn):
    density = np.zeros((30, 20, 25), np.float32)
    density[:10] = 1
    truth = np.argwhere(np.ones((20, 20, 25)))  # true for x < 20: a third found, a third missed
    density[25:] = 2  # and a sixth false
    save_projections(tmp_path / "map.png", SparseMap.of(density), grid(), truth=truth, **WORDS)
    x_z = drawn[0].axes[4].images[0].get_array()
    for columns, colour in ((slice(0, 10), FOUND), (slice(10, 20), MISSED), (slice(25, 30), FALSE)):
        assert colour_fraction(np.asarray(x_z[:, columns]), colour) == 1.0
    assert not np.asarray(x_z[:, 20:25]).any()
    saved = imread(tmp_path / "map.png")
    assert colour_fraction(saved, FALSE) > 0.01


def test_thin_vessels_survive_on_a_page_coarser_than_the_map(tmp_path, drawn):
    density = np.zeros((6000, 3, 400), np.float32)
    density[4321, 1, :] = 7
    save_projections(tmp_path / "map.png", SparseMap.of(density), grid((0.001, 0.01, 0.01)), **WORDS)
    x_z = drawn[0].axes[0].images[0].get_array()
    assert x_z.shape[1] < 3000
    assert (x_z.max(axis=1) == 7).all()


def test_display_is_the_cube_root_saturated_at_four_fifths():
    norm = display_norm(1000.0)
    assert norm.vmax == pytest.approx(512.0)  # 0.8^3 of the largest
    assert float(norm(64.0)) == pytest.approx(0.5)  # the cube root of 64 is half of that of 512
    assert float(norm(1000.0)) == 1.0
    assert display_norm(1.0).vmax == 1.0
    assert display_norm(0.0).vmax == 1.0


@pytest.mark.parametrize(("width", "bar"), [(0.35, 0.1), (0.7, 0.2), (1.8, 0.5), (4.0, 1.0), (12.8, 2.0), (30.0, 5.0)])
def test_scale_bar_is_round(width, bar):
    assert scale_bar_mm(width) == bar


def test_scale_bar_has_its_length(tmp_path, drawn):
    save_projections(
        tmp_path / "map.png", SparseMap.of(np.ones((80, 20, 25), np.float32)), grid(), **WORDS
    )  # 4 mm wide
    axes = drawn[0].axes[0]
    bar = axes.patches[0].get_window_extent()
    picture = axes.get_window_extent()
    assert bar.width / picture.width == pytest.approx(1.0 / 4.0)
    assert "1 mm" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("shape", "value"), [((30, 1, 25), 3), ((5, 5, 400), 1), ((400, 5, 5), 1000), ((30, 20, 25), 0)]
)
def test_all_words_lie_on_the_page(tmp_path, drawn, shape, value):
    save_projections(tmp_path / "map.png", SparseMap.of(np.full(shape, value, np.float32)), grid(), **WORDS)
    page = drawn[0].bbox
    box = drawn[0].get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 * drawn[0].dpi <= page.width
    assert box.y1 * drawn[0].dpi <= page.height


def test_global_matplotlib_is_left_alone(tmp_path):
    matplotlib.use("svg")
    before = dict(matplotlib.rcParams)
    save_projections(tmp_path / "map.png", SparseMap.of(np.ones((6, 5, 7), np.float32)), grid(), **WORDS)
    assert matplotlib.get_backend() == "svg"
    assert dict(matplotlib.rcParams) == before
    matplotlib.use("agg")


def test_nothing_is_left_when_saving_fails(tmp_path):
    with pytest.raises(IndexError):
        save_projections(
            tmp_path / "map.png",
            SparseMap.of(np.ones((6, 5, 7), np.float32)),
            grid(),
            truth=np.array([[6, 0, 0]]),
            **WORDS,
        )
    assert list(tmp_path.iterdir()) == []
