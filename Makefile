# Everything runs from here, on a machine with Python 3.11 and a network to the package index.
#   make demo    set up, simulate a recording, make its map and picture, score it: demo_output/
#   make test    set up, run the tests (no shared data, compiler or GPU needed)
#   make check   ruff, types, tests, bundle verification
#   make weights train models/model.pt again (needs the vessel graphs: docs/README.md)
#   make benchmark  every table and figure of docs/benchmarks.md from seeds (needs the vessel graphs; hours, see there)

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m monai.bundle run
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow check weights benchmark benchmark-costs benchmark-scores clean
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

# The tables and figures of docs/benchmarks.md. What is finished stays in WORK, and a second call goes on from there; WORK
# is named by the commit, since results follow from the code. Two development packages make the physics sets; what else
# they ask for (plotting) is not needed.
WORK ?= build/benchmark-$(shell git rev-parse --short HEAD 2>/dev/null || echo work)
RESULTS := benchmarks/results
GRAPHS := $(VESSELS)/seg1.swc $(VESSELS)/seg2.swc $(VESSELS)/seg3.swc
ESDIVA_FAMILIES ?= 8mhz 15mhz_rows 8mhz_adverse
ESDIVA_SEEDS ?= 7001 7002 7003
PY := OMP_NUM_THREADS=1 $(BIN)/python

benchmark: $(VENV)/.installed
	$(MAKE) benchmark-scores
	$(MAKE) benchmark-costs
	$(BIN)/python benchmarks/write_docs.py

$(VENV)/.physics: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps pymust==0.1.9 esdiva==0.3.0
	touch $@

$(WORK)/kernels_%.npz: $(VENV)/.physics
	mkdir -p $(WORK)
	$(PY) benchmarks/simus3_kernels.py --family $* --n_kernels $(if $(filter train,$*),150,40) --seed 1 --output $@

benchmark-scores: $(WORK)/kernels_train.npz $(WORK)/kernels_left_out.npz
	$(PY) benchmarks/concentration.py --work $(WORK) --workers 2 --vessels $(VESSELS)/seg4.swc \
		--json $(RESULTS)/concentration.json
	for family in $(ESDIVA_FAMILIES); do for seed in $(ESDIVA_SEEDS); do \
		test -f $(WORK)/esdiva/$$family-$$seed.done || { $(PY) benchmarks/physics/esdiva_recordings.py --family $$family \
			--seed $$seed --vessels $(VESSELS)/seg4.swc --output_dir $(WORK)/esdiva/$$family-$$seed && \
			touch $(WORK)/esdiva/$$family-$$seed.done; } || exit 1; done; done
	$(PY) benchmarks/domain_shift.py --work $(WORK) --workers 2 --vessels $(VESSELS)/seg4.swc \
		--train_tables $(WORK)/kernels_train.npz --left_out_tables $(WORK)/kernels_left_out.npz \
		--calibrate --json $(RESULTS)/calibration.json
	$(PY) benchmarks/domain_shift.py --work $(WORK) --workers 2 --vessels $(VESSELS)/seg4.swc \
		--train_tables $(WORK)/kernels_train.npz --left_out_tables $(WORK)/kernels_left_out.npz --extra \
		$(foreach f,$(ESDIVA_FAMILIES),$(foreach s,$(ESDIVA_SEEDS),"esdiva $(f)=$(WORK)/esdiva/$(f)-$(s)")) \
		--json $(RESULTS)/domain_shift.json
	$(PY) benchmarks/acquisition_time.py --work $(WORK) --vessels $(VESSELS)/seg4.swc \
		--json $(RESULTS)/acquisition_time.json
	$(PY) benchmarks/ablation.py --work $(WORK) --train_vessels $(GRAPHS) --vessels $(VESSELS)/seg4.swc --jobs 2 \
		--workers 2 --json $(RESULTS)/ablation_2d.json

# Tables that are not filled in by themselves: their text in docs/benchmarks.md says what to read from these files.
benchmark-costs: $(VENV)/.installed
	$(BIN)/python benchmarks/sparsification.py --recordings 6 --vessels $(GRAPHS) --json $(RESULTS)/sparsification.json
	$(BIN)/python benchmarks/training_memory.py --json $(RESULTS)/training_memory.json
	$(BIN)/python benchmarks/inference_block.py --threads 1 --json $(RESULTS)/inference_block.json
	$(BIN)/python benchmarks/threads.py --json $(RESULTS)/threads.json
	$(BIN)/python benchmarks/engines.py --quick --json $(RESULTS)/engines.json

clean:
	rm -rf $(VENV) demo_output build dist
