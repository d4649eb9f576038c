"""What a rule's choice of voxels is worth in the end: a short 2D training per rule, and the Dice of its maps.

Part of sparsification.py. Every rule gets the same recordings, seed and number of epochs, by configs/train.yaml with
`variant: pruning`; recordings, trainings and scores are kept in the work folder, so that a second call trains nothing.
Its scores are those of short trainings: they tell rules apart, not what a network can reach.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pooling import Table, markdown, table
from referee import config_values, make_recordings
from trainings import Training, data_folder, evaluate, train

GRID_SIZE, N_FRAMES = [48, 1, 48], 128
N_RECORDINGS = {"train": 40, "validation": 6}
CONCENTRATIONS = (0.05, 0.2)
VOXELS = 48 * 48 * 128
PUBLISHED_VOXELS = 32 * 32 * 512
RULES: dict[str, dict[str, Any]] = {
    **{f"iq_over_noise 2.5, {noise}": {"site_rule": "iq_over_noise", "noise_factor": 2.5, "noise_measure": noise}
       for noise in ("faintest", "differences")},
    **{f"correlation_power {c:.2f}": {"site_rule": "correlation_power", "correlation_threshold": c}
       for c in (0.10, 0.25)},
    **{f"top_k {k // 1000}k of 524k": {"site_rule": "top_k", "max_sites": round(k / PUBLISHED_VOXELS * VOXELS)}
       for k in (10_000, 50_000)},
}  # fmt: skip


def dice_of_rules(
    work: Path, *, vessels: Sequence[str], n_epochs: int, candidate_weights: Path | None
) -> list[dict[str, Any]]:
    """Train and score one network per rule, or find that done.

    Args:
        work: Where everything is kept.
        vessels: SWC files or "synthetic"; the validation recordings come from the last one.
        n_epochs: Of every training.
        candidate_weights: Of the learned rule in 2D; None leaves it out.

    Returns:
        Per rule: `rule`, `cpu_minutes`, `dice_lambda_10` by concentration.
    """
    common = {"grid_size": GRID_SIZE, "n_frames": N_FRAMES}
    training_set = make_recordings(
        work, vessels=vessels[:-1] or vessels, seed=11, n_recordings=N_RECORDINGS["train"],
        bubbles_per_psf_volume=[0.02, 0.5], **common,
    )  # fmt: skip
    validation_sets = {
        concentration: make_recordings(
            work, vessels=vessels[-1:], seed=12, n_recordings=N_RECORDINGS["validation"],
            bubbles_per_psf_volume=[concentration] * 2, **common,
        )
        for concentration in CONCENTRATIONS
    }  # fmt: skip
    data = data_folder(work, train=training_set, validation=validation_sets[CONCENTRATIONS[0]])
    rows = []
    for rule, training in trainings_of_rules(work, n_epochs, candidate_weights).items():
        done = train(work, training, data)
        weights = done["folder"] / "model.pt"
        scores = {c: evaluate(work, training, weights, folder) for c, folder in validation_sets.items()}
        dice = {c: score["dice_lambda_10"] for c, score in scores.items()}
        rows.append({"rule": rule, "cpu_minutes": done["cpu_minutes"], "dice_lambda_10": dice})
    return rows


def trainings_of_rules(work: Path, n_epochs: int, candidate_weights: Path | None) -> dict[str, Training]:
    """Give the training of every rule; the learned one reads its weights by a config that lies over train.yaml."""
    common = {
        "spatial_dims": 2,
        "variant": "pruning",
        "n_epochs": n_epochs,
        "val_interval": n_epochs,
        "block_frames": N_FRAMES,
    }
    trainings = {rule: Training(("train.yaml",), common | options) for rule, options in RULES.items()}
    if candidate_weights is not None:
        steps = config_values("train.yaml")["preprocessing"]["transforms"]
        index = next(i for i, step in enumerate(steps) if step["_target_"].endswith("ToSparseTensord"))
        overlay = work / "learned_rule.yaml"
        work.mkdir(parents=True, exist_ok=True)
        place = f"preprocessing#transforms#{index}#candidate_weights"
        overlay.write_text(yaml.safe_dump({"site_rule": "learned", place: str(candidate_weights.resolve())}))
        trainings["learned, p > 0.5"] = Training(("train.yaml", str(overlay.resolve())), common)
    return trainings


def dice_table(rows: list[dict[str, Any]]) -> Table:
    """Lay the rules out."""
    concentrations = list(rows[0]["dice_lambda_10"])
    header = ("rule", *(f"Dice λ/10 at {c}" for c in concentrations), "CPU minutes to train")
    lines = [
        (row["rule"], *(f"{row['dice_lambda_10'][c]:.3f}" for c in concentrations), f"{row['cpu_minutes']:.1f}")
        for row in rows
    ]
    return table(header, lines)


def report_dice(rows: list[dict[str, Any]]) -> str:
    """Write the table under its title."""
    return f"### Dice of a short 2D training per rule\n\n{markdown(dice_table(rows))}"
