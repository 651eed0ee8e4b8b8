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

SHELL_SCRIPTS := entrypoint.sh .ci/run .ci/bare deploy/healthcheck.sh deploy/jetson/fetch_onnxruntime.sh deploy/jetson/compare_images.sh deploy/jetson/emulate.sh deploy/nginx/15-jetface.envsh deploy/jetson/fleet.sh deploy/jetson/fleet_host.sh deploy/jetson/backup.sh deploy/jetson/verify.sh
DOCKERFILES := Dockerfile.jetson deploy/jetson/Dockerfile.slim deploy/jetson/Dockerfile.jp7 deploy/Dockerfile.gpu deploy/Dockerfile.cpu

AUDITED := requirements/run.txt requirements/cpu.txt requirements/gpu.txt requirements/jetson.txt requirements/jetson7.txt

# Where this is set, each process that a test starts would compile all of its modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run dev test test-quick coverage check lint bench bench-peers house chaos soak audit lock lock-images dist site docs clean


help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

define set_up
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
  { echo "jetface needs Python 3.10 or newer; $$($(PYTHON) --version) is $(PYTHON). Try: make PYTHON=python3.11 ..." >&2; exit 1; }
@echo "Setting up $(VENV) from $(1) ..."
@$(PYTHON) -m venv $(VENV)
@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --require-hashes -r $(1)
@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . --editable clients/python
endef

$(VENV)/.run: requirements/run.txt pyproject.toml clients/python/pyproject.toml
	$(call set_up,requirements/run.txt)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml clients/python/pyproject.toml
	$(call set_up,requirements/dev.txt)
	@touch $@ $(VENV)/.run

run: $(VENV)/.run ## set up, then serve on PORT (18080) on the CPU
	@$(BIN)/versioningit --write >/dev/null
	@PATH="$(abspath $(BIN)):$$PATH" ./entrypoint.sh

dev: $(VENV)/.dev ## set up for a change: every tool, and the checks before each commit
	@$(BIN)/pre-commit install

$(VENV)/.training: $(VENV)/.dev training/requirements.txt
	@echo "Setting up PyTorch for the training programs ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -r training/requirements.txt
	@touch $@

# Files in order: their tests in one process, and tests/unit last, so that no long one is left to a single worker.
XDIST := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# The programs of training/ need PyTorch, several hundred MB: their tests run where TRAINING=1 asks for them.
test: $(VENV)/.dev $(if $(TRAINING),$(VENV)/.training) ## set up, then run every test; ARGS='-k box': those; TRAINING=1: training/ too
	$(BIN)/python -m pytest $(ARGS) $(XDIST)

# Apart from `test`, which it makes half as long again.
coverage: $(VENV)/.dev ## run every test, and fail below 95 % of branches
	@$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(XDIST)

# tests/unit/conftest.py holds these tests to one process and marks what needs weights.
test-quick: $(VENV)/.dev ## unit tests that need neither weights nor seconds, within a minute; ARGS='-k box': of those
	FUZZ=0.1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --hypothesis-profile=quick \
	  -m 'not weights and not slow' tests/unit $(ARGS)

lint: $(VENV)/.dev ## style, types, layers, dependencies, spelling, scripts, images
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry app
	$(BIN)/typos
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/hadolint $(DOCKERFILES)

check: lint test ## lint and test

$(VENV)-bench/.ready: requirements/bench.txt
	@echo "Setting up $(VENV)-bench, for the peers we measure beside us ..."
	@$(PYTHON) -m venv $(VENV)-bench
	@$(VENV)-bench/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

bench: $(VENV)/.dev $(VENV)-bench/.ready ## measure against the floor and insightface; see tests/bench/
	$(BIN)/python -m tests.bench --peer-python $(VENV)-bench/bin/python

bench-peers: $(VENV)/.dev $(VENV)-bench/.ready ## measure against insightface and uniface in the same rounds, no more (Python 3.11)
	$(BIN)/python -m tests.bench --only-peers --peer-python $(VENV)-bench/bin/python --out tests/bench/results/peers

house: $(VENV)/.dev ## the size of the code: modules, lines, calls of a request, words of docs; CALLS=1: which; QUICK=1: seconds of test-quick, too
	$(BIN)/python -m tests.bench.house $(if $(QUICK),--test-quick) $(if $(CALLS),--calls)

chaos: $(VENV)/.dev ## let clients and machines misbehave, print what it does to others; see tests/chaos/
	$(BIN)/python -m tests.chaos

soak: $(VENV)/.dev ## an hour of mixed requests (MINUTES=60): what the service's memory does
	$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),60)

$(VENV)-audit/.ready: requirements/audit.txt
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# --strict: a package that could not be looked up is a failure, too. The licences are those of what users install.
audit: $(VENV)/.dev $(VENV)-audit/.ready ## known vulnerabilities and licences of every locked package (needs PyPI itself)
	$(VENV)-audit/bin/pip-licenses --python=$(BIN)/python --from=mixed --order=license --partial-match --fail-on="GPL;Affero" \
	  --packages $$(sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p' requirements/run.txt)
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes $(AUDITED:%=--requirement %)

# --no-strip-extras and the rest: one shape for every lock, so that a diff shows versions and nothing else.
LOCK := uv pip compile --generate-hashes --no-strip-extras --no-annotate --quiet --custom-compile-command 'make lock'
ELSEWHERE := --overrides requirements/onnxruntime-elsewhere.txt
JETSON := --python-version 3.10 --python-platform aarch64-manylinux_2_35
JETSON7 := --python-version 3.12 --python-platform aarch64-manylinux_2_39
GPU := --python-version 3.12 --python-platform x86_64-manylinux_2_35

lock: lock-images ## resolve the lock files anew (needs uv)
	$(LOCK) --universal --python-version 3.10 --overrides requirements/unwanted.txt pyproject.toml --extra parquet --group build requirements/run.in -o requirements/run.txt
	$(LOCK) --universal --python-version 3.10 -c requirements/run.txt pyproject.toml --group build --group dev -o requirements/dev.txt
	$(LOCK) --universal --python-version 3.10 requirements/bench.in -o requirements/bench.txt
	$(LOCK) --universal --python-version 3.10 requirements/audit.in -o requirements/audit.txt
	$(LOCK) --universal --python-version 3.10 requirements/site.in -o requirements/site.txt

lock-images: ## of these, those of the images
	$(LOCK) --universal --python-version 3.10 requirements/builder.in -o requirements/builder.txt
	$(LOCK) --universal --python-version 3.11 --overrides requirements/unwanted.txt pyproject.toml --extra openvino --extra otel -o requirements/cpu.txt
	$(LOCK) $(GPU) $(ELSEWHERE) pyproject.toml --extra otel requirements/gpu.in -o requirements/gpu.txt
	$(LOCK) $(JETSON) $(ELSEWHERE) pyproject.toml requirements/jetson.in -o requirements/jetson.txt
	$(LOCK) $(JETSON) -c requirements/jetson.txt requirements/jetson-onnxruntime.in -o requirements/jetson-onnxruntime.txt
	$(LOCK) $(JETSON7) $(ELSEWHERE) pyproject.toml requirements/jetson7.in -o requirements/jetson7.txt
	$(LOCK) $(JETSON7) -c requirements/jetson7.txt requirements/jetson7-onnxruntime.in -o requirements/jetson7-onnxruntime.txt

dist: $(VENV)/.dev ## build wheels and source distributions, the client's too, into dist/
	$(BIN)/python -m hatchling build -d dist
	cd clients/python && $(abspath $(BIN))/python -m hatchling build -d ../../dist

$(VENV)-site/.ready: requirements/site.txt
	@$(PYTHON) -m venv $(VENV)-site
	@$(VENV)-site/bin/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

site: $(VENV)-site/.ready ## the documents as a site, in site/; a link that leads nowhere ends it. SERVE=1: serve it on port 8000
	NO_MKDOCS_2_WARNING=1 $(VENV)-site/bin/mkdocs $(if $(SERVE),serve,build) --strict

docs: $(VENV)/.dev ## write the generated parts anew: docs/settings.md, deploy/*.env, docs/errors.md, the client for threads
	@$(BIN)/jetface settings --markdown | sed -i -e '/<!-- settings:begin -->/,/<!-- settings:end -->/{//!d}' \
	  -e '/<!-- settings:begin -->/r /dev/stdin' docs/settings.md
	@for target in cpu gpu jetson; do $(BIN)/jetface settings --env $$target > deploy/$$target.env; done
	@$(BIN)/jetface errors > docs/errors.md
	@$(BIN)/python clients/python/unasync.py

clean: ## remove what set-up and tests made
	rm -rf $(VENV) dist site .coverage* htmlcov .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
