"""A message is one printable line, whatever a damaged file put into it."""

import pickle

import pytest

from sparse_ulm.errors import RecordingError, UserError, find_user_error


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("rec.mat: holds 'a\n b'; wanted IQ.", "rec.mat: holds 'a b'; wanted IQ."),
        ("name \x1b[2J\x00 of \ud800", "name ?[2J? of ?"),
        ("Größe 3 × 4 µm", "Größe 3 × 4 µm"),
    ],
)
def test_a_message_is_one_printable_line(message: str, line: str) -> None:
    assert str(RecordingError(message)) == line
    assert str(pickle.loads(pickle.dumps(RecordingError(message)))) == line


def test_the_mistake_is_found_in_what_was_raised_of_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("of MONAI") from UserError("wanted one")
    assert str(find_user_error(caught.value)) == "wanted one"
    assert find_user_error(RuntimeError("a bug")) is None
    assert find_user_error(None) is None
