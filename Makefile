# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Idle OpenMP workers must not spin: small models run as several single-thread processes side by side.
export OMP_WAIT_POLICY ?= PASSIVE
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo real bench test test-slow consortium docs simulation second soak lint types format lock licences audit release clean

demo: $(VENV)/.installed
	$(BIN)/feddat demo

# Real data, a real model: downloads 1.6 GB (docs/real.md). On a GPU: make real ARGS=device=cuda
real: $(VENV)/.installed
	$(BIN)/feddat real $(ARGS)

bench: $(VENV)/.installed
	$(BIN)/feddat bench step --threads 1
	$(BIN)/feddat bench epoch --threads 1
	$(BIN)/feddat bench clients
	$(BIN)/feddat bench jobs --config demo
	$(BIN)/feddat bench wire
	$(BIN)/feddat bench fill docs/benchmarks.md

# SKIPS=--forbid-skips fails if a test is skipped that this machine's hardware allows.
SKIPS ?=

test: lint types
	$(BIN)/pytest -n 2 --dist worksteal $(SKIPS)

test-slow: $(VENV)/.installed
	$(BIN)/pytest -m slow

consortium: $(VENV)/.installed
	$(BIN)/pytest -m slow -rP $(SKIPS) tests/experiment/test_consortium_example.py

# Check that Flower's simulation on Ray gives the same numbers.
simulation: $(VENV)/.installed
	$(BIN)/pytest -m slow $(SKIPS) tests/experiment/test_deployment.py -k simulation

# Check everything that does not need torch under a second Python: SECOND_PYTHON=python3.13.
second: $(VENV)/.installed
	.ci/second $(SECOND_PYTHON)

# Run three nodes for MINUTES, one of which attacks in every round. Not part of `make test`.
MINUTES ?= 60

soak: $(VENV)/.installed
	PYTHONPATH=tests:tests/attacks $(BIN)/python tests/attacks/soak.py --minutes $(MINUTES) --folder build/soak

# Build the documentation site in build/site: strict, with checked links, and no external resources.
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

# Install locked versions with hashes; torch separately, since its files differ between machines (docs/dev/releasing.md).
# LOCKED=no installs the newest versions that pyproject.toml allows.
LOCKED ?= yes

$(VENV)/.installed: pyproject.toml constraints.txt requirements/lock.txt requirements/torch.txt requirements/torch-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),yes)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/lock.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/torch-cpu.txt 2>/dev/null \
		|| $(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/torch.txt
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
else
	$(BIN)/pip install --quiet -c constraints.txt 'torch==2.13.0'
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
endif
	touch $@

# Write the lock file for all Pythons and systems. UPGRADE=--upgrade takes newer versions.
lock: $(VENV)/.installed
	$(BIN)/uv pip compile pyproject.toml requirements/lock.in --extra dev --universal --python-version 3.11 \
		--override requirements/overrides.txt --generate-hashes --no-header --no-annotate --quiet $(UPGRADE) \
		-o requirements/lock.txt

# Release tools have their own environment.
TOOLS := build/tools

$(TOOLS)/.installed: requirements/tools.txt
	test -x $(TOOLS)/bin/python || $(VENV)/bin/python -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet -r requirements/tools.txt
	touch $@

licences: $(VENV)/.installed $(TOOLS)/.installed
	$(BIN)/python .ci/licences.py $(TOOLS)/bin/pip-licenses docs/dev/licences.md

# Look up known vulnerabilities; needs the network.
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit --require-hashes --disable-pip -r requirements/lock.txt

# Build and check wheel, sdist and SBOM in dist/, and run the demo from the wheel in a clean environment.
release: $(VENV)/.installed $(TOOLS)/.installed
	.ci/release $(TOOLS) $(PYTHON)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
