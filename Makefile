# Everything sets itself up in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test check long clean chromium errors

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/swarm demo $(ARGS)

test: setup chromium
ifeq ($(ARGS),)
	# Two at a time: swarms wait for each other more than for a processor.
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal tests/unit tests/property
	$(BIN)/pytest -q -n 2 --dist worksteal tests/contract tests/integration tests/faults
else
	$(BIN)/pytest -q $(ARGS)
endif

# For the dashboard's tests, which are skipped without it. Installed only where that takes no password.
chromium:
	@which chromium || which chromium-browser || which google-chrome \
	  || { [ "$$(id -u)" = 0 ] && which apt-get \
	       && timeout 300 sh -c "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium"; } \
	     >/dev/null 2>&1 \
	  || echo "no Chromium: the dashboard's browser tests will be skipped"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

long: setup
	$(BIN)/pytest -q -m long $(ARGS)

# The page of all errors; a test compares it.
errors: setup
	$(BIN)/swarm errors --markdown > ERRORS.md

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
