"""Child of the ablation: by how many bytes this fresh process grows over one training step of one block.

Forward and backward pass with the loss: activations, kernel maps, gradients and temporaries. Weights, Adam's state and
the loaded block are not in it (as in training_memory.py). Not called by hand.
"""

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from trainings import Training, parse_config

from sparse_ulm.checkpoint import load_weights
from sparse_ulm.provenance import peak_memory_bytes
from sparse_ulm.sparse import SparseTensor


def corner(image: SparseTensor, site_multiple: tuple[int, ...]) -> SparseTensor:
    """Cut the smallest block that the network takes out of the first corner, for a step that counts for nothing."""
    extent = torch.tensor(site_multiple, dtype=torch.int32)
    inside = (image.coords[:, 1:] < extent).all(dim=1) & (image.coords[:, 0] == 0)
    if not bool(inside.any()):
        inside[0] = True
        extent = torch.tensor(image.spatial_range[1:], dtype=torch.int32)
    x, y, z, t = extent.tolist()
    return SparseTensor(image.coords[inside], image.feats[inside], spatial_range=(1, x, y, z, t), engine=image.engine)


def measure(task: dict[str, Any]) -> dict[str, int]:
    """Run the step and give `peak_bytes`; see the module."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    training = Training(tuple(task["configs"]), task["options"])
    config = parse_config(training, dataset_dir=task["data"], batch_blocks=1)
    network, loss = config.get_parsed_content("network").train(), config.get_parsed_content("loss")
    load_weights(network, Path(task["weights"]))
    batch = next(iter(config.get_parsed_content("validate#dataloader")))
    image, label = batch["image"], batch["label"]
    # Compiled loops are loaded and threads started before the step that counts.
    loss(network(corner(image, network.site_multiple)), label[:1]).backward()
    network.zero_grad(set_to_none=True)
    before = psutil.Process().memory_info().rss
    loss(network(image), label).backward()
    return {"peak_bytes": peak_memory_bytes() - before}


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
