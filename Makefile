# make install       create .venv and install everything into it; does nothing when nothing changed
# make demo          install, then train, shrink and measure a small network (a few minutes)
# make test          install, then every test
# make coverage      the same, and what share of the lines they run: half as long again; fails below 95 %
# make test-fast     install, then the tests that are not marked slow (under three minutes on two cores)
# make test-oldest   the fast tests with the oldest torch that pyproject.toml claims, in .venv-oldest
# make lint          install, then ruff and mypy
# make docs          install, then the documentation site, in site/; a warning is an error
# make clean         remove caches and build output, not .venv and not runs/
#
# make install PYTHON=/path/to/python3.12   choose the interpreter (3.10 or newer)

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?=
MIN_COVERAGE ?= 95

.PHONY: install demo test coverage test-fast test-oldest lint docs format clean
.DEFAULT_GOAL := install

install: $(STAMP)

# The stamp is written last: an interrupted installation is taken up again by the next make.
$(STAMP): pyproject.toml Makefile
	@set -eu; \
	new_enough='import sys; sys.exit(sys.version_info < (3, 10))'; \
	if ! $(BIN)/python -c "$$new_enough" 2>/dev/null; then \
		found=''; \
		for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
			if "$$candidate" -c "$$new_enough" 2>/dev/null; then found="$$candidate"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "error: no Python 3.10 or newer on PATH; install one, or say where: make install PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		"$$found" -m venv --clear $(VENV) || { \
			echo "error: $$found cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
			exit 1; \
		}; \
	fi; \
	echo "installing into $(VENV) (a few minutes the first time)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	touch $@

demo: install
	$(BIN)/rotated-relu demo

# One thread per worker: two workers that each start two threads are slower than two that start one.
test: install
	OMP_NUM_THREADS=1 .ci/test-parts $(BIN)/python

coverage: install
	OMP_NUM_THREADS=1 .ci/test-parts $(BIN)/python $(MIN_COVERAGE)

test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow' --durations 15

test-oldest: install
	.ci/test-oldest $(BIN)/python

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/mkdocs build --strict --quiet

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.* src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
