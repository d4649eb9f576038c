"""The learning rate of LocalisationNet's training."""

import math

import pytest

from sparse_ulm.localisation_handlers import warm_up_then_cosine


def test_the_rate_rises_on_a_line_and_falls_on_a_cosine() -> None:
    rates = [warm_up_then_cosine(step, n_steps=200) for step in range(201)]
    assert rates[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert rates[10] == max(rates) == pytest.approx(1.0)
    # Half of the way down, at 10 + 190 / 2 steps, the cosine has fallen to the mean of both ends.
    assert rates[105] == pytest.approx((1.0 + 0.01) / 2)
    assert rates[57] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 47 / 190)))
    assert rates[200] == pytest.approx(0.01)
    assert warm_up_then_cosine(10_000, n_steps=200) == pytest.approx(0.01)


def test_a_training_of_one_step_has_a_rate() -> None:
    assert 0 < warm_up_then_cosine(0, n_steps=1) <= 1
