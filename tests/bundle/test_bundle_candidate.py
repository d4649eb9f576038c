"""configs/candidate_train.yaml, small: weights come out that the learned rule takes."""

import pytest
from bundle_runs import run_config

from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.networks.candidate import load_candidate_net
from sparse_ulm.simulation import ParameterRanges, write_recordings
from sparse_ulm.workflow import find_user_error


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_weights_come_out(spatial_dims, tmp_path):
    ranges = ParameterRanges(
        grid_size=(8, 7 if spatial_dims == 3 else 1, 9), n_frames=20, bubbles_per_psf_volume=(0.1, 0.1),
        snr_db=(20.0, 20.0), side_lobe_share=0.0,
    )  # fmt: skip
    for part, seed in (("train", 1), ("validation", 2)):
        write_recordings(
            tmp_path / part, n_recordings=1, vessels="synthetic", seed=seed, ranges=ranges, file_format="npz"
        )
    workflow = run_config(
        "candidate_train.yaml", workflow_type="train", dataset_dir=tmp_path, output_dir=tmp_path / "run",
        spatial_dims=spatial_dims, n_epochs=2, steps_per_epoch=3, validation_blocks=1, block_frames=10, n_threads=1,
    )  # fmt: skip
    assert len(RecordingBlocks(tmp_path / "train", block_frames=10)) == 2
    assert workflow.parser.get_parsed_content("train#trainer").state.iteration == 6
    load_candidate_net(tmp_path / "run/model.pt", spatial_dims=spatial_dims)


def test_missing_data_is_told(tmp_path):
    with pytest.raises(Exception) as caught:
        run_config("candidate_train.yaml", workflow_type="train", dataset_dir=tmp_path, output_dir=tmp_path / "run")
    assert "Pass --dataset_dir" in str(find_user_error(caught.value))
