# Everything happens inside .venv; relative paths only, so the folder may have any name.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
# Of `make test`: most tests wait for servers and builds, so there are more than processors. Each has its own servers.
TEST_PROCESSES ?= 5
# Of `make kubernetes`: its tests wait for pods. One process has the platform's chart.
CLUSTER_TEST_PROCESSES ?= 3
# Or each process that the tests start would compile our modules itself.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DOCKER ?= docker
IMAGE_TARGET ?= platform
IMAGE_REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
IMAGE_NAME = cloudify$(patsubst %,-%,$(filter-out platform,$(IMAGE_TARGET))):$(VERSION)
SOURCES := api workers shared schemas tests
TEXTS := README.md CHANGELOG.md docs monitoring .github .ci/run charts compose.yaml Makefile Dockerfile pyproject.toml

.PHONY: help run test lint format types unit integration chaos queue-model e2e e2e-full streams machines kubernetes bench corpus docs clean \
  chart package image image-name sbom

help: ## Show what there is to make
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | column -t -s '|'

run: .venv/run.stamp ## Run the whole platform on this machine and deploy the sample site
	@exec $(BIN)/cloudify up

test: .venv/dev.stamp ## Run all tests
	$(BIN)/python -m pytest -p tests.support.lanes -n $(TEST_PROCESSES)

unit: .venv/dev.stamp ## Run the tests that need no server
	$(BIN)/python -m pytest tests/unit tests/architecture

integration: .venv/dev.stamp ## Run the tests on real servers
	$(BIN)/python -m pytest tests/contract tests/integration

chaos: .venv/dev.stamp ## Kill, stop and starve the queue's processes
	$(BIN)/python -m pytest tests/chaos

queue-model: .venv/dev.stamp ## Compare the queue with its model for long (CLOUDIFY_QUEUE_EXAMPLES, 2000 unless set)
	CLOUDIFY_QUEUE_EXAMPLES=$${CLOUDIFY_QUEUE_EXAMPLES:-2000} $(BIN)/python -m pytest -s tests/integration/shared/queue/test_queue_model.py

kubernetes: .venv/dev.stamp ## Run the tests that need a cluster (KUBECONFIG and KUBERNETES_LOAD, or KUBERNETES_NODE)
	$(BIN)/python -m tests.kubernetes $(BIN)/python -m pytest -p tests.support.lanes -n $(CLUSTER_TEST_PROCESSES) -m kubernetes tests/contract tests/kubernetes

e2e: .venv/dev.stamp ## Run the scenarios on the whole platform
	$(BIN)/python -m pytest tests/e2e

e2e-full: .venv/dev.stamp ## Build a project of every generator and package manager; says how long each takes
	CLOUDIFY_E2E_FULL=1 $(BIN)/python -m pytest -s tests/e2e/test_generators.py tests/e2e/test_build_files.py

streams: .venv/dev.stamp ## Follow 50 000 lines in a browser and elsewhere while processes are killed (CLOUDIFY_STREAM_SEED)
	CLOUDIFY_STREAM_LINES=$${CLOUDIFY_STREAM_LINES:-50000} CLOUDIFY_STREAM_KILLS=$${CLOUDIFY_STREAM_KILLS:-20} \
	  CLOUDIFY_STREAM_SEED=$${CLOUDIFY_STREAM_SEED:-$$RANDOM} $(BIN)/python -m pytest -s tests/streams

machines: .venv/dev.stamp ## Kill, cut off and heal three machines under load, for long (CLOUDIFY_MACHINES_SEED, _ROUNDS, _OUTAGE_SECONDS)
	CLOUDIFY_MACHINES_OUTAGE_SECONDS=$${CLOUDIFY_MACHINES_OUTAGE_SECONDS:-120} \
	  CLOUDIFY_MACHINES_ROUNDS=$${CLOUDIFY_MACHINES_ROUNDS:-2} CLOUDIFY_MACHINES_SEED=$${CLOUDIFY_MACHINES_SEED:-$$RANDOM} \
	  $(BIN)/python -m pytest -s tests/e2e/test_three_machines.py

bench: .venv/dev.stamp ## Measure deployments, rollbacks, memory and the queue
	$(BIN)/python -m tests.bench

corpus: .venv/dev.stamp ## Deploy other people's repositories (CORPUS: a folder of bare mirrors; PYTHONS: of Pythons; ROWS: names with commas)
	$(BIN)/python -m tests.corpus $(CORPUS_COMMAND) $(if $(CORPUS),--mirrors "$(CORPUS)") $(if $(ROWS),--rows "$(ROWS)") \
	  $(if $(PYTHONS),--pythons "$(PYTHONS)")

docs: .venv/dev.stamp ## Write what is made from the code: settings, failure codes, the table of imports
	$(BIN)/python -m tests.support.documentation

chart: .venv/dev.stamp ## Lint and render the Helm chart with many values, and check what it renders
	$(BIN)/python -m pytest tests/unit/charts

package: .venv/dev.stamp ## Package the Helm chart into build/chart
	@mkdir -p build/chart
	@$(BIN)/python -c 'import helm_python; print(helm_python.package("charts/cloudify", destination="build/chart"))'

image: ## Build an image (IMAGE_TARGET: platform, builder or evaluation; BASE_IMAGE: another base)
	$(DOCKER) build --target $(IMAGE_TARGET) --tag $(IMAGE_NAME) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$(IMAGE_REVISION) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	  $(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL) .

image-name: ## Print the name of an image
	@echo $(IMAGE_NAME)

sbom: .venv/dev.stamp ## Write the bill of materials of an image to build/sbom: CycloneDX and the packages of Debian
	DOCKER="$(DOCKER)" .ci/sbom $(IMAGE_NAME) build/sbom $(IMAGE_TARGET)

lint: .venv/dev.stamp types ## Check style, formatting, types, imports and words
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python -m tests.support.words $(SOURCES) $(TEXTS)

types: .venv/dev.stamp ## Check types
	$(BIN)/pyright

format: .venv/dev.stamp ## Format the code
	$(BIN)/ruff check --fix --select I $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## Remove the virtual environment and caches; the platform's data stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	find api workers shared schemas tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/python.stamp:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Cloudify needs Python 3.11 or newer as $(PYTHON); install it, or name one: make PYTHON=python3.12 …" >&2; \
	  exit 1; }
	@echo "Making the virtual environment in .venv …"
	@"$(PYTHON)" -m venv .venv || { \
	  echo "$(PYTHON) can't make a virtual environment; on Debian install the package python3-venv." >&2; exit 1; }
	@touch $@

# Hashes of everything that is downloaded are in the lock files.
.venv/run.stamp: requirements.lock pyproject.toml | .venv/python.stamp
	@echo "Installing the locked dependencies …"
	@if [ ! -e .venv/dev.stamp ]; then $(PIP) install --require-hashes --no-deps -r requirements.lock; fi
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.lock pyproject.toml | .venv/python.stamp
	@echo "Installing the locked dependencies …"
	@$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
