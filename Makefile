# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install install-dev run test test-runtime lint bench chaos fuzz format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv and install the project into it (Python >= 3.11)

install-dev: $(VENV)/.installed-dev ## the same, with what tests and checks need

run: install ## run what is stale of the pipeline on params.yaml and print the table of networks
	$(IN_VENV) dvc repro
	@$(IN_VENV) python -m pipeline.table

# Two test processes with one thread each use two cores; more threads only get in each other's way.
test: lint ## lint, then all tests
	$(IN_VENV) OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m pytest -n 2

chaos: install-dev ## kill a tiny pipeline 60 times at random moments; its table goes to reports/chaos.md
	$(IN_VENV) OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m tests.chaos

fuzz: install-dev ## give the readers of files a minute of nonsense each
	$(IN_VENV) python -m tests.fuzz

test-runtime: install-dev ## install the base package into a venv of its own, without torch, and predict there
	$(IN_VENV) python -m tests.runtime

lint: install-dev ## style and type checks
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy

bench: install-dev ## measure speed against rivals (after make run) and write reports/benchmarks.md
	$(IN_VENV) python -m tests.benchmarks

format: install-dev ## fix style and formatting in place
	$(IN_VENV) ruff check --fix .
	$(IN_VENV) ruff format .

# The dry run exits with 0 whether or not a stage is stale: only its output tells.
lock: install ## fail if dvc.lock does not match the code and params.yaml
	@output=$$($(IN_VENV) dvc repro --dry --allow-missing 2>&1) || { echo "$$output" >&2; exit 1; }; \
	if stale=$$(echo "$$output" | grep '^Running stage'); then \
	  echo "dvc.lock is stale; run 'make run' and commit it. Stages that would run:" >&2; \
	  echo "$$stale" >&2; exit 1; \
	fi; \
	echo "dvc.lock is up to date"

clean: ## remove .venv and the tools' caches; data, results, checkpoints and DVC's cache stay
	rm -rf $(VENV) *.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.dvc/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null || echo missing); \
	  echo "Python >= 3.11 is needed, '$(PYTHON)' is $$found: name another one, make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); PyTorch is large, this can take minutes ..."
	@$(PIP_INSTALL) -e '.[pipeline]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV), with the tools for development; PyTorch is large, this can take minutes ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@
