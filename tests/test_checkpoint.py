"""Checkpoints are written whole and loaded whole, or not at all."""

import numpy as np
import pytest
import torch
from torch import nn

from sparse_ulm.checkpoint import load_weights, read_checkpoint, write_checkpoint
from sparse_ulm.errors import WeightsError


def network(width=3):
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_weights_come_back_as_they_were(tmp_path):
    source, target = network(), network()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter += 1.0
    write_checkpoint(tmp_path / "new/folder/model.pt", {"model": source.state_dict()})
    load_weights(target, tmp_path / "new/folder/model.pt")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_a_bare_state_dict_is_taken_too(tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    load_weights(network(), tmp_path / "model.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(path, {"epoch": 2, "bad": lambda: None})
    assert read_checkpoint(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def bad_files(folder):
    cut = folder / "cut.pt"
    torch.save(network().state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / "text.pt").write_text("not weights")
    (folder / "empty.pt").write_bytes(b"")
    torch.save(torch.zeros(3), folder / "tensor.pt")
    torch.save({"model": {"0.weight": "text"}}, folder / "words.pt")
    torch.save({"model": torch.zeros(3)}, folder / "flat.pt")
    torch.save({"model": network()}, folder / "pickled.pt")  # would run code when loaded
    return {
        "absent.pt": "do not exist",
        "cut.pt": "cannot be read",
        "text.pt": "cannot be read",
        "empty.pt": "cannot be read",
        "tensor.pt": "hold a Tensor",
        "words.pt": "other things than tensors",
        "flat.pt": "other things than tensors",
        "pickled.pt": "cannot be read",
    }


def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path):
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(WeightsError, match=words) as caught:
            load_weights(network(), tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (network(4).state_dict(), r"0 tensors missing, 0 left over, .*0\.bias is \(4,\) there and \(3,\) here"),
        ({k: v for k, v in network().state_dict().items() if k != "0.bias"}, "1 tensors missing.*example 0.bias"),
        (network().state_dict() | {"2.weight": torch.zeros(1)}, "1 left over.*example 2.weight"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, weights, words):
    torch.save({"model": weights}, tmp_path / "model.pt")
    target = network()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match=words):
        load_weights(target, tmp_path / "model.pt")
    for key, value in target.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
