"""Which rule keeps the bubbles: sites kept and true bubbles lost, by rule and concentration, on simulated recordings.

    python benchmarks/sparsification.py [--vessels seg1.swc seg2.swc] [--recordings 4] [--dice WORK] [--json FILE]

Prints the machine; one table a concentration (bubbles per -6 dB volume of the point-spread function) with, per rule,
the share of voxels kept, kept sites per true bubble, the share of true bubbles whose own voxel is not kept, and of
those with nothing kept in the 3x3x3 voxels around it; and a table of how well the noise was measured, by the package
and by another way. A true bubble is one row of the truth: one bubble in one frame, its centre inside the grid. Counts
are summed over the recordings. The file of `--json` holds one table for all concentrations in their place.

The recordings are drawn as by configs/simulate.yaml (its default ranges); the same seed gives the same point-spread
functions and signal-to-noise ratios at every concentration. Carrier, correlation, noise and rules are the package's
own, with the settings of configs/inference.yaml. Published top-k counts are for 32x32 voxels x 512 frames in 2D; here
the same *share* of the voxels is kept. "True noise" rows are told the noise, which a recording does not tell. "Learned"
rows are CandidateNet's (configs/candidate_train.yaml) at some thresholds on its probability, where its weights are
found.

`--dice WORK` also trains a short 2D pruning network per rule and scores its maps (sparsification_dice.py).
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from machine import ROOT, describe_machine, machine_line, write_json
from pooling import settings_of
from sparsification_dice import dice_of_rules, dice_table, report_dice
from sparsification_tables import by_concentration, report

from sparse_ulm.conventions import IqBlock, refined_index
from sparse_ulm.networks.candidate import CandidateNet, keep_candidates, load_candidate_net
from sparse_ulm.psf import correlate, demodulate, gaussian_psf, measure_carrier
from sparse_ulm.simulation import SimulatedRecording, draw_parameters, draw_synthetic_tree, parameter_ranges
from sparse_ulm.simulation import simulate_recording as simulate
from sparse_ulm.simulation.generate import load_trees
from sparse_ulm.sparsify import NOISE_MEASURES, KeptMask, measure_noise_rms, select_sites

PUBLISHED_VOXELS = 32 * 32 * 512
RULES: dict[str, dict[str, Any]] = {
    **{f"iq_over_noise {f}, faintest": {"rule": "iq_over_noise", "noise_factor": f} for f in (2.0, 2.5, 3.0)},
    **{f"iq_over_noise {f}, differences": {"rule": "iq_over_noise", "noise_factor": f, "noise": "differences"}
       for f in (2.0, 2.5, 3.0)},
    "iq_over_noise 2.5, true noise": {"rule": "iq_over_noise", "noise_factor": 2.5, "noise": "true"},
    **{f"correlation_over_noise {f}": {"rule": "correlation_over_noise", "noise_factor": f} for f in (2.5, 3.0)},
    **{f"correlation_power {c:.2f}": {"rule": "correlation_power", "correlation_threshold": c}
       for c in (0.05, 0.10, 0.25)},
    **{f"top_k {k // 1000}k of 524k": {"rule": "top_k", "share": k / PUBLISHED_VOXELS} for k in (10_000, 50_000)},
}  # fmt: skip

LEARNED = {f"learned, p > {p}": {"rule": "learned", "candidate_threshold": p} for p in (0.1, 0.5, 0.9)}
"""Rows of the learned rule, where there are weights of it."""


@dataclass
class Count:
    """Sums over recordings: voxels, kept ones, true bubbles, those lost at their voxel and around it."""

    voxels: int = 0
    kept: int = 0
    bubbles: int = 0
    lost_own: int = 0
    lost_around: int = 0

    def add(self, mask: KeptMask, voxel: np.ndarray) -> None:
        """Count one recording; `voxel` holds rows (x, y, z, frame) of true bubbles inside the grid."""
        around = torch.nn.functional.max_pool3d(mask.permute(3, 0, 1, 2)[:, None].float(), 3, stride=1, padding=1) > 0
        x, y, z, t = torch.from_numpy(voxel).T
        self.voxels += mask.numel()
        self.kept += int(mask.sum())
        self.bubbles += len(voxel)
        self.lost_own += int((~mask[x, y, z, t]).sum())
        self.lost_around += int((~around[t, 0, x, y, z]).sum())

    def shares(self) -> dict[str, float]:
        """Turn sums into the shares that the table shows."""
        bubbles = max(self.bubbles, 1)
        return {
            "kept_share": self.kept / self.voxels,
            "sites_per_bubble": self.kept / bubbles,
            "lost_own_voxel": self.lost_own / bubbles,
            "lost_3x3x3": self.lost_around / bubbles,
        }


def select(
    rule: dict[str, Any],
    iq: IqBlock,
    correlation: IqBlock,
    *,
    noise_rms: float,
    floor_db: float,
    network: CandidateNet | None = None,
) -> KeptMask:
    """Apply one rule of `RULES` or `LEARNED` with no budget but top-k's own."""
    if rule["rule"] == "learned" and network is not None:
        return keep_candidates(network, iq, correlation, noise_rms=noise_rms, threshold=rule["candidate_threshold"])
    share = rule.get("share", 1.0)
    return select_sites(
        iq,
        correlation,
        rule=rule["rule"],
        noise_factor=rule.get("noise_factor", 0.0),
        correlation_threshold=rule.get("correlation_threshold", 0.0),
        max_sites=round(share * iq.numel()),
        floor_db=floor_db,
        noise_rms=noise_rms,
    )


def bubbles_inside(recording: SimulatedRecording) -> np.ndarray:
    """List (x, y, z, frame) of the true bubbles whose centre lies inside the grid."""
    tracks, shape = recording.tracks, recording.frames.shape
    voxel = refined_index(recording.geometry.to_voxel(tracks.position_m), 1)
    inside = ((voxel >= 0) & (voxel < np.asarray(shape[:3]))).all(axis=1)
    return np.column_stack([voxel, tracks.frame])[inside]


def measure(
    concentration: float, args: argparse.Namespace, settings: dict[str, Any], network: CandidateNet | None
) -> dict[str, Any]:
    """Simulate the recordings of one concentration and count every rule on them."""
    ranges = parameter_ranges(
        grid_size=args.grid_size, n_frames=args.frames, bubbles_per_psf_volume=concentration, n_bubbles=None
    )
    trees = load_trees(args.vessels)
    rules = RULES | (LEARNED if network is not None else {})
    counts = {name: Count() for name in rules}
    noise_ratio, difference_ratio, snr_db = [], [], []
    for index in range(args.recordings):
        rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(index,)))
        parameters = draw_parameters(rng, ranges)
        tree = trees[index % len(trees)].tree or draw_synthetic_tree(rng)
        recording = simulate(parameters, tree, rng)
        iq, correlation = prepare(recording, settings)
        noise = {measure: measure_noise_rms(iq, noise_measure=measure) for measure in NOISE_MEASURES}
        noise["true"] = recording.parameters["noise_rms"]
        voxel = bubbles_inside(recording)
        for name, rule in rules.items():
            rms = noise[rule.get("noise", "faintest")]
            mask = select(rule, iq, correlation, noise_rms=rms, floor_db=settings["floor_db"], network=network)
            counts[name].add(mask, voxel)
        noise_ratio.append(noise["faintest"] / noise["true"])
        difference_ratio.append(noise["differences"] / noise["true"])
        snr_db.append(parameters.snr_db)
    return {
        "bubbles_per_psf_volume": concentration,
        "true_bubbles": next(iter(counts.values())).bubbles,
        "faintest_over_true_noise": noise_ratio,
        "differences_over_true_noise": difference_ratio,
        "snr_db": snr_db,
        "rules": {name: count.shares() for name, count in counts.items()},
    }


def prepare(recording: SimulatedRecording, settings: dict[str, Any]) -> tuple[IqBlock, IqBlock]:
    """Take the carrier out and correlate with the nominal PSF, as transforms.CorrelateWithPsfd does."""
    iq = torch.from_numpy(recording.frames)
    iq = demodulate(iq, measure_carrier(iq))
    psf = gaussian_psf(recording.geometry, fwhm_wavelengths=tuple(settings["psf_fwhm_wavelengths"]))
    if iq.shape[1] == 1:
        psf = psf[:, psf.shape[1] // 2, None]
    return iq, correlate(iq, psf)


def candidate_weights(args: argparse.Namespace) -> Path | None:
    """Give the weights of the learned rule: those asked for, else the shipped ones, else none."""
    shipped = ROOT / "models" / ("candidate_2d.pt" if args.grid_size[1] == 1 else "candidate.pt")
    return args.candidate_weights or (shipped if shipped.is_file() else None)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vessels", nargs="+", default=["synthetic"], help="SWC files; synthetic trees by default")
    parser.add_argument("--concentrations", nargs="+", type=float, default=[0.01, 0.05, 0.2, 0.5])
    parser.add_argument("--recordings", type=int, default=4, help="per concentration")
    parser.add_argument("--grid_size", nargs=3, type=int, default=[16, 16, 16], help="voxels along x, y, z")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--candidate_weights", type=Path, help="of the learned rule; models/candidate*.pt by default")
    parser.add_argument("--dice", type=Path, metavar="WORK", help="also train per rule; what is found there is kept")
    parser.add_argument("--dice_epochs", type=int, default=6)
    parser.add_argument("--dice_candidate_weights", type=Path, help="of the learned rule in 2D, for --dice")
    parser.add_argument("--json", help="also write machine and numbers there")
    args = parser.parse_args(arguments)
    settings = yaml.safe_load((ROOT / "configs" / "inference.yaml").read_text())
    started, record = time.monotonic(), describe_machine()
    print(machine_line(record))
    size = "x".join(map(str, (*args.grid_size, args.frames)))
    print(f"{args.recordings} recordings of {size} per concentration, seed {args.seed}, vessels: {len(args.vessels)}\n")
    weights = candidate_weights(args)
    network = None if weights is None else load_candidate_net(weights, spatial_dims=2 if args.grid_size[1] == 1 else 3)
    results = [measure(concentration, args, settings, network) for concentration in args.concentrations]
    print(report(results))
    tables = {"sparsification": by_concentration(results)}
    dice: list[dict[str, Any]] | None = None
    if args.dice is not None:
        shipped = ROOT / "models" / "candidate_2d.pt"
        learned = args.dice_candidate_weights or (shipped if shipped.is_file() else None)
        dice = dice_of_rules(args.dice, vessels=args.vessels, n_epochs=args.dice_epochs, candidate_weights=learned)
        print("\n" + report_dice(dice))
        tables["sparsification_dice"] = dice_table(dice)
    minutes = (time.monotonic() - started) / 60
    settings = settings_of(args, without=("dice",))
    write_json(args.json, record, minutes=minutes, settings=settings, results=results, dice=dice, tables=tables)
    return results


if __name__ == "__main__":
    main()
