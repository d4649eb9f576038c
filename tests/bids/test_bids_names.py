"""BIDS names: kept where a recording has one, asked for where it has none, never shared."""

import pytest

from sparse_ulm.bids.names import ENTITIES, entities_of, file_name, folder_of
from sparse_ulm.errors import UserError


def test_a_recording_with_a_bids_name_keeps_all_of_it_but_the_suffix():
    found = entities_of(["sub-01_ses-b_task-rest_run-2_pwd", "sub-02"], {})
    assert found == {"sub-01_ses-b_task-rest_run-2_pwd": "sub-01_ses-b_task-rest_run-2", "sub-02": "sub-02"}


def test_names_that_are_given_come_first():
    assert entities_of(["rat7", "sub-01_pwd"], {"rat7": "sub-07", "sub-01_pwd": "sub-01_ses-2"}) == {
        "rat7": "sub-07",
        "sub-01_pwd": "sub-01_ses-2",
    }


@pytest.mark.parametrize(
    "name", ["rat7", "sub-0_1", "ses-1_sub-2", "sub-01_desc-filtered_pwd", "sub-01_sub-02", "sub-"]
)
def test_no_subject_is_guessed_from_a_name_that_is_none(name):
    with pytest.raises(UserError, match="No subject is guessed"):
        entities_of([name], {})


@pytest.mark.parametrize("given", ["07", "sub-07/../../x", "sub-07_desc-a", "sub-é"])
def test_pairs_that_are_no_bids_name_are_refused(given):
    with pytest.raises(UserError, match="names says"):
        entities_of(["rat7"], {"rat7": given})


def test_two_recordings_cannot_share_a_name_and_no_other_can_be_named():
    with pytest.raises(UserError, match=r"one more pair, as .*sub-01_run-2"):
        entities_of(["sub-01_pwd", "rat7"], {"rat7": "sub-01"})
    with pytest.raises(UserError, match="names has 'rat8'; wanted some of rat7"):
        entities_of(["rat7"], {"rat8": "sub-08"})


def test_places_of_files():
    assert folder_of("sub-01_ses-2_run-3").as_posix() == "sub-01/ses-2/angio"
    assert folder_of("sub-01_task-rest").as_posix() == "sub-01/angio"
    assert file_name("sub-01_run-3", "axial_velocity", ".nii.gz") == "sub-01_run-3_desc-axialVelocity_ulm.nii.gz"
    assert ENTITIES.fullmatch("sub-01_run-3_desc-x") is None
