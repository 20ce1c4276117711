# Needs only make and Python 3.11 or newer with venv; everything else goes into .venv.
PYTHON ?= python3
# Test processes side by side, one thread each: on few cores more threads are slower, not faster.
JOBS ?= 2

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help venv demo real test lint format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## install onepass and its pinned requirements into .venv

demo: $(READY) ## compose two tasks in one pass, offline, and compare the methods (minutes)
	$(BIN)/onepass demo

real: $(READY) ## the same on pretrained bases and real text, see docs/real.md (hours; goes on where it stopped)
	scripts/real.sh $(BASES)

test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = passive
test: export TOKENIZERS_PARALLELISM = false
test: export HF_HUB_OFFLINE = 1
test: $(READY) ## run the tests; ARGS='-k merge -x' passes options to pytest
	$(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

lint: $(READY) ## check format, style, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY) ## put the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and every cache
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is renewed only after a whole installation, so an interrupted one is taken up again.
# The environment itself is made anew when it is missing, broken or of too old a Python.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

$(READY): requirements.lock pyproject.toml
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo "onepass needs Python 3.11 or newer, and there is no '$(PYTHON)' here; install it, or name" \
	    "one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@'$(PYTHON)' -c '$(NEW_ENOUGH)' || { \
	  echo "onepass needs Python 3.11 or newer, and '$(PYTHON)' is $$('$(PYTHON)' -V 2>&1); name a" \
	    "newer one: make PYTHON=python3.12" >&2; exit 1; }
	@{ $(BIN)/python -c '$(NEW_ENOUGH)' && $(BIN)/python -m pip --version; } >/dev/null 2>&1 \
	  || '$(PYTHON)' -m venv --clear .venv \
	  || { echo "'$(PYTHON)' cannot make a virtual environment; on Debian and Ubuntu install" \
	    "python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
