# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# What pytest runs; all tests if empty.
TESTS :=
# Of `make seeds`.
SEEDS := 0 1 2 3 4
NAME := seed
OPTIONS :=

.DEFAULT_GOAL := help
.PHONY: help install install-dev run experiments experiments-table seeds test test-runtime test-lower-bounds constraints audit lint style bench chaos fuzz
.PHONY: format lock clean repository

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv and install the project into it (Python >= 3.11)

install-dev: $(VENV)/.installed-dev ## the same, with what tests and checks need

run: repository install ## run what is stale of the pipeline on params.yaml and print the table of networks
	@$(IN_VENV) python -m pipeline.names
	$(IN_VENV) dvc repro
	@$(IN_VENV) bnas show

# Before minutes of installing: DVC runs in a git repository only.
repository:
	@found=$$(LC_ALL=C git rev-parse --git-dir 2>&1) || { case "$$found" in \
	  *"not a git repository (or"*) echo "DVC needs a git repository, and this folder is none (a downloaded archive?): run 'git init' first";; \
	  *) echo "$$found";; esac >&2; exit 1; }

# Columns with a slash are hashes of what stages read; the named metrics stand there even if they are equal.
experiments: install ## compare experiments: changed parameters, hypervolumes, gain, best error, smallest, tau, seconds in all
	@$(IN_VENV) dvc exp show --only-changed --drop '.*/|Created|margin' --keep 'hypervolume|hv_|gain|best|small|tau|seconds'

experiments-table: install-dev ## run three tiny experiments, and write what `make experiments` prints of them into README.md
	$(IN_VENV) OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m tests.experiments_table

# In folders of their own, so that params.yaml stays as it is. What is interrupted or has run is not run again.
# OPTIONS may speak of the seed: OPTIONS='-S retrain.seed=10$$seed' retrains the fronts from other weights.
seeds: repository install ## run the pipeline under each of SEEDS (OPTIONS: more -S, NAME: of the experiments) and pool what the searches were worth: reports/seeds.md; AGAINST: the NAME of those that these are compared with
	@$(IN_VENV); set -e; for seed in $(SEEDS); do \
	  if ! dvc exp list --name-only | grep -qx "$(NAME)-$$seed"; then \
	    dvc exp run --temp --name "$(NAME)-$$seed" $(foreach stage,data stage1 stage2 search trial retrain,-S $(stage).seed=$$seed) $(OPTIONS); \
	  fi; \
	done; pooled=$$(python -m pipeline.compare $(foreach seed,$(SEEDS),$(NAME)-$(seed)) $(if $(AGAINST),--against $(foreach seed,$(SEEDS),$(AGAINST)-$(seed)))); \
	echo "$$pooled"; { echo "# $(NAME): the pipeline under seeds $(SEEDS)"; echo; \
	printf '%s' 'By `make seeds NAME=$(NAME) SEEDS="$(SEEDS)"$(if $(AGAINST), AGAINST=$(AGAINST))$(if $(OPTIONS), OPTIONS='\''$(subst ',,$(value OPTIONS))'\'')`. '; echo "\`gain\` is in points of test error, \`best_error\` a share."; echo "$$pooled" | tail -n +2; } > reports/$(NAME)s.md

# Two test processes with one thread each use two cores; more threads only get in each other's way. A file's tests
# share what is dear to set up, so they go to one process. Types are checked meanwhile and reported in the end.
test: style ## style and type checks, and all tests
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1; \
	found=$$(mktemp); trap 'kill $$mypy 2>/dev/null; rm -f "$$found"' EXIT; \
	mypy >"$$found" 2>&1 & mypy=$$!; \
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS); tests=$$?; \
	wait $$mypy; types=$$?; echo "mypy:"; cat "$$found"; \
	exit $$((tests + types))

chaos: install-dev ## kill a tiny pipeline 60 times at random moments; its table goes to reports/chaos.md
	$(IN_VENV) OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m tests.chaos

fuzz: install-dev ## give the readers of files a minute of nonsense each
	$(IN_VENV) python -m tests.fuzz

test-runtime: install-dev ## install the base package into a venv of its own, without torch, and predict there
	$(IN_VENV) python -m tests.runtime

# Not under $(VENV): the suite runs once on the lowest versions that pyproject.toml allows.
test-lower-bounds: | $(VENV)/bin/python ## install the oldest packages that are allowed into .venv-lowest and run the tests there
	test -d .venv-lowest || $(VENV)/bin/python -m venv .venv-lowest
	$(VENV)/bin/python -m tests.lower_bounds > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt -e '.[test]'
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 \
	  python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

constraints: install-dev ## write the versions in .venv, with which all tests passed, to constraints.txt
	$(IN_VENV) python -m tests.tested_versions --write

# Strict, because pip-audit passes over a package that its service does not answer for, and calls that a success.
audit: install-dev ## look all installed packages up among known vulnerabilities (needs the network)
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(VENV)/bin/python -m pip --disable-pip-version-check list --format=freeze --exclude-editable >"$$folder/packages.txt"; \
	$(VENV)/bin/python -m venv "$$folder/venv" && "$$folder/venv/bin/python" -m pip install --quiet pip-audit && \
	"$$folder/venv/bin/pip-audit" --strict --no-deps --disable-pip -r "$$folder/packages.txt"

lint: style ## style and type checks
	$(IN_VENV) mypy

style: install-dev
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .

bench: install-dev ## measure speed against rivals (after make run) and write reports/benchmarks.md
	$(IN_VENV) python -m tests.benchmarks

format: install-dev ## fix style and formatting in place
	$(IN_VENV) ruff check --fix .
	$(IN_VENV) ruff format .

# The dry run exits with 0 whether or not a stage is stale: only its output tells.
lock: install ## fail if dvc.lock does not match the code and params.yaml
	@output=$$($(IN_VENV) dvc repro --dry --allow-missing dvc.yaml pipeline/transfer/dvc.yaml 2>&1) || { echo "$$output" >&2; exit 1; }; \
	if stale=$$(echo "$$output" | grep '^Running stage'); then \
	  echo "dvc.lock is stale; run 'make run' and commit it. Stages that would run:" >&2; \
	  echo "$$stale" >&2; exit 1; \
	fi; \
	echo "dvc.lock is up to date"

clean: ## remove .venv and the tools' caches; data, results, checkpoints and DVC's cache stay
	rm -rf $(VENV) .venv-lowest .venv-second *.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.dvc/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null || echo missing); \
	  echo "Python >= 3.11 is needed, '$(PYTHON)' is $$found: name another one, make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); PyTorch is large, this can take minutes ..."
	@$(PIP_INSTALL) -e '.[pipeline]'
	@$(VENV)/bin/python -m tests.tested_versions
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV), with the tools for development; PyTorch is large, this can take minutes ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@$(VENV)/bin/python -m tests.tested_versions
	@touch $(VENV)/.installed $@
