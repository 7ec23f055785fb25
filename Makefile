# `make` lists the targets. Everything runs inside the virtual environment $(VENV).

PYTHON ?= python3
VENV   ?= .venv
RUN    ?= runs/quickstart
# Test processes: one a core. ARGS go to pytest, as in: make test ARGS="-k packing"
JOBS   ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$(( n > 8 ? 8 : n )))
ARGS   ?=

# The reference's torch, without its gigabytes of CUDA where pip's index has a build for the CPU
# alone under this version; else: TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH  ?= torch==2.13.0

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARITY := $(VENV)/.parity
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-parity parity-table corruption-table lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the virtual environment .venv with lm (editable) and the test tools

$(STAMP): setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "lm needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)"; \
	  echo "install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv; macOS: brew install python@3.12)"; \
	  echo "and name it: make setup PYTHON=python3.11"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: the modules venv and ensurepip are missing"; \
	  echo "install them (Debian, Ubuntu: apt-get install python3-venv), then: make setup"; exit 1; } >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing lm and its dependencies into $(VENV) (a few minutes the first time)" >&2
	@$(PIP) install --quiet --editable '.[test]'
	@touch $@

quickstart: setup ## train a small model on text every Python brings along, then sample from it
	@$(BIN)/lm train --config=experiments/quickstart.py --workdir=$(RUN)
	@echo
	@$(BIN)/lm generate --workdir=$(RUN) --prompt='Return the ' --temperature=0.8
	@echo
	@echo "The loss curve is $(RUN)/loss.png, every number is in $(RUN)/metrics.jsonl. Next:"
	@echo "  $(BIN)/lm generate --workdir=$(RUN) --prompt='The value of '"
	@echo "  $(BIN)/lm train --config=experiments/quickstart.py --workdir=runs/deeper --config.model.num_layers=6"
	@echo "  $(BIN)/lm --help"

test: setup ## the tests that take seconds
	$(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

test-slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow --timeout=1800 $(ARGS)

$(PARITY): $(STAMP)
	@echo "installing transformers and torch into $(VENV), to compare with" >&2
	@$(PIP) install --quiet $(TORCH)
	@$(PIP) install --quiet --editable '.[test,parity]'
	@touch $@

test-parity: $(PARITY) ## every family against transformers on CPU torch, which it installs
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n $(JOBS) tests/parity $(ARGS)

parity-table: $(PARITY) ## the same as a table: family x what is compared, with the errors measured
	@HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu $(BIN)/python -m tests.parity.table

corruption-table: setup ## what the objectives' corruption does to 131,072 tokens, beside what the papers state
	@JAX_PLATFORMS=cpu $(BIN)/python -m tests.data.corruption.table

lint: setup ## ruff, mypy and the import contract; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## ruff's formatting and safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## caches and build leftovers; keeps .venv and runs/
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
