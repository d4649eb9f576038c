"""The golden vectors of tests/compare/golden on any engine and device, for gpu_check.py."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_parity import Row, arithmetic, compare, worst
from machine import ROOT
from torch.nn import functional

from sparse_ulm.sparse import SparseTensor, StridedConv, SubmanifoldConv, TransposedConv, find_rows

FOLDER = ROOT / "tests" / "compare" / "golden"
TOLERANCE = 1e-5
"""What its README.md asks for; sums there have a few hundred products."""

KINDS: dict[str, Any] = {
    "submanifold": SubmanifoldConv,
    "strided": StridedConv,
    "transposed": TransposedConv,
    "true4d": SubmanifoldConv,
}


def compare_with_golden(engine: str, device: str) -> list[Row]:
    """Compare every file of one layer.

    Raises:
        FileNotFoundError: If there is none, which would pass in silence.
    """
    files = sorted(FOLDER.glob("*_k*.npz"))
    if not files:
        raise FileNotFoundError(f"no golden file in {FOLDER}; run this from a checkout")
    return [
        compare(f"golden {path.stem}", TOLERANCE, golden_error, path, engine=engine, device=device) for path in files
    ]


def golden_error(path: Path, engine: str, device: str) -> float:
    """Compare a layer with vectors of TorchSparse's own CPU code (tests/compare/golden/README.md), by coordinate."""
    with np.load(path) as arrays:
        golden = {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "if"}
    missing = 5 - golden["coords_in"].shape[1]
    axes = {
        key: (*golden[key].tolist(), *[1] * missing)
        for key in ("kernel_size", "stride", "spatial_range")
        if key in golden
    }
    coords, coords_out = (functional.pad(golden[key], (0, missing)) for key in ("coords_in", "coords_out"))
    kind = KINDS[path.stem.split("_")[0]]
    inputs, outputs = golden["kernel"].shape[-2:]
    layer = kind(inputs, outputs, axes["kernel_size"], bias="bias" in golden)
    layer.load_state_dict({key: golden[key] for key in ("kernel", "bias") if key in golden})
    x = SparseTensor(coords, golden["feats_in"], spatial_range=axes["spatial_range"]).to(device).with_engine(engine)
    feats = x.feats.requires_grad_()
    order = find_rows(x, coords.to(device))  # The rows of the file among ours.
    with arithmetic(device):
        if kind is TransposedConv:
            extent = tuple(c * s for c, s in zip(axes["spatial_range"], (1, *axes["stride"]), strict=True))
            fine = SparseTensor(coords_out, torch.zeros(len(coords_out), 1), spatial_range=extent).to(device)
            y = layer.to(device)(x, fine.with_engine(engine))
        else:
            y = layer.to(device)(x)
        rows = find_rows(y, coords_out.to(device))
        if len(y) != len(rows) or bool((rows < 0).any()):
            raise ValueError("other sites")
        (y.feats[rows] * golden["grad_out"].to(device)).sum().backward()
    gradients = {"feats_in": feats.grad, **{name: parameter.grad for name, parameter in layer.named_parameters()}}
    found = {"feats_out": y.feats[rows]} | {
        f"grad_{name}": grad for name, grad in gradients.items() if grad is not None
    }
    found["grad_feats_in"] = found["grad_feats_in"][order]
    return worst({key: value.detach().cpu() for key, value in found.items()}, {key: golden[key] for key in found})
