# Two commands matter: `make demo` and `make test`. Each makes its own environment first.
#   make demo VENV=/path/to/venv     use another environment
#   make demo TORCH=torch==2.9.0     another torch (the CPU build of your choice, if you have no GPU)

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
OUT ?= runs/toy
BIN := $(VENV)/bin
READY := $(VENV)/.padd-ready

MEASURED := clustering clustering_scale distillation evaluation routing_scale stage1 training
ON_PROBLEMS := grading subdomains

.PHONY: demo test test-all bench lint docs clean

demo: $(READY)
	$(BIN)/padd run toy --out $(OUT)

test: lint
	$(BIN)/python -m pytest -q

test-all: lint
	$(BIN)/python -m pytest -q -m ""

# each program's quick form; those on real problems where PADD_DATA names a folder of them
bench: $(READY)
	set -e; for name in $(MEASURED); do $(BIN)/python benchmarks/$$name.py --quick; done
	set -e; if [ -n "$$PADD_DATA" ]; then \
	    for name in $(ON_PROBLEMS); do $(BIN)/python benchmarks/$$name.py "$$PADD_DATA" --quick; done; fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(READY)
	$(BIN)/python -m padd_cli.reference docs/CLI.md

clean:
	rm -rf runs .venv build *.egg-info

# torch comes first and pinned: any other order may fetch a build for hardware that is not there
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
