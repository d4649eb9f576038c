"""MONAI dictionary transforms: thin wrappers that turn a block of a recording into a sparse tensor and its truth."""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from sparse_ulm import psf as psf_module
from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import truth_of
from sparse_ulm.clutter import ClutterFilter
from sparse_ulm.errors import UserError
from sparse_ulm.filtered import filtered
from sparse_ulm.io import open_recording
from sparse_ulm.mapping.truth_map import trajectory_sites
from sparse_ulm.networks.candidate import CandidateNet, keep_candidates, load_candidate_net
from sparse_ulm.recording_levels import RecordingLevels, measure_levels
from sparse_ulm.site_correlation import correlate_at
from sparse_ulm.sparse import SparseTensor
from sparse_ulm.sparse.engines import resolve_engine
from sparse_ulm.sparsify import (
    N_FEATURES,
    USES_IQ_ALONE,
    KeptMask,
    measure_noise_rms,
    select_sites,
    site_features,
    within_budget,
)

Data = dict[Hashable, Any]


class LoadIqBlockd(MapTransform):
    """Read a block of frames: path or acquisition -> complex64 tensor (x, y, z, t).

    Adds `acquisition`, `geometry`, `recording` (its name), `start`, `shape` and `content` to the item. An item without
    `start` and `stop` is read whole, so that `{"image": path}` is enough (MONAI Label).
    """

    def __init__(
        self,
        keys: KeysCollection,
        geometry: dict[str, Any] | None = None,
        spatial_dims: int = 3,
        clutter: dict[str, Any] | None = None,
    ) -> None:
        """Keep overrides and filter of recordings given as paths, and the number of axes that the network refines."""
        super().__init__(keys)
        self.clutter = ClutterFilter.of(clutter)
        self.geometry = {key: value for key, value in (geometry or {}).items() if value is not None}
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Read the block of every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            acquisition = self.acquisition_of(d[key])
            if acquisition.spatial_dims == 2 and self.spatial_dims == 3:
                raise UserError(
                    f"{acquisition.path.name} is a 2D recording {acquisition.shape}, the network is 3D. "
                    "Run with --spatial_dims 2 and weights trained so (models/model_2d.pt)."
                )
            if acquisition.spatial_dims == 3 and self.spatial_dims == 2:
                raise UserError(
                    f"{acquisition.path.name} is a 3D recording {acquisition.shape}, the network is 2D. "
                    "Run with --spatial_dims 3 and weights trained so (models/model.pt)."
                )
            start, stop = d.get("start", 0), d.get("stop", acquisition.n_frames)
            # One memory order for all formats: sums round differently in another, and maps would not agree to the bit.
            d[key] = torch.from_numpy(np.ascontiguousarray(acquisition.frames(start, stop)))
            d.update(acquisition=acquisition, geometry=acquisition.geometry, recording=acquisition.name)
            d.update(content=acquisition.content)
            d.update(start=start, shape=acquisition.shape[:3], path=str(acquisition.path))
            d.pop("stop", None)
        return d

    def acquisition_of(self, source: Acquisition | str | Path) -> Acquisition:
        """Open a recording that is given as a path.

        Raises:
            UserError: If it holds no phase.
        """
        if isinstance(source, Acquisition):
            acquisition = source
        else:
            acquisition = filtered(open_recording(source, **self.geometry), self.clutter)
        if acquisition.content == "envelope":
            raise UserError(
                f"{acquisition.path.name} is a log-compressed envelope; wanted IQ, for the networks use its phase. "
                "Run with --method classical, or export beamformed IQ."
            )
        return acquisition


class MeasureRecordingd(MapTransform):
    """Add `levels`: carrier, noise and peak of the whole recording (`recording_levels.measure_levels`).

    The steps behind it then take those in place of the block's own, and results do not depend on how a recording is
    cut. It follows `LoadIqBlockd`.
    """

    def __init__(self, keys: KeysCollection, *, noise_measure: str) -> None:
        """Keep how to measure; the last recording's levels are kept for its next block."""
        super().__init__(keys)
        self.noise_measure = noise_measure
        self._known: tuple[Acquisition, RecordingLevels] | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Measure, or remember."""
        d = dict(data)
        for _ in self.key_iterator(d):
            acquisition = d["acquisition"]
            if self._known is None or self._known[0] is not acquisition:
                self._known = acquisition, measure_levels(acquisition, noise_measure=self.noise_measure)
            d["levels"] = self._known[1]
        return d


class CorrelateWithPsfd(MapTransform):
    """Take the phase carrier out and correlate with the PSF: adds `correlation` beside the demodulated block.

    Args:
        keys: The block.
        psf: "geometry" (Gaussian of `fwhm_wavelengths`), "estimate" (the block's own isolated bubbles) or a path.
        fwhm_wavelengths: Envelope widths along x, y and z for "geometry", and the window for "estimate".
        at: "voxels", or "sites": adds `psf_kernel` instead, and `ToSparseTensord` correlates where it keeps a site.
    """

    def __init__(
        self,
        keys: KeysCollection,
        psf: str,
        fwhm_wavelengths: Sequence[float],
        at: Literal["voxels", "sites"] = "voxels",
    ) -> None:
        """Keep the settings."""
        super().__init__(keys)
        self.psf, self.at = psf, at
        x, y, z = fwhm_wavelengths
        self.fwhm_wavelengths = (float(x), float(y), float(z))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Demodulate and correlate; a recording that stores its correlation is used as it is."""
        d = dict(data)
        for key in self.key_iterator(d):
            if d.get("content") == "correlation":
                d["correlation"] = d[key]
                continue
            levels: RecordingLevels | None = d.get("levels")
            carrier = psf_module.measure_carrier(d[key]) if levels is None else torch.tensor(levels.carrier_rad)
            d[key] = psf_module.demodulate(d[key], carrier)
            kernel = self._kernel(d[key], d)
            if self.at == "sites":
                d["psf_kernel"] = kernel
            else:
                d["correlation"] = psf_module.correlate(d[key], kernel)
        return d

    def _kernel(self, iq: torch.Tensor, d: Data) -> torch.Tensor:
        if self.psf not in ("geometry", "estimate"):
            return psf_module.load_psf(Path(self.psf))
        nominal = psf_module.gaussian_psf(d["geometry"], fwhm_wavelengths=self.fwhm_wavelengths)
        if iq.shape[1] == 1:  # a 2D recording has no extent along y to correlate over
            nominal = nominal[:, nominal.shape[1] // 2, None]
        if self.psf == "geometry":
            return nominal
        x, y, z = (size // 2 for size in nominal.shape)
        return psf_module.estimate_psf(iq, half_size=(x, y, z), noise_rms=measure_noise_rms(iq))


class ToSparseTensord(MapTransform):
    """Keep the voxels where a bubble may be and make the network's sparse tensor of them.

    Drops `correlation` or `psf_kernel` and adds `noise_rms`. With `share_of_sites` in the item the budget is that share
    of `max_sites`.

    Args:
        keys: The demodulated block.
        rule: Which voxels are kept (`sparsify.select_sites`), or "learned": those that a CandidateNet takes for likely.
        noise_factor: For the rules against noise, in noise rms.
        noise_measure: How the noise is measured, "faintest" or "differences" (`sparsify.measure_noise_rms`).
        correlation_threshold: On |c|^2, for `correlation_power`.
        max_sites: Budget per block, the strongest are kept; also k of `top_k`.
        floor_db: Below the block's maximum nothing is kept; acts on recordings (almost) without noise.
        features: What the network is told per site (`sparsify.site_features`).
        site_multiple: The range is rounded up to a multiple of it, per axis (the network's total stride).
        engine: "auto", "native" or "torchsparse": the kind of sparse tensor that is made.
        candidate_weights: Checkpoint of configs/candidate_train.yaml; only for "learned", read at the first block.
        candidate_threshold: "learned" keeps voxels whose probability exceeds it, in [0, 1).
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        rule: str,
        noise_factor: float,
        noise_measure: str,
        correlation_threshold: float,
        max_sites: int,
        floor_db: float,
        features: str,
        site_multiple: tuple[int, int, int, int] | list[int],
        engine: str = "auto",
        candidate_weights: str | Path | None = None,
        candidate_threshold: float = 0.5,
    ) -> None:
        """Keep the settings.

        Raises:
            UserError: If `features` is unknown; otherwise weights that do not fit would be blamed. If the rule is
                "learned" and there are no weights of it.
        """
        super().__init__(keys)
        if rule == "learned" and candidate_weights is None:
            raise UserError(
                "rule is 'learned' and candidate_weights is not given; wanted a checkpoint of "
                "configs/candidate_train.yaml. Give one, or choose another rule."
            )
        if features not in N_FEATURES:
            raise UserError(f"features is {features!r}; wanted one of {', '.join(N_FEATURES)}.")
        self.selection: dict[str, Any] = {
            "rule": rule,
            "noise_factor": noise_factor,
            "correlation_threshold": correlation_threshold,
            "max_sites": int(max_sites),
            "floor_db": floor_db,
        }
        self.noise_measure = noise_measure
        self.features = features
        self.site_multiple = tuple(site_multiple)
        self.engine = resolve_engine(engine)
        self.candidate_weights, self.candidate_threshold = candidate_weights, candidate_threshold
        self._candidate_net: CandidateNet | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Make the sparse tensor of every key, batch size 1."""
        d = dict(data)
        for key in self.key_iterator(d):
            iq, kernel, correlation = d[key], d.pop("psf_kernel", None), d.pop("correlation", None)
            if correlation is None and self.selection["rule"] != USES_IQ_ALONE:
                correlation = psf_module.correlate(iq, kernel)
            levels: RecordingLevels | None = d.get("levels")
            noise_rms = levels.noise_rms if levels else measure_noise_rms(iq, noise_measure=self.noise_measure)
            d["noise_rms"] = noise_rms
            max_sites = math.ceil(self.selection["max_sites"] * d.pop("share_of_sites", 1.0))
            kept = self._keep(iq, correlation, noise_rms, levels.peak if levels else None, max_sites)
            coords = torch.nonzero(kept).int().contiguous()
            c = correlate_at(iq, kernel, coords) if correlation is None else correlation[coords.long().unbind(1)]
            feats = site_features(iq, c, coords, noise_rms=noise_rms, features=self.features)
            spatial_range = (
                1,
                *(size + -size % multiple for size, multiple in zip(iq.shape, self.site_multiple, strict=True)),
            )
            batched = torch.nn.functional.pad(coords, (1, 0))
            d[key] = for_engine(SparseTensor(batched, feats, spatial_range=spatial_range, engine=self.engine))
        return d

    def _keep(
        self, iq: torch.Tensor, correlation: torch.Tensor | None, noise_rms: float, peak: float | None, max_sites: int
    ) -> KeptMask:
        if self.selection["rule"] != "learned" or correlation is None:
            selection = self.selection | {"max_sites": max_sites}
            return select_sites(iq, correlation, **selection, noise_rms=noise_rms, peak=peak)
        if self._candidate_net is None:
            spatial_dims = 2 if iq.shape[1] == 1 else 3
            self._candidate_net = load_candidate_net(self.candidate_weights or "", spatial_dims=spatial_dims)
        mask = keep_candidates(
            self._candidate_net, iq, correlation, noise_rms=noise_rms, threshold=self.candidate_threshold
        )
        return within_budget(mask, iq, max_sites=max_sites)


def for_engine(sparse: SparseTensor) -> Any:
    """Give the kind of tensor that belongs to its engine: TorchSparse's own, or ours as it is."""
    if sparse.engine != "torchsparse":
        return sparse
    from sparse_ulm.sparse.engines.torchsparse_engine import to_torchsparse

    return to_torchsparse(sparse)


class LoadTruthd(MapTransform):
    """Turn the truth beside a recording into the sites that its bubbles visit during the block.

    int32 rows (x, y, z, slot) on the super-resolved grid; a slot is `slot_frames` frames long, the true temporal
    stride of the network's heads.
    """

    def __init__(self, keys: KeysCollection, *, slot_frames: int, upsampling: tuple[int, int, int] | list[int]) -> None:
        """Keep the network's strides."""
        super().__init__(keys)
        self.slot_frames = slot_frames
        x, y, z = upsampling
        self.upsampling = (int(x), int(y), int(z))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Read the truth of every key; run before or after the image is loaded."""
        d = dict(data)
        for key in self.key_iterator(d):
            acquisition = d[key]
            truth = truth_of(acquisition)
            start, stop = d.get("start", 0), d.get("stop", acquisition.n_frames)
            x, y, z = (size * factor for size, factor in zip(acquisition.shape[:3], self.upsampling, strict=True))
            sites = trajectory_sites(
                truth.position_voxel,
                truth.track_id,
                truth.frame,
                factor=self.upsampling,
                shape=(x, y, z),
                stride=(1, 1, 1),
                block_start=start,
                block_stop=stop,
                temporal_stride=self.slot_frames,
                n_slots=-(-(stop - start) // self.slot_frames),
            )
            d[key] = torch.from_numpy(sites.astype(np.int32))
        return d


class RandomMirrord(Randomizable, MapTransform):
    """Mirror a sparse block and its truth along x, y and time, each with probability 1/2, and exchange x and y.

    These keep the physics: probes are symmetric in x and y (when their voxels are), and a bubble's way backwards is
    a bubble's way. Depth is left alone, since reverberation and edge waves lie behind a bubble.
    """

    def __init__(self, keys: KeysCollection, *, slot_frames: int, upsampling: tuple[int, int, int] | list[int]) -> None:
        """Take (image, label) keys and the strides between them."""
        MapTransform.__init__(self, keys)
        self.scale = (*map(int, upsampling),)
        self.slot_frames = slot_frames

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Draw three mirrorings and an exchange, and apply them to both."""
        d = dict(data)
        image_key, label_key = self.keys
        flips = [bool(self.R.rand() < 0.5) for _ in range(3)]
        image, label = d[image_key], d[label_key].clone()
        coords = image.coords.clone()
        x, y, _, t = image.spatial_range[1:]
        extents = (d["shape"][0], d["shape"][1], t)
        fine_extents = (extents[0] * self.scale[0], extents[1] * self.scale[1], t // self.slot_frames)
        for flip, column, extent, fine_extent in zip(flips, (1, 2, 4), extents, fine_extents, strict=True):
            if flip:
                coords[:, column] = extent - 1 - coords[:, column]
                label[:, column - 1] = fine_extent - 1 - label[:, column - 1]
        if x == y and d["shape"][0] == d["shape"][1] and self.R.rand() < 0.5:
            coords[:, [1, 2]] = coords[:, [2, 1]]
            label[:, [0, 1]] = label[:, [1, 0]]
        d[image_key] = SparseTensor(coords, image.feats, spatial_range=image.spatial_range, engine=image.engine)
        d[label_key] = label
        return d
