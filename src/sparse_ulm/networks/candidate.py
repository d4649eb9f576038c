"""CandidateNet: a small learned answer to "may a bubble be in this voxel of this frame?", dense to sparse.

Three residual blocks over space and time, 4,033 parameters in 2D and 4,897 in 3D: depth-wise convolution in space,
depth-wise convolution in time, norm over the instance, two 1x1 convolutions with GELU between.

What differs from the released mask network (reference notes on Rauby et al., §2), and why: the convolution in time is
applied, not only declared; time is not pooled, so that the answer is about a frame and not about two; the mask is
probability above a threshold, where the released one casts a sigmoid to int8 and keeps only what rounds to exactly 1.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from sparse_ulm.checkpoint import load_weights
from sparse_ulm.conventions import IqBlock
from sparse_ulm.errors import UserError, WeightsError
from sparse_ulm.sparsify import site_features

N_CHANNELS = 4
"""log(1 + |iq| / noise) / 4, |c|, Re c and Im c: "magnitude_and_complex" of `sparsify.site_features`."""

FRAMES_AT_ONCE = 32
"""A block is answered in pieces of so many frames, the length it is trained on: an instance of the norm stays what it
was, and memory does not grow with the block."""

FoldedFrames = Float[Tensor, "frames channels *space"]


class CandidateBlock(nn.Module):
    """x + mix(norm(in time(in space(x)))), depth-wise where space and time are seen."""

    def __init__(self, width: int, hidden: int, *, spatial_dims: int) -> None:
        """Make the layers of `width` channels with `hidden` ones between the 1x1 convolutions."""
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.in_space = conv(width, width, 3, padding=1, groups=width)
        self.in_time = nn.Conv2d(width, width, (3, 1), padding=(1, 0), groups=width, bias=False)
        self.norm = nn.InstanceNorm2d(width, affine=True)
        self.widen, self.narrow = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: FoldedFrames, n_frames: int) -> FoldedFrames:
        """Apply the block to samples of `n_frames` frames each, folded sample after sample."""
        n_voxels = x[0, 0].numel()
        lines = self.in_space(x).reshape(-1, n_frames, x.shape[1], n_voxels).movedim(1, 2)  # (b, c, t, voxels)
        change = self.narrow(functional.gelu(self.widen(self.norm(self.in_time(lines))), approximate="tanh"))
        return x + change.movedim(2, 1).reshape(x.shape)


class CandidateNet(nn.Module):
    """Per-voxel logit that a bubble's centre is in the voxel or beside it, at this frame.

    Args:
        spatial_dims: 3, or 2 for recordings one voxel thick along y.
        width: Channels between the blocks.
        hidden: Channels inside a block.
        n_blocks: Blocks; each sees one voxel and one frame further to every side.

    Raises:
        UserError: If `spatial_dims` is neither 2 nor 3.
    """

    def __init__(self, *, spatial_dims: int, width: int = 16, hidden: int = 32, n_blocks: int = 3) -> None:
        """Make the layers."""
        super().__init__()
        if spatial_dims not in (2, 3):
            raise UserError(f"spatial_dims is {spatial_dims}; wanted 2 or 3.")
        self.spatial_dims = spatial_dims
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.stem = conv(N_CHANNELS, width, 1)
        self.blocks = nn.ModuleList(CandidateBlock(width, hidden, spatial_dims=spatial_dims) for _ in range(n_blocks))
        self.to_logit = conv(width, 1, 1)
        nn.init.constant_(self.to_logit.get_parameter("bias"), -2.0)  # few voxels hold a bubble

    def forward(self, x: Float[Tensor, "b c x y z t"]) -> Float[Tensor, "b 1 x y z t"]:
        """Give the logits of a batch of dense blocks (`candidate_features`).

        Raises:
            UserError: If the channels are not `N_CHANNELS`, or a 2D network is given more than one voxel along y.
        """
        n_samples, n_channels, nx, ny, nz, n_frames = x.shape
        if n_channels != N_CHANNELS or (self.spatial_dims == 2 and ny != 1):
            raise UserError(
                f"a block of {n_channels} channels and {ny} voxels along y does not fit a CandidateNet of "
                f"{N_CHANNELS} channels and spatial_dims {self.spatial_dims}."
            )
        space = (nx, nz) if self.spatial_dims == 2 else (nx, ny, nz)
        y = self.stem(x.movedim(-1, 1).reshape(n_samples * n_frames, n_channels, *space))
        for block in self.blocks:
            y = block(y, n_frames)
        return self.to_logit(y).reshape(n_samples, n_frames, 1, nx, ny, nz).movedim(1, -1)


def candidate_features(iq: IqBlock, correlation: IqBlock, *, noise_rms: float) -> Float[Tensor, "c x y z t"]:
    """Describe every voxel of a block to the network, as kept ones are described to the sparse network."""
    every = torch.ones(iq.shape, dtype=torch.bool).nonzero().int()
    feats = site_features(
        iq, correlation[every.long().unbind(1)], every, noise_rms=noise_rms, features="magnitude_and_complex"
    )
    return feats.T.reshape(N_CHANNELS, *iq.shape)


def keep_candidates(
    network: CandidateNet, iq: IqBlock, correlation: IqBlock, *, noise_rms: float, threshold: float
) -> Bool[Tensor, "x y z t"]:
    """Keep the voxels whose probability exceeds `threshold`.

    Args:
        network: In inference mode (`load_candidate_net`).
        iq: Demodulated IQ, complex64 (x, y, z, t).
        correlation: Its normalised PSF correlation, same shape.
        noise_rms: From `sparsify.measure_noise_rms`.
        threshold: In [0, 1).
    """
    pieces = []
    for frames, c in zip(iq.split(FRAMES_AT_ONCE, dim=3), correlation.split(FRAMES_AT_ONCE, dim=3), strict=True):
        with torch.no_grad():
            pieces.append(network(candidate_features(frames, c, noise_rms=noise_rms)[None])[0, 0].sigmoid() > threshold)
    return torch.cat(pieces, dim=3)


def load_candidate_net(path: str | Path, *, spatial_dims: int) -> CandidateNet:
    """Load weights that configs/candidate_train.yaml made.

    Raises:
        WeightsError: If the file is missing, damaged, or was trained for the other number of axes.
    """
    network = CandidateNet(spatial_dims=spatial_dims)
    try:
        load_weights(network, path)
    except WeightsError as error:
        raise WeightsError(
            f"candidate_weights for a {spatial_dims}D recording: {error} "
            f"They come from configs/candidate_train.yaml --spatial_dims {spatial_dims}."
        ) from None
    return network.eval()
