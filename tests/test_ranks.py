"""Shares of work, and what a process alone is."""

import logging
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_ulm import ranks
from sparse_ulm.distributed import device_of_rank, start_ranks
from sparse_ulm.errors import UserError


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_consecutive_whole_and_about_equal(n_items: int, n_shares: int) -> None:
    shares = [ranks.share_of(range(n_items), number, n_shares) for number in range(n_shares)]
    assert [item for share in shares for item in share] == list(range(n_items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_is_the_first_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    hook = sys.excepthook
    start_ranks(backend="auto", timeout_minutes=1)  # not by torchrun: nothing to join
    assert (ranks.rank(), ranks.n_ranks(), ranks.launched_rank()) == (0, 1, None)
    assert sys.excepthook is hook
    assert logging.root.manager.disable == 0
    value = {"a": 1}
    assert ranks.broadcast(value) is value
    assert ranks.gather(value) == [value]
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ranks.add_up(x) is x
    assert ranks.stack(x).shape == (1, 2)


def test_what_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="rank_timeout_minutes is 0; wanted a positive number"):
        start_ranks(backend="auto", timeout_minutes=0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="process 3 of this machine finds 2 GPUs; wanted one for each"):
        device_of_rank()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of_rank() == torch.device("cuda", 1)
