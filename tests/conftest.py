"""What tests of several folders share."""

from collections.abc import Iterator

import pytest

from sparse_ulm.sparse.engines.kernels import use_kernel


@pytest.fixture(params=["compiled", "torch"])
def each_kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with each arithmetic of the native engine."""
    with use_kernel(request.param):
        yield request.param
