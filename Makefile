# Development tasks of hf-ptr. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests and benchmarks run two processes on the same cores: with more than one thread each they would wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1

# Every target: none is a file.
.PHONY: $(shell grep -oE '^[a-z-]+:' $(MAKEFILE_LIST) | tr -d ':')

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(STAMP)  ## Build .venv with the pinned versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[metaworld,pixels,robomimic,diffusion,dev]'
	@touch $@

gl:  ## Check that off-screen rendering is available; name the missing packages
	@$(BIN)/python -c 'import mujoco' 2>/dev/null; \
	ldconfig -p | grep -qE 'libEGL.so.1|libOSMesa.so' || { \
	  echo "Rendering needs EGL or OSMesa: apt-get install libegl1 libgl1 libosmesa6"; exit 2; }

browser:  ## Check that a browser is available for the tests of the report; name the missing package
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  echo "The report is tested in a browser: apt-get install chromium"; exit 2; }

docs: install  ## Build the documentation in build/site; runs the notebook, some minutes (SMALL=--small: without it)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(ONE_THREAD) RUN_NOTEBOOK=$(if $(SMALL),false,true) $(BIN)/mkdocs build --strict --site-dir build/site

DATA := data/g1_bottle
docs-images: install  ## Draw the images of the documentation (DATA=data/g1_bottle; requires Chromium)
	$(BIN)/python docs/make_idea_image.py
	$(BIN)/hf-ptr score $(DATA) --corruption misaligned --out build/scores.parquet
	$(BIN)/python docs/make_report_image.py build/scores.parquet

docs-keys: install  ## Write docs/recipe_keys.md from the help texts in the code
	$(BIN)/python docs/make_recipe_keys.py

docs-checks: install  ## Write docs/checks.md and the page of each check from the docstrings in the code
	$(BIN)/python docs/make_checks.py

lint: install  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## Fix the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install gl browser  ## Run all tests
	$(ONE_THREAD) $(BIN)/pytest -n 2

test-fast: install gl browser  ## Run all tests except those marked slow
	$(ONE_THREAD) $(BIN)/pytest -n 2 -m "not slow"

OLDEST := .venv-oldest
# What a training step, a checkpoint, an adapter and the contract of policies owe to these libraries.
OLDEST_TESTS := tests/training/test_exact_normalisation.py tests/training/test_trainer.py \
  tests/training/test_trainer_settings.py tests/training/test_gradient_routing.py tests/training/test_training_state.py \
  tests/policies/test_contract.py tests/policies/test_lora.py tests/utils/test_components.py
# torch stays at the version of constraints.txt: of older ones, PyPI has builds with CUDA only, several GB.
$(OLDEST)/.installed: pyproject.toml constraints.txt .ci/lowest_versions.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints.txt torch
	$(OLDEST)/bin/python .ci/lowest_versions.py metaworld diffusion > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/pip install --quiet --requirement $(OLDEST)/lowest.txt pytest pytest-timeout hypothesis
	$(OLDEST)/bin/pip install --quiet --no-deps --editable .
	@touch $@

oldest: $(OLDEST)/.installed  ## Build .venv-oldest with the lowest versions that pyproject.toml allows

test-oldest: oldest gl  ## Run the tests of training with the lowest versions
	$(ONE_THREAD) $(OLDEST)/bin/python -m pytest $(OLDEST_TESTS)

LEROBOT := .venv-lerobot
PYTHON312 ?= python3.12
# LeRobot requires Python 3.12 and other versions of torch and transformers, hence a separate environment.
PLUGIN := packages/lerobot_policy_hf_ptr
$(LEROBOT)/.installed: pyproject.toml $(PLUGIN)/pyproject.toml
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "LeRobot needs Python 3.12: make PYTHON312=python3.12"; exit 2; }
	$(PYTHON312) -m venv $(LEROBOT)
	$(LEROBOT)/bin/pip install --quiet --editable '.[lerobot]' --editable $(PLUGIN) 'lerobot==0.6.1' hatchling pytest pytest-timeout
	@touch $@

lerobot: $(LEROBOT)/.installed  ## Build .venv-lerobot, 6 GB

test-lerobot: install lerobot  ## Run the tests with LeRobot: datasets read back, policies post-trained, lerobot-train with weights
	$(ONE_THREAD) HF_PTR_LEROBOT_PYTHON=$(CURDIR)/$(LEROBOT)/bin/python $(BIN)/pytest tests/data/test_read_by_lerobot.py
	$(ONE_THREAD) $(LEROBOT)/bin/python -m pytest tests/policies/test_lerobot_policies.py tests/lerobot_plugin

LIBERO := .venv-libero
LIBERO_ENV := $(ONE_THREAD) LIBERO_CONFIG_PATH=$(CURDIR)/$(LIBERO)/settings
# LIBERO installs a torchvision that the CPU build of torch cannot load, and does not use it. Its first import asks for
# the folder of its data. Its scenes come from the Hub; without them, only tests that need no scene run.
$(LIBERO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LIBERO)
	$(LIBERO)/bin/pip install --quiet --constraint constraints.txt torch
	$(LIBERO)/bin/pip install --quiet --constraint constraints.txt --editable '.[libero]' pytest pytest-timeout
	$(LIBERO)/bin/pip uninstall --quiet --yes torchvision
	echo N | $(LIBERO_ENV) $(LIBERO)/bin/python -c 'import libero.libero'
	$(LIBERO_ENV) $(LIBERO)/bin/python -c 'from libero.libero import get_assets_path; get_assets_path()'
	@touch $@

libero: $(LIBERO)/.installed  ## Build .venv-libero, 3 GB

test-libero: libero gl  ## Run the tests with LIBERO: rollouts
	$(LIBERO_ENV) $(LIBERO)/bin/python -m pytest -rs tests/envs/test_libero.py

test-deepspeed: install  ## Run the tests with DeepSpeed ZeRO 2 on two CPU processes; installs DeepSpeed
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-build-isolation 'deepspeed>=0.19,<0.20' ninja
	$(ONE_THREAD) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/training/test_deepspeed.py

PYTHONS := python3.11 python3.12 python3.13
test-wheel: install gl  ## Build the wheel, install it in an empty environment of each of PYTHONS, and use it there
	$(BIN)/python tests/packaging/check_wheel.py --python $(PYTHONS) $(SMALL)

demo: install  ## Record, plant faults, train three arms, evaluate, report: about ten minutes on two cores
	$(BIN)/hf-ptr demo --out runs/demo

# `make bench SMALL=--small` (likewise atlas, bench-import, bench-loader, bench-scaling, docs, fuzz, soak, test-wheel) checks that the
# target runs.
SMALL :=
bench: install  ## Measure the cost of PTR and of calibrated weights relative to SFT
	$(ONE_THREAD) $(BIN)/python -m benchmarks.overhead $(SMALL)

bench-clean: install  ## Compare PTR with SFT on clean demonstrations, five seeds: about half an hour
	$(BIN)/python -m benchmarks.robustness clean
	$(BIN)/python -m benchmarks.robustness.report

# By itself glibc gives the memory of large tensors back after each use, and the kernel clears it again for the next, which
# takes time where they are large: on images.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
PLAN := main
bench-robustness: install  ## Measure a table of the robustness benchmark (PLAN=main): many hours; rerun to resume
	$(KEEP_MEMORY) $(BIN)/python -m benchmarks.robustness $(PLAN)
	$(BIN)/python -m benchmarks.robustness.report

bench-score: install  ## Measure detection and negative controls of the calibrated score: about an hour and a half
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.negative_controls
	$(BIN)/python -m benchmarks.robustness.report

bench-import: install  ## Measure the time of `import hf_ptr` and `hf-ptr --help`
	$(BIN)/python -m benchmarks.first_import $(SMALL)

bench-loader: install $(if $(SMALL),,lerobot)  ## Compare the loading of chunks with LeRobot's dataset and with PyAV alone
	$(ONE_THREAD) $(BIN)/python -m benchmarks.loader $(if $(SMALL),$(SMALL),--lerobot $(CURDIR)/$(LEROBOT)/bin/python)

bench-smoke: install  ## Run one small cell of every kind of the robustness benchmark
	$(BIN)/python -m benchmarks.robustness smoke --fresh
	$(BIN)/python -m benchmarks.gpu --small

DATASETS := 2000
fuzz: install  ## Read drawn datasets and compare them with their right content (DATASETS=2000): some minutes; rerun to resume
	$(ONE_THREAD) $(BIN)/python -m benchmarks.reader_fuzz --datasets $(DATASETS) $(SMALL)

soak: install  ## Compare a training run, in one process and in two, that is killed 30 times with an uninterrupted one: some minutes
	$(ONE_THREAD) $(BIN)/python -m benchmarks.soak $(SMALL)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.soak --processes 2 $(SMALL)

# The checkers from PyPI that the atlas compares; they need other versions of libraries.
ATLAS_PEERS := build/atlas-peers
$(ATLAS_PEERS)/.installed: benchmarks/atlas/peers.txt
	$(PYTHON) -m venv $(ATLAS_PEERS)
	$(ATLAS_PEERS)/bin/pip install --quiet --requirement benchmarks/atlas/peers.txt
	@touch $@

atlas-peers: $(ATLAS_PEERS)/.installed  ## Build build/atlas-peers with other checkers of datasets, 0.9 GB

SETS := g1_bottle=$(DATA)
SEEDS := 2
atlas: install $(if $(SMALL),,atlas-peers)  ## Measure what the detector and others find of planted faults (SETS='NAME=PATH ...'): hours; rerun to resume
	$(ONE_THREAD) $(BIN)/python -m benchmarks.atlas $(if $(SMALL),$(SMALL),$(addprefix --set ,$(SETS)) --seeds $(SEEDS))
	$(if $(SMALL),,$(BIN)/python -m benchmarks.atlas.table)

bench-scaling: install  ## Measure how the cost of a step grows with batch, queue, candidates, chunks, segments, processes
	$(ONE_THREAD) $(BIN)/python -m benchmarks.scaling $(SMALL)

everything: install  ## Run every target and benchmark in full and log what was done: many hours; rerun to resume
	$(BIN)/python -m benchmarks.everything

clean:  ## Remove environments and build output
	rm -rf $(VENV) $(OLDEST) $(LEROBOT) $(LIBERO) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
