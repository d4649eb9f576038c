"""bundle/verify.py: a sound bundle passes, and each guard speaks when its trap is set."""

import json
import re
import shutil
import time

import pytest
import torch
from bundle_runs import ROOT, SHIPPED, load_tool, save_untrained
from monai.bundle import ConfigParser

verify = load_tool("verify")


@pytest.fixture
def bundle(tmp_path):
    """A whole bundle with weights that fit, without its code: that is imported from where it is installed."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text("# Model card\n")
    (tmp_path / "models").mkdir()
    save_untrained_as_shipped(tmp_path / "models/model.pt")
    return tmp_path


def save_untrained_as_shipped(path):
    torch.save({"model": ConfigParser(dict(SHIPPED)).get_parsed_content("network_def").state_dict()}, path)


def change(file, pattern, new):
    text, n_changes = re.subn(pattern, lambda _: new, file.read_text(), count=1, flags=re.MULTILINE)
    assert n_changes == 1, pattern
    file.write_text(text)


def test_a_sound_bundle_has_no_problem_in_seconds(bundle):
    started = time.process_time()
    assert verify.verify(bundle) == []
    assert time.process_time() - started < 15.0
    assert verify.main(["--root", str(bundle)]) == 0


LOSS = "sparse_ulm.losses.MultiScaleDiceLoss"
YAML_TRAPS = [
    ("train.yaml", r"^learning_rate: \S+", "learning_rate: 5e-3", "'5e-3' is read as text"),
    ("train.yaml", r"^seed: ", "seed: 2\nseed: ", "key 'seed' stands here twice"),
    ("train.yaml", r"^resume: \S+", "resume: yes", "'yes' is read as a truth value"),
    ("train.yaml", r"^seed: \S+", "seed: 12:30", "base 60"),
    ("inference.yaml", r"^output_dir: \S+", "output_dir: /home/me/eval", "is a path of one machine"),
    ("inference.yaml", r"^engine: ", "spare: 3\nengine: ", "nothing refers to key 'spare'"),
    ("inference.yaml", r'"@noise_factor"', '"@noise_faktor"', "@noise_faktor refers to no key"),
    ("classical.yaml", r'"@min_length"', '"@min_lenght"', "@min_lenght refers to no key"),
    ("classical.yaml", r'    preset: "@preset"\n', "", "needs argument 'preset'"),
    ("train.yaml", rf"{LOSS}$", "sparse_ulm.losses.MultiDice", "MultiDice cannot be imported"),
    ("train.yaml", rf"{LOSS}$", f"{LOSS}\n  a: 1", "no argument 'a'"),
    ("inference.yaml", r'psf: "@psf"\n +fwhm_wavelengths', 'psf: "@psf"\n        widths', "no argument 'widths'"),
    ("inference.yaml", r'noise_measure: "@noise_measure"\n +corr', "corr", "needs argument 'noise_measure'"),
    ("train.yaml", r"max_epochs: ", "epochs: ", "required key 'train#trainer#max_epochs'"),
    ("inference.yaml", r"^noise_factor: \S+", "noise_factor: 97.0", "97.0 in inference.yaml; wanted the same"),
    ("inference.yaml", r'floor_db: "@floor_db"', "floor_db: -97.0", "its steps differ"),
    ("inference.yaml", r'variant: "@variant"$', "variant: plain", "network_def: "),
    ("inference.yaml", r"^encoder_widths: \[", "encoder_widths: [1", "do not fit the network"),
]


@pytest.mark.parametrize(("name", "pattern", "new", "words"), YAML_TRAPS, ids=[trap[3] for trap in YAML_TRAPS])
def test_a_trap_in_a_config_is_named(bundle, name, pattern, new, words):
    change(bundle / "configs" / name, pattern, new)
    problems = verify.verify(bundle)
    assert any(words in line for line in problems), problems


METADATA_TRAPS = [
    (("version",), "0.2.0", "is not in its changelog"),
    (("version",), "0.2.0", "that of sparse_ulm"),
    (("numpy_version",), "2.0.0", "constraints.txt has"),
    (("required_packages_version", "scipy"), "1.0", "scipy 1.0"),
    (("network_data_format", "inputs", "image", "num_channels"), 2, "channels of image: 2 there, 4 in network_def"),
    (("network_data_format", "inputs", "image", "spatial_shape"), [8, 8, 9, 32], "sizes of image left over"),
    (("network_data_format", "outputs", "pred", "spatial_shape"), [8, 8, 8], "sizes of pred"),
]


@pytest.mark.parametrize(("path", "value", "words"), METADATA_TRAPS, ids=[trap[2] for trap in METADATA_TRAPS])
def test_a_trap_in_the_metadata_is_named(bundle, path, value, words):
    file = bundle / "configs/metadata.json"
    content = json.loads(file.read_text())
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(content))
    problems = verify.verify(bundle)
    assert any(words in line for line in problems), problems


def test_metadata_against_the_schema(bundle, schema):
    file = bundle / "configs/metadata.json"
    content = json.loads(file.read_text())
    del content["authors"]
    file.write_text(json.dumps(content))
    assert any("'authors' is a required property" in line for line in verify.check_schema(bundle, schema))
    assert verify.check_schema(bundle, bundle / "absent.json")


@pytest.mark.parametrize("name", ["LICENSE", "models/model.pt", "configs/metadata.json"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    assert any(line.startswith(name) for line in verify.verify(bundle))


def test_weights_of_another_network_are_named(bundle):
    save_untrained(bundle / "models/model.pt")
    assert any("do not fit the network" in line for line in verify.verify(bundle))
    assert verify.main(["--root", str(bundle)]) == 1
