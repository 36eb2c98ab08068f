# Two commands matter: `make demo` and `make test`; `make help` lists the others. Each makes its own environment first,
# from the versions in requirements/constraints.txt, so that both do next year what they do today.
#   make demo VENV=/path/to/venv     use another environment
#   make demo TORCH=torch==2.9.0     another torch (the CPU build of your choice, if you have no GPU)
#   make test LOCKED=yes             every package but torch is checked against its hash (requirements/locked.txt)

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_LATEST ?= torch
TORCH_OLDEST ?= torch==2.8.0
LOCKED ?=
OUT ?= runs/toy
BIN := $(VENV)/bin
READY := $(VENV)/.padd-ready
PIP := $(BIN)/python -m pip install --quiet
CONSTRAINTS := requirements/constraints.txt
HASHES := requirements/locked.txt

MEASURED := clustering clustering_scale distillation evaluation routing_scale stage1 training
ON_PROBLEMS := grading subdomains

.PHONY: demo help test test-all test-latest test-oldest bench lint docs lock audit clean

demo: $(READY) ## the whole method on the embedded toy, into $(OUT)
	$(BIN)/padd run toy --out $(OUT)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

test: lint ## lint, types and the fast tests
	$(BIN)/python -m pytest -q

test-all: lint ## the same with the slow tests
	$(BIN)/python -m pytest -q -m ""

test-latest: $(READY) ## the fast tests with the newest versions that pyproject.toml allows (.venv-latest)
	$(call in_fresh,.venv-latest,highest,$(TORCH_LATEST))

test-oldest: $(READY) ## the same with the oldest versions (.venv-oldest)
	$(call in_fresh,.venv-oldest,lowest-direct,$(TORCH_OLDEST))

define in_fresh
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(1)
	$(BIN)/uv pip install --quiet --python $(1)/bin/python --resolution $(2) "$(3)" --editable ".[dev]"
	$(1)/bin/padd doctor
	$(1)/bin/python -m pytest -q
endef

bench: $(READY) ## each benchmark's quick form; those on real problems where PADD_DATA names a folder of them
	set -e; for name in $(MEASURED); do $(BIN)/python benchmarks/$$name.py --quick; done
	set -e; if [ -n "$$PADD_DATA" ]; then \
	    for name in $(ON_PROBLEMS); do $(BIN)/python benchmarks/$$name.py "$$PADD_DATA" --quick; done; fi

lint: $(READY) ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(READY) ## docs/CLI.md anew from the commands' help
	$(BIN)/python -m padd_cli.reference docs/CLI.md

# Every version that demo and tests use, for every Python and system; torch and what only its builds need are left to
# TORCH. What is locked already stays as long as pyproject.toml allows it: `make lock UPGRADE=--upgrade` takes the newest.
lock: $(READY) ## the locked versions and their hashes anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes $(UPGRADE) --no-annotate \
	    --custom-compile-command "make lock" --extra dev --excludes requirements/not-locked.txt \
	    pyproject.toml requirements/build.in --output-file $(HASHES)
	sed -e '/--hash=/d' -e 's/ *\\$$//' $(HASHES) > $(CONSTRAINTS)

audit: $(READY) ## known vulnerabilities of what is locked
	$(BIN)/python .ci/audit.py $(BIN)/uv $(HASHES)

clean: ## remove runs, environments and builds
	rm -rf runs .venv .venv-latest .venv-oldest build *.egg-info

# torch comes first and pinned: any other order may fetch a build for hardware that is not there
$(READY): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint $(CONSTRAINTS) "$(TORCH)" setuptools
ifeq ($(LOCKED),)
	$(PIP) --constraint $(CONSTRAINTS) --no-build-isolation --editable ".[dev]"
else
	$(PIP) --require-hashes --no-deps --requirement $(HASHES)
	$(PIP) --no-deps --no-build-isolation --editable .
endif
	touch $@
