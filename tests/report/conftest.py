"""The folder that the report's tests look at, made once."""

import pytest
from report_cases import EVIL, make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Output folder of a run over three recordings, the names of one of which is an attack, and one of which failed."""
    return make_run(tmp_path_factory.mktemp("report"), "rec", EVIL)
