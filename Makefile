# Each target sets itself up into .venv and says what it does; repeated, the set-up takes a second.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
MODEL := var/models/smollm2-135m-instruct
# The first Python that is new enough and can make virtual environments; `make PYTHON=/path/to/python3.12` overrides it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

# The tests start many processes: without kept bytecode each of them compiles everything that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup model demo run test check check-types check-units format bench bench-gpu proof-canaries proof-soak lock clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: ## make or update .venv (CPU or GPU route, by looking; GAIAD_ROUTE=cpu|gpu overrides)
	@if [ -z "$(PYTHON)" ]; then echo "set-up: no Python 3.11 or newer with venv was found; install one, or make PYTHON=PATH" >&2; exit 1; fi
	@$(PYTHON) tools/setup.py

model: setup ## prepare the small base model of the demo and the tests
	@$(PY) tools/prepare_model.py $(MODEL)

demo: model ## the whole loop on this machine, from traffic to a better adapter and two bad ones caught
	@$(PY) -m examples.demo

run: model ## gaiad in the foreground with the small model, state in var/ (end it with Ctrl-C)
	@echo "run: http://127.0.0.1:6430 once 'gaiadctl status' says serving; in another terminal: $(VENV)/bin/gaiadctl status"
	@$(VENV)/bin/gaiad --config examples/gaiad-local.toml

test: model ## every test: unit, integration, and acceptance on the real engine
	@$(PY) -m pytest

check: setup ## format, lint, types, unit tests (those over a PostgreSQL server are in test alone)
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(MAKE) --no-print-directory -j2 --output-sync check-types check-units

check-types:
	@$(VENV)/bin/mypy

check-units:
	@$(PY) -m pytest tests/unit -m "not server" -n auto --maxprocesses 4 --dist loadfile

format: setup ## put every file into shape
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix .

bench: model ## every benchmark; each prints one table (TRL, which one of them compares with, is installed for it)
	@$(PY) -c 'import datasets, trl' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@for file in $$(ls bench/[a-z]*.py | grep -v -e /proof_ -e _gpu); do name=$$(basename $$file .py); echo "bench: $$name"; $(PY) -m bench.$$name || exit 1; done

bench-gpu: setup ## how fast a 3-4B base is trained on an NVIDIA GPU, and with how much memory
	@$(PY) -m bench.train_gpu

proof-%: model ## a long proof by name, with the assertions of its short twin in the tests
	@if [ ! -f bench/proof_$*.py ]; then echo "proof: there is no proof '$*'; there are: $$(ls bench/proof_*.py 2>/dev/null | sed 's/.*proof_//; s/\.py//' | xargs) soak" >&2; exit 1; fi
	@$(PY) -m bench.proof_$*

proof-canaries: setup ## 100,000 requests of people with and without consent: each text only where it was agreed to
	@$(PY) -m bench.proof_canaries

proof-soak: setup ## 200,000 requests through the proxy, some broken off: nothing may be left behind (needs a C compiler)
	@$(PY) -m bench.proxy_soak

lock: setup ## write requirements/cpu.lock anew from what is installed
	@$(PY) tools/lock.py > requirements/cpu.lock.tmp && mv requirements/cpu.lock.tmp requirements/cpu.lock

clean: ## remove .venv, builds and caches (var/, with the adapters and the store, stays)
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './var/*' -prune -exec rm -rf {} +
