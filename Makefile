# Needs git, make and Python 3.11 or later; everything else goes into .venv. `make PYTHON=python3.12 test` picks one.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
NEEDS_PYTHON := import sys; sys.exit("heliograph needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)

.PHONY: demo fx test lint bench node clean

demo: .venv/.runtime  ## the engine with recorded ticks; then: .venv/bin/heliograph subscribe 'price.>'
	@$(BIN)/heliograph run --demo

fx: .venv/.fx  ## the FX market-data server of examples/fx with recorded ticks, on port 5001
	@$(BIN)/heliograph run --config examples/fx/engine.toml --demo

# A file of tests stays in one process: most of them wait most of the time, so two at once take half as long.
test: .venv/.dev node
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: .venv/.bench node
	$(BIN)/python -m pytest bench --benchmark-only -p no:randomly $(ARGS)

node: $(if $(shell command -v npm),.venv/.node)  ## the JavaScript clients of the tests; without npm those tests say so

clean:
	rm -rf .venv .tox build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks \
		.import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp a set of dependencies: nothing runs while setup.cfg is as it was.
.venv/.python:
	@$(PYTHON) -c '$(NEEDS_PYTHON)'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.runtime: setup.cfg | .venv/.python
	$(PIP) install --editable .
	@touch $@

.venv/.fx: setup.cfg | .venv/.python
	$(PIP) install --editable '.[fx]'
	@touch $@ .venv/.runtime

.venv/.dev: setup.cfg | .venv/.python
	$(PIP) install --editable '.[dev,examples]'
	@touch $@ .venv/.runtime

.venv/.bench: setup.cfg | .venv/.python
	$(PIP) install --editable '.[dev,examples,bench]'
	@touch $@ .venv/.dev .venv/.runtime

# Not in tests/node itself: nobody's editor, linter or archive shall walk through node_modules.
.venv/.node: tests/node/package.json tests/node/package-lock.json | .venv/.python
	@mkdir -p .venv/node
	cp $^ .venv/node
	npm ci --prefix .venv/node --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
