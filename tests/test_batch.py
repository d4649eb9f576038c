"""A run over recordings: what is done stays, what fails stops nobody, what was stopped goes on to the same bits."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.batch import run_recordings
from sparse_ulm.block_store import BlockResult, BlockStore
from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.errors import UserError, WeightsError
from sparse_ulm.io.registry import save_recording

GEOMETRY = Geometry.from_voxel_size(
    (1e-4, 1.1e-4, 0.9e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)


class Sums:
    """A method: the sum of every block; its output is their list."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {"factor": 2} | settings
        self.computed: list[tuple[str, int]] = []
        self.stop_at: tuple[str, int] | None = None
        self.error: BaseException = KeyboardInterrupt()

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def check(self, acquisition: Acquisition) -> None:
        if self._settings["factor"] < 0:
            raise UserError("factor is negative; wanted another.")

    def write(self, folder: Path, acquisition: Acquisition, results: Iterator[BlockResult], *, started: float) -> None:
        np.savetxt(folder / f"{acquisition.name}.txt", [one["sum"] for one in results], fmt="%.17g")
        (folder / "provenance.json").write_text("{}")

    def compute(self, blocks: RecordingBlocks, store: BlockStore) -> None:
        for item in blocks:
            place = (item["image"].name, item["core"][0])
            if place == self.stop_at:
                raise self.error
            frames = item["image"].frames(item["start"], item["stop"])
            self.computed.append(place)
            total = np.abs(frames).sum(dtype=np.float64)
            store.save(place[1], {"sum": np.asarray(self._settings["factor"] * total)})


def run(folder: Path, method: Sums, **options: Any) -> list[Path]:
    blocks = RecordingBlocks(folder / "in", block_frames=10, keep_going=True)
    return run_recordings(
        blocks, method, lambda store: method.compute(blocks, store), output_dir=folder / "out", **options
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings of 25, 10 and 31 frames."""
    rng = np.random.default_rng(1)
    for name, n_frames in (("a", 25), ("b", 10), ("c", 31)):
        frames = rng.normal(size=(2, 3, 4, 5, n_frames))
        save_recording(tmp_path / "in" / f"{name}.npz", (frames[0] + 1j * frames[1]).astype(np.complex64), GEOMETRY)
    return tmp_path


def statuses(folder: Path) -> dict[str, str]:
    with (folder / "out" / "summary.csv").open() as file:
        rows = {row["recording"]: row["status"] for row in csv.DictReader(file)}
    manifest = json.loads((folder / "out" / "manifest.json").read_text())["recordings"]
    assert rows == {name: entry["status"] for name, entry in manifest.items()}
    return rows


def outputs(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "out").glob("*/*.txt")}


def test_every_recording_is_done_and_nothing_unfinished_stays(folder: Path) -> None:
    method = Sums()
    assert [path.name for path in run(folder, method)] == ["a", "b", "c"]
    assert method.computed == [("a", 0), ("a", 10), ("a", 20), ("b", 0), *(("c", 10 * i) for i in range(4))]
    assert statuses(folder) == {"a": "done", "b": "done", "c": "done"}
    assert {p.name for p in (folder / "out").iterdir()} == {"a", "b", "c", "manifest.json", "summary.csv"}


def test_a_second_run_computes_nothing(folder: Path) -> None:
    run(folder, Sums())
    before = outputs(folder)
    again = Sums()
    assert len(run(folder, again)) == 3
    assert again.computed == []
    assert outputs(folder) == before


@pytest.mark.parametrize("place", [("a", 0), ("a", 20), ("b", 0), ("c", 30)])
def test_a_stopped_run_goes_on_and_ends_the_same(folder: Path, tmp_path_factory: Any, place: tuple[str, int]) -> None:
    method = Sums()
    method.stop_at = place
    with pytest.raises(KeyboardInterrupt):
        run(folder, method)
    rest = Sums()
    run(folder, rest)
    assert not set(rest.computed) & set(method.computed)
    assert len(rest.computed) + len(method.computed) == 8
    stopped = outputs(folder)
    run(folder, Sums(), resume=False)
    assert outputs(folder) == stopped
    assert len(stopped) == 3


class Dies(Sums):
    """Killed with no chance to tidy up, while it writes its outputs or when it moves them to their place."""

    def __init__(self, *, while_moving: bool) -> None:
        super().__init__()
        self.while_moving = while_moving

    def write(self, folder: Path, acquisition: Acquisition, results: Iterator[BlockResult], *, started: float) -> None:
        super().write(folder, acquisition, results, started=started)
        if self.while_moving:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("while_moving", [True, False])
def test_what_a_killed_run_was_writing_is_removed_by_the_next(folder: Path, while_moving: bool) -> None:
    (
        child := multiprocessing.get_context("fork").Process(target=run, args=(folder, Dies(while_moving=while_moving)))
    ).start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not list((folder / "out").glob("*/*.txt"))
    run(folder, Sums())
    assert {p.name for p in (folder / "out").iterdir()} == {"a", "b", "c", "manifest.json", "summary.csv"}
    assert {p.name for p in (folder / "out" / "a").iterdir()} == {"a.txt", "provenance.json"}


def test_a_bad_recording_stops_nobody(folder: Path) -> None:
    (folder / "in" / "b.npz").write_bytes(b"no zip")
    method = Sums()
    method.stop_at, method.error = ("a", 10), ZeroDivisionError("a bug")
    with pytest.raises(UserError, match=r"2 of 3 recordings failed, the others are done \(b\.npz: .*; a: ZeroDiv"):
        run(folder, method)
    assert statuses(folder) == {"b.npz": "failed", "a": "failed", "c": "done"}
    assert not (folder / "out" / "a").exists()
    cured = Sums()
    with pytest.raises(UserError, match="1 of 3 recordings failed"):
        run(folder, cured)
    assert cured.computed == [("a", 10), ("a", 20)]  # its first block was kept


def test_the_only_recording_s_own_error_is_raised_and_nothing_is_left(folder: Path) -> None:
    for name in ("b", "c"):
        (folder / "in" / f"{name}.npz").unlink()
    with pytest.raises(UserError, match=r"^factor is negative"):
        run(folder, Sums(factor=-1))
    assert not (folder / "out").exists()


def test_the_summary_stays_where_all_failed(folder: Path) -> None:
    with pytest.raises(UserError, match=r"3 of 3 recordings failed \(a: .*summary\.csv lists all"):
        run(folder, Sums(factor=-1))
    assert statuses(folder) == {"a": "failed", "b": "failed", "c": "failed"}


def test_wrong_weights_end_the_run_at_once(folder: Path) -> None:
    method = Sums()
    method.stop_at, method.error = ("a", 0), WeightsError("weights do not fit")
    with pytest.raises(WeightsError):
        run(folder, method)
    assert method.computed == []
    assert not (folder / "out").exists()


def test_results_of_other_settings_are_refused_unless_forced(folder: Path) -> None:
    run(folder, Sums())
    with pytest.raises(UserError, match=r"out/a holds results of other settings.*--force true"):
        run(folder, Sums(factor=3))
    kept = outputs(folder)
    run(folder, Sums(factor=4), force=True)
    np.testing.assert_allclose(np.loadtxt(folder / "out/a/a.txt"), 2 * np.array(kept["a.txt"].split(), dtype=float))


def test_other_weights_are_other_settings(folder: Path) -> None:
    weights = folder / "weights.pt"
    weights.write_bytes(b"one")
    run(folder, Sums(weights=weights))
    weights.write_bytes(b"two")
    with pytest.raises(UserError, match="holds results of other settings"):
        run(folder, Sums(weights=weights))


@pytest.mark.parametrize("change", ["recording", "output", "lost"])
def test_what_changed_since_is_made_again(folder: Path, change: str) -> None:
    run(folder, Sums())
    made = folder / "out" / "b" / "b.txt"
    if change == "recording":
        state = (folder / "in" / "b.npz").stat()
        os.utime(folder / "in" / "b.npz", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    elif change == "output":
        made.write_text("3\n")
    else:
        made.unlink()
    again = Sums()
    run(folder, again, force=change == "recording")
    assert again.computed == [("b", 0)]
    assert made.read_text() != "3\n"


def test_a_changed_chunk_of_a_folder_is_another_recording(folder: Path) -> None:
    """The folder's own size and time stay the same when a chunk in it is written again."""
    shutil.copytree(Path(__file__).parent / "io" / "data" / "confusius_0_8_0.zarr", folder / "in" / "d.zarr")
    run(folder, Sums())
    again = Sums()
    run(folder, again)
    assert again.computed == []
    chunk = folder / "in" / "d.zarr" / "iq" / "c" / "0" / "0" / "0" / "0"
    os.utime(chunk, ns=(0, chunk.stat().st_mtime_ns + 10**9))
    run(folder, again, force=True)
    assert again.computed == [("d", 0)]
    chunk.unlink()
    with pytest.raises(UserError, match=r"d\.zarr: 1 of 2 chunks of iq are missing"):
        run(folder, Sums())


def test_two_runs_into_one_folder_are_refused(folder: Path) -> None:
    class Meanwhile(Sums):
        def check(self, acquisition: Acquisition) -> None:
            with pytest.raises(UserError, match=r"another run is writing to .*out"):
                run(folder, Sums())

    assert len(run(folder, Meanwhile())) == 3


def test_results_without_a_manifest_are_not_replaced(folder: Path) -> None:
    (folder / "out" / "b").mkdir(parents=True)
    (folder / "out" / "b" / "provenance.json").write_text("{}")
    with pytest.raises(UserError, match=r"out/b holds results"):
        run(folder, Sums())
    assert {p.name for p in (folder / "out").iterdir()} == {"b"}


@pytest.mark.parametrize("text", ["", "[]", '{"recordings": {"a": {"colour": 1}}}', '{"recordings": 3}'])
def test_a_manifest_of_others_is_refused(folder: Path, text: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is no manifest of ours"):
        run(folder, Sums())
    assert (folder / "out" / "manifest.json").read_text() == text
    assert [path.name for path in (folder / "out").iterdir()] == ["manifest.json"]
