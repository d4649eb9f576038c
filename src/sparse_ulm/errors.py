"""Errors that a user can mend: one line that names what was found, what was wanted and the cure."""


class UserError(ValueError):
    """A mistake in input, options or files; commands print its one line without a traceback.

    Messages quote what files hold, and damaged ones hold anything: white space becomes single spaces, and what cannot
    be printed a question mark, so that one line stays one and no terminal obeys it.
    """

    def __init__(self, message: object = "") -> None:
        """Make one line of the message."""
        line = " ".join(str(message).split())
        super().__init__("".join(one if one.isprintable() else "?" for one in line))


class RecordingError(UserError):
    """A recording that cannot be read as asked: wrong content, missing geometry, damaged file."""


class WeightsError(UserError):
    """Network weights that are missing or do not fit the configured network."""


class RanksError(UserError):
    """Another process of the same run is gone, or does not answer."""


def find_user_error(error: BaseException | None) -> UserError | None:
    """Find the user's mistake in a chain of exceptions; MONAI wraps errors of configs once per reference."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None
