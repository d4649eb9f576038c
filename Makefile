# Everything runs from here, on a machine with Python 3.11 and a network to the package index.
#   make demo    set up, simulate a recording, make its map and picture, score it: demo_output/
#   make test    set up, run the tests (no shared data, compiler or GPU needed)
#   make check   ruff, types, tests, bundle verification
#   make weights train models/model.pt again (needs the vessel graphs: docs/README.md)

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m monai.bundle run
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow check weights clean
.DEFAULT_GOAL := demo

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	rm -rf demo_output
	$(RUN) --config_file configs/simulate.yaml --output_dir demo_output/recordings --n_recordings 1 \
		--grid_size "[24,24,24]" --n_frames 512 --bubbles_per_psf_volume "[0.05,0.05]" --seed 7
	$(RUN) --config_file configs/inference.yaml --dataset_dir demo_output/recordings --output_dir demo_output
	$(RUN) --config_file configs/evaluate.yaml --dataset_dir demo_output/recordings --output_dir demo_output
	@echo "Maps and pictures: demo_output/*/*_density.nii.gz and .png; scores: demo_output/metrics.json"

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python bundle/verify.py
	$(BIN)/python -m pytest -q -m "not slow"

# The training of the shipped weights, whole: simulate, train, table. About an hour on 2 cores.
VESSELS ?= ../shared/data/vessels
DATA ?= data/simulated

weights: $(VENV)/.installed
	$(RUN) --config_file configs/simulate.yaml --output_dir $(DATA)/train --seed 1001 --n_recordings 320 --n_workers 2 \
		--vessels "['$(VESSELS)/seg1.swc','$(VESSELS)/seg2.swc','$(VESSELS)/seg3.swc']" \
		--grid_size "[16,16,16]" --format nii --bubbles_per_psf_volume "[0.01,0.5]"
	$(RUN) --config_file configs/simulate.yaml --output_dir $(DATA)/validation --seed 2001 --n_recordings 18 \
		--vessels $(VESSELS)/seg4.swc --grid_size "[16,16,16]" --format nii --bubbles_per_psf_volume "[0.01,0.3]"
	$(RUN) --config_file configs/train.yaml --dataset_dir $(DATA) --output_dir runs/cascade --n_threads 1
	$(BIN)/python benchmarks/validation_table.py --vessels $(VESSELS)/seg4.swc --n_recordings 10 --threads 1 --runs cascade=runs/cascade

clean:
	rm -rf $(VENV) demo_output build dist
