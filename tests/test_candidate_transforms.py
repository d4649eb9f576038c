"""Dense features and per-frame targets for CandidateNet."""

import torch

from sparse_ulm.candidate_transforms import ToCandidateFeaturesd, ToTargetMaskd
from sparse_ulm.networks.candidate import candidate_features
from sparse_ulm.sparsify import measure_noise_rms


def test_features_use_the_blocks_own_noise_and_drop_the_correlation() -> None:
    iq, c = (torch.randn(4, 5, 6, 7, dtype=torch.complex64) for _ in range(2))
    made = ToCandidateFeaturesd("image", noise_measure="faintest")({"image": iq, "correlation": c})
    assert set(made) == {"image"}
    torch.testing.assert_close(made["image"], candidate_features(iq, c, noise_rms=measure_noise_rms(iq)))


def test_targets_by_hand() -> None:
    image, label = torch.zeros(4, 4, 5, 6, 7), torch.tensor([[0, 2, 3, 6], [1, 2, 3, 6]], dtype=torch.int32)
    own = ToTargetMaskd("label", like="image", dilation=0)({"image": image, "label": label})["label"]
    assert own.shape == (1, 4, 5, 6, 7)
    assert own.nonzero()[:, 1:].tolist() == label.tolist()
    grown = ToTargetMaskd("label", like="image", dilation=1)({"image": image, "label": label})["label"]
    # x 0 to 2 (one row is at the edge), y 1 to 3, z 2 to 4, that frame alone.
    assert float(grown.sum()) == float(grown[0, :3, 1:4, 2:5, 6].sum()) == 27


def test_no_bubble_is_an_empty_mask() -> None:
    made = ToTargetMaskd("label", like="image", dilation=1)(
        {"image": torch.zeros(4, 4, 1, 6, 7), "label": torch.zeros(0, 4, dtype=torch.int32)}
    )
    assert made["label"].shape == (1, 4, 1, 6, 7)
    assert not made["label"].any()
