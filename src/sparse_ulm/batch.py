"""A run over many recordings: what is done is kept, what fails does not stop the others, what was stopped goes on.

`OUTPUT_DIR/manifest.json` says of every recording how far it is, and what its results follow from; `summary.csv` is the
same for people. Results of single blocks wait in `OUTPUT_DIR/.unfinished/NAME/` until their recording is whole. Several
processes divide the blocks among them (`shared_blocks`).
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sparse_ulm import ranks
from sparse_ulm.acquisition import Acquisition
from sparse_ulm.block_store import BlockResult, BlockStore
from sparse_ulm.blocks import RecordingBlocks, refuse_same_names
from sparse_ulm.errors import RanksError, RecordingError, WeightsError, find_user_error
from sparse_ulm.io.atomic import whole_folder
from sparse_ulm.manifest import DONE, FAILED, UNFINISHED, Entry, Run
from sparse_ulm.provenance import sha256_file
from sparse_ulm.report import REPORT, try_report
from sparse_ulm.shared_blocks import Compute, Order, compute_together, follow, leading


@runtime_checkable
class Writer(Protocol):
    """Makes the outputs of a recording from the results of its blocks."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings that results follow from; files as `Path`, which count by what they hold."""

    def check(self, acquisition: Acquisition) -> None:
        """Refuse settings that the outputs would fail for, before a block is computed."""

    def write(self, folder: Path, acquisition: Acquisition, results: Iterator[BlockResult], *, started: float) -> None:
        """Write all outputs to an existing folder; `started` is `time.monotonic()` at the start of the work."""


def run_recordings(
    blocks: RecordingBlocks,
    writer: Writer,
    compute: Compute,
    *,
    output_dir: str | Path,
    resume: bool = True,
    force: bool = False,
    report: bool = False,
) -> list[Path]:
    """Run a method on all recordings, one after the other.

    Args:
        blocks: Of all recordings; those of the recording at hand, without those that are done, are selected.
        writer: Writes a recording's outputs.
        compute: Computes the selected blocks and saves each one's result.
        output_dir: Where `OUTPUT_DIR/NAME/` goes.
        resume: Leave alone what is done with the same settings, and go on where a run was stopped.
        force: Replace results of other settings, which are refused otherwise.
        report: Write `OUTPUT_DIR/report.html` at the end, also where recordings failed.

    Returns:
        The folders of all recordings; none on a rank that only computes for rank 0.

    Raises:
        UserError: If there is no recording, another run writes there, results of other settings lie there, or
            recordings failed: the error of the only one, or a list. Rank 0 alone raises it.
        RanksError: If another process of this run is gone.
    """
    if ranks.rank() > 0:
        follow(blocks, compute)
        return []
    with leading():
        return _lead(blocks, writer, compute, Path(output_dir), resume=resume, force=force, report=report)


def _lead(
    blocks: RecordingBlocks,
    writer: Writer,
    compute: Compute,
    output_dir: Path,
    *,
    resume: bool,
    force: bool,
    report: bool,
) -> list[Path]:
    """Run as the only process, or the first of several."""
    blocks.require()
    refuse_same_names(blocks, output_dir)
    with Run(output_dir, writer.settings, resume=resume, force=force) as run:
        for path, error in blocks.unreadable:
            run.failed(path.name, Entry(str(path), FAILED), error)
        wanted = run.wanted(blocks.by_recording())
        for acquisition, starts in wanted:
            _run_one(run, acquisition, starts, blocks, writer, compute)
        blocks.select(None)
        if report and (wanted or run.failures or not (run.output_dir / REPORT).exists()):
            try_report(run.output_dir)
        run.raise_failures()
        return [run.output_dir / name for name in blocks.by_recording()]


def _run_one(
    run: Run,
    acquisition: Acquisition,
    starts: list[int],
    blocks: RecordingBlocks,
    writer: Writer,
    compute: Compute,
) -> None:
    """Compute a recording's missing blocks and write its outputs, or note why not."""
    name, started = acquisition.name, time.monotonic()
    entry = run.entry_of(acquisition, len(starts))
    store = BlockStore(run.output_dir / UNFINISHED / name, entry.fingerprint)
    try:
        writer.check(acquisition)
        if not run.resume:
            store.remove()
        run.note(name, entry)
        missing = store.missing(starts)
        if missing:
            compute_together(Order(name, store.folder, store.fingerprint, missing), store, blocks, compute)
        with whole_folder(run.output_dir / name, temporary_in=run.output_dir / UNFINISHED) as folder:
            writer.write(folder, acquisition, store.results(starts), started=started)
            outputs = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
    except Exception as error:  # one recording must not stop the others, whatever is wrong with it
        mistake = find_user_error(error)
        if store.is_empty or isinstance(mistake, RecordingError):
            store.remove()  # a recording that was mended is another one
        if isinstance(mistake, WeightsError | RanksError):
            raise  # no other recording would fare better
        run.failed(name, replace(entry, seconds=time.monotonic() - started), error)
    else:
        store.remove()
        run.note(name, replace(entry, status=DONE, outputs=outputs, seconds=round(time.monotonic() - started, 3)))
