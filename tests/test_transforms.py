"""The transforms, on a small simulated recording: IQ to sparse tensor, truth to sites."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ulm.acquisition import Geometry
from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.checkpoint import write_checkpoint
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.io import save_recording
from sparse_ulm.networks.candidate import CandidateNet
from sparse_ulm.transforms import (
    CorrelateWithPsfd,
    LoadIqBlockd,
    LoadTruthd,
    RandomMirrord,
    ToSparseTensord,
)

GEOMETRY = Geometry.from_voxel_size(
    (5.0e-5, 5.0e-5, 4.0e-5),
    (1.0e-3, -2.0e-3, 8.0e-3),
    frame_rate_hz=500.0,
    transmit_frequency_hz=15e6,
    sound_speed_m_s=1540.0,
)
TO_SPARSE = {
    "keys": "image",
    "rule": "iq_over_noise",
    "noise_factor": 4.0,
    "noise_measure": "differences",
    "correlation_threshold": 0.25,
    "max_sites": 100_000,
    "floor_db": -30.0,
    "features": "magnitude_and_complex",
    "site_multiple": (4, 4, 4, 16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One bubble that walks one voxel along x every 4 frames, in 9 x 10 x 11 voxels and 24 frames."""
    rng = np.random.default_rng(8)
    shape = (9, 10, 11, 24)
    frames = 0.05 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    rows = ["track_id,frame,time_s,x_mm,y_mm,z_mm,amplitude"]
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape[:3]), indexing="ij")
    for t in range(24):
        centre = (1.0 + t / 4, 5.0, 6.0)
        frames[..., t] += np.exp(-((x - centre[0]) ** 2 + (y - 5.0) ** 2 + (z - 6.0) ** 2) / 4) * np.exp(2.2j * z)
        mm = 1e3 * GEOMETRY.to_scanner_m(np.array([centre]))[0]
        rows.append(f"0,{t},{t / 500},{mm[0]:.6f},{mm[1]:.6f},{mm[2]:.6f},1")
    save_recording(tmp_path / "walk.nii.gz", frames.astype(np.complex64), GEOMETRY)
    (tmp_path / "walk_truth.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def prepared(item: dict[str, object]) -> dict[str, object]:
    item = LoadTruthd("label", slot_frames=8, upsampling=(8, 8, 8))(item)
    item = LoadIqBlockd("image")(item)
    item = CorrelateWithPsfd("image", psf="geometry", fwhm_wavelengths=(1.7, 1.7, 1.4))(item)
    return ToSparseTensord(**TO_SPARSE)(item)


def test_the_bubble_and_little_else_is_kept(folder: Path) -> None:
    item = prepared(RecordingBlocks(folder, block_frames=16, with_truth=True)[0])
    image = item["image"]
    assert image.spatial_range == (1, 12, 12, 12, 16)
    track = {(round(1 + t / 4), 5, 6, t) for t in range(16)}
    assert track <= set(map(tuple, image.coords[:, 1:].tolist()))
    assert len(image) < 16 * 60
    at = (image.coords == torch.tensor([0, 3, 5, 6, 8])).all(dim=1)
    magnitude, likeness, *_ = image.feats[at][0].tolist()
    assert magnitude > 0.5
    assert likeness > 0.95


@pytest.mark.parametrize("rule", ["iq_over_noise", "correlation_power", "all"])
def test_correlating_at_sites_alone_gives_the_same_tensor(folder: Path, rule: str) -> None:
    block = LoadIqBlockd("image")(RecordingBlocks(folder, block_frames=16)[0])
    step = ToSparseTensord(**TO_SPARSE | {"rule": rule})
    options = {"psf": "geometry", "fwhm_wavelengths": (1.7, 1.7, 1.4)}
    dense, sites = (step(CorrelateWithPsfd("image", **options, at=at)(block)) for at in ("voxels", "sites"))
    assert torch.equal(sites["image"].coords, dense["image"].coords)
    torch.testing.assert_close(sites["image"].feats, dense["image"].feats, atol=2e-6, rtol=1e-5)
    assert sites.keys() == dense.keys()


def test_the_learned_rule_keeps_what_its_network_takes_for_likely(folder: Path) -> None:
    # A network by hand: blocks that change nothing, and a logit of 100 (log magnitude - 0.5).
    net = CandidateNet(spatial_dims=3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.stem.weight[0, 0] = 1.0
        net.to_logit.weight[0, 0] = 100.0
        net.to_logit.get_parameter("bias").fill_(-50.0)
    write_checkpoint(folder / "candidate.pt", {"model": net.state_dict()})
    learned = TO_SPARSE | {"rule": "learned", "candidate_weights": folder / "candidate.pt"}
    block = RecordingBlocks(folder, block_frames=16)[0]
    dense = CorrelateWithPsfd("image", psf="geometry", fwhm_wavelengths=(1.7, 1.7, 1.4))(LoadIqBlockd("image")(block))
    magnitude = ToSparseTensord(**TO_SPARSE | {"rule": "all"})(dense)["image"]
    kept = ToSparseTensord(**learned)(dense)["image"]
    assert torch.equal(kept.coords, magnitude.coords[magnitude.feats[:, 0] > 0.5])
    assert 0 < len(kept) < len(magnitude)
    assert len(ToSparseTensord(**learned | {"max_sites": 7})(dense)["image"]) == 7
    assert len(ToSparseTensord(**learned | {"candidate_threshold": 0.9999})(dense)["image"]) < len(kept)


def test_the_learned_rule_wants_weights(folder: Path) -> None:
    with pytest.raises(UserError, match="candidate_weights is not given"):
        ToSparseTensord(**TO_SPARSE | {"rule": "learned"})
    step = ToSparseTensord(**TO_SPARSE | {"rule": "learned", "candidate_weights": folder / "none.pt"})
    block = torch.ones(4, 5, 6, 7, dtype=torch.complex64)
    with pytest.raises(UserError, match=r"none\.pt do not exist"):
        step({"image": block, "correlation": block})


def test_truth_sites_are_the_walk_at_the_heads_stride(folder: Path) -> None:
    blocks = RecordingBlocks(folder, block_frames=16, with_truth=True)
    assert [(b["start"], b["stop"]) for b in blocks] == [(0, 16), (16, 24)]
    sites = LoadTruthd("label", slot_frames=8, upsampling=(8, 8, 8))(blocks[0])["label"]
    # Position p lies in sub-voxel floor(8 (p + 1/2)): y 5 -> 44, z 6 -> 52; x from 12 at frame 0, 2 a frame.
    assert sites[:, 1:3].unique(dim=0).tolist() == [[44, 52]]
    assert sites[0].tolist() == [12, 44, 52, 0]
    assert sites[sites[:, 3] == 1][:, 0].min() in (27, 28)
    later = LoadTruthd("label", slot_frames=8, upsampling=(8, 8, 8))(blocks[1])["label"]
    assert later[:, 3].unique().tolist() == [0]
    assert later[:, 0].min() in (43, 44)


def test_block_is_read_from_a_path_alone(folder: Path) -> None:
    item = LoadIqBlockd("image")({"image": str(folder / "walk.nii.gz")})
    assert item["image"].shape == (9, 10, 11, 24)
    assert item["recording"] == "walk"


def test_mirroring_moves_image_and_truth_together(folder: Path) -> None:
    item = prepared(RecordingBlocks(folder, block_frames=16, with_truth=True)[0])
    item["shape"] = (12, 12, 11)  # equal sides: x and y may be exchanged
    mirror = RandomMirrord(["image", "label"], slot_frames=8, upsampling=(8, 8, 8))
    mirror.set_random_state(seed=0)
    seen = set()
    for _ in range(20):
        out = mirror(item)
        coarse = set(map(tuple, (out["label"] // torch.tensor([8, 8, 8, 1])).tolist()))
        image = out["image"]
        kept = set(map(tuple, (image.coords[:, 1:] // torch.tensor([1, 1, 1, 8])).tolist()))
        assert coarse <= kept, "truth must stay on the bubble"
        assert len(image) == len(item["image"])
        assert image.feats[:, 0].sum() == pytest.approx(float(item["image"].feats[:, 0].sum()), rel=1e-5)
        seen.add(tuple(map(tuple, out["label"].tolist())))
    assert len(seen) > 4


def test_2d_recording_for_a_3d_network_is_refused(tmp_path: Path) -> None:
    save_recording(tmp_path / "flat.npz", np.ones((5, 1, 6, 7), np.complex64), GEOMETRY)
    with pytest.raises(UserError, match="2D recording"):
        LoadIqBlockd("image", spatial_dims=3)({"image": tmp_path / "flat.npz"})


def test_missing_truth_is_an_error_that_names_the_file(folder: Path) -> None:
    (folder / "walk_truth.csv").unlink()
    block = RecordingBlocks(folder, block_frames=16, with_truth=True)[0]
    with pytest.raises(RecordingError, match=r"walk_truth\.csv"):
        LoadTruthd("label", slot_frames=8, upsampling=(8, 8, 8))(block)


def test_missing_folder_is_empty_until_required(tmp_path: Path) -> None:
    blocks = RecordingBlocks(tmp_path / "nowhere", block_frames=16)
    assert len(blocks) == 0
    with pytest.raises(RecordingError, match="does not exist"):
        blocks.require()
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(RecordingError, match="no recording"):
        RecordingBlocks(tmp_path / "nowhere", block_frames=16).require()
