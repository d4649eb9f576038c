"""Trainer and evaluator for batches of sparse samples."""

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from sparse_ulm import ranks
from sparse_ulm.batch import run_recordings
from sparse_ulm.batching import split_output
from sparse_ulm.block_store import BlockStore
from sparse_ulm.errors import UserError
from sparse_ulm.map_writer import MapWriter
from sparse_ulm.shared_training import average_gradients, start_together
from sparse_ulm.sparse import stored_as
from sparse_ulm.sparse.threads import lend_threads
from sparse_ulm.track_writer import TrackWriter


class _SparseDecollate:
    """Split batch and output of an engine into one dictionary per sample, so that MONAI's handlers work unchanged.

    MONAI's own decollate raises on anything that is not a tensor, and switching it off makes StatsHandler and
    TensorBoard silently print no loss.
    """

    def _register_decollate(self: Any) -> None:
        @self.on(IterationEvents.MODEL_COMPLETED)
        def _split(engine: Engine) -> None:
            state: Any = engine.state  # ignite declares batch and output as numbers
            batch: dict[str, Any] = state.batch
            output: dict[str, Any] = state.output
            n_samples = len(batch["recording"])
            lists = {key: value for key, value in batch.items() if isinstance(value, list)}
            state.batch = [{key: value[i] for key, value in lists.items()} for i in range(n_samples)]
            tables = split_output(output[Keys.PRED], n_samples)
            label = output.get(Keys.LABEL)
            state.output = []
            for i in range(n_samples):
                sample: dict[str, Any] = {Keys.PRED: tables[i]}
                if label is not None:
                    sample[Keys.LABEL] = label[label[:, 0] == i][:, 1:]
                if Keys.LOSS in output:
                    sample[Keys.LOSS] = output[Keys.LOSS].detach()
                state.output.append(sample)


class _LendThreads:
    """Give the step's threads to the sparse loops alone; loading and preparing blocks keep theirs."""

    def _iteration(self: Any, engine: Engine, batchdata: Any) -> Any:
        with lend_threads():
            return super()._iteration(engine, batchdata)  # type: ignore[misc]


class SparseTrainer(_LendThreads, _SparseDecollate, SupervisedTrainer):
    """MONAI's supervised trainer for sparse batches; tells its loader the epoch, where that wants to know.

    Several ranks take the same steps, each from blocks of its own (`shared_training`).
    """

    def __init__(self, *args: Any, stored_activations: str = "float32", **kwargs: Any) -> None:
        """Make MONAI's trainer.

        Args:
            *args: MONAI's.
            stored_activations: "float32" or "bfloat16": how features wait for the backward pass (`kept.stored_as`).
            **kwargs: MONAI's.

        Raises:
            UserError: If `stored_activations` is neither.
        """
        with stored_as(stored_activations):
            super().__init__(*args, **kwargs)
        self.stored_activations = stored_activations
        self.add_event_handler(Events.EPOCH_STARTED, self._announce_epoch)

    def _iteration(self, engine: Engine, batchdata: Any) -> Any:
        with stored_as(self.stored_activations):
            return super()._iteration(engine, batchdata)

    def _announce_epoch(self) -> None:
        if hasattr(self.data_loader, "set_epoch"):
            self.data_loader.set_epoch(self.state.epoch)

    def run(self) -> None:  # type: ignore[override]
        """Train; refuse an empty data set first."""
        require_blocks(self.data_loader)
        start_together(self.network)
        super().run()

    def fire_event(self, event_name: Any) -> None:
        """Average gradients over ranks before a handler sees them, such as one that bounds them."""
        if event_name == IterationEvents.BACKWARD_COMPLETED:
            average_gradients(self.network.parameters())
        super().fire_event(event_name)


class SparseEvaluator(_LendThreads, _SparseDecollate, SupervisedEvaluator):
    """MONAI's supervised evaluator for sparse batches."""

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Evaluate; refuse an empty data set first."""
        require_blocks(self.data_loader)
        super().run(global_epoch=global_epoch)


class RecordingsEvaluator(SparseEvaluator):
    """Evaluator that answers recording by recording and writes each one's outputs (`batch.run_recordings`).

    Its data are `RecordingBlocks` with `keep_going`, one block per batch or more.
    """

    store: BlockStore
    """Of the recording at hand, set by `run`."""

    def __init__(
        self,
        *args: Any,
        writer: MapWriter | TrackWriter,
        output_dir: str | Path,
        resume: bool = True,
        force: bool = False,
        report: bool = False,
        **kwargs: Any,
    ) -> None:
        """Make MONAI's evaluator.

        Args:
            *args: MONAI's.
            writer: Takes what there is to keep from every answer, and writes the outputs.
            output_dir: Where `OUTPUT_DIR/NAME/` goes.
            resume: Leave alone what is done, and go on where a run was stopped.
            force: Replace results of other settings.
            report: Write `OUTPUT_DIR/report.html` at the end.
            **kwargs: MONAI's.
        """
        super().__init__(*args, **kwargs)
        self.writer, self.output_dir, self.resume, self.force = writer, output_dir, resume, force
        self.report = report
        self.add_event_handler(Events.ITERATION_COMPLETED, self._keep)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Answer all recordings; what fails does not stop the others."""
        loader: Any = self.data_loader

        def compute(store: BlockStore) -> None:
            self.store = store
            self.state.epoch_length = len(loader)
            # A run that raised leaves ignite a dead generator, from which the next one would take no block at all.
            self._internal_run_generator = None
            super(RecordingsEvaluator, self).run(global_epoch)

        run_recordings(
            loader.dataset.data,
            self.writer,
            compute,
            output_dir=self.output_dir,
            resume=self.resume,
            force=self.force,
            report=self.report,
        )

    def _keep(self, engine: Engine) -> None:
        state: Any = engine.state
        for item, sample in zip(state.batch, state.output, strict=True):
            self.store.save(item["core"][0], self.writer.result_of(sample[Keys.PRED], item))


def require_blocks(loader: Any) -> None:
    """Refuse a loader whose data set holds no block.

    Raises:
        UserError: If it is empty; the folder's own message where the data set knows its folder.
    """
    data = getattr(loader.dataset, "data", None)
    if data is not None and hasattr(data, "require"):
        data.require()
    if len(loader.dataset) == 0:
        raise UserError("the data set holds no block; wanted at least one. Check the dataset folder.")
    if getattr(loader, "over_ranks", False) and len(loader.dataset) < ranks.n_ranks():
        raise UserError(
            f"{ranks.n_ranks()} processes share {len(loader.dataset)} blocks; wanted at least one for each. Lower "
            "--nproc_per_node, or put more recordings into the dataset folder."
        )


def prepare_batch(
    batchdata: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Any, torch.Tensor | None]:
    """Move a sparse batch and its truth to the device; the truth is None in inference."""
    label = batchdata.get(Keys.LABEL)
    image = batchdata[Keys.IMAGE].to(device)
    return image, label if label is None else label.to(device, non_blocking=non_blocking)
