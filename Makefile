# `make demo` and `make test` need Python 3.11 or newer and make, nothing else. All others build on the same .venv.

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install
RUNTIME := .venv/.runtime
DEV := .venv/.dev
SERVERS := .venv/.servers
ARGS :=

.PHONY: help demo test format lint types bench cover lock clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(RUNTIME) ## install what running needs, then the 2 a.m. drill, offline
	@$(BIN)/interlock demo $(ARGS)

test: $(DEV) $(SERVERS) ## format, lint, strict types, tests, docs: all that CI checks
	@printf 'format   ' && $(BIN)/ruff format --check .
	@printf 'lint     ' && $(BIN)/ruff check -q . && echo 'no findings'
	@printf 'types    ' && $(BIN)/mypy
	@printf 'public   ' && $(BIN)/pyright
	@printf 'tests    ' && $(BIN)/pytest -n 4 --dist worksteal $(ARGS)

format: $(DEV) ## put code into shape
	@$(BIN)/ruff check -q --fix-only . && $(BIN)/ruff format .

lint: $(DEV) ## the linter and both type checkers only
	@$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/pyright

bench: $(DEV) ## measure side by side; writes bench/results.json
	@$(BIN)/python -m bench $(ARGS)

cover: $(DEV) $(SERVERS) ## tests with coverage
	@$(BIN)/coverage run -m pytest $(ARGS) && $(BIN)/coverage combine -q && $(BIN)/coverage report

lock: ## remake the lock files (ARGS=--upgrade takes the newest)
	@scripts/lock $(ARGS)

clean: ## remove what was made
	@rm -rf .venv build dist src/*.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than what it depends on exactly when there is something to install. A .venv whose Python has gone
# counts as missing, and scripts/venv makes it anew.
$(BIN)/python:
	@scripts/venv

$(RUNTIME): requirements-runtime.lock pyproject.toml $(BIN)/python
	@echo 'interlock: installing what running needs (once)'
	@$(PIP) --require-hashes --no-deps -r requirements-runtime.lock
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(DEV): requirements.lock pyproject.toml $(BIN)/python
	@echo 'interlock: installing what running and testing need (once)'
	@$(PIP) --require-hashes --no-deps -r requirements.lock
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@ $(RUNTIME)

$(SERVERS): tests/agent/servers/package-lock.json scripts/servers | $(DEV)
	@echo 'interlock: installing the servers that tests talk to (once)'
	@scripts/servers
	@touch $@
