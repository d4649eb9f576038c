# Everything runs from here, on a machine with Python 3.11 and a network to the package index.
#   make demo    set up, simulate a recording, make its maps, tracks and pictures by both networks, score them: demo_output/
#   make test    set up, run the tests (no shared data, compiler or GPU needed)
#   make check   ruff, types, tests, bundle verification
#   make weights train models/model.pt again (needs the vessel graphs: docs/README.md)
#   make benchmark  every table and figure of docs/benchmarks.md from seeds (needs the vessel graphs; about two hours, see there)

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m monai.bundle run
export PYTHONUNBUFFERED = 1

.PHONY: demo test test-slow check weights benchmark benchmark-physics benchmark-scores benchmark-costs benchmark-large clean
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

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
	$(RUN) --config_file configs/inference.yaml --dataset_dir demo_output/recordings --output_dir demo_output \
		--weights models/localisation.pt
	$(RUN) --config_file configs/evaluate.yaml --dataset_dir demo_output/recordings --output_dir demo_output
	$(RUN) --config_file configs/inference.yaml --dataset_dir demo_output/recordings --output_dir demo_output/trajectory_map \
		--weights models/model.pt
	$(RUN) --config_file configs/evaluate.yaml --dataset_dir demo_output/recordings --output_dir demo_output/trajectory_map
	@echo "All on one page: demo_output/report.html. Bubbles, tracks, maps, pictures: demo_output/simulated_0000; scores: demo_output/metrics.json"
	@echo "The map network's: demo_output/trajectory_map"

# One process per core, at most four, each with one thread; tests that wait for a run of their own leave no core idle.
N_TEST_PROCESSES ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
PYTEST := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(N_TEST_PROCESSES) --dist worksteal

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python bundle/verify.py
	$(PYTEST) -m "not slow"

# The training of all shipped weights: kernels, recordings, then one network after the other. About three hours on 2 cores.
VESSELS ?= ../shared/data/vessels
DATA ?= data/simulated
TRAIN_VESSELS := "['$(VESSELS)/seg1.swc','$(VESSELS)/seg2.swc','$(VESSELS)/seg3.swc']"
VARIED := --format nii --side_lobe_share 0.3 --missing_row_share "[0,0.25]" --tissue_share 0.25 --removed_components "[4,16]" \
	--white_noise_share "[0,1]" --snr_db "[8,30]" --frame_rate_hz "[250,1500]" --lateral_voxel_wavelengths "[0.33,0.65]" \
	--axial_voxel_wavelengths "[0.25,0.55]" --amplitude_sigma "[0.2,0.8]"
TRAIN_PSF := --bubbles_per_psf_volume "[0.01,0.5]" --psf_table_share 0.45 --psf_tables $(DATA)/kernels_train.npz
LEFT_OUT_PSF := --bubbles_per_psf_volume "[0.01,0.4]" --psf_table_share 0.6 --psf_tables $(DATA)/kernels_left_out.npz

weights: $(VENV)/.pymust
	mkdir -p $(DATA)
	$(BIN)/python benchmarks/simus3_kernels.py --family train --n_kernels 150 --seed 1 --output $(DATA)/kernels_train.npz
	$(BIN)/python benchmarks/simus3_kernels.py --family left_out --n_kernels 40 --seed 2 --output $(DATA)/kernels_left_out.npz
	$(RUN) --config_file configs/simulate.yaml --output_dir $(DATA)/3d/train --seed 1101 --n_recordings 640 --n_workers 2 \
		--vessels $(TRAIN_VESSELS) --grid_size "[16,16,16]" $(TRAIN_PSF) $(VARIED)
	$(RUN) --config_file configs/simulate.yaml --output_dir $(DATA)/3d/validation --seed 2101 --n_recordings 24 \
		--vessels $(VESSELS)/seg4.swc --grid_size "[16,16,16]" $(subst side_lobe_share 0.3,side_lobe_share 0.2,$(LEFT_OUT_PSF) $(VARIED))
	$(RUN) --config_file configs/train.yaml --dataset_dir $(DATA)/3d --output_dir runs/map_first --exact_epochs 8
	$(RUN) --config_file configs/train.yaml --dataset_dir $(DATA)/3d --output_dir runs/map --pretrained runs/map_first/model.pt \
		--n_epochs 8 --learning_rate 2.5e-3 --cascade_epochs "[0,0,0]" --val_interval 1
	$(RUN) --config_file configs/train_localisation.yaml --dataset_dir $(DATA)/3d --output_dir runs/localisation --n_epochs 5
	$(RUN) --config_file configs/simulate.yaml --output_dir $(DATA)/2d/train --seed 5101 --n_recordings 200 \
		--vessels $(TRAIN_VESSELS) --grid_size "[64,1,64]" $(TRAIN_PSF) $(VARIED)
	$(RUN) --config_file configs/simulate.yaml --output_dir $(DATA)/2d/validation --seed 6101 --n_recordings 12 \
		--vessels $(VESSELS)/seg4.swc --grid_size "[64,1,64]" $(LEFT_OUT_PSF) $(VARIED)
	$(RUN) --config_file configs/train.yaml --spatial_dims 2 --dataset_dir $(DATA)/2d --output_dir runs/map_2d \
		--n_epochs 16
	$(RUN) --config_file configs/candidate_train.yaml --dataset_dir $(DATA)/3d --output_dir runs/candidate
	$(RUN) --config_file configs/candidate_train.yaml --spatial_dims 2 --dataset_dir $(DATA)/2d --output_dir runs/candidate_2d

# The tables and figures of docs/benchmarks.md. What is finished stays in WORK, and a second call goes on from there; WORK
# is named by the commit, since results follow from the code. Results and figures replace those of the repository when all
# of them are there. Two development packages make the physics sets (PyMUST, eSDIva with what it asks for).
ifndef WORK
WORK := build/benchmark-$(shell git rev-parse --short HEAD 2>/dev/null || echo work)
endif
export WORK
JOBS ?= 2
GRAPHS := $(VESSELS)/seg1.swc $(VESSELS)/seg2.swc $(VESSELS)/seg3.swc
UNSEEN := $(VESSELS)/seg4.swc
# family-seed, three seeds each
ESDIVA_SETS ?= 8mhz-7001 8mhz-7002 8mhz-7011 15mhz_rows-7001 15mhz_rows-7002 15mhz_rows-7003 \
	8mhz_adverse-7001 8mhz_adverse-7003 8mhz_adverse-7011
PY := OMP_NUM_THREADS=1 $(BIN)/python
RESULTS := $(WORK)/results
FIGURES := $(WORK)/figures
KERNELS := $(WORK)/kernels_train.npz $(WORK)/kernels_left_out.npz
ESDIVA := $(ESDIVA_SETS:%=$(WORK)/esdiva/%.done)
EXTRA := $(foreach s,$(ESDIVA_SETS),"esdiva $(firstword $(subst -, ,$(s)))=$(WORK)/esdiva/$(s)")
KINDS := --training side_lobe_share=0.3 psf_table_share=0.45 --train_tables $(WORK)/kernels_train.npz \
	--left_out_tables $(WORK)/kernels_left_out.npz
# Our preset as shipped, and the same with tracks left rough: a comparison takes the better.
OURS := gaussian_kalman gaussian_kalman:smooth_span=1
# What others wait for, then long ones, so that no core waits at the end; what waits is last, as make comes back to it last.
SCORES := domain_shift localisation_calibration ablation_2d acquisition_time sparsification dense_memory concentration \
	phase_study motion calibration track_smoothing training_memory localisation cramer_rao
COSTS := inference_block training_step threads ranks engines long_recording

benchmark: $(VENV)/.physics
	mkdir -p $(WORK) && test -f $(WORK)/started || date -u +%Y-%m-%dT%H:%M:%SZ > $(WORK)/started
	$(MAKE) -j $(JOBS) benchmark-physics
	$(MAKE) -j $(JOBS) benchmark-scores
	$(MAKE) benchmark-costs
	$(BIN)/python benchmarks/whole_run.py --results $(RESULTS) --jobs $(JOBS) --started "$$(cat $(WORK)/started)" \
		--json $(RESULTS)/whole_run.json
	mkdir -p docs/figures benchmarks/results && cp $(FIGURES)/*.png docs/figures/ && cp $(RESULTS)/*.json benchmarks/results/
	$(BIN)/python benchmarks/write_docs.py

benchmark-physics: $(KERNELS) $(ESDIVA)

benchmark-scores: $(SCORES:%=$(RESULTS)/%.json)

# The target's volume, 128x128x128 voxels and up to 10,000 frames: an hour by itself, so not part of the others.
benchmark-large: $(VENV)/.installed
	mkdir -p $(WORK)
	$(PY) benchmarks/long_recording.py --work $(WORK) --grid 128 --frames 1000 3000 10000 \
		--json benchmarks/results/long_recording_128.json
	$(BIN)/python benchmarks/write_docs.py

# Time and memory: on a machine that does nothing else, one after the other.
benchmark-costs: $(COSTS:%=$(RESULTS)/%.json)

$(ESDIVA) $(KERNELS) $(SCORES:%=$(RESULTS)/%.json): | $(VENV)/.physics
$(COSTS:%=$(RESULTS)/%.json): | $(VENV)/.installed

$(VENV)/.pymust: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps pymust==0.1.9
	touch $@

$(VENV)/.physics: $(VENV)/.pymust
	$(BIN)/pip install --quiet -c constraints.txt esdiva==0.3.0
	touch $@

# The first 60 of the 150 kernels of `make weights` (each has a seed of its own): recordings as in training, in half the time.
$(WORK)/kernels_%.npz:
	mkdir -p $(WORK)
	$(PY) benchmarks/simus3_kernels.py --family $* --n_kernels $(if $(filter train,$*),60,40) \
		--seed $(if $(filter train,$*),1,2) --output $@

$(WORK)/esdiva/%.done:
	rm -rf $(WORK)/esdiva/$*
	$(PY) benchmarks/physics/esdiva_recordings.py --family $(firstword $(subst -, ,$*)) --seed $(lastword $(subst -, ,$*)) \
		--vessels $(UNSEEN) --output_dir $(WORK)/esdiva/$*
	touch $@

$(RESULTS)/ablation_2d.json:
	$(PY) benchmarks/ablation.py --work $(WORK) --train_vessels $(GRAPHS) --vessels $(UNSEEN) --n_epochs 8 --json $@

$(RESULTS)/concentration.json:
	$(PY) benchmarks/concentration.py --work $(WORK) --vessels $(UNSEEN) --n_recordings 3 \
		--figure $(FIGURES)/concentration.png --json $@

$(RESULTS)/acquisition_time.json:
	$(PY) benchmarks/acquisition_time.py --work $(WORK) --vessels $(UNSEEN) --grid_size 16 16 16 --n_frames 1024 \
		--figure $(FIGURES)/acquisition_time.png --json $@

$(RESULTS)/calibration.json: $(KERNELS)
	$(PY) benchmarks/domain_shift.py --work $(WORK) --vessels $(UNSEEN) $(KINDS) --n_recordings 2 --calibrate --json $@

$(RESULTS)/domain_shift.json: $(KERNELS) $(ESDIVA)
	$(PY) benchmarks/domain_shift.py --work $(WORK) --vessels $(UNSEEN) $(KINDS) --n_recordings 2 \
		--presets $(OURS) --extra $(EXTRA) --json $@

$(RESULTS)/localisation_calibration.json: $(KERNELS)
	$(PY) benchmarks/localisation_comparison.py --work $(WORK) --vessels $(UNSEEN) $(KINDS) --n_recordings 2 \
		--calibrate --json $@

# After the domain shift, whose recordings it shares. The other presets are compared in concentration.json.
$(RESULTS)/localisation.json: $(RESULTS)/localisation_calibration.json $(RESULTS)/domain_shift.json
	$(PY) benchmarks/localisation_comparison.py --work $(WORK) --vessels $(UNSEEN) $(KINDS) --n_recordings 2 \
		--presets $(OURS) --calibration $< --extra $(EXTRA) --json $@

$(RESULTS)/cramer_rao.json: $(RESULTS)/localisation_calibration.json
	$(PY) benchmarks/cramer_rao.py --work $(WORK) --calibration $< --json $@

$(RESULTS)/track_smoothing.json:
	$(PY) benchmarks/track_smoothing.py --work $(WORK) --vessels $(GRAPHS) --n_recordings 2 --json $@

$(RESULTS)/phase_study.json:
	$(PY) benchmarks/phase_study.py --work $(WORK) --train_vessels $(GRAPHS) --vessels $(UNSEEN) --spatial_dims 2 --json $@

$(RESULTS)/motion.json:
	$(PY) benchmarks/motion.py --work $(WORK) --vessels $(UNSEEN) --n_recordings 1 --json $@

$(RESULTS)/inference_block.json:
	$(BIN)/python benchmarks/inference_block.py --threads 1 --json $@

$(RESULTS)/training_step.json:
	$(BIN)/python benchmarks/training_step.py --json $@

$(RESULTS)/threads.json:
	$(BIN)/python benchmarks/threads.py --json $@

$(RESULTS)/ranks.json:
	$(BIN)/python benchmarks/ranks.py --json $@

$(RESULTS)/long_recording.json:
	$(PY) benchmarks/long_recording.py --work $(WORK) --grid 64 --frames 1000 3000 10000 --json $@

$(RESULTS)/training_memory.json:
	$(PY) benchmarks/training_memory.py --json $@

$(RESULTS)/engines.json:
	$(BIN)/python benchmarks/engines.py --quick --json $@

$(RESULTS)/dense_memory.json:
	$(PY) benchmarks/dense_memory.py --inference --json $@

$(RESULTS)/sparsification.json:
	$(PY) benchmarks/sparsification.py --recordings 6 --vessels $(GRAPHS) --dice $(WORK) --json $@

clean:
	rm -rf $(VENV) demo_output build dist
