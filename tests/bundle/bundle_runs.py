"""What the tests of the bundle share: a recording, a small network, and a way to run a config in this process."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from sparse_ulm.acquisition import Geometry

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (6, 7, 8, 40)
SHIPPED = yaml.safe_load((ROOT / "configs" / "inference.yaml").read_text())
SIZES = {"encoder_widths": [4, 5, 6], "refine_widths": list(range(len(SHIPPED["refine_widths"]) + 1, 1, -1))}
"""Options of a network that answers in a blink."""

GEOMETRY = Geometry.from_voxel_size(
    (0.10e-3, 0.11e-3, 0.09e-3),
    (-1.0e-3, 2.0e-3, 5.0e-3),
    frame_rate_hz=500.0,
    transmit_frequency_hz=8.0e6,
    sound_speed_m_s=1540.0,
)


def blob_frames(shape=SHAPE, *, seed=0, noise=0.05):
    """One Gaussian bubble that drifts along x and z, in complex noise."""
    rng = np.random.default_rng(seed)
    x, y, z, t = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    centre_x, centre_z = 1.0 + 0.08 * t, 6.0 - 0.1 * t
    squared = (x - centre_x) ** 2 + (y - shape[1] // 2) ** 2 + (z - centre_z) ** 2
    random = rng.normal(size=(2, *shape)) * noise
    return (np.exp(-squared / 2 + 0.7j) + random[0] + 1j * random[1]).astype(np.complex64)


def save_untrained(path, **options):
    """Save the weights of an untrained network_def of inference.yaml, the same ones every time."""
    torch.manual_seed(5)
    network = ConfigParser(SHIPPED | SIZES | options).get_parsed_content("network_def")
    torch.save({"model": network.state_dict()}, path)
    return path


def run_config(*names, workflow_type="inference", **options):
    """Run a shipped config, and what lies over it, as `monai.bundle run` does, in this process; gives the workflow.

    No report is written unless it is asked for: its pictures take longer than most runs of the tests.
    """
    if names[0] in ("inference.yaml", "classical.yaml"):
        options = {"report": False} | options
    workflow = ConfigWorkflow(
        [str(ROOT / "configs" / name) for name in names],
        workflow_type=workflow_type,
        logging_file=False,
        bundle_root=str(ROOT),
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def infer(dataset_dir, output_dir, weights, **options):
    """Run inference.yaml with the small map network, in blocks of 32 frames; untrained, it is sure of little."""
    defaults = {
        "method": "trajectory_map",
        "n_threads": 1,
        "block_frames": 32,
        "probability_threshold": 1.0e-3,
        "keep_probability": 1.0e-3,
        **SIZES,
    }
    return run_config(
        "inference.yaml", dataset_dir=dataset_dir, output_dir=output_dir, weights=weights, **(defaults | options)
    )


def load_tool(name):
    """Import bundle/NAME.py, which is no package."""
    spec = importlib.util.spec_from_file_location(f"bundle_{name}", ROOT / "bundle" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
