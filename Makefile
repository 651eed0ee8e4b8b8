# Everything a person does with a checkout: `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Weights lie beside a checkout of ours now and then; a person's own mirror wins.
ifneq ($(wildcard ../shared/models),)
export MODEL_MIRROR ?= ../shared/models
endif

.PHONY: help run test check lint bench lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.run: requirements/run.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run

run: $(VENV)/.run ## set up, then serve on PORT (18080) on the CPU
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./entrypoint.sh

test: $(VENV)/.dev ## set up, then run every test
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov --cov-report= -n 2 --dist loadfile
	$(BIN)/coverage report

lint: $(VENV)/.dev ## style, types, layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

check: lint test ## lint and test

bench: $(VENV)/.dev ## measure against the floor and insightface; see tests/bench/
	$(BIN)/python -m tests.bench

lock: ## resolve the lock files anew (needs uv)
	uv pip compile --universal --python-version 3.10 --generate-hashes --no-strip-extras --no-annotate --quiet \
	  --custom-compile-command 'make lock' pyproject.toml --group build -o requirements/run.txt
	uv pip compile --universal --python-version 3.10 --generate-hashes --no-strip-extras --no-annotate --quiet \
	  --custom-compile-command 'make lock' -c requirements/run.txt pyproject.toml --group build --group dev -o requirements/dev.txt

clean: ## remove what set-up and tests made
	rm -rf $(VENV) .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache
