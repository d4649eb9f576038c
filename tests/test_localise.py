"""Summits of the probability, and what their neighbours agree on: by hand and by brute force."""

import numpy as np
import pytest
import torch

from sparse_ulm.localise import AGREEMENT_VOXELS, LEAST_PROBABILITY, find_summits, to_localisations
from sparse_ulm.networks.localisation import LOG_DEVIATION, LOGIT, N_OUTPUTS, OFFSET, LocalisationOutput
from sparse_ulm.sparse import SparseTensor

RANGE = (2, 6, 7, 8, 5)


@pytest.mark.parametrize("spatial_range", [(2, 5, 6, 7, 3), (2, 9, 1, 8, 4)])
def test_summits_are_those_of_brute_force(spatial_range: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    coords = (torch.rand(spatial_range, generator=generator) < 0.4).nonzero().int()
    feats = torch.randn(len(coords), N_OUTPUTS, generator=generator, dtype=torch.float64)
    feats[:, LOGIT] = feats[:, LOGIT].mul(2).round() / 2  # equal neighbours occur
    found = find_summits(LocalisationOutput(SparseTensor(coords, feats, spatial_range=spatial_range)), 2)
    answers = coords[:, 1:4] + feats[:, OFFSET]
    probability, weight = torch.sigmoid(feats[:, LOGIT]), torch.exp(-2 * feats[:, LOG_DEVIATION].clamp(-5, 1))
    for sample, table in enumerate(found):
        wanted = []
        for i, row in enumerate(coords):
            near = (coords[:, 0] == row[0]) & (coords[:, 4] == row[4])
            near &= (coords[:, 1:4] - row[1:4]).abs().amax(dim=1) <= 1
            rows = torch.nonzero(near)[:, 0]
            first_best = rows[probability[rows] == probability[rows].max()][0]
            if int(row[0]) != sample or probability[i] <= LEAST_PROBABILITY or first_best != i:
                continue
            agree = rows[(answers[rows] - answers[i]).norm(dim=1) < AGREEMENT_VOXELS]
            share = probability[agree, None] * weight[agree]
            position = (share * answers[agree]).sum(dim=0) / share.sum(dim=0)
            wanted.append([float(row[4]), *position.tolist(), float(probability[agree].sum())])
        assert len(wanted) > 10
        order = np.lexsort(np.round(table[:, :5].numpy().T, 6))
        np.testing.assert_allclose(
            table[order, :5].numpy(), np.array(wanted)[np.lexsort(np.round(np.array(wanted).T, 6))], atol=1e-9
        )
        assert (table[1:, 0] >= table[:-1, 0]).all()


def test_of_neighbours_the_likeliest_is_the_summit() -> None:
    coords = torch.tensor([[0, 1, 1, 1, 0], [0, 2, 2, 2, 0], [0, 2, 2, 2, 1], [0, 5, 2, 2, 0], [0, 5, 4, 2, 0]]).int()
    feats = torch.zeros(5, N_OUTPUTS)
    feats[:, LOGIT] = torch.logit(torch.tensor([0.5, 0.6, 0.3, 0.4, 0.04]))
    table = find_summits(LocalisationOutput(SparseTensor(coords, feats, spatial_range=RANGE)), 1)[0]
    assert table[:, :4].tolist() == [[0, 2, 2, 2], [0, 5, 2, 2], [1, 2, 2, 2]]


def test_neighbours_that_agree_are_one_bubble() -> None:
    # Summit at x = 3 says 3.4; its neighbours say 3.6 (surer), 3.1 and, for another bubble, 1.0.
    coords = torch.tensor([[0, x, y, 2, 0] for x, y in ((2, 2), (2, 3), (3, 2), (4, 2))]).int()
    feats = torch.zeros(4, N_OUTPUTS)
    feats[:, LOGIT] = torch.logit(torch.tensor([0.3, 0.2, 0.8, 0.4], dtype=torch.float64)).float()
    feats[:, OFFSET] = torch.tensor([[-1.0, 0, 0], [1.1, -1.0, 0], [0.4, 0, 0], [-0.4, 0, 0]])
    deviation = torch.tensor([0.2, 0.2, 0.2, 0.1])
    feats[:, LOG_DEVIATION] = torch.log(deviation)[:, None]
    table = find_summits(LocalisationOutput(SparseTensor(coords, feats, spatial_range=RANGE)), 1)[0]
    assert len(table) == 1
    weight = np.array([0.2 / 0.04, 0.8 / 0.04, 0.4 / 0.01])
    assert float(table[0, 1]) == pytest.approx((weight * [3.1, 3.4, 3.6]).sum() / weight.sum(), abs=1e-5)
    assert table[0, 2:4].tolist() == pytest.approx([2.0, 2.0], abs=1e-5)
    assert float(table[0, 4]) == pytest.approx(0.2 + 0.8 + 0.4)
    assert table[0, 5:8].tolist() == pytest.approx([0.2] * 3)


def test_bubbles_of_a_block_are_those_of_the_recording() -> None:
    table = torch.tensor(
        [
            [0, 0.5, 1.0, 2.0, 0.9, 0.1, 0.2, 0.3, 5.0],
            [1, -0.6, 1.0, 2.0, 0.9, 1, 1, 1, 5],
            [3, 1, 1, 1, 0.2, 1, 1, 1, 5],
        ]
    )
    found = to_localisations(table, start=40, threshold=0.3, noise_rms=2.0, shape=(6, 7, 8))
    assert found.frame.tolist() == [40]
    assert found.position_voxel.tolist() == [[0.5, 1.0, 2.0]]
    assert found.amplitude.tolist() == [10.0]
    np.testing.assert_allclose(found.deviation_voxel, [[0.1, 0.2, 0.3]], rtol=1e-6)
