"""Try a call in a child process first: libraries in C may not raise on damaged files, but end the process or hang."""

import faulthandler
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_ulm.errors import RecordingError

PATIENCE_S = 60.0
"""For what takes milliseconds on a whole file."""


def require_survival(path: Path, call: Callable[[], Any], *, patience_s: float = PATIENCE_S) -> None:
    """Call a function in a copy of this process, and refuse the file if the copy dies of it or hangs.

    What the function returns or raises is of no account: the caller calls it again. Systems that cannot copy a process
    safely (all but Linux) go without.

    Args:
        path: File that the function reads.
        call: The function.
        patience_s: Before it counts as hanging.

    Raises:
        RecordingError: If the copy was killed by a signal, such as that of a segmentation fault, or did not end.

    Source: our choice, because HDF5 2.0 ends the process on one in thousands of files with a few flipped bits
    (tests/io/test_flipped.py).
    """
    if sys.platform != "linux":
        return
    ended, at_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; the copy runs `call` alone
        child = os.fork()
    if child == 0:
        _try_and_exit(call)
    os.close(at_end)
    try:
        poll = select.poll()
        poll.register(ended)
        is_done = bool(poll.poll(1e3 * patience_s))  # closed by the system when the child is gone
    finally:
        os.close(ended)
    if not is_done:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        found = (
            f"{signal.Signals(-status).name} inside the library that reads it" if is_done else "reading does not end"
        )
        raise RecordingError(
            f"{path.name}: damaged ({found}); wanted a complete, undamaged file. Copy or export it again."
        )


def _try_and_exit(call: Callable[[], Any]) -> None:
    """Be the child: silent, and gone without the clean-up that is the parent's."""
    try:
        faulthandler.disable()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        call()
    finally:
        os._exit(0)
