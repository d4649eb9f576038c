"""What training LocalisationNet needs beyond MONAI's own: its learning rate, a bound on its gradients, its metric."""

import math
from collections.abc import Callable
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from sparse_ulm.metrics import match_frames
from sparse_ulm.metrics.localisations import inside

WARM_UP_SHARE = 0.05
LAST_SHARE = 0.01


def warm_up_then_cosine(step: int, *, n_steps: int) -> float:
    """Give the share of the learning rate at a step: up a straight line first, then down a cosine to 1 %.

    Full steps into an untrained head throw its likelihood far away (`ClipGradients`), so that the first ones are small.

    Args:
        step: Of the optimiser, from 0.
        n_steps: Of the whole training.
    """
    n_warm_up = max(1.0, WARM_UP_SHARE * n_steps)
    if step < n_warm_up:
        return (step + 1) / (n_warm_up + 1)
    way = min(1.0, (step - n_warm_up) / max(1.0, n_steps - n_warm_up))
    return LAST_SHARE + (1.0 - LAST_SHARE) * 0.5 * (1.0 + math.cos(math.pi * way))


class ClipGradients:
    """Handler: scale the gradients of a step down to a largest norm; MONAI's trainer has no such option.

    The likelihood of an offset grows without bound where the network is sure and wrong, as it is in its first steps:
    without the bound a training was lost in its first epoch (docs/decisions/0005).

    Args:
        network: Whose gradients.
        largest_norm: Of all of them together.
    """

    def __init__(self, network: torch.nn.Module, *, largest_norm: float) -> None:
        """Keep both."""
        self.network, self.largest_norm = network, largest_norm

    def attach(self, engine: Engine) -> None:
        """Act between the backward pass and the optimiser's step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Scale."""
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.largest_norm)


class LocalisationScore(Metric):
    """Jaccard index of bubbles within a gate, pooled over all validation blocks: TP / (TP + FP + FN), one-to-one.

    Bubbles outside of the grid are left out on both sides.

    Args:
        threshold: A summit is a bubble when its confidence exceeds this (`localise.find_summits`).
        gate_wavelengths: 0.25 for PALA's true positives.
    """

    def __init__(
        self,
        *,
        threshold: float,
        gate_wavelengths: float,
        output_transform: Callable[..., Any] = lambda output: output,
    ) -> None:
        """Keep the settings; counts start at zero."""
        self.threshold, self.gate_wavelengths = threshold, gate_wavelengths
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all counts."""
        self._pairs, self._union = 0, 0

    def iteration_completed(self, engine: Engine) -> None:
        """Count the samples of one batch (ignite's hook; the geometry stands in the batch, not in the output)."""
        state: Any = engine.state
        for item, sample in zip(state.batch, state.output, strict=True):
            self.update((sample[Keys.PRED], sample[Keys.LABEL], item["geometry"], item["shape"]))

    def update(self, output: Any) -> None:
        """Add the counts of one block."""
        table, label, geometry, shape = output
        found = table[table[:, 4] > self.threshold].double().cpu().numpy()
        truth = label.double().cpu().numpy()
        grid: dict[str, Any] = {"voxel_size_m": geometry.voxel_size_m, "shape": tuple(shape), "margin_m": 0.0}
        found, truth = found[inside(found[:, 1:4], **grid)], truth[inside(truth[:, :3], **grid)]
        matching = match_frames(
            found[:, 0].astype("int64"),
            geometry.to_scanner_m(found[:, 1:4]),
            truth[:, 3].astype("int64"),
            geometry.to_scanner_m(truth[:, :3]),
            gate_m=self.gate_wavelengths * geometry.wavelength_m,
        )
        n_pairs = len(matching.pairs)
        self._pairs += n_pairs
        self._union += len(found) + len(truth) - n_pairs

    def compute(self) -> float:
        """Return the pooled Jaccard index in [0, 1], of all ranks; 1 where nothing was to be found, and nothing was."""
        counts = idist.all_reduce(torch.tensor([self._pairs, self._union], dtype=torch.float64))
        pairs, union = cast(torch.Tensor, counts).tolist()
        return pairs / union if union else 1.0
