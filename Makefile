# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Idle OpenMP workers must not spin: small models run as several single-thread processes side by side.
export OMP_WAIT_POLICY ?= PASSIVE
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo real bench test test-slow consortium docs lint types format clean

demo: $(VENV)/.installed
	$(BIN)/feddat demo

# Real data, a real model: downloads 1.6 GB (docs/real.md). On a GPU: make real ARGS=device=cuda
real: $(VENV)/.installed
	$(BIN)/feddat real $(ARGS)

bench: $(VENV)/.installed
	$(BIN)/feddat bench step --threads 1
	$(BIN)/feddat bench epoch --threads 1
	$(BIN)/feddat bench clients
	$(BIN)/feddat bench jobs --config src/feddat/presets/demo.yaml
	$(BIN)/feddat bench wire
	$(BIN)/feddat bench fill docs/benchmarks.md

test: lint types
	$(BIN)/pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed
	$(BIN)/pytest -m slow

consortium: $(VENV)/.installed
	$(BIN)/pytest -m slow -rP tests/experiment/test_consortium_example.py

# The documentation site, in build/site: strict, its links checked, nothing loaded from elsewhere.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
