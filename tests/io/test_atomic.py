"""Files appear whole or not at all."""

import os
import stat

import pytest

from sparse_ulm.errors import UserError
from sparse_ulm.io import atomic_path


def test_file_appears_under_its_name_only_when_done(tmp_path):
    target = tmp_path / "deep" / "map.run-1.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_error_keeps_the_old_file_and_removes_the_new(tmp_path):
    target = tmp_path / "map.nii"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["map.nii"]


def test_result_has_the_permissions_of_an_ordinary_file(tmp_path):
    ordinary = tmp_path / "ordinary.txt"
    ordinary.write_text("")
    with atomic_path(tmp_path / "ours.txt") as temporary:
        temporary.write_text("")
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (ordinary, tmp_path / "ours.txt")]
    assert modes[0] == modes[1]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a.json") as first, atomic_path(tmp_path / "a.json") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a.json").read_text() == "1"


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as error, atomic_path(tmp_path / "file" / "map.nii"):
        pass
    assert "\n" not in str(error.value)
