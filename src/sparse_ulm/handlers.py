"""Handlers that our workflows need beyond MONAI's own: schedule, checkpoints, weights, metric, maps."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys as Keys

from sparse_ulm import ranks
from sparse_ulm.checkpoint import fit_weights, load_weights, read_checkpoint, tensors_of, write_checkpoint
from sparse_ulm.errors import WeightsError
from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.metrics import overlap_counts, scores_from_counts
from sparse_ulm.networks.trajectory_map import N_REFINEMENTS, TrajectoryMapNet


class TrainingSchedule:
    """Phases by epoch: the cascade's heads one after the other, dilated targets first, no forgiveness last.

    Args:
        network: Its `phase` is set; only for TrajectoryMapNet's variant "cascade".
        loss: Its `dilate` and `tolerant` are set.
        cascade_epochs: Epochs for the first head alone, then for the first two, then for all three; the whole network
            from then on ([1, 1, 1]: Rauby et al., released code).
        dilate_epochs: Epochs with targets grown by one voxel, counted from the first.
        exact_epochs: Last epochs whose loss forgives no distance: our choice, because a tolerant loss finds vessels
            sooner and draws them wider.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        loss: MultiScaleDiceLoss,
        *,
        cascade_epochs: Sequence[int],
        dilate_epochs: int,
        exact_epochs: int = 0,
    ) -> None:
        """Keep what is scheduled."""
        self.network, self.loss = network, loss
        self.cascade_epochs, self.dilate_epochs = list(cascade_epochs), dilate_epochs
        self.exact_epochs = exact_epochs

    def attach(self, engine: Engine) -> None:
        """Act at the start of every epoch, also of the first one after a resume."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set phase and targets of this epoch."""
        epoch = engine.state.epoch
        self.loss.dilate = epoch <= self.dilate_epochs
        self.loss.tolerant = epoch <= int(engine.state.max_epochs or 0) - self.exact_epochs
        if isinstance(self.network, TrajectoryMapNet) and self.network.variant == "cascade":
            ends = torch.tensor(self.cascade_epochs).cumsum(0)
            self.network.set_phase(min(int((epoch > ends).sum()), N_REFINEMENTS))


class Checkpoints:
    """Keep `last.pt` after every epoch, `model.pt` whenever the validation figure improves, and resume from `last.pt`.

    MONAI's CheckpointSaver forgets the best figure when training resumes, so that the first epoch after it overwrites
    a better model; this one stores it, with the random state, and writes atomically. Of several ranks the first one
    reads and writes for all.

    Args:
        directory: Where both files go.
        network: Its weights go to both files under "model"; `model.pt` holds nothing else than tensors.
        optimizer: Stored in `last.pt`.
        scheduler: Stored in `last.pt`; None for none.
        evaluator: Its metric `key_metric` decides what is better; larger is better.
        resume: Load `last.pt` when it exists.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        evaluator: Engine,
        key_metric: str,
        resume: bool,
    ) -> None:
        """Keep what is stored; nothing is read or written yet."""
        self.directory = Path(directory)
        self.parts: dict[str, Any] = {"model": network, "optimizer": optimizer}
        if scheduler is not None:
            self.parts["scheduler"] = scheduler
        self.evaluator, self.key_metric, self.resume = evaluator, key_metric, resume
        self.schedule_length = getattr(scheduler, "T_max", None)
        self.best = -1.0
        self.cpu_minutes_before = 0.0

    def attach(self, engine: Engine) -> None:
        """Load before training, save after every epoch; attach it after the validation handler."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Continue from `last.pt` where it exists and `resume` is set."""
        path = self.directory / "last.pt"
        found = read_checkpoint(path) if self.resume and ranks.rank() == 0 and path.exists() else None
        state = ranks.broadcast(found)
        if state is None:
            return
        fit_weights(self.parts["model"], tensors_of(state, path), path)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"training cannot resume from {path} ({error}); wanted the last.pt of a run with the same settings. "
                "Choose another --output_dir, or start anew with --resume false."
            ) from error
        self._prolong(state)
        torch.set_rng_state(state["torch_rng"])
        self.best = float(state["best"])
        self.cpu_minutes_before = float(state["cpu_minutes"])
        engine.state.epoch = int(state["epoch"])
        engine.state.iteration = int(state["epoch"]) * int(engine.state.epoch_length or 0)

    def _prolong(self, state: dict[str, Any]) -> None:
        """Let the schedule's length be the config's, where a finished run is taken up with more epochs."""
        scheduler = self.parts.get("scheduler")
        if scheduler is None or self.schedule_length == state["scheduler"].get("T_max"):
            return
        scheduler.T_max = self.schedule_length
        # Stepping goes on from the last rate, which belongs to the old length.
        for group, rate in zip(self.parts["optimizer"].param_groups, scheduler._get_closed_form_lr(), strict=True):
            group["lr"] = rate

    def save(self, engine: Engine) -> None:
        """Write `last.pt`, and `model.pt` if this epoch's validation is the best so far."""
        figure = self.evaluator.state.metrics.get(self.key_metric, float("nan"))
        if self.evaluator.state.epoch == engine.state.epoch and float(figure) > self.best:
            self.best = float(figure)
            self._write("model.pt", {"model": self.parts["model"].state_dict()})
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state.update(epoch=engine.state.epoch, best=self.best, torch_rng=torch.get_rng_state())
        state["cpu_minutes"] = self.cpu_minutes_before + sum(ranks.gather(time.process_time())) / 60.0
        self._write("last.pt", state)

    def _write(self, name: str, state: dict[str, Any]) -> None:
        if ranks.rank() == 0:
            write_checkpoint(self.directory / name, state)


class LoadWeights:
    """Handler: load weights when the engine starts.

    Args:
        network: Takes them.
        path: A checkpoint; None leaves the network as it is.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path | None) -> None:
        """Keep network and path."""
        self.network, self.path = network, path

    def attach(self, engine: Engine) -> None:
        """Load at the start of the run."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights."""
        if self.path is not None:
            load_weights(self.network, self.path)


class LazySummaryWriter:
    """TensorBoard writer that makes its file when the first value comes; one serves the trainer and the evaluator.

    MONAI's handlers make theirs when the config is parsed, so that a run refused for its data, or a config that is
    only inspected, left an output folder behind. Of several ranks the first one alone writes.

    Args:
        log_dir: Folder of the event file.
    """

    def __init__(self, log_dir: str | Path) -> None:
        """Keep the folder; nothing is written."""
        self.log_dir = log_dir
        self._writer: Any = None

    def __getattr__(self, name: str) -> Any:
        """Hand everything to torch's writer, made on first use."""
        if name.startswith("_"):
            raise AttributeError(name)
        if ranks.rank() > 0:
            return _write_nothing
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(self.log_dir))
        return getattr(self._writer, name)


def _write_nothing(*_: Any, **__: Any) -> None:
    """Stand for every method of a writer."""


class MapDice(Metric):
    """Dice of the final maps pooled over all validation blocks: voxel exact, or within a tenth of the wavelength.

    Args:
        threshold: A voxel is predicted when its probability exceeds this.
        tolerance_wavelengths: 0 for voxel exact; 0.1 is the founders' tolerance.
    """

    def __init__(
        self,
        *,
        threshold: float,
        tolerance_wavelengths: float,
        upsampling: tuple[int, int, int] | list[int],
        output_transform: Callable[..., Any] = lambda output: output,
    ) -> None:
        """Keep the settings; counts start at zero."""
        self.threshold = threshold
        self.tolerance_wavelengths = tolerance_wavelengths
        self.upsampling = tuple(upsampling)
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all counts."""
        self._counts = torch.zeros(4, dtype=torch.float64)

    def iteration_completed(self, engine: Engine) -> None:
        """Count the samples of one batch (ignite's hook; the geometry stands in the batch, not in the output)."""
        state: Any = engine.state
        for item, sample in zip(state.batch, state.output, strict=True):
            self.update((sample[Keys.PRED], sample[Keys.LABEL], item["geometry"]))

    def update(self, output: Any) -> None:
        """Add the counts of one block: predicted voxels, true voxels, and how many of each find a partner."""
        table, label, geometry = output
        predicted = table[table[:, 3] > self.threshold][:, :3].long().cpu().numpy()
        truth = torch.unique(label[:, :3], dim=0).long().cpu().numpy()
        fine = geometry.refined(self.upsampling)
        tolerance_m = self.tolerance_wavelengths * geometry.wavelength_m
        self._counts += torch.tensor(
            overlap_counts(predicted, truth, voxel_size_m=fine.voxel_size_m, tolerance_m=tolerance_m),
            dtype=torch.float64,
        )

    def compute(self) -> float:
        """Return the pooled Dice in [0, 1], of the blocks of all ranks."""
        counts = cast(torch.Tensor, idist.all_reduce(self._counts.clone()))
        return scores_from_counts(*counts.tolist())["dice"]


class ProgressLine:
    """Handler: a progress bar over the blocks of every epoch (tqdm), silent when the output is no terminal."""

    def attach(self, engine: Engine) -> None:
        """Attach ignite's bar with the loss, where there is one, beside it."""
        is_shown = sys.stderr.isatty() and ranks.rank() == 0
        ProgressBar(persist=False, disable=not is_shown).attach(
            engine, output_transform=lambda output: {"loss": float(output[0]["loss"])} if "loss" in output[0] else {}
        )
